//! How much room the state of one entity takes, from the definition alone.

use std::collections::BTreeSet;

use kilter_core::EventTime;

use super::plan::Place;
use super::window::{Periods, Tiling};
use super::{Plan, View};

/// The words that the state of one entity comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateBound {
    /// Bytes of tiles, when every one that is kept holds events. An entity has the tiles that its events fall into, and the events themselves while
    /// they are few; in memory there is room to grow beside them, and kept sums of tiles, up to as much again and half of it.
    pub tiles: u64,
    /// Bytes for each event within the longest exact window; 0: no window keeps the events.
    pub per_event: u64,
    /// Aggregates whose states grow with what they see, beside these bytes.
    pub growing: Vec<&'static str>,
}

impl View {
    /// What the state of one entity comes to when it is as large as it gets.
    pub fn state_bound(&self) -> StateBound {
        let plan: &Plan = &self.plan;
        let mut bound = StateBound::default();
        for level in &plan.levels {
            let row = level.stride as u64 * 8;
            match &level.tiling {
                Tiling::Even(1) => bound.per_event += row,
                Tiling::Whole => bound.tiles += row,
                Tiling::Events(n) => bound.tiles += row * *n as u64,
                Tiling::Even(_) | Tiling::Calendar { .. } => {
                    // Periods of a calendar differ in length: the longest of a year.
                    let tiles = (0..366).map(|day| {
                        let at = EventTime(1_704_067_200_000_000 + day * 86_400_000_000);
                        let mut periods = Periods::default();
                        level.tiling.tile(at, &mut periods) - level.bound(at, plan.lateness, &mut periods) + 1
                    });
                    bound.tiles += row * tiles.max().unwrap_or(1).max(1) as u64;
                }
            }
        }
        let grows = |output: &super::Output| matches!(output.place, Place::Growing { .. });
        let named: BTreeSet<&'static str> =
            plan.groups.iter().flat_map(|g| &g.outputs).filter(|o| grows(o)).map(|o| plan.features[o.feature].aggregate).collect();
        bound.growing = named.into_iter().collect();
        bound
    }
}

#[cfg(test)]
mod tests {
    use crate::{ColumnSpec, Engine, ViewSpec, compile_view};
    use kilter_core::{DataType, Event, EventTime, Operation, Schema, SourceId, Span, Value};

    const SECOND: i64 = 1_000_000;

    fn view(lines: &[&str]) -> crate::View {
        let schema = Schema::new([("k", DataType::Int64), ("x", DataType::Float64)]);
        let column = |(i, text): (usize, &&str)| ColumnSpec { name: format!("f{i}"), text: (*text).into(), default: None };
        let columns = lines.iter().enumerate().map(column).collect();
        compile_view(&ViewSpec { columns, ..ViewSpec::new("v", SourceId(0), schema, &["k"], Span(600 * SECOND)) }).unwrap()
    }

    /// Bytes of one entity with an event every second for `seconds`.
    fn measured(view: &crate::View, seconds: i64) -> u64 {
        let mut engine = Engine::new(vec![view.clone()]);
        for i in 0..seconds {
            let time = EventTime(1_704_067_200 * SECOND + i * SECOND);
            let row = vec![Value::Int(1), Value::Float(i as f64)];
            engine.update(&Event {
                source: SourceId(0),
                offset: i as u64,
                time,
                arrived: time,
                id: None,
                operation: Operation::Upsert,
                row,
                extra: None,
                origin: None,
            });
        }
        engine.stats()[0].state_bytes as u64
    }

    #[test]
    fn a_busy_entity_has_all_its_tiles_and_some_room_beside() {
        for lines in [
            &["sum(x) over 1h, 1d", "max(x) over 1h, 1d"][..],
            &["sum(x) over day", "count(*) over previous day"],
            &["mean(x) over last 50", "count(*)", "sum(x) over decay 1h"],
        ] {
            let view = view(lines);
            let bound = view.state_bound();
            let found = measured(&view, 3 * 86_400);
            assert!(bound.growing.is_empty() && bound.per_event == 0, "{lines:?} {bound:?}");
            assert!(found <= 5 * bound.tiles / 2 + 400 && found + 64 >= bound.tiles, "{lines:?}: {found} measured, {bound:?}");
        }
        let exact = view(&["sum(x) over 1h exact"]).state_bound();
        assert!(exact.per_event >= 16 && exact.tiles == 0, "{exact:?}");
        let sketches = view(&["quantile(x, 0.5) over 1h", "approx_distinct(x) over 1h", "sum(x) over 1h"]).state_bound();
        assert_eq!(sketches.growing, ["approx_distinct", "quantile"]);
    }
}
