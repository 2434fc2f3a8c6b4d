//! The boosting of one bag: term after term, round after round, until the rows held out are predicted no better.
//!
//! One pass over the rows does two things: it adds what the last tree says to each row, and sums the new derivatives by the bins of the
//! next term. A classifier's rows carry their odds, so that adding to a margin is one multiplication and a probability one division.

use kilter_stats::Rng;

use super::super::gbdt::binned::Binned;
use super::cuts::{self, Rules, Sums};
use super::model::{Column, Pair};
use super::{Explainable, Rows, Target};

/// One table to be grown: the place in it of each row.
pub(super) struct Term {
    pub columns: Vec<usize>,
    places: Vec<u16>,
    /// A column's bins; or rows times columns of a pair's table.
    cells: usize,
    /// Of a pair's table.
    width: Option<usize>,
    rules: Rules,
}

impl Term {
    pub fn of_column(column: usize, bins: &[u8], table: &Column, parameters: &Explainable) -> Term {
        let direction = parameters.monotone.get(column).copied().unwrap_or(0);
        let rules = Rules { leaves: parameters.leaves, direction, ..rules(parameters) };
        let places = bins.iter().map(|&bin| u16::from(bin)).collect();
        Term { columns: vec![column], places, cells: table.values.len(), width: None, rules }
    }

    pub fn of_pair(pair: &Pair, columns: &[Column], binned: &Binned<'_>, parameters: &Explainable) -> Term {
        let places = pair.places(columns, binned);
        Term { columns: pair.columns.to_vec(), places, cells: pair.values.len(), width: Some(pair.width()), rules: rules(parameters) }
    }
}

fn rules(parameters: &Explainable) -> Rules {
    let bounded = parameters.target == Target::Binary;
    Rules { min_rows: parameters.min_leaf_rows as f64, leaves: 2, direction: 0, bounded }
}

/// Which rows a bag learns from, and which it holds out.
pub(super) struct Bag {
    learned: Vec<usize>,
    held_out: Vec<usize>,
}

impl Bag {
    /// Of each class the same share is held out; `None` when that leaves no row.
    pub fn draw(rows: &Rows, fraction: f64, rng: &mut Rng) -> Option<Bag> {
        let all = 0..rows.labels.len();
        let is_positive = |row: &usize| rows.target == Target::Binary && rows.labels[*row] == 1.0;
        let (positives, others): (Vec<usize>, Vec<usize>) = all.partition(is_positive);
        let mut bag = Bag { learned: Vec::new(), held_out: Vec::new() };
        for mut class in [positives, others] {
            rng.shuffle(&mut class);
            let held_out = (libm::ceil(class.len() as f64 * fraction) as usize).min(class.len().saturating_sub(1));
            bag.held_out.extend(&class[..held_out]);
            bag.learned.extend(&class[held_out..]);
        }
        bag.held_out.sort_unstable();
        bag.learned.sort_unstable();
        (!bag.held_out.is_empty()).then_some(bag)
    }
}

#[cfg(test)]
impl Bag {
    pub fn sides(&self) -> (&[usize], &[usize]) {
        (&self.learned, &self.held_out)
    }
}

/// What a bag has grown.
pub(super) struct Boosted {
    /// Of each term.
    pub tables: Vec<Vec<f64>>,
    pub rounds: usize,
    /// Mean loss on the rows held out.
    pub loss: f64,
}

/// Some rows of the bag under way.
struct Part {
    /// Odds of a classifier, else the margin.
    state: Vec<f64>,
    labels: Vec<f64>,
    weights: Vec<f64>,
    /// Of each term.
    places: Vec<Vec<u16>>,
    target: Target,
}

/// Improvements of less than this share do not count as such.
const TOLERANCE: f64 = 1e-5;

/// Boosts the terms on top of what the bag has grown before.
pub(super) fn boost(bag: &Bag, rows: &Rows, terms: &[Term], before: Option<(&[Term], &Boosted)>, parameters: &Explainable) -> Boosted {
    let mut learned = Part::new(&bag.learned, rows, terms, before);
    let mut held_out = Part::new(&bag.held_out, rows, terms, before);
    let mut tables: Vec<Vec<f64>> = terms.iter().map(|term| vec![0.0; term.cells]).collect();
    let mut best = Boosted { tables: tables.clone(), rounds: 0, loss: held_out.loss() };
    let counts: Vec<Vec<f64>> = terms.iter().zip(&learned.places).map(|(term, places)| count(places, term.cells)).collect();
    let most = terms.iter().map(|term| term.cells).max().unwrap_or(0);
    let (mut sums, mut add) = (vec![[[0.0; 2]; 2]; most], vec![0.0; most]);
    // The last tree, which the next pass over the rows adds to them.
    let mut pending: Option<(usize, Vec<f64>)> = None;
    let (mut mark, mut improved) = (best.loss, 0);
    for round in 1..=parameters.rounds {
        if terms.is_empty() || round - improved > parameters.early_stopping {
            break;
        }
        for (at, term) in terms.iter().enumerate() {
            let cells = &mut sums[..term.cells];
            cells.fill([[0.0; 2]; 2]);
            learned.pass(pending.as_ref().map(|(at, add)| (*at, add.as_slice())), at, cells);
            let sums: Vec<Sums> = cells.iter().map(|[a, b]| [a[0] + b[0], a[1] + b[1]]).collect();
            let add = &mut add[..term.cells];
            let grown = match term.width {
                None => cuts::tree(&sums, &counts[at], term.rules, add),
                Some(width) => cuts::quadrants(&sums, &counts[at], width, term.rules.min_rows)
                    .map(|crossing| crossing.fill(width, term.rules.bounded, add))
                    .is_some(),
            };
            if !grown {
                pending = None;
                continue;
            }
            add.iter_mut().for_each(|add| *add *= parameters.learning_rate);
            tables[at].iter_mut().zip(&*add).for_each(|(value, add)| *value += add);
            let step = effect(add, rows.target);
            held_out.add(at, &step);
            pending = Some((at, step));
        }
        let loss = held_out.loss();
        if loss < best.loss {
            best.tables.clone_from(&tables);
            (best.rounds, best.loss) = (round, loss);
        }
        if loss < mark - TOLERANCE * mark.abs() {
            (mark, improved) = (loss, round);
        }
    }
    best
}

/// What a table does to the rows' states. Neighbours mostly have the same value, whose exponential is taken once.
fn effect(add: &[f64], target: Target) -> Vec<f64> {
    if target == Target::Mean {
        return add.to_vec();
    }
    let (mut last, mut factor) = (0.0, 1.0);
    let of_value = |&value: &f64| {
        if value != last {
            (last, factor) = (value, libm::exp(value));
        }
        factor
    };
    add.iter().map(of_value).collect()
}

fn count(places: &[u16], cells: usize) -> Vec<f64> {
    let mut counts = vec![0.0; cells];
    places.iter().for_each(|&place| counts[usize::from(place)] += 1.0);
    counts
}

/// Mean of the bags' tables, cell by cell, added in their order.
pub(super) fn mean_of<'a>(tables: impl ExactSizeIterator<Item = &'a Vec<f64>>) -> Vec<f64> {
    let count = tables.len() as f64;
    let mut mean: Vec<f64> = Vec::new();
    for table in tables {
        mean.resize(table.len(), 0.0);
        mean.iter_mut().zip(table).for_each(|(mean, value)| *mean += value);
    }
    mean.iter_mut().for_each(|mean| *mean /= count);
    mean
}

impl Part {
    fn new(chosen: &[usize], rows: &Rows, terms: &[Term], before: Option<(&[Term], &Boosted)>) -> Part {
        let pick = |values: &[f64]| chosen.iter().map(|&row| values[row]).collect::<Vec<f64>>();
        let mut state = vec![rows.base; chosen.len()];
        if let Some((terms, boosted)) = before {
            for (term, table) in terms.iter().zip(&boosted.tables) {
                state.iter_mut().zip(chosen).for_each(|(margin, &row)| *margin += table[usize::from(term.places[row])]);
            }
        }
        if rows.target == Target::Binary {
            state.iter_mut().for_each(|margin| *margin = libm::exp(*margin));
        }
        let places = terms.iter().map(|term| chosen.iter().map(|&row| term.places[row]).collect()).collect();
        Part { state, labels: pick(&rows.labels), weights: pick(&rows.weights), places, target: rows.target }
    }

    fn add(&mut self, term: usize, effect: &[f64]) {
        let rows = self.state.iter_mut().zip(&self.places[term]);
        match self.target {
            Target::Binary => rows.for_each(|(odds, &place)| *odds = kept_within(*odds * effect[usize::from(place)])),
            Target::Mean => rows.for_each(|(margin, &place)| *margin += effect[usize::from(place)]),
        }
    }

    fn loss(&self) -> f64 {
        let (mut loss, mut total) = (0.0, 0.0);
        for ((&state, &label), &weight) in self.state.iter().zip(&self.labels).zip(&self.weights) {
            let own = match self.target {
                Target::Binary if label == 1.0 => libm::log1p(1.0 / state),
                Target::Binary => libm::log1p(state),
                Target::Mean => (state - label) * (state - label),
            };
            loss += weight * own;
            total += weight;
        }
        loss / total
    }

    /// Adds the effect of a table, and sums the derivatives by the cells of another.
    fn pass(&mut self, pending: Option<(usize, &[f64])>, next: usize, sums: &mut [[Sums; 2]]) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the machine has AVX2, as was just asked.
            return unsafe { self.pass_avx2(pending, next, sums) };
        }
        self.pass_anywhere(pending, next, sums);
    }

    /// The same operations in wider registers; none are fused, so the bits are the same too.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn pass_avx2(&mut self, pending: Option<(usize, &[f64])>, next: usize, sums: &mut [[Sums; 2]]) {
        self.pass_anywhere(pending, next, sums);
    }

    #[inline(always)]
    fn pass_anywhere(&mut self, pending: Option<(usize, &[f64])>, next: usize, sums: &mut [[Sums; 2]]) {
        const BLOCK: usize = 64;
        let (mut gradients, mut hessians) = ([0.0; BLOCK], [0.0; BLOCK]);
        let rows = self.state.chunks_mut(BLOCK).zip(self.labels.chunks(BLOCK)).zip(self.weights.chunks(BLOCK));
        for (block, ((state, labels), weights)) in rows.enumerate() {
            let first = block * BLOCK;
            let count = state.len();
            if let Some((term, effect)) = pending {
                let places = &self.places[term][first..first + count];
                match self.target {
                    Target::Binary => {
                        for (state, &place) in state.iter_mut().zip(places) {
                            *state = kept_within(*state * effect[usize::from(place)]);
                        }
                    }
                    Target::Mean => state.iter_mut().zip(places).for_each(|(state, &place)| *state += effect[usize::from(place)]),
                }
            }
            let (state, labels, weights) = (&state[..count], &labels[..count], &weights[..count]);
            match self.target {
                Target::Binary => {
                    for i in 0..count {
                        let probability = state[i] / (1.0 + state[i]);
                        gradients[i] = weights[i] * (probability - labels[i]);
                        hessians[i] = weights[i] * (probability * (1.0 - probability));
                    }
                }
                Target::Mean => {
                    for i in 0..count {
                        (gradients[i], hessians[i]) = (weights[i] * (state[i] - labels[i]), weights[i]);
                    }
                }
            }
            let places = &self.places[next][first..first + count];
            for (i, &place) in places.iter().enumerate() {
                // Neighbouring rows of one cell would wait for each other; two sums for each cell let them pass.
                let cell = &mut sums[usize::from(place)][i % 2];
                cell[0] += gradients[i];
                cell[1] += hessians[i];
            }
        }
    }
}

/// Odds that stay numbers however sure the model gets.
#[inline(always)]
fn kept_within(odds: f64) -> f64 {
    odds.clamp(1e-150, 1e150)
}
