//! The rules of persistence as `docs/operating.md` has them, in plain Rust: no marks, no sides, no atomics, no tables that
//! are read only at times.
//!
//! Where the rules leave a range, a time here has two ends, and the tables are asked which moment it was: see
//! [`Rules::unsettled`] and [`Rules::sweep`].

use std::collections::BTreeMap;

use lbpersist_common::recent;

mod sweep;

use crate::{
    budget::Budget,
    world::{Answer, Flow, Key, OnLimit, Pool, Says, Server, Side, Standing, State},
};

pub(crate) const MILLISECOND: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MILLISECOND;
// Events happen at whole tenths of a second, and a little, so that no limit is met to the tick.
/// The idle limits.
pub(crate) const TCP_IDLE: u64 = 15_050 * MILLISECOND;
pub(crate) const CLOSING_IDLE: u64 = 5_050 * MILLISECOND;
pub(crate) const HANDSHAKE_IDLE: u64 = 8_050 * MILLISECOND;
pub(crate) const UDP_IDLE: u64 = 9_030 * MILLISECOND;
/// How long a UDP flow lasts after its last packet that was noted: a little longer, because not all are.
const UDP_LASTS: u64 = recent::idle_ns(UDP_IDLE);
/// How long closed connections are remembered, by whether their server is the ring's.
const LINGER: [u64; 2] = [60 * SECOND, 2 * SECOND];
/// In which steps the end of a UDP client's flow is noted, and the ticks of the clock.
const STEP: u64 = 105 * MILLISECOND;
/// What the tables' time may be off.
const TICKS: u64 = 40 * MILLISECOND;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) server: usize,
    pub(crate) open: u32,
    /// Since when no connection is open, or until when a UDP client counts as open: from, to.
    idle: [u64; 2],
    /// Tells it from others of the key.
    epoch: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    pub(crate) server: usize,
    pub(crate) state: State,
    /// When the state was reached, when the last segment was heard, and which sweep first found it silent.
    changed: u64,
    heard: u64,
    /// When the last packet of a UDP flow was noted: from, to.
    noted: [u64; 2],
    suspected: Option<u64>,
    /// The entry that counts it, by key and epoch.
    counted: Option<(Key, u64)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Handshake {
    pub(crate) server: usize,
    started: u64,
    /// Whether the server has answered, so that the client can have seen its number.
    answered: bool,
    /// The client was bound to another server, which was full.
    spilled: bool,
}

/// Everything there is.
pub(crate) struct Rules {
    pub(crate) pools: Vec<Pool>,
    pub(crate) entries: BTreeMap<Key, Entry>,
    pub(crate) connections: BTreeMap<Flow, Connection>,
    pub(crate) handshakes: BTreeMap<Flow, Handshake>,
    pub(crate) budget: Budget,
    /// Live clients that met another server than theirs; and those for whom that depends on a tick of the clock.
    pub(crate) breaks: [u64; 2],
    epochs: u64,
}

impl Connection {
    /// Whether a UDP flow goes on; `None` when that depends on a moment within the range.
    fn lasts(&self, now: u64) -> Option<bool> {
        let [from, to] = self.noted.map(|noted| now <= noted + UDP_LASTS);
        (from == to).then_some(from)
    }
}

impl Entry {
    /// Whether it binds its client; `None` when that depends on a moment within the range.
    fn binds(&self, timeout: u64, now: u64) -> Option<bool> {
        let [from, to] = self.idle.map(|idle| now < idle + timeout);
        if self.open > 0 || from {
            Some(true)
        } else if to {
            None
        } else {
            Some(false)
        }
    }
}

impl Rules {
    pub(crate) fn new(pools: Vec<Pool>, budget: Budget) -> Self {
        Self {
            pools,
            entries: BTreeMap::new(),
            connections: BTreeMap::new(),
            handshakes: BTreeMap::new(),
            budget,
            breaks: [0; 2],
            epochs: 0,
        }
    }

    /// A client's SYN.
    pub(crate) fn syn(&mut self, flow: Flow, now: u64) -> Answer {
        if let Some(known) = self.connections.get(&flow).copied() {
            match (known.state, self.standing(&flow, known.server)) {
                (State::Closed, _) => drop(self.connections.remove(&flow)),
                (_, Standing::Usable) => return self.to(&flow, known.server),
                // Its client may go on trying, but not begin anew.
                (_, Standing::Refused) => return Answer::Refused,
                // Nobody is left at the other end, so the connection is over.
                (_, Standing::Gone) => self.end(&flow, &known, now),
            }
        }
        if let Some(handshake) = self.handshakes.get(&flow)
            && self.standing(&flow, handshake.server) == Standing::Usable
        {
            return self.to(&flow, handshake.server);
        }
        let mut spilled = false;
        match self.bound(&flow, now) {
            Some((server, Standing::Usable)) => {
                let full = self.is_full(flow.service.pool, server);
                match self.pool(&flow).on_limit {
                    OnLimit::Reject if full => return Answer::Full,
                    OnLimit::Spill if full => spilled = true,
                    _ => return self.begin(flow, server, spilled, now),
                }
            }
            Some((_, Standing::Refused)) => return Answer::Refused,
            Some((_, Standing::Gone)) | None => {}
        }
        let Some(pick) = self.pool(&flow).pick(&flow) else { return Answer::Nobody };
        if !self.is_full(flow.service.pool, pick) {
            return self.begin(flow, pick, spilled, now);
        }
        let best = self.least_loaded(flow.service.pool);
        let Some(&first) = best.first() else { return Answer::Full };
        // Which of them it is, [`Rules::chose`] says.
        self.begin(flow, first, spilled, now);
        let hosts = best.iter().map(|&place| self.pool(&flow).servers[place].host);
        Answer::ToOneOf(hosts.collect())
    }

    /// Which of the servers that [`Answer::ToOneOf`] names the client met.
    pub(crate) fn chose(&mut self, flow: &Flow, host: u8) {
        let servers = &self.pool(flow).servers;
        let met = |server: &Server| server.host == host && !server.removed;
        let place = servers.iter().position(met).expect("it is one of these");
        self.handshakes.get_mut(flow).expect("its SYN was forwarded").server = place;
    }

    fn begin(&mut self, flow: Flow, server: usize, spilled: bool, now: u64) -> Answer {
        let new = Handshake { server, started: now, answered: false, spilled };
        self.handshakes.insert(flow, new);
        self.to(&flow, server)
    }

    /// Open connections of a server.
    fn load(&self, pool: usize, server: usize) -> u32 {
        let open = self.connections.iter().filter(|(flow, known)| {
            flow.service.pool == pool && known.server == server && known.state != State::Closed
        });
        u32::try_from(open.count()).expect("few connections")
    }

    fn is_full(&self, pool: usize, server: usize) -> bool {
        let limit = self.pools[pool].limit;
        limit != 0 && self.load(pool, server) >= limit
    }

    /// The servers with room that have the least to do for their weight.
    fn least_loaded(&self, pool: usize) -> Vec<usize> {
        let servers = self.pools[pool].servers.iter().enumerate();
        let open = |place| u64::from(self.load(pool, place)) + 1;
        let able: Vec<(usize, u64, u64)> = servers
            .filter(|(_, server)| !server.removed && server.up && server.weight > 0)
            .filter(|(place, _)| !self.is_full(pool, *place))
            .map(|(place, server)| (place, open(place), u64::from(server.weight)))
            .collect();
        let no_worse = |(_, one, weight): &(usize, u64, u64)| {
            able.iter().all(|(_, other, other_weight)| one * other_weight <= other * weight)
        };
        able.iter().filter(|server| no_worse(server)).map(|(place, ..)| *place).collect()
    }

    /// Any other segment of a client; all of them acknowledge.
    pub(crate) fn segment(&mut self, flow: Flow, says: Says, now: u64) -> Answer {
        let mut server = None;
        if let Some(known) = self.connections.get(&flow).copied() {
            if self.pool(&flow).resets && self.standing(&flow, known.server) == Standing::Gone {
                self.end(&flow, &known, now);
                return Answer::Reset;
            }
            server = self.note(&flow, Side::Client, says, now);
        } else if let Some(handshake) = self.handshakes.get(&flow).copied() {
            server = Some(handshake.server);
            if says == Says::Rst || handshake.answered {
                self.handshakes.remove(&flow);
            }
            if says != Says::Rst && handshake.answered {
                self.finish(flow, &handshake, says, now);
            }
        }
        let bound = |server| (server, self.standing(&flow, server));
        let known = server.map(bound).filter(|(_, standing)| *standing != Standing::Gone);
        let entry = || self.bound(&flow, now).filter(|(_, standing)| *standing != Standing::Gone);
        match known.or_else(entry) {
            Some((server, _)) => self.to(&flow, server),
            None => self.pool(&flow).pick(&flow).map_or(Answer::Nobody, |to| self.to(&flow, to)),
        }
    }

    /// A server's segment.
    pub(crate) fn answer(&mut self, flow: Flow, says: Says, now: u64) {
        if self.connections.contains_key(&flow) {
            if says != Says::Nothing {
                self.note(&flow, Side::Server, says, now);
            }
        } else if says == Says::Rst {
            self.handshakes.remove(&flow);
        } else if says == Says::Nothing
            && let Some(handshake) = self.handshakes.get_mut(&flow)
        {
            handshake.answered = true;
        }
    }

    /// A client's datagram.
    pub(crate) fn datagram(&mut self, flow: Flow, now: u64) -> Answer {
        let known = if self.pool(&flow).is_persistent() {
            self.touch(&flow, now)
        } else {
            self.connections.get_mut(&flow).and_then(|old| {
                let lasts = old.lasts(now).expect("flows are settled before each packet");
                lasts.then(|| {
                    old.heard = now;
                    old.noted = [old.noted[0].max(now.saturating_sub(UDP_LASTS - UDP_IDLE)), now];
                    old.server
                })
            })
        };
        match known.map(|server| (server, self.standing(&flow, server))) {
            Some((server, Standing::Usable)) => return self.to(&flow, server),
            Some((_, Standing::Refused)) => return Answer::Refused,
            Some((_, Standing::Gone)) | None => {}
        }
        let Some(server) = self.pool(&flow).pick(&flow) else {
            // It is asked for all the same.
            let _ = self.budget.allows(flow.client, now);
            return Answer::Nobody;
        };
        if !self.budget.allows(flow.client, now) {
            return self.to(&flow, server);
        }
        if self.pool(&flow).is_persistent() {
            if known.is_some_and(|known| known != server) {
                self.breaks[0] += 1;
            }
            self.bind(&flow, server, 0, now + UDP_LASTS);
        } else {
            let state = State::Flow;
            let new = Connection {
                server,
                state,
                changed: now,
                heard: now,
                noted: [now; 2],
                suspected: None,
                counted: None,
            };
            self.connections.insert(flow, new);
        }
        self.to(&flow, server)
    }

    fn pool(&self, flow: &Flow) -> &Pool {
        &self.pools[flow.service.pool]
    }

    fn to(&self, flow: &Flow, server: usize) -> Answer {
        Answer::To(self.pool(flow).servers[server].host)
    }

    fn standing(&self, flow: &Flow, server: usize) -> Standing {
        self.pool(flow).standing(server)
    }

    fn key(&self, flow: &Flow) -> Key {
        let pool = self.pool(flow);
        Key {
            client: pool.masked(flow.client),
            pool: flow.service.pool,
            service: (!pool.shared).then_some(flow.service.number),
        }
    }

    /// The server of the client's entry.
    fn bound(&self, flow: &Flow, now: u64) -> Option<(usize, Standing)> {
        let pool = self.pool(flow);
        let entry = self.entries.get(&self.key(flow)).filter(|_| pool.is_persistent())?;
        let binds = entry.binds(pool.timeout, now).expect("entries are settled before each packet");
        binds.then(|| (entry.server, pool.standing(entry.server)))
    }

    fn bind(&mut self, flow: &Flow, server: usize, open: u32, idle: u64) -> u64 {
        self.epochs += 1;
        let epoch = self.epochs;
        self.entries.insert(self.key(flow), Entry { server, open, idle: [idle; 2], epoch });
        epoch
    }

    /// The client has answered: it has a connection from here on, and an entry.
    fn finish(&mut self, flow: Flow, handshake: &Handshake, says: Says, now: u64) {
        let (server, key) = (handshake.server, self.key(&flow));
        let counted = self.pool(&flow).is_persistent().then(|| match self.bound(&flow, now) {
            Some((bound, Standing::Usable | Standing::Refused)) if !handshake.spilled => {
                // Whether it was bound before its SYN, and to a server that was gone then, or by another connection since.
                self.breaks[1] += u64::from(bound != server);
                let entry = self.entries.get_mut(&key).expect("it binds");
                entry.open += 1;
                (key, entry.epoch)
            }
            lost => {
                if lost.is_some_and(|(lost, _)| lost != server) {
                    self.breaks[0] += 1;
                }
                (key, self.bind(&flow, server, 1, now))
            }
        });
        let state = State::Established;
        let (heard, noted, suspected) = (now, [now; 2], None);
        let new = Connection { server, state, changed: now, heard, noted, suspected, counted };
        self.connections.insert(flow, new);
        self.note(&flow, Side::Client, says, now);
    }

    /// A segment of a known connection; returns its server.
    fn note(&mut self, flow: &Flow, side: Side, says: Says, now: u64) -> Option<usize> {
        let connection = self.connections.get_mut(flow)?;
        let before = connection.state;
        let after = match (says, before, side) {
            (Says::Nothing, _, _) => before,
            (Says::Rst, _, _) | (_, State::Closed, _) => State::Closed,
            (_, State::ClientClosed, Side::Server) | (_, State::ServerClosed, Side::Client) => {
                State::Closed
            }
            (Says::Fin, _, Side::Client) => State::ClientClosed,
            (Says::Fin, _, Side::Server) => State::ServerClosed,
        };
        connection.state = after;
        connection.heard = now;
        connection.suspected = None;
        let noted = *connection;
        if before != after {
            connection.changed = now;
            if after == State::Closed {
                self.uncount(&noted, now);
            }
        }
        Some(noted.server)
    }

    /// A connection is no longer known.
    fn end(&mut self, flow: &Flow, connection: &Connection, now: u64) {
        self.connections.remove(flow);
        if connection.state != State::Closed {
            self.uncount(connection, now);
        }
    }

    /// The entry that counted the connection no longer does. The timer runs from the last close, but not while a UDP
    /// client of the same key still counts as open.
    fn uncount(&mut self, connection: &Connection, now: u64) {
        let Some((key, epoch)) = connection.counted else { return };
        if let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.epoch == epoch) {
            entry.open -= 1;
            entry.idle = entry.idle.map(|idle| idle.max(now));
        }
    }

    /// The server of a UDP client's entry, which its datagram keeps alive.
    fn touch(&mut self, flow: &Flow, now: u64) -> Option<usize> {
        let (server, _) = self.bound(flow, now)?;
        let entry = self.entries.get_mut(&self.key(flow)).expect("it binds");
        let [from, to] = entry.idle;
        entry.idle = [from.max(now + UDP_IDLE - STEP), to.max(now + UDP_LASTS)];
        Some(server)
    }
}
