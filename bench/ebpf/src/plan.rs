//! What the measuring host tells the replaying program. Both include this file.

use bytemuck::{Pod, Zeroable};

/// Bytes of every frame that is replayed: an Ethernet header and 64 more.
pub(crate) const FRAME: usize = 78;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;

/// What each repeat puts into the packet before it hands the packet on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct Plan {
    /// Bytes 0 to 7 of the frame, then 8 to 13 and two of no meaning, then eight at a time from 14 on. A program reads
    /// no field that lies across two of these, since such a read would wait for both stores to leave the CPU's queue.
    pub(crate) frame: [u64; 10],
    /// How many clients there are.
    pub(crate) clients: u32,
    /// From one client to the next; has no divisor in common with `clients` and is not above it.
    pub(crate) step: u32,
    /// The last four bytes of client 0's address, as a number.
    pub(crate) first_address: u32,
    /// Client 0's port.
    pub(crate) first_port: u16,
    /// Where the last four bytes of the client's address stand in the frame.
    pub(crate) address_at: u16,
    /// Where the client's port stands.
    pub(crate) port_at: u16,
    /// Where the TCP flags stand.
    pub(crate) flags_at: u16,
    /// The flags of the packets a client sends, in order.
    pub(crate) flags: [u8; 2],
    /// How many packets a client sends before it is the next one's turn: 1 or 2.
    pub(crate) packets: u8,
    /// 1 when clients come back from another port each time, 0 when they keep theirs.
    pub(crate) new_ports: u8,
    /// 1 when the four bytes before the address belong to it (IPv6) and are written along with it.
    pub(crate) wide: u32,
    /// Zero.
    pub(crate) reserved: u32,
}

const _: () = assert!(size_of::<Plan>() == 112);

/// Whose turn it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct Turn {
    /// The client.
    pub(crate) client: u32,
    /// How often every client had its turn.
    pub(crate) round: u32,
    /// How many packets of this turn were sent.
    pub(crate) sent: u32,
    /// Zero.
    pub(crate) reserved: u32,
}
