//! All integration tests of this crate as one program: each of its own would be linked alone.

mod chronon;
mod common;
mod expressions;
mod golden;
mod windows;
