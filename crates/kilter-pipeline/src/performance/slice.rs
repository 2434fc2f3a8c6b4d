//! Figures of some cases: what is known of them, and what is to be expected.

use kilter_learn::Task;
use kilter_learn::metrics::{self, Aim, Interval, Share, mean_interval};
use serde::Serialize;

/// How sure the bounds are.
pub(super) const CONFIDENCE: f64 = 0.95;
/// Of the calibration error and the calibration curve.
const BINS: usize = 10;

/// A figure within its bounds, which are NaN where the cases do not say them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// Some of the decisions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slice {
    pub decisions: u64,
    pub scored: u64,
    /// Their horizon has ended.
    pub matured: u64,
    /// Of these, with a known label.
    pub labelled: u64,
    pub mean_score: Option<f64>,
    /// In the order of the report's outcomes.
    pub outcomes: Vec<OfOutcome>,
    /// None: no label is known.
    pub realised: Option<Realised>,
    /// Of all that are scored, from the scores alone; none where they are no probabilities.
    pub estimated: Option<Estimated>,
}

/// The decisions of one outcome.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OfOutcome {
    pub outcome: String,
    pub decisions: u64,
    pub share: Option<Figure>,
    pub mean_score: Option<f64>,
    pub labelled: u64,
    /// Of positives, or the mean label.
    pub rate: Option<Figure>,
}

/// What is known of the cases that have a score and a label. Figures that the task or the cases do not define are none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Realised {
    pub rows: u64,
    pub positives: Option<u64>,
    pub rate: Option<Figure>,
    pub mean_score: f64,
    pub auc: Option<Figure>,
    pub log_loss: Option<Figure>,
    pub brier: Option<Figure>,
    pub calibration_error: Option<CalibrationError>,
    pub rmse: Option<Figure>,
    pub mae: Option<Figure>,
    pub bias: Option<Figure>,
    pub pinball: Option<Figure>,
    pub coverage: Option<Figure>,
    pub deviance: Option<Figure>,
    /// The estimate of exactly these cases.
    pub expected: Option<Estimated>,
}

/// The expected calibration error, and what a perfectly calibrated score stays below in 95 of 100 samples of this size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CalibrationError {
    pub value: f64,
    pub by_chance: f64,
}

/// What is to be expected if the scores are calibrated; the bounds are those of the figure once labels are known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimated {
    pub rows: u64,
    pub rate: Option<Figure>,
    pub auc: Option<Figure>,
    pub log_loss: Option<Figure>,
    pub brier: Option<Figure>,
}

/// Cases of similar scores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CalibrationPoint {
    pub low: f64,
    pub high: f64,
    pub count: usize,
    pub mean_score: f64,
    pub observed: Option<Figure>,
}

/// All cases, by row.
pub(super) struct Cases {
    pub task: Task,
    /// As known by now; NaN: not known.
    pub labels: Vec<f64>,
    pub matured: Vec<bool>,
    /// NaN: none.
    pub scores: Vec<f64>,
    pub outcome_of: Vec<u16>,
    pub outcomes: Vec<String>,
}

impl Figure {
    /// None: it is not known.
    pub(super) fn of(interval: Interval) -> Option<Figure> {
        let Interval { value, low, high, .. } = interval;
        value.is_finite().then_some(Figure { value, low, high })
    }

    pub(super) fn of_share(hits: u64, rows: u64) -> Option<Figure> {
        Figure::of(Share { hits, rows }.interval(CONFIDENCE))
    }
}

impl Cases {
    pub fn slice(&self, rows: &[u32]) -> Slice {
        let of = |row: &u32| *row as usize;
        let count = |is: &dyn Fn(usize) -> bool| rows.iter().filter(|row| is(of(row))).count() as u64;
        let scores: Vec<f64> = rows.iter().map(|row| self.scores[of(row)]).filter(|score| !score.is_nan()).collect();
        let mut by_outcome = vec![Vec::new(); self.outcomes.len()];
        rows.iter().for_each(|row| by_outcome[usize::from(self.outcome_of[of(row)])].push(*row));
        let outcomes = by_outcome.into_iter().zip(&self.outcomes).map(|(own, outcome)| OfOutcome {
            outcome: outcome.clone(),
            decisions: own.len() as u64,
            share: Figure::of_share(own.len() as u64, rows.len() as u64),
            mean_score: mean(own.iter().map(|row| self.scores[of(row)])),
            labelled: own.iter().filter(|row| !self.labels[of(row)].is_nan()).count() as u64,
            rate: self.rate(own.iter().map(|row| self.labels[of(row)]).filter(|label| !label.is_nan())),
        });
        Slice {
            decisions: rows.len() as u64,
            scored: scores.len() as u64,
            matured: count(&|row| self.matured[row]),
            labelled: count(&|row| !self.labels[row].is_nan()),
            mean_score: mean(scores.iter().copied()),
            outcomes: outcomes.collect(),
            realised: self.realised(rows),
            estimated: self.estimated(&scores),
        }
    }

    /// The share of positives, or the mean where labels are numbers.
    fn rate(&self, labels: impl Iterator<Item = f64> + Clone) -> Option<Figure> {
        if self.task.has_numbers() {
            return Figure::of(mean_interval(labels, CONFIDENCE));
        }
        Figure::of_share(labels.clone().filter(|label| *label == 1.0).count() as u64, labels.count() as u64)
    }

    /// Scores and labels of the rows that have both.
    fn judged(&self, rows: &[u32]) -> (Vec<f64>, Vec<f64>) {
        let pairs = rows.iter().map(|row| (self.scores[*row as usize], self.labels[*row as usize]));
        pairs.filter(|(score, label)| !score.is_nan() && !label.is_nan()).unzip()
    }

    fn realised(&self, rows: &[u32]) -> Option<Realised> {
        let (scores, labels) = self.judged(rows);
        let mean_score = mean(scores.iter().copied())?;
        // The mean of what a figure comes to of each case by itself.
        let of_each = |figure: &dyn Fn(&[f64], &[f64]) -> f64| {
            mean_interval(scores.iter().zip(&labels).map(|(score, label)| figure(&[*score], &[*label])), CONFIDENCE)
        };
        let is_probability = matches!(self.task, Task::Classes);
        let mean_loss = |figure: &dyn Fn(&[f64], &[f64]) -> f64| is_probability.then(|| Figure::of(of_each(figure))).flatten();
        let aim = if let Task::Numbers(aim) = self.task { Some(aim) } else { None };
        let of_aim = |figure: &dyn Fn(Aim) -> Option<Figure>| aim.and_then(figure);
        Some(Realised {
            rows: labels.len() as u64,
            positives: aim.is_none().then(|| labels.iter().filter(|label| **label == 1.0).count() as u64),
            rate: self.rate(labels.iter().copied()),
            mean_score,
            auc: if aim.is_none() { Figure::of(metrics::auc_interval(&scores, &labels, CONFIDENCE)) } else { None },
            log_loss: mean_loss(&metrics::log_loss),
            brier: mean_loss(&metrics::brier),
            calibration_error: is_probability.then(|| CalibrationError {
                value: metrics::expected_calibration_error(&scores, &labels, BINS),
                by_chance: metrics::calibration_error_by_chance(&scores, BINS, CONFIDENCE),
            }),
            rmse: of_aim(&|_| {
                let Interval { value, low, high, .. } = of_each(&|found, label| (found[0] - label[0]) * (found[0] - label[0]));
                // Of a square the lower bound may lie below 0.
                let root = |bound: f64| if bound.is_nan() { bound } else { bound.max(0.0).sqrt() };
                Some(Figure { value: root(value), low: root(low), high: root(high) })
            }),
            mae: of_aim(&|_| Figure::of(of_each(&metrics::mae))),
            bias: of_aim(&|_| Figure::of(of_each(&|found, label| found[0] - label[0]))),
            pinball: of_aim(&|aim| {
                let Aim::Quantile { level } = aim else { return None };
                Figure::of(of_each(&|found, label| metrics::pinball(found, label, level)))
            }),
            coverage: of_aim(&|aim| {
                let Aim::Quantile { .. } = aim else { return None };
                let covered = scores.iter().zip(&labels).filter(|(score, label)| label <= score).count();
                Figure::of_share(covered as u64, labels.len() as u64)
            }),
            deviance: of_aim(&|aim| {
                let Aim::Deviance { power } = aim else { return None };
                Figure::of(of_each(&|found, label| metrics::deviance(found, label, power)))
            }),
            expected: self.estimated(&scores),
        })
    }

    fn estimated(&self, scores: &[f64]) -> Option<Estimated> {
        if !matches!(self.task, Task::Classes) || scores.is_empty() {
            return None;
        }
        let found = metrics::expected(scores, CONFIDENCE);
        Some(Estimated {
            rows: found.rows as u64,
            rate: Figure::of(found.rate),
            auc: Figure::of(found.auc),
            log_loss: Figure::of(found.log_loss),
            brier: Figure::of(found.brier),
        })
    }

    pub fn calibration_curve(&self, rows: &[u32]) -> Vec<CalibrationPoint> {
        if matches!(self.task, Task::Anomalies) {
            return Vec::new();
        }
        let (scores, labels) = self.judged(rows);
        let points = metrics::calibration(&scores, &labels, BINS).into_iter().map(|bin| CalibrationPoint {
            low: bin.low,
            high: bin.high,
            count: bin.count,
            mean_score: bin.mean_score,
            observed: match self.task {
                // The share is a count, divided.
                Task::Classes => Figure::of_share((bin.observed * bin.count as f64).round() as u64, bin.count as u64),
                _ => Some(Figure { value: bin.observed, low: f64::NAN, high: f64::NAN }),
            },
        });
        points.collect()
    }

    /// Whether favourable outcomes have the higher scores. Of equals, and where there is nothing to compare, it is not so.
    pub fn favours_high_scores(&self, favourable: &[u16]) -> bool {
        let mean_of = |is_favourable: bool| {
            let rows = self.scores.iter().zip(&self.outcome_of);
            mean(rows.filter(|(_, outcome)| favourable.contains(outcome) == is_favourable).map(|(score, _)| *score))
        };
        mean_of(true).zip(mean_of(false)).is_some_and(|(favourable, others)| favourable > others)
    }
}

/// Of those that are numbers.
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.filter(|value| !value.is_nan()).fold((0.0, 0_u64), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases(task: Task, scores: &[f64], labels: &[f64]) -> Cases {
        Cases {
            task,
            labels: labels.to_vec(),
            matured: vec![true; labels.len()],
            scores: scores.to_vec(),
            outcome_of: (0..scores.len()).map(|row| (row % 2) as u16).collect(),
            outcomes: vec!["high".into(), "low".into()],
        }
    }

    fn whole(cases: &Cases) -> Slice {
        cases.slice(&(0..cases.scores.len() as u32).collect::<Vec<_>>())
    }

    #[test]
    fn numbers_are_judged_by_their_distance() {
        let (scores, labels) = ([10.0, 12.0, 9.0, 7.0, f64::NAN, 8.0], [11.0, 10.0, 9.0, 3.0, 5.0, f64::NAN]);
        let slice = whole(&cases(Task::Numbers(Aim::Mean), &scores, &labels));
        assert_eq!((slice.decisions, slice.scored, slice.labelled, slice.estimated), (6, 5, 5, None));
        let told = slice.realised.unwrap();
        assert_eq!((told.rows, told.positives, told.auc, told.brier, told.expected), (4, None, None, None, None));
        // Distances of -1, 2, 0 and 4.
        let value = |figure: Option<Figure>| figure.unwrap().value;
        assert_eq!((value(told.mae), value(told.bias), value(told.rmse)), (1.75, 1.25, 5.25_f64.sqrt()));
        // Of the mean label: a spread of 12.9166... over four.
        let rate = told.rate.unwrap();
        let reach = 1.959_963_984_540_054 * (155.0_f64 / 12.0 / 4.0).sqrt();
        assert!((rate.value - 8.25).abs() < 1e-12 && (rate.high - 8.25 - reach).abs() < 1e-9, "{rate:?}");
        // Of squares 1, 4, 0 and 16 the lower bound is below 0.
        assert!(told.rmse.unwrap().low == 0.0 && told.rmse.unwrap().high > told.rmse.unwrap().value);
        assert_eq!((slice.outcomes[0].decisions, slice.outcomes[0].labelled, value(slice.outcomes[0].rate)), (3, 3, 25.0 / 3.0));
    }

    #[test]
    fn an_aim_has_its_own_figures() {
        let (scores, labels) = ([2.0, 2.0, 2.0, 2.0], [1.0, 2.0, 3.0, 6.0]);
        let quantile = whole(&cases(Task::Numbers(Aim::Quantile { level: 0.75 }), &scores, &labels)).realised.unwrap();
        assert_eq!(
            (quantile.coverage.unwrap().value, quantile.pinball.unwrap().value, quantile.deviance),
            (0.5, (0.25 + 0.75 + 3.0) / 4.0, None)
        );
        let counts = whole(&cases(Task::Numbers(Aim::Deviance { power: 1.0 }), &scores, &labels)).realised.unwrap();
        let published = metrics::deviance(&scores, &labels, 1.0);
        assert!((counts.deviance.unwrap().value - published).abs() < 1e-12 && counts.coverage.is_none());
    }

    #[test]
    fn anomalies_are_judged_by_their_order_alone() {
        let told = cases(Task::Anomalies, &[0.9, 0.2, 0.4, 0.1], &[1.0, 0.0, 1.0, 0.0]);
        assert!(told.calibration_curve(&[0, 1, 2, 3]).is_empty());
        let slice = whole(&told);
        let realised = slice.realised.unwrap();
        assert_eq!((realised.auc.unwrap().value, realised.log_loss, realised.calibration_error, slice.estimated), (1.0, None, None, None));
        assert_eq!(realised.rate.unwrap().value, 0.5);
    }

    #[test]
    fn what_the_rows_do_not_say_is_none() {
        let told = whole(&cases(Task::Classes, &[0.2, 0.4], &[f64::NAN, f64::NAN]));
        assert!(told.realised.is_none() && told.outcomes[0].rate.is_none() && told.estimated.is_some());
        let one = whole(&cases(Task::Classes, &[0.2], &[1.0])).realised.unwrap();
        assert!(one.auc.is_none() && one.brier.unwrap().low.is_nan());
        let text = serde_json::to_string(&one).unwrap();
        assert!(text.contains(r#""low":null"#) && !text.contains("NaN"), "{text}");
        let none = cases(Task::Classes, &[], &[]).slice(&[]);
        assert!(none.mean_score.is_none() && none.outcomes[0].share.is_none());
    }

    #[test]
    fn what_is_good_goes_by_the_scores() {
        let told = cases(Task::Classes, &[0.2, 0.4, f64::NAN, 0.6], &[0.0; 4]);
        assert!(!told.favours_high_scores(&[0]) && told.favours_high_scores(&[1]));
        assert!(!told.favours_high_scores(&[0, 1]) && !told.favours_high_scores(&[]));
    }
}
