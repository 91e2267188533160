//! One part of a table, under one lock: records in a slab, found by key, in order of use, each with its timer.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use super::{
    Bound, Happened, Hold, Remaining, TICK_MS,
    wheel::{self, Links, NONE, Wheel},
};

/// How many records are looked at for one that nobody uses, when one has to go.
const LOOK_FOR_UNUSED: usize = 8;

struct Record {
    key: u128,
    bound: Bound,
    /// Requests that hold it.
    open: u32,
    /// Tells it from earlier records of the key.
    serial: u64,
    /// When the last request ended, in milliseconds; the timer runs from here while `open` is 0.
    idle_since: u64,
    newer: u32,
    older: u32,
    links: Links,
}

struct Slab(Vec<Record>);

impl wheel::Places for Slab {
    fn links(&mut self, place: u32) -> &mut Links {
        &mut self.0[place as usize].links
    }
}

pub(super) struct Shard {
    records: Slab,
    places: HashMap<u128, u32, BuildHasherDefault<AlreadyHashed>>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    wheel: Wheel,
    next_serial: u64,
}

/// What a shard is told with every call.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) capacity: usize,
    pub(super) timeout_ms: u64,
}

impl Shard {
    pub(super) fn new(now: u64) -> Self {
        Self {
            records: Slab(Vec::new()),
            places: HashMap::default(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            wheel: Wheel::new(now / TICK_MS),
            next_serial: 1,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The live record of a key, held once more.
    pub(super) fn open(&mut self, key: u128, now: u64, limits: Limits) -> Option<(Bound, Hold)> {
        let place = *self.places.get(&key)?;
        let record = &self.records.0[place as usize];
        if record.open == 0 && now >= record.idle_since.saturating_add(limits.timeout_ms) {
            self.remove(place);
            return None;
        }
        Some(self.hold(place))
    }

    /// Binds a key, and holds its record.
    pub(super) fn bind(
        &mut self,
        key: u128,
        bound: Bound,
        now: u64,
        limits: Limits,
        happened: &mut Happened,
    ) -> Hold {
        if let Some(&place) = self.places.get(&key) {
            let record = &mut self.records.0[place as usize];
            let over =
                record.open == 0 && now >= record.idle_since.saturating_add(limits.timeout_ms);
            if record.bound == bound && !over {
                return self.hold(place).1;
            }
            happened.moved += u64::from(!over);
            // As a new record: those who hold the old one no longer count.
            self.remove(place);
        }
        while self.places.len() >= limits.capacity {
            self.evict();
            happened.evicted += 1;
        }
        happened.created += 1;
        let place = self.insert(key, bound, now);
        self.hold(place).1
    }

    /// Ends a hold. The timer begins when it was the last.
    pub(super) fn close(&mut self, hold: Hold, now: u64, limits: Limits) {
        let Some(&place) = self.places.get(&hold.key) else { return };
        let record = &mut self.records.0[place as usize];
        if record.serial != hold.serial || record.open == 0 {
            return;
        }
        record.open -= 1;
        record.idle_since = record.idle_since.max(now);
        if record.open == 0 {
            let due = record.idle_since.saturating_add(limits.timeout_ms).div_ceil(TICK_MS);
            self.wheel.arm(&mut self.records, place, due);
        }
    }

    /// Removes what has expired by `now`.
    pub(super) fn expire(&mut self, now: u64, limits: Limits, happened: &mut Happened) {
        while let Some(place) = self.wheel.fire(&mut self.records, now / TICK_MS) {
            let record = &self.records.0[place as usize];
            let ends = record.idle_since.saturating_add(limits.timeout_ms);
            if record.open > 0 {
                continue;
            }
            if now < ends {
                // The timeout has become longer since.
                self.wheel.arm(&mut self.records, place, ends.div_ceil(TICK_MS));
                continue;
            }
            self.remove(place);
            happened.expired += 1;
        }
    }

    /// Removes the records that `goes` names, and says how many.
    pub(super) fn remove_if(&mut self, goes: &dyn Fn(&Bound) -> bool) -> usize {
        let places: Vec<u32> = self
            .places
            .values()
            .copied()
            .filter(|&place| goes(&self.records.0[place as usize].bound))
            .collect();
        places.iter().for_each(|&place| self.remove(place));
        places.len()
    }

    /// The live records that `is` names.
    pub(super) fn remaining(
        &self,
        is: &dyn Fn(&Bound) -> bool,
        now: u64,
        limits: Limits,
    ) -> Remaining {
        let records = self.places.values().map(|&place| &self.records.0[place as usize]);
        let ends = records.filter(|record| is(&record.bound)).filter_map(|record| {
            if record.open > 0 {
                return Some(limits.timeout_ms);
            }
            let ends = record.idle_since.saturating_add(limits.timeout_ms);
            (now < ends).then(|| ends - now)
        });
        ends.fold(Remaining::default(), |sum, ends| {
            sum.and(Remaining { keys: 1, last_ends_ms: Some(ends) })
        })
    }

    fn hold(&mut self, place: u32) -> (Bound, Hold) {
        self.unlink(place);
        self.link_newest(place);
        self.wheel.disarm(&mut self.records, place);
        let record = &mut self.records.0[place as usize];
        record.open += 1;
        (record.bound, Hold { key: record.key, serial: record.serial })
    }

    fn insert(&mut self, key: u128, bound: Bound, now: u64) -> u32 {
        let record = Record {
            key,
            bound,
            open: 0,
            serial: self.next_serial,
            idle_since: now,
            newer: NONE,
            older: NONE,
            links: Links::UNLINKED,
        };
        self.next_serial += 1;
        let place = match self.free.pop() {
            Some(place) => {
                self.records.0[place as usize] = record;
                place
            }
            None => {
                self.records.0.push(record);
                u32::try_from(self.records.0.len() - 1)
                    .expect("a table has fewer than 2^32 records")
            }
        };
        self.places.insert(key, place);
        self.link_newest(place);
        place
    }

    /// Removes the record that was used least recently; one that is in use only if many in a row are.
    fn evict(&mut self) {
        let mut place = self.oldest;
        for _ in 0..LOOK_FOR_UNUSED {
            if place == NONE || self.records.0[place as usize].open == 0 {
                break;
            }
            place = self.records.0[place as usize].newer;
        }
        let unused = place != NONE && self.records.0[place as usize].open == 0;
        self.remove(if unused { place } else { self.oldest });
    }

    fn remove(&mut self, place: u32) {
        self.wheel.disarm(&mut self.records, place);
        self.unlink(place);
        self.places.remove(&self.records.0[place as usize].key);
        self.free.push(place);
    }

    fn link_newest(&mut self, place: u32) {
        let newest = self.newest;
        let record = &mut self.records.0[place as usize];
        (record.newer, record.older) = (NONE, newest);
        match newest {
            NONE => self.oldest = place,
            newest => self.records.0[newest as usize].newer = place,
        }
        self.newest = place;
    }

    fn unlink(&mut self, place: u32) {
        let Record { newer, older, .. } = self.records.0[place as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.records.0[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.records.0[older as usize].newer = newer,
        }
    }
}

/// Keys are hashes under a secret already.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}
