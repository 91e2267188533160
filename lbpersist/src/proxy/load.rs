//! How much servers have to do, over all workers: requests under way in mode `http`, connections in mode `tcp`.
//!
//! Counted in every pool, since whoever drains a server waits for them; [`Loads`] goes by them where an algorithm other than
//! `maglev`, or a limit, asks for it. Services of the same pool count together, whichever of the two modes they are of. What the
//! kernel carries is counted by the kernel.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use crate::{
    balance::{maglev::Member, turns},
    datapath::desired::ServerKey,
    model::{Algorithm, OnLimit, Pool, Server},
};

/// Servers that are compared for one request at most, as in the kernel.
const MOST_LOOKED_AT: usize = 256;

/// What choosing a server takes in a pool where more than the ring decides.
#[derive(Debug)]
pub(super) struct Loads {
    pub(super) algorithm: Algorithm,
    pub(super) on_limit: OnLimit,
    /// Numbers of servers, from 1, in the order of their turns.
    turns: Vec<u16>,
    next_turn: Arc<AtomicU32>,
    servers: Vec<Load>,
    chance: RandomState,
}

#[derive(Debug)]
struct Load {
    open: Arc<AtomicU32>,
    limit: u32,
    weight: u32,
}

/// One request or connection that counts for its server, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicU32>);

impl Place {
    /// One more, whatever the limit.
    pub(super) fn at(open: &Arc<AtomicU32>) -> Self {
        open.fetch_add(1, Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Loads {
    /// The next server in turn that may be taken.
    pub(super) fn in_turn(&self, may: impl Fn(usize) -> bool) -> Option<usize> {
        self.turns_from_next().find(|&server| self.has_room(server) && may(server))
    }

    /// The server with the least to do for its weight, of those that may be taken.
    pub(super) fn least(&self, may: impl Fn(usize) -> bool) -> Option<usize> {
        let some = self.turns_from_next().take(MOST_LOOKED_AT);
        let some = some.filter(|&server| self.has_room(server) && may(server));
        some.reduce(|one, other| self.lighter(one, other))
    }

    /// Of two servers the one with less to do for its weight; of equals the first.
    pub(super) fn lighter(&self, one: usize, other: usize) -> usize {
        let measure = |server: usize| {
            let load = &self.servers[server];
            (u64::from(load.open.load(Relaxed)) + 1, u64::from(load.weight.max(1)))
        };
        let ((open, weight), (others, others_weight)) = (measure(one), measure(other));
        if others * weight < open * others_weight { other } else { one }
    }

    /// A number that nobody can foretell.
    pub(super) fn chance(&self, number: u64) -> u64 {
        self.chance.hash_one(number)
    }

    /// Whether the server has fewer than it may have.
    pub(super) fn has_room(&self, server: usize) -> bool {
        let load = &self.servers[server];
        load.open.load(Relaxed) < load.limit
    }

    /// Takes a place at a server, if it has one.
    pub(super) fn take(&self, server: usize) -> Option<Place> {
        let Load { open, limit, .. } = &self.servers[server];
        let more = |open: u32| (open < *limit).then(|| open + 1);
        open.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Place(Arc::clone(open)))
    }

    /// Takes a place at a server, whether it has one or not.
    pub(super) fn force(&self, server: usize) -> Place {
        Place::at(&self.servers[server].open)
    }

    /// All turns, from the one that is next.
    fn turns_from_next(&self) -> impl Iterator<Item = usize> {
        let length = self.turns.len();
        let first = self.next_turn.fetch_add(1, Relaxed) as usize % length.max(1);
        let turns = self.turns[first..].iter().chain(&self.turns[..first]);
        turns.map(|number| usize::from(*number) - 1)
    }
}

/// The counts of all pools, which outlive a configuration.
#[derive(Debug, Default)]
pub(super) struct Counted {
    open: HashMap<ServerKey, Arc<AtomicU32>>,
    turns: HashMap<String, Arc<AtomicU32>>,
}

impl Counted {
    /// Forgets what belongs to other pools.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        // A server may come back while what it had to do is under way, so it is kept as long as its pool.
        self.open.retain(|(pool, ..), open| keep(pool) || open.load(Relaxed) > 0);
        self.turns.retain(|pool, _| keep(pool));
    }

    /// What counts how much a server has to do.
    pub(super) fn open(&mut self, pool: &Pool, server: &Server) -> Arc<AtomicU32> {
        Arc::clone(self.open.entry(key(pool, server)).or_default())
    }

    /// How much a server has to do.
    pub(super) fn under_way(&self, pool: &Pool, server: &Server) -> u64 {
        self.open.get(&key(pool, server)).map_or(0, |open| open.load(Relaxed).into())
    }

    /// What choosing takes in `pool`, whose `members` take new clients; nothing where the ring decides alone.
    pub(super) fn loads(&mut self, pool: &Pool, members: &[Member]) -> Option<Arc<Loads>> {
        if pool.algorithm == Algorithm::Maglev && !pool.is_limited() {
            return None;
        }
        let turns = match pool.algorithm {
            Algorithm::RoundRobin => turns::round_robin(members),
            _ => turns::each_once(members),
        };
        let weights: HashMap<u16, u32> =
            members.iter().map(|one| (one.number, one.weight)).collect();
        let servers = pool.servers.iter().zip(1_u16..).map(|(server, number)| Load {
            open: Arc::clone(self.open.entry(key(pool, server)).or_default()),
            limit: server.max_connections.unwrap_or(u32::MAX),
            weight: weights.get(&number).copied().unwrap_or(1),
        });
        Some(Arc::new(Loads {
            algorithm: pool.algorithm,
            on_limit: pool.on_limit,
            turns,
            servers: servers.collect(),
            next_turn: Arc::clone(self.turns.entry(pool.name.clone()).or_default()),
            chance: RandomState::new(),
        }))
    }
}

fn key(pool: &Pool, server: &Server) -> ServerKey {
    (pool.name.clone(), server.address, server.port)
}
