//! Entries: one client key bound to one server.

use bytemuck::{Pod, Zeroable};

use crate::{
    net::{Address, Destination},
    server::Binding,
};

/// Who an entry is for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct EntryKey {
    /// The client's address under the profile's mask.
    pub client: Address,
    /// The service or pool the entry belongs to: see [`crate::service::scope`].
    pub scope: u32,
    /// The address the client came for, if the service is on a prefix.
    pub destination: Destination,
}

// With its value, 48 bytes of the kernel's and 16 of the bucket: 128 bytes an entry.
const _: () = assert!(size_of::<EntryKey>() == 32);

/// A client's server and the timer that says how long it stays.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Entry {
    /// The server.
    pub binding: Binding,
    /// TCP connections of this client that are open.
    pub open: u32,
    /// Raised whenever `open` changes. The sweep puts a count right only if none did since it counted.
    pub changes: u32,
    /// When the last connection closed, or for UDP when the flow will count as closed; nanoseconds of
    /// `CLOCK_MONOTONIC`. The timer runs from here while `open` is 0.
    pub idle_since_ns: u64,
    /// When the client was bound, nanoseconds of `CLOCK_MONOTONIC`; tells this entry from an earlier one of the key.
    pub created_ns: u64,
}

const _: () = assert!(size_of::<Entry>() == 32);
const _: () =
    assert!(core::mem::offset_of!(Entry, open) == 8, "`open` and `changes` are one aligned word");
// The two constants below rely on it; a big-endian data path would need their halves exchanged.
const _: () = assert!(cfg!(target_endian = "little"));

impl Entry {
    /// Added to the word of `open` and `changes` when a connection opens.
    pub const OPENED: u64 = (1 << 32) + 1;
    /// Added to the word of `open` and `changes` when a connection closes; `open` must not be 0.
    pub const CLOSED: u64 = 0xffff_ffff;

    /// The same for as many connections; `open` must not be less.
    #[inline(always)]
    pub const fn closed(connections: u32) -> u64 {
        Self::CLOSED.wrapping_mul(connections as u64)
    }

    /// `open` and `changes` as one word.
    #[inline(always)]
    pub const fn count_word(&self) -> u64 {
        self.open as u64 | ((self.changes as u64) << 32)
    }

    /// The word of `open` connections after this one.
    #[inline(always)]
    pub const fn next_count_word(word: u64, open: u32) -> u64 {
        open as u64 | ((((word >> 32) as u32).wrapping_add(1) as u64) << 32)
    }

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
    fn opening_and_closing_count_and_leave_a_trace() {
        let mut word = Entry { open: 2, changes: 7, ..Entry::zeroed() }.count_word();
        word = word.wrapping_add(Entry::OPENED);
        assert_eq!((word as u32, word >> 32), (3, 8));
        word = word.wrapping_add(Entry::CLOSED);
        assert_eq!((word as u32, word >> 32), (2, 9));
        let last = Entry { open: 1, changes: u32::MAX, ..Entry::zeroed() }.count_word();
        assert_eq!(last.wrapping_add(Entry::CLOSED), 0, "`changes` wraps around, `open` does not");
        assert_eq!(Entry::next_count_word(word, 5), 5 | (10 << 32));
        let two = word.wrapping_add(Entry::closed(2));
        assert_eq!((two as u32, two >> 32), (0, 11));
    }

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
