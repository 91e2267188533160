//! The command line: parses, calls, prints. Nothing is decided here.

mod apply;
pub mod arguments;
mod commands;
mod explain;
mod generate;
mod log;
mod monitor;
mod proxied;
mod server;
mod text;

pub use commands::main;
