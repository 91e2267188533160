//! What is remembered of entries that are taken away, or that the kernel may evict: see [`lbpersist_common::breaks`].
//!
//! Written in memory that is shared with the program, by the daemon and by whoever flushes entries. A ghost that is lost to
//! another one means that a break is not counted, never that one is counted that was none.

use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use aya::maps::MapData;
use lbpersist_common::{
    breaks::{self, BreakReason, Ghost, WAYS},
    persistence::{Entry, EntryKey},
    server::Binding,
};

use super::{
    Error,
    maps::{self, PinDirectory},
    sys::SharedMemory,
};

/// Words of a ghost, of a set, and of the state before and at what is written here.
const GHOST_WORDS: usize = 2;
const SET_WORDS: usize = WAYS * GHOST_WORDS;
const LOST_UNTIL: usize = 1;
const MOVED_UNTIL: usize = 2;
const SETS: usize = 3;
const STATE_WORDS: usize = 4;

const _: () = assert!(size_of::<breaks::BreakState>() == 8 * STATE_WORDS);
const _: () = assert!(size_of::<breaks::GhostSet>() == 8 * SET_WORDS);

/// How many sets there are for a table of so many entries: two places an entry, so that few ghosts push others out.
pub(super) fn sets_for(entry_table: u32) -> u32 {
    (entry_table / 2).max(1)
}

/// The ghosts.
pub struct Ghosts {
    cells: SharedMemory<AtomicU64>,
    state: SharedMemory<AtomicU64>,
    sets: u64,
}

impl Ghosts {
    /// Opens the pinned maps.
    pub(super) fn open(pins: &PinDirectory) -> Result<Self, Error> {
        let (cells, sets) = shared(pins, "ghosts", SET_WORDS)?;
        let (state, _) = shared(pins, "break_state", STATE_WORDS)?;
        // Programs know from here how many there are.
        state.values()[SETS].store(sets.into(), Relaxed);
        Ok(Self { cells, state, sets: sets.into() })
    }

    /// Remembers an entry of which the client will meet its next server because of `reason`.
    pub fn leave(
        &self,
        key: &EntryKey,
        entry: &Entry,
        reason: BreakReason,
        timeout_ns: u64,
        now_ns: u64,
    ) {
        let Ok(server) = u16::try_from(entry.binding.server) else { return };
        // No later than it will end in truth.
        let ends_ns = if entry.open > 0 {
            now_ns.saturating_add(timeout_ns)
        } else {
            entry.expires_ns(timeout_ns)
        };
        let (set, fingerprint) = breaks::place(key, self.sets);
        let ghost = Ghost {
            fingerprint,
            generation: entry.binding.generation,
            server,
            reason: reason as u16,
            ends: Ghost::moment(ends_ns),
        };
        if !ghost.is_live(now_ns) {
            return;
        }
        let Some(place) = self.room(set, &ghost, now_ns) else { return };
        let [name, rest] = ghost.words();
        // Without a name while it is written, so that nobody takes half of it.
        place[0].store(0, Relaxed);
        std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
        place[1].store(rest, Relaxed);
        place[0].store(name, std::sync::atomic::Ordering::Release);
        let until = if reason == BreakReason::Moved { MOVED_UNTIL } else { LOST_UNTIL };
        self.state.values()[until].fetch_max(ends_ns, Relaxed);
        // The entry that was made by hand may be taken away in turn.
        self.state.values()[LOST_UNTIL].fetch_max(ends_ns, Relaxed);
    }

    /// What is remembered of a client's living entry, which is forgotten by that.
    pub fn take(&self, key: &EntryKey, now_ns: u64) -> Option<Binding> {
        let (set, fingerprint) = breaks::place(key, self.sets);
        let place = self.places(set).find(|place| read(place).fingerprint == fingerprint)?;
        let ghost = read(place);
        place[0].store(0, Relaxed);
        ghost.is_live(now_ns).then(|| ghost.binding())
    }

    /// Where a ghost goes: over the one of its key, into an empty place or one that is over, or over the one that ends first.
    fn room(&self, set: u32, ghost: &Ghost, now_ns: u64) -> Option<&[AtomicU64]> {
        let own = |place: &&[AtomicU64]| read(place).fingerprint == ghost.fingerprint;
        if let Some(place) = self.places(set).find(own) {
            let known = read(place);
            // What was done by hand is not to be blamed on the kernel.
            let is_kept = ghost.reason == BreakReason::Evicted as u16
                && known.reason == BreakReason::Moved as u16
                && known.is_live(now_ns);
            return (!is_kept).then_some(place);
        }
        let left = |place: &&[AtomicU64]| {
            let known = read(place);
            if known.fingerprint == 0 || !known.is_live(now_ns) {
                0
            } else {
                known.ends.wrapping_sub(Ghost::moment(now_ns))
            }
        };
        self.places(set).min_by_key(left)
    }

    fn places(&self, set: u32) -> impl Iterator<Item = &[AtomicU64]> {
        let start = set as usize * SET_WORDS;
        let words = self.cells.values().get(start..start + SET_WORDS).unwrap_or_default();
        words.chunks_exact(GHOST_WORDS)
    }
}

fn read(place: &[AtomicU64]) -> Ghost {
    Ghost::from_words([place[0].load(Relaxed), place[1].load(Relaxed)])
}

/// The memory of a pinned array whose values have so many words, and how many values there are.
fn shared(
    pins: &PinDirectory,
    name: &'static str,
    words: usize,
) -> Result<(SharedMemory<AtomicU64>, u32), Error> {
    let map: MapData = maps::raw(pins, name)?;
    let count = map.info().map_err(|error| Error::map(name, error))?.max_entries();
    let memory = SharedMemory::map(map.fd().as_fd(), count as usize * words)
        .map_err(|error| Error::map(name, error))?;
    Ok((memory, count))
}
