//! From bytes to typed rows, and nothing dropped in silence.
//!
//! [`decode_body`] reads what a client sends (JSON, NDJSON, CSV), [`open`] reads files (also Parquet), [`Merge`] interleaves several files by
//! event time. Every row comes out either [`Decoded`] or as a [`Rejection`] that says which field is wrong and how to mend it.
//! [`decode_object`] reads a decision request by the same rules and reports all of its problems at once. [`TableWriter`] writes typed rows
//! to Parquet, CSV and NDJSON files.

mod body;
mod codecs;
mod columns;
mod encode;
mod error;
mod files;
mod format;
mod merge;
mod moment;
mod operation;
mod parts;
mod typed;
mod write;

pub use body::{Body, decode_body, decode_message};
pub use codecs::json::{Object, decode_object};
pub use columns::columns_of;
pub use encode::row_to_json;
pub use error::{ConnectError, FieldProblem, Rejection, base64};
pub use files::{FileFormat, FileReader, Total, open};
pub use format::{Decoded, EVENT_ID_FIELD, IdOf, Limits, OperationOf, RowFormat, TimeFunction, TimeOf, UnknownFields};
pub use merge::Merge;
pub use parts::parts;
pub use write::{ArrowRows, TableFormat, TableWriter};
