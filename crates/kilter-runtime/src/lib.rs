//! A project in operation: definitions loaded, events put in order and taken through the pipeline by one thread, jobs run,
//! state recovered.
//!
//! [`project::load`] reads the definitions, [`Service::start`] runs them.

pub mod as_seen;
pub mod audit;
pub mod backfill;
mod catalog;
pub mod changes;
mod data;
mod dedupe;
pub mod door;
pub mod eras;
pub mod erase;
pub mod feature_service;
pub mod files;
pub mod history;
pub mod incoming;
pub mod jobs;
pub mod journal;
pub mod lake;
pub mod project;
mod schedule;
mod sequencer;
mod service;
pub mod shards;
pub mod sources;
mod status;
mod tiers;
pub mod watch;

pub use catalog::{CATALOG_FILE, Control, Decoder, Record};
pub use data::Data;
pub use kilter_connect::TableFormat;
pub use kilter_features::Look;
pub use kilter_learn::exchange::Format as ModelFormat;
pub use kilter_learn::metrics::{Evaluation, RegressionEvaluation};
pub use sequencer::{CHUNK_ROWS, Decided, FeatureRead, FeatureRows, Positions, Refusal, TrainListener};
pub use service::{Enqueued, IngestReport, Recorded, Service, ServiceError, StartOptions, SystemClock, next_tick};
pub use status::{Latency, PartitionStatus, Percentiles, Readings, SinkStatus, Status, StreamCounts};
