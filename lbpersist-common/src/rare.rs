//! Events that are told in words, because whoever runs a balancer wants to hear of them: not every one, but the first in each window
//! on each CPU.

use bytemuck::{Pod, Zeroable};

use crate::flood;

/// What is told. Numbers are bits and places of [`Pending`]; append only.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rare {
    /// More new clients came than the budget allows.
    BudgetSpent = 0,
    /// A table took no record.
    TableRefused = 1,
    /// Every port that a client could have had towards its server was taken.
    PortsExhausted = 2,
}

/// What a CPU has still to tell, and when it last told what.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Pending {
    /// Bits of what is to be told.
    pub bits: u32,
    /// The [`flood::window`] in which each was noted last.
    pub windows: [u32; 3],
}

const _: () = assert!(size_of::<Pending>() == 16);

impl Pending {
    /// Notes that something has happened, unless it has been noted in this window.
    #[inline(always)]
    pub fn note(&mut self, rare: Rare, now_ns: u64) {
        let window = flood::window(now_ns);
        if self.windows[rare as usize] != window {
            self.windows[rare as usize] = window;
            self.bits |= 1 << rare as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_noted_once_in_a_window() {
        let mut pending = Pending::default();
        let second = 1 << 30;
        for (rare, now, bits) in [
            (Rare::TableRefused, second, 2),
            (Rare::TableRefused, second + 1, 0),
            (Rare::BudgetSpent, second + 2, 1),
            (Rare::TableRefused, 2 * second, 2),
            (Rare::PortsExhausted, 2 * second, 4),
        ] {
            pending.note(rare, now);
            assert_eq!(std::mem::take(&mut pending.bits), bits, "{rare:?} at {now}");
        }
    }
}
