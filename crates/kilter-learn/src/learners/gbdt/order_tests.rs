//! The order of leaves against its definition, and what models make of it against probes.

use kilter_stats::Rng;

use super::super::histogram::Sums;
use super::super::{Gbdt, MonotoneMethod, Objective, fit};
use super::*;
use crate::matrix::tests::training_set;
use crate::{Model, TrainingSet};

const BINS: u8 = 4;
const COLUMNS: usize = 3;

/// A tree that was grown at random, and the leaf of each row of a grid; bin 0 is a missing value.
struct Grown {
    order: Order<'static>,
    leaf_of: Vec<([u8; COLUMNS], usize)>,
    leaves: usize,
}

fn split(column: usize, bin: u8, missing_left: bool, values: [f64; 2]) -> Split {
    Split {
        gain: 1.0,
        column,
        bin,
        missing_left,
        set: None,
        left: Sums::default(),
        right: Sums::default(),
        left_bounds: UNBOUNDED,
        right_bounds: UNBOUNDED,
        values,
    }
}

fn goes_left(split: &Split, bin: u8) -> bool {
    if bin == MISSING { split.missing_left } else { bin <= split.bin }
}

/// Splits where both sides keep some value's bin, so that no leaf is reached by missing values alone.
fn grown(rng: &mut Rng, monotone: &'static [i8], by_side: bool, splits: usize) -> Grown {
    let mut leaf_of = Vec::new();
    for row in 0..(u32::from(BINS) + 1).pow(COLUMNS as u32) {
        leaf_of.push((std::array::from_fn(|column| (row / (u32::from(BINS) + 1).pow(column as u32)) as u8 % (BINS + 1)), 0));
    }
    let mut grown = Grown { order: Order::new(monotone, by_side), leaf_of, leaves: 1 };
    for _ in 0..splits {
        let (leaf, column, bin) = (rng.below(grown.leaves as u64) as usize, rng.below(COLUMNS as u64) as usize, 1 + rng.below(3) as u8);
        let mut split = split(column, bin, rng.bernoulli(0.5), [0.0; 2]);
        let of_leaf = |left: bool| {
            grown.leaf_of.iter().any(|(row, at)| *at == leaf && row[column] != MISSING && goes_left(&split, row[column]) == left)
        };
        if !of_leaf(true) || !of_leaf(false) {
            continue;
        }
        // Any values that keep to the bounds and to the direction.
        let bounds = grown.order.bounds(leaf);
        let draw = |rng: &mut Rng| (4.0 * rng.normal()).max(bounds.low).min(bounds.high);
        split.values = [draw(rng), draw(rng)];
        if f64::from(monotone[column]) * (split.values[1] - split.values[0]) < 0.0 {
            split.values.reverse();
        }
        grown.order.split(leaf, &split);
        let new = grown.leaves;
        grown.leaf_of.iter_mut().filter(|(row, at)| *at == leaf && !goes_left(&split, row[column])).for_each(|(_, at)| *at = new);
        grown.leaves += 1;
    }
    grown
}

impl Grown {
    /// By definition: from the leaf's rows, what a change in one column with a direction, between values, leads to.
    fn bounds(&self, leaf: usize, monotone: &[i8]) -> Bounds {
        let mut bounds = UNBOUNDED;
        for (row, _) in self.leaf_of.iter().filter(|(_, at)| *at == leaf) {
            for (column, &direction) in monotone.iter().enumerate().filter(|(column, _)| row[*column] != MISSING) {
                for (other, at) in self.leaf_of.iter().filter(|(_, at)| *at != leaf) {
                    let apart = (0..COLUMNS).all(|c| other[c] == row[c] || c == column) && other[column] != MISSING;
                    let step = f64::from(direction) * (f64::from(other[column]) - f64::from(row[column]));
                    if apart && step != 0.0 {
                        bounds.keep(self.order.leaves[*at].value, step < 0.0);
                    }
                }
            }
        }
        bounds
    }
}

const MONOTONE: [&[i8]; 4] = [&[1, 1, -1], &[0, 1, 0], &[-1, 0, 1], &[1, -1, 0]];

#[test]
fn bounds_are_what_a_change_of_a_row_leads_to() {
    let mut rng = Rng::seeded(1);
    let mut bound = 0;
    for round in 0..400 {
        let monotone = MONOTONE[round % 4];
        let grown = grown(&mut rng, monotone, false, 2 + round % 30);
        for leaf in 0..grown.leaves {
            let (found, value) = (grown.order.bounds(leaf), grown.order.leaves[leaf].value);
            assert_eq!(found, grown.bounds(leaf, monotone), "leaf {leaf} of round {round}");
            assert!(found.low <= value && value <= found.high, "round {round}: {value} is not within {found:?}");
            bound += usize::from(found != UNBOUNDED);
        }
    }
    assert!(bound > 1_000, "{bound}");
}

/// Against a split that is made in earnest.
#[test]
fn bounds_of_sides_are_those_of_the_leaves_they_would_be() {
    let mut rng = Rng::seeded(2);
    let mut narrower = 0;
    for round in 0..2_000 {
        let monotone = MONOTONE[round % 4];
        let splits = 4 + round % 20;
        // Twice the same tree: an order is split for good.
        let seed = rng.next_u64();
        let leaf = rng.below(splits as u64) as usize;
        let (column, bin, missing_left) = (rng.below(3) as usize, 1 + rng.below(3) as u8, rng.bernoulli(0.5));
        let [first, mut second] = [(); 2].map(|()| grown(&mut Rng::seeded(seed), monotone, true, splits));
        if leaf >= first.leaves {
            continue;
        }
        let whole = first.order.bounds(leaf);
        let sides = first.order.bounds_of_sides(leaf, column, BINS, [missing_left, !missing_left]);
        let sides = sides.map_or([whole; 2], |sides| sides[usize::from(bin)]);
        // Values that bound each other nowhere.
        let values = if monotone[column] < 0 { [f64::INFINITY, f64::NEG_INFINITY] } else { [f64::NEG_INFINITY, f64::INFINITY] };
        let own = second.order.leaves[leaf].reach(column);
        let there = |left: bool| (1..=BINS).any(|b| own.has(b) && (b <= bin) == left);
        if !there(true) || !there(false) {
            continue;
        }
        second.order.split(leaf, &split(column, bin, missing_left, values));
        assert_eq!(sides, [second.order.bounds(leaf), second.order.bounds(second.leaves)], "round {round}");
        narrower += usize::from(sides != [whole; 2]);
        // What is not known to be on one side counts for both.
        if let Some(either) = first.order.bounds_of_sides(leaf, column, BINS, [true; 2]) {
            for (either, side) in either[usize::from(bin)].iter().zip(sides) {
                assert!(whole.low >= either.low && either.low >= side.low && whole.high <= either.high && either.high <= side.high);
            }
        }
    }
    assert!(narrower > 40, "{narrower}");
}

#[test]
fn settled_values_are_in_order_and_as_near_as_each_can_come() {
    let mut rng = Rng::seeded(3);
    for round in 0..200 {
        let Grown { mut order, leaves, .. } = grown(&mut rng, MONOTONE[round % 4], false, 3 + round % 25);
        let own: Vec<f64> = (0..leaves).map(|_| 2.0 * rng.normal()).collect();
        let before: Vec<f64> = order.leaves.iter().map(|place| 0.1 * place.value).collect();
        let mut values = own.clone();
        order.settle(&mut values, 0.1);
        for (leaf, &value) in values.iter().enumerate() {
            let bounds = order.bounds(leaf);
            assert_eq!(value, own[leaf].max(bounds.low).min(bounds.high));
        }
        let off = |values: &[f64]| values.iter().zip(&own).map(|(value, own)| (value - own).powi(2)).sum::<f64>();
        assert!(off(&values) <= off(&before));
    }
}

/// Two columns with directions, one without that bends them, one of categories, one with holes; noise everywhere.
fn rows(count: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let row = |_| {
        let x = [rng.normal(), rng.normal(), rng.normal(), rng.below(12) as f64, rng.normal()];
        let margin = x[0].max(0.3 * x[2]) - (x[1] * if x[2] > 0.0 { 1.5 } else { 0.2 }) + (5.0 * x[3]).sin() + 0.5 * x[4] + rng.normal();
        let holes = if rng.bernoulli(0.15) { f64::NAN } else { x[4] };
        vec![x[0], x[1], x[2], x[3], holes, f64::from(u8::from(margin > 0.0))]
    };
    training_set(&(0..count).map(row).collect::<Vec<_>>())
}

fn parameters(method: MonotoneMethod) -> Gbdt {
    Gbdt {
        trees: 25,
        learning_rate: 0.2,
        min_leaf_rows: 3,
        early_stopping: None,
        monotone: vec![1, -1, 0, 0, 1],
        monotone_method: method,
        categorical: vec!["x3".into()],
        ..Gbdt::default()
    }
}

const METHODS: [MonotoneMethod; 3] = [MonotoneMethod::Basic, MonotoneMethod::Intermediate, MonotoneMethod::Advanced];

#[test]
fn every_method_keeps_the_directions_wherever_one_walks() {
    let set = rows(3_000, 4);
    let mut rng = Rng::seeded(5);
    let objectives = [Objective::Binary, Objective::SquaredError, Objective::AbsoluteError, Objective::Poisson];
    for (method, objective) in METHODS.into_iter().flat_map(|method| objectives.map(|objective| (method, objective))) {
        for sampled in [1.0, 0.6] {
            let parameters =
                Gbdt { objective, bagging_fraction: sampled, column_fraction: sampled, lambda_l2: sampled - 0.6, ..parameters(method) };
            let model = fit(&set, &parameters).unwrap();
            let certificate = model.report().certificate.clone().unwrap();
            assert!(certificate.splits > model.trees(), "{method:?}: {certificate:?}");
            for _ in 0..2_000 {
                let mut row: Vec<f64> = (0..5).map(|_| if rng.bernoulli(0.1) { f64::NAN } else { 1.5 * rng.normal() }).collect();
                row[3] = rng.below(13) as f64;
                let (column, direction) = [(0, 1.0), (1, -1.0), (4, 1.0)][rng.below(3) as usize];
                row[column] = 1.5 * rng.normal();
                let before = model.margin(&row);
                row[column] += rng.exponential(1.0);
                let after = model.margin(&row);
                assert!(direction * (after - before) >= 0.0, "{method:?}, {objective:?}, column {column}: {before} then {after}, {row:?}");
            }
        }
    }
}

/// Rows that were held back for nothing fit better: what the methods are for.
#[test]
fn a_wider_method_fits_better() {
    let set = rows(6_000, 6);
    let loss = |method| {
        let model = fit(&set, &parameters(method)).unwrap();
        crate::metrics::log_loss(&model.probabilities(&set.matrix), &set.labels)
    };
    let [basic, intermediate, advanced] = METHODS.map(loss);
    assert!(intermediate < 0.995 * basic && advanced < 0.995 * basic, "{basic} {intermediate} {advanced}");
}

#[test]
fn the_number_of_threads_and_the_file_change_nothing() {
    let set = rows(40_000, 7);
    for method in METHODS {
        let parameters = Gbdt { trees: 4, ..parameters(method) };
        let bytes = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fit(&set, &parameters).unwrap().to_bytes())
        };
        let one = bytes(1);
        assert!(one == bytes(2) && one == bytes(8), "{method:?}");
        let back = super::super::open(&one).unwrap();
        assert!(back.parameters() == &parameters && back.to_bytes() == one && back.certify().unwrap().is_some());
    }
}
