//! kilter-pipeline
