//! Population stability index: how far the values seen now have moved from a reference sample.
//!
//! PSI = sum over bins of (p - q) ln(p / q), the symmetrised Kullback-Leibler divergence of two binned samples, in nats. Bins are quantiles
//! of the reference plus one for missing values (NaN), so a rise of missing values is drift like any other.
//!
//! Without drift PSI is not zero. It is close to (1/n + 1/m) times a chi-square with bins - 1 degrees of freedom (Yurdakul 2018), n and m
//! being the two sample sizes: its mean is (bins - 1)(1/n + 1/m). The usual rules of thumb (0.1 look, 0.25 act) hold for thousands of rows
//! only; with 200 rows and ten bins 0.05 is pure chance. [`NoDrift`] gives that scale so that an alert can ask for more than noise.

use serde::{Deserialize, Serialize};

/// Quantile bins of a reference sample and how many of its values fell into each. Serialisable: a monitor stores it with its model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    counts: Counts,
}

/// Values counted into the bins of a reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Ascending upper bounds: bin i holds values above edge i - 1, up to and including edge i; the last bin holds all above the last edge.
    edges: Vec<f64>,
    bins: Vec<u64>,
    missing: u64,
}

impl Reference {
    /// Cuts the values into about `bins` quantile bins (at least 2; 10 is customary) and counts them. NaN counts as missing.
    ///
    /// Equal values never share an edge: heavy repeats give fewer bins. With no more distinct values than bins each value gets its own bin,
    /// and values never seen before fall into (so far empty) bins of their own below and above.
    pub fn from_values(values: &[f64], bins: usize) -> Self {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let mut counts = Counts::with_edges(quantile_edges(&sorted, bins.max(2)));
        values.iter().for_each(|&value| counts.add(value));
        Reference { counts }
    }

    /// An empty accumulator with the same bins.
    pub fn counts(&self) -> Counts {
        Counts::with_edges(self.counts.edges.clone())
    }

    /// The reference sample in its own bins.
    pub fn sample(&self) -> &Counts {
        &self.counts
    }

    pub fn edges(&self) -> &[f64] {
        &self.counts.edges
    }
}

impl Counts {
    fn with_edges(edges: Vec<f64>) -> Self {
        Counts { bins: vec![0; edges.len() + 1], edges, missing: 0 }
    }

    pub fn add(&mut self, value: f64) {
        if value.is_nan() {
            self.missing += 1;
        } else {
            self.bins[self.edges.partition_point(|&edge| edge < value)] += 1;
        }
    }

    /// Adds the counts of another accumulator of the same reference; false (and nothing added) when the bins differ.
    pub fn merge(&mut self, other: &Counts) -> bool {
        if self.edges != other.edges {
            return false;
        }
        self.bins.iter_mut().zip(&other.bins).for_each(|(mine, theirs)| *mine += theirs);
        self.missing += other.missing;
        true
    }

    /// Forgets what was counted and keeps the bins: the next monitoring window starts.
    pub fn clear(&mut self) {
        self.bins.fill(0);
        self.missing = 0;
    }

    pub fn total(&self) -> u64 {
        self.bins.iter().sum::<u64>() + self.missing
    }

    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Counts of the value bins, one more than there are edges.
    pub fn bins(&self) -> &[u64] {
        &self.bins
    }
}

/// PSI between the reference and what was counted into its bins.
///
/// Half a value is added to every bin on both sides (the Jeffreys prior), so that an empty bin gives a finite number that shrinks as the
/// samples grow. NaN while either side has no values, or when the counts belong to another reference: "not known" is not "no drift".
pub fn psi(reference: &Reference, counts: &Counts) -> f64 {
    let expected = &reference.counts;
    if expected.total() == 0 || counts.total() == 0 || expected.edges != counts.edges {
        return f64::NAN;
    }
    let smoothing = 0.5;
    let bins = expected.bins.len() as f64 + 1.0;
    let share = |count: u64, total: u64| (count as f64 + smoothing) / (total as f64 + smoothing * bins);
    let (n, m) = (expected.total(), counts.total());
    let pairs = expected.bins.iter().zip(&counts.bins).chain(std::iter::once((&expected.missing, &counts.missing)));
    pairs
        .map(|(&before, &now)| {
            let (q, p) = (share(before, n), share(now, m));
            (p - q) * libm::log(p / q)
        })
        .sum()
}

/// Mean and standard deviation of PSI when nothing has drifted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoDrift {
    pub mean: f64,
    pub stddev: f64,
}

impl NoDrift {
    /// Bins that neither side has filled do not count as degrees of freedom.
    pub fn between(reference: &Reference, counts: &Counts) -> Self {
        let expected = &reference.counts;
        let filled = |pair: (&u64, &u64)| usize::from(*pair.0 + *pair.1 > 0);
        let bins = expected.bins.iter().zip(&counts.bins).map(filled).sum::<usize>() + filled((&expected.missing, &counts.missing));
        let freedom = bins.saturating_sub(1) as f64;
        let scale = 1.0 / expected.total() as f64 + 1.0 / counts.total() as f64;
        NoDrift { mean: freedom * scale, stddev: libm::sqrt(2.0 * freedom) * scale }
    }
}

fn quantile_edges(sorted: &[f64], bins: usize) -> Vec<f64> {
    let mut distinct: Vec<f64> = Vec::new();
    for &value in sorted {
        if distinct.last() != Some(&value) {
            distinct.push(value);
        }
        if distinct.len() > bins {
            break;
        }
    }
    if distinct.len() <= bins {
        let below = distinct.first().map(|lowest| lowest.next_down());
        return below.into_iter().chain(distinct).filter(|edge| edge.is_finite()).collect();
    }
    let mut edges: Vec<f64> = Vec::with_capacity(bins - 1);
    for bin in 1..bins {
        let edge = sorted[(bin * sorted.len()).div_ceil(bins) - 1];
        if edge.is_finite() && edges.last().is_none_or(|&last| edge > last) && edge < sorted[sorted.len() - 1] {
            edges.push(edge);
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Moments, Rng};
    use proptest::prelude::*;

    #[test]
    fn hand_computed() {
        let reference = Reference::from_values(&(0..100).map(f64::from).collect::<Vec<_>>(), 2);
        assert_eq!(reference.edges(), &[49.0]);
        assert_eq!(reference.sample().bins(), &[50, 50]);
        let mut counts = reference.counts();
        (0..100).for_each(|i| counts.add(if i < 80 { 1.0 } else { 99.0 }));
        // Shares with half a count added to each of three bins (two and missing).
        let (q, p1, p2) = (50.5 / 101.5, 80.5 / 101.5, 20.5 / 101.5);
        let expected: f64 = (p1 - q) * f64::ln(p1 / q) + (p2 - q) * f64::ln(p2 / q);
        assert!((psi(&reference, &counts) - expected).abs() < 1e-12);
    }

    #[test]
    fn missing_values_are_drift() {
        let values: Vec<f64> = (0..1000).map(f64::from).collect();
        let reference = Reference::from_values(&values, 10);
        let mut counts = reference.counts();
        values.iter().enumerate().for_each(|(i, &v)| counts.add(if i % 3 == 0 { f64::NAN } else { v }));
        assert_eq!(counts.missing(), 334);
        assert!(psi(&reference, &counts) > 1.0);
    }

    #[test]
    fn few_distinct_values_get_a_bin_each_and_room_for_strangers() {
        let reference = Reference::from_values(&[0.0, 0.0, 1.0, 1.0, 1.0, 2.0], 10);
        assert_eq!(reference.sample().bins(), &[0, 2, 3, 1, 0]);
        let constant = Reference::from_values(&[7.0; 500], 10);
        let mut same = constant.counts();
        (0..500).for_each(|_| same.add(7.0));
        assert_eq!(psi(&constant, &same), 0.0);
        let mut lower = constant.counts();
        (0..500).for_each(|_| lower.add(6.0));
        assert!(psi(&constant, &lower) > 5.0);
    }

    #[test]
    fn nothing_seen_is_not_known() {
        let reference = Reference::from_values(&[1.0, 2.0], 10);
        assert!(psi(&reference, &reference.counts()).is_nan());
        assert!(psi(&Reference::from_values(&[], 10), reference.sample()).is_nan());
        assert!(!reference.counts().merge(&Reference::from_values(&[5.0], 10).counts()));
    }

    #[test]
    fn without_drift_psi_has_its_published_size() {
        let mut rng = Rng::seeded(5);
        let mut seen = Moments::default();
        let mut expected = 0.0;
        for _ in 0..400 {
            let sample: Vec<f64> = (0..800).map(|_| rng.normal()).collect();
            let reference = Reference::from_values(&sample, 10);
            let mut counts = reference.counts();
            (0..500).for_each(|_| counts.add(rng.normal()));
            seen.add(psi(&reference, &counts));
            expected = NoDrift::between(&reference, &counts).mean;
        }
        assert!((seen.mean / expected - 1.0).abs() < 0.1, "{} against {expected}", seen.mean);
    }

    #[test]
    fn a_stored_reference_counts_alike() {
        let mut rng = Rng::seeded(9);
        let values: Vec<f64> = (0..500).map(|_| rng.pareto(1.0, 1.5)).collect();
        let reference = Reference::from_values(&values, 10);
        let back: Reference = serde_json::from_str(&serde_json::to_string(&reference).unwrap()).unwrap();
        assert_eq!(back, reference);
    }

    proptest! {
        #[test]
        fn psi_is_never_negative_and_zero_on_itself(
            values in prop::collection::vec(prop_oneof![-5.0f64..5.0, Just(0.0), Just(f64::NAN), Just(f64::INFINITY)], 1..200),
            other in prop::collection::vec(-8.0f64..8.0, 1..100),
            bins in 1usize..20,
        ) {
            let reference = Reference::from_values(&values, bins);
            prop_assert_eq!(reference.sample().total(), values.len() as u64);
            prop_assert_eq!(psi(&reference, reference.sample()), 0.0);
            let mut counts = reference.counts();
            other.iter().for_each(|&v| counts.add(v));
            prop_assert!(psi(&reference, &counts) >= 0.0);
        }
    }
}
