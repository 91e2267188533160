//! Entries as they are written to files: one JSON object a line.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// An entry of `persistence export` and `persistence import`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryRecord {
    /// The service; `None` if all services of the pool share the entry.
    #[serde(default)]
    pub virtual_service: Option<String>,
    /// The pool.
    pub pool: String,
    /// The client's address, or its prefix under the profile's mask.
    pub client: String,
    /// The address the client came for, if the service is on a prefix.
    #[serde(default)]
    pub destination: Option<IpAddr>,
    /// The server, with its port if it has one of its own.
    pub server: String,
    /// Seconds until the entry ends; `None` for its whole timeout, as while connections are open.
    #[serde(default)]
    pub remaining_seconds: Option<f64>,
    /// Connections that were open. They are not carried over.
    #[serde(default)]
    pub open: u32,
    /// When the client was bound, seconds since 1970.
    #[serde(default)]
    pub created: Option<u64>,
}

/// What came of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Clients that are bound now.
    pub bound: u64,
    /// Of other clients, those that had an entry with another server and were moved.
    #[serde(default)]
    pub moved: u64,
    /// Clients that had an entry and keep it.
    pub kept: u64,
    /// Entries whose time was over.
    pub expired: u64,
    /// Entries of servers that are not in their pool.
    pub unknown_servers: u64,
    /// What was wrong with others: their places in the request, from 0, and a sentence.
    pub wrong: Vec<(usize, String)>,
}
