//! Logistic regression with an L2 penalty, fitted by Newton's method (iteratively reweighted least squares).
//!
//! Columns are standardised inside the model, so one penalty suits all of them and callers pass raw values. A missing value counts as the
//! column's training mean: it neither helps nor harms. Infinite values count as missing. A column without variation gets no coefficient.
//!
//! Each step solves the penalised normal equations by Cholesky and is halved until the loss falls, so the fit cannot diverge. Separable
//! classes have no finite optimum without a penalty; then the fit stops at `max_iterations` and [`LogisticModel::converged`] says no.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::format::{Header, Sealed, Writer, seal};
use crate::math::{margin_loss, sigmoid};
use crate::{LearnError, Matrix, Model, TrainingSet};

pub const KIND: &str = "logistic";

/// Rows summed as one block; block sums are added in order, so the thread count cannot change a bit.
const BLOCK: usize = 4096;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logistic {
    /// Penalty: `l2 / 2 * sum of squared standardised coefficients` beside the summed log loss (scikit-learn's 1 / C). The intercept is
    /// free.
    pub l2: f64,
    pub max_iterations: usize,
    /// Stop when no coefficient moves by more than this.
    pub tolerance: f64,
}

impl Default for Logistic {
    fn default() -> Self {
        Logistic { l2: 1.0, max_iterations: 50, tolerance: 1e-8 }
    }
}

/// A fitted logistic regression.
#[derive(Clone, Debug, PartialEq)]
pub struct LogisticModel {
    inputs: Vec<String>,
    parameters: Logistic,
    report: Report,
    intercept: f64,
    means: Vec<f64>,
    /// Standard deviations; 0 for a column without variation.
    scales: Vec<f64>,
    /// Coefficients of the standardised columns.
    coefficients: Vec<f64>,
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
    parameters.check()?;
    training_set.check()?;
    training_set.check_binary()?;
    training_set.check_classes(0..training_set.rows())?;
    let problem = Problem::standardise(training_set, parameters.l2);
    let mut solution = vec![0.0; problem.width()];
    let mut state = problem.derivatives(&solution);
    let (mut iterations, mut converged) = (0, false);
    while iterations < parameters.max_iterations && !converged {
        iterations += 1;
        let step = solve_positive(state.hessian.clone(), &state.gradient);
        let Some((next, derivatives)) = problem.descend(&solution, &step, state.loss) else {
            // No step along a descent direction lowers the loss: at the optimum as far as f64 can tell.
            converged = step.iter().all(|delta| delta.abs() <= 1e-4);
            break;
        };
        converged = solution.iter().zip(&next).all(|(before, after)| (before - after).abs() <= parameters.tolerance);
        (solution, state) = (next, derivatives);
    }
    let total_weight: f64 = problem.weights.iter().sum();
    let log_loss = (state.loss - problem.penalty(&solution)) / total_weight;
    let report = Report { rows: training_set.rows(), positives: training_set.positives(), iterations, converged, log_loss };
    let intercept = solution.pop().unwrap_or(0.0);
    Ok(LogisticModel {
        inputs: training_set.matrix.names().to_vec(),
        parameters: parameters.clone(),
        report,
        intercept,
        means: problem.means,
        scales: problem.scales,
        coefficients: solution,
    })
}

impl Logistic {
    fn check(&self) -> Result<(), LearnError> {
        let bad = |name, found: String, must| Err(LearnError::BadParameter { name, found, must });
        if !(self.l2.is_finite() && self.l2 >= 0.0) {
            return bad("l2", self.l2.to_string(), "finite and not below 0");
        }
        if self.max_iterations == 0 {
            return bad("max_iterations", "0".into(), "at least 1");
        }
        if !(self.tolerance.is_finite() && self.tolerance > 0.0) {
            return bad("tolerance", self.tolerance.to_string(), "above 0");
        }
        Ok(())
    }
}

impl LogisticModel {
    /// Whether the coefficients settled within the allowed iterations.
    pub fn converged(&self) -> bool {
        self.report.converged
    }

    /// Coefficients for raw values: log-odds for each unit of the input.
    pub fn coefficients(&self) -> Vec<f64> {
        self.coefficients.iter().zip(&self.scales).map(|(beta, &scale)| if scale > 0.0 { beta / scale } else { 0.0 }).collect()
    }

    fn contribution(&self, column: usize, value: f64) -> f64 {
        self.coefficients[column] * standardised(value, self.means[column], self.scales[column])
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
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        row.iter().enumerate().fold(self.intercept, |margin, (column, &value)| margin + self.contribution(column, value))
    }

    /// The base is the margin of a row of training means; a contribution is the coefficient times the distance from the mean.
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        contributions.clear();
        contributions.extend(row.iter().enumerate().map(|(column, &value)| self.contribution(column, value)));
        self.intercept
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.f64(self.intercept);
        body.f64s(&self.means);
        body.f64s(&self.scales);
        body.f64s(&self.coefficients);
        let header =
            Header { kind: KIND.into(), inputs: self.inputs.clone(), parameters: self.parameters.clone(), report: self.report.clone() };
        seal(&header, body)
    }

    /// Size of the standardised coefficient: the log-odds that one standard deviation moves.
    fn importance(&self) -> Vec<f64> {
        self.coefficients.iter().map(|beta| beta.abs()).collect()
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": KIND,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "report": self.report,
            "intercept_at_means": self.intercept,
            "coefficients": self.coefficients(),
        })
    }
}

pub(crate) fn read(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    let Header { inputs, parameters, report, .. } = sealed.header::<Logistic, Report>()?;
    let mut body = sealed.body();
    let intercept = body.f64()?;
    let means = body.f64s(inputs.len())?;
    let scales = body.f64s(inputs.len())?;
    let coefficients = body.f64s(inputs.len())?;
    body.end()?;
    if !std::iter::once(&intercept).chain(&means).chain(&scales).chain(&coefficients).all(|value| value.is_finite()) {
        return Err(LearnError::corrupt("a coefficient is not a finite number"));
    }
    Ok(Box::new(LogisticModel { inputs, parameters, report, intercept, means, scales, coefficients }))
}

fn standardised(value: f64, mean: f64, scale: f64) -> f64 {
    if scale > 0.0 && value.is_finite() { (value - mean) / scale } else { 0.0 }
}

/// The fit as a smooth convex function of the standardised coefficients, the intercept coming last.
struct Problem<'a> {
    matrix: &'a Matrix,
    labels: &'a [f64],
    weights: Vec<f64>,
    means: Vec<f64>,
    scales: Vec<f64>,
    l2: f64,
}

/// Loss with its first and second derivatives at one point; the matrix is square, row-major, lower triangle filled.
struct Derivatives {
    loss: f64,
    gradient: Vec<f64>,
    hessian: Vec<f64>,
}

impl<'a> Problem<'a> {
    fn standardise(training_set: &'a TrainingSet, l2: f64) -> Self {
        let weights: Vec<f64> = (0..training_set.rows()).map(|row| training_set.weight(row)).collect();
        let matrix = &training_set.matrix;
        let (means, scales) = (0..matrix.columns()).into_par_iter().map(|column| mean_and_scale(matrix.column(column), &weights)).unzip();
        Problem { matrix, labels: &training_set.labels, weights, means, scales, l2 }
    }

    fn width(&self) -> usize {
        self.means.len() + 1
    }

    fn penalty(&self, solution: &[f64]) -> f64 {
        let (_, coefficients) = solution.split_last().unwrap_or((&0.0, &[]));
        0.5 * self.l2 * coefficients.iter().map(|beta| beta * beta).sum::<f64>()
    }

    /// The longest of the halved steps that lowers the loss.
    fn descend(&self, from: &[f64], step: &[f64], loss: f64) -> Option<(Vec<f64>, Derivatives)> {
        (0..30).find_map(|halvings| {
            let length = libm::ldexp(1.0, -halvings);
            let to: Vec<f64> = from.iter().zip(step).map(|(at, delta)| at - length * delta).collect();
            let derivatives = self.derivatives(&to);
            (derivatives.loss < loss).then_some((to, derivatives))
        })
    }

    fn derivatives(&self, solution: &[f64]) -> Derivatives {
        let width = self.width();
        let mut sum = Derivatives { loss: 0.0, gradient: vec![0.0; width], hessian: vec![0.0; width * width] };
        let blocks: Vec<usize> = (0..self.labels.len()).step_by(BLOCK).collect();
        // Eight blocks at a time: bounded memory for wide data, and an order of additions that does not depend on the threads.
        for batch in blocks.chunks(8) {
            let parts: Vec<Derivatives> = batch.par_iter().map(|&start| self.block(solution, start)).collect();
            for part in parts {
                sum.loss += part.loss;
                sum.gradient.iter_mut().zip(&part.gradient).for_each(|(total, value)| *total += value);
                sum.hessian.iter_mut().zip(&part.hessian).for_each(|(total, value)| *total += value);
            }
        }
        sum.loss += self.penalty(solution);
        for (column, coefficient) in solution[..width - 1].iter().enumerate() {
            sum.gradient[column] += self.l2 * coefficient;
            sum.hessian[column * width + column] += self.l2;
        }
        sum
    }

    fn block(&self, solution: &[f64], start: usize) -> Derivatives {
        let width = self.width();
        let mut part = Derivatives { loss: 0.0, gradient: vec![0.0; width], hessian: vec![0.0; width * width] };
        let mut x = vec![1.0; width];
        for row in start..(start + BLOCK).min(self.labels.len()) {
            for (column, x) in x[..width - 1].iter_mut().enumerate() {
                *x = standardised(self.matrix.value(row, column), self.means[column], self.scales[column]);
            }
            let margin: f64 = x.iter().zip(solution).map(|(x, beta)| x * beta).sum();
            let (label, weight, probability) = (self.labels[row], self.weights[row], sigmoid(margin));
            part.loss += weight * margin_loss(margin, label);
            let (slope, curvature) = (weight * (probability - label), weight * probability * (1.0 - probability));
            for i in 0..width {
                part.gradient[i] += slope * x[i];
                let scaled = curvature * x[i];
                part.hessian[i * width..=i * width + i].iter_mut().zip(&x).for_each(|(cell, x)| *cell += scaled * x);
            }
        }
        part
    }
}

fn mean_and_scale(column: &[f64], weights: &[f64]) -> (f64, f64) {
    let present = || column.iter().zip(weights).filter(|(value, _)| value.is_finite());
    let total: f64 = present().map(|(_, weight)| weight).sum();
    if total <= 0.0 {
        return (0.0, 0.0);
    }
    // Relative to the first value, so that large offsets and huge values neither cancel nor overflow early.
    let origin = present().map(|(value, _)| *value).next().unwrap_or(0.0);
    let mean = origin + present().map(|(value, weight)| weight / total * (value - origin)).sum::<f64>();
    let variance = present().map(|(value, weight)| weight / total * (value - mean) * (value - mean)).sum::<f64>();
    let scale = libm::sqrt(variance);
    let constant = !mean.is_finite() || !scale.is_finite() || scale <= 1e-12 * mean.abs() || scale < f64::MIN_POSITIVE;
    (if mean.is_finite() { mean } else { 0.0 }, if constant { 0.0 } else { scale })
}

/// Solves A x = b by Cholesky for a symmetric positive (semi-)definite A given by its lower triangle.
///
/// A pivot that vanishes marks a direction the data say nothing about (a constant or duplicate column without penalty, or saturated
/// probabilities): it is raised to a small positive number, and the caller's step halving keeps the outcome a descent.
pub(crate) fn solve_positive(mut a: Vec<f64>, b: &[f64]) -> Vec<f64> {
    let n = b.len();
    let floor = (0..n).map(|i| a[i * n + i]).fold(0.0, f64::max) * 1e-10 + f64::MIN_POSITIVE;
    for i in 0..n {
        for j in 0..=i {
            let (upper, lower) = a.split_at(i * n);
            let row_j = if j < i { &upper[j * n..j * n + j] } else { &lower[..j] };
            let dot: f64 = row_j.iter().zip(&lower[..j]).map(|(x, y)| x * y).sum();
            let rest = a[i * n + j] - dot;
            a[i * n + j] = if i == j { libm::sqrt(rest.max(floor)) } else { rest / a[j * n + j] };
        }
    }
    let mut x = b.to_vec();
    for i in 0..n {
        let dot: f64 = (0..i).map(|k| a[i * n + k] * x[k]).sum();
        x[i] = (x[i] - dot) / a[i * n + i];
    }
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|k| a[k * n + i] * x[k]).sum();
        x[i] = (x[i] - dot) / a[i * n + i];
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::check_damage_is_noticed;
    use crate::load;
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
