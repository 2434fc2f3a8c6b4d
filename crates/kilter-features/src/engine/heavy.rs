//! The entities that weigh most, in bytes and in events: one that is most of a view, such as the account all tests are booked on, is
//! seldom meant, and costs what no average tells. For people who watch over a view; no value depends on it.

use kilter_core::EntityKey;

/// An entity and its state's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heavy {
    pub key: EntityKey,
    pub bytes: usize,
}

/// An entity and its part of the view's events of late.
#[derive(Clone, Debug, PartialEq)]
pub struct Busy {
    pub key: EntityKey,
    /// Between 0 and 1; the truth is not above.
    pub share: f64,
    /// The truth is not below, but for what the sample misses.
    pub at_least: f64,
}

/// How many are told of.
pub(super) const TOLD: usize = 5;
/// Of so many events one is counted.
const EVERY: u32 = 8;
/// Entities counted. One with more than a 64th of the events is always among them.
const COUNTED: usize = 64;
/// When so many are counted all counts are halved: half of what is told stems from the last half a million events.
const HALVE_AT: u64 = 1 << 16;

/// Space-Saving (Metwally, Agrawal, El Abbadi 2005) over a sample of the events: an entity that is not counted takes the place of the least.
#[derive(Default)]
pub(super) struct Busiest {
    skipped: u32,
    total: u64,
    hashes: Vec<u64>,
    counts: Vec<Count>,
}

struct Count {
    key: EntityKey,
    count: u64,
    /// What of the count may be others'.
    over: u64,
}

impl Busiest {
    /// Takes in an event of the entity with this key.
    pub(super) fn take(&mut self, key: &EntityKey) {
        self.skipped += 1;
        if self.skipped < EVERY {
            return;
        }
        self.skipped = 0;
        self.count(key);
    }

    fn count(&mut self, key: &EntityKey) {
        let hash = super::hash(key);
        self.total += 1;
        if let Some(place) = self.hashes.iter().position(|h| *h == hash) {
            self.counts[place].count += 1;
        } else if self.counts.len() < COUNTED {
            self.hashes.push(hash);
            self.counts.push(Count { key: key.clone(), count: 1, over: 0 });
        } else if let Some((place, least)) = self.counts.iter_mut().enumerate().min_by_key(|(_, c)| c.count) {
            *least = Count { key: key.clone(), count: least.count + 1, over: least.count };
            self.hashes[place] = hash;
        }
        if self.total >= HALVE_AT {
            self.total /= 2;
            for count in &mut self.counts {
                count.count /= 2;
                count.over /= 2;
            }
        }
    }

    /// The busiest, largest share first.
    pub(super) fn told(&self) -> Vec<Busy> {
        let share = |n: u64| n as f64 / self.total.max(1) as f64;
        let mut all: Vec<_> = self.counts.iter().filter(|c| c.count > c.over).collect();
        all.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.key.cmp(&b.key)));
        let busy = |c: &&Count| Busy { key: c.key.clone(), share: share(c.count), at_least: share(c.count - c.over) };
        all.iter().take(TOLD).map(busy).collect()
    }
}

/// The heaviest of all, heaviest first.
pub(super) fn heaviest<'a>(entities: impl Iterator<Item = (&'a EntityKey, usize)>) -> Vec<Heavy> {
    let mut most: Vec<(&EntityKey, usize)> = Vec::with_capacity(TOLD + 1);
    for (key, bytes) in entities {
        if most.len() < TOLD || most.last().is_some_and(|least| bytes > least.1) {
            let place = most.partition_point(|m| m.1 >= bytes);
            most.insert(place, (key, bytes));
            most.truncate(TOLD);
        }
    }
    most.into_iter().map(|(key, bytes)| Heavy { key: key.clone(), bytes }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilter_stats::Rng;
    use std::collections::BTreeMap;

    /// Bounds of Space-Saving against exact counts, over a stream in which a few entities are most of the events.
    #[test]
    fn shares_lie_between_their_bounds_and_no_busy_entity_is_missed() {
        for seed in 0..20 {
            let mut rng = Rng::seeded(seed);
            let (mut busiest, mut exact) = (Busiest::default(), BTreeMap::<i64, u64>::new());
            let n = 40_000;
            for _ in 0..n {
                let key = if rng.bernoulli(0.3) { rng.below(3) as i64 } else { 10 + rng.below(50_000) as i64 };
                busiest.count(&EntityKey::Int(key));
                *exact.entry(key).or_default() += 1;
            }
            let told = busiest.told();
            for busy in &told {
                let EntityKey::Int(key) = busy.key else { unreachable!() };
                let truth = exact[&key] as f64 / n as f64;
                assert!(busy.at_least <= truth + 1e-12 && truth <= busy.share + 1e-12, "{busy:?} against {truth}");
            }
            for hot in 0..3 {
                assert!(told.iter().any(|b| b.key == EntityKey::Int(hot)), "{hot} is missing: {told:?}");
            }
        }
    }

    #[test]
    fn one_that_was_busy_long_ago_is_told_no_more() {
        let mut busiest = Busiest::default();
        (0..20_000).for_each(|_| busiest.count(&EntityKey::Int(1)));
        (0..20 * HALVE_AT).for_each(|i| busiest.count(&EntityKey::Int(2 + i as i64 % 2)));
        let told = busiest.told();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|b| b.key != EntityKey::Int(1) && (b.share - 0.5).abs() < 0.01), "{told:?}");
    }

    #[test]
    fn the_heaviest_come_in_order() {
        let keys: Vec<EntityKey> = (0..9).map(EntityKey::Int).collect();
        let bytes = [3, 9, 1, 7, 7, 2, 8, 0, 5];
        let told: Vec<usize> = heaviest(keys.iter().zip(bytes)).iter().map(|h| h.bytes).collect();
        assert_eq!(told, [9, 8, 7, 7, 5]);
    }
}
