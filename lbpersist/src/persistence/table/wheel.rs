//! A hierarchical timer wheel over places of a slab (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987,
//! scheme 6): setting, clearing and firing a timer take constant time, and nothing is ever scanned.
//!
//! Places are linked through [`Links`], which lie with the records themselves, so a timer takes no memory of its own.

/// No place.
pub(super) const NONE: u32 = u32::MAX;

const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const LEVELS: usize = 6;

/// Ticks that the wheel can look ahead; timers beyond are looked at again when they come up. One slot of the last level short
/// of a full turn, so that no timer goes into the slot that is being emptied.
const HORIZON: u64 = (1 << (BITS * LEVELS as u32)) - (1 << (BITS * (LEVELS as u32 - 1)));

/// Where a record stands in the wheel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    previous: u32,
    next: u32,
    /// The list it is in: level times slots plus slot; [`NONE`] in no list.
    list: u32,
    /// The tick it is due at.
    due: u64,
}

impl Links {
    pub(super) const UNLINKED: Self = Self { previous: NONE, next: NONE, list: NONE, due: 0 };
}

/// Gives the links of a record by its place.
pub(super) trait Places {
    fn links(&mut self, place: u32) -> &mut Links;
}

/// Timers by the tick they are due at.
pub(super) struct Wheel {
    /// The last tick that has been fired.
    now: u64,
    heads: [u32; SLOTS * LEVELS],
    /// Which slots of the first level have timers.
    occupied: u64,
    armed: usize,
}

impl Wheel {
    pub(super) fn new(now: u64) -> Self {
        Self { now, heads: [NONE; SLOTS * LEVELS], occupied: 0, armed: 0 }
    }

    /// Arms the timer of `place`, or moves it; it fires at `due`, and no earlier than the next tick.
    pub(super) fn arm(&mut self, places: &mut impl Places, place: u32, due: u64) {
        self.disarm(places, place);
        self.link(places, place, due);
        self.armed += 1;
    }

    pub(super) fn disarm(&mut self, places: &mut impl Places, place: u32) {
        if places.links(place).list != NONE {
            self.unlink(places, place);
            self.armed -= 1;
        }
    }

    /// Goes on to tick `to`, and takes the first timer that is due by then. To be called until there is none.
    pub(super) fn fire(&mut self, places: &mut impl Places, to: u64) -> Option<u32> {
        while self.now < to {
            if self.armed == 0 {
                self.now = to;
                break;
            }
            let slot = (self.now + 1) as usize % SLOTS;
            if slot == 0 {
                // A full turn: what is due in the next one comes down. `now` moves on only when this slot has been emptied.
                self.cascade(places, self.now + 1);
            }
            let head = self.heads[slot];
            if head != NONE {
                self.unlink(places, head);
                if places.links(head).due > self.now + 1 {
                    // It was beyond the horizon when it was armed.
                    let due = places.links(head).due;
                    self.link(places, head, due);
                    continue;
                }
                self.armed -= 1;
                return Some(head);
            }
            self.now = self.next_stop(to);
        }
        None
    }

    /// The last tick before the next one at which there is something to do.
    fn next_stop(&self, to: u64) -> u64 {
        let done = self.now + 1;
        let slot = done as usize % SLOTS;
        let turn_ends = done + (SLOTS - 1 - slot) as u64;
        let later = self.occupied.checked_shr(slot as u32 + 1).unwrap_or(0);
        let stop = if later == 0 { turn_ends } else { done + u64::from(later.trailing_zeros()) };
        stop.min(to)
    }

    fn cascade(&mut self, places: &mut impl Places, tick: u64) {
        for level in 1..LEVELS {
            let slot = (tick >> (BITS * level as u32)) as usize % SLOTS;
            let list = level * SLOTS + slot;
            while self.heads[list] != NONE {
                let place = self.heads[list];
                let due = places.links(place).due;
                self.unlink(places, place);
                self.link(places, place, due);
            }
            if slot != 0 {
                break;
            }
        }
    }

    fn link(&mut self, places: &mut impl Places, place: u32, due: u64) {
        let next = self.now + 1;
        let at = next + due.saturating_sub(next).min(HORIZON);
        // The highest level at which `at` and the next tick stand in different slots, so that it comes down before it is due.
        let level =
            (63_u32.saturating_sub((at ^ next).leading_zeros()) / BITS).min(LEVELS as u32 - 1);
        let slot = (at >> (BITS * level)) as usize % SLOTS;
        let list = level as usize * SLOTS + slot;
        let head = self.heads[list];
        *places.links(place) = Links { previous: NONE, next: head, list: list as u32, due };
        if head != NONE {
            places.links(head).previous = place;
        }
        self.heads[list] = place;
        if list < SLOTS {
            self.occupied |= 1 << list;
        }
    }

    fn unlink(&mut self, places: &mut impl Places, place: u32) {
        let Links { previous, next, list, .. } = *places.links(place);
        if previous == NONE {
            self.heads[list as usize] = next;
        } else {
            places.links(previous).next = next;
        }
        if next != NONE {
            places.links(next).previous = previous;
        }
        if (list as usize) < SLOTS && self.heads[list as usize] == NONE {
            self.occupied &= !(1 << list);
        }
        places.links(place).list = NONE;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Slab(Vec<Links>);

    impl Places for Slab {
        fn links(&mut self, place: u32) -> &mut Links {
            &mut self.0[place as usize]
        }
    }

    fn fired(wheel: &mut Wheel, slab: &mut Slab, to: u64) -> Vec<u32> {
        let mut fired: Vec<u32> = std::iter::from_fn(|| wheel.fire(slab, to)).collect();
        fired.sort_unstable();
        fired
    }

    #[test]
    fn timers_of_every_distance_fire_at_their_tick() {
        for start in [0, 1, 62, 63, 64, 4_095, 1 << 40] {
            for ahead in [1, 2, 63, 64, 65, 4_095, 4_096, 4_097, 300_000, 20_000_000] {
                let mut slab = Slab(vec![Links::UNLINKED]);
                let mut wheel = Wheel::new(start);
                wheel.arm(&mut slab, 0, start + ahead);
                assert_eq!(wheel.fire(&mut slab, start + ahead - 1), None, "{start}+{ahead}");
                assert_eq!(wheel.fire(&mut slab, start + ahead), Some(0), "{start}+{ahead}");
                assert_eq!(wheel.fire(&mut slab, start + 2 * ahead), None, "{start}+{ahead}");
            }
        }
    }

    #[test]
    fn what_is_past_fires_at_the_next_tick() {
        let mut slab = Slab(vec![Links::UNLINKED]);
        let mut wheel = Wheel::new(100);
        wheel.arm(&mut slab, 0, 7);
        assert_eq!(wheel.fire(&mut slab, 100), None);
        assert_eq!(wheel.fire(&mut slab, 101), Some(0));
    }

    #[derive(Clone, Debug)]
    enum Act {
        Arm(u32, u64),
        Disarm(u32),
        Advance(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        let distance = prop_oneof![0..200_u64, 0..10_000_u64, 0..1_000_000_u64];
        prop_oneof![
            (0..40_u32, distance.clone()).prop_map(|(place, ahead)| Act::Arm(place, ahead)),
            (0..40_u32).prop_map(Act::Disarm),
            distance.prop_map(Act::Advance),
        ]
    }

    proptest! {
        #[test]
        fn it_does_as_a_list_of_deadlines(start in 0..10_000_u64, acts in prop::collection::vec(act(), 1..200)) {
            let mut slab = Slab(vec![Links::UNLINKED; 40]);
            let mut wheel = Wheel::new(start);
            let mut now = start;
            let mut model = std::collections::BTreeMap::new();
            for act in acts {
                match act {
                    Act::Arm(place, ahead) => {
                        wheel.arm(&mut slab, place, now + ahead);
                        model.insert(place, (now + ahead).max(now + 1));
                    }
                    Act::Disarm(place) => {
                        wheel.disarm(&mut slab, place);
                        model.remove(&place);
                    }
                    Act::Advance(by) => {
                        now += by;
                        let due: Vec<u32> =
                            model.iter().filter(|(_, due)| **due <= now).map(|(&place, _)| place).collect();
                        model.retain(|_, due| *due > now);
                        prop_assert_eq!(fired(&mut wheel, &mut slab, now), due);
                    }
                }
            }
        }
    }
}
