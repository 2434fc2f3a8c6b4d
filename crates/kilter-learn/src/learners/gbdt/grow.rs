//! Grows one tree: best leaf first, or as [`levels`](super::levels) does.
//!
//! The rows of a leaf lie together in one list; a split parts its stretch in place and keeps the order of rows, so a leaf's rows are always
//! in row order. Only the smaller child's histogram is summed; the larger one's is the difference. Freed histograms are used again.

use super::binned::{Column, Cuts};
use super::by_row::ByRow;
use super::groups;
use super::histogram::{Entry, Fields, Histogram, Shape, Sums};
use super::order::Order;
use super::partition::partition;
use super::split::{self, Bounds, Place, Rules, Split, UNBOUNDED};
use super::summing::Builder;
use super::tree::{Child, Node, Tree};
use super::{Gbdt, Growth};

/// Depth no tree exceeds, whatever the parameters: bounds the work of explaining.
pub(crate) const MAX_DEPTH: usize = 128;

/// A grown tree whose leaves have no values yet, and where each leaf's rows lie in the list of entries.
pub(super) struct Grown<'a> {
    pub tree: Tree,
    /// The bin that stands for each node's threshold.
    pub bins: Vec<u8>,
    pub leaves: Vec<GrownLeaf>,
    /// Which leaves must not be worth more than which others, where the bounds of leaves do not say it.
    pub order: Option<Order<'a>>,
}

pub(super) struct GrownLeaf {
    pub start: usize,
    pub total: Sums,
    pub bounds: Bounds,
}

pub(super) struct Grower<'a> {
    pub builder: Builder<'a>,
    free: Vec<Histogram>,
    spare: Vec<Entry>,
    growth: Growth,
    pub(super) max_leaves: usize,
    pub(super) max_depth: usize,
}

pub(super) struct Leaf {
    pub number: usize,
    pub start: usize,
    pub total: Sums,
    depth: usize,
    pub bounds: Bounds,
    parent: Option<(usize, Side)>,
    /// The groups whose columns may split it, where there are groups.
    groups: groups::Open,
    /// Kept only while the leaf may still be split.
    open: Option<(Split, Histogram)>,
}

/// A tree in the making.
pub(super) struct Growing<'r, 'b> {
    tree: Tree,
    bins: Vec<u8>,
    pub order: Option<Order<'r>>,
    pub leaves: Vec<Leaf>,
    by_column: &'b [Column<'b>],
}

impl Leaf {
    fn rows<'e>(&self, entries: &'e [Entry]) -> &'e [Entry] {
        &entries[self.start..][..self.total.count as usize]
    }
}

#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

impl<'a> Grower<'a> {
    pub fn new(by_row: &'a ByRow<'a>, cuts: &[Cuts], fields: Fields, rows: usize, parameters: &Gbdt) -> Self {
        let shape = Shape::new(by_row, (0..cuts.len()).collect(), cuts.len(), |column| cuts[column].last_bin());
        let builder = Builder::new(by_row, shape, fields, rows);
        let max_depth = parameters.max_depth.unwrap_or(MAX_DEPTH).min(MAX_DEPTH);
        let spare = vec![Entry::default(); rows];
        Grower { builder, free: Vec::new(), spare, growth: parameters.growth, max_leaves: parameters.leaves, max_depth }
    }

    /// Looks at these columns only, which go upwards.
    pub fn set_columns(&mut self, columns: Vec<usize>, cuts: &[Cuts]) {
        if columns != self.builder.shape.columns {
            self.builder.shape = Shape::new(self.builder.by_row, columns, cuts.len(), |column| cuts[column].last_bin());
        }
    }

    pub fn grow<'r>(&mut self, entries: &mut [Entry], by_column: &[Column<'_>], rules: &Rules<'r>) -> Grown<'r> {
        let mut growing = Growing { tree: Tree::default(), bins: Vec::new(), order: rules.order(), leaves: Vec::new(), by_column };
        match self.growth {
            Growth::LeafWise => self.grow_leaves(&mut growing, entries, rules),
            Growth::Oblivious => self.grow_levels(&mut growing, entries, rules),
        }
        let Growing { mut tree, bins, order, mut leaves, .. } = growing;
        for (index, leaf) in leaves.iter_mut().enumerate() {
            link(&mut tree, leaf.parent, Child::Leaf(index));
            tree.leaves.push(0.0);
            tree.leaf_rows.push(leaf.total.count as u32);
            self.free.extend(leaf.open.take().map(|(_, histogram)| histogram));
        }
        // Leaves in order are held to it when all have their values.
        let bounds = |leaf: &Leaf| if order.is_some() { UNBOUNDED } else { leaf.bounds };
        let leaves = leaves.iter().map(|leaf| GrownLeaf { start: leaf.start, total: leaf.total, bounds: bounds(leaf) }).collect();
        Grown { tree, bins, leaves, order }
    }

    fn grow_leaves(&mut self, growing: &mut Growing<'_, '_>, entries: &mut [Entry], rules: &Rules<'_>) {
        let (mut root, histogram) = self.root(entries);
        root.groups = rules.interactions.map_or(Vec::new(), |interactions| interactions.all());
        root.bounds = growing.order.as_mut().map_or(UNBOUNDED, |order| order.look(0));
        let split = find(rules, &histogram, &self.builder, &root, growing.order.as_ref());
        self.keep(&mut root, split, histogram);
        growing.leaves.push(root);
        while growing.leaves.len() < self.max_leaves {
            let Some((index, split, histogram)) = self.take_best(growing, rules) else { break };
            self.split(growing, entries, index, &split, rules);
            let Growing { leaves, order, .. } = &mut *growing;
            if leaves.len() < self.max_leaves
                && leaves[index].depth < self.max_depth
                && let Some((right, others)) = leaves.split_last_mut()
            {
                self.open_children(entries, rules, histogram, &mut others[index], right, order.as_ref());
            } else {
                self.give_back(histogram);
            }
        }
    }

    /// The whole tree as one leaf, and its histogram.
    pub fn root(&mut self, entries: &[Entry]) -> (Leaf, Histogram) {
        let mut histogram = self.take();
        self.builder.build(entries, &mut histogram);
        let total = histogram.total(&self.builder.fields, &self.builder.shape);
        (Leaf { number: 0, start: 0, total, depth: 0, bounds: UNBOUNDED, parent: None, groups: Vec::new(), open: None }, histogram)
    }

    /// Makes a node of a leaf: its left side takes the leaf's number, the right one is a new leaf.
    pub fn split(&mut self, growing: &mut Growing<'_, '_>, entries: &mut [Entry], number: usize, split: &Split, rules: &Rules<'_>) {
        let Growing { tree, bins, order, leaves, by_column } = growing;
        let parent = &leaves[number];
        let (node, rows) = (tree.nodes.len(), parent.total.count as u32);
        let split_node = match split.set {
            Some(set) => tree.node_of_set(split.column, set, split.gain, rows),
            None => Node::new(split.column, rules.cuts[split.column].upper(split.bin), split.missing_left, split.gain, rows),
        };
        tree.nodes.push(split_node);
        bins.push(split.bin);
        link(tree, parent.parent, Child::Node(node));
        let stretch = &mut entries[parent.start..][..rows as usize];
        let left_rows = partition(stretch, &mut self.spare, &by_column[split.column], split);
        debug_assert_eq!(left_rows as u64, split.left.count);
        let groups = rules.interactions.map_or(Vec::new(), |interactions| interactions.below(&parent.groups, split.column));
        let (start, depth, new) = (parent.start, parent.depth + 1, leaves.len());
        let child = |number, start, total, bounds, side| {
            let groups = groups.clone();
            Leaf { number, start, total, depth, bounds, parent: Some((node, side)), groups, open: None }
        };
        let mut left = child(number, start, split.left, split.left_bounds, Side::Left);
        let mut right = child(new, start + left_rows, split.right, split.right_bounds, Side::Right);
        if let Some(order) = order {
            order.split(number, split);
            (left.bounds, right.bounds) = (order.look(number), order.look(new));
        }
        leaves[number] = left;
        leaves.push(right);
    }

    /// Finds how both children of a split would be split themselves. `histogram` is the parent's.
    fn open_children(
        &mut self,
        entries: &[Entry],
        rules: &Rules<'_>,
        histogram: Histogram,
        left: &mut Leaf,
        right: &mut Leaf,
        order: Option<&Order<'_>>,
    ) {
        let histograms = self.histograms_below(entries, rules, histogram, left, right);
        let builder = &self.builder;
        let find = |leaf: &Leaf, histogram: &Option<Histogram>| {
            histogram.as_ref().and_then(|histogram| find(rules, histogram, builder, leaf, order))
        };
        let (find_left, find_right) = (|| find(&*left, &histograms[0]), || find(&*right, &histograms[1]));
        let both = histograms.iter().all(Option::is_some);
        let splits = if both && builder.scans_pay_threads() { rayon::join(find_left, find_right) } else { (find_left(), find_right()) };
        for ((leaf, split), histogram) in [(left, splits.0), (right, splits.1)].into_iter().zip(histograms) {
            if let Some(histogram) = histogram {
                self.keep(leaf, split, histogram);
            }
        }
    }

    /// Histograms of the children of a split, of those that have rows enough to be split. `histogram` is the parent's.
    pub fn histograms_below(
        &mut self,
        entries: &[Entry],
        rules: &Rules<'_>,
        mut histogram: Histogram,
        left: &Leaf,
        right: &Leaf,
    ) -> [Option<Histogram>; 2] {
        let divisible = |leaf: &Leaf| leaf.total.count >= 2 * rules.min_rows;
        let left_is_small = left.total.count <= right.total.count;
        let (small, large) = if left_is_small { (left, right) } else { (right, left) };
        if !divisible(large) {
            self.give_back(histogram);
            return [None, None];
        }
        let mut of_small = None;
        if !divisible(small) && !histogram.wide {
            self.builder.subtract_rows(&mut histogram, small.rows(entries));
        } else {
            let mut own = self.take();
            self.builder.build(small.rows(entries), &mut own);
            self.builder.subtract(&mut histogram, &own, large.total.count as usize);
            if divisible(small) { of_small = Some(own) } else { self.free.push(own) }
        }
        if left_is_small { [of_small, Some(histogram)] } else { [Some(histogram), of_small] }
    }

    /// The leaf to split next. One whose order with others has changed is looked at again first: bounds seldom widen, and what narrows them lowers gains.
    fn take_best(&mut self, growing: &mut Growing<'_, '_>, rules: &Rules<'_>) -> Option<(usize, Split, Histogram)> {
        loop {
            let index = best_of(&growing.leaves)?;
            let leaf = &mut growing.leaves[index];
            let (split, histogram) = leaf.open.take()?;
            let Some(order) = growing.order.as_mut().filter(|order| order.has_changed(index)) else {
                return Some((index, split, histogram));
            };
            leaf.bounds = order.look(index);
            let split = find(rules, &histogram, &self.builder, leaf, Some(&*order));
            self.keep(leaf, split, histogram);
        }
    }

    fn take(&mut self) -> Histogram {
        self.free.pop().unwrap_or_else(|| self.builder.empty())
    }

    /// For a histogram that is needed no more.
    pub fn give_back(&mut self, histogram: Histogram) {
        self.free.push(histogram);
    }

    fn keep(&mut self, leaf: &mut Leaf, split: Option<Split>, histogram: Histogram) {
        match split {
            Some(split) => leaf.open = Some((split, histogram)),
            None => self.give_back(histogram),
        }
    }
}

/// The best split of a leaf, on the columns that may split it.
fn find(rules: &Rules<'_>, histogram: &Histogram, builder: &Builder<'_>, leaf: &Leaf, order: Option<&Order<'_>>) -> Option<Split> {
    let barred = rules.interactions.map_or(Vec::new(), |interactions| interactions.barred(&leaf.groups, rules.cuts.len()));
    let order = order.map(|order| (order, leaf.number));
    split::best(rules, histogram, &builder.shape, &Place { total: &leaf.total, bounds: leaf.bounds, barred: &barred, order })
}

/// The leaf whose split gains most, the earlier one of equals.
fn best_of(leaves: &[Leaf]) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (index, leaf) in leaves.iter().enumerate() {
        if let Some((split, _)) = &leaf.open
            && best.is_none_or(|(_, gain)| split.gain > gain)
        {
            best = Some((index, split.gain));
        }
    }
    best.map(|(index, _)| index)
}

fn link(tree: &mut Tree, parent: Option<(usize, Side)>, child: Child) {
    match parent {
        Some((node, Side::Left)) => tree.nodes[node].set_left(child),
        Some((node, Side::Right)) => tree.nodes[node].set_right(child),
        None => {}
    }
}
