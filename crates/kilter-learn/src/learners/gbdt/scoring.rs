//! A forest compiled for scoring: values become bytes once, splits become comparisons of bytes.
//!
//! Every split on an input, with its side for missing values, looks at one *column* of codes: the number of the column's thresholds below
//! the value. `value <= threshold` in `f64` is then exactly `code <= index of the threshold`; a missing value has the code that goes to its
//! side. An input with more thresholds than a byte can count gets several columns.
//!
//! One row: all nodes of two trees are compared at once, and the leaf is the one whose path agrees with the outcomes. Many rows: 64 at a
//! time, node by node from the leaves up, each choosing which of its children's leaf numbers stands for it.
//!
//! Whatever the way, the leaf values of a row are added in `f64` in the order of the trees, so the bits are those of a plain walk
//! ([`Forest`](super::tree::Forest)), which scores what does not fit here.

use std::ops::Range;

use super::tree::{Child, Tree};
use crate::Matrix;

/// Rows handled at once.
pub(super) const BLOCK: usize = 64;
/// Most thresholds of a column: codes 0 to 254, and 255 for a missing value that goes right.
const MOST_THRESHOLDS: usize = 254;
/// Most leaves of a tree whose leaf numbers are bytes.
const MOST_LEAVES: usize = 256;
/// Most leaves of a tree scored by one mask, and most columns such a forest may look at.
const MASK_LEAVES: usize = 32;
const MASK_COLUMNS: usize = 64;

/// What the processor has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::learners) enum Level {
    Portable,
    Avx2,
    /// AVX-512 with bytes (BW) and permutations of bytes (VBMI).
    Avx512,
}

impl Level {
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512bw") && has!("avx512vbmi") && has!("popcnt") && has!("bmi1") {
                return Level::Avx512;
            }
            if has!("avx2") && has!("popcnt") {
                return Level::Avx2;
            }
        }
        Level::Portable
    }
}

#[derive(Debug)]
pub(in crate::learners) struct Plan {
    level: Level,
    columns: Vec<Column>,
    /// Empty when a tree is too large for it.
    masks: Vec<Pair>,
    /// Of each tree, when there are masks.
    paths: Vec<Paths>,
    trees: Vec<TreePlan>,
}

/// Thresholds of one input in ascending order, sixteen to a block; infinity fills up. The last of each block is its pivot.
#[derive(Debug)]
struct Column {
    input: usize,
    missing: u8,
    pivots: Sixteen,
    blocks: Vec<Sixteen>,
}

// What is read as a whole register begins where a line of the cache does: across two lines it takes twice as long.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Sixteen([f64; 16]);

/// A byte for each of 64 rows, nodes or columns.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bytes([u8; BLOCK]);

#[derive(Clone, Debug)]
#[repr(align(64))]
struct Leaves([f64; MOST_LEAVES]);

/// Nodes after their children; a child is a leaf's number, or 256 and the number of a node before.
#[derive(Debug)]
struct TreePlan {
    nodes: Vec<PlanNode>,
    leaves: Box<Leaves>,
    /// How many leaves there are, at most.
    room: usize,
}

#[derive(Clone, Copy, Debug)]
struct PlanNode {
    column: u16,
    left: u16,
    right: u16,
    code: u8,
}

/// Two trees of at most 32 leaves: node `i` of the second stands at `32 + i`.
#[derive(Debug)]
struct Pair {
    columns: Bytes,
    codes: Bytes,
}

/// For each leaf the nodes on its path, and which of them must have sent the row left.
#[derive(Debug)]
#[repr(C, align(64))]
struct Paths {
    on_path: [u32; MASK_LEAVES],
    left: [u32; MASK_LEAVES],
    values: [f64; MASK_LEAVES],
}

impl Plan {
    /// `None` when a tree has too many leaves, or there are too many columns.
    pub fn new(trees: &[Tree], level: Level) -> Option<Self> {
        if trees.iter().any(|tree| tree.leaves.len() > MOST_LEAVES) {
            return None;
        }
        // (input, side of missing values) -> thresholds; equal ones once, which makes one of the two zeros.
        let mut thresholds = std::collections::BTreeMap::<(u32, bool), Vec<f64>>::new();
        for node in trees.iter().flat_map(|tree| &tree.nodes) {
            thresholds.entry((node.column, node.missing_left)).or_default().push(node.threshold + 0.0);
        }
        let mut columns = Vec::new();
        let mut first_columns = std::collections::BTreeMap::new();
        for (&key, thresholds) in &mut thresholds {
            thresholds.sort_unstable_by(f64::total_cmp);
            thresholds.dedup();
            first_columns.insert(key, columns.len());
            columns.extend(thresholds.chunks(MOST_THRESHOLDS).map(|chunk| Column::new(key, chunk)));
        }
        if columns.len() > usize::from(u16::MAX) {
            return None;
        }
        let place = |node: &super::tree::Node| {
            let key = (node.column, node.missing_left);
            let index = thresholds[&key].partition_point(|&threshold| threshold < node.threshold);
            (first_columns[&key] + index / MOST_THRESHOLDS, (index % MOST_THRESHOLDS) as u8)
        };
        let fits_masks = columns.len() <= MASK_COLUMNS && trees.iter().all(|tree| tree.leaves.len() <= MASK_LEAVES);
        let masks = if fits_masks { trees.chunks(2).map(|pair| Pair::new(pair, &place)).collect() } else { Vec::new() };
        let paths = if fits_masks { trees.iter().map(Paths::new).collect() } else { Vec::new() };
        let trees = trees.iter().map(|tree| TreePlan::new(tree, &place)).collect();
        Some(Plan { level, columns, masks, paths, trees })
    }

    /// The row's margin, if there is a faster way to it than a walk.
    pub fn margin(&self, base: f64, row: &[f64]) -> Option<f64> {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512 && !self.masks.is_empty() {
            // SAFETY: `Level::Avx512` is only made where the processor has what `wide::margin` asks for.
            return Some(unsafe { wide::margin(self, base, row) });
        }
        let _ = (base, row);
        None
    }

    /// The margins of some rows, in their order.
    pub fn margins(&self, base: f64, matrix: &Matrix, rows: Range<usize>, out: &mut Vec<f64>) {
        let none = Bytes([0; BLOCK]);
        let mut scratch = Scratch { codes: vec![none; self.columns.len()], slots: vec![none; 2 * MOST_LEAVES], sums: [0.0; BLOCK] };
        for leaf in 0..MOST_LEAVES {
            scratch.slots[leaf] = Bytes([leaf as u8; BLOCK]);
        }
        for start in rows.clone().step_by(BLOCK) {
            let count = BLOCK.min(rows.end - start);
            scratch.sums = [base; BLOCK];
            match self.level {
                // SAFETY: a level is only made where the processor has what its function asks for.
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => unsafe { wide::block_512(self, matrix, start..start + count, &mut scratch) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe { wide::block_256(self, matrix, start..start + count, &mut scratch) },
                _ => self.block(matrix, start..start + count, &mut scratch, Column::code, choose, add_leaves),
            }
            out.extend_from_slice(&scratch.sums[..count]);
        }
    }

    /// Adds the leaf values of up to 64 rows to the sums.
    #[inline(always)]
    fn block(
        &self,
        matrix: &Matrix,
        rows: Range<usize>,
        scratch: &mut Scratch,
        code: impl Fn(&Column, f64) -> u8,
        choose: impl Fn(&Bytes, u8, &Bytes, &Bytes) -> Bytes,
        add_leaves: impl Fn(&TreePlan, &Bytes, &mut [f64; BLOCK]),
    ) {
        for (column, codes) in self.columns.iter().zip(&mut scratch.codes) {
            for (out, &value) in codes.0.iter_mut().zip(&matrix.column(column.input)[rows.clone()]) {
                *out = code(column, value);
            }
        }
        for tree in &self.trees {
            let mut root = Bytes([0; BLOCK]);
            for (index, node) in tree.nodes.iter().enumerate() {
                let codes = &scratch.codes[usize::from(node.column)];
                let (left, right) = (&scratch.slots[usize::from(node.left)], &scratch.slots[usize::from(node.right)]);
                root = choose(codes, node.code, left, right);
                scratch.slots[MOST_LEAVES + index] = root;
            }
            add_leaves(tree, &root, &mut scratch.sums);
        }
    }
}

/// For each row the left number where its code is not above the node's, else the right one.
fn choose(codes: &Bytes, code: u8, left: &Bytes, right: &Bytes) -> Bytes {
    Bytes(std::array::from_fn(|row| if codes.0[row] <= code { left.0[row] } else { right.0[row] }))
}

fn add_leaves(tree: &TreePlan, chosen: &Bytes, sums: &mut [f64; BLOCK]) {
    for (sum, leaf) in sums.iter_mut().zip(chosen.0) {
        *sum += tree.leaves.0[usize::from(leaf)];
    }
}

struct Scratch {
    /// For each column the codes of 64 rows.
    codes: Vec<Bytes>,
    /// The leaf numbers as constants, then what each node has chosen.
    slots: Vec<Bytes>,
    sums: [f64; BLOCK],
}

impl Column {
    fn new((input, missing_left): (u32, bool), thresholds: &[f64]) -> Self {
        let mut column = Column {
            input: input as usize,
            missing: if missing_left { 0 } else { u8::MAX },
            pivots: Sixteen([f64::INFINITY; 16]),
            blocks: vec![Sixteen([f64::INFINITY; 16]); thresholds.len() / 16 + 1],
        };
        for (index, &threshold) in thresholds.iter().enumerate() {
            column.blocks[index / 16].0[index % 16] = threshold;
        }
        for (pivot, block) in column.pivots.0.iter_mut().zip(&column.blocks) {
            *pivot = block.0[15];
        }
        column
    }

    /// Number of thresholds below the value; a missing value's own code.
    #[inline(always)]
    fn code(&self, value: f64) -> u8 {
        let below = |numbers: &Sixteen| numbers.0.iter().map(|&number| u8::from(number < value)).sum::<u8>();
        let block = below(&self.pivots);
        let code = 16 * block + below(&self.blocks[usize::from(block)]);
        if value.is_nan() { self.missing } else { code }
    }
}

type Place<'a> = &'a dyn Fn(&super::tree::Node) -> (usize, u8);

impl TreePlan {
    fn new(tree: &Tree, place: Place<'_>) -> Self {
        let mut leaves = Box::new(Leaves([0.0; MOST_LEAVES]));
        leaves.0[..tree.leaves.len()].copy_from_slice(&tree.leaves);
        // A tree's nodes stand before their children: turned round, after them.
        let last = tree.nodes.len().wrapping_sub(1);
        let slot = |child| match child {
            Child::Leaf(leaf) => leaf as u16,
            Child::Node(node) => (MOST_LEAVES + last - node) as u16,
        };
        let plan = |node: &super::tree::Node| {
            let (column, code) = place(node);
            PlanNode { column: column as u16, left: slot(node.left()), right: slot(node.right()), code }
        };
        TreePlan { nodes: tree.nodes.iter().rev().map(plan).collect(), leaves, room: tree.leaves.len().next_multiple_of(32) }
    }
}

impl Pair {
    fn new(trees: &[Tree], place: Place<'_>) -> Self {
        // Places without a node compare true.
        let mut pair = Pair { columns: Bytes([0; 64]), codes: Bytes([u8::MAX; 64]) };
        for (first, tree) in [0, MASK_LEAVES].into_iter().zip(trees) {
            for (index, node) in tree.nodes.iter().enumerate() {
                let (column, code) = place(node);
                (pair.columns.0[first + index], pair.codes.0[first + index]) = (column as u8, code);
            }
        }
        pair
    }
}

impl Paths {
    fn new(tree: &Tree) -> Self {
        // There are at most 31 nodes, so the last bit is always true: a leaf that asks for the contrary is never reached.
        let mut paths = Paths { on_path: [1 << 31; MASK_LEAVES], left: [0; MASK_LEAVES], values: [0.0; MASK_LEAVES] };
        paths.values[..tree.leaves.len()].copy_from_slice(&tree.leaves);
        let mut ways = vec![(tree.root(), 0, 0)];
        while let Some((at, on_path, left)) = ways.pop() {
            match at {
                Child::Leaf(leaf) => (paths.on_path[leaf], paths.left[leaf]) = (on_path, left),
                Child::Node(index) => {
                    let (node, bit) = (&tree.nodes[index], 1 << index);
                    ways.push((node.left(), on_path | bit, left | bit));
                    ways.push((node.right(), on_path | bit, left));
                }
            }
        }
        paths
    }
}

/// What is written for wide registers. All `unsafe` of scoring is here and in `Plan::margin` and `Plan::margins`.
#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;

    use super::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,popcnt,bmi1")]
    pub(super) fn margin(plan: &Plan, base: f64, row: &[f64]) -> f64 {
        let mut codes = Bytes([0; MASK_COLUMNS]);
        for (out, column) in codes.0.iter_mut().zip(&plan.columns) {
            *out = code(column, row[column.input]);
        }
        let codes = bytes(&codes);
        let mut sum = base;
        for (pair, paths) in plan.masks.iter().zip(plan.paths.chunks(2)) {
            let of_nodes = _mm512_permutexvar_epi8(bytes(&pair.columns), codes);
            let mut outcomes = _mm512_cmple_epu8_mask(of_nodes, bytes(&pair.codes));
            for paths in paths {
                let outcome = _mm512_set1_epi32(outcomes as i32);
                let (on_path, left) = (words(&paths.on_path), words(&paths.left));
                let agrees = |half: usize| _mm512_testn_epi32_mask(_mm512_xor_si512(outcome, left[half]), on_path[half]);
                let leaf = (u32::from(agrees(0)) | u32::from(agrees(1)) << 16).trailing_zeros();
                sum += paths.values[leaf as usize % MASK_LEAVES];
                outcomes >>= 32;
            }
        }
        sum
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,popcnt,bmi1")]
    pub(super) fn block_512(plan: &Plan, matrix: &Matrix, rows: Range<usize>, scratch: &mut Scratch) {
        plan.block(
            matrix,
            rows,
            scratch,
            |column, value| code(column, value),
            |c, code, l, r| choose_512(c, code, l, r),
            |t, c, s| add_leaves_512(t, c, s),
        );
    }

    #[target_feature(enable = "avx2,popcnt")]
    pub(super) fn block_256(plan: &Plan, matrix: &Matrix, rows: Range<usize>, scratch: &mut Scratch) {
        plan.block(matrix, rows, scratch, Column::code, |c, code, l, r| choose_256(c, code, l, r), add_leaves);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,popcnt,bmi1")]
    fn code(column: &Column, value: f64) -> u8 {
        let all = _mm512_set1_pd(value);
        let below = |numbers: &Sixteen| {
            let (first, second) = doubles(numbers);
            _mm512_cmp_pd_mask::<_CMP_LT_OQ>(first, all).count_ones() + _mm512_cmp_pd_mask::<_CMP_LT_OQ>(second, all).count_ones()
        };
        let block = below(&column.pivots);
        let code = (16 * block + below(&column.blocks[block as usize])) as u8;
        if value.is_nan() { column.missing } else { code }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn choose_512(codes: &Bytes, code: u8, left: &Bytes, right: &Bytes) -> Bytes {
        let goes_left = _mm512_cmple_epu8_mask(bytes(codes), _mm512_set1_epi8(code as i8));
        let mut chosen = Bytes([0; BLOCK]);
        // SAFETY: a reference to 64 bytes, written unaligned.
        unsafe { _mm512_storeu_si512(chosen.0.as_mut_ptr().cast(), _mm512_mask_blend_epi8(goes_left, bytes(right), bytes(left))) };
        chosen
    }

    /// Looks up to 32 leaf values up in registers: 16 at a time, and a bit of the leaf's number says which are meant.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add_leaves_512(tree: &TreePlan, chosen: &Bytes, sums: &mut [f64; BLOCK]) {
        if tree.room > 32 {
            return add_leaves(tree, chosen, sums);
        }
        let [a, b, c, d] = [0, 8, 16, 24].map(|first| eight(&tree.leaves.0[first..]));
        for (leaves, sums) in chosen.0.as_chunks::<8>().0.iter().zip(sums.as_chunks_mut::<8>().0) {
            let leaf = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(i64::from_le_bytes(*leaves)));
            let (low, high) = (_mm512_permutex2var_pd(a, leaf, b), _mm512_permutex2var_pd(c, leaf, d));
            let is_high = _mm512_test_epi64_mask(leaf, _mm512_set1_epi64(16));
            let sum = _mm512_add_pd(eight(sums), _mm512_mask_blend_pd(is_high, low, high));
            // SAFETY: a reference to 8 numbers of 8 bytes, written unaligned.
            unsafe { _mm512_storeu_pd(sums.as_mut_ptr(), sum) };
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn choose_256(codes: &Bytes, code: u8, left: &Bytes, right: &Bytes) -> Bytes {
        let code = _mm256_set1_epi8(code as i8);
        let mut chosen = Bytes([0; BLOCK]);
        for half in [0, 32] {
            // SAFETY: 32 bytes from 0 or 32 on lie within references to 64, read and written unaligned.
            unsafe {
                let load = |from: &Bytes| _mm256_loadu_si256(from.0[half..].as_ptr().cast());
                let codes = load(codes);
                let goes_left = _mm256_cmpeq_epi8(_mm256_min_epu8(codes, code), codes);
                let chosen = chosen.0[half..].as_mut_ptr().cast();
                _mm256_storeu_si256(chosen, _mm256_blendv_epi8(load(right), load(left), goes_left));
            }
        }
        chosen
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn bytes(bytes: &Bytes) -> __m512i {
        // SAFETY: a reference to 64 bytes, read unaligned.
        unsafe { _mm512_loadu_si512(bytes.0.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn words(words: &[u32; 32]) -> [__m512i; 2] {
        // SAFETY: a reference to 32 words of 4 bytes, both halves read unaligned.
        unsafe { [_mm512_loadu_si512(words.as_ptr().cast()), _mm512_loadu_si512(words[16..].as_ptr().cast())] }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn doubles(numbers: &Sixteen) -> (__m512d, __m512d) {
        (eight(&numbers.0[..8]), eight(&numbers.0[8..]))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn eight(numbers: &[f64]) -> __m512d {
        let numbers = &numbers[..8];
        // SAFETY: 8 numbers of 8 bytes, read unaligned.
        unsafe { _mm512_loadu_pd(numbers.as_ptr()) }
    }
}

#[cfg(test)]
#[path = "scoring_tests.rs"]
mod tests;
