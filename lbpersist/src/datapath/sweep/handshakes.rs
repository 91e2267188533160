//! Unfinished handshakes: what is too old is dropped, and slots that no handshake needs marked any more lose that mark.

use lbpersist_common::{counter::Event, ring::mark};

use super::{Index, Sweep};
use crate::datapath::{Error, apply::DataPath};

impl Sweep {
    /// Drops unfinished handshakes that are too old, and marks the slots of the others. The table is small, so this is
    /// done in one go; and not at all while nothing new has begun since all were finished. Rings are gone through only where slots
    /// have been marked for handshakes. Says how many slots that were.
    pub fn handshakes(&mut self, data_path: &mut DataPath, now_ns: u64) -> Result<usize, Error> {
        let begun = data_path.maps.event(Event::HandshakeStarted)?;
        if self.quiet_at == Some(begun) {
            return Ok(0);
        }
        let looked = data_path
            .rings()
            .map(|(number, ring)| {
                let noted = data_path.maps.marked_regions.take(number, mark::HANDSHAKE);
                ring.begin_look(mark::HANDSHAKE, noted)
            })
            .sum();
        let found = data_path.maps.handshakes.all()?;
        self.quiet_at = found.is_empty().then_some(begun);
        let mut old = Vec::new();
        {
            let index = Index::of(data_path.actual());
            for (key, handshake) in found {
                if now_ns.saturating_sub(handshake.started_ns) > self.limits.handshake_ns {
                    old.push(key);
                } else if let Some((pool, slot)) = index.slot_of_connection(&key)
                    && let Some(ring) = data_path.ring(pool)
                {
                    ring.mark(slot, mark::HANDSHAKE);
                }
            }
        }
        for key in old {
            data_path.maps.handshakes.remove(&key)?;
        }
        for (_, ring) in data_path.rings() {
            ring.end_look(mark::HANDSHAKE);
        }
        Ok(looked)
    }
}
