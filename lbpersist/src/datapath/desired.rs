//! What the maps should hold, given the configuration, the servers' health and the network.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use bytemuck::Zeroable as _;
use ipnet::IpNet;
use lbpersist_common::{
    flood::FloodLimits,
    front::Front,
    layout::{Name, NameKey, feature, kind},
    net::{Address, Endpoint, FrameAddresses, Mac},
    recent,
    route::{self, Neighbour, NeighbourKey, Route},
    server::{Server, by_hand, state},
    service::{self, Pool, PrefixKey, Reverse, Service, pool_flag, reverse_flag},
};

use super::{
    address::to_map,
    identity::{Exhausted, Identities, Numbered, ServerIdentity},
};
use crate::{
    balance::{
        maglev::{self, Member},
        slow_start, turns,
    },
    model::{
        self, Algorithm, Forwarding, Model, NoServer, OnLimit, PersistenceProfile, ServerDown,
        ServerState,
    },
    network::{NextHop, RouteTarget, View},
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

    /// This machine's own addresses are no part of the prefixes around them: it would lose its own connections.
    fn leave_out_own_addresses(&mut self, view: &View) {
        if self.prefix_services.is_empty() {
            return;
        }
        let own: Vec<Address> = view
            .best_routes()
            .filter(|(prefix, target)| {
                *target == RouteTarget::Local && prefix.prefix_len() == prefix.max_prefix_len()
            })
            .map(|(prefix, _)| to_map(prefix.addr()))
            .collect();
        let none = Service { id: 0, index: 0, pool: 0, scope: 0, prefix_length: 128 };
        for (key, bits) in
            self.prefix_services.iter().map(|((_, k), s)| (*k, s.prefix_length)).collect::<Vec<_>>()
        {
            let mask = Address::prefix_mask(u8::try_from(bits).unwrap_or(128));
            for address in own.iter().filter(|own| own.masked(&mask) == key.address) {
                let place = (PrefixKey::BITS, PrefixKey { address: *address, ..key });
                self.prefix_services.insert(place, none);
            }
        }
    }

    fn add_network(&mut self, view: &View) {
        // Without it the IPv6 default route would also match mapped IPv4 addresses that have no route of their own.
        let no_ipv4 = (96, Address::from_ipv4([0; 4]));
        self.routes.insert(no_ipv4, route_value(&RouteTarget::Unreachable, view));
        for (prefix, target) in view.best_routes() {
            self.routes.insert(route_key(prefix), route_value(&target, view));
        }
        for (&(interface, address), &mac) in &view.neighbours {
            let Some(link) = view.links.get(&interface) else { continue };
            let Some(source) = link.mac else { continue };
            let key = NeighbourKey { address: to_map(address), interface, reserved: 0 };
            self.neighbours.insert(key, Neighbour { frame: frame(source, mac) });
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

fn pool_value(pool: &model::Pool, given: Numbered, slots: u32, udp_idle_ns: u64) -> Pool {
    let by_address = pool.persistence.as_ref().and_then(PersistenceProfile::by_address);
    let method = by_address.map(|(_, method)| method);
    Pool {
        slots,
        side: 0,
        flags: pool_flags(pool, method.is_some()),
        server_down: by_address.map_or(
            service::server_down::IMMEDIATE,
            |(profile, _)| match profile.server_down {
                ServerDown::Immediate => service::server_down::IMMEDIATE,
                ServerDown::Never => service::server_down::NEVER,
                ServerDown::Continue => service::server_down::CONTINUE,
            },
        ),
        timeout_ns: method.map_or(0, |method| nanoseconds(method.timeout)),
        udp_idle_ns: recent::idle_ns(udp_idle_ns),
        ipv4_mask: Address::ipv4_prefix_mask(method.map_or(32, |method| method.ipv4_mask)),
        ipv6_mask: Address::prefix_mask(method.map_or(128, |method| method.ipv6_mask)),
        id: given.id,
        forwarding: match pool.forwarding {
            Forwarding::Nat => service::forwarding::NAT,
            Forwarding::Masquerade(_) => service::forwarding::MASQUERADE,
            Forwarding::Direct => service::forwarding::DIRECT,
            Forwarding::Tunnel(_) => service::forwarding::TUNNEL,
        },
        algorithm: match pool.algorithm {
            Algorithm::Maglev => service::algorithm::MAGLEV,
            Algorithm::RoundRobin => service::algorithm::ROUND_ROBIN,
            Algorithm::LeastConnections => service::algorithm::LEAST_CONNECTIONS,
            Algorithm::RandomTwo => service::algorithm::RANDOM_TWO,
        },
        turns: 0,
    }
}

fn flood_limits(limits: &model::FloodLimits) -> FloodLimits {
    FloodLimits {
        all: limits.new_clients,
        of_prefix: limits.new_clients_of_prefix,
        ipv4_mask: Address::ipv4_prefix_mask(limits.ipv4_prefix),
        ipv6_mask: Address::prefix_mask(limits.ipv6_prefix),
    }
}

/// The servers that new clients are shared among one after the other, for the pools in which more than the ring decides.
fn turns(pool: &model::Pool, members: &[Member]) -> Option<Vec<u16>> {
    match pool.algorithm {
        Algorithm::RoundRobin => Some(turns::round_robin(members)),
        Algorithm::LeastConnections => Some(turns::each_once(members)),
        Algorithm::Maglev | Algorithm::RandomTwo => {
            pool.is_limited().then(|| turns::each_once(members))
        }
    }
}

fn pool_flags(pool: &model::Pool, is_persistent: bool) -> u32 {
    [
        (is_persistent, pool_flag::PERSISTENT),
        (pool.no_server == NoServer::Reject, pool_flag::REFUSE),
        (pool.reset_connections, pool_flag::RESET),
        (pool.is_limited(), pool_flag::LIMITED),
        (pool.on_limit == OnLimit::Exceed, pool_flag::EXCEED),
        (pool.on_limit == OnLimit::Reject, pool_flag::REJECT),
    ]
    .into_iter()
    .filter_map(|(is_set, flag)| is_set.then_some(flag))
    .sum()
}

/// Where the tunnel to a server comes from, or packets under masquerade; `::` for others.
fn tunnel_source(pool: &model::Pool, server: &model::Server) -> Address {
    match pool.forwarding {
        Forwarding::Tunnel(sources) | Forwarding::Masquerade(sources) => {
            sources.towards(server.address).map_or(Address::UNSPECIFIED, to_map)
        }
        Forwarding::Nat | Forwarding::Direct => Address::UNSPECIFIED,
    }
}

/// Nanoseconds of a duration; as many as fit.
pub fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The interface and frame addresses on the way to a server; interface 0 while they are not known, or if there is no such way:
/// a packet that keeps its destination cannot go through a router, which would send it back.
fn hop(view: &View, server: IpAddr, forwarding: Forwarding) -> (u32, FrameAddresses) {
    let neighbour = view.neighbour_towards(server).map(|(_, neighbour)| neighbour);
    if forwarding == Forwarding::Direct && neighbour != Some(server) {
        return (0, FrameAddresses::ZERO);
    }
    match view.next_hop(server) {
        NextHop::Resolved { interface, source, destination } => {
            (interface, frame(source, destination))
        }
        NextHop::Unresolved { .. } | NextHop::Local | NextHop::Unreachable => {
            (0, FrameAddresses::ZERO)
        }
    }
}

fn route_key(prefix: IpNet) -> (u32, Address) {
    match prefix {
        IpNet::V4(net) => (96 + u32::from(net.prefix_len()), to_map(net.network().into())),
        IpNet::V6(net) => (u32::from(net.prefix_len()), to_map(net.network().into())),
    }
}

fn route_value(target: &RouteTarget, view: &View) -> Route {
    let (kind, interface, frame) = match *target {
        RouteTarget::Local => (route::kind::LOCAL, 0, FrameAddresses::ZERO),
        RouteTarget::OnLink { interface, .. } => {
            (route::kind::ON_LINK, interface, FrameAddresses::ZERO)
        }
        RouteTarget::Gateway { interface, source, mac: Some(mac), .. } => {
            (route::kind::GATEWAY, interface, frame(source, mac))
        }
        RouteTarget::Gateway { mac: None, .. } | RouteTarget::Unreachable => {
            (route::kind::UNREACHABLE, 0, FrameAddresses::ZERO)
        }
    };
    Route { kind, interface, frame, mtu: view.links.get(&interface).map_or(0, |link| link.mtu) }
}

fn frame(source: [u8; 6], destination: [u8; 6]) -> FrameAddresses {
    FrameAddresses { destination: Mac { bytes: destination }, source: Mac { bytes: source } }
}
