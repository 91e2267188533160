//! Entries that no packet made: they come from a file, or from before a reboot.
//!
//! The daemon is their one writer beside the packets. A client that has a living entry keeps it, so nobody is moved, unless that is
//! asked for.

use std::collections::HashMap;

use lbpersist_common::{
    breaks::BreakReason,
    hash,
    persistence::{Entry, EntryKey},
    ring::{mark, slot_of},
    server::Binding,
    service::pool_flag,
};

use super::{Error, apply::DataPath, maps::Maps, sweep::Index};

/// An entry that there should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose.
    pub key: EntryKey,
    /// The server.
    pub binding: Binding,
    /// How long it has to live without connections, in nanoseconds; no longer than the pool's timeout.
    pub left_ns: u64,
    /// How long ago the client was bound, in nanoseconds.
    pub age_ns: u64,
}

/// What became of a [`Wanted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The client is bound.
    Bound,
    /// The client had a living entry, and keeps it.
    Kept,
    /// The client had a living entry with another server, and is bound to this one now.
    Moved,
    /// It would have ended by now.
    Expired,
    /// Its service, pool or server is no more.
    Unknown,
}

impl DataPath {
    /// Binds clients, those that have living entries too if they `may_move`; says of each what became of it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses. Those before stay bound.
    pub fn bind(
        &mut self,
        wanted: &[Wanted],
        may_move: bool,
        now_ns: u64,
    ) -> Result<Vec<Fate>, Error> {
        let scopes = Index::of(self.actual()).into_scopes();
        let mut sides = HashMap::new();
        for &number in scopes.values() {
            sides.insert(number, self.side(number)?);
        }
        wanted.iter().map(|one| self.bind_one(one, &scopes, &sides, may_move, now_ns)).collect()
    }

    fn bind_one(
        &mut self,
        wanted: &Wanted,
        scopes: &HashMap<u32, u32>,
        sides: &HashMap<u32, u32>,
        may_move: bool,
        now_ns: u64,
    ) -> Result<Fate, Error> {
        let Wanted { key, binding, left_ns, age_ns } = wanted;
        let number = scopes.get(&key.scope).copied();
        let pool = number.and_then(|number| Some((number, *self.actual().pools.get(&number)?)));
        let Some((number, pool)) = pool else { return Ok(Fate::Unknown) };
        let server = self.actual().servers.get(&binding.server);
        let known = server
            .is_some_and(|server| server.generation == binding.generation && server.pool == number);
        if !known || pool.flags & pool_flag::PERSISTENT == 0 {
            return Ok(Fate::Unknown);
        }
        if *left_ns == 0 {
            return Ok(Fate::Expired);
        }
        // The mark first: the client's packets have to look from the moment on that there is an entry.
        let slot = slot_of(hash::client_to(&key.client, 0, &key.destination), pool.slots);
        if let (Some(ring), Some(&side)) = (self.ring(number), sides.get(&number))
            && u32::from(ring.server(slot, side)) != binding.server
        {
            ring.mark(slot, mark::EXCEPTION);
        }
        let left_ns = (*left_ns).min(pool.timeout_ns);
        let entry = Entry {
            binding: *binding,
            open: 0,
            changes: 0,
            // Of a machine that has just started the clock is near zero, and the entry may have more time than was left of it.
            idle_since_ns: now_ns.saturating_add(left_ns).saturating_sub(pool.timeout_ns),
            created_ns: now_ns.saturating_sub(*age_ns).max(1),
        };
        let Maps { entries, ghosts, .. } = &mut self.maps;
        let moves_from = |was: Entry| {
            if was.binding != *binding {
                ghosts.leave(key, &was, BreakReason::Moved, pool.timeout_ns, now_ns);
            }
        };
        if entries.insert_new(key, &entry)? {
            // Somebody took its entry away, and it has not come back since.
            let lost = ghosts.take(key, now_ns);
            lost.into_iter().for_each(|lost| moves_from(Entry { binding: lost, ..entry }));
            return Ok(Fate::Bound);
        }
        let living = entries.find(key)?.filter(|found| found.is_live(now_ns, pool.timeout_ns));
        if let Some(found) = living {
            if !may_move || found.binding == *binding {
                return Ok(Fate::Kept);
            }
            moves_from(found);
        }
        entries.remove(key)?;
        Ok(match (entries.insert_new(key, &entry)?, living) {
            (true, Some(_)) => Fate::Moved,
            (true, None) => Fate::Bound,
            (false, _) => Fate::Kept,
        })
    }
}
