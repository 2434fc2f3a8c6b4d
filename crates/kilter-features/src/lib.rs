//! kilter-features
