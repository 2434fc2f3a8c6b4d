//! Training sets and state over a shuffle, as Spark has it: rows of data frames become records that are brought together by key and sorted, the
//! sorted records become features, or parts of a state. Both ends are here; what lies between moves bytes that it need not understand.
//!
//! A record's columns: `key` and `at` (microseconds), `rank`, `tie`, `feed` to sort by, and `record`, the bytes of the row. `feed` is that of an
//! event, or -1 for a row of the spine.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::builder::BinaryBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch};
use kilter_connect::{ArrowRows, IdOf, OperationOf, RowFormat, TimeOf};
use kilter_core::record::{Cursor, RecordError, encode_value};
use kilter_core::{DataType, Event, EventTime, Field, Operation, Schema, SourceId, Span, Value};
use kilter_pipeline::Plan;
use kilter_pipeline::parts::{StatePass, StateSweep};
use kilter_pipeline::training_set::{Feed, Pass, SetPlan, SpineRow, Sweep};
use kilter_runtime::project::{self, Project};
use kilter_runtime::spine::{Asked, Features, Lags, Mode, resolve_table};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde::Deserialize;

use crate::frame::{Batch, Given, batch, binary, column, shared, spark_type, values};
use crate::value_error;

/// The feed of rows of a spine.
const ROW: i32 = -1;
/// The column by which a data frame may order its events of one moment.
const TIE: &str = "__kilter_order";
/// The first byte of a record: driver and executors may have different versions of this package.
const FORMAT: u8 = 1;

fn read(definitions: &str) -> PyResult<Project> {
    project::check_text(definitions, project::FILE_NAME, Path::new("")).map_err(value_error)
}

/// A training set over data frames.
#[pyclass(frozen, module = "kilter._native")]
pub struct TrainingPlan {
    project: Project,
    set: Arc<SetPlan>,
    passes: Vec<Pass>,
    own: Schema,
    time: usize,
    lags: Vec<Span>,
    /// How many of the columns are the spine's own.
    spine_columns: usize,
}

/// What is asked for, as Python says it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// Name and type of the spine's columns that have a type here.
    columns: Vec<(String, DataType)>,
    time: Option<String>,
    keys: Vec<(String, Vec<String>)>,
    features: Option<Vec<String>>,
    model: Option<String>,
    /// Of all sources, then of some.
    lag: String,
    lags: Vec<(String, String)>,
    include_self: Option<bool>,
}

fn span(text: &str) -> PyResult<Span> {
    let wrong = || PyValueError::new_err(format!("lag: `{text}` is no length of time\n  hint: write it as 5m, 1h or 7d"));
    Span::parse(text).filter(|span| *span >= Span::ZERO).ok_or_else(wrong)
}

#[pymethods]
impl TrainingPlan {
    #[new]
    fn new(definitions: &str, wish: &str) -> PyResult<TrainingPlan> {
        let project = read(definitions)?;
        let wish: Wish = serde_json::from_str(wish).map_err(value_error)?;
        let by_source = wish.lags.iter().map(|(source, lag)| Ok((source.clone(), span(lag)?))).collect::<PyResult<_>>()?;
        let features = match (wish.features, wish.model) {
            (Some(_), Some(_)) => return Err(PyValueError::new_err("give columns or a model, not both")),
            (Some(list), None) => Features::List(list),
            (None, Some(model)) => Features::Model(model),
            (None, None) => Features::Default,
        };
        let mode = Mode::EventTime(Lags { all: span(&wish.lag)?, by_source });
        let asked = Asked { mode: &mode, features: &features, keys: &wish.keys, include_self: wish.include_self };
        let own = Schema { fields: wish.columns.into_iter().map(|(name, data_type)| Field { name, data_type }).collect() };
        let resolved = resolve_table(&project.plan, "the spine", own.clone(), wish.time.as_deref(), asked);
        let resolved = resolved.map_err(|e| PyValueError::new_err(format!("{e:#}")))?;
        let set = Arc::new(resolved.set);
        let passes = set.passes();
        Ok(TrainingPlan { passes, set, own, time: resolved.spine, lags: resolved.lags, spine_columns: resolved.spine_columns, project })
    }

    /// For each pass whether it can be divided by key, and the sources of its feeds.
    fn passes(&self) -> Vec<(bool, Vec<String>)> {
        self.passes.iter().map(|pass| (!pass.is_whole(), feeds(&self.project.plan, pass.feeds()))).collect()
    }

    /// Columns that must be in the data frame of a source.
    fn source_columns(&self, source: &str) -> PyResult<Vec<String>> {
        source_columns(&self.project, source)
    }

    /// Name and Spark's type of each feature.
    fn features(&self) -> Vec<(String, &'static str)> {
        self.set.columns[self.spine_columns..].iter().map(|column| (column.name.clone(), spark_type(column.data_type))).collect()
    }

    /// Makes records of the events of a feed.
    fn events(&self, pass: usize, feed: usize) -> PyResult<EventRecords> {
        let of = &self.passes[pass].feeds()[feed];
        let lag = self.lags[usize::from(of.source.0)];
        // In one moment rows come before events that do not count for them.
        EventRecords::new(&self.project, of, feed, lag, i32::from(!self.set.include_self), None)
    }

    /// Makes records of the spine's rows.
    fn rows(&self, pass: usize) -> RowRecords {
        let of = &self.passes[pass];
        let key = if of.is_whole() { Vec::new() } else { of.key().to_vec() };
        RowRecords { own: self.own.clone(), time: self.time, key, rank: i32::from(self.set.include_self) }
    }

    /// Reads sorted records of a pass; the `last` one gives features, those before it bytes for the next.
    fn sweep(&self, pass: usize, last: bool) -> RecordSweep {
        let columns = Schema {
            fields: self.set.columns[self.spine_columns..]
                .iter()
                .map(|column| Field { name: column.name.clone(), data_type: column.data_type })
                .collect(),
        };
        let out = last.then(|| ArrowRows::new(&columns, &[]));
        let sources = self.passes[pass].feeds().iter().map(|feed| feed.source).collect();
        let inner = Mutex::new(SweepState { sweep: Sweep::new(self.passes[pass].clone()), out });
        RecordSweep { set: Arc::clone(&self.set), sources, spine_columns: self.spine_columns, inner }
    }
}

/// The state after a history, in parts.
#[pyclass(frozen, module = "kilter._native")]
pub struct StatePlan {
    project: Project,
    passes: Vec<StatePass>,
}

#[pymethods]
impl StatePlan {
    #[new]
    fn new(definitions: &str) -> PyResult<StatePlan> {
        let project = read(definitions)?;
        Ok(StatePlan { passes: StatePass::all(&project.plan), project })
    }

    /// As [`TrainingPlan::passes`].
    fn passes(&self) -> Vec<(bool, Vec<String>)> {
        self.passes.iter().map(|pass| (!pass.is_whole(), feeds(&self.project.plan, pass.feeds()))).collect()
    }

    fn sources(&self) -> Vec<String> {
        self.project.plan.sources.iter().map(|source| source.name.clone()).collect()
    }

    fn source_columns(&self, source: &str) -> PyResult<Vec<String>> {
        source_columns(&self.project, source)
    }

    /// The hash of the definitions.
    #[getter]
    fn definitions(&self) -> &str {
        &self.project.plan.hash
    }

    /// Makes records of the events of a feed that happened before a moment (microseconds), if one is given.
    #[pyo3(signature = (pass, feed, before=None))]
    fn events(&self, pass: usize, feed: usize, before: Option<i64>) -> PyResult<EventRecords> {
        EventRecords::new(&self.project, &self.passes[pass].feeds()[feed], feed, Span::ZERO, 0, before.map(EventTime))
    }

    /// Makes records of all events of a source, to be counted.
    #[pyo3(signature = (source, before=None))]
    fn times(&self, source: &str, before: Option<i64>) -> PyResult<EventRecords> {
        let source = source_of(&self.project.plan, source)?;
        EventRecords::of(&self.project, source, Vec::new(), 0, Span::ZERO, 0, before.map(EventTime))
    }

    /// Makes parts of so many bytes of sorted records.
    fn sweep(&self, pass: usize, bytes: usize) -> PartSweep {
        let sources = self.passes[pass].feeds().iter().map(|feed| feed.source).collect();
        PartSweep { sources, inner: Mutex::new(Some(StateSweep::new(self.passes[pass].clone(), bytes))) }
    }
}

fn feeds(plan: &Plan, feeds: &[Feed]) -> Vec<String> {
    feeds.iter().map(|feed| plan.sources[usize::from(feed.source.0)].name.clone()).collect()
}

fn source_of(plan: &Plan, name: &str) -> PyResult<SourceId> {
    plan.source(name).ok_or_else(|| {
        let valid = plan.sources.iter().map(|source| source.name.as_str());
        let problem = kilter_core::Problem::unknown("unknown", "source", name, valid);
        PyValueError::new_err(format!("{:#}", kilter_runtime::spine::complaint(&problem)))
    })
}

fn source_columns(project: &Project, name: &str) -> PyResult<Vec<String>> {
    let source = usize::from(source_of(&project.plan, name)?.0);
    let mut columns: Vec<String> = project.plan.sources[source].schema.names().map(str::to_string).collect();
    if let OperationOf::Field(field) = &project.source_settings[source].operation {
        columns.push(field.clone());
    }
    Ok(columns)
}

/// From events in a data frame to records.
#[pyclass(frozen)]
pub struct EventRecords {
    format: RowFormat,
    /// Empty: all events go to one place.
    entity: Vec<usize>,
    feed: i32,
    lag: Span,
    rank: i32,
    before: Option<EventTime>,
}

impl EventRecords {
    fn new(project: &Project, feed: &Feed, number: usize, lag: Span, rank: i32, before: Option<EventTime>) -> PyResult<EventRecords> {
        EventRecords::of(project, feed.source, feed.entity.clone(), number, lag, rank, before)
    }

    fn of(
        project: &Project,
        source: SourceId,
        entity: Vec<usize>,
        feed: usize,
        lag: Span,
        rank: i32,
        before: Option<EventTime>,
    ) -> PyResult<EventRecords> {
        let mut format = project.row_format(source).ok_or_else(|| PyValueError::new_err("the definitions have no such source"))?;
        // Ids tell what was sent twice, and limits what a clock got wrong: a history has been through that.
        format.id = IdOf::Nothing;
        format.max_future = None;
        if matches!(format.time, TimeOf::Arrival) {
            return Err(PyValueError::new_err(format!(
                "events of source `{}` have the time of their arrival, which a data frame does not tell\n  hint: name the column of their \
                 time in the definitions: time = \"COLUMN\"",
                format.source
            )));
        }
        if format.operation == OperationOf::Debezium {
            return Err(PyValueError::new_err(format!(
                "source `{}` reads Debezium's envelopes, which a data frame has no columns for\n  hint: take rows and operation out of them, and \
                 say operation = \"COLUMN\" in the definitions",
                format.source
            )));
        }
        Ok(EventRecords { format, entity, feed: feed as i32, lag, rank, before })
    }
}

#[pymethods]
impl EventRecords {
    /// The records of a batch. Events that are too late, of no entity, or filtered out stay in: the engine says what becomes of them.
    fn take(&self, py: Python<'_>, frame: Batch) -> PyResult<Given> {
        py.detach(|| self.records(&frame.0)).map(Given::new)
    }
}

impl EventRecords {
    fn records(&self, frame: &RecordBatch) -> PyResult<RecordBatch> {
        let mut columns = typed(frame, &self.format.schema)?;
        let mut operations = match &self.format.operation {
            OperationOf::Field(field) => values(field, column(frame, field)?, DataType::String)?,
            _ => vec![Value::Null; frame.num_rows()],
        };
        let ties = match frame.column_by_name(TIE) {
            Some(ties) => values(TIE, ties, DataType::Int64)?,
            None => vec![Value::Null; frame.num_rows()],
        };
        let mut records = Records::with_capacity(frame.num_rows());
        for (at, tie) in ties.into_iter().enumerate() {
            let row = take_row(&mut columns, at);
            let event = self.format.complete_change(row, std::mem::take(&mut operations[at]), EventTime(0));
            let event = event.map_err(|problems| {
                let text = problems.iter().map(|p| match &p.hint {
                    Some(hint) => format!("{}\n  hint: {hint}", p.message),
                    None => p.message.clone(),
                });
                PyValueError::new_err(format!(
                    "source `{}`: a row cannot be used: {}",
                    self.format.source,
                    text.collect::<Vec<_>>().join("; ")
                ))
            })?;
            if self.before.is_some_and(|before| event.time >= before) {
                continue;
            }
            let mut bytes = vec![FORMAT, u8::from(event.operation == Operation::Delete)];
            encode(event.time, &event.row, &mut bytes);
            records.push(Record {
                key: key_of(&event.row, &self.entity),
                at: event.time + self.lag,
                rank: self.rank,
                tie: if let Value::Int(tie) = tie { Some(tie) } else { None },
                feed: self.feed,
                bytes,
            });
        }
        records.finish()
    }
}

/// From rows of a spine to records.
#[pyclass(frozen)]
pub struct RowRecords {
    own: Schema,
    time: usize,
    /// Empty: all rows go to one place.
    key: Vec<usize>,
    rank: i32,
}

#[pymethods]
impl RowRecords {
    /// The records of a batch, row by row.
    fn take(&self, py: Python<'_>, frame: Batch) -> PyResult<Given> {
        py.detach(|| self.records(&frame.0)).map(Given::new)
    }
}

impl RowRecords {
    fn records(&self, frame: &RecordBatch) -> PyResult<RecordBatch> {
        let mut columns = typed(frame, &self.own)?;
        let mut records = Records::with_capacity(frame.num_rows());
        for number in 0..frame.num_rows() {
            let row = take_row(&mut columns, number);
            let Value::Time(at) = row[self.time] else {
                let name = &self.own.fields[self.time].name;
                return Err(PyValueError::new_err(format!(
                    "the spine: a row has no time (column `{name}`)\n  hint: every row needs the moment at which it is read"
                )));
            };
            let mut bytes = vec![FORMAT, 0];
            encode(at, &row, &mut bytes);
            records.push(Record { key: key_of(&row, &self.key), at, rank: self.rank, tie: None, feed: ROW, bytes });
        }
        records.finish()
    }
}

/// Sorted records to features.
#[pyclass(frozen)]
pub struct RecordSweep {
    set: Arc<SetPlan>,
    /// By feed.
    sources: Vec<SourceId>,
    spine_columns: usize,
    inner: Mutex<SweepState>,
}

struct SweepState {
    sweep: Sweep,
    /// None: this is not the last pass.
    out: Option<ArrowRows>,
}

#[pymethods]
impl RecordSweep {
    /// What is known of the rows among the records, one for each, in their order: their features, or, but for the last pass, `known`: bytes that the
    /// next pass is given beside the row's record.
    fn take(&self, py: Python<'_>, records: Batch) -> PyResult<Given> {
        py.detach(|| self.read(&records.0)).map(Given::new)
    }
}

impl RecordSweep {
    fn read(&self, records: &RecordBatch) -> PyResult<RecordBatch> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let SweepState { sweep, out } = &mut *inner;
        let mut seen = BinaryBuilder::new();
        let (feeds, bytes, moments) = (integers(records, "feed")?, binary(column(records, "record")?)?, column(records, "at")?);
        let moments = moments.as_primitive::<Int64Type>();
        let known = binary(column(records, "known")?)?;
        let (mut slots, mut values) = (Vec::new(), Vec::new());
        for at in 0..records.num_rows() {
            let record = decode(bytes[at].unwrap_or_default()).map_err(damaged)?;
            let feed = feeds.value(at);
            if feed != ROW {
                let event = event(self.sources[feed as usize], record);
                sweep.event(feed as usize, EventTime(moments.value(at)), event).map_err(value_error)?;
                continue;
            }
            let row = SpineRow { number: 0, time: record.time, row: record.row };
            let mut pieces = known[at].unwrap_or_default().to_vec();
            sweep.row(&row, |view, values| put_piece(view, values, &mut pieces)).map_err(value_error)?;
            let Some(out) = out else {
                seen.append_value(&pieces);
                continue;
            };
            self.set.start(row.row, &mut slots);
            each_piece(&pieces, |view, values| self.set.join(view, values, &mut slots)).map_err(damaged)?;
            self.set.finish(&slots, &mut values);
            out.push(&values[self.spine_columns..]).map_err(value_error)?;
        }
        match out {
            Some(out) => out.take().map_err(value_error),
            None => batch(vec![("known", shared(seen.finish()), false)]),
        }
    }
}

/// Sorted records to parts of a state.
#[pyclass(frozen)]
pub struct PartSweep {
    sources: Vec<SourceId>,
    inner: Mutex<Option<StateSweep>>,
}

#[pymethods]
impl PartSweep {
    /// Parts that are complete with these records.
    fn take(&self, py: Python<'_>, records: Batch) -> PyResult<Vec<Vec<u8>>> {
        py.detach(|| {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let sweep = inner.as_mut().ok_or_else(|| PyValueError::new_err("the last part was given"))?;
            let (feeds, bytes) = (integers(&records.0, "feed")?, binary(column(&records.0, "record")?)?);
            let mut parts = Vec::new();
            for (at, bytes) in bytes.into_iter().enumerate() {
                let feed = feeds.value(at) as usize;
                let event = event(self.sources[feed], decode(bytes.unwrap_or_default()).map_err(damaged)?);
                parts.extend(sweep.event(feed, event).map_err(value_error)?);
            }
            Ok(parts)
        })
    }

    /// The last part.
    fn finish(&self) -> PyResult<Vec<u8>> {
        let sweep = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        sweep.map(StateSweep::finish).ok_or_else(|| PyValueError::new_err("the last part was given"))
    }
}

/// The columns of a schema, found by name.
fn typed(frame: &RecordBatch, schema: &Schema) -> PyResult<Vec<Vec<Value>>> {
    let of = |field: &Field| {
        let values = values(&field.name, column(frame, &field.name)?, field.data_type)?;
        match values.iter().any(|value| matches!(value, Value::Float(x) if x.is_infinite())) {
            true => Err(PyValueError::new_err(format!(
                "column `{}` holds an infinity\n  hint: make it null where there is no number",
                field.name
            ))),
            false => Ok(values),
        }
    };
    schema.fields.iter().map(of).collect()
}

fn take_row(columns: &mut [Vec<Value>], at: usize) -> Vec<Value> {
    columns.iter_mut().map(|column| std::mem::take(&mut column[at])).collect()
}

/// Bytes that are the same for the same entity; none: it names none.
fn key_of(row: &[Value], columns: &[usize]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for column in columns {
        let value = &row[*column];
        if value.is_null() {
            return None;
        }
        encode_value(value, &mut bytes);
    }
    Some(bytes)
}

struct Record {
    key: Option<Vec<u8>>,
    at: EventTime,
    rank: i32,
    tie: Option<i64>,
    feed: i32,
    bytes: Vec<u8>,
}

/// Records on their way out.
#[derive(Default)]
struct Records {
    keys: BinaryBuilder,
    at: Vec<i64>,
    ranks: Vec<i32>,
    ties: Vec<Option<i64>>,
    feeds: Vec<i32>,
    bytes: BinaryBuilder,
}

impl Records {
    fn with_capacity(rows: usize) -> Records {
        Records { at: Vec::with_capacity(rows), bytes: BinaryBuilder::with_capacity(rows, rows * 32), ..Records::default() }
    }

    fn push(&mut self, record: Record) {
        self.keys.append_option(record.key);
        self.at.push(record.at.0);
        self.ranks.push(record.rank);
        self.ties.push(record.tie);
        self.feeds.push(record.feed);
        self.bytes.append_value(record.bytes);
    }

    fn finish(mut self) -> PyResult<RecordBatch> {
        let keys: BinaryArray = self.keys.finish();
        let columns: Vec<(&str, ArrayRef, bool)> = vec![
            ("key", shared(keys), true),
            ("at", shared(Int64Array::from(self.at)), false),
            ("rank", shared(Int32Array::from(self.ranks)), false),
            ("tie", shared(Int64Array::from(self.ties)), true),
            ("feed", shared(Int32Array::from(self.feeds)), false),
            ("record", shared(self.bytes.finish()), false),
        ];
        batch(columns)
    }
}

/// A row as its record has it.
struct Told {
    deleted: bool,
    time: EventTime,
    row: Vec<Value>,
}

fn encode(time: EventTime, row: &[Value], out: &mut Vec<u8>) {
    out.extend_from_slice(&time.0.to_le_bytes());
    out.extend_from_slice(&(row.len() as u32).to_le_bytes());
    row.iter().for_each(|value| encode_value(value, out));
}

fn decode(bytes: &[u8]) -> Result<Told, RecordError> {
    let mut cursor = Cursor::new(bytes);
    if cursor.u8()? != FORMAT {
        return Err(RecordError { detail: "it was made by another version of kilter".into() });
    }
    let deleted = cursor.u8()? == 1;
    let time = EventTime(cursor.i64()?);
    let row = (0..cursor.u32()?).map(|_| cursor.value()).collect::<Result<_, _>>()?;
    Ok(Told { deleted, time, row })
}

fn event(source: SourceId, told: Told) -> Event {
    let operation = if told.deleted { Operation::Delete } else { Operation::Upsert };
    let (time, row) = (told.time, told.row);
    Event { source, offset: 0, time, arrived: time, id: None, operation, row, extra: None, origin: None }
}

/// The values of a view, behind those of others.
fn put_piece(view: usize, values: &[Value], out: &mut Vec<u8>) {
    out.extend_from_slice(&(view as u32).to_le_bytes());
    out.extend_from_slice(&(values.len() as u32).to_le_bytes());
    values.iter().for_each(|value| encode_value(value, out));
}

fn each_piece(bytes: &[u8], mut give: impl FnMut(usize, Vec<Value>)) -> Result<(), RecordError> {
    let mut cursor = Cursor::new(bytes);
    while !cursor.rest.is_empty() {
        let view = cursor.u32()? as usize;
        let values = (0..cursor.u32()?).map(|_| cursor.value()).collect::<Result<_, _>>()?;
        give(view, values);
    }
    Ok(())
}

fn integers<'a>(records: &'a RecordBatch, name: &str) -> PyResult<&'a Int32Array> {
    column(records, name)?.as_primitive_opt::<Int32Type>().ok_or_else(|| PyValueError::new_err(format!("column `{name}` holds no int32")))
}

fn damaged(error: RecordError) -> PyErr {
    PyValueError::new_err(format!("a record between two passes is damaged: {}", error.detail))
}
