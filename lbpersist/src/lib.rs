//! The lbpersist daemon and its command line, as a library.
//!
//! `model` holds plain values; `config` makes them from a file; `balance` and the planning half of `datapath` compute on
//! them. `network`, `health` and the rest of `datapath` do I/O and meet only in `daemon`, whose one task owns the state.

pub mod balance;
pub mod breaks;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod health;
pub mod model;
pub mod network;
pub mod persistence;
pub mod proxy;
pub mod store;
