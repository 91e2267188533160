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
    atomic, carried, clock, count,
    cursor::Unaligned,
    frame,
    maps::{CONNECTIONS, ENTRIES, HALF_OPEN_TRANSLATIONS, TRANSLATIONS},
    occupancy,
    verdict::Verdict,
};

/// The state of a connection that is a UDP flow, which is open for as long as it is known.
const UDP_FLOW: u32 = 0;

/// Answers every request in the frame, in order.
#[inline(always)]
pub(crate) fn requests(context: &XdpContext) -> Verdict {
    let mut cursor = frame::cursor(context);
    for _ in 0..BATCH {
        let Some(slot) = cursor.take::<Unaligned<Request>>() else { break };
        let request = slot.0;
        if request.operation == Operation::OpenCarried as u32 {
            let opened = carried::open(&request);
            slot.0.seen_ns = opened;
            slot.0.argument = u32::from(opened != 0);
            continue;
        }
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
        n if n == Operation::FreeTranslation as u32 => free_translation(request),
        n if n == Operation::FreeHalfOpen as u32 => free_half_open(request),
        n if n == Operation::CloseCarried as u32 => carried::close(request),
        n if n == Operation::CloseEnded as u32 => close_ended(request),
        _ => false,
    }
}

#[inline(always)]
fn free_translation(request: &Request) -> bool {
    let key = request.translation();
    // SAFETY: read through a shared reference within this run. A packet that comes between this look and the deletion, on
    // another CPU, loses its translation after a silence of its whole limit.
    let Some(found) = (unsafe { TRANSLATIONS.get(&key) }) else { return false };
    let untouched = found.last_seen_ns == request.seen_ns;
    untouched && TRANSLATIONS.remove(&key).is_ok() && counted(Event::TranslationEnded)
}

#[inline(always)]
fn free_half_open(request: &Request) -> bool {
    let key = request.translation();
    // SAFETY: as in `free_translation`.
    let Some(found) = (unsafe { HALF_OPEN_TRANSLATIONS.get(&key) }) else { return false };
    found.last_seen_ns == request.seen_ns && HALF_OPEN_TRANSLATIONS.remove(&key).is_ok()
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
        occupancy::closed(connection.binding);
    }
    CONNECTIONS.remove(&request.connection).is_ok() && counted(Event::ConnectionIdle) && was_open
}

/// What `end_connection` leaves to do, for all connections of an entry at once, when the daemon has come to the entry: to look
/// each of them up would cost more than all the rest.
#[inline(always)]
fn close_ended(request: &Request) -> bool {
    let Some(place) = ENTRIES.get_ptr_mut(&request.entry) else { return false };
    // SAFETY: `place` came from a lookup in this run.
    let entry = unsafe { &mut *place };
    if entry.created_ns != request.created_ns || entry.open < request.argument {
        return false;
    }
    entry.idle_since_ns = entry.idle_since_ns.max(clock::now_ns());
    // SAFETY: as above; the count is changed atomically.
    unsafe { atomic::add((&raw mut (*place).open).cast(), Entry::closed(request.argument)) };
    true
}

#[inline(always)]
fn delete_connection(request: &Request) -> bool {
    let Some(connection) = unchanged_connection(request) else { return false };
    if connection.state == UDP_FLOW {
        occupancy::closed(connection.binding);
    }
    CONNECTIONS.remove(&request.connection).is_ok()
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
