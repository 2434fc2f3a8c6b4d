//! Views taken out of engines and put together in another one: what a change of definitions leaves alone keeps its state.

use kilter_core::{EntityKey, EventTime, SourceId};

use super::snapshot::MOST_COUNTED;
use super::{Engine, ViewState, hash, lookups};
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

    /// Takes what view `from` of `part` holds into view `to`: its entities, its rows and its counts; watermarks stay, see [`Engine::advance`].
    /// `part` has none of it afterwards. It must have taken in all events of the entities it holds, in their order.
    ///
    /// Errors: the views are not the same, or both hold an entity (or a row of one name): events of one entity came to two places. Then
    /// neither engine is of any use.
    pub fn absorb(&mut self, to: usize, part: &mut Engine, from: usize) -> Result<(), Unfit> {
        let (Some(view), Some(other)) = (self.views.get(to), part.views.get(from)) else { return Err(Unfit::OtherView) };
        if !view.shares_state_with(other) {
            return Err(Unfit::OtherView);
        }
        self.states[to].absorb(std::mem::take(&mut part.states[from]))
    }

    /// Brings a source's watermark to `time`, unless it is there already: other engines took in its events up to then.
    pub fn advance(&mut self, source: SourceId, time: EventTime) {
        let source = usize::from(source.0);
        if self.watermarks.len() <= source {
            self.watermarks.resize(source + 1, None);
        }
        self.watermarks[source] = self.watermarks[source].max(Some(time));
    }
}

/// Why one engine's view cannot take what another's holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    OtherView,
    /// The entity, or the name of the row, that both hold.
    Twice(EntityKey),
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unfit::OtherView => f.write_str("the views are not the same"),
            Unfit::Twice(key) => write!(f, "the state of {key} came twice"),
        }
    }
}

impl std::error::Error for Unfit {}

impl ViewState {
    fn absorb(&mut self, part: ViewState) -> Result<(), Unfit> {
        let both = |a: u64, b: u64| a.saturating_add(b).min(MOST_COUNTED);
        self.applied = both(self.applied, part.applied);
        self.late = both(self.late, part.late);
        self.no_key = both(self.no_key, part.no_key);
        self.filtered = both(self.filtered, part.filtered);
        self.retracted = both(self.retracted, part.retracted);
        for entity in part.entities {
            let (hashed, entities) = (hash(&entity.key), &self.entities);
            if self.index.find(hashed, |&i| entities[i as usize].key == entity.key).is_some() {
                return Err(Unfit::Twice(entity.key));
            }
            self.index.insert_unique(hashed, entities.len() as u32, |&i| hash(&entities[i as usize].key));
            self.entities.push(entity);
        }
        self.table.absorb(part.table).map_err(Unfit::Twice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnSpec, ViewSpec, compile_view};
    use kilter_core::{DataType, Event, Operation, Schema, Span, Value};

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
    fn engines_of_some_entities_each_make_the_engine_of_all() {
        let views = || vec![view(0, "v", "sum(x) over 1m, 10m", "a")];
        let mut whole = Engine::new(views());
        let mut parts: Vec<Engine> = (0..5).map(|_| Engine::new(views())).collect();
        for i in 0..2000 {
            let event = event(0, i, i * i % 37, (i % 5) as f64 - 1.0);
            whole.update(&event);
            parts[(i * i % 37 % 5) as usize].update(&event);
        }
        let mut together = Engine::new(views());
        for part in &mut parts {
            together.absorb(0, part, 0).unwrap();
        }
        together.advance(SourceId(0), EventTime(1_999_000_000));
        let bytes = |engine: &Engine| {
            let mut bytes = Vec::new();
            engine.snapshot(&mut bytes);
            bytes
        };
        assert!(bytes(&together) == bytes(&whole));
        assert!(together.counts().eq(whole.counts()));

        let mut again = Engine::new(views());
        again.update(&event(0, 2000, 1, 1.0));
        assert_eq!(together.absorb(0, &mut again, 0), Err(Unfit::Twice(EntityKey::Int(1))));
        let mut other = Engine::new(vec![view(0, "v", "max(x)", "a")]);
        assert_eq!(together.absorb(0, &mut other, 0), Err(Unfit::OtherView));
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
