//! Principal components: a column that is a sum over several columns, and how the directions of most variance are found.

use rayon::prelude::*;

use crate::format::{Reader, Writer};
use crate::{LearnError, TrainingSet};

/// A sum of distances from the mean, each times a weight.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mix {
    pub terms: Vec<Term>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Term {
    pub column: usize,
    pub mean: f64,
    pub weight: f64,
    /// Standard deviation of the column: by it terms are compared where there is no row.
    pub deviation: f64,
}

impl Term {
    /// A missing or infinite value counts as the mean.
    fn at(&self, value: f64) -> f64 {
        if value.is_finite() { self.weight * (value - self.mean) } else { 0.0 }
    }
}

impl Mix {
    pub fn at(&self, value: impl Fn(usize) -> f64) -> f64 {
        self.terms.iter().map(|term| term.at(value(term.column))).sum()
    }

    /// Shares out what is said of the component among its columns: by how far each moves it in this row, whichever way; without a row, by how far
    /// a deviation of each does.
    pub fn share_out(&self, whole: f64, row: Option<&[f64]>, out: &mut [f64]) {
        let usual = |term: &Term| (term.weight * term.deviation).abs();
        let in_row = |term: &Term| row.map_or(0.0, |row| term.at(row[term.column]).abs());
        let moved: f64 = self.terms.iter().map(in_row).sum();
        let by_row = moved > 0.0 && moved.is_finite();
        let total: f64 = if by_row { moved } else { self.terms.iter().map(usual).sum() };
        for term in &self.terms {
            let part = if by_row { in_row(term) } else { usual(term) };
            out[term.column] += if total > 0.0 { whole * (part / total) } else { whole / self.terms.len() as f64 };
        }
    }

    pub fn write(&self, to: &mut Writer) {
        to.u32(self.terms.len() as u32);
        for term in &self.terms {
            to.u32(term.column as u32);
            to.f64s(&[term.mean, term.weight, term.deviation]);
        }
    }

    pub fn read(from: &mut Reader<'_>, width: usize) -> Result<Mix, LearnError> {
        let count = from.u32()? as usize;
        from.room_for(count, 28)?;
        let mut terms = Vec::with_capacity(count);
        for _ in 0..count {
            let term = Term { column: from.u32()? as usize, mean: from.f64()?, weight: from.f64()?, deviation: from.f64()? };
            let sound = [term.mean, term.weight, term.deviation].iter().all(|value| value.is_finite());
            if term.column >= width || !sound || term.deviation < 0.0 {
                return Err(LearnError::corrupt("a component of a column that is none"));
            }
            terms.push(term);
        }
        if terms.is_empty() { Err(LearnError::corrupt("a component without columns")) } else { Ok(Mix { terms }) }
    }
}

/// The directions of most variance among some columns, the greatest first. Of each the weight of the greatest size is above 0.
pub(super) fn principal(set: &TrainingSet, columns: &[usize], count: usize, standardise: bool) -> Vec<Mix> {
    let rows = set.rows();
    let total: f64 = (0..rows).map(|row| set.weight(row)).sum();
    let weighted_mean = |of: &(dyn Fn(usize) -> f64 + Sync)| (0..rows).map(|row| set.weight(row) * of(row)).sum::<f64>() / total;
    let moments: Vec<(f64, f64)> = columns
        .par_iter()
        .map(|&column| {
            let values = set.matrix.column(column);
            let present: Vec<usize> = (0..rows).filter(|&row| values[row].is_finite() && set.weight(row) > 0.0).collect();
            let weight: f64 = present.iter().map(|&row| set.weight(row)).sum();
            let mean = if weight > 0.0 { present.iter().map(|&row| values[row] * (set.weight(row) / weight)).sum() } else { 0.0 };
            let away = |row: usize| if values[row].is_finite() { values[row] - mean } else { 0.0 };
            let deviation = libm::sqrt(weighted_mean(&|row| away(row) * away(row)));
            // Rounding leaves a constant far from 0 a little spread that is none.
            (mean, if deviation.is_finite() && deviation > 1e-12 * mean.abs() { deviation } else { 0.0 })
        })
        .collect();
    let unit = |at: usize| match moments[at].1 {
        0.0 => 0.0,
        deviation if standardise => 1.0 / deviation,
        _ => 1.0,
    };
    let distances: Vec<Vec<f64>> = (0..columns.len())
        .into_par_iter()
        .map(|at| {
            let away = |&value: &f64| if value.is_finite() { (value - moments[at].0) * unit(at) } else { 0.0 };
            set.matrix.column(columns[at]).iter().map(away).collect()
        })
        .collect();
    let width = columns.len();
    // Each entry is one sum in the order of rows, whoever computes it.
    let mut covariance = vec![0.0; width * width];
    covariance.par_chunks_mut(width).enumerate().for_each(|(a, out)| {
        (0..=a).for_each(|b| out[b] = weighted_mean(&|row| distances[a][row] * distances[b][row]));
    });
    (0..width).for_each(|a| (a + 1..width).for_each(|b| covariance[a * width + b] = covariance[b * width + a]));
    let directions = eigenvectors(covariance, width);
    let mix = |direction: &Vec<f64>| {
        let greatest = direction.iter().fold(0.0, |most: f64, &x| if x.abs() > most.abs() { x } else { most });
        let sign = if greatest < 0.0 { -1.0 } else { 1.0 };
        let term = |at: usize| {
            let (mean, deviation) = moments[at];
            Term { column: columns[at], mean, weight: sign * direction[at] * unit(at), deviation }
        };
        Mix { terms: (0..width).map(term).collect() }
    };
    directions.iter().take(count).map(mix).collect()
}

/// Eigenvectors of a symmetric matrix, that of the greatest eigenvalue first, by Jacobi's method: rotations in planes until nothing is left beside the
/// diagonal. Slower than others for wide matrices, accurate to the last digits for all.
fn eigenvectors(mut a: Vec<f64>, width: usize) -> Vec<Vec<f64>> {
    const SWEEPS: usize = 60;
    let mut vectors = vec![0.0; width * width];
    (0..width).for_each(|i| vectors[i * width + i] = 1.0);
    let whole: f64 = a.iter().map(|x| x * x).sum();
    for _ in 0..SWEEPS {
        let beside: f64 = (0..width).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i * width + j] * a[i * width + j]).sum();
        if beside <= 1e-32 * whole {
            break;
        }
        for p in 0..width {
            for q in p + 1..width {
                let apq = a[p * width + q];
                if apq == 0.0 {
                    continue;
                }
                // The smaller of the two angles that bring the entry to 0.
                let theta = (a[q * width + q] - a[p * width + p]) / (2.0 * apq);
                let t = 1.0f64.copysign(theta) / (theta.abs() + libm::sqrt(theta * theta + 1.0));
                let c = 1.0 / libm::sqrt(t * t + 1.0);
                rotate_columns(&mut a, width, p, q, c, t * c);
                rotate_rows(&mut a, width, p, q, c, t * c);
                rotate_rows(&mut vectors, width, p, q, c, t * c);
            }
        }
    }
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|&i, &j| a[j * width + j].total_cmp(&a[i * width + i]));
    order.into_iter().map(|i| vectors[i * width..(i + 1) * width].to_vec()).collect()
}

fn rotate_columns(a: &mut [f64], width: usize, p: usize, q: usize, c: f64, s: f64) {
    for row in a.chunks_exact_mut(width) {
        (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
    }
}

fn rotate_rows(a: &mut [f64], width: usize, p: usize, q: usize, c: f64, s: f64) {
    for column in 0..width {
        let (x, y) = (a[p * width + column], a[q * width + column]);
        (a[p * width + column], a[q * width + column]) = (c * x - s * y, s * x + c * y);
    }
}

#[cfg(test)]
#[path = "components_tests.rs"]
mod tests;
