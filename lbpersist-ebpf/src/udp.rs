//! UDP clients. UDP has no open and close: packets look their client up, but for those of a flow that did so a moment ago, and a
//! silent client counts as closed.
#![expect(unsafe_code, reason = "map values are changed where they lie, through pointers")]

use aya_ebpf::bindings::BPF_NOEXIST;
use lbpersist_common::{
    connection::Connection, counter::Event, reason::Reason, ring::mark, server::Binding,
};

use crate::{
    breaks, budget, clock, count,
    maps::CONNECTIONS,
    occupancy,
    parse::Flow,
    persistence, recent, record,
    select::{Bound, Room, Visit},
};

/// The number of the server that gets a client's datagram.
#[inline(always)]
pub(crate) fn server(visit: &Visit<'_>, flow: &Flow) -> Result<u32, Reason> {
    let now = clock::now_ns();
    let known =
        if visit.is_persistent() { persistence::touch(visit, now) } else { under_way(visit, now) };
    if let Some((binding, begins)) = known {
        breaks::used(visit, binding, now);
        match visit.judge(binding) {
            Bound::Usable if !begins => {
                remember(visit, flow, binding, now);
                return Ok(binding.server);
            }
            Bound::Usable => match visit.room(binding.server) {
                Room::Free => {
                    count_client(visit, binding, true);
                    return Ok(binding.server);
                }
                Room::Refused => return Err(Reason::ServerFull),
                Room::Elsewhere => count::event(Event::LimitSpilled),
            },
            Bound::Refused => return Err(Reason::ServerDown),
            Bound::Gone => {}
        }
    }
    if !budget::allows(&visit.connection.client, now) {
        return visit.slot.pick();
    }
    let binding = visit.new_binding()?;
    if visit.is_persistent() {
        persistence::bind(visit, binding, now);
    } else {
        begin(visit, binding, now);
    }
    remember(visit, flow, binding, now);
    count_client(visit, binding, false);
    Ok(binding.server)
}

/// Spares the next packets of a flow the look-up, if they meet its server without.
#[inline(always)]
fn remember(visit: &Visit<'_>, flow: &Flow, binding: Binding, now: u64) {
    if visit.slot.pick() != Ok(binding.server) {
        visit.mark(mark::EXCEPTION);
    } else {
        recent::note(flow, visit.pool, now);
    }
}

/// The server of a flow that is under way, in a pool that keeps no entries.
#[inline(always)]
fn under_way(visit: &Visit<'_>, now: u64) -> Option<(Binding, bool)> {
    let place = CONNECTIONS.get_ptr_mut(&visit.connection)?;
    // SAFETY: `place` came from a lookup in this run.
    let flow = unsafe { &mut *place };
    if now > flow.last_seen_ns.saturating_add(visit.pool.udp_idle_ns) {
        return None;
    }
    flow.last_seen_ns = now;
    Some((flow.binding, false))
}

/// Notes a new flow, in the place of an old one of the key if there is one.
#[inline(always)]
fn begin(visit: &Visit<'_>, binding: Binding, now: u64) {
    let flow = Connection { binding, state: 0, suspect: 0, last_seen_ns: now, entry_created_ns: 0 };
    if let Some(place) = CONNECTIONS.get_ptr_mut(&visit.connection) {
        // SAFETY: `place` came from a lookup in this run.
        let old = unsafe { &mut *place };
        occupancy::closed(old.binding);
        *old = flow;
    } else if record::insert(flow, |new| {
        CONNECTIONS.insert(&visit.connection, new, BPF_NOEXIST.into())
    })
    .is_err()
    {
        count::table_refused(now);
        return;
    }
    count::event(Event::ConnectionOpened);
}

#[inline(always)]
fn count_client(visit: &Visit<'_>, binding: Binding, kept: bool) {
    count::service(visit.service.index, |counters| {
        counters.connections += 1;
        counters.kept += u64::from(kept);
    });
    count::server(binding.server, |counters| counters.connections += 1);
    occupancy::opened(binding);
}
