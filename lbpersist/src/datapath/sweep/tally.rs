//! How many connections a pass has found open, by the entry that counts them.
//!
//! A pass counts and asks a million times in no order at all, so what it costs is the way to memory. Entries are told apart by a
//! fingerprint of 64 bits in place of their keys, which makes 12 bytes of a hundred, and a batch is fetched before it is gone
//! through, so that the processor waits for many places at once.
//!
//! Two entries of the same fingerprint would be counted as one. Every pass has fingerprints of its own, and a count is put right
//! only when two passes in a row find the very same, so such a meeting (one in 10^7 passes over a million entries) comes to
//! nothing.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use lbpersist_common::{hash, persistence::EntryKey};

use crate::datapath::sys;

/// Places of the smallest table; a power of two, as all are.
const FEWEST: usize = 1 << 10;

/// What a pass has counted.
pub(super) struct Tally {
    seed: u64,
    // Open addressing: an entry is at the place that its fingerprint says, or the next free one behind.
    places: Vec<Place>,
    taken: usize,
}

/// An entry, and its open connections; a place that nobody has taken counts none.
#[derive(Clone, Copy, Default)]
struct Place {
    // Halves, for the sake of alignment.
    fingerprint: [u32; 2],
    count: u32,
}

/// What stands for an entry in this pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

impl Tally {
    /// One that has counted nothing.
    pub(super) fn new() -> Self {
        Self { seed: 0, places: Vec::new(), taken: 0 }
    }

    /// Begins a pass, which will meet about as many entries as the last one.
    pub(super) fn begin(&mut self) {
        self.seed = RandomState::new().build_hasher().finish();
        self.places = places_for(self.taken);
        self.taken = 0;
    }

    /// The fingerprint of the entry that was made then.
    pub(super) fn fingerprint(&self, key: &EntryKey, created_ns: u64) -> Fingerprint {
        let of_key = hash::bytes(self.seed, bytemuck::bytes_of(key));
        Fingerprint(hash::bytes(of_key, &created_ns.to_ne_bytes()))
    }

    /// Counts a connection of each.
    pub(super) fn count(&mut self, batch: &[Fingerprint]) {
        while (self.taken + batch.len()) * 8 > self.places.len() * 5 {
            self.grow();
        }
        self.fetch(batch);
        for &fingerprint in batch {
            self.add(fingerprint, 1);
        }
    }

    /// Has the places of a batch at hand for [`Self::of`].
    pub(super) fn fetch(&self, batch: &[Fingerprint]) {
        // None of these waits for another, unlike those of a search.
        let first = |fingerprint: &Fingerprint| self.places.get(self.home(*fingerprint));
        let touched = batch.iter().filter_map(first).fold(0, |sum, place| sum ^ place.count);
        std::hint::black_box(touched);
    }

    /// How many were counted.
    pub(super) fn of(&self, fingerprint: Fingerprint) -> u32 {
        self.places.get(self.find(fingerprint)).map_or(0, |place| place.count)
    }

    /// Ends the pass, and gives its memory back.
    pub(super) fn end(&mut self) {
        self.places = Vec::new();
    }

    fn add(&mut self, fingerprint: Fingerprint, count: u32) {
        let at = self.find(fingerprint);
        let place = &mut self.places[at];
        if place.count == 0 {
            place.fingerprint = fingerprint.halves();
            self.taken += 1;
        }
        place.count = place.count.saturating_add(count);
    }

    fn grow(&mut self) {
        let larger = places_for(self.places.len());
        self.taken = 0;
        for place in std::mem::replace(&mut self.places, larger) {
            if place.count > 0 {
                self.add(Fingerprint::of_halves(place.fingerprint), place.count);
            }
        }
    }

    /// Where the entry is, or would be; there is always a free place.
    fn find(&self, fingerprint: Fingerprint) -> usize {
        let mut at = self.home(fingerprint);
        while let Some(place) = self.places.get(at)
            && place.count > 0
            && place.fingerprint != fingerprint.halves()
        {
            at = (at + 1) & (self.places.len() - 1);
        }
        at
    }

    fn home(&self, Fingerprint(number): Fingerprint) -> usize {
        // A mask takes what it needs of the number.
        number as usize & self.places.len().saturating_sub(1)
    }
}

impl Fingerprint {
    fn halves(self) -> [u32; 2] {
        [self.0 as u32, (self.0 >> 32) as u32]
    }

    fn of_halves([low, high]: [u32; 2]) -> Self {
        Self(u64::from(high) << 32 | u64::from(low))
    }
}

/// Free places for so many entries, about twice as many.
fn places_for(entries: usize) -> Vec<Place> {
    let mut places = vec![Place::default(); (entries * 2).next_power_of_two().max(FEWEST)];
    sys::prefer_huge_pages(&mut places);
    places
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    fn key(scope: u32) -> EntryKey {
        EntryKey { scope, ..EntryKey::zeroed() }
    }

    #[test]
    fn an_entry_is_told_from_others_and_from_an_earlier_one_of_its_key() {
        let mut tally = Tally::new();
        for _ in 0..2 {
            tally.begin();
            let print = |tally: &Tally, scope, created| tally.fingerprint(&key(scope), created);
            // More than the smallest table has room for, so that it grows in the first pass.
            for scope in 0..5_000 {
                let batch = vec![print(&tally, scope, 7); scope as usize % 3 + 1];
                tally.count(&batch);
            }
            for scope in 0..5_000 {
                assert_eq!(tally.of(print(&tally, scope, 7)), scope % 3 + 1);
                assert_eq!(tally.of(print(&tally, scope, 8)), 0);
            }
            tally.end();
            assert_eq!(tally.of(print(&tally, 0, 7)), 0);
        }
    }
}
