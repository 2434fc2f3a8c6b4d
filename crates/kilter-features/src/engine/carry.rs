//! Views taken out of engines and put together in another one: what a change of definitions leaves alone keeps its state.

use kilter_core::EventTime;

use super::{Engine, ViewState, lookups};
use crate::View;

impl View {
    /// The columns of the source that the view reads, in ascending order.
    pub fn reads(&self) -> Vec<usize> {
        let mut columns = self.plan.stored.clone();
        columns.sort_unstable();
        columns
    }

    /// Names the view together with all that gives its state a meaning, whatever number its source has.
    pub fn state_name(&self) -> String {
        format!("{} {:016x}", self.plan.name, crate::hash::hash_bytes(self.plan.identity_but_source().as_bytes()))
    }

    /// Whether the state of one serves as the state of the other: all that gives it meaning is the same, whatever number their source has.
    pub fn shares_state_with(&self, other: &View) -> bool {
        self.plan.identity_but_source() == other.plan.identity_but_source()
    }
}

impl Engine {
    /// An engine over `views`. View `i` takes the state of view `origins[i].1` of engine `parts[origins[i].0]`, which has none afterwards;
    /// `watermarks` are those of the sources of `views`. All parts must have taken in the same events of the sources of what they give.
    ///
    /// None: an origin names a view that is not the same, and nothing was taken.
    pub fn assemble(
        views: Vec<View>,
        watermarks: Vec<Option<EventTime>>,
        parts: &mut [Engine],
        origins: &[(usize, usize)],
    ) -> Option<Engine> {
        let fits =
            |(view, (part, place)): (&View, &(usize, usize))| parts.get(*part)?.views.get(*place)?.shares_state_with(view).then_some(());
        if views.len() != origins.len() || views.iter().zip(origins).any(|pair| fits(pair).is_none()) {
            return None;
        }
        let states: Vec<ViewState> = origins.iter().map(|(part, place)| std::mem::take(&mut parts[*part].states[*place])).collect();
        let mut engine = Engine { states, watermarks, ..Engine::new(views) };
        for (view, state) in engine.views.iter().zip(&mut engine.states) {
            state.lookups = lookups(view, &engine.views);
        }
        Some(engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnSpec, ViewSpec, compile_view};
    use kilter_core::{DataType, EntityKey, Event, Operation, Schema, SourceId, Span, Value};

    fn view(source: u16, name: &str, line: &str, first: &str) -> View {
        let mut columns = vec![("k", DataType::Int64), ("x", DataType::Float64)];
        columns.insert(0, (first, DataType::String));
        let spec = ViewSpec {
            filter: Some("x > 0".into()),
            columns: vec![ColumnSpec { name: "f".into(), text: line.into(), default: None }],
            ..ViewSpec::new(name, SourceId(source), Schema::new(columns), &["k"], Span::MINUTE)
        };
        compile_view(&spec).unwrap()
    }

    fn event(source: u16, second: i64, key: i64, x: f64) -> Event {
        let row = vec![Value::text("a"), Value::Int(key), Value::Float(x)];
        Event {
            source: SourceId(source),
            offset: 0,
            time: EventTime(second * 1_000_000),
            arrived: EventTime(0),
            id: None,
            operation: Operation::Upsert,
            row,
            extra: None,
            origin: None,
        }
    }

    #[test]
    fn a_view_is_the_same_whatever_number_its_source_has_and_what_columns_lie_beside() {
        let one = view(0, "v", "sum(x) over 1m", "a");
        assert!(one.shares_state_with(&view(7, "v", "sum(x) over 1m", "b")));
        assert!(!one.shares_state_with(&view(0, "w", "sum(x) over 1m", "a")));
        assert!(!one.shares_state_with(&view(0, "v", "sum(x) over 2m", "a")));
        assert_eq!(one.reads(), [1, 2]);
    }

    #[test]
    fn views_of_two_engines_make_the_engine_that_saw_everything() {
        let (kept, changed) = ("sum(x) over 1m, 10m", "max(x)");
        let mut old = Engine::new(vec![view(0, "kept", kept, "a"), view(0, "changed", "min(x)", "a")]);
        let mut filled = Engine::new(vec![view(1, "changed", changed, "b")]);
        let views = || vec![view(1, "changed", changed, "b"), view(1, "kept", kept, "b")];
        let mut fresh = Engine::new(views());
        let events = |source: u16| (0..200).map(move |i| event(source, i * 7 % 900, i % 13, (i % 5) as f64 - 1.0));
        events(0).for_each(|e| {
            old.update(&e);
        });
        events(1).for_each(|e| {
            filled.update(&e);
            fresh.update(&e);
        });

        let watermarks = || vec![None, old.watermark(SourceId(0))];
        let (seen, again) = (watermarks(), watermarks());
        let mut parts = [old, filled];
        assert!(Engine::assemble(views(), seen, &mut parts, &[(0, 1), (0, 0)]).is_none(), "`changed` is not what it was");
        let mut whole = Engine::assemble(views(), again, &mut parts, &[(1, 0), (0, 0)]).unwrap();
        for source in [1, 1, 0] {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            whole.snapshot(&mut a);
            fresh.snapshot(&mut b);
            assert!(a == b, "snapshots differ");
            let later = event(source, 1000, 3, 2.0);
            assert_eq!(whole.update(&later), fresh.update(&later));
            let read = |engine: &mut Engine| {
                let mut out = Vec::new();
                engine.read(1, &EntityKey::Int(3), EventTime(1_000_000_000), &mut out);
                out
            };
            assert_eq!(read(&mut whole), read(&mut fresh));
        }
    }
}
