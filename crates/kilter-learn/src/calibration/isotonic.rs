//! Isotonic regression: the rising step curve with the least squared error.

/// Corners of the curve: a block of margins has its first and last one with the same probability.
///
/// Between two corners the probability is on the straight line over the margin, before the first and behind the last it is theirs
/// (scikit-learn's rule). Probabilities stay 1 / (rows + 2) away from 0 and 1: as many rows without one exception do not prove that there is none.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Steps {
    pub margins: Vec<f64>,
    pub probabilities: Vec<f64>,
}

/// Rows that share a probability.
struct Block {
    first: f64,
    last: f64,
    weight: f64,
    sum: f64,
}

impl Block {
    fn mean(&self) -> f64 {
        self.sum / self.weight
    }
}

impl Steps {
    /// Pool adjacent violators. Rows with equal margins are one block from the start; rows of weight 0 say nothing.
    pub fn fit(margins: &[f64], labels: &[f64], weights: &[f64]) -> Steps {
        let mut rows: Vec<(f64, f64, f64)> = (0..margins.len()).map(|row| (margins[row], labels[row], weights[row])).collect();
        rows.retain(|(_, _, weight)| *weight > 0.0);
        // All three, so that sums do not depend on the order of rows.
        rows.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.total_cmp(&b.2)));
        let mut blocks: Vec<Block> = Vec::new();
        for ties in rows.chunk_by(|a, b| a.0 == b.0) {
            let weight = ties.iter().map(|(_, _, weight)| weight).sum();
            let sum = ties.iter().map(|(_, label, weight)| label * weight).sum();
            let mut block = Block { first: ties[0].0, last: ties[0].0, weight, sum };
            while let Some(before) = blocks.pop_if(|before| before.mean() >= block.mean()) {
                block = Block { first: before.first, last: block.last, weight: before.weight + block.weight, sum: before.sum + block.sum };
            }
            blocks.push(block);
        }
        let least = 1.0 / (rows.len() as f64 + 2.0);
        let mut steps = Steps { margins: Vec::new(), probabilities: Vec::new() };
        for block in blocks {
            let probability = block.mean().clamp(least, 1.0 - least);
            let edges = [block.first, block.last];
            for &edge in &edges[..if block.first == block.last { 1 } else { 2 }] {
                steps.margins.push(edge);
                steps.probabilities.push(probability);
            }
        }
        steps
    }

    pub fn at(&self, margin: f64) -> f64 {
        let above = self.margins.partition_point(|&corner| corner < margin);
        if above == 0 {
            return self.probabilities[0];
        }
        if above == self.margins.len() {
            return self.probabilities[above - 1];
        }
        let (low, high) = (self.probabilities[above - 1], self.probabilities[above]);
        let share = (margin - self.margins[above - 1]) / (self.margins[above] - self.margins[above - 1]);
        (low + share * (high - low)).clamp(low, high)
    }

    /// The one margin with this probability; `None` on flat stretches and outside.
    pub fn invert(&self, probability: f64) -> Option<f64> {
        let above = self.probabilities.partition_point(|&corner| corner < probability);
        if above == 0 || above == self.probabilities.len() {
            return None;
        }
        let (low, high) = (self.probabilities[above - 1], self.probabilities[above]);
        // A probability that went through a shift and back is not quite the corner's.
        let near = |corner: f64| (probability - corner).abs() <= 1e-12;
        let flat = (near(high) && self.probabilities.get(above + 1) == Some(&high))
            || (near(low) && above > 1 && self.probabilities[above - 2] == low);
        let share = (probability - low) / (high - low);
        (!flat).then(|| self.margins[above - 1] + share * (self.margins[above] - self.margins[above - 1]))
    }

    /// Corners rise and probabilities do not fall and lie between 0 and 1: what a file must keep.
    pub fn is_sound(&self) -> bool {
        let finite = self.margins.iter().chain(&self.probabilities).all(|x| x.is_finite());
        let within = self.probabilities.iter().all(|p| (0.0..=1.0).contains(p));
        let rising = self.margins.windows(2).all(|pair| pair[0] < pair[1]) && self.probabilities.windows(2).all(|pair| pair[0] <= pair[1]);
        !self.margins.is_empty() && self.margins.len() == self.probabilities.len() && finite && within && rising
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn violators_are_pooled_and_ties_averaged() {
        let steps = Steps::fit(&[3.0, 1.0, 2.0, 2.0, 4.0, 5.0], &[0.0, 0.0, 1.0, 0.0, 1.0, 1.0], &[1.0; 6]);
        // 1: 0; 2, 2 and 3: a third; 4 and 5: 1. The ends are kept an eighth away.
        assert_eq!(steps.margins, [1.0, 2.0, 3.0, 4.0, 5.0]);
        let third = 1.0 / 3.0;
        assert_eq!(steps.probabilities, [0.125, third, third, 0.875, 0.875]);
        assert_eq!((steps.at(-9.0), steps.at(2.5), steps.at(9.0)), (0.125, third, 0.875));
        assert!((steps.at(1.5) - 0.5 * (0.125 + third)).abs() < 1e-15);
        assert!((steps.invert(steps.at(3.25)).unwrap() - 3.25).abs() < 1e-12);
        assert_eq!((steps.invert(third), steps.invert(0.875), steps.invert(0.01)), (None, None, None));
    }

    proptest! {
        /// The best rising fit, by its min-max formula: at each row the largest over starts of the least over ends of the mean.
        #[test]
        fn equals_the_min_max_formula(rows in prop::collection::vec((0i32..12, any::<bool>(), 1u8..4), 1..40)) {
            let (margins, labels, weights): (Vec<f64>, Vec<f64>, Vec<f64>) = {
                let margins = rows.iter().map(|row| f64::from(row.0)).collect();
                (margins, rows.iter().map(|row| f64::from(u8::from(row.1))).collect(), rows.iter().map(|row| f64::from(row.2)).collect())
            };
            let steps = Steps::fit(&margins, &labels, &weights);
            prop_assert!(steps.is_sound());
            let least = 1.0 / (rows.len() as f64 + 2.0);
            let mean = |from: f64, to: f64| {
                let inside = || (0..rows.len()).filter(|&row| from <= margins[row] && margins[row] <= to);
                inside().map(|row| labels[row] * weights[row]).sum::<f64>() / inside().map(|row| weights[row]).sum::<f64>()
            };
            for &x in &margins {
                let best = margins.iter().filter(|&&from| from <= x).map(|&from| {
                    margins.iter().filter(|&&to| to >= x).map(|&to| mean(from, to)).fold(f64::INFINITY, f64::min)
                }).fold(f64::NEG_INFINITY, f64::max);
                prop_assert!((steps.at(x) - best.clamp(least, 1.0 - least)).abs() < 1e-12);
            }
        }
    }
}
