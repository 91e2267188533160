//! Forwarding `masquerade`: which port a client has towards its server, and whose a server's answer is.
//!
//! A translation that a connection needs is never evicted: it is freed by the sweep, and not before the connection has ended.
//! Until a client has shown that it hears the server, its translation is an unfinished one, in a table that may evict it, so
//! that spoofed packets use up no ports.
#![expect(unsafe_code, reason = "map values are changed where they lie, through pointers")]

use aya_ebpf::bindings::BPF_NOEXIST;
use lbpersist_common::{
    connection::ConnectionKey,
    counter::Event,
    hash,
    layout::Layout,
    net,
    rare::Rare,
    reason::Reason,
    server::Server,
    service::{Reverse, Service, reverse_flag},
    tcp::{Side, State, flag},
    translation::{CANDIDATES, Translation, TranslationKey, candidate, progress},
};

use crate::{
    atomic, clock, count,
    maps::{CONNECTIONS, DEPTHS, HALF_OPEN_TRANSLATIONS, LAYOUT, SERVERS, TRANSLATIONS},
    parse::Flow,
    rare,
};

/// How old the noted time of a packet may get before it is written again: it spares a write per packet.
const NOTE_EVERY_NS: u64 = 100_000_000;

/// Where ports are looked for, and the key that is being looked at.
struct Search {
    key: TranslationKey,
    hash: u64,
    first: u16,
    ports: u16,
    /// Bits of the candidates that anybody ever had.
    depths: *mut u64,
}

/// The client's port towards the server.
#[inline(always)]
pub(crate) fn port(
    flow: &Flow,
    service: &Service,
    number: u32,
    server: &Server,
) -> Result<u16, Reason> {
    match lbpersist_own_port(flow, service, number, server) {
        0 => Err(Reason::NoPort),
        port => Ok(port as u16),
    }
}

/// Whose answer it is, if the service's server is reached by masquerade and the packet belongs to a translation.
#[inline(always)]
pub(crate) fn answered(flow: &Flow, reverse: &Reverse) -> Option<&'static Translation> {
    if reverse.flags & reverse_flag::MASQUERADE == 0 { None } else { translation(flow) }
}

#[inline(never)]
fn translation(flow: &Flow) -> Option<&'static Translation> {
    let place = place(flow)?;
    note(place, Side::Server, flow, clock::now_ns());
    // SAFETY: `place` came from a lookup in this run.
    Some(unsafe { &*place })
}

/// As [`answered`], without noting that there was a packet: for errors about packets to the server.
#[inline(never)]
pub(crate) fn known(flow: &Flow) -> Option<&'static Translation> {
    // SAFETY: the place came from a lookup in this run.
    place(flow).map(|place| unsafe { &*place })
}

/// Where the translation is that an answer belongs to.
#[inline(always)]
fn place(flow: &Flow) -> Option<*mut Translation> {
    let key = TranslationKey {
        server: flow.from.address,
        server_port: flow.from.port,
        port: flow.to.port,
        protocol: flow.from.protocol,
        reserved: 0,
    };
    let place = match TRANSLATIONS.get_ptr_mut(&key) {
        Some(place) => place,
        None => HALF_OPEN_TRANSLATIONS.get_ptr_mut(&key)?,
    };
    // SAFETY: `place` came from a lookup in this run.
    let server = unsafe { (*place).answer.server };
    // The port is ours only at the address that the server knows us by.
    if SERVERS.get(server)?.tunnel_source != flow.to.address {
        return None;
    }
    Some(place)
}

/// The client's port towards the server, if it has one, without noting that anybody asked: for errors about answers.
#[inline(always)]
pub(crate) fn known_port(flow: &Flow, server: &Server) -> Option<u16> {
    for number in 0..CANDIDATES {
        match lbpersist_known_port(flow, server, number) {
            0 => {}
            port => return Some(port as u16),
        }
    }
    None
}

/// The port of that candidate if it is the client's, else 0. A global function, as [`lbpersist_own_port`] is.
// SAFETY: no other symbol is called so.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn lbpersist_known_port(
    flow: *const Flow,
    server: *const Server,
    number: u32,
) -> u32 {
    // SAFETY: the only caller passes references.
    let (Some(flow), Some(server)) = (unsafe { flow.as_ref() }, unsafe { server.as_ref() }) else {
        return 0;
    };
    let (Some(layout), Some(depths)) = (LAYOUT.get(0), DEPTHS.get_ptr_mut(0)) else { return 0 };
    let mut search = Search::of(flow, server, layout, depths);
    // Beyond the candidates there are none, which the verifier does not know.
    search.turn_to(number & (CANDIDATES - 1));
    // SAFETY: read through a shared reference within this run.
    let found = match unsafe { TRANSLATIONS.get(&search.key) } {
        Some(found) => found,
        // SAFETY: as above.
        None => match unsafe { HALF_OPEN_TRANSLATIONS.get(&search.key) } {
            Some(found) => found,
            None => return 0,
        },
    };
    if found.is_of(&flow.from, &flow.to) { search.key.port.into() } else { 0 }
}

/// As [`port`]; 0 if there is none.
///
/// A global function, which the verifier looks at once and not for each way that leads to it: with the loops that would be more
/// than it is willing to. Such a function has a name of its own and has to see that its pointers are not null.
// SAFETY: no other symbol is called so.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn lbpersist_own_port(
    flow: *const Flow,
    service: *const Service,
    number: u32,
    server: *const Server,
) -> u32 {
    // SAFETY: the only caller passes references.
    let (Some(flow), Some(service), Some(server)) =
        (unsafe { flow.as_ref() }, unsafe { service.as_ref() }, unsafe { server.as_ref() })
    else {
        return 0;
    };
    let (Some(layout), Some(depths)) = (LAYOUT.get(0), DEPTHS.get_ptr_mut(0)) else { return 0 };
    let mut search = Search::of(flow, server, layout, depths);
    for number in 0..CANDIDATES {
        if !search.anybody_had(number) {
            continue;
        }
        search.turn_to(number);
        if let Some(place) = TRANSLATIONS.get_ptr_mut(&search.key)
            // SAFETY: `place` came from a lookup in this run.
            && unsafe { &*place }.is_of(&flow.from, &flow.to)
        {
            note(place, Side::Client, flow, clock::now_ns());
            return search.key.port.into();
        }
    }
    match unfinished(&mut search, flow, service) {
        0 => begin(&mut search, flow, service, number),
        port => port,
    }
}

/// The port of the client's unfinished translation, which becomes a whole one when the client has heard the server.
#[inline(never)]
fn unfinished(search: &mut Search, flow: &Flow, service: &Service) -> u32 {
    let now = clock::now_ns();
    for number in 0..CANDIDATES {
        if !search.anybody_had(number) {
            continue;
        }
        search.turn_to(number);
        let Some(place) = HALF_OPEN_TRANSLATIONS.get_ptr_mut(&search.key) else { continue };
        // SAFETY: `place` came from a lookup in this run. An LRU value may be given to another key meanwhile; then that key's
        // client is taken for this one for one packet.
        let found = unsafe { &*place };
        if !found.is_of(&flow.from, &flow.to) || is_taken(&search.key) {
            continue;
        }
        if has_heard(found, flow, service) {
            finish(place, &search.key, flow, now);
        } else {
            // SAFETY: as above.
            unsafe { (*place).last_seen_ns = now };
        }
        return search.key.port.into();
    }
    0
}

/// Whether the client has shown that it hears its server: over TCP it has a connection, over UDP it goes on after an answer.
#[inline(always)]
fn has_heard(found: &Translation, flow: &Flow, service: &Service) -> bool {
    if flow.to.protocol != u16::from(net::TCP) {
        return found.state == progress::ANSWERED;
    }
    if flow.flags & flag::SYN != 0 {
        return false;
    }
    let connection = ConnectionKey {
        client: flow.from.address,
        service: service.id,
        client_port: flow.from.port,
        service_port: flow.to.port,
        destination: service.destination(&flow.to.address),
        reserved: 0,
    };
    // SAFETY: only whether there is a value is asked.
    unsafe { CONNECTIONS.get(&connection).is_some() }
}

/// Moves a translation to where none is evicted.
#[inline(always)]
fn finish(place: *mut Translation, key: &TranslationKey, flow: &Flow, now: u64) {
    // SAFETY: as in `unfinished`.
    let found = unsafe { &mut *place };
    found.last_seen_ns = now;
    if flow.to.protocol == u16::from(net::TCP) {
        found.state = State::Established.after(Side::Client, flow.flags) as u32;
    }
    if TRANSLATIONS.insert(key, &*found, BPF_NOEXIST.into()).is_ok() {
        count::event(Event::TranslationStarted);
        let _ = HALF_OPEN_TRANSLATIONS.remove(key);
    } else if !is_taken(key) {
        count::event(Event::TranslationRefused);
    }
}

/// Gives the client the first port that is free, or that of the client who has left its handshake unfinished for longest.
#[inline(never)]
fn begin(search: &mut Search, flow: &Flow, service: &Service, server: u32) -> u32 {
    let now = clock::now_ns();
    let prefix = if service.prefix_length == 0 { 0 } else { reverse_flag::PREFIX };
    let new = Translation {
        answer: Reverse {
            address: flow.to.address,
            port: flow.to.port,
            flags: prefix,
            service: service.id,
            service_index: service.index,
            server,
            pool: service.pool,
            scope: service.scope,
        },
        client: flow.from,
        state: progress::ASKED,
        reserved: 0,
        last_seen_ns: now,
    };
    for number in 0..CANDIDATES {
        search.turn_to(number);
        if is_taken(&search.key) {
            continue;
        }
        search.note_depth(number);
        if HALF_OPEN_TRANSLATIONS.insert(&search.key, &new, BPF_NOEXIST.into()).is_ok() {
            return search.key.port.into();
        }
    }
    displace(search, &new)
}

#[inline(never)]
fn displace(search: &mut Search, new: &Translation) -> u32 {
    let (mut oldest, mut chosen) = (u64::MAX, CANDIDATES);
    for number in 0..CANDIDATES {
        search.turn_to(number);
        // SAFETY: read through a shared reference within this run.
        let Some(found) = (unsafe { HALF_OPEN_TRANSLATIONS.get(&search.key) }) else { continue };
        if found.last_seen_ns < oldest && !is_taken(&search.key) {
            (oldest, chosen) = (found.last_seen_ns, number);
        }
    }
    search.turn_to(chosen);
    if chosen < CANDIDATES
        && let Some(place) = HALF_OPEN_TRANSLATIONS.get_ptr_mut(&search.key)
    {
        // SAFETY: `place` came from a lookup in this run.
        unsafe { *place = *new };
        count::event(Event::TranslationDisplaced);
        return search.key.port.into();
    }
    count::event(Event::PortsExhausted);
    rare::note(Rare::PortsExhausted, new.last_seen_ns);
    0
}

/// Notes a packet of a translation.
#[inline(always)]
fn note(place: *mut Translation, side: Side, flow: &Flow, now: u64) {
    // SAFETY: `place` came from a lookup in this run.
    let found = unsafe { &mut *place };
    let state = if flow.from.protocol == u16::from(net::TCP) {
        after(found.state, side, flow.flags)
    } else if side == Side::Server {
        progress::ANSWERED
    } else {
        found.state
    };
    if state != found.state || now - found.last_seen_ns.min(now) > NOTE_EVERY_NS {
        found.state = state;
        found.last_seen_ns = now;
    }
}

/// The state after a segment. A client that begins anew from the same port goes on with its translation.
#[inline(always)]
fn after(state: u32, side: Side, flags: u8) -> u32 {
    let opens = flags & (flag::SYN | flag::ACK) == flag::SYN;
    match (state, side) {
        (progress::ASKED, Side::Server) => progress::ASKED,
        (progress::ASKED, Side::Client) if opens => progress::ASKED,
        (progress::ASKED, Side::Client) => State::Established.after(side, flags) as u32,
        (_, Side::Client) if opens && State::from_number(state) == State::Closed => progress::ASKED,
        _ => State::from_number(state).after(side, flags) as u32,
    }
}

/// Whether somebody has a whole translation of that key.
#[inline(always)]
fn is_taken(key: &TranslationKey) -> bool {
    // SAFETY: only whether there is a value is asked.
    unsafe { TRANSLATIONS.get(key).is_some() }
}

impl Search {
    /// For the port of a client's packets to that server.
    #[inline(always)]
    fn of(flow: &Flow, server: &Server, layout: &Layout, depths: *mut u64) -> Self {
        Self {
            key: TranslationKey {
                server: server.address,
                server_port: if server.port == 0 { flow.to.port } else { server.port },
                port: 0,
                protocol: flow.to.protocol,
                reserved: 0,
            },
            hash: hash::flow(&flow.from, &flow.to),
            first: layout.first_port,
            ports: layout.ports,
            depths,
        }
    }

    /// Turns to a candidate.
    #[inline(always)]
    fn turn_to(&mut self, number: u32) {
        self.key.port = candidate(self.hash, number, self.first, self.ports);
    }

    /// Whether anybody ever had that candidate.
    #[inline(always)]
    fn anybody_had(&self, number: u32) -> bool {
        // Read anew for each: the verifier would follow every combination of the bits of one word.
        // SAFETY: `depths` came from a lookup in this run; volatile, because other CPUs set bits.
        unsafe { self.depths.read_volatile() & (1 << number) != 0 }
    }

    /// Has everybody look at that candidate from now on.
    #[inline(always)]
    fn note_depth(&self, number: u32) {
        if !self.anybody_had(number) {
            // SAFETY: as in `anybody_had`.
            unsafe { atomic::or(self.depths, 1 << number) };
        }
    }
}
