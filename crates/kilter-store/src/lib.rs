//! kilter-store
