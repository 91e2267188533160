//! What the maps say, for people and programs: read from the pins, whether a daemon runs or not.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use lbpersist_common::{
    breaks::BreakReason,
    counter::{Event, ServerCounters, ServiceCounters},
    layout::{Name, NameKey, kind},
    net::Address,
    persistence::{Entry, EntryKey},
    reason::Reason,
    server::{Server, state},
    service::{Pool, pool_flag, scope},
};
use serde::Serialize;

use super::{
    Error,
    address::{from_map, to_map},
    attach,
    listed::{self, Listed},
    maps::{self, Maps, PinDirectory},
};
use crate::{
    breaks::share_kept,
    model::{Ports, Protocol, addresses_text},
    network::{View, XdpMode},
};

/// The answer to `status`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Where the program is attached.
    pub interfaces: Vec<InterfaceStatus>,
    /// The services.
    pub virtual_services: Vec<ServiceStatus>,
    /// The pools.
    pub pools: Vec<PoolStatus>,
    /// Packets by reason; every packet counts under one.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// What happened to the tables.
    pub events: BTreeMap<&'static str, u64>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its index; `None` if there is no interface of that name in this network namespace.
    pub index: Option<u32>,
    /// `native`, `generic` or `offloaded`; `None` if the kernel says that no program is on it.
    pub mode: Option<&'static str>,
}

/// A service and its counters. Bytes count from the Ethernet header on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// The address clients use, or the prefix.
    #[serde(serialize_with = "as_text")]
    pub address: IpNet,
    /// The port clients use: a number, or `all`.
    pub port: Ports,
    /// `tcp` or `udp`.
    pub protocol: Protocol,
    /// Its pool's name.
    pub pool: String,
    /// Packets to servers.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets back to clients.
    pub answer_packets: u64,
    /// Their bytes.
    pub answer_bytes: u64,
    /// New connections; for UDP, clients that were silent or not known.
    pub connections: u64,
    /// Of these, the ones whose client had an entry and met its server.
    pub kept: u64,
    /// Live clients that met another server than theirs, by reason.
    pub breaks: BTreeMap<&'static str, u64>,
    /// Of the connections of live clients, how many met their server, from 0 to 1; `None` before there is one.
    pub share_kept: Option<f64>,
}

/// A pool and its servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// Whether it keeps entries.
    pub persistent: bool,
    /// Its servers.
    pub servers: Vec<ServerStatus>,
}

/// A server and its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerStatus {
    /// Where it listens.
    pub address: IpAddr,
    /// The port it listens on; `None` if it is the service's.
    pub port: Option<u16>,
    /// Its share of new clients.
    pub weight: u32,
    /// `up`, `down`, `draining` or `disabled`.
    pub state: &'static str,
    /// Whether its Ethernet address, or its router's, is known.
    pub reachable: bool,
    /// Packets to it.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// New connections to it.
    pub connections: u64,
    /// Connections that are open now; for UDP, clients that are not silent.
    pub open: u32,
    /// How many may be; `None` for any number.
    pub max_connections: Option<u32>,
}

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
    /// Open connections.
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

/// Reads the pinned maps.
pub struct Reader {
    pins: PinDirectory,
    maps: Maps,
    names: HashMap<NameKey, Name>,
    pools: BTreeMap<u32, Pool>,
    services: Vec<Listed>,
}

impl Reader {
    /// Opens what is pinned.
    ///
    /// # Errors
    ///
    /// When nothing is, or something of another layout.
    pub fn open(pins: &PinDirectory) -> Result<Self, Error> {
        let maps = Maps::open(pins)?;
        let pools = maps::scan::<u32, Pool>(pins, "pools")?;
        let services = listed::services(pins, &maps)?;
        Ok(Self {
            pins: pins.clone(),
            maps,
            names: maps::scan(pins, "names")?.into_iter().collect(),
            pools: pools.into_iter().filter(|(_, pool)| pool.id != 0).collect(),
            services,
        })
    }

    /// Interfaces, services, pools and counters.
    pub fn status(&self, view: &View) -> Result<Status, Error> {
        Ok(Status {
            interfaces: self.interfaces(view)?,
            virtual_services: self.virtual_services()?,
            pools: self.pool_statuses()?,
            verdicts: self.counts("verdicts", Reason::ALL.map(Reason::name))?,
            events: self.counts("events", Event::ALL.map(Event::name))?,
        })
    }

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

    /// Whether a service of that name is configured.
    pub fn has_service(&self, name: &str) -> bool {
        self.services.iter().any(|one| self.name(kind::SERVICE, one.service.index) == name)
    }

    /// Whose the entries of a service's clients are: the service, unless all of its pool share them, and the pool. `None` if there
    /// is no such service.
    pub fn entries_belong_to(&self, name: &str) -> Option<(Option<String>, String)> {
        let mut services = self.services.iter().map(|one| one.service);
        let service = services.find(|one| self.name(kind::SERVICE, one.index) == name)?;
        let own = (service.scope == scope::service(service.id)).then(|| name.to_owned());
        Some((own, self.name(kind::POOL, service.pool)))
    }

    /// Whether a pool of that name is configured.
    pub fn has_pool(&self, name: &str) -> bool {
        self.pools.keys().any(|&number| self.name(kind::POOL, number) == name)
    }

    /// A server by its number.
    pub(super) fn server(&self, number: u32) -> Result<Server, Error> {
        self.maps.servers.get(&number, 0).map_err(|error| Error::map("servers", error))
    }

    /// The numbers of a pool's servers.
    pub(super) fn servers_of(&self, pool: u32) -> Result<Vec<u32>, Error> {
        let servers = maps::scan::<u32, Server>(&self.pins, "servers")?.into_iter();
        let own = servers.filter(|(_, one)| one.state != state::ABSENT && one.pool == pool);
        Ok(own.map(|(number, _)| number).collect())
    }

    /// Where everything is pinned.
    pub(super) fn pins(&self) -> &PinDirectory {
        &self.pins
    }

    /// The pools by number.
    pub(super) fn pools(&self) -> &BTreeMap<u32, Pool> {
        &self.pools
    }

    /// The services.
    pub(super) fn services(&self) -> &[Listed] {
        &self.services
    }

    /// The maps themselves.
    pub(crate) fn maps(&self) -> &Maps {
        &self.maps
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

    pub(super) fn client_prefix(&self, key: &EntryKey) -> IpNet {
        let address = from_map(key.client);
        let length = self.pool_of(key).map_or(128, |(_, pool)| match address {
            IpAddr::V4(_) => pool.ipv4_mask.prefix_length().saturating_sub(96),
            IpAddr::V6(_) => pool.ipv6_mask.prefix_length(),
        });
        IpNet::new(address, length).unwrap_or_else(|_| IpNet::from(address))
    }

    fn entry_status(&self, key: &EntryKey, entry: &Entry, now_ns: u64) -> Option<EntryStatus> {
        let (number, pool) = self.pool_of(key)?;
        let own_service = self
            .services
            .iter()
            .find(|one| scope::service(one.service.id) == key.scope)
            .map(|one| self.name(kind::SERVICE, one.service.index));
        let prefix = self.client_prefix(key);
        let exact = prefix.prefix_len() == prefix.max_prefix_len();
        let server = self.maps.servers.get(&entry.binding.server, 0).ok()?;
        let left = entry.expires_ns(pool.timeout_ns).saturating_sub(now_ns);
        Some(EntryStatus {
            virtual_service: own_service,
            pool: self.name(kind::POOL, number),
            client: if exact { prefix.addr().to_string() } else { prefix.to_string() },
            destination: listed::destination(key, &self.services),
            server: server_name(server.address, server.port),
            open: entry.open,
            age_seconds: seconds(now_ns.saturating_sub(entry.created_ns)),
            expires_in_seconds: (entry.open == 0).then(|| seconds(left)),
        })
    }

    fn interfaces(&self, view: &View) -> Result<Vec<InterfaceStatus>, Error> {
        let names = attach::interfaces(&self.pins)?;
        Ok(names
            .into_iter()
            .map(|name| {
                let link = view.link_by_name(&name);
                let mode = link.and_then(|(_, link)| link.xdp).map(|mode| match mode {
                    XdpMode::Native => "native",
                    XdpMode::Generic => "generic",
                    XdpMode::Offloaded => "offloaded",
                });
                InterfaceStatus { index: link.map(|(index, _)| index), mode, name }
            })
            .collect())
    }

    fn virtual_services(&self) -> Result<Vec<ServiceStatus>, Error> {
        let mut statuses = Vec::new();
        let own = self.services.iter().filter(|one| !one.is_carried);
        for Listed { addresses, ports, protocol, service, .. } in own {
            let counters = self
                .maps
                .service_stats
                .get(&service.index, 0)
                .map_err(|error| Error::map("service_stats", error))?;
            let sum = |field: fn(&ServiceCounters) -> u64| counters.iter().map(field).sum::<u64>();
            let kept = sum(|counters| counters.kept);
            let breaks = self.breaks_of(service.index)?;
            statuses.push(ServiceStatus {
                name: self.name(kind::SERVICE, service.index),
                address: *addresses,
                port: *ports,
                protocol: *protocol,
                pool: self.name(kind::POOL, service.pool),
                packets: sum(|counters| counters.packets),
                bytes: sum(|counters| counters.bytes),
                answer_packets: sum(|counters| counters.answer_packets),
                answer_bytes: sum(|counters| counters.answer_bytes),
                connections: sum(|counters| counters.connections),
                kept,
                share_kept: share_kept(kept, breaks.values().sum()),
                breaks,
            });
        }
        statuses.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(statuses)
    }

    fn pool_statuses(&self) -> Result<Vec<PoolStatus>, Error> {
        let servers: Vec<(u32, Server)> = maps::scan::<u32, Server>(&self.pins, "servers")?
            .into_iter()
            .filter(|(_, server)| server.state != state::ABSENT)
            .collect();
        let mut statuses = Vec::new();
        for (&number, pool) in &self.pools {
            let own = servers.iter().filter(|(_, server)| server.pool == number);
            let servers: Result<Vec<_>, _> =
                own.map(|(number, server)| self.server_status(*number, server)).collect();
            statuses.push(PoolStatus {
                name: self.name(kind::POOL, number),
                persistent: pool.flags & pool_flag::PERSISTENT != 0,
                servers: servers?,
            });
        }
        statuses.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(statuses)
    }

    fn server_status(&self, number: u32, server: &Server) -> Result<ServerStatus, Error> {
        let counters = self
            .maps
            .server_stats
            .get(&number, 0)
            .map_err(|error| Error::map("server_stats", error))?;
        let sum = |field: fn(&ServerCounters) -> u64| counters.iter().map(field).sum::<u64>();
        Ok(ServerStatus {
            address: from_map(server.address),
            port: (server.port != 0).then_some(server.port),
            weight: u32::from(server.weight),
            state: state_name(server.state),
            reachable: server.interface != 0,
            packets: sum(|counters| counters.packets),
            bytes: sum(|counters| counters.bytes),
            connections: sum(|counters| counters.connections),
            open: self.maps.server_load.of(number).open,
            max_connections: self.max_connections(number)?,
        })
    }

    fn max_connections(&self, number: u32) -> Result<Option<u32>, Error> {
        let limit = self.maps.server_limits.get(&number, 0);
        let limit = limit.map_err(|error| Error::map("server_limits", error))?;
        Ok((limit != 0).then_some(limit))
    }

    fn counts<const N: usize>(
        &self,
        map: &'static str,
        names: [&'static str; N],
    ) -> Result<BTreeMap<&'static str, u64>, Error> {
        let counters = if map == "verdicts" { &self.maps.verdicts } else { &self.maps.events };
        let mut counts = BTreeMap::new();
        for (number, name) in (0..).zip(names) {
            let values = counters.get(&number, 0).map_err(|error| Error::map(map, error))?;
            counts.insert(name, values.iter().sum());
        }
        Ok(counts)
    }

    /// The name of a service by its counters' place, or of a pool by its number.
    pub(super) fn name(&self, kind: u32, number: u32) -> String {
        self.names
            .get(&NameKey { kind, number })
            .map_or_else(|| format!("#{number}"), |name| name.as_str().to_owned())
    }
}

/// The word for a server's state.
pub fn state_name(state: u8) -> &'static str {
    match state {
        state::UP => "up",
        state::DRAINING => "draining",
        state::DISABLED => "disabled",
        _ => "down",
    }
}

fn as_text<S: serde::Serializer>(addresses: &IpNet, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&addresses_text(*addresses))
}

/// A server's address, with its port if it has one of its own.
pub(super) fn server_name(address: Address, port: u16) -> String {
    match (from_map(address), port) {
        (address, 0) => address.to_string(),
        (IpAddr::V4(address), port) => format!("{address}:{port}"),
        (IpAddr::V6(address), port) => format!("[{address}]:{port}"),
    }
}

/// Seconds of so many nanoseconds.
pub(super) fn seconds(nanoseconds: u64) -> f64 {
    // To a millisecond: finer is not what the clock of the tables knows.
    (nanoseconds / 1_000_000) as f64 / 1_000.0
}
