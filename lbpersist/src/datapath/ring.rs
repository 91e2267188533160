//! Rings as the daemon writes them: the memory is shared with the program.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering},
};

use aya::maps::MapData;
use lbpersist_common::ring::{REGIONS, Slot, mark, region_of_slot, slots_of_region};

use super::{Error, regions::class, sys};

/// BPF_F_MMAPABLE and BPF_F_INNER_MAP of linux/bpf.h: shared with the daemon, and of any size within `rings`.
const FLAGS: u32 = (1 << 10) | (1 << 12);

/// The memory of one ring.
pub struct Ring {
    memory: sys::SharedMemory<SharedSlot>,
    // Where slots may be marked, but for what packets have marked since they were asked: see `Regions`. Everywhere at first, since
    // it is not known what others have left.
    regions: [AtomicU64; 2],
}

/// A [`Slot`] that the program writes at the same time.
#[repr(C, align(8))]
struct SharedSlot {
    servers: [AtomicU16; 2],
    marks: AtomicU32,
}

const _: () = assert!(size_of::<SharedSlot>() == size_of::<Slot>());

impl Ring {
    /// Makes the map of a new ring, empty and unmarked. `template` is the map its type information comes from.
    pub(super) fn create(template: BorrowedFd<'_>, slots: u32) -> Result<MapData, Error> {
        let fd = sys::create_array_like(template, "ring", slots, FLAGS)
            .map_err(|error| Error::map("rings", error))?;
        MapData::from_fd(fd).map_err(|error| Error::map("rings", error))
    }

    /// Maps a ring's memory.
    pub(super) fn of(map: &MapData, slots: u32) -> Result<Self, Error> {
        let memory = sys::SharedMemory::map(map.fd().as_fd(), slots as usize)
            .map_err(|error| Error::map("rings", error))?;
        Ok(Self { memory, regions: [const { AtomicU64::new(u64::MAX) }; 2] })
    }

    /// How many slots it has.
    pub fn slots(&self) -> u32 {
        u32::try_from(self.memory.values().len()).unwrap_or(u32::MAX)
    }

    /// The server number of `slot` on `side`.
    pub fn server(&self, slot: u32, side: u32) -> u16 {
        self.memory.values()[slot as usize].servers[side as usize & 1].load(Ordering::Relaxed)
    }

    /// The marks of `slot`.
    pub fn marks(&self, slot: u32) -> u32 {
        self.memory.values()[slot as usize].marks.load(Ordering::Relaxed)
    }

    /// The numbers of the servers that are on `side`, in order.
    pub fn members(&self, side: u32) -> Vec<u32> {
        let picks = (0..self.slots()).map(|slot| self.server(slot, side).into());
        let members: std::collections::BTreeSet<u32> = picks.filter(|&pick| pick != 0).collect();
        members.into_iter().collect()
    }

    /// Whether `side` holds exactly `numbers`.
    pub fn holds(&self, numbers: &[u16], side: u32) -> bool {
        let side = side as usize & 1;
        let slots = self.memory.values();
        slots.len() == numbers.len()
            && slots
                .iter()
                .zip(numbers)
                .all(|(slot, number)| slot.servers[side].load(Ordering::Relaxed) == *number)
    }

    /// Writes `numbers` to `side`, which must not be the current one, and marks every slot that will change hands, so that
    /// its living clients are looked up from then on.
    pub fn prepare(&self, numbers: &[u16], side: u32) {
        let (side, current) = (side as usize & 1, !side as usize & 1);
        let mut regions = 0;
        for ((slot, &number), at) in self.memory.values().iter().zip(numbers).zip(0..) {
            if slot.servers[current].load(Ordering::Relaxed) != number {
                slot.marks.fetch_or(mark::EXCEPTION, Ordering::Relaxed);
                regions |= 1 << region_of_slot(at, self.slots());
            }
            slot.servers[side].store(number, Ordering::Relaxed);
        }
        self.note(regions, mark::EXCEPTION);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Writes `numbers` to the first side of a ring that nothing reads yet.
    pub(super) fn fill(&self, numbers: &[u16]) {
        for (slot, &number) in self.memory.values().iter().zip(numbers) {
            slot.servers[0].store(number, Ordering::Relaxed);
        }
    }

    /// Marks `slot` for `reason`.
    pub fn mark(&self, slot: u32, reason: u32) {
        let marks = &self.memory.values()[slot as usize].marks;
        if marks.load(Ordering::Relaxed) & reason == 0 {
            marks.fetch_or(reason, Ordering::Relaxed);
        }
        self.note(1 << region_of_slot(slot, self.slots()), reason);
    }

    /// Begins a look for `reasons`: what is marked now is old. `noted` are the regions that packets have marked since the last
    /// look. Says how many slots have to be gone through.
    pub fn begin_look(&self, reasons: u32, noted: u64) -> usize {
        self.note(noted, reasons);
        let mut looked = 0;
        for (_, slots) in self.noted(reasons) {
            looked += slots.len();
            for slot in slots {
                if slot.marks.load(Ordering::Relaxed) & reasons == 0 {
                    continue;
                }
                // Stale first: at no moment is a marked slot without a mark.
                let fresh = slot.marks.load(Ordering::Relaxed) & reasons;
                slot.marks.fetch_or(fresh << mark::STALE_SHIFT, Ordering::Relaxed);
                slot.marks.fetch_and(!fresh, Ordering::Relaxed);
            }
        }
        looked
    }

    /// Ends a look for `reasons`: what was old and was not found again is dropped.
    pub fn end_look(&self, reasons: u32) {
        let stale = reasons << mark::STALE_SHIFT;
        for (region, slots) in self.noted(reasons) {
            let mut left = 0;
            for slot in slots {
                let marks = slot.marks.load(Ordering::Relaxed);
                if marks & stale != 0 {
                    slot.marks.fetch_and(!stale, Ordering::Relaxed);
                }
                left |= marks & reasons;
            }
            // A packet that marks one now says so once more.
            if left == 0 {
                self.regions[class(reasons)].fetch_and(!(1 << region), Ordering::Relaxed);
            }
        }
    }

    /// Notes that slots of `regions` may be marked for `reasons`.
    fn note(&self, regions: u64, reasons: u32) {
        let noted = &self.regions[class(reasons)];
        if noted.load(Ordering::Relaxed) & regions != regions {
            noted.fetch_or(regions, Ordering::Relaxed);
        }
    }

    /// The regions in which slots may be marked for `reasons`, and their slots.
    fn noted(&self, reasons: u32) -> impl Iterator<Item = (u32, &[SharedSlot])> {
        let regions = self.regions[class(reasons)].load(Ordering::Relaxed);
        let slots = self.memory.values();
        (0..REGIONS).filter(move |region| regions & (1 << region) != 0).map(move |region| {
            let (first, last) = slots_of_region(region, self.slots());
            (region, &slots[first as usize..=last as usize])
        })
    }

    /// How many slots are marked.
    pub fn marked(&self) -> usize {
        self.memory.values().iter().filter(|slot| slot.marks.load(Ordering::Relaxed) != 0).count()
    }
}
