//! One input of a scorecard: where it is cut, and what each bin has seen.

use rayon::prelude::*;

use super::Scorecard;
use super::binning::{Counts, Limits, Shape, best_merge};
use crate::TrainingSet;

/// A bin with its training rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bin {
    pub counts: Counts,
    pub woe: f64,
    /// Rounded; 0 for an input that is left out.
    pub points: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Feature {
    pub name: String,
    /// Upper bounds of all plain bins but the last, each belonging to its bin.
    pub cuts: Vec<f64>,
    pub special: Vec<f64>,
    /// Plain bins, those of special values, and the one of missing values.
    pub bins: Vec<Bin>,
    /// Information value of all bins.
    pub information: f64,
    /// The shape that was kept; `None` for cuts by hand.
    pub shape: Option<Shape>,
    /// Log-odds for each unit of WoE; 0 for an input that is left out.
    pub coefficient: f64,
}

impl Feature {
    pub fn bin_of(&self, value: f64) -> usize {
        let plain = self.cuts.len() + 1;
        if value.is_nan() {
            return plain + self.special.len();
        }
        match self.special.iter().position(|&special| special == value) {
            Some(at) => plain + at,
            None => self.cuts.partition_point(|&cut| cut < value),
        }
    }

    pub fn filled_bins(&self) -> usize {
        self.bins.iter().filter(|bin| bin.counts.total() > 0.0).count()
    }

    /// What a bin holds, for people.
    pub fn label(&self, bin: usize) -> String {
        let plain = self.cuts.len() + 1;
        if bin >= plain {
            return self.special.get(bin - plain).map_or("missing".to_owned(), |value| format!("= {value}"));
        }
        match (bin.checked_sub(1).map(|below| self.cuts[below]), self.cuts.get(bin)) {
            (None, None) => "any".to_owned(),
            (None, Some(high)) => format!("<= {high}"),
            (Some(low), None) => format!("> {low}"),
            (Some(low), Some(high)) => format!("> {low}, <= {high}"),
        }
    }

    /// Mean WoE of the training rows.
    pub fn mean_woe(&self) -> f64 {
        let total: f64 = self.bins.iter().map(|bin| bin.counts.total()).sum();
        self.bins.iter().map(|bin| bin.counts.total() * bin.woe).sum::<f64>() / total
    }

    /// The most WoE that rows of the training had.
    pub fn best_woe(&self) -> f64 {
        self.bins.iter().filter(|bin| bin.counts.total() > 0.0).map(|bin| bin.woe).fold(f64::NEG_INFINITY, f64::max)
    }
}

/// A column cut into bins, and the bin of each row.
pub(super) struct Binned {
    pub feature: Feature,
    pub bins: Vec<u16>,
}

pub(super) fn bin_all(training_set: &TrainingSet, parameters: &Scorecard) -> Vec<Binned> {
    (0..training_set.matrix.columns()).into_par_iter().map(|column| bin(training_set, column, parameters)).collect()
}

fn bin(training_set: &TrainingSet, column: usize, parameters: &Scorecard) -> Binned {
    let name = &training_set.matrix.names()[column];
    let values = training_set.matrix.column(column);
    let special = parameters.special.get(name).cloned().unwrap_or_default();
    let all = totals(training_set);
    let (cuts, shape) = match parameters.cuts.get(name) {
        Some(cuts) => (cuts.clone(), None),
        None => {
            let (uppers, parts) = parts(training_set, column, &special, parameters.prebins);
            let plain: f64 = parts.iter().map(Counts::total).sum();
            let limits =
                Limits { max_bins: parameters.max_bins, min_weight: parameters.min_share * plain, shape: parameters.shape_of(name) };
            if parts.is_empty() {
                (Vec::new(), Some(limits.shape))
            } else {
                let merge = best_merge(&parts, &all, &limits);
                let inner = &merge.ends[..merge.ends.len() - 1];
                (inner.iter().map(|&end| uppers[end]).collect(), Some(merge.shape))
            }
        }
    };
    let empty = Bin { counts: Counts::default(), woe: 0.0, points: 0.0 };
    let bins = vec![empty; cuts.len() + 1 + special.len() + 1];
    let mut feature = Feature { name: name.clone(), cuts, special, bins, information: 0.0, shape, coefficient: 0.0 };
    let bins: Vec<u16> = values.iter().map(|&value| feature.bin_of(value) as u16).collect();
    for (row, &bin) in bins.iter().enumerate() {
        feature.bins[usize::from(bin)].counts.add(training_set.labels[row], training_set.weight(row));
    }
    for bin in &mut feature.bins {
        bin.woe = bin.counts.woe(&all);
    }
    feature.information = feature.bins.iter().map(|bin| bin.counts.information(&all)).sum();
    Binned { feature, bins }
}

fn totals(training_set: &TrainingSet) -> Counts {
    let mut all = Counts::default();
    (0..training_set.rows()).for_each(|row| all.add(training_set.labels[row], training_set.weight(row)));
    all
}

/// The column's plain values in parts of about equal size, from low to high: the upper bound and the classes of each. Equal values share a part;
/// a value that would be no finite bound goes with the part above or below.
fn parts(training_set: &TrainingSet, column: usize, special: &[f64], prebins: usize) -> (Vec<f64>, Vec<Counts>) {
    let values = training_set.matrix.column(column);
    let mut order: Vec<(f64, u32)> = (0..values.len())
        .filter(|&row| !values[row].is_nan() && !special.contains(&values[row]) && training_set.weight(row) > 0.0)
        .map(|row| (values[row], row as u32))
        .collect();
    order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let total: f64 = order.iter().map(|&(_, row)| training_set.weight(row as usize)).sum();
    let distinct = order.chunk_by(|a, b| a.0 == b.0).take(prebins + 1).count();
    let size = if distinct <= prebins { 0.0 } else { total / prebins as f64 };
    let (mut uppers, mut parts): (Vec<f64>, Vec<Counts>) = (Vec::new(), Vec::new());
    let (mut seen, mut part) = (0.0, Counts::default());
    for ties in order.chunk_by(|a, b| a.0 == b.0) {
        for &(_, row) in ties {
            part.add(training_set.labels[row as usize], training_set.weight(row as usize));
        }
        let full = seen + part.total() >= size * (parts.len() + 1) as f64 * (1.0 - 1e-12);
        if full && ties[0].0.is_finite() {
            seen += part.total();
            uppers.push(ties[0].0);
            parts.push(part);
            part = Counts::default();
        }
    }
    if part.total() > 0.0 {
        uppers.push(f64::INFINITY);
        parts.push(part);
    }
    (uppers, parts)
}
