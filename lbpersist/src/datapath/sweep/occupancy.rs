//! Putting right how many connections each server has open.
//!
//! The program counts them as they open and close. A connection that was evicted never closes, and a UDP client only falls
//! silent, so a pass counts what it finds. While it is under way packets go on counting; what it found is believed only where
//! the difference is greater than that explains.

use std::collections::HashMap;

use lbpersist_common::server::{Binding, Load};

use crate::datapath::DataPath;

/// What a pass has seen of the servers.
#[derive(Default)]
pub(super) struct Occupancy {
    servers: HashMap<u32, Seen>,
}

struct Seen {
    generation: u32,
    at_begin: Load,
    found: u32,
}

impl Occupancy {
    /// Begins a pass.
    pub(super) fn begin(&mut self, data_path: &DataPath) {
        let loads = &data_path.maps.server_load;
        let servers = data_path.actual().servers.iter().map(|(&number, server)| {
            let seen = Seen { generation: server.generation, at_begin: loads.of(number), found: 0 };
            (number, seen)
        });
        self.servers = servers.collect();
    }

    /// Counts an open connection, or a UDP client, of a server.
    pub(super) fn found(&mut self, binding: Binding) {
        if let Some(seen) = self.servers.get_mut(&binding.server)
            && seen.generation == binding.generation
        {
            seen.found += 1;
        }
    }

    /// Ends the pass: puts right what is wrong.
    pub(super) fn end(&mut self, data_path: &DataPath) {
        let loads = &data_path.maps.server_load;
        let servers = &data_path.actual().servers;
        for (number, seen) in self.servers.drain() {
            // Another server may have been given the number meanwhile.
            if servers.get(&number).is_none_or(|server| server.generation != seen.generation) {
                continue;
            }
            let load = loads.of(number);
            if is_wrong(seen.at_begin, load, seen.found)
                && loads.put_right(number, load, seen.found)
            {
                let (counted, found) = (load.open, seen.found);
                tracing::debug!(server = number, counted, found, "open connections put right");
            }
        }
    }
}

/// Whether the count at the end of a pass is further from what was found than the changes meanwhile explain.
fn is_wrong(at_begin: Load, at_end: Load, found: u32) -> bool {
    at_end.open.abs_diff(found) > at_end.changes.wrapping_sub(at_begin.changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_believed_only_where_changes_do_not_explain_it() {
        let load = |open, changes| Load { open, changes };
        for (begin, end, found, wrong) in [
            (load(5, 9), load(5, 9), 5, false),
            (load(5, 9), load(5, 9), 4, true),
            (load(0, 0), load(0, 0), 1, true),
            (load(5, 9), load(6, 10), 5, false),
            (load(5, 9), load(6, 10), 4, true),
            (load(5, u32::MAX), load(6, 0), 5, false),
        ] {
            assert_eq!(is_wrong(begin, end, found), wrong, "{begin:?} {end:?} {found}");
        }
    }
}
