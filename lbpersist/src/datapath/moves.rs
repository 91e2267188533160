//! How many living clients a change would take from their servers.

use std::collections::{HashMap, HashSet};

use lbpersist_common::{
    connection::{Connection, ConnectionKey},
    net,
    persistence::{Entry, EntryKey},
    ring::slot_of,
    server::{Binding, state},
    service::{Pool, Service, pool_flag, server_down},
};

use super::{apply::client_keys, desired::Desired, error::Error, report::Reader};
use crate::control::Moves;

impl Reader {
    /// How many living clients meet another server, or none, when the maps hold `is` instead of `was`.
    pub fn moves(&self, was: &Desired, is: &Desired, now_ns: u64) -> Result<Moves, Error> {
        let entries = self.maps().entries.all()?;
        let connections = self.maps().connections.all()?;
        Ok(moves(was, is, &entries, &connections, now_ns))
    }
}

/// [`Reader::moves`], of these tables.
pub fn moves(
    was: &Desired,
    is: &Desired,
    entries: &[(EntryKey, Entry)],
    connections: &[(ConnectionKey, Connection)],
    now_ns: u64,
) -> Moves {
    let mut change = Change::new(was, is);
    let entries = entries.iter().filter(|(key, entry)| change.moves_entry(key, entry, now_ns));
    let entries = entries.count() as u64;
    let connections = connections.iter();
    let connections =
        connections.filter(|(key, connection)| change.ends_connection(key, connection, now_ns));
    Moves { entries, connections: connections.count() as u64 }
}

struct Change<'a> {
    was: &'a Desired,
    is: &'a Desired,
    /// Pools by the scope of their entries, before.
    scopes: HashMap<u32, u32>,
    /// Scopes there will be.
    scopes_after: HashSet<u32>,
    /// Pool and protocol by the id of the service, before.
    services: HashMap<u32, (u32, u16)>,
    services_after: HashSet<u32>,
    /// Rings that had to be computed to say where a client goes.
    rings: HashMap<u32, Vec<u16>>,
}

impl<'a> Change<'a> {
    fn new(was: &'a Desired, is: &'a Desired) -> Self {
        let before: Vec<(u16, &Service)> = all(was).collect();
        let after: Vec<(u16, &Service)> = all(is).collect();
        Self {
            was,
            is,
            scopes: before.iter().map(|(_, service)| (service.scope, service.pool)).collect(),
            scopes_after: after.iter().map(|(_, service)| service.scope).collect(),
            services: before
                .iter()
                .map(|(protocol, service)| (service.id, (service.pool, *protocol)))
                .collect(),
            services_after: after.iter().map(|(_, service)| service.id).collect(),
            rings: HashMap::new(),
        }
    }

    fn moves_entry(&mut self, key: &EntryKey, entry: &Entry, now_ns: u64) -> bool {
        let Some(&number) = self.scopes.get(&key.scope) else { return false };
        let Some(pool) = self.was.pools.get(&number) else { return false };
        if !entry.is_live(now_ns, pool.timeout_ns)
            || pool.flags & pool_flag::PERSISTENT == 0
            || !holds(self.was, pool, entry.binding)
        {
            return false;
        }
        let Some(after) = self.is.pools.get(&number) else { return true };
        if !holds(self.is, after, entry.binding) {
            return true;
        }
        if self.scopes_after.contains(&key.scope) && client_keys(pool) == client_keys(after) {
            return false;
        }
        // Nothing binds the client any more, so the ring decides.
        let slots = after.slots;
        let is = self.is;
        let ring = self.rings.entry(number).or_insert_with(|| is.slots(number, slots));
        let slot = slot_of(after.slot_hash(&key.client, 0, &key.destination), slots);
        u32::from(ring[slot as usize]) != entry.binding.server
    }

    fn ends_connection(&self, key: &ConnectionKey, connection: &Connection, now_ns: u64) -> bool {
        let Some(&(number, protocol)) = self.services.get(&key.service) else { return false };
        let Some(pool) = self.was.pools.get(&number) else { return false };
        let open = if protocol == u16::from(net::UDP) {
            now_ns <= connection.last_seen_ns.saturating_add(pool.udp_idle_ns)
        } else {
            connection.is_open()
        };
        if !open || !holds(self.was, pool, connection.binding) {
            return false;
        }
        let after = self.is.pools.get(&number);
        !self.services_after.contains(&key.service)
            || after.is_none_or(|pool| !holds(self.is, pool, connection.binding))
    }
}

/// Whether a client bound so is served by that server, or refused because of it, rather than given another.
fn holds(desired: &Desired, pool: &Pool, binding: Binding) -> bool {
    desired.servers.get(&binding.server).is_some_and(|server| {
        server.generation == binding.generation
            && (state::serves(server.state) || pool.server_down != server_down::IMMEDIATE)
    })
}

/// Every service and its protocol.
fn all(desired: &Desired) -> impl Iterator<Item = (u16, &Service)> {
    let single = desired
        .services
        .iter()
        .chain(&desired.carried)
        .map(|(endpoint, service)| (endpoint.protocol, service));
    let prefixes =
        desired.prefix_services.iter().map(|((_, key), service)| (key.protocol, service));
    single.chain(prefixes).filter(|(_, service)| service.id != 0)
}
