//! A small logistic regression on at most two columns, for curves from scores to probabilities.

use crate::learners::linear::solve_positive;
use crate::math::{margin_loss, sigmoid};

/// Log-odds as a line over two features.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Curve {
    pub slopes: [f64; 2],
    pub intercept: f64,
}

/// What a curve is fitted to. Targets lie between 0 and 1.
pub(crate) struct Rows {
    pub features: Vec<[f64; 2]>,
    pub targets: Vec<f64>,
    pub weights: Vec<f64>,
}

impl Curve {
    pub fn margin(&self, features: [f64; 2]) -> f64 {
        self.slopes[0] * features[0] + self.slopes[1] * features[1] + self.intercept
    }

    /// The likeliest curve, by Newton's method from this one, moving the intercept and the slopes that are free. `None` where it runs away:
    /// no finite curve is best.
    pub fn fit(self, rows: &Rows, free: [bool; 2]) -> Option<Curve> {
        let mut at = self;
        let mut state = Derivatives::of(&at, rows, free);
        for _ in 0..100 {
            let step = solve_positive(state.hessian.to_vec(), &state.gradient);
            let next = (0..40).find_map(|halvings| {
                let to = at.moved(&step, libm::ldexp(1.0, -halvings));
                let after = Derivatives::of(&to, rows, free);
                (after.loss < state.loss).then_some((to, after))
            });
            let size = step.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
            let Some((to, after)) = next else {
                // Nothing lowers the loss any more: at the optimum, or so far out that f64 cannot tell.
                return (size <= 1e-4).then_some(at);
            };
            (at, state) = (to, after);
            if size <= 1e-10 {
                return Some(at);
            }
        }
        None
    }

    fn moved(&self, step: &[f64], length: f64) -> Curve {
        Curve {
            slopes: [self.slopes[0] - length * step[0], self.slopes[1] - length * step[1]],
            intercept: self.intercept - length * step[2],
        }
    }
}

/// Loss with its first and second derivatives; slopes that are not free have zeros.
struct Derivatives {
    loss: f64,
    gradient: [f64; 3],
    /// Row by row, lower triangle.
    hessian: [f64; 9],
}

impl Derivatives {
    fn of(curve: &Curve, rows: &Rows, free: [bool; 2]) -> Derivatives {
        let mut sum = Derivatives { loss: 0.0, gradient: [0.0; 3], hessian: [0.0; 9] };
        for ((&features, &target), &weight) in rows.features.iter().zip(&rows.targets).zip(&rows.weights) {
            let margin = curve.margin(features);
            let probability = sigmoid(margin);
            sum.loss += weight * margin_loss(margin, target);
            let (slope, curvature) = (weight * (probability - target), weight * probability * (1.0 - probability));
            let x = [if free[0] { features[0] } else { 0.0 }, if free[1] { features[1] } else { 0.0 }, 1.0];
            for i in 0..3 {
                sum.gradient[i] += slope * x[i];
                for j in 0..=i {
                    sum.hessian[3 * i + j] += curvature * x[i] * x[j];
                }
            }
        }
        sum
    }
}
