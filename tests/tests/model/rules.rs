//! The rules of persistence as `docs/operating.md` has them, in plain Rust: no marks, no sides, no atomics, no tables that
//! are read only at times.
//!
//! Where the rules leave a range, a time here has two ends, and the tables are asked which moment it was: see
//! [`Rules::unsettled`] and [`Rules::sweep`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lbpersist::{
    balance::maglev::{self, Member},
    datapath::address::to_map,
};
use lbpersist_common::{hash, recent, ring::slot_of};
use lbpersist_tests::topology::Family;

use crate::setup::server_address;

pub(crate) const MILLISECOND: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MILLISECOND;
/// Slots of every ring: few, so that clients share them.
pub(crate) const SLOTS: u32 = 13;

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

/// A service: its pool, and 0 or 1 for TCP, 2 for UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Service {
    pub(crate) pool: usize,
    pub(crate) number: usize,
}

/// One client, port and service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) client: IpAddr,
    pub(crate) port: u16,
    pub(crate) service: Service,
}

/// Whose entry it is: a masked client, at a service or at the whole pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) client: IpAddr,
    pub(crate) pool: usize,
    pub(crate) service: Option<usize>,
}

/// `server_down` of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Down {
    Immediate,
    Never,
    Continue,
}

/// `on_limit` of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnLimit {
    Spill,
    Exceed,
    Reject,
}

/// A pool and its profile. Servers are known by their places; one that was removed keeps its own.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) family: Family,
    /// Connections that each server may have; 0 for any number. Such a pool has no datagrams: their ends are seen by the sweep
    /// alone.
    pub(crate) limit: u32,
    pub(crate) on_limit: OnLimit,
    pub(crate) timeout: u64,
    pub(crate) mask: u8,
    pub(crate) shared: bool,
    pub(crate) down: Down,
    /// Whether open connections whose server is gone are reset.
    pub(crate) resets: bool,
    pub(crate) servers: Vec<Server>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    pub(crate) host: u8,
    pub(crate) weight: u16,
    pub(crate) up: bool,
    pub(crate) removed: bool,
}

/// Where a client's packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    To(u8),
    /// To one of these, the least loaded ones.
    ToOneOf(BTreeSet<u8>),
    /// Every server that it may have is full.
    Full,
    /// Its server is down and it may have no other.
    Refused,
    /// The server of its connection is gone.
    Reset,
    /// There is no server for it.
    Nobody,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// A UDP flow, which has no states.
    Flow,
    Established,
    ClientClosed,
    ServerClosed,
    Closed,
}

/// Who sent a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What a segment says besides data and acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    Nothing,
    Fin,
    Rst,
}

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

/// The budget of new clients that have not proven their address: of windows of 2^30 nanoseconds, in all and by prefix.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    pub(crate) all: u32,
    pub(crate) of_prefix: u32,
    window: u64,
    spent: u32,
    spent_of_prefix: BTreeMap<IpAddr, u32>,
}

/// What a binding is worth.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Usable,
    Refused,
    Gone,
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

impl Budget {
    pub(crate) fn new(all: u32, of_prefix: u32) -> Self {
        Self { all, of_prefix, ..Self::default() }
    }

    /// Whether a record may be made for that client.
    fn allows(&mut self, client: IpAddr, now: u64) -> bool {
        if self.window != now >> 30 {
            *self = Self { window: now >> 30, ..Self::new(self.all, self.of_prefix) };
        }
        let prefix = masked(client, if client.is_ipv4() { 24 } else { 48 });
        let spent = self.spent_of_prefix.entry(prefix).or_default();
        if *spent == self.of_prefix {
            return false;
        }
        *spent += 1;
        let is_left = self.spent < self.all;
        self.spent += u32::from(is_left);
        is_left
    }
}

/// The first bits of an address, as it is written.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let all = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(address) & all).into())
        }
        IpAddr::V6(address) => {
            let all = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(address) & all).into())
        }
    }
}

impl Pool {
    fn is_persistent(&self) -> bool {
        self.timeout > 0
    }

    fn standing(&self, server: usize) -> Standing {
        let Server { up, removed, .. } = self.servers[server];
        let down = if self.is_persistent() { self.down } else { Down::Immediate };
        match (removed, up, down) {
            (true, _, _) | (false, false, Down::Immediate) => Standing::Gone,
            (false, true, _) | (false, false, Down::Continue) => Standing::Usable,
            (false, false, Down::Never) => Standing::Refused,
        }
    }

    fn masked(&self, client: IpAddr) -> IpAddr {
        masked(client, self.mask)
    }

    /// The place of the server that the ring picks.
    fn pick(&self, flow: &Flow) -> Option<usize> {
        let new = |server: &Server| !server.removed && server.up && server.weight > 0;
        let members: Vec<Member> = self
            .servers
            .iter()
            .enumerate()
            .filter(|(_, server)| new(server))
            .map(|(place, server)| Member {
                address: to_map(server_address(self.family, server.host)),
                port: 0,
                weight: u32::from(server.weight),
                number: u16::try_from(place + 1).expect("few servers"),
            })
            .collect();
        let hash = if self.is_persistent() {
            hash::client(&to_map(self.masked(flow.client)), 0)
        } else {
            hash::client(&to_map(flow.client), flow.port)
        };
        let number = maglev::ring(&members, SLOTS)[slot_of(hash, SLOTS) as usize];
        usize::from(number).checked_sub(1)
    }
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

    /// Handshakes that are too old go.
    pub(crate) fn sweep_handshakes(&mut self, now: u64) {
        self.handshakes.retain(|_, handshake| now - handshake.started <= HANDSHAKE_IDLE);
    }

    /// What a pass of the sweep does. `left` are the connections that it left, which have to be those that may be left.
    pub(crate) fn sweep(&mut self, left: &BTreeSet<Flow>, now: u64) -> Result<(), String> {
        let flows: Vec<Flow> = self.connections.keys().copied().collect();
        for flow in flows {
            let (may, must) = self.may_and_must_end(&flow, now);
            let is_left = left.contains(&flow);
            let connection = self.connections[&flow];
            if (is_left && must) || (!is_left && !may) {
                return Err(format!("after the sweep, left is {is_left}: {flow:?} {connection:?}"));
            }
            if !is_left {
                self.end(&flow, &connection, now);
            }
        }
        let pools = &self.pools;
        self.entries.retain(|key, entry| entry.binds(pools[key.pool].timeout, now) != Some(false));
        Ok(())
    }

    /// The entries of which the rules do not say whether they bind their clients now.
    pub(crate) fn unsettled(&self, now: u64) -> Vec<Key> {
        let open =
            |key: &Key, entry: &Entry| entry.binds(self.pools[key.pool].timeout, now).is_none();
        self.entries.iter().filter(|(key, entry)| open(key, entry)).map(|(key, _)| *key).collect()
    }

    /// The UDP flows of which the rules do not say whether they go on.
    pub(crate) fn unsettled_flows(&self, now: u64) -> Vec<Flow> {
        let open = |known: &Connection| known.state == State::Flow && known.lasts(now).is_none();
        self.connections.iter().filter(|(_, known)| open(known)).map(|(flow, _)| *flow).collect()
    }

    /// Settles when a packet of a flow was noted, by what the table says.
    pub(crate) fn settle_flow(&mut self, flow: &Flow, noted: u64) -> Result<(), String> {
        let known = self.connections.get_mut(flow).expect("it is unsettled");
        let [from, to] = known.noted;
        if !(from.saturating_sub(TICKS)..=to + TICKS).contains(&noted) {
            return Err(format!("{flow:?} was noted at {noted}: {known:?}"));
        }
        known.noted = [noted; 2];
        Ok(())
    }

    /// Settles when the timer of an entry began, by what the table says.
    pub(crate) fn settle(&mut self, key: &Key, idle: u64) -> Result<(), String> {
        let entry = self.entries.get_mut(key).expect("it is unsettled");
        let [from, to] = entry.idle;
        if !(from..=to + TICKS).contains(&idle) {
            return Err(format!("{key:?} is idle since {idle}: {entry:?}"));
        }
        entry.idle = [idle; 2];
        Ok(())
    }

    /// Whether a pass of the sweep may end, and must end, a connection.
    fn may_and_must_end(&mut self, flow: &Flow, now: u64) -> (bool, bool) {
        let pick = self.pool(flow).pick(flow);
        let connection = self.connections.get_mut(flow).expect("it was listed");
        let (silent, since) = (now - connection.heard, now - connection.changed);
        let limit = match connection.state {
            State::Flow => return (silent > UDP_IDLE, silent > UDP_LASTS),
            State::Closed => {
                let linger = LINGER[usize::from(pick == Some(connection.server))];
                return (since + TICKS > linger, silent > linger + TICKS);
            }
            State::Established => TCP_IDLE,
            State::ClientClosed | State::ServerClosed => CLOSING_IDLE,
        };
        // The tables count the second sweep's N in whole seconds.
        let again = limit + SECOND + TICKS;
        let must = connection.suspected.is_some_and(|first| now - first > again);
        if silent > limit {
            connection.suspected.get_or_insert(now);
        }
        (silent > limit, must)
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
