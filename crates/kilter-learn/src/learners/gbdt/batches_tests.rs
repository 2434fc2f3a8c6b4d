//! Rows in batches give the model of all rows at once.

use kilter_stats::Rng;

use super::super::{Objective, fit};
use super::*;
use crate::Model;

/// A set handed out so many rows at a time.
struct Parts<'a> {
    set: &'a TrainingSet,
    size: usize,
    /// How often it was read.
    read: usize,
}

impl Batches for Parts<'_> {
    fn names(&self) -> &[String] {
        self.set.matrix.names()
    }

    fn rows(&self) -> usize {
        self.set.rows()
    }

    fn each(&mut self, take: &mut Take<'_>) -> Result<(), LearnError> {
        self.read += 1;
        let starts = (0..self.set.rows()).step_by(self.size);
        starts.map(|start| self.set.slice(start..(start + self.size).min(self.set.rows()))).try_for_each(|part| take(&part))
    }
}

fn in_parts(set: &TrainingSet, size: usize, parameters: &Gbdt) -> Result<GbdtModel, LearnError> {
    // Any place in memory will do.
    let mut lent = vec![7; room(set.rows(), set.matrix.columns()) + 5];
    let mut parts = Parts { set, size, read: 0 };
    let model = fit_batches(&mut parts, parameters, &mut lent[5..]);
    assert!(parts.read <= 2);
    model
}

/// Two numbers with gaps, one category of few levels and one of many, and a number of no use.
fn set(rows: usize, weighted: bool) -> TrainingSet {
    let mut rng = Rng::seeded(3);
    let mut matrix = Matrix::with_columns(["a", "few", "b", "many", "noise"].map(String::from).to_vec());
    let labels = (0..rows)
        .map(|_| {
            let (a, b, few, many) = (rng.normal(), rng.normal(), rng.below(7) as f64, rng.below(400) as f64);
            let gap = |value: f64, rng: &mut Rng| if rng.bernoulli(0.1) { f64::NAN } else { value };
            matrix.push_row(&[gap(a, &mut rng), gap(few, &mut rng), gap(b, &mut rng), many, rng.uniform()]);
            f64::from(u8::from(a * b + [0.5, -1.0, 2.0][few as usize % 3] + (many % 5.0) / 4.0 + rng.normal() > 1.0))
        })
        .collect();
    let weights = weighted.then(|| (0..rows).map(|_| rng.below(4) as f64 * 0.5).collect());
    TrainingSet { weights, ..TrainingSet::new(matrix, labels) }
}

fn quick() -> Gbdt {
    Gbdt { trees: 12, learning_rate: 0.2, early_stopping: None, ..Gbdt::default() }
}

#[test]
fn batches_give_the_bytes_of_all_rows_at_once() {
    let categorical = vec!["many".to_owned(), "few".to_owned()];
    let cases = [
        quick(),
        Gbdt { early_stopping: Some(3), trees: 60, ..quick() },
        Gbdt { categorical: categorical.clone(), ..quick() },
        Gbdt { categorical, max_cat_groups: 50, monotone: vec![1, 0, -1, 0, 0], early_stopping: Some(3), ..quick() },
        Gbdt { bagging_fraction: 0.6, column_fraction: 0.6, bins: 30, objective: Objective::SquaredError, ..quick() },
    ];
    for (weighted, parameters) in [false, true].into_iter().flat_map(|weighted| cases.iter().map(move |case| (weighted, case))) {
        let set = set(3_001, weighted);
        let whole = fit(&set, parameters).unwrap().to_bytes();
        for size in [100, 1_024, 3_000, 3_001, 9_999] {
            assert!(
                in_parts(&set, size, parameters).unwrap().to_bytes() == whole,
                "{size} rows a batch, weights: {weighted}, {parameters:?}"
            );
        }
    }
    let small = set(90, false);
    assert!(in_parts(&small, 1, &quick()).unwrap().to_bytes() == fit(&small, &quick()).unwrap().to_bytes());
}

/// More rows than cuts are placed by.
#[test]
fn the_sample_is_the_same() {
    let mut rng = Rng::seeded(9);
    let values: Vec<f64> = (0..230_000).map(|_| rng.normal()).collect();
    let labels = values.iter().map(|&value| f64::from(u8::from(value + rng.normal() > 0.0))).collect();
    let set = TrainingSet::new(Matrix::from_columns(vec!["x".into()], vec![values]), labels);
    let parameters = Gbdt { trees: 2, ..quick() };
    assert!(in_parts(&set, 70_001, &parameters).unwrap().to_bytes() == fit(&set, &parameters).unwrap().to_bytes());
}

/// What comes otherwise the second time, or not as announced.
struct Odd {
    names: Vec<String>,
    rows: usize,
    readings: Vec<Vec<TrainingSet>>,
}

impl Batches for Odd {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn each(&mut self, take: &mut Take<'_>) -> Result<(), LearnError> {
        self.readings.remove(0).iter().try_for_each(take)
    }
}

#[test]
fn what_does_not_come_as_it_should_is_told() {
    let all = set(400, false);
    let names = all.matrix.names().to_vec();
    let mut lent = vec![0; room(400, 5)];
    let mut run = |rows: usize, readings: Vec<Vec<TrainingSet>>, lent_bytes: usize| {
        let mut odd = Odd { names: names.clone(), rows, readings };
        fit_batches(&mut odd, &quick(), &mut lent[..lent_bytes]).map(|_| ()).unwrap_err()
    };
    let bytes = room(400, 5);
    let count = |announced: usize, came: usize| LearnError::Source { what: format!("{announced} rows were announced, {came} came") };
    assert_eq!(run(400, vec![vec![all.slice(0..399)]], bytes), count(400, 399));
    assert_eq!(run(399, vec![vec![all.clone()]], bytes), count(399, 400));
    let less = vec![vec![all.clone()], vec![all.slice(0..200)]];
    assert_eq!(run(400, less, bytes), count(400, 200));
    let more = vec![vec![all.clone()], vec![all.clone(), all.slice(0..1)]];
    assert_eq!(run(400, more, bytes), count(400, 401));
    assert_eq!(run(400, vec![], bytes - 1), LearnError::LengthMismatch { what: "bytes of room", expected: bytes, found: bytes - 1 });
    assert_eq!(run(0, vec![], bytes), LearnError::NoRows);
    let mixed = TrainingSet { weights: Some(vec![1.0; 200]), ..all.slice(200..400) };
    assert!(matches!(run(400, vec![vec![all.slice(0..200), mixed]], bytes), LearnError::Source { .. }));
    let heavy = TrainingSet { weights: Some(vec![-1.0; 400]), ..all.clone() };
    assert_eq!(run(400, vec![vec![heavy]], bytes), LearnError::BadWeight { row: 0, value: -1.0 });
    let mut odd_label = all.clone();
    odd_label.labels[399] = 3.0;
    let halves = vec![vec![odd_label.slice(0..200), odd_label.slice(200..400)]];
    assert!(matches!(run(400, halves, bytes), LearnError::BadLabel { row: 399, .. }), "rows are counted over all batches");
    let other = TrainingSet::new(Matrix::from_columns(vec!["z".into()], vec![vec![0.0; 400]]), vec![0.0; 400]);
    assert!(matches!(run(400, vec![vec![other]], bytes), LearnError::DifferentColumns { .. }));
    let short = TrainingSet { labels: vec![0.0; 3], ..all.clone() };
    assert_eq!(run(400, vec![vec![short]], bytes), LearnError::LengthMismatch { what: "labels", expected: 400, found: 3 });
}
