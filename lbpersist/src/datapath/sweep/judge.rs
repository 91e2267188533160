//! What is to become of a connection or entry: pure.

use lbpersist_common::{
    connection::Connection, net::Address, persistence::Entry, recent, service::Pool, tcp::State,
};

use crate::{
    datapath::desired::nanoseconds,
    model::{IdleLimits, Protocol},
};

/// How long things may be silent, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) handshake_ns: u64,
    pub(super) tcp_ns: u64,
    pub(super) tcp_closing_ns: u64,
    /// A little longer than configured: see [`recent`].
    pub(super) udp_ns: u64,
}

/// How long a closed connection is remembered, so that its last segments still find its server: the time a client waits before
/// it may forget them (RFC 9293, section 3.6.1, with the 30 seconds that stacks use for a segment's life).
pub(super) const LINGER_NS: u64 = 60_000_000_000;

/// As [`LINGER_NS`], when its server is the ring's pick and so would be met without remembering.
const LINGER_AT_PICK_NS: u64 = 2_000_000_000;

impl From<&IdleLimits> for Limits {
    fn from(limits: &IdleLimits) -> Self {
        Self {
            handshake_ns: nanoseconds(limits.handshake),
            tcp_ns: nanoseconds(limits.tcp),
            tcp_closing_ns: nanoseconds(limits.tcp_closing),
            udp_ns: recent::idle_ns(nanoseconds(limits.udp)),
        }
    }
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionFate {
    /// It is open.
    Open,
    /// It may be silent only because its packets are not noted: have the next one noted.
    Suspect,
    /// It was suspected for as long again, and no packet came.
    Idle,
    /// It has closed, and its last segments may be under way.
    Lingering,
    /// It has closed long ago, or its service is gone.
    Over,
}

/// What is to become of a connection of `protocol` (`None` if its service is gone), whose server is the ring's pick or not.
pub(super) fn connection(
    connection: &Connection,
    protocol: Option<Protocol>,
    limits: &Limits,
    at_pick: bool,
    now_ns: u64,
) -> ConnectionFate {
    let silent_ns = now_ns.saturating_sub(connection.last_seen_ns);
    let limit_ns = match (protocol, State::from_number(connection.state)) {
        (None, _) => return ConnectionFate::Over,
        (Some(Protocol::Udp), _) if silent_ns > limits.udp_ns => return ConnectionFate::Over,
        (Some(Protocol::Udp), _) => return ConnectionFate::Open,
        (Some(Protocol::Tcp), State::Closed) => {
            let linger = if at_pick { LINGER_AT_PICK_NS } else { LINGER_NS };
            return if silent_ns > linger {
                ConnectionFate::Over
            } else {
                ConnectionFate::Lingering
            };
        }
        (Some(Protocol::Tcp), State::Established) => limits.tcp_ns,
        (Some(Protocol::Tcp), State::ClientClosed | State::ServerClosed) => limits.tcp_closing_ns,
    };
    if silent_ns <= limit_ns {
        ConnectionFate::Open
    } else if connection.suspect != 0 && now_ns.saturating_sub(suspected_ns(connection)) > limit_ns
    {
        ConnectionFate::Idle
    } else {
        ConnectionFate::Suspect
    }
}

/// What [`Connection::suspect`] is of a connection that is suspected at `now_ns`.
pub(super) fn suspect_since(now_ns: u64) -> u32 {
    u32::try_from(now_ns / SECOND_NS + 1).unwrap_or(u32::MAX)
}

/// Since when a connection has its next packet noted. Its silence before that says little, since a packet of an unmarked
/// slot is not noted, and nobody suspects while no daemon runs.
fn suspected_ns(connection: &Connection) -> u64 {
    u64::from(connection.suspect) * SECOND_NS
}

const SECOND_NS: u64 = 1_000_000_000;

/// What is to become of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryFate {
    /// It binds its client.
    Live,
    /// Its time is over, or no client has such a key any more because the mask has changed.
    Expired,
    /// It does not count as many open connections as there are.
    Miscounted,
}

/// What is to become of an entry of `client`, a masked address, that `found` open connections belong to.
pub(super) fn entry(
    client: &Address,
    entry: &Entry,
    pool: &Pool,
    found: u32,
    now_ns: u64,
) -> EntryFate {
    if entry.open != found {
        EntryFate::Miscounted
    } else if entry.is_live(now_ns, pool.timeout_ns) && pool.masked(client) == *client {
        EntryFate::Live
    } else {
        EntryFate::Expired
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::{ConnectionFate::*, *};

    const SECOND: u64 = SECOND_NS;

    fn limits() -> Limits {
        Limits::from(&IdleLimits::default())
    }

    fn tcp(state: State, suspect: u32) -> Connection {
        Connection {
            state: state as u32,
            suspect,
            last_seen_ns: 10 * SECOND,
            ..Connection::zeroed()
        }
    }

    #[test]
    fn a_silent_connection_is_suspected_and_then_ended() {
        // (state, suspected since, seconds of silence, fate); limits are an hour, and two minutes when closing.
        let rows = [
            (State::Established, 0, 3_600, Open),
            (State::Established, 0, 3_601, Suspect),
            (State::Established, 0, 9_000, Suspect),
            (State::Established, 3_612, 7_202, Suspect),
            (State::Established, 3_612, 7_203, Idle),
            (State::Established, 9_012, 9_003, Suspect),
            (State::ClientClosed, 0, 120, Open),
            (State::ClientClosed, 0, 121, Suspect),
            (State::ServerClosed, 132, 243, Idle),
        ];
        for (state, suspect, silence, fate) in rows {
            let now = (10 + silence) * SECOND;
            let judged =
                connection(&tcp(state, suspect), Some(Protocol::Tcp), &limits(), true, now);
            assert_eq!(judged, fate, "{state:?}, suspect {suspect}, {silence} s");
        }
    }

    #[test]
    fn a_closed_connection_lingers_longer_where_the_ring_differs() {
        let closed = tcp(State::Closed, 0);
        for (at_pick, silence, fate) in
            [(true, 2, Lingering), (true, 3, Over), (false, 60, Lingering), (false, 61, Over)]
        {
            let now = (10 + silence) * SECOND;
            let judged = connection(&closed, Some(Protocol::Tcp), &limits(), at_pick, now);
            assert_eq!(judged, fate, "{at_pick}, {silence} s");
        }
    }

    #[test]
    fn udp_flows_end_when_silent_and_all_end_with_their_service() {
        let flow = Connection { last_seen_ns: 10 * SECOND, ..Connection::zeroed() };
        let judge = |protocol, now| connection(&flow, protocol, &limits(), true, now);
        // Thirty seconds, and a seventh of that because not every packet is noted.
        assert_eq!(judge(Some(Protocol::Udp), 44 * SECOND), Open);
        assert_eq!(judge(Some(Protocol::Udp), 45 * SECOND), Over);
        assert_eq!(judge(None, 10 * SECOND), Over);
    }

    #[test]
    fn entries_expire_only_when_nothing_is_open() {
        let pool = Pool {
            timeout_ns: 5 * SECOND,
            ipv4_mask: Address::prefix_mask(96 + 24),
            ..Pool::zeroed()
        };
        let client = Address::from_ipv4([203, 0, 113, 0]);
        let entry =
            |bound: &Entry, pool: &Pool, found, now| entry(&client, bound, pool, found, now);
        let mut bound = Entry { idle_since_ns: 10 * SECOND, ..Entry::zeroed() };
        assert_eq!(entry(&bound, &pool, 0, 14 * SECOND), EntryFate::Live);
        assert_eq!(entry(&bound, &pool, 0, 15 * SECOND), EntryFate::Expired);
        assert_eq!(entry(&bound, &pool, 1, 15 * SECOND), EntryFate::Miscounted);
        bound.open = 1;
        assert_eq!(entry(&bound, &pool, 1, 99 * SECOND), EntryFate::Live);
        assert_eq!(entry(&bound, &pool, 0, 99 * SECOND), EntryFate::Miscounted);
    }

    #[test]
    fn an_entry_that_no_client_has_under_the_mask_is_over() {
        let bound = Entry { idle_since_ns: 10 * SECOND, ..Entry::zeroed() };
        for (mask, last, fate) in
            [(32, 7, EntryFate::Live), (24, 7, EntryFate::Expired), (24, 0, EntryFate::Live)]
        {
            let ipv4_mask = Address::prefix_mask(96 + mask);
            let pool = Pool { timeout_ns: 5 * SECOND, ipv4_mask, ..Pool::zeroed() };
            let client = Address::from_ipv4([203, 0, 113, last]);
            assert_eq!(entry(&client, &bound, &pool, 0, 11 * SECOND), fate, "/{mask}, {last}");
            let open = Entry { open: 1, ..bound };
            let miscounted = entry(&client, &open, &pool, 0, 11 * SECOND);
            assert_eq!(miscounted, EntryFate::Miscounted, "first its count is put right");
        }
    }
}
