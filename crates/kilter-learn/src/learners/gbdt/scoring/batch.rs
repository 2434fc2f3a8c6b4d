//! Many rows: 128 at a time, node by node from the leaves up, each choosing which of its children's leaf numbers stands for it.

use std::ops::Range;

use super::codes::{ABSENT, Search};
use super::{Bytes, Level, MOST_LEAVES, Place};
use crate::Matrix;
use crate::learners::gbdt::tree::{Child, Node, Tree};

/// Rows handled at once, in halves of 64.
const HALVES: usize = 2;
const BLOCK: usize = 64 * HALVES;
/// Rows whose codes are made together, column by column, so that a column's thresholds are near for all of them.
const CHUNK: usize = 4 * BLOCK;
/// Leaves whose values are looked up in registers.
const FEW_LEAVES: usize = 32;

#[derive(Debug)]
pub(super) struct Batch {
    trees: Vec<TreePlan>,
    nodes: Vec<PlanNode>,
    most_leaves: usize,
}

/// What rows are scored from.
pub(super) struct Wanted<'a> {
    pub searches: &'a [Search],
    /// How many there are.
    pub columns: usize,
    pub base: f64,
    pub matrix: &'a Matrix,
}

#[derive(Debug)]
struct TreePlan {
    nodes: Range<usize>,
    /// Where the row's leaf number is in the end.
    root: usize,
    leaves: Leaves,
}

#[derive(Debug)]
enum Leaves {
    Few(Box<FewLeaves>),
    /// Any byte is a place.
    Many(Box<[f64; MOST_LEAVES]>),
}

/// The lower and the upper halves of the bits of up to 32 numbers.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct FewLeaves {
    low: [u32; FEW_LEAVES],
    high: [u32; FEW_LEAVES],
}

/// Nodes stand after their children. A child is a leaf's number, or so many more than there are leaves and the number of a node before.
#[derive(Clone, Copy, Debug)]
struct PlanNode {
    /// The byte four times: a register is filled with four bytes more cheaply than with one.
    code: u32,
    column: u16,
    left: u16,
    right: u16,
}

/// What 128 rows have at a column, or have chosen at a node.
type Halves = [Bytes; HALVES];

struct Scratch {
    /// By block and column.
    codes: Vec<Halves>,
    /// The leaf numbers as constants, then what each node has chosen.
    slots: Vec<Halves>,
    sums: Sums,
}

/// The sum of row `64 h + 8 q + s` is `[h][s][q]`: byte `s` of a word of eight belongs to it.
type Sums = [[[f64; 8]; 8]; HALVES];

impl Batch {
    pub fn new(trees: &[Tree], place: Place<'_>) -> Self {
        let most_leaves = trees.iter().map(|tree| tree.leaves.len()).max().unwrap_or(1);
        let mut batch = Batch { trees: Vec::new(), nodes: Vec::new(), most_leaves };
        for tree in trees {
            batch.push(tree, place);
        }
        batch
    }

    fn push(&mut self, tree: &Tree, place: Place<'_>) {
        let leaves = if tree.leaves.len() <= FEW_LEAVES {
            let mut few = FewLeaves { low: [0; FEW_LEAVES], high: [0; FEW_LEAVES] };
            for (leaf, value) in tree.leaves.iter().enumerate() {
                (few.low[leaf], few.high[leaf]) = (value.to_bits() as u32, (value.to_bits() >> 32) as u32);
            }
            Leaves::Few(Box::new(few))
        } else {
            let mut many = Box::new([0.0; MOST_LEAVES]);
            many[..tree.leaves.len()].copy_from_slice(&tree.leaves);
            Leaves::Many(many)
        };
        // A tree's nodes stand before their children: turned round, after them.
        let last = tree.nodes.len().wrapping_sub(1);
        let slot = |child| match child {
            Child::Leaf(leaf) => leaf,
            Child::Node(node) => self.most_leaves + last - node,
        };
        let plan = |node: &Node| {
            let (column, code) = place(node);
            let [left, right] = [node.left(), node.right()].map(|child| slot(child) as u16);
            PlanNode { code: u32::from_ne_bytes([code; 4]), column: column as u16, left, right }
        };
        let first = self.nodes.len();
        self.nodes.extend(tree.nodes.iter().rev().map(plan));
        self.trees.push(TreePlan { nodes: first..self.nodes.len(), root: slot(tree.root()), leaves });
    }

    /// Appends the margins of some rows, in their order.
    pub fn margins(&self, level: Level, wanted: &Wanted<'_>, rows: Range<usize>, out: &mut Vec<f64>) {
        let none = [Bytes([0; 64]); HALVES];
        let blocks = rows.len().div_ceil(BLOCK).min(CHUNK / BLOCK);
        let mut scratch = Scratch {
            codes: vec![none; wanted.columns * blocks],
            slots: vec![none; 2 * self.most_leaves],
            sums: [[[wanted.base; 8]; 8]; HALVES],
        };
        for leaf in 0..self.most_leaves {
            scratch.slots[leaf] = [Bytes([leaf as u8; 64]); HALVES];
        }
        for start in rows.clone().step_by(CHUNK) {
            let chunk = start..rows.end.min(start + CHUNK);
            match level {
                // SAFETY: a level is only taken where the processor has what its function asks for.
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => unsafe { wide::chunk_512(self, wanted, chunk, &mut scratch, out) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe { wide::chunk_256(self, wanted, chunk, &mut scratch, out) },
                _ => self.chunk(wanted, chunk, &mut scratch, out, &Way { codes: Search::codes, absent: ABSENT, choose, add_few, add_many }),
            }
        }
    }

    #[inline(always)]
    fn chunk<Codes, Choose, AddFew, AddMany>(
        &self,
        wanted: &Wanted<'_>,
        rows: Range<usize>,
        scratch: &mut Scratch,
        out: &mut Vec<f64>,
        way: &Way<Codes, Choose, AddFew, AddMany>,
    ) where
        Codes: Fn(&Search, &[f64], &mut Bytes) -> u64,
        Choose: Fn(&Halves, u32, &Halves, &Halves, &mut Halves),
        AddFew: Fn(&FewLeaves, &Halves, &mut Sums),
        AddMany: Fn(&[f64; MOST_LEAVES], &Halves, &mut Sums),
    {
        let width = wanted.columns;
        for search in wanted.searches {
            let values = &wanted.matrix.column(search.input)[rows.clone()];
            for (index, values) in values.chunks(64).enumerate() {
                let block = &mut scratch.codes[index / HALVES * width..][..width];
                let mut codes = Bytes([0; 64]);
                let missing = (way.codes)(search, values, &mut codes);
                let [left, right] = search.columns;
                if let Some(column) = left {
                    block[column][index % HALVES] = codes;
                }
                if let Some(column) = right {
                    if missing != 0 {
                        let value = |row: usize| if missing >> row & 1 == 1 { way.absent } else { codes.0[row] };
                        codes = Bytes(std::array::from_fn(value));
                    }
                    block[column][index % HALVES] = codes;
                }
            }
        }
        for (block, start) in rows.clone().step_by(BLOCK).enumerate() {
            scratch.sums = [[[wanted.base; 8]; 8]; HALVES];
            let codes = &scratch.codes[block * width..][..width];
            for tree in &self.trees {
                for (index, node) in self.nodes[tree.nodes.clone()].iter().enumerate() {
                    let (before, own) = scratch.slots.split_at_mut(self.most_leaves + index);
                    let (left, right) = (&before[usize::from(node.left)], &before[usize::from(node.right)]);
                    (way.choose)(&codes[usize::from(node.column)], node.code, left, right, &mut own[0]);
                }
                let chosen = &scratch.slots[tree.root];
                match &tree.leaves {
                    Leaves::Few(leaves) => (way.add_few)(leaves, chosen, &mut scratch.sums),
                    Leaves::Many(leaves) => (way.add_many)(leaves, chosen, &mut scratch.sums),
                }
            }
            let count = BLOCK.min(rows.end - start);
            out.extend((0..count).map(|row| scratch.sums[row / 64][row % 8][row % 64 / 8]));
        }
    }
}

/// The steps that registers of each width take in their own way.
struct Way<Codes, Choose, AddFew, AddMany> {
    /// Codes of up to 64 values, below all for missing ones; tells which are missing.
    codes: Codes,
    /// The code above all.
    absent: u8,
    /// For each row the left number where its code is not above the node's, else the right one.
    choose: Choose,
    /// Adds to each row's sum its leaf's value.
    add_few: AddFew,
    add_many: AddMany,
}

#[inline(always)]
fn choose(codes: &Halves, code: u32, left: &Halves, right: &Halves, chosen: &mut Halves) {
    for half in 0..HALVES {
        let (codes, left, right, chosen) = (&codes[half].0, &left[half].0, &right[half].0, &mut chosen[half].0);
        for row in 0..64 {
            // All ones or all zeros, so that whatever registers there are can choose.
            let goes_left = u8::from(codes[row] <= code as u8).wrapping_neg();
            chosen[row] = (left[row] & goes_left) | (right[row] & !goes_left);
        }
    }
}

#[inline(always)]
fn add_few(leaves: &FewLeaves, chosen: &Halves, sums: &mut Sums) {
    let value = |leaf: usize| f64::from_bits(u64::from(leaves.low[leaf]) | u64::from(leaves.high[leaf]) << 32);
    let values: [f64; FEW_LEAVES] = std::array::from_fn(value);
    add(chosen, sums, |leaf| values[usize::from(leaf) % FEW_LEAVES]);
}

#[inline(always)]
fn add_many(leaves: &[f64; MOST_LEAVES], chosen: &Halves, sums: &mut Sums) {
    add(chosen, sums, |leaf| leaves[usize::from(leaf)]);
}

#[inline(always)]
fn add(chosen: &Halves, sums: &mut Sums, value: impl Fn(u8) -> f64) {
    for (chosen, sums) in chosen.iter().zip(sums) {
        for (q, eight) in chosen.0.as_chunks::<8>().0.iter().enumerate() {
            for (s, &leaf) in eight.iter().enumerate() {
                sums[s][q] += value(leaf);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;

    use super::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512cd,gfni,popcnt")]
    pub(super) fn chunk_512(batch: &Batch, wanted: &Wanted<'_>, rows: Range<usize>, scratch: &mut Scratch, out: &mut Vec<f64>) {
        let way = Way {
            codes: |search: &Search, values: &[f64], codes: &mut Bytes| search.codes_512(values, codes),
            absent: ABSENT,
            choose: |codes: &Halves, code, left: &Halves, right: &Halves, chosen: &mut Halves| {
                let code = _mm512_set1_epi32(code as i32);
                for half in 0..HALVES {
                    let goes_left = _mm512_cmple_epu8_mask(bytes(&codes[half]), code);
                    store(&mut chosen[half], _mm512_mask_blend_epi8(goes_left, bytes(&right[half]), bytes(&left[half])));
                }
            },
            add_few: |leaves: &FewLeaves, chosen: &Halves, sums: &mut Sums| {
                let ([a, b], [c, d]) = (words(&leaves.low), words(&leaves.high));
                for (chosen, sums) in chosen.iter().zip(sums) {
                    let chosen = bytes(chosen);
                    // Only the lowest five bits of a word choose: byte by byte they come there.
                    for (s, leaf) in
                        [chosen, _mm512_srli_epi32::<8>(chosen), _mm512_srli_epi32::<16>(chosen), _mm512_srli_epi32::<24>(chosen)]
                            .into_iter()
                            .enumerate()
                    {
                        let (low, high) = (_mm512_permutex2var_epi32(a, leaf, b), _mm512_permutex2var_epi32(c, leaf, d));
                        // Every other word is a row's of the first four or of the second four of eight.
                        let first = _mm512_mask_shuffle_epi32::<0b10_10_00_00>(low, 0xAAAA, high);
                        let second = _mm512_mask_shuffle_epi32::<0b11_11_01_01>(high, 0x5555, low);
                        add_eight(&mut sums[s], _mm512_castsi512_pd(first));
                        add_eight(&mut sums[s + 4], _mm512_castsi512_pd(second));
                    }
                }
            },
            add_many: |leaves: &[f64; MOST_LEAVES], chosen: &Halves, sums: &mut Sums| {
                let byte = _mm512_set1_epi64(255);
                for (chosen, sums) in chosen.iter().zip(sums) {
                    let mut chosen = bytes(chosen);
                    for sums in sums {
                        let leaf = _mm512_and_si512(chosen, byte);
                        // SAFETY: a place is a byte, and there are 256 numbers.
                        add_eight(sums, unsafe { _mm512_i64gather_pd::<8>(leaf, leaves.as_ptr()) });
                        chosen = _mm512_srli_epi64::<8>(chosen);
                    }
                }
            },
        };
        batch.chunk(wanted, rows, scratch, out, &way);
    }

    #[target_feature(enable = "avx2,popcnt")]
    pub(super) fn chunk_256(batch: &Batch, wanted: &Wanted<'_>, rows: Range<usize>, scratch: &mut Scratch, out: &mut Vec<f64>) {
        let way = Way {
            codes: |search: &Search, values: &[f64], codes: &mut Bytes| search.codes_256(values, codes),
            absent: ABSENT ^ 128,
            choose: |codes: &Halves, code: u32, left: &Halves, right: &Halves, chosen: &mut Halves| {
                // Bytes are compared as numbers with a sign, and codes are 128 less here.
                let code = _mm256_set1_epi32((code ^ 0x8080_8080) as i32);
                for half in 0..HALVES {
                    for at in [0, 32] {
                        let load = |from: &Halves| quarter(&from[half], at);
                        let goes_right = _mm256_cmpgt_epi8(load(codes), code);
                        let value = _mm256_blendv_epi8(load(left), load(right), goes_right);
                        // SAFETY: 32 bytes from 0 or 32 on lie within 64, written unaligned.
                        unsafe { _mm256_storeu_si256(chosen[half].0[at..].as_mut_ptr().cast(), value) };
                    }
                }
            },
            add_few,
            add_many,
        };
        batch.chunk(wanted, rows, scratch, out, &way);
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn bytes(bytes: &Bytes) -> __m512i {
        // SAFETY: a reference to 64 bytes, aligned to as many.
        unsafe { _mm512_load_si512(bytes.0.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(to: &mut Bytes, value: __m512i) {
        // SAFETY: as above.
        unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), value) };
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn words(words: &[u32; 32]) -> [__m512i; 2] {
        // SAFETY: a reference to 32 words of 4 bytes, both halves read unaligned.
        unsafe { [_mm512_loadu_si512(words.as_ptr().cast()), _mm512_loadu_si512(words[16..].as_ptr().cast())] }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add_eight(sums: &mut [f64; 8], values: __m512d) {
        // SAFETY: a reference to 8 numbers of 8 bytes, read and written unaligned.
        unsafe { _mm512_storeu_pd(sums.as_mut_ptr(), _mm512_add_pd(_mm512_loadu_pd(sums.as_ptr()), values)) };
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn quarter(bytes: &Bytes, at: usize) -> __m256i {
        let bytes = &bytes.0[at..][..32];
        // SAFETY: a reference to 32 bytes, read unaligned.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }
}
