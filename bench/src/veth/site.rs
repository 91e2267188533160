//! One system under test: its namespaces, its servers, and what balances between them.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{Array, Map, MapData},
    programs::Xdp,
};
use aya_obj::programs::XdpAttachType;
use bytemuck::Zeroable as _;
use lbpersist::datapath::maps::{Maps, PinDirectory};
use lbpersist_common::{net::TCP, ring::Slot, tcp::flag};
use lbpersist_tests::{
    balancer::Balancer,
    client::{self, Transport},
    server::Server,
    topology::{Family, Topology, Wiring},
};

use super::{
    Sent,
    generator::Generator,
    nftables::{self, Choice},
};
use crate::{
    frame::{self, End, Headers, Offsets},
    measure, open,
    plan::Plan,
    replay::scattered_step,
};

/// Who balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// Nobody: frames are counted where they reach the balancer.
    Floor,
    Lbpersist,
    Nftables(Choice),
}

impl System {
    pub(crate) const ALL: [Self; 5] = [
        Self::Floor,
        Self::Lbpersist,
        Self::Nftables(Choice::Jhash),
        Self::Nftables(Choice::Numgen),
        Self::Nftables(Choice::Stateless),
    ];

    /// Its name in records.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Lbpersist => "lbpersist",
            Self::Nftables(Choice::Jhash) => "nftables-jhash",
            Self::Nftables(Choice::Numgen) => "nftables-numgen",
            Self::Nftables(Choice::Stateless) => "nftables-stateless",
        }
    }
}

/// Addresses that connections come from.
pub(crate) const ADDRESSES: u32 = 250;

const SERVERS: u8 = 4;
/// Where clients connect to, and where servers listen.
const PORTS: (u16, u16) = (80, 8_080);
/// Frames are addressed to this balancer.
pub(crate) const MAC: &str = "02:00:00:00:00:01";
/// 10.64.0.1, of the block that lies behind the client.
pub(crate) const FIRST_CLIENT: u32 = 0x0a40_0001;
pub(crate) const FIRST_PORT: u16 = 20_000;
/// How long the first frames may take to get through: neighbours are asked for their addresses.
const WARM_WITHIN: Duration = Duration::from_secs(30);

/// A system and its surroundings. All of it goes when this is dropped.
pub(crate) struct Site {
    pub(crate) system: System,
    topology: Topology,
    generator: Generator,
    warm_clients: Vec<u32>,
    _servers: Vec<Server>,
    balancer: Option<Balancer>,
}

impl Site {
    pub(crate) fn build(system: System) -> Result<Self> {
        let told = || format!("building the namespaces of {}", system.name());
        Self::try_build(system).with_context(told)
    }

    fn try_build(system: System) -> Result<Self> {
        let topology = Topology::new(Wiring::Routed, 1, SERVERS)?;
        let near = &topology.interfaces[0];
        topology.balancer.ip(&format!("link set {near} address {MAC}"))?;
        let servers = topology.start_servers(&[PORTS.1], &[])?;
        let mut generator = Generator::load(&topology.clients[0].namespace)?;
        for host in &topology.servers {
            generator.count_at(&host.namespace, "eth0")?;
        }
        let mut balancer = None;
        let addresses = topology.servers.iter().map(|host| host.address(Family::V4));
        let addresses: Vec<IpAddr> = addresses.collect();
        match system {
            System::Floor => generator.count_at(&topology.balancer, near)?,
            System::Lbpersist => {
                let (namespace, interfaces) = (&topology.balancer, &topology.interfaces);
                balancer = Some(Balancer::start(namespace, configuration(&addresses), interfaces)?);
            }
            System::Nftables(choice) => {
                for interface in &topology.interfaces {
                    topology.balancer.receive_by_napi(interface)?;
                }
                let service = Family::V4.service_address();
                nftables::apply(&topology.balancer, choice, service, PORTS, &addresses)?;
            }
        }
        let (_servers, warm_clients) = (servers, Vec::new());
        Ok(Self { system, topology, generator, warm_clients, _servers, balancer })
    }

    /// Sends frames of so many clients.
    pub(crate) fn packets(&mut self, clients: u32, packets: u32) -> Result<Sent> {
        if !self.warm_clients.contains(&clients) {
            self.warm(clients)?;
            self.warm_clients.push(clients);
        }
        self.generator.send(&plan(clients, &[flag::ACK]), packets)
    }

    /// Has every client known, and waits until all of their frames get through.
    fn warm(&mut self, clients: u32) -> Result<()> {
        let deadline = Instant::now() + WARM_WITHIN;
        // conntrack takes a connection in its middle for what it is.
        let plan = plan(clients, &[flag::ACK]);
        let packets = (clients * 2).max(1_000);
        let mut last = self.generator.send(&plan, packets)?;
        while last.arrived < last.sent {
            let Sent { sent, arrived, .. } = last;
            ensure!(Instant::now() < deadline, "only {arrived} of {sent} frames arrive");
            last = self.generator.send(&plan, packets)?;
        }
        match &self.balancer {
            Some(balancer) => open_all(balancer, clients, deadline),
            None => Ok(()),
        }
    }

    /// Opens so many connections from some addresses, asks a server on each, and closes.
    pub(crate) fn connections(&self, round: u32, connections: u32) -> Result<Sent> {
        let to = SocketAddr::new(Family::V4.service_address(), PORTS.0);
        let client = &self.topology.clients[0];
        // Other addresses each time: a port may be in TIME-WAIT at the server.
        let from = |number: u32| {
            let host = u8::try_from(number % ADDRESSES + 1).unwrap_or(u8::MAX);
            client.address_in(Family::V4, 2_000 + round % 2_000, host)
        };
        let questions: Vec<_> = (0..connections).map(|number| (from(number), to)).collect();
        let begin = Instant::now();
        let answers = client::ask_many(&client.namespace, Transport::Http, questions);
        let took = begin.elapsed();
        let failed = answers.iter().filter(|answer| answer.is_err()).count() as u64;
        let sent = u64::from(connections);
        if let (true, Some(Err(error))) = (failed == sent, answers.into_iter().next()) {
            return Err(error).context("not one connection got an answer");
        }
        Ok(Sent { sent, arrived: sent - failed, took })
    }
}

/// Opens a connection of every client, and waits until the daemon has seen that none of them needs to be looked up.
fn open_all(balancer: &Balancer, clients: u32, deadline: Instant) -> Result<()> {
    let program = balancer.pin_directory().join("programs/lbpersist");
    let program = Xdp::from_pin(program, XdpAttachType::Interface)?;
    let service = End { address: Family::V4.service_address(), port: PORTS.0 };
    for number in 0..clients {
        let address = FIRST_CLIENT.wrapping_add(number).to_be_bytes().into();
        let client = End { address, port: FIRST_PORT.wrapping_add(number as u16) };
        while let Err(error) = open::open(&program, client, service) {
            ensure!(Instant::now() < deadline, "client {number}: {error:#}");
            thread::sleep(Duration::from_millis(10));
        }
    }
    let maps = Maps::open(&PinDirectory::new(balancer.pin_directory()))?;
    while has_marks(&maps)? {
        ensure!(Instant::now() < deadline, "slots stay marked");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Whether packets of any slot have to look into the tables.
fn has_marks(maps: &Maps) -> Result<bool> {
    for number in 0..maps.pools.len() {
        if maps.pools.get(&number, 0)?.id == 0 {
            continue;
        }
        let ring = Map::from_map_data(maps.rings.get(&number, 0)?)?;
        let ring: Array<MapData, Slot> = ring.try_into()?;
        for slot in ring.iter() {
            if slot?.marks != 0 {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// A service with persistence, as a user would write it.
pub(crate) fn configuration(servers: &[IpAddr]) -> String {
    let (port, server_port) = PORTS;
    let servers: String = servers
        .iter()
        .map(|address| format!("  {{ address = \"{address}\", port = {server_port} }},\n"))
        .collect();
    format!(
        "[[virtual_service]]\nname = \"service\"\naddress = \"{}\"\nport = {port}\nprotocol = \"tcp\"\n\
         pool = \"pool\"\n\n[[persistence_profile]]\nname = \"client\"\ntimeout = \"1h\"\n\n\
         [[pool]]\nname = \"pool\"\nforwarding = \"nat\"\npersistence_profile = \"client\"\nservers = [\n{servers}]\n",
        Family::V4.service_address()
    )
}

/// Packets of so many clients, each of which sends one with each of `flags`.
pub(crate) fn plan(clients: u32, flags: &[u8]) -> Plan {
    let first = flags.first().copied().unwrap_or(flag::ACK);
    let headers = Headers {
        from: End { address: FIRST_CLIENT.to_be_bytes().into(), port: FIRST_PORT },
        to: End { address: Family::V4.service_address(), port: PORTS.0 },
        protocol: TCP,
        flags: first,
    };
    let at = Offsets::of(headers.to.address);
    Plan {
        frame: measure::words(&frame::build(&headers)),
        clients,
        step: scattered_step(clients),
        first_address: FIRST_CLIENT,
        first_port: FIRST_PORT,
        address_at: at.source_tail() as u16,
        port_at: at.source_port() as u16,
        flags_at: at.flags() as u16,
        flags: [first, flags.last().copied().unwrap_or(first)],
        packets: flags.len() as u8,
        ..Plan::zeroed()
    }
}
