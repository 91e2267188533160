//! The interpreter of plans. `publish` writes pools with their rings, `adopt` reads maps that are pinned already.

use std::{collections::BTreeMap, mem::discriminant, rc::Rc};

use aya::maps::{MapError, PerCpuValues, lpm_trie::Key};
use lbpersist_common::{
    breaks::BreakCounters,
    counter::ServiceCounters,
    layout::kind,
    net::Address,
    server::{Server, state},
    service::{Pool, pool_flag},
};

mod adopt;
mod publish;

use super::{
    Error,
    desired::Desired,
    identity::Identities,
    maps::{self, Maps, PinDirectory},
    object::{self, Object},
    plan::{Step, plan},
    ring::Ring,
    rings::Computed,
};
use crate::model::DataPathSettings;

/// The kernel's half, owned by the daemon.
pub struct DataPath {
    pins: PinDirectory,
    /// The maps.
    pub maps: Maps,
    /// The programs.
    pub object: Object,
    /// What was adopted or given out.
    pub identities: Identities,
    /// Rings that were computed ahead for the next [`Self::apply`].
    pub prepared: Computed,
    actual: Desired,
    // The memory of every ring there is.
    open: BTreeMap<u32, Rc<Ring>>,
    ring_size: u32,
    // Set when a ring was published: before its other side is written again, no program may still be reading it.
    published: bool,
}

impl DataPath {
    /// Loads the program and takes over what is pinned, if anything is.
    ///
    /// # Errors
    ///
    /// As for [`Object::load`].
    pub fn open(pins: &PinDirectory, settings: &DataPathSettings) -> Result<Self, Error> {
        object::mount_bpf_file_system(pins);
        let object = Object::load(pins, settings)?;
        let maps = Maps::open(pins)?;
        let mut data_path = Self {
            pins: pins.clone(),
            maps,
            object,
            identities: Identities::default(),
            prepared: Computed::default(),
            actual: Desired::default(),
            open: BTreeMap::new(),
            ring_size: settings.ring_size,
            published: true,
        };
        data_path.adopt()?;
        Ok(data_path)
    }

    /// Where everything is pinned.
    pub fn pins(&self) -> &PinDirectory {
        &self.pins
    }

    /// Whether nothing was ever written to the maps: they have just been made.
    pub fn is_new(&self) -> bool {
        self.identities == Identities::default() && self.actual.names.is_empty()
    }

    /// Takes identities from before a reboot into new maps.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn restore(&mut self, identities: Identities) -> Result<(), Error> {
        for (&number, &generation) in &identities.retired {
            let none: Server = bytemuck::Zeroable::zeroed();
            let absent = Server { generation, state: state::ABSENT, ..none };
            failing("servers", self.maps.servers.set(number.into(), absent, 0))?;
        }
        self.identities = identities;
        Ok(())
    }

    /// What the maps hold.
    pub fn actual(&self) -> &Desired {
        &self.actual
    }

    /// Makes the maps hold `desired`; returns how many steps that took.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a step. Steps before it stay done, and the next call goes on from there.
    pub fn apply(&mut self, desired: Desired) -> Result<usize, Error> {
        let steps = plan(&self.actual, &desired);
        if steps.is_empty() {
            Self::set_lookups(&mut self.maps, &[&desired])?;
            return Ok(0);
        }
        self.save_next_id()?;
        Self::set_lookups(&mut self.maps, &[&self.actual, &desired])?;
        // Rings take a while to compute and to write. That is done first, so that the steps follow each other closely.
        let mut rings = std::mem::take(&mut self.prepared);
        rings.complete(&self.actual, &desired, self.ring_size);
        let sides = self.prepare_rings(&desired, &rings)?;
        for alike in steps.chunk_by(|one, next| discriminant(one) == discriminant(next)) {
            if let Some(done) = self.together(alike) {
                done?;
                alike.iter().for_each(|step| note(&mut self.actual, step));
                continue;
            }
            for step in alike {
                self.step(step, &sides)?;
                note(&mut self.actual, step);
            }
        }
        Self::set_lookups(&mut self.maps, &[&desired])?;
        self.actual = desired;
        Ok(steps.len())
    }

    /// The rings of all pools, by number.
    pub fn rings(&self) -> impl Iterator<Item = (u32, &Ring)> {
        self.open.iter().map(|(&number, ring)| (number, ring.as_ref()))
    }

    /// The memory of a pool's ring.
    pub fn ring(&self, pool: u32) -> Option<Rc<Ring>> {
        self.open.get(&pool).cloned()
    }

    /// Which side of a pool's ring is current.
    pub fn side(&self, pool: u32) -> Result<u32, Error> {
        self.maps.pools.get(&pool, 0).map(|pool| pool.side).map_err(|e| Error::map("pools", e))
    }

    /// Does steps of one kind by one system call, if they change places of maps of maps: the kernel waits for running programs
    /// at each call, some 15 ms.
    fn together(&mut self, alike: &[Step]) -> Option<Result<(), Error>> {
        let removed = |step: &Step| match step {
            Step::RemovePool(number) | Step::RemoveTurns(number) => Some(*number),
            _ => None,
        };
        let numbers: Vec<u32> = alike.iter().filter_map(removed).collect();
        match alike.first()? {
            Step::SetTurns(..) => Some(self.set_turns(alike)),
            Step::RemovePool(_) => Some(self.remove_pools(&numbers)),
            Step::RemoveTurns(_) => Some(self.clear_places("turns", &numbers)),
            _ => None,
        }
    }

    fn step(&mut self, step: &Step, sides: &BTreeMap<u32, u32>) -> Result<(), Error> {
        let maps = &mut self.maps;
        match step {
            Step::SetName(key, name) => {
                let known = self.actual.names.get(key).is_some_and(|was| was.text == name.text);
                if key.kind == kind::SERVICE && !known {
                    reset_counters(maps, key.number)?;
                }
                failing("names", maps.names.insert(key, name, 0))
            }
            Step::SetRoute((length, prefix), route) => {
                // As for neighbours: only clients behind the routes that are left out are not answered.
                if let Err(error) = maps.routes.insert(&Key::new(*length, *prefix), route, 0) {
                    tracing::warn!(%error, "a route is left out");
                }
                Ok(())
            }
            Step::SetNeighbour(key, neighbour) => {
                // A full map is no reason to stop: the client's answers are counted as not routable.
                if let Err(error) = maps.neighbours.insert(key, neighbour, 0) {
                    tracing::warn!(%error, "a neighbour is left out");
                }
                Ok(())
            }
            Step::SetServer(number, server) => {
                if self.actual.servers.get(number).map(|was| was.generation)
                    != Some(server.generation)
                {
                    maps.server_load.reset(*number);
                }
                failing("servers", maps.servers.set(*number, server, 0))
            }
            Step::SetPool(number, pool) => self.set_pool(*number, pool, sides.get(number).copied()),
            Step::SetFloodLimits(limits) => {
                failing("flood_limits", maps.flood_limits.set(0, *limits, 0))
            }
            Step::SetLimit(number, limit) => {
                failing("server_limits", maps.server_limits.set(*number, limit, 0))
            }
            Step::SetReverse(key, reverse) => {
                failing("reverse", maps.reverse.insert(key, reverse, 0))
            }
            Step::SetService(key, service) => {
                failing("services", maps.services.insert(key, service, 0))
            }
            Step::SetCarried(key, service) => {
                failing("carried", maps.carried.insert(key, service, 0))
            }
            Step::RemoveCarried(key) => removing("carried", maps.carried.remove(key)),
            Step::SetPrefixService((bits, key), service) => {
                let key = Key::new(*bits, *key);
                failing("prefix_services", maps.prefix_services.insert(&key, service, 0))
            }
            Step::RemovePrefixService((bits, key)) => {
                removing("prefix_services", maps.prefix_services.remove(&Key::new(*bits, *key)))
            }
            Step::SetFront(key, front) => failing("fronts", maps.fronts.insert(key, front, 0)),
            Step::RemoveFront(key) => removing("fronts", maps.fronts.remove(key)),
            Step::RemoveService(key) => removing("services", maps.services.remove(key)),
            Step::RemoveReverse(key) => removing("reverse", maps.reverse.remove(key)),
            // They are done together.
            Step::SetTurns(..) | Step::RemovePool(_) | Step::RemoveTurns(_) => Ok(()),
            Step::RemoveServer(number) => self.remove_server(*number),
            Step::RemoveNeighbour(key) => removing("neighbours", maps.neighbours.remove(key)),
            Step::RemoveRoute((length, prefix)) => {
                removing("routes", maps.routes.remove(&Key::new(*length, *prefix)))
            }
            Step::RemoveName(key) => removing("names", maps.names.remove(key)),
        }
    }

    fn remove_server(&mut self, number: u32) -> Result<(), Error> {
        let was = self.maps.servers.get(&number, 0).map_err(|e| Error::map("servers", e))?;
        let none: Server = bytemuck::Zeroable::zeroed();
        // Where it was is kept, to say whom its clients have lost.
        let Server { generation, address, port, .. } = was;
        let absent = Server { generation, address, port, state: state::ABSENT, ..none };
        failing("servers", self.maps.servers.set(number, absent, 0))
    }

    /// Ids are written before they are used, so that a daemon that dies in between does not give them out again.
    fn save_next_id(&mut self) -> Result<(), Error> {
        let mut layout = self.maps.layout()?;
        if layout.next_id == self.identities.next_id {
            return Ok(());
        }
        layout.next_id = self.identities.next_id;
        failing("layout", self.maps.layout.set(0, layout, 0))
    }

    /// Has packets look for what is in any of `states`, and spares them looks that can find nothing.
    fn set_lookups(maps: &mut Maps, states: &[&Desired]) -> Result<(), Error> {
        maps.known_addresses.set(states);
        let features = states.iter().fold(0, |features, state| features | state.features());
        let mut layout = maps.layout()?;
        if layout.features == features {
            return Ok(());
        }
        layout.features = features;
        failing("layout", maps.layout.set(0, layout, 0))
    }
}

/// Begins to count from zero for a service that gets a place which another one had.
fn reset_counters(maps: &mut Maps, index: u32) -> Result<(), Error> {
    let cpus = maps.service_stats.get(&index, 0).map_err(|e| Error::map("service_stats", e))?;
    let zeroes = PerCpuValues::try_from(vec![ServiceCounters::default(); cpus.len()])
        .map_err(|error| Error::map("service_stats", error))?;
    failing("service_stats", maps.service_stats.set(index, zeroes, 0))?;
    failing("breaks", maps.breaks.set(index, BreakCounters::default(), 0))
}

/// What says which slot a client of the pool belongs to.
pub(super) fn client_keys(pool: &Pool) -> (u32, Address, Address) {
    (pool.flags & pool_flag::PERSISTENT, pool.ipv4_mask, pool.ipv6_mask)
}

/// Keeps what the maps hold in step with what was done, in case a later step fails.
fn note(actual: &mut Desired, step: &Step) {
    match *step {
        Step::SetName(key, name) => drop(actual.names.insert(key, name)),
        Step::SetRoute(key, route) => drop(actual.routes.insert(key, route)),
        Step::SetNeighbour(key, neighbour) => drop(actual.neighbours.insert(key, neighbour)),
        Step::SetServer(number, server) => drop(actual.servers.insert(number, server)),
        // Who is in the ring is noted with the whole, so a ring is looked at again after a failure.
        Step::SetPool(number, pool) => drop(actual.pools.insert(number, pool)),
        Step::SetFloodLimits(limits) => actual.flood_limits = Some(limits),
        Step::SetLimit(number, limit) => drop(actual.limits.insert(number, limit)),
        Step::SetTurns(number, ref turns) => drop(actual.turns.insert(number, turns.clone())),
        Step::SetReverse(key, reverse) => drop(actual.reverse.insert(key, reverse)),
        Step::SetService(key, service) => drop(actual.services.insert(key, service)),
        Step::SetCarried(key, service) => drop(actual.carried.insert(key, service)),
        Step::RemoveCarried(key) => drop(actual.carried.remove(&key)),
        Step::SetPrefixService(key, service) => drop(actual.prefix_services.insert(key, service)),
        Step::RemovePrefixService(key) => drop(actual.prefix_services.remove(&key)),
        Step::SetFront(key, front) => drop(actual.fronts.insert(key, front)),
        Step::RemoveFront(key) => drop(actual.fronts.remove(&key)),
        Step::RemoveService(key) => drop(actual.services.remove(&key)),
        Step::RemoveReverse(key) => drop(actual.reverse.remove(&key)),
        Step::RemovePool(number) => drop(actual.pools.remove(&number)),
        Step::RemoveTurns(number) => drop(actual.turns.remove(&number)),
        Step::RemoveServer(number) => drop(actual.servers.remove(&number)),
        Step::RemoveNeighbour(key) => drop(actual.neighbours.remove(&key)),
        Step::RemoveRoute(key) => drop(actual.routes.remove(&key)),
        Step::RemoveName(key) => drop(actual.names.remove(&key)),
    }
}

fn failing(map: &'static str, result: Result<(), MapError>) -> Result<(), Error> {
    result.map_err(|error| Error::map(map, error))
}

fn removing(map: &'static str, result: Result<(), MapError>) -> Result<(), Error> {
    match result {
        Err(error) if !maps::is_missing(&error) => Err(Error::map(map, error)),
        _ => Ok(()),
    }
}
