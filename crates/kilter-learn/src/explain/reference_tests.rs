//! Against the definition: all coalitions.

use kilter_stats::Rng;

use super::*;
use crate::calibration::Method;
use crate::pipeline::{Fill, Step};
use crate::{
    Calibration, Explainable, Forest, Gbdt, Isolation, Learner, Linear, Logistic, Scorecard, TrainingSet, calibrate, exchange, isolation,
    linear, load, pipeline,
};

/// Three numbers with gaps, one of which is noise, and a category.
fn rows(count: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let mut matrix = Matrix::with_columns(["a", "b", "kind", "c"].map(String::from).to_vec());
    let labels = (0..count)
        .map(|_| {
            let (a, b, kind, c) = (rng.normal(), rng.normal(), rng.below(5) as f64, rng.normal());
            matrix.push_row(&[if rng.bernoulli(0.1) { f64::NAN } else { a }, b, kind, c]);
            f64::from(u8::from(a * b + [0.5, -1.0, 1.0, 0.0, 0.3][kind as usize] + rng.normal() > 0.0))
        })
        .collect();
    TrainingSet::new(matrix, labels)
}

/// Every coalition's worth, then the definition of Shapley (1953).
fn by_definition(model: &dyn Model, row: &[f64], reference: &Matrix) -> (Vec<f64>, f64) {
    let inputs = row.len();
    let mut other = Vec::new();
    let worth: Vec<f64> = (0..1usize << inputs)
        .map(|coalition| {
            let margins = (0..reference.rows()).map(|r| {
                reference.row(r, &mut other);
                (0..inputs).filter(|input| coalition >> input & 1 == 1).for_each(|input| other[input] = row[input]);
                model.margin(&other)
            });
            margins.sum::<f64>() / reference.rows() as f64
        })
        .collect();
    let factorial = |n: usize| (1..=n).product::<usize>() as f64;
    let of = |input: usize| {
        let without = (0..1usize << inputs).filter(|coalition| coalition >> input & 1 == 0);
        without
            .map(|coalition| {
                let size = coalition.count_ones() as usize;
                factorial(size) * factorial(inputs - size - 1) / factorial(inputs) * (worth[coalition | 1 << input] - worth[coalition])
            })
            .sum()
    };
    ((0..inputs).map(of).collect(), worth[0])
}

fn check(model: &dyn Model, tolerance: f64) {
    let (reference, probes) = (rows(7, 5).matrix, rows(12, 6).matrix);
    let mut row = Vec::new();
    let mut sizes = 0.0;
    for r in 0..probes.rows() {
        probes.row(r, &mut row);
        let (found, base) = explain_against(model, &row, &reference).unwrap();
        let (expected, mean) = by_definition(model, &row, &reference);
        for (found, expected) in found.iter().zip(&expected).chain([(&base, &mean)]) {
            assert!((found - expected).abs() < tolerance, "{}: {found} instead of {expected}", model.kind());
        }
        assert!((base + found.iter().sum::<f64>() - model.margin(&row)).abs() < tolerance);
        sizes += found.iter().map(|contribution| contribution.abs()).sum::<f64>();
    }
    assert!(sizes > 0.1, "{}: there is something to explain", model.kind());
}

#[test]
fn every_model_gives_the_values_of_the_definition() {
    let set = rows(600, 1);
    let logistic = || Learner::Logistic(Logistic::default()).fit(&set).unwrap();
    let trees = Gbdt { trees: 8, leaves: 12, early_stopping: None, ..Gbdt::default() };
    let categories = Gbdt { categorical: vec!["kind".into()], ..trees.clone() };
    let statistics = Gbdt { max_cat_groups: 2, ..categories.clone() };
    let fitted: Vec<Box<dyn Model>> = [
        Learner::Gbdt(trees.clone()),
        Learner::Gbdt(categories),
        Learner::Gbdt(statistics),
        Learner::Forest(Forest { trees: 5, min_leaf_rows: 10, ..Forest::default() }),
        Learner::Explainable(Explainable { bins: 8, pair_bins: 4, bags: 2, rounds: 40, pairs: 2, ..Explainable::default() }),
        Learner::Scorecard(Scorecard { min_iv: 0.0, ..Scorecard::default() }),
    ]
    .map(|learner| learner.fit(&set).unwrap())
    .into();
    for model in &fitted {
        check(model.as_ref(), 1e-9);
        check(load(&model.to_bytes()).unwrap().as_ref(), 1e-9);
    }
    check(logistic().as_ref(), 1e-9);
    check(&linear::fit(&set, &Linear::default()).unwrap(), 1e-9);
    check(&isolation::fit(&set.matrix, &Isolation { trees: 6, sample: 64, seed: 1 }).unwrap(), 1e-9);
    check(&calibrate(logistic(), &set, &Calibration { method: Method::Platt, target_rate: None }).unwrap(), 1e-9);
    let foreign = exchange::export(&Learner::Gbdt(trees).fit(&set).unwrap().to_bytes(), exchange::Format::LightGbm).unwrap();
    check(&exchange::import(&foreign).unwrap(), 1e-9);
}

/// What a pipeline makes of an input in several columns is one player there, and one of several in the definition by inputs: sums are what it tells.
#[test]
fn a_pipelines_contributions_add_up() {
    let set = rows(600, 1);
    let steps = [Step::Impute { columns: vec!["a".into()], fill: Fill::Median, indicator: true }];
    let model =
        pipeline::fit(&set, &steps, |set| Learner::Gbdt(Gbdt { trees: 5, early_stopping: None, ..Gbdt::default() }).fit(set)).unwrap();
    let (reference, mut row) = (rows(9, 5).matrix, Vec::new());
    rows(1, 8).matrix.row(0, &mut row);
    let (contributions, base) = explain_against(&model, &row, &reference).unwrap();
    assert_eq!(contributions.len(), 4);
    assert!((base + contributions.iter().sum::<f64>() - model.margin(&row)).abs() < 1e-9);
    let mean = model.margins(&reference).iter().sum::<f64>() / 9.0;
    assert!((base - mean).abs() < 1e-9);
}

#[test]
fn a_reference_must_have_rows_and_the_models_inputs() {
    let model = Learner::Logistic(Logistic::default()).fit(&rows(200, 1)).unwrap();
    let row = [0.0; 4];
    let none = Matrix::with_columns(model.inputs().to_vec());
    assert_eq!(explain_against(model.as_ref(), &row, &none).err(), Some(LearnError::NoRows));
    let other = Matrix::from_columns(vec!["z".into()], vec![vec![1.0]]);
    assert!(matches!(explain_against(model.as_ref(), &row, &other), Err(LearnError::DifferentInputs { .. })));
}

#[test]
fn binomials() {
    assert_eq!([(0, 0), (5, 0), (5, 2), (5, 5), (60, 30)].map(|(n, k)| binomial(n, k)), [1.0, 1.0, 10.0, 1.0, 118_264_581_564_861_424.0]);
}
