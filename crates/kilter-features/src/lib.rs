//! Feature views: SQL expressions, aggregates over windows, and the engine that keeps them fresh, one event at a time.
//!
//! Three layers, each with its reference page:
//! - [`expr`]: a condition or a value over one row (docs/reference/expressions.md);
//! - [`compile_view`]: lines such as `sum(amount) where kind = 'card' over 7d, 30d`, compiled to a [`View`];
//! - [`Engine`]: views kept up to date by events and read at any moment (docs/reference/windows.md holds the one formula).
//!
//! Pure: the same definitions and the same events in the same order give the same bits, on any machine.

mod aggregators;
mod engine;
pub mod expr;
mod hash;
mod view;

pub use engine::{
    Busy, Changes, ColdStore, Engine, Heavy, Look, Pressure, RestoreError, Unfit, Update, ViewChanges, ViewCounts, ViewStats, expiry,
    stored_key,
};
pub use view::{ColumnSpec, Equality, FeatureInfo, Location, LookupSpec, StateBound, View, ViewSpec, compile_view};

/// The names a feature line may start with.
pub fn aggregate_names() -> impl Iterator<Item = &'static str> {
    aggregators::names()
}
