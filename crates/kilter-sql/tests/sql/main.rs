//! Questions about a project, asked of the engine and over both protocols.

mod answers;
mod flight;
mod pieces;
mod rights;
mod shop;
mod tables;
mod wire;
