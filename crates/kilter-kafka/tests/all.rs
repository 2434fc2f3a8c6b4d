//! All integration tests of this crate as one program: each of its own would be linked alone.

mod bundles;
mod formats;
mod mock;
mod shop;
mod training;
mod workers;
