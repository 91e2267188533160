//! What the XDP program and the daemon must agree on: the keys and values of every map, the numbers
//! in them, and the pure rules both sides apply (hashing, ring arithmetic, TCP tracking).
//!
//! Nothing here does I/O, allocates or knows of aya-ebpf. Types that live in maps are `repr(C)`, made of
//! integers only, without hidden padding, and their sizes are asserted beside them.
#![cfg_attr(not(test), no_std)]

pub mod breaks;
pub mod connection;
pub mod counter;
pub mod filter;
pub mod flood;
pub mod fragment;
pub mod front;
pub mod hash;
pub mod layout;
pub mod maintenance;
pub mod net;
pub mod persistence;
#[cfg(feature = "user")]
mod pod;
pub mod rare;
pub mod reason;
pub mod recent;
pub mod ring;
pub mod route;
pub mod server;
pub mod service;
pub mod stage;
pub mod tcp;
pub mod translation;
pub mod tunnel;
