//! Grows one tree, best leaf first.
//!
//! The rows of a leaf lie together in one list; a split parts its stretch in place and keeps the order of rows, so a leaf's rows are always
//! in row order. Only the smaller child's histogram is summed; the larger one's is the difference. Freed histograms are used again.

use rayon::prelude::*;

use super::binned::{Binned, MISSING};
use super::histogram::{self, Builder, Entry, Histogram, Sums};
use super::groups;
use super::split::{self, Bounds, Rules, Split, UNBOUNDED};
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

pub(super) struct GrownLeaf {
    pub start: usize,
    pub rows: usize,
    pub bounds: Bounds,
}

pub(super) struct Grower<'a> {
    binned: &'a Binned,
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
    pub fn new(binned: &'a Binned, max_leaves: usize, max_depth: usize) -> Self {
        let builder = Builder::new(binned);
        Grower { binned, builder, free: Vec::new(), spare: vec![Entry::default(); binned.rows], max_leaves, max_depth }
    }

    pub fn set_columns(&mut self, columns: Vec<usize>) {
        self.builder.set_columns(columns);
    }

    pub fn grow(&mut self, entries: &mut [Entry], rules: &Rules<'_>) -> Grown {
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
            let left_rows = partition(stretch, &mut self.spare, &self.binned.by_column[split.column], &split);
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
        let leaves = leaves.iter().map(|leaf| GrownLeaf { start: leaf.start, rows: leaf.total.count as usize, bounds: leaf.bounds });
        Grown { tree, bins, leaves: leaves.collect() }
    }

    fn root(&mut self, entries: &[Entry], rules: &Rules<'_>) -> Leaf {
        let mut histogram = self.take();
        self.builder.build(entries, &mut histogram);
        let total = histogram::total(&histogram[self.builder.columns()[0]]);
        let mut root = Leaf {
            start: 0,
            total,
            depth: 0,
            bounds: UNBOUNDED,
            parent: None,
            groups: rules.interactions.map_or(Vec::new(), |all| all.all()),
            open: None,
        };
        let split = find(rules, &histogram, self.builder.columns(), &root);
        self.keep(&mut root, split, histogram);
        root
    }

    /// Finds how both children of a split would be split themselves. `histogram` is the parent's.
    fn open_children(&mut self, entries: &[Entry], rules: &Rules<'_>, mut histogram: Histogram, left: &mut Leaf, right: &mut Leaf) {
        let divisible = |leaf: &Leaf| leaf.total.count >= 2 * rules.min_rows;
        if !divisible(left) && !divisible(right) {
            return self.free.push(histogram);
        }
        let (small, large) = if left.total.count <= right.total.count { (left, right) } else { (right, left) };
        let mut small_histogram = self.take();
        self.builder.build(&entries[small.start..][..small.total.count as usize], &mut small_histogram);
        let columns = self.builder.columns();
        histogram::subtract(&mut histogram, &small_histogram, columns);
        let best = |leaf: &Leaf, histogram: &Histogram| {
            if divisible(leaf) { find(rules, histogram, columns, leaf) } else { None }
        };
        let (small_split, large_split) = rayon::join(|| best(small, &small_histogram), || best(large, &histogram));
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
fn find(rules: &Rules<'_>, histogram: &Histogram, columns: &[usize], leaf: &Leaf) -> Option<Split> {
    match rules.interactions {
        None => split::best(rules, histogram, columns, &leaf.total, leaf.bounds),
        Some(all) => split::best(rules, histogram, &all.allowed(&leaf.groups, columns), &leaf.total, leaf.bounds),
    }
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

/// Entries that one thread parts at least.
const PART: usize = 32_768;

/// Moves the entries that go left to the front, keeping the order on both sides; returns how many there are.
fn partition(entries: &mut [Entry], spare: &mut [Entry], bins: &[u8], split: &Split) -> usize {
    let spare = &mut spare[..entries.len()];
    if entries.len() < 2 * PART || rayon::current_num_threads() == 1 {
        let left = compact_split(entries, spare, bins, split);
        let right = entries.len() - left;
        entries[left..].copy_from_slice(&spare[..right]);
        return left;
    }
    let lefts: Vec<usize> =
        entries.par_chunks_mut(PART).zip(spare.par_chunks_mut(PART)).map(|(part, spare)| compact_split(part, spare, bins, split)).collect();
    let mut end = 0;
    for (part, &left) in lefts.iter().enumerate() {
        entries.copy_within(part * PART..part * PART + left, end);
        end += left;
    }
    let total = end;
    for ((part, &left), spare) in lefts.iter().enumerate().zip(spare.chunks(PART)) {
        let right = PART.min(entries.len() - part * PART) - left;
        entries[end..end + right].copy_from_slice(&spare[..right]);
        end += right;
    }
    total
}

fn compact_split(entries: &mut [Entry], spare: &mut [Entry], bins: &[u8], split: &Split) -> usize {
    match split.set {
        Some(set) => compact(entries, spare, bins, |bin| set.has(bin)),
        None => compact(entries, spare, bins, |bin| (bin <= split.bin) & (bin != MISSING) | (bin == MISSING) & split.missing_left),
    }
}

/// Moves the entries that go left to the front and copies the others to the front of `spare`.
#[inline(always)]
fn compact(entries: &mut [Entry], spare: &mut [Entry], bins: &[u8], goes_left: impl Fn(u8) -> bool) -> usize {
    let (mut left, mut right) = (0, 0);
    for i in 0..entries.len() {
        let entry = entries[i];
        let goes_left = goes_left(bins[entry.row()]);
        // Writing to both places and advancing one of them needs no branch, which half the rows would mispredict.
        entries[left] = entry;
        spare[right] = entry;
        left += usize::from(goes_left);
        right += usize::from(!goes_left);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilter_stats::Rng;

    #[test]
    fn partitioning_is_stable_whatever_the_threads() {
        let mut rng = Rng::seeded(1);
        let rows = 5 * PART + 17;
        let bins: Vec<u8> = (0..rows).map(|_| rng.below(9) as u8).collect();
        let entries: Vec<Entry> = (0..rows).map(|row| Entry::new(row as u32, 1, 1)).collect();
        for (bin, missing_left) in [(3, false), (3, true), (0, true), (8, false)] {
            let split = Split {
                gain: 1.0,
                column: 0,
                bin,
                missing_left,
                set: None,
                left: Sums::default(),
                right: Sums::default(),
                left_bounds: UNBOUNDED,
                right_bounds: UNBOUNDED,
            };
            let goes_left = |entry: &&Entry| match bins[entry.row()] {
                MISSING => missing_left,
                value => value <= bin,
            };
            let expected: Vec<Entry> =
                entries.iter().filter(goes_left).chain(entries.iter().filter(|entry| !goes_left(entry))).copied().collect();
            for threads in [1, 4] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let (mut moved, mut spare) = (entries.clone(), entries.clone());
                let left = pool.install(|| partition(&mut moved, &mut spare, &bins, &split));
                assert_eq!(left, entries.iter().filter(goes_left).count());
                assert!(moved == expected);
            }
        }
    }
}
