//! Which number belongs to which pool, service and server.
//!
//! Numbers are places in arrays and may be given away again; a server's generation then rises, so that nothing bound to the old
//! one follows. Ids of pools and services are never used twice, so entries and connections of one never pass to another.
//! The pinned maps hold all of this, which is how a daemon that starts again knows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Range,
};

/// Numbers and ids in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identities {
    /// Pools by name.
    pub pools: BTreeMap<String, Numbered>,
    /// Services by name and pool: one that moves to another pool is another service to its clients.
    pub services: BTreeMap<String, Numbered>,
    /// Servers.
    pub servers: BTreeMap<ServerIdentity, Generation>,
    /// The generation that each server number had last, for numbers that are free.
    pub retired: BTreeMap<u16, u32>,
    /// The next id.
    pub next_id: u32,
    free_pools: Free,
    free_services: Free,
    free_servers: Free,
}

/// A place in an array, and the id of who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// The place.
    pub number: u32,
    /// The id.
    pub id: u32,
}

/// What tells a server from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerIdentity {
    /// The pool's number.
    pub pool: u32,
    /// Where it listens.
    pub address: IpAddr,
    /// The port it listens on; 0 if it is the service's.
    pub port: u16,
}

/// A server's number and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The place in the `servers` map.
    pub number: u16,
    /// How often the number was given away before.
    pub generation: u32,
}

/// Why no number could be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no number left for another {0}")]
pub struct Exhausted(pub &'static str);

/// Numbers of pools and services that the maps have room for; those of servers are 1 to 65535.
pub const POOLS: u32 = 4_096;
/// See [`POOLS`].
pub const SERVICES: u32 = 16_384;

impl Identities {
    /// The number and id of the pool called `name`.
    pub fn pool(&mut self, name: &str) -> Result<Numbered, Exhausted> {
        numbered(&mut self.pools, &mut self.free_pools, &mut self.next_id, name, POOLS)
            .ok_or(Exhausted("pool"))
    }

    /// The number and id of the service called `name`.
    pub fn service(&mut self, name: &str) -> Result<Numbered, Exhausted> {
        numbered(&mut self.services, &mut self.free_services, &mut self.next_id, name, SERVICES)
            .ok_or(Exhausted("service"))
    }

    /// The number and generation of a server.
    pub fn server(&mut self, identity: ServerIdentity) -> Result<Generation, Exhausted> {
        if let Some(known) = self.servers.get(&identity) {
            return Ok(*known);
        }
        let used =
            self.servers.values().map(|known| known.number).chain(self.retired.keys().copied());
        let known = self.servers.len() + self.retired.len();
        let fresh = self.free_servers.next(known, used.map(u32::from), 1..u32::from(u16::MAX) + 1);
        let number = fresh
            .and_then(|number| u16::try_from(number).ok())
            .or_else(|| self.retired.keys().next().copied())
            .ok_or(Exhausted("server"))?;
        let generation = self.retired.remove(&number).map_or(1, |last| last.wrapping_add(1));
        let given = Generation { number, generation };
        self.servers.insert(identity, given);
        Ok(given)
    }

    /// Forgets all that `keep` does not name.
    pub fn retain(
        &mut self,
        keep_pool: impl Fn(&str) -> bool,
        keep_service: impl Fn(&str) -> bool,
        keep_server: impl Fn(&ServerIdentity) -> bool,
    ) {
        (self.free_pools, self.free_services, self.free_servers) = <_>::default();
        self.pools.retain(|name, _| keep_pool(name));
        self.services.retain(|name, _| keep_service(name));
        let retired = &mut self.retired;
        self.servers.retain(|identity, known| {
            let keep = keep_server(identity);
            if !keep {
                retired.insert(known.number, known.generation);
            }
            keep
        });
    }
}

/// Finds numbers that nobody has, without looking at all of them for each of many.
#[derive(Clone, Debug, Default)]
struct Free {
    taken: BTreeSet<u32>,
    /// No number below it is free.
    from: u32,
}

// What it knows follows from the numbers in use.
impl PartialEq for Free {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Free {}

impl Free {
    /// The lowest number of `range` that is not among the `used` ones, of which there are `count`; from here on it counts as used.
    fn next(
        &mut self,
        count: usize,
        used: impl Iterator<Item = u32>,
        range: Range<u32>,
    ) -> Option<u32> {
        if self.taken.len() != count {
            *self = Self { taken: used.collect(), from: range.start };
        }
        let number = (self.from.max(range.start)..range.end).find(|n| !self.taken.contains(n))?;
        self.taken.insert(number);
        self.from = number + 1;
        Some(number)
    }
}

fn numbered(
    known: &mut BTreeMap<String, Numbered>,
    free: &mut Free,
    next_id: &mut u32,
    name: &str,
    room: u32,
) -> Option<Numbered> {
    if let Some(numbered) = known.get(name) {
        return Some(*numbered);
    }
    let number = free.next(known.len(), known.values().map(|known| known.number), 0..room)?;
    // 31 bits: the top bit of an entry's scope tells pools from services.
    *next_id = next_id.checked_add(1).filter(|id| *id < 1 << 31)?;
    let numbered = Numbered { number, id: *next_id };
    known.insert(name.to_owned(), numbered);
    Some(numbered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(pool: u32, n: u8) -> ServerIdentity {
        ServerIdentity { pool, address: IpAddr::from([10, 0, 0, n]), port: 80 }
    }

    #[test]
    fn numbers_stay_and_ids_are_never_used_twice() {
        let mut identities = Identities::default();
        let web = identities.pool("web").unwrap();
        let api = identities.pool("api").unwrap();
        assert_eq!(identities.pool("web").unwrap(), web);
        assert_ne!(web.id, api.id);
        identities.retain(|name| name == "api", |_| true, |_| true);
        let again = identities.pool("web").unwrap();
        assert_eq!(again.number, web.number, "a free place is used again");
        assert!(again.id > api.id, "its id is not");
    }

    #[test]
    fn a_number_given_again_has_another_generation() {
        let mut identities = Identities::default();
        let first = identities.server(server(0, 1)).unwrap();
        assert_eq!(first, Generation { number: 1, generation: 1 });
        identities.retain(|_| true, |_| true, |_| false);
        identities.retired = (1..=u16::MAX).map(|number| (number, 4)).collect();
        let second = identities.server(server(0, 2)).unwrap();
        assert_eq!(second, Generation { number: 1, generation: 5 });
    }

    #[test]
    fn a_fresh_number_is_preferred_to_one_that_was_used() {
        let mut identities = Identities::default();
        identities.server(server(0, 1)).unwrap();
        identities.retain(|_| true, |_| true, |_| false);
        assert_eq!(identities.server(server(0, 2)).unwrap().number, 2);
    }
}
