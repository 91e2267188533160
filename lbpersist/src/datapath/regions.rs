//! Where in rings packets have set marks, so that the sweep goes through those places alone. The memory is shared with the
//! program.

use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;
use lbpersist_common::ring::{MarkedRegions, mark};

use super::{
    Error,
    maps::{self, PinDirectory},
    sys,
};

/// The words of a pool: see [`MarkedRegions`].
type Words = [AtomicU64; 2];

const _: () = assert!(size_of::<Words>() == size_of::<MarkedRegions>());

/// The regions of all pools, by number.
pub struct Regions {
    memory: sys::SharedMemory<Words>,
}

impl Regions {
    /// Maps the pinned words.
    pub(super) fn open(pins: &PinDirectory) -> Result<Self, Error> {
        const MAP: &str = "marked_regions";
        let map: MapData = maps::raw(pins, MAP)?;
        let info = map.info().map_err(|error| Error::map(MAP, error))?;
        let memory = sys::SharedMemory::map(map.fd().as_fd(), info.max_entries() as usize)
            .map_err(|error| Error::map(MAP, error))?;
        Ok(Self { memory })
    }

    /// The regions that packets have marked for `reasons` since they were taken last.
    pub(super) fn take(&self, pool: u32, reasons: u32) -> u64 {
        let Some(words) = self.memory.values().get(pool as usize) else { return 0 };
        let word = &words[class(reasons)];
        // Most have nothing to take, and are left in the caches of all.
        if word.load(Ordering::Relaxed) == 0 { 0 } else { word.swap(0, Ordering::AcqRel) }
    }
}

/// Which of the two words of a pool `reasons` belong to. They are looked for apart, and so noted apart.
pub(super) fn class(reasons: u32) -> usize {
    usize::from(reasons != mark::HANDSHAKE)
}
