//! The cases. A new one is a row of [`CASES`]; what rows have in common is in their enums.

use lbpersist_common::{counter::Event, reason::Reason};

/// A thing that the program does with packets.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Numbers of clients to measure with; [`EVER_NEW`] for packets that each come from a client never seen before.
    pub(crate) clients: &'static [u32],
    pub(crate) door: Door,
    pub(crate) packets: Packets,
    pub(crate) before: Before,
    /// What every packet must count under.
    pub(crate) reason: Reason,
    /// What must happen to the tables, each once in so many packets; nothing else may.
    pub(crate) events: &'static [(Event, u64)],
}

/// Stands for clients that come once.
pub(crate) const EVER_NEW: u32 = 0;

/// The service that packets go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    TcpV4,
    TcpV6,
    UdpV4,
    /// IPv4 TCP, its clients under a mask of 24 bits.
    TcpV4Masked,
    /// IPv4 TCP to servers that see an address of the balancer's.
    MasqueradeV4,
    /// IPv4 TCP to servers that answer clients themselves.
    DirectV4,
    /// The same through a tunnel over IPv4.
    TunnelV4,
    /// IPv6 TCP through a tunnel over IPv6.
    TunnelV6,
}

/// How packets reach servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Nat,
    Masquerade,
    Direct,
    /// With so many bytes before the packet.
    Tunnel(usize),
}

impl Door {
    /// How its packets reach servers.
    pub(crate) fn way(self) -> Way {
        match self {
            Self::TcpV4 | Self::TcpV6 | Self::UdpV4 | Self::TcpV4Masked => Way::Nat,
            Self::MasqueradeV4 => Way::Masquerade,
            Self::DirectV4 => Way::Direct,
            Self::TunnelV4 => Way::Tunnel(20),
            Self::TunnelV6 => Way::Tunnel(40),
        }
    }

    /// Whether clients and servers speak IPv6.
    pub(crate) fn is_ipv6(self) -> bool {
        matches!(self, Self::TcpV6 | Self::TunnelV6)
    }
}

/// What is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packets {
    /// From clients, in the middle of a connection; over UDP, datagrams.
    Established,
    /// From a server, in the middle of a connection.
    Answers,
    /// A server's answers to SYNs.
    Accepts,
    /// SYNs of clients.
    Syns,
    /// A SYN and then the ACK that finishes the handshake.
    SynThenAck,
    /// SYNs of clients that have been there, from a port they did not use before.
    NewPorts,
    /// To an address of no service.
    Elsewhere,
}

/// What is done before, through the program itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing.
    Nothing,
    /// Every client opens a connection.
    Connected,
    /// That, and then every slot of the ring is given to another server, so that all slots are marked.
    Moved,
    /// Every client sends a datagram.
    Known,
    /// Other clients open connections until the tables are full.
    Full,
}

const CLIENTS: &[u32] = &[1, 10_000, 1_000_000];

/// What an open costs the tables.
const OPENED: &[(Event, u64)] =
    &[(Event::HandshakeStarted, 2), (Event::ConnectionOpened, 2), (Event::EntryCreated, 2)];

/// A client in the middle of a connection over IPv4; other rows say in what they differ.
const ESTABLISHED: Case = Case {
    name: "nat-v4",
    clients: CLIENTS,
    door: Door::TcpV4,
    packets: Packets::Established,
    before: Before::Connected,
    reason: Reason::Forwarded,
    events: &[],
};

/// All of them.
pub(crate) const CASES: [Case; 15] = [
    Case { name: "tunnel-v4", door: Door::TunnelV4, ..ESTABLISHED },
    Case { name: "tunnel-v6", door: Door::TunnelV6, ..ESTABLISHED },
    Case { name: "direct-v4", door: Door::DirectV4, ..ESTABLISHED },
    ESTABLISHED,
    Case {
        name: "nat-v4-reverse",
        packets: Packets::Answers,
        reason: Reason::Returned,
        ..ESTABLISHED
    },
    Case { name: "masquerade-v4", door: Door::MasqueradeV4, ..ESTABLISHED },
    Case { name: "nat-v6", door: Door::TcpV6, ..ESTABLISHED },
    Case { name: "udp-v4", door: Door::UdpV4, before: Before::Known, ..ESTABLISHED },
    Case {
        name: "new-client",
        clients: &[EVER_NEW],
        packets: Packets::Syns,
        before: Before::Nothing,
        events: &[(Event::HandshakeStarted, 1)],
        ..ESTABLISHED
    },
    Case {
        name: "new-client-opened",
        // What the server answers is not seen there, and the client's second packet opens the connection.
        door: Door::TunnelV4,
        clients: &[EVER_NEW],
        packets: Packets::SynThenAck,
        before: Before::Nothing,
        events: OPENED,
        ..ESTABLISHED
    },
    Case {
        name: "new-client-table-full",
        door: Door::TunnelV4,
        clients: &[EVER_NEW],
        packets: Packets::SynThenAck,
        before: Before::Full,
        events: OPENED,
        ..ESTABLISHED
    },
    Case {
        name: "new-connection",
        // One client would run out of ports.
        clients: &[10_000, 1_000_000],
        packets: Packets::NewPorts,
        events: &[(Event::HandshakeStarted, 1)],
        ..ESTABLISHED
    },
    Case { name: "marked-slot", before: Before::Moved, ..ESTABLISHED },
    Case { name: "masked-key", door: Door::TcpV4Masked, ..ESTABLISHED },
    Case {
        name: "not-ours",
        packets: Packets::Elsewhere,
        before: Before::Nothing,
        reason: Reason::NotOurs,
        ..ESTABLISHED
    },
];

/// An empty program.
pub(crate) const EMPTY: &str = "empty-program";
/// A program that moves the packet's head there and back.
pub(crate) const HEAD_MOVE: &str = "head-move";
/// One lookup in an LRU table.
pub(crate) const LOOKUP: &str = "lru-lookup";

/// The floors, each with a number of clients.
pub(crate) fn floors() -> impl Iterator<Item = (&'static str, u32)> {
    let lookups = CLIENTS.iter().map(|&clients| (LOOKUP, clients));
    [(EMPTY, 1), (HEAD_MOVE, 1)].into_iter().chain(lookups)
}

/// What cases are called, for whoever picks one.
pub(crate) fn names() -> Vec<&'static str> {
    let cases = CASES.iter().map(|case| case.name);
    [EMPTY, HEAD_MOVE, LOOKUP].into_iter().chain(cases).collect()
}
