//! What a training tells of a model beside its figures: the curves of the held-out rows, and what its inputs contribute to their scores.
//!
//! A function of the model and of those rows. Most of it is counted up, but scores of single rows are in it as thresholds: an erasure removes it.

use kilter_learn::metrics::{CalibrationBin, CurvePoint, GainsRow, calibration, curve, gains};
use kilter_learn::{Matrix, Model, Task};
use kilter_pipeline::training::HeldOut;
use serde::Serialize;

/// The file of a run.
pub const CURVES_FILE: &str = "curves.json";
/// Points of a curve at most.
const POINTS: usize = 200;
const THRESHOLDS: usize = 100;
/// Bins of histograms.
const BINS: usize = 40;
/// Bins and parts of as many rows each ...
const PARTS: usize = 20;
/// ... and at least so many.
const FEWEST: usize = 10;
/// Rows that are explained at most ...
const EXPLAINED: usize = 500;
/// ... and no more than this many nodes of trees are visited for them.
const VISITS: u64 = 20_000_000;
/// Inputs whose dependence is told.
const STRONGEST: usize = 12;

#[derive(Serialize)]
pub struct Curves {
    task: &'static str,
    rows: usize,
    /// None where labels are numbers, or some are not known.
    positives: Option<usize>,
    rows_from: String,
    rows_to: String,
    roc: Vec<RocPoint>,
    precision_recall: Vec<PrecisionPoint>,
    /// Of a model that predicts numbers: mean prediction and mean label.
    calibration: Vec<CalibrationBin>,
    gains: Vec<GainsRow>,
    thresholds: Vec<AtThreshold>,
    scores: Histogram,
    /// Prediction less label, where labels are numbers.
    residuals: Option<Histogram>,
    importance: Vec<Importance>,
    shap: Option<Shap>,
}

#[derive(Serialize)]
struct RocPoint {
    /// None: above every score.
    threshold: Option<f64>,
    false_positive_rate: f64,
    true_positive_rate: f64,
}

#[derive(Serialize)]
struct PrecisionPoint {
    threshold: f64,
    recall: f64,
    precision: f64,
}

/// What comes of calling scores of a threshold and above positive.
#[derive(Serialize)]
struct AtThreshold {
    threshold: f64,
    true_positives: u64,
    false_positives: u64,
    true_negatives: u64,
    false_negatives: u64,
}

/// Bin i holds what is not below edge i, and below the next one; the last bin that edge too.
#[derive(Serialize)]
struct Histogram {
    edges: Vec<f64>,
    all: Vec<u64>,
    positives: Option<Vec<u64>>,
    negatives: Option<Vec<u64>>,
}

#[derive(Serialize)]
struct Importance {
    feature: String,
    importance: f64,
}

/// On the scale of the model's link.
#[derive(Serialize)]
struct Shap {
    /// Explained, spread over the held-out ones.
    rows: usize,
    base: f64,
    /// Strongest first.
    features: Vec<Contribution>,
    dependence: Vec<Dependence>,
}

#[derive(Serialize)]
struct Contribution {
    feature: String,
    mean_abs: f64,
    mean: f64,
    /// Its values are codes of categories.
    categorical: bool,
}

#[derive(Serialize)]
struct Dependence {
    feature: String,
    /// By value, each of as many rows.
    bins: Vec<DependenceBin>,
    missing: Missing,
}

/// Of ten rows or more.
#[derive(Serialize)]
struct DependenceBin {
    /// The mean of the ten lowest values, and of the ten highest: no value of one row.
    low: f64,
    high: f64,
    count: usize,
    /// Of the contributions.
    mean: f64,
    p10: f64,
    p90: f64,
}

#[derive(Serialize)]
struct Missing {
    count: usize,
    /// Of ten rows or more.
    mean: Option<f64>,
}

impl Curves {
    pub fn of(task: Task, model: &dyn Model, held: &HeldOut) -> Curves {
        let HeldOut { set, times } = held;
        let (matrix, labels) = (&set.matrix, &set.labels);
        let scores = model.predictions(matrix);
        let classes = !task.has_numbers() && !labels.iter().any(|label| label.is_nan());
        // With one class only there is nothing to tell apart.
        let positives = if classes { set.positives() } else { 0 };
        let apart = positives > 0 && positives < labels.len();
        let curve = if apart { curve(&scores, labels, None) } else { Vec::new() };
        let parts = PARTS.min(labels.len() / FEWEST).max(1);
        let mut importance: Vec<Importance> = (model.inputs().iter().zip(model.importance()))
            .map(|(feature, importance)| Importance { feature: feature.clone(), importance })
            .collect();
        importance.sort_by(|a, b| b.importance.total_cmp(&a.importance));
        let probability = matches!(task, Task::Classes).then_some((0.0, 1.0));
        let errors = || scores.iter().zip(labels).map(|(score, label)| score - label).collect::<Vec<f64>>();
        Curves {
            task: match task {
                Task::Classes => "classes",
                Task::Numbers(_) => "numbers",
                Task::Anomalies => "anomalies",
            },
            rows: labels.len(),
            positives: classes.then_some(positives),
            rows_from: times.from.to_string(),
            rows_to: times.to.to_string(),
            roc: roc(&curve),
            precision_recall: precision_recall(&curve),
            calibration: if matches!(task, Task::Anomalies) { Vec::new() } else { calibration(&scores, labels, parts) },
            gains: if apart { gains(&scores, labels, parts) } else { Vec::new() },
            thresholds: thresholds(&curve, positives, labels.len() - positives),
            scores: Histogram::of(&scores, classes.then_some(labels), probability),
            residuals: task.has_numbers().then(|| Histogram::of(&errors(), None, None)),
            importance,
            shap: Shap::of(model, matrix),
        }
    }
}

/// Of a curve that grows from 0 to 1 the points after each of so many equal steps, the first and the last one among them.
fn chosen(curve: &[CurvePoint], most: usize, along: impl Fn(&CurvePoint) -> f64) -> Vec<CurvePoint> {
    let mut next = 0.0;
    let mut chosen = Vec::with_capacity(most.min(curve.len()));
    for (place, point) in curve.iter().enumerate() {
        let at = along(point) * (most - 2) as f64;
        if place == 0 || place + 1 == curve.len() || at >= next {
            chosen.push(*point);
            next = at.floor() + 1.0;
        }
    }
    chosen
}

/// How far along both axes a point is.
fn diagonal(point: &CurvePoint) -> f64 {
    (point.true_positive_rate + point.false_positive_rate) / 2.0
}

fn roc(curve: &[CurvePoint]) -> Vec<RocPoint> {
    let start = (!curve.is_empty()).then_some(RocPoint { threshold: None, false_positive_rate: 0.0, true_positive_rate: 0.0 });
    let points = chosen(curve, POINTS, diagonal).into_iter().map(|point| RocPoint {
        threshold: Some(point.threshold),
        false_positive_rate: point.false_positive_rate,
        true_positive_rate: point.true_positive_rate,
    });
    start.into_iter().chain(points).collect()
}

fn precision_recall(curve: &[CurvePoint]) -> Vec<PrecisionPoint> {
    let points = chosen(curve, POINTS, |point| point.true_positive_rate).into_iter().map(|point| PrecisionPoint {
        threshold: point.threshold,
        recall: point.true_positive_rate,
        precision: point.precision,
    });
    points.collect()
}

/// Ascending.
fn thresholds(curve: &[CurvePoint], positives: usize, negatives: usize) -> Vec<AtThreshold> {
    // The rates are these counts, divided.
    let of = |rate: f64, all: usize| (rate * all as f64).round() as u64;
    let points = chosen(curve, THRESHOLDS, diagonal).into_iter().rev().map(|point| {
        let true_positives = of(point.true_positive_rate, positives);
        let false_positives = of(point.false_positive_rate, negatives);
        AtThreshold {
            threshold: point.threshold,
            true_positives,
            false_positives,
            true_negatives: negatives as u64 - false_positives,
            false_negatives: positives as u64 - true_positives,
        }
    });
    points.collect()
}

impl Histogram {
    /// `within`: where bins begin and end; none: at the lowest and the highest value.
    fn of(values: &[f64], labels: Option<&Vec<f64>>, within: Option<(f64, f64)>) -> Histogram {
        let (low, high) = within.unwrap_or_else(|| {
            let finite = values.iter().copied().filter(|value| value.is_finite());
            finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
        });
        // One value, or none, has no width of its own.
        let (low, high) = if low < high {
            (low, high)
        } else if low.is_finite() {
            (low - 0.5, low + 0.5)
        } else {
            (0.0, 1.0)
        };
        let edges: Vec<f64> = (0..=BINS).map(|edge| low + (high - low) * edge as f64 / BINS as f64).collect();
        let count = |wanted: &dyn Fn(usize) -> bool| {
            let mut bins = vec![0; BINS];
            for (_, value) in values.iter().enumerate().filter(|(row, value)| value.is_finite() && wanted(*row)) {
                bins[edges.partition_point(|edge| edge <= value).clamp(1, BINS) - 1] += 1;
            }
            bins
        };
        Histogram {
            all: count(&|_| true),
            positives: labels.map(|labels| count(&|row| labels[row] == 1.0)),
            negatives: labels.map(|labels| count(&|row| labels[row] == 0.0)),
            edges,
        }
    }
}

/// How many of so many rows are explained by a model whose trees have so many leaves.
fn explained(leaves: u64, rows: usize) -> usize {
    // A tree of n leaves has n - 1 splits.
    let affordable = VISITS / leaves.saturating_mul(2).max(1);
    rows.min(EXPLAINED).min(usize::try_from(affordable).unwrap_or(EXPLAINED))
}

/// Leaves of all trees of a model, also beneath its calibration and its steps; 0 without trees.
fn leaves(described: &serde_json::Value) -> u64 {
    match described["leaves"].as_u64() {
        Some(own) => own,
        None if described["model"].is_object() => leaves(&described["model"]),
        None => 0,
    }
}

impl Shap {
    /// None: there is nothing to explain, or one row would be too much.
    fn of(model: &dyn Model, matrix: &Matrix) -> Option<Shap> {
        let columns = matrix.columns();
        let most = explained(leaves(&model.describe()), matrix.rows());
        if most == 0 || columns == 0 {
            return None;
        }
        // Spread over all of them.
        let rows: Vec<usize> = (0..most).map(|n| n * matrix.rows() / most).collect();
        let all = model.explanations(&matrix.select(&rows));
        let explained: Vec<(usize, &[f64])> = rows.into_iter().zip(all.chunks(columns + 1)).collect();
        let mean = |of: &dyn Fn(&[f64]) -> f64| explained.iter().map(|(_, row)| of(row)).sum::<f64>() / explained.len() as f64;
        let categorical = model.categorical_inputs();
        let mut features: Vec<(usize, Contribution)> = (matrix.names().iter().enumerate())
            .map(|(input, feature)| {
                let contribution = Contribution {
                    feature: feature.clone(),
                    mean_abs: mean(&|row| row[input].abs()),
                    mean: mean(&|row| row[input]),
                    categorical: categorical.contains(&input),
                };
                (input, contribution)
            })
            .collect();
        features.sort_by(|a, b| b.1.mean_abs.total_cmp(&a.1.mean_abs));
        let dependence = features.iter().take(STRONGEST).map(|(input, contribution)| {
            let pairs = explained.iter().map(|(row, contributions)| (matrix.value(*row, *input), contributions[*input]));
            Dependence::of(contribution.feature.clone(), pairs.collect())
        });
        Some(Shap {
            rows: explained.len(),
            base: mean(&|row| row[columns]),
            dependence: dependence.collect(),
            features: features.into_iter().map(|(_, contribution)| contribution).collect(),
        })
    }
}

impl Dependence {
    fn of(feature: String, pairs: Vec<(f64, f64)>) -> Dependence {
        let (missing, mut known): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(value, _)| value.is_nan());
        known.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mean = |pairs: &[(f64, f64)]| pairs.iter().map(|(_, contribution)| contribution).sum::<f64>() / pairs.len() as f64;
        let mut bins = Vec::new();
        let mut rest = known.as_slice();
        let width = known.len().div_ceil(PARTS).max(FEWEST);
        while rest.len() >= FEWEST {
            let mut end = width.min(rest.len());
            // Equal values share a bin.
            while end < rest.len() && rest[end].0 == rest[end - 1].0 {
                end += 1;
            }
            if rest.len() - end < FEWEST {
                end = rest.len();
            }
            let (own, after) = rest.split_at(end);
            rest = after;
            let mut contributions: Vec<f64> = own.iter().map(|(_, contribution)| *contribution).collect();
            contributions.sort_unstable_by(f64::total_cmp);
            let at = |share: f64| contributions[((contributions.len() - 1) as f64 * share).round() as usize];
            let (low, high) = (edge(&own[..FEWEST]), edge(&own[own.len() - FEWEST..]));
            bins.push(DependenceBin { low, high, count: own.len(), mean: mean(own), p10: at(0.1), p90: at(0.9) });
        }
        let missing = Missing { count: missing.len(), mean: (missing.len() >= FEWEST).then(|| mean(&missing)) };
        Dependence { feature, bins, missing }
    }
}

/// The mean of the values; their value where they are all equal.
fn edge(pairs: &[(f64, f64)]) -> f64 {
    match (pairs.first(), pairs.last()) {
        (Some(first), Some(last)) if first.0 < last.0 => pairs.iter().map(|(value, _)| value).sum::<f64>() / pairs.len() as f64,
        (first, _) => first.map_or(f64::NAN, |pair| pair.0),
    }
}

#[cfg(test)]
mod tests {
    use kilter_learn::{Learner, TrainingSet, learners};
    use kilter_pipeline::Range;

    use super::*;

    /// A thousand rows, one in ten positive, higher scores more often.
    fn sample() -> (Vec<f64>, Vec<f64>) {
        (0..1000).map(|n| (f64::from(n * 37 % 1000) / 1000.0, f64::from(u8::from(n * 37 % 1000 > 850 && n % 3 > 0 || n % 50 == 0)))).unzip()
    }

    #[test]
    fn curves_keep_their_ends_and_their_area_in_few_points() {
        let (scores, labels) = sample();
        let reached = curve(&scores, &labels, None);
        let points = roc(&reached);
        assert!(points.len() <= POINTS + 1, "{}", points.len());
        assert_eq!((points[0].threshold, points[0].true_positive_rate), (None, 0.0));
        let last = &points[points.len() - 1];
        assert_eq!((last.false_positive_rate, last.true_positive_rate), (1.0, 1.0));
        let area: f64 = (points.windows(2))
            .map(|p| (p[1].false_positive_rate - p[0].false_positive_rate) * 0.5 * (p[0].true_positive_rate + p[1].true_positive_rate))
            .sum();
        let auc = kilter_learn::metrics::auc(&scores, &labels);
        assert!((area - auc).abs() < 0.002, "{area} against {auc}");
        let points = precision_recall(&reached);
        assert!(points.len() <= POINTS && points.windows(2).all(|p| p[0].recall <= p[1].recall && p[0].threshold > p[1].threshold));
        assert_eq!((points[0].threshold, points[points.len() - 1].recall), (0.999, 1.0));
    }

    #[test]
    fn thresholds_count_every_row_once_and_as_the_scores_say() {
        let (scores, labels) = sample();
        let positives = labels.iter().filter(|label| **label == 1.0).count();
        let all = thresholds(&curve(&scores, &labels, None), positives, 1000 - positives);
        assert!(all.len() <= THRESHOLDS && all.windows(2).all(|pair| pair[0].threshold < pair[1].threshold));
        for at in &all {
            let called = |label: f64| scores.iter().zip(&labels).filter(|(s, l)| **s >= at.threshold && **l == label).count() as u64;
            assert_eq!((at.true_positives, at.false_positives), (called(1.0), called(0.0)));
            assert_eq!(at.true_positives + at.false_positives + at.true_negatives + at.false_negatives, 1000);
        }
    }

    #[test]
    fn every_value_is_in_one_bin() {
        let (scores, labels) = sample();
        let whole = Histogram::of(&scores, Some(&labels), Some((0.0, 1.0)));
        assert_eq!((whole.edges.len(), whole.all.iter().sum::<u64>()), (BINS + 1, 1000));
        let parts = whole.positives.unwrap().into_iter().zip(whole.negatives.unwrap()).map(|(a, b)| a + b);
        assert!(parts.eq(whole.all.iter().copied()));
        assert_eq!(whole.all[0], 25, "0 to 0.024");
        let one = Histogram::of(&[7.0; 3], None, None);
        assert_eq!((one.edges[0], one.edges[BINS], one.all.iter().sum::<u64>()), (6.5, 7.5, 3));
        assert_eq!(Histogram::of(&[f64::NAN], None, None).all, [0; BINS]);
    }

    #[test]
    fn dependence_is_of_values_in_order_and_missing_ones_apart() {
        let pairs = (0..100).map(|n| (f64::from(n % 10), f64::from(n % 10) * 2.0)).chain([(f64::NAN, -1.0), (f64::NAN, -3.0)]);
        let Dependence { bins, missing, .. } = Dependence::of("x".into(), pairs.collect());
        assert_eq!(bins.len(), 10, "equal values share a bin");
        assert!(bins.iter().all(|bin| bin.low == bin.high && bin.mean == bin.low * 2.0 && bin.p10 == bin.p90 && bin.count == 10));
        assert_eq!((missing.count, missing.mean), (2, None), "two rows have no mean");
        let missing = Dependence::of("x".into(), (0..10).map(|n| (f64::NAN, f64::from(n))).collect()).missing;
        assert_eq!((missing.count, missing.mean), (10, Some(4.5)));
    }

    #[test]
    fn no_bin_is_of_a_few_rows_and_no_edge_is_one_rows_value() {
        for rows in [0, 9, 10, 19, 20, 57, 211, 500] {
            let values: Vec<f64> = (0..rows).map(|n| 1000.0 + f64::from(n) * 7.0).collect();
            let Dependence { bins, .. } = Dependence::of("x".into(), values.iter().map(|value| (*value, 0.5)).collect());
            assert!(bins.len() <= PARTS && bins.iter().all(|bin| bin.count >= FEWEST && bin.low <= bin.high), "{rows}");
            assert_eq!(bins.iter().map(|bin| bin.count).sum::<usize>(), if values.len() < FEWEST { 0 } else { values.len() });
            assert!(bins.iter().all(|bin| !values.contains(&bin.low) && !values.contains(&bin.high)), "{rows}");
        }
    }

    #[test]
    fn how_many_rows_are_explained_goes_by_the_size_of_the_model() {
        assert_eq!([explained(0, 300), explained(0, 9000), explained(31 * 100, 9000)], [300, EXPLAINED, EXPLAINED]);
        assert_eq!([explained(1_000_000, 9000), explained(1_000_000, 4), explained(100_000_000, 9000)], [10, 4, 0]);
        let beneath = serde_json::json!({"kind": "calibrated", "model": {"kind": "pipeline", "model": {"leaves": 12}}});
        assert_eq!((leaves(&beneath), leaves(&serde_json::json!({"kind": "logistic"}))), (12, 0));
    }

    fn curves(task: Task, learner: &Learner, label: impl Fn(usize) -> f64, rows: usize) -> serde_json::Value {
        let values: Vec<f64> = (0..rows).map(|n| (n * 37 % 101) as f64).collect();
        let set = TrainingSet::new(Matrix::from_columns(vec!["x".into()], vec![values]), (0..rows).map(label).collect());
        let model = learner.fit(&set).unwrap();
        let times = Range { from: kilter_core::EventTime(0), to: kilter_core::EventTime(1) };
        let held = HeldOut { set, times };
        let told = serde_json::to_value(Curves::of(task, model.as_ref(), &held)).unwrap();
        assert_eq!(told, serde_json::to_value(Curves::of(task, model.as_ref(), &held)).unwrap());
        assert_eq!(told["rows"], rows);
        told
    }

    #[test]
    fn what_a_task_does_not_define_is_empty() {
        let isolation = Learner::Isolation(learners::isolation::Isolation::default());
        let linear = Learner::Linear(learners::linear::Linear::default());
        let Task::Numbers(_) = linear.task() else { panic!("of numbers") };
        let empty = |told: &serde_json::Value, names: &[&str]| names.iter().all(|name| told[*name].as_array().is_some_and(Vec::is_empty));
        let ranked = ["roc", "precision_recall", "thresholds", "gains"];

        let numbers = curves(linear.task(), &linear, |n| (n * 37 % 101) as f64 * 2.0 + (n % 3) as f64, 300);
        assert!(empty(&numbers, &ranked) && numbers["positives"].is_null(), "{numbers}");
        assert_eq!((numbers["calibration"].as_array().unwrap().len(), numbers["shap"]["rows"].as_u64()), (PARTS, Some(300)), "{numbers}");
        assert!(numbers["residuals"]["all"].is_array());

        let anomalies = curves(Task::Anomalies, &isolation, |_| f64::NAN, 300);
        assert!(empty(&anomalies, &ranked) && empty(&anomalies, &["calibration"]) && anomalies["residuals"].is_null(), "{anomalies}");
        let labelled = curves(Task::Anomalies, &isolation, |n| f64::from(u8::from(n % 30 == 0)), 300);
        assert!(!empty(&labelled, &["roc"]) && !empty(&labelled, &["gains"]), "where labels are known they judge: {labelled}");

        let one = curves(Task::Anomalies, &isolation, |_| 0.0, 300);
        assert!(empty(&one, &ranked) && one["positives"] == 0, "one class has no curve: {one}");
        let few = curves(linear.task(), &linear, |n| (n * 37 % 101) as f64 + (n % 2) as f64, 12);
        assert_eq!((few["calibration"].as_array().unwrap().len(), few["calibration"][0]["count"].as_u64()), (1, Some(12)), "{few}");
        assert_eq!(few["shap"]["dependence"][0]["bins"].as_array().unwrap().len(), 1, "{few}");
    }
}
