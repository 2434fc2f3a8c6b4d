//! Logistic regression with L1 and L2 penalties (elastic net), fitted by Newton's method (iteratively reweighted least squares), with an
//! L1 penalty by coordinate descent within each step.
//!
//! Columns are standardised inside the model, so one penalty suits all of them and callers pass raw values. A missing value counts as the
//! column's training mean: it neither helps nor harms. Infinite values count as missing. A column without variation gets no coefficient.
//!
//! Separable classes have no finite optimum without a penalty; then the fit stops at `max_iterations` and [`LogisticModel::converged`] says no.

use serde::{Deserialize, Serialize};

use super::linear::{Coefficients, Loss, Patience, Penalty, minimise};
use crate::format::{Header, Sealed, seal};
use crate::{LearnError, Model, TrainingSet, explain};

pub const KIND: &str = "logistic";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logistic {
    /// Penalty: `l1 * sum of absolute standardised coefficients` beside the summed log loss (scikit-learn's `l1_ratio / C`): leaves out columns
    /// that do not help. The intercept is free.
    pub l1: f64,
    /// Penalty: `l2 / 2 * sum of squared standardised coefficients` beside the summed log loss (scikit-learn's 1 / C).
    pub l2: f64,
    pub max_iterations: usize,
    /// Stop when no coefficient moves by more than this.
    pub tolerance: f64,
}

impl Default for Logistic {
    fn default() -> Self {
        Logistic { l1: 0.0, l2: 1.0, max_iterations: 50, tolerance: 1e-8 }
    }
}

/// A fitted logistic regression.
#[derive(Clone, Debug, PartialEq)]
pub struct LogisticModel {
    inputs: Vec<String>,
    parameters: Logistic,
    report: Report,
    pub(super) line: Coefficients,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Report {
    rows: usize,
    positives: usize,
    iterations: usize,
    converged: bool,
    log_loss: f64,
}

pub fn fit(training_set: &TrainingSet, parameters: &Logistic) -> Result<LogisticModel, LearnError> {
    let Logistic { l1, l2, max_iterations, tolerance } = *parameters;
    let (penalty, patience) = (Penalty { l1, l2 }, Patience { max_iterations, tolerance });
    penalty.check()?;
    patience.check()?;
    training_set.check()?;
    training_set.check_binary()?;
    training_set.check_classes(0..training_set.rows())?;
    let found = minimise(training_set, Loss::Log, penalty, patience);
    let report = Report {
        rows: training_set.rows(),
        positives: training_set.positives(),
        iterations: found.iterations,
        converged: found.converged,
        log_loss: found.mean_loss,
    };
    let inputs = training_set.matrix.names().to_vec();
    Ok(LogisticModel { inputs, parameters: parameters.clone(), report, line: found.coefficients })
}

impl LogisticModel {
    /// Whether the coefficients settled within the allowed iterations.
    pub fn converged(&self) -> bool {
        self.report.converged
    }

    /// Coefficients for raw values: log-odds for each unit of the input.
    pub fn coefficients(&self) -> Vec<f64> {
        self.line.raw()
    }
}

impl Model for LogisticModel {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn margin(&self, row: &[f64]) -> f64 {
        self.line.margin(row)
    }

    /// The base is the margin of a row of training means; a contribution is the coefficient times the distance from the mean.
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        self.line.explain(row, contributions)
    }

    fn interactions(&self, row: &[f64]) -> Option<Vec<f64>> {
        Some(explain::no_interactions(self, row))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let header =
            Header { kind: KIND.into(), inputs: self.inputs.clone(), parameters: self.parameters.clone(), report: self.report.clone() };
        seal(&header, self.line.body())
    }

    /// Size of the standardised coefficient: the log-odds that one standard deviation moves.
    fn importance(&self) -> Vec<f64> {
        self.line.importance()
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": KIND,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "report": self.report,
            "intercept_at_means": self.line.intercept,
            "coefficients": self.coefficients(),
        })
    }
}

pub(crate) fn read(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    let Header { inputs, parameters, report, .. } = sealed.header::<Logistic, Report>()?;
    let line = Coefficients::read(sealed, inputs.len())?;
    Ok(Box::new(LogisticModel { inputs, parameters, report, line }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::check_damage_is_noticed;
    use crate::load;
    use crate::math::sigmoid;
    use crate::matrix::tests::training_set;
    use kilter_stats::Rng;

    fn noisy(rows: usize, coefficients: &[f64], intercept: f64) -> TrainingSet {
        let mut rng = Rng::seeded(4);
        let rows: Vec<Vec<f64>> = (0..rows)
            .map(|_| {
                let mut row: Vec<f64> = coefficients.iter().map(|_| rng.normal()).collect();
                let margin = intercept + row.iter().zip(coefficients).map(|(x, beta)| x * beta).sum::<f64>();
                row.push(f64::from(u8::from(rng.bernoulli(sigmoid(margin)))));
                row
            })
            .collect();
        training_set(&rows)
    }

    #[test]
    fn finds_the_coefficients_that_made_the_data() {
        let model = fit(&noisy(40_000, &[1.0, -2.0, 0.0], -1.0), &Logistic::default()).unwrap();
        for (found, truth) in model.coefficients().iter().zip([1.0, -2.0, 0.0]) {
            assert!((found - truth).abs() < 0.06, "{found} instead of {truth}");
        }
        assert!((model.margin(&[0.0, 0.0, 0.0]) + 1.0).abs() < 0.06);
        assert!(model.converged());
    }

    #[test]
    fn the_gradient_is_zero_at_the_solution() {
        // One binary feature without penalty: the model's probabilities are the groups' rates.
        let mut rows = Vec::new();
        for (x, label, count) in [(0.0, 0.0, 70), (0.0, 1.0, 30), (1.0, 0.0, 20), (1.0, 1.0, 80)] {
            rows.extend(std::iter::repeat_n(vec![x, label], count));
        }
        let model = fit(&training_set(&rows), &Logistic { l2: 0.0, ..Logistic::default() }).unwrap();
        assert!((model.probability(&[0.0]) - 0.3).abs() < 1e-9);
        assert!((model.probability(&[1.0]) - 0.8).abs() < 1e-9);
    }

    #[test]
    fn weights_equal_repetition() {
        let set = noisy(300, &[1.0, 0.5], 0.2);
        let twice: Vec<usize> = (0..300).flat_map(|row| if row < 100 { vec![row, row] } else { vec![row] }).collect();
        let repeated = TrainingSet::new(set.matrix.select(&twice), twice.iter().map(|&row| set.labels[row]).collect());
        let weighted = TrainingSet { weights: Some((0..300).map(|row| if row < 100 { 2.0 } else { 1.0 }).collect()), ..set };
        let (a, b) = (fit(&repeated, &Logistic::default()).unwrap(), fit(&weighted, &Logistic::default()).unwrap());
        assert!((a.margin(&[0.3, -1.0]) - b.margin(&[0.3, -1.0])).abs() < 1e-9);
    }

    #[test]
    fn separable_classes_do_not_blow_up() {
        let rows: Vec<Vec<f64>> = (0..100).map(|i| vec![f64::from(i), f64::from(u8::from(i >= 50))]).collect();
        let free = fit(&training_set(&rows), &Logistic { l2: 0.0, max_iterations: 20, ..Logistic::default() }).unwrap();
        assert!(!free.converged());
        assert!(free.probability(&[0.0]) < 1e-6 && free.probability(&[99.0]) > 1.0 - 1e-6);
        let penalised = fit(&training_set(&rows), &Logistic::default()).unwrap();
        assert!(penalised.converged() && penalised.margin(&[99.0]) < 20.0);
    }

    #[test]
    fn constant_duplicate_missing_and_infinite_columns_are_harmless() {
        let mut rng = Rng::seeded(8);
        let rows: Vec<Vec<f64>> = (0..500)
            .map(|i| {
                let x = rng.normal();
                let label = f64::from(u8::from(rng.bernoulli(sigmoid(x))));
                let odd = if i == 7 { f64::INFINITY } else { x };
                vec![x, x, 5e9, f64::NAN, odd, if i % 2 == 0 { f64::NAN } else { 1e-3 * x }, label]
            })
            .collect();
        for l2 in [0.0, 1.0] {
            let model = fit(&training_set(&rows), &Logistic { l2, ..Logistic::default() }).unwrap();
            let coefficients = model.coefficients();
            assert!(coefficients.iter().all(|beta| beta.is_finite()));
            assert_eq!((coefficients[2], coefficients[3]), (0.0, 0.0));
            let mut contributions = Vec::new();
            let row = [f64::NAN, 1.0, 6e9, 3.0, f64::NEG_INFINITY, 0.1];
            let base = model.explain(&row, &mut contributions);
            assert_eq!((contributions[0], contributions[2], contributions[4]), (0.0, 0.0, 0.0));
            assert!((base + contributions.iter().sum::<f64>() - model.margin(&row)).abs() < 1e-9);
        }
    }

    #[test]
    fn same_bytes_on_any_number_of_threads_and_after_loading() {
        let set = noisy(20_000, &[0.3, -0.7], 0.5);
        let bytes = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fit(&set, &Logistic::default()).unwrap().to_bytes())
        };
        assert!(bytes(1) == bytes(2) && bytes(1) == bytes(8));
        let model = fit(&set, &Logistic::default()).unwrap();
        let back = load(&model.to_bytes()).unwrap();
        assert_eq!(back.to_bytes(), model.to_bytes());
        assert_eq!(back.margin(&[0.123, 4.5]).to_bits(), model.margin(&[0.123, 4.5]).to_bits());
        assert_eq!(back.describe(), model.describe());
        check_damage_is_noticed(&model);
    }

    #[test]
    fn nonsense_is_refused() {
        let set = noisy(100, &[1.0], 0.0);
        assert!(matches!(fit(&set, &Logistic { l2: -1.0, ..Logistic::default() }), Err(LearnError::BadParameter { name: "l2", .. })));
        let one = TrainingSet { labels: vec![1.0; 100], ..set };
        assert_eq!(fit(&one, &Logistic::default()).err(), Some(LearnError::OneClass { label: 1, rows: 100 }));
    }
}
