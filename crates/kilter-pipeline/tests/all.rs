//! All integration tests of this crate as one program: each of its own would be linked alone.

mod backtest;
mod change;
mod common;
mod monitors;
mod replay;
mod rows;
mod sorted;
mod training;
mod training_set;
