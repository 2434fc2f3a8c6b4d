//! Features, model, policy and monitors as one pure step; training sets and backtests by replay of the same step.

mod plan;

pub use plan::*;
