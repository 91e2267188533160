//! lbpersist from outside: real clients, real servers, the built binary, and what each test's name says.
//!
//! `LBPERSIST_BIN` names the binary; without it, the one beside this program's directory is taken.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_input;
mod breaks;
mod campaign;
mod control;
mod counters;
mod direct_return;
mod health;
mod masquerade;
mod migration;
mod persistence;
mod reload;
mod restart;
mod scope;
mod server_down;
mod service;
mod store;
mod top;
mod udp;
mod wide;
mod wire;
mod wiring;
