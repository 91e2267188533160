//! The program's rules for one client, without changing anything: as `select`, `connection`, `udp`, `persistence` and `algorithm`
//! of the program have them.

use std::collections::BTreeMap;

use lbpersist_common::{
    connection::{Connection, Handshake},
    persistence::Entry,
    reason::Reason,
    server::{Binding, Server, state},
    service::{Pool, algorithm, pool_flag, server_down},
    tcp::State,
};
use serde::Serialize;

/// Everything that the program would look at for a packet of the client.
#[derive(Clone, Debug)]
pub(super) struct Situation {
    /// Nanoseconds of the tables' clock.
    pub(super) now_ns: u64,
    pub(super) pool: Pool,
    pub(super) is_udp: bool,
    /// Whether a client may have that address.
    pub(super) may_be_client: bool,
    /// The slot's marks and the server it picks, 0 for none. `None` when the slot follows from a port that is not known.
    pub(super) slot: Option<(u32, u32)>,
    pub(super) connection: Option<Connection>,
    pub(super) handshake: Option<Handshake>,
    pub(super) entry: Option<Entry>,
    /// Every server that is bound, picked, or of the pool.
    pub(super) servers: BTreeMap<u32, Seen>,
    /// The servers that new clients are shared among: those in the ring.
    pub(super) members: Vec<u32>,
}

/// A server, how many connections it has open, and how many it may; 0 for any number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) server: Server,
    pub(super) open: u32,
    pub(super) limit: u32,
}

/// What decides where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Its source cannot be a client.
    Source,
    /// Its connection, or UDP flow, is known.
    Connection,
    /// A handshake of the same ports is unfinished.
    Handshake,
    /// The client's entry.
    Entry,
    /// The algorithm of the pool, or the limits of its servers.
    Algorithm,
    /// The ring's slot.
    Ring,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes to the server of this number.
    Server(u32),
    /// It goes to one of these, chosen when it comes.
    OneOf(Vec<u32>),
    /// It goes nowhere, and is counted so.
    Refused(Reason),
}

/// What becomes of a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) rule: Rule,
    pub(super) fate: Fate,
    /// The client's server is full, so that it spills to this one.
    pub(super) spilled: bool,
}

/// What a binding is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Worth {
    /// Its server may have the client's packets.
    Holds,
    /// Its server is down or disabled, and the client may have no other.
    Refused,
    /// Its server is down or disabled, and the client gets another.
    Replaced,
    /// Its server is not there any more.
    Removed,
}

impl Situation {
    /// What becomes of the packet that opens a connection from these ports, or of a datagram.
    pub(super) fn opening(&self) -> Verdict {
        if !self.may_be_client {
            return verdict(Rule::Source, Fate::Refused(Reason::ImpossibleSource));
        }
        if self.is_udp { self.datagram() } else { self.syn() }
    }

    /// What becomes of a TCP segment that neither opens nor closes a connection.
    pub(super) fn segment(&self) -> Verdict {
        if self.slot.is_some_and(|(marks, _)| marks == 0) {
            return self.ring();
        }
        if !self.may_be_client {
            return verdict(Rule::Source, Fate::Refused(Reason::ImpossibleSource));
        }
        if let Some(connection) = &self.connection {
            if self.follows(connection.binding) {
                return to(Rule::Connection, connection.binding);
            }
            if self.has(pool_flag::RESET) {
                return verdict(Rule::Connection, Fate::Refused(Reason::ServerGone));
            }
        } else if let Some(handshake) = &self.handshake
            && self.follows(handshake.binding)
        {
            return to(Rule::Handshake, handshake.binding);
        }
        match self.live_entry() {
            Some(entry) if self.follows(entry.binding) => to(Rule::Entry, entry.binding),
            _ => self.ring(),
        }
    }

    /// What `binding` is worth now.
    pub(super) fn worth(&self, binding: Binding) -> Worth {
        let known = self.servers.get(&binding.server).map(|seen| seen.server);
        let Some(server) = known.filter(|server| server.generation == binding.generation) else {
            return Worth::Removed;
        };
        match (server.state, self.pool.server_down) {
            (state::UP | state::DRAINING, _) => Worth::Holds,
            (state::DOWN | state::DISABLED, server_down::CONTINUE) => Worth::Holds,
            (state::DOWN | state::DISABLED, server_down::NEVER) => Worth::Refused,
            (state::DOWN | state::DISABLED, _) => Worth::Replaced,
            _ => Worth::Removed,
        }
    }

    /// The entry, if it still binds the client.
    pub(super) fn live_entry(&self) -> Option<&Entry> {
        let entry = self.entry.as_ref().filter(|_| self.has(pool_flag::PERSISTENT))?;
        entry.is_live(self.now_ns, self.pool.timeout_ns).then_some(entry)
    }

    /// Whether a server has as many connections as it may.
    pub(super) fn is_full(&self, number: u32) -> bool {
        self.servers.get(&number).is_some_and(|seen| seen.limit != 0 && seen.open >= seen.limit)
    }

    fn syn(&self) -> Verdict {
        let mut entry = self.live_entry().copied();
        if let Some(connection) = &self.connection
            && State::from_number(connection.state) != State::Closed
        {
            match self.worth(connection.binding) {
                Worth::Holds => return to(Rule::Connection, connection.binding),
                Worth::Refused => {
                    return verdict(Rule::Connection, Fate::Refused(Reason::ServerDown));
                }
                // It is forgotten, which counts in its entry.
                Worth::Replaced | Worth::Removed => entry = self.without(entry, connection),
            }
        }
        if let Some(handshake) = &self.handshake
            && self.worth(handshake.binding) == Worth::Holds
        {
            return to(Rule::Handshake, handshake.binding);
        }
        self.bound_or_new(entry.as_ref())
    }

    fn datagram(&self) -> Verdict {
        if self.has(pool_flag::PERSISTENT) {
            return match self.live_entry() {
                Some(entry) if entry.open > 0 || entry.idle_since_ns > self.now_ns => {
                    self.under_way(Rule::Entry, entry.binding)
                }
                entry => self.bound_or_new(entry),
            };
        }
        let ends = |flow: &Connection| flow.last_seen_ns.saturating_add(self.pool.udp_idle_ns);
        match &self.connection {
            Some(flow) if self.now_ns <= ends(flow) => {
                self.under_way(Rule::Connection, flow.binding)
            }
            _ => self.new_client(),
        }
    }

    /// A datagram of a flow that is known: it does not ask whether its server is full.
    fn under_way(&self, rule: Rule, binding: Binding) -> Verdict {
        match self.worth(binding) {
            Worth::Holds => to(rule, binding),
            Worth::Refused => verdict(rule, Fate::Refused(Reason::ServerDown)),
            Worth::Replaced | Worth::Removed => self.new_client(),
        }
    }

    /// A new connection, by the client's entry or else as a new client's.
    fn bound_or_new(&self, entry: Option<&Entry>) -> Verdict {
        let Some(entry) = entry else { return self.new_client() };
        match self.worth(entry.binding) {
            Worth::Holds if !self.asks_for_room() || !self.is_full(entry.binding.server) => {
                to(Rule::Entry, entry.binding)
            }
            Worth::Holds if self.has(pool_flag::REJECT) => {
                verdict(Rule::Entry, Fate::Refused(Reason::ServerFull))
            }
            Worth::Holds => Verdict { spilled: true, ..self.new_client() },
            Worth::Refused => verdict(Rule::Entry, Fate::Refused(Reason::ServerDown)),
            Worth::Replaced | Worth::Removed => self.new_client(),
        }
    }

    fn asks_for_room(&self) -> bool {
        self.has(pool_flag::LIMITED) && !self.has(pool_flag::EXCEED)
    }

    fn new_client(&self) -> Verdict {
        let limited = self.has(pool_flag::LIMITED);
        if self.pool.algorithm == algorithm::MAGLEV {
            match self.slot {
                Some((_, pick)) if limited && (pick == 0 || self.is_full(pick)) => {}
                _ => return self.ring(),
            }
        }
        let room = self.members.iter().copied().filter(|&number| !limited || !self.is_full(number));
        let room: Vec<u32> = room.collect();
        let fate = match room[..] {
            [only] => Fate::Server(only),
            [] if self.members.is_empty() => Fate::Refused(Reason::NoServer),
            [] => Fate::Refused(Reason::ServerFull),
            _ => Fate::OneOf(room),
        };
        verdict(Rule::Algorithm, fate)
    }

    fn ring(&self) -> Verdict {
        let fate = match self.slot {
            Some((_, 0)) => Fate::Refused(Reason::NoServer),
            Some((_, pick)) => Fate::Server(pick),
            None if self.members.is_empty() => Fate::Refused(Reason::NoServer),
            None => Fate::OneOf(self.members.clone()),
        };
        verdict(Rule::Ring, fate)
    }

    /// The entry after a connection of it is forgotten, if it is still live then.
    fn without(&self, entry: Option<Entry>, connection: &Connection) -> Option<Entry> {
        let mut entry = entry?;
        if connection.entry_created_ns != 0
            && entry.created_ns == connection.entry_created_ns
            && entry.open > 0
        {
            entry.open -= 1;
            entry.idle_since_ns = entry.idle_since_ns.max(self.now_ns);
        }
        entry.is_live(self.now_ns, self.pool.timeout_ns).then_some(entry)
    }

    /// Whether packets of an open connection go on to the server.
    fn follows(&self, binding: Binding) -> bool {
        matches!(self.worth(binding), Worth::Holds | Worth::Refused)
    }

    fn has(&self, flag: u32) -> bool {
        self.pool.flags & flag != 0
    }
}

fn to(rule: Rule, binding: Binding) -> Verdict {
    verdict(rule, Fate::Server(binding.server))
}

fn verdict(rule: Rule, fate: Fate) -> Verdict {
    Verdict { rule, fate, spilled: false }
}
