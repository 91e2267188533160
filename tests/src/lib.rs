//! The harness: network namespaces, real clients, real servers, and lbpersist as a user meets it, through its binary.
//!
//! Only [`rig`] knows lbpersist from inside. A [`topology::Topology`] wires clients, a balancer and servers together,
//! [`server`] and [`client`] make the traffic, and a [`balancer::Balancer`] runs the daemon and its commands. All of it goes away
//! with its owner, also after a panic. Root is needed; [`wait::is_root_or_skip`] says so where it is missing.

mod addresses;
pub mod balancer;
pub mod campaign;
pub mod client;
pub mod command;
pub mod config;
pub mod namespace;
mod output;
pub mod packet;
pub mod patient;
pub mod rig;
pub mod scenario;
pub mod server;
pub mod sys;
pub mod topology;
pub mod wait;
pub mod wire;
