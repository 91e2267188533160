//! Weighted Maglev rings.
//!
//! Each member walks the slots in an order of its own, and members take free slots in turn; when one comes or goes, few of
//! the others' slots change hands (Eisenbud and others, "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, section 3.4). A member with half the greatest weight takes a slot every other round.
//!
//! Most of the time would go into finding the last free slots: when one of a thousand is left, a walk meets a thousand taken ones
//! before it. So when few are left, each member lists them in the order of its walk, which gives the same ring.
//!
//! The result depends on the set of members alone, not on their order or on who computes it: two nodes with the same members
//! send a new client to the same server.

use lbpersist_common::{hash, net::Address};

/// A server that takes new clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Where it listens; with `port`, what its place in the ring depends on.
    pub address: Address,
    /// The port it listens on; 0 if it is the service's.
    pub port: u16,
    /// Its share, relative to the others; at least 1.
    pub weight: u32,
    /// What the slots it takes are to hold.
    pub number: u16,
}

const OFFSET_SEED: u64 = 0x6c62_7065_7273_6f66;
const SKIP_SEED: u64 = 0x6c62_7065_7273_736b;

/// The ring of `members`: for each of `slots` places, which must be a prime number of them, the number of a member; all 0
/// when there are no members.
pub fn ring(members: &[Member], slots: u32) -> Vec<u16> {
    let mut members = members.to_vec();
    members.sort_unstable();
    let mut ring = vec![0; slots as usize];
    let Some(greatest) = members.iter().map(|member| member.weight).max() else { return ring };

    let mut walks: Vec<Walk> = members.iter().map(|member| Walk::new(member, slots)).collect();
    let mut free = slots;
    let mut taken = Taken::none_of(slots);
    let mut round = 0_u64;
    let few = few(slots, walks.len());
    let mut listed = false;
    while free > 0 {
        round += 1;
        if free <= few && !listed {
            let left = taken.free();
            walks.iter_mut().for_each(|walk| walk.list(&left, slots));
            listed = true;
        }
        for (walk, member) in walks.iter_mut().zip(&members) {
            if free == 0 {
                break;
            }
            if !walk.takes_part(round, member.weight, greatest) {
                continue;
            }
            walk.take(&mut ring, &mut taken, member.number);
            free -= 1;
        }
    }
    ring
}

/// How many free slots are so few that listing them is cheaper than walking on. Listing costs each member about eight steps of a
/// walk a slot, and the walks to all of the last `n` of `m` slots take `m` ln `n` steps.
fn few(slots: u32, members: usize) -> u32 {
    slots / u32::try_from(members.saturating_mul(8)).unwrap_or(u32::MAX)
}

/// Which slots are taken: a bit each, so that the whole of it stays in the nearest cache.
struct Taken {
    words: Vec<u64>,
    slots: u32,
}

impl Taken {
    fn none_of(slots: u32) -> Self {
        Self { words: vec![0; slots.div_ceil(64) as usize], slots }
    }

    fn has(&self, slot: u32) -> bool {
        self.words[slot as usize / 64] & (1 << (slot % 64)) != 0
    }

    fn free(&self) -> Vec<u32> {
        (0..self.slots).filter(|&slot| !self.has(slot)).collect()
    }

    fn insert(&mut self, slot: u32) {
        self.words[slot as usize / 64] |= 1 << (slot % 64);
    }
}

/// A member's way through the slots.
struct Walk {
    next: u32,
    skip: u32,
    /// The slots that were free when few were left, the next one last.
    listed: Vec<u32>,
    /// `weight * round` at which it takes its next slot.
    due: u64,
}

impl Walk {
    fn new(member: &Member, slots: u32) -> Self {
        let mut identity = [0; 18];
        identity[..16].copy_from_slice(&member.address.bytes);
        identity[16..].copy_from_slice(&member.port.to_be_bytes());
        let offset = hash::bytes(OFFSET_SEED, &identity) % u64::from(slots);
        let skip = hash::bytes(SKIP_SEED, &identity) % u64::from((slots - 1).max(1)) + 1;
        let fits = "a remainder of a 32-bit number fits 32 bits";
        Self {
            next: u32::try_from(offset).expect(fits),
            skip: u32::try_from(skip).expect(fits),
            listed: Vec::new(),
            due: 0,
        }
    }

    /// Whether the member takes a slot in this round.
    fn takes_part(&mut self, round: u64, weight: u32, greatest: u32) -> bool {
        if round * u64::from(weight) <= self.due {
            return false;
        }
        self.due += u64::from(greatest);
        true
    }

    /// Takes the next free slot; there must be one.
    fn take(&mut self, ring: &mut [u16], taken: &mut Taken, number: u16) {
        let slots = taken.slots;
        while let Some(slot) = self.listed.pop() {
            if !taken.has(slot) {
                taken.insert(slot);
                ring[slot as usize] = number;
                return;
            }
        }
        while taken.has(self.next) {
            self.step(slots);
        }
        taken.insert(self.next);
        ring[self.next as usize] = number;
        self.step(slots);
    }

    /// Lists `left`, all the slots that are free, in the order in which this walk comes to them.
    fn list(&mut self, left: &[u32], slots: u32) {
        let modulus = u64::from(slots);
        let inverse = inverse(self.skip, slots);
        let steps_to = |slot: u32| {
            let distance = (u64::from(slot) + modulus - u64::from(self.next)) % modulus;
            distance * inverse % modulus
        };
        // Steps and slot in one word, which sorts fast.
        let mut order: Vec<u64> =
            left.iter().map(|&slot| steps_to(slot) << 32 | u64::from(slot)).collect();
        order.sort_unstable_by_key(|&word| std::cmp::Reverse(word));
        // The lower half is the slot.
        self.listed = order.into_iter().map(|word| word as u32).collect();
    }

    fn step(&mut self, slots: u32) {
        // Both are below `slots`, so one subtraction is the remainder. The configuration keeps rings far below 2^31 slots.
        let next = self.next + self.skip;
        self.next = if next >= slots { next - slots } else { next };
    }
}

/// The number that `skip` is to be multiplied with to make one slot: its power to `slots` - 2, since `slots` is prime (Fermat).
fn inverse(skip: u32, slots: u32) -> u64 {
    let modulus = u64::from(slots);
    let (mut result, mut square, mut power) = (1, u64::from(skip) % modulus, slots - 2);
    while power > 0 {
        if power % 2 == 1 {
            result = result * square % modulus;
        }
        square = square * square % modulus;
        power /= 2;
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLOTS: u32 = 65_537;

    fn member(n: u8, weight: u32) -> Member {
        Member {
            address: Address::from_ipv4([10, 0, 0, n]),
            port: 8080,
            weight,
            number: u16::from(n),
        }
    }

    fn shares(ring: &[u16], n: u8) -> usize {
        ring.iter().filter(|&&number| number == u16::from(n)).count()
    }

    #[test]
    fn no_members_leave_the_ring_empty() {
        assert!(ring(&[], 251).iter().all(|&number| number == 0));
    }

    #[test]
    fn shares_follow_the_weights() {
        let members = [member(1, 1), member(2, 2), member(3, 5)];
        let ring = ring(&members, SLOTS);
        for member in members {
            let expected = f64::from(SLOTS) * f64::from(member.weight) / 8.0;
            let share = shares(&ring, member.number as u8) as f64;
            assert!((share / expected - 1.0).abs() < 0.01, "{member:?}: {share} of {expected}");
        }
    }

    #[test]
    fn a_server_that_leaves_moves_few_of_the_others_slots() {
        let members: Vec<_> = (1..=10).map(|n| member(n, 1)).collect();
        let before = ring(&members, SLOTS);
        let after = ring(&members[1..], SLOTS);
        let moved = before.iter().zip(&after).filter(|(b, a)| **b != 1 && a != b).count();
        assert!(moved < SLOTS as usize / 20, "{moved} slots of the others moved");
    }

    #[test]
    fn the_bits_never_change() {
        let members = [member(1, 1), member(2, 3), member(3, 2)];
        assert_eq!(ring(&members, 13), [2, 2, 2, 3, 2, 2, 1, 3, 2, 1, 1, 3, 3]);
    }

    /// The ring by walking alone, as the paper has it.
    fn walked(members: &[Member], slots: u32) -> Vec<u16> {
        let mut walks: Vec<Walk> = members.iter().map(|member| Walk::new(member, slots)).collect();
        let greatest = members.iter().map(|member| member.weight).max().unwrap();
        let (mut ring, mut taken) = (vec![0; slots as usize], Taken::none_of(slots));
        for round in 1.. {
            for (walk, member) in walks.iter_mut().zip(members) {
                if !ring.contains(&0) {
                    return ring;
                }
                if walk.takes_part(round, member.weight, greatest) {
                    walk.take(&mut ring, &mut taken, member.number);
                }
            }
        }
        unreachable!("the rounds have no end")
    }

    proptest! {
        #[test]
        fn listing_the_last_slots_gives_the_ring_of_walking(
            weights in prop::collection::vec(1_u32..=9, 1..20),
            slots in prop::sample::select(vec![11_u32, 13, 251, 1_009, 4_099]),
        ) {
            let members: Vec<_> =
                (1..).zip(&weights).map(|(n, &weight)| member(n, weight)).collect();
            prop_assert_eq!(ring(&members, slots), walked(&members, slots));
        }

        #[test]
        fn every_slot_is_taken_and_order_does_not_matter(
            weights in prop::collection::vec(1_u32..=1000, 1..12),
            rotation in 0_usize..12,
        ) {
            let members: Vec<_> =
                (1..).zip(&weights).map(|(n, &weight)| member(n, weight)).collect();
            let mut rotated = members.clone();
            rotated.rotate_left(rotation % members.len());
            let first = ring(&members, 1_009);
            prop_assert!(first.iter().all(|&number| number != 0));
            prop_assert_eq!(first, ring(&rotated, 1_009));
        }
    }
}
