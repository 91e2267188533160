//! Entries of clients whose connections the daemon carries, in the table that packets use.
//!
//! Workers of the proxy ask here, each by system calls of its own. A look is a plain look-up; what changes an entry is done by
//! the program `maintain`, where the value lies, so that packets and workers can count in one entry at the same time.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use bytemuck::Zeroable as _;
use lbpersist_common::{
    maintenance::{Operation, Request},
    net::Endpoint,
    persistence::{Entry, EntryKey},
    server::Binding,
    service::pool_flag,
};

use super::{
    Error,
    address::to_map,
    apply::DataPath,
    desired::{Desired, server_identity},
    identity::Identities,
    maps::Table,
    sys,
};
use crate::{
    clock,
    model::{Mode, Model, VirtualService},
    persistence::entries::{Entries, Opened, Site, Sites},
};

/// The table of entries, and the program that changes it.
pub struct Ledger {
    program: OwnedFd,
    entries: Table<EntryKey, Entry>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl DataPath {
    /// The table for connections that the daemon carries.
    ///
    /// # Errors
    ///
    /// When the pinned map cannot be opened.
    pub fn ledger(&mut self) -> Result<Ledger, Error> {
        let entries = Table::open(self.pins(), "entries")?;
        Ok(Ledger { program: self.object.maintain_program()?, entries })
    }
}

impl Ledger {
    /// Has the program answer one request; says whether it acted.
    fn ask(&self, request: &mut Request) -> bool {
        match sys::run_program(self.program.as_fd(), bytemuck::bytes_of_mut(request)) {
            Ok(()) => request.argument == 1,
            Err(error) => {
                tracing::debug!(%error, "the table of entries cannot be changed");
                false
            }
        }
    }
}

impl Entries for Ledger {
    fn find(&self, site: &Site, client: IpAddr) -> Option<Binding> {
        let entry = self.entries.find(&site.entry_key(client)).ok()??;
        entry.is_live(clock::now_ns(), site.timeout_ns).then_some(entry.binding)
    }

    fn open(
        &self,
        site: &Site,
        client: SocketAddr,
        binding: Binding,
        moved: bool,
    ) -> Option<Opened> {
        let (entry, connection) = (site.entry_key(client.ip()), site.connection_key(client));
        let mut request = Request::carried(entry, connection, site.service.pool, binding, moved);
        let acted = self.ask(&mut request);
        acted.then_some(Opened { entry, connection, opened_ns: request.seen_ns })
    }

    fn close(&self, opened: &Opened) {
        let mut request = Request {
            operation: Operation::CloseCarried as u32,
            entry: opened.entry,
            connection: opened.connection,
            seen_ns: opened.opened_ns,
            ..Request::zeroed()
        };
        self.ask(&mut request);
    }
}

/// The services that the daemon carries and whose clients are kept by address, as the maps will know them.
pub fn sites(
    model: &Model,
    desired: &Desired,
    identities: &Identities,
    entries: &Arc<dyn Entries>,
) -> Sites {
    let carried = model.services.values().filter(|service| service.mode != Mode::L4);
    let by_service: HashMap<String, Arc<Site>> = carried
        .filter_map(|service| {
            let site = site(service, model, desired, identities)?;
            Some((service.name.clone(), Arc::new(site)))
        })
        .collect();
    Sites { entries: Some(Arc::clone(entries)), by_service }
}

fn site(
    service: &VirtualService,
    model: &Model,
    desired: &Desired,
    identities: &Identities,
) -> Option<Site> {
    let port = service.ports.one()?;
    let address = to_map(service.addresses.addr());
    let known = *desired.carried.get(&Endpoint::new(address, port, service.protocol.number()))?;
    let pool = desired.pools.get(&known.pool)?;
    if pool.flags & pool_flag::PERSISTENT == 0 {
        return None;
    }
    let servers = &model.pools.get(&service.pool)?.servers;
    let bindings = servers.iter().map(|server| {
        let given = identities.servers.get(&server_identity(known.pool, server))?;
        Some(Binding { server: given.number.into(), generation: given.generation })
    });
    Some(Site {
        service: known,
        port,
        ipv4_mask: pool.ipv4_mask,
        ipv6_mask: pool.ipv6_mask,
        timeout_ns: pool.timeout_ns,
        bindings: bindings.collect::<Option<_>>()?,
    })
}
