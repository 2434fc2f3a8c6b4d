//! Metrics of rows that are ranked within queries: what a search answers, or the cases that one person may look at in a day.
//!
//! `queries` holds how many rows each query has, one after the other. A figure is the mean over the queries that it is defined for, NaN where it is
//! for none. Rows of one score have no order among themselves: what is counted is the mean over all orders that they may come in.

/// What a place counts, from 0 on: 1 / log2(place + 2).
pub fn discount(place: usize) -> f64 {
    1.0 / libm::log2(place as f64 + 2.0)
}

/// The most that the first `at` rows can be worth together.
pub(crate) fn ideal_dcg(gains: &[f64], at: usize) -> f64 {
    let mut sorted = gains.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    sorted.iter().take(at).enumerate().map(|(place, gain)| gain * discount(place)).sum()
}

/// Normalised discounted cumulative gain of the first `at` rows of each query, of which each is worth its gain (usually 2^label - 1). Not defined for a
/// query without a gain above 0.
pub fn ndcg(scores: &[f64], gains: &[f64], queries: &[usize], at: usize) -> f64 {
    mean(scores, gains, queries, |ties, gains| {
        let ideal = ideal_dcg(gains, at);
        let mut dcg = 0.0;
        for tie in ties {
            let places: f64 = (tie.before..tie.before + tie.rows.len()).take_while(|&place| place < at).map(discount).sum();
            dcg += places * tie.rows.iter().map(|&row| gains[row]).sum::<f64>() / tie.rows.len() as f64;
        }
        (ideal > 0.0).then(|| dcg / ideal)
    })
}

/// Mean average precision of the first `at` rows of each query: precision at each of them that is relevant (label above 0), summed and divided by how many
/// relevant ones there could be. Not defined for a query without one.
pub fn mean_average_precision(scores: &[f64], labels: &[f64], queries: &[usize], at: usize) -> f64 {
    mean(scores, labels, queries, |ties, labels| {
        let all = labels.iter().filter(|&&label| label > 0.0).count();
        let (mut sum, mut above) = (0.0, 0.0);
        for tie in ties {
            let (rows, relevant) = (tie.rows.len() as f64, tie.relevant(labels) as f64);
            for within in 0..tie.rows.len() {
                let place = tie.before + within;
                if place < at && relevant > 0.0 {
                    // Of the rows of this score before it, each is relevant by this chance if it is.
                    let before = if rows > 1.0 { within as f64 * (relevant - 1.0) / (rows - 1.0) } else { 0.0 };
                    sum += relevant / rows * (above + before + 1.0) / (place as f64 + 1.0);
                }
            }
            above += relevant;
        }
        (all > 0).then(|| sum / all.min(at) as f64)
    })
}

/// Mean reciprocal rank: 1 / the place of the first relevant row (label above 0), counted from 1. Not defined for a query without one.
pub fn mean_reciprocal_rank(scores: &[f64], labels: &[f64], queries: &[usize]) -> f64 {
    mean(scores, labels, queries, |ties, labels| {
        let tie = ties.iter().find(|tie| tie.relevant(labels) > 0)?;
        let (rows, relevant) = (tie.rows.len(), tie.relevant(labels));
        // The chance that none of the rows of this score before is relevant.
        let (mut none_before, mut rank) = (1.0, 0.0);
        for within in 0..=rows - relevant {
            let left = (rows - within) as f64;
            rank += none_before * relevant as f64 / left / (tie.before + within + 1) as f64;
            none_before *= (left - relevant as f64) / left;
        }
        Some(rank)
    })
}

/// Rows of a query with one score.
struct Tie<'a> {
    /// Rows that score higher.
    before: usize,
    rows: &'a [usize],
}

impl Tie<'_> {
    fn relevant(&self, labels: &[f64]) -> usize {
        self.rows.iter().filter(|&&row| labels[row] > 0.0).count()
    }
}

fn mean(scores: &[f64], values: &[f64], queries: &[usize], of: impl Fn(&[Tie<'_>], &[f64]) -> Option<f64>) -> f64 {
    assert_eq!(scores.len(), values.len(), "one score a label");
    assert_eq!(scores.len(), queries.iter().sum::<usize>(), "queries hold all rows");
    let (mut sum, mut defined, mut start) = (0.0, 0usize, 0);
    let mut order = Vec::new();
    for &size in queries {
        let rows = start..start + size;
        start = rows.end;
        let scores = &scores[rows.clone()];
        order.clear();
        order.extend(0..size);
        order.sort_unstable_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let mut before = 0;
        // Both zeros are one score.
        let ties = order.chunk_by(|&a, &b| scores[a] == scores[b]).map(|rows| {
            let tie = Tie { before, rows };
            before += rows.len();
            tie
        });
        if let Some(figure) = of(&ties.collect::<Vec<_>>(), &values[rows]) {
            sum += figure;
            defined += 1;
        }
    }
    if defined > 0 { sum / defined as f64 } else { f64::NAN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        // Gains 3, 2, 3, 0, 1, 2 in this order: the example of Wikipedia's article on discounted cumulative gain.
        let gains = [3.0, 2.0, 3.0, 0.0, 1.0, 2.0];
        let scores = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0];
        assert!((ndcg(&scores, &gains, &[6], 6) - 6.861_126_688_593_502 / 7.140_995_184_095_7).abs() < 1e-12);
        assert_eq!(ndcg(&scores, &gains, &[6], 1), 1.0);
        // Relevant at places 1 and 3 of the first query and 2 of the second; nothing is relevant in the third.
        let (scores, labels) = ([3.0, 2.0, 1.0, 9.0, 8.0, 5.0], [1.0, 0.0, 2.0, 0.0, 1.0, 0.0]);
        let queries = [3, 2, 1];
        assert!((mean_average_precision(&scores, &labels, &queries, 10) - ((1.0 + 2.0 / 3.0) / 2.0 + 0.5) / 2.0).abs() < 1e-12);
        assert_eq!(mean_reciprocal_rank(&scores, &labels, &queries), 0.75);
        assert!(ndcg(&[1.0], &[0.0], &[1], 5).is_nan() && mean_reciprocal_rank(&[], &[], &[]).is_nan());
    }

    /// All orders of the rows that their scores allow.
    fn orders(scores: &[f64]) -> Vec<Vec<usize>> {
        fn extend(scores: &[f64], start: Vec<usize>, all: &mut Vec<Vec<usize>>) {
            let left: Vec<usize> = (0..scores.len()).filter(|row| !start.contains(row)).collect();
            let highest = left.iter().map(|&row| scores[row]).fold(f64::NEG_INFINITY, f64::max);
            if left.is_empty() {
                return all.push(start);
            }
            for row in left.into_iter().filter(|&row| scores[row] == highest) {
                extend(scores, [&start[..], &[row]].concat(), all);
            }
        }
        let mut all = Vec::new();
        extend(scores, Vec::new(), &mut all);
        all
    }

    proptest! {
        #[test]
        fn equal_scores_count_as_the_mean_of_all_their_orders(
            rows in prop::collection::vec((0u8..3, 0u8..3), 1..7), at in 1usize..8,
        ) {
            let (scores, labels): (Vec<f64>, Vec<f64>) = rows.iter().map(|&(s, l)| (f64::from(s), f64::from(l))).unzip();
            let orders = orders(&scores);
            let mean = |of: &dyn Fn(&[f64]) -> f64| {
                orders.iter().map(|order| of(&order.iter().map(|&row| labels[row]).collect::<Vec<_>>())).sum::<f64>() / orders.len() as f64
            };
            let ranked = |labels: &[f64]| labels.iter().take(at).enumerate().map(|(i, l)| l / (i as f64 + 2.0).log2()).sum::<f64>();
            let best = { let mut best = labels.clone(); best.sort_by(|a, b| b.total_cmp(a)); ranked(&best) };
            let relevant = labels.iter().filter(|&&label| label > 0.0).count();
            let precision = |labels: &[f64]| {
                let hits = |i: usize| labels[..=i].iter().filter(|&&label| label > 0.0).count() as f64;
                (0..labels.len().min(at)).filter(|&i| labels[i] > 0.0).map(|i| hits(i) / (i as f64 + 1.0)).sum::<f64>() / relevant.min(at) as f64
            };
            let first = |labels: &[f64]| 1.0 / (1.0 + labels.iter().position(|&label| label > 0.0).unwrap() as f64);
            let queries = [rows.len()];
            if relevant == 0 {
                prop_assert!(ndcg(&scores, &labels, &queries, at).is_nan() && mean_average_precision(&scores, &labels, &queries, at).is_nan());
            } else {
                prop_assert!((ndcg(&scores, &labels, &queries, at) - mean(&ranked) / best).abs() < 1e-12);
                prop_assert!((mean_average_precision(&scores, &labels, &queries, at) - mean(&precision)).abs() < 1e-12);
                prop_assert!((mean_reciprocal_rank(&scores, &labels, &queries) - mean(&first)).abs() < 1e-12);
            }
        }
    }
}
