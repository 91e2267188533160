//! Fragments: the first one shows where the others go.

use bytemuck::{Pod, Zeroable};

use crate::{net::Address, server::Binding};

/// What all fragments of a packet have in common (RFC 791, section 3.2; RFC 8200, section 4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct FragmentKey {
    /// Who sent the packet.
    pub source: Address,
    /// Whom to.
    pub destination: Address,
    /// The packet's identification.
    pub id: u32,
    /// IANA protocol number.
    pub protocol: u32,
}

const _: () = assert!(size_of::<FragmentKey>() == 40);

/// Where the fragments of a packet go.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FragmentWay {
    /// To a client: the service's address, which becomes their source. To a server: not used. The client of an answer under
    /// masquerade is in a table of its own.
    pub address: Address,
    /// The server they go to, or come from.
    pub binding: Binding,
    /// The place of the service's counters.
    pub service_index: u32,
    /// A [`direction`] number.
    pub direction: u32,
    /// When the first fragment came, nanoseconds of `CLOCK_MONOTONIC`.
    pub seen_ns: u64,
}

const _: () = assert!(size_of::<FragmentWay>() == 40);

/// How long later fragments follow the first, in nanoseconds: as long as a receiver waits for them (RFC 8200, section 4.5).
pub const FRAGMENT_LIFE_NS: u64 = 60_000_000_000;

/// Which way a [`FragmentWay`] leads.
pub mod direction {
    /// From a client to its server.
    pub const TO_SERVER: u32 = 0;
    /// From a server to its client.
    pub const TO_CLIENT: u32 = 1;
    /// From a server to its client, whom it knows by an address of ours.
    pub const TO_MASQUERADED: u32 = 2;
}
