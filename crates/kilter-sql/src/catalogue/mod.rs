//! PostgreSQL's catalogue, which clients ask for what there is: `pg_catalog` and `information_schema` as tables in SQLite.
//!
//! What clients ask there is deeply nested and correlated, over tables of a few hundred rows, and never about the data itself. DataFusion turns many such
//! questions away; SQLite answers them all, once they are in its words ([`translate`]).

mod facts;
mod functions;
mod tables;
mod translate;
mod types;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch, RecordBatchOptions, StringBuilder,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::Statement;
use pgwire::api::Type;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::Value;

use crate::error::{
    BAD_STATEMENT, CANCELED, OUT_OF_MEMORY, Result, SqlError, UNDEFINED_COLUMN, UNDEFINED_FUNCTION, UNDEFINED_TABLE, UNSUPPORTED,
};
use crate::session;
use crate::work::Stop;
use facts::Facts;
pub use facts::SCHEMAS;
pub use types::of_cast;

/// Rows of one answer at most.
const MOST_ROWS: usize = 100_000;
/// Bytes of them.
const MOST_BYTES: usize = 64 << 20;
/// Bytes of one value.
const LONGEST: i32 = 1 << 20;
/// Bytes that all of SQLite may take in this process: the last bound on what questions sort and join. What else uses it here needs some megabytes.
const HEAP: i64 = 1 << 30;
/// Above this questions end, so that the rest is there for others.
const LEFT: i64 = HEAP / 2;
/// Steps of SQLite between two looks at whether somebody still waits, and there is memory: some values of the longest.
const STEPS: i32 = 500;

/// The catalogue under one set of definitions.
pub struct Catalogue {
    database: String,
    /// Connections that nobody uses at the moment, each with tables of its own.
    idle: Mutex<Vec<Connection>>,
    facts: Arc<Facts>,
    /// Types of the columns of all its tables, by name.
    columns: HashMap<String, &'static str>,
}

/// A question in SQLite's words.
pub struct Question {
    sql: String,
    columns: Vec<Column>,
    pub parameters: Vec<Type>,
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    pub data_type: Type,
}

/// A value of an answer: whatever SQLite has of the column's type. Arrays are JSON.
pub type Row = Vec<Value>;

impl Catalogue {
    pub fn new(database: &str, placed: &[crate::tables::Placed]) -> Result<Catalogue> {
        let facts = Arc::new(Facts::new(placed, tables::oids()));
        let columns = tables::column_types();
        let catalogue = Catalogue { database: database.to_owned(), idle: Mutex::default(), facts, columns };
        let first = catalogue.connect()?;
        catalogue.idle().push(first);
        Ok(catalogue)
    }

    fn connect(&self) -> Result<Connection> {
        let db = Connection::open_in_memory().map_err(failed)?;
        tables::fill(&db, &self.facts, &self.database).map_err(failed)?;
        functions::register(&db, &self.facts).map_err(failed)?;
        // From here on whatever asks is somebody else's: nothing may be attached, no text stands for a column, and nothing becomes large.
        for config in [DbConfig::SQLITE_DBCONFIG_DQS_DML, DbConfig::SQLITE_DBCONFIG_DQS_DDL] {
            db.set_db_config(config, false).map_err(failed)?;
        }
        db.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST).map_err(failed)?;
        // Nothing goes out to the disk, where others have their data.
        db.pragma_update(None, "temp_store", "memory").map_err(failed)?;
        db.pragma_update(None, "hard_heap_limit", HEAP).map_err(failed)?;
        db.pragma_update(None, "query_only", true).map_err(failed)?;
        db.authorizer(Some(only_reads)).map_err(failed)?;
        Ok(db)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks on a connection that nobody else uses, until it is told to stop.
    fn with<T>(&self, stop: &Stop, ask: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let idle = self.idle().pop();
        let db = match idle {
            Some(db) => db,
            None => self.connect()?,
        };
        let told = stop.clone();
        db.progress_handler(STEPS, Some(move || told.is_told() || is_scarce())).map_err(failed)?;
        let asked = ask(&db).map_err(|e| match e.code {
            CANCELED if !stop.is_told() => {
                SqlError::new(OUT_OF_MEMORY, "questions about the catalogue need more memory than they may have")
            }
            _ => e,
        });
        db.progress_handler(0, None::<fn() -> bool>).map_err(failed)?;
        self.idle().push(db);
        asked
    }

    /// Whether a statement is about the catalogue.
    pub fn is_asked(statement: &mut Statement) -> bool {
        let relations = session::relations(statement);
        let of_catalogue = |relation: &Vec<String>| match relation.as_slice() {
            [name] => name.starts_with("pg_") && tables::is_known(name),
            [.., schema, _] => schema == "pg_catalog" || schema == "information_schema",
            [] => false,
        };
        match relations.is_empty() {
            true => translate::is_about_catalogue(statement),
            false => relations.iter().any(of_catalogue),
        }
    }

    /// Translates a question.
    ///
    /// # Errors
    /// When SQLite cannot make sense of it.
    pub fn question(&self, mut statement: Statement, stop: &Stop) -> Result<Question> {
        for relation in session::relations(&mut statement) {
            self.must_have(&relation)?;
        }
        let (output, parameters) = translate::translate(&mut statement, &self.columns);
        let sql = statement.to_string();
        let columns = self.with(stop, |db| {
            let prepared = db.prepare(&sql).map_err(|e| asked(&e, &sql))?;
            let column = |(i, column): (usize, &rusqlite::Column<'_>)| {
                let told = output.get(i).cloned().flatten();
                let name = column.decl_type().map(str::to_lowercase).or(told);
                Column { name: column.name().to_owned(), data_type: name.as_deref().and_then(of_cast).unwrap_or(Type::TEXT) }
            };
            Ok(prepared.columns().iter().enumerate().map(column).collect())
        })?;
        Ok(Question { columns, sql, parameters })
    }

    /// Refuses what is no table of the catalogue: SQLite has tables of its own, which are nobody's business.
    fn must_have(&self, relation: &[String]) -> Result<()> {
        let name = relation.join(".");
        let is_known = match relation {
            [name] => tables::is_known(name) || translate::is_function(name),
            [.., schema, name] if schema == "pg_catalog" => tables::is_known(name) || translate::is_function(name),
            [.., schema, name] if schema == "information_schema" => tables::is_information(name) || translate::gives_rows(name),
            _ => false,
        };
        if is_known {
            return Ok(());
        }
        match self.facts.oid("regclass", &name) {
            Some(_) => Err(SqlError::new(UNSUPPORTED, format!("\"{name}\" cannot be in one statement with tables of the catalogue"))
                .hint("ask for one after the other")),
            None => Err(SqlError::new(UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"))),
        }
    }

    /// An answer.
    ///
    /// # Errors
    /// When it is told to stop or becomes too large.
    pub fn rows(&self, question: &Question, parameters: &[ScalarValue], stop: &Stop) -> Result<RecordBatch> {
        self.with(stop, |db| question.batch(&self.rows_of(db, question, parameters)?))
    }

    fn rows_of(&self, db: &Connection, question: &Question, parameters: &[ScalarValue]) -> Result<Vec<Row>> {
        let mut prepared = db.prepare_cached(&question.sql).map_err(|e| asked(&e, &question.sql))?;
        for (i, value) in parameters.iter().enumerate() {
            if let Some(place) = prepared.parameter_index(&format!("${}", i + 1)).map_err(failed)? {
                prepared.raw_bind_parameter(place, bound(value)).map_err(failed)?;
            }
        }
        let width = question.columns.len();
        let (mut found, mut bytes) = (Vec::new(), 0);
        let mut rows = prepared.raw_query();
        while let Some(row) = rows.next().map_err(|e| asked(&e, &question.sql))? {
            let values = (0..width).map(|i| row.get::<_, Value>(i)).collect::<rusqlite::Result<Row>>().map_err(failed)?;
            bytes += values.iter().map(size).sum::<usize>();
            if found.len() == MOST_ROWS || bytes > MOST_BYTES {
                let message = format!("an answer about the catalogue has at most {MOST_ROWS} rows and {MOST_BYTES} bytes");
                return Err(SqlError::new(UNSUPPORTED, message));
            }
            found.push(question.columns.iter().zip(values).map(|(column, value)| self.told(column, value)).collect());
        }
        Ok(found)
    }

    /// Names stand for oids in columns that are of their types.
    fn told(&self, column: &Column, value: Value) -> Value {
        match (&column.data_type, value) {
            (data_type, Value::Integer(oid)) if data_type.name().starts_with("reg") => Value::Text(self.facts.name(data_type.name(), oid)),
            (_, value) => value,
        }
    }
}

/// What a question may do: SQLite's own tables and functions of tables are nobody's business, whatever a statement calls them.
fn only_reads(asked: AuthContext<'_>) -> Authorization {
    let is_ours = |table: &str| tables::is_known(table) || tables::is_information(table) || translate::is_made(table);
    match asked.action {
        AuthAction::Select | AuthAction::Recursive => Authorization::Allow,
        // Where rows are only counted, the name may be one that the statement makes itself.
        AuthAction::Read { table_name, column_name } if is_ours(table_name) || column_name.is_empty() => Authorization::Allow,
        AuthAction::Function { function_name } if !NOT_CALLED.contains(&function_name) => Authorization::Allow,
        _ => Authorization::Deny,
    }
}

/// Whether all of SQLite in this process has so much that others, who write with it, might soon have none.
fn is_scarce() -> bool {
    // SAFETY: it takes nothing, and any thread may ask at any time.
    unsafe { rusqlite::ffi::sqlite3_memory_used() > LEFT }
}

/// Functions that look outside.
const NOT_CALLED: [&str; 4] = ["load_extension", "readfile", "writefile", "fts3_tokenizer"];

fn size(value: &Value) -> usize {
    let inner = match value {
        Value::Text(text) => text.len(),
        Value::Blob(bytes) => bytes.len(),
        _ => 0,
    };
    size_of::<Value>() + inner
}

impl Question {
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// What it is as a table of Arrow.
    pub fn schema(&self) -> SchemaRef {
        let field = |column: &Column| Field::new(&column.name, arrow(&column.data_type), true);
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    pub fn batch(&self, rows: &[Row]) -> Result<RecordBatch> {
        let arrays: Vec<ArrayRef> =
            self.columns.iter().enumerate().map(|(i, column)| array(column, rows.iter().map(|row| &row[i]))).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(self.schema(), arrays, &options).map_err(|e| SqlError::new(BAD_STATEMENT, e.to_string()))
    }
}

fn arrow(data_type: &Type) -> DataType {
    match *data_type {
        Type::BOOL => DataType::Boolean,
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => DataType::Int64,
        Type::FLOAT4 | Type::FLOAT8 => DataType::Float64,
        _ => DataType::Utf8,
    }
}

fn array<'a>(column: &Column, values: impl Iterator<Item = &'a Value>) -> ArrayRef {
    match arrow(&column.data_type) {
        DataType::Boolean => {
            let mut builder = BooleanBuilder::new();
            values.for_each(|value| builder.append_option(truth(value)));
            Arc::new(builder.finish())
        }
        DataType::Int64 => {
            let mut builder = Int64Builder::new();
            values.for_each(|value| builder.append_option(whole(value)));
            Arc::new(builder.finish())
        }
        DataType::Float64 => {
            let mut builder = Float64Builder::new();
            values.for_each(|value| builder.append_option(real(value)));
            Arc::new(builder.finish())
        }
        _ => {
            let mut builder = StringBuilder::new();
            values.for_each(|value| builder.append_option(text(&column.data_type, value)));
            Arc::new(builder.finish())
        }
    }
}

pub fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Integer(n) => Some(*n != 0),
        Value::Real(x) => Some(*x != 0.0),
        Value::Text(text) => Some(matches!(text.as_str(), "t" | "true" | "1" | "YES")),
        Value::Null | Value::Blob(_) => None,
    }
}

pub fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(n) => Some(*n),
        Value::Real(x) => Some(*x as i64),
        Value::Text(text) => text.parse().ok(),
        Value::Null | Value::Blob(_) => None,
    }
}

pub fn real(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(n) => Some(*n as f64),
        Value::Real(x) => Some(*x),
        Value::Text(text) => text.parse().ok(),
        Value::Null | Value::Blob(_) => None,
    }
}

/// A value as PostgreSQL writes it.
pub fn text(data_type: &Type, value: &Value) -> Option<String> {
    let plain = match value {
        Value::Null | Value::Blob(_) => return None,
        Value::Integer(n) => n.to_string(),
        Value::Real(x) => x.to_string(),
        Value::Text(text) => text.clone(),
    };
    let name = data_type.name();
    Some(match *data_type {
        Type::BOOL => if truth(value)? { "t" } else { "f" }.to_owned(),
        Type::INT2_VECTOR | Type::OID_VECTOR => functions::items(&plain)?.iter().map(functions::words).collect::<Vec<String>>().join(" "),
        _ if name.starts_with('_') => {
            let items: Vec<String> = functions::items(&plain)?
                .iter()
                .map(|item| if item.is_null() { "NULL".into() } else { crate::encode::array_item(&functions::words(item)) })
                .collect();
            format!("{{{}}}", items.join(","))
        }
        _ => plain,
    })
}

fn bound(value: &ScalarValue) -> Value {
    if value.is_null() {
        return Value::Null;
    }
    match value {
        ScalarValue::List(list) => {
            let items = list.value(0);
            let text = |i: usize| ScalarValue::try_from_array(&items, i).ok().filter(|item| !item.is_null()).map(|item| item.to_string());
            let number = |text: String| text.parse::<i64>().map_or_else(|_| text.into(), serde_json::Value::from);
            let items = (0..items.len()).map(|i| text(i).map_or(serde_json::Value::Null, number));
            Value::Text(serde_json::Value::from_iter(items).to_string())
        }
        ScalarValue::Boolean(Some(x)) => Value::Integer(i64::from(*x)),
        ScalarValue::Float32(_) | ScalarValue::Float64(_) => value.to_string().parse().map_or(Value::Null, Value::Real),
        other => {
            let text = other.to_string();
            match other.data_type().is_integer() {
                true => text.parse().map_or(Value::Null, Value::Integer),
                false => Value::Text(text),
            }
        }
    }
}

fn failed(e: rusqlite::Error) -> SqlError {
    SqlError::new(crate::error::INTERNAL, format!("catalogue: {e}"))
}

/// What SQLite says of a question, in PostgreSQL's codes.
fn asked(e: &rusqlite::Error, sql: &str) -> SqlError {
    let words = match e {
        rusqlite::Error::SqliteFailure(_, Some(words)) => words.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    };
    tracing::debug!(sql, error = words, "a question about the catalogue was not understood");
    let code = match () {
        () if words.contains("out of memory") => OUT_OF_MEMORY,
        () if words.contains("prohibited") || words.contains("not authorized") => UNDEFINED_TABLE,
        () if words.contains("interrupted") => return SqlError::new(CANCELED, "canceling statement due to statement timeout"),
        () if words.contains("no such table") => UNDEFINED_TABLE,
        () if words.contains("no such column") => UNDEFINED_COLUMN,
        () if words.contains("no such function") => UNDEFINED_FUNCTION,
        () if words.contains("does not exist") => UNDEFINED_TABLE,
        () => BAD_STATEMENT,
    };
    SqlError::new(code, words)
}
