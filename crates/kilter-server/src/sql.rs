//! Questions in SQL: what the program hands over where it can answer them ([`crate::ServeOptions::sql`]). The routes are `routes/sql.rs`.

use std::fmt::Debug;
use std::pin::Pin;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::access::Sight;

/// Bytes of the rows of an answer that is one JSON object.
pub const ROW_BYTES: usize = 32 << 20;

/// What an engine gives in a while.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// Answers questions about what a project keeps.
pub trait Sql: Debug + Send + Sync {
    /// The tables under the definitions in force that somebody may see.
    fn tables(&self, sight: Sight) -> Later<'_, Vec<Table>>;

    /// Understands a question and begins to answer it.
    fn ask(&self, question: Question) -> Later<'_, Box<dyn Answer>>;
}

/// An answer as it comes. Dropped, the question ends.
pub trait Answer: Send {
    fn columns(&self) -> &[Column];

    /// The next bytes, in the form asked for; none: that was all. Of [`Form::Arrays`] it may break off, even in the middle of a row, beyond [`ROW_BYTES`].
    fn next(&mut self) -> Later<'_, Option<Vec<u8>>>;
}

/// What is asked, and how it is to be told.
#[derive(Clone, Debug)]
pub struct Question {
    pub text: String,
    pub form: Form,
    /// Rows at most.
    pub limit: Option<usize>,
    /// How long it may take, where that is less than the engine allows by itself.
    pub time: Option<Duration>,
    /// The name of the key that asks; none: no keys are wanted.
    pub user: Option<String>,
    /// What it may see.
    pub sight: Sight,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A JSON array a line: numbers, booleans, null and texts; whole numbers beyond 2^53, NaN and infinities as texts, times by RFC 3339.
    Arrays,
    Csv,
    /// A JSON object a line.
    Ndjson,
    /// Arrow's stream of record batches.
    Arrow,
}

/// A table that can be asked for.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = SqlTable)]
pub struct Table {
    #[schema(example = "public")]
    pub schema: String,
    #[schema(example = "decisions")]
    pub name: String,
    pub comment: String,
    pub columns: Vec<Described>,
}

/// A column of a table.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = SqlTableColumn)]
pub struct Described {
    #[schema(example = "score")]
    pub name: String,
    /// As PostgreSQL calls it.
    #[serde(rename = "type")]
    #[schema(example = "float8")]
    pub data_type: String,
    pub comment: String,
}

/// A column of an answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = SqlColumn)]
pub struct Column {
    #[schema(example = "score")]
    pub name: String,
    /// As PostgreSQL calls it.
    #[serde(rename = "type")]
    #[schema(example = "float8")]
    pub data_type: String,
}

/// Why a question is not answered.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// As PostgreSQL's list of error codes has it.
    pub sqlstate: &'static str,
    pub message: String,
    pub hint: Option<String>,
    /// Where in the text, counted in characters from 1.
    pub position: Option<u32>,
}
