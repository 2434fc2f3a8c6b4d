//! One file per format; each turns its rows into the same typed values.

pub(crate) mod csv;
pub(crate) mod debezium;
pub(crate) mod json;
pub(crate) mod parquet;
