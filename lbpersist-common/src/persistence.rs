//! Entries: one client key bound to one server.

use bytemuck::{Pod, Zeroable};

use crate::{net::Address, server::Binding};

/// Who an entry is for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct EntryKey {
    /// The client's address under the profile's mask.
    pub client: Address,
    /// The service or pool the entry belongs to: see [`crate::service::scope`].
    pub scope: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<EntryKey>() == 24);

/// A client's server and the timer that says how long it stays.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Entry {
    /// The server.
    pub binding: Binding,
    /// TCP connections of this client that are open.
    pub open: u32,
    /// Zero.
    pub reserved: u32,
    /// When the last connection closed, or for UDP when the flow will count as closed; nanoseconds of
    /// `CLOCK_MONOTONIC`. The timer runs from here while `open` is 0.
    pub idle_since_ns: u64,
    /// When the client was bound, nanoseconds of `CLOCK_MONOTONIC`; tells this entry from an earlier one of the key.
    pub created_ns: u64,
}

const _: () = assert!(size_of::<Entry>() == 32);

impl Entry {
    /// Whether the entry still binds its client at `now_ns`.
    #[inline(always)]
    pub const fn is_live(&self, now_ns: u64, timeout_ns: u64) -> bool {
        self.open > 0 || now_ns < self.expires_ns(timeout_ns)
    }

    /// When the entry ends, if nothing opens until then and nothing is open now.
    #[inline(always)]
    pub const fn expires_ns(&self, timeout_ns: u64) -> u64 {
        self.idle_since_ns.saturating_add(timeout_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_runs_only_while_nothing_is_open() {
        let mut entry = Entry { open: 1, idle_since_ns: 100, ..Entry::zeroed() };
        assert!(entry.is_live(u64::MAX, 50));
        entry.open = 0;
        assert!(entry.is_live(149, 50));
        assert!(!entry.is_live(150, 50));
        entry.idle_since_ns = u64::MAX - 10;
        assert!(entry.is_live(u64::MAX - 1, 50), "a far end does not wrap around");
    }
}
