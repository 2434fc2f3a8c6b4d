//! Parts the rows of a split: those that go left to the front, in their order.

use rayon::prelude::*;

use super::binned::MISSING;
use super::histogram::Entry;
use super::split::Split;

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
    use super::super::histogram::Sums;
    use super::super::split::UNBOUNDED;
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
