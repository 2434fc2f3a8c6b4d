//! Parts the rows of a split: those that go left to the front, in their order.

use rayon::prelude::*;

use super::binned::{Column, MISSING};
use super::grow::Grown;
use super::histogram::Entry;
use super::split::Split;
use super::tree::Child;

/// Entries that one thread parts at least.
const PART: usize = 32_768;

/// Moves the entries that go left to the front, keeping the order on both sides; returns how many there are.
pub(super) fn partition(entries: &mut [Entry], spare: &mut [Entry], bins: &[u8], split: &Split) -> usize {
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
        Some(set) => compact(entries, spare, bins, Entry::row, |bin| set.has(bin)),
        None => compact(entries, spare, bins, Entry::row, |bin| goes_left(bin, split.bin, split.missing_left)),
    }
}

#[inline(always)]
fn goes_left(bin: u8, last: u8, missing_left: bool) -> bool {
    (bin <= last) & (bin != MISSING) | (bin == MISSING) & missing_left
}

/// Hands over the rows of each leaf that some reach. Parting them node by node is quicker than a walk for each, whose every question waits for memory.
pub(super) fn route(grown: &Grown<'_>, by_column: &[Column<'_>], mut rows: Vec<u32>, mut then: impl FnMut(usize, &[u32])) {
    let mut spare = rows.clone();
    let mut open = vec![(grown.tree.root(), 0..rows.len())];
    while let Some((at, range)) = open.pop() {
        if range.is_empty() {
            continue;
        }
        match at {
            Child::Leaf(leaf) => then(leaf, &rows[range]),
            Child::Node(index) => {
                let (node, last) = (&grown.tree.nodes[index], grown.bins[index]);
                let (own, bins) = (&mut rows[range.clone()], &by_column[node.column as usize]);
                let row_of = |row: u32| row as usize;
                let left = match grown.tree.set(node) {
                    Some(set) => compact(own, &mut spare, bins, row_of, |bin| set.has(bin)),
                    None => compact(own, &mut spare, bins, row_of, |bin| goes_left(bin, last, node.missing_left)),
                };
                let right = own.len() - left;
                own[left..].copy_from_slice(&spare[..right]);
                let middle = range.start + left;
                open.extend([(node.right(), middle..range.end), (node.left(), range.start..middle)]);
            }
        }
    }
}

/// Moves the entries that go left to the front and copies the others to the front of `spare`.
#[inline(always)]
fn compact<T: Copy>(entries: &mut [T], spare: &mut [T], bins: &[u8], row_of: impl Fn(T) -> usize, goes_left: impl Fn(u8) -> bool) -> usize {
    let (mut left, mut right) = (0, 0);
    for i in 0..entries.len() {
        let entry = entries[i];
        let goes_left = goes_left(bins[row_of(entry)]);
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
    use super::super::categories::BinSet;
    use super::super::histogram::Sums;
    use super::super::split::UNBOUNDED;
    use super::super::tree::{Node, Tree};
    use super::*;
    use kilter_stats::Rng;

    /// Against walks, on trees with thresholds, missing values and sets.
    #[test]
    fn routed_rows_are_in_the_leaves_that_walks_lead_to() {
        let mut rng = Rng::seeded(2);
        for round in 0..200 {
            let rows = 1 + rng.below(300) as usize;
            let by_column: Vec<Column<'_>> = (0..3).map(|_| (0..rows).map(|_| rng.below(9) as u8).collect()).collect();
            let (mut tree, mut bins) = (Tree::default(), Vec::new());
            let nodes = round % 12;
            // Each node is the left or the right child of the one before, all other places are leaves.
            for node in 0..nodes {
                let (column, bin) = (rng.below(3) as usize, rng.below(9) as u8);
                let mut own = match rng.bernoulli(0.3) {
                    true => tree.node_of_set(column, BinSet([rng.next_u64(); 4]), 1.0, 1),
                    false => Node::new(column, f64::from(bin), rng.bernoulli(0.5), 1.0, 1),
                };
                let next = if node + 1 < nodes { Child::Node(node + 1) } else { Child::Leaf(nodes) };
                let (left, right) = if rng.bernoulli(0.5) { (next, Child::Leaf(node)) } else { (Child::Leaf(node), next) };
                own.set_left(left);
                own.set_right(right);
                tree.nodes.push(own);
                bins.push(bin);
            }
            let asked: Vec<u32> = (0..rows as u32).filter(|_| rng.bernoulli(0.7)).collect();
            let grown = Grown { tree, bins, leaves: Vec::new(), order: None };
            let mut found = vec![usize::MAX; rows];
            route(&grown, &by_column, asked.clone(), |leaf, rows| rows.iter().for_each(|&row| found[row as usize] = leaf));
            for row in 0..rows {
                let walked = grown.tree.leaf_of_bins(&grown.bins, |column| by_column[column][row]);
                assert_eq!(found[row], if asked.contains(&(row as u32)) { walked } else { usize::MAX }, "round {round}");
            }
        }
    }

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
                values: [0.0; 2],
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
