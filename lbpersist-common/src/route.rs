//! The kernel's routes and neighbours, mirrored for the way back to clients.

use bytemuck::{Pod, Zeroable};

use crate::net::{Address, Mac};

/// Where packets for a prefix go.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Route {
    /// A [`kind`] number.
    pub kind: u32,
    /// The interface to leave by.
    pub interface: u32,
    /// The gateway's Ethernet address, for [`kind::GATEWAY`].
    pub next_hop: Mac,
    /// The interface's own Ethernet address.
    pub source: Mac,
}

const _: () = assert!(size_of::<Route>() == 20);

/// What a [`Route`] says.
pub mod kind {
    /// Nowhere.
    pub const UNREACHABLE: u32 = 0;
    /// An address of this machine.
    pub const LOCAL: u32 = 1;
    /// Through a gateway whose Ethernet address is known.
    pub const GATEWAY: u32 = 2;
    /// Straight to the neighbour of that address.
    pub const ON_LINK: u32 = 3;
}

/// A neighbour on a link.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct NeighbourKey {
    /// The neighbour's address.
    pub address: Address,
    /// The interface it is behind.
    pub interface: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<NeighbourKey>() == 24);

/// A neighbour's Ethernet address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Neighbour {
    /// The address to send to.
    pub mac: Mac,
    /// Zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<Neighbour>() == 8);
