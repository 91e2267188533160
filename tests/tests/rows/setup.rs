//! The network of all rows, configurations for it, and what clients do.
//!
//! Interface 1 is where packets come in and where clients are, most of them behind a router; interface 2 is behind. Servers
//! 11 to 19 are behind interface 2, servers 21 to 29 are neighbours on interface 1.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use lbpersist::network::{self, RouteKind, Table, View};
use lbpersist_common::{reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::{Link, Mac, Packet},
    rig::{Action, Outcome, Rig},
    topology::Family,
};

/// The interface that packets come in by.
pub(crate) const NEAR: u32 = lbpersist_tests::rig::INGRESS;
/// The other one.
pub(crate) const FAR: u32 = 2;
/// The ports of the services: TCP, UDP.
pub(crate) const WEB: u16 = 80;
pub(crate) const DNS: u16 = 53;
/// The port of the servers.
pub(crate) const SERVER_PORT: u16 = 8080;
/// The pools' numbers: they are given in the order of the names.
pub(crate) const POOL_V4: u32 = 0;

pub(crate) const V4: Family = Family::V4;
pub(crate) const V6: Family = Family::V6;

/// The configuration that most rows have: two services, TCP and UDP, and one pool for each family.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    /// Servers and their weights.
    pub(crate) servers: Vec<(u8, u16)>,
    /// The servers' port.
    pub(crate) port: Option<u16>,
    /// Servers that are neither up nor down, and the lines that say so.
    pub(crate) states: Vec<(u8, &'static str)>,
    /// Lines of the persistence profile; `None` has no profile.
    pub(crate) profile: Option<&'static str>,
    /// Connections that each server may have.
    pub(crate) limit: Option<u32>,
    /// Lines of both pools.
    pub(crate) pool: &'static str,
    /// Lines of the idle limits.
    pub(crate) limits: &'static str,
    /// Further tables.
    pub(crate) more: String,
}

impl Default for Text {
    fn default() -> Self {
        Self {
            servers: vec![(11, 1)],
            port: Some(SERVER_PORT),
            states: Vec::new(),
            profile: Some("timeout = \"5m\""),
            limit: None,
            pool: "",
            limits: "",
            more: String::new(),
        }
    }
}

impl Text {
    pub(crate) fn servers(servers: &[u8]) -> Self {
        Self { servers: servers.iter().map(|&host| (host, 1)).collect(), ..Self::default() }
    }

    pub(crate) fn profile(self, lines: &'static str) -> Self {
        Self { profile: Some(lines), ..self }
    }

    pub(crate) fn pool(self, lines: &'static str) -> Self {
        Self { pool: lines, ..self }
    }

    pub(crate) fn states(self, states: &[(u8, &'static str)]) -> Self {
        Self { states: states.to_vec(), ..self }
    }

    pub(crate) fn without_persistence(self) -> Self {
        Self { profile: None, ..self }
    }

    pub(crate) fn limits(self, limits: &'static str) -> Self {
        Self { limits, ..self }
    }

    /// Another TCP service on the pool of that family.
    pub(crate) fn also(mut self, name: &str, at: SocketAddr, pool: &str) -> Self {
        self.more += &service(name, at, "tcp", pool);
        self
    }

    pub(crate) fn rig(&self) -> Option<Rig> {
        self.rig_in(network())
    }

    pub(crate) fn rig_in(&self, view: View) -> Option<Rig> {
        Rig::new(&self.text(), view)
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "[data_path]\nring_size = 251\nentry_table = 1024\nconnection_table = 1024\n\
             handshake_table = 1024\n[idle_limits]\n{}\n",
            self.limits
        );
        let profile = self.profile.map_or(String::new(), |lines| {
            let _ = writeln!(text, "[[persistence_profile]]\nname = \"kept\"\n{lines}");
            "persistence_profile = \"kept\"\n".to_owned()
        });
        for (family, pool) in [(V4, "v4"), (V6, "v6")] {
            text += &service(&format!("web-{pool}"), family.service(WEB), "tcp", pool);
            text += &service(&format!("dns-{pool}"), family.service(DNS), "udp", pool);
            let _ =
                writeln!(text, "[[pool]]\nname = \"{pool}\"\n{profile}{}\nservers = [", self.pool);
            for &(host, weight) in &self.servers {
                let address = server_address(family, host);
                let mut port = self.port.map_or(String::new(), |port| format!("port = {port}, "));
                if let Some(limit) = self.limit {
                    let _ = write!(port, "max_connections = {limit}, ");
                }
                let state = self.states.iter().find(|(other, _)| *other == host);
                let state = state.map_or(String::new(), |(_, state)| format!(", {state}"));
                let _ = writeln!(
                    text,
                    "  {{ address = \"{address}\", {port}weight = {weight}{state} }},"
                );
            }
            text += "]\n";
        }
        text + &self.more
    }
}

fn service(name: &str, at: SocketAddr, protocol: &str, pool: &str) -> String {
    format!(
        "[[virtual_service]]\nname = \"{name}\"\naddress = \"{}\"\nport = {}\n\
         protocol = \"{protocol}\"\npool = \"{pool}\"\n",
        at.ip(),
        at.port()
    )
}

/// Links, routes and neighbours.
pub(crate) fn network() -> View {
    View::new(links(), routes(), neighbours())
}

pub(crate) fn links() -> BTreeMap<u32, network::Link> {
    let link = |index| network::Link {
        name: format!("if{index}"),
        mac: Some(own_mac(index)),
        up: true,
        mtu: 1500,
        xdp: None,
    };
    [NEAR, FAR].map(|index| (index, link(index))).into()
}

pub(crate) fn routes() -> Vec<network::Route> {
    let local = |prefix| network::Route {
        table: Table::Local,
        kind: RouteKind::Local,
        ..route(prefix, None, 0)
    };
    vec![
        route("0.0.0.0/0", Some("192.0.2.1"), NEAR),
        route("192.0.2.0/24", None, NEAR),
        route("10.0.0.0/24", None, FAR),
        route("203.0.113.0/24", Some("10.0.0.1"), FAR),
        local("192.0.2.2/32"),
        route("::/0", Some("fd00:1::1"), NEAR),
        route("fd00:1::/64", None, NEAR),
        route("fd00:2::/64", None, FAR),
        route("2001:db8:f::/48", Some("fd00:2::1"), FAR),
        local("fd00:1::2/128"),
    ]
}

pub(crate) fn route(prefix: &str, gateway: Option<&str>, interface: u32) -> network::Route {
    network::Route {
        prefix: prefix.parse::<IpNet>().unwrap(),
        table: Table::Main,
        kind: RouteKind::Unicast,
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        interface,
        metric: 0,
    }
}

pub(crate) fn neighbours() -> BTreeMap<(u32, IpAddr), Mac> {
    let far = (11..20).chain([1]).map(|host| (FAR, host));
    let near = (21..30).chain([1, 50]).map(|host| (NEAR, host));
    let all = far.chain(near);
    all.flat_map(|(interface, host)| {
        Family::BOTH.map(|family| {
            let mac = neighbour_mac(family, interface, host);
            ((interface, host_address(family, interface, host)), mac)
        })
    })
    .collect()
}

/// The address of a host on a link.
pub(crate) fn host_address(family: Family, interface: u32, host: u8) -> IpAddr {
    let text = match (family, interface) {
        (V4, NEAR) => format!("192.0.2.{host}"),
        (V4, _) => format!("10.0.0.{host}"),
        (V6, _) => format!("fd00:{interface}::{host}"),
    };
    text.parse().unwrap()
}

pub(crate) fn own_mac(interface: u32) -> Mac {
    [2, 0xff, 0, 0, 0, u8::try_from(interface).unwrap()]
}

pub(crate) fn neighbour_mac(family: Family, interface: u32, host: u8) -> Mac {
    let family = if family == V4 { 4 } else { 6 };
    [2, u8::try_from(interface).unwrap(), family, 0, 0, host]
}

/// From an interface of the balancer to a host on its link.
pub(crate) fn link_to(family: Family, interface: u32, host: u8) -> Link {
    Link { source: own_mac(interface), destination: neighbour_mac(family, interface, host) }
}

pub(crate) fn server_address(family: Family, host: u8) -> IpAddr {
    host_address(family, if host < 20 { FAR } else { NEAR }, host)
}

/// Where a server listens.
pub(crate) fn server(family: Family, host: u8) -> SocketAddr {
    SocketAddr::new(server_address(family, host), SERVER_PORT)
}

/// Client number `n` behind the router, each in a /24 or /64 of its own.
pub(crate) fn client(family: Family, n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    let text = match family {
        V4 => format!("172.{}.{low}.7", 16 + high),
        V6 => format!("2001:db8:c:{n:x}::7"),
    };
    SocketAddr::new(text.parse().unwrap(), 40_000)
}

/// The same client's connection number `n`.
pub(crate) fn at_port(client: SocketAddr, n: u16) -> SocketAddr {
    SocketAddr::new(client.ip(), 40_000 + n)
}

/// What clients do. All of it must be forwarded, and comes back as the number of the server that got it.
pub(crate) trait Visits {
    fn send_packet(&mut self, packet: &Packet) -> Outcome;
    fn server_of(&mut self, packet: &Packet) -> u8;

    /// A segment from the client.
    fn segment(&mut self, client: SocketAddr, flags: u8) -> u8 {
        self.server_of(&Packet::tcp(client, web(client), flags).payload(b"data"))
    }

    /// The client's SYN.
    fn syn(&mut self, client: SocketAddr) -> u8 {
        self.server_of(&Packet::tcp(client, web(client), flag::SYN))
    }

    /// A segment without flags but ACK.
    fn data(&mut self, client: SocketAddr) -> u8 {
        self.segment(client, flag::ACK)
    }

    /// A whole handshake.
    fn open(&mut self, client: SocketAddr) -> u8 {
        let host = self.syn(client);
        self.answer(host, client, flag::SYN | flag::ACK);
        assert_eq!(self.data(client), host, "the client's answer goes where its SYN went");
        host
    }

    /// A segment from the server.
    fn answer(&mut self, host: u8, client: SocketAddr, flags: u8) {
        let outcome = self.send_packet(&Packet::tcp(server(family(client), host), client, flags));
        assert_eq!(outcome.reason, Reason::Returned);
    }

    /// FIN both ways.
    fn close(&mut self, host: u8, client: SocketAddr) {
        assert_eq!(self.segment(client, flag::FIN | flag::ACK), host);
        self.answer(host, client, flag::FIN | flag::ACK);
        self.data(client);
    }

    /// A datagram from the client.
    fn ask(&mut self, client: SocketAddr) -> u8 {
        self.server_of(&Packet::udp(client, family(client).service(DNS)))
    }
}

impl Visits for Rig {
    fn send_packet(&mut self, packet: &Packet) -> Outcome {
        self.send(&packet.bytes()).unwrap()
    }

    fn server_of(&mut self, packet: &Packet) -> u8 {
        let outcome = self.send_packet(packet);
        assert_eq!(outcome.reason, Reason::Forwarded, "{packet:?}");
        assert!(matches!(outcome.action, Action::Transmit | Action::Redirect), "{outcome:?}");
        let last = if packet.to.is_ipv4() { 33 } else { 53 };
        let host = outcome.packet[last];
        // An IPv6 host is written in decimal figures, which its address has as hexadecimal ones.
        if packet.to.is_ipv4() { host } else { host / 16 * 10 + host % 16 }
    }
}

pub(crate) fn family(client: SocketAddr) -> Family {
    if client.is_ipv4() { V4 } else { V6 }
}

pub(crate) fn web(client: SocketAddr) -> SocketAddr {
    family(client).service(WEB)
}
