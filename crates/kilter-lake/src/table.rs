//! Records of the event log as rows of Parquet files, and back to the same bytes.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use anyhow::{Context, bail, ensure};
use bytes::{Buf as _, Bytes};
use kilter_connect::{TableFormat, TableWriter};
use kilter_core::record::{encode, header};
use kilter_core::{CompactString, DataType, Event, EventTime, Operation, Origin, Schema, SourceId, Value};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{BoolType, ByteArrayType, DataType as ParquetType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader as _, Length, SerializedFileReader};
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};

use crate::lock;
use crate::manifest::{File, Part};
use crate::storage::Storage;

/// Columns that stand behind those of the source.
const SYSTEM: [(&str, DataType); 8] = [
    ("_offset", DataType::Int64),
    ("_time", DataType::Timestamp),
    ("_arrived", DataType::Timestamp),
    ("_id", DataType::String),
    ("_operation", DataType::String),
    ("_partition", DataType::Int64),
    ("_position", DataType::Int64),
    ("_extra", DataType::String),
];
/// Columns of a file of records that are no events: a control record's text, or the bytes of any other, in hexadecimal digits.
const RECORDS: [(&str, DataType); 3] = [("_offset", DataType::Int64), ("_control", DataType::String), ("_bytes", DataType::String)];
/// Columns that readers make of the path.
const PARTITION: [&str; 2] = ["source", "date"];
/// Under this key a file says what its rows are.
const KEY: &str = "kilter.table";
/// First byte of a control record; the rest is its text.
const CONTROL: u8 = 1;
/// Rows decoded at a time.
const BATCH: usize = 1024;
/// What is read of a file's end at first: mostly all that says where its rows are.
const TAIL: u64 = 64 << 10;

/// What the rows of a file are; the file carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    #[serde(flatten)]
    pub part: Part,
    /// Columns of the source as the records know them, in their order.
    pub columns: Schema,
}

impl Table {
    /// What a record becomes a row of.
    ///
    /// # Errors
    /// A damaged record; a schema number that `schemas` does not know.
    pub fn of(record: &[u8], schemas: &dyn Fn(u32) -> Option<(String, Schema)>) -> anyhow::Result<Table> {
        let Some(header) = header(record)? else { return Ok(Table { part: Part::Records, columns: Schema::default() }) };
        let schema = header.schema;
        let (source, columns) = schemas(schema).with_context(|| format!("schema {schema} is not in the catalog"))?;
        Ok(Table { part: Part::Events { source, date: header.time.civil().date().to_string(), schema }, columns })
    }

    /// The columns of the file. A name that stands for something else in the lake gets an underscore behind it.
    pub(crate) fn file_columns(&self) -> Schema {
        let Part::Events { .. } = self.part else { return Schema::new(RECORDS) };
        let reserved = |name: &str| PARTITION.contains(&name) || SYSTEM.iter().any(|(system, _)| *system == name);
        let own = self.columns.fields.iter().map(|field| {
            let mut name = field.name.clone();
            while reserved(&name) || (name != field.name && self.columns.index(&name).is_some()) {
                name.push('_');
            }
            (name, field.data_type)
        });
        Schema::new(own.chain(SYSTEM.map(|(name, data_type)| (name.to_owned(), data_type))))
    }

    /// The row of a record.
    fn row(&self, offset: u64, record: &[u8]) -> anyhow::Result<Vec<Value>> {
        let place = Value::Int(i64::try_from(offset)?);
        let Part::Events { schema, .. } = &self.part else {
            let control = record.strip_prefix(&[CONTROL]).and_then(|text| std::str::from_utf8(text).ok());
            let bytes = if control.is_none() { Value::text(&hex(record)) } else { Value::Null };
            return Ok(vec![place, control.map_or(Value::Null, Value::text), bytes]);
        };
        let header = header(record)?.context("the record is no event")?;
        let columns = (0..self.columns.len()).map(Some).collect();
        let event = header.event(SourceId(0), offset, &columns, self.columns.len())?;
        let mut again = Vec::with_capacity(record.len());
        encode(&event, *schema, &mut again);
        ensure!(again == record, "the record does not come out of its columns as it went in");
        let whole = |n: u64| i64::try_from(n).map(Value::Int).context("a position past 2^63");
        let operation = match event.operation {
            Operation::Upsert => UPSERT,
            Operation::Delete => DELETE,
        };
        let mut row = event.row;
        row.extend([
            place,
            Value::Time(event.time),
            Value::Time(event.arrived),
            event.id.map_or(Value::Null, Value::Text),
            Value::text(operation),
            event.origin.map_or(Value::Null, |o| Value::Int(i64::from(o.partition))),
            event.origin.map_or(Ok(Value::Null), |o| whole(o.position))?,
            event.extra.map_or(Value::Null, |extra| Value::text(&extra)),
        ]);
        Ok(row)
    }

    /// The offset and the record of a row.
    fn record(&self, mut row: Vec<Value>) -> anyhow::Result<(u64, Vec<u8>)> {
        let Part::Events { schema, .. } = &self.part else {
            return match row.as_slice() {
                [Value::Int(offset), Value::Text(control), Value::Null] => {
                    Ok((u64::try_from(*offset)?, [&[CONTROL], control.as_bytes()].concat()))
                }
                [Value::Int(offset), Value::Null, Value::Text(digits)] => Ok((u64::try_from(*offset)?, unhex(digits)?)),
                other => bail!("a row that is no record: {other:?}"),
            };
        };
        let system = row.split_off(self.columns.len());
        let [Value::Int(offset), Value::Time(time), Value::Time(arrived), id, Value::Text(operation), partition, position, extra] =
            system.as_slice()
        else {
            bail!("a row without offset and times: {system:?}");
        };
        let text = |value: &Value| match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        };
        let origin = match (partition, position) {
            (Value::Int(partition), Value::Int(position)) => {
                Some(Origin { partition: u32::try_from(*partition)?, position: u64::try_from(*position)? })
            }
            _ => None,
        };
        let event = Event {
            source: SourceId(0),
            offset: u64::try_from(*offset)?,
            time: *time,
            arrived: *arrived,
            id: text(id),
            operation: match operation.as_str() {
                UPSERT => Operation::Upsert,
                DELETE => Operation::Delete,
                other => bail!("\"{other}\" is no operation"),
            },
            row,
            extra: text(extra).map(|extra| extra.as_str().into()),
            origin,
        };
        let mut record = Vec::new();
        encode(&event, *schema, &mut record);
        Ok((event.offset, record))
    }
}

const UPSERT: &str = "upsert";
const DELETE: &str = "delete";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(digits: &str) -> anyhow::Result<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

/// A file being made. The same records give the same bytes.
pub(crate) struct Builder {
    pub table: Table,
    writer: TableWriter<Vec<u8>>,
    rows: u64,
}

impl Builder {
    pub fn new(table: Table) -> anyhow::Result<Builder> {
        let said = [(KEY.to_owned(), serde_json::to_string(&table)?)];
        let writer = TableWriter::create(Vec::new(), TableFormat::Parquet, &table.file_columns(), &said)?;
        Ok(Builder { table, writer, rows: 0 })
    }

    pub fn push(&mut self, offset: u64, record: &[u8]) -> anyhow::Result<()> {
        let row = self.table.row(offset, record).with_context(|| format!("event log, offset {offset}"))?;
        self.writer.push(&row).with_context(|| format!("event log, offset {offset}"))?;
        self.rows += 1;
        Ok(())
    }

    /// The finished file, to lie at `path`.
    pub fn finish(self, path: String, first: u64, next: u64) -> anyhow::Result<(File, Vec<u8>)> {
        let bytes = self.writer.finish()?;
        let file = File { path, part: self.table.part, first, next, rows: self.rows, bytes: bytes.len() as u64 };
        Ok((file, bytes))
    }
}

/// A file that the manifest names is not there (any more).
#[derive(Debug)]
pub(crate) struct Gone(pub String);

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is not in the lake", self.0)
    }
}

impl std::error::Error for Gone {}

/// Bytes of a file in its storage, the stretch in use held.
struct Distant {
    storage: Arc<dyn Storage>,
    path: String,
    length: u64,
    held: Mutex<(u64, Bytes)>,
}

impl Distant {
    /// Fetches a stretch and keeps it, in place of the one before.
    fn hold(&self, stretch: Range<u64>) -> Result<(), ParquetError> {
        let start = stretch.start;
        let bytes = self.fetch(stretch)?;
        *lock(&self.held) = (start, bytes);
        Ok(())
    }

    fn fetch(&self, stretch: Range<u64>) -> Result<Bytes, ParquetError> {
        if stretch.end > self.length || stretch.start > stretch.end {
            return Err(ParquetError::EOF(format!("bytes {stretch:?} of a file of {}", self.length)));
        }
        match self.storage.read_range(&self.path, stretch) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(ParquetError::External(Box::new(Gone(self.path.clone())))),
            Err(e) => Err(ParquetError::General(format!("{e:#}"))),
        }
    }

    /// What is held from `start` on, if that is `least` bytes or more.
    fn held_from(&self, start: u64, least: u64) -> Option<Bytes> {
        let (base, held) = lock(&self.held).clone();
        let end = start.checked_add(least)?;
        (start >= base && end <= base + held.len() as u64).then(|| held.slice((start - base) as usize..))
    }
}

/// The same, as the Parquet reader asks for it.
struct Chunks(Arc<Distant>);

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.0.length
    }
}

impl ChunkReader for Chunks {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let held = self.0.held_from(start, 1);
        Ok(held.map_or_else(|| self.0.fetch(start..self.0.length.min(start.saturating_add(TAIL))), Ok)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        match self.0.held_from(start, length as u64) {
            Some(held) => Ok(held.slice(..length)),
            None => self.0.fetch(start..start.saturating_add(length as u64)),
        }
    }
}

/// The records of one file, in the order of their offsets. Holds one row group of its bytes and a few rows.
pub(crate) struct Rows {
    table: Table,
    distant: Arc<Distant>,
    reader: SerializedFileReader<Chunks>,
    types: Vec<DataType>,
    open: Vec<ColumnReader>,
    from: u64,
    next_group: usize,
    left_in_group: usize,
    columns: Vec<std::vec::IntoIter<Value>>,
    path: String,
}

impl Rows {
    /// Opens a file at its first record at or after `from`.
    ///
    /// # Errors
    /// [`Gone`]; damage.
    pub fn open(storage: &Arc<dyn Storage>, file: &File, from: u64) -> anyhow::Result<Rows> {
        let distant =
            Arc::new(Distant { storage: Arc::clone(storage), path: file.path.clone(), length: file.bytes, held: Mutex::default() });
        let opened = guarded(|| {
            distant.hold(file.bytes.saturating_sub(TAIL)..file.bytes)?;
            SerializedFileReader::new(Chunks(Arc::clone(&distant)))
        });
        let reader = opened.map_err(|e| told(e, &file.path))?;
        let damaged = || format!("{} is damaged, or no file of a lake", file.path);
        let said = reader.metadata().file_metadata().key_value_metadata().and_then(|all| all.iter().find(|kv| kv.key == KEY));
        let table: Table = serde_json::from_str(said.and_then(|kv| kv.value.as_deref()).with_context(damaged)?).with_context(damaged)?;
        ensure!(table.part == file.part, "{} holds something else than the manifest says", file.path);
        let types: Vec<DataType> = table.file_columns().fields.iter().map(|f| f.data_type).collect();
        ensure!(reader.metadata().file_metadata().schema_descr().num_columns() == types.len(), damaged());
        let (next_group, left_in_group) = (0, 0);
        let path = file.path.clone();
        Ok(Rows { table, distant, reader, types, open: Vec::new(), from, next_group, left_in_group, columns: Vec::new(), path })
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The next record with its offset.
    pub fn next_record(&mut self) -> anyhow::Result<Option<(u64, Vec<u8>)>> {
        loop {
            let row: Vec<Value> = self.columns.iter_mut().map_while(Iterator::next).collect();
            if row.len() == self.types.len() {
                let (offset, record) = self.table.record(row).with_context(|| format!("{} is damaged", self.path))?;
                if offset >= self.from {
                    return Ok(Some((offset, record)));
                }
            } else if !guarded(|| self.fill()).map_err(|e| told(e, &self.path))? {
                return Ok(None);
            }
        }
    }

    /// Reads the next rows; false at the end of the file.
    fn fill(&mut self) -> Result<bool, ParquetError> {
        while self.left_in_group == 0 {
            if self.next_group == self.reader.num_row_groups() {
                return Ok(false);
            }
            let metadata = self.reader.metadata().row_group(self.next_group);
            let rows = usize::try_from(metadata.num_rows()).unwrap_or(0);
            let stretches = metadata.columns().iter().map(|c| c.byte_range()).map(|(start, length)| start..start.saturating_add(length));
            let start = stretches.clone().map(|s| s.start).min().unwrap_or(0);
            let end = stretches.map(|s| s.end).max().unwrap_or(0);
            let offsets = self.types.len() - if self.table.part == Part::Records { RECORDS.len() } else { SYSTEM.len() };
            let newest = match metadata.column(offsets).statistics() {
                Some(Statistics::Int64(offsets)) => offsets.max_opt().copied(),
                _ => None,
            };
            self.next_group += 1;
            if newest.is_some_and(|newest| u64::try_from(newest).is_ok_and(|newest| newest < self.from)) {
                continue;
            }
            self.distant.hold(start..end)?;
            let group = self.reader.get_row_group(self.next_group - 1)?;
            self.open = (0..self.types.len()).map(|column| group.get_column_reader(column)).collect::<Result<_, _>>()?;
            self.left_in_group = rows;
        }
        let n = self.left_in_group.min(BATCH);
        let columns = self.types.iter().zip(&mut self.open).map(|(data_type, reader)| values(*data_type, reader, n).map(Vec::into_iter));
        self.columns = columns.collect::<Result<_, _>>()?;
        self.left_in_group -= n;
        Ok(true)
    }
}

/// The next `n` values of a column.
fn values(data_type: DataType, reader: &mut ColumnReader, n: usize) -> Result<Vec<Value>, ParquetError> {
    match (data_type, reader) {
        (DataType::Bool, ColumnReader::BoolColumnReader(r)) => typed::<BoolType>(r, n, |b| Ok(Value::Bool(b))),
        (DataType::Int64, ColumnReader::Int64ColumnReader(r)) => typed::<Int64Type>(r, n, |i| Ok(Value::Int(i))),
        (DataType::Timestamp, ColumnReader::Int64ColumnReader(r)) => typed::<Int64Type>(r, n, |t| Ok(Value::Time(EventTime(t)))),
        (DataType::Float64, ColumnReader::DoubleColumnReader(r)) => typed::<DoubleType>(r, n, |x| Ok(Value::Float(x))),
        (DataType::String, ColumnReader::ByteArrayColumnReader(r)) => typed::<ByteArrayType>(r, n, |bytes| {
            Ok(Value::Text(CompactString::from_utf8(bytes.data()).map_err(|e| ParquetError::General(e.to_string()))?))
        }),
        (expected, _) => Err(ParquetError::General(format!("a column that should be {expected} is something else"))),
    }
}

fn typed<T: ParquetType>(
    reader: &mut ColumnReaderImpl<T>,
    n: usize,
    value: impl Fn(T::T) -> Result<Value, ParquetError>,
) -> Result<Vec<Value>, ParquetError> {
    let (mut levels, mut stored) = (Vec::with_capacity(n), Vec::with_capacity(n));
    let mut read = 0;
    while read < n {
        let (records, _, _) = reader.read_records(n - read, Some(&mut levels), None, &mut stored)?;
        if records == 0 {
            return Err(ParquetError::EOF(format!("a column ends {} rows before the others", n - read)));
        }
        read += records;
    }
    let mut stored = stored.into_iter();
    let short = || ParquetError::EOF("a column has fewer values than it says".into());
    levels.iter().map(|level| if *level == 0 { Ok(Value::Null) } else { value(stored.next().ok_or_else(short)?) }).collect()
}

/// The parquet crate panics on some damaged files; here that is an error like any other.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(ParquetError::General("the file is damaged".into())))
}

/// The error as one of ours, [`Gone`] where it is that.
fn told(error: ParquetError, path: &str) -> anyhow::Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<Gone>() {
            Ok(gone) => anyhow::Error::new(*gone),
            Err(other) => anyhow::anyhow!("{path} cannot be read: {other}"),
        },
        other => anyhow::anyhow!("{path} cannot be read: {other}"),
    }
}
