//! Which pairs of columns get a term, and how a term of a pair is rid of what one of its columns says alone.

use rayon::prelude::*;

use super::super::gbdt::binned::Binned;
use super::cuts::{self, Sums};
use super::model::{Column, Pair};
use super::{Explainable, Rows, Tables, Target};
use crate::math::sigmoid;

/// Most rounds of purifying; each takes a share of what is left.
const ROUNDS: usize = 200;

/// The pairs of the highest gain by FAST: the four quadrants around the best crossing point, over what the columns leave unexplained.
pub(super) fn choose(model: &Tables, binned: &Binned<'_>, rows: &Rows, parameters: &Explainable) -> Vec<Pair> {
    let free = |column: usize| parameters.monotone.get(column).is_none_or(|&direction| direction == 0);
    let columns: Vec<usize> = (0..model.columns.len()).filter(|&c| model.columns[c].varies() && free(c)).collect();
    if parameters.pairs == 0 || columns.len() < 2 {
        return Vec::new();
    }
    let mut margins = vec![model.intercept; binned.rows];
    for (column, bins) in model.columns.iter().zip(&binned.by_column) {
        margins.iter_mut().zip(bins.iter()).for_each(|(margin, &bin)| *margin += column.values[usize::from(bin)]);
    }
    let derivatives = |((&margin, &label), &weight): ((&f64, &f64), &f64)| match rows.target {
        Target::Binary => {
            let probability = sigmoid(margin);
            [weight * (probability - label), weight * (probability * (1.0 - probability))]
        }
        Target::Mean => [weight * (margin - label), weight],
    };
    let derivatives: Vec<Sums> = margins.iter().zip(&rows.labels).zip(&rows.weights).map(derivatives).collect();
    let edges: Vec<Vec<f64>> = columns.iter().map(|&c| coarser(&model.columns[c], parameters.pair_bins)).collect();
    let candidates: Vec<(usize, usize)> = (0..columns.len()).flat_map(|a| (a + 1..columns.len()).map(move |b| (a, b))).collect();
    let judge = |&(a, b): &(usize, usize)| {
        let pair = Pair::empty([columns[a], columns[b]], [edges[a].clone(), edges[b].clone()]);
        let (mut sums, mut counts) = (vec![[0.0; 2]; pair.values.len()], vec![0.0; pair.values.len()]);
        for (place, derivatives) in pair.places(&model.columns, binned).into_iter().zip(&derivatives) {
            let place = usize::from(place);
            sums[place][0] += derivatives[0];
            sums[place][1] += derivatives[1];
            counts[place] += 1.0;
        }
        let crossing = cuts::quadrants(&sums, &counts, pair.width(), parameters.min_leaf_rows as f64)?;
        Some((crossing.gain, pair))
    };
    let mut judged: Vec<(f64, Pair)> = candidates.par_iter().filter_map(judge).collect();
    judged.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.columns.cmp(&b.1.columns)));
    judged.into_iter().take(parameters.pairs).map(|(_, pair)| pair).collect()
}

/// Bounds of fewer bins, of about the same weight each, among those of a column.
fn coarser(column: &Column, most: usize) -> Vec<f64> {
    let bins = column.edges.len() + 1;
    let total: f64 = column.weights[1..].iter().sum();
    let (mut edges, mut reached) = (Vec::new(), 0.0);
    for bin in 1..bins {
        reached += column.weights[bin];
        let full = reached * most as f64 >= total * (edges.len() + 1) as f64;
        if (full || bins <= most) && edges.len() + 1 < most {
            edges.push(column.edges[bin - 1]);
        }
    }
    edges
}

impl Tables {
    /// Moves means to where they belong: of a pair's rows and columns to the tables of its columns, of these to the intercept. Rows that
    /// training had not, such as missing values, count as average.
    pub(super) fn purify(&mut self, binned: &Binned<'_>, weights: &[f64]) {
        for pair in &mut self.pairs {
            let places = pair.places(&self.columns, binned);
            places.iter().zip(weights).for_each(|(&place, weight)| pair.weights[usize::from(place)] += weight);
            let maps = pair.maps(&self.columns);
            let largest = pair.values.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
            for _ in 0..ROUNDS {
                let mut moved = 0.0f64;
                for axis in [0, 1] {
                    let means = pair.take_means(axis);
                    let column = &mut self.columns[pair.columns[axis]];
                    column.values.iter_mut().zip(&maps[axis]).for_each(|(value, &coarse)| *value += means[usize::from(coarse)]);
                    moved = means.iter().fold(moved, |moved, mean| moved.max(mean.abs()));
                }
                if moved <= 1e-14 * largest {
                    break;
                }
            }
        }
        for column in &mut self.columns {
            let total: f64 = column.weights.iter().sum();
            let mean = column.values.iter().zip(&column.weights).map(|(value, weight)| value * weight).sum::<f64>() / total;
            column.values.iter_mut().for_each(|value| *value -= mean);
            self.intercept += mean;
            if column.weights[0] == 0.0 || !column.varies() {
                column.values[0] = 0.0;
            }
        }
    }
}

impl Pair {
    /// Takes the weighted mean of each row (axis 0) or column (axis 1) off its cells; one without weight has nothing but zeros after.
    fn take_means(&mut self, axis: usize) -> Vec<f64> {
        let width = self.width();
        let line = |at: usize| if axis == 0 { at / width } else { at % width };
        let mut sums = vec![[0.0; 2]; if axis == 0 { self.values.len() / width } else { width }];
        for (at, (value, weight)) in self.values.iter().zip(&self.weights).enumerate() {
            let [sum, total] = &mut sums[line(at)];
            (*sum, *total) = (*sum + value * weight, *total + weight);
        }
        for (at, value) in self.values.iter_mut().enumerate() {
            let [sum, total] = sums[line(at)];
            *value = if total > 0.0 { *value - sum / total } else { 0.0 };
        }
        sums.iter().map(|&[sum, total]| if total > 0.0 { sum / total } else { 0.0 }).collect()
    }
}
