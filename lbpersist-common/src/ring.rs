//! A ring: which server a new client meets, and which slots must look into the tables first.
//!
//! A slot holds two server numbers, of which the pool's `side` says the current one. A new ring is written to the
//! other side and published by one store to `side`, so no packet sees half of two, while the marks beside the
//! numbers stay where they are and miss nothing.

use bytemuck::{Pod, Zeroable};

/// Slots of a ring unless the configuration says otherwise; a prime, as Maglev needs.
pub const DEFAULT_SLOTS: u32 = 65_537;

/// One place in a ring. Marks are changed by atomic operations on the whole, which BPF has for 64 bits.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Slot {
    /// The server number on side 0 and on side 1; 0 is no server.
    pub servers: [u16; 2],
    /// Why packets of this slot must read the tables; 0 when ring and tables agree. See [`mark`].
    pub marks: u32,
}

const _: () = assert!(size_of::<Slot>() == 8);

impl Slot {
    /// A slot of `marks` alone as one word, for atomic "or" and "and not".
    #[inline(always)]
    pub fn word_of_marks(marks: u32) -> u64 {
        bytemuck::cast(Self { servers: [0; 2], marks })
    }
}

/// The reasons a slot is marked for. Each has two bits: whoever sees the reason sets `FRESH`; a sweep turns fresh bits
/// into `STALE` ones, looks at every entry and connection, sets `FRESH` again where the reason still holds, and then
/// drops the stale bits. So a reason that appears while a sweep is under way is never wiped out by it.
pub mod mark {
    /// An entry or connection of this slot differs from the ring.
    pub const EXCEPTION: u32 = 1;
    /// A handshake of this slot is unfinished.
    pub const HANDSHAKE: u32 = 2;
    /// A connection of this slot has been silent for its idle limit.
    pub const SUSPECT: u32 = 4;

    /// How far the stale bit of a reason is above its fresh bit.
    pub const STALE_SHIFT: u32 = 8;

    /// Fresh and stale bit of a reason.
    #[inline(always)]
    pub const fn any(reason: u32) -> u32 {
        reason | (reason << STALE_SHIFT)
    }
}

/// Where in a ring slots may be marked, region by region: bit `n` of a word stands for region `n`. Whoever sets a mark sets its
/// region's bit after it, so that a look need not go through rings that nobody has marked.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct MarkedRegions {
    /// For [`mark::HANDSHAKE`].
    pub handshakes: u64,
    /// For the other reasons.
    pub others: u64,
}

const _: () = assert!(size_of::<MarkedRegions>() == 16);

/// Regions of a ring.
pub const REGIONS: u32 = 64;

/// The region of a hash.
#[inline(always)]
pub const fn region_of(hash: u32) -> u32 {
    hash >> 26
}

/// A region that `slot` of a ring of `slots` is in.
pub const fn region_of_slot(slot: u32, slots: u32) -> u32 {
    // The least hash of the slot.
    region_of((((slot as u64) << 32).div_ceil(slots as u64)) as u32)
}

/// The first and the last slot of a region in a ring of `slots`. Neighbours may share one.
pub const fn slots_of_region(region: u32, slots: u32) -> (u32, u32) {
    let first = region << 26;
    (slot_of(first, slots), slot_of(first | ((1 << 26) - 1), slots))
}

/// The slot of a hash in a ring of `slots`: a multiplication instead of a division (Lemire, "A fast alternative to
/// the modulo reduction").
#[inline(always)]
pub const fn slot_of(hash: u32, slots: u32) -> u32 {
    ((hash as u64 * slots as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_stay_inside_the_ring() {
        for slots in [1, 2, 251, DEFAULT_SLOTS] {
            assert_eq!(slot_of(0, slots), 0);
            assert_eq!(slot_of(u32::MAX, slots), slots - 1);
        }
    }

    #[test]
    fn every_slot_is_in_the_region_of_its_hashes_and_in_its_own() {
        for slots in [1, 2, 251, DEFAULT_SLOTS] {
            let within = |region, slot| {
                let (first, last) = slots_of_region(region, slots);
                (first..=last).contains(&slot)
            };
            for hash in (0..=u32::MAX).step_by(65_521) {
                assert!(within(region_of(hash), slot_of(hash, slots)), "{hash} of {slots}");
            }
            assert!((0..slots).all(|slot| within(region_of_slot(slot, slots), slot)), "{slots}");
        }
    }
}
