//! A time-based table: secret keys bound to servers, for as long as they are used and a while after.
//!
//! The timer of a key runs only while no request holds it, from the end of the last one. Keys are kept as hashes under a secret
//! of this process, never in clear. Memory is bounded: when the table is full, the key that was used least recently goes. The
//! table is cut into shards, each under its own lock, so that worker threads seldom meet. Times are given in.

mod shard;
mod wheel;

#[cfg(test)]
mod tests;

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use shard::{Limits, Shard};

/// Number of shards; a power of two.
const SHARDS: usize = 16;

/// How exactly the memory of what has expired is given back, in milliseconds. Who looks a key up gets the exact time.
const TICK_MS: u64 = 100;

/// The server a key is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bound {
    /// The server's stable id.
    pub server: u64,
    /// Its generation when the key was bound.
    pub generation: u32,
}

/// A key that is in use. To be given back by [`Table::close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the key is in use for ever unless it is closed"]
pub struct Hold {
    key: u128,
    serial: u64,
}

/// What has become of keys since the table was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// Keys that were bound.
    pub created: u64,
    /// Of these, the ones that had another server before.
    pub moved: u64,
    /// Keys whose time was over.
    pub expired: u64,
    /// Keys that had to go because the table was full.
    pub evicted: u64,
}

/// Live keys of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    /// How many.
    pub keys: u64,
    /// Milliseconds until the last of them ends, if whatever uses one ends now.
    pub last_ends_ms: Option<u64>,
}

impl Remaining {
    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            keys: self.keys + other.keys,
            last_ends_ms: self.last_ends_ms.max(other.last_ends_ms),
        }
    }
}

/// A table of secret keys and their servers.
pub struct Table {
    shards: [Mutex<Shard>; SHARDS],
    secrets: [RandomState; 2],
    capacity: AtomicU64,
    timeout_ms: AtomicU64,
    counts: [AtomicU64; 4],
}

impl Table {
    /// A table for `capacity` keys, which outlive their last use by `timeout_ms` milliseconds.
    pub fn new(capacity: u32, timeout_ms: u64, now_ms: u64) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(Shard::new(now_ms))),
            secrets: [RandomState::new(), RandomState::new()],
            capacity: AtomicU64::new(capacity.into()),
            timeout_ms: AtomicU64::new(timeout_ms),
            counts: [const { AtomicU64::new(0) }; 4],
        }
    }

    /// Sets other limits. Keys that are too many go as others come.
    pub fn set_limits(&self, capacity: u32, timeout_ms: u64) {
        self.capacity.store(capacity.into(), Relaxed);
        self.timeout_ms.store(timeout_ms, Relaxed);
    }

    /// The server of `secret`, which is in use from now on.
    pub fn open(&self, secret: &[u8], now_ms: u64) -> Option<(Bound, Hold)> {
        let key = self.key(secret);
        self.at(key, now_ms, |shard, limits, _| shard.open(key, now_ms, limits))
    }

    /// Binds `secret` to a server, whatever it had before; it is in use from now on.
    pub fn bind(&self, secret: &[u8], bound: Bound, now_ms: u64) -> Hold {
        let key = self.key(secret);
        self.at(key, now_ms, |shard, limits, happened| {
            shard.bind(key, bound, now_ms, limits, happened)
        })
    }

    /// Ends the use of a key. When it was the last one, its timer begins.
    pub fn close(&self, hold: Hold, now_ms: u64) {
        self.at(hold.key, now_ms, |shard, limits, _| shard.close(hold, now_ms, limits));
    }

    /// Gives back the memory of what has expired. Every other call does it for the shard it goes to.
    pub fn expire(&self, now_ms: u64) {
        for shard in 0..SHARDS {
            self.in_shard(shard, now_ms, |_, _, _| ());
        }
    }

    /// Forgets the keys of servers that `goes` names, and says how many there were.
    pub fn remove_if(&self, goes: impl Fn(&Bound) -> bool) -> usize {
        self.shards.iter().map(|shard| lock(shard).remove_if(&goes)).sum()
    }

    /// The live keys of servers that `is` names. Looks at every key.
    pub fn remaining(&self, is: impl Fn(&Bound) -> bool, now_ms: u64) -> Remaining {
        let shards = (0..SHARDS).map(|place| {
            self.in_shard(place, now_ms, |shard, limits, _| shard.remaining(&is, now_ms, limits))
        });
        shards.fold(Remaining::default(), Remaining::and)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What has become of keys.
    pub fn happened(&self) -> Happened {
        let [created, moved, expired, evicted] =
            [0, 1, 2, 3].map(|place: usize| self.counts[place].load(Relaxed));
        Happened { created, moved, expired, evicted }
    }

    /// 128 bits, so that two values do not meet, of two hashes whose secrets nobody outside knows.
    fn key(&self, secret: &[u8]) -> u128 {
        let [high, low] = [0, 1].map(|place: usize| {
            let mut hasher = self.secrets[place].build_hasher();
            hasher.write(secret);
            u128::from(hasher.finish())
        });
        high << 64 | low
    }

    fn at<T>(
        &self,
        key: u128,
        now_ms: u64,
        act: impl FnOnce(&mut Shard, Limits, &mut Happened) -> T,
    ) -> T {
        self.in_shard((key >> 124) as usize % SHARDS, now_ms, act)
    }

    fn in_shard<T>(
        &self,
        place: usize,
        now_ms: u64,
        act: impl FnOnce(&mut Shard, Limits, &mut Happened) -> T,
    ) -> T {
        let capacity = self.capacity.load(Relaxed).div_ceil(SHARDS as u64);
        let limits = Limits {
            capacity: usize::try_from(capacity).unwrap_or(usize::MAX),
            timeout_ms: self.timeout_ms.load(Relaxed),
        };
        let mut happened = Happened::default();
        let result = {
            let mut shard = lock(&self.shards[place]);
            shard.expire(now_ms, limits, &mut happened);
            act(&mut shard, limits, &mut happened)
        };
        if happened != Happened::default() {
            let counts = [happened.created, happened.moved, happened.expired, happened.evicted];
            for (total, count) in self.counts.iter().zip(counts) {
                total.fetch_add(count, Relaxed);
            }
        }
        result
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A thread that died holding the lock left the shard between two whole changes or not at all: nothing in it can fail halfway.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
