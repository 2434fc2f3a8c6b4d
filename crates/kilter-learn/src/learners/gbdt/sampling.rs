//! Which rows a tree sees.
//!
//! Rows are chosen by counting and not by drawing, so neither threads nor the order of work matter. Bagging takes each with the same chance. The others
//! look at gradients g and hessians h first: minimal-variance sampling (Ibragimov and Gusev 2019) takes a row with a chance that grows with
//! `sqrt(g^2 + lambda h^2)`, up to 1, which of all ways to take so many rows disturbs the gains of splits least; GOSS (Ke et al. 2017) takes all
//! rows of the largest |g| and some of the rest. A row that was taken with the chance p counts 1 / p times, so that all sums are right on average.

use rayon::prelude::*;

use super::gradients::BLOCK;
use super::histogram::{Entry, Scale, row_noise};
use super::{Gbdt, Sampling};
use crate::LearnError;

pub(super) struct Sampler {
    sampling: Sampling,
    fraction: f64,
    seed: u32,
    /// Whether each row is in the sample, where chances differ.
    chosen: Vec<bool>,
    /// How much each row matters.
    sizes: Vec<f32>,
    /// Square of what the last tree's leaves were worth, on average: how much a hessian weighs against a gradient.
    lambda: Option<f64>,
}

/// Of the rows that GOSS takes, the share that has the largest gradients: LightGBM's 0.2 of 0.3.
const TOP: f64 = 2.0 / 3.0;

impl Sampler {
    /// `None` where every tree sees all rows.
    pub fn new(parameters: &Gbdt, rows: usize) -> Result<Option<Self>, LearnError> {
        let Gbdt { sampling, bagging_fraction: fraction, .. } = *parameters;
        if fraction == 1.0 && sampling != Sampling::Uniform {
            let must = "\"uniform\" where bagging_fraction is 1: say which share of rows a tree sees";
            return Err(LearnError::BadParameter { name: "sampling", found: format!("{sampling:?}").to_lowercase(), must });
        }
        let rows = if sampling == Sampling::Uniform { 0 } else { rows };
        let sampler = || Sampler { sampling, fraction, seed: 0, chosen: vec![false; rows], sizes: vec![0.0; rows], lambda: None };
        Ok((fraction < 1.0).then(sampler))
    }

    /// Whether rows of the sample may count more than once.
    pub fn weighs(&self) -> bool {
        self.sampling != Sampling::Uniform
    }

    pub fn has(&self, row: usize) -> bool {
        match self.sampling {
            Sampling::Uniform => f64::from(row_noise(self.seed, row as u32)) < self.fraction * 4_294_967_296.0,
            _ => self.chosen[row],
        }
    }

    /// Leaves the rows of a new sample in the entries, which held all, and weighs them there and in the floats. Returns the scale of the words.
    pub fn draw(&mut self, seed: u32, entries: &mut Vec<Entry>, floats: &mut [[f32; 2]], scale: Scale) -> Scale {
        self.seed = seed;
        if !self.weighs() {
            entries.retain(|entry| self.has(entry.row()));
            return scale;
        }
        self.measure(floats);
        let chance = self.chances();
        let (chosen, sizes) = (self.chosen.par_chunks_mut(BLOCK), self.sizes.par_chunks(BLOCK));
        let blocks = chosen.zip(sizes).zip(floats.par_chunks_mut(BLOCK)).enumerate();
        let largest = blocks.map(|(block, ((chosen, sizes), floats))| {
            let mut largest = [0.0f32; 2];
            for (i, (chosen, [g, h])) in chosen.iter_mut().zip(floats).enumerate() {
                let chance = chance.of(sizes[i]);
                *chosen = f64::from(row_noise(seed, (block * BLOCK + i) as u32)) < chance * 4_294_967_296.0;
                if *chosen && chance < 1.0 {
                    (*g, *h) = ((f64::from(*g) / chance) as f32, (f64::from(*h) / chance) as f32);
                }
                if *chosen {
                    largest = [largest[0].max(g.abs()), largest[1].max(*h)];
                }
            }
            largest
        });
        let largest = largest.reduce(|| [0.0; 2], |a, b| [a[0].max(b[0]), a[1].max(b[1])]);
        let scale = Scale::fitting(scale.fields, f64::from(largest[0]), f64::from(largest[1]));
        // Another throw of the dice than the one that chose the row.
        let noise = seed.rotate_left(16) ^ 0x5bd1_e995;
        entries.retain(|entry| self.chosen[entry.row()]);
        entries.par_iter_mut().for_each(|entry| {
            let row = entry.row();
            let [g, h] = floats[row].map(f64::from);
            let (g, h) = scale.words(g, h, row_noise(noise, row as u32));
            *entry = Entry::new(row as u32, g, h);
        });
        scale
    }

    /// Remembers what the leaves of a tree are worth.
    pub fn learn(&mut self, values: &[f64], rows: &[u32], rate: f64) {
        let (sum, all) = values.iter().zip(rows).fold((0.0, 0.0), |(sum, all), (value, &rows)| {
            let rows = f64::from(rows);
            (sum + rows * (value / rate) * (value / rate), all + rows)
        });
        self.lambda = Some(sum / all);
    }

    fn measure(&mut self, floats: &[[f32; 2]]) {
        let lambda = match self.sampling {
            Sampling::Mvs => self.lambda.unwrap_or_else(|| mean_step(floats)),
            _ => 0.0,
        };
        let size = |[g, h]: &[f32; 2]| (f64::from(*g) * f64::from(*g) + lambda * f64::from(*h) * f64::from(*h)).sqrt() as f32;
        self.sizes.par_iter_mut().zip(floats).for_each(|(to, floats)| *to = size(floats));
    }

    /// The chances that give a sample of so many rows as are wanted, on average.
    fn chances(&self) -> Chances {
        let wanted = self.fraction * self.sizes.len() as f64;
        let counts = Counts::new(&self.sizes);
        match self.sampling {
            Sampling::Goss => {
                let (from, top) = counts.largest(TOP * wanted);
                let rest = self.sizes.len() as f64 - top;
                Chances { all_from: from, rest: if rest > 0.0 { ((wanted - top) / rest).max(0.0) } else { 0.0 }, by_size: 0.0 }
            }
            _ => {
                let size = counts.threshold(wanted);
                Chances { all_from: size as f32, rest: 0.0, by_size: 1.0 / size }
            }
        }
    }
}

/// Square of a row's step, on average: all gradients over all hessians.
fn mean_step(floats: &[[f32; 2]]) -> f64 {
    let sums = floats
        .par_chunks(BLOCK)
        .map(|floats| floats.iter().fold([0.0; 2], |[g, h], [own_g, own_h]| [g + f64::from(own_g.abs()), h + f64::from(*own_h)]));
    // In the order of blocks, whatever the threads.
    let [g, h] = sums.collect::<Vec<_>>().into_iter().fold([0.0; 2], |[g, h], [own_g, own_h]| [g + own_g, h + own_h]);
    if h > 0.0 { (g / h) * (g / h) } else { 0.0 }
}

/// With which chance a row of a size is taken.
struct Chances {
    all_from: f32,
    rest: f64,
    by_size: f64,
}

impl Chances {
    #[inline(always)]
    fn of(&self, size: f32) -> f64 {
        if size >= self.all_from { 1.0 } else { (self.rest + self.by_size * f64::from(size)).min(1.0) }
    }
}

/// How many sizes there are of about each: positive floats are in the order of their bits, of which the upper half tells them apart to a hundredth.
struct Counts(Vec<u32>);

impl Counts {
    const SHIFT: u32 = 16;

    fn new(sizes: &[f32]) -> Self {
        let mut counts = vec![0; 1 << (31 - Self::SHIFT)];
        sizes.iter().for_each(|size| counts[(size.to_bits() >> Self::SHIFT) as usize] += 1);
        Counts(counts)
    }

    /// Sizes from the largest down, each with their number.
    fn down(&self) -> impl Iterator<Item = (f32, f64)> {
        let size = |at: usize| f32::from_bits((at as u32) << Self::SHIFT);
        self.0.iter().enumerate().rev().filter(|(_, count)| **count > 0).map(move |(at, &count)| (size(at), f64::from(count)))
    }

    /// The size from which on there are so many or, of equal ones, fewer; and how many there are.
    fn largest(&self, wanted: f64) -> (f32, f64) {
        let mut all = 0.0;
        for (size, count) in self.down() {
            if all + count > wanted {
                return (f32::from_bits(size.to_bits() + (1 << Self::SHIFT)), all);
            }
            all += count;
        }
        (0.0, all)
    }

    /// The size s for which the sum of min(1, size / s) is so many rows.
    fn threshold(&self, wanted: f64) -> f64 {
        // A bucket counts as if all in it were in its middle.
        let middle = |size: f32| f64::from(size) * (1.0 + 1.0 / 256.0);
        let mut below: f64 = self.down().map(|(size, count)| count * middle(size)).sum();
        let mut above = 0.0;
        for (size, count) in self.down() {
            let all = below / (wanted - above);
            // Rows of this size are certain only when it is above the threshold.
            if middle(size) <= all || above + count >= wanted {
                return all.max(f64::from(f32::MIN_POSITIVE));
            }
            above += count;
            below -= count * middle(size);
        }
        f64::from(f32::MIN_POSITIVE)
    }
}

#[cfg(test)]
#[path = "sampling_tests.rs"]
mod tests;
