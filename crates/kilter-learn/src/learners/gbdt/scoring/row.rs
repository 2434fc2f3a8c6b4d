//! One row: sixteen trees at a time, each a lane of a register.
//!
//! A node that sends the row right rules out the leaves on its left. Of those that nothing rules out, the row's is the leftmost (QuickScorer,
//! Lucchese et al. 2015): whatever lies left of it is below the left side of some node where the row went right, and it itself is not. So
//! the nodes may be looked at in any order, all trees' first ones together, then all second ones.

use super::codes::Search;
use super::{Bytes, Place};
use crate::learners::gbdt::tree::{Child, Tree};

/// Trees in a register, and their most leaves.
const LANES: usize = 16;
const LEAVES: usize = 32;
/// Most columns such a forest may look at: what one permutation takes bytes from.
const COLUMNS: usize = 64;

#[derive(Debug)]
pub(super) struct Row {
    /// For each column the search whose codes it has; 64 more where missing values go right.
    columns: Bytes,
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    /// Four nodes of each tree.
    fours: Vec<Four>,
    values: Box<Values>,
}

/// Of each tree its leaf values from left to right.
type Values = [[f64; LEAVES]; LANES];
/// For want of a tree: what may be added to any number and leaves its bits as they are.
static NOTHING: Values = [[-0.0; LEAVES]; LANES];

/// Byte `4 t + i` is node `i` of tree `t`.
#[derive(Clone, Debug)]
struct Four {
    columns: Bytes,
    codes: Bytes,
    /// Of the nodes one after the other, for each tree: the leaves that remain when the row goes right. The leftmost is the highest bit.
    remain: [Remain; 4],
}

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Remain([u32; LANES]);

impl Row {
    /// `None` when there are too many columns or leaves for it. For processors with AVX-512 only.
    pub fn new(trees: &[Tree], searches: &[Search], columns: usize, place: Place<'_>) -> Option<Self> {
        if columns > COLUMNS || trees.iter().any(|tree| tree.leaves.len() > LEAVES) {
            return None;
        }
        let mut search_of = Bytes([0; COLUMNS]);
        for (index, search) in searches.iter().enumerate() {
            for (column, side) in search.columns.iter().zip([0, 64]) {
                column.iter().for_each(|&column| search_of.0[column] = side + index as u8);
            }
        }
        Some(Row { columns: search_of, groups: trees.chunks(LANES).map(|trees| Group::new(trees, place)).collect() })
    }

    #[cfg(target_arch = "x86_64")]
    pub fn margin(&self, searches: &[Search], base: f64, row: &[f64]) -> f64 {
        // SAFETY: it is only made where the processor has AVX-512.
        unsafe { wide::margin(self, searches, base, row) }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn margin(&self, _: &[Search], _: f64, _: &[f64]) -> f64 {
        unreachable!("made for processors with AVX-512 only")
    }
}

impl Group {
    fn new(trees: &[Tree], place: Place<'_>) -> Self {
        // Where there is no node nothing goes right.
        let none = Four { columns: Bytes([0; 64]), codes: Bytes([u8::MAX; 64]), remain: [Remain([u32::MAX; LANES]); 4] };
        let most = trees.iter().map(|tree| tree.nodes.len()).max().unwrap_or(0);
        let mut fours = vec![none; most.div_ceil(4)];
        let mut values = Box::new(NOTHING);
        for (lane, tree) in trees.iter().enumerate() {
            let mut ranks = 0..;
            let mut lefts = vec![0; tree.nodes.len()];
            left_sides(
                tree,
                tree.root(),
                &mut |leaf| {
                    let rank = ranks.next().unwrap_or(0);
                    values[lane][rank] = tree.leaves[leaf];
                    1 << (31 - rank)
                },
                &mut lefts,
            );
            for (index, (node, left)) in tree.nodes.iter().zip(lefts).enumerate() {
                let (column, code) = place(node);
                let four = &mut fours[index / 4];
                four.columns.0[4 * lane + index % 4] = column as u8;
                four.codes.0[4 * lane + index % 4] = code;
                four.remain[index % 4].0[lane] = !left;
            }
        }
        Group { fours, values }
    }
}

/// Numbers the leaves below a place from left to right, notes for each node those on its left, and returns all of them, as bits.
fn left_sides(tree: &Tree, at: Child, bit: &mut impl FnMut(usize) -> u32, lefts: &mut [u32]) -> u32 {
    match at {
        Child::Leaf(leaf) => bit(leaf),
        Child::Node(index) => {
            let node = &tree.nodes[index];
            lefts[index] = left_sides(tree, node.left(), bit, lefts);
            lefts[index] | left_sides(tree, node.right(), bit, lefts)
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;

    use super::*;
    use crate::learners::gbdt::scoring::codes::{ABSENT, wide::codes_of_row};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512cd,gfni,popcnt")]
    pub(super) fn margin(plan: &Row, searches: &[Search], base: f64, row: &[f64]) -> f64 {
        let (codes, missing) = codes_of_row(searches, row);
        let above_all = _mm512_set1_epi8(ABSENT as i8);
        let codes = _mm512_permutex2var_epi8(codes, bytes(&plan.columns), _mm512_mask_mov_epi8(codes, missing, above_all));
        let of_four = [0, 1, 2, 3].map(|node| _mm512_set1_epi32(255 << (8 * node)));
        let mut sum = base;
        // Each addition waits for the one before: those of a group are made while the next group's leaves are looked for.
        let (mut due, mut ranks) = (&NOTHING, Remain([0; LANES]));
        for group in &plan.groups {
            let mut left = due.iter().zip(&ranks.0);
            let mut remain = _mm512_set1_epi32(-1);
            for four in &group.fours {
                let of_nodes = _mm512_permutexvar_epi8(bytes(&four.columns), codes);
                let above = _mm512_subs_epu8(of_nodes, bytes(&four.codes));
                for (node, if_right) in of_four.iter().zip(&four.remain) {
                    remain = _mm512_mask_and_epi32(remain, _mm512_test_epi32_mask(above, *node), remain, words(if_right));
                }
                for (values, &rank) in left.by_ref().take(2) {
                    sum += values[rank as usize % LEAVES];
                }
            }
            for (values, &rank) in left {
                sum += values[rank as usize % LEAVES];
            }
            due = &group.values;
            // SAFETY: a reference to 16 words of 4 bytes, written unaligned.
            unsafe { _mm512_storeu_si512(ranks.0.as_mut_ptr().cast(), _mm512_lzcnt_epi32(remain)) };
        }
        for (values, &rank) in due.iter().zip(&ranks.0) {
            sum += values[rank as usize % LEAVES];
        }
        sum
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn bytes(bytes: &Bytes) -> __m512i {
        // SAFETY: a reference to 64 bytes, read unaligned.
        unsafe { _mm512_loadu_si512(bytes.0.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn words(words: &Remain) -> __m512i {
        // SAFETY: a reference to 16 words of 4 bytes, read unaligned.
        unsafe { _mm512_loadu_si512(words.0.as_ptr().cast()) }
    }
}
