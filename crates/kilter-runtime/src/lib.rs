//! kilter-runtime
