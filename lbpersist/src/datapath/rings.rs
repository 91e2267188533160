//! Rings computed ahead, on all processors, by whoever has the time for it.

use std::{collections::HashMap, sync::Mutex, thread};

use super::desired::Desired;
use crate::balance::maglev::{self, Member};

/// The slots of rings, each with the members they were computed for.
#[derive(Debug, Default)]
pub struct Computed(HashMap<u32, (Vec<Member>, Vec<u16>)>);

impl Computed {
    /// The rings whose members are others in `is` than in `was`.
    pub fn of_changed(was: &Desired, is: &Desired, slots: u32) -> Self {
        let mut computed = Self::default();
        computed.complete(was, is, slots);
        computed
    }

    /// Adds those that are still missing, or were computed for other members.
    pub(super) fn complete(&mut self, was: &Desired, is: &Desired, slots: u32) {
        let missing: Vec<(u32, &Vec<Member>)> = is
            .rings
            .iter()
            .filter(|(number, members)| was.rings.get(number) != Some(*members))
            .filter(|(number, members)| self.0.get(number).is_none_or(|(of, _)| of != *members))
            .map(|(&number, members)| (number, members))
            .collect();
        for (number, members, ring) in compute(missing, slots) {
            self.0.insert(number, (members.clone(), ring));
        }
    }

    /// The slots of a pool's ring; `None` if its members did not change.
    pub(super) fn slots(&self, pool: u32) -> Option<&[u16]> {
        self.0.get(&pool).map(|(_, slots)| slots.as_slice())
    }
}

fn compute<'d>(
    wanted: Vec<(u32, &'d Vec<Member>)>,
    slots: u32,
) -> Vec<(u32, &'d Vec<Member>, Vec<u16>)> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(wanted.len());
    if workers <= 1 {
        let one = |(number, members): (u32, &'d Vec<Member>)| {
            (number, members, maglev::ring(members, slots))
        };
        return wanted.into_iter().map(one).collect();
    }
    let queue = Mutex::new(wanted.into_iter());
    let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
    thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            while let Some((number, members)) = next() {
                done.push((number, members, maglev::ring(members, slots)));
            }
            done
        };
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let results = running.into_iter().map(thread::ScopedJoinHandle::join);
        // A worker panics only if the computation itself is wrong, which is no state to go on in.
        results.flat_map(|done| done.expect("a ring can be computed")).collect()
    })
}

#[cfg(test)]
mod tests {
    use lbpersist_common::net::Address;

    use super::*;

    fn desired(weights: &[u32]) -> Desired {
        let member = |(n, &weight): (u8, &u32)| Member {
            address: Address::from_ipv4([10, 0, 0, n]),
            port: 80,
            weight,
            number: u16::from(n),
        };
        let members: Vec<Member> = (1..).zip(weights).map(member).collect();
        Desired {
            rings: (0..20).map(|pool| (pool, members.clone())).collect(),
            ..Desired::default()
        }
    }

    #[test]
    fn only_changed_rings_are_computed_and_stale_ones_again() {
        let was = desired(&[1, 2]);
        assert!(Computed::of_changed(&was, &was, 251).0.is_empty());
        let mut is = was.clone();
        is.rings.insert(3, desired(&[2, 2]).rings[&3].clone());
        let mut computed = Computed::of_changed(&was, &is, 251);
        assert_eq!(computed.0.len(), 1);
        assert_eq!(computed.slots(3).unwrap(), maglev::ring(&is.rings[&3], 251));
        is.rings.insert(3, desired(&[3, 2, 5]).rings[&3].clone());
        computed.complete(&was, &is, 251);
        assert_eq!(computed.slots(3).unwrap(), maglev::ring(&is.rings[&3], 251));
    }

    #[test]
    fn many_are_the_same_as_one() {
        let is = desired(&[1, 2, 3]);
        let computed = Computed::of_changed(&Desired::default(), &is, 251);
        assert_eq!(computed.0.len(), 20);
        let one = maglev::ring(&is.rings[&0], 251);
        assert!((0..20).all(|pool| computed.slots(pool) == Some(one.as_slice())));
    }
}
