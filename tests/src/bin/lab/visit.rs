//! What one client address meets in a round of connections.

use std::{collections::BTreeSet, net::IpAddr};

use lbpersist_tests::topology::{Client, Family};

use crate::laboratory::Laboratory;

/// Connections of each client in a round.
pub(crate) const CONNECTIONS: usize = 10;

/// One client address and the servers it met, one for each connection.
pub(crate) struct Visitor<'a> {
    /// Whose address it is.
    pub(crate) client: &'a Client,
    pub(crate) address: IpAddr,
    pub(crate) met: Vec<String>,
}

impl<'a> Visitor<'a> {
    /// Lets an address of a client connect [`CONNECTIONS`] times.
    pub(crate) fn connect(laboratory: &Laboratory, client: &'a Client, address: IpAddr) -> Self {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        // A connection that fails is missing from the list, which every claim counts.
        let met = (0..CONNECTIONS)
            .filter_map(|_| laboratory.curl(client, address, family).ok())
            .collect();
        Self { client, address, met }
    }

    /// Whether every connection was answered.
    pub(crate) fn is_complete(&self) -> bool {
        self.met.len() == CONNECTIONS
    }

    /// How many were, for a table.
    pub(crate) fn answered(&self) -> String {
        format!("{} of {CONNECTIONS}", self.met.len())
    }

    /// The one server it met; none if it met several or nobody.
    pub(crate) fn server(&self) -> Option<&str> {
        let first = self.met.first()?;
        self.met.iter().all(|name| name == first).then_some(first)
    }

    /// All it met, for a table.
    pub(crate) fn servers(&self) -> String {
        let names: BTreeSet<_> = self.met.iter().map(String::as_str).collect();
        names.into_iter().collect::<Vec<_>>().join(" ")
    }
}
