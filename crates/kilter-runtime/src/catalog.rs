//! Numbers for schemas: which source and columns a record in the event log was written with.
//!
//! The catalog only grows. It lies beside the log as `catalog.json`, written whole and renamed before the first record that needs
//! the new entry, so that every record in the log can be read whatever the definitions are today.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use kilter_core::record::{self, ColumnMap, RecordError};
use kilter_core::{DataType, Event, EventTime, Schema, SourceId, Stub, Value};
use kilter_pipeline::Plan;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    source: String,
    columns: Schema,
}

/// All schemas ever used in this log; position = number in the records.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    path: PathBuf,
    entries: Vec<Entry>,
}

/// What a log record is under today's definitions.
#[derive(Debug, PartialEq)]
pub enum Record {
    Event(Event),
    Control(Control),
    /// An event of a source that is no longer declared.
    Foreign,
    /// What is left of an event that was erased.
    Erased(Stub),
}

/// A change that takes effect between two events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// A model version goes into service. The hashes name its bytes, so that the log needs no registry to be read.
    Champion { model: String, version: u32, artifact: String, reference: String, meaning: String },
    /// A training inside the stream has ended, for better or worse: what asked for it, and the stream's time then.
    Trained { trigger: String, now: EventTime },
    /// How far the stream that a source is read from has been taken: the next position of each partition.
    Consumed { source: String, stream: String, next: BTreeMap<u32, u64> },
    /// Other definitions come into force: hashes of those before and after.
    Definitions { from: String, to: String },
    /// Events were erased from the log before this record; what they were told by is in the record of proof.
    Erased(Erased),
}

/// An erasure, without what was erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// The number that the erased records carry.
    pub erasure: u64,
    pub at: EventTime,
    /// Salted hash of the entity; the salt is in the record of proof only.
    pub entity: String,
    /// Where the entity's key stood.
    pub columns: Vec<KeyColumns>,
    pub events: u64,
}

/// Columns of a source that held an entity's key, or the key of a record that belongs to the entity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyColumns {
    pub source: String,
    pub columns: Vec<String>,
}

const CONTROL: u8 = 1;
/// The catalog's name in a data folder.
pub const CATALOG_FILE: &str = "catalog.json";

/// Turns records into events of one plan.
pub struct Decoder {
    /// Per schema number: none for a source that is gone.
    maps: Vec<Option<Mapping>>,
}

struct Mapping {
    source: SourceId,
    columns: ColumnMap,
    width: usize,
    /// Columns whose declared type has changed since, to be converted.
    casts: Vec<(usize, DataType)>,
    /// Columns declared later than the record: looked up among its undeclared fields.
    later: Vec<(usize, String, DataType)>,
}

impl Catalog {
    /// Reads the catalog of a data folder. Only beside an empty event log may it be absent: records without it cannot be read.
    pub fn open(dir: &Path, log_is_empty: bool) -> anyhow::Result<Catalog> {
        let path = dir.join(CATALOG_FILE);
        let entries = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                anyhow::anyhow!(
                    "{} is damaged: {e}\n  hint: restore it from a backup; the event log cannot be read without it",
                    path.display()
                )
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && log_is_empty => Vec::new(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => anyhow::bail!(
                "{} is missing, which names the columns of every record in the event log\n  \
                 hint: restore it from a backup; without it no record can be read for what it is",
                path.display()
            ),
            Err(e) => return Err(anyhow::anyhow!("cannot read {}: {e}", path.display())),
        };
        Ok(Catalog { path, entries })
    }

    /// The schema number of every source of the plan, new ones made durable first.
    pub fn register(&mut self, plan: &Plan) -> anyhow::Result<Vec<u32>> {
        let before = self.entries.len();
        let numbers = plan
            .sources
            .iter()
            .map(|source| {
                let entry = Entry { source: source.name.clone(), columns: source.schema.clone() };
                let number = self.entries.iter().position(|e| *e == entry).unwrap_or_else(|| {
                    self.entries.push(entry);
                    self.entries.len() - 1
                });
                number as u32
            })
            .collect();
        if self.entries.len() > before {
            self.write()?;
        }
        Ok(numbers)
    }

    /// The catalog's bytes and the number of its entries, where it has more than `known`.
    pub fn beyond(&self, known: usize) -> Option<(usize, Vec<u8>)> {
        let count = self.entries.len();
        (count > known).then(|| (count, self.bytes()))
    }

    fn bytes(&self) -> Vec<u8> {
        // Names, types and lists of them: serialising them cannot fail.
        serde_json::to_vec_pretty(&self.entries).unwrap_or_default()
    }

    fn write(&self) -> anyhow::Result<()> {
        let new = self.path.with_extension("json.new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&self.bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        if let Some(dir) = self.path.parent() {
            fs::File::open(dir)?.sync_all()?;
        }
        Ok(())
    }

    /// Every schema's source and columns, by number.
    pub fn schemas(&self) -> impl Iterator<Item = (&str, &Schema)> {
        self.entries.iter().map(|e| (e.source.as_str(), &e.columns))
    }

    /// A decoder for records of this catalog under a plan.
    pub fn decoder(&self, plan: &Plan) -> Decoder {
        Decoder { maps: self.entries.iter().map(|entry| Mapping::new(plan, &entry.source, &entry.columns)).collect() }
    }
}

impl Control {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(CONTROL);
        // Strings and numbers: serialising them cannot fail.
        out.extend_from_slice(&serde_json::to_vec(self).unwrap_or_default());
    }

    /// The record, if it is one of these and no event.
    pub fn decode(bytes: &[u8]) -> Result<Option<Control>, RecordError> {
        match bytes {
            [CONTROL, json @ ..] => serde_json::from_slice(json).map(Some).map_err(|e| RecordError { detail: e.to_string() }),
            _ => Ok(None),
        }
    }
}

impl Mapping {
    /// None: the source is gone.
    fn new(plan: &Plan, source: &str, then: &Schema) -> Option<Mapping> {
        let source = plan.source(source)?;
        let today = &plan.sources[source.0 as usize].schema;
        let columns = then.names().map(|name| today.index(name)).collect();
        let casts = then
            .fields
            .iter()
            .filter_map(|f| Some((today.index(&f.name)?, f.data_type)))
            .filter(|(i, then)| today.fields[*i].data_type != *then)
            .map(|(i, _)| (i, today.fields[i].data_type))
            .collect();
        let later = today
            .fields
            .iter()
            .enumerate()
            .filter(|(_, f)| then.index(&f.name).is_none())
            .map(|(i, f)| (i, f.name.clone(), f.data_type))
            .collect();
        Some(Mapping { source, columns, width: today.len(), casts, later })
    }
}

impl Decoder {
    /// For records of another log, by its schemas as far as they are known.
    pub fn of<'a>(plan: &Plan, schemas: impl IntoIterator<Item = (u32, (&'a str, &'a Schema))>) -> Decoder {
        let mut maps = Vec::new();
        for (number, (source, columns)) in schemas {
            let place = number as usize;
            if maps.len() <= place {
                maps.resize_with(place + 1, || None);
            }
            maps[place] = Mapping::new(plan, source, columns);
        }
        Decoder { maps }
    }

    /// Today's source of a schema number.
    pub fn source(&self, schema: u32) -> Option<SourceId> {
        self.maps.get(schema as usize)?.as_ref().map(|m| m.source)
    }

    /// Reads one record of the event log.
    pub fn decode(&self, offset: u64, bytes: &[u8]) -> Result<Record, RecordError> {
        let Some(header) = record::header(bytes)? else {
            let other = match Control::decode(bytes)? {
                Some(control) => Some(Record::Control(control)),
                None => Stub::decode(bytes)?.map(Record::Erased),
            };
            return other.ok_or_else(|| RecordError { detail: "unknown kind of record; was it written by a newer kilter?".into() });
        };
        let map = self
            .maps
            .get(header.schema as usize)
            .ok_or_else(|| RecordError { detail: format!("schema {} is not in the catalog", header.schema) })?;
        let Some(map) = map else { return Ok(Record::Foreign) };
        let mut event = header.event(map.source, offset, &map.columns, map.width)?;
        for (slot, to) in &map.casts {
            event.row[*slot] = cast(std::mem::take(&mut event.row[*slot]), *to);
        }
        if !map.later.is_empty()
            && let Some(extra) = &event.extra
            && let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(extra)
        {
            for (slot, name, to) in &map.later {
                event.row[*slot] = fields.get(name).map_or(Value::Null, |v| from_json(v, *to));
            }
        }
        Ok(Record::Event(event))
    }
}

/// A value under a new type where nothing is lost, null otherwise.
fn cast(value: Value, to: DataType) -> Value {
    match (value, to) {
        (Value::Int(i), DataType::Float64) => Value::Float(i as f64),
        (Value::Int(i), DataType::Timestamp) => Value::Time(EventTime::from_number(i)),
        (Value::Float(x), DataType::Int64) if x.fract() == 0.0 && x.abs() < 9e15 => Value::Int(x as i64),
        (Value::Text(t), DataType::Timestamp) => EventTime::parse(&t).map_or(Value::Null, Value::Time),
        (Value::Null, _) => Value::Null,
        (value, DataType::String) => Value::text(&value.to_string()),
        _ => Value::Null,
    }
}

fn from_json(value: &serde_json::Value, to: DataType) -> Value {
    match (to, value) {
        (DataType::Bool, serde_json::Value::Bool(b)) => Value::Bool(*b),
        (DataType::Int64, v) => v.as_i64().map_or(Value::Null, Value::Int),
        (DataType::Float64, v) => v.as_f64().map_or(Value::Null, Value::float),
        (DataType::String, serde_json::Value::String(s)) => Value::text(s),
        (DataType::Timestamp, serde_json::Value::String(s)) => EventTime::parse(s).map_or(Value::Null, Value::Time),
        (DataType::Timestamp, v) => v.as_i64().map_or(Value::Null, |n| Value::Time(EventTime::from_number(n))),
        _ => Value::Null,
    }
}
