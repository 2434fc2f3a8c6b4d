//! What each round of boosting starts from: scores with the last tree in them, and the loss's derivatives there as words.

use std::sync::atomic::{AtomicU16, Ordering};

use rayon::prelude::*;

use super::Objective;
use super::binned::Column;
use super::boost::Scored;
use super::course::CustomObjective;
use super::grow::Grown;
use super::histogram::{Entry, Fields, Scale, row_noise};
use super::partition::route;
use super::simd::{Level, for_every_level};
use crate::LearnError;

/// Rows handled as one block; float sums are added block by block in order, so the thread count cannot change a bit.
pub(super) const BLOCK: usize = 8192;

/// Rows from which on several threads pay.
const MANY: usize = 4 * BLOCK;

pub(super) struct Gradients {
    pub entries: Vec<Entry>,
    /// First and second derivatives of each row, for leaf values. Empty where sums of words say as much.
    pub floats: Vec<[f32; 2]>,
    pub fields: Fields,
    fixed_scale: Option<Scale>,
    /// What an objective of all rows together says of each.
    together: Vec<[f64; 2]>,
    /// Each row's leaf in the tree that the scores do not count yet, and the leaves' values; none while there is no such tree.
    leaf_of: Vec<AtomicU16>,
    pending: Vec<f64>,
}

impl Gradients {
    /// `weighted` says whether rows of a sample will count more than once.
    pub fn new(training: &Scored<'_>, weighted: bool) -> Self {
        let rows = training.labels.len();
        let limits = training.together.map_or_else(|| training.objective.limits(), CustomObjective::limits);
        let largest_weight = training.weights.as_ref().map_or(1.0, |weights| weights.iter().copied().fold(0.0, f64::max));
        let plain = training.weights.is_none() && !weighted;
        let fields = match plain {
            true if training.objective.constant_hessian() => Fields::CONSTANT,
            true if limits.is_some() => Fields::COARSE,
            _ => Fields::FINE,
        };
        // Where all derivatives are of about one size, their words lose nothing that the value of a leaf of many rows would show. In few rows it
        // would: rows with weights, whose words are others, have to give what so many rows without give.
        let words_will_do = plain && limits.is_some() && rows > fields.most_rows();
        Gradients {
            entries: Vec::with_capacity(rows),
            floats: if words_will_do { Vec::new() } else { vec![[0.0; 2]; rows] },
            fields,
            fixed_scale: limits.map(|(gradient, hessian)| Scale::fitting(fields, largest_weight * gradient, largest_weight * hessian)),
            together: vec![[0.0; 2]; if training.together.is_some() { rows } else { 0 }],
            leaf_of: (0..rows).map(|_| AtomicU16::new(0)).collect(),
            pending: Vec::new(),
        }
    }

    /// Adds the last tree to the scores and sets entries and floats from them. Returns the scale of the words: where the objective does not know its
    /// sizes beforehand, one that fits the largest of this round.
    pub fn compute(&mut self, training: &mut Scored<'_>, noise_seed: u32) -> Scale {
        let rows = training.labels.len();
        self.entries.resize(rows, Entry::default());
        let with_floats = !self.floats.is_empty();
        let Scored { objective, labels, ref weights, ref mut scores, .. } = *training;
        let weights = weights.as_deref();
        let leaf_of = &self.leaf_of;
        let scale = self.fixed_scale.unwrap_or_else(|| {
            add_pending(scores, leaf_of, &std::mem::take(&mut self.pending));
            fitting_scale(objective, scores, labels, weights, self.fields)
        });
        let mut floats = self.floats.chunks_mut(BLOCK);
        let blocks = scores.chunks_mut(BLOCK).zip(self.entries.chunks_mut(BLOCK)).enumerate().map(|(block, (scores, entries))| {
            let range = block * BLOCK..block * BLOCK + scores.len();
            let floats = if with_floats { floats.next().unwrap_or_default() } else { &mut [] };
            Block {
                first: range.start as u32,
                scores,
                labels: &labels[range.clone()],
                weights: weights.map(|weights| &weights[range]),
                entries,
                floats,
            }
        });
        let blocks: Vec<Block<'_>> = blocks.collect();
        let pending = &self.pending;
        let level = Level::here();
        each(rows, blocks, |mut block| {
            add_pending_to(block.scores, &leaf_of[block.first as usize..], pending);
            fill(level, objective, &scale, noise_seed, &mut block);
        });
        self.pending.clear();
        scale
    }

    /// The same of an objective that looks at all rows together.
    pub fn compute_together(&mut self, training: &mut Scored<'_>, noise_seed: u32) -> Result<Scale, LearnError> {
        add_pending(&mut training.scores, &self.leaf_of, &std::mem::take(&mut self.pending));
        training.derivatives(&mut self.together)?;
        let scale = self.fixed_scale.unwrap_or_else(|| {
            let larger = |(g, h): (f64, f64), &[gradient, hessian]: &[f64; 2]| (g.max(gradient.abs()), h.max(hessian));
            let (gradient, hessian) = self.together.iter().fold((0.0, 0.0), larger);
            Scale::fitting(self.fields, gradient, hessian)
        });
        self.entries.resize(self.together.len(), Entry::default());
        let blocks: Vec<_> = self.together.chunks(BLOCK).zip(self.entries.chunks_mut(BLOCK)).enumerate().collect();
        each(self.together.len(), blocks, |(block, (derivatives, entries))| {
            for (row, (&[gradient, hessian], entry)) in (block * BLOCK..).zip(derivatives.iter().zip(entries)) {
                let (g, h) = scale.words(gradient, hessian, row_noise(noise_seed, row as u32));
                *entry = Entry::new(row as u32, g, h);
            }
        });
        for (&[gradient, hessian], floats) in self.together.iter().zip(&mut self.floats) {
            *floats = [gradient as f32, hessian as f32];
        }
        Ok(scale)
    }

    /// Takes up a grown tree whose leaves have their values. `outside` says whether a row is in no leaf's list, where there are such.
    pub fn take_up(&mut self, grown: &Grown<'_>, by_column: &[Column<'_>], outside: Option<impl Fn(usize) -> bool + Sync>) {
        self.pending.clone_from(&grown.tree.leaves);
        let (entries, leaf_of) = (&self.entries, &self.leaf_of);
        let leaves: Vec<_> = grown.leaves.iter().enumerate().collect();
        each(entries.len(), leaves, |(number, leaf)| {
            for entry in &entries[leaf.start..][..leaf.total.count as usize] {
                leaf_of[entry.row()].store(number as u16, Ordering::Relaxed);
            }
        });
        if let Some(outside) = outside {
            let firsts: Vec<usize> = (0..leaf_of.len()).step_by(BLOCK).collect();
            each(leaf_of.len(), firsts, |first| {
                let rows = (first..leaf_of.len().min(first + BLOCK)).filter(|&row| outside(row)).map(|row| row as u32).collect();
                route(grown, by_column, rows, |leaf, rows| {
                    rows.iter().for_each(|&row| leaf_of[row as usize].store(leaf as u16, Ordering::Relaxed));
                });
            });
        }
    }

    /// How many training rows are in each leaf of the tree taken up last.
    pub fn rows_of_leaves(&self) -> Vec<u32> {
        let mut rows = vec![0; self.pending.len()];
        self.leaf_of.iter().for_each(|leaf| rows[usize::from(leaf.load(Ordering::Relaxed))] += 1);
        rows
    }
}

/// Does the work on several threads if there are many rows.
fn each<T: Send>(rows: usize, items: Vec<T>, work: impl Fn(T) + Sync + Send) {
    if rows < MANY { items.into_iter().for_each(work) } else { items.into_par_iter().for_each(work) }
}

fn add_pending(scores: &mut [f64], leaf_of: &[AtomicU16], pending: &[f64]) {
    let rows = scores.len();
    let blocks = scores.chunks_mut(BLOCK).zip(leaf_of.chunks(BLOCK)).collect();
    each(rows, blocks, |(scores, leaf_of): (&mut [f64], &[AtomicU16])| add_pending_to(scores, leaf_of, pending));
}

fn add_pending_to(scores: &mut [f64], leaf_of: &[AtomicU16], pending: &[f64]) {
    if !pending.is_empty() {
        scores.iter_mut().zip(leaf_of).for_each(|(score, leaf)| *score += pending[usize::from(leaf.load(Ordering::Relaxed))]);
    }
}

/// A scale that fits the largest derivatives.
fn fitting_scale(objective: Objective, scores: &[f64], labels: &[f64], weights: Option<&[f64]>, fields: Fields) -> Scale {
    let larger = |a: (f64, f64), b: (f64, f64)| (a.0.max(b.0), a.1.max(b.1));
    let block = |(block, scores): (usize, &[f64])| {
        (block * BLOCK..).zip(scores).fold((0.0, 0.0), |largest, (row, &score)| {
            let (g, h) = objective.derivatives(score, labels[row]);
            let weight = weights.map_or(1.0, |weights| weights[row]);
            larger(largest, (weight * g.abs(), weight * h))
        })
    };
    let blocks = scores.chunks(BLOCK).enumerate();
    let (g, h) = if scores.len() < MANY {
        blocks.map(block).fold((0.0, 0.0), larger)
    } else {
        blocks.collect::<Vec<_>>().into_par_iter().map(block).reduce(|| (0.0, 0.0), larger)
    };
    Scale::fitting(fields, g, h)
}

/// Neighbouring rows.
struct Block<'a> {
    first: u32,
    scores: &'a mut [f64],
    labels: &'a [f64],
    weights: Option<&'a [f64]>,
    entries: &'a mut [Entry],
    /// Empty when no one asks for them.
    floats: &'a mut [[f32; 2]],
}

for_every_level! {
    fn fill(level, objective: Objective, scale: &Scale, seed: u32, block: &mut Block<'_>) = fill_anywhere;
}

#[inline(always)]
fn fill_anywhere(objective: Objective, scale: &Scale, seed: u32, block: &mut Block<'_>) {
    match objective {
        // Named, so that the compiler sees a loop without calls and choices.
        Objective::Binary => fill_by(|score, label| Objective::Binary.derivatives(score, label), scale, seed, block),
        Objective::SquaredError => fill_by(|score, label| Objective::SquaredError.derivatives(score, label), scale, seed, block),
        other => fill_by(|score, label| other.derivatives(score, label), scale, seed, block),
    }
}

#[inline(always)]
fn fill_by(derivatives: impl Fn(f64, f64) -> (f64, f64), scale: &Scale, seed: u32, block: &mut Block<'_>) {
    let first = block.first;
    let entry = |i: usize, g: f64, h: f64| {
        let row = first + i as u32;
        let (g, h) = scale.words(g, h, row_noise(seed, row));
        Entry::new(row, g, h)
    };
    let rows = block.scores.len();
    let (scores, labels, entries) = (&block.scores[..rows], &block.labels[..rows], &mut block.entries[..rows]);
    if block.weights.is_none() && block.floats.is_empty() {
        for i in 0..rows {
            let (g, h) = derivatives(scores[i], labels[i]);
            entries[i] = entry(i, g, h);
        }
        return;
    }
    for i in 0..rows {
        let (g, h) = derivatives(scores[i], labels[i]);
        let weight = block.weights.map_or(1.0, |weights| weights[i]);
        let (g, h) = (weight * g, weight * h);
        entries[i] = entry(i, g, h);
        if let Some(floats) = block.floats.get_mut(i) {
            *floats = [g as f32, h as f32];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilter_stats::Rng;

    #[test]
    fn every_level_rounds_alike() {
        let mut rng = Rng::seeded(4);
        let rows = 1003;
        let mut scores: Vec<f64> = (0..rows).map(|_| 4.0 * rng.normal()).collect();
        let labels: Vec<f64> = (0..rows).map(|_| f64::from(u8::from(rng.bernoulli(0.3)))).collect();
        let weights: Vec<f64> = (0..rows).map(|_| rng.exponential(1.0)).collect();
        for objective in [Objective::Binary, Objective::SquaredError, Objective::Poisson, Objective::Huber { delta: 0.5 }] {
            for weights in [None, Some(&weights[..])] {
                let scale = fitting_scale(objective, &scores, &labels, weights, Fields::FINE);
                let mut run = |level| {
                    let (mut entries, mut floats) =
                        (vec![Entry::default(); rows], vec![[0.0; 2]; if weights.is_some() { rows } else { 0 }]);
                    let mut block =
                        Block { first: 7, scores: &mut scores, labels: &labels, weights, entries: &mut entries, floats: &mut floats };
                    fill(level, objective, &scale, 99, &mut block);
                    (entries, floats)
                };
                let expected = run(Level::all()[0]);
                assert!(Level::all().into_iter().all(|level| run(level) == expected), "{objective:?}");
            }
        }
    }
}
