//! Pools with their rings and turns: written aside, and then read by every packet from one moment on.

use std::{collections::BTreeMap, os::fd::AsFd, rc::Rc};

use aya::maps::MapData;
use lbpersist_common::{ring::mark, service::Pool};

use super::{DataPath, client_keys, failing};
use crate::datapath::{
    Error, desired::Desired, maps, plan::Step, ring::Ring, rings::Computed, sys,
};

/// Rings that are made before they are put in their places together.
const RINGS_AT_ONCE: usize = 512;

impl DataPath {
    /// Writes rings that changed to the sides that no packet reads, and makes those that are missing. Returns the sides that
    /// are to be read once the pools are written.
    pub(super) fn prepare_rings(
        &mut self,
        desired: &Desired,
        rings: &Computed,
    ) -> Result<BTreeMap<u32, u32>, Error> {
        let changed: Vec<(u32, &[u16])> = desired
            .pools
            .keys()
            .filter_map(|&number| Some((number, rings.slots(number)?)))
            .collect();
        self.create_rings(changed.iter().map(|(number, _)| *number))?;
        let mut sides = BTreeMap::new();
        for (number, slots) in changed {
            let Some(ring) = self.open.get(&number) else { continue };
            let side = self.side(number)?;
            if ring.holds(slots, side) {
                continue;
            }
            if self.published {
                sys::wait_for_running_programs();
                self.published = false;
            }
            ring.prepare(slots, 1 - side);
            sides.insert(number, 1 - side);
        }
        Ok(sides)
    }

    /// Makes empty rings for those of `numbers` that have none. They are put in place by one system call, because the kernel waits
    /// for running programs at each.
    fn create_rings(&mut self, numbers: impl Iterator<Item = u32>) -> Result<(), Error> {
        let missing: Vec<u32> = numbers.filter(|number| !self.open.contains_key(number)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let template = maps::raw(&self.pins, "ring_template")?;
        let rings: MapData = maps::raw(&self.pins, "rings")?;
        // Each is a descriptor until it is in its place, and there may be a thousand descriptors only.
        for numbers in missing.chunks(RINGS_AT_ONCE) {
            let made: Vec<MapData> = numbers
                .iter()
                .map(|_| Ring::create(template.fd().as_fd(), self.ring_size))
                .collect::<Result<_, _>>()?;
            let fds: Vec<_> = made.iter().map(|map| map.fd().as_fd()).collect();
            sys::update_maps(rings.fd().as_fd(), numbers, &fds)
                .map_err(|error| Error::map("rings", error))?;
            for (&number, map) in numbers.iter().zip(&made) {
                self.open.insert(number, Rc::new(Ring::of(map, self.ring_size)?));
            }
        }
        Ok(())
    }

    /// Writes a pool; its ring is read from `side` then, or from where it was.
    pub(super) fn set_pool(
        &mut self,
        number: u32,
        pool: &Pool,
        side: Option<u32>,
    ) -> Result<(), Error> {
        let was = self.maps.pools.get(&number, 0).map_err(|error| Error::map("pools", error))?;
        if client_keys(&was) != client_keys(pool)
            && let Some(ring) = self.open.get(&number)
        {
            // Living clients find themselves in other slots, so every slot has to look.
            (0..ring.slots()).for_each(|slot| ring.mark(slot, mark::EXCEPTION));
        }
        // This one store publishes the ring: the value differs from the one before in `side` and settings only.
        let published = Pool { side: side.unwrap_or(was.side), ..*pool };
        failing("pools", self.maps.pools.set(number, published, 0))?;
        self.published |= published.side != was.side;
        Ok(())
    }

    /// Opens the rings that are pinned already.
    pub(super) fn adopt_rings(&mut self) -> Result<(), Error> {
        for &number in self.actual.pools.keys() {
            match self.maps.rings.get(&number, 0) {
                Ok(map) => {
                    self.open.insert(number, Rc::new(Ring::of(&map, self.ring_size)?));
                }
                Err(error) if maps::is_missing(&error) => {}
                Err(error) => return Err(Error::map("rings", error)),
            }
        }
        Ok(())
    }

    pub(super) fn remove_pools(&mut self, numbers: &[u32]) -> Result<(), Error> {
        let none: Pool = bytemuck::Zeroable::zeroed();
        for number in numbers {
            self.open.remove(number);
            failing("pools", self.maps.pools.set(*number, none, 0))?;
        }
        self.clear_places("rings", numbers)
    }

    /// Drops the rings at places of `map`: an empty one takes their place, because places can be written together, but not
    /// deleted so.
    pub(super) fn clear_places(&self, map: &'static str, numbers: &[u32]) -> Result<(), Error> {
        let empty = Ring::create(maps::raw(&self.pins, "ring_template")?.fd().as_fd(), 1)?;
        let raw: MapData = maps::raw(&self.pins, map)?;
        sys::update_maps(raw.fd().as_fd(), numbers, &vec![empty.fd().as_fd(); numbers.len()])
            .map_err(|error| Error::map(map, error))
    }

    /// Writes the turns of pools as rings of their own, which take the places of those before as a whole.
    pub(super) fn set_turns(&mut self, steps: &[Step]) -> Result<(), Error> {
        let template = maps::raw(&self.pins, "ring_template")?;
        let raw: MapData = maps::raw(&self.pins, "turns")?;
        for steps in steps.chunks(RINGS_AT_ONCE) {
            let (mut numbers, mut made) = (Vec::new(), Vec::new());
            for step in steps {
                let Step::SetTurns(number, turns) = step else { continue };
                // Without servers it is a ring with nobody in it.
                let length = u32::try_from(turns.len()).unwrap_or(u32::MAX).max(1);
                let map = Ring::create(template.fd().as_fd(), length)?;
                Ring::of(&map, length)?.fill(turns);
                numbers.push(*number);
                made.push(map);
            }
            let fds: Vec<_> = made.iter().map(|map| map.fd().as_fd()).collect();
            sys::update_maps(raw.fd().as_fd(), &numbers, &fds)
                .map_err(|error| Error::map("turns", error))?;
        }
        Ok(())
    }
}
