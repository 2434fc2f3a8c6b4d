//! Lambdas against the formula written out, and what trees learn from them.

use kilter_stats::Rng;

use super::super::course::Course;
use super::super::{fit, fit_by, refit_by};
use super::*;
use crate::matrix::tests::training_set;
use crate::{Link, Model, load};

fn ranking(truncation: usize, normalise: bool) -> Gbdt {
    let objective = Objective::LambdaRank { truncation, normalise, sigmoid: 1.0 };
    Gbdt { objective, trees: 30, learning_rate: 0.1, early_stopping: None, min_leaf_rows: 5, ..Gbdt::default() }
}

/// The derivatives of one query, pair by pair as the page of LightGBM's authors has it.
fn written_out(margins: &[f64], gains: &[f64], truncation: usize, normalise: bool, sigmoid: f64) -> Vec<[f64; 2]> {
    let rows = margins.len();
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by(|&a, &b| margins[b].partial_cmp(&margins[a]).unwrap().then(a.cmp(&b)));
    let mut sorted = gains.to_vec();
    sorted.sort_by(|a, b| b.partial_cmp(a).unwrap());
    let discount = |place: usize| 1.0 / (place as f64 + 2.0).log2();
    let best: f64 = sorted.iter().take(truncation).enumerate().map(|(place, gain)| gain * discount(place)).sum();
    let mut out = vec![[0.0; 2]; rows];
    let mut total = 0.0;
    for upper in 0..rows {
        for lower in upper + 1..rows {
            let (a, b) = (order[upper], order[lower]);
            if upper >= truncation || gains[a] == gains[b] || best == 0.0 {
                continue;
            }
            let (better, worse) = if gains[a] > gains[b] { (a, b) } else { (b, a) };
            let mut delta = (gains[better] - gains[worse]) * (discount(upper) - discount(lower)) / best;
            if normalise && margins[order[0]] != margins[order[rows - 1]] {
                delta /= 0.01 + (margins[a] - margins[b]).abs();
            }
            let wrong = 1.0 / (1.0 + (sigmoid * (margins[better] - margins[worse])).exp());
            let (pull, curvature) = (sigmoid * delta * wrong, sigmoid * sigmoid * delta * wrong * (1.0 - wrong));
            out[better][0] -= pull;
            out[worse][0] += pull;
            out[better][1] += curvature;
            out[worse][1] += curvature;
            total += 2.0 * pull;
        }
    }
    if normalise && total > 0.0 {
        let factor = (1.0f64 + total).log2() / total;
        out.iter_mut().for_each(|[g, h]| (*g, *h) = (*g * factor, *h * factor));
    }
    out
}

#[test]
fn derivatives_are_the_formula_written_out() {
    let mut rng = Rng::seeded(1);
    for case in 0..300 {
        let (truncation, normalise, sigmoid) = ([1, 3, 10, 30][case % 4], case % 3 > 0, [1.0, 2.0, 0.3][case / 4 % 3]);
        let sizes: Vec<usize> = (0..1 + rng.below(5)).map(|_| 1 + rng.below(40) as usize).collect();
        let rows = sizes.iter().sum();
        // Now and then rows are level, or all are.
        let coarse = case % 5 == 0;
        let margins: Vec<f64> = (0..rows).map(|_| if coarse { rng.below(2) as f64 } else { 3.0 * rng.normal() }).collect();
        let labels: Vec<f64> = (0..rows).map(|_| rng.below(4) as f64).collect();
        let weights: Option<Vec<f64>> = (case % 2 == 0).then(|| (0..rows).map(|_| rng.uniform()).collect());
        let label_gain = if case % 7 == 0 { vec![0.0, 1.0, 1.0, 5.0] } else { Vec::new() };
        let objective = Objective::LambdaRank { truncation, normalise, sigmoid };
        let parameters = Gbdt { objective, label_gain, ..Gbdt::default() };
        let lambdas = LambdaRank::new(&parameters, &labels, &sizes).unwrap();
        let mut found = vec![[7.0; 2]; rows];
        let seen = Rows { margins: &margins, labels: &labels, weights: weights.as_deref(), queries: &sizes };
        lambdas.derivatives(seen, &mut found).unwrap();
        let mut start = 0;
        for &size in &sizes {
            let own = start..start + size;
            let of_label = gains(&parameters);
            let gains: Vec<f64> = labels[own.clone()].iter().map(|&label| of_label[label as usize]).collect();
            let expected = written_out(&margins[own.clone()], &gains, truncation, normalise, sigmoid);
            for (row, [g, h]) in own.zip(expected) {
                let weight = seen.weight(row);
                let [found_g, found_h] = found[row];
                assert!(
                    (found_g - weight * g).abs() < 1e-12 * (1.0 + g.abs()) && (found_h - weight * h).abs() < 1e-12 * (1.0 + h),
                    "{case}"
                );
            }
            start += size;
        }
    }
}

#[test]
fn every_level_has_the_same_bits() {
    let mut rng = Rng::seeded(2);
    let rows = 101;
    let mut margins: Vec<f64> = (0..rows).map(|_| rng.normal()).collect();
    margins.sort_by(|a, b| b.total_cmp(a));
    let gains: Vec<f64> = (0..rows).map(|_| rng.below(3) as f64).collect();
    let discounts: Vec<f64> = (1..=rows).map(discount).collect();
    for by_distance in [false, true] {
        let slopes = Slopes { sigmoid: 1.5, by_distance, inverse_best: 0.3 };
        let upper = Upper { margin: margins[0] + 0.1, gain: 1.0, discount: 1.0 };
        let run = |level| {
            let (mut pulls, mut curvatures) = (vec![0.0; rows], vec![0.0; rows]);
            let lower = Lower { margins: &margins, gains: &gains, discounts: &discounts, pulls: &mut pulls, curvatures: &mut curvatures };
            pairs(level, &slopes, &upper, lower);
            (pulls, curvatures)
        };
        let expected = run(Level::all()[0]);
        assert!(expected.0.iter().any(|pull| *pull > 0.0) && expected.0.iter().any(|pull| *pull < 0.0));
        assert!(Level::all().into_iter().all(|level| run(level) == expected));
    }
}

/// Queries of 5 to 40 rows whose labels 0 to 4 grow with two columns, set off by a column that a query has in common.
fn queries(count: usize, seed: u64) -> (TrainingSet, Vec<usize>) {
    let mut rng = Rng::seeded(seed);
    let (mut rows, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let common = rng.normal();
        let size = 5 + rng.below(36) as usize;
        sizes.push(size);
        for _ in 0..size {
            let (a, b, c) = (rng.normal(), rng.normal(), rng.normal());
            let worth = a + (if b > 0.0 { 1.0 } else { -0.5 }) + 0.5 * common + 0.7 * rng.normal();
            rows.push(vec![a, b, c, common, (worth + 1.5).floor().clamp(0.0, 4.0)]);
        }
    }
    (training_set(&rows), sizes)
}

#[test]
fn trees_learn_to_rank_and_keep_it_through_a_file() {
    let ((set, sizes), (later, later_sizes)) = (queries(300, 3), queries(100, 4));
    for normalise in [true, false] {
        let parameters = ranking(30, normalise);
        let model = fit_by(&set, &parameters, &Course { queries: &sizes, ..Course::default() }).unwrap();
        let judge = |model: &dyn Model| {
            let rows = Rows { margins: &model.margins(&later.matrix), labels: &later.labels, weights: None, queries: &later_sizes };
            Ndcg::new(10, &parameters).measure(rows).unwrap().value
        };
        let of_pointwise = {
            let objective = Objective::SquaredError;
            judge(&fit(&set, &Gbdt { objective, trees: 1, leaves: 2, ..parameters.clone() }).unwrap())
        };
        assert!(judge(&model) > 0.85 && judge(&model) > of_pointwise + 0.05, "{} and {of_pointwise}", judge(&model));
        let back = load(&model.to_bytes()).unwrap();
        assert_eq!((back.link(), judge(&*back).to_bits()), (Link::Identity, judge(&model).to_bits()));
        assert_eq!(model.report().positives, None);
    }
}

#[test]
fn same_bytes_on_any_number_of_threads() {
    let (set, sizes) = queries(700, 5);
    let parameters = Gbdt { bagging_fraction: 0.7, early_stopping: Some(3), trees: 12, ..ranking(10, true) };
    let bytes = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fit_by(&set, &parameters, &Course { queries: &sizes, ..Course::default() }).unwrap().to_bytes())
    };
    let one = bytes(1);
    assert!(one == bytes(2) && one == bytes(8));
}

#[test]
fn stops_where_ndcg_is_highest_and_holds_out_whole_queries() {
    let (set, sizes) = queries(150, 6);
    let parameters = Gbdt { trees: 400, learning_rate: 0.3, early_stopping: Some(10), validation_fraction: 0.3, ..ranking(5, true) };
    let model = fit_by(&set, &parameters, &Course { queries: &sizes, ..Course::default() }).unwrap();
    let report = model.report();
    let metric = report.metric.as_ref().unwrap();
    assert_eq!((metric.name.as_str(), metric.higher_is_better, report.validation_loss.len()), ("ndcg@5", true, 0));
    let best = metric.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    assert_eq!(metric.values.iter().position(|&value| value == best), Some(model.trees() - 1));
    assert!(report.stopped_early && report.trees_grown == model.trees() + 10);
    // 70 % of the rows, and no part of the query that the border would cut.
    let mut end = 0;
    let own: Vec<usize> = sizes
        .iter()
        .map_while(|size| {
            end += size;
            (end <= report.rows).then_some(end)
        })
        .collect();
    assert_eq!(own.last(), Some(&report.rows));
    let wanted = (set.rows() as f64 * 0.7) as usize;
    assert!(report.rows <= wanted && report.rows + sizes[own.len()] > wanted && report.rows + report.validation_rows == set.rows());
}

#[test]
fn a_ranking_is_refitted_and_continued_with_queries() {
    let (set, sizes) = queries(100, 7);
    let course = Course { queries: &sizes, ..Course::default() };
    let parameters = Gbdt { trees: 5, ..ranking(30, true) };
    let model = fit_by(&set, &parameters, &course).unwrap();
    // Of lambdas there are no known limits, so leaves are sums of floats: the same rows give the same values.
    let again = refit_by(&model, &set, 0.0, &course).unwrap();
    assert!((0..5).all(|tree| model.tree(tree) == again.tree(tree)));
    let more = fit_by(&set, &parameters, &Course { earlier: Some(&model), ..course }).unwrap();
    let whole = fit_by(&set, &Gbdt { trees: 10, ..parameters }, &course).unwrap();
    assert!((0..10).all(|tree| more.tree(tree) == whole.tree(tree)));
}

#[test]
fn what_cannot_be_ranked_is_refused() {
    let (set, sizes) = queries(20, 8);
    let of =
        |set: &TrainingSet, queries: &[usize], parameters: &Gbdt| fit_by(set, parameters, &Course { queries, ..Course::default() }).err();
    let name = |error: Option<LearnError>| match error {
        Some(LearnError::BadParameter { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    let good = ranking(30, true);
    assert_eq!(of(&set, &sizes, &good), None);
    assert_eq!(name(of(&set, &[], &good)), "queries");
    assert_eq!(name(of(&set, &[&sizes[..], &[0]].concat(), &good)), "queries");
    let more = LearnError::LengthMismatch { what: "rows of all queries", expected: set.rows(), found: set.rows() + 1 };
    assert_eq!(of(&set, &[&sizes[..], &[1]].concat(), &good), Some(more));
    assert!(matches!(of(&set, &[usize::MAX, 2], &good), Some(LearnError::LengthMismatch { .. })));
    assert_eq!(name(of(&set, &sizes, &Gbdt { objective: Objective::SquaredError, ..good.clone() })), "queries");
    assert_eq!(name(of(&set, &sizes, &ranking(0, true))), "lambda_rank.truncation");
    for label in [0.5, -1.0, 31.0, f64::NAN] {
        let mut set = set.clone();
        set.labels[3] = label;
        assert!(matches!(of(&set, &sizes, &good), Some(LearnError::BadLabel { row: 3, .. })));
    }
    let with_gains = |label_gain: &[f64]| Gbdt { label_gain: label_gain.to_vec(), ..good.clone() };
    assert!(matches!(of(&set, &sizes, &with_gains(&[0.0, 1.0])), Some(LearnError::BadLabel { .. })));
    assert_eq!(name(of(&set, &sizes, &with_gains(&[1.0, 0.0, 2.0, 3.0, 4.0]))), "label_gain");
    assert_eq!(name(of(&set, &[], &Gbdt { objective: Objective::SquaredError, ..with_gains(&[0.0, 1.0]) })), "label_gain");
    // Nothing to find in the rows that are watched: there is no NDCG to stop by.
    let level = TrainingSet { labels: vec![0.0; set.rows()], ..set.clone() };
    let course = Course { queries: &sizes, validation: Some(&level), validation_queries: &sizes, ..Course::default() };
    assert_eq!(fit_by(&set, &good, &course).err(), Some(LearnError::NoMetric { name: "ndcg@30".into() }));
    // Nothing to learn is no error: no tree is grown.
    assert_eq!(fit_by(&level, &good, &Course { queries: &sizes, ..Course::default() }).unwrap().trees(), 0);
}
