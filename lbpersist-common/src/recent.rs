//! UDP flows that were looked up a moment ago, so that their next packets need no look into the tables.
//!
//! A line is as long as one of the CPU's caches. A flow hashes to a line and has one cell in it, which holds a fingerprint
//! and when the flow was looked up. Whoever finds a fresh cell knows that the tables have heard of the flow, and nothing else:
//! which server it meets says the ring, if its slot has no mark.
//!
//! A cell lasts up to a seventh of the time that the flow may be silent. So long the tables do not hear of the flow, and so much
//! longer than configured it may be silent ([`idle_ns`]): never shorter. Of the flows that come to a full line, one in thirty thousand
//! has the fingerprint of another; a new one may then have to wait for its entry until that cell has aged, and is served from the
//! ring until then.

use bytemuck::{Pod, Zeroable};

/// Lines; a power of two. With [`CELLS`] each they hold two million flows in 8 MiB.
pub const LINES: u32 = 1 << 17;

/// Cells of a line.
pub const CELLS: usize = 16;

/// Half a second or so.
const TICK_SHIFT: u32 = 29;

/// Ticks are counted modulo this, which takes 36 minutes.
const TICKS: u32 = 1 << 12;

/// The most ticks that a cell lasts. The daemon clears older ones before they look fresh again.
const MOST_TICKS: u32 = TICKS / 4;

/// One line.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Line {
    /// Fingerprint and tick; 0 when it was never used.
    pub cells: [u32; CELLS],
}

const _: () = assert!(size_of::<Line>() == 64);

/// How long a flow may be silent before it counts as closed, when `configured` says so; both in nanoseconds.
pub const fn idle_ns(configured: u64) -> u64 {
    let longer = configured / 7;
    if longer >> TICK_SHIFT == 0 { configured } else { configured.saturating_add(longer) }
}

/// How many ticks a flow is remembered that may be silent for `idle_ns`, a result of [`idle_ns`]; 0 when its every packet is noted.
#[inline(always)]
pub const fn lasting_ticks(idle_ns: u64) -> u32 {
    let ticks = idle_ns >> 3 >> TICK_SHIFT;
    if ticks > MOST_TICKS as u64 { MOST_TICKS } else { ticks as u32 }
}

/// Where a flow is remembered, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The line.
    pub line: u32,
    /// The cell of it that the flow has if it can.
    pub cell: u32,
    /// The cell's value when the flow is looked up now.
    pub value: u32,
}

impl Mark {
    /// Of a flow with this hash, at `now_ns`.
    #[inline(always)]
    pub const fn of(hash: u64, now_ns: u64) -> Self {
        // No fingerprint is 0, so that an unused cell is nobody's.
        let fingerprint = (hash >> 44) as u32 | 1;
        let tick = (now_ns >> TICK_SHIFT) as u32 % TICKS;
        Self {
            line: hash as u32 & (LINES - 1),
            cell: (hash >> 32) as u32 % CELLS as u32,
            value: (fingerprint * TICKS) | tick,
        }
    }

    /// Whether a cell is this flow's.
    #[inline(always)]
    pub const fn owns(self, cell: u32) -> bool {
        cell ^ self.value < TICKS
    }

    /// Whether a cell of any flow has been written less than `ticks` ago.
    #[inline(always)]
    pub const fn is_fresh(self, cell: u32, ticks: u32) -> bool {
        self.value.wrapping_sub(cell) % TICKS < ticks
    }
}

/// Whether a cell is of no use to any flow at `now_ns`.
pub const fn is_stale(cell: u32, now_ns: u64) -> bool {
    !Mark::of(0, now_ns).is_fresh(cell, MOST_TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = 1 << TICK_SHIFT;

    #[test]
    fn a_cell_lasts_its_ticks() {
        let hash = 0x1234_5678_9abc_def0;
        let noted = Mark::of(hash, 6 * TICK - 1).value;
        for (now, fresh) in
            [(6 * TICK - 1, true), (7 * TICK - 1, true), (7 * TICK, false), (100 * TICK, false)]
        {
            let mark = Mark::of(hash, now);
            assert!(mark.owns(noted));
            assert_eq!(mark.is_fresh(noted, 2), fresh, "at {now}");
        }
        let last = Mark::of(hash, (u64::from(TICKS) - 1) * TICK).value;
        assert!(
            Mark::of(hash, u64::from(TICKS) * TICK).is_fresh(last, 2),
            "the count of ticks goes round"
        );
        assert!(!is_stale(noted, 1_000 * TICK) && is_stale(noted, 2_000 * TICK));
    }

    #[test]
    fn an_unused_cell_is_nobodys() {
        for hash in [0, 1 << 40, u64::MAX, 0xf_ffff] {
            assert!(!Mark::of(hash, 0).owns(0), "{hash:x}");
        }
    }

    #[test]
    fn a_flow_is_told_from_others_of_its_line() {
        let mark = Mark::of(0xabcd_e000_0000_0001, 0);
        assert!(!mark.owns(Mark::of(0xabcd_c000_0000_0001, 0).value));
        assert!(!mark.owns(Mark::of(0x1bcd_e000_0000_0001, 0).value));
    }

    #[test]
    fn a_flow_is_never_closed_before_its_time() {
        for configured in [0, 1, 7 * TICK - 1, 7 * TICK, 30_000_000_000, 86_400_000_000_000] {
            let idle = idle_ns(configured);
            let unheard = u64::from(lasting_ticks(idle)) * TICK;
            assert!(idle - unheard >= configured, "{configured}");
            assert_eq!(unheard > 0, configured >= 7 * TICK, "{configured}");
        }
    }
}
