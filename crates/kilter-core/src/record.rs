//! How an event lies in the log: a compact binary record that names its schema by number.
//!
//! The catalog (kept beside the log) maps a schema number to a source name and its columns, so that a record written under
//! older definitions is read under newer ones: columns are matched by name, a column that is new looks into the record's
//! undeclared fields, a column that is gone is skipped.
//!
//! Layout, little endian: kind u8 (0: upsert, 2: delete, 4 and 5: the same with an origin; 1 and 3 are no events), schema u32, time i64, arrived i64,
//! with an origin its partition u32 and position u64, id length u16 + bytes (0xffff: none),
//! extra length u32 + bytes (0xffffffff: none), then per column a tag u8 and its value
//! (0 null; 1 false; 2 true; 3 int i64; 4 float f64; 5 text u32 length + bytes; 6 time i64; 7 list u32 length, then its
//! elements as values, all floats or all texts; 8 map u32 length, then per entry u32 length + bytes and f64, ascending by key).
//! Columns hold no lists and maps; snapshots may.

use compact_str::CompactString;

use crate::{Event, EventTime, Offset, Operation, Origin, SourceId, Value};

// Kind 1 marks control records, which are not of this file; kind 3 what is left of an erased event (`erased.rs`).
const UPSERT: u8 = 0;
const DELETE: u8 = 2;
const UPSERT_FROM: u8 = 4;
const DELETE_FROM: u8 = 5;
const NO_ID: u16 = u16::MAX;
const NO_EXTRA: u32 = u32::MAX;

/// The longest client id, in bytes.
pub const MAX_ID_BYTES: usize = 1024;

/// Where a stored column goes in the row of today's schema; none: no longer declared.
pub type ColumnMap = Vec<Option<usize>>;

/// A record that cannot be what the writer wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    pub detail: String,
}

impl std::fmt::Display for RecordError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "event record is damaged: {}", self.detail)
    }
}

impl std::error::Error for RecordError {}

/// The first fields of a record, readable without its schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Header<'a> {
    pub operation: Operation,
    pub schema: u32,
    pub time: EventTime,
    pub arrived: EventTime,
    pub origin: Option<Origin>,
    pub id: Option<&'a str>,
    pub extra: Option<&'a str>,
    body: &'a [u8],
}

/// Appends the record of `event` to `out`.
pub fn encode(event: &Event, schema: u32, out: &mut Vec<u8>) {
    out.push(match (event.operation, event.origin) {
        (Operation::Upsert, None) => UPSERT,
        (Operation::Delete, None) => DELETE,
        (Operation::Upsert, Some(_)) => UPSERT_FROM,
        (Operation::Delete, Some(_)) => DELETE_FROM,
    });
    out.extend_from_slice(&schema.to_le_bytes());
    out.extend_from_slice(&event.time.0.to_le_bytes());
    out.extend_from_slice(&event.arrived.0.to_le_bytes());
    if let Some(origin) = event.origin {
        out.extend_from_slice(&origin.partition.to_le_bytes());
        out.extend_from_slice(&origin.position.to_le_bytes());
    }
    match &event.id {
        Some(id) => {
            debug_assert!(id.len() <= MAX_ID_BYTES, "ids are bounded at the door");
            out.extend_from_slice(&(id.len() as u16).to_le_bytes());
            out.extend_from_slice(id.as_bytes());
        }
        None => out.extend_from_slice(&NO_ID.to_le_bytes()),
    }
    match &event.extra {
        Some(extra) => {
            out.extend_from_slice(&(extra.len() as u32).to_le_bytes());
            out.extend_from_slice(extra.as_bytes());
        }
        None => out.extend_from_slice(&NO_EXTRA.to_le_bytes()),
    }
    for value in &event.row {
        encode_value(value, out);
    }
}

/// Appends one value in the record's own form; also used by snapshots.
pub fn encode_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0),
        Value::Bool(false) => out.push(1),
        Value::Bool(true) => out.push(2),
        Value::Int(i) => {
            out.push(3);
            out.extend_from_slice(&i.to_le_bytes());
        }
        Value::Float(x) => {
            out.push(4);
            out.extend_from_slice(&x.to_bits().to_le_bytes());
        }
        Value::Text(s) => {
            out.push(5);
            encode_text(s, out);
        }
        Value::Time(t) => {
            out.push(6);
            out.extend_from_slice(&t.0.to_le_bytes());
        }
        Value::List(items) => {
            out.push(7);
            out.extend_from_slice(&(items.len() as u32).to_le_bytes());
            items.iter().for_each(|item| encode_value(item, out));
        }
        Value::Map(entries) => {
            out.push(8);
            out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
            for (key, x) in entries.iter() {
                encode_text(key, out);
                out.extend_from_slice(&x.to_bits().to_le_bytes());
            }
        }
    }
}

fn encode_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Reads the fields before the row. `Ok(None)`: not an event (a record kind of a newer or control kind).
pub fn header(bytes: &[u8]) -> Result<Option<Header<'_>>, RecordError> {
    let mut cursor = Cursor { rest: bytes };
    let (operation, has_origin) = match cursor.u8()? {
        UPSERT => (Operation::Upsert, false),
        DELETE => (Operation::Delete, false),
        UPSERT_FROM => (Operation::Upsert, true),
        DELETE_FROM => (Operation::Delete, true),
        _ => return Ok(None),
    };
    let schema = cursor.u32()?;
    let time = EventTime(cursor.i64()?);
    let arrived = EventTime(cursor.i64()?);
    let origin = if has_origin { Some(Origin { partition: cursor.u32()?, position: cursor.u64()? }) } else { None };
    let id = match cursor.u16()? {
        NO_ID => None,
        n => Some(cursor.str(n as usize)?),
    };
    let extra = match cursor.u32()? {
        NO_EXTRA => None,
        n => Some(cursor.str(n as usize)?),
    };
    Ok(Some(Header { operation, schema, time, arrived, origin, id, extra, body: cursor.rest }))
}

impl Header<'_> {
    /// The whole event, its row laid out for a schema of `width` columns through `columns`.
    pub fn event(&self, source: SourceId, offset: Offset, columns: &ColumnMap, width: usize) -> Result<Event, RecordError> {
        let mut row = vec![Value::Null; width];
        let mut cursor = Cursor { rest: self.body };
        for target in columns {
            let value = cursor.value()?;
            if let Some(slot) = target.and_then(|t| row.get_mut(t)) {
                *slot = value;
            }
        }
        if !cursor.rest.is_empty() {
            return Err(RecordError { detail: format!("{} bytes after the last column", cursor.rest.len()) });
        }
        Ok(Event {
            source,
            offset,
            time: self.time,
            arrived: self.arrived,
            id: self.id.map(CompactString::new),
            operation: self.operation,
            row,
            extra: self.extra.map(Into::into),
            origin: self.origin,
        })
    }
}

/// Reads what [`encode_value`] and its kin wrote; every read is bounds-checked.
pub struct Cursor<'a> {
    pub rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(rest: &'a [u8]) -> Cursor<'a> {
        Cursor { rest }
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8], RecordError> {
        if self.rest.len() < n {
            return Err(RecordError { detail: format!("{n} bytes expected, {} left", self.rest.len()) });
        }
        let (head, tail) = self.rest.split_at(n);
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub fn u8(&mut self) -> Result<u8, RecordError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, RecordError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, RecordError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, RecordError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64, RecordError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub fn f64(&mut self) -> Result<f64, RecordError> {
        Ok(f64::from_bits(self.u64()?))
    }

    pub fn str(&mut self, n: usize) -> Result<&'a str, RecordError> {
        std::str::from_utf8(self.take(n)?).map_err(|_| RecordError { detail: "text is not UTF-8".into() })
    }

    fn text(&mut self) -> Result<CompactString, RecordError> {
        let n = self.u32()? as usize;
        Ok(CompactString::new(self.str(n)?))
    }

    /// A length that the bytes left can hold at `least` bytes an item, so that damage never asks for much memory.
    fn count(&mut self, least: usize) -> Result<usize, RecordError> {
        let n = self.u32()? as usize;
        match n.checked_mul(least) {
            Some(bytes) if bytes <= self.rest.len() => Ok(n),
            _ => Err(RecordError { detail: format!("{n} items in {} bytes", self.rest.len()) }),
        }
    }

    /// A number inside a list or map, where NaN has no place.
    fn item(&mut self) -> Result<f64, RecordError> {
        let x = self.f64()?;
        if x.is_nan() { Err(RecordError { detail: "NaN inside a list or map".into() }) } else { Ok(x) }
    }

    fn list(&mut self) -> Result<Value, RecordError> {
        let n = self.count(5)?;
        let mut items: Vec<Value> = Vec::with_capacity(n);
        for _ in 0..n {
            let item = match self.u8()? {
                4 => Value::Float(self.item()?),
                5 => Value::Text(self.text()?),
                tag => return Err(RecordError { detail: format!("tag {tag} inside a list") }),
            };
            if items.first().is_some_and(|first| first.data_type() != item.data_type()) {
                return Err(RecordError { detail: "numbers and texts in one list".into() });
            }
            items.push(item);
        }
        Ok(Value::List(items.into()))
    }

    fn map(&mut self) -> Result<Value, RecordError> {
        let n = self.count(12)?;
        let mut entries: Vec<(CompactString, f64)> = Vec::with_capacity(n);
        for _ in 0..n {
            let key = self.text()?;
            if entries.last().is_some_and(|(before, _)| *before >= key) {
                return Err(RecordError { detail: "keys of a map are out of order".into() });
            }
            entries.push((key, self.item()?));
        }
        Ok(Value::Map(entries.into()))
    }

    pub fn value(&mut self) -> Result<Value, RecordError> {
        Ok(match self.u8()? {
            0 => Value::Null,
            1 => Value::Bool(false),
            2 => Value::Bool(true),
            3 => Value::Int(self.i64()?),
            4 => Value::Float(self.f64()?),
            5 => Value::Text(self.text()?),
            6 => Value::Time(EventTime(self.i64()?)),
            7 => self.list()?,
            8 => self.map()?,
            tag => return Err(RecordError { detail: format!("unknown value tag {tag}") }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            any::<f64>().prop_map(Value::float),
            ".{0,40}".prop_map(|s| Value::text(&s)),
            any::<i64>().prop_map(|t| Value::Time(EventTime(t))),
            proptest::collection::vec(any::<f64>(), 0..5).prop_map(Value::numbers),
            proptest::collection::vec(".{0,30}", 0..5).prop_map(Value::texts),
            proptest::collection::vec((".{0,30}", any::<f64>()), 0..5).prop_map(Value::map),
        ]
    }

    fn event() -> impl Strategy<Value = Event> {
        (
            any::<i64>(),
            any::<i64>(),
            proptest::option::of(".{0,30}"),
            proptest::collection::vec(value(), 0..8),
            proptest::option::of(".{0,30}"),
            prop_oneof![Just(Operation::Upsert), Just(Operation::Delete)],
            proptest::option::of((any::<u32>(), any::<u64>())),
        )
            .prop_map(|(t, a, id, row, extra, operation, origin)| Event {
                source: SourceId(3),
                offset: 9,
                time: EventTime(t),
                arrived: EventTime(a),
                id: id.map(CompactString::from),
                operation,
                row,
                extra: extra.map(Into::into),
                origin: origin.map(|(partition, position)| Origin { partition, position }),
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(event in event()) {
            let mut bytes = Vec::new();
            encode(&event, 7, &mut bytes);
            let header = header(&bytes).unwrap().unwrap();
            prop_assert_eq!(header.schema, 7);
            let columns = (0..event.row.len()).map(Some).collect();
            prop_assert_eq!(header.event(SourceId(3), 9, &columns, event.row.len()).unwrap(), event);
        }

        #[test]
        fn a_cut_record_is_an_error_and_never_a_panic(event in event(), cut in 0usize..200) {
            let mut bytes = Vec::new();
            encode(&event, 7, &mut bytes);
            let cut = cut.min(bytes.len().saturating_sub(1));
            let columns = (0..event.row.len()).map(Some).collect();
            if let Ok(Some(h)) = header(&bytes[..cut]) {
                prop_assert!(h.event(SourceId(3), 9, &columns, event.row.len()).is_err());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// What damaged bytes still say is a value that is written as exactly these bytes, or an error.
        #[test]
        fn damaged_bytes_are_an_error_or_another_value(value in value(), flips in proptest::collection::vec((0usize..200, any::<u8>()), 1..4)) {
            let mut bytes = Vec::new();
            encode_value(&value, &mut bytes);
            for (at, byte) in flips {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            let mut cursor = Cursor::new(&bytes);
            if let Ok(read) = cursor.value() {
                let mut again = Vec::new();
                encode_value(&read, &mut again);
                prop_assert_eq!(&again, &bytes[..bytes.len() - cursor.rest.len()]);
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), tag in 0u8..10) {
            let _ = header(&bytes);
            let _ = Cursor::new(&[&[tag][..], &bytes].concat()).value();
        }
    }

    fn refused(bytes: &[u8]) -> String {
        Cursor::new(bytes).value().expect_err("damaged").detail
    }

    #[test]
    fn a_length_that_the_bytes_cannot_hold_is_refused_before_memory_is_asked_for() {
        for tag in [7, 8] {
            for n in [u32::MAX, 1 << 30, 13] {
                let bytes = [&[tag][..], &n.to_le_bytes(), &[0; 60]].concat();
                assert_eq!(refused(&bytes), format!("{n} items in 60 bytes"), "tag {tag}");
            }
        }
    }

    #[test]
    fn a_list_holds_one_kind_of_plain_value_and_a_map_is_in_order() {
        let list = |items: &[Value]| {
            let mut bytes = Vec::new();
            encode_value(&Value::List(items.into()), &mut bytes);
            refused(&bytes)
        };
        assert_eq!(list(&[Value::Float(1.0), Value::text("x")]), "numbers and texts in one list");
        assert_eq!(list(&[Value::Int(1)]), "tag 3 inside a list");
        assert_eq!(list(&[Value::Float(f64::NAN)]), "NaN inside a list or map");
        assert_eq!(list(&[Value::List([Value::numbers([]), Value::numbers([])].into())]), "tag 7 inside a list");
        for keys in [["b", "a"], ["a", "a"]] {
            let mut bytes = Vec::new();
            encode_value(&Value::Map(keys.map(|k| (k.into(), 1.0)).into()), &mut bytes);
            assert_eq!(refused(&bytes), "keys of a map are out of order");
        }
    }

    /// A record as the first release wrote it, byte by byte.
    #[test]
    fn records_written_before_there_were_operations_are_upserts() {
        let mut bytes = vec![0];
        bytes.extend(7u32.to_le_bytes());
        bytes.extend(1_000i64.to_le_bytes());
        bytes.extend(2_000i64.to_le_bytes());
        bytes.extend(b"\x02\0id");
        bytes.extend(u32::MAX.to_le_bytes());
        bytes.extend(b"\x00\x02\x03\x05\0\0\0\0\0\0\0\x05\x01\0\0\0x");
        let event = Event {
            source: SourceId(1),
            offset: 5,
            time: EventTime(1_000),
            arrived: EventTime(2_000),
            id: Some("id".into()),
            operation: Operation::Upsert,
            row: vec![Value::Null, Value::Bool(true), Value::Int(5), Value::text("x")],
            extra: None,
            origin: None,
        };
        let columns = (0..4).map(Some).collect();
        assert_eq!(header(&bytes).unwrap().unwrap().event(SourceId(1), 5, &columns, 4), Ok(event.clone()));
        let mut written = Vec::new();
        encode(&event, 7, &mut written);
        assert_eq!(written, bytes, "and they are still written so");
        bytes[0] = 2;
        let deleted = header(&bytes).unwrap().unwrap().event(SourceId(1), 5, &columns, 4);
        assert_eq!(deleted, Ok(Event { operation: Operation::Delete, ..event }));
        bytes[0] = 1;
        assert_eq!(header(&bytes), Ok(None), "a control record is no event");
    }

    #[test]
    fn columns_are_matched_by_name_across_schemas() {
        let event = Event {
            source: SourceId(0),
            offset: 0,
            time: EventTime(1),
            arrived: EventTime(2),
            id: None,
            operation: Operation::Upsert,
            row: vec![Value::Int(1), Value::text("gone"), Value::Bool(true)],
            extra: None,
            origin: None,
        };
        let mut bytes = Vec::new();
        encode(&event, 0, &mut bytes);
        let read = header(&bytes).unwrap().unwrap().event(SourceId(0), 0, &vec![Some(1), None, Some(0)], 3).unwrap();
        assert_eq!(read.row, vec![Value::Bool(true), Value::Int(1), Value::Null]);
    }
}
