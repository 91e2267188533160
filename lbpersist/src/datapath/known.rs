//! The filters of addresses that services and servers have, as the daemon writes them: the memory is shared with the program.

use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;
use lbpersist_common::filter::{self, Filter};

use super::{
    Error,
    desired::Desired,
    maps::{self, PinDirectory},
    sys,
};

/// Both filters.
pub struct KnownAddresses {
    memory: sys::SharedMemory<AtomicU64>,
}

const WORDS: usize = (Filter::COUNT * filter::WORDS) as usize;

impl KnownAddresses {
    /// Maps the pinned filters.
    pub(super) fn open(pins: &PinDirectory) -> Result<Self, Error> {
        const MAP: &str = "known_addresses";
        let map: MapData = maps::raw(pins, MAP)?;
        let memory = sys::SharedMemory::map(map.fd().as_fd(), WORDS)
            .map_err(|error| Error::map(MAP, error))?;
        Ok(Self { memory })
    }

    /// Makes the filters those of all addresses in `states`, and no others.
    pub(super) fn set(&self, states: &[&Desired]) {
        let mut words = vec![0_u64; WORDS];
        for state in states {
            let services = state.services.keys().map(|end| Filter::Services.place(&end.address));
            let servers = state.reverse.keys().map(|end| Filter::Servers.place(&end.address));
            for (word, bit) in services.chain(servers) {
                words[word as usize] |= bit;
            }
        }
        for (shared, word) in self.memory.values().iter().zip(words) {
            if shared.load(Ordering::Relaxed) != word {
                shared.store(word, Ordering::Relaxed);
            }
        }
        // What a program finds in a map that is written from here on it must not have missed in the filter.
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}
