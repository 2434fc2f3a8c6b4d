//! kilter-core
