//! The jobs a project can run, one file each.

pub mod apply;
pub mod backtest;
pub mod curves;
pub mod import;
pub mod performance;
pub mod policy;
pub mod shards;
pub mod train;
pub mod training_set;
