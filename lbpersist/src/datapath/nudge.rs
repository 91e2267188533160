//! Clients of lost servers that only wait: who they are, and the segment that makes them speak. Pure.
//!
//! The program resets such a connection when its client sends something, because then it knows the numbers of the connection.
//! A client that only reads sends nothing. But any stack answers a segment that is outside its window with an acknowledgement
//! that has the right numbers (RFC 9293, section 3.10.7.4), and that is the packet which the program waits for.

use std::{
    collections::{BTreeMap, HashMap},
    hash::BuildHasher,
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
};

use lbpersist_common::{
    connection::{Connection, ConnectionKey},
    net::{self, Address},
    server::{Binding, Server, state},
    service::{Pool, pool_flag, server_down},
    tcp::{State, flag},
};

use super::{address::from_map, desired::Desired};

/// How often a client is asked to speak: segments get lost, and one of two following ones is outside of any window.
pub const ROUNDS: u32 = 3;

const HOPS: u8 = 64;
const HEADER: usize = 20;

/// What there is to know to say which connections have lost their server.
#[derive(Debug)]
pub struct Known {
    services: HashMap<u32, Place>,
    pools: BTreeMap<u32, Pool>,
    servers: BTreeMap<u32, Server>,
}

/// Where a service of TCP is.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Its address, or the first of its prefix.
    address: Address,
    is_prefix: bool,
    pool: u32,
}

/// The two ends of a connection whose server is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiting {
    /// Who may be waiting for the server.
    pub client: SocketAddr,
    /// What it takes for the server; of the family of `client`.
    pub service: SocketAddr,
}

/// Whether a server that had clients whose connections are to be reset is not there for them any more.
pub fn has_lost(was: &Desired, is: &Desired) -> bool {
    was.servers.iter().any(|(number, server)| {
        let binding = Binding { server: *number, generation: server.generation };
        let resets = |pool: &&Pool| pool.flags & pool_flag::RESET != 0;
        was.pools.get(&server.pool).filter(resets).is_some_and(|pool| {
            let after = is.pools.get(&server.pool).unwrap_or(pool);
            !is_gone(&was.servers, pool, binding) && is_gone(&is.servers, after, binding)
        })
    })
}

/// As the program judges it (`select::Visit::judge`).
fn is_gone(servers: &BTreeMap<u32, Server>, pool: &Pool, binding: Binding) -> bool {
    let known = servers.get(&binding.server);
    let Some(server) = known.filter(|server| server.generation == binding.generation) else {
        return true;
    };
    match server.state {
        state::UP | state::DRAINING => false,
        state::DOWN | state::DISABLED => pool.server_down == server_down::IMMEDIATE,
        _ => true,
    }
}

impl Known {
    /// What these maps say.
    pub fn of(desired: &Desired) -> Self {
        let exact =
            desired.services.iter().map(|(end, service)| (end.protocol, end.address, service));
        let prefixes = desired
            .prefix_services
            .iter()
            .map(|((_, key), service)| (key.protocol, key.address, service));
        let tcp = exact
            .chain(prefixes)
            .filter(|(protocol, _, service)| *protocol == u16::from(net::TCP) && service.id != 0);
        let place = |(_, address, service): (u16, Address, &lbpersist_common::service::Service)| {
            let is_prefix = service.prefix_length != 0;
            (service.id, Place { address, is_prefix, pool: service.pool })
        };
        Self {
            services: tcp.map(place).collect(),
            pools: desired.pools.clone(),
            servers: desired.servers.clone(),
        }
    }

    /// The ends of a connection, if it is open, its server is lost, and such connections are reset.
    pub fn waiting(&self, key: &ConnectionKey, connection: &Connection) -> Option<Waiting> {
        let place = self.services.get(&key.service)?;
        let pool = self.pools.get(&place.pool)?;
        if pool.flags & pool_flag::RESET == 0
            || State::from_number(connection.state) == State::Closed
            || !is_gone(&self.servers, pool, connection.binding)
        {
            return None;
        }
        let mut service = place.address;
        if place.is_prefix {
            // Keys hold all but the first four bytes, which are the prefix's.
            service.bytes[4..].copy_from_slice(&key.destination.bytes);
        }
        let waiting = Waiting {
            client: SocketAddr::new(from_map(key.client), key.client_port),
            service: SocketAddr::new(from_map(service), key.service_port),
        };
        (waiting.client.is_ipv4() == waiting.service.is_ipv4()).then_some(waiting)
    }
}

impl Waiting {
    /// The packet for that round: from the service, an acknowledgement without data, with numbers that mean nothing. They differ
    /// by half of all numbers from those of the round before, so that of two one is outside of the window, however large.
    pub fn packet(&self, secrets: &impl BuildHasher, round: u32) -> Vec<u8> {
        let secret = secrets.hash_one(self);
        let sequence = (secret as u32).wrapping_add(round << 31);
        let mut segment = Vec::with_capacity(HEADER);
        segment.extend(self.service.port().to_be_bytes());
        segment.extend(self.client.port().to_be_bytes());
        segment.extend(sequence.to_be_bytes());
        segment.extend(((secret >> 32) as u32).to_be_bytes());
        // Five words of header; a window, no checksum yet, nothing urgent.
        segment.extend([5 << 4, flag::ACK, 0xff, 0xff, 0, 0, 0, 0]);
        match (self.service, self.client) {
            (SocketAddr::V4(from), SocketAddr::V4(to)) => ipv4(from, to, segment),
            (SocketAddr::V6(from), SocketAddr::V6(to)) => ipv6(from, to, segment),
            // Not made by `Known::waiting`.
            _ => Vec::new(),
        }
    }

    /// Where the packet goes.
    pub fn to(&self) -> IpAddr {
        self.client.ip()
    }
}

/// The kernel writes the checksum of the header.
fn ipv4(from: SocketAddrV4, to: SocketAddrV4, mut segment: Vec<u8>) -> Vec<u8> {
    let ends = [from.ip().octets(), to.ip().octets()].concat();
    let [high, low] = ((HEADER + segment.len()) as u16).to_be_bytes();
    set_checksum(&ends, &mut segment);
    let header = [0x45, 0, high, low, 0, 0, 0x40, 0, HOPS, net::TCP, 0, 0];
    [&header[..], &ends, &segment].concat()
}

fn ipv6(from: SocketAddrV6, to: SocketAddrV6, mut segment: Vec<u8>) -> Vec<u8> {
    let ends = [from.ip().octets(), to.ip().octets()].concat();
    let [high, low] = (segment.len() as u16).to_be_bytes();
    set_checksum(&ends, &mut segment);
    let header = [0x60, 0, 0, 0, high, low, net::TCP, HOPS];
    [&header[..], &ends, &segment].concat()
}

/// Over the segment, both addresses, length and protocol (RFC 9293, section 3.1).
fn set_checksum(ends: &[u8], segment: &mut [u8]) {
    let length = [0, 0, 0, segment.len() as u8, 0, 0, 0, net::TCP];
    let words = ends.chunks(2).chain(length.chunks(2)).chain(segment.chunks(2));
    let mut sum: u32 =
        words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    segment[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[cfg(test)]
mod tests;
