//! All integration tests of this crate as one program: each of its own would be linked alone.

mod common;
mod evaluation;
mod import;
mod shared;
mod store;
mod traces;
mod webhooks;
