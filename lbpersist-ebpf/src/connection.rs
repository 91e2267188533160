//! TCP connections: written when they open and close, read when a slot is marked.
#![expect(unsafe_code, reason = "map values are changed where they lie, through pointers")]

use aya_ebpf::bindings::BPF_NOEXIST;
use lbpersist_common::{
    connection::{Connection, ConnectionKey, Handshake},
    counter::Event,
    persistence::EntryKey,
    reason::Reason,
    ring::mark,
    server::Binding,
    tcp::{Side, State, flag},
};

use crate::{
    budget, clock, count,
    maps::{CONNECTIONS, HANDSHAKES},
    occupancy, persistence, record,
    select::{Bound, Room, Visit},
};

/// How old the noted time of a packet may get before it is written again: it spares a write per packet.
const NOTE_EVERY_NS: u64 = 100_000_000;

/// The number of the server that gets a client's segment, and whatever the segment changes in the tables.
#[inline(always)]
pub(crate) fn server(visit: &Visit<'_>, flags: u8, acknowledgement: u32) -> Result<u32, Reason> {
    let now = clock::now_ns();
    if flags & (flag::SYN | flag::ACK) == flag::SYN {
        return open(visit, now);
    }
    if let Some(place) = CONNECTIONS.get_ptr_mut(&visit.connection) {
        // SAFETY: copied out of a value that a lookup in this run returned.
        let known = unsafe { place.read() };
        let decision = follow(visit, known.binding);
        if decision.is_none() && visit.resets() {
            forget(visit, &known, now);
            return Err(Reason::ServerGone);
        }
        note(place, &visit.entry, visit.seen(), flags, now);
        if let Some(decision) = decision {
            return decision;
        }
    } else if let Some(handshake) = handshake(&visit.connection) {
        if flags & flag::RST != 0 {
            let _ = HANDSHAKES.remove(&visit.connection);
        } else if flags & flag::ACK != 0 && may_open(visit, &handshake, acknowledgement, now) {
            finish(visit, &handshake, flags, now);
        }
        if let Some(decision) = follow(visit, handshake.binding) {
            return decision;
        }
    }
    // Not a connection we know, or its server is gone: the client's entry says where to, and then the ring.
    if visit.is_persistent()
        && let Some(binding) = persistence::live(visit, now)
        && let Some(decision) = follow(visit, binding)
    {
        return decision;
    }
    visit.slot.pick()
}

/// Whether the third packet of a handshake shows that its client has seen the server's answer, and so has the address it says.
/// Where the server's answer takes another way, its word has to do, as long as there is a budget for such clients.
#[inline(always)]
fn may_open(visit: &Visit<'_>, handshake: &Handshake, acknowledgement: u32, now: u64) -> bool {
    match visit.seen() {
        Seen::Client => handshake.is_proven_by(acknowledgement),
        _ => budget::allows(&visit.connection.client, now),
    }
}

/// Notes a server's segment that may open or close its connection.
#[inline(always)]
pub(crate) fn note_answer(key: &ConnectionKey, entry: &EntryKey, flags: u8, sequence: u32) {
    if flags & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK {
        if let Some(place) = HANDSHAKES.get_ptr_mut(key) {
            // SAFETY: `place` came from a lookup in this run.
            unsafe { (*place).answered(sequence) };
        }
        return;
    }
    if let Some(place) = CONNECTIONS.get_ptr_mut(key) {
        note(place, entry, Seen::Server, flags, clock::now_ns());
    } else if flags & flag::RST != 0 {
        let _ = HANDSHAKES.remove(key);
    }
}

/// A client's SYN: its entry, or else the ring, says where to. Nothing is promised to it before it answers the server.
#[inline(always)]
fn open(visit: &Visit<'_>, now: u64) -> Result<u32, Reason> {
    if let Some(place) = CONNECTIONS.get_ptr_mut(&visit.connection) {
        // SAFETY: copied out of a value that a lookup in this run returned.
        let known = unsafe { place.read() };
        if State::from_number(known.state) == State::Closed {
            let _ = CONNECTIONS.remove(&visit.connection);
        } else {
            match visit.judge(known.binding) {
                // Its server knows best what a SYN on an open connection means (RFC 5961, section 4).
                Bound::Usable => return Ok(known.binding.server),
                Bound::Refused => return Err(Reason::ServerDown),
                // Nobody is left at the other end: the client begins anew from the same port.
                Bound::Gone => forget(visit, &known, now),
            }
        }
    }
    if let Some(handshake) = handshake(&visit.connection)
        && let Bound::Usable = visit.judge(handshake.binding)
    {
        visit.mark(mark::HANDSHAKE);
        return Ok(handshake.binding.server);
    }
    let Chosen { binding, kept, spilled } = choose(visit, now)?;
    let spilled = u32::from(spilled);
    let handshake = Handshake { binding, started_ns: now, expected: [0; 2], answers: 0, spilled };
    if record::insert(handshake, |new| HANDSHAKES.insert(&visit.connection, new, 0)).is_err() {
        count::table_refused(now);
    }
    visit.mark(mark::HANDSHAKE);
    count::event(Event::HandshakeStarted);
    count_connection(visit, binding, kept);
    Ok(binding.server)
}

/// Ends a connection whose server is gone.
#[inline(always)]
fn forget(visit: &Visit<'_>, connection: &Connection, now: u64) {
    let was_open = State::from_number(connection.state) != State::Closed;
    if CONNECTIONS.remove(&visit.connection).is_ok() && was_open {
        count::event(Event::ConnectionClosed);
        occupancy::closed(connection.binding);
        persistence::close(&visit.entry, connection.entry_created_ns, now);
    }
}

/// The server for a new connection.
struct Chosen {
    binding: Binding,
    /// The client was bound to it before.
    kept: bool,
    /// The client was bound to another one, which is full.
    spilled: bool,
}

#[inline(always)]
fn choose(visit: &Visit<'_>, now: u64) -> Result<Chosen, Reason> {
    let mut spilled = false;
    if visit.is_persistent()
        && let Some(binding) = persistence::live(visit, now)
    {
        match visit.judge(binding) {
            Bound::Usable => match visit.room(binding.server) {
                Room::Free => return Ok(Chosen { binding, kept: true, spilled }),
                Room::Refused => return Err(Reason::ServerFull),
                Room::Elsewhere => {
                    count::event(Event::LimitSpilled);
                    spilled = true;
                }
            },
            Bound::Refused => return Err(Reason::ServerDown),
            Bound::Gone => {}
        }
    }
    Ok(Chosen { binding: visit.new_binding()?, kept: false, spilled })
}

/// The client has answered: from here on it has a connection and an entry.
#[inline(always)]
fn finish(visit: &Visit<'_>, handshake: &Handshake, flags: u8, now: u64) {
    let binding = handshake.binding;
    // The ring may have changed since the SYN, and a sweep may have cleared what that marked.
    if visit.slot.pick() != Ok(binding.server) {
        visit.mark(mark::EXCEPTION);
    }
    let entry_created_ns =
        if visit.is_persistent() { persistence::open(visit, handshake, now) } else { 0 };
    let connection = Connection {
        binding,
        state: visit.seen().after(State::Established, flags) as u32,
        suspect: 0,
        last_seen_ns: now,
        entry_created_ns,
    };
    // The map refuses a key that is there: of two CPUs that see the same client's answer, one opens the connection.
    if record::insert(connection, |new| {
        CONNECTIONS.insert(&visit.connection, new, BPF_NOEXIST.into())
    })
    .is_ok()
    {
        count::event(Event::ConnectionOpened);
        occupancy::opened(binding);
        if connection.state == State::Closed as u32 {
            count::event(Event::ConnectionClosed);
            occupancy::closed(binding);
            persistence::close(&visit.entry, entry_created_ns, now);
        }
    } else {
        count::table_refused(now);
        persistence::close(&visit.entry, entry_created_ns, now);
    }
    let _ = HANDSHAKES.remove(&visit.connection);
}

/// Notes a segment of a known connection.
#[inline(always)]
fn note(place: *mut Connection, entry: &EntryKey, seen: Seen, flags: u8, now: u64) {
    // SAFETY: `place` came from a lookup in this run. An LRU value may be given to another key meanwhile; then these
    // writes make that connection look fresher or closed to the sweep, which the next packet or sweep puts right.
    let connection = unsafe { &mut *place };
    let before = State::from_number(connection.state);
    let after = seen.after(before, flags);
    if after as u32 != connection.state {
        connection.state = after as u32;
        connection.last_seen_ns = now;
        connection.suspect = 0;
        if let State::Closed = after {
            count::event(Event::ConnectionClosed);
            occupancy::closed(connection.binding);
            persistence::close(entry, connection.entry_created_ns, now);
        }
    } else if now - connection.last_seen_ns.min(now) > NOTE_EVERY_NS || connection.suspect != 0 {
        connection.last_seen_ns = now;
        connection.suspect = 0;
    }
}

/// Whose segment it is, and whether those of the other side are seen too.
#[derive(Clone, Copy)]
pub(crate) enum Seen {
    /// The client's, and the server's come this way as well.
    Client,
    /// The client's, and the server answers it by another way.
    ClientAlone,
    /// The server's.
    Server,
}

impl Seen {
    #[inline(always)]
    fn after(self, state: State, flags: u8) -> State {
        match self {
            Self::Client => state.after(Side::Client, flags),
            Self::ClientAlone => state.after_client_alone(flags),
            Self::Server => state.after(Side::Server, flags),
        }
    }
}

/// Where a bound client's packet goes; `None` when it must be chosen anew.
#[inline(always)]
fn follow(visit: &Visit<'_>, binding: Binding) -> Option<Result<u32, Reason>> {
    match visit.judge(binding) {
        // Under `never` an open connection may still try: its server may be back before the client gives up.
        Bound::Usable | Bound::Refused => Some(Ok(binding.server)),
        Bound::Gone => None,
    }
}

#[inline(always)]
fn handshake(key: &ConnectionKey) -> Option<Handshake> {
    // SAFETY: copied out at once.
    unsafe { HANDSHAKES.get(key) }.copied()
}

#[inline(always)]
fn count_connection(visit: &Visit<'_>, binding: Binding, kept: bool) {
    count::service(visit.service.index, |counters| {
        counters.connections += 1;
        counters.kept += u64::from(kept);
    });
    count::server(binding.server, |counters| counters.connections += 1);
}
