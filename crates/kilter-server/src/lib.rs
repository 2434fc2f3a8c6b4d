//! kilter-server
