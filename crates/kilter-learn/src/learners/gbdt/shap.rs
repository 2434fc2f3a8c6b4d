//! Exact path-dependent TreeSHAP values in microseconds, by quadrature.
//!
//! The values are those of Lundberg et al. 2018/2020: each feature's Shapley value in the game where a coalition S is worth the tree's mean
//! output when only the features of S are known, and a split on an unknown feature is followed both ways, weighted by training rows.
//!
//! For one leaf of value v that game is v times a product over the distinct features j of its path, of o_j (1 if the row agrees with all of
//! the path's splits on j, else 0) when j is known and of r_j (the product of the row shares along j's splits) when not. Owen's multilinear
//! extension (1972) turns the Shapley value into an integral over one variable:
//!
//! ```text
//! phi_i = v (o_i - r_i) * integral from 0 to 1 of  prod over j != i of (p o_j + (1 - p) r_j)  dp
//! ```
//! The integrand is a polynomial of degree d - 1 for d distinct features, so Gauss-Legendre quadrature with at least d / 2 points is exact
//! (Quadrature TreeSHAP, 2026). What follows is one number a quadrature point, so all of it is arithmetic on short vectors.
//!
//! A split multiplies what comes from above by a factor to its left and one to its right; what its leaves are worth together, seen from the
//! split, is the sum of both sides' factors times what lies below them. How the row stands to a split is one of three cases: it goes left,
//! it goes right, or it has already strayed from the path at a split on the same column, where factors are plain shares. The factors of each
//! case are computed once for the model, leaf values included. See `docs/decisions/0021-explanations-by-split.md`.

use std::cell::RefCell;

use super::categories::BinSet;
use super::tree::{Child, Tree};
use crate::Matrix;

/// What an explanation asks of a tree, of Kilter's own and of those from elsewhere.
pub(crate) trait Explained {
    type Test: Test;

    fn test(&self, node: usize) -> Self::Test;
    fn root(&self) -> Child;
    fn column(&self, node: usize) -> u32;
    fn children(&self, node: usize) -> [Child; 2];
    /// Weight of the training rows that reached a place; above 0.
    fn cover(&self, at: Child) -> f64;
    fn leaves(&self) -> &[f64];
}

/// Where a row goes at a node.
pub(crate) trait Test {
    fn goes_left(&self, row: &[f64]) -> bool;
}

/// All a forest's tables.
#[derive(Debug)]
pub(crate) struct Explainer<T = SplitTest> {
    base: f64,
    trees: Vec<TreeTable<T>>,
    most_splits: usize,
    most_points: usize,
}

#[derive(Debug)]
struct TreeTable<T> {
    /// A split stands before those below it.
    tests: Vec<T>,
    splits: Vec<Split>,
    /// Quadrature points of this tree: 4, 8, 16, 32 or 64.
    points: usize,
    /// One [`Case`] of `points` numbers each for every split and way the row may stand to it.
    cases: Aligned,
}

/// How a row stands to a split.
const LEFT: u8 = 0;
const RIGHT: u8 = 1;
/// At a split above, on the same column, it took the other side.
const STRAYED: u8 = 2;

/// What multiplies the left side, the right side, and each for the contribution of the split's column.
type Case<const POINTS: usize> = [[f64; POINTS]; 4];

/// Splits are counted from 1; 0 stands for what is none.
#[derive(Debug)]
struct Split {
    column: u32,
    parent: u32,
    /// Of the parent.
    side: u8,
    /// The nearest split above on the same column, and the side of it this one is on.
    same_column: u32,
    same_column_side: u8,
    /// The splits on both sides; a leaf is 0, and its value part of the factors.
    below: [u32; 2],
    /// The first of its cases.
    case: u32,
}

#[derive(Debug)]
pub(crate) struct SplitTest {
    column: u32,
    missing_left: bool,
    threshold: f64,
    set: Option<BinSet>,
}

impl Test for SplitTest {
    #[inline(always)]
    fn goes_left(&self, row: &[f64]) -> bool {
        let value = row[self.column as usize];
        if let Some(set) = &self.set {
            return set.holds(value);
        }
        (value <= self.threshold) | (value.is_nan() & self.missing_left)
    }
}

impl Explained for Tree {
    type Test = SplitTest;

    fn test(&self, node: usize) -> SplitTest {
        let node = &self.nodes[node];
        SplitTest { column: node.column, missing_left: node.missing_left, threshold: node.threshold, set: self.set(node).copied() }
    }
    fn root(&self) -> Child {
        Tree::root(self)
    }
    fn column(&self, node: usize) -> u32 {
        self.nodes[node].column
    }
    fn children(&self, node: usize) -> [Child; 2] {
        [self.nodes[node].left(), self.nodes[node].right()]
    }
    fn cover(&self, at: Child) -> f64 {
        self.rows(at)
    }
    fn leaves(&self) -> &[f64] {
        &self.leaves
    }
}

/// Lanes in which a column's contribution is collected; point `p` goes to lane `p % LANES`.
const LANES: usize = 8;

/// Rows explained together, so that a tree's tables are read from memory once for all of them.
const BLOCK: usize = 32;

#[derive(Default)]
struct Scratch {
    /// How the row stands to each split, and where the case for it is.
    stands: Vec<u8>,
    cases: Vec<u32>,
    /// The product of the factors on the way to each split.
    products: Aligned,
    /// What each split's leaves are worth together, seen from it.
    worths: Aligned,
    /// By row and column.
    collected: Vec<Lanes>,
    rows: Vec<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(align(64))]
struct Lanes([f64; LANES]);

impl Lanes {
    fn sum(&self) -> f64 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}

/// Numbers that begin where a line of the processor's cache does: a vector across two lines is read at half the speed.
#[derive(Debug, Default)]
struct Aligned {
    numbers: Vec<f64>,
    start: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let numbers = vec![0.0; length + 7];
        let start = numbers.as_ptr().align_offset(64).min(7);
        Aligned { numbers, start }
    }

    fn grow(&mut self, length: usize) {
        if self.numbers().len() < length {
            *self = Aligned::new(length);
        }
    }

    fn numbers(&self) -> &[f64] {
        &self.numbers[self.start..]
    }

    fn numbers_mut(&mut self) -> &mut [f64] {
        &mut self.numbers[self.start..]
    }
}

thread_local! {
    // Scratch space of the calling thread, so that explaining allocates nothing after the first row.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<T: Test> Explainer<T> {
    pub fn new<E: Explained<Test = T>>(trees: &[E]) -> Self {
        let tables: Vec<TreeTable<T>> = trees.iter().filter(|tree| tree.leaves().len() > 1).map(TreeTable::new).collect();
        let base = trees.iter().map(mean).sum();
        let most_splits = tables.iter().map(|table| table.splits.len()).max().unwrap_or(0);
        let most_points = tables.iter().map(|table| table.points).max().unwrap_or(0);
        Explainer { base, trees: tables, most_splits, most_points }
    }

    /// Fills one value a column and returns the forest's mean: their sum is the forest's output for the row.
    pub fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        contributions.clear();
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.fit(self, row.len());
            self.collect(row, row.len(), scratch);
            contributions.extend(scratch.collected.iter().map(Lanes::sum));
        });
        self.base
    }

    /// The forest's mean.
    pub fn base(&self) -> f64 {
        self.base
    }

    /// Tells the contributions of each row, in order: the bits of [`explain`](Self::explain).
    pub fn explain_rows(&self, matrix: &Matrix, mut tell: impl FnMut(&mut dyn Iterator<Item = f64>)) {
        let columns = matrix.columns();
        SCRATCH.with_borrow_mut(|scratch| {
            let mut block = std::mem::take(&mut scratch.rows);
            for start in (0..matrix.rows()).step_by(BLOCK) {
                let rows = start..matrix.rows().min(start + BLOCK);
                block.clear();
                block.extend(rows.flat_map(|row| (0..columns).map(move |column| matrix.value(row, column))));
                scratch.fit(self, block.len());
                self.collect(&block, columns, scratch);
                scratch.collected.chunks_exact(columns).for_each(|row| tell(&mut row.iter().map(Lanes::sum)));
            }
            scratch.rows = block;
        });
    }

    /// Adds up the contributions of some rows, which lie one after the other.
    fn collect(&self, rows: &[f64], columns: usize, scratch: &mut Scratch) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512vl") && has!("avx512dq") {
                // SAFETY: the processor has just been asked.
                return unsafe { self.collect_avx512(rows, columns, scratch) };
            }
            if has!("avx2") {
                // SAFETY: the processor has just been asked.
                return unsafe { self.collect_avx2(rows, columns, scratch) };
            }
        }
        self.collect_anywhere(rows, columns, scratch);
    }

    /// The same operations in wider registers; without fused multiply-add, so the bits are the same too.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512dq")]
    fn collect_avx512(&self, rows: &[f64], columns: usize, scratch: &mut Scratch) {
        self.collect_anywhere(rows, columns, scratch);
    }

    /// The same again.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn collect_avx2(&self, rows: &[f64], columns: usize, scratch: &mut Scratch) {
        self.collect_anywhere(rows, columns, scratch);
    }

    /// Each row's sums are those of its trees in order, whatever else is explained beside it.
    #[inline(always)]
    fn collect_anywhere(&self, rows: &[f64], columns: usize, scratch: &mut Scratch) {
        for tree in &self.trees {
            for (index, row) in rows.chunks_exact(columns).enumerate() {
                let first = index * columns;
                tree.stand(row, scratch);
                match tree.points {
                    4 => tree.walk::<4>(first, scratch),
                    8 => tree.walk::<8>(first, scratch),
                    16 => tree.walk::<16>(first, scratch),
                    32 => tree.walk::<32>(first, scratch),
                    _ => tree.walk::<64>(first, scratch),
                }
            }
        }
    }
}

impl Scratch {
    fn fit<T>(&mut self, explainer: &Explainer<T>, sums: usize) {
        let splits = explainer.most_splits + 1;
        self.products.grow(splits * explainer.most_points);
        self.worths.grow(splits * explainer.most_points);
        self.stands.resize(self.stands.len().max(splits), 0);
        self.cases.resize(self.cases.len().max(splits), 0);
        self.collected.clear();
        self.collected.resize(sums, Lanes::default());
    }
}

/// Mean of the tree's leaf values over its training rows.
fn mean(tree: &impl Explained) -> f64 {
    let total = tree.cover(tree.root());
    tree.leaves().iter().enumerate().map(|(leaf, value)| value * (tree.cover(Child::Leaf(leaf)) / total)).sum()
}

/// A split under way: the shares of its column, and where it lies in the tree.
struct Open {
    node: usize,
    /// Product of the row shares of the splits on this column above it.
    share_above: f64,
    /// Columns on the path to it and its own, each once.
    distinct: usize,
}

impl<T: Test> TreeTable<T> {
    fn new<E: Explained<Test = T>>(tree: &E) -> Self {
        let mut table = TreeTable { tests: Vec::new(), splits: Vec::new(), points: 0, cases: Aligned::default() };
        let mut open = Vec::new();
        if let Child::Node(root) = tree.root() {
            table.add(tree, root, &mut Vec::new(), &mut open);
        }
        let distinct = open.iter().map(|open| open.distinct).max().unwrap_or(1);
        table.points = [4, 8, 16, 32].into_iter().find(|points| 2 * points >= distinct).unwrap_or(64);
        table.cases = table.factors(tree, &open);
        table
    }

    /// Lists a split and those below it. The path is made of splits, counted from 1, and the side taken.
    fn add(&mut self, tree: &impl Explained<Test = T>, node: usize, path: &mut Vec<(u32, u8)>, open: &mut Vec<Open>) -> u32 {
        let column = tree.column(node);
        let (parent, side) = path.last().copied().unwrap_or((0, LEFT));
        let on_column = |&(split, _): &(u32, u8)| self.splits[split as usize - 1].column == column;
        let same = path.iter().rev().copied().find(on_column);
        let distinct = path.last().map_or(0, |&(split, _)| open[split as usize - 1].distinct) + usize::from(same.is_none());
        let share_above = same.map_or(1.0, |(split, side)| {
            let Open { node, share_above, .. } = open[split as usize - 1];
            share_above * share(tree, node, side)
        });
        let (same_column, same_column_side) = same.unwrap_or((0, LEFT));
        let case = self.splits.last().map_or(0, |split| split.case + split.cases());
        self.splits.push(Split { column, parent, side, same_column, same_column_side, below: [0; 2], case });
        self.tests.push(tree.test(node));
        open.push(Open { node, share_above, distinct });
        let own = self.splits.len() as u32;
        for (side, child) in [LEFT, RIGHT].into_iter().zip(tree.children(node)) {
            if let Child::Node(child) = child {
                path.push((own, side));
                self.splits[own as usize - 1].below[usize::from(side)] = self.add(tree, child, path, open);
                path.pop();
            }
        }
        own
    }

    fn factors(&self, tree: &impl Explained, open: &[Open]) -> Aligned {
        let (at, weights) = gauss_legendre(self.points);
        let cases = self.splits.last().map_or(0, |split| split.case + split.cases());
        let mut numbers = Aligned::new(cases as usize * 4 * self.points);
        let mut vectors = numbers.numbers_mut().chunks_exact_mut(self.points);
        // The factor of a column at a point, of which the row agrees with the path so far or not.
        let factor = |agrees: f64, share: f64, p: f64| p * agrees + (1.0 - p) * share;
        for (split, &Open { node, share_above: above, .. }) in self.splits.iter().zip(open) {
            for stands in 0..split.cases() as u8 {
                let before = if stands == STRAYED { 0.0 } else { 1.0 };
                let sides = [LEFT, RIGHT].map(|side| {
                    let leaf = match tree.children(node)[usize::from(side)] {
                        Child::Leaf(leaf) => tree.leaves()[leaf],
                        Child::Node(_) => 1.0,
                    };
                    (if stands == side { 1.0 } else { 0.0 }, above * share(tree, node, side), leaf)
                });
                for (after, share, leaf) in sides {
                    let to = vectors.next().into_iter().flatten();
                    to.zip(&at).for_each(|(to, &p)| *to = leaf * (factor(after, share, p) / factor(before, above, p)));
                }
                for (after, share, leaf) in sides {
                    let to = vectors.next().into_iter().flatten();
                    for ((to, &p), weight) in to.zip(&at).zip(&weights) {
                        let (own, old) = (factor(after, share, p), factor(before, above, p));
                        // A column that has strayed before adds nothing: there both shares change alike.
                        let change = if stands == STRAYED { 0.0 } else { (after - share) - (before - above) * (own / old) };
                        *to = leaf * weight * change / old;
                    }
                }
            }
        }
        numbers
    }

    /// Finds how the row stands to each split.
    #[inline(always)]
    fn stand(&self, row: &[f64], scratch: &mut Scratch) {
        let (stands, cases) = (&mut scratch.stands[..self.splits.len() + 1], &mut scratch.cases[..self.splits.len() + 1]);
        stands[0] = LEFT;
        for (index, (split, test)) in self.splits.iter().zip(&self.tests).enumerate() {
            let side = if test.goes_left(row) { LEFT } else { RIGHT };
            let stand = if stands[split.same_column as usize] == split.same_column_side { side } else { STRAYED };
            stands[index + 1] = stand;
            cases[index + 1] = split.case + u32::from(stand);
        }
    }

    // Plain loops over arrays of fixed size: iterator adapters are not always inlined across codegen units, and here they would cost
    // tenfold.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn walk<const POINTS: usize>(&self, first: usize, scratch: &mut Scratch) {
        let count = self.splits.len();
        let tables: &[Case<POINTS>] = self.cases.numbers().as_chunks::<POINTS>().0.as_chunks::<4>().0;
        let products = &mut scratch.products.numbers_mut().as_chunks_mut::<POINTS>().0[..count + 1];
        let worths = &mut scratch.worths.numbers_mut().as_chunks_mut::<POINTS>().0[..count + 1];
        let cases = &scratch.cases[..count + 1];
        let collected = &mut scratch.collected[first..];
        (products[1], worths[0]) = ([1.0; POINTS], [1.0; POINTS]);
        for i in 1..count {
            let split = &self.splits[i];
            let factor = &tables[cases[split.parent as usize] as usize][usize::from(split.side)];
            let above = &products[split.parent as usize];
            let mut product = [0.0; POINTS];
            for p in 0..POINTS {
                product[p] = above[p] * factor[p];
            }
            products[i + 1] = product;
        }
        for i in (0..count).rev() {
            let split = &self.splits[i];
            let [left, right, own_left, own_right] = &tables[cases[i + 1] as usize];
            let [below_left, below_right] = split.below.map(|below| &worths[below as usize]);
            let product = &products[i + 1];
            let sums = &mut collected[split.column as usize].0;
            let (mut worth, mut own) = ([0.0; POINTS], [0.0; POINTS]);
            for p in 0..POINTS {
                worth[p] = left[p] * below_left[p] + right[p] * below_right[p];
                own[p] = product[p] * (own_left[p] * below_left[p] + own_right[p] * below_right[p]);
            }
            for p in 0..POINTS {
                sums[p % LANES] += own[p];
            }
            worths[i + 1] = worth;
        }
    }
}

impl Split {
    /// In how many ways a row can stand to it.
    fn cases(&self) -> u32 {
        if self.same_column == 0 { 2 } else { 3 }
    }
}

/// The part of a node's training rows on a side of it.
fn share(tree: &impl Explained, node: usize, side: u8) -> f64 {
    tree.cover(tree.children(node)[usize::from(side)]) / tree.cover(Child::Node(node))
}

/// Points and weights of Gauss-Legendre quadrature on 0..1, by Newton's method on the Legendre polynomial.
pub(super) fn gauss_legendre(points: usize) -> (Vec<f64>, Vec<f64>) {
    let n = points as f64;
    (0..points)
        .map(|i| {
            let mut x = libm::cos(std::f64::consts::PI * (i as f64 + 0.75) / (n + 0.5));
            let mut slope = 1.0;
            for _ in 0..20 {
                let (mut before, mut value) = (1.0, x);
                for k in 2..=points {
                    let k = k as f64;
                    (before, value) = (value, ((2.0 * k - 1.0) * x * value - (k - 1.0) * before) / k);
                }
                slope = n * (x * value - before) / (x * x - 1.0);
                x -= value / slope;
            }
            (0.5 * (x + 1.0), 1.0 / ((1.0 - x * x) * slope * slope))
        })
        .unzip()
}

#[cfg(test)]
#[path = "shap_tests.rs"]
pub(super) mod tests;
