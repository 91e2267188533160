//! How many connections a pass has found open, by the entry that counts them.
//!
//! A pass counts and asks a million times in no order at all, so what it costs is the way to memory. Entries are told apart by a
//! fingerprint of 64 bits in place of their keys, which makes 16 bytes of a hundred, and a batch is fetched before it is gone
//! through, so that the processor waits for many places at once.
//!
//! Two entries of the same fingerprint would be counted as one. Every pass has fingerprints of its own, and a count is put right
//! only when two passes in a row find the very same, so such a meeting (one in 10^7 passes over a million entries) comes to
//! nothing. One that takes an ended connection from the wrong entry is a count that is wrong, and put right likewise.

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

/// An entry, and its connections; a place that nobody has taken counts none.
#[derive(Clone, Copy, Default)]
struct Place {
    fingerprint: u64,
    counted: Counted,
}

/// Connections of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Found open.
    pub(super) open: u32,
    /// Ended by this pass, and not yet taken from what the entry counts.
    pub(super) ended: u32,
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

    /// Counts an open connection of each.
    pub(super) fn count_open(&mut self, batch: &[Fingerprint]) {
        self.count(batch, Counted { open: 1, ended: 0 });
    }

    /// Counts a connection of each that has ended.
    pub(super) fn count_ended(&mut self, batch: &[Fingerprint]) {
        self.count(batch, Counted { open: 0, ended: 1 });
    }

    fn count(&mut self, batch: &[Fingerprint], one: Counted) {
        while (self.taken + batch.len()) * 8 > self.places.len() * 5 {
            self.grow();
        }
        self.fetch(batch);
        for &fingerprint in batch {
            self.add(fingerprint, one);
        }
    }

    /// Has the places of a batch at hand for [`Self::of`].
    pub(super) fn fetch(&self, batch: &[Fingerprint]) {
        // None of these waits for another, unlike those of a search.
        let first = |fingerprint: &Fingerprint| self.places.get(self.home(*fingerprint));
        let touched = batch.iter().filter_map(first).fold(0, |sum, place| sum ^ place.fingerprint);
        std::hint::black_box(touched);
    }

    /// How many were counted.
    pub(super) fn of(&self, fingerprint: Fingerprint) -> Counted {
        self.places.get(self.find(fingerprint)).map_or(Counted::default(), |place| place.counted)
    }

    /// Ends the pass, and gives its memory back.
    pub(super) fn end(&mut self) {
        self.places = Vec::new();
    }

    fn add(&mut self, fingerprint: Fingerprint, more: Counted) {
        let at = self.find(fingerprint);
        let place = &mut self.places[at];
        if place.is_free() {
            place.fingerprint = fingerprint.0;
            self.taken += 1;
        }
        place.counted.open = place.counted.open.saturating_add(more.open);
        place.counted.ended = place.counted.ended.saturating_add(more.ended);
    }

    fn grow(&mut self) {
        let larger = places_for(self.places.len());
        self.taken = 0;
        for place in std::mem::replace(&mut self.places, larger) {
            if !place.is_free() {
                self.add(Fingerprint(place.fingerprint), place.counted);
            }
        }
    }

    /// Where the entry is, or would be; there is always a free place.
    fn find(&self, fingerprint: Fingerprint) -> usize {
        let mut at = self.home(fingerprint);
        while let Some(place) = self.places.get(at)
            && !place.is_free()
            && place.fingerprint != fingerprint.0
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

impl Place {
    fn is_free(&self) -> bool {
        self.counted == Counted::default()
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
                tally.count_open(&batch);
                tally.count_ended(&batch[1..]);
            }
            for scope in 0..5_000 {
                let counted = Counted { open: scope % 3 + 1, ended: scope % 3 };
                assert_eq!(tally.of(print(&tally, scope, 7)), counted);
                assert_eq!(tally.of(print(&tally, scope, 8)), Counted::default());
            }
            tally.end();
            assert_eq!(tally.of(print(&tally, 0, 7)), Counted::default());
        }
    }
}
