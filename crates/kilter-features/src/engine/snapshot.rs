//! The engine's state as bytes and back.
//!
//! Layout, little endian: magic, version u32, then per view its name, a hash of its definition and its body's length; the watermarks; the
//! bodies; a hash of all before. Only what the formula still admits is written, entities in the order of their keys, so equal states give
//! equal bytes whatever had been swept.

use std::fmt;

use kilter_core::record::{Cursor, RecordError, encode_value};
use kilter_core::{EntityKey, EventTime, Value};

use super::entity::{Entity, TILED, are_events};
use super::tier::form_of;
use super::{Engine, ViewState, admitted, alive, hash};
use crate::hash::hash_bytes;
use crate::view::{Periods, Plan, View};

const MAGIC: &[u8; 8] = b"KLTRFEAT";
const HEAD: &[u8; 8] = b"KLTRHEAD";
const VERSION: u32 = 3;
/// More than a log can hold of events. A state that says more was forged; counting on from it must not end in an overflow.
pub(super) const MOST_COUNTED: u64 = 1 << 60;
/// Composite keys inside composite keys do not occur.
const MAX_KEY_DEPTH: usize = 4;

/// Why a snapshot was refused. The remedy for all but damage is a replay of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreError {
    NotASnapshot,
    /// Written by another version of the format.
    Version {
        found: u32,
    },
    /// The views are others than those of the snapshot.
    OtherViews {
        found: Vec<String>,
        expected: Vec<String>,
    },
    /// A view's definition has changed since.
    ViewChanged {
        view: String,
    },
    Damaged {
        detail: String,
    },
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestoreError::NotASnapshot => f.write_str("these bytes are no snapshot of features"),
            RestoreError::Version { found } => write!(f, "the snapshot has format version {found}, this program reads {VERSION}"),
            RestoreError::OtherViews { found, expected } => {
                write!(f, "the snapshot holds views [{}], the definitions name [{}]", found.join(", "), expected.join(", "))
            }
            RestoreError::ViewChanged { view } => write!(f, "view `{view}` has changed since the snapshot was written"),
            RestoreError::Damaged { detail } => write!(f, "the snapshot is damaged: {detail}"),
        }
    }
}

impl std::error::Error for RestoreError {}

impl From<RecordError> for RestoreError {
    fn from(e: RecordError) -> RestoreError {
        RestoreError::Damaged { detail: e.detail }
    }
}

fn damaged<T>(detail: &str) -> Result<T, RestoreError> {
    Err(RestoreError::Damaged { detail: detail.into() })
}

impl Engine {
    /// Appends the whole state. Equal states give equal bytes.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        self.write(MAGIC, out);
    }

    /// With the magic of a head: without the entities of views that have a store.
    fn write(&self, magic: &[u8; 8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(magic);
        put_u32(out, VERSION);
        put_u32(out, self.views.len() as u32);
        for view in &self.views {
            put_bytes(out, view.name().as_bytes());
            put_u64(out, hash_bytes(view.plan.identity.as_bytes()));
        }
        let seen = self.watermarks.iter().enumerate().filter_map(|(source, w)| w.map(|w| (source, w)));
        put_u32(out, seen.clone().count() as u32);
        for (source, watermark) in seen {
            put_u32(out, source as u32);
            put_u64(out, watermark.0 as u64);
        }
        for (view, state) in self.views.iter().zip(&self.states) {
            state.write(&view.plan, self.watermark(view.source()), magic == HEAD, out);
        }
        let sum = hash_bytes(&out[start..]);
        put_u64(out, sum);
    }

    /// The engine that wrote `bytes`, for the same views.
    pub fn restore(views: Vec<View>, bytes: &[u8]) -> Result<Engine, RestoreError> {
        Engine::read_whole(views, MAGIC, bytes)
    }

    fn read_whole(views: Vec<View>, magic: &[u8; 8], bytes: &[u8]) -> Result<Engine, RestoreError> {
        if bytes.get(..MAGIC.len()) != Some(magic) {
            return Err(RestoreError::NotASnapshot);
        }
        let mut cursor = Cursor::new(&bytes[MAGIC.len()..]);
        let version = cursor.u32()?;
        if version != VERSION {
            return Err(RestoreError::Version { found: version });
        }
        let Some(body) = bytes.len().checked_sub(8) else { return damaged("cut short") };
        if Cursor::new(&bytes[body..]).u64()? != hash_bytes(&bytes[..body]) {
            return damaged("its checksum does not agree");
        }
        cursor.rest = &cursor.rest[..cursor.rest.len().saturating_sub(8)];
        let mut found = Vec::new();
        for _ in 0..cursor.u32()? {
            let n = cursor.u32()? as usize;
            found.push((cursor.str(n)?.to_string(), cursor.u64()?));
        }
        if found.iter().map(|(name, _)| name.as_str()).ne(views.iter().map(View::name)) {
            return Err(RestoreError::OtherViews {
                found: found.into_iter().map(|(name, _)| name).collect(),
                expected: views.iter().map(|v| v.name().to_string()).collect(),
            });
        }
        for (view, (name, identity)) in views.iter().zip(found) {
            if hash_bytes(view.plan.identity.as_bytes()) != identity {
                return Err(RestoreError::ViewChanged { view: name });
            }
        }
        let mut engine = Engine::new(views);
        for _ in 0..cursor.u32()? {
            let source = cursor.u32()? as usize;
            if source > usize::from(u16::MAX) {
                return damaged("a source number is out of range");
            }
            if engine.watermarks.len() <= source {
                engine.watermarks.resize(source + 1, None);
            }
            engine.watermarks[source] = Some(EventTime(cursor.i64()?));
        }
        for (view, state) in engine.views.iter().zip(&mut engine.states) {
            *state = std::mem::take(state).restored(&view.plan, magic == HEAD, &mut cursor)?;
        }
        match cursor.rest {
            [] => Ok(engine),
            _ => damaged("bytes after its end"),
        }
    }
}

/// The state beside the entities of views with a store.
pub(super) fn head_of(engine: &Engine) -> Vec<u8> {
    let mut out = Vec::new();
    engine.write(HEAD, &mut out);
    out
}

pub(super) fn resumed(views: Vec<View>, head: &[u8]) -> Result<Engine, RestoreError> {
    Engine::read_whole(views, HEAD, head)
}

pub(super) fn key_bytes(key: &EntityKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    put_key(&mut out, key);
    out
}

pub(super) fn key_from_bytes(bytes: &[u8]) -> Result<EntityKey, RestoreError> {
    key(&mut Cursor::new(bytes), 0)
}

pub(super) fn entity_from_bytes(plan: &Plan, key: EntityKey, form: &[u8]) -> Result<Entity, RestoreError> {
    let Some(mut cursor) = form_of(form) else { return damaged("cut short") };
    let entity = entity(&mut cursor, plan, key)?;
    if cursor.rest.is_empty() { Ok(entity) } else { damaged("bytes after its end") }
}

impl ViewState {
    fn write(&self, plan: &Plan, watermark: Option<EventTime>, head: bool, out: &mut Vec<u8>) {
        put_u64(out, self.late);
        put_u64(out, self.no_key);
        put_u64(out, self.filtered);
        put_u64(out, self.retracted);
        let mut periods = vec![Periods::default(); plan.levels.len()];
        let bounds: Vec<i64> = plan
            .levels
            .iter()
            .zip(&mut periods)
            .map(|(l, periods)| watermark.map_or(i64::MIN, |w| l.bound(w, plan.lateness, periods)))
            .collect();
        put_u64(out, if head { self.stored() } else { 0 });
        let cold = if head { Vec::new() } else { self.cold_entities(plan) };
        let mut entities: Vec<&Entity> = Vec::new();
        if let Some(watermark) = watermark
            && !(head && self.cold.is_some())
        {
            entities.extend(self.entities.iter().chain(&cold).filter(|e| alive(plan, e, watermark, &bounds, &mut periods)));
        }
        entities.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        put_u64(out, entities.len() as u64);
        for entity in entities {
            put_key(out, &entity.key);
            put_entity(out, plan, entity, &bounds, &mut periods);
        }
        let rows = self.table.sorted(|time| admitted(plan, time, &bounds, &mut periods));
        put_u64(out, rows.len() as u64);
        for (name, offset, time, values) in rows {
            put_key(out, name);
            put_u64(out, offset);
            put_u64(out, time.0 as u64);
            put_u32(out, values.len() as u32);
            values.iter().for_each(|v| encode_value(v, out));
        }
    }

    fn restored(mut self, plan: &Plan, head: bool, cursor: &mut Cursor<'_>) -> Result<ViewState, RestoreError> {
        let state = &mut self;
        for counter in [&mut state.late, &mut state.no_key, &mut state.filtered, &mut state.retracted] {
            *counter = cursor.u64()?.min(MOST_COUNTED);
        }
        let stored = cursor.u64()?.min(MOST_COUNTED);
        state.stored_before = head.then_some(stored);
        let count = cursor.u64()?;
        if count > u64::from(u32::MAX) {
            return damaged("too many entities");
        }
        for _ in 0..count {
            let key = key(cursor, 0)?;
            if state.entities.last().is_some_and(|last| last.key >= key) {
                return damaged("entities are out of order");
            }
            let entity = entity(cursor, plan, key)?;
            let entities = &state.entities;
            state.index.insert_unique(hash(&entity.key), entities.len() as u32, |&i| hash(&entities[i as usize].key));
            state.entities.push(entity);
        }
        let mut before: Option<EntityKey> = None;
        for _ in 0..cursor.u64()? {
            let name = key(cursor, 0)?;
            if before.as_ref().is_some_and(|b| *b >= name) {
                return damaged("rows are out of order");
            }
            let (offset, time) = (cursor.u64()?, EventTime(cursor.i64()?));
            let count = cursor.u32()? as usize;
            if count != plan.stored.len() {
                return damaged("a row has other columns than its view reads");
            }
            let values = (0..count).map(|_| cursor.value()).collect::<Result<Box<[Value]>, _>>()?;
            before = Some(name.clone());
            state.table.put(name, offset, time, values);
        }
        Ok(self)
    }
}

fn put_u32(out: &mut Vec<u8>, x: u32) {
    out.extend_from_slice(&x.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, x: u64) {
    out.extend_from_slice(&x.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len() as u32);
    out.extend_from_slice(bytes);
}

/// A single key in the form of a value; a composite one as 255, its length and its parts.
fn put_key(out: &mut Vec<u8>, key: &EntityKey) {
    match key {
        EntityKey::Int(i) => encode_value(&Value::Int(*i), out),
        EntityKey::Text(s) => encode_value(&Value::Text(s.clone()), out),
        EntityKey::Bool(b) => encode_value(&Value::Bool(*b), out),
        EntityKey::Composite(parts) => {
            out.push(u8::MAX);
            put_u32(out, parts.len() as u32);
            parts.iter().for_each(|part| put_key(out, part));
        }
    }
}

fn key(cursor: &mut Cursor<'_>, depth: usize) -> Result<EntityKey, RestoreError> {
    if cursor.rest.first() != Some(&u8::MAX) {
        return match cursor.value()? {
            Value::Int(i) => Ok(EntityKey::Int(i)),
            Value::Text(s) => Ok(EntityKey::Text(s)),
            Value::Bool(b) => Ok(EntityKey::Bool(b)),
            _ => damaged("a key that names nothing"),
        };
    }
    cursor.u8()?;
    if depth >= MAX_KEY_DEPTH {
        return damaged("a key is nested too deep");
    }
    let mut parts = Vec::new();
    for _ in 0..cursor.u32()? {
        parts.push(key(cursor, depth + 1)?);
    }
    Ok(EntityKey::Composite(parts.into()))
}

/// What is to be seen of an entity: its newest event's time; how many events it has seen while it keeps them, else 255; then the events,
/// or level by level its tiles.
pub(super) fn put_entity(out: &mut Vec<u8>, plan: &Plan, entity: &Entity, bounds: &[i64], periods: &mut [Periods]) {
    put_u64(out, entity.last.0 as u64);
    if let Some(events) = entity.kept_events() {
        out.push(events);
        let at = out.len();
        put_u32(out, 0);
        for event in entity.admitted_events(plan, bounds, periods) {
            event.iter().for_each(|w| put_u64(out, *w));
        }
        let words = ((out.len() - at - 4) / 8) as u32;
        out[at..at + 4].copy_from_slice(&words.to_le_bytes());
        return;
    }
    out.push(TILED);
    for (l, bound) in bounds.iter().enumerate() {
        let row = entity.row(plan, l);
        let admitted = row.first_at_least(*bound)..row.len();
        put_u32(out, admitted.len() as u32);
        for tile in admitted {
            row.words(tile..tile + 1).iter().for_each(|w| put_u64(out, *w));
            for state in 0..row.level.growing.len() {
                let state = row.growing(tile, state);
                put_u32(out, state.len() as u32);
                state.iter().for_each(|w| put_u64(out, *w));
            }
        }
    }
}

fn entity(cursor: &mut Cursor<'_>, plan: &Plan, key: EntityKey) -> Result<Entity, RestoreError> {
    let last = EventTime(cursor.i64()?);
    let events = cursor.u8()?;
    if events != TILED {
        let n = cursor.u32()? as usize;
        let words = words(cursor, n)?;
        if events >= plan.few || !are_events(plan, &words) {
            return damaged("kept events that are none of its view");
        }
        return Ok(Entity::from_events(key, last, events, words));
    }
    let mut entity = Entity::with_tiles(plan, key, last);
    for (l, level) in plan.levels.iter().enumerate() {
        let mut before = None;
        for _ in 0..cursor.u32()? {
            let fixed = words(cursor, level.stride)?;
            let tile = fixed[0] as i64;
            // Where every event has a tile of its own, several may share an instant.
            if before.is_some_and(|b| b > tile || (b == tile && level.latest().is_none())) {
                return damaged("tiles are out of order");
            }
            before = Some(tile);
            let mut growing = Vec::with_capacity(level.growing.len());
            for _ in &level.growing {
                let n = cursor.u32()? as usize;
                growing.push(words(cursor, n)?);
            }
            entity.push(plan, l, fixed.into_iter(), growing.into_iter());
        }
    }
    entity.shrink();
    Ok(entity)
}

fn words(cursor: &mut Cursor<'_>, n: usize) -> Result<Vec<u64>, RestoreError> {
    let bytes = cursor.take(n.saturating_mul(8))?;
    Ok(bytes
        .chunks_exact(8)
        .map(|chunk| {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            u64::from_le_bytes(word)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use kilter_core::{DataType, Event, Operation, Schema, SourceId, Span};

    use super::*;
    use crate::{ColumnSpec, ViewSpec, compile_view};

    #[test]
    fn counts_that_no_log_has_do_not_overflow() {
        let schema = Schema::new([("k", DataType::Int64)]);
        let spec = ViewSpec {
            columns: vec![ColumnSpec { name: "n".into(), text: "count(*) over 1m".into(), default: None }],
            ..ViewSpec::new("v", SourceId(0), schema, &["k"], Span(0))
        };
        let view = || compile_view(&spec).unwrap();
        let restored = |count: u64| {
            let mut engine = Engine::new(vec![view()]);
            let state = &mut engine.states[0];
            (state.late, state.no_key, state.filtered, state.retracted) = (count, count, count, count);
            let mut bytes = Vec::new();
            engine.snapshot(&mut bytes);
            Engine::restore(vec![view()], &bytes).unwrap()
        };
        assert_eq!(restored(12_345).states[0].no_key, 12_345);
        let mut engine = restored(u64::MAX);
        // A deletion, which this view does not follow, is counted as filtered.
        engine.update(&Event {
            source: SourceId(0),
            offset: 1,
            time: EventTime(1),
            arrived: EventTime(1),
            id: None,
            operation: Operation::Delete,
            row: vec![Value::Int(1)],
            extra: None,
            origin: None,
        });
        let counts = engine.counts().next().unwrap();
        assert_eq!((counts.filtered, counts.late), (MOST_COUNTED + 1, MOST_COUNTED));
        assert_eq!(counts.events(), 3 * MOST_COUNTED + 1);
    }
}
