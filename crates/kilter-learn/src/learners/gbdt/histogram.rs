//! Exact gradient histograms: whole numbers, so no order of additions can change a bit.
//!
//! Gradients are rounded once a tree to 16-bit words (see [`Scale`]). A histogram cell then holds the exact sums of the rows in one bin of
//! one column, packed into two machine words that one 128-bit addition updates:
//!
//! ```text
//! word 0: gradient, signed             word 1: count (24 bits) | hessian (40 bits)
//! ```
//! Whole-number sums commute, hence any number of threads gives the same model, a sibling's histogram is the parent's minus the child's
//! without error, and counts are counts (LightGBM estimates them from hessians). The idea of quantised gradients is Shi et al. 2022 (arXiv
//! 2207.09682); here the words keep enough bits that accuracy is not touched.

use std::ops::Range;

use rayon::prelude::*;

use super::binned::Binned;

/// Most rows whose count fits into a cell.
pub(super) const MAX_ROWS: usize = (1 << 24) - 1;

const COUNT_SHIFT: u32 = 40;

/// Packed sums of one bin.
pub(super) type Cell = [u64; 2];

/// Packed sums of one column: a cell a bin.
pub(super) type Cells = [Cell; 256];

/// Packed sums of one node: a row of cells a column.
pub(super) type Histogram = Vec<Cells>;

/// One row of a node: row number in the low half; gradient and hessian words above.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Entry(u64);

impl Entry {
    pub fn new(row: u32, gradient: i16, hessian: u16) -> Self {
        Entry(u64::from(row) | u64::from(hessian) << 32 | u64::from(gradient as u16) << 48)
    }

    #[inline(always)]
    pub fn row(self) -> usize {
        self.0 as u32 as usize
    }

    #[inline(always)]
    pub fn cell(self) -> Cell {
        let gradient = (self.0 as i64) >> 48;
        let hessian = (self.0 >> 32) & 0xffff;
        [gradient as u64, hessian | 1 << COUNT_SHIFT]
    }
}

/// Powers of two between real gradients and words. Exact both ways but for the one rounding, which is unbiased: a dither decides the last
/// bit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    gradient: f64,
    hessian: f64,
    /// What one whole number stands for: of a power of two the reciprocal is exact, and multiplying is quicker than dividing.
    pub gradient_unit: f64,
    pub hessian_unit: f64,
}

impl Scale {
    pub fn fitting(largest_gradient: f64, largest_hessian: f64) -> Self {
        // One below the limit leaves room for the dither to round up.
        let (gradient, hessian) = (power_of_two_below(32_766.0 / largest_gradient), power_of_two_below(65_534.0 / largest_hessian));
        Scale { gradient, hessian, gradient_unit: 1.0 / gradient, hessian_unit: 1.0 / hessian }
    }

    /// Rounds to words; `noise` are 32 random bits.
    #[inline(always)]
    pub fn words(&self, gradient: f64, hessian: f64, noise: u32) -> (i16, u16) {
        let dither = |bits: u32| f64::from(bits) * (1.0 / 65_536.0);
        let g = (gradient * self.gradient + dither(noise >> 16) + 32_768.0) as i32 - 32_768;
        let h = (hessian * self.hessian + dither(noise & 0xffff)) as i32;
        (g as i16, h as u16)
    }

    #[inline(always)]
    pub fn gradient(&self, sums: &Sums) -> f64 {
        sums.gradient as f64 * self.gradient_unit
    }

    /// The sum has at most 40 bits; as a signed number it is converted by one instruction.
    #[inline(always)]
    pub fn hessian(&self, sums: &Sums) -> f64 {
        sums.hessian as i64 as f64 * self.hessian_unit
    }
}

/// Unpacked sums.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sums {
    pub gradient: i64,
    pub hessian: u64,
    pub count: u64,
}

impl Sums {
    #[inline(always)]
    pub fn of(cell: Cell) -> Self {
        Sums { gradient: cell[0] as i64, hessian: cell[1] & ((1 << COUNT_SHIFT) - 1), count: cell[1] >> COUNT_SHIFT }
    }

    pub fn with(&self, more: &Sums) -> Sums {
        Sums { gradient: self.gradient + more.gradient, hessian: self.hessian + more.hessian, count: self.count + more.count }
    }

    #[inline(always)]
    pub fn without(&self, part: &Sums) -> Sums {
        Sums { gradient: self.gradient - part.gradient, hessian: self.hessian - part.hessian, count: self.count - part.count }
    }
}

/// Gradient, hessian and count of a cell as floats, exactly, by instructions that every vector unit has: a whole number of less than 51 bits,
/// added to the bits of 2^52 + 2^51, is that float plus the number.
#[inline(always)]
pub(super) fn unpack(cell: Cell) -> [f64; 3] {
    const MIDDLE: f64 = 6_755_399_441_055_744.0;
    let float = |whole: u64| f64::from_bits(whole.wrapping_add(MIDDLE.to_bits())) - MIDDLE;
    [float(cell[0]), float(cell[1] & ((1 << COUNT_SHIFT) - 1)), float(cell[1] >> COUNT_SHIFT)]
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn add(to: &mut Cell, cell: Cell) {
    to[0] = to[0].wrapping_add(cell[0]);
    to[1] = to[1].wrapping_add(cell[1]);
}

/// Both words in one addition, which the compiler does not find by itself; every x86-64 processor has it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn add(to: &mut Cell, cell: Cell) {
    use std::arch::x86_64::{__m128i, _mm_add_epi64, _mm_loadu_si128, _mm_storeu_si128};
    let (to, from) = (std::ptr::from_mut(to).cast::<__m128i>(), std::ptr::from_ref(&cell).cast::<__m128i>());
    // SAFETY: both pointers come from references to 16 bytes; unaligned loads and stores need no more.
    unsafe { _mm_storeu_si128(to, _mm_add_epi64(_mm_loadu_si128(to), _mm_loadu_si128(from))) };
}

/// Sums of a whole node, read off any one column of its histogram.
pub(super) fn total(cells: &Cells) -> Sums {
    let mut sum = [0; 2];
    cells.iter().for_each(|&cell| add(&mut sum, cell));
    Sums::of(sum)
}

/// Turns a parent's histogram into that of one child by taking away the other child's.
pub(super) fn subtract(parent: &mut Histogram, child: &Histogram, columns: &[usize]) {
    for &column in columns {
        for (cell, taken) in parent[column].iter_mut().zip(&child[column]) {
            cell[0] = cell[0].wrapping_sub(taken[0]);
            cell[1] = cell[1].wrapping_sub(taken[1]);
        }
    }
}

/// Builds histograms of the wanted columns, with room to do so on several threads.
pub(super) struct Builder<'a> {
    binned: &'a Binned,
    columns: Vec<usize>,
    partial: Vec<Histogram>,
}

/// Rows a thread should have before a second one pays.
const ROWS_A_THREAD: usize = 8192;

/// Columns summed in one pass over the rows: their cells (256 KiB) and one line of bins a row stay in the nearer caches.
const TILE: usize = 64;

impl<'a> Builder<'a> {
    pub fn new(binned: &'a Binned) -> Self {
        Builder { binned, columns: (0..binned.width).collect(), partial: Vec::new() }
    }

    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    pub fn set_columns(&mut self, columns: Vec<usize>) {
        self.columns = columns;
    }

    pub fn empty(&self) -> Histogram {
        vec![[[0; 2]; 256]; self.binned.width]
    }

    /// Replaces `out` by the histogram of the entries.
    pub fn build(&mut self, entries: &[Entry], out: &mut Histogram) {
        let threads = rayon::current_num_threads().min(entries.len() / ROWS_A_THREAD).max(1);
        clear(out, &self.columns);
        if threads == 1 {
            return add_rows(self.binned, &self.columns, entries, out);
        }
        while self.partial.len() < threads - 1 {
            self.partial.push(self.empty());
        }
        let (binned, columns) = (self.binned, &self.columns);
        let share = entries.len().div_ceil(threads);
        let (first, others) = entries.split_at(share);
        let partial = &mut self.partial[..threads - 1];
        rayon::join(
            || add_rows(binned, columns, first, out),
            || {
                partial.par_iter_mut().zip(others.par_chunks(share)).for_each(|(partial, entries)| {
                    clear(partial, columns);
                    add_rows(binned, columns, entries, partial);
                })
            },
        );
        let parts = others.len().div_ceil(share);
        for partial in &self.partial[..parts] {
            for &column in &self.columns {
                out[column].iter_mut().zip(&partial[column]).for_each(|(cell, &part)| add(cell, part));
            }
        }
    }
}

fn clear(histogram: &mut Histogram, columns: &[usize]) {
    columns.iter().for_each(|&column| histogram[column].fill([0; 2]));
}

fn add_rows(binned: &Binned, columns: &[usize], entries: &[Entry], out: &mut Histogram) {
    if columns.len() < binned.width {
        return columns.chunks(TILE).for_each(|columns| {
            add_tile(binned, entries, columns[0]..columns[columns.len() - 1] + 1, |cell, bins| {
                for &column in columns {
                    add(&mut out[column][usize::from(bins[column - columns[0]])], cell);
                }
            });
        });
    }
    for (tile, out) in out.chunks_mut(TILE).enumerate() {
        let first = tile * TILE;
        add_tile(binned, entries, first..first + out.len(), |cell, bins| {
            for (cells, &bin) in out.iter_mut().zip(bins) {
                add(&mut cells[usize::from(bin)], cell);
            }
        });
    }
}

/// Hands each row's cell and its bins of some neighbouring columns to `add_row`.
#[inline(always)]
fn add_tile(binned: &Binned, entries: &[Entry], columns: Range<usize>, mut add_row: impl FnMut(Cell, &[u8])) {
    for (i, entry) in entries.iter().enumerate() {
        // Rows of a deep node lie far apart in memory; asking for them early hides the wait.
        if let Some(ahead) = entries.get(i + 24) {
            let row = ahead.row() * binned.width;
            prefetch(&binned.by_row, row + columns.start);
            prefetch(&binned.by_row, row + columns.end - 1);
        }
        add_row(entry.cell(), &binned.row(entry.row())[columns.clone()]);
    }
}

#[inline(always)]
fn prefetch(bytes: &[u8], position: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(byte) = bytes.get(position) {
        // SAFETY: a hint to the cache about a valid reference; it changes no memory and cannot fault.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(byte).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, position);
}

/// Largest power of two not above a positive number, within f64's comfortable range.
fn power_of_two_below(value: f64) -> f64 {
    let exponent = if value.is_finite() { libm::ilogb(value).clamp(-1000, 1000) } else { 1000 };
    libm::ldexp(1.0, exponent)
}

/// 32 random bits for one row in one tree: counted, not drawn, so they do not depend on the order of work.
#[inline(always)]
pub(super) fn row_noise(tree_seed: u64, row: u32) -> u32 {
    let mut z = tree_seed ^ u64::from(row).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    z = (z ^ (z >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (z >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Matrix;
    use crate::learners::gbdt::binned;
    use kilter_stats::Rng;

    #[test]
    fn a_histogram_is_the_sum_of_its_rows_on_any_number_of_threads() {
        let mut rng = Rng::seeded(1);
        let mut matrix = Matrix::with_columns(vec!["a".into(), "b".into(), "c".into()]);
        (0..50_000).for_each(|_| matrix.push_row(&[rng.normal(), rng.uniform(), rng.below(3) as f64]));
        let binned = Binned::new(&matrix, 0..50_000, &binned::cut(&matrix, 0..50_000, 255, 0));
        let entries: Vec<Entry> = (0..50_000).map(|row| Entry::new(row, rng.next_u64() as i16, rng.next_u64() as u16)).collect();
        let mut naive = vec![[Sums::default(); 256]; 3];
        for entry in &entries {
            for (column, &bin) in binned.row(entry.row()).iter().enumerate() {
                let (sums, one) = (&mut naive[column][usize::from(bin)], Sums::of(entry.cell()));
                *sums = Sums { gradient: sums.gradient + one.gradient, hessian: sums.hessian + one.hessian, count: sums.count + one.count };
            }
        }
        for threads in [1, 2, 8] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut builder = Builder::new(&binned);
            let mut out = builder.empty();
            pool.install(|| builder.build(&entries, &mut out));
            for column in 0..3 {
                assert!(out[column].iter().zip(&naive[column]).all(|(&cell, sums)| Sums::of(cell) == *sums));
            }
            assert_eq!(total(&out[0]), total(&out[2]));
        }
    }

    #[test]
    fn words_are_unbiased_and_fit() {
        let scale = Scale::fitting(1.0, 0.25);
        let mut rng = Rng::seeded(2);
        let (mut sum_g, mut sum_h) = (0i64, 0u64);
        for _ in 0..100_000 {
            let (g, h) = scale.words(-0.000_013, 0.000_013, rng.next_u64() as u32);
            (sum_g, sum_h) = (sum_g + i64::from(g), sum_h + u64::from(h));
        }
        let sums = Sums { gradient: sum_g, hessian: sum_h, count: 100_000 };
        assert!((scale.gradient(&sums) / -1.3 - 1.0).abs() < 0.02, "{}", scale.gradient(&sums));
        assert!((scale.hessian(&sums) / 1.3 - 1.0).abs() < 0.02, "{}", scale.hessian(&sums));
        for largest in [1.0, 0.3, 1e-9, 7e12] {
            let scale = Scale::fitting(largest, largest);
            assert!(scale.words(largest, largest, u32::MAX).0 > 8_000);
            assert!(scale.words(-largest, largest, 0).0 < -8_000);
            assert!(scale.words(largest, largest, u32::MAX).1 > 16_000);
        }
    }
}
