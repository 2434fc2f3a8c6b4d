//! What is reached by acting on the highest scores first, and what mistakes cost.

use serde::{Deserialize, Serialize};

use super::ranking::{steps, totals};

/// One part of the rows, highest scores first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GainsRow {
    pub low: f64,
    pub high: f64,
    pub rows: usize,
    pub positives: usize,
    /// Share of positives in this part.
    pub rate: f64,
    /// That, by the overall share.
    pub lift: f64,
    /// Share of all rows in this part and those above.
    pub share: f64,
    /// Share of all positives in this part and those above.
    pub captured: f64,
    pub cumulative_lift: f64,
    /// Share of positives less share of negatives in this part and those above: its largest is the KS, as far as parts can see.
    pub ks: f64,
}

/// Lift and gains by equal parts (ten: deciles) from the highest score down. Equal scores share a part, so there may be fewer.
pub fn gains(scores: &[f64], labels: &[f64], parts: usize) -> Vec<GainsRow> {
    let steps = steps(scores, labels, None);
    let (all_positives, all_negatives) = totals(&steps);
    let all = all_positives + all_negatives;
    let mut table = Vec::new();
    let (mut seen, mut captured, mut at) = (0.0, 0.0, 0);
    for part in 1..=parts.max(1) {
        let until = (part * labels.len() / parts.max(1)) as f64;
        let (start, mut rows, mut positives) = (at, 0.0, 0.0);
        while at < steps.len() && seen + rows < until {
            rows += steps[at].positives + steps[at].negatives;
            positives += steps[at].positives;
            at += 1;
        }
        if at == start {
            continue;
        }
        seen += rows;
        captured += positives;
        table.push(GainsRow {
            low: steps[at - 1].score,
            high: steps[start].score,
            rows: rows as usize,
            positives: positives as usize,
            rate: positives / rows,
            lift: positives / rows / (all_positives / all),
            share: seen / all,
            captured: captured / all_positives,
            cumulative_lift: captured / seen / (all_positives / all),
            ks: captured / all_positives - (seen - captured) / all_negatives,
        });
    }
    table
}

/// H-measure (Hand 2009): the share of the cost of mistakes that the scores save, averaged over how the two kinds of mistake may cost, by a
/// Beta(2, 2) that is the same for every model (AUC weighs costs by the scores themselves). 1 is best, 0 is no better than one answer for
/// all. NaN with one class only.
pub fn h_measure(scores: &[f64], labels: &[f64]) -> f64 {
    let steps = steps(scores, labels, None);
    let (positives, negatives) = totals(&steps);
    if positives == 0.0 || negatives == 0.0 {
        return f64::NAN;
    }
    // The upper convex hull of the ROC curve, in shares of all rows.
    let all = positives + negatives;
    let mut hull: Vec<(f64, f64)> = vec![(0.0, 0.0)];
    let (mut hits, mut alarms) = (0.0, 0.0);
    for step in &steps {
        hits += step.positives / all;
        alarms += step.negatives / all;
        while let [.., a, b] = hull[..]
            && (b.0 - a.0) * (hits - a.1) >= (b.1 - a.1) * (alarms - a.0)
        {
            hull.pop();
        }
        hull.push((alarms, hits));
    }
    let (positive, negative) = (positives / all, negatives / all);
    // Integrals of c and of 1 - c under the density 6 c (1 - c) up to c.
    let false_alarms = |c: f64| c * c * c * (2.0 - 1.5 * c);
    let misses = |c: f64| c * c * (3.0 - 4.0 * c + 1.5 * c * c);
    // A false alarm costs c and a miss 1 - c; each corner of the hull is best for one stretch of c, from high to low.
    let mut cost = 0.0;
    let mut upper = 1.0;
    for (i, &(alarms, hits)) in hull.iter().enumerate() {
        let lower = hull.get(i + 1).map_or(0.0, |next| (next.1 - hits) / (next.1 - hits + next.0 - alarms));
        cost += alarms * (false_alarms(upper) - false_alarms(lower)) + (positive - hits) * (misses(upper) - misses(lower));
        upper = lower;
    }
    let worst = negative * false_alarms(positive) + positive * (misses(1.0) - misses(positive));
    1.0 - cost / worst
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilter_stats::Rng;
    use proptest::prelude::*;

    #[test]
    fn deciles_of_a_small_table() {
        let scores: Vec<f64> = (0..10).map(f64::from).collect();
        let labels = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0];
        let table = gains(&scores, &labels, 5);
        assert_eq!(table.len(), 5);
        assert_eq!((table[0].low, table[0].high, table[0].rows, table[0].positives), (8.0, 9.0, 2, 2));
        assert_eq!((table[0].lift, table[0].captured, table[1].captured, table[1].lift), (2.5, 0.5, 0.75, 1.25));
        assert!((table[1].ks - (0.75 - 1.0 / 6.0)).abs() < 1e-15);
        assert_eq!((table[4].share, table[4].captured, table[4].cumulative_lift), (1.0, 1.0, 1.0));
        assert_eq!(gains(&[0.5; 9], &[1.0; 9], 3).len(), 1);
        assert!(gains(&[], &[], 10).is_empty());
    }

    #[test]
    fn h_measure_knows_best_worst_and_none() {
        let labels = [0.0, 0.0, 1.0, 1.0];
        assert!((h_measure(&[0.1, 0.2, 0.3, 0.4], &labels) - 1.0).abs() < 1e-15);
        assert!(h_measure(&[0.5; 4], &labels).abs() < 1e-15);
        assert!(h_measure(&[0.4, 0.3, 0.2, 0.1], &labels).abs() < 1e-15, "the hull never lies below the diagonal");
        assert!(h_measure(&[0.4, 0.3], &[1.0, 1.0]).is_nan());
    }

    #[test]
    fn h_measure_equals_its_integral() {
        let mut rng = Rng::seeded(2);
        let (scores, labels): (Vec<f64>, Vec<f64>) = (0..200)
            .map(|_| {
                let label = f64::from(u8::from(rng.bernoulli(0.3)));
                (libm::round(4.0 * (rng.normal() + label)), label)
            })
            .unzip();
        let rows = labels.len() as f64;
        let cost = |c: f64, threshold: f64| {
            let mistakes = |class: f64, wrong: &dyn Fn(f64) -> bool| {
                scores.iter().zip(&labels).filter(|(score, label)| **label == class && wrong(**score)).count() as f64 / rows
            };
            c * mistakes(0.0, &|score| score >= threshold) + (1.0 - c) * mistakes(1.0, &|score| score < threshold)
        };
        let (mut with, mut without) = (0.0, 0.0);
        for i in 0..1000 {
            let c = (f64::from(i) + 0.5) / 1000.0;
            let density = 6.0 * c * (1.0 - c);
            with += density * (-40..=40).map(|t| cost(c, f64::from(t))).fold(f64::INFINITY, f64::min);
            without += density * cost(c, f64::NEG_INFINITY).min(cost(c, f64::INFINITY));
        }
        let found = h_measure(&scores, &labels);
        assert!((found - (1.0 - with / without)).abs() < 1e-4, "{found}");
    }

    proptest! {
        #[test]
        fn parts_cover_every_row_once(pairs in prop::collection::vec((0i32..20, any::<bool>()), 1..80), parts in 0usize..12) {
            let (scores, labels): (Vec<f64>, Vec<f64>) =
                pairs.into_iter().map(|(score, label)| (f64::from(score), f64::from(u8::from(label)))).unzip();
            let table = gains(&scores, &labels, parts);
            prop_assert_eq!(table.iter().map(|row| row.rows).sum::<usize>(), scores.len());
            prop_assert_eq!(table.iter().map(|row| row.positives).sum::<usize>() as f64, labels.iter().sum::<f64>());
            prop_assert!(table.windows(2).all(|pair| pair[0].low > pair[1].high));
        }
    }
}
