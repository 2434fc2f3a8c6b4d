//! Figures of scikit-learn and scipy; `golden/metrics.py` makes them.

use kilter_learn::calibration::Method;
use kilter_learn::metrics::*;
use kilter_learn::{Calibration, LearnError, Matrix, Model, TrainingSet, calibrate};
use kilter_stats::stability;
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/metrics.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// A model whose margin is its only input.
struct Given([String; 1]);

impl Model for Given {
    fn kind(&self) -> &'static str {
        "given"
    }
    fn inputs(&self) -> &[String] {
        &self.0
    }
    fn margin(&self, row: &[f64]) -> f64 {
        row[0]
    }
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        *contributions = row.to_vec();
        0.0
    }
    fn to_bytes(&self) -> Vec<u8> {
        Vec::new()
    }
    fn importance(&self) -> Vec<f64> {
        vec![1.0]
    }
    fn describe(&self) -> Value {
        Value::Null
    }
}

#[test]
fn metrics_are_those_of_scikit_learn_and_scipy() {
    let golden = golden();
    let of = |name: &str| numbers(&golden[name]);
    let (margins, second, labels, weights) = (of("margins"), of("second"), of("labels"), of("weights"));
    let p: Vec<f64> = margins.iter().map(|&m| kilter_learn::math::sigmoid(m)).collect();
    let (delong, test) = (auc_interval(&margins, &labels, 0.95), compare_aucs(&margins, &second, &labels));
    let (split, bent, counts) = (brier_split(&p, &labels, 10), recalibration(&p, &labels), stability(&[12, 30, 58, 4], &[15, 26, 59, 9]));
    let (held_out, fitted) = (hosmer_lemeshow(&p, &labels, 10, false), hosmer_lemeshow(&p, &labels, 10, true));
    for (name, found) in [
        ("/auc", auc(&margins, &labels)),
        ("/auc_weighted", auc_weighted(&p, &labels, &weights)),
        ("/average_precision", average_precision(&p, &labels)),
        ("/average_precision_weighted", average_precision_weighted(&p, &labels, &weights)),
        ("/log_loss", log_loss(&p, &labels)),
        ("/log_loss_weighted", log_loss_weighted(&p, &labels, &weights)),
        ("/brier", brier(&p, &labels)),
        ("/brier_weighted", brier_weighted(&p, &labels, &weights)),
        ("/ks/value", ks(&margins, &labels).value),
        ("/ks/threshold", ks(&margins, &labels).threshold),
        ("/ks_weighted/value", ks_weighted(&margins, &labels, &weights).value),
        ("/ks_weighted/threshold", ks_weighted(&margins, &labels, &weights).threshold),
        ("/auc_standard_error", delong.standard_error),
        ("/auc_low", delong.low),
        ("/auc_high", delong.high),
        ("/comparison/difference", test.difference),
        ("/comparison/standard_error", test.standard_error),
        ("/comparison/p_value", test.p_value),
        ("/ece", expected_calibration_error(&p, &labels, 10)),
        ("/brier_reliability", split.reliability),
        ("/brier_resolution", split.resolution),
        ("/in_the_large", bent.in_the_large),
        ("/slope", bent.slope),
        ("/intercept", bent.intercept),
        ("/hosmer_lemeshow/statistic", held_out.statistic),
        ("/hosmer_lemeshow/p_value", held_out.p_value),
        ("/hosmer_lemeshow/p_value_fitted", fitted.p_value),
        ("/stability/chi_square", counts.chi_square),
        ("/stability/p_value", counts.p_value),
    ] {
        let expected = golden.pointer(name).and_then(Value::as_f64).unwrap_or_else(|| panic!("{name} is not there"));
        // Two of them come from iterative minimisers that stop early.
        let exact = if ["/slope", "/intercept"].contains(&name) { 1e-5 } else { 1e-9 };
        assert!((found - expected).abs() <= exact * (1.0 + expected.abs()), "{name}: {found} instead of {expected}");
    }
}

#[test]
fn calibrations_are_those_of_scikit_learn_and_of_a_general_minimiser() -> Result<(), LearnError> {
    let golden = golden();
    let mut matrix = Matrix::with_columns(vec!["margin".to_owned()]);
    numbers(&golden["margins"]).into_iter().for_each(|margin| matrix.push_row(&[margin]));
    let set = TrainingSet::new(matrix, numbers(&golden["labels"]));
    for (method, exact) in [(Method::Platt, 1e-6), (Method::Beta, 1e-4), (Method::Isotonic, 1e-12)] {
        let model = calibrate(Box::new(Given(["margin".to_owned()])), &set, &Calibration { method, target_rate: None })?;
        for (margin, expected) in numbers(&golden["probes"]).into_iter().zip(numbers(&golden[method.name()])) {
            let found = model.probability(&[margin]);
            assert!((found - expected).abs() < exact, "{method:?} at {margin}: {found} instead of {expected}");
        }
    }
    Ok(())
}
