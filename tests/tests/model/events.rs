//! What happens in a case, and how cases are made up.

use proptest::{collection::vec, prelude::*};

use crate::world::{Down, OnLimit, Says};

/// Servers that a pool can have.
pub(crate) const SERVERS: u8 = 4;

/// Pools, and what happens to them.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) pools: Vec<Plan>,
    /// New clients without proof in a second, in all and of a prefix.
    pub(crate) budget: [u32; 2],
    pub(crate) events: Vec<Event>,
}

/// A pool as a case begins.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Of the profile, in milliseconds.
    pub(crate) timeout: u64,
    /// Whether services, servers and clients are IPv6.
    pub(crate) ipv6: bool,
    /// Of IPv4 clients; those of IPv6 have a mask of 128 or, below 32, 64 bits.
    pub(crate) mask: u8,
    /// Connections that each server may have; 0 for any number.
    pub(crate) limit: u32,
    pub(crate) on_limit: OnLimit,
    pub(crate) shared: bool,
    pub(crate) down: Down,
    pub(crate) resets: bool,
    /// Weights of the first servers.
    pub(crate) weights: Vec<u16>,
}

/// One of few clients, at one of few ports, at a pool, which is counted around, and its service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who(pub(crate) u8, pub(crate) u8, pub(crate) u8, pub(crate) u8);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Syn(Who),
    /// Any other segment of the client, such as the third of a handshake.
    Client(Who, Says),
    /// A segment of the server that the client met last.
    Server(Who, Says),
    /// A whole handshake.
    Open(Who),
    /// FIN from both sides.
    Close(Who),
    Datagram(Who),
    /// Tenths of a second pass.
    Pass(u16),
    Sweep,
    SweepHandshakes,
    /// A pool's server goes down, or is up again.
    Turn(u8, u8),
    /// A pool's server is removed, or added.
    Swap(u8, u8),
    Weigh(u8, u8, u16),
    /// The profile of a pool that has one gets another timeout, in milliseconds.
    Timeout(u8, u64),
    /// One entry is flushed.
    Flush(u8),
    FlushAll,
    Restart,
}

pub(crate) fn cases() -> impl Strategy<Value = Case> {
    // A restart loads the program anew, which takes as long as two hundred packets.
    let event = prop_oneof![300 => event(), 1 => Just(Event::Restart)];
    let budget = prop_oneof![3 => Just([1_000, 1_000]), 1 => Just([3, 2]), 1 => Just([1, 5])];
    (vec(plan(), 1..=2), budget, vec(event, 30..=80)).prop_map(|(pools, budget, events)| Case {
        pools,
        budget,
        events,
    })
}

fn plan() -> impl Strategy<Value = Plan> {
    let timeout = prop_oneof![4 => Just(10_050), 2 => Just(4_050), 1 => Just(0)];
    let mask = prop_oneof![3 => Just(32), 2 => Just(24)];
    let down =
        prop_oneof![3 => Just(Down::Immediate), 2 => Just(Down::Never), 1 => Just(Down::Continue)];
    let weights = vec(weight(), 2..=usize::from(SERVERS));
    let limit = prop_oneof![3 => Just(0_u32), 2 => 1_u32..=3];
    let on_limit = prop_oneof![Just(OnLimit::Spill), Just(OnLimit::Exceed), Just(OnLimit::Reject)];
    let kept = (timeout, any::<bool>(), mask, any::<bool>(), down, any::<bool>());
    (kept, limit, on_limit, weights).prop_map(
        |((timeout, ipv6, mask, shared, down, resets), limit, on_limit, mut weights)| {
            weights[0] = weights[0].max(1);
            Plan { timeout, ipv6, mask, limit, on_limit, shared, down, resets, weights }
        },
    )
}

fn weight() -> impl Strategy<Value = u16> {
    prop_oneof![4 => Just(1), 1 => Just(0), 1 => 2_u16..=5]
}

fn event() -> impl Strategy<Value = Event> {
    let says = || prop_oneof![5 => Just(Says::Nothing), 2 => Just(Says::Fin), 1 => Just(Says::Rst)];
    let server = || (0_u8..2, 0..SERVERS);
    prop_oneof![
        6 => who().prop_map(Event::Syn),
        14 => (who(), says()).prop_map(|(who, says)| Event::Client(who, says)),
        6 => (who(), says()).prop_map(|(who, says)| Event::Server(who, says)),
        10 => who().prop_map(Event::Open),
        4 => who().prop_map(Event::Close),
        8 => who().prop_map(Event::Datagram),
        10 => passing().prop_map(Event::Pass),
        8 => Just(Event::Sweep),
        3 => Just(Event::SweepHandshakes),
        4 => server().prop_map(|(pool, server)| Event::Turn(pool, server)),
        4 => server().prop_map(|(pool, server)| Event::Swap(pool, server)),
        2 => (server(), weight()).prop_map(|((pool, server), to)| Event::Weigh(pool, server, to)),
        1 => (0_u8..2, prop_oneof![Just(10_050), Just(4_050), Just(20_050)])
            .prop_map(|(pool, to)| Event::Timeout(pool, to)),
        2 => any::<u8>().prop_map(Event::Flush),
        1 => Just(Event::FlushAll),
    ]
}

fn who() -> impl Strategy<Value = Who> {
    let service = prop_oneof![4 => Just(0_u8), 1 => Just(1)];
    let pool = prop_oneof![4 => Just(0_u8), 1 => Just(1)];
    (0_u8..6, 0_u8..2, pool, service)
        .prop_map(|(client, port, pool, service)| Who(client, port, pool, service))
}

fn passing() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 1_u16..=10, 4 => 10_u16..=60, 3 => 60_u16..=120, 2 => 120_u16..=300]
}
