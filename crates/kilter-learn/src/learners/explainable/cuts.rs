//! Very small trees on one table: where to cut, and what each leaf adds.
//!
//! Gains are of the second order (Chen and Guestrin 2016): G^2 / H of the leaves, less that of the whole.

/// Gradient and hessian.
pub(super) type Sums = [f64; 2];

/// Keeps a leaf of hardly any curvature from being worth everything.
const RIDGE: f64 = 1e-6;
/// Farthest that a leaf steps, before the learning rate.
const FARTHEST: f64 = 4.0;

#[inline(always)]
fn score(sums: Sums) -> f64 {
    sums[0] * sums[0] / (sums[1] + RIDGE)
}

#[inline(always)]
fn plus(a: Sums, b: Sums) -> Sums {
    [a[0] + b[0], a[1] + b[1]]
}

#[inline(always)]
fn less(a: Sums, b: Sums) -> Sums {
    [a[0] - b[0], a[1] - b[1]]
}

/// Steps by curvature are bounded for a classifier; a mean's are what they are.
pub(super) fn step(sums: Sums, bounded: bool) -> f64 {
    let step = -sums[0] / (sums[1] + RIDGE);
    if bounded { step.clamp(-FARTHEST, FARTHEST) } else { step }
}

/// Rules of a tree on one column.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub min_rows: f64,
    pub leaves: usize,
    /// Which way the steps may go; 0: any.
    pub direction: i8,
    pub bounded: bool,
}

/// What a tree adds to each bin; bin 0, missing values, is a leaf of its own. None when nothing can be parted.
pub(super) fn tree(sums: &[Sums], counts: &[f64], rules: Rules, add: &mut [f64]) -> bool {
    let missing = counts[0] >= rules.min_rows;
    add[0] = if missing { step(sums[0], rules.bounded) } else { 0.0 };
    let last = sums.len() - 1;
    let whole = 1..last + 1;
    let mut bounds = vec![whole.start, whole.end];
    // Two steps in a declared direction could take it back between them.
    let leaves = if rules.direction == 0 { rules.leaves } else { 2 };
    let mut best = best_cut(sums, counts, whole, rules).into_iter().collect::<Vec<_>>();
    while bounds.len() <= leaves {
        let Some(at) = (0..best.len()).max_by(|&a, &b| best[a].gain.total_cmp(&best[b].gain)) else { break };
        let cut = best.swap_remove(at);
        let place = bounds.partition_point(|&bound| bound < cut.at);
        bounds.insert(place, cut.at);
        if bounds.len() <= leaves {
            best.extend(best_cut(sums, counts, bounds[place - 1]..cut.at, rules));
            best.extend(best_cut(sums, counts, cut.at..bounds[place + 1], rules));
        }
    }
    if bounds.len() == 2 && !missing {
        return false;
    }
    for leaf in bounds.windows(2) {
        let total = sums[leaf[0]..leaf[1]].iter().copied().fold([0.0; 2], plus);
        add[leaf[0]..leaf[1]].fill(step(total, rules.bounded));
    }
    true
}

struct CutAt {
    gain: f64,
    /// The first bin of the right side.
    at: usize,
}

fn best_cut(sums: &[Sums], counts: &[f64], within: std::ops::Range<usize>, rules: Rules) -> Option<CutAt> {
    let total = sums[within.clone()].iter().copied().fold([0.0; 2], plus);
    let rows: f64 = counts[within.clone()].iter().sum();
    let (mut left, mut left_rows) = ([0.0; 2], 0.0);
    let mut best: Option<CutAt> = None;
    let floor = score(total);
    for at in within.start + 1..within.end {
        left = plus(left, sums[at - 1]);
        left_rows += counts[at - 1];
        if left_rows < rules.min_rows {
            continue;
        }
        if rows - left_rows < rules.min_rows {
            break;
        }
        let right = less(total, left);
        let rises = f64::from(rules.direction) * (step(right, rules.bounded) - step(left, rules.bounded));
        let gain = score(left) + score(right) - floor;
        if rises >= 0.0 && gain > best.as_ref().map_or(1e-12 * floor, |best| best.gain) {
            best = Some(CutAt { gain, at });
        }
    }
    best
}

/// The crossing point of the highest gain in a table of rows by columns, and what the four quadrants around it add to each cell.
pub(super) fn quadrants(sums: &[Sums], counts: &[f64], width: usize, min_rows: f64) -> Option<Crossing> {
    let height = sums.len() / width;
    // Of the first rows and columns together: sums up to and including a cell.
    let mut upto = vec![([0.0; 2], 0.0); sums.len()];
    for row in 0..height {
        let (mut across, mut rows_across) = ([0.0; 2], 0.0);
        for column in 0..width {
            let at = row * width + column;
            across = plus(across, sums[at]);
            rows_across += counts[at];
            let above = if row > 0 { upto[at - width] } else { ([0.0; 2], 0.0) };
            upto[at] = (plus(above.0, across), above.1 + rows_across);
        }
    }
    let (all, rows) = *upto.last()?;
    let mut best: Option<Crossing> = None;
    for row in 0..height - 1 {
        let (top, top_rows) = upto[row * width + width - 1];
        for column in 0..width - 1 {
            let (corner, corner_rows) = upto[row * width + column];
            let (left, left_rows) = upto[(height - 1) * width + column];
            let parts = [corner, less(top, corner), less(left, corner), less(less(all, top), less(left, corner))];
            let least = [corner_rows, top_rows - corner_rows, left_rows - corner_rows, rows - top_rows - left_rows + corner_rows];
            if least.iter().any(|&rows| rows < min_rows) {
                continue;
            }
            let gain = parts.iter().map(|&part| score(part)).sum::<f64>() - score(all);
            if gain > best.as_ref().map_or(1e-12 * score(all), |best| best.gain) {
                best = Some(Crossing { gain, row, column, parts });
            }
        }
    }
    best
}

pub(super) struct Crossing {
    pub gain: f64,
    /// The last row and column of the first quadrant.
    row: usize,
    column: usize,
    parts: [Sums; 4],
}

impl Crossing {
    pub fn fill(&self, width: usize, bounded: bool, add: &mut [f64]) {
        let steps = self.parts.map(|part| step(part, bounded));
        for (at, add) in add.iter_mut().enumerate() {
            *add = steps[2 * usize::from(at / width > self.row) + usize::from(at % width > self.column)];
        }
    }
}
