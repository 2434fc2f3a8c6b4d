//! How much worse predictions become when an input says nothing any more (Breiman 2001).

use kilter_stats::Rng;

use crate::Matrix;

#[derive(Clone, Debug, PartialEq)]
pub struct Permutations {
    /// How often each group is shuffled.
    pub repeats: usize,
    pub seed: u64,
}

impl Default for Permutations {
    fn default() -> Self {
        Permutations { repeats: 5, seed: 7 }
    }
}

/// What one group of columns is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct PermutationImportance {
    /// How much the loss rose at each shuffle.
    pub rises: Vec<f64>,
}

impl PermutationImportance {
    pub fn mean(&self) -> f64 {
        self.rises.iter().sum::<f64>() / self.rises.len() as f64
    }

    /// Standard deviation between shuffles; NaN of fewer than two.
    pub fn deviation(&self) -> f64 {
        let mean = self.mean();
        let squares: f64 = self.rises.iter().map(|rise| (rise - mean) * (rise - mean)).sum();
        if self.rises.len() < 2 { f64::NAN } else { libm::sqrt(squares / (self.rises.len() - 1) as f64) }
    }
}

/// For each group of columns how much the loss rises when their values are dealt out to the rows anew. The columns of a group keep together: of inputs
/// that tell the same, each alone looks worthless.
///
/// A group has its own randomness, whatever the others are.
pub fn permutation_importance(
    matrix: &Matrix,
    groups: &[Vec<usize>],
    settings: &Permutations,
    loss: impl Fn(&Matrix) -> f64,
) -> Vec<PermutationImportance> {
    let before = loss(matrix);
    let mut shuffled = matrix.clone();
    let worth = |group: &Vec<usize>| {
        let mut rng = Rng::seeded(settings.seed).fork(group.iter().fold(0, |part, &column| 31 * part + column as u64 + 1));
        let mut order: Vec<usize> = (0..matrix.rows()).collect();
        let rises = (0..settings.repeats)
            .map(|_| {
                // Fisher and Yates.
                (1..order.len()).rev().for_each(|last| order.swap(last, rng.below(last as u64 + 1) as usize));
                group.iter().for_each(|&column| shuffled.fill(column, |row| matrix.value(order[row], column)));
                loss(&shuffled) - before
            })
            .collect();
        group.iter().for_each(|&column| shuffled.fill(column, |row| matrix.value(row, column)));
        PermutationImportance { rises }
    };
    groups.iter().map(worth).collect()
}
