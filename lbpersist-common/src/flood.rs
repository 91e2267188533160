//! How many new clients may be written into the tables.

use bytemuck::{Pod, Zeroable};

use crate::net::Address;

/// The budget of new keys. A key is new when a record has to be made for a client that has not shown that it has the address
/// it sends from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FloodLimits {
    /// New keys in a [`window`], in all.
    pub all: u32,
    /// New keys in a window, of one prefix.
    pub of_prefix: u32,
    /// Applied to an IPv4 client (mapped form) to tell its prefix.
    pub ipv4_mask: Address,
    /// Applied to an IPv6 client to tell its prefix.
    pub ipv6_mask: Address,
}

const _: () = assert!(size_of::<FloodLimits>() == 40);

/// What has been used of a budget.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Spent {
    /// The [`window`] it was used in.
    pub window: u32,
    /// New keys in it.
    pub keys: u32,
}

const _: () = assert!(size_of::<Spent>() == 8);

impl Spent {
    /// Takes one key out of a budget of `limit`; says whether there was one.
    #[inline(always)]
    pub fn take(&mut self, window: u32, limit: u32) -> bool {
        if self.window != window {
            *self = Self { window, keys: 0 };
        }
        if self.keys >= limit {
            return false;
        }
        self.keys += 1;
        true
    }
}

/// The window of a time in nanoseconds: 2^30 of them, a little more than a second.
#[inline(always)]
pub const fn window(now_ns: u64) -> u32 {
    (now_ns >> 30) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_whole_again_in_the_next_window() {
        let mut spent = Spent::default();
        for window in [7, 8, u32::MAX, 0] {
            let taken = (0..5).filter(|_| spent.take(window, 3)).count();
            assert_eq!(taken, 3, "{window}");
        }
        assert!(!spent.take(9, 0));
    }
}
