//! Exact gradient histograms: whole numbers, so no order of additions can change a bit.
//!
//! Gradients are rounded once a tree to whole words (see [`Scale`]). A histogram holds the exact sums of the rows in one bin of one column. Of a node
//! of few rows these fit, with their number, into one machine word that one addition updates; where "few" ends follows from the widths of the
//! [`Fields`]. Sums of more rows are made in blocks of so many and spilled into two words:
//!
//! ```text
//! packed:  gradient, signed | hessian | count           wide:  gradient, signed          hessian (40 bits) | count (24 bits)
//! ```
//! Whole-number sums commute, hence any number of threads gives the same model, a sibling's histogram is the parent's minus the child's
//! without error, and counts are counts (LightGBM estimates them from hessians). The idea of quantised gradients is Shi et al. 2022 (arXiv
//! 2207.09682); here the words keep enough bits that accuracy is not touched.
//!
//! Eight columns lie side by side in a tile, a line of the cache a bin: what is done to one column by vectors is done to eight.

use super::by_row::ByRow;

/// Most rows whose count fits into a wide cell.
pub(super) const MAX_ROWS: usize = (1 << WIDE_COUNT) - 1;

const WIDE_COUNT: u32 = 24;

/// Columns that lie side by side.
pub(super) const LANES: usize = 8;

/// Words of a bin of so many columns.
pub(super) type Lanes = [u64; LANES];

/// A word for each bin of eight columns.
pub(super) type Tile = [Lanes; 256];

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
}

/// How gradient, hessian and count share a packed word. Each sum has its own bits, none can reach the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fields {
    pub gradient_shift: u32,
    pub hessian_shift: u32,
    pub hessian_mask: u64,
    pub count_mask: u64,
    /// Bits of one row's words, the gradient's with its sign.
    gradient_bits: u32,
    hessian_bits: u32,
}

impl Fields {
    /// Words of 14 and 14 bits, up to 4 095 rows: for gradients that are about as large as they can be.
    pub const COARSE: Fields = Fields::new(12, 14, 14);

    /// Words of 16 and 15 bits, up to 2 047 rows: where one row's gradient may be a thousand times another's.
    pub const FINE: Fields = Fields::new(11, 16, 15);

    /// Every row's hessian is 1, their sum the count: words of 16 bits, rows without limit.
    pub const CONSTANT: Fields = Fields {
        gradient_shift: WIDE_COUNT,
        hessian_shift: 0,
        hessian_mask: MAX_ROWS as u64,
        count_mask: MAX_ROWS as u64,
        gradient_bits: 16,
        hessian_bits: 0,
    };

    const fn new(count: u32, gradient_bits: u32, hessian_bits: u32) -> Self {
        assert!(count + (hessian_bits + count) + (gradient_bits + count) <= 64);
        Fields {
            gradient_shift: count + hessian_bits + count,
            hessian_shift: count,
            hessian_mask: (1 << (hessian_bits + count)) - 1,
            count_mask: (1 << count) - 1,
            gradient_bits,
            hessian_bits,
        }
    }

    /// Most rows of a packed histogram.
    pub fn most_rows(&self) -> usize {
        self.count_mask as usize
    }

    pub fn constant_hessian(&self) -> bool {
        self.hessian_bits == 0
    }

    /// A row's own word.
    #[inline(always)]
    pub fn word(&self, entry: Entry) -> u64 {
        let gradient = (entry.0 as i64) >> 48;
        let hessian = (entry.0 >> 32) & 0xffff;
        self.pack(gradient, hessian, 1)
    }

    #[inline(always)]
    pub fn pack(&self, gradient: i64, hessian: u64, count: u64) -> u64 {
        let hessian = if self.constant_hessian() { 0 } else { hessian };
        ((gradient << self.gradient_shift) as u64).wrapping_add((hessian << self.hessian_shift) + count)
    }

    #[inline(always)]
    pub fn unpack(&self, word: u64) -> Sums {
        Sums {
            gradient: (word as i64) >> self.gradient_shift,
            hessian: (word >> self.hessian_shift) & self.hessian_mask,
            count: word & self.count_mask,
        }
    }
}

/// Powers of two between real gradients and words. Exact both ways but for the one rounding, which is unbiased: a dither decides the last
/// bit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub fields: Fields,
    gradient: f64,
    hessian: f64,
    /// Largest words.
    most: (f64, f64),
    /// What one whole number stands for: of a power of two the reciprocal is exact, and multiplying is quicker than dividing.
    pub gradient_unit: f64,
    pub hessian_unit: f64,
}

impl Scale {
    pub fn fitting(fields: Fields, largest_gradient: f64, largest_hessian: f64) -> Self {
        // One below the limit leaves room for the dither to round up.
        let most = |bits: u32| f64::from((1u32 << bits) - 2);
        let most = (most(fields.gradient_bits - 1), most(fields.hessian_bits.max(1)));
        let gradient = power_of_two_below(most.0 / largest_gradient);
        let hessian = if fields.constant_hessian() { 1.0 } else { power_of_two_below(most.1 / largest_hessian) };
        Scale { fields, gradient, hessian, most, gradient_unit: 1.0 / gradient, hessian_unit: 1.0 / hessian }
    }

    /// Rounds to words; `noise` are 32 random bits.
    #[inline(always)]
    pub fn words(&self, gradient: f64, hessian: f64, noise: u32) -> (i16, u16) {
        // Between minus and plus a half and neither of them: what is whole stays as it is.
        let dither = |bits: u32| f64::from(bits as i32) * (1.0 / 65_536.0) - (0.5 - 1.0 / 131_072.0);
        // Derivatives that overflowed must not reach into the neighbouring fields.
        let (most_g, most_h) = self.most;
        let g = (gradient * self.gradient + dither(noise >> 16)).max(-most_g).min(most_g);
        let h = (hessian * self.hessian + dither(noise & 0xffff)).min(most_h);
        // Added to a number below 2^51 it leaves the nearest whole number in the low bits; vector units have no instruction for what `as` does.
        const WHOLE: f64 = 6_755_399_441_055_744.0;
        ((g + WHOLE).to_bits() as i16, (h + WHOLE).to_bits() as u16)
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
    pub fn with(&self, more: &Sums) -> Sums {
        Sums { gradient: self.gradient + more.gradient, hessian: self.hessian + more.hessian, count: self.count + more.count }
    }

    #[inline(always)]
    pub fn without(&self, part: &Sums) -> Sums {
        Sums { gradient: self.gradient - part.gradient, hessian: self.hessian - part.hessian, count: self.count - part.count }
    }

    /// A wide cell's second word.
    #[inline(always)]
    pub fn wide(hessian: u64, count: u64) -> u64 {
        hessian << WIDE_COUNT | count
    }
}

/// The two parts of a wide cell's second word.
#[inline(always)]
pub(super) fn of_wide(word: u64) -> (u64, u64) {
    (word >> WIDE_COUNT, word & MAX_ROWS as u64)
}

/// Which columns a histogram is of and where they lie.
pub(super) struct Shape {
    pub tiles: Vec<TileShape>,
    /// Its columns, upwards.
    pub columns: Vec<usize>,
    /// Tile and lane, by the number of the column.
    places: Vec<(u32, u32)>,
}

pub(super) struct TileShape {
    pub strip: usize,
    /// Which bytes of a strip's row are the bins of its lanes.
    pub bytes: Vec<usize>,
    pub columns: Vec<usize>,
    /// Highest bin in use.
    pub last_bin: u8,
}

impl Shape {
    /// `columns` go upwards.
    pub fn new(by_row: &ByRow<'_>, columns: Vec<usize>, width: usize, last_bin: impl Fn(usize) -> u8) -> Self {
        let mut wanted = vec![false; width];
        columns.iter().for_each(|&column| wanted[column] = true);
        let mut tiles = Vec::new();
        let mut places = vec![(u32::MAX, 0); width];
        for (strip, all) in by_row.strips.iter().enumerate() {
            let bytes: Vec<usize> = (0..all.columns.len()).filter(|&byte| wanted[all.columns[byte]]).collect();
            for bytes in bytes.chunks(LANES) {
                let columns: Vec<usize> = bytes.iter().map(|&byte| all.columns[byte]).collect();
                columns.iter().enumerate().for_each(|(lane, &column)| places[column] = (tiles.len() as u32, lane as u32));
                let last_bin = columns.iter().map(|&column| last_bin(column)).max().unwrap_or(0);
                tiles.push(TileShape { strip, bytes: bytes.to_vec(), columns, last_bin });
            }
        }
        Shape { tiles, columns, places }
    }
}

/// Sums of one node.
pub(super) struct Histogram {
    /// A tile of packed words for each tile of the shape; when wide, tiles of gradients, then as many of hessians and counts.
    words: Vec<u64>,
    start: usize,
    pub wide: bool,
}

impl Histogram {
    /// Room for so many tiles, on lines of the cache.
    pub fn room(tiles: usize) -> Self {
        let mut words = vec![0; tiles * 256 * LANES + LANES];
        let start = words.as_mut_ptr().align_offset(64).min(LANES);
        Histogram { words, start, wide: false }
    }

    #[inline(always)]
    pub fn tiles(&self) -> &[Tile] {
        self.words[self.start..].as_chunks().0.as_chunks().0
    }

    #[inline(always)]
    pub fn tiles_mut(&mut self) -> &mut [Tile] {
        self.words[self.start..].as_chunks_mut().0.as_chunks_mut().0
    }

    /// Sums of a bin of one column.
    pub fn sums(&self, fields: &Fields, shape: &Shape, column: usize, bin: u8) -> Sums {
        let (tile, lane) = shape.places[column];
        let (tile, lane, bin) = (tile as usize, lane as usize, usize::from(bin));
        let word = self.tiles()[tile][bin][lane];
        if !self.wide {
            return fields.unpack(word);
        }
        let (hessian, count) = of_wide(self.tiles()[shape.tiles.len() + tile][bin][lane]);
        Sums { gradient: word as i64, hessian, count }
    }

    /// Sums of the whole node, read off any one column.
    pub fn total(&self, fields: &Fields, shape: &Shape) -> Sums {
        let sums = self.column(fields, shape, shape.tiles[0].columns[0], shape.tiles[0].last_bin);
        sums.iter().fold(Sums::default(), |total, sums| total.with(sums))
    }

    /// Sums of one column, bin by bin, up to its last.
    pub fn column(&self, fields: &Fields, shape: &Shape, column: usize, last_bin: u8) -> Vec<Sums> {
        (0..=last_bin).map(|bin| self.sums(fields, shape, column, bin)).collect()
    }
}

/// Largest power of two not above a positive number, within f64's comfortable range.
fn power_of_two_below(value: f64) -> f64 {
    let exponent = if value.is_finite() { libm::ilogb(value).clamp(-1000, 1000) } else { 1000 };
    libm::ldexp(1.0, exponent)
}

/// 32 random bits for one row in one tree: counted, not drawn, so they do not depend on the order of work.
#[inline(always)]
pub(super) fn row_noise(seed: u32, row: u32) -> u32 {
    let mut z = row.wrapping_mul(0x9e37_79b9) ^ seed;
    z = (z ^ (z >> 16)).wrapping_mul(0x7feb_352d);
    z = (z ^ (z >> 15)).wrapping_mul(0x846c_a68b);
    z ^ (z >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilter_stats::Rng;

    #[test]
    fn words_are_unbiased_and_fit() {
        for fields in [Fields::COARSE, Fields::FINE] {
            let scale = Scale::fitting(fields, 1.0, 0.25);
            let (mut sum_g, mut sum_h) = (0i64, 0u64);
            for row in 0..100_000 {
                let (g, h) = scale.words(-0.000_013, 0.000_013, row_noise(77, row));
                (sum_g, sum_h) = (sum_g + i64::from(g), sum_h + u64::from(h));
            }
            let sums = Sums { gradient: sum_g, hessian: sum_h, count: 100_000 };
            assert!((scale.gradient(&sums) / -1.3 - 1.0).abs() < 0.04, "{}", scale.gradient(&sums));
            assert!((scale.hessian(&sums) / 1.3 - 1.0).abs() < 0.04, "{}", scale.hessian(&sums));
            for largest in [1.0, 0.3, 1e-9, 7e12] {
                let scale = Scale::fitting(fields, largest, largest);
                let (g_bits, h_bits) = (fields.gradient_bits, fields.hessian_bits);
                let (high, low) = (scale.words(largest, largest, u32::MAX), scale.words(-largest, largest, 0));
                assert!(high.0 >= 1 << (g_bits - 3) && low.0 <= -(1 << (g_bits - 3)) && high.1 >= 1 << (h_bits - 2));
                assert!(
                    i32::from(high.0) < 1 << (g_bits - 1) && i32::from(low.0) >= -(1 << (g_bits - 1)) && u32::from(high.1) < 1 << h_bits
                );
            }
        }
    }

    /// As many rows as may be, all at the limits of their words: no field runs into its neighbour.
    #[test]
    fn fields_hold_as_many_rows_as_they_say() {
        for fields in [Fields::COARSE, Fields::FINE, Fields::CONSTANT] {
            let (g_most, h_most) = (1i64 << (fields.gradient_bits - 1), (1u64 << fields.hessian_bits) - 1);
            let rows = fields.most_rows() as u64;
            for gradient in [-g_most, g_most - 1, 0] {
                let word = fields.word(Entry::new(3, gradient as i16, h_most as u16));
                let hessian = if fields.constant_hessian() { rows } else { rows * h_most };
                assert_eq!(fields.unpack(word.wrapping_mul(rows)), Sums { gradient: gradient * rows as i64, hessian, count: rows });
            }
        }
        let mut rng = Rng::seeded(3);
        for fields in [Fields::COARSE, Fields::FINE] {
            let mut sums = Sums::default();
            let mut word = 0u64;
            for _ in 0..fields.most_rows() {
                let half = 1i64 << (fields.gradient_bits - 1);
                let (g, h) = (rng.below(2 * half as u64) as i64 - half, rng.below(1 << fields.hessian_bits));
                word = word.wrapping_add(fields.word(Entry::new(0, g as i16, h as u16)));
                sums = sums.with(&Sums { gradient: g, hessian: h, count: 1 });
                assert_eq!(fields.unpack(word), sums);
                assert_eq!(fields.pack(sums.gradient, sums.hessian, sums.count), word);
            }
        }
    }
}
