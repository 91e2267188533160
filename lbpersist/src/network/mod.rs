//! The kernel's links, routes and neighbours, mirrored for the data path.
//!
//! [`View`] is the mirror: plain values that answer where a packet goes next. `decode` turns netlink messages into such
//! values, and [`Watcher`] keeps a view up to date and publishes it. What counts is the network namespace this process
//! is in; nothing is read from `/sys`, which may belong to another one.
//!
//! Not mirrored: policy rules and tables other than `local` and `main` (a machine that routes by source address or mark is
//! seen as if it did not), routes for one type of service or one IPv6 source only, and all but the first living next
//! hop of a multipath route.

mod decode;
#[cfg(test)]
mod tests;
mod view;
mod watch;

use std::{io, net::IpAddr};

pub use view::{Link, Mac, NextHop, Route, RouteKind, RouteTarget, Table, View, XdpMode};
pub use watch::{Watcher, read_once};

/// What can go wrong between this process and the kernel's network configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket, or no runtime to wait on it with.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel refused to list something.
    #[error("the kernel does not list its {what}: {source}")]
    List {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused to look for a neighbour.
    #[error(
        "the kernel does not look for neighbour {neighbour} on interface {interface}: {reason}"
    )]
    Resolve {
        /// The interface's index.
        interface: u32,
        /// Whom to look for.
        neighbour: IpAddr,
        /// The kernel's answer.
        reason: String,
    },
    /// The socket has failed; what was lost is in the log.
    #[error("the netlink connection has ended")]
    Closed,
}
