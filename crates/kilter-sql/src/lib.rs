//! What a project keeps, in SQL: events, decisions with their reasons, runs, models, alerts and the rest as tables, read only.
//!
//! [`Engine`] answers questions, by DataFusion and within limits; [`wire`] serves them to whatever speaks PostgreSQL's protocol, [`flight`] to whatever speaks
//! Arrow Flight SQL.

mod answer;
mod catalogue;
mod command;
mod door;
mod encode;
mod engine;
mod error;
pub mod flight;
mod functions;
mod listen;
mod output;
mod partials;
mod prepared;
mod rights;
mod scan;
mod sealed;
mod session;
mod size;
mod stretches;
mod tables;
mod utc;
pub mod wire;
mod work;
mod worlds;

pub use answer::Answer;
pub use datafusion::arrow::record_batch::RecordBatch as Batch;
pub use door::tls;
pub use engine::{Described, Engine, Limits};
pub use error::SqlError;
pub use output::{Format, Writer, arrays};
pub use prepared::Prepared;
pub use rights::{Grant, Rights};
pub use scan::{Bounds, Wanted};
pub use session::Session;
pub use tables::{Cell, Column, Kind, Placed, Rows};
