//! Connections: TCP connections, and UDP flows of services that keep no entries.

use bytemuck::{Pod, Zeroable};

use crate::{
    net::{Address, Destination},
    server::Binding,
    tcp::State,
};

/// One connection of one client to one service, carried by packets or by the daemon.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct ConnectionKey {
    /// The client's own address, unmasked.
    pub client: Address,
    /// The service's id.
    pub service: u32,
    /// The client's port, in host byte order.
    pub client_port: u16,
    /// The port of the service, in host byte order.
    pub service_port: u16,
    /// The address the client came for, if the service is on a prefix.
    pub destination: Destination,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ConnectionKey>() == 40);

/// An open or just closed connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Connection {
    /// The server.
    pub binding: Binding,
    /// A [`crate::tcp::State`] number; 0 for a UDP flow; [`Connection::CARRIED`].
    pub state: u32,
    /// When it was found silent for its idle limit, seconds of `CLOCK_MONOTONIC` rounded up; 0 when it was not. The next
    /// packet clears it, or the sweep ends the connection after as long again.
    pub suspect: u32,
    /// The last packet that was noted, nanoseconds of `CLOCK_MONOTONIC`. Packets of an established connection
    /// are noted only when its slot is marked.
    pub last_seen_ns: u64,
    /// `created_ns` of the entry that counts this connection as open; 0 when none does.
    pub entry_created_ns: u64,
}

const _: () = assert!(size_of::<Connection>() == 32);

impl Connection {
    /// The state of a connection that the daemon carries: it says when it ends, and no packet does. To packets it is closed.
    pub const CARRIED: u32 = 32;

    /// Whether it is open, if it is of TCP.
    pub fn is_open(&self) -> bool {
        self.state == Self::CARRIED || State::from_number(self.state) != State::Closed
    }
}

/// A connection whose client has not answered the server's SYN yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Handshake {
    /// The server its SYN went to.
    pub binding: Binding,
    /// When the SYN came, nanoseconds of `CLOCK_MONOTONIC`.
    pub started_ns: u64,
    /// The acknowledgement numbers that answer the server's first SYN and its last one: a server that keeps its state in
    /// SYN cookies may change its mind.
    pub expected: [u32; 2],
    /// How often the server has answered.
    pub answers: u32,
    /// 1 when the client was bound to another server, which was full: its entry will follow to this one.
    pub spilled: u32,
}

const _: () = assert!(size_of::<Handshake>() == 32);

impl Handshake {
    /// Notes a SYN of the server with that sequence number.
    #[inline(always)]
    pub fn answered(&mut self, sequence: u32) {
        let next = sequence.wrapping_add(1);
        if self.answers == 0 {
            self.expected[0] = next;
        }
        self.expected[1] = next;
        self.answers = self.answers.saturating_add(1);
    }

    /// Whether the acknowledgement number is that of a client who has seen the server's answer.
    #[inline(always)]
    pub const fn is_proven_by(&self, acknowledgement: u32) -> bool {
        self.answers > 0
            && (self.expected[0] == acknowledgement || self.expected[1] == acknowledgement)
    }
}
