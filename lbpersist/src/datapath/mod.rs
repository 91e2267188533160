//! The kernel's half of lbpersist, seen from the daemon and the CLI.
//!
//! `desired` says what the maps should hold, `plan` what is to be done about the difference, `apply` does it, and `sweep`
//! keeps the tables true over time; `object` loads and pins, `attach` puts the program on interfaces, `report` reads
//! the maps for people. Only `sys` and `ring` contain unsafe code.

pub mod address;
pub mod apply;
pub mod attach;
pub mod bind;
pub mod broken;
pub mod carried;
pub mod decapsulate;
pub mod describe;
pub mod desired;
pub mod error;
pub mod explain;
mod front;
pub mod ghosts;
pub mod identity;
pub mod known;
pub mod left;
mod listed;
pub mod load;
pub mod local_ports;
pub mod maps;
pub mod migrate;
pub mod moves;
pub mod nudge;
pub mod object;
pub mod plan;
mod rare;
pub mod recent;
pub mod regions;
pub mod report;
pub mod ring;
pub mod rings;
pub mod sweep;
mod sys;

pub use apply::DataPath;
pub use error::Error;
