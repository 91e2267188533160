//! Virtual services and the pools behind them, as the program sees them.

use bytemuck::{Pod, Zeroable};

use crate::{
    hash,
    net::{Address, Destination, Endpoint},
};

/// What a client connects to.
pub type ServiceKey = Endpoint;

/// What clients of a service on a prefix connect to: the data of a key whose first bits, [`PrefixKey::FIXED_BITS`] and those of
/// the prefix in mapped form, must agree.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct PrefixKey {
    /// IANA protocol number.
    pub protocol: u16,
    /// The port, in host byte order; 0 for all.
    pub port: u16,
    /// Zero.
    pub reserved: u32,
    /// The prefix, or the address that is looked for.
    pub address: Address,
}

const _: () = assert!(size_of::<PrefixKey>() == 24);

impl PrefixKey {
    /// Bits before the address.
    pub const FIXED_BITS: u32 = 64;
    /// All bits.
    pub const BITS: u32 = Self::FIXED_BITS + 128;

    /// The key of `end`, or of all ports there.
    #[inline(always)]
    pub const fn of(end: &Endpoint, port: u16) -> Self {
        Self { protocol: end.protocol, port, reserved: 0, address: end.address }
    }
}

/// A virtual service.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Service {
    /// Names the service in connection keys; never used again for another one. 0 in `prefix_services` is an address of this
    /// machine, which is no part of the prefix around it.
    pub id: u32,
    /// The place of its counters.
    pub index: u32,
    /// The pool's number.
    pub pool: u32,
    /// What entries of its clients belong to: see [`scope`].
    pub scope: u32,
    /// Bits of its prefix in mapped form; 0 if it is on one address. On a prefix the destination is a part of its clients' keys.
    pub prefix_length: u32,
}

const _: () = assert!(size_of::<Service>() == 20);

impl Service {
    /// The part that the address a client came for has in its keys.
    #[inline(always)]
    pub fn destination(&self, address: &Address) -> Destination {
        if self.prefix_length == 0 { Destination::NONE } else { Destination::of(address) }
    }
}

/// How an entry's scope is told: the id of the service, or of the pool with the top bit set.
pub mod scope {
    const POOL: u32 = 1 << 31;

    /// Entries of one service.
    pub const fn service(id: u32) -> u32 {
        id
    }

    /// Entries shared by all services of a pool.
    pub const fn pool(id: u32) -> u32 {
        id | POOL
    }
}

/// Everything a packet needs to know of a pool.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Pool {
    /// How many slots the ring has; 0 when there is none.
    pub slots: u32,
    /// Which side of the slots is current, 0 or 1.
    pub side: u32,
    /// See [`pool_flag`].
    pub flags: u32,
    /// What happens to an entry whose server is down: a [`server_down`] number.
    pub server_down: u32,
    /// How long an entry outlives its last connection, in nanoseconds.
    pub timeout_ns: u64,
    /// How long a UDP client may be silent before its flow counts as closed, in nanoseconds.
    pub udp_idle_ns: u64,
    /// Applied to IPv4 clients (mapped form) to make the key.
    pub ipv4_mask: Address,
    /// Applied to IPv6 clients to make the key.
    pub ipv6_mask: Address,
    /// Names the pool in entry scopes; never used again for another one.
    pub id: u32,
    /// How packets reach the servers: a [`forwarding`] number.
    pub forwarding: u32,
    /// Who chooses for new clients: an [`algorithm`] number.
    pub algorithm: u32,
    /// How many turns there are in the pool's place of `turns`; 0 when it has none.
    pub turns: u32,
}

const _: () = assert!(size_of::<Pool>() == 80);

impl Pool {
    /// What of a client's address is a part of its keys.
    #[inline(always)]
    pub fn masked(&self, client: &Address) -> Address {
        client.masked(if client.is_ipv4() { &self.ipv4_mask } else { &self.ipv6_mask })
    }

    /// The hash that says which slot a client's packets belong to.
    #[inline(always)]
    pub fn slot_hash(&self, client: &Address, port: u16, destination: &Destination) -> u32 {
        // Without persistence each connection is balanced afresh, so the port tells connections of a client apart.
        if self.flags & pool_flag::PERSISTENT != 0 {
            hash::client_to(&self.masked(client), 0, destination)
        } else {
            hash::client_to(client, port, destination)
        }
    }
}

/// How packets reach servers.
pub mod forwarding {
    /// Address and port are rewritten, and back again in answers.
    pub const NAT: u32 = 0;
    /// Source and destination are rewritten, and back again in answers.
    pub const MASQUERADE: u32 = 1;
    /// Only the frame is addressed anew; servers answer clients themselves.
    pub const DIRECT: u32 = 2;
    /// The packet travels inside another one; servers answer clients themselves.
    pub const TUNNEL: u32 = 3;
}

/// How a server is chosen for a new client.
pub mod algorithm {
    /// The ring's pick.
    pub const MAGLEV: u32 = 0;
    /// In turn.
    pub const ROUND_ROBIN: u32 = 1;
    /// The one with the fewest open connections for its weight.
    pub const LEAST_CONNECTIONS: u32 = 2;
    /// The better of two that the ring picks at random.
    pub const RANDOM_TWO: u32 = 3;
}

/// Flags of a [`Pool`].
pub mod pool_flag {
    /// Clients are kept by address: entries are written and read.
    pub const PERSISTENT: u32 = 1;
    /// A client for whom no server is left is answered, not dropped.
    pub const REFUSE: u32 = 2;
    /// An open connection whose server is gone is reset; otherwise its packets go on to the client's next server.
    pub const RESET: u32 = 4;
    /// Some server has a limit of open connections.
    pub const LIMITED: u32 = 8;
    /// A bound client may exceed the limit of its server.
    pub const EXCEED: u32 = 16;
    /// A bound client is refused when its server is at its limit. Without this and [`EXCEED`] it gets another server.
    pub const REJECT: u32 = 32;
}

/// What happens to a client whose server is down.
pub mod server_down {
    /// Another server is chosen and the entry follows.
    pub const IMMEDIATE: u32 = 0;
    /// The entry stays and new connections are refused until it expires or the server is back.
    pub const NEVER: u32 = 1;
    /// The entry stays and packets are sent to the server all the same.
    pub const CONTINUE: u32 = 2;
}

/// Where an answer comes from: a server's address and port, which under `nat` belong to one service only.
pub type ReverseKey = Endpoint;

/// The service that answers of a server belong to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Reverse {
    /// The service's address: the source of the rewritten packet.
    pub address: Address,
    /// The service's port, in host byte order; 0 if it is on all ports, which its servers keep.
    pub port: u16,
    /// See [`reverse_flag`].
    pub flags: u16,
    /// The service; 0 if none is reached by `nat`.
    pub service: u32,
    /// The place of the service's counters.
    pub service_index: u32,
    /// The server's number.
    pub server: u32,
    /// The pool's number.
    pub pool: u32,
    /// What entries of the service's clients belong to.
    pub scope: u32,
}

const _: () = assert!(size_of::<Reverse>() == 40);

/// Flags of a [`Reverse`].
pub mod reverse_flag {
    /// The server is reached by masquerade: a translation may tell whose the answer is.
    pub const MASQUERADE: u16 = 1;
    /// The service is on a prefix: the address the client came for is a part of its keys.
    pub const PREFIX: u16 = 2;
    /// The service is on all ports, and no port of the server answers for another one over that protocol.
    pub const ALONE: u16 = 4;
}

impl Reverse {
    /// The part that the address the client came for has in its keys.
    #[inline(always)]
    pub fn destination(&self) -> Destination {
        if self.flags & reverse_flag::PREFIX == 0 {
            Destination::NONE
        } else {
            Destination::of(&self.address)
        }
    }

    /// The port that the client knows of a packet that came from the server's `port`.
    #[inline(always)]
    pub const fn port_for(&self, port: u16) -> u16 {
        if self.port == 0 { port } else { self.port }
    }
}
