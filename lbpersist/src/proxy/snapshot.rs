//! What workers read: services with their servers and health, as one value that never changes.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU32},
};

use super::{
    counters::Counters,
    load::{Counted, Loads},
};
use crate::{
    balance::maglev::{self, Member},
    datapath::{address::to_map, desired::Facts},
    model::{Carried, Pool, ServerState, VirtualService},
    persistence::{Condition, Keeper, Keeping, entries::Sites, state::Store},
};

/// All services that the daemon carries.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// By name.
    pub(super) services: HashMap<Arc<str>, Arc<Service>>,
}

impl Snapshot {
    /// The service that listens there.
    pub(super) fn by_address(&self, at: SocketAddr) -> Option<Arc<Service>> {
        self.services.values().find(|service| service.listen == at).cloned()
    }
}

/// A service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: Arc<str>,
    pub(super) listen: SocketAddr,
    pub(super) settings: Carried,
    pub(super) servers: Vec<Server>,
    /// For each slot the number of a server, from 1; 0 when there is none.
    pub(super) ring: Arc<[u16]>,
    pub(super) counters: Arc<Counters>,
    pub(super) keeping: Option<Arc<Keeping>>,
    /// Where more than the ring decides.
    pub(super) loads: Option<Arc<Loads>>,
}

impl Service {
    /// Whether a server may have a request of a client that is bound to it.
    pub(super) fn condition(&self, server: usize) -> Condition {
        match (self.servers[server].condition, &self.loads) {
            (Condition::Usable, Some(loads)) if !loads.has_room(server) => Condition::Full,
            (condition, _) => condition,
        }
    }
}

/// A server of a service.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// Whether it may have requests of clients that are bound to it, as far as monitors and operators know.
    pub(super) condition: Condition,
    /// How much it has to do.
    pub(super) open: Arc<AtomicU32>,
}

/// Makes snapshots, and keeps from one to the next what has not changed.
#[derive(Debug)]
pub(super) struct Maker {
    workers: usize,
    rings: HashMap<String, (Vec<Member>, Arc<[u16]>)>,
    counters: BTreeMap<Arc<str>, Arc<Counters>>,
    pub(super) counted: Counted,
    pub(super) keeper: Keeper,
}

impl Maker {
    pub(super) fn new(workers: usize, store: Box<dyn Store>) -> Self {
        let keeper = Keeper::new(store);
        let (rings, counters, counted) = <_>::default();
        Self { workers, rings, counters, counted, keeper }
    }

    /// The counters of every service there is.
    pub(super) fn counters(&self) -> &BTreeMap<Arc<str>, Arc<Counters>> {
        &self.counters
    }

    /// A snapshot of what is configured and who is up.
    pub(super) fn make(&mut self, facts: &Facts<'_>, sites: &Sites) -> Snapshot {
        let model = facts.model;
        let proxied = || model.services.values().filter(|service| service.carried.is_some());
        self.counters.retain(|name, _| proxied().any(|service| service.name == **name));
        self.rings.retain(|pool, _| proxied().any(|service| service.pool == *pool));
        self.counted.retain(|pool| proxied().any(|service| service.pool == *pool));
        self.keeper.retain(model);
        let mut services = HashMap::new();
        for service in proxied() {
            let Some(pool) = model.pools.get(&service.pool) else { continue };
            let keeping = self.keeper.keeping(&service.name, &service.pool, model, sites);
            if let Some(made) = self.service(service, pool, facts, keeping) {
                services.insert(Arc::clone(&made.name), Arc::new(made));
            }
        }
        Snapshot { services }
    }

    fn service(
        &mut self,
        service: &VirtualService,
        pool: &Pool,
        facts: &Facts<'_>,
        keeping: Option<Arc<Keeping>>,
    ) -> Option<Service> {
        let settings = service.carried.clone()?;
        let port = service.ports.one()?;
        let name: Arc<str> = service.name.as_str().into();
        let workers = self.workers;
        let counters = self
            .counters
            .entry(Arc::clone(&name))
            .or_insert_with(|| Arc::new(Counters::new(workers)));
        let counters = Arc::clone(counters);
        let share = facts.share(pool);
        let mut members = Vec::new();
        for (server, number) in pool.servers.iter().zip(1..) {
            let key = (pool.name.clone(), server.address, server.port);
            let may = server.state() == ServerState::Enabled && !facts.down.contains(&key);
            if may && server.weight > 0 {
                members.push(Member {
                    address: to_map(server.address),
                    port: server.port.unwrap_or(0),
                    weight: u32::from(server.weight) * share(&key),
                    number,
                });
            }
        }
        let servers = pool.servers.iter().map(|server| {
            let key = (pool.name.clone(), server.address, server.port);
            Server {
                address: SocketAddr::new(server.address, server.port.unwrap_or(port)),
                condition: match server.state() {
                    ServerState::Disabled => Condition::Disabled,
                    _ if !facts.down.contains(&key) => Condition::Usable,
                    ServerState::Draining => Condition::Drained,
                    ServerState::Enabled => Condition::Down,
                },
                open: self.counted.open(pool, server),
            }
        });
        let servers = servers.collect();
        let loads = self.counted.loads(pool, &members);
        let ring = self.ring(&pool.name, members, facts.model.data_path.ring_size);
        let listen = SocketAddr::new(service.addresses.addr(), port);
        Some(Service { name, listen, settings, servers, ring, counters, keeping, loads })
    }

    /// The pool's ring, which is as the kernel's for the same members.
    fn ring(&mut self, pool: &str, members: Vec<Member>, slots: u32) -> Arc<[u16]> {
        if let Some((of, ring)) = self.rings.get(pool)
            && *of == members
            && ring.len() == slots as usize
        {
            return Arc::clone(ring);
        }
        let ring: Arc<[u16]> = maglev::ring(&members, slots).into();
        self.rings.insert(pool.to_owned(), (members, Arc::clone(&ring)));
        ring
    }
}
