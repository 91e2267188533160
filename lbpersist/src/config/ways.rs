//! How servers are reached: every server of a pool through every service that names the pool.
//!
//! Under nat an answer shows only the server's address and port, so these must tell the service. Under direct and tunnel no
//! answer comes this way, and the packet keeps its port.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    Problem,
    field::Field,
    raw::{Declared, Raw, RawForwarding, RawPool, RawServer, RawService},
};
use crate::model::{Mode, Ports, Protocol, addresses_text};

/// Adds servers that a service cannot have, or that two services reach in the same way.
pub(super) fn check(raw: &Raw, problems: &mut Vec<Problem>) {
    let services = services(raw);
    let mut first: HashMap<Endpoint, Way<'_>> = HashMap::new();
    let mut said = HashSet::new();
    for way in ways(raw, &services) {
        let forwarding = way.pool.value.forwarding.unwrap_or(RawForwarding::Nat);
        // The proxy opens connections of its own: it can reach any server, on any port, also one that others reach too.
        let proxied = way.is_proxied();
        let wrong = port_of_its_own(&way).or_else(|| match forwarding {
            _ if proxied => None,
            RawForwarding::Nat => other_family(&way, "nat").or_else(|| on_a_prefix(&way)),
            RawForwarding::Masquerade => {
                other_family(&way, "masquerade").or_else(|| no_source(&way))
            }
            RawForwarding::Direct => {
                other_family(&way, "direct").or_else(|| other_port(&way, "direct"))
            }
            RawForwarding::Tunnel => no_source(&way).or_else(|| other_port(&way, "tunnel")),
        });
        if let Some(message) = wrong {
            // Two services of one pool may be wrong with all its servers in the same way: once is enough.
            if !problems.iter().any(|p| p.line == way.server.line && p.message == message) {
                problems.push(Problem { line: way.server.line, message });
            }
            continue;
        }
        if let Some(service) = services.get(&way.to) {
            problems.push(Problem { line: way.server.line, message: loops(&way, service) });
        } else if let Some(service) =
            raw.services.iter().find(|service| service.value.addresses == Some(way.to.addresses))
        {
            let problem = Problem { line: way.server.line, message: not_a_server(&way, service) };
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        if proxied || forwarding != RawForwarding::Nat {
            continue;
        }
        let Some(other) = first.get(&way.to) else {
            first.insert(way.to, way);
            continue;
        };
        let Some(problem) = clash(&way, other) else {
            continue;
        };
        // Two services of one pool clash in all its servers: once is enough.
        let same_pool = std::ptr::eq(way.pool, other.pool);
        if !same_pool || said.insert((other.service.line, problem.line)) {
            problems.push(problem);
        }
    }
    ports_apart(raw, &services, problems);
}

/// Under nat a service on all ports takes every answer of its servers: what else reaches one of them must be on the service's own
/// address, where clients of its port never use the other service.
fn ports_apart(
    raw: &Raw,
    services: &HashMap<Endpoint, &Declared<RawService>>,
    problems: &mut Vec<Problem>,
) {
    let nat: Vec<_> = ways(raw, services)
        .into_iter()
        .filter(|way| !way.is_proxied())
        .filter(|way| way.pool.value.forwarding.unwrap_or(RawForwarding::Nat) == RawForwarding::Nat)
        .collect();
    let on_all = |way: &&Way<'_>| way.to.ports == Ports::All;
    let all: HashMap<_, _> = nat.iter().filter(on_all).map(|way| (way.host(), way)).collect();
    let mut said = HashSet::new();
    for way in nat.iter().filter(|way| !on_all(way)) {
        let Some(other) = all.get(&way.host()) else { continue };
        let (own, others) = (&way.service.value, &other.service.value);
        let told_apart = own.addresses == others.addresses && own.ports == Some(way.to.ports);
        if !told_apart && said.insert((way.service.line, other.service.line)) {
            problems.push(port_among_all(way, other));
        }
    }
}

/// Where packets go to: addresses, ports and protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    addresses: IpNet,
    ports: Ports,
    protocol: Protocol,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = addresses_text(self.addresses);
        match self.ports {
            Ports::One(port) => write!(f, "{addresses} port {port} ({})", self.protocol),
            Ports::All => write!(f, "{addresses} on all ports ({})", self.protocol),
        }
    }
}

impl RawService {
    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        Some(Endpoint { addresses: self.addresses?, ports: self.ports?, protocol: self.protocol? })
    }

    fn is_on_a_prefix(&self) -> bool {
        self.addresses.is_some_and(|net| net.prefix_len() < net.max_prefix_len())
    }
}

/// One server as it is reached through one service.
#[derive(Clone, Copy)]
struct Way<'r> {
    service: &'r Declared<RawService>,
    pool: &'r Declared<RawPool>,
    server: &'r RawServer,
    to: Endpoint,
}

impl Way<'_> {
    /// Whether the daemon goes it, with connections of its own.
    fn is_proxied(&self) -> bool {
        self.service.value.mode.is_some_and(|mode| mode != Mode::L4)
    }
}

impl Way<'_> {
    fn host(&self) -> (IpAddr, Protocol) {
        (self.to.addresses.addr(), self.to.protocol)
    }
}

/// The services by what they listen on; of those that overlap, which `check` has refused, the first.
fn services(raw: &Raw) -> HashMap<Endpoint, &Declared<RawService>> {
    let mut services = HashMap::new();
    for service in &raw.services {
        if let Some(endpoint) = service.value.endpoint() {
            services.entry(endpoint).or_insert(service);
        }
    }
    services
}

/// In the order of the file.
fn ways<'r>(raw: &'r Raw, services: &HashMap<Endpoint, &'r Declared<RawService>>) -> Vec<Way<'r>> {
    let mut ways = Vec::new();
    for service in &raw.services {
        let (Some(endpoint), Some(name)) = (service.value.endpoint(), &service.value.pool) else {
            continue;
        };
        if !services.get(&endpoint).is_some_and(|first| std::ptr::eq(*first, service)) {
            continue;
        }
        let Some(pool) = raw.pools.iter().find(|pool| pool.is_named(&name.value)) else {
            continue;
        };
        for server in pool.value.servers.iter().flatten() {
            let (Some(address), Some(ports)) =
                (server.address, server.ports_behind(endpoint.ports))
            else {
                continue;
            };
            let addresses = IpNet::from(address);
            let to = Endpoint { addresses, ports, protocol: endpoint.protocol };
            ways.push(Way { service, pool, server, to });
        }
    }
    ways
}

/// Behind a service on all ports, packets keep the port that the client asked for.
fn port_of_its_own(way: &Way<'_>) -> Option<String> {
    let port = way.to.ports.one()?;
    if way.service.value.ports != Some(Ports::All) {
        return None;
    }
    let (pool, name, line) = (way.pool.label(), way.service.label(), way.service.line);
    Some(format!(
        "server {} of pool {pool} has port {port}, but virtual_service {name} (line {line}) is on all ports, which its servers \
         keep; leave `port` out",
        way.host().0
    ))
}

/// An answer under nat does not tell the address that the client came for.
fn on_a_prefix(way: &Way<'_>) -> Option<String> {
    if !way.service.value.is_on_a_prefix() {
        return None;
    }
    let (pool, name, line) = (way.pool.label(), way.service.label(), way.service.line);
    Some(format!(
        "server {} of pool {pool} cannot serve virtual_service {name} (line {line}), which is on a prefix: under nat its answers \
         do not tell which address the client came for; use masquerade, direct or tunnel",
        way.host().0
    ))
}

/// A packet that is not rewritten keeps the port the client asked for.
fn other_port(way: &Way<'_>, forwarding: &str) -> Option<String> {
    let port = way.service.value.ports?;
    if way.to.ports == port {
        return None;
    }
    let (pool, name, line) = (way.pool.label(), way.service.label(), way.service.line);
    Some(format!(
        "server {} of pool {pool} has port {}, but under {forwarding} packets keep the port {port} of virtual_service {name} \
         (line {line}); leave `port` out",
        way.host().0,
        way.to.ports
    ))
}

/// The outer packet of a tunnel comes from somewhere, and so does a packet under masquerade.
fn no_source(way: &Way<'_>) -> Option<String> {
    let server = way.host().0;
    let pool = &way.pool.value;
    let (sources, does, field) = match pool.forwarding {
        Some(RawForwarding::Masquerade) => (pool.masquerade_sources, "masquerades", "masquerade"),
        _ => (pool.tunnel_sources, "tunnels", "tunnel_source"),
    };
    if sources.towards(server).is_some() {
        return None;
    }
    let (pool, line) = (way.pool.label(), way.pool.line);
    let family = if server.is_ipv4() { "ipv4" } else { "ipv6" };
    Some(format!(
        "pool {pool} (line {line}) {does} to server {server} but does not say from where; set `{field}_{family}` to an \
         address of this machine"
    ))
}

fn other_family(way: &Way<'_>, forwarding: &str) -> Option<String> {
    let (server, service) = (way.host().0, way.service.value.addresses?.addr());
    if server.is_ipv4() == service.is_ipv4() {
        return None;
    }
    let (pool, name, line) = (way.pool.label(), way.service.label(), way.service.line);
    let [own, other] = [server, service].map(|a| if a.is_ipv4() { "IPv4" } else { "IPv6" });
    Some(format!(
        "server {server} of pool {pool} is {own}, but virtual_service {name} (line {line}) is {other}; {forwarding} cannot change the family"
    ))
}

/// A service's address belongs to the balancer, where no server listens.
fn not_a_server(way: &Way<'_>, service: &Declared<RawService>) -> String {
    let (address, pool) = (way.host().0, way.pool.label());
    let (name, line) = (service.label(), service.line);
    format!(
        "server {address} of pool {pool} has the address of virtual_service {name} (line {line}), which is the balancer's own"
    )
}

fn loops(way: &Way<'_>, service: &Declared<RawService>) -> String {
    let (to, pool) = (way.to, way.pool.label());
    let (name, line) = (service.label(), service.line);
    format!(
        "server {to} of pool {pool} is virtual_service {name} itself (line {line}); its packets would go round in circles"
    )
}

/// What to say of two ways to one server.
fn clash(way: &Way<'_>, other: &Way<'_>) -> Option<Problem> {
    if std::ptr::eq(way.service, other.service) {
        twice_in_a_pool(way, other)
    } else if std::ptr::eq(way.pool, other.pool) {
        Some(two_services_of_a_pool(way, other))
    } else {
        Some(two_pools(way, other))
    }
}

/// One with the service's port written out, one without: two written alike are said by `check`.
fn twice_in_a_pool(way: &Way<'_>, other: &Way<'_>) -> Option<Problem> {
    let [fixed, other_fixed] = [way, other].map(|way| matches!(way.server.port, Field::Is(_)));
    if fixed == other_fixed {
        return None;
    }
    let (to, pool, first) = (way.to, way.pool.label(), other.server.line);
    let (service, line) = (way.service.label(), way.service.line);
    let message = format!(
        "server {to} is in pool {pool} already (line {first}): without a port it keeps that of \
         virtual_service {service} (line {line})"
    );
    Some(Problem { line: way.server.line, message })
}

const WHY: &str = "under nat, answers of a server are told apart by its address and port alone";

fn two_services_of_a_pool(way: &Way<'_>, other: &Way<'_>) -> Problem {
    let (to, pool) = (way.to, way.pool.label());
    let [service, first] = [way, other].map(|way| way.service.label());
    let (line, first_line) = (way.service.line, other.service.line);
    let fixed = matches!(way.server.port, Field::Is(_));
    let advice = if way.to.ports == Ports::All {
        "give each service servers of its own"
    } else if fixed && way.service.value.ports != other.service.value.ports {
        "leave `port` out of the pool's servers, or give each service a pool with ports of its own"
    } else {
        "give each service a pool with ports of its own"
    };
    let message = format!(
        "virtual_service {service} and virtual_service {first} (line {first_line}) both reach \
         server {to} through pool {pool}; {WHY}, so {advice}"
    );
    Problem { line, message }
}

fn two_pools(way: &Way<'_>, other: &Way<'_>) -> Problem {
    let to = way.to;
    let [pool, first_pool] = [way, other].map(|way| way.pool.label());
    let [service, first_service] = [way, other].map(|way| way.service.label());
    let [line, first_line] = [way, other].map(|way| way.service.line);
    let first = other.server.line;
    let message = format!(
        "server {to} of pool {pool}, behind virtual_service {service} (line {line}), is also in \
         pool {first_pool} (line {first}), behind virtual_service {first_service} (line {first_line}); \
         {WHY}, so give it another port in one of the pools, or use one pool without fixed ports"
    );
    Problem { line: way.server.line, message }
}

fn port_among_all(way: &Way<'_>, other: &Way<'_>) -> Problem {
    let (to, pool) = (way.to, way.pool.label());
    let [service, all] = [way, other].map(|way| way.service.label());
    let [line, all_line] = [way, other].map(|way| way.service.line);
    let message = format!(
        "server {to} of pool {pool}, behind virtual_service {service} (line {line}), answers for all its ports behind \
         virtual_service {all} (line {all_line}); {WHY}, so give one of the services servers of its own, or both the same address \
         and the server the service's port"
    );
    Problem { line: way.server.line, message }
}

#[cfg(test)]
mod tests;
