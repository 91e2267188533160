//! The servers of a pool, each with what keeps the client from it.

use std::collections::BTreeMap;

use lbpersist_common::{
    server::{Binding, state},
    service::{algorithm, pool_flag, server_down},
};
use serde::Serialize;

use super::rules::{Fate, Rule, Seen, Situation, Verdict};
use crate::datapath::{
    report::{server_name, state_name},
    ring::Ring,
};

/// A server of the pool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerExplained {
    /// Where it listens, with its port if it has one of its own.
    pub server: String,
    /// `up`, `down`, `draining` or `disabled`.
    pub state: &'static str,
    /// Its share of new clients.
    pub weight: u16,
    /// Slots of the ring that pick it.
    pub slots: u32,
    /// Open connections; for UDP, clients that are not silent.
    pub open: u32,
    /// How many may be; `None` for any number.
    pub max_connections: Option<u32>,
    /// Whether its Ethernet address, or its router's, is known; packets to a server that is not are dropped.
    pub reachable: bool,
    /// Why a new connection of the client does not go there; `None` for the server it goes to.
    pub why_not: Option<String>,
}

/// Servers by number, for their names.
pub(super) struct Names<'a>(pub(super) &'a BTreeMap<u32, Seen>);

impl Names<'_> {
    /// The name of a server; `None` for number 0, which is no server.
    pub(super) fn of(&self, number: u32) -> Option<String> {
        if number == 0 {
            return None;
        }
        let server = self.0.get(&number).map(|seen| seen.server);
        let server = server.filter(|server| server.state != state::ABSENT);
        Some(server.map_or_else(
            || format!("#{number}"),
            |server| server_name(server.address, server.port),
        ))
    }

    /// The name of a server that something is bound to; its number may have gone to another one.
    pub(super) fn bound(&self, binding: Binding) -> String {
        let same = self
            .0
            .get(&binding.server)
            .is_some_and(|seen| seen.server.generation == binding.generation);
        let name = if same { self.of(binding.server) } else { None };
        name.unwrap_or_else(|| format!("#{} of before", binding.server))
    }
}

/// The servers of pool `pool`.
pub(super) fn explained(
    situation: &Situation,
    pool: u32,
    opening: &Verdict,
    ring: Option<&Ring>,
) -> Vec<ServerExplained> {
    let mut slots: BTreeMap<u32, u32> = BTreeMap::new();
    for slot in 0..ring.map_or(0, Ring::slots) {
        let pick = ring.map_or(0, |ring| ring.server(slot, situation.pool.side));
        *slots.entry(pick.into()).or_default() += 1;
    }
    let own = situation
        .servers
        .iter()
        .filter(|(_, seen)| seen.server.pool == pool && seen.server.state != state::ABSENT);
    own.map(|(&number, seen)| ServerExplained {
        server: server_name(seen.server.address, seen.server.port),
        state: state_name(seen.server.state),
        weight: seen.server.weight,
        slots: slots.get(&number).copied().unwrap_or(0),
        open: seen.open,
        max_connections: (seen.limit != 0).then_some(seen.limit),
        reachable: seen.server.interface != 0,
        why_not: why_not(situation, number, seen, opening),
    })
    .collect()
}

fn why_not(at: &Situation, number: u32, seen: &Seen, opening: &Verdict) -> Option<String> {
    match &opening.fate {
        Fate::Server(chosen) if *chosen == number => return None,
        Fate::OneOf(numbers) if numbers.contains(&number) => return None,
        _ => {}
    }
    let own = at.live_entry().is_some_and(|entry| {
        entry.binding == Binding { server: number, generation: seen.server.generation }
    });
    Some(match seen.server.state {
        state::DOWN | state::DISABLED => {
            let state = state_name(seen.server.state);
            match at.pool.server_down {
                server_down::NEVER if own => format!("{state}, and the client may have no other"),
                _ => state.to_owned(),
            }
        }
        state::DRAINING => "draining: only the clients it has".to_owned(),
        _ if at.pool.flags & pool_flag::LIMITED != 0 && at.is_full(number) => {
            format!("full: {} of {} connections", seen.open, seen.limit)
        }
        _ if seen.server.weight == 0 => "weight 0: no new clients".to_owned(),
        _ => match opening.rule {
            Rule::Connection => "the client has a connection to another server",
            Rule::Handshake => "the client has begun with another server",
            Rule::Entry => "the client's entry binds it to another server",
            Rule::Source => "the client's address or port is none that a client may have",
            Rule::Ring => "the client's slot picks another server",
            Rule::Algorithm if at.pool.algorithm == algorithm::MAGLEV => {
                "no slot of the ring is its"
            }
            Rule::Algorithm => "it gets no new clients",
        }
        .to_owned(),
    })
}
