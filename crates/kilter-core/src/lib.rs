//! The words every other crate speaks: events, values, schemas, keys, event time.
//!
//! Pure: no IO, no clock, no async. A wall clock is handed in through [`Clock`].

mod calendar;
mod erased;
mod event;
mod key;
mod nearest;
mod problem;
pub mod record;
mod schema;
mod time;
mod value;

pub use calendar::{Calendar, Period, Unit};
pub use compact_str::CompactString;
pub use erased::Stub;
pub use event::{Event, Offset, Operation, Origin, SourceId};
pub use key::EntityKey;
pub use nearest::{list, nearest};
pub use problem::Problem;
pub use schema::{Field, Schema};
pub use time::{Clock, EventTime, Span};
pub use value::{DataType, Value};
