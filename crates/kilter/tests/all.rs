//! All integration tests of this crate as one program: each of its own would be linked alone.

mod bad_input;
mod change;
mod chaos;
mod cli;
mod common;
mod demo;
mod erase;
mod models;
mod sql;
