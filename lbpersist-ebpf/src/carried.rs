//! Connections that the daemon carries: counted in the clients' entries and noted as those that packets open.
#![expect(unsafe_code, reason = "map values are reached through pointers")]

use lbpersist_common::{
    connection::{Connection, Handshake},
    counter::Event,
    maintenance::Request,
    ring::mark,
    service::{Service, pool_flag},
};

use crate::{
    breaks, clock, count,
    maps::{CONNECTIONS, POOLS, SERVERS},
    persistence, record,
    select::{self, Visit},
};

/// Counts a connection and notes it; says when, or 0 when pool or server are not what the daemon takes them for.
#[inline(never)]
pub(crate) fn open(request: &Request) -> u64 {
    let (binding, number) = request.carried_by();
    let Some(pool) = POOLS.get(number) else { return 0 };
    let Some(server) = SERVERS.get(binding.server) else { return 0 };
    if pool.flags & pool_flag::PERSISTENT == 0
        || server.pool != number
        || server.generation != binding.generation
    {
        return 0;
    }
    let hash = pool.slot_hash(
        &request.connection.client,
        request.connection.client_port,
        &request.connection.destination,
    );
    let Some(slot) = select::slot_at(number, pool, hash) else { return 0 };
    let now = clock::now_ns();
    forget(request, now);
    // The mark first: packets of the same client have to look from the moment on that there is an entry.
    if slot.pick() != Ok(binding.server) {
        slot.set_mark(mark::EXCEPTION, number, hash);
    }
    let service = Service {
        id: request.connection.service,
        index: breaks::ELSEWHERE,
        pool: number,
        scope: request.entry.scope,
        prefix_length: 0,
    };
    let (entry, connection) = (request.entry, request.connection);
    let visit = Visit { service: &service, pool, slot, entry, connection };
    let handshake = Handshake {
        binding,
        started_ns: now,
        expected: [0; 2],
        answers: 0,
        spilled: request.argument,
    };
    let entry_created_ns = persistence::open(&visit, &handshake, now);
    let connection = Connection {
        binding,
        state: Connection::CARRIED,
        suspect: 0,
        last_seen_ns: now,
        entry_created_ns,
    };
    if record::insert(connection, |new| CONNECTIONS.insert(&request.connection, new, 0)).is_err() {
        count::event(Event::TableRefused);
        persistence::close(&request.entry, entry_created_ns, now);
        return 0;
    }
    count::event(Event::ConnectionOpened);
    now
}

/// Ends a connection; says whether it was there.
#[inline(always)]
pub(crate) fn close(request: &Request) -> bool {
    let Some(place) = CONNECTIONS.get_ptr_mut(&request.connection) else { return false };
    // SAFETY: copied out of a value that a lookup in this run returned.
    let known = unsafe { place.read() };
    if known.state != Connection::CARRIED || known.last_seen_ns != request.seen_ns {
        return false;
    }
    // Of two that end it, one counts.
    if CONNECTIONS.remove(&request.connection).is_err() {
        return false;
    }
    persistence::close(&request.entry, known.entry_created_ns, clock::now_ns());
    count::event(Event::ConnectionClosed);
    true
}

/// Ends what is known of an earlier connection from the same port.
#[inline(always)]
fn forget(request: &Request, now: u64) {
    let Some(place) = CONNECTIONS.get_ptr_mut(&request.connection) else { return };
    // SAFETY: copied out of a value that a lookup in this run returned.
    let known = unsafe { place.read() };
    if CONNECTIONS.remove(&request.connection).is_ok() && known.state == Connection::CARRIED {
        persistence::close(&request.entry, known.entry_created_ns, now);
        count::event(Event::ConnectionClosed);
    }
}
