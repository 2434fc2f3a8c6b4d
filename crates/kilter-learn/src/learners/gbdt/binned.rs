//! Columns cut into at most 255 ordered bins: one byte a value, all that growing trees looks at.
//!
//! Bin 0 holds missing values, bins 1 and up hold values in order. Bin b holds values above edge b - 2, up to and including edge b - 1, so
//! that `bin <= b` and `value <= upper(b)` are the same question: a tree grown on bins scores raw values exactly alike.

use std::borrow::Cow;
use std::ops::Range;

use kilter_stats::Rng;
use rayon::prelude::*;

use super::categories::Columns;
use super::simd::{Level, for_every_level};

/// Bin of a missing value.
pub(in crate::learners) const MISSING: u8 = 0;

/// Rows looked at to place the edges.
const SAMPLE: usize = 200_000;

/// How one column is cut: ascending edges between neighbouring bins.
#[derive(Clone, Debug)]
pub(in crate::learners) struct Cuts {
    edges: Vec<f64>,
}

impl Cuts {
    /// Highest value bin in use.
    pub fn last_bin(&self) -> u8 {
        (self.edges.len() + 1) as u8
    }

    /// A bin for each of the whole numbers from 1 on.
    pub fn of_bins(bins: u8) -> Self {
        Cuts { edges: (1..bins).map(|bin| f64::from(bin) + 0.5).collect() }
    }

    /// Largest value of a bin.
    pub fn upper(&self, bin: u8) -> f64 {
        self.edges.get(usize::from(bin) - 1).copied().unwrap_or(f64::INFINITY)
    }

    /// Equal-frequency cuts over the distinct values; a value as frequent as a whole bin gets its own.
    pub(super) fn between(mut values: Vec<u64>, bins: usize) -> Self {
        values.sort_unstable();
        let mut distinct: Vec<(f64, usize)> = Vec::new();
        for run in values.chunk_by(|a, b| a == b) {
            distinct.push((from_ordered(run[0]), run.len()));
        }
        let mut edges = Vec::new();
        let (mut rows_left, mut bins_left, mut filled) = (values.len(), bins, 0);
        for (i, pair) in distinct.windows(2).enumerate() {
            let [(value, count), (next, next_count)] = [pair[0], pair[1]];
            filled += count;
            let share = rows_left / bins_left;
            let every_value = distinct.len() - i <= bins_left;
            if bins_left > 1 && (every_value || filled >= share || next_count >= share) {
                edges.push(midpoint(value, next));
                rows_left -= filled;
                bins_left -= 1;
                filled = 0;
            }
        }
        Cuts { edges }
    }
}

/// The binned copy of some rows.
pub(in crate::learners) struct Binned<'a> {
    pub rows: usize,
    pub by_column: Vec<Column<'a>>,
}

/// A bin for each row: in memory of its own, or where the caller lent room.
pub(in crate::learners) type Column<'a> = Cow<'a, [u8]>;

/// Chooses the cuts of every column from the given rows.
pub(in crate::learners) fn cut(matrix: &impl Columns, rows: Range<usize>, bins: usize, seed: u64) -> Vec<Cuts> {
    let sample = sample_rows(rows.len(), seed);
    let cut_column = |column: usize| {
        let values = &matrix.column(column)[rows.clone()];
        let picked = |row: usize| Some(values[row]).filter(|value| !value.is_nan()).map(to_ordered);
        let sampled = match &sample {
            Some(rows) => rows.iter().filter_map(|&row| picked(row)).collect(),
            None => (0..values.len()).filter_map(picked).collect(),
        };
        Cuts::between(sampled, bins)
    };
    each_column(matrix.columns(), rows.len(), cut_column)
}

impl Binned<'static> {
    pub fn new(matrix: &impl Columns, rows: Range<usize>, cuts: &[Cuts]) -> Self {
        let bin = |column: usize| {
            let mut bins = vec![0; rows.len()];
            bin_column(&matrix.column(column)[rows.clone()], &cuts[column], &mut bins);
            Column::Owned(bins)
        };
        Binned { rows: rows.len(), by_column: each_column(cuts.len(), rows.len(), bin) }
    }
}

/// Values below which one thread is quickest.
const SMALL: usize = 100_000;

/// Has `fill` fill some columns' parts of so many rows.
pub(super) fn each_part(rows: usize, parts: Vec<(usize, &mut [u8])>, fill: impl Fn(usize, &mut [u8]) + Sync + Send) {
    let fill = |(column, part): (usize, &mut [u8])| fill(column, part);
    if parts.len() * rows < SMALL { parts.into_iter().for_each(fill) } else { parts.into_par_iter().for_each(fill) }
}

/// What `of` makes of each column, on several threads where there is enough to do.
fn each_column<T: Send>(columns: usize, rows: usize, of: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    if columns * rows < SMALL { (0..columns).map(of).collect() } else { (0..columns).into_par_iter().map(of).collect() }
}

pub(super) fn bin_column(values: &[f64], cuts: &Cuts, bins: &mut [u8]) {
    // Padded to a power of two, so that the search has a fixed number of steps and no branch.
    let mut edges = [f64::INFINITY; 256];
    edges[..cuts.edges.len()].copy_from_slice(&cuts.edges);
    search(Level::here(), &edges, values, bins);
}

for_every_level! {
    fn search(level, edges: &[f64; 256], values: &[f64], bins: &mut [u8]) = search_anywhere;
}

#[inline(always)]
fn search_anywhere(edges: &[f64; 256], values: &[f64], bins: &mut [u8]) {
    for (value, bin) in values.iter().zip(bins) {
        let mut below = 0usize;
        let mut step = 128;
        while step > 0 {
            below += if edges[(below + step - 1) & 255] < *value { step } else { 0 };
            step >>= 1;
        }
        *bin = if value.is_nan() { MISSING } else { below as u8 + 1 };
    }
}

/// One row of each of `SAMPLE` equal stretches, so that every time is seen; `None` when all rows are used.
pub(super) fn sample_rows(rows: usize, seed: u64) -> Option<Vec<usize>> {
    if rows <= SAMPLE {
        return None;
    }
    let mut rng = Rng::seeded(seed);
    let start = |stretch: usize| (stretch as u128 * rows as u128 / SAMPLE as u128) as usize;
    Some((0..SAMPLE).map(|i| start(i) + rng.below((start(i + 1) - start(i)) as u64) as usize).collect())
}

/// A number that separates two neighbours: not below the lower, below the higher.
fn midpoint(low: f64, high: f64) -> f64 {
    let middle = low * 0.5 + high * 0.5;
    if low <= middle && middle < high { middle } else { low }
}

/// Bits that sort as whole numbers the way the values sort; both zeros are one value.
pub(super) fn to_ordered(value: f64) -> u64 {
    let bits = (value + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

fn from_ordered(bits: u64) -> f64 {
    f64::from_bits(if bits >> 63 == 1 { bits & !(1 << 63) } else { !bits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Matrix;
    use proptest::prelude::*;

    fn one_column(values: &[f64]) -> Matrix {
        let mut matrix = Matrix::with_columns(vec!["x".into()]);
        values.iter().for_each(|&value| matrix.push_row(&[value]));
        matrix
    }

    #[test]
    fn few_values_get_a_bin_each() {
        let matrix = one_column(&[3.0, f64::NAN, 1.0, 1.0, 7.0]);
        let cuts = cut(&matrix, 0..matrix.rows(), 255, 0);
        assert_eq!(cuts[0].edges, &[2.0, 5.0]);
        assert_eq!(Binned::new(&matrix, 0..matrix.rows(), &cuts).by_column, [[2, 0, 1, 1, 3].as_slice()]);
    }

    #[test]
    fn many_values_share_bins_evenly_and_a_heavy_value_stands_alone() {
        let mut values: Vec<f64> = (0..9000).map(f64::from).collect();
        values.extend([4500.5; 1000]);
        let matrix = one_column(&values);
        let binned = Binned::new(&matrix, 0..matrix.rows(), &cut(&matrix, 0..matrix.rows(), 20, 0));
        let mut counts = [0; 256];
        binned.by_column[0].iter().for_each(|&bin| counts[usize::from(bin)] += 1);
        assert_eq!(counts.iter().filter(|&&count| count > 0).count(), 20);
        assert_eq!(counts.iter().filter(|&&count| count == 1000).count(), 1);
        assert!(counts.iter().all(|&count| count <= 1000));
    }

    #[test]
    fn sampling_keeps_every_stretch_of_time() {
        let rows = sample_rows(1_000_003, 1).unwrap();
        assert!(rows.windows(2).all(|pair| pair[0] < pair[1]) && rows.len() == SAMPLE && rows[SAMPLE - 1] < 1_000_003);
    }

    proptest! {
        #[test]
        fn bins_and_thresholds_ask_the_same_question(
            values in prop::collection::vec(
                prop_oneof![-1e3f64..1e3, (0i32..5).prop_map(f64::from), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(-0.0), Just(1e308), Just(-1e308)], 1..300),
            unseen in prop::collection::vec(prop_oneof![-2e3f64..2e3, Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(5e-324)], 1..30),
            bins in 2usize..=255,
        ) {
            let matrix = one_column(&values);
            let cuts = cut(&matrix, 0..matrix.rows(), bins, 0);
            prop_assert!(usize::from(cuts[0].last_bin()) <= bins);
            prop_assert!(cuts[0].edges.windows(2).all(|pair| pair[0] < pair[1]));
            let all: Vec<f64> = values.iter().chain(&unseen).copied().collect();
            let binned = Binned::new(&one_column(&all), 0..all.len(), &cuts);
            for (value, &bin) in all.iter().zip(binned.by_column[0].iter()) {
                for t in 1..=cuts[0].last_bin() {
                    prop_assert_eq!(bin <= t, *value <= cuts[0].upper(t));
                }
            }
        }
    }
}
