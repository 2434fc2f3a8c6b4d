//! All integration tests of this crate as one program: each of its own would be linked alone.

mod changes;
mod decode;
mod files;
mod write;
