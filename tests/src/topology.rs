//! Clients, a balancer and servers, wired together.
//!
//! | who | IPv4 | IPv6 |
//! | --- | --- | --- |
//! | client *i* | 10.1.*i*.2/24 and all of 10.(64+16*i*).0.0/12 | fd00:1:*i*::2/64 and all of fd00:(64+16*i*)::/32 |
//! | server *j* | 10.2.*j*.10/24 | fd00:2:*j*::a/64 |
//! | the service | 198.51.100.10 | 2001:db8:100::10 |
//!
//! The balancer is the gateway of everybody, the first address of every subnet, and holds the service's addresses on its loopback
//! interface, so that whatever XDP lets pass is answered (or refused) by the balancer itself. Everyone speaks both families.

use std::{
    fmt::Write as _,
    io,
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;

pub use crate::addresses::Family;
use crate::{
    addresses::{Subnet, block_address, gateway_lines, host_lines},
    client::{self, Answer, Held, Transport},
    namespace::Namespace,
    server::{Listen, Server},
    wait,
};

/// How the balancer is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// One veth to each client and each server.
    Routed,
    /// One veth to a bridge that joins all.
    OneArm,
    /// As `OneArm`, but through a macvlan, which has no native XDP.
    OneArmGeneric,
}

/// Everything that [`Topology::new`] makes; it goes away when this is dropped.
#[derive(Debug)]
pub struct Topology {
    /// Where lbpersist runs.
    pub balancer: Namespace,
    /// The balancer's interfaces towards clients and servers.
    pub interfaces: Vec<String>,
    /// The clients.
    pub clients: Vec<Client>,
    /// The hosts for servers.
    pub servers: Vec<Host>,
    /// The bridge of a one-arm wiring.
    pub bridge: Option<Namespace>,
}

/// Names namespaces by their roles.
pub type Naming<'a> = &'a dyn Fn(&str) -> Result<Namespace>;

impl Topology {
    /// Wires `clients` (at most 12) and `servers` (at most 200) to a balancer.
    pub fn new(wiring: Wiring, clients: u8, servers: u8) -> Result<Self> {
        Self::with_namespaces(wiring, clients, servers, &Namespace::create)
    }

    /// The same, in namespaces that `naming` makes.
    pub fn with_namespaces(
        wiring: Wiring,
        clients: u8,
        servers: u8,
        naming: Naming<'_>,
    ) -> Result<Self> {
        anyhow::ensure!(clients <= 12 && servers <= 200, "there are not that many addresses");
        let mut topology = Self {
            balancer: balancer(naming)?,
            interfaces: Vec::new(),
            clients: Vec::new(),
            servers: Vec::new(),
            bridge: None,
        };
        if wiring != Wiring::Routed {
            let bridge = naming("bridge")?;
            bridge.ip("link add br0 type bridge\nlink set br0 up")?;
            topology.bridge = Some(bridge);
            topology.join_bridge(wiring)?;
        }
        for index in 0..clients {
            let namespace = naming(&format!("client{}", index + 1))?;
            let interface = topology.wire(&namespace, &format!("client{}", index + 1))?;
            let client = Client { namespace, index };
            topology.balancer.ip(&client.balancer_lines(&interface))?;
            client.prepare()?;
            topology.clients.push(client);
        }
        for index in 0..servers {
            let namespace = naming(&format!("server{}", index + 1))?;
            let interface = topology.wire(&namespace, &format!("server{}", index + 1))?;
            let host = Host { namespace, index };
            topology.balancer.ip(&gateway_lines(&host.subnet(), &interface))?;
            host.namespace.ip(&host_lines(&host.subnet()))?;
            topology.servers.push(host);
        }
        topology.settle();
        Ok(topology)
    }

    /// Waits until every address can be used: even without duplicate address detection an IPv6 address is tentative until the
    /// kernel has noticed that its link is up.
    fn settle(&self) {
        let clients = self.clients.iter().map(|client| &client.namespace);
        let servers = self.servers.iter().map(|host| &host.namespace);
        for namespace in clients.chain(servers).chain([&self.balancer]) {
            let what = format!("all addresses of {} usable", namespace.name());
            wait::until_true(&what, || namespace.has_usable_addresses());
        }
    }

    /// Starts a server with `listen`'s ports on every host, named `s1` and so on.
    pub fn start_servers(&self, tcp: &[u16], udp: &[u16]) -> Result<Vec<Server>> {
        self.servers.iter().map(|host| host.start(tcp, udp)).collect()
    }

    /// Leaves everything in place when this is dropped.
    pub fn keep(&self) {
        self.balancer.keep();
        self.bridge.iter().for_each(Namespace::keep);
        self.clients.iter().for_each(|client| client.namespace.keep());
        self.servers.iter().for_each(|host| host.namespace.keep());
    }

    /// Connects a host's `eth0` and returns the balancer's interface towards it.
    fn wire(&mut self, host: &Namespace, name: &str) -> Result<String> {
        let near = self.bridge.as_ref().unwrap_or(&self.balancer);
        near.ip(&format!(
            "link add {name} type veth peer name eth0 netns {}\nlink set {name} up",
            host.name()
        ))?;
        host.ip("link set eth0 up")?;
        host.host_offloads("eth0")?;
        match &self.bridge {
            Some(bridge) => {
                bridge.ip(&format!("link set {name} master br0"))?;
                Ok(self.interfaces[0].clone())
            }
            None => {
                self.interfaces.push(name.to_owned());
                Ok(name.to_owned())
            }
        }
    }

    /// Gives the balancer its one interface, `uplink`.
    fn join_bridge(&mut self, wiring: Wiring) -> Result<()> {
        let Some(bridge) = &self.bridge else {
            return Ok(());
        };
        let near = if wiring == Wiring::OneArm { "uplink" } else { "wire" };
        self.balancer.ip(&format!(
            "link add {near} type veth peer name balancer netns {}\nlink set {near} up",
            bridge.name()
        ))?;
        bridge.ip("link set balancer master br0\nlink set balancer up")?;
        bridge.host_offloads("balancer")?;
        if wiring == Wiring::OneArmGeneric {
            self.balancer.ip(
                "link add link wire name uplink type macvlan mode bridge\nlink set uplink up",
            )?;
        }
        self.interfaces.push("uplink".to_owned());
        Ok(())
    }
}

/// A client's end.
#[derive(Clone, Debug)]
pub struct Client {
    /// Where it lives.
    pub namespace: Namespace,
    index: u8,
}

impl Client {
    /// Its own address.
    pub fn address(&self, family: Family) -> IpAddr {
        self.subnet().host(family, 2)
    }

    /// One of its many addresses: `host` (1 to 254) in subnet number `subnet` (IPv4: a /24, 0 to 4095; IPv6: a /64).
    pub fn address_in(&self, family: Family, subnet: u32, host: u8) -> IpAddr {
        block_address(self.index, family, subnet, host)
    }

    /// Asks over HTTP from its own address.
    pub fn ask(&self, to: SocketAddr) -> io::Result<Answer> {
        self.ask_from(self.own(to), to)
    }

    /// Asks over HTTP from one of its addresses.
    pub fn ask_from(&self, from: IpAddr, to: SocketAddr) -> io::Result<Answer> {
        client::ask(&self.namespace, from, to)
    }

    /// Asks from each of the addresses, many at a time; answers come in their order.
    pub fn ask_from_each(
        &self,
        transport: Transport,
        from: &[IpAddr],
        to: SocketAddr,
    ) -> Vec<io::Result<Answer>> {
        client::ask_many(&self.namespace, transport, from.iter().map(|&from| (from, to)))
    }

    /// Opens a connection from its own address and keeps it.
    pub fn hold(&self, to: SocketAddr) -> io::Result<Held> {
        self.hold_from(self.own(to), to)
    }

    /// Opens a connection from one of its addresses and keeps it.
    pub fn hold_from(&self, from: IpAddr, to: SocketAddr) -> io::Result<Held> {
        Held::open(&self.namespace, from, to)
    }

    fn own(&self, to: SocketAddr) -> IpAddr {
        self.address(if to.is_ipv4() { Family::V4 } else { Family::V6 })
    }

    fn subnet(&self) -> Subnet {
        Subnet { kind: 1, index: self.index }
    }

    /// Routes of its many addresses, as the balancer needs them.
    fn balancer_lines(&self, interface: &str) -> String {
        let mut lines = gateway_lines(&self.subnet(), interface);
        for (family, length) in [(Family::V4, 12), (Family::V6, 32)] {
            let block = self.address_in(family, 0, 0);
            let via = self.address(family);
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "route add {block}/{length} via {via} dev {interface}");
        }
        lines
    }

    /// Addresses, routes, and the right to use any of the many addresses without naming each.
    fn prepare(&self) -> Result<()> {
        let mut lines = host_lines(&self.subnet());
        for (family, length) in [(Family::V4, 12), (Family::V6, 32)] {
            let block = self.address_in(family, 0, 0);
            let _ = writeln!(lines, "route add local {block}/{length} dev lo");
        }
        self.namespace.sysctl("ipv6/ip_nonlocal_bind", "1")?;
        self.namespace.ip(&lines)
    }
}

/// A host for a server.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where it lives.
    pub namespace: Namespace,
    index: u8,
}

impl Host {
    /// Its address.
    pub fn address(&self, family: Family) -> IpAddr {
        self.subnet().host(family, 0x0a)
    }

    /// Its server's name: `s1` for the first.
    pub fn name(&self) -> String {
        format!("s{}", self.index + 1)
    }

    /// Where its server listens with these ports.
    pub fn listen(&self, tcp: &[u16], udp: &[u16]) -> Listen {
        let addresses = Family::BOTH.map(|family| self.address(family)).to_vec();
        Listen { addresses, tcp: tcp.to_vec(), udp: udp.to_vec() }
    }

    /// Takes its way to everybody away, except to these addresses of the balancer and to its own subnet.
    pub fn knows_only(&self, addresses: &[IpAddr]) -> Result<()> {
        let mut lines = String::new();
        for (family, everything) in [(Family::V4, "0.0.0.0/0"), (Family::V6, "::/0")] {
            let gateway = self.subnet().host(family, 1);
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "route del {everything} via {gateway}");
            for address in addresses {
                if address.is_ipv4() == gateway.is_ipv4() && *address != gateway {
                    let _ = writeln!(lines, "route add {address} via {gateway}");
                }
            }
        }
        self.namespace.ip(&lines)
    }

    /// Has it answer its balancer no more, as if it had lost its power: it closes nothing.
    pub fn hears_nobody(&self) -> Result<()> {
        let gateways = Family::BOTH.map(|family| self.subnet().host(family, 1));
        let lines = gateways.map(|gateway| format!("route add blackhole {gateway} metric 1\n"));
        self.namespace.ip(&lines.concat())
    }

    /// Starts its server.
    pub fn start(&self, tcp: &[u16], udp: &[u16]) -> Result<Server> {
        Server::start(&self.name(), &self.namespace, self.listen(tcp, udp))
    }

    fn subnet(&self) -> Subnet {
        Subnet { kind: 2, index: self.index }
    }
}

fn balancer(naming: Naming<'_>) -> Result<Namespace> {
    let balancer = naming("balancer")?;
    balancer.sysctl("ipv4/ip_forward", "1")?;
    balancer.sysctl("ipv6/conf/all/forwarding", "1")?;
    // Everyone is on one wire in a one-arm wiring, but shall speak through the balancer all the same.
    balancer.sysctl("ipv4/conf/all/send_redirects", "0")?;
    balancer.sysctl("ipv4/conf/default/send_redirects", "0")?;
    balancer.ip(&format!(
        "address add {}/32 dev lo\naddress add {}/128 dev lo",
        Family::V4.service_address(),
        Family::V6.service_address()
    ))?;
    Ok(balancer)
}
