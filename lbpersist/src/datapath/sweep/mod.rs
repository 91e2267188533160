//! Keeping the tables true over time, away from the packets' way.
//!
//! Expiry is exact without it, since packets look at the time themselves. The sweep reclaims what has expired, ends connections
//! that went silent, puts counts of open connections right after evictions, and clears marks of slots whose reason is
//! gone. It works in portions: the daemon calls [`Sweep::portion`] between other things, and a pass is followed by a rest in
//! proportion to what it cost.

mod handshakes;
mod index;
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
    hash,
    maintenance::{BATCH, Operation, Request},
    net::{Address, Destination},
    persistence::{Entry, EntryKey},
    ring::{mark, slot_of},
    server::Binding,
    service::Pool,
};

pub use self::index::Index;
use self::{
    judge::{ConnectionFate, EntryFate, Limits},
    occupancy::Occupancy,
    tally::{Counted, Fingerprint, Tally},
};
use super::{Error, apply::DataPath, ring::Ring};
use crate::{clock, model::IdleLimits};

/// How much the program's clock may be behind ours.
const COARSE_NS: u64 = 20_000_000;

/// Records that are read at once: so few that the kernel still has them in the processor's caches when it is asked to change them.
const ROOM: u32 = 512;

/// How often that is done before the daemon gets to look at something else.
const BATCHES: u32 = 8;

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

    /// Does a portion of a pass, or rests.
    pub fn portion(&mut self, data_path: &mut DataPath, now_ns: u64) -> Result<Progress, Error> {
        if let Phase::Rest = self.phase
            && self.rest_until.is_some_and(|until| Instant::now() < until)
        {
            return Ok(Progress::Rest);
        }
        let begin = Instant::now();
        for _ in 0..BATCHES {
            let was = std::mem::discriminant(&self.phase);
            self.phase = match self.phase {
                Phase::Rest => self.begin_pass(data_path)?,
                Phase::Connections(after) => self.connections(data_path, after, now_ns)?,
                Phase::Entries(after) => match self.entries(data_path, after, now_ns)? {
                    Phase::Rest => Phase::Translations(None),
                    more => more,
                },
                Phase::Translations(after) => self.translations(data_path, after, now_ns)?,
            };
            if std::mem::discriminant(&self.phase) != was {
                break;
            }
        }
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
        for (&number, (ring, _)) in &self.rings {
            let noted = data_path.maps.marked_regions.take(number, PASS_REASONS);
            ring.begin_look(PASS_REASONS, noted);
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
        let batch = data_path.maps.connections.batch(after, ROOM)?;
        {
            let index = Index::of(data_path.actual());
            for (key, connection) in &batch.records {
                self.connection(&index, key, connection, now_ns);
            }
        }
        self.tally.count_open(&self.fingerprints);
        self.fingerprints.clear();
        self.send(data_path)?;
        self.tally.count_ended(&self.fingerprints);
        self.fingerprints.clear();
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
        let batch = data_path.maps.entries.batch(after, ROOM)?;
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
        Counted { open: found, ended }: Counted,
        now_ns: u64,
    ) {
        let number = index.scopes.get(&key.scope).copied().unwrap_or_default();
        let slot = slot_of(hash::client_to(&key.client, 0, &key.destination), pool.slots);
        if entry.idle_since_ns > now_ns {
            self.occupancy.found(entry.binding);
        }
        let fate = judge::entry(&key.client, entry, pool, found, now_ns);
        let (operation, argument) = match fate {
            // The next pass will see what comes of it.
            _ if ended > 0 => {
                self.note_binding(Some((number, slot)), entry.binding);
                (Operation::CloseEnded, ended)
            }
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

    /// Has the program do what was decided; leaves the fingerprints of entries whose connections have ended by that.
    fn send(&mut self, data_path: &mut DataPath) -> Result<(), Error> {
        for requests in self.requests.chunks_mut(BATCH) {
            data_path.object.maintain(requests)?;
            let ended = requests.iter().filter(|request| has_ended(request));
            let print = |of: &Request| self.tally.fingerprint(&of.entry, of.created_ns);
            self.fingerprints.extend(ended.map(print));
        }
        self.requests.clear();
        Ok(())
    }
}

/// Whether a table may evict records. It does so before it is full, since every CPU keeps places for itself (128 and more, in
/// bpf_lru_list.c of the kernel).
fn is_crowded(found: usize, capacity: u32) -> bool {
    const OF_A_CPU: usize = 256;
    let cpus = aya::util::nr_cpus().unwrap_or(1);
    found + cpus * OF_A_CPU >= capacity as usize / 4 * 3
}

/// Whether a connection that some entry counts was ended by this request.
fn has_ended(request: &Request) -> bool {
    request.operation == Operation::EndConnection as u32
        && request.argument == 1
        && request.created_ns != 0
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
