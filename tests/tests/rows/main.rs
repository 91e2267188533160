//! The program on single packets: what a row shows, the packet in, the verdict and what it is counted under, the packet out.
//!
//! `setup` holds the network that all rows share and what clients do in it; the other modules are the rows, by theme.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod algorithm;
mod answer;
mod breaks;
mod closing;
mod cut;
mod down;
mod explain;
mod flood;
mod forward;
mod fragment;
mod headers;
mod icmp;
mod jumbo;
mod limit;
mod malformed;
mod mask;
mod masquerade;
mod pass;
mod persistence;
mod refused;
mod restart;
mod ring;
mod setup;
mod states;
mod sweep;
mod udp;
mod wide;
