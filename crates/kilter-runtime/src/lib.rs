//! A project in operation: definitions loaded, events put in order and taken through the pipeline by one thread, jobs run,
//! state recovered.
//!
//! [`project::load`] reads the definitions, `Service::start` runs them. Without the feature `operation` only the definitions are read, and what is
//! asked of them turned into positions ([`spine`]): nothing that runs, stores or serves.
#![cfg_attr(not(feature = "operation"), allow(dead_code, reason = "much of what is read is for what runs"))]

#[cfg(feature = "operation")]
pub mod as_seen;
#[cfg(feature = "operation")]
pub mod audit;
#[cfg(feature = "operation")]
pub mod backfill;
#[cfg(feature = "operation")]
pub mod boot;
#[cfg(feature = "operation")]
pub mod bundle;
#[cfg(feature = "operation")]
mod catalog;
#[cfg(feature = "operation")]
pub mod changes;
#[cfg(feature = "operation")]
mod data;
#[cfg(feature = "operation")]
pub mod decision_search;
#[cfg(feature = "operation")]
mod dedupe;
#[cfg(feature = "operation")]
pub mod door;
#[cfg(feature = "operation")]
pub mod entities;
#[cfg(feature = "operation")]
pub mod eras;
#[cfg(feature = "operation")]
pub mod erase;
#[cfg(feature = "operation")]
pub mod feature_service;
#[cfg(feature = "operation")]
pub mod files;
#[cfg(feature = "operation")]
pub mod history;
#[cfg(feature = "operation")]
mod ids;
#[cfg(feature = "operation")]
mod in_step;
#[cfg(feature = "operation")]
pub mod incoming;
#[cfg(feature = "operation")]
pub mod jobs;
#[cfg(feature = "operation")]
pub mod journal;
#[cfg(feature = "operation")]
pub mod lake;
mod meaning;
#[cfg(feature = "operation")]
mod packed;
pub mod project;
#[cfg(feature = "operation")]
mod schedule;
#[cfg(feature = "operation")]
mod sequencer;
#[cfg(feature = "operation")]
mod service;
#[cfg(feature = "operation")]
pub mod shards;
#[cfg(feature = "operation")]
pub mod sources;
pub mod spine;
#[cfg(feature = "operation")]
mod status;
#[cfg(feature = "operation")]
mod tiers;
#[cfg(feature = "operation")]
pub mod watch;

#[cfg(feature = "operation")]
pub use catalog::{CATALOG_FILE, Control, Decoder, Record};
#[cfg(feature = "operation")]
pub use data::Data;
pub use kilter_connect::TableFormat;
pub use kilter_features::Look;
pub use kilter_learn::exchange::Format as ModelFormat;
pub use kilter_learn::metrics::{Evaluation, RegressionEvaluation};
#[cfg(feature = "operation")]
pub use packed::{InputKind, Packed, PackedInput};
#[cfg(feature = "operation")]
pub use sequencer::{CHUNK_ROWS, Decided, FeatureRead, FeatureRows, Positions, Refusal, TrainListener};
#[cfg(feature = "operation")]
pub use service::{Enqueued, IngestReport, Recorded, Service, ServiceError, StartOptions, SystemClock, next_tick};
#[cfg(feature = "operation")]
pub use status::{BundleStatus, Latency, PartitionStatus, Percentiles, Readings, Recording, SinkStatus, Status, StreamCounts, Window};
