//! Card precision at the top: how many of the k cards (or accounts) an analyst checks each day are worth it.
//!
//! The definition is that of the Fraud Detection Handbook (Le Borgne et al. 2022), `card_precision_top_k`: each day the k keys with the
//! highest score of the day are checked; the precision is the number of those with at least one positive that day, divided by k; a key
//! found so is blocked and gone from later days.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// One scored event of a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    pub day: i64,
    pub key: u64,
    pub score: f64,
    pub label: f64,
}

/// Result of [`precision_at_top`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopKeys {
    /// Mean over the days that have events; NaN without any.
    pub precision: f64,
    /// Precision of each day, in order.
    pub days: Vec<(i64, f64)>,
}

/// Daily precision among the `k` highest keys. Events may come in any order; of equal scores the lower key is checked first.
pub fn precision_at_top(events: &[Scored], k: usize) -> TopKeys {
    // Highest score and label of each key on each day.
    let mut by_day: BTreeMap<i64, BTreeMap<u64, (f64, f64)>> = BTreeMap::new();
    for event in events {
        let best = by_day.entry(event.day).or_default().entry(event.key).or_insert((f64::NEG_INFINITY, 0.0));
        *best = (best.0.max(event.score), best.1.max(event.label));
    }
    let mut found: BTreeSet<u64> = BTreeSet::new();
    let mut days = Vec::new();
    for (day, keys) in by_day {
        let mut ranked: Vec<(u64, (f64, f64))> = keys.into_iter().filter(|(key, _)| !found.contains(key)).collect();
        ranked.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
        ranked.truncate(k);
        let hits: Vec<u64> = ranked.iter().filter(|(_, (_, label))| *label == 1.0).map(|(key, _)| *key).collect();
        days.push((day, hits.len() as f64 / k as f64));
        found.extend(hits);
    }
    let precision = days.iter().map(|(_, precision)| precision).sum::<f64>() / days.len() as f64;
    TopKeys { precision, days }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_found_key_is_gone_from_later_days() {
        let event = |day, key, score, positive| Scored { day, key, score, label: f64::from(u8::from(positive)) };
        let events = [
            // Day 1: keys 1 and 2 lead; only 1 is positive, through its lower event.
            event(1, 1, 0.9, false),
            event(1, 1, 0.2, true),
            event(1, 2, 0.8, false),
            event(1, 3, 0.1, true),
            // Day 2: key 1 is blocked, so 2 and 3 are checked, and both are positive.
            event(2, 1, 0.99, true),
            event(2, 3, 0.5, true),
            event(2, 2, 0.6, true),
            // Day 3: nobody is left but 4.
            event(3, 2, 0.9, true),
            event(3, 4, 0.3, true),
        ];
        let top = precision_at_top(&events, 2);
        assert_eq!(top.days, &[(1, 0.5), (2, 1.0), (3, 0.5)]);
        assert!((top.precision - 2.0 / 3.0).abs() < 1e-15);
        assert!(precision_at_top(&[], 5).precision.is_nan());
    }
}
