//! Sources: their columns, and how their events are to be read.

use std::path::PathBuf;
use std::sync::Arc;

use kilter_connect::{IdOf, OperationOf, RowFormat, TimeOf, UnknownFields};
use kilter_core::{DataType, Field, Problem, Schema, Span};
use kilter_features::expr::{self, Expr, Scope};
use kilter_pipeline::SourcePlan;

use super::super::definitions::*;
use super::super::document::At;
use super::{Resolver, is_key, prefixed, type_name};

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
    /// Columns of the primary key, where events tell the changes of a table's rows.
    pub key: Vec<usize>,
    pub operation: OperationOf,
    /// Columns that may not be null.
    pub required: Vec<usize>,
    pub unknown: Unknown,
    pub max_future: Option<Span>,
    /// Nothing for this long: the source is idle; none: it never is.
    pub idle_after: Option<Span>,
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
            key: self.key.clone(),
            operation: self.operation.clone(),
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
    let schema = Schema { fields };
    let key = def.key.iter().filter_map(|column| schema.index(column)).collect();
    SourcePlan { name: name.to_owned(), schema, lateness: def.lateness, dedupe: def.dedupe, key }
}

pub(super) fn settings(resolver: &Resolver<'_>, name: &str, def: &SourceDef) -> SourceSettings {
    let SourcePlan { schema, key, .. } = plan(name, def);
    let time = time(resolver, name, def, &schema).unwrap_or(SourceTime::Arrival);
    let id = def.id.as_deref().and_then(|column| id(resolver, name, column, &schema));
    check_key(resolver, name, def, &schema);
    SourceSettings {
        name: name.to_owned(),
        connector: def.connector,
        path: def.path.as_ref().map(PathBuf::from),
        format: def.format.and_then(SourceFormat::file),
        time,
        time_text: def.time.clone(),
        id,
        required: def.columns.iter().enumerate().filter(|(i, (_, c))| c.required || key.contains(i)).map(|(i, _)| i).collect(),
        operation: operation(resolver, name, def, &schema),
        key,
        unknown: def.unknown,
        max_future: def.max_future,
        idle_after: def.idle_after,
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

/// Every column of the key must be there and name something, and the changes of one row must not look like one event.
fn check_key(resolver: &Resolver<'_>, name: &str, def: &SourceDef, schema: &Schema) {
    let path = format!("source.{name}.key");
    let what = format!("`key` of source \"{name}\"");
    for (item, column) in def.key.iter().enumerate() {
        let place = resolver.document.first_of(&[format!("{path}.{item}"), path.clone()]);
        let problem = match schema.index(column).map(|i| schema.fields[i].data_type) {
            None => Problem::unknown("unknown_column", "column", column, schema.names()),
            Some(found) if !is_key(found) => {
                let names = schema.fields.iter().filter(|f| is_key(f.data_type)).map(|f| f.name.as_str());
                Problem::new("wrong_type", format!("`{column}` is {}, which names no row", type_name(Some(found))))
                    .hint(format!("columns that name something: {}", kilter_core::list(names)))
            }
            Some(_) if def.key[..item].contains(column) => {
                Problem::new("duplicate", format!("`{column}` is named twice")).hint("name each column once")
            }
            Some(_) => continue,
        };
        resolver.document.error(At::Value(&place), prefixed(&what, problem));
    }
    if let (Some(id), [key]) = (&def.id, def.key.as_slice())
        && id == key
    {
        let path = format!("source.{name}.id");
        let problem = Problem::new(
            "misplaced",
            format!("`{id}` is the `key` of source \"{name}\": the second change of a row would be taken for a repetition of the first"),
        );
        resolver.document.error(At::Value(&path), problem.hint("leave `id` out, or name a column that is different in every change"));
    }
}

fn operation(resolver: &Resolver<'_>, name: &str, def: &SourceDef, schema: &Schema) -> OperationOf {
    let path = format!("source.{name}.operation");
    match (&def.operation, def.envelope) {
        (_, Some(Envelope::Debezium)) => OperationOf::Debezium,
        (None, None) => OperationOf::Nothing,
        (Some(field), None) => match schema.index(field) {
            None => OperationOf::Field(field.clone()),
            Some(column) => {
                let found = schema.fields[column].data_type;
                if found != DataType::String {
                    let problem = Problem::new(
                        "wrong_type",
                        format!("`operation` of source \"{name}\" must be a string, `{field}` is {}", type_name(Some(found))),
                    );
                    resolver
                        .document
                        .error(At::Value(&path), problem.hint("its values are words such as c, u and d, or insert, update and delete"));
                }
                OperationOf::Column(column)
            }
        },
    }
}
