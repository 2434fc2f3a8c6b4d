//! A forest compiled for scoring: values become bytes once, splits become comparisons of bytes.
//!
//! The code of a value is the number of its input's thresholds below it, so that `value <= threshold` in `f64` is exactly
//! `code <= index of the threshold`. A missing value has a code below or above all, by the side it takes: an input whose splits differ in
//! that side has two *columns* of codes, alike but for missing values. An input with more thresholds than a byte can count has several.
//!
//! `codes` turns values into codes, `row` scores one row, sixteen trees at a time, `batch` scores many, 128 rows at a time.
//!
//! Whatever the way, the leaf values of a row are added in `f64` in the order of the trees, so the bits are those of a plain walk
//! ([`Forest`](super::tree::Forest)), which scores what does not fit here.

#![cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "one row is scored in registers of x86-64 only"))]

mod batch;
mod codes;
mod row;

use std::collections::BTreeMap;
use std::ops::Range;

use super::tree::{Node, Tree};
use crate::Matrix;
use batch::{Batch, Wanted};
use codes::Search;
use row::Row;

/// Most thresholds of a column: a value's code is 0 to 254, and 255 is left for a missing value that goes right.
const MOST_THRESHOLDS: usize = 254;
/// Most leaves of a tree whose leaf numbers are bytes.
const MOST_LEAVES: usize = 256;
/// Up to so many rows are scored one by one, where there is a way: a block would be mostly empty.
const FEW_ROWS: usize = 24;

/// What the processor has, in rising order. The bits are the same on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Portable,
    Avx2,
    /// AVX-512 with bytes (BW, VBMI), words (DQ) and leading zeros (CD), and GFNI: Ice Lake, Zen 4 and later.
    Avx512,
}

impl Level {
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let wide = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vbmi") && has!("avx512cd");
            if wide && has!("gfni") && has!("popcnt") {
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
    searches: Vec<Search>,
    /// Columns of codes.
    columns: usize,
    /// `None` where one row is best walked.
    row: Option<Row>,
    batch: Batch,
}

/// A byte for each of 64 rows, nodes or columns.
// What is read as a whole register begins where a line of the cache does: across two lines it takes twice as long.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bytes([u8; 64]);

/// Where a node looks: a column, and the index of its threshold there.
type Place<'a> = &'a dyn Fn(&Node) -> (usize, u8);

impl Plan {
    /// `None` when a tree has too many leaves, or there are too many columns.
    pub fn new(trees: &[Tree], level: Level) -> Option<Self> {
        if trees.iter().any(|tree| tree.leaves.len() > MOST_LEAVES) {
            return None;
        }
        // Equal thresholds once, which makes one of the two zeros.
        let mut thresholds = BTreeMap::<u32, Vec<f64>>::new();
        for node in trees.iter().flat_map(|tree| &tree.nodes) {
            thresholds.entry(node.column).or_default().push(node.threshold + 0.0);
        }
        let mut searches = Vec::new();
        let mut first_searches = BTreeMap::new();
        for (&input, thresholds) in &mut thresholds {
            thresholds.sort_unstable_by(f64::total_cmp);
            thresholds.dedup();
            first_searches.insert(input, searches.len());
            searches.extend(thresholds.chunks(MOST_THRESHOLDS).map(|chunk| Search::new(input, chunk)));
        }
        let find = |node: &Node| {
            let index = thresholds[&node.column].partition_point(|&threshold| threshold < node.threshold);
            (first_searches[&node.column] + index / MOST_THRESHOLDS, (index % MOST_THRESHOLDS) as u8)
        };
        let mut columns = 0;
        for node in trees.iter().flat_map(|tree| &tree.nodes) {
            searches[find(node).0].column_of(node.missing_left).get_or_insert_with(|| {
                columns += 1;
                columns - 1
            });
        }
        if columns > usize::from(u16::MAX) {
            return None;
        }
        let place = |node: &Node| {
            let (search, code) = find(node);
            (searches[search].columns[usize::from(!node.missing_left)].unwrap_or(0), code)
        };
        let row = if level == Level::Avx512 { Row::new(trees, &searches, columns, &place) } else { None };
        let batch = Batch::new(trees, &place);
        Some(Plan { level, row, batch, columns, searches })
    }

    /// The row's margin, if there is a faster way to it than a walk.
    pub fn margin(&self, base: f64, row: &[f64]) -> Option<f64> {
        self.row.as_ref().map(|plan| plan.margin(&self.searches, base, row))
    }

    /// The margins of some rows, in their order.
    pub fn margins(&self, base: f64, matrix: &Matrix, rows: Range<usize>, out: &mut Vec<f64>) {
        match &self.row {
            Some(plan) if rows.len() <= FEW_ROWS => {
                let mut row = Vec::new();
                out.extend(rows.map(|r| {
                    matrix.row(r, &mut row);
                    plan.margin(&self.searches, base, &row)
                }));
            }
            _ => {
                let wanted = Wanted { searches: &self.searches, columns: self.columns, base, matrix };
                self.batch.margins(self.level, &wanted, rows, out);
            }
        }
    }
}

#[cfg(test)]
mod tests;
