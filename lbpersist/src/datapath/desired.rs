//! What the maps should hold, given the configuration, the servers' health and the network.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use bytemuck::Zeroable as _;
use lbpersist_common::{
    flood::FloodLimits,
    front::Front,
    layout::{Name, NameKey, feature, kind},
    net::{Address, Endpoint},
    route::{Neighbour, NeighbourKey, Route},
    server::{Server, by_hand, state},
    service::{self, Pool, PrefixKey, Reverse, Service, reverse_flag},
};

mod network;
mod pool;

use self::{
    network::{hop, route_key},
    pool::{flood_limits, pool_value, tunnel_source, turns},
};
use super::{
    address::to_map,
    identity::{Exhausted, Identities, Numbered, ServerIdentity},
};
use crate::{
    balance::{
        maglev::{self, Member},
        slow_start,
    },
    model::{self, Forwarding, Model, PersistenceProfile, ServerState},
    network::View,
};

/// The contents of the maps that the daemon alone writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// `services`.
    pub services: BTreeMap<Endpoint, Service>,
    /// `carried`.
    pub carried: BTreeMap<Endpoint, Service>,
    /// `prefix_services`, by the bits that must agree and the key.
    pub prefix_services: BTreeMap<PrefixPlace, Service>,
    /// `reverse`.
    pub reverse: BTreeMap<Endpoint, Reverse>,
    /// `fronts`.
    pub fronts: BTreeMap<Address, Front>,
    /// `pools`; `side` is left to whoever publishes the rings.
    pub pools: BTreeMap<u32, Pool>,
    /// `servers`.
    pub servers: BTreeMap<u32, Server>,
    /// `rings`: who is in them; what is in their slots follows from that.
    pub rings: BTreeMap<u32, Vec<Member>>,
    /// `flood_limits`.
    pub flood_limits: Option<FloodLimits>,
    /// `server_limits`, of the servers that have one.
    pub limits: BTreeMap<u32, u32>,
    /// `turns`, of the pools that need them.
    pub turns: BTreeMap<u32, Vec<u16>>,
    /// `routes`.
    pub routes: BTreeMap<(u32, Address), Route>,
    /// `neighbours`.
    pub neighbours: BTreeMap<NeighbourKey, Neighbour>,
    /// `names`.
    pub names: BTreeMap<NameKey, Name>,
}

/// A place in `prefix_services`: how many bits of the key count, and the key.
pub type PrefixPlace = (u32, PrefixKey);

/// A server by pool name, address and configured port.
pub type ServerKey = (String, IpAddr, Option<u16>);

/// What is needed to say what the maps should hold.
pub struct Facts<'a> {
    /// The configuration.
    pub model: &'a Model,
    /// The servers that are down.
    pub down: &'a BTreeSet<ServerKey>,
    /// Tenths of their weights that servers have for now, because they came up a short while ago.
    pub shares: &'a BTreeMap<ServerKey, u32>,
    /// The network.
    pub view: &'a View,
}

impl Facts<'_> {
    /// What weights are multiplied by: as they are, or all in tenths when a server of the pool has not its whole share yet.
    pub fn share(&self, pool: &model::Pool) -> impl Fn(&ServerKey) -> u32 {
        let is_slowed = pool.servers.iter().any(|server| {
            self.shares.contains_key(&(pool.name.clone(), server.address, server.port))
        });
        move |key| {
            if is_slowed { self.shares.get(key).copied().unwrap_or(slow_start::WHOLE) } else { 1 }
        }
    }
}

impl Desired {
    /// Computes it, giving numbers to what is new and forgetting those of what is gone.
    pub fn compute(facts: &Facts<'_>, identities: &mut Identities) -> Result<Self, Exhausted> {
        forget(facts.model, identities);
        let mut desired = Self::default();
        for pool in facts.model.pools.values() {
            desired.add_pool(pool, facts, identities)?;
        }
        for virtual_service in facts.model.services.values() {
            if virtual_service.mode == model::Mode::L4 {
                desired.add_service(virtual_service, facts.model, identities)?;
            } else {
                desired.add_carried(virtual_service, facts.model, identities)?;
            }
        }
        desired.fronts = super::front::fronts(facts.model, &desired.services);
        desired.spread_reverse_of_all_ports();
        desired.flood_limits = Some(flood_limits(&facts.model.flood_limits));
        desired.add_network(facts.view);
        desired.leave_out_own_addresses(facts.view);
        Ok(desired)
    }

    /// The lookups that these services ask for: bits of [`feature`].
    pub fn features(&self) -> u32 {
        let all_ports =
            self.services.keys().chain(self.reverse.keys()).any(|endpoint| endpoint.port == 0);
        let prefix = !self.prefix_services.is_empty();
        let one_port = self.prefix_services.keys().any(|(_, key)| key.port != 0);
        u32::from(all_ports) * feature::ALL_PORTS
            + u32::from(prefix) * feature::PREFIX
            + u32::from(one_port) * feature::PREFIX_PORT
    }

    /// The slots of a pool's ring.
    pub fn slots(&self, pool: u32, ring_size: u32) -> Vec<u16> {
        maglev::ring(self.rings.get(&pool).map_or(&[], Vec::as_slice), ring_size)
    }

    fn add_pool(
        &mut self,
        pool: &model::Pool,
        facts: &Facts<'_>,
        identities: &mut Identities,
    ) -> Result<(), Exhausted> {
        let given = identities.pool(&pool.name)?;
        let slots = facts.model.data_path.ring_size;
        let udp_idle = facts.model.idle_limits.udp;
        let mut value = pool_value(pool, given, slots, nanoseconds(udp_idle));
        let key = NameKey { kind: kind::POOL, number: given.number };
        self.names.insert(key, Name::new(&pool.name, given.id));

        let share = facts.share(pool);
        let members = self.rings.entry(given.number).or_default();
        for server in &pool.servers {
            let identity = server_identity(given.number, server);
            let known = identities.server(identity)?;
            let key = (pool.name.clone(), server.address, server.port);
            let up = !facts.down.contains(&key);
            let state = state_of(server.state(), up);
            if state == state::UP && server.weight > 0 {
                members.push(Member {
                    address: to_map(server.address),
                    port: identity.port,
                    weight: u32::from(server.weight) * share(&key),
                    number: known.number,
                });
            }
            let (interface, frame) = hop(facts.view, server.address, pool.forwarding);
            let link = facts.view.links.get(&interface);
            let value = Server {
                address: to_map(server.address),
                generation: known.generation,
                pool: given.number,
                interface,
                frame,
                port: identity.port,
                state,
                by_hand: by_hand_of(server),
                weight: server.weight,
                mtu: link.map_or(0, |link| u16::try_from(link.mtu).unwrap_or(u16::MAX)),
                tunnel_source: tunnel_source(pool, server),
            };
            self.servers.insert(u32::from(known.number), value);
            if let Some(limit) = server.max_connections {
                self.limits.insert(u32::from(known.number), limit);
            }
        }
        if let Some(turns) = turns(pool, members) {
            value.turns = u32::try_from(turns.len()).unwrap_or(u32::MAX);
            self.turns.insert(given.number, turns);
        }
        self.pools.insert(given.number, value);
        Ok(())
    }

    /// Packets of such a service go to the stack, and through it to the daemon. Its clients have entries as others do.
    fn add_carried(
        &mut self,
        configured: &model::VirtualService,
        model: &Model,
        identities: &mut Identities,
    ) -> Result<(), Exhausted> {
        let pool = identities.pool(&configured.pool)?;
        let given = identities.service(&service_identity(configured))?;
        let scope = scope(model, &configured.pool, given, pool);
        let (address, port) = (to_map(configured.addresses.addr()), configured.ports.number());
        let endpoint = Endpoint::new(address, port, configured.protocol.number());
        let value = Service {
            id: given.id,
            index: given.number,
            pool: pool.number,
            scope,
            prefix_length: 0,
        };
        self.carried.insert(endpoint, value);
        let key = NameKey { kind: kind::SERVICE, number: given.number };
        self.names.insert(key, Name::new(&configured.name, given.id));
        Ok(())
    }

    fn add_service(
        &mut self,
        configured: &model::VirtualService,
        model: &Model,
        identities: &mut Identities,
    ) -> Result<(), Exhausted> {
        let pool = identities.pool(&configured.pool)?;
        let given = identities.service(&service_identity(configured))?;
        let scope = scope(model, &configured.pool, given, pool);
        let (addresses, port) = (configured.addresses, configured.ports.number());
        let protocol = configured.protocol.number();
        let endpoint = Endpoint::new(to_map(addresses.addr()), port, protocol);
        let value = Service {
            id: given.id,
            index: given.number,
            pool: pool.number,
            scope,
            prefix_length: 0,
        };
        if addresses.prefix_len() == addresses.max_prefix_len() {
            self.services.insert(endpoint, value);
        } else {
            let (prefix_length, _) = route_key(addresses);
            let place = (PrefixKey::FIXED_BITS + prefix_length, PrefixKey::of(&endpoint, port));
            self.prefix_services.insert(place, Service { prefix_length, ..value });
        }
        let key = NameKey { kind: kind::SERVICE, number: given.number };
        self.names.insert(key, Name::new(&configured.name, given.id));

        // Where servers answer clients themselves, nothing comes back this way.
        let comes_back = |pool: &&model::Pool| match pool.forwarding {
            Forwarding::Nat | Forwarding::Masquerade(_) => true,
            Forwarding::Direct | Forwarding::Tunnel(_) => false,
        };
        let Some(from) = model.pools.get(&configured.pool).filter(comes_back) else {
            return Ok(());
        };
        for server in &from.servers {
            let known = identities.server(server_identity(pool.number, server))?;
            let answers =
                Endpoint::new(to_map(server.address), server.port.unwrap_or(port), protocol);
            let place = self.reverse.entry(answers).or_insert_with(Reverse::zeroed);
            if let Forwarding::Masquerade(_) = from.forwarding {
                // A translation tells whose the answer is. The same server may answer for another service under nat.
                place.flags |= reverse_flag::MASQUERADE;
                continue;
            }
            *place = Reverse {
                address: endpoint.address,
                port: endpoint.port,
                flags: place.flags,
                service: given.id,
                service_index: given.number,
                server: u32::from(known.number),
                pool: pool.number,
                scope,
            };
        }
        Ok(())
    }

    /// An exact record hides that of all ports of its server, so it has to say the same.
    fn spread_reverse_of_all_ports(&mut self) {
        let of_all: Vec<(Endpoint, Reverse)> =
            self.reverse.iter().filter(|(key, _)| key.port == 0).map(|(k, v)| (*k, *v)).collect();
        for (all, value) in of_all {
            let ports = Endpoint { port: 1, ..all }..=Endpoint { port: u16::MAX, ..all };
            let same_protocol =
                self.reverse.range_mut(ports).filter(|(key, _)| key.protocol == all.protocol);
            let mut alone = reverse_flag::ALONE;
            for (_, exact) in same_protocol {
                alone = 0;
                let flags = exact.flags | value.flags;
                let answers = if exact.service == 0 { value } else { *exact };
                *exact = Reverse { flags, ..answers };
            }
            if let Some(place) = self.reverse.get_mut(&all) {
                place.flags |= alone;
            }
        }
    }
}

/// What a service is known by in [`Identities`].
pub fn service_identity(service: &model::VirtualService) -> String {
    identity_of(&service.name, &service.pool)
}

/// [`service_identity`] of a service by its name and that of its pool.
pub fn identity_of(service: &str, pool: &str) -> String {
    // Names have no control characters, so the newline cannot be part of one.
    format!("{service}\n{pool}")
}

/// What a server is known by in [`Identities`].
pub fn server_identity(pool: u32, server: &model::Server) -> ServerIdentity {
    ServerIdentity { pool, address: server.address, port: server.port.unwrap_or(0) }
}

/// What the program may use a server for.
fn state_of(wanted: ServerState, up: bool) -> u8 {
    match (wanted, up) {
        (ServerState::Disabled, _) => state::DISABLED,
        (_, false) => state::DOWN,
        (ServerState::Draining, true) => state::DRAINING,
        (ServerState::Enabled, true) => state::UP,
    }
}

fn by_hand_of(server: &model::Server) -> u8 {
    let number = |state| match state {
        ServerState::Enabled => by_hand::ENABLED,
        ServerState::Draining => by_hand::DRAINING,
        ServerState::Disabled => by_hand::DISABLED,
    };
    let configured = number(server.configured);
    match (server.by_hand, server.configured) {
        (Some(said), _) => by_hand::pack(number(said), configured),
        // For the program, which cannot tell otherwise that a server that is down had been drained.
        (None, ServerState::Draining) => by_hand::pack(configured, configured),
        (None, _) => 0,
    }
}

/// What was said by hand of a server whose record holds `byte`: what was said, and what the configuration said then.
pub fn said_by_hand(byte: u8) -> Option<(ServerState, ServerState)> {
    let state = |number| match number {
        by_hand::ENABLED => Some(ServerState::Enabled),
        by_hand::DRAINING => Some(ServerState::Draining),
        by_hand::DISABLED => Some(ServerState::Disabled),
        _ => None,
    };
    let (said, configured) = by_hand::unpack(byte);
    Some((state(said)?, state(configured)?))
}

/// Whose entries a service's clients have.
fn scope(model: &Model, pool_name: &str, service: Numbered, pool: Numbered) -> u32 {
    let profile = model.pools.get(pool_name).and_then(|pool| pool.persistence.as_ref());
    match profile.and_then(PersistenceProfile::by_address).map(|(_, method)| method.scope) {
        Some(model::Scope::Pool) => service::scope::pool(pool.id),
        Some(model::Scope::VirtualService) | None => service::scope::service(service.id),
    }
}

/// Drops the numbers of what the configuration no longer has.
fn forget(model: &Model, identities: &mut Identities) {
    let services: BTreeSet<String> = model.services.values().map(service_identity).collect();
    let numbers: BTreeMap<u32, &model::Pool> = identities
        .pools
        .iter()
        .filter_map(|(name, given)| Some((given.number, model.pools.get(name)?)))
        .collect();
    let servers: BTreeSet<ServerIdentity> = numbers
        .iter()
        .flat_map(|(&number, pool)| {
            pool.servers.iter().map(move |server| server_identity(number, server))
        })
        .collect();
    identities.retain(
        |name| model.pools.contains_key(name),
        |name| services.contains(name),
        |identity| servers.contains(identity),
    );
}

/// Nanoseconds of a duration; as many as fit.
pub fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
