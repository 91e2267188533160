//! Entries: which there are, and the removal of some.

use std::net::IpAddr;

use ipnet::IpNet;
use lbpersist_common::{
    breaks::BreakReason,
    layout::kind,
    persistence::{Entry, EntryKey},
    service::{Pool, scope},
};
use serde::Serialize;

use super::{Reader, seconds, server_name};
use crate::{
    datapath::{
        Error,
        address::{from_map, to_map},
        listed::{self, Listed},
    },
    model::Protocol,
};

/// One entry, as `persistence list` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EntryStatus {
    /// The service; `None` if all services of the pool share the entry.
    pub virtual_service: Option<String>,
    /// The pool.
    pub pool: String,
    /// The client's address, or its prefix under the profile's mask.
    pub client: String,
    /// The address the client came for, if the service is on a prefix.
    pub destination: Option<IpAddr>,
    /// The server, with its port if it has one of its own.
    pub server: String,
    /// `tcp` or `udp`; `None` if all services of the pool share the entry.
    pub protocol: Option<Protocol>,
    /// Open connections; those of UDP are not counted.
    pub open: u32,
    /// Seconds since the client was bound.
    pub age_seconds: f64,
    /// Seconds until it expires; `None` while connections are open.
    pub expires_in_seconds: Option<f64>,
}

/// Which entries are meant; empty means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Entries of this service. Entries shared by a pool belong to all its services.
    pub virtual_service: Option<String>,
    /// Entries of this pool.
    pub pool: Option<String>,
    /// Entries whose client lies in this prefix, or whose prefix contains it.
    pub client: Option<IpNet>,
    /// Entries bound to this server, on any port or on this one.
    pub server: Option<(IpAddr, Option<u16>)>,
}

impl Reader {
    /// The live entries that `filter` means, by pool, service and client.
    pub fn entries(&self, filter: &Filter, now_ns: u64) -> Result<Vec<EntryStatus>, Error> {
        let mut found = self.matching(filter, now_ns)?;
        found.sort_by_key(|(key, _)| (key.scope, key.client, key.destination));
        Ok(found.iter().filter_map(|(key, entry)| self.entry_status(key, entry, now_ns)).collect())
    }

    /// Removes the entries that `filter` means; returns how many.
    pub fn flush(&mut self, filter: &Filter, now_ns: u64) -> Result<usize, Error> {
        let mut flushed = 0;
        for (key, entry) in self.matching(filter, now_ns)? {
            if let Some((_, pool)) = self.pool_of(&key) {
                let ghosts = &self.maps.ghosts;
                ghosts.leave(&key, &entry, BreakReason::Flushed, pool.timeout_ns, now_ns);
            }
            flushed += usize::from(self.maps.entries.remove(&key)?);
        }
        if flushed > 0 {
            self.maps.recent_flows.forget_all();
        }
        Ok(flushed)
    }

    fn matching(&self, filter: &Filter, now_ns: u64) -> Result<Vec<(EntryKey, Entry)>, Error> {
        let mut found = self.maps.entries.all()?;
        found.retain(|(key, entry)| {
            let Some((number, pool)) = self.pool_of(key) else { return false };
            entry.is_live(now_ns, pool.timeout_ns) && self.is_meant(filter, number, key, entry)
        });
        Ok(found)
    }

    fn is_meant(&self, filter: &Filter, pool: u32, key: &EntryKey, entry: &Entry) -> bool {
        let service = filter.virtual_service.as_ref().is_none_or(|name| {
            self.services.iter().any(|Listed { service, .. }| {
                service.scope == key.scope && self.name(kind::SERVICE, service.index) == *name
            })
        });
        let of_pool = filter.pool.as_ref().is_none_or(|name| self.name(kind::POOL, pool) == *name);
        let client = filter.client.is_none_or(|wanted| {
            let own = self.client_prefix(key);
            wanted.contains(&own) || own.contains(&wanted)
        });
        let server = filter.server.is_none_or(|(address, port)| {
            self.maps.servers.get(&entry.binding.server, 0).is_ok_and(|server| {
                server.address == to_map(address) && port.is_none_or(|port| server.port == port)
            })
        });
        service && of_pool && client && server
    }

    fn pool_of(&self, key: &EntryKey) -> Option<(u32, &Pool)> {
        let by_service = self.services.iter().find(|one| one.service.scope == key.scope);
        let number = match by_service {
            Some(one) => one.service.pool,
            None => *self.pools.iter().find(|(_, pool)| scope::pool(pool.id) == key.scope)?.0,
        };
        Some((number, self.pools.get(&number)?))
    }

    pub(in crate::datapath) fn client_prefix(&self, key: &EntryKey) -> IpNet {
        let address = from_map(key.client);
        let length = self.pool_of(key).map_or(128, |(_, pool)| match address {
            IpAddr::V4(_) => pool.ipv4_mask.prefix_length().saturating_sub(96),
            IpAddr::V6(_) => pool.ipv6_mask.prefix_length(),
        });
        IpNet::new(address, length).unwrap_or_else(|_| IpNet::from(address))
    }

    fn entry_status(&self, key: &EntryKey, entry: &Entry, now_ns: u64) -> Option<EntryStatus> {
        let (number, pool) = self.pool_of(key)?;
        let own_service =
            self.services.iter().find(|one| scope::service(one.service.id) == key.scope);
        let prefix = self.client_prefix(key);
        let exact = prefix.prefix_len() == prefix.max_prefix_len();
        let server = self.maps.servers.get(&entry.binding.server, 0).ok()?;
        let left = entry.expires_ns(pool.timeout_ns).saturating_sub(now_ns);
        Some(EntryStatus {
            virtual_service: own_service.map(|one| self.name(kind::SERVICE, one.service.index)),
            protocol: own_service.map(|one| one.protocol),
            pool: self.name(kind::POOL, number),
            client: if exact { prefix.addr().to_string() } else { prefix.to_string() },
            destination: listed::destination(key, &self.services),
            server: server_name(server.address, server.port),
            open: entry.open,
            age_seconds: seconds(now_ns.saturating_sub(entry.created_ns)),
            expires_in_seconds: (entry.open == 0).then(|| seconds(left)),
        })
    }
}
