//! Sequences that once showed a disagreement, as short as they could be made.

use crate::{
    events::{Case, Event::*, Plan, Who},
    world::{Down, OnLimit, Says},
};

/// What each shows, and what happens.
pub(crate) fn cases() -> Vec<(&'static str, Case)> {
    let who = Who(0, 0, 0, 0);
    vec![
        (
            "a TCP connection that closes ends no UDP flow of the same entry",
            Case {
                budget: [1_000, 1_000],
                pools: vec![Plan { shared: true, ..plan() }],
                events: vec![
                    Open(who),
                    Datagram(who),
                    Client(who, Says::Rst),
                    Pass(110),
                    Sweep,
                    Datagram(who),
                ],
            },
        ),
        (
            "a connection that was suspected before its client closed is not taken for silent later",
            Case {
                budget: [1_000, 1_000],
                pools: vec![plan()],
                events: vec![
                    Open(who),
                    SweepHandshakes,
                    Pass(160),
                    Sweep,
                    Client(who, Says::Fin),
                    Pass(10),
                    Sweep,
                    Pass(70),
                    Client(who, Says::Nothing),
                    Sweep,
                ],
            },
        ),
        (
            "never refuses a client from the port of its open connection, also without an entry",
            Case {
                budget: [1_000, 1_000],
                pools: vec![Plan { down: Down::Never, ..plan() }],
                events: vec![Open(who), Turn(0, 0), Turn(0, 1), Turn(0, 2), FlushAll, Syn(who)],
            },
        ),
    ]
}

fn plan() -> Plan {
    Plan {
        timeout: 10_050,
        ipv6: false,
        mask: 32,
        limit: 0,
        on_limit: OnLimit::Spill,
        shared: false,
        down: Down::Immediate,
        resets: false,
        weights: vec![1, 1, 1, 1],
    }
}
