//! Keeping the tables true over time, away from the packets' way.
//!
//! Expiry is exact without it, since packets look at the time themselves. The sweep reclaims what has expired, ends connections
//! that went silent, puts counts of open connections right after evictions, and clears marks of slots whose reason is
//! gone. It works in portions: the daemon calls [`Sweep::portion`] between other things, and a pass is followed by a rest in
//! proportion to what it cost.

mod judge;
mod occupancy;
mod tally;
mod translations;

use std::{
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};

use lbpersist_common::{
    breaks::BreakReason,
    connection::{Connection, ConnectionKey},
    counter::Event,
    hash,
    maintenance::{BATCH, Operation, Request},
    net::{Address, Destination},
    persistence::{Entry, EntryKey},
    ring::{mark, slot_of},
    server::Binding,
    service::Pool,
};

use self::{
    judge::{ConnectionFate, EntryFate, Limits},
    occupancy::Occupancy,
    tally::{Fingerprint, Tally},
};
use super::{Error, apply::DataPath, desired::Desired, ring::Ring};
use crate::{
    clock,
    model::{IdleLimits, Protocol},
};

/// How much the program's clock may be behind ours.
const COARSE_NS: u64 = 20_000_000;

/// After a pass of one second the sweep rests for twenty.
const REST: u32 = 20;

/// The reasons that a pass over entries and connections looks for.
const PASS_REASONS: u32 = mark::EXCEPTION | mark::SUSPECT;

/// Where the sweep is, and what it remembers of this pass and the last.
pub struct Sweep {
    phase: Phase,
    limits: Limits,
    interval: Duration,
    rest_until: Option<Instant>,
    spent: Duration,
    rings: HashMap<u32, (Rc<Ring>, u32)>,
    tally: Tally,
    doubts: HashMap<EntryKey, Doubt>,
    new_doubts: HashMap<EntryKey, Doubt>,
    occupancy: Occupancy,
    requests: Vec<Request>,
    // Connections that were carried before belong to a daemon that has ended.
    started_ns: u64,
    // Of the batch in work.
    fingerprints: Vec<Fingerprint>,
    // Entries of this pass so far, and whether they were so many in the last one that some may be evicted.
    found: usize,
    crowded: bool,
    // How many handshakes had begun when none was unfinished and no slot marked for one.
    quiet_at: Option<u64>,
}

#[derive(Clone, Copy)]
enum Phase {
    Rest,
    Connections(Option<u32>),
    Entries(Option<u32>),
    Translations(Option<u32>),
}

/// An entry whose count did not fit what was found. It is put right when the next pass finds the very same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Doubt {
    count_word: u64,
    found: u32,
}

/// Whether to come back at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to do now.
    More,
    /// There is nothing to do before the interval has passed.
    Rest,
}

/// Services and scopes by the ids that keys hold.
pub struct Index<'a> {
    pools: &'a std::collections::BTreeMap<u32, Pool>,
    services: HashMap<u32, ServiceInfo>,
    scopes: HashMap<u32, u32>,
}

struct ServiceInfo {
    pool: u32,
    scope: u32,
    protocol: Option<Protocol>,
}

impl<'a> Index<'a> {
    /// An index of what the maps hold.
    pub fn of(desired: &'a Desired) -> Self {
        let mut index =
            Self { pools: &desired.pools, services: HashMap::new(), scopes: HashMap::new() };
        let exact = desired
            .services
            .iter()
            .chain(&desired.carried)
            .map(|(key, service)| (key.protocol, service));
        let prefixes = desired.prefix_services.iter();
        let prefixes = prefixes.map(|((_, key), service)| (key.protocol, service));
        for (protocol, service) in exact.chain(prefixes.filter(|(_, service)| service.id != 0)) {
            let protocol = u8::try_from(protocol).ok().and_then(Protocol::from_number);
            index.scopes.insert(service.scope, service.pool);
            index.services.insert(
                service.id,
                ServiceInfo { pool: service.pool, scope: service.scope, protocol },
            );
        }
        index
    }

    /// The numbers of pools by scope.
    pub fn into_scopes(self) -> HashMap<u32, u32> {
        self.scopes
    }
}

impl Sweep {
    /// A sweep that has just begun to rest.
    pub fn new(limits: &IdleLimits, interval: Duration) -> Self {
        Self {
            phase: Phase::Rest,
            limits: Limits::from(limits),
            interval,
            rest_until: None,
            spent: Duration::ZERO,
            rings: HashMap::new(),
            tally: Tally::new(),
            doubts: HashMap::new(),
            new_doubts: HashMap::new(),
            occupancy: Occupancy::default(),
            requests: Vec::new(),
            started_ns: clock::now_ns().saturating_sub(COARSE_NS),
            fingerprints: Vec::new(),
            found: 0,
            crowded: false,
            quiet_at: None,
        }
    }

    /// Takes other limits, from the next portion on.
    pub fn set_limits(&mut self, limits: &IdleLimits, interval: Duration) {
        self.limits = Limits::from(limits);
        self.interval = interval;
    }

    /// Drops unfinished handshakes that are too old, and marks the slots of the others. The table is small, so this is
    /// done in one go; and not at all while nothing new has begun since all were finished.
    pub fn handshakes(&mut self, data_path: &mut DataPath, now_ns: u64) -> Result<(), Error> {
        let begun = data_path.maps.event(Event::HandshakeStarted)?;
        if self.quiet_at == Some(begun) {
            return Ok(());
        }
        let rings = open_rings(data_path)?;
        for (ring, _) in rings.values() {
            ring.begin_look(mark::HANDSHAKE);
        }
        let found = data_path.maps.handshakes.all()?;
        self.quiet_at = found.is_empty().then_some(begun);
        let mut old = Vec::new();
        {
            let index = Index::of(data_path.actual());
            for (key, handshake) in found {
                if now_ns.saturating_sub(handshake.started_ns) > self.limits.handshake_ns {
                    old.push(key);
                } else if let Some((pool, slot)) = index.slot_of_connection(&key)
                    && let Some((ring, _)) = rings.get(&pool)
                {
                    ring.mark(slot, mark::HANDSHAKE);
                }
            }
        }
        for key in old {
            data_path.maps.handshakes.remove(&key)?;
        }
        for (ring, _) in rings.values() {
            ring.end_look(mark::HANDSHAKE);
        }
        Ok(())
    }

    /// Does a portion of a pass, or rests.
    pub fn portion(&mut self, data_path: &mut DataPath, now_ns: u64) -> Result<Progress, Error> {
        if let Phase::Rest = self.phase
            && self.rest_until.is_some_and(|until| Instant::now() < until)
        {
            return Ok(Progress::Rest);
        }
        let begin = Instant::now();
        self.phase = match self.phase {
            Phase::Rest => self.begin_pass(data_path)?,
            Phase::Connections(after) => self.connections(data_path, after, now_ns)?,
            Phase::Entries(after) => match self.entries(data_path, after, now_ns)? {
                Phase::Rest => Phase::Translations(None),
                more => more,
            },
            Phase::Translations(after) => self.translations(data_path, after, now_ns)?,
        };
        self.spent += begin.elapsed();
        if !matches!(self.phase, Phase::Rest) {
            return Ok(Progress::More);
        }
        let rest = (self.spent * REST).max(self.interval);
        self.rest_until = Some(Instant::now() + rest);
        self.spent = Duration::ZERO;
        Ok(Progress::Rest)
    }

    fn begin_pass(&mut self, data_path: &DataPath) -> Result<Phase, Error> {
        self.rings = open_rings(data_path)?;
        for (ring, _) in self.rings.values() {
            ring.begin_look(PASS_REASONS);
        }
        self.tally.begin();
        self.found = 0;
        self.occupancy.begin(data_path);
        Ok(Phase::Connections(None))
    }

    fn connections(
        &mut self,
        data_path: &mut DataPath,
        after: Option<u32>,
        now_ns: u64,
    ) -> Result<Phase, Error> {
        let batch = data_path.maps.connections.batch(after)?;
        {
            let index = Index::of(data_path.actual());
            for (key, connection) in &batch.records {
                self.connection(&index, key, connection, now_ns);
            }
        }
        self.tally.count(&self.fingerprints);
        self.fingerprints.clear();
        self.send(data_path)?;
        Ok(match batch.next {
            Some(next) => Phase::Connections(Some(next)),
            None => Phase::Entries(None),
        })
    }

    fn connection(
        &mut self,
        index: &Index<'_>,
        key: &ConnectionKey,
        connection: &Connection,
        now_ns: u64,
    ) {
        let info = index.services.get(&key.service);
        let entry = info.and_then(|info| index.entry_key(info, key)).unwrap_or(NO_ENTRY);
        let protocol = info.and_then(|info| info.protocol);
        let at_pick = self.note_binding(index.slot_of_connection(key), connection.binding);
        if connection.state == Connection::CARRIED {
            self.carried(info.map(|_| entry), key, connection);
            return;
        }
        let operation = match judge::connection(connection, protocol, &self.limits, at_pick, now_ns)
        {
            ConnectionFate::Open => None,
            ConnectionFate::Lingering => return,
            ConnectionFate::Suspect => {
                if let Some((pool, slot)) = index.slot_of_connection(key)
                    && let Some((ring, _)) = self.rings.get(&pool)
                {
                    ring.mark(slot, mark::SUSPECT);
                }
                (connection.suspect == 0).then_some(Operation::SuspectConnection)
            }
            ConnectionFate::Idle => Some(Operation::EndConnection),
            ConnectionFate::Over => Some(Operation::DeleteConnection),
        };
        let counts =
            !matches!(operation, Some(Operation::EndConnection | Operation::DeleteConnection));
        if counts && connection.entry_created_ns != 0 {
            self.fingerprints.push(self.tally.fingerprint(&entry, connection.entry_created_ns));
        }
        if counts {
            self.occupancy.found(connection.binding);
        }
        if let Some(operation) = operation {
            self.requests.push(Request {
                operation: operation as u32,
                argument: judge::suspect_since(now_ns),
                entry,
                connection: *key,
                created_ns: connection.entry_created_ns,
                seen_ns: connection.last_seen_ns,
                count_word: 0,
            });
        }
    }

    /// A connection that the daemon carries is open until the daemon says that it is not, or has ended itself.
    fn carried(&mut self, entry: Option<EntryKey>, key: &ConnectionKey, connection: &Connection) {
        match entry {
            Some(entry) if connection.last_seen_ns >= self.started_ns => {
                if connection.entry_created_ns != 0 {
                    let fingerprint = self.tally.fingerprint(&entry, connection.entry_created_ns);
                    self.fingerprints.push(fingerprint);
                }
            }
            entry => self.requests.push(Request {
                operation: Operation::CloseCarried as u32,
                argument: 0,
                entry: entry.unwrap_or(NO_ENTRY),
                connection: *key,
                created_ns: connection.entry_created_ns,
                seen_ns: connection.last_seen_ns,
                count_word: 0,
            }),
        }
    }

    fn entries(
        &mut self,
        data_path: &mut DataPath,
        after: Option<u32>,
        now_ns: u64,
    ) -> Result<Phase, Error> {
        let batch = data_path.maps.entries.batch(after)?;
        self.found += batch.records.len();
        let mut orphans = Vec::new();
        {
            let index = Index::of(data_path.actual());
            let tally = &self.tally;
            let of_record =
                |(key, entry): &(EntryKey, Entry)| tally.fingerprint(key, entry.created_ns);
            self.fingerprints.extend(batch.records.iter().map(of_record));
            tally.fetch(&self.fingerprints);
            for ((key, entry), fingerprint) in
                batch.records.iter().zip(std::mem::take(&mut self.fingerprints))
            {
                match index.scopes.get(&key.scope).and_then(|pool| index.pools.get(pool)) {
                    Some(pool) => {
                        if self.crowded {
                            let (ghosts, timeout_ns) = (&data_path.maps.ghosts, pool.timeout_ns);
                            ghosts.leave(key, entry, BreakReason::Evicted, timeout_ns, now_ns);
                        }
                        let found = self.tally.of(fingerprint);
                        self.entry(&index, pool, (key, entry), found, now_ns);
                    }
                    None => orphans.push(*key),
                }
            }
        }
        for key in orphans {
            data_path.maps.entries.remove(&key)?;
        }
        self.send(data_path)?;
        if let Some(next) = batch.next {
            return Ok(Phase::Entries(Some(next)));
        }
        for (ring, _) in self.rings.values() {
            ring.end_look(PASS_REASONS);
        }
        self.rings.clear();
        self.tally.end();
        self.crowded = is_crowded(self.found, data_path.maps.entries.capacity()?);
        self.occupancy.end(data_path);
        self.doubts = std::mem::take(&mut self.new_doubts);
        Ok(Phase::Rest)
    }

    fn entry(
        &mut self,
        index: &Index<'_>,
        pool: &Pool,
        (key, entry): (&EntryKey, &Entry),
        found: u32,
        now_ns: u64,
    ) {
        let number = index.scopes.get(&key.scope).copied().unwrap_or_default();
        let slot = slot_of(hash::client_to(&key.client, 0, &key.destination), pool.slots);
        if entry.idle_since_ns > now_ns {
            self.occupancy.found(entry.binding);
        }
        let (operation, argument) = match judge::entry(&key.client, entry, pool, found, now_ns) {
            EntryFate::Live => {
                self.note_binding(Some((number, slot)), entry.binding);
                return;
            }
            EntryFate::Expired => (Operation::ReclaimEntry, 0),
            EntryFate::Miscounted => {
                self.note_binding(Some((number, slot)), entry.binding);
                let doubt = Doubt { count_word: entry.count_word(), found };
                if self.doubts.get(key) != Some(&doubt) {
                    self.new_doubts.insert(*key, doubt);
                    return;
                }
                (Operation::RepairEntry, found)
            }
        };
        self.requests.push(Request {
            operation: operation as u32,
            argument,
            entry: *key,
            connection: NO_CONNECTION,
            created_ns: entry.created_ns,
            seen_ns: entry.idle_since_ns,
            count_word: entry.count_word(),
        });
    }

    /// Marks the slot of a binding that differs from the ring's pick; says whether it is the pick.
    fn note_binding(&self, place: Option<(u32, u32)>, binding: Binding) -> bool {
        let Some((pool, slot)) = place else { return true };
        let Some((ring, side)) = self.rings.get(&pool) else { return true };
        let at_pick = u32::from(ring.server(slot, *side)) == binding.server;
        if !at_pick {
            ring.mark(slot, mark::EXCEPTION);
        }
        at_pick
    }

    fn send(&mut self, data_path: &mut DataPath) -> Result<(), Error> {
        for requests in self.requests.chunks_mut(BATCH) {
            data_path.object.maintain(requests)?;
        }
        self.requests.clear();
        Ok(())
    }
}

impl Index<'_> {
    fn slot_of_connection(&self, key: &ConnectionKey) -> Option<(u32, u32)> {
        let number = self.services.get(&key.service)?.pool;
        let pool = self.pools.get(&number)?;
        let hash = pool.slot_hash(&key.client, key.client_port, &key.destination);
        Some((number, slot_of(hash, pool.slots)))
    }

    fn entry_key(&self, info: &ServiceInfo, key: &ConnectionKey) -> Option<EntryKey> {
        let client = self.pools.get(&info.pool)?.masked(&key.client);
        Some(EntryKey { client, scope: info.scope, destination: key.destination })
    }
}

/// Whether a table may evict records. It does so before it is full, since every CPU keeps places for itself (128 and more, in
/// bpf_lru_list.c of the kernel).
fn is_crowded(found: usize, capacity: u32) -> bool {
    const OF_A_CPU: usize = 256;
    let cpus = aya::util::nr_cpus().unwrap_or(1);
    found + cpus * OF_A_CPU >= capacity as usize / 4 * 3
}

/// The key of no entry: scope 0 is never given out.
const NO_ENTRY: EntryKey =
    EntryKey { client: Address::UNSPECIFIED, scope: 0, destination: Destination::NONE };

const NO_CONNECTION: ConnectionKey = ConnectionKey {
    client: Address::UNSPECIFIED,
    service: 0,
    client_port: 0,
    service_port: 0,
    destination: Destination::NONE,
    reserved: 0,
};

fn open_rings(data_path: &DataPath) -> Result<HashMap<u32, (Rc<Ring>, u32)>, Error> {
    let mut rings = HashMap::new();
    for &number in data_path.actual().pools.keys() {
        if let Some(ring) = data_path.ring(number) {
            rings.insert(number, (ring, data_path.side(number)?));
        }
    }
    Ok(rings)
}
