//! All integration tests of this crate as one program: each of its own would be linked alone.

mod access;
mod front;
mod http;
mod mlflow;
mod webhooks;
