//! Entries of clients that are kept by address: the table that packets use as well, as persistence asks for it.
//!
//! A client's connection counts in its entry from its first request on until it ends ([`Tenure`]): requests in between look
//! at nothing but that. So the table is asked when connections open and close, as the program does with packets.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lbpersist_common::{
    connection::ConnectionKey,
    net::{Address, Destination},
    persistence::EntryKey,
    server::Binding,
    service::Service,
};

use crate::datapath::address::to_map;

/// The table of entries, for connections that the daemon carries. Calls come from every worker.
pub trait Entries: fmt::Debug + Send + Sync {
    /// The server that the client is bound to, if its entry is live.
    fn find(&self, site: &Site, client: IpAddr) -> Option<Binding>;

    /// Counts a connection of a client that meets this server, in an entry that is made if there is none. With `moved` an
    /// entry that names another server follows. Nothing is counted for a pool or server that is gone.
    fn open(
        &self,
        site: &Site,
        client: SocketAddr,
        binding: Binding,
        moved: bool,
    ) -> Option<Opened>;

    /// Ends what was counted.
    fn close(&self, opened: &Opened);
}

/// A connection that counts in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The entry.
    pub entry: EntryKey,
    /// What the connection is noted under.
    pub connection: ConnectionKey,
    /// When it was opened, by the table's clock; tells it from another one of the same key.
    pub opened_ns: u64,
}

/// A service, its pool and its servers, as the kernel's tables know them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The service.
    pub service: Service,
    /// Where it listens.
    pub port: u16,
    /// What of an IPv4 client's address is its key, in mapped form.
    pub ipv4_mask: Address,
    /// The same for IPv6.
    pub ipv6_mask: Address,
    /// How long an entry outlives its last connection.
    pub timeout_ns: u64,
    /// The servers, in the order of the pool.
    pub bindings: Vec<Binding>,
}

impl Site {
    /// The key of a client's entry.
    pub fn entry_key(&self, client: IpAddr) -> EntryKey {
        let client = to_map(client.to_canonical());
        let mask = if client.is_ipv4() { &self.ipv4_mask } else { &self.ipv6_mask };
        EntryKey {
            client: client.masked(mask),
            scope: self.service.scope,
            destination: Destination::NONE,
        }
    }

    /// What a client's connection is noted under.
    pub fn connection_key(&self, client: SocketAddr) -> ConnectionKey {
        ConnectionKey {
            client: to_map(client.ip().to_canonical()),
            service: self.service.id,
            client_port: client.port(),
            service_port: self.port,
            destination: Destination::NONE,
            reserved: 0,
        }
    }
}

/// What is known of all sites, by the names of services.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    /// The table; without one nobody is kept by address.
    pub entries: Option<Arc<dyn Entries>>,
    /// The sites.
    pub by_service: HashMap<String, Arc<Site>>,
}

/// The entries of one service.
#[derive(Debug)]
pub(super) struct Book {
    entries: Arc<dyn Entries>,
    site: Arc<Site>,
    /// Places in the pool by number of the server.
    places: HashMap<u32, usize>,
}

impl Book {
    pub(super) fn new(entries: &Arc<dyn Entries>, site: &Arc<Site>) -> Self {
        let places = site.bindings.iter().enumerate();
        let places = places.map(|(place, binding)| (binding.server, place)).collect();
        Self { entries: Arc::clone(entries), site: Arc::clone(site), places }
    }

    fn place(&self, binding: Binding) -> Option<usize> {
        let place = *self.places.get(&binding.server)?;
        (self.site.bindings[place] == binding).then_some(place)
    }
}

/// What a client's connection has in the table, for as long as it lives.
#[derive(Debug, Default)]
pub struct Tenure(RefCell<Option<Held>>);

impl Tenure {
    /// The server that the client is bound to, by its place in the pool; the error is one that is not there any more.
    pub(super) fn find(&self, book: &Book, client: IpAddr) -> Option<Result<usize, ()>> {
        let held = self.0.borrow();
        let binding = match held.as_ref().filter(|held| held.is_of(&book.site, client)) {
            Some(held) => held.binding,
            None => book.entries.find(&book.site, client)?,
        };
        Some(book.place(binding).ok_or(()))
    }

    /// Counts the connection for the server that a request of it goes to.
    pub(super) fn settle(&self, book: &Book, client: SocketAddr, server: usize, moved: bool) {
        let binding = book.site.bindings[server];
        let mut held = self.0.borrow_mut();
        let own = held.as_ref().filter(|held| held.is_of(&book.site, client.ip()));
        if own.is_some_and(|held| held.binding == binding) {
            return;
        }
        let moved = moved || own.is_some();
        let Some(opened) = book.entries.open(&book.site, client, binding, moved) else { return };
        // Opening it again has ended what was noted under the same key.
        if let Some(old) = held.as_mut().filter(|old| old.is_noted_as(&opened)) {
            old.opened = None;
        }
        *held = Some(Held { entries: Arc::clone(&book.entries), opened: Some(opened), binding });
    }
}

#[derive(Debug)]
struct Held {
    entries: Arc<dyn Entries>,
    opened: Option<Opened>,
    binding: Binding,
}

impl Held {
    fn is_of(&self, site: &Site, client: IpAddr) -> bool {
        self.opened.is_some_and(|opened| {
            opened.connection.service == site.service.id && opened.entry == site.entry_key(client)
        })
    }

    fn is_noted_as(&self, other: &Opened) -> bool {
        self.opened.is_some_and(|opened| opened.connection == other.connection)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(opened) = self.opened {
            self.entries.close(&opened);
        }
    }
}
