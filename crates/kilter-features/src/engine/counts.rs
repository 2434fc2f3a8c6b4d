//! What became of the events that an engine was given, and which entities it holds.

use kilter_core::EntityKey;

use super::Engine;

/// Events of a view by what became of them; together they are all events of its source that it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewCounts {
    pub applied: u64,
    pub late: u64,
    pub no_key: u64,
    pub filtered: u64,
    /// Of the applied, late and filtered ones: those that replaced or took back an earlier row.
    pub retracted: u64,
}

impl ViewCounts {
    /// All events the view was given.
    pub fn events(&self) -> u64 {
        self.applied + self.late + self.no_key + self.filtered
    }
}

impl Engine {
    /// What became of the events of each view so far, cheaply.
    pub fn counts(&self) -> impl Iterator<Item = ViewCounts> + '_ {
        self.states.iter().map(|s| ViewCounts {
            applied: s.applied,
            late: s.late,
            no_key: s.no_key,
            filtered: s.filtered,
            retracted: s.retracted,
        })
    }

    /// The entities of a view in memory, from a place on, in no order that means anything; places change with every event.
    pub fn keys_in_memory(&self, view: usize, from: usize) -> impl Iterator<Item = &EntityKey> {
        self.states.get(view).into_iter().flat_map(move |s| s.entities.iter_from(from)).map(|entity| &entity.key)
    }

    /// The entities of a view in memory that lie before a place, the last first, each with its place. When one leaves, the last of all comes to its place: whoever
    /// goes on later before the last place that was looked at meets every entity that has been there since, and some twice.
    pub fn keys_in_memory_before(&self, view: usize, place: usize) -> impl Iterator<Item = (usize, &EntityKey)> {
        let entities = self.states.get(view).map(|s| &s.entities);
        let places = 0..entities.map_or(0, |e| e.len().min(place));
        places.rev().filter_map(move |place| Some((place, &entities?.get(place)?.key)))
    }

    /// Goes on counting from what the keeper of a snapshot kept beside it: how many events each view had applied.
    pub fn resume_counts(&mut self, applied: &[u64]) {
        for (state, applied) in self.states.iter_mut().zip(applied) {
            state.applied = *applied;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnSpec, ViewSpec, compile_view};
    use kilter_core::{DataType, Event, EventTime, Operation, Schema, SourceId, Span, Value};
    use kilter_stats::Rng;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn every_event_is_counted_once_whatever_becomes_of_it() {
        let schema = Schema::new([("k", DataType::Int64), ("x", DataType::Float64)]);
        let filtered = ViewSpec {
            filter: Some("x >= 10".into()),
            columns: vec![ColumnSpec { name: "f".into(), text: "sum(x) over 1m".into(), default: None }],
            ..ViewSpec::new("v", SourceId(0), schema, &["k"], Span(20 * SECOND))
        };
        let mut engine = Engine::new(vec![compile_view(&filtered).unwrap()]);
        let mut rng = Rng::seeded(3);
        let mut want = ViewCounts::default();
        let mut watermark = 0;
        for i in 0..5_000 {
            let time = (i as i64 * SECOND - rng.below(200 * SECOND as u64) as i64).max(0);
            let mut e = Event {
                source: SourceId(0),
                offset: i,
                time: EventTime(time),
                arrived: EventTime(time),
                id: None,
                operation: Operation::Upsert,
                row: vec![Value::Int(rng.below(40) as i64), Value::Float(rng.below(30) as f64)],
                extra: None,
                origin: None,
            };
            watermark = watermark.max(time);
            let no_key = rng.bernoulli(0.1);
            if no_key {
                e.row[0] = Value::Null;
            }
            let Value::Float(x) = e.row[1] else { unreachable!() };
            // A minute and its lateness, in tiles of a second.
            let late = time.div_euclid(SECOND) < (watermark - 80 * SECOND).div_euclid(SECOND);
            match (x < 10.0, no_key, late) {
                (true, ..) => want.filtered += 1,
                (_, true, _) => want.no_key += 1,
                (_, _, true) => want.late += 1,
                _ => want.applied += 1,
            }
            engine.update(&e);
        }
        assert_eq!(engine.counts().collect::<Vec<_>>(), [want]);
        assert_eq!(want.events(), 5_000);
        assert!(want.late > 100 && want.no_key > 100 && want.filtered > 100 && want.applied > 100, "{want:?}");
    }
}
