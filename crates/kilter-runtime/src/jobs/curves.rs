//! What a training tells of a model beside its figures: the curves of the held-out rows, and what its inputs contribute to their scores.
//!
//! Everything is counted up: no row is in it by itself.

use std::time::{Duration, Instant};

use kilter_learn::metrics::{CalibrationBin, GainsRow, calibration, gains};
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
/// Bins and parts of as many rows each.
const PARTS: usize = 20;
/// Rows that are explained at most, so many at a time ...
const EXPLAINED: usize = 500;
const AT_ONCE: usize = 50;
/// ... and no more once this much time has gone: forests of deep trees take long.
const PATIENCE: Duration = Duration::from_secs(2);
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

#[derive(Serialize)]
struct DependenceBin {
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
    mean: Option<f64>,
}

/// The rows at one score and all above.
#[derive(Clone, Copy)]
struct Reached {
    score: f64,
    positives: u64,
    negatives: u64,
}

impl Curves {
    pub fn of(task: Task, model: &dyn Model, held: &HeldOut) -> Curves {
        let HeldOut { set, times } = held;
        let (matrix, labels) = (&set.matrix, &set.labels);
        let scores = model.predictions(matrix);
        let classes = !task.has_numbers() && !labels.iter().any(|label| label.is_nan());
        let reached = if classes { reached(&scores, labels) } else { Vec::new() };
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
            positives: classes.then(|| set.positives()),
            rows_from: times.from.to_string(),
            rows_to: times.to.to_string(),
            roc: roc(&reached),
            precision_recall: precision_recall(&reached),
            calibration: if matches!(task, Task::Anomalies) { Vec::new() } else { calibration(&scores, labels, PARTS) },
            gains: if classes { gains(&scores, labels, PARTS) } else { Vec::new() },
            thresholds: thresholds(&reached),
            scores: Histogram::of(&scores, classes.then_some(labels), probability),
            residuals: task.has_numbers().then(|| Histogram::of(&errors(), None, None)),
            importance,
            shap: Shap::of(model, matrix),
        }
    }
}

/// Each distinct score from the highest down, with all rows that reach it; nothing where one class only came up.
fn reached(scores: &[f64], labels: &[f64]) -> Vec<Reached> {
    let mut order: Vec<(f64, f64)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let (mut positives, mut negatives) = (0, 0);
    let all: Vec<Reached> = order
        .chunk_by(|a, b| a.0 == b.0)
        .map(|ties| {
            let own = ties.iter().filter(|(_, label)| *label == 1.0).count() as u64;
            positives += own;
            negatives += ties.len() as u64 - own;
            Reached { score: ties[0].0, positives, negatives }
        })
        .collect();
    if positives == 0 || negatives == 0 { Vec::new() } else { all }
}

/// Of a curve that grows from 0 to `end` the points after each of so many equal steps, the first and the last one among them.
fn chosen(reached: &[Reached], most: usize, end: f64, along: impl Fn(&Reached) -> f64) -> Vec<Reached> {
    let mut next = 0.0;
    let mut chosen = Vec::with_capacity(most.min(reached.len()));
    for (place, point) in reached.iter().enumerate() {
        let at = along(point) / end * (most - 2) as f64;
        if place == 0 || place + 1 == reached.len() || at >= next {
            chosen.push(*point);
            next = at.floor() + 1.0;
        }
    }
    chosen
}

fn totals(reached: &[Reached]) -> (f64, f64) {
    reached.last().map_or((0.0, 0.0), |all| (all.positives as f64, all.negatives as f64))
}

fn roc(reached: &[Reached]) -> Vec<RocPoint> {
    let (positives, negatives) = totals(reached);
    let rates = |point: &Reached| (point.negatives as f64 / negatives, point.positives as f64 / positives);
    let start = (!reached.is_empty()).then_some(RocPoint { threshold: None, false_positive_rate: 0.0, true_positive_rate: 0.0 });
    let points = chosen(reached, POINTS, 2.0, |point| rates(point).0 + rates(point).1).into_iter().map(|point| {
        let (false_positive_rate, true_positive_rate) = rates(&point);
        RocPoint { threshold: Some(point.score), false_positive_rate, true_positive_rate }
    });
    start.into_iter().chain(points).collect()
}

fn precision_recall(reached: &[Reached]) -> Vec<PrecisionPoint> {
    let (positives, _) = totals(reached);
    let recall = |point: &Reached| point.positives as f64 / positives;
    let points = chosen(reached, POINTS, 1.0, recall).into_iter().map(|point| PrecisionPoint {
        threshold: point.score,
        recall: recall(&point),
        precision: point.positives as f64 / (point.positives + point.negatives) as f64,
    });
    points.collect()
}

/// Ascending.
fn thresholds(reached: &[Reached]) -> Vec<AtThreshold> {
    let Some(all) = reached.last().copied() else { return Vec::new() };
    let (positives, negatives) = totals(reached);
    let along = |point: &Reached| point.positives as f64 / positives + point.negatives as f64 / negatives;
    let points = chosen(reached, THRESHOLDS, 2.0, along).into_iter().rev().map(|point| AtThreshold {
        threshold: point.score,
        true_positives: point.positives,
        false_positives: point.negatives,
        true_negatives: all.negatives - point.negatives,
        false_negatives: all.positives - point.positives,
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

impl Shap {
    /// None: there is nothing to explain.
    fn of(model: &dyn Model, matrix: &Matrix) -> Option<Shap> {
        let began = Instant::now();
        let (most, columns) = (matrix.rows().min(EXPLAINED), matrix.columns());
        // Spread over all rows, and in an order in which what comes first is spread over them too.
        let rows: Vec<usize> = (0..most).map(|n| (n * 7919 % most) * matrix.rows() / most).collect();
        let mut explained: Vec<(usize, Vec<f64>)> = Vec::with_capacity(most);
        for part in rows.chunks(AT_ONCE) {
            let all = model.explanations(&matrix.select(part));
            explained.extend(part.iter().copied().zip(all.chunks(columns + 1).map(<[f64]>::to_vec)));
            if began.elapsed() > PATIENCE {
                break;
            }
        }
        if explained.is_empty() || columns == 0 {
            return None;
        }
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
        let mut start = 0;
        for part in 1..=PARTS {
            let mut end = (part * known.len() / PARTS).max(start);
            // Equal values share a bin.
            while end > start && end < known.len() && known[end].0 == known[end - 1].0 {
                end += 1;
            }
            let own = &known[start..end];
            start = end;
            let (Some(first), Some(last)) = (own.first(), own.last()) else { continue };
            let mut contributions: Vec<f64> = own.iter().map(|(_, contribution)| *contribution).collect();
            contributions.sort_unstable_by(f64::total_cmp);
            let at = |share: f64| contributions[((contributions.len() - 1) as f64 * share).round() as usize];
            bins.push(DependenceBin { low: first.0, high: last.0, count: own.len(), mean: mean(own), p10: at(0.1), p90: at(0.9) });
        }
        let missing = Missing { count: missing.len(), mean: (!missing.is_empty()).then(|| mean(&missing)) };
        Dependence { feature, bins, missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand rows, one in ten positive, higher scores more often.
    fn sample() -> (Vec<f64>, Vec<f64>) {
        (0..1000).map(|n| (f64::from(n * 37 % 1000) / 1000.0, f64::from(u8::from(n * 37 % 1000 > 850 && n % 3 > 0 || n % 50 == 0)))).unzip()
    }

    #[test]
    fn curves_keep_their_ends_and_their_area_in_few_points() {
        let (scores, labels) = sample();
        let reached = reached(&scores, &labels);
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
        let all = thresholds(&reached(&scores, &labels));
        assert!(all.len() <= THRESHOLDS && all.windows(2).all(|pair| pair[0].threshold < pair[1].threshold));
        for at in &all {
            let called = |label: f64| scores.iter().zip(&labels).filter(|(s, l)| **s >= at.threshold && **l == label).count() as u64;
            assert_eq!((at.true_positives, at.false_positives), (called(1.0), called(0.0)));
            assert_eq!(at.true_positives + at.false_positives + at.true_negatives + at.false_negatives, 1000);
        }
        assert!(thresholds(&reached(&scores, &[0.0; 1000])).is_empty(), "one class has no curve");
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
        assert_eq!((missing.count, missing.mean), (2, Some(-2.0)));
    }
}
