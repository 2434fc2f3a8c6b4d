//! Values to codes: how many of an input's thresholds are below.
//!
//! Thresholds and values are looked up as `f32` first: twice as many fit a register. Rounding keeps the order (`a <= b` makes
//! `a as f32 <= b as f32`), so all it can leave open is whether a threshold that is one with the value as `f32` is below it. There is at most
//! one such threshold, for those of an input where two are one as `f32` are looked up as they are. That one is compared in `f64`.

use super::Bytes;

/// The code of a missing value that goes right: above all thresholds.
pub(super) const ABSENT: u8 = u8::MAX;

/// Finds values among the thresholds of one input, which are in ascending order.
#[derive(Debug)]
pub(super) struct Search {
    pub input: usize,
    /// The columns of codes made by it: missing values go left by the first, right by the second.
    pub columns: [Option<usize>; 2],
    count: usize,
    /// Infinity fills up: any byte is a place.
    thresholds: Box<[f64; 256]>,
    /// No two thresholds are one as `f32`.
    distinct: bool,
    blocks: Box<Blocks>,
    /// The thresholds as a search tree of so many levels; see [`ladder`].
    levels: usize,
    ladder: Vec<Sixteen>,
}

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Sixteen([f32; 16]);

/// The thresholds as `f32`, and the last of each sixteen.
#[derive(Debug)]
struct Blocks {
    last: Sixteen,
    all: [Sixteen; 16],
}

impl Search {
    /// At most 254 thresholds, ascending, no two alike.
    pub fn new(input: u32, thresholds: &[f64]) -> Self {
        let mut padded = Box::new([f64::INFINITY; 256]);
        padded[..thresholds.len()].copy_from_slice(thresholds);
        // Of the two zeros one, so that equal numbers are equal bits.
        let narrow = padded.map(|threshold| threshold as f32 + 0.0);
        let sixteen = |at: &dyn Fn(usize) -> usize| Sixteen(std::array::from_fn(|index| narrow[at(index)]));
        let levels = (thresholds.len() + 1).next_power_of_two().ilog2().max(1) as usize;
        Search {
            input: input as usize,
            columns: [None; 2],
            count: thresholds.len(),
            thresholds: padded,
            distinct: narrow[..thresholds.len()].is_sorted_by(|a, b| a < b),
            blocks: Box::new(Blocks {
                last: sixteen(&|block| 16 * block + 15),
                all: std::array::from_fn(|block| sixteen(&|index| 16 * block + index)),
            }),
            levels,
            ladder: ladder(&narrow, levels),
        }
    }

    pub fn column_of(&mut self, missing_left: bool) -> &mut Option<usize> {
        &mut self.columns[usize::from(!missing_left)]
    }

    /// Number of thresholds below the value; a missing value is above none.
    pub fn code(&self, value: f64) -> u8 {
        self.thresholds[..self.count].partition_point(|&threshold| threshold < value) as u8
    }

    /// The codes of up to 64 values, and which of them are missing.
    pub fn codes(&self, values: &[f64], codes: &mut Bytes) -> u64 {
        codes.0.iter_mut().zip(values).for_each(|(code, &value)| *code = self.code(value));
        missing(values)
    }

    /// The code of a value, which is `narrow` as `f32`, given how to count the numbers of sixteen that are below another.
    #[inline(always)]
    fn code_by_blocks(&self, value: f64, narrow: f32, below: impl Fn(&Sixteen, f32) -> usize) -> u8 {
        if !self.distinct {
            return self.code(value);
        }
        let block = below(&self.blocks.last, narrow) % 16;
        let numbers = &self.blocks.all[block];
        let index = below(numbers, narrow) % 16;
        let code = (16 * block + index) as u8;
        if numbers.0[index].to_bits() == narrow.to_bits() {
            return code + u8::from(self.thresholds[usize::from(code)] < value);
        }
        code
    }
}

#[inline(always)]
fn missing(values: &[f64]) -> u64 {
    values.iter().enumerate().fold(0, |missing, (row, value)| missing | u64::from(value.is_nan()) << row)
}

/// The search tree of `2^levels - 1` thresholds. What is compared at a level depends on the outcomes before: that of level `i` is bit `i` of
/// where it lies in its level, so that finding it is a permutation by the outcomes so far. Up to sixteen a register; the first levels
/// have one each.
fn ladder(thresholds: &[f32; 256], levels: usize) -> Vec<Sixteen> {
    let mut ladder = Vec::new();
    for level in 0..levels {
        let width = 1 << (levels - level);
        let at = |outcomes: usize| {
            let path = (0..level).fold(0, |path, bit| 2 * path + (outcomes >> bit & 1));
            thresholds[path * width + width / 2 - 1]
        };
        // Bits beyond the level's are no outcomes yet: what is smaller than a register repeats itself.
        ladder.extend((0..(1usize << level).div_ceil(16)).map(|part| Sixteen(std::array::from_fn(|lane| at(16 * part + lane)))));
    }
    ladder
}

/// What is written for wide registers.
#[cfg(target_arch = "x86_64")]
pub(super) mod wide {
    use std::arch::x86_64::*;

    use super::*;

    impl Search {
        /// As [`codes`](Search::codes).
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512cd,gfni,popcnt")]
        pub fn codes_512(&self, values: &[f64], codes: &mut Bytes) -> u64 {
            match (self.distinct, self.levels) {
                (false, _) => self.codes(values, codes),
                (_, 1) => self.search::<1>(values, codes),
                (_, 2) => self.search::<2>(values, codes),
                (_, 3) => self.search::<3>(values, codes),
                (_, 4) => self.search::<4>(values, codes),
                (_, 5) => self.search::<5>(values, codes),
                (_, 6) => self.search::<6>(values, codes),
                (_, 7) => self.search::<7>(values, codes),
                _ => self.search::<8>(values, codes),
            }
        }

        /// Sixteen values at a time down the ladder, which stays in registers.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512cd,gfni,popcnt")]
        fn search<const LEVELS: usize>(&self, values: &[f64], codes: &mut Bytes) -> u64 {
            let ladder: &[Sixteen] = &self.ladder;
            // Each outcome is a bit, the first the lowest: turned round, they are the number of thresholds below.
            let turned_round = _mm512_set1_epi64((0x8040_2010_0804_0201u64 << (8 * (8 - LEVELS))) as i64);
            let mut missing = 0;
            for (part, (values, codes)) in values.chunks(16).zip(codes.0.as_chunks_mut::<16>().0).enumerate() {
                let (low, high) = sixteen(values);
                let value = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high));
                let mut outcomes = _mm512_setzero_si512();
                // The nearest threshold not below, the only one that may be the value's own as f32.
                let mut nearest = _mm512_set1_ps(f32::INFINITY);
                let (mut fifth, mut sixth) = (0, 0);
                for level in 0..LEVELS {
                    let pair = |first: usize| _mm512_permutex2var_ps(floats(&ladder[first]), outcomes, floats(&ladder[first + 1]));
                    let threshold = match level {
                        0 => floats(&ladder[0]),
                        1..=4 => _mm512_permutexvar_ps(outcomes, floats(&ladder[level])),
                        5 => pair(5),
                        6 => _mm512_mask_blend_ps(fifth, pair(7), pair(9)),
                        _ => {
                            let (a, b) = (_mm512_mask_blend_ps(fifth, pair(11), pair(13)), _mm512_mask_blend_ps(fifth, pair(15), pair(17)));
                            _mm512_mask_blend_ps(sixth, a, b)
                        }
                    };
                    let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(threshold, value);
                    outcomes = _mm512_mask_or_epi32(outcomes, below, outcomes, _mm512_set1_epi32(1 << level));
                    nearest = _mm512_mask_mov_ps(threshold, below, nearest);
                    match level {
                        5 => fifth = below,
                        6 => sixth = below,
                        _ => {}
                    }
                }
                let mut found = _mm512_gf2p8affine_epi64_epi8::<0>(outcomes, turned_round);
                let alike = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(nearest, value);
                if alike != 0 {
                    found = self.compare_alike(found, alike, low, high);
                }
                missing |= u64::from(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value)) << (16 * part);
                // SAFETY: a reference to 16 bytes, written unaligned.
                unsafe { _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(found)) };
            }
            missing
        }

        /// Adds one to the codes whose threshold is below the value, among those that are one as `f32`.
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512cd,gfni,popcnt")]
        fn compare_alike(&self, codes: __m512i, alike: __mmask16, low: __m512d, high: __m512d) -> __m512i {
            let byte = _mm512_and_si512(codes, _mm512_set1_epi32(255));
            let below = |alike: u8, codes: __m256i, values: __m512d| {
                let infinite = _mm512_set1_pd(f64::INFINITY);
                // SAFETY: an index is a byte, and there are 256 numbers.
                let thresholds = unsafe { _mm512_mask_i32gather_pd::<8>(infinite, alike, codes, self.thresholds.as_ptr()) };
                _mm512_mask_cmp_pd_mask::<_CMP_LT_OQ>(alike, thresholds, values)
            };
            let first = below(alike as u8, _mm512_castsi512_si256(byte), low);
            let second = below((alike >> 8) as u8, _mm512_extracti64x4_epi64::<1>(byte), high);
            _mm512_mask_add_epi32(byte, u16::from(first) | u16::from(second) << 8, byte, _mm512_set1_epi32(1))
        }

        /// As [`codes`](Search::codes), less 128, as numbers with a sign: that is how AVX2 compares bytes.
        #[target_feature(enable = "avx2,popcnt")]
        pub fn codes_256(&self, values: &[f64], codes: &mut Bytes) -> u64 {
            let below = |numbers: &Sixteen, value: f32| {
                let value = _mm256_set1_ps(value);
                // SAFETY: 8 numbers of 4 bytes each, read unaligned.
                let [first, second] = [0, 8].map(|at| unsafe { _mm256_loadu_ps(numbers.0[at..][..8].as_ptr()) });
                let [first, second] = [first, second].map(|numbers| _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LT_OQ>(numbers, value)));
                _mm256_movemask_epi8(_mm256_packs_epi32(first, second)).count_ones() as usize / 2
            };
            let code = |value: f64| self.code_by_blocks(value, value as f32 + 0.0, below) ^ 128;
            codes.0.iter_mut().zip(values).for_each(|(to, &value)| *to = code(value));
            missing(values)
        }
    }

    /// The codes of one row, a byte for each search, below all for missing values; and which are missing.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512cd,gfni,popcnt")]
    pub fn codes_of_row(searches: &[Search], row: &[f64]) -> (__m512i, u64) {
        let below =
            |numbers: &Sixteen, value: f32| _mm512_cmp_ps_mask::<_CMP_LT_OQ>(floats(numbers), _mm512_set1_ps(value)).count_ones() as usize;
        let (mut codes, mut missing) = (Bytes([0; 64]), 0);
        for (index, (code, search)) in codes.0.iter_mut().zip(searches).enumerate() {
            let value = row[search.input];
            *code = search.code_by_blocks(value, value as f32 + 0.0, below);
            missing |= u64::from(value.is_nan()) << index;
        }
        // SAFETY: a reference to 64 bytes, read unaligned.
        (unsafe { _mm512_loadu_si512(codes.0.as_ptr().cast()) }, missing)
    }

    /// Up to sixteen values in two registers.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn sixteen(values: &[f64]) -> (__m512d, __m512d) {
        if let Some(values) = values.as_array::<16>() {
            // SAFETY: 16 numbers of 8 bytes, read unaligned.
            return unsafe { (_mm512_loadu_pd(values.as_ptr()), _mm512_loadu_pd(values[8..].as_ptr())) };
        }
        let mut some = [0.0; 16];
        some[..values.len()].copy_from_slice(values);
        // SAFETY: as above.
        unsafe { (_mm512_loadu_pd(some.as_ptr()), _mm512_loadu_pd(some[8..].as_ptr())) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn floats(numbers: &Sixteen) -> __m512 {
        // SAFETY: a reference to 16 numbers of 4 bytes, read unaligned.
        unsafe { _mm512_loadu_ps(numbers.0.as_ptr()) }
    }
}
