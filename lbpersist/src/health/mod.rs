//! Asks servers whether they live.
//!
//! `probe` asks once, in one file a kind; [`Judge`] decides from the answers whether a monitor takes a server for up;
//! [`Checker`] does this at intervals for every target, one task each on a thread of its own, and reports changes; [`Board`]
//! shows what came of each. Nothing here knows services: what a report means is for the daemon to say, with [`is_up`]
//! for a server that several monitors ask.

mod board;
mod checker;
mod judge;
mod probe;
mod schedule;
mod sys;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

pub use board::{Board, MonitorStatus, Outcome, Snapshot, State};
pub use checker::Checker;
pub use judge::{Change, Judge, is_up};

use crate::model::HealthMonitor;

/// A server as one monitor sees it. Pool, server, port and the monitor's name tell it from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name of the pool.
    pub pool: String,
    /// The server's address.
    pub server: IpAddr,
    /// The server's port as configured.
    pub port: Option<u16>,
    /// Whom to ask. The port is 0 for a monitor that needs none and knows none.
    pub address: SocketAddr,
    /// How to ask.
    pub monitor: HealthMonitor,
    /// Whether it counts as up before the first answer.
    pub initially_up: bool,
}

impl Target {
    fn key(&self) -> Key {
        Key {
            pool: self.pool.clone(),
            server: self.server,
            port: self.port,
            monitor: self.monitor.name.clone(),
        }
    }

    /// Whether the two are checked in the same way.
    fn is_checked_like(&self, other: &Self) -> bool {
        self.address == other.address && self.monitor == other.monitor
    }
}

/// What a monitor has to say about a server: after its first answer, and whenever it has changed its mind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Name of the pool.
    pub pool: String,
    /// The server's address.
    pub server: IpAddr,
    /// The server's port as configured.
    pub port: Option<u16>,
    /// Name of the monitor.
    pub monitor: String,
    /// Whether the server counts as up. After one failed answer it may well still do.
    pub up: bool,
    /// What was wrong, if the last answer was not a good one.
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    pool: String,
    server: IpAddr,
    port: Option<u16>,
    monitor: String,
}
