//! The kernel's routes and neighbours, mirrored for the way back to clients.

use bytemuck::{Pod, Zeroable};

use crate::net::{Address, FrameAddresses};

/// Where packets for a prefix go.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Route {
    /// A [`kind`] number.
    pub kind: u32,
    /// The interface to leave by.
    pub interface: u32,
    /// From that interface to the gateway, for [`kind::GATEWAY`].
    pub frame: FrameAddresses,
    /// The largest IP packet that the interface carries, in bytes.
    pub mtu: u32,
}

const _: () = assert!(size_of::<Route>() == 24);

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

/// How frames reach a neighbour.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Neighbour {
    /// From the interface to the neighbour.
    pub frame: FrameAddresses,
}

const _: () = assert!(size_of::<Neighbour>() == 12);
