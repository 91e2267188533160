//! How many connections each server has open, as the program counts them and the sweep puts right.

use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;
use lbpersist_common::server::Load;

use super::{
    Error,
    maps::{self, PinDirectory},
    sys,
};

/// The counts of all servers, by number, in memory that is shared with the program.
pub struct Loads {
    memory: sys::SharedMemory<AtomicU64>,
}

impl Loads {
    /// Maps the pinned counts.
    pub(super) fn open(pins: &PinDirectory) -> Result<Self, Error> {
        const MAP: &str = "server_load";
        let map: MapData = maps::raw(pins, MAP)?;
        let info = map.info().map_err(|error| Error::map(MAP, error))?;
        let memory = sys::SharedMemory::map(map.fd().as_fd(), info.max_entries() as usize)
            .map_err(|error| Error::map(MAP, error))?;
        Ok(Self { memory })
    }

    /// The count of server `number`.
    pub fn of(&self, number: u32) -> Load {
        let word = self.memory.values().get(number as usize);
        bytemuck::cast(word.map_or(0, |word| word.load(Ordering::Relaxed)))
    }

    /// Forgets what was counted for server `number`: it is another server from now on.
    pub(super) fn reset(&self, number: u32) {
        if let Some(word) = self.memory.values().get(number as usize) {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Sets the count of server `number` from `seen` to `open`, if no packet has changed it since. Says whether it did.
    pub(super) fn put_right(&self, number: u32, seen: Load, open: u32) -> bool {
        let Some(word) = self.memory.values().get(number as usize) else { return false };
        let right = Load { open, ..seen };
        word.compare_exchange(
            bytemuck::cast(seen),
            bytemuck::cast(right),
            Ordering::Relaxed,
            Ordering::Relaxed,
        )
        .is_ok()
    }
}
