//! How a column parts the rows of a node.
//!
//! The gain of a split is what it takes off the rows' squared distance from their mean: S^2 / W of both sides (S the sum of labels, W their
//! weight) less that of the node. For labels 0 and 1 that is half of what it takes off the Gini impurity.

use kilter_stats::Rng;

use super::super::gbdt::binned::{Binned, Cuts, MISSING};
use crate::Matrix;

/// Sums over some rows: weight, weighted label, how many they are, weighted squared label.
pub(super) type Sums = [f64; 4];
pub(super) const WEIGHT: usize = 0;
pub(super) const LABEL: usize = 1;
pub(super) const ROWS: usize = 2;
pub(super) const SQUARE: usize = 3;

#[inline(always)]
pub(super) fn add(to: &mut Sums, sums: &Sums) {
    to.iter_mut().zip(sums).for_each(|(to, value)| *to += value);
}

fn less(sums: &Sums, part: &Sums) -> Sums {
    std::array::from_fn(|lane| sums[lane] - part[lane])
}

/// Rows up to this many note which bins they touch; more rows look at all bins.
const FEW: usize = 128;

/// The sums of a node's rows by the bins of one column; all zeros between two columns.
pub(super) struct Scan {
    cells: Box<[Sums; 256]>,
    touched: [u64; 4],
}

/// What looking at a column gives.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Look {
    pub cut: Option<Cut>,
    /// Whether the node's rows differ in it, though every cut may leave too few rows on a side.
    pub varies: bool,
}

/// A way to part the rows of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cut {
    /// S^2 / W of both sides.
    pub score: f64,
    /// Values in bins up to this one go left.
    pub bin: u8,
    pub missing_left: bool,
}

impl Scan {
    pub fn new() -> Self {
        Scan { cells: Box::new([[0.0; 4]; 256]), touched: [0; 4] }
    }

    /// Takes up the rows; `bins` are the column's.
    pub fn add_up(&mut self, bins: &[u8], rows: &[u32], sums: &[Sums]) {
        if rows.len() > FEW {
            self.touched = [u64::MAX; 4];
            for (&row, sums) in rows.iter().zip(sums) {
                add(&mut self.cells[usize::from(bins[row as usize])], sums);
            }
            return;
        }
        for (&row, sums) in rows.iter().zip(sums) {
            let bin = usize::from(bins[row as usize]);
            self.touched[bin / 64] |= 1 << (bin % 64);
            add(&mut self.cells[bin], sums);
        }
    }

    /// The cut of the highest score. Leaves zeros behind.
    pub fn best(&mut self, total: &Sums, min_rows: f64, last_bin: u8) -> Look {
        let mut candidates = Candidates { total, min_rows, missing: self.take_missing(), best: None };
        let (mut below, mut previous) = ([0.0; 4], None);
        let missing = candidates.missing[ROWS] > 0.0;
        let mut bins = u32::from(missing);
        self.drain(|bin, sums| {
            if let Some(previous) = previous {
                // Between the two, as far from one as from the other.
                candidates.consider(&below, previous + (bin - previous - 1) / 2);
            }
            add(&mut below, &sums);
            previous = Some(bin);
            bins += 1;
        });
        if missing && previous.is_some() {
            candidates.consider_values(&below, last_bin);
        }
        Look { cut: candidates.best, varies: bins > 1 }
    }

    fn take_missing(&mut self) -> Sums {
        self.touched[0] &= !(1 << MISSING);
        std::mem::take(&mut self.cells[usize::from(MISSING)])
    }

    /// Tells the sums of the bins that have rows, in ascending order, and forgets them.
    #[inline(always)]
    fn drain(&mut self, mut tell: impl FnMut(u8, Sums)) {
        for (word, touched) in self.touched.iter_mut().enumerate() {
            while *touched != 0 {
                let bin = 64 * word + touched.trailing_zeros() as usize;
                *touched &= *touched - 1;
                let sums = std::mem::take(&mut self.cells[bin]);
                if sums[ROWS] > 0.0 {
                    tell(bin as u8, sums);
                }
            }
        }
    }
}

/// The cut at a threshold drawn between the least and the greatest value of the rows, of which `least` has the least of each bin.
pub(super) fn random(bins: &[u8], sums: &[Sums], total: &Sums, min_rows: f64, least: &[f64], rng: &mut Rng) -> Look {
    // Counted from 0, a missing value is the last.
    let from_0 = |bin: &u8| bin.wrapping_sub(1);
    let low = bins.iter().map(from_0).fold(u8::MAX, u8::min);
    let high = bins.iter().copied().fold(0, u8::max);
    if low == u8::MAX {
        return Look::default();
    }
    let low = low + 1;
    let missing = if bins.contains(&MISSING) { sum_of(bins, sums, |bin| bin == MISSING) } else { [0.0; 4] };
    let mut candidates = Candidates { total, min_rows, missing, best: None };
    if low < high {
        let bin = draw(low, high, least, rng);
        candidates.consider(&sum_of(bins, sums, |at| from_0(&at) < bin), bin);
    } else if missing[ROWS] > 0.0 {
        candidates.consider_values(&sum_of(bins, sums, |bin| bin != MISSING), (least.len() - 1) as u8);
    }
    Look { cut: candidates.best, varies: low < high || missing[ROWS] > 0.0 }
}

/// Without a branch, which half the rows would mispredict.
#[inline(always)]
fn sum_of(bins: &[u8], sums: &[Sums], wanted: impl Fn(u8) -> bool) -> Sums {
    let mut sum = [0.0; 4];
    for (&bin, sums) in bins.iter().zip(sums) {
        let share = f64::from(u8::from(wanted(bin)));
        add(&mut sum, &sums.map(|value| value * share));
    }
    sum
}

/// The last bin, but for the greatest, whose least value is not above the threshold drawn.
fn draw(low: u8, high: u8, least: &[f64], rng: &mut Rng) -> u8 {
    let (first, last) = (least[usize::from(low)], least[usize::from(high)]);
    let threshold = first + rng.uniform() * (last - first);
    if !threshold.is_finite() {
        return low + rng.below(u64::from(high - low)) as u8;
    }
    let within = &least[usize::from(low)..usize::from(high)];
    let below = within.partition_point(|&value| value <= threshold).max(1);
    low + (below - 1) as u8
}

struct Candidates<'a> {
    total: &'a Sums,
    min_rows: f64,
    missing: Sums,
    best: Option<Cut>,
}

impl Candidates<'_> {
    /// Values with these sums on the left, the others on the right, and the missing on either side.
    #[inline(always)]
    fn consider(&mut self, left: &Sums, bin: u8) {
        if self.missing[ROWS] == 0.0 {
            return self.offer(left, bin, 2.0 * left[ROWS] >= self.total[ROWS]);
        }
        self.offer(left, bin, false);
        let mut with = *left;
        add(&mut with, &self.missing);
        self.offer(&with, bin, true);
    }

    /// All values on the left, the missing on the right.
    fn consider_values(&mut self, values: &Sums, last_bin: u8) {
        self.offer(values, last_bin, false);
    }

    #[inline(always)]
    fn offer(&mut self, left: &Sums, bin: u8, missing_left: bool) {
        let right = less(self.total, left);
        if left[ROWS] < self.min_rows || right[ROWS] < self.min_rows {
            return;
        }
        // Of weights that differ by many digits the lesser side may have nothing left.
        if !(left[WEIGHT] > 0.0 && right[WEIGHT] > 0.0) {
            return;
        }
        let (a, b) = (left[LABEL] * left[LABEL], right[LABEL] * right[LABEL]);
        let score = (a * right[WEIGHT] + b * left[WEIGHT]) / (left[WEIGHT] * right[WEIGHT]);
        if self.best.is_none_or(|best| score > best.score) && score.is_finite() {
            self.best = Some(Cut { score, bin, missing_left });
        }
    }
}

/// For each column the least value of each bin, in whose places thresholds are drawn.
pub(super) fn least_of_bins(matrix: &Matrix, binned: &Binned<'_>, cuts: &[Cuts]) -> Vec<Vec<f64>> {
    let of_column = |(column, cuts): (usize, &Cuts)| {
        let mut least = vec![f64::INFINITY; usize::from(cuts.last_bin()) + 1];
        for (&bin, &value) in binned.by_column[column].iter().zip(matrix.column(column)) {
            if bin != MISSING {
                least[usize::from(bin)] = least[usize::from(bin)].min(value);
            }
        }
        // A bin that no row is in, which a sample of the rows can leave, has the bound below it.
        for (bin, least) in least.iter_mut().enumerate().skip(2).filter(|(_, least)| **least == f64::INFINITY) {
            *least = cuts.upper(bin as u8 - 1);
        }
        least
    };
    cuts.iter().enumerate().map(of_column).collect()
}
