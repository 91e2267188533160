//! The answer to `status`: interfaces, services, pools and counters.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use lbpersist_common::{
    counter::{Event, ServerCounters, ServiceCounters},
    layout::kind,
    reason::Reason,
    server::{Server, state},
    service::pool_flag,
};
use serde::Serialize;

use super::{Reader, state_name};
use crate::{
    breaks::share_kept,
    datapath::{Error, address::from_map, attach, listed::Listed, maps},
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

impl Reader {
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
}

fn as_text<S: serde::Serializer>(addresses: &IpNet, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&addresses_text(*addresses))
}
