//! Breaks: a live client met another server than the one it was bound to.
//!
//! An entry that is gone tells nobody whom it bound. Whoever takes entries away, and the sweep while the table is so full that
//! the kernel may do it, leaves a [`Ghost`] of each; a client that is bound anew is compared with it.

use bytemuck::{Pod, Zeroable};

use crate::{hash, persistence::EntryKey, server::Binding};

/// Why. Numbers are places in [`BreakCounters`]; append only.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BreakReason {
    /// Its server was down, under `immediate`.
    Down = 0,
    /// Its server was down, and had been drained before.
    Drained = 1,
    /// Its server was disabled, under `immediate`.
    Disabled = 2,
    /// Its server was at its limit of connections.
    Limit = 3,
    /// Its entry was evicted: the table is too small.
    Evicted = 4,
    /// Its entry was flushed.
    Flushed = 5,
    /// It was bound to another server by hand.
    Moved = 6,
    /// Its server is no longer in the pool.
    Removed = 7,
}

impl BreakReason {
    /// All reasons, by number.
    pub const ALL: [Self; 8] = [
        Self::Down,
        Self::Drained,
        Self::Disabled,
        Self::Limit,
        Self::Evicted,
        Self::Flushed,
        Self::Moved,
        Self::Removed,
    ];

    /// How many reasons there can be before the map has to grow.
    pub const CAPACITY: usize = 16;

    /// The name that the CLI and metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Drained => "drained",
            Self::Disabled => "disabled",
            Self::Limit => "limit",
            Self::Evicted => "evicted",
            Self::Flushed => "flushed",
            Self::Moved => "moved",
            Self::Removed => "removed",
        }
    }

    /// The reason of a number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }
}

/// Breaks of a virtual service, by [`BreakReason`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct BreakCounters {
    /// Clients.
    pub by_reason: [u64; BreakReason::CAPACITY],
}

/// One break, in the ring of the last ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct BreakRecord {
    /// Which break it is, counted from 1; 0 while the record is written.
    pub number: u64,
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Whose entry.
    pub key: EntryKey,
    /// The server it was bound to.
    pub before: Binding,
    /// The server it met.
    pub after: Binding,
    /// Address of the first one; `::` if its number belongs to another server by now.
    pub before_address: crate::net::Address,
    /// Address of the second one.
    pub after_address: crate::net::Address,
    /// The place of the counters of the service where it happened.
    pub service_index: u32,
    /// A [`BreakReason`].
    pub reason: u32,
    /// Port of the first server, in host byte order; 0 if it is the service's.
    pub before_port: u16,
    /// Port of the second one.
    pub after_port: u16,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<BreakRecord>() == 112);

/// How many of the last breaks are remembered.
pub const REMEMBERED: u32 = 1_024;

/// The one record of the `break_state` map. Each field is written for itself, by atomic operations.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct BreakState {
    /// Breaks so far: the next record's place is this, modulo [`REMEMBERED`].
    pub breaks: u64,
    /// Until when new entries may have ghosts, nanoseconds of `CLOCK_MONOTONIC`.
    pub lost_until_ns: u64,
    /// Until when there may be ghosts of entries that were moved by hand, in whose place others are.
    pub moved_until_ns: u64,
    /// How many [`GhostSet`]s there are.
    pub sets: u64,
}

/// What is remembered of an entry that is gone, or may be gone soon. Two words, written one after the other.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Ghost {
    /// Tells keys of the same set apart; 0 in an empty place.
    pub fingerprint: u32,
    /// The server's generation.
    pub generation: u32,
    /// The server's number.
    pub server: u16,
    /// A [`BreakReason`]: what to blame if the client meets another server.
    pub reason: u16,
    /// When the entry would have ended at the earliest, as [`Ghost::moment`].
    pub ends: u32,
}

const _: () = assert!(size_of::<Ghost>() == 16);

impl Ghost {
    /// A time in nanoseconds as ghosts have it: in steps of 17 ms, which wrap around after two years.
    #[inline(always)]
    pub const fn moment(ns: u64) -> u32 {
        (ns >> 24) as u32
    }

    /// Whether the entry would still bind its client.
    #[inline(always)]
    pub const fn is_live(&self, now_ns: u64) -> bool {
        self.ends.wrapping_sub(Self::moment(now_ns)).wrapping_sub(1) < 1 << 31
    }

    /// The server.
    #[inline(always)]
    pub const fn binding(&self) -> Binding {
        Binding { server: self.server as u32, generation: self.generation }
    }

    /// As two words: the first one names it.
    #[inline(always)]
    pub fn words(self) -> [u64; 2] {
        bytemuck::cast(self)
    }

    /// The inverse of [`words`](Self::words).
    #[inline(always)]
    pub fn from_words(words: [u64; 2]) -> Self {
        bytemuck::cast(words)
    }
}

/// Ghosts of one set in a cache line.
pub const WAYS: usize = 4;

/// The ghosts of keys that share a place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct GhostSet {
    /// In no order.
    pub ghosts: [Ghost; WAYS],
}

const _: () = assert!(size_of::<GhostSet>() == 64, "one cache line");

/// Where the ghost of a key is among so many sets, and its fingerprint.
#[inline(always)]
pub fn place(key: &EntryKey, sets: u64) -> (u32, u32) {
    let hash = hash::entry(key);
    let place = (u64::from(hash as u32) * (sets & 0xffff_ffff)) >> 32;
    (place as u32, (hash >> 32) as u32 | 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Address, Destination};

    #[test]
    fn numbers_are_places_in_the_list() {
        for (number, reason) in (0..).zip(BreakReason::ALL) {
            assert_eq!(reason as u32, number);
            assert_eq!(BreakReason::from_number(number), Some(reason));
        }
        assert_eq!(BreakReason::from_number(8), None);
    }

    #[test]
    fn a_ghost_lives_no_longer_than_its_entry() {
        for start in [1_u64 << 40, u64::from(u32::MAX) << 24] {
            let ghost = Ghost { ends: Ghost::moment(start), ..Ghost::default() };
            assert!(ghost.is_live(start - (1 << 25)));
            assert!(!ghost.is_live(start) && !ghost.is_live(start + (1 << 26)));
        }
        assert!(!Ghost::default().is_live(5));
    }

    #[test]
    fn keys_spread_over_all_sets() {
        let mut found = [0_u32; 64];
        for n in 0..6_400_u32 {
            let client = Address::from_ipv4((0x0a00_0000 + n).to_be_bytes());
            let key = EntryKey { client, scope: 3, destination: Destination::NONE };
            let (set, fingerprint) = place(&key, 64);
            found[set as usize] += 1;
            assert_ne!(fingerprint, 0);
        }
        assert!(found.iter().all(|n| (60..150).contains(n)), "{found:?}");
        let key = EntryKey::zeroed();
        assert_ne!(place(&key, 1 << 20), place(&EntryKey { scope: 1, ..key }, 1 << 20));
    }
}
