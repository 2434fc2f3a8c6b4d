//! The fit of a linear predictor as a convex function of the standardised coefficients, and how its least value is found.
//!
//! ```text
//! sum of weight * loss(margin, label)  +  l1 * sum |coefficient|  +  l2 / 2 * sum coefficient^2        the intercept is free
//! ```
//! Each step lowers the quadratic approximation of the loss, by Cholesky without an L1 penalty (iteratively reweighted least squares), else by
//! cyclic coordinate descent (proximal Newton: Friedman, Hastie, Tibshirani 2010; Lee, Sun, Saunders 2014), and is halved until the whole falls, so the fit
//! cannot diverge.

use rayon::prelude::*;

use super::coefficients::{Coefficients, standardised};
use crate::math::{margin_loss, sigmoid};
use crate::{LearnError, Matrix, TrainingSet};

/// Rows summed as one block; block sums are added in order, so the thread count cannot change a bit.
const BLOCK: usize = 4096;
/// Sweeps of coordinate descent within one step: each lowers the approximation, and the step after goes on from there.
const SWEEPS: usize = 1000;

/// What a margin costs beside its label.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::learners) enum Loss {
    /// Of log-odds.
    Log,
    /// Half the squared distance.
    Squared,
}

/// Size of the two penalties.
#[derive(Clone, Copy)]
pub(in crate::learners) struct Penalty {
    pub l1: f64,
    pub l2: f64,
}

impl Penalty {
    pub fn check(&self) -> Result<(), LearnError> {
        for (name, value) in [("l1", self.l1), ("l2", self.l2)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(LearnError::BadParameter { name, found: value.to_string(), must: "finite and not below 0" });
            }
        }
        Ok(())
    }
}

/// When to stop.
#[derive(Clone, Copy)]
pub(in crate::learners) struct Patience {
    pub max_iterations: usize,
    pub tolerance: f64,
}

impl Patience {
    pub fn check(&self) -> Result<(), LearnError> {
        let bad = |name, found: String, must| Err(LearnError::BadParameter { name, found, must });
        if self.max_iterations == 0 {
            return bad("max_iterations", "0".into(), "at least 1");
        }
        if !(self.tolerance.is_finite() && self.tolerance > 0.0) {
            return bad("tolerance", self.tolerance.to_string(), "above 0");
        }
        Ok(())
    }
}

/// The point of least cost, as far as it was found.
pub(in crate::learners) struct Solution {
    pub coefficients: Coefficients,
    pub iterations: usize,
    /// Whether the coefficients settled within the allowed iterations.
    pub converged: bool,
    /// Without penalties, for a unit of weight.
    pub mean_loss: f64,
}

/// A smooth convex function of the standardised coefficients, the intercept coming last, and an L1 penalty.
struct Problem<'a> {
    loss: Loss,
    penalty: Penalty,
    matrix: &'a Matrix,
    labels: &'a [f64],
    weights: Vec<f64>,
    means: Vec<f64>,
    /// Standard deviations; 0 for a column without variation.
    scales: Vec<f64>,
}

/// Cost with the first and second derivatives of its smooth part at one point; the matrix is square, row-major, lower triangle filled.
struct Derivatives {
    cost: f64,
    gradient: Vec<f64>,
    hessian: Vec<f64>,
}

pub(in crate::learners) fn minimise(set: &TrainingSet, loss: Loss, penalty: Penalty, patience: Patience) -> Solution {
    let problem = Problem::standardise(set, loss, penalty);
    let mut point = vec![0.0; problem.width()];
    let mut state = problem.derivatives(&point);
    let (mut iterations, mut converged) = (0, false);
    while iterations < patience.max_iterations && !converged {
        iterations += 1;
        let step = problem.step(&point, &state);
        let Some((next, derivatives)) = problem.descend(&point, &step, state.cost) else {
            // No step along a descent direction lowers the cost: at the optimum as far as f64 can tell.
            converged = step.iter().all(|delta| delta.abs() <= 1e-4);
            break;
        };
        converged = point.iter().zip(&next).all(|(before, after)| (before - after).abs() <= patience.tolerance);
        (point, state) = (next, derivatives);
    }
    let weight: f64 = problem.weights.iter().sum();
    let mean_loss = (state.cost - problem.penalty(&point)) / weight;
    let intercept = point.pop().unwrap_or(0.0);
    let coefficients = Coefficients { intercept, means: problem.means, scales: problem.scales, standardised: point };
    Solution { coefficients, iterations, converged, mean_loss }
}

impl<'a> Problem<'a> {
    fn standardise(set: &'a TrainingSet, loss: Loss, penalty: Penalty) -> Self {
        let weights: Vec<f64> = (0..set.rows()).map(|row| set.weight(row)).collect();
        let matrix = &set.matrix;
        let (means, scales) = (0..matrix.columns()).into_par_iter().map(|column| mean_and_scale(matrix.column(column), &weights)).unzip();
        Problem { loss, penalty, matrix, labels: &set.labels, weights, means, scales }
    }

    fn width(&self) -> usize {
        self.means.len() + 1
    }

    fn penalty(&self, point: &[f64]) -> f64 {
        let (_, coefficients) = point.split_last().unwrap_or((&0.0, &[]));
        let smooth = 0.5 * self.penalty.l2 * coefficients.iter().map(|beta| beta * beta).sum::<f64>();
        if self.penalty.l1 == 0.0 {
            return smooth;
        }
        smooth + self.penalty.l1 * coefficients.iter().map(|beta| beta.abs()).sum::<f64>()
    }

    /// The way against the point that is to be gone, if the quadratic approximation were the truth.
    fn step(&self, point: &[f64], state: &Derivatives) -> Vec<f64> {
        match self.penalty.l1 > 0.0 {
            false => solve_positive(state.hessian.clone(), &state.gradient),
            true => self.coordinate_descent(point, state),
        }
    }

    /// Least value of the quadratic approximation with the L1 penalty, one coefficient after the other.
    fn coordinate_descent(&self, point: &[f64], state: &Derivatives) -> Vec<f64> {
        let width = self.width();
        let at = |i: usize, j: usize| state.hessian[if i >= j { i * width + j } else { j * width + i }];
        let floor = (0..width).map(|i| at(i, i)).fold(0.0, f64::max) * 1e-10 + f64::MIN_POSITIVE;
        // The slope of the approximation at the coefficients as they are by now.
        let (mut slope, mut now) = (state.gradient.clone(), point.to_vec());
        for _ in 0..SWEEPS {
            let mut largest = 0.0f64;
            for j in 0..width {
                let curvature = at(j, j);
                if curvature <= floor {
                    continue;
                }
                let free = now[j] - slope[j] / curvature;
                // The intercept, which comes last, is free.
                let next = if j + 1 == width { free } else { shrunk(free, self.penalty.l1 / curvature) };
                let delta = next - now[j];
                if delta != 0.0 {
                    slope.iter_mut().enumerate().for_each(|(i, slope)| *slope += delta * at(i, j));
                    now[j] = next;
                    largest = largest.max(delta.abs());
                }
            }
            if largest <= 1e-12 {
                break;
            }
        }
        point.iter().zip(&now).map(|(before, after)| before - after).collect()
    }

    /// The longest of the halved steps that lowers the cost.
    fn descend(&self, from: &[f64], step: &[f64], cost: f64) -> Option<(Vec<f64>, Derivatives)> {
        (0..30).find_map(|halvings| {
            let length = libm::ldexp(1.0, -halvings);
            let to: Vec<f64> = from.iter().zip(step).map(|(at, delta)| at - length * delta).collect();
            let derivatives = self.derivatives(&to);
            (derivatives.cost < cost).then_some((to, derivatives))
        })
    }

    fn derivatives(&self, point: &[f64]) -> Derivatives {
        let width = self.width();
        let mut sum = Derivatives { cost: 0.0, gradient: vec![0.0; width], hessian: vec![0.0; width * width] };
        let blocks: Vec<usize> = (0..self.labels.len()).step_by(BLOCK).collect();
        // Eight blocks at a time: bounded memory for wide data, and an order of additions that does not depend on the threads.
        for batch in blocks.chunks(8) {
            let parts: Vec<Derivatives> = batch.par_iter().map(|&start| self.block(point, start)).collect();
            for part in parts {
                sum.cost += part.cost;
                sum.gradient.iter_mut().zip(&part.gradient).for_each(|(total, value)| *total += value);
                sum.hessian.iter_mut().zip(&part.hessian).for_each(|(total, value)| *total += value);
            }
        }
        sum.cost += self.penalty(point);
        for (column, coefficient) in point[..width - 1].iter().enumerate() {
            sum.gradient[column] += self.penalty.l2 * coefficient;
            sum.hessian[column * width + column] += self.penalty.l2;
        }
        sum
    }

    fn block(&self, point: &[f64], start: usize) -> Derivatives {
        let width = self.width();
        let mut part = Derivatives { cost: 0.0, gradient: vec![0.0; width], hessian: vec![0.0; width * width] };
        let mut x = vec![1.0; width];
        for row in start..(start + BLOCK).min(self.labels.len()) {
            for (column, x) in x[..width - 1].iter_mut().enumerate() {
                *x = standardised(self.matrix.value(row, column), self.means[column], self.scales[column]);
            }
            let margin: f64 = x.iter().zip(point).map(|(x, beta)| x * beta).sum();
            let (label, weight) = (self.labels[row], self.weights[row]);
            let (slope, curvature) = match self.loss {
                Loss::Log => {
                    let probability = sigmoid(margin);
                    part.cost += weight * margin_loss(margin, label);
                    (weight * (probability - label), weight * probability * (1.0 - probability))
                }
                Loss::Squared => {
                    let residual = margin - label;
                    part.cost += weight * 0.5 * residual * residual;
                    (weight * residual, weight)
                }
            };
            for i in 0..width {
                part.gradient[i] += slope * x[i];
                let scaled = curvature * x[i];
                part.hessian[i * width..=i * width + i].iter_mut().zip(&x).for_each(|(cell, x)| *cell += scaled * x);
            }
        }
        part
    }
}

/// Towards zero by so much, but not past it.
fn shrunk(value: f64, by: f64) -> f64 {
    if value.abs() <= by { 0.0 } else { value - by.copysign(value) }
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
