//! Reads that say how much they know: how fresh each feature is, and whether the windows still held all that the moment asked for.

use kilter_core::{EntityKey, EventTime, Span, Value};

use super::{Engine, Held};
use crate::view::{Extent, Group, Output, Periods, Plan, Tiling, View};

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

/// What a read notes of each feature as it goes.
pub(super) struct Known {
    newest: Vec<Option<EventTime>>,
    complete: Vec<bool>,
}

impl Engine {
    /// Reads one entity like [`Engine::read`], with what is known about the answer. None: there is no such view.
    pub fn look(&mut self, view: usize, key: &EntityKey, at: EventTime) -> Option<Look> {
        let (View { plan }, state) = (self.views.get(view)?, self.states.get_mut(view)?);
        let watermark = self.watermarks.get(usize::from(plan.source.0)).copied().flatten();
        let features = plan.features.len();
        let mut values = vec![Value::Null; features];
        let mut known = Known { newest: vec![None; features], complete: vec![true; features] };
        state.read(plan, key, at, watermark, self.cache_from, &mut values, Some(&mut known));
        let Known { newest, complete } = known;
        Some(Look { values, last_event: self.last_event(view, key), newest, complete })
    }
}

impl Known {
    /// `last` is when the entity's newest event happened.
    #[allow(clippy::too_many_arguments, reason = "what a read knows of a group")]
    pub(super) fn group(
        &mut self,
        plan: &Plan,
        group: &Group,
        held: &Held<'_>,
        last: Option<EventTime>,
        at: EventTime,
        watermark: Option<EventTime>,
        periods: &mut [Periods],
    ) {
        let (tiling, periods) = (&plan.levels[group.level].tiling, &mut periods[group.level]);
        let newest = held.row.filter(|_| !held.range.is_empty()).map(|row| row.tile(held.range.end - 1));
        let newest = newest.zip(last).map(|(tile, last)| match tile == tiling.tile(last, periods) && last <= at {
            true => last,
            false => tiling.start_of(group.extent, tile, at, periods).unwrap_or(last),
        });
        // Rows that have changed since, and entities that a time to live has taken, leave nothing behind that would tell.
        let gone = match watermark {
            Some(w) if plan.key.is_some() => at < w,
            Some(w) if plan.ttl.is_some() => at < w - plan.lateness,
            _ => false,
        };
        let whole = !gone && holds_all(group, tiling, at, watermark.map(|w| w - plan.lateness), last, periods);
        for Output { feature, .. } in &group.outputs {
            self.newest[*feature] = newest;
            self.complete[*feature] = whole;
        }
    }

    /// What is made of other features is complete when all of them are.
    pub(super) fn derived(&mut self, plan: &Plan) {
        let first = plan.features.len() - plan.derived.len();
        for (i, derived) in plan.derived.iter().enumerate() {
            self.complete[first + i] = derived.expr.slots().iter().all(|&slot| self.complete[slot]);
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
            origin: None,
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
}
