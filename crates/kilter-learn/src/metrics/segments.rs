//! The same figures for each part of the rows: region, product, vintage.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Evaluation, evaluate};

/// One segment's figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SegmentEvaluation {
    pub segment: String,
    pub evaluation: Evaluation,
}

/// Judges each segment by itself, in the order of names.
pub fn evaluate_by_segment<S: AsRef<str>>(probabilities: &[f64], labels: &[f64], segments: &[S]) -> Vec<SegmentEvaluation> {
    let found = by_segment(probabilities, labels, segments, evaluate);
    found.into_iter().map(|(segment, evaluation)| SegmentEvaluation { segment: segment.to_owned(), evaluation }).collect()
}

/// Any figure of scores and labels for each segment by itself, in the order of names: `by_segment(&found, &labels, &regions, rmse)`.
pub fn by_segment<'s, S: AsRef<str>, T>(
    scores: &[f64],
    labels: &[f64],
    segments: &'s [S],
    figure: impl Fn(&[f64], &[f64]) -> T,
) -> Vec<(&'s str, T)> {
    assert_eq!(segments.len(), labels.len(), "one segment a label");
    assert_eq!(scores.len(), labels.len(), "one score a label");
    let mut parts: BTreeMap<&str, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for (row, segment) in segments.iter().enumerate() {
        let (own, outcomes) = parts.entry(segment.as_ref()).or_default();
        own.push(scores[row]);
        outcomes.push(labels[row]);
    }
    parts.into_iter().map(|(segment, (scores, outcomes))| (segment, figure(&scores, &outcomes))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_judged_by_their_own_rows() {
        let (scores, labels) = ([0.9, 0.1, 0.2, 0.8, 0.5], [1.0, 0.0, 1.0, 0.0, 1.0]);
        let found = evaluate_by_segment(&scores, &labels, &["south", "south", "north", "north", "east"]);
        let names: Vec<(&str, f64)> = found.iter().map(|s| (s.segment.as_str(), s.evaluation.auc)).collect();
        assert!(names[0].0 == "east" && names[0].1.is_nan());
        assert_eq!(&names[1..], &[("north", 0.0), ("south", 1.0)]);
        // As text: figures that are not known are NaN.
        assert_eq!(format!("{:?}", found[1].evaluation), format!("{:?}", evaluate(&scores[2..4], &labels[2..4])));
    }
}
