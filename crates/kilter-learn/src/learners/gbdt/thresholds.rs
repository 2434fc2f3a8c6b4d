//! The best threshold of all columns, eight columns at once.
//!
//! Going up the bins of a tile, each lane holds the sums of its column's rows so far. Whether a threshold may be the best yet is asked by
//! multiplication, with a little in hand; only of those few that may be, the score is worked out, one after the other. So what is found does
//! not depend on the vector unit. All is done in whole numbers of the scale, which powers of two turn into gains without loss.

use super::binned::MISSING;
use super::histogram::{Fields, Histogram, LANES, Lanes, MAX_ROWS, Shape, Sums, Tile, of_wide};
use super::simd::{Level, for_every_level};
use super::split::Rules;

/// A threshold and where its missing values go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Best {
    /// Sum of G^2 / (H + lambda) over both sides.
    pub score: f64,
    pub column: usize,
    /// Rows in bins up to this one go left.
    pub bin: u8,
    pub missing_left: bool,
    pub left: Sums,
}

/// The threshold of the highest score above `beat`; of equals the first, by column, missing right before left, and bin. Columns that are `left_out` are passed over.
pub(super) fn best(rules: &Rules<'_>, histogram: &Histogram, shape: &Shape, total: &Sums, beat: f64, left_out: &[bool]) -> Option<Best> {
    best_at(Level::here(), rules, histogram, shape, total, beat, left_out)
}

fn best_at(
    level: Level,
    rules: &Rules<'_>,
    histogram: &Histogram,
    shape: &Shape,
    total: &Sums,
    beat: f64,
    left_out: &[bool],
) -> Option<Best> {
    let scale = &rules.scale;
    // A score is in squares of gradients a hessian.
    let unit = scale.gradient_unit * scale.gradient_unit / scale.hessian_unit;
    let (lambda, hessian) = (rules.lambda / scale.hessian_unit, total.hessian as i64 as f64);
    // As a whole number that sums are held against: rounded up, and never more than there can be.
    let min_hessian = libm::ceil(rules.min_hessian / scale.hessian_unit).min(1e15) as u64;
    let both = |least: u64, all: u64| if least <= all / 2 { (least, all - 2 * least) } else { (u64::MAX, 0) };
    let node = Node {
        gradient: total.gradient as f64,
        curvature: hessian + lambda,
        lambda,
        rows: both(rules.min_rows, total.count),
        hessians: both(min_hessian, total.hessian),
    };
    let mut found = Found { score: beat / unit, column: usize::MAX, bin: 0, missing_left: false, left: Sums::default() };
    for (at, tile) in shape.tiles.iter().enumerate() {
        let mut columns = [None; LANES];
        for (lane, &column) in tile.columns.iter().enumerate() {
            columns[lane] = Some(column).filter(|&column| !left_out.get(column).is_some_and(|&out| out));
        }
        let least_rows = rules.min_rows as i64;
        let most_rows = columns.map(|column| if column.is_some() { total.count as i64 - least_rows } else { -1 });
        let task = Task { node: &node, columns: &columns, least_rows, most_rows, last_bin: usize::from(tile.last_bin) };
        if histogram.wide {
            let cells = Wide { gradients: &histogram.tiles()[at], rest: &histogram.tiles()[shape.tiles.len() + at] };
            scan_wide(level, &cells, &task, &mut found);
        } else {
            scan_packed(level, &Packed { tile: &histogram.tiles()[at], fields: scale.fields }, &task, &mut found);
        }
    }
    let Found { score, column, bin, missing_left, left } = found;
    if column == usize::MAX {
        return None;
    }
    let none_missing = histogram.sums(&scale.fields, shape, column, MISSING).count == 0;
    let missing_left = if none_missing { 2 * left.count >= total.count } else { missing_left };
    Some(Best { score: score * unit, column, bin: bin as u8, missing_left, left })
}

/// Sums of a whole node, as floats, and what its sides must have. Whole numbers below 2^53 lose nothing.
struct Node {
    gradient: f64,
    /// Both penalties and all hessians.
    curvature: f64,
    lambda: f64,
    /// Least of a side, and how much more a left side may have so that the right one has as much.
    rows: (u64, u64),
    hessians: (u64, u64),
}

struct Task<'a> {
    node: &'a Node,
    /// None for lanes of no interest.
    columns: &'a [Option<usize>; LANES],
    /// Rows that a left side must have, and beyond which the right side has too few: below 0 in lanes of no interest.
    least_rows: i64,
    most_rows: [i64; LANES],
    last_bin: usize,
}

/// The best so far.
struct Found {
    score: f64,
    /// The highest number there is while nothing is found.
    column: usize,
    bin: usize,
    missing_left: bool,
    left: Sums,
}

/// Bins looked at together, and their cells.
const GROUP: usize = 8;
const CELLS: usize = GROUP * LANES;

/// Sums of the cells of a group, each with all bins below. A wide cell has a word in both parts. On lines of the cache: they are read again at once,
/// and words that straddle two lines would have to be waited for.
#[repr(align(64))]
struct Group([[u64; CELLS]; 2]);

trait Cells {
    /// Words of a cell.
    const PARTS: usize;

    fn tile(&self, part: usize) -> &Tile;
    /// The last part's word holds the count in its low bits.
    fn count_mask(&self) -> u64;
    /// Gradient, hessian and count.
    fn parts(&self, words: [u64; 2]) -> [u64; 3];
    fn sums(&self, words: [u64; 2]) -> Sums;
}

struct Packed<'a> {
    tile: &'a Tile,
    fields: Fields,
}

struct Wide<'a> {
    gradients: &'a Tile,
    rest: &'a Tile,
}

/// A whole number of less than 52 bits as a float, exactly, by instructions that every vector unit has.
#[inline(always)]
fn float(whole: u64) -> f64 {
    const TOP: f64 = 4_503_599_627_370_496.0;
    f64::from_bits(whole | TOP.to_bits()) - TOP
}

/// The same of a signed number of less than 51 bits: added to the bits of 2^52 + 2^51, it is that float plus the number.
#[inline(always)]
fn signed_float(whole: u64) -> f64 {
    const MIDDLE: f64 = 6_755_399_441_055_744.0;
    f64::from_bits(whole.wrapping_add(MIDDLE.to_bits())) - MIDDLE
}

impl Cells for Packed<'_> {
    const PARTS: usize = 1;

    #[inline(always)]
    fn tile(&self, _: usize) -> &Tile {
        self.tile
    }

    #[inline(always)]
    fn count_mask(&self) -> u64 {
        self.fields.count_mask
    }

    #[inline(always)]
    fn parts(&self, [word, _]: [u64; 2]) -> [u64; 3] {
        let Fields { gradient_shift, hessian_shift, hessian_mask, count_mask, .. } = self.fields;
        // Half of all numbers is added and taken off again: vector units shift signed words badly.
        let half = 1u64 << 63;
        let gradient = ((word ^ half) >> gradient_shift).wrapping_sub(half >> gradient_shift);
        [gradient, (word >> hessian_shift) & hessian_mask, word & count_mask]
    }

    fn sums(&self, [word, _]: [u64; 2]) -> Sums {
        self.fields.unpack(word)
    }
}

impl Cells for Wide<'_> {
    const PARTS: usize = 2;

    #[inline(always)]
    fn tile(&self, part: usize) -> &Tile {
        if part == 0 { self.gradients } else { self.rest }
    }

    #[inline(always)]
    fn count_mask(&self) -> u64 {
        MAX_ROWS as u64
    }

    #[inline(always)]
    fn parts(&self, [gradient, rest]: [u64; 2]) -> [u64; 3] {
        let (hessian, count) = of_wide(rest);
        [gradient, hessian, count]
    }

    fn sums(&self, [gradient, rest]: [u64; 2]) -> Sums {
        let (hessian, count) = of_wide(rest);
        Sums { gradient: gradient as i64, hessian, count }
    }
}

for_every_level! {
    fn scan_packed(level, cells: &Packed<'_>, task: &Task<'_>, found: &mut Found) = scan;
}

for_every_level! {
    fn scan_wide(level, cells: &Wide<'_>, task: &Task<'_>, found: &mut Found) = scan;
}

#[inline(always)]
fn scan<C: Cells>(cells: &C, task: &Task<'_>, found: &mut Found) {
    let mut missing = [[0; LANES]; 2];
    (0..C::PARTS).for_each(|part| missing[part] = cells.tile(part)[usize::from(MISSING)]);
    scan_from(cells, [[0; LANES]; 2], false, task, found);
    if (0..LANES).any(|lane| cells.sums([missing[0][lane], missing[1][lane]]).count > 0) {
        scan_from(cells, missing, true, task, found);
    }
}

/// Tries every threshold, with so much on the left from the start.
#[inline(always)]
fn scan_from<C: Cells>(cells: &C, mut sum: [Lanes; 2], missing_left: bool, task: &Task<'_>, found: &mut Found) {
    let mut group = Group([[0; CELLS]; 2]);
    let rows = |lanes: &[Lanes; 2], lane: usize| (lanes[C::PARTS - 1][lane] & cells.count_mask()) as i64;
    for first in (1..=task.last_bin).step_by(GROUP) {
        let bins = GROUP.min(task.last_bin + 1 - first);
        // Rows only grow more from bin to bin: lanes start late and are done early where a node has few.
        if (0..LANES).all(|lane| rows(&sum, lane) > task.most_rows[lane]) {
            return;
        }
        for (part, (sum, group)) in sum.iter_mut().zip(&mut group.0).enumerate().take(C::PARTS) {
            let (of_bins, _) = group.as_chunks_mut::<LANES>();
            for (own, cells) in of_bins.iter_mut().zip(&cells.tile(part)[first..first + bins]) {
                sum.iter_mut().zip(cells).for_each(|(sum, cell)| *sum = sum.wrapping_add(*cell));
                *own = *sum;
            }
            // The rest repeats the last threshold, which then never is the first of equals.
            of_bins[bins..].fill(*sum);
        }
        let started = (0..LANES).any(|lane| rows(&sum, lane) >= task.least_rows);
        if started && may_beat(cells, &group, task.node, found.score * (1.0 - 1e-12)) {
            let mut scores = [f64::NEG_INFINITY; CELLS];
            score(cells, &group, task.node, &mut scores);
            look_closer(cells, &group, &scores, first, missing_left, task, found);
        }
    }
}

/// A threshold's score as a fraction, and whether both sides are large enough.
#[inline(always)]
fn weigh(node: &Node, [gradient, hessian, count]: [u64; 3]) -> (f64, f64, bool) {
    let (g, h) = (signed_float(gradient), float(hessian));
    let k = node.gradient - g;
    let (a, b) = (h + node.lambda, node.curvature - h);
    // What is below the least wraps around to a very large number.
    let enough = |whole: u64, (least, more): (u64, u64)| whole.wrapping_sub(least) <= more;
    (g * g * b + k * k * a, a * b, enough(count, node.rows) & enough(hessian, node.hessians))
}

/// Whether some threshold's score is above the bar, give or take a rounding.
#[inline(always)]
fn may_beat<C: Cells>(cells: &C, group: &Group, node: &Node, bar: f64) -> bool {
    let mut any = 0;
    for i in 0..CELLS {
        let (above, below, enough) = weigh(node, cells.parts([group.0[0][i], group.0[1][i]]));
        any |= u64::from(enough & (above > bar * below));
    }
    any != 0
}

#[inline(always)]
fn score<C: Cells>(cells: &C, group: &Group, node: &Node, scores: &mut [f64; CELLS]) {
    for ((score, &first), &second) in scores.iter_mut().zip(&group.0[0]).zip(&group.0[1]) {
        let (above, below, enough) = weigh(node, cells.parts([first, second]));
        // Without weight and penalty a side has no score.
        *score = if enough & (below > 0.0) { above / below } else { f64::NEG_INFINITY };
    }
}

#[inline(never)]
fn look_closer<C: Cells>(
    cells: &C,
    group: &Group,
    scores: &[f64; CELLS],
    first: usize,
    missing_left: bool,
    task: &Task<'_>,
    found: &mut Found,
) {
    for (i, &score) in scores.iter().enumerate() {
        if score >= found.score
            && let Some(column) = task.columns[i % LANES]
            && (score > found.score || (found.column != usize::MAX && column < found.column))
        {
            let left = cells.sums([group.0[0][i], group.0[1][i]]);
            *found = Found { score, column, bin: first + i / LANES, missing_left, left };
        }
    }
}

#[cfg(test)]
#[path = "thresholds_tests.rs"]
mod tests;
