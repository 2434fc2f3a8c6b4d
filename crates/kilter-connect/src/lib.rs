//! From bytes to typed rows, and nothing dropped in silence.
//!
//! [`decode_body`] reads what a client sends (JSON, NDJSON, CSV), [`open`] reads files (also Parquet), [`Merge`] interleaves several files by
//! event time. Every row comes out either [`Decoded`] or as a [`Rejection`] that says which field is wrong and how to mend it.
//! [`decode_object`] reads a decision request by the same rules and reports all of its problems at once.

mod body;
mod codecs;
mod encode;
mod error;
mod files;
mod format;
mod merge;
mod moment;
mod typed;

pub use body::decode_body;
pub use codecs::json::{Object, decode_object};
pub use encode::row_to_json;
pub use error::{ConnectError, FieldProblem, Rejection};
pub use files::{FileFormat, FileReader, Total, open};
pub use format::{Decoded, EVENT_ID_FIELD, IdOf, Limits, RowFormat, TimeFunction, TimeOf, UnknownFields};
pub use merge::Merge;
