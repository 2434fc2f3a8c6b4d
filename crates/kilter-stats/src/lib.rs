//! kilter-stats
