//! kilter-connect
