//! kilter-learn
