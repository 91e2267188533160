//! The command line: parses, calls, prints. Nothing is decided here.

mod apply;
pub mod arguments;
mod breaks;
mod commands;
mod entries;
mod explain;
mod generate;
mod log;
mod monitor;
mod proxied;
mod server;
mod store;
mod text;
mod top;

pub use commands::main;
