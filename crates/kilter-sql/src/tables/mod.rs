//! Tables: what a project keeps, as rows of typed columns.
//!
//! A table is a list of columns and a way to go through its rows ([`Rows`]); the rest, pushing down what a query asks for and making record batches, is the
//! same for all of them ([`crate::scan`]).

mod columns;
mod decisions;
mod definitions;
mod events;
mod features;
mod labels;
mod metadata;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::{ControlFlow, Range, RangeInclusive};
use std::sync::Arc;

use datafusion::arrow::array::TimestampMicrosecondBuilder;
use datafusion::arrow::array::{ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch, RecordBatchOptions, StringBuilder};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::TableFunctionImpl;
use kilter_runtime::Service;

use crate::rights::Veil;
use crate::scan::{Bounds, Emit, Wanted};
use crate::stretches::{Piece, Stretches};

/// Key of the words on a table or column in the metadata of its schema.
pub const COMMENT: &str = "comment";
/// Rows of one record batch.
pub const BATCH: usize = 4096;
/// Texts of one record batch, about; fewer rows are in it where they are long.
pub const BATCH_BYTES: usize = 8 << 20;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int,
    Float,
    Text,
    Time,
}

impl Kind {
    fn arrow(self) -> DataType {
        match self {
            Kind::Bool => DataType::Boolean,
            Kind::Int => DataType::Int64,
            Kind::Float => DataType::Float64,
            Kind::Text => DataType::Utf8,
            Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }
}

/// One value on its way into a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    /// Microseconds UTC.
    Time(i64),
}

impl<'a> Cell<'a> {
    pub fn text(text: &'a str) -> Cell<'a> {
        Cell::Text(Cow::Borrowed(text))
    }

    pub fn owned(text: String) -> Cell<'a> {
        Cell::Text(Cow::Owned(text))
    }

    /// Null where there is nothing.
    pub fn of<T>(value: Option<T>, cell: impl FnOnce(T) -> Cell<'a>) -> Cell<'a> {
        value.map_or(Cell::Null, cell)
    }
}

type Get<R> = Box<dyn for<'a> Fn(&'a R) -> Cell<'a> + Send + Sync>;

/// A column of a table whose rows are `R`.
pub struct Column<R> {
    name: String,
    kind: Kind,
    comment: String,
    get: Get<R>,
}

impl<R> Column<R> {
    pub fn new(
        name: impl Into<String>,
        kind: Kind,
        comment: impl Into<String>,
        get: impl for<'a> Fn(&'a R) -> Cell<'a> + Send + Sync + 'static,
    ) -> Column<R> {
        Column { name: name.into(), kind, comment: comment.into(), get: Box::new(get) }
    }
}

/// Goes through the rows of a table, newest first where they have a time.
pub type Rows<R> = Box<dyn Fn(&Wanted, &mut dyn FnMut(R) -> ControlFlow<()>) -> anyhow::Result<()> + Send + Sync>;

/// What a table is to a query.
pub trait Table: Send + Sync {
    fn schema(&self) -> &SchemaRef;
    /// Columns by which a scan can pass over rows.
    fn narrows(&self, column: &str) -> bool;
    /// The log that its rows come from, record by record.
    fn log(&self) -> Option<&Log> {
        None
    }
    /// Hands the rows on as batches of the columns wanted, until told to stop.
    fn scan(&self, wanted: &Wanted, emit: Emit<'_>) -> anyhow::Result<()>;
    /// Writes down some of what makes scans fast; false: there is nothing left to do.
    fn keep(&self) -> anyhow::Result<bool> {
        Ok(false)
    }
}

/// A log that rows come from. A row is made of one record, at a time that is in a column and never null.
pub struct Log {
    /// Tells apart tables over one log: of one name, the same records give the same rows.
    pub name: String,
    /// The column of the time.
    pub time: &'static str,
    pub stretches: Arc<Stretches>,
    reach: Arc<dyn Fn() -> anyhow::Result<Reach> + Send + Sync>,
    /// The events that a query asks for.
    offsets: fn(&Bounds) -> RangeInclusive<i64>,
}

/// How far a log reaches.
pub struct Reach {
    pub records: Range<u64>,
    /// The first record that stays where it is; those before it may go, since they are kept for a time only.
    pub firm: u64,
}

impl Log {
    /// The same log under another name, for a table that gives other rows of the same records.
    pub fn under(&self, name: String) -> Log {
        Log { name, time: self.time, stretches: Arc::clone(&self.stretches), reach: Arc::clone(&self.reach), offsets: self.offsets }
    }

    /// The pieces among these records that may hold rows asked for, newest first.
    pub fn pieces(&self, bounds: &Bounds, records: &Range<u64>) -> anyhow::Result<Vec<Piece>> {
        let reach = (self.reach)()?;
        let records = records.start.max(reach.records.start)..records.end.min(reach.records.end);
        Ok(self.stretches.pieces(records, reach.firm, &bounds.range(self.time), &(self.offsets)(bounds)))
    }
}

/// A table by its columns.
struct Listed<R> {
    schema: SchemaRef,
    columns: Vec<Column<R>>,
    narrows: Vec<&'static str>,
    log: Option<Log>,
    rows: Rows<R>,
}

impl<R: 'static> Listed<R> {
    #[expect(clippy::new_ret_no_self, reason = "a table is known by what it can do")]
    fn new(comment: impl Into<String>, columns: Vec<Column<R>>, narrows: Vec<&'static str>, rows: Rows<R>) -> Arc<dyn Table> {
        Arc::new(Listed::of(comment, columns, narrows, None, rows))
    }

    /// A table whose rows come from a log.
    fn of_log(comment: impl Into<String>, columns: Vec<Column<R>>, narrows: Vec<&'static str>, log: Log, rows: Rows<R>) -> Arc<dyn Table> {
        Arc::new(Listed::of(comment, columns, narrows, Some(log), rows))
    }

    fn of(comment: impl Into<String>, columns: Vec<Column<R>>, narrows: Vec<&'static str>, log: Option<Log>, rows: Rows<R>) -> Listed<R> {
        let fields: Vec<Field> = columns
            .iter()
            .map(|column| {
                let words = HashMap::from([(COMMENT.to_owned(), column.comment.clone())]);
                Field::new(&column.name, column.kind.arrow(), true).with_metadata(words)
            })
            .collect();
        let schema = Schema::new(fields).with_metadata(HashMap::from([(COMMENT.to_owned(), comment.into())]));
        Listed { schema: Arc::new(schema), columns, narrows, log, rows }
    }
}

impl<R: 'static> Table for Listed<R> {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn narrows(&self, column: &str) -> bool {
        self.narrows.contains(&column)
    }

    fn log(&self) -> Option<&Log> {
        self.log.as_ref()
    }

    fn scan(&self, wanted: &Wanted, emit: Emit<'_>) -> anyhow::Result<()> {
        let columns: Vec<&Column<R>> = wanted.columns.iter().map(|c| &self.columns[*c]).collect();
        let mut builders: Vec<Builder> = columns.iter().map(|column| Builder::new(column.kind)).collect();
        let schema = Arc::new(self.schema.project(&wanted.columns)?);
        let (mut held, mut bytes, mut left) = (0, 0, wanted.limit.unwrap_or(usize::MAX));
        let mut failed = None;
        let mut flush = |builders: &mut [Builder], rows: usize| {
            let arrays = builders.iter_mut().map(Builder::finish).collect();
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            match RecordBatch::try_new_with_options(Arc::clone(&schema), arrays, &options) {
                Ok(batch) => emit(batch),
                Err(e) => {
                    failed = Some(e);
                    ControlFlow::Break(())
                }
            }
        };
        if left > 0 {
            (self.rows)(wanted, &mut |row| {
                for (builder, column) in builders.iter_mut().zip(&columns) {
                    let cell = (column.get)(&row);
                    bytes += if let Cell::Text(text) = &cell { text.len() } else { 0 };
                    builder.push(cell);
                }
                held += 1;
                left -= 1;
                if held == BATCH || bytes >= BATCH_BYTES || left == 0 {
                    bytes = 0;
                    flush(&mut builders, std::mem::take(&mut held))?;
                }
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
        }
        if held > 0 {
            let _ = flush(&mut builders, held);
        }
        failed.map_or(Ok(()), |e| Err(e.into()))
    }
}

impl<R> fmt::Debug for Listed<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listed").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// A column of a batch in the making.
enum Builder {
    Bool(BooleanBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Text(StringBuilder),
    Time(TimestampMicrosecondBuilder),
}

impl Builder {
    fn new(kind: Kind) -> Builder {
        match kind {
            Kind::Bool => Builder::Bool(BooleanBuilder::new()),
            Kind::Int => Builder::Int(Int64Builder::new()),
            Kind::Float => Builder::Float(Float64Builder::new()),
            Kind::Text => Builder::Text(StringBuilder::new()),
            Kind::Time => Builder::Time(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
        }
    }

    /// A cell of another type than the column's, which an old record may hold, is null.
    fn push(&mut self, cell: Cell<'_>) {
        match (self, cell) {
            (Builder::Bool(b), Cell::Bool(x)) => b.append_value(x),
            (Builder::Int(b), Cell::Int(x)) => b.append_value(x),
            (Builder::Float(b), Cell::Float(x)) => b.append_value(x),
            (Builder::Float(b), Cell::Int(x)) => b.append_value(x as f64),
            (Builder::Text(b), Cell::Text(x)) => b.append_value(x),
            (Builder::Time(b), Cell::Time(x)) => b.append_value(x),
            (Builder::Bool(b), _) => b.append_null(),
            (Builder::Int(b), _) => b.append_null(),
            (Builder::Float(b), _) => b.append_null(),
            (Builder::Text(b), _) => b.append_null(),
            (Builder::Time(b), _) => b.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Builder::Bool(b) => Arc::new(b.finish()),
            Builder::Int(b) => Arc::new(b.finish()),
            Builder::Float(b) => Arc::new(b.finish()),
            Builder::Text(b) => Arc::new(b.finish()),
            Builder::Time(b) => Arc::new(b.finish()),
        }
    }
}

/// The schemas, in the order in which names without one are looked for.
pub const SEARCH_PATH: [&str; 2] = ["public", "events"];

/// A table with its place.
#[derive(Clone)]
pub struct Placed {
    pub(crate) schema: &'static str,
    pub(crate) name: String,
    pub(crate) table: Arc<dyn Table>,
}

impl Placed {
    /// A table by its columns and a way to go through its rows; `narrows`: the columns by which that can pass over rows. Its schema is one of those that the
    /// catalogue has.
    pub fn new<R: 'static>(
        schema: &'static str,
        name: impl Into<String>,
        comment: impl Into<String>,
        columns: Vec<Column<R>>,
        narrows: &'static [&'static str],
        rows: Rows<R>,
    ) -> Placed {
        Placed { schema, name: name.into(), table: Listed::new(comment, columns, narrows.to_vec(), rows) }
    }
}

/// What the log's stretches hold, kept over changes of definitions.
#[derive(Default)]
pub struct Remembered {
    pub events: Arc<Stretches>,
    pub decisions: Arc<Stretches>,
    pub(crate) columns: Arc<columns::Files>,
}

/// All tables of a project under the definitions of `service`.
pub fn all(service: &Arc<Service>, remembered: &Remembered) -> Vec<Placed> {
    let public = |(name, table): (&str, Arc<dyn Table>)| Placed { schema: "public", name: name.to_owned(), table };
    let mut placed: Vec<Placed> = decisions::tables(service, remembered).into_iter().map(public).collect();
    placed.push(public(labels::table(service, &remembered.events)));
    placed.extend(metadata::tables(service).into_iter().map(public));
    placed.extend(definitions::tables(service).into_iter().map(public));
    placed.extend(events::tables(service, &remembered.events));
    placed.extend(features::tables(service));
    placed
}

/// Functions that give tables, by name. `views`: of which views they tell, and what of each; none: of all, and everything.
pub fn functions(service: &Arc<Service>, views: Option<BTreeMap<String, Veil>>) -> Vec<(&'static str, Arc<dyn TableFunctionImpl>)> {
    match views {
        // What can tell of nothing is not there.
        Some(views) if views.is_empty() => Vec::new(),
        views => vec![("features_at", Arc::new(features::At { service: Arc::clone(service), views }))],
    }
}
