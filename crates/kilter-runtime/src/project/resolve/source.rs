//! Sources: their columns, and how their events are to be read.

use std::path::PathBuf;
use std::sync::Arc;

use kilter_connect::{IdOf, RowFormat, TimeOf, UnknownFields};
use kilter_core::{DataType, Field, Problem, Schema, Span};
use kilter_features::expr::{self, Expr, Scope};
use kilter_pipeline::SourcePlan;

use super::super::definitions::*;
use super::super::document::At;
use super::{Resolver, prefixed, type_name};

/// How the events of one source are fetched and read; what the pipeline does not need to know.
#[derive(Clone, Debug)]
pub struct SourceSettings {
    pub name: String,
    pub connector: Connector,
    /// The file, relative to the project's folder unless absolute; with the connector `file`.
    pub path: Option<PathBuf>,
    pub format: Option<FileFormat>,
    pub time: SourceTime,
    /// The column's name, the expression's text or "arrival".
    pub time_text: String,
    /// Column of the event id.
    pub id: Option<usize>,
    /// Columns that may not be null.
    pub required: Vec<usize>,
    pub unknown: Unknown,
    pub max_future: Option<Span>,
}

/// Where the time of an event comes from.
#[derive(Clone, Debug)]
pub enum SourceTime {
    /// A timestamp column.
    Column(usize),
    /// Over the columns of the row: a timestamp, or an integer since 1970.
    Expr(Expr),
    /// The moment the event arrives.
    Arrival,
}

impl SourceSettings {
    /// The form of the file, as its reader names it; none: the source does not read one.
    pub fn file_format(&self) -> Option<kilter_connect::FileFormat> {
        Some(match self.format? {
            FileFormat::Parquet => kilter_connect::FileFormat::Parquet,
            FileFormat::Csv => kilter_connect::FileFormat::Csv,
            FileFormat::Ndjson => kilter_connect::FileFormat::Ndjson,
            FileFormat::Json => kilter_connect::FileFormat::Json,
        })
    }

    /// How the rows of this source are read at the door.
    pub fn row_format(&self, schema: &Schema) -> RowFormat {
        RowFormat {
            source: self.name.clone(),
            schema: schema.clone(),
            time: match &self.time {
                SourceTime::Column(column) => TimeOf::Column(*column),
                SourceTime::Arrival => TimeOf::Arrival,
                SourceTime::Expr(expr) => {
                    let expr = expr.clone();
                    TimeOf::Function(Arc::new(move |row| expr.eval(row)))
                }
            },
            time_name: self.time_text.clone(),
            id: self.id.map_or(IdOf::Reserved, IdOf::Column),
            required: self.required.clone(),
            unknown: match self.unknown {
                Unknown::Keep => UnknownFields::Keep,
                Unknown::Ignore => UnknownFields::Ignore,
                Unknown::Reject => UnknownFields::Reject,
            },
            max_future: self.max_future,
        }
    }
}

pub(super) fn plan(name: &str, def: &SourceDef) -> SourcePlan {
    let fields = def.columns.iter().map(|(name, column)| Field { name: name.to_owned(), data_type: column.data_type }).collect();
    SourcePlan { name: name.to_owned(), schema: Schema { fields }, lateness: def.lateness, dedupe: def.dedupe }
}

pub(super) fn settings(resolver: &Resolver<'_>, name: &str, def: &SourceDef) -> SourceSettings {
    let schema = plan(name, def).schema;
    let time = time(resolver, name, def, &schema).unwrap_or(SourceTime::Arrival);
    let id = def.id.as_deref().and_then(|column| id(resolver, name, column, &schema));
    SourceSettings {
        name: name.to_owned(),
        connector: def.connector,
        path: def.path.as_ref().map(PathBuf::from),
        format: def.format,
        time,
        time_text: def.time.clone(),
        id,
        required: def.columns.iter().enumerate().filter(|(_, (_, c))| c.required).map(|(i, _)| i).collect(),
        unknown: def.unknown,
        max_future: def.max_future,
    }
}

fn time(resolver: &Resolver<'_>, name: &str, def: &SourceDef, schema: &Schema) -> Option<SourceTime> {
    let path = format!("source.{name}.time");
    let what = format!("`time` of source \"{name}\"");
    let text = def.time.trim();
    if text == "arrival" && schema.index(text).is_none() {
        return Some(SourceTime::Arrival);
    }
    let mut scope = Scope::new();
    for field in &schema.fields {
        scope.add(None, &field.name, field.data_type);
    }
    let expr = match expr::compile(&def.time, &scope) {
        Ok(expr) => expr,
        Err(problem) => {
            resolver.text_problem(&path, &what, Some(&def.time), problem);
            return None;
        }
    };
    match (expr.data_type(), expr.as_slot()) {
        (Some(DataType::Timestamp), Some(column)) => Some(SourceTime::Column(column)),
        (Some(DataType::Timestamp | DataType::Int64), _) => Some(SourceTime::Expr(expr)),
        (found, _) => {
            let times: Vec<&str> = schema.fields.iter().filter(|f| f.data_type == DataType::Timestamp).map(|f| f.name.as_str()).collect();
            let hint = match times.as_slice() {
                [] => "declare the column as \"timestamp\": RFC 3339 texts and numbers since 1970 are both read".to_owned(),
                some => format!("timestamp columns here: {}", kilter_core::list(some.iter().copied())),
            };
            let problem = Problem::new("wrong_type", format!("the event time must be a timestamp, this is {}", type_name(found)));
            resolver.text_problem(&path, &what, Some(&def.time), problem.hint(hint));
            None
        }
    }
}

fn id(resolver: &Resolver<'_>, name: &str, column: &str, schema: &Schema) -> Option<usize> {
    let path = format!("source.{name}.id");
    let what = format!("`id` of source \"{name}\"");
    let Some(position) = schema.index(column) else {
        resolver.document.error(At::Value(&path), prefixed(&what, Problem::unknown("unknown_column", "column", column, schema.names())));
        return None;
    };
    let data_type = schema.fields[position].data_type;
    if !matches!(data_type, DataType::String | DataType::Int64) {
        let problem =
            Problem::new("wrong_type", format!("{what} must be a string or an int64, `{column}` is {}", type_name(Some(data_type))));
        resolver.document.error(At::Value(&path), problem.hint("an id is a text or a whole number that no other event has"));
    }
    Some(position)
}
