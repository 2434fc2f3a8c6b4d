//! Reads that say how much they know: how fresh each feature is, and whether the windows still held all that the moment asked for.

use kilter_core::{EntityKey, EventTime, Span, Value};

use super::{Engine, ViewState, expired, hold};
use crate::view::{Extent, Group, Output, Periods, Plan, Tiling};

/// What is known of an entity at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// One per feature of the view.
    pub values: Vec<Value>,
    /// When the newest event happened that the view took in of the entity; none: it knows nothing of it.
    pub last_event: Option<EventTime>,
    /// One per feature: the newest event in its window, to the beginning of its tile where a later one is known. None: the window is
    /// empty, or the feature is derived from several.
    pub newest: Vec<Option<EventTime>>,
    /// One per feature: whether the value is that of a reader who forgets nothing. Only a read in the past can be otherwise.
    pub complete: Vec<bool>,
}

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
    /// Reads one entity like [`Engine::read`], with what is known about the answer. None: there is no such view.
    pub fn look(&mut self, view: usize, key: &EntityKey, at: EventTime) -> Option<Look> {
        let plan = std::sync::Arc::clone(&self.views.get(view)?.plan);
        let mut look = Look::default();
        self.read(view, key, at, &mut look.values);
        let watermark = self.watermark(plan.source);
        look.last_event = self.last_event(view, key);
        look.newest = vec![None; plan.features.len()];
        look.complete = vec![true; plan.features.len()];
        let cache_from = self.cache_from;
        self.states[view].judge(&plan, key, at, watermark, cache_from, &mut look);
        Some(look)
    }

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
        self.states.get(view).into_iter().flat_map(move |s| s.entities.iter().skip(from)).map(|entity| &entity.key)
    }

    /// Goes on counting from what the keeper of a snapshot kept beside it: how many events each view had applied.
    pub fn resume_counts(&mut self, applied: &[u64]) {
        for (state, applied) in self.states.iter_mut().zip(applied) {
            state.applied = *applied;
        }
    }
}

impl ViewState {
    fn judge(&mut self, plan: &Plan, key: &EntityKey, at: EventTime, watermark: Option<EventTime>, cache_from: usize, look: &mut Look) {
        let place = self.find(plan, key).filter(|&place| !expired(plan, self.entities[place].last, at, watermark));
        let mut entity = place.map(|place| &mut self.entities[place]);
        let last = entity.as_deref().map(|e| e.last);
        if let (Some(few), Some(watermark)) = (entity.as_deref().filter(|e| e.kept_events().is_some()), watermark) {
            let bounds = self.bounds.at(plan, watermark, &mut self.periods);
            let unfolded = self.unfolded.get_or_insert_with(|| super::Entity::with_tiles(plan, EntityKey::Bool(false), at));
            unfolded.unfold_from(plan, few, &bounds);
            entity = Some(unfolded);
        }
        let floor = watermark.map(|w| w - plan.lateness);
        // Rows that have changed since, and entities that a time to live has taken, leave nothing behind that would tell.
        let gone = match watermark {
            Some(w) if plan.key.is_some() => at < w,
            Some(w) if plan.ttl.is_some() => at < w - plan.lateness,
            _ => false,
        };
        for group in &plan.groups {
            let tiling = &plan.levels[group.level].tiling;
            let held = hold(plan, group, entity.as_deref_mut(), &mut self.periods, at, watermark, cache_from);
            let newest = held.row.filter(|_| !held.range.is_empty()).map(|row| row.tile(held.range.end - 1));
            let periods = &mut self.periods[group.level];
            let newest = newest.zip(last).map(|(tile, last)| match tile == tiling.tile(last, periods) && last <= at {
                true => last,
                false => tiling.start_of(group.extent, tile, at, periods).unwrap_or(last),
            });
            let whole = !gone && holds_all(group, tiling, at, floor, last, periods);
            for Output { feature, .. } in &group.outputs {
                look.newest[*feature] = newest;
                look.complete[*feature] = whole;
            }
        }
        let first = plan.features.len() - plan.derived.len();
        for (i, derived) in plan.derived.iter().enumerate() {
            let whole = derived.expr.slots().iter().all(|&slot| look.complete[slot]);
            look.complete[first + i] = whole;
        }
    }
}

/// Whether all that a window takes at `at` is still there, and nothing that came after `at` is mixed into it. `floor` is the moment that
/// the watermark still admits.
fn holds_all(
    group: &Group,
    tiling: &Tiling,
    at: EventTime,
    floor: Option<EventTime>,
    last: Option<EventTime>,
    periods: &mut Periods,
) -> bool {
    match group.extent {
        Extent::Sliding(_) | Extent::Session { .. } | Extent::Current | Extent::Previous => {
            floor.is_none_or(|floor| tiling.tiles(group.extent, at, periods).0 >= tiling.tiles(group.extent, floor, periods).0)
        }
        // These hold no times of their own: what came after `at` cannot be told apart, or has pushed out what came before.
        Extent::Lifetime | Extent::Decay(_) | Extent::Latest(_) => last.is_none_or(|last| last <= at),
    }
}

impl Tiling {
    /// When a tile of the window read at `at` begins; none: it has no beginning.
    fn start_of(&self, extent: Extent, tile: i64, at: EventTime, periods: &mut Periods) -> Option<EventTime> {
        match self {
            Tiling::Even(hop) => Some(EventTime(tile.saturating_mul(*hop))),
            Tiling::Events(_) => Some(EventTime(tile)),
            Tiling::Whole => None,
            Tiling::Calendar { hop, .. } => {
                let (first, _) = self.tiles(extent, at, periods);
                let period = self.period_of(extent, at, periods)?;
                Some(period + Span((tile - first).saturating_mul(*hop)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnSpec, ViewSpec, compile_view};
    use kilter_core::{DataType, Event, Operation, Schema, SourceId};
    use kilter_stats::Rng;

    const SECOND: i64 = 1_000_000;

    fn spec(columns: &[&str]) -> ViewSpec {
        let schema = Schema::new([("k", DataType::Int64), ("x", DataType::Float64)]);
        ViewSpec {
            columns: columns
                .iter()
                .enumerate()
                .map(|(i, text)| ColumnSpec { name: format!("f{i}"), text: (*text).into(), default: None })
                .collect(),
            ..ViewSpec::new("v", SourceId(0), schema, &["k"], Span(20 * SECOND))
        }
    }

    fn event(offset: u64, time: i64, key: i64, x: f64) -> Event {
        Event {
            source: SourceId(0),
            offset,
            time: EventTime(time),
            arrived: EventTime(time),
            id: None,
            operation: Operation::Upsert,
            row: vec![Value::Int(key), Value::Float(x)],
            extra: None,
        }
    }

    fn at(seconds: i64) -> EventTime {
        EventTime(seconds * SECOND)
    }

    #[test]
    fn a_read_in_the_past_says_which_windows_no_longer_hold_what_it_asks_for() {
        let lines = ["sum(x) over 1m", "sum(x) over 10m", "sum(x)", "sum(x) over last 2", "sum(x) over session 30s", "sum(x) over day"];
        let mut engine = Engine::new(vec![compile_view(&spec(&lines)).unwrap()]);
        for (i, t) in [0, 10, 500, 580, 600].into_iter().enumerate() {
            engine.update(&event(i as u64, t * SECOND, 1, 1.0));
        }
        let mut check = |key: i64, when: i64, complete: &[bool]| {
            let look = engine.look(0, &EntityKey::Int(key), at(when)).unwrap();
            assert_eq!(look.complete, complete, "key {key} at {when}");
        };
        check(1, 600, &[true; 6]);
        check(1, 900, &[true; 6]);
        // Within lateness: only what holds no times mixes in what came after.
        check(1, 585, &[true, true, false, false, true, true]);
        // Long before: the minute and the ten minutes have let go of their oldest tiles, the session's day and the day have not.
        check(1, 100, &[false, false, false, false, false, true]);
        // Of an entity never seen only the bounded windows cannot tell.
        check(2, 100, &[false, false, true, true, false, true]);
    }

    #[test]
    fn what_is_said_to_be_complete_is_what_a_reader_who_forgets_nothing_sees() {
        let lines = [
            "sum(x) over 1m",
            "count(*) over 2m exact",
            "sum(x)",
            "sum(x) over last 3",
            "count(*) over session 20s max 2m",
            "sum(x) over tumbling 1m",
            "count(*) over previous tumbling 1m",
            "count(*) over decay 1m",
        ];
        let (mut told, mut untold) = ([0; 8], [0; 8]);
        for seed in 0..1000 {
            let mut rng = Rng::seeded(seed);
            let mut now = 0;
            let events: Vec<Event> = (0..rng.below(60) + 1)
                .map(|i| {
                    now += rng.below(12 * SECOND as u64) as i64;
                    let back = if rng.bernoulli(0.2) { rng.below(30 * SECOND as u64) as i64 } else { 0 };
                    event(i, now - back, rng.below(2) as i64, rng.below(100) as f64)
                })
                .collect();
            // Windows take the whole tile of the moment, here of a second: it is read at its end.
            let moment = EventTime(rng.below(now as u64 / SECOND as u64 + 60) as i64 * SECOND + SECOND - 1);
            let mut newest = i64::MIN;
            let late = |e: &Event| {
                newest = newest.max(e.time.0);
                e.time.0 < newest - 20 * SECOND
            };
            // What came too late for one window may have come in time for another: histories without are plain to compare.
            if events.iter().any(late) {
                continue;
            }
            let mut engine = Engine::new(vec![compile_view(&spec(&lines)).unwrap()]);
            let unforgetting = ViewSpec { lateness: Span(1_000_000 * SECOND), ..spec(&lines) };
            let mut naive = Engine::new(vec![compile_view(&unforgetting).unwrap()]);
            for e in &events {
                engine.update(e);
                if e.time <= moment {
                    naive.update(e);
                }
            }
            let key = EntityKey::Int(0);
            let (look, want) = (engine.look(0, &key, moment).unwrap(), naive.look(0, &key, moment).unwrap());
            for f in 0..lines.len() {
                if look.complete[f] {
                    told[f] += 1;
                    assert!(look.values[f].same_bits(&want.values[f]), "seed {seed} {}: {look:?} {want:?}", lines[f]);
                } else {
                    untold[f] += 1;
                }
            }
        }
        assert!(told.iter().all(|n| *n > 20) && untold.iter().all(|n| *n > 20), "{told:?} {untold:?}");
    }

    #[test]
    fn freshness_is_the_newest_event_that_a_window_holds() {
        let lines = ["sum(x) over 1m", "sum(x) over 10m hop 1m", "sum(x)", "sum(x) over last 2", "sum(x) over tumbling 1m"];
        let mut engine = Engine::new(vec![compile_view(&spec(&lines)).unwrap()]);
        engine.update(&event(0, 65 * SECOND + 7, 1, 1.0));
        let mut newest = |when: i64| {
            let look = engine.look(0, &EntityKey::Int(1), at(when)).unwrap();
            (look.last_event, look.newest)
        };
        let exact = Some(EventTime(65 * SECOND + 7));
        assert_eq!(newest(70), (exact, vec![exact; 5]));
        assert_eq!(newest(200), (exact, vec![None, exact, exact, exact, None]), "it has left the minute and the period");
        engine.update(&event(1, 150 * SECOND + 9, 1, 1.0));
        engine.update(&event(2, 190 * SECOND + 3, 1, 1.0));
        let look = engine.look(0, &EntityKey::Int(1), at(178)).unwrap();
        // A later event is known: what the windows hold is known to their tiles.
        let tiles = [Some(at(150)), Some(at(120)), Some(EventTime(190 * SECOND + 3)), Some(EventTime(150 * SECOND + 9)), Some(at(150))];
        assert_eq!(look.newest, tiles);
        assert_eq!(engine.look(0, &EntityKey::Int(9), at(100)).unwrap().last_event, None);
        assert!(engine.look(7, &EntityKey::Int(1), at(100)).is_none());
    }

    #[test]
    fn every_event_is_counted_once_whatever_becomes_of_it() {
        let filtered = ViewSpec { filter: Some("x >= 10".into()), ..spec(&["sum(x) over 1m"]) };
        let mut engine = Engine::new(vec![compile_view(&filtered).unwrap()]);
        let mut rng = Rng::seeded(3);
        let mut want = ViewCounts::default();
        let mut watermark = 0;
        for i in 0..5_000 {
            let time = (i as i64 * SECOND - rng.below(200 * SECOND as u64) as i64).max(0);
            let mut e = event(i, time, rng.below(40) as i64, rng.below(30) as f64);
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
