//! K-means: centres such that rows are near to one of them, without labels (Lloyd 1982; k-means++, Arthur & Vassilvitskii 2007).
//!
//! Columns are standardised inside the model, a missing or infinite value counts as the column's mean. The prediction is the distance to the nearest centre, in
//! standard deviations: far from all of them is a row unlike those of training. Which centre is nearest, is the row's segment.
//!
//! A distance is the root of a sum of squares, one for each column. Its contribution is its square divided by the distance: they add up to it.

use std::cell::RefCell;

use kilter_stats::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::format::{Header, Sealed, Writer, seal};
use crate::{LearnError, Link, Matrix, Model};

pub const KIND: &str = "kmeans";

/// Rows whose sums one task makes; the tasks' sums are added in their order.
const BLOCK: usize = 4_096;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KMeans {
    pub clusters: usize,
    /// Begins so many times with other centres and keeps the best end.
    pub restarts: usize,
    pub max_iterations: usize,
    /// Stop when no centre moves by more than this, in standard deviations.
    pub tolerance: f64,
    /// Divide columns by their standard deviations first. Without, they count in their own units.
    pub standardise: bool,
    pub seed: u64,
}

impl Default for KMeans {
    fn default() -> Self {
        KMeans { clusters: 8, restarts: 10, max_iterations: 300, tolerance: 1e-4, standardise: true, seed: 7 }
    }
}

impl KMeans {
    fn check(&self) -> Result<(), LearnError> {
        let require = |holds: bool, name, found: String, must| {
            if holds { Ok(()) } else { Err(LearnError::BadParameter { name, found, must }) }
        };
        require((1..=10_000).contains(&self.clusters), "clusters", self.clusters.to_string(), "1 to 10000")?;
        require((1..=1_000).contains(&self.restarts), "restarts", self.restarts.to_string(), "1 to 1000")?;
        require((1..=1_000_000).contains(&self.max_iterations), "max_iterations", self.max_iterations.to_string(), "1 to 1000000")?;
        require((0.0..=1e9).contains(&self.tolerance), "tolerance", self.tolerance.to_string(), "0 to 1e9")
    }
}

/// Centres, and how columns are measured.
#[derive(Clone, Debug, PartialEq)]
pub struct KMeansModel {
    inputs: Vec<String>,
    parameters: KMeans,
    report: Report,
    means: Vec<f64>,
    /// What distances from the mean are divided by; 0 for a column without variation, which counts for nothing.
    units: Vec<f64>,
    /// One after the other, each with one value a column.
    centres: Vec<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Report {
    rows: usize,
    iterations: usize,
    /// Sum over the rows of the squared distance to the nearest centre, times the weight (scikit-learn's inertia).
    inertia: f64,
    /// Weight of the rows of each segment.
    sizes: Vec<f64>,
}

/// Rows as they are measured, one after the other, and their weights.
struct Points {
    width: usize,
    values: Vec<f64>,
    weights: Vec<f64>,
}

/// Where an attempt ended.
struct End {
    centres: Vec<f64>,
    inertia: f64,
    iterations: usize,
}

/// Finds the centres of rows without labels; a row of weight 0 counts for nothing, `None`: all count alike.
pub fn fit(matrix: &Matrix, weights: Option<&[f64]>, parameters: &KMeans) -> Result<KMeansModel, LearnError> {
    parameters.check()?;
    let (rows, width) = (matrix.rows(), matrix.columns());
    if width == 0 {
        return Err(LearnError::NoColumns);
    }
    if rows == 0 {
        return Err(LearnError::NoRows);
    }
    let weights = weights.map_or_else(|| vec![1.0; rows], <[f64]>::to_vec);
    if weights.len() != rows {
        return Err(LearnError::LengthMismatch { what: "weights", expected: rows, found: weights.len() });
    }
    if let Some(row) = weights.iter().position(|weight| !(weight.is_finite() && *weight >= 0.0)) {
        return Err(LearnError::BadWeight { row, value: weights[row] });
    }
    let counting = weights.iter().filter(|&&weight| weight > 0.0).count();
    if counting < parameters.clusters {
        return Err(LearnError::TooFewRows { rows: counting, needed: parameters.clusters });
    }
    let measures: Vec<(f64, f64)> =
        (0..width).into_par_iter().map(|column| measure(matrix.column(column), &weights, parameters.standardise)).collect();
    let (means, units): (Vec<f64>, Vec<f64>) = measures.into_iter().unzip();
    let mut values = Vec::with_capacity(rows * width);
    for row in 0..rows {
        values.extend((0..width).map(|column| measured(matrix.value(row, column), means[column], units[column])));
    }
    let points = Points { width, values, weights };
    let seeds = Rng::seeded(parameters.seed);
    let mut best: Option<End> = None;
    for attempt in 0..parameters.restarts {
        let mut rng = seeds.fork(attempt as u64);
        let end = descend(&points, begin(&points, parameters.clusters, &mut rng), parameters);
        if best.as_ref().is_none_or(|best| end.inertia < best.inertia) {
            best = Some(end);
        }
    }
    let End { centres, inertia, iterations } = best.ok_or(LearnError::NoRows)?;
    let mut sizes = vec![0.0; parameters.clusters];
    for (row, &weight) in points.values.chunks_exact(width).zip(&points.weights) {
        sizes[nearest(&centres, row).0] += weight;
    }
    let report = Report { rows, iterations, inertia, sizes };
    Ok(KMeansModel { inputs: matrix.names().to_vec(), parameters: parameters.clone(), report, means, units, centres })
}

/// Mean, and what distances from it are divided by.
fn measure(values: &[f64], weights: &[f64], standardise: bool) -> (f64, f64) {
    let present = || values.iter().zip(weights).filter(|(value, weight)| is_there(**value) && **weight > 0.0);
    let total: f64 = present().map(|(_, weight)| weight).sum();
    if total <= 0.0 {
        return (0.0, 0.0);
    }
    let mean = present().map(|(value, weight)| value * (weight / total)).sum::<f64>();
    let whole: f64 = weights.iter().sum();
    let variance = present().map(|(value, weight)| (value - mean) * (value - mean) * (weight / whole)).sum::<f64>();
    let deviation = libm::sqrt(variance);
    // Rounding leaves a constant far from 0 a little spread that is none.
    let varies = deviation > 1e-12 * mean.abs();
    (mean, if varies { if standardise { deviation } else { 1.0 } } else { 0.0 })
}

/// Infinite values, and those whose square is, count as missing.
fn is_there(value: f64) -> bool {
    value.abs() <= 1e100
}

fn measured(value: f64, mean: f64, unit: f64) -> f64 {
    if unit > 0.0 && is_there(value) { (value - mean) / unit } else { 0.0 }
}

fn squared(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// The nearest centre, the first of equals, and the squared distance to it.
fn nearest(centres: &[f64], row: &[f64]) -> (usize, f64) {
    let mut best = (0, f64::INFINITY);
    for (centre, values) in centres.chunks_exact(row.len()).enumerate() {
        let distance = squared(values, row);
        if distance < best.1 {
            best = (centre, distance);
        }
    }
    best
}

/// K-means++: each centre is a row drawn by its squared distance to the nearest centre so far; of a few draws the best.
fn begin(points: &Points, clusters: usize, rng: &mut Rng) -> Vec<f64> {
    let row = |row: usize| &points.values[row * points.width..][..points.width];
    let draws = 2 + libm::log(clusters as f64) as usize;
    let first = draw(&points.weights, rng);
    let mut centres = row(first).to_vec();
    let mut distances: Vec<f64> = points.values.par_chunks_exact(points.width).map(|values| squared(values, row(first))).collect();
    for _ in 1..clusters {
        let chances: Vec<f64> = distances.iter().zip(&points.weights).map(|(distance, weight)| distance * weight).collect();
        let mut best: Option<(f64, usize, Vec<f64>)> = None;
        for _ in 0..draws {
            let drawn = draw(&chances, rng);
            let with = |(values, &distance): (&[f64], &f64)| distance.min(squared(values, row(drawn)));
            let then: Vec<f64> = points.values.par_chunks_exact(points.width).zip(&distances).map(with).collect();
            let left: f64 = then.iter().zip(&points.weights).map(|(distance, weight)| distance * weight).sum();
            if best.as_ref().is_none_or(|(least, ..)| left < *least) {
                best = Some((left, drawn, then));
            }
        }
        if let Some((_, drawn, then)) = best {
            centres.extend_from_slice(row(drawn));
            distances = then;
        }
    }
    centres
}

/// A position, as likely as its share of the sum; among all that count where the sum is 0.
fn draw(chances: &[f64], rng: &mut Rng) -> usize {
    let total: f64 = chances.iter().sum();
    if !(total > 0.0 && total.is_finite()) {
        return rng.below(chances.len() as u64) as usize;
    }
    let mut left = rng.uniform() * total;
    let mut last = 0;
    for (at, &chance) in chances.iter().enumerate().filter(|(_, chance)| **chance > 0.0) {
        last = at;
        left -= chance;
        if left < 0.0 {
            break;
        }
    }
    last
}

/// Sums of the rows of each centre, with their weights, and of the squared distances.
struct Sums {
    values: Vec<f64>,
    weights: Vec<f64>,
    inertia: f64,
}

/// Moves each centre to the mean of its rows until they stand still.
fn descend(points: &Points, mut centres: Vec<f64>, parameters: &KMeans) -> End {
    let width = points.width;
    let mut iterations = 0;
    while iterations < parameters.max_iterations {
        iterations += 1;
        let sums = summed(points, &centres);
        let mut moved: f64 = 0.0;
        let mut empty = Vec::new();
        for (centre, values) in centres.chunks_exact_mut(width).enumerate() {
            let weight = sums.weights[centre];
            if weight > 0.0 {
                let mean: Vec<f64> = sums.values[centre * width..][..width].iter().map(|sum| sum / weight).collect();
                moved = moved.max(squared(&mean, values));
                values.copy_from_slice(&mean);
            } else {
                empty.push(centre);
            }
        }
        // A centre without rows goes to the row that is farthest from its own.
        for centre in empty {
            let far = farthest(points, &centres);
            let Some((row, _)) = far.filter(|(_, distance)| *distance > 0.0) else { continue };
            centres[centre * width..][..width].copy_from_slice(&points.values[row * width..][..width]);
            moved = f64::INFINITY;
        }
        if libm::sqrt(moved) <= parameters.tolerance {
            break;
        }
    }
    let inertia = summed(points, &centres).inertia;
    End { centres, inertia, iterations }
}

fn summed(points: &Points, centres: &[f64]) -> Sums {
    let (width, clusters) = (points.width, centres.len() / points.width);
    let blocks: Vec<Sums> = points
        .values
        .par_chunks(BLOCK * width)
        .zip(points.weights.par_chunks(BLOCK))
        .map(|(rows, weights)| {
            let mut sums = Sums { values: vec![0.0; clusters * width], weights: vec![0.0; clusters], inertia: 0.0 };
            for (row, &weight) in rows.chunks_exact(width).zip(weights).filter(|(_, weight)| **weight > 0.0) {
                let (centre, distance) = nearest(centres, row);
                sums.weights[centre] += weight;
                sums.inertia += weight * distance;
                sums.values[centre * width..][..width].iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
            }
            sums
        })
        .collect();
    let mut all = Sums { values: vec![0.0; clusters * width], weights: vec![0.0; clusters], inertia: 0.0 };
    for block in blocks {
        all.values.iter_mut().zip(&block.values).for_each(|(sum, value)| *sum += value);
        all.weights.iter_mut().zip(&block.weights).for_each(|(sum, value)| *sum += value);
        all.inertia += block.inertia;
    }
    all
}

/// The row that counts and is farthest from its centre, the first of equals.
fn farthest(points: &Points, centres: &[f64]) -> Option<(usize, f64)> {
    let rows = points.values.chunks_exact(points.width).zip(&points.weights).enumerate();
    let distances = rows.filter(|(_, (_, weight))| **weight > 0.0).map(|(at, (row, _))| (at, nearest(centres, row).1));
    distances.fold(None, |best: Option<(usize, f64)>, found| if best.is_none_or(|best| found.1 > best.1) { Some(found) } else { best })
}

impl KMeansModel {
    /// The centres in the units of the inputs, one after the other.
    pub fn centres(&self) -> Vec<Vec<f64>> {
        let raw = |centre: &[f64]| (0..centre.len()).map(|at| self.means[at] + centre[at] * self.units[at]).collect();
        self.centres.chunks_exact(self.inputs.len()).map(raw).collect()
    }

    /// The nearest centre and the squared distance to it, and then what is made of them and of the row as it is measured.
    fn near<T>(&self, row: &[f64], then: impl FnOnce(usize, f64, &[f64]) -> T) -> T {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        MEASURED.with_borrow_mut(|place| {
            place.clear();
            place.extend(row.iter().zip(&self.means).zip(&self.units).map(|((&value, &mean), &unit)| measured(value, mean, unit)));
            let (centre, distance) = nearest(&self.centres, place);
            then(centre, distance, place)
        })
    }
}

thread_local! {
    // A row as it is measured, so that scoring allocates nothing after the first one.
    static MEASURED: RefCell<Vec<f64>> = RefCell::default();
}

impl Model for KMeansModel {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    /// The prediction is the distance to the nearest centre.
    fn link(&self) -> Link {
        Link::Identity
    }

    fn margin(&self, row: &[f64]) -> f64 {
        self.near(row, |_, squared, _| libm::sqrt(squared))
    }

    fn segment(&self, row: &[f64]) -> Option<usize> {
        Some(self.near(row, |centre, _, _| centre))
    }

    /// How far each input takes the row from its centre: the base is 0, and a contribution its part of the squared distance, divided by the distance.
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        self.near(row, |centre, squared, place| {
            let (centre, distance) = (&self.centres[centre * row.len()..][..row.len()], libm::sqrt(squared));
            let part = |(value, centre): (&f64, &f64)| if distance > 0.0 { (value - centre) * (value - centre) / distance } else { 0.0 };
            contributions.clear();
            contributions.extend(place.iter().zip(centre).map(part));
        });
        0.0
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.f64s(&self.means);
        body.f64s(&self.units);
        body.f64s(&self.centres);
        let (inputs, parameters, report) = (self.inputs.clone(), self.parameters.clone(), self.report.clone());
        seal(&Header { kind: KIND.into(), inputs, parameters, report }, body)
    }

    /// How far apart the centres are by each input: the variance of their places, by the weight of their rows.
    fn importance(&self) -> Vec<f64> {
        let total: f64 = self.report.sizes.iter().sum();
        let width = self.inputs.len();
        let of = |at: usize| {
            let places = || self.centres.chunks_exact(width).map(move |centre| centre[at]).zip(&self.report.sizes);
            let mean = places().map(|(place, size)| place * (size / total)).sum::<f64>();
            places().map(|(place, size)| (place - mean) * (place - mean) * (size / total)).sum::<f64>()
        };
        (0..width).map(of).collect()
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": KIND,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "report": self.report,
            "centres": self.centres(),
        })
    }
}

pub(crate) fn read(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    let Header { inputs, parameters, report, .. } = sealed.header::<KMeans, Report>()?;
    parameters.check().map_err(|error| LearnError::corrupt(error.to_string()))?;
    let mut body = sealed.body();
    let width = inputs.len();
    let (means, units) = (body.f64s(width)?, body.f64s(width)?);
    let centres = body.f64s(width.saturating_mul(parameters.clusters))?;
    body.end()?;
    let sizes_are_right = report.sizes.len() == parameters.clusters && report.sizes.iter().all(|size| size.is_finite() && *size >= 0.0);
    let finite = means.iter().chain(&units).chain(&centres).all(|value| value.abs() <= 1e120);
    if width == 0 || !finite || units.iter().any(|unit| *unit < 0.0) || !sizes_are_right || report.sizes.iter().sum::<f64>() <= 0.0 {
        return Err(LearnError::corrupt("a centre or a unit that is none"));
    }
    Ok(Box::new(KMeansModel { inputs, parameters, report, means, units, centres }))
}

#[cfg(test)]
#[path = "kmeans_tests.rs"]
mod tests;
