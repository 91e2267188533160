//! Entries: found when a connection opens, written when it has opened or closed.
#![expect(unsafe_code, reason = "map values are changed where they lie, through pointers")]

use aya_ebpf::bindings::BPF_NOEXIST;
use lbpersist_common::{
    connection::Handshake,
    counter::Event,
    persistence::{Entry, EntryKey},
    server::Binding,
};

use crate::{
    atomic, breaks, count,
    maps::ENTRIES,
    record,
    select::{Bound, Visit},
};

/// How much later the end of a UDP client's flow must be before it is written: it spares a write per packet.
const TOUCH_EVERY_NS: u64 = 100_000_000;

/// The server of the visit's client, if it has a live entry.
#[inline(always)]
pub(crate) fn live(visit: &Visit<'_>, now: u64) -> Option<Binding> {
    // SAFETY: read through a shared reference within this run.
    let entry = unsafe { ENTRIES.get(&visit.entry) }?;
    entry.is_live(now, visit.pool.timeout_ns).then_some(entry.binding)
}

/// Counts an opened connection in the client's entry, making the entry if there is none that holds. Returns what tells this
/// entry from others of the key; 0 when nothing was counted.
#[inline(always)]
pub(crate) fn open(visit: &Visit<'_>, handshake: &Handshake, now: u64) -> u64 {
    let binding = handshake.binding;
    let Some(place) = ENTRIES.get_ptr_mut(&visit.entry) else {
        return create(visit, Entry { open: 1, ..new(binding, now) });
    };
    if handshake.spilled != 0 || !holds(visit, place, now) {
        rebind(visit, place, Entry { open: 1, ..new(binding, now) });
        return now;
    }
    // SAFETY: `place` came from a lookup in this run; the count is changed atomically.
    unsafe { atomic::add((&raw mut (*place).open).cast(), Entry::OPENED) };
    // SAFETY: as above.
    let entry = unsafe { &*place };
    if entry.binding == binding {
        breaks::used(visit, binding, now);
    } else if entry.created_ns < handshake.started_ns {
        // It was bound when its SYN went elsewhere, and its server is back by now. Connections that a new client opens at the
        // same time are another matter: nothing was promised to them.
        breaks::lost(visit, entry.binding, binding, 0, now);
    }
    entry.created_ns
}

/// Counts a closed connection in the entry that counted it as open.
#[inline(always)]
pub(crate) fn close(key: &EntryKey, created_ns: u64, now: u64) {
    if created_ns == 0 {
        return;
    }
    let Some(place) = ENTRIES.get_ptr_mut(key) else { return };
    // SAFETY: `place` came from a lookup in this run.
    let entry = unsafe { &mut *place };
    if entry.created_ns != created_ns || entry.open == 0 {
        return;
    }
    // Later than now while a UDP client of the same key counts as open.
    entry.idle_since_ns = entry.idle_since_ns.max(now);
    // SAFETY: as above; the count is changed atomically.
    unsafe { atomic::add((&raw mut (*place).open).cast(), Entry::CLOSED) };
}

/// The entry of a UDP client: its server, and whether a new flow begins with this packet.
#[inline(always)]
pub(crate) fn touch(visit: &Visit<'_>, now: u64) -> Option<(Binding, bool)> {
    let place = ENTRIES.get_ptr_mut(&visit.entry)?;
    // SAFETY: `place` came from a lookup in this run.
    let entry = unsafe { &mut *place };
    if !entry.is_live(now, visit.pool.timeout_ns) {
        return None;
    }
    let begins = entry.open == 0 && entry.idle_since_ns <= now;
    let idle_since = now + visit.pool.udp_idle_ns;
    if idle_since > entry.idle_since_ns.saturating_add(TOUCH_EVERY_NS) {
        entry.idle_since_ns = idle_since;
    }
    Some((entry.binding, begins))
}

/// Binds a UDP client to a server.
#[inline(always)]
pub(crate) fn bind(visit: &Visit<'_>, binding: Binding, now: u64) {
    let entry = Entry { idle_since_ns: now + visit.pool.udp_idle_ns, ..new(binding, now) };
    match ENTRIES.get_ptr_mut(&visit.entry) {
        Some(place) => rebind(visit, place, entry),
        None => {
            let _ = create(visit, entry);
        }
    }
}

/// Whether the entry at `place` goes on binding its client.
#[inline(always)]
fn holds(visit: &Visit<'_>, place: *mut Entry, now: u64) -> bool {
    // SAFETY: `place` came from a lookup in this run.
    let entry = unsafe { &*place };
    entry.is_live(now, visit.pool.timeout_ns) && !matches!(visit.judge(entry.binding), Bound::Gone)
}

/// Makes an entry of a key into a new one, in place: replacing a value of an LRU map can evict another one.
#[inline(always)]
fn rebind(visit: &Visit<'_>, place: *mut Entry, entry: Entry) {
    // SAFETY: `place` came from a lookup in this run.
    let old = unsafe { &mut *place };
    let moved = old.binding != entry.binding;
    if moved && old.is_live(entry.created_ns, visit.pool.timeout_ns) {
        breaks::lost(visit, old.binding, entry.binding, 1, entry.created_ns);
    }
    old.created_ns = entry.created_ns;
    old.idle_since_ns = entry.idle_since_ns;
    old.open = entry.open;
    old.changes = old.changes.wrapping_add(1);
    let word: u64 = bytemuck::cast(entry.binding);
    // SAFETY: as above. Server and generation are one aligned word, written at once, so a packet on another CPU sees the
    // old binding or the new one, never a mixture.
    unsafe { (&raw mut (*place).binding).cast::<u64>().write_volatile(word) };
    count::event(if moved { Event::EntryMoved } else { Event::EntryCreated });
}

#[inline(always)]
fn create(visit: &Visit<'_>, entry: Entry) -> u64 {
    if record::insert(entry, |new| ENTRIES.insert(&visit.entry, new, BPF_NOEXIST.into())).is_ok() {
        count::event(Event::EntryCreated);
        breaks::bound(visit, entry.binding, entry.created_ns);
        return entry.created_ns;
    }
    count::table_refused(entry.created_ns);
    0
}

#[inline(always)]
fn new(binding: Binding, now: u64) -> Entry {
    Entry { binding, open: 0, changes: 0, idle_since_ns: now, created_ns: now }
}
