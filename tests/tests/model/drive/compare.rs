//! The program's tables in the words of the rules, and the comparison of both.

use std::collections::BTreeMap;

use lbpersist::datapath::address::from_map;
use lbpersist_common::{
    connection::ConnectionKey,
    net::Address,
    persistence::{Entry, EntryKey},
    server::Binding,
};

use super::{Check, Run, faults, number, same, told};
use crate::{
    plan::UDP,
    setup::{V4, V6},
    world::{Flow, Key, Service, State},
};

impl Run<'_> {
    /// Compares all tables, and that no count had to be put right.
    pub(super) fn compare(&mut self) -> Check {
        let entries: BTreeMap<Key, (Option<u8>, u32)> = self
            .rig
            .entries()
            .map_err(told)?
            .iter()
            .map(|(key, entry)| Ok((self.key(key)?, (self.host(entry.binding), entry.open))))
            .collect::<Result<_, String>>()?;
        let expected = self.rules.entries.iter();
        let expected = expected
            .map(|(key, entry)| (*key, (self.host_at(key.pool, entry.server), entry.open)))
            .collect();
        same("the entries are", &entries, &expected)?;
        let expected = self.rules.connections.iter();
        let expected = expected
            .map(|(flow, known)| {
                (*flow, (self.host_at(flow.service.pool, known.server), known.state))
            })
            .collect();
        same("the connections are", &self.connections()?, &expected)?;
        let handshakes: BTreeMap<Flow, Option<u8>> = self
            .rig
            .handshakes()
            .map_err(told)?
            .iter()
            .map(|(key, begun)| {
                let flow = self.known(key.client, key.client_port, key.service)?;
                Ok((flow, self.host(begun.binding)))
            })
            .collect::<Result<_, String>>()?;
        let expected = self.rules.handshakes.iter();
        let expected = expected
            .map(|(flow, begun)| (*flow, self.host_at(flow.service.pool, begun.server)))
            .collect();
        same("the handshakes are", &handshakes, &expected)?;
        let breaks: u64 = self.rig.breaks().map_err(told)?.values().sum();
        let [least, more] = self.rules.breaks;
        if !(least..=least + more).contains(&breaks) {
            return Err(format!("{breaks} breaks were counted, not {least} and up to {more} more"));
        }
        same("counts put right and records refused are", &faults(self.rig)?, &self.faults)
    }

    pub(super) fn connections(&mut self) -> Result<BTreeMap<Flow, (Option<u8>, State)>, String> {
        let all = self.rig.connections().map_err(told)?;
        all.iter()
            .map(|(key, connection)| {
                let state = match connection.state {
                    0 => State::Flow,
                    1 => State::Established,
                    2 => State::ClientClosed,
                    3 => State::ServerClosed,
                    _ => State::Closed,
                };
                let flow = self.known(key.client, key.client_port, key.service)?;
                Ok((flow, (self.host(connection.binding), state)))
            })
            .collect()
    }

    /// When the table has last heard of a flow.
    pub(super) fn real_flow(&mut self, flow: &Flow) -> Result<u64, String> {
        let all = self.rig.connections().map_err(told)?;
        let is_it = |key: &ConnectionKey| {
            self.known(key.client, key.client_port, key.service).as_ref() == Ok(flow)
        };
        let found = all.iter().find(|(key, _)| is_it(key));
        found.map(|(_, found)| found.last_seen_ns).ok_or_else(|| format!("{flow:?} is not there"))
    }

    pub(super) fn real_entry(&mut self, key: &Key) -> Result<(EntryKey, Entry), String> {
        let entries = self.rig.entries().map_err(told)?;
        let found = entries.into_iter().find(|(real, _)| self.key(real).as_ref() == Ok(key));
        found.ok_or_else(|| format!("there is no entry of {key:?}"))
    }

    /// The numbers stay the same while services and pools do.
    pub(super) fn learn_numbers(&mut self) {
        for pool in 0..self.rules.pools.len() {
            for number in 0..=UDP {
                let service = Service { pool, number };
                let at = self.at(service);
                let services = &self.rig.data_path().actual().services;
                let (_, found) = services
                    .iter()
                    .find(|(endpoint, _)| endpoint.port == at.port())
                    .expect("the service is configured");
                let (id, scope) = (found.id, found.scope);
                self.services.insert(id, service);
                let shared = self.rules.pools[pool].shared;
                self.scopes.insert(scope, (pool, (!shared).then_some(number)));
            }
        }
    }

    fn key(&self, key: &EntryKey) -> Result<Key, String> {
        let scope = self.scopes.get(&key.scope);
        let &(pool, service) = scope.ok_or_else(|| format!("no service has {key:?}"))?;
        Ok(Key { client: from_map(key.client), pool, service })
    }

    fn known(&self, client: Address, port: u16, service: u32) -> Result<Flow, String> {
        let service = self.services.get(&service);
        let service = *service.ok_or_else(|| format!("no service has {service:?}"))?;
        Ok(Flow { client: from_map(client), port, service })
    }

    /// The server a binding of the program means, if it is still there.
    fn host(&mut self, binding: Binding) -> Option<u8> {
        let server = self.rig.data_path().actual().servers.get(&binding.server)?;
        let family = if server.address.is_ipv4() { V4 } else { V6 };
        let host = number(family, server.address.bytes[15]);
        (server.generation == binding.generation).then_some(host)
    }

    /// The same for one of the rules.
    fn host_at(&self, pool: usize, place: usize) -> Option<u8> {
        let server = self.rules.pools[pool].servers[place];
        (!server.removed).then_some(server.host)
    }
}
