//! Who serves a new client.
//!
//! What the ring picks needs no look at other servers. The other algorithms, and pools whose servers have limits, go through a
//! list of servers; at most [`MOST_LOOKED_AT`] of it, beginning at another place each time.
#![expect(
    unsafe_code,
    reason = "whose turn it is is counted through a pointer; chance is a helper of the kernel"
)]

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_loop};
use lbpersist_common::{
    reason::Reason,
    ring::slot_of,
    service::{Pool, algorithm, pool_flag},
};

use crate::{
    atomic,
    choice::Choice,
    maps::{LOOK, NEXT_TURN, POOLS, RINGS, SERVERS, TURNS},
    occupancy,
};

/// How many servers are compared for one client: so much a new client may cost.
const MOST_LOOKED_AT: u32 = 256;

/// The number of a server for a new client of a pool, whose slot picks `ring_pick`; only one below its limit.
///
/// Under a name of its own the verifier takes it for a global function, and looks at it once instead of once for every way
/// that leads here.
// SAFETY: no other symbol is called so.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn choose_server(number: u32, ring_pick: u32) -> u32 {
    let Some(pool) = POOLS.get(number) else {
        return Choice::from(Err(Reason::NoServer)).number();
    };
    let chosen = match pool.algorithm {
        algorithm::ROUND_ROBIN => next_in_turn(number, pool),
        algorithm::LEAST_CONNECTIONS => least_loaded(number, pool),
        algorithm::RANDOM_TWO => {
            let (one, other) = (random(number, pool), random(number, pool));
            let better = if is_less_loaded(other, one) { other } else { one };
            if may_take(better, pool) { better } else { least_loaded(number, pool) }
        }
        _ if may_take(ring_pick, pool) => ring_pick,
        _ => least_loaded(number, pool),
    };
    let result = match chosen {
        0 if ring_pick == 0 => Err(Reason::NoServer),
        0 if pool.flags & pool_flag::LIMITED != 0 => Err(Reason::ServerFull),
        // The list is being replaced.
        0 => Ok(ring_pick),
        chosen => Ok(chosen),
    };
    Choice::from(result).number()
}

/// The same as a result.
#[inline(always)]
pub(crate) fn choose(pool: u32, ring_pick: u32) -> Result<u32, Reason> {
    Choice::from_number(choose_server(pool, ring_pick)).result()
}

/// Whether new clients of a pool get anything but the ring's pick.
#[inline(always)]
pub(crate) fn is_needed(pool: &Pool) -> bool {
    pool.algorithm != algorithm::MAGLEV || pool.flags & pool_flag::LIMITED != 0
}

/// The next server in turn that may take the client.
#[inline(always)]
fn next_in_turn(number: u32, pool: &Pool) -> u32 {
    look(number, pool, Wanted::First)
}

/// The server in the list that has the least to do.
#[inline(always)]
fn least_loaded(number: u32, pool: &Pool) -> u32 {
    look(number, pool, Wanted::Best)
}

/// What a look through the list is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The first server that has room.
    First = 0,
    /// The one with the least to do among those that have room.
    Best = 1,
}

/// A look through a pool's list, as it is passed from server to server.
#[repr(C)]
pub(crate) struct Look {
    pool: u32,
    turns: u32,
    first: u32,
    is_limited: u32,
    wanted: u32,
    best: u32,
}

#[inline(always)]
fn look(number: u32, pool: &Pool, wanted: Wanted) -> u32 {
    let Some(first) = first_turn(number, pool) else { return 0 };
    // Not on the stack, of which the ways that lead here have used most.
    let Some(place) = LOOK.get_ptr_mut(0) else { return 0 };
    // SAFETY: the place is this CPU's own, and XDP programs on one CPU run one after the other.
    unsafe {
        *place = Look {
            pool: number,
            turns: pool.turns,
            first,
            is_limited: pool.flags & pool_flag::LIMITED,
            wanted: wanted as u32,
            best: 0,
        };
    }
    let servers = if pool.turns < MOST_LOOKED_AT { pool.turns } else { MOST_LOOKED_AT };
    // SAFETY: `look_at` has the signature that the helper calls. A loop of the program's own would be followed by the verifier
    // turn by turn, which takes minutes.
    unsafe {
        bpf_loop(servers, look_at as *mut c_void, core::ptr::null_mut(), 0);
        (*place).best
    }
}

/// Looks at the server `further` places after the first; 1 ends the look.
extern "C" fn look_at(further: u32, _context: *mut c_void) -> i64 {
    let Some(look) = LOOK.get_ptr_mut(0) else { return 1 };
    // SAFETY: as in `look`, which waits for this.
    let look = unsafe { &mut *look };
    let place = look.first + further;
    let place = if place >= look.turns { place - look.turns } else { place };
    let server = TURNS.get_value(look.pool, &place).map_or(0, |turn| turn.servers[0].into());
    if server == 0 || (look.is_limited != 0 && occupancy::is_full(server)) {
        return 0;
    }
    if look.best == 0 || is_less_loaded(server, look.best) {
        look.best = server;
    }
    i64::from(look.wanted == Wanted::First as u32)
}

/// The place in the list where this look begins: each begins one further than the last.
#[inline(always)]
fn first_turn(number: u32, pool: &Pool) -> Option<u32> {
    let place = NEXT_TURN.get_ptr_mut(number)?;
    if pool.turns == 0 {
        return None;
    }
    // SAFETY: `place` came from a lookup in this run.
    let turn = unsafe { atomic::next(place) };
    Some(turn as u32 % pool.turns)
}

/// The pick of a slot that nobody can foretell: servers come up as often as their weights say.
#[inline(always)]
fn random(number: u32, pool: &Pool) -> u32 {
    // SAFETY: the helper takes nothing and only returns a number.
    let hash = unsafe { bpf_get_prandom_u32() };
    let Some(slot) = RINGS.get_value(number, &slot_of(hash, pool.slots)) else { return 0 };
    let server = if pool.side & 1 == 0 { slot.servers[0] } else { slot.servers[1] };
    server.into()
}

#[inline(always)]
fn may_take(server: u32, pool: &Pool) -> bool {
    server != 0 && (pool.flags & pool_flag::LIMITED == 0 || !occupancy::is_full(server))
}

/// Whether `one` has fewer connections for its weight than `other`, both with one more.
#[inline(always)]
fn is_less_loaded(one: u32, other: u32) -> bool {
    let load = |server| (u64::from(occupancy::open(server)) + 1, weight(server));
    let ((one, one_weight), (other, other_weight)) = (load(one), load(other));
    one * other_weight < other * one_weight
}

#[inline(always)]
fn weight(server: u32) -> u64 {
    SERVERS.get(server).map_or(1, |server| server.weight.max(1).into())
}
