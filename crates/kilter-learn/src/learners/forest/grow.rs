//! Grows one tree, depth first, as far as its rows can be parted.
//!
//! The rows of a node lie together, in row order; a split parts its stretch in place. Columns are looked at in an order drawn anew for each
//! node, so there is no histogram of a parent to take a child's from: each look sums the node's rows by bin.

use kilter_stats::Rng;

use super::super::ensemble::link;
use super::super::gbdt::binned::{Binned, Cuts, MISSING};
use super::super::gbdt::tree::{Child, Node, Tree};
use super::scan::{self, Cut, LABEL, ROWS, SQUARE, Scan, Sums, WEIGHT, add};

/// What all trees of a forest share.
pub(super) struct Grower<'a> {
    pub cuts: &'a [Cuts],
    pub binned: &'a Binned<'a>,
    /// Less `middle`.
    pub labels: &'a [f64],
    pub weights: &'a [f64],
    /// For thresholds drawn at random: the least value of each column's bins.
    pub least_of_bins: Option<&'a [Vec<f64>]>,
    pub middle: f64,
    pub columns_per_split: usize,
    pub max_depth: usize,
    pub min_leaf_rows: f64,
}

/// A tree, for each of its nodes the bin that stands for the threshold, and which rows it was grown on, a bit each.
pub(super) struct Grown {
    pub tree: Tree,
    pub bins: Vec<u8>,
    seen: Vec<u64>,
}

impl Grown {
    pub fn has_seen(&self, row: usize) -> bool {
        self.seen[row / 64] >> (row % 64) & 1 == 1
    }
}

/// The rows of one tree, in row order, and how often each was drawn.
pub(super) struct Bag {
    rows: Vec<u32>,
    times: Vec<f64>,
}

impl Bag {
    /// Draws with replacement among some of `all` rows; without a number of draws, all of them come once.
    pub fn draw(among: &[u32], draws: Option<usize>, all: usize, rng: &mut Rng) -> Bag {
        let Some(draws) = draws else { return Bag { rows: among.to_vec(), times: vec![1.0; among.len()] } };
        let mut times = vec![0u32; all];
        (0..draws).for_each(|_| times[among[rng.below(among.len() as u64) as usize] as usize] += 1);
        let rows: Vec<u32> = among.iter().copied().filter(|&row| times[row as usize] > 0).collect();
        let times = rows.iter().map(|&row| f64::from(times[row as usize])).collect();
        Bag { rows, times }
    }
}

/// A node still to be looked at.
struct Open {
    start: usize,
    end: usize,
    depth: usize,
    parent: Option<(usize, bool)>,
}

/// What is needed while one tree grows.
struct Work {
    rows: Vec<u32>,
    sums: Vec<Sums>,
    spare_rows: Vec<u32>,
    spare_sums: Vec<Sums>,
    scan: Scan,
    /// Of the rows of a node, in one column.
    bins: Vec<u8>,
    columns: Vec<usize>,
}

impl Grower<'_> {
    pub fn grow(&self, bag: Bag, rng: &mut Rng) -> Grown {
        let mut grown = Grown { tree: Tree::default(), bins: Vec::new(), seen: vec![0; self.binned.rows.div_ceil(64)] };
        bag.rows.iter().for_each(|&row| grown.seen[row as usize / 64] |= 1 << (row % 64));
        let mut work = self.start(bag);
        let mut open = vec![Open { start: 0, end: work.rows.len(), depth: 0, parent: None }];
        while let Some(Open { start, end, depth, parent }) = open.pop() {
            let mut total = [0.0; 4];
            work.sums[start..end].iter().for_each(|sums| add(&mut total, sums));
            let tree = &mut grown.tree;
            let found =
                if depth < self.max_depth && self.divisible(&total) { self.split(&mut work, start..end, &total, rng) } else { None };
            let Some((column, cut)) = found else {
                link(tree, parent, Child::Leaf(tree.leaves.len()));
                tree.leaves.push(total[LABEL] / total[WEIGHT] + self.middle);
                tree.leaf_rows.push(total[ROWS] as u32);
                continue;
            };
            let node = tree.nodes.len();
            let gain = (cut.score - total[LABEL] * (total[LABEL] / total[WEIGHT])).max(0.0);
            tree.nodes.push(Node::new(column, self.cuts[column].upper(cut.bin), cut.missing_left, gain, total[ROWS] as u32));
            grown.bins.push(cut.bin);
            link(tree, parent, Child::Node(node));
            let middle = start + work.part(start..end, &self.binned.by_column[column], &cut);
            open.push(Open { start: middle, end, depth: depth + 1, parent: Some((node, false)) });
            open.push(Open { start, end: middle, depth: depth + 1, parent: Some((node, true)) });
        }
        grown
    }

    fn start(&self, bag: Bag) -> Work {
        let of_row = |(&row, &times): (&u32, &f64)| {
            let (weight, label) = (self.weights[row as usize] * times, self.labels[row as usize]);
            [weight, weight * label, 1.0, weight * label * label]
        };
        let sums: Vec<Sums> = bag.rows.iter().zip(&bag.times).map(of_row).collect();
        let (spare_rows, spare_sums) = (vec![0; sums.len()], vec![[0.0; 4]; sums.len()]);
        Work { rows: bag.rows, sums, spare_rows, spare_sums, scan: Scan::new(), bins: Vec::new(), columns: (0..self.cuts.len()).collect() }
    }

    /// Enough rows for two leaves, whose labels are not all alike.
    fn divisible(&self, total: &Sums) -> bool {
        let spread = total[SQUARE] - total[LABEL] * (total[LABEL] / total[WEIGHT]);
        total[ROWS] >= 2.0 * self.min_leaf_rows && spread > 1e-10 * total[SQUARE]
    }

    /// The best split among the columns looked at: so many, and on while the rows are the same in all of them.
    fn split(&self, work: &mut Work, stretch: std::ops::Range<usize>, total: &Sums, rng: &mut Rng) -> Option<(usize, Cut)> {
        let width = work.columns.len();
        let (mut best, mut varies): (Option<(usize, Cut)>, bool) = (None, false);
        for looked_at in 0..width {
            if looked_at >= self.columns_per_split && varies {
                break;
            }
            work.columns.swap(looked_at, looked_at + rng.below((width - looked_at) as u64) as usize);
            let column = work.columns[looked_at];
            let last_bin = self.cuts[column].last_bin();
            let (rows, sums) = (&work.rows[stretch.clone()], &work.sums[stretch.clone()]);
            let bins = &self.binned.by_column[column];
            let look = match self.least_of_bins {
                None => {
                    work.scan.add_up(bins, rows, sums);
                    work.scan.best(total, self.min_leaf_rows, last_bin)
                }
                Some(least) => {
                    work.bins.clear();
                    work.bins.extend(rows.iter().map(|&row| bins[row as usize]));
                    scan::random(&work.bins, sums, total, self.min_leaf_rows, &least[column], rng)
                }
            };
            varies |= look.varies;
            if let Some(cut) = look.cut
                && best.is_none_or(|(_, best)| cut.score > best.score)
            {
                best = Some((column, cut));
            }
        }
        best
    }
}

impl Work {
    /// Moves the rows that go left to the front, keeping the order on both sides; returns how many there are.
    fn part(&mut self, stretch: std::ops::Range<usize>, bins: &[u8], cut: &Cut) -> usize {
        let (rows, sums) = (&mut self.rows[stretch.clone()], &mut self.sums[stretch]);
        let (mut left, mut right) = (0, 0);
        for i in 0..rows.len() {
            let (row, row_sums) = (rows[i], sums[i]);
            let bin = bins[row as usize];
            let goes_left = (bin <= cut.bin) & (bin != MISSING) | (bin == MISSING) & cut.missing_left;
            // Writing to both places and advancing one of them needs no branch, which half the rows would mispredict.
            (rows[left], sums[left]) = (row, row_sums);
            (self.spare_rows[right], self.spare_sums[right]) = (row, row_sums);
            left += usize::from(goes_left);
            right += usize::from(!goes_left);
        }
        rows[left..].copy_from_slice(&self.spare_rows[..right]);
        sums[left..].copy_from_slice(&self.spare_sums[..right]);
        left
    }
}
