//! Grows one tree, best leaf first.
//!
//! The rows of a leaf lie together in one list; a split parts its stretch in place and keeps the order of rows, so a leaf's rows are always
//! in row order. Only the smaller child's histogram is summed; the larger one's is the difference. Freed histograms are used again.

use super::binned::{Column, Cuts};
use super::by_row::ByRow;
use super::groups;
use super::histogram::{Entry, Fields, Histogram, Shape, Sums};
use super::partition::partition;
use super::split::{self, Bounds, Rules, Split, UNBOUNDED};
use super::summing::Builder;
use super::tree::{Child, Node, Tree};

/// Depth no tree exceeds, whatever the parameters: bounds the work of explaining.
pub(crate) const MAX_DEPTH: usize = 128;

/// A grown tree whose leaves have no values yet, and where each leaf's rows lie in the list of entries.
pub(super) struct Grown {
    pub tree: Tree,
    /// The bin that stands for each node's threshold.
    pub bins: Vec<u8>,
    pub leaves: Vec<GrownLeaf>,
}

impl Grown {
    /// The leaf that a row reaches.
    pub fn leaf_of(&self, by_column: &[Column<'_>], row: usize) -> usize {
        self.tree.leaf_of_bins(&self.bins, |column| by_column[column][row])
    }
}

pub(super) struct GrownLeaf {
    pub start: usize,
    pub total: Sums,
    pub bounds: Bounds,
}

pub(super) struct Grower<'a> {
    builder: Builder<'a>,
    free: Vec<Histogram>,
    spare: Vec<Entry>,
    pub max_leaves: usize,
    pub max_depth: usize,
}

struct Leaf {
    start: usize,
    total: Sums,
    depth: usize,
    bounds: Bounds,
    parent: Option<(usize, Side)>,
    /// The groups whose columns may split it, where there are groups.
    groups: groups::Open,
    /// Kept only while the leaf may still be split.
    open: Option<(Split, Histogram)>,
}

#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

impl<'a> Grower<'a> {
    pub fn new(by_row: &'a ByRow<'a>, cuts: &[Cuts], fields: Fields, rows: usize, max_leaves: usize, max_depth: usize) -> Self {
        let shape = Shape::new(by_row, (0..cuts.len()).collect(), cuts.len(), |column| cuts[column].last_bin());
        let builder = Builder::new(by_row, shape, fields, rows);
        Grower { builder, free: Vec::new(), spare: vec![Entry::default(); rows], max_leaves, max_depth }
    }

    /// Looks at these columns only, which go upwards.
    pub fn set_columns(&mut self, columns: Vec<usize>, cuts: &[Cuts]) {
        if columns != self.builder.shape.columns {
            self.builder.shape = Shape::new(self.builder.by_row, columns, cuts.len(), |column| cuts[column].last_bin());
        }
    }

    pub fn grow(&mut self, entries: &mut [Entry], by_column: &[Column<'_>], rules: &Rules<'_>) -> Grown {
        let mut tree = Tree::default();
        let mut bins = Vec::new();
        let mut leaves = vec![self.root(entries, rules)];
        while leaves.len() < self.max_leaves {
            let Some((index, split, histogram)) = take_best(&mut leaves) else { break };
            let parent = &leaves[index];
            let node = tree.nodes.len();
            let rows = parent.total.count as u32;
            let split_node = match split.set {
                Some(set) => tree.node_of_set(split.column, set, split.gain, rows),
                None => Node::new(split.column, rules.cuts[split.column].upper(split.bin), split.missing_left, split.gain, rows),
            };
            tree.nodes.push(split_node);
            bins.push(split.bin);
            link(&mut tree, parent.parent, Child::Node(node));
            let stretch = &mut entries[parent.start..][..rows as usize];
            let left_rows = partition(stretch, &mut self.spare, &by_column[split.column], &split);
            debug_assert_eq!(left_rows as u64, split.left.count);
            let groups = rules.interactions.map_or(Vec::new(), |interactions| interactions.below(&parent.groups, split.column));
            let child = |start, total, bounds, side| Leaf {
                start,
                total,
                depth: parent.depth + 1,
                bounds,
                parent: Some((node, side)),
                groups: groups.clone(),
                open: None,
            };
            let mut left = child(parent.start, split.left, split.left_bounds, Side::Left);
            let mut right = child(parent.start + left_rows, split.right, split.right_bounds, Side::Right);
            if leaves.len() + 1 < self.max_leaves && parent.depth + 1 < self.max_depth {
                self.open_children(entries, rules, histogram, &mut left, &mut right);
            } else {
                self.free.push(histogram);
            }
            leaves[index] = left;
            leaves.push(right);
        }
        for (index, leaf) in leaves.iter_mut().enumerate() {
            link(&mut tree, leaf.parent, Child::Leaf(index));
            tree.leaves.push(0.0);
            tree.leaf_rows.push(leaf.total.count as u32);
            self.free.extend(leaf.open.take().map(|(_, histogram)| histogram));
        }
        let leaves = leaves.iter().map(|leaf| GrownLeaf { start: leaf.start, total: leaf.total, bounds: leaf.bounds });
        Grown { tree, bins, leaves: leaves.collect() }
    }

    fn root(&mut self, entries: &[Entry], rules: &Rules<'_>) -> Leaf {
        let mut histogram = self.take();
        self.builder.build(entries, &mut histogram);
        let total = histogram.total(&self.builder.fields, &self.builder.shape);
        let groups = rules.interactions.map_or(Vec::new(), |interactions| interactions.all());
        let mut root = Leaf { start: 0, total, depth: 0, bounds: UNBOUNDED, parent: None, groups, open: None };
        let split = find(rules, &histogram, &self.builder, &root);
        self.keep(&mut root, split, histogram);
        root
    }

    /// Finds how both children of a split would be split themselves. `histogram` is the parent's.
    fn open_children(&mut self, entries: &[Entry], rules: &Rules<'_>, mut histogram: Histogram, left: &mut Leaf, right: &mut Leaf) {
        let divisible = |leaf: &Leaf| leaf.total.count >= 2 * rules.min_rows;
        let (small, large) = if left.total.count <= right.total.count { (left, right) } else { (right, left) };
        if !divisible(large) {
            return self.free.push(histogram);
        }
        let own = &entries[small.start..][..small.total.count as usize];
        if !divisible(small) && !histogram.wide {
            self.builder.subtract_rows(&mut histogram, own);
            let split = find(rules, &histogram, &self.builder, large);
            return self.keep(large, split, histogram);
        }
        let mut small_histogram = self.take();
        self.builder.build(own, &mut small_histogram);
        self.builder.subtract(&mut histogram, &small_histogram, large.total.count as usize);
        let builder = &self.builder;
        let find_small = || if divisible(small) { find(rules, &small_histogram, builder, small) } else { None };
        let find_large = || find(rules, &histogram, builder, large);
        let (small_split, large_split) =
            if builder.scans_pay_threads() { rayon::join(find_small, find_large) } else { (find_small(), find_large()) };
        self.keep(small, small_split, small_histogram);
        self.keep(large, large_split, histogram);
    }

    fn take(&mut self) -> Histogram {
        self.free.pop().unwrap_or_else(|| self.builder.empty())
    }

    fn keep(&mut self, leaf: &mut Leaf, split: Option<Split>, histogram: Histogram) {
        match split {
            Some(split) => leaf.open = Some((split, histogram)),
            None => self.free.push(histogram),
        }
    }
}

/// The best split of a leaf, on the columns that may split it.
fn find(rules: &Rules<'_>, histogram: &Histogram, builder: &Builder<'_>, leaf: &Leaf) -> Option<Split> {
    let barred = rules.interactions.map_or(Vec::new(), |interactions| interactions.barred(&leaf.groups, rules.cuts.len()));
    split::best(rules, histogram, &builder.shape, &leaf.total, leaf.bounds, &barred)
}

/// The leaf whose split gains most, the earlier one of equals.
fn take_best(leaves: &mut [Leaf]) -> Option<(usize, Split, Histogram)> {
    let mut best: Option<(usize, f64)> = None;
    for (index, leaf) in leaves.iter().enumerate() {
        if let Some((split, _)) = &leaf.open
            && best.is_none_or(|(_, gain)| split.gain > gain)
        {
            best = Some((index, split.gain));
        }
    }
    let (index, _) = best?;
    let (split, histogram) = leaves[index].open.take()?;
    Some((index, split, histogram))
}

fn link(tree: &mut Tree, parent: Option<(usize, Side)>, child: Child) {
    match parent {
        Some((node, Side::Left)) => tree.nodes[node].set_left(child),
        Some((node, Side::Right)) => tree.nodes[node].set_right(child),
        None => {}
    }
}
