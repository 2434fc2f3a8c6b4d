//! Remembers client-supplied event ids within each source's horizon, so that a retried request counts once.

use std::collections::{HashMap, VecDeque};

use kilter_core::{EventTime, Offset, Span};

/// At most this many ids are remembered over all sources; the oldest leave first, and that is counted.
pub const LIMIT: usize = 20_000_000;

const SHARDS: usize = 256;

/// Ids seen, by source, with the offset of the event that had them first.
#[derive(Default)]
pub struct Dedupe {
    /// In shards, so that growing one of them stops the stream for a moment only.
    seen: Vec<HashMap<(u16, u128), (Offset, EventTime)>>,
    count: usize,
    /// In order of arrival.
    order: VecDeque<(EventTime, u16, u128)>,
    horizons: Vec<Span>,
    pub evicted: u64,
    /// Ids seen again, since start.
    pub duplicates: u64,
}

impl Dedupe {
    /// `horizons`: one per source, measured in arrival time.
    pub fn new(horizons: Vec<Span>) -> Dedupe {
        Dedupe { horizons, seen: (0..SHARDS).map(|_| HashMap::new()).collect(), ..Dedupe::default() }
    }

    /// The longest horizon: how far back the log must be read to fill the memory after a start.
    pub fn longest(&self) -> Span {
        self.horizons.iter().copied().max().unwrap_or(Span::ZERO)
    }

    /// The offset of the event that had this id before, or none, and then `offset` is remembered.
    pub fn check(&mut self, source: u16, id: &str, arrived: EventTime, offset: Offset) -> Option<Offset> {
        if self.horizons.get(source as usize).is_none_or(|h| h.0 == 0) {
            return None;
        }
        self.check_hash(source, hash(id), arrived, offset)
    }

    /// The same for an id of which only the hash is left.
    pub fn check_hash(&mut self, source: u16, id: u128, arrived: EventTime, offset: Offset) -> Option<Offset> {
        if self.horizons.get(source as usize).is_none_or(|h| h.0 == 0) {
            return None;
        }
        self.forget(arrived);
        if let Some(first) = self.first_of(source, id, arrived) {
            self.duplicates += 1;
            return Some(first);
        }
        let key = (source, id);
        if self.count >= LIMIT {
            self.evicted += 1;
            self.pop();
        }
        if self.seen[shard(key.1)].insert(key, (offset, arrived)).is_none() {
            self.count += 1;
        }
        self.order.push_back((arrived, key.0, key.1));
        None
    }

    /// The offset of the event that had this id within the source's horizon; nothing is remembered.
    pub fn first(&self, source: u16, id: &str, arrived: EventTime) -> Option<Offset> {
        self.first_of(source, hash(id), arrived)
    }

    fn first_of(&self, source: u16, hash: u128, arrived: EventTime) -> Option<Offset> {
        let (first, at) = self.seen.get(shard(hash))?.get(&(source, hash))?;
        // Another source's longer horizon may have kept the entry beyond its own.
        (*at + *self.horizons.get(source as usize)? >= arrived).then_some(*first)
    }

    /// Takes back ids whose events were not written after all.
    pub fn withdraw(&mut self, from: Offset) {
        for shard in &mut self.seen {
            shard.retain(|_, (offset, _)| *offset < from);
        }
        let seen = &self.seen;
        self.order.retain(|(_, source, id)| seen[shard(*id)].contains_key(&(*source, *id)));
        self.count = self.seen.iter().map(HashMap::len).sum();
    }

    fn forget(&mut self, now: EventTime) {
        // One queue for all sources: an id leaves when its own horizon has passed and all older ones have left.
        while let Some((arrived, source, _)) = self.order.front()
            && *arrived + self.horizons[*source as usize] < now
        {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some((arrived, source, id)) = self.order.pop_front()
            // A later event may have had the id again, after its horizon.
            && self.seen[shard(id)].get(&(source, id)).is_some_and(|(_, at)| *at == arrived)
        {
            self.seen[shard(id)].remove(&(source, id));
            self.count -= 1;
        }
    }
}

fn shard(hash: u128) -> usize {
    // The map takes other bits of the hash.
    (hash >> 120) as usize % SHARDS
}

/// 128 bits of BLAKE3: two different ids meet with probability 2^-64 only after 2^32 of them.
pub fn hash(id: &str) -> u128 {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&blake3::hash(id.as_bytes()).as_bytes()[..16]);
    u128::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_counts_once_within_the_horizon_and_per_source() {
        let mut dedupe = Dedupe::new(vec![Span::MINUTE, Span::ZERO]);
        let at = |s: i64| EventTime(s * 1_000_000);
        assert_eq!(dedupe.check(0, "a", at(0), 1), None);
        assert_eq!(dedupe.check(0, "a", at(60), 2), Some(1));
        assert_eq!(dedupe.check(0, "a", at(61), 3), None, "the horizon has passed");
        assert_eq!(dedupe.check(1, "a", at(61), 4), None, "no horizon, no memory");
        assert_eq!(dedupe.check(1, "a", at(61), 5), None);
        assert_eq!(dedupe.check(0, "b", at(62), 6), None);
        dedupe.withdraw(6);
        assert_eq!(dedupe.check(0, "b", at(62), 6), None, "its event was never written");
        assert_eq!(dedupe.check(0, "a", at(63), 7), Some(3));
    }
}
