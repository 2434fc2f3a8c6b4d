//! Why a statement is not answered, with the code that PostgreSQL gives for it.

use std::fmt;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;

/// A statement that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    /// As PostgreSQL's list of error codes has it.
    pub code: &'static str,
    pub message: String,
    pub hint: Option<String>,
    /// Where in the text, counted in characters from 1.
    pub position: Option<u32>,
}

pub const SYNTAX: &str = "42601";
pub const UNDEFINED_TABLE: &str = "42P01";
pub const UNDEFINED_COLUMN: &str = "42703";
pub const UNDEFINED_FUNCTION: &str = "42883";
pub const UNDEFINED_CURSOR: &str = "34000";
pub const UNDEFINED_OBJECT: &str = "42704";
pub const DUPLICATE_CURSOR: &str = "42P03";
pub const UNSUPPORTED: &str = "0A000";
pub const NOT_ALLOWED: &str = "42501";
/// What is asked for is not in a state to be read.
pub const NOT_NOW: &str = "55000";
pub const READ_ONLY: &str = "25006";
pub const CANCELED: &str = "57014";
/// The statement asks for more than is answered at once.
pub const TOO_MUCH: &str = "54000";
pub const OUT_OF_MEMORY: &str = "53200";
pub const TOO_COMPLEX: &str = "54001";
pub const TOO_MANY_COLUMNS: &str = "54011";
pub const FAILED_TRANSACTION: &str = "25P02";
pub const BAD_VALUE: &str = "22P02";
pub const DIVISION_BY_ZERO: &str = "22012";
pub const BAD_STATEMENT: &str = "42000";
pub const INTERNAL: &str = "XX000";

pub type Result<T> = std::result::Result<T, SqlError>;

impl SqlError {
    pub fn new(code: &'static str, message: impl Into<String>) -> SqlError {
        SqlError { code, message: message.into(), hint: None, position: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> SqlError {
        self.hint = Some(hint.into());
        self
    }

    /// Tells the place in `sql` as a number of its own, where the parser named line and column.
    pub(crate) fn placed_in(mut self, sql: &str) -> SqlError {
        let place = self.message.rsplit_once(" at Line: ").and_then(|(message, place)| {
            let (line, column) = place.split_once(", Column: ")?;
            let before: usize =
                sql.split_inclusive('\n').take(line.parse::<usize>().ok()?.checked_sub(1)?).map(|line| line.chars().count()).sum();
            Some((message.to_owned(), u32::try_from(before + column.parse::<usize>().ok()?).ok()?))
        });
        if let Some((message, position)) = place {
            (self.message, self.position) = (message, Some(position));
        }
        self
    }

    /// A statement that would write.
    pub fn read_only(what: &str) -> SqlError {
        SqlError::new(READ_ONLY, format!("cannot execute {what} in a read-only transaction"))
            .hint("events come in by the API, files and topics, definitions by `kilter apply`; SQL only reads")
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\n  hint: {hint}"))
    }
}

impl std::error::Error for SqlError {}

impl From<ParserError> for SqlError {
    fn from(e: ParserError) -> SqlError {
        let message = match e {
            ParserError::TokenizerError(words) | ParserError::ParserError(words) => words,
            ParserError::RecursionLimitExceeded => "the statement is nested too deeply".into(),
        };
        SqlError::new(SYNTAX, format!("syntax error: {message}"))
    }
}

impl From<DataFusionError> for SqlError {
    fn from(e: DataFusionError) -> SqlError {
        let words = |e: &DataFusionError| e.strip_backtrace();
        match e.find_root() {
            DataFusionError::SQL(e, _) => SqlError::from((**e).clone()),
            DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
                SchemaError::FieldNotFound { field, valid_fields } => {
                    let valid: Vec<&str> = valid_fields.iter().map(|field| field.name.as_str()).collect();
                    let hint = match kilter_core::nearest(&field.name, valid.iter().copied()) {
                        Some(near) => Some(format!("did you mean `{near}`?")),
                        None => (!valid.is_empty()).then(|| format!("there are: {}", kilter_core::list(valid))),
                    };
                    let error = SqlError::new(UNDEFINED_COLUMN, format!("column \"{}\" does not exist", field.flat_name()));
                    SqlError { hint, ..error }
                }
                other => SqlError::new(BAD_STATEMENT, other.to_string()),
            },
            DataFusionError::Plan(message) if message.contains("Invalid function") => SqlError::new(UNDEFINED_FUNCTION, message.clone()),
            DataFusionError::Plan(message) if message.contains("not found") && message.contains("table") => {
                SqlError::new(UNDEFINED_TABLE, message.clone())
            }
            DataFusionError::Plan(message) => SqlError::new(BAD_STATEMENT, message.clone()),
            DataFusionError::NotImplemented(message) => SqlError::new(UNSUPPORTED, message.clone()),
            DataFusionError::ResourcesExhausted(message) => {
                // It tells of all statements what they take, with the names of columns.
                tracing::info!(message, "a statement needs more memory than it may have");
                SqlError::new(OUT_OF_MEMORY, "the statement needs more memory than it may have").hint(
                    "it sorts, groups or joins too much at a time, or others do beside it: ask for fewer rows or groups, or again later",
                )
            }
            DataFusionError::ArrowError(e, _) if e.to_string().contains("Divide by zero") => {
                SqlError::new(DIVISION_BY_ZERO, "division by zero")
            }
            DataFusionError::ArrowError(e, _) => SqlError::new(BAD_VALUE, e.to_string()),
            DataFusionError::External(e) => match e.downcast_ref::<SqlError>() {
                Some(own) => own.clone(),
                None => SqlError::new(INTERNAL, format!("{e:#}")),
            },
            other => SqlError::new(INTERNAL, words(other)),
        }
    }
}

impl From<anyhow::Error> for SqlError {
    fn from(e: anyhow::Error) -> SqlError {
        SqlError::new(INTERNAL, format!("{e:#}"))
    }
}
