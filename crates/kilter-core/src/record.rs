//! How an event lies in the log: a compact binary record that names its schema by number.
//!
//! The catalog (kept beside the log) maps a schema number to a source name and its columns, so that a record written under
//! older definitions is read under newer ones: columns are matched by name, a column that is new looks into the record's
//! undeclared fields, a column that is gone is skipped.
//!
//! Layout, little endian: kind u8 (0), schema u32, time i64, arrived i64, id length u16 + bytes (0xffff: none),
//! extra length u32 + bytes (0xffffffff: none), then per column a tag u8 and its value
//! (0 null; 1 false; 2 true; 3 int i64; 4 float f64; 5 text u32 length + bytes; 6 time i64).

use compact_str::CompactString;

use crate::{Event, EventTime, Offset, SourceId, Value};

const EVENT: u8 = 0;
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
    pub schema: u32,
    pub time: EventTime,
    pub arrived: EventTime,
    pub id: Option<&'a str>,
    pub extra: Option<&'a str>,
    body: &'a [u8],
}

/// Appends the record of `event` to `out`.
pub fn encode(event: &Event, schema: u32, out: &mut Vec<u8>) {
    out.push(EVENT);
    out.extend_from_slice(&schema.to_le_bytes());
    out.extend_from_slice(&event.time.0.to_le_bytes());
    out.extend_from_slice(&event.arrived.0.to_le_bytes());
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
            out.extend_from_slice(&(s.len() as u32).to_le_bytes());
            out.extend_from_slice(s.as_bytes());
        }
        Value::Time(t) => {
            out.push(6);
            out.extend_from_slice(&t.0.to_le_bytes());
        }
    }
}

/// Reads the fields before the row. `Ok(None)`: not an event (a record kind of a newer or control kind).
pub fn header(bytes: &[u8]) -> Result<Option<Header<'_>>, RecordError> {
    let mut cursor = Cursor { rest: bytes };
    if cursor.u8()? != EVENT {
        return Ok(None);
    }
    let schema = cursor.u32()?;
    let time = EventTime(cursor.i64()?);
    let arrived = EventTime(cursor.i64()?);
    let id = match cursor.u16()? {
        NO_ID => None,
        n => Some(cursor.str(n as usize)?),
    };
    let extra = match cursor.u32()? {
        NO_EXTRA => None,
        n => Some(cursor.str(n as usize)?),
    };
    Ok(Some(Header { schema, time, arrived, id, extra, body: cursor.rest }))
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
            row,
            extra: self.extra.map(Into::into),
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

    pub fn value(&mut self) -> Result<Value, RecordError> {
        Ok(match self.u8()? {
            0 => Value::Null,
            1 => Value::Bool(false),
            2 => Value::Bool(true),
            3 => Value::Int(self.i64()?),
            4 => Value::Float(self.f64()?),
            5 => {
                let n = self.u32()? as usize;
                Value::Text(CompactString::new(self.str(n)?))
            }
            6 => Value::Time(EventTime(self.i64()?)),
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
        ]
    }

    fn event() -> impl Strategy<Value = Event> {
        (
            any::<i64>(),
            any::<i64>(),
            proptest::option::of(".{0,30}"),
            proptest::collection::vec(value(), 0..8),
            proptest::option::of(".{0,30}"),
        )
            .prop_map(|(t, a, id, row, extra)| Event {
                source: SourceId(3),
                offset: 9,
                time: EventTime(t),
                arrived: EventTime(a),
                id: id.map(CompactString::from),
                row,
                extra: extra.map(Into::into),
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

    #[test]
    fn columns_are_matched_by_name_across_schemas() {
        let event = Event {
            source: SourceId(0),
            offset: 0,
            time: EventTime(1),
            arrived: EventTime(2),
            id: None,
            row: vec![Value::Int(1), Value::text("gone"), Value::Bool(true)],
            extra: None,
        };
        let mut bytes = Vec::new();
        encode(&event, 0, &mut bytes);
        let read = header(&bytes).unwrap().unwrap().event(SourceId(0), 0, &vec![Some(1), None, Some(0)], 3).unwrap();
        assert_eq!(read.row, vec![Value::Bool(true), Value::Int(1), Value::Null]);
    }
}
