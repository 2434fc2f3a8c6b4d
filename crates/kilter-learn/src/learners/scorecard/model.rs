//! A fitted scorecard: points, probability and reasons by looking up one bin an input.

use super::binning::{Counts, Shape};
use super::columns::{Bin, Feature};
use super::{KIND, ReasonsFrom, Report, Rounding, Scorecard};
use crate::format::{Header, Reader, Sealed, Writer, seal};
use crate::math::{margin_loss, sigmoid};
use crate::{LearnError, Matrix, Model, TrainingSet, explain};

/// A fitted scorecard. The margin and the probability are exact; [`points`](Model::points) are the rounded ones of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct ScorecardModel {
    pub(super) inputs: Vec<String>,
    pub(super) parameters: Scorecard,
    pub(super) report: Report,
    /// Log-odds of a row without any evidence.
    pub(super) intercept: f64,
    pub(super) features: Vec<Feature>,
}

const SHAPES: [Option<Shape>; 6] =
    [None, Some(Shape::Increasing), Some(Shape::Decreasing), Some(Shape::Peak), Some(Shape::Valley), Some(Shape::Any)];

impl ScorecardModel {
    /// The exact score: `offset - factor * margin`.
    pub fn exact_points(&self, row: &[f64]) -> f64 {
        self.parameters.offset() - self.parameters.factor() * self.margin(row)
    }

    /// Information value of each input, also of those left out.
    pub fn information_values(&self) -> Vec<f64> {
        self.features.iter().map(|feature| feature.information).collect()
    }

    /// The scorecard as lines of text.
    pub fn table(&self) -> Vec<String> {
        let mut lines = vec![format!("{:<24} {:>10} {:>8} {:>8} {:>8}", "input, bin", "rows", "rate", "WoE", "points")];
        for feature in self.used() {
            let information = format!("{} (IV {:.3}, coefficient {:.3})", feature.name, feature.information, feature.coefficient);
            lines.push(information);
            for (at, bin) in feature.bins.iter().enumerate() {
                let rate = if bin.counts.total() > 0.0 { bin.counts.positives / bin.counts.total() } else { f64::NAN };
                let rate = if rate.is_nan() { "-".to_owned() } else { format!("{rate:.4}") };
                lines.push(format!(
                    "  {:<22} {:>10} {:>8} {:>8.3} {:>8}",
                    feature.label(at),
                    bin.counts.total(),
                    rate,
                    bin.woe,
                    bin.points
                ));
            }
        }
        lines
    }

    /// The inputs that give points.
    pub(crate) fn used(&self) -> impl Iterator<Item = &Feature> {
        self.features.iter().filter(|feature| feature.coefficient != 0.0)
    }

    pub(crate) fn reasons(&self) -> ReasonsFrom {
        self.parameters.reasons
    }

    #[cfg(test)]
    pub(super) fn used_features(&self) -> Vec<&Feature> {
        self.used().collect()
    }

    fn bin(feature: &Feature, value: f64) -> &Bin {
        &feature.bins[feature.bin_of(value)]
    }

    fn reference(&self, feature: &Feature) -> f64 {
        match self.parameters.reasons {
            ReasonsFrom::Maximum => feature.best_woe(),
            ReasonsFrom::Mean => feature.mean_woe(),
        }
    }

    /// Loss and rounding error on the training rows, whose bins are known.
    pub(super) fn look_back(&mut self, training_set: &TrainingSet, bins: &[Vec<u16>]) {
        let used: Vec<(&Feature, &Vec<u16>)> = self.features.iter().zip(bins).filter(|(feature, _)| feature.coefficient != 0.0).collect();
        let (factor, offset) = (self.parameters.factor(), self.parameters.offset());
        let (mut loss, mut total) = (0.0, 0.0);
        let mut rounding = Rounding::default();
        for row in 0..training_set.rows() {
            let (mut margin, mut points) = (self.intercept, 0.0);
            for (feature, bins) in &used {
                let bin = &feature.bins[usize::from(bins[row])];
                margin += feature.coefficient * bin.woe;
                points += bin.points;
            }
            let error = (points - (offset - factor * margin)).abs();
            rounding.largest_points = rounding.largest_points.max(error);
            rounding.mean_points += error / training_set.rows() as f64;
            let by_points = sigmoid((offset - points) / factor);
            rounding.largest_probability = rounding.largest_probability.max((by_points - sigmoid(margin)).abs());
            loss += training_set.weight(row) * margin_loss(margin, training_set.labels[row]);
            total += training_set.weight(row);
        }
        self.report.log_loss = loss / total;
        self.report.rounding = rounding;
    }
}

impl Model for ScorecardModel {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn margin(&self, row: &[f64]) -> f64 {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        let add = |margin, (feature, &value): (&Feature, &f64)| margin + feature.coefficient * Self::bin(feature, value).woe;
        self.features.iter().zip(row).fold(self.intercept, add)
    }

    fn points(&self, row: &[f64]) -> Option<f64> {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        Some(self.features.iter().zip(row).map(|(feature, &value)| Self::bin(feature, value).points).sum())
    }

    /// The base is the margin of the best row there can be, or of the mean one; a contribution is what the input's bin loses against it. In
    /// points that is `factor` times as much.
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        contributions.clear();
        let mut base = self.intercept;
        for (feature, &value) in self.features.iter().zip(row) {
            let reference = self.reference(feature);
            base += feature.coefficient * reference;
            contributions.push(feature.coefficient * (Self::bin(feature, value).woe - reference));
        }
        base
    }

    fn explain_against(&self, row: &[f64], reference: &Matrix, contributions: &mut Vec<f64>) -> Option<f64> {
        Some(explain::of_pairs(self, row, reference, contributions))
    }

    fn interactions(&self, row: &[f64]) -> Option<Vec<f64>> {
        Some(explain::no_interactions(self, row))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.f64(self.intercept);
        for feature in &self.features {
            body.u32(feature.cuts.len() as u32);
            body.f64s(&feature.cuts);
            body.u32(feature.special.len() as u32);
            body.f64s(&feature.special);
            body.u8(SHAPES.iter().position(|shape| *shape == feature.shape).unwrap_or(0) as u8);
            body.f64s(&[feature.information, feature.coefficient]);
            for bin in &feature.bins {
                body.f64s(&[bin.counts.negatives, bin.counts.positives, bin.woe, bin.points]);
            }
        }
        let header =
            Header { kind: KIND.into(), inputs: self.inputs.clone(), parameters: self.parameters.clone(), report: self.report.clone() };
        seal(&header, body)
    }

    /// Information value; 0 for an input that is left out.
    fn importance(&self) -> Vec<f64> {
        self.features.iter().map(|feature| if feature.coefficient == 0.0 { 0.0 } else { feature.information }).collect()
    }

    fn describe(&self) -> serde_json::Value {
        let bin = |feature: &Feature, at: usize| {
            let bin = &feature.bins[at];
            serde_json::json!({
                "bin": feature.label(at),
                "rows": bin.counts.total(),
                "positives": bin.counts.positives,
                "woe": bin.woe,
                "points": bin.points,
            })
        };
        let feature = |feature: &Feature| {
            serde_json::json!({
                "name": feature.name,
                "information_value": feature.information,
                "coefficient": feature.coefficient,
                "shape": feature.shape,
                "cuts": feature.cuts,
                "bins": (0..feature.bins.len()).map(|at| bin(feature, at)).collect::<Vec<_>>(),
            })
        };
        serde_json::json!({
            "kind": KIND,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "report": self.report,
            "intercept": self.intercept,
            "factor": self.parameters.factor(),
            "offset": self.parameters.offset(),
            "features": self.features.iter().map(feature).collect::<Vec<_>>(),
            "scorecard": self.table(),
        })
    }
}

pub(crate) fn read(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    Ok(Box::new(read_card(sealed)?))
}

pub(crate) fn read_card(sealed: &Sealed<'_>) -> Result<ScorecardModel, LearnError> {
    let Header { inputs, parameters, report, .. } = sealed.header::<Scorecard, Report>()?;
    parameters.check().map_err(|error| LearnError::corrupt(error.to_string()))?;
    let mut body = sealed.body();
    let intercept = body.f64()?;
    let features = inputs.iter().map(|name| read_feature(name, &mut body)).collect::<Result<Vec<_>, _>>()?;
    body.end()?;
    if !intercept.is_finite() {
        return Err(LearnError::corrupt("the intercept is not a finite number"));
    }
    Ok(ScorecardModel { inputs, parameters, report, intercept, features })
}

fn read_feature(name: &str, body: &mut Reader<'_>) -> Result<Feature, LearnError> {
    let count = body.u32()? as usize;
    let cuts = body.f64s(count)?;
    let count = body.u32()? as usize;
    let special = body.f64s(count)?;
    let shape = *SHAPES.get(usize::from(body.u8()?)).ok_or_else(|| LearnError::corrupt(format!("the shape of {name} is not known")))?;
    let [information, coefficient] = [body.f64()?, body.f64()?];
    let mut bins = Vec::new();
    for _ in 0..cuts.len() + special.len() + 2 {
        let counts = Counts { negatives: body.f64()?, positives: body.f64()? };
        bins.push(Bin { counts, woe: body.f64()?, points: body.f64()? });
    }
    let numbers = bins.iter().flat_map(|bin| [bin.counts.negatives, bin.counts.positives, bin.woe, bin.points]);
    let finite = numbers.chain(cuts.iter().copied()).chain([information, coefficient]).all(f64::is_finite);
    let counted = bins.iter().all(|bin| bin.counts.negatives >= 0.0 && bin.counts.positives >= 0.0)
        && bins.iter().any(|bin| bin.counts.total() > 0.0);
    if !finite || !counted || cuts.windows(2).any(|pair| pair[0] >= pair[1]) || bins.len() > usize::from(u16::MAX) {
        return Err(LearnError::corrupt(format!("the bins of {name} are not sound")));
    }
    Ok(Feature { name: name.to_owned(), cuts, special, bins, information, shape, coefficient })
}
