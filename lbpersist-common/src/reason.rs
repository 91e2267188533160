//! What became of a packet. Every packet counts under exactly one reason, so the reasons add up to the packets seen.

/// Numbers are places in the per-CPU array `verdicts`. Append only: a number never changes its meaning.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A client's packet, sent to its server.
    Forwarded = 0,
    /// A server's packet, sent to its client.
    Returned = 1,
    /// Neither to a service nor from a server: passed to the stack.
    NotOurs = 2,
    /// Neither IPv4 nor IPv6: passed to the stack.
    NotIp = 3,
    /// From a server to this machine itself, such as the answer to a health check: passed to the stack.
    ToThisMachine = 4,
    /// A fragment that is none of ours: passed to the stack.
    Fragment = 5,
    /// Headers cut short or in contradiction to each other: passed to the stack, which knows what to do with them.
    Malformed = 6,
    /// The pool has no server that may take the client: refused or dropped, as the pool says.
    NoServer = 7,
    /// The client's server is down and its profile allows no other: refused.
    ServerDown = 8,
    /// The server's Ethernet address is not known yet: dropped.
    NoNextHop = 9,
    /// No route to the client, or its Ethernet address is not known yet: dropped.
    NoRoute = 10,
    /// The packet has been through too many routers: dropped.
    HopLimit = 11,
    /// A protocol other than TCP and UDP, or ICMP that is none of ours: passed to the stack.
    OtherProtocol = 12,
    /// Too big for the way on, or the tunnel to its server: answered with the size that fits.
    TooBig = 13,
    /// From an address that no client has: a service's or a server's own, or one that is never a source. Dropped: an answer to
    /// it would come back as another client's packet, for ever.
    ImpossibleSource = 14,
    /// The server of an open connection is down or gone and the client may have another: the connection is reset.
    ServerGone = 15,
    /// To a service or from a server, but with a routing header that leads on from there: dropped.
    SourceRouted = 16,
    /// An ICMP error about a server's packet, sent to that server.
    ErrorForwarded = 17,
    /// An ICMP error about a client's packet, sent to that client.
    ErrorReturned = 18,
    /// A ping to a service's address: answered.
    EchoAnswered = 19,
    /// A later fragment to a service, of a packet whose first one was not seen: dropped.
    FragmentLost = 20,
    /// A fragment to a service that ends within the transport header, begins there, or goes beyond the longest packet: dropped.
    FragmentRefused = 21,
    /// Every port that the client could have had towards its server is taken: refused.
    NoPort = 22,
    /// Every server that the client may have is at its limit of connections: refused.
    ServerFull = 23,
}

impl Reason {
    /// All reasons, by number.
    pub const ALL: [Self; 24] = [
        Self::Forwarded,
        Self::Returned,
        Self::NotOurs,
        Self::NotIp,
        Self::ToThisMachine,
        Self::Fragment,
        Self::Malformed,
        Self::NoServer,
        Self::ServerDown,
        Self::NoNextHop,
        Self::NoRoute,
        Self::HopLimit,
        Self::OtherProtocol,
        Self::TooBig,
        Self::ImpossibleSource,
        Self::ServerGone,
        Self::SourceRouted,
        Self::ErrorForwarded,
        Self::ErrorReturned,
        Self::EchoAnswered,
        Self::FragmentLost,
        Self::FragmentRefused,
        Self::NoPort,
        Self::ServerFull,
    ];

    /// How many reasons there can be before the map has to grow.
    pub const CAPACITY: u32 = 64;

    /// The name that the CLI and, later, the metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Returned => "returned",
            Self::NotOurs => "not_ours",
            Self::NotIp => "not_ip",
            Self::ToThisMachine => "to_this_machine",
            Self::Fragment => "fragment",
            Self::Malformed => "malformed",
            Self::NoServer => "no_server",
            Self::ServerDown => "server_down",
            Self::NoNextHop => "no_next_hop",
            Self::NoRoute => "no_route",
            Self::HopLimit => "hop_limit",
            Self::OtherProtocol => "other_protocol",
            Self::TooBig => "too_big",
            Self::ImpossibleSource => "impossible_source",
            Self::ServerGone => "server_gone",
            Self::SourceRouted => "source_routed",
            Self::ErrorForwarded => "error_forwarded",
            Self::ErrorReturned => "error_returned",
            Self::EchoAnswered => "echo_answered",
            Self::FragmentLost => "fragment_lost",
            Self::FragmentRefused => "fragment_refused",
            Self::NoPort => "no_port",
            Self::ServerFull => "server_full",
        }
    }

    /// The sentence that explains it.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Forwarded => "sent to the client's server",
            Self::Returned => "sent from a server back to its client",
            Self::NotOurs => "passed to the stack: neither to a service nor from a server",
            Self::NotIp => "passed to the stack: neither IPv4 nor IPv6",
            Self::ToThisMachine => "passed to the stack: from a server to this machine itself",
            Self::Fragment => {
                "passed to the stack: a fragment, neither to a service nor from a server"
            }
            Self::Malformed => "passed to the stack: headers cut short or contradictory",
            Self::NoServer => "refused or dropped: no server may take the client",
            Self::ServerDown => "refused: the client's server is down and it may have no other",
            Self::NoNextHop => "dropped: the server's Ethernet address is not known",
            Self::NoRoute => {
                "dropped: no route to the client, or its Ethernet address is not known"
            }
            Self::HopLimit => "dropped: time to live or hop limit used up",
            Self::OtherProtocol => "passed to the stack: neither TCP nor UDP",
            Self::TooBig => "answered: too big for the way on",
            Self::ImpossibleSource => "dropped: from a service, a server's port, or nobody",
            Self::ServerGone => "reset: the connection's server is down or gone",
            Self::NoPort => "refused: every port it could have had towards its server is taken",
            Self::SourceRouted => {
                "dropped: has a routing header that leads on from its destination"
            }
            Self::ErrorForwarded => "sent to the server whose packet it speaks of: an ICMP error",
            Self::ErrorReturned => "sent to the client whose packet it speaks of: an ICMP error",
            Self::EchoAnswered => "answered: a ping to a service's address",
            Self::FragmentLost => "dropped: a fragment to a service whose first one was not seen",
            Self::FragmentRefused => "dropped: a fragment that cuts a header or overlaps one",
            Self::ServerFull => "refused: every server that the client may have is at its limit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_in_the_list() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
        assert!(Reason::ALL.len() <= Reason::CAPACITY as usize);
    }
}
