//! Questions about a project, asked of the engine and over the wire.

mod answers;
mod pieces;
mod rights;
mod shop;
mod tables;
mod wire;
