//! Which service a packet is for, and which server gets it.
//!
//! The ring answers for every packet of a slot that has no mark and neither opens nor closes a connection: such a packet reads
//! no table. All others go through `connection` (TCP) or `udp`.
#![expect(unsafe_code, reason = "map values are reached through pointers")]

use lbpersist_common::{
    connection::ConnectionKey,
    net::{self, Address, Destination, Endpoint},
    persistence::EntryKey,
    reason::Reason,
    ring::{Slot, mark, region_of, slot_of},
    server::{Binding, state},
    service::{Pool, Reverse, Service, forwarding, pool_flag, server_down},
    tcp::flag,
};

use crate::{
    algorithm, atomic,
    choice::Choice,
    connection::{self, Seen},
    known,
    maps::{MARKED_REGIONS, POOLS, REVERSE, RINGS, SERVERS, SERVICES},
    occupancy,
    parse::Flow,
    rare, recent, udp, wide,
};

/// A client at the door of a service: what choosing its server needs.
pub(crate) struct Visit<'a> {
    pub(crate) service: &'a Service,
    pub(crate) pool: &'a Pool,
    pub(crate) slot: SlotPlace,
    pub(crate) entry: EntryKey,
    pub(crate) connection: ConnectionKey,
}

/// The slot of a client, where it lies in the ring.
#[derive(Clone, Copy)]
pub(crate) struct SlotPlace {
    place: *mut Slot,
    side: u32,
}

/// Whether a server that a client is bound to may have its packets.
pub(crate) enum Bound {
    /// It may.
    Usable,
    /// It is down, and the client may have no other.
    Refused,
    /// It is gone, or down and to be replaced.
    Gone,
}

/// Whether a bound client may open another connection to its server.
pub(crate) enum Room {
    /// It may.
    Free,
    /// The server is at its limit, and the client gets another one.
    Elsewhere,
    /// The server is at its limit, and the client is to have no other.
    Refused,
}

/// The pool behind a service.
#[inline(always)]
pub(crate) fn pool(service: &Service) -> Result<&'static Pool, Reason> {
    POOLS.get(service.pool).ok_or(Reason::NoServer)
}

/// The service the packet is addressed to.
#[inline(always)]
pub(crate) fn service(flow: &Flow) -> Option<&'static Service> {
    if !known::may_be_service(&flow.to.address) {
        return None;
    }
    // SAFETY: the daemon replaces values of this map as a whole and never gives the memory of one to another key before
    // programs that look at it have ended.
    unsafe { SERVICES.get(&flow.to) }.or_else(|| wide::service(&flow.to))
}

/// The service whose server sent the packet.
#[inline(always)]
pub(crate) fn reverse(flow: &Flow) -> Option<&'static Reverse> {
    if !known::may_be_server(&flow.from.address) {
        return None;
    }
    // SAFETY: as in `service`.
    unsafe { REVERSE.get(&flow.from) }.or_else(|| wide::reverse(&flow.from))
}

/// Whether a client that gets no server is told so.
#[inline(always)]
pub(crate) fn is_answered(reason: Reason, pool: &Pool) -> bool {
    match reason {
        Reason::ServerDown | Reason::ServerGone | Reason::ServerFull => true,
        Reason::NoServer => pool.flags & pool_flag::REFUSE != 0,
        _ => false,
    }
}

/// The number of the server that gets the packet.
#[inline(always)]
pub(crate) fn server(flow: &Flow, service: &Service, pool: &Pool) -> Result<u32, Reason> {
    let slot = slot(flow, service, pool).ok_or(Reason::NoServer)?;
    if slot.marks() == 0 && is_established(flow, pool) {
        return slot.pick();
    }
    let choice = from_tables(flow, service, pool, slot.place, slot.side);
    rare::tell();
    choice.result()
}

/// Whether the tables know the packet's connection or flow and need not be told of it again.
#[inline(always)]
fn is_established(flow: &Flow, pool: &Pool) -> bool {
    if flow.to.protocol == u16::from(net::TCP) {
        flow.flags & flag::CONTROL == 0
    } else {
        recent::is_known(flow, pool)
    }
}

/// The choice for a packet that has to read the tables.
#[inline(never)]
fn from_tables(flow: &Flow, service: &Service, pool: &Pool, place: *mut Slot, side: u32) -> Choice {
    if !flow.from.address.may_be_source() || is_ours(&flow.from) {
        return Err(Reason::ImpossibleSource).into();
    }
    let visit = visit(flow, service, pool, SlotPlace { place, side });
    if flow.to.protocol == u16::from(net::TCP) {
        connection::server(&visit, flow.flags, flow.numbers.acknowledgement).into()
    } else {
        udp::server(&visit, flow).into()
    }
}

/// A client at the door of `service`.
#[inline(always)]
pub(crate) fn visit<'a>(
    flow: &Flow,
    service: &'a Service,
    pool: &'a Pool,
    slot: SlotPlace,
) -> Visit<'a> {
    let destination = service.destination(&flow.to.address);
    Visit {
        service,
        pool,
        slot,
        entry: entry_key(&flow.from.address, service.scope, pool, destination),
        connection: ConnectionKey {
            client: flow.from.address,
            service: service.id,
            client_port: flow.from.port,
            service_port: flow.to.port,
            destination,
            reserved: 0,
        },
    }
}

/// Whether an end is a service, or the end of a server that its service's answers come from. Were it taken for a client, its
/// answers would be balanced as another client's packets, and over UDP that would never end.
#[inline(always)]
fn is_ours(end: &Endpoint) -> bool {
    // SAFETY: only whether there is a value is asked.
    let exactly = unsafe {
        known::may_be_service(&end.address) && SERVICES.get(end).is_some()
            || known::may_be_server(&end.address) && REVERSE.get(end).is_some()
    };
    exactly || wide::is_ours(end)
}

/// Tells the tables of a server's segment that may open or close its connection.
#[inline(always)]
pub(crate) fn note_answer(flow: &Flow, reverse: &Reverse, client: &Endpoint) {
    if flow.flags & flag::CONTROL != 0 {
        let _ = answer_to_tables(flow, reverse, client);
    }
}

/// Notes such a segment; returns a number because the verifier wants a subprogram to return one.
#[inline(never)]
fn answer_to_tables(flow: &Flow, reverse: &Reverse, client: &Endpoint) -> u32 {
    let Some(pool) = POOLS.get(reverse.pool) else { return 0 };
    let destination = reverse.destination();
    let connection = ConnectionKey {
        client: client.address,
        service: reverse.service,
        client_port: client.port,
        service_port: reverse.port_for(flow.from.port),
        destination,
        reserved: 0,
    };
    let entry = entry_key(&client.address, reverse.scope, pool, destination);
    connection::note_answer(&connection, &entry, flow.flags, flow.numbers.sequence);
    1
}

/// The key of a client's entry.
#[inline(always)]
fn entry_key(client: &Address, scope: u32, pool: &Pool, destination: Destination) -> EntryKey {
    EntryKey { client: pool.masked(client), scope, destination }
}

/// The slot of a client.
#[inline(always)]
pub(crate) fn slot(flow: &Flow, service: &Service, pool: &Pool) -> Option<SlotPlace> {
    let destination = service.destination(&flow.to.address);
    let hash = pool.slot_hash(&flow.from.address, flow.from.port, &destination);
    let place = RINGS.get_value_ptr_mut(service.pool, &slot_of(hash, pool.slots))?;
    Some(SlotPlace { place, side: pool.side & 1 })
}

/// The slot of a client by the hash of its key.
#[inline(always)]
pub(crate) fn slot_at(number: u32, pool: &Pool, hash: u32) -> Option<SlotPlace> {
    let place = RINGS.get_value_ptr_mut(number, &slot_of(hash, pool.slots))?;
    Some(SlotPlace { place, side: pool.side & 1 })
}

impl Visit<'_> {
    /// Who of client and server is seen by this balancer, for a segment of the client.
    #[inline(always)]
    pub(crate) fn seen(&self) -> Seen {
        match self.pool.forwarding {
            forwarding::NAT | forwarding::MASQUERADE => Seen::Client,
            _ => Seen::ClientAlone,
        }
    }

    /// What becomes of a new connection of a client that is bound to `server`, which takes new connections.
    #[inline(always)]
    pub(crate) fn room(&self, server: u32) -> Room {
        let flags = self.pool.flags;
        if flags & pool_flag::LIMITED == 0
            || flags & pool_flag::EXCEED != 0
            || !occupancy::is_full(server)
        {
            return Room::Free;
        }
        if flags & pool_flag::REJECT != 0 { Room::Refused } else { Room::Elsewhere }
    }

    /// Marks the client's slot for `reason`.
    #[inline(always)]
    pub(crate) fn mark(&self, reason: u32) {
        if self.slot.marks() & reason == 0 {
            let ConnectionKey { client, client_port, destination, .. } = &self.connection;
            let hash = self.pool.slot_hash(client, *client_port, destination);
            self.slot.set_mark(reason, self.service.pool, hash);
        }
    }

    /// Whether clients of this pool have entries.
    #[inline(always)]
    pub(crate) fn is_persistent(&self) -> bool {
        self.pool.flags & pool_flag::PERSISTENT != 0
    }

    /// Whether an open connection whose server is gone is reset.
    #[inline(always)]
    pub(crate) fn resets(&self) -> bool {
        self.pool.flags & pool_flag::RESET != 0
    }

    /// What may become of a client that is bound to a server.
    #[inline(always)]
    pub(crate) fn judge(&self, binding: Binding) -> Bound {
        let Some(server) = SERVERS.get(binding.server) else { return Bound::Gone };
        if server.generation != binding.generation {
            return Bound::Gone;
        }
        match (server.state, self.pool.server_down) {
            (state::UP | state::DRAINING, _)
            | (state::DOWN | state::DISABLED, server_down::CONTINUE) => Bound::Usable,
            (state::DOWN | state::DISABLED, server_down::NEVER) => Bound::Refused,
            _ => Bound::Gone,
        }
    }

    /// A server for this client, who has none, bound as that is now.
    #[inline(always)]
    pub(crate) fn new_binding(&self) -> Result<Binding, Reason> {
        let pick = self.slot.pick();
        let server = if algorithm::is_needed(self.pool) {
            algorithm::choose(self.service.pool, pick.unwrap_or(0))?
        } else {
            pick?
        };
        let generation = SERVERS.get(server).ok_or(Reason::NoServer)?.generation;
        Ok(Binding { server, generation })
    }
}

impl SlotPlace {
    /// The ring's pick.
    #[inline(always)]
    pub(crate) fn pick(self) -> Result<u32, Reason> {
        // SAFETY: `place` came from a lookup in this run; slots are never freed while a program runs, and the daemon
        // changes single words of them.
        let slot = unsafe { &*self.place };
        let number = if self.side == 0 { slot.servers[0] } else { slot.servers[1] };
        if number == 0 { Err(Reason::NoServer) } else { Ok(number.into()) }
    }

    /// The reasons for which packets of this slot must read the tables.
    #[inline(always)]
    pub(crate) fn marks(self) -> u32 {
        // SAFETY: as in `pick`; volatile, because other CPUs and the daemon set marks at any time.
        unsafe { core::ptr::read_volatile(&raw const (*self.place).marks) }
    }

    /// Marks the slot for `reason`; `hash` is what found it in the ring of pool `number`.
    #[inline(always)]
    pub(crate) fn set_mark(self, reason: u32, number: u32, hash: u32) {
        // SAFETY: `place` came from a lookup in this run; a slot is one aligned word.
        unsafe { atomic::or(self.place.cast(), Slot::word_of_marks(reason)) };
        // The region comes second: a look that begins in between leaves the mark, and the next one finds the region.
        note_region(number, hash, reason);
    }
}

/// Tells the sweep where in the ring of pool `number` there is a mark.
#[inline(always)]
fn note_region(number: u32, hash: u32, reason: u32) {
    let Some(place) = MARKED_REGIONS.get_ptr_mut(number) else { return };
    let bit = 1_u64 << region_of(hash);
    // SAFETY: `place` came from a lookup in this run, and its words are aligned; volatile, because the daemon takes them.
    unsafe {
        let word = if reason == mark::HANDSHAKE {
            &raw mut (*place).handshakes
        } else {
            &raw mut (*place).others
        };
        if core::ptr::read_volatile(word) & bit == 0 {
            atomic::or(word, bit);
        }
    }
}
