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
//! (Quadrature TreeSHAP, 2026). Going down a tree each edge multiplies the factors at every point; going up it collects v times the
//! products. Per edge, what depends on the row is only whether its feature has agreed before it and still agrees after it: three cases,
//! whose factors are computed once for the model.

use std::cell::RefCell;

use super::tree::{Child, Node, Tree};

/// What an explanation asks of a tree, of Kilter's own and of those from elsewhere.
pub(crate) trait Explained {
    type Test: Test;

    /// One test for each node.
    fn tests(&self) -> Vec<Self::Test>;
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
    most_edges: usize,
}

#[derive(Debug)]
struct TreeTable<T> {
    tests: Vec<T>,
    edges: Vec<Edge>,
    /// Quadrature points of this tree: 4, 8, 16, 32 or 64.
    points: usize,
    /// For each edge and case, `points` factors followed by `points` slopes.
    factors: Vec<f64>,
}

#[derive(Debug)]
pub(crate) struct SplitTest {
    column: u32,
    missing_left: bool,
    threshold: f64,
}

impl Test for SplitTest {
    #[inline(always)]
    fn goes_left(&self, row: &[f64]) -> bool {
        let value = row[self.column as usize];
        (value <= self.threshold) | (value.is_nan() & self.missing_left)
    }
}

impl Explained for Tree {
    type Test = SplitTest;

    fn tests(&self) -> Vec<SplitTest> {
        let test = |node: &Node| SplitTest { column: node.column, missing_left: node.missing_left, threshold: node.threshold };
        self.nodes.iter().map(test).collect()
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

/// The way from a node to one of its children, in pre-order.
#[derive(Debug)]
struct Edge {
    split: u32,
    /// Taken by rows that go left.
    left: bool,
    column: u32,
    /// Edge above, counted from 1; 0 at the root.
    parent: u32,
    /// Nearest edge above on the same column, counted from 1; 0 if there is none.
    same_column: u32,
    /// Value of the leaf at the end; 0 for an inner edge.
    leaf: f64,
}

/// How the row has agreed with a path on an edge's column: before it and after it.
const CASES: [(f64, f64); 3] = [(1.0, 1.0), (1.0, 0.0), (0.0, 0.0)];

/// Lanes in which a column's value is collected; the number of points is a multiple of it.
const LANES: usize = 4;

#[derive(Default)]
struct Scratch {
    went_left: Vec<bool>,
    agrees: Vec<bool>,
    cases: Vec<u8>,
    products: Vec<f64>,
    below: Vec<f64>,
    collected: Vec<[f64; LANES]>,
}

thread_local! {
    // Scratch space of the calling thread, so that explaining allocates nothing after the first row.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<T: Test> Explainer<T> {
    pub fn new<E: Explained<Test = T>>(trees: &[E]) -> Self {
        let tables: Vec<TreeTable<T>> = trees.iter().filter(|tree| tree.leaves().len() > 1).map(TreeTable::new).collect();
        let base = trees.iter().map(mean).sum();
        let most_edges = tables.iter().map(|table| table.edges.len()).max().unwrap_or(0);
        Explainer { base, trees: tables, most_edges }
    }

    /// Fills one value a column and returns the forest's mean: their sum is the forest's output for the row.
    pub fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.fit(self.most_edges, self.trees.iter().map(|tree| tree.points).max().unwrap_or(LANES), row.len());
            for tree in &self.trees {
                tree.collect(row, scratch);
            }
            contributions.clear();
            contributions.extend(scratch.collected.iter().map(|lanes| (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])));
        });
        self.base
    }
}

impl Scratch {
    fn fit(&mut self, edges: usize, points: usize, columns: usize) {
        let grow = |numbers: &mut Vec<f64>| numbers.resize(numbers.len().max((edges + 1) * points), 0.0);
        grow(&mut self.products);
        grow(&mut self.below);
        self.went_left.resize(self.went_left.len().max(edges), false);
        self.agrees.resize(self.agrees.len().max(edges + 1), false);
        self.cases.resize(self.cases.len().max(edges), 0);
        self.collected.clear();
        self.collected.resize(columns, [0.0; LANES]);
    }
}

/// Mean of the tree's leaf values over its training rows.
fn mean(tree: &impl Explained) -> f64 {
    let total = tree.cover(tree.root());
    tree.leaves().iter().enumerate().map(|(leaf, value)| value * (tree.cover(Child::Leaf(leaf)) / total)).sum()
}

impl<T: Test> TreeTable<T> {
    fn new<E: Explained<Test = T>>(tree: &E) -> Self {
        let mut table = TreeTable { tests: tree.tests(), edges: Vec::new(), points: 0, factors: Vec::new() };
        let mut shares = Vec::new();
        let mut distinct = 1;
        table.add_edges(tree, 0, &mut Vec::new(), &mut shares, &mut distinct);
        table.points = [4, 8, 16, 32].into_iter().find(|points| 2 * points >= distinct).unwrap_or(64);
        let (at, weights) = gauss_legendre(table.points);
        for (edge, &share) in table.edges.iter().zip(&shares) {
            let above = edge.same_column.checked_sub(1).map_or(1.0, |above| shares[above as usize]);
            for (before, after) in CASES {
                // The factor of the column with the edge's splits known or not, and without this edge.
                let factor = |agrees: f64, share: f64, p: f64| p * agrees + (1.0 - p) * share;
                table.factors.extend(at.iter().map(|&p| factor(after, share, p) / factor(before, above, p)));
                let slope = |agrees: f64, share: f64, p: f64| (agrees - share) / factor(agrees, share, p);
                table.factors.extend(at.iter().zip(&weights).map(|(&p, w)| w * (slope(after, share, p) - slope(before, above, p))));
            }
        }
        table
    }

    /// Lists the edges below a node and, for each, the product of the row shares on its column so far.
    fn add_edges(&mut self, tree: &impl Explained, node: usize, path: &mut Vec<u32>, shares: &mut Vec<f64>, distinct: &mut usize) {
        let (column, rows) = (tree.column(node), tree.cover(Child::Node(node)));
        let above = path.iter().rev().find(|&&edge| self.edges[edge as usize].column == column).copied();
        let (parent, same_column) = (path.last().map_or(0, |edge| edge + 1), above.map_or(0, |edge| edge + 1));
        let [left, right] = tree.children(node);
        for (left, child) in [(true, left), (false, right)] {
            let share = tree.cover(child) / rows * above.map_or(1.0, |edge| shares[edge as usize]);
            let leaf = if let Child::Leaf(leaf) = child { tree.leaves()[leaf] } else { 0.0 };
            let edge = self.edges.len() as u32;
            self.edges.push(Edge { split: node as u32, left, column, parent, same_column, leaf });
            shares.push(share);
            path.push(edge);
            match child {
                Child::Node(child) => self.add_edges(tree, child, path, shares, distinct),
                Child::Leaf(_) => {
                    let mut columns: Vec<u32> = path.iter().map(|&edge| self.edges[edge as usize].column).collect();
                    columns.sort_unstable();
                    columns.dedup();
                    *distinct = columns.len().max(*distinct);
                }
            }
            path.pop();
        }
    }

    fn collect(&self, row: &[f64], scratch: &mut Scratch) {
        for (left, test) in scratch.went_left.iter_mut().zip(&self.tests) {
            *left = test.goes_left(row);
        }
        match self.points {
            4 => self.walk::<4>(scratch),
            8 => self.walk::<8>(scratch),
            16 => self.walk::<16>(scratch),
            32 => self.walk::<32>(scratch),
            _ => self.walk::<64>(scratch),
        }
    }

    fn walk<const POINTS: usize>(&self, scratch: &mut Scratch) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has just been asked.
            return unsafe { self.walk_avx2::<POINTS>(scratch) };
        }
        self.walk_anywhere::<POINTS>(scratch);
    }

    /// The same operations in wider registers; without fused multiply-add, so the bits are the same too.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn walk_avx2<const POINTS: usize>(&self, scratch: &mut Scratch) {
        self.walk_anywhere::<POINTS>(scratch);
    }

    // Plain loops over arrays of fixed size: iterator adapters are not always inlined across codegen units, and here they would cost
    // tenfold.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn walk_anywhere<const POINTS: usize>(&self, scratch: &mut Scratch) {
        let (products, _) = scratch.products.as_chunks_mut::<POINTS>();
        let (below, _) = scratch.below.as_chunks_mut::<POINTS>();
        let (factors, _) = self.factors.as_chunks::<POINTS>();
        let (agrees, cases) = (&mut scratch.agrees, &mut scratch.cases);
        products[0] = [1.0; POINTS];
        agrees[0] = true;
        for i in 0..self.edges.len() {
            let edge = &self.edges[i];
            let before = agrees[edge.same_column as usize];
            let after = before & (scratch.went_left[edge.split as usize] == edge.left);
            agrees[i + 1] = after;
            let case = 2 - before as u8 - after as u8;
            cases[i] = case;
            let factor = &factors[2 * (3 * i + case as usize)];
            let mut product = products[edge.parent as usize];
            for p in 0..POINTS {
                product[p] *= factor[p];
            }
            products[i + 1] = product;
            for p in 0..POINTS {
                product[p] *= edge.leaf;
            }
            below[i + 1] = product;
        }
        for i in (0..self.edges.len()).rev() {
            let edge = &self.edges[i];
            let slope = &factors[2 * (3 * i + cases[i] as usize) + 1];
            let value = below[i + 1];
            let parent = &mut below[edge.parent as usize];
            for p in 0..POINTS {
                parent[p] += value[p];
            }
            let collected = &mut scratch.collected[edge.column as usize];
            let mut sums = *collected;
            for p in 0..POINTS {
                sums[p % LANES] += value[p] * slope[p];
            }
            *collected = sums;
        }
    }
}

/// Points and weights of Gauss-Legendre quadrature on 0..1, by Newton's method on the Legendre polynomial.
fn gauss_legendre(points: usize) -> (Vec<f64>, Vec<f64>) {
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
mod tests {
    use super::*;
    use crate::learners::gbdt::tree::Node;
    use kilter_stats::Rng;

    /// The definition: the tree's mean output when only the features of a coalition are known.
    fn worth(tree: &Tree, row: &[f64], known: u32, at: Child) -> f64 {
        match at {
            Child::Leaf(leaf) => tree.leaves[leaf],
            Child::Node(index) => {
                let node = &tree.nodes[index];
                let (left, right) = (node.left(), node.right());
                if known >> node.column & 1 == 1 {
                    worth(tree, row, known, if node.goes_left(row[node.column as usize]) { left } else { right })
                } else {
                    let share = tree.rows(left) / f64::from(node.rows);
                    share * worth(tree, row, known, left) + (1.0 - share) * worth(tree, row, known, right)
                }
            }
        }
    }

    /// Shapley values by enumeration of all coalitions.
    fn shapley(tree: &Tree, row: &[f64]) -> Vec<f64> {
        let n = row.len();
        let factorial = |k: usize| (1..=k).map(|i| i as f64).product::<f64>();
        (0..n)
            .map(|feature| {
                let coalitions = (0..1u32 << n).filter(|known| known >> feature & 1 == 0);
                coalitions
                    .map(|known| {
                        let size = known.count_ones() as usize;
                        let weight = factorial(size) * factorial(n - size - 1) / factorial(n);
                        weight * (worth(tree, row, known | 1 << feature, tree.root()) - worth(tree, row, known, tree.root()))
                    })
                    .sum()
            })
            .collect()
    }

    /// A random tree; `chain` makes every split hang on the one before.
    fn random_tree(rng: &mut Rng, columns: usize, nodes: usize, chain: bool) -> Tree {
        let mut tree = Tree::default();
        tree.leaves.push(rng.normal());
        tree.leaf_rows.push(1 << 20);
        let mut parents: Vec<Option<(usize, bool)>> = vec![None];
        for node in 0..nodes {
            let leaf = if chain { tree.leaves.len() - 1 } else { rng.below(tree.leaves.len() as u64) as usize };
            let rows = tree.leaf_rows[leaf];
            if rows < 2 {
                continue;
            }
            let node = node.min(tree.nodes.len());
            let left_rows = if chain { 1 } else { 1 + rng.below(u64::from(rows) - 1) as u32 };
            let column = if chain { node % columns } else { rng.below(columns as u64) as usize };
            let mut split = Node::new(column, rng.normal(), rng.bernoulli(0.5), 1.0, rows);
            split.set_left(Child::Leaf(leaf));
            split.set_right(Child::Leaf(tree.leaves.len()));
            if let Some((parent, left)) = parents[leaf] {
                let parent = &mut tree.nodes[parent];
                if left { parent.set_left(Child::Node(node)) } else { parent.set_right(Child::Node(node)) }
            }
            tree.nodes.push(split);
            tree.leaf_rows[leaf] = left_rows;
            tree.leaf_rows.push(rows - left_rows);
            tree.leaves.push(rng.normal());
            parents[leaf] = Some((node, true));
            parents.push(Some((node, false)));
        }
        tree
    }

    fn output(tree: &Tree, row: &[f64]) -> f64 {
        worth(tree, row, u32::MAX, tree.root())
    }

    fn random_row(rng: &mut Rng, columns: usize) -> Vec<f64> {
        (0..columns).map(|_| if rng.bernoulli(0.2) { f64::NAN } else { rng.normal() }).collect()
    }

    #[test]
    fn equals_the_definition_on_random_trees_with_missing_values_and_repeated_columns() {
        let mut rng = Rng::seeded(1);
        for round in 0..120 {
            let (columns, nodes) = (1 + round % 9, 1 + round % 31);
            let trees: Vec<Tree> = (0..3).map(|_| random_tree(&mut rng, columns, nodes, round % 4 == 0)).collect();
            let explainer = Explainer::new(&trees);
            let row = random_row(&mut rng, columns);
            let mut found = Vec::new();
            let base = explainer.explain(&row, &mut found);
            for (column, found) in found.iter().enumerate() {
                let expected: f64 = trees.iter().map(|tree| shapley(tree, &row)[column]).sum();
                assert!((found - expected).abs() < 1e-9, "column {column} of {columns}: {found} instead of {expected}");
            }
            let expected: f64 = trees.iter().map(|tree| worth(tree, &row, 0, tree.root())).sum();
            assert!((base - expected).abs() < 1e-9);
        }
    }

    #[test]
    fn wide_registers_give_the_same_bits() {
        let mut rng = Rng::seeded(6);
        for columns in [3, 12, 40] {
            let table = TreeTable::new(&random_tree(&mut rng, columns, 40, columns == 40));
            let mut scratch = Scratch::default();
            scratch.fit(table.edges.len(), table.points, columns);
            table.collect(&random_row(&mut rng, columns), &mut scratch);
            let dispatched = std::mem::replace(&mut scratch.collected, vec![[0.0; LANES]; columns]);
            match table.points {
                4 => table.walk_anywhere::<4>(&mut scratch),
                8 => table.walk_anywhere::<8>(&mut scratch),
                _ => table.walk_anywhere::<32>(&mut scratch),
            }
            assert!([4, 8, 32].contains(&table.points));
            assert_eq!(format!("{dispatched:?}"), format!("{:?}", scratch.collected));
        }
    }

    #[test]
    fn one_split_by_hand() {
        // 3 of 4 rows go left: the mean is 0.75 * 1 + 0.25 * 5 = 2.
        let mut node = Node::new(0, 0.0, false, 1.0, 4);
        node.set_left(Child::Leaf(0));
        node.set_right(Child::Leaf(1));
        let tree = Tree { nodes: vec![node], leaves: vec![1.0, 5.0], leaf_rows: vec![3, 1] };
        let explainer = Explainer::new(&[tree]);
        for (value, expected) in [(-1.0, -1.0), (0.0, -1.0), (1.0, 3.0), (f64::NAN, 3.0)] {
            let mut found = Vec::new();
            assert!((explainer.explain(&[value, 9.0], &mut found) - 2.0).abs() < 1e-12);
            assert!((found[0] - expected).abs() < 1e-12 && found[1] == 0.0);
        }
    }

    #[test]
    fn paths_of_many_distinct_columns_stay_exact() {
        // 8, 9, 16, 17, 32, 33, 64, 65 and 120 distinct columns on one path use 4 to 64 points.
        let mut rng = Rng::seeded(3);
        for columns in [8, 9, 16, 17, 32, 33, 64, 65, 120] {
            let mut tree = random_tree(&mut rng, columns, columns, true);
            // Gentle shares, so that the end of a long path still matters.
            for (i, rows) in tree.leaf_rows.iter_mut().enumerate() {
                *rows = 1 + (i % 3) as u32;
            }
            for index in (0..tree.nodes.len()).rev() {
                tree.nodes[index].rows = (tree.rows(tree.nodes[index].left()) + tree.rows(tree.nodes[index].right())) as u32;
            }
            let explainer = Explainer::new(std::slice::from_ref(&tree));
            let row: Vec<f64> = tree.nodes.iter().map(|node| node.threshold + 1.0).collect();
            let mut found = Vec::new();
            let base = explainer.explain(&row[..columns], &mut found);
            let sum = base + found.iter().sum::<f64>();
            let reached = tree.leaves[tree.leaves.len() - 1];
            assert!((sum - reached).abs() < 1e-9, "{columns} columns: {sum} instead of {reached}");
        }
        let (at, weights) = gauss_legendre(64);
        let moment: f64 = at.iter().zip(&weights).map(|(p, w)| w * libm::pow(*p, 127.0)).sum();
        assert!((moment - 1.0 / 128.0).abs() < 1e-14);
    }

    #[test]
    fn contributions_add_up_on_large_random_forests() {
        let mut rng = Rng::seeded(2);
        for columns in [2, 30, 200] {
            let trees: Vec<Tree> = (0..20).map(|_| random_tree(&mut rng, columns, 60, false)).collect();
            let explainer = Explainer::new(&trees);
            for _ in 0..50 {
                let row = random_row(&mut rng, columns);
                let mut found = Vec::new();
                let sum = explainer.explain(&row, &mut found) + found.iter().sum::<f64>();
                let walked: f64 = trees
                    .iter()
                    .map(|tree| {
                        let mut at = tree.root();
                        loop {
                            match at {
                                Child::Leaf(leaf) => return tree.leaves[leaf],
                                Child::Node(index) => {
                                    let node = &tree.nodes[index];
                                    at = if node.goes_left(row[node.column as usize]) { node.left() } else { node.right() };
                                }
                            }
                        }
                    })
                    .sum();
                assert!((sum - walked).abs() < 1e-9);
                if columns < 32 {
                    assert!((walked - trees.iter().map(|tree| output(tree, &row)).sum::<f64>()).abs() < 1e-9);
                }
            }
        }
    }
}
