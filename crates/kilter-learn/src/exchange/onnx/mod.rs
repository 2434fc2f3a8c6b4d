//! ONNX: models of trees and lines out of Kilter (`write`), and what other converters make of theirs (`read`).

mod proto;
mod write;

pub(super) use write::{line, trees};
