//! Choosing between models: rows to learn from and rows to be judged on, and a search for settings over them.

mod search;
mod split;

pub use search::{Budget, Range, Search, Searched, Setting, Settings, Trial, default_space, search};
pub use split::{Fold, TimeSplit, grouped, stratified, stratified_grouped, time_ordered, time_ordered_at};
