//! Servers, as the program sees them.

use bytemuck::{Pod, Zeroable};

use crate::net::{Address, FrameAddresses};

/// A server of a pool. Its number is its place in the `servers` map; number 0 is never used.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Server {
    /// Where it listens.
    pub address: Address,
    /// Raised when the number is given to another server, so that nothing bound to the old one follows.
    pub generation: u32,
    /// The pool's number.
    pub pool: u32,
    /// The interface its packets leave by; 0 while the next hop is not known.
    pub interface: u32,
    /// From that interface to the next hop.
    pub frame: FrameAddresses,
    /// In host byte order; 0 keeps the port the client asked for.
    pub port: u16,
    /// A [`state`] number.
    pub state: u8,
    /// What was said of it by hand, or by the configuration if it is to be drained: see [`by_hand`]. Read only to say why a
    /// client has lost it.
    pub by_hand: u8,
    /// Its share of new clients, relative to the pool's others.
    pub weight: u16,
    /// The largest IP packet that its interface carries, in bytes.
    pub mtu: u16,
    /// Where the outer packets of its tunnel come from, or under masquerade the packets themselves; otherwise `::`.
    pub tunnel_source: Address,
}

const _: () = assert!(size_of::<Server>() == 64, "one cache line");

/// How busy a server is. One word, changed by atomic operations: see [`Load::OPENED`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Load {
    /// Open TCP connections, UDP flows, and UDP clients that are kept by address and not silent.
    pub open: u32,
    /// Raised whenever a packet changes `open`. The sweep puts a count right by what it found if that cannot be due to changes.
    pub changes: u32,
}

const _: () = assert!(size_of::<Load>() == 8);
const _: () = assert!(cfg!(target_endian = "little"), "`OPENED` and `CLOSED` rely on it");

impl Load {
    /// Added to the word when a connection opens.
    pub const OPENED: u64 = (1 << 32) + 1;
    /// Added to the word when a connection closes; `open` must not be 0.
    pub const CLOSED: u64 = 0xffff_ffff;
}

/// What a server may be used for.
pub mod state {
    /// The number belongs to no server.
    pub const ABSENT: u8 = 0;
    /// Takes new clients.
    pub const UP: u8 = 1;
    /// Its monitors say it does not answer.
    pub const DOWN: u8 = 2;
    /// Takes no new clients and keeps those it has.
    pub const DRAINING: u8 = 3;
    /// Takes nobody: its clients are treated as those of a server that is down.
    pub const DISABLED: u8 = 4;

    /// Whether clients that are bound to a server in this state may go on with it.
    pub const fn serves(state: u8) -> bool {
        matches!(state, UP | DRAINING)
    }
}

/// What an operator said of a server at run time, and what the configuration said then: two numbers from 1 in one byte, so that
/// the next daemon knows both. 0 when nothing was said, and nothing but "in use" or "disabled" is configured.
pub mod by_hand {
    /// In use.
    pub const ENABLED: u8 = 1;
    /// Keeps its clients and takes no new ones.
    pub const DRAINING: u8 = 2;
    /// Takes nobody.
    pub const DISABLED: u8 = 3;

    /// The byte for `said` while the configuration says `configured`.
    pub const fn pack(said: u8, configured: u8) -> u8 {
        said | (configured << 4)
    }

    /// What was said, and what the configuration said then.
    #[inline(always)]
    pub const fn unpack(byte: u8) -> (u8, u8) {
        (byte & 15, byte >> 4)
    }
}

/// A client's server: number and generation, moved as one 64-bit word.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Binding {
    /// The server's number.
    pub server: u32,
    /// The generation it had when the client was bound.
    pub generation: u32,
}

const _: () = assert!(size_of::<Binding>() == 8);
