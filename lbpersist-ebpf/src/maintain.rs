//! What the daemon asks of the tables, done where the values lie.
#![expect(unsafe_code, reason = "map values are changed where they lie, through pointers")]

use aya_ebpf::programs::XdpContext;
use lbpersist_common::{
    connection::Connection,
    counter::Event,
    maintenance::{BATCH, Operation, Request},
    persistence::Entry,
    tcp::State,
};

use crate::{
    atomic, clock, count,
    cursor::Unaligned,
    frame,
    maps::{CONNECTIONS, ENTRIES},
    persistence,
    verdict::Verdict,
};

/// Answers every request in the frame, in order.
#[inline(always)]
pub(crate) fn requests(context: &XdpContext) -> Verdict {
    let mut cursor = frame::cursor(context);
    for _ in 0..BATCH {
        let Some(slot) = cursor.take::<Unaligned<Request>>() else { break };
        let request = slot.0;
        let acted = answer(&request);
        slot.0.argument = u32::from(acted);
    }
    Verdict::Pass
}

/// Does what is asked, if things are still as the daemon saw them.
#[inline(always)]
fn answer(request: &Request) -> bool {
    match request.operation {
        n if n == Operation::ReclaimEntry as u32 => reclaim_entry(request),
        n if n == Operation::RepairEntry as u32 => repair_entry(request),
        n if n == Operation::SuspectConnection as u32 => suspect_connection(request),
        n if n == Operation::EndConnection as u32 => end_connection(request),
        n if n == Operation::DeleteConnection as u32 => delete_connection(request),
        _ => false,
    }
}

#[inline(always)]
fn reclaim_entry(request: &Request) -> bool {
    // SAFETY: read through a shared reference within this run. A client that comes back between this look and the
    // deletion, on another CPU, is bound anew by its next connection.
    let Some(entry) = (unsafe { ENTRIES.get(&request.entry) }) else { return false };
    let untouched = entry.open == 0
        && entry.created_ns == request.created_ns
        && entry.idle_since_ns == request.seen_ns;
    untouched && ENTRIES.remove(&request.entry).is_ok() && counted(Event::EntryExpired)
}

#[inline(always)]
fn repair_entry(request: &Request) -> bool {
    let Some(place) = ENTRIES.get_ptr_mut(&request.entry) else { return false };
    // SAFETY: `place` came from a lookup in this run.
    let entry = unsafe { &mut *place };
    if entry.created_ns != request.created_ns {
        return false;
    }
    let new = Entry::next_count_word(request.count_word, request.argument);
    // SAFETY: as above; the count is exchanged only if no packet has changed it since.
    if !unsafe { atomic::exchange((&raw mut (*place).open).cast(), request.count_word, new) } {
        return false;
    }
    if request.argument == 0 {
        entry.idle_since_ns = entry.idle_since_ns.max(clock::now_ns());
    }
    counted(Event::EntryRepaired)
}

#[inline(always)]
fn suspect_connection(request: &Request) -> bool {
    let Some(connection) = unchanged_connection(request) else { return false };
    connection.suspect = request.argument;
    true
}

#[inline(always)]
fn end_connection(request: &Request) -> bool {
    let Some(connection) = unchanged_connection(request) else { return false };
    let was_open = State::from_number(connection.state) != State::Closed;
    connection.state = State::Closed as u32;
    if was_open {
        persistence::close(&request.entry, connection.entry_created_ns, clock::now_ns());
    }
    CONNECTIONS.remove(&request.connection).is_ok() && counted(Event::ConnectionIdle)
}

#[inline(always)]
fn delete_connection(request: &Request) -> bool {
    unchanged_connection(request).is_some() && CONNECTIONS.remove(&request.connection).is_ok()
}

/// The connection, if no packet of it was noted since the daemon looked.
#[inline(always)]
fn unchanged_connection<'run>(request: &Request) -> Option<&'run mut Connection> {
    let place = CONNECTIONS.get_ptr_mut(&request.connection)?;
    // SAFETY: `place` came from a lookup in this run.
    let connection = unsafe { &mut *place };
    (connection.last_seen_ns == request.seen_ns).then_some(connection)
}

#[inline(always)]
fn counted(event: Event) -> bool {
    count::event(event);
    true
}
