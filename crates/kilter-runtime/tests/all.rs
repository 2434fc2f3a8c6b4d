//! All integration tests of this crate as one program: each of its own would be linked alone.

mod boot;
mod bundle;
mod change;
mod changes;
mod counts;
mod feature_services;
mod lake;
mod models;
mod performance;
mod policy;
mod project;
mod reads;
mod self_check;
mod service;
mod state;
mod streams;
mod training_set;
