//! UDP flows that need no look-up for a moment: forgotten when that would be wrong. The memory is shared with the program.

use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::maps::MapData;
use lbpersist_common::recent::{self, CELLS, LINES};

use super::{
    Error,
    maps::{self, PinDirectory},
    sys,
};

/// The cells of all flows.
pub struct RecentFlows {
    memory: sys::SharedMemory<[AtomicU32; CELLS]>,
    // When old cells are cleared next.
    next_ns: u64,
}

/// Several times before the count of ticks has gone round.
const FORGET_EVERY_NS: u64 = 600_000_000_000;

impl RecentFlows {
    /// Maps the pinned cells.
    pub(super) fn open(pins: &PinDirectory) -> Result<Self, Error> {
        const MAP: &str = "recent_flows";
        let map: MapData = maps::raw(pins, MAP)?;
        let memory = sys::SharedMemory::map(map.fd().as_fd(), LINES as usize)
            .map_err(|error| Error::map(MAP, error))?;
        Ok(Self { memory, next_ns: 0 })
    }

    /// Has every flow look into the tables again: entries are gone that its clients had.
    pub fn forget_all(&self) {
        for line in self.memory.values() {
            for cell in line {
                if cell.load(Ordering::Relaxed) != 0 {
                    cell.store(0, Ordering::Relaxed);
                }
            }
        }
    }

    /// Clears, if it is time for that again, what was noted long ago, so that it does not look fresh when the count of ticks has
    /// gone round.
    pub fn forget_old(&mut self, now_ns: u64) {
        if now_ns < self.next_ns {
            return;
        }
        self.next_ns = now_ns.saturating_add(FORGET_EVERY_NS);
        for cell in self.memory.values().iter().flatten() {
            let found = cell.load(Ordering::Relaxed);
            if found != 0 && recent::is_stale(found, now_ns) {
                // Lost to a packet that notes its flow at this very moment.
                let _ = cell.compare_exchange(found, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }
}
