//! Which server a request goes to.
//!
//! Without persistence every request, or connection of mode `tcp`, is balanced afresh: under `maglev` the client's address, its
//! port and the number of the request lead to a slot of the pool's ring, so that servers get requests by their weights. The other
//! algorithms, and limits of servers, go by how much servers have to do ([`super::load`]).

use std::net::SocketAddr;

use lbpersist_common::{hash, ring::slot_of};

use super::{
    load::{Loads, Place},
    reason::Reason,
    snapshot::Service,
};
use crate::{
    datapath::address::to_map,
    model::{Algorithm, OnLimit},
};

/// The servers that have been tried for a request, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Tried(Vec<usize>);

impl Tried {
    pub(super) fn add(&mut self, server: usize) {
        self.0.push(server);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, server: usize) -> bool {
        self.0.contains(&server)
    }
}

/// A server that may be asked.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) server: usize,
    /// What counts for it meanwhile.
    pub(super) place: Place,
}

impl Chosen {
    /// One of a pool whose servers have no limits.
    fn of(service: &Service, server: usize) -> Self {
        Self { server, place: Place::at(&service.servers[server].open) }
    }
}

/// The server of a client that is bound to it; nothing when it is full and the client is to have another one.
pub(super) fn bound(service: &Service, server: usize) -> Result<Option<Chosen>, Reason> {
    let Some(loads) = &service.loads else { return Ok(Some(Chosen::of(service, server))) };
    let place = match loads.on_limit {
        OnLimit::Exceed => Some(loads.force(server)),
        OnLimit::Spill | OnLimit::Reject => loads.take(server),
    };
    match place {
        None if loads.on_limit == OnLimit::Reject => Err(Reason::ServerFull),
        None => Ok(None),
        Some(place) => Ok(Some(Chosen { server, place })),
    }
}

/// Chooses a server for a request of a client that is bound to none.
pub(super) fn fresh(
    service: &Service,
    client: SocketAddr,
    number: u64,
    tried: &Tried,
) -> Result<Chosen, Reason> {
    let slots = u32::try_from(service.ring.len()).unwrap_or(u32::MAX);
    if slots == 0 {
        return Err(Reason::NoServer);
    }
    let slot = slot_of(client_hash(service, client, number), slots) as usize;
    let Some(loads) = &service.loads else {
        let server = of_ring(service, slot, tried).ok_or(Reason::NoServer)?;
        return Ok(Chosen::of(service, server));
    };
    // Another worker may take the last place of a server in between.
    for _ in 0..=service.servers.len() {
        let Some(server) = by_load(service, loads, slot, number, tried) else { break };
        if let Some(place) = loads.take(server) {
            return Ok(Chosen { server, place });
        }
    }
    // Whoever is not in the ring takes nobody new, so one that was not tried has been found full.
    match of_ring(service, slot, tried) {
        Some(_) => Err(Reason::ServerFull),
        None => Err(Reason::NoServer),
    }
}

fn client_hash(service: &Service, client: SocketAddr, number: u64) -> u32 {
    let key = service.keeping.as_ref().and_then(|keeping| keeping.address_key(client.ip()));
    match key {
        // Where clients are kept by address, a new one meets the server that the kernel would give it.
        Some(key) => hash::client(&to_map(key), 0),
        // Consecutive requests shall not go to slots that lie side by side: their servers follow from each other.
        None => hash::client(&to_map(client.ip()), client.port())
            .wrapping_add((number as u32).wrapping_mul(0x9e37_79b9)),
    }
}

/// The ring's pick, or when that was tried, the next one that was not.
fn of_ring(service: &Service, slot: usize, tried: &Tried) -> Option<usize> {
    let wanted = |server: &u16| *server != 0 && !tried.has(usize::from(*server) - 1);
    let (before, from) = service.ring.split_at(slot);
    // Whoever is not in the ring takes nobody new, so a round that finds none has seen all there are.
    if tried.0.is_empty() {
        return from.first().filter(|server| wanted(server)).map(|server| usize::from(*server) - 1);
    }
    let found = from.iter().chain(before).find(|server| wanted(server))?;
    Some(usize::from(*found) - 1)
}

/// The server that the pool's algorithm names, of those with room that were not tried: as the kernel does it.
fn by_load(
    service: &Service,
    loads: &Loads,
    slot: usize,
    number: u64,
    tried: &Tried,
) -> Option<usize> {
    let untried = |server: usize| !tried.has(server);
    let may = |server: &usize| untried(*server) && loads.has_room(*server);
    let picked = match loads.algorithm {
        Algorithm::RoundRobin => return loads.in_turn(untried),
        Algorithm::LeastConnections => None,
        Algorithm::RandomTwo => {
            let chance = loads.chance(number);
            let slots = u32::try_from(service.ring.len()).unwrap_or(u32::MAX);
            let pick = |half: u64| {
                of_ring(service, slot_of(half as u32, slots) as usize, &Tried::default())
            };
            match (pick(chance), pick(chance >> 32)) {
                (Some(one), Some(other)) => Some(loads.lighter(one, other)),
                _ => None,
            }
        }
        Algorithm::Maglev => of_ring(service, slot, tried),
    };
    picked.filter(may).or_else(|| loads.least(untried))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        path::Path,
    };

    use super::*;
    use crate::{
        config,
        datapath::desired::Facts,
        network::View,
        persistence::entries::Sites,
        proxy::snapshot::{Maker, Snapshot},
        store::Store,
    };

    const SERVERS: &str = r#"servers = [
  { address = "10.0.0.2", weight = 3 },
  { address = "10.0.0.3" },
  { address = "10.0.0.4", weight = 0 },
  { address = "10.0.0.5" },
]"#;

    fn make(maker: &mut Maker, pool: &str) -> Snapshot {
        let service = |name: &str, port: u16, mode: &str| {
            format!(
                "[[virtual_service]]\nname = \"{name}\"\naddress = \"10.0.0.1\"\nport = {port}\nmode = \"{mode}\"\npool = \"p\"\n"
            )
        };
        let services = service("w", 80, "http") + &service("v", 81, "tcp");
        let model = config::parse(&format!("{services}[[pool]]\nname = \"p\"\n{pool}")).unwrap();
        let down = BTreeSet::from([("p".to_owned(), "10.0.0.5".parse().unwrap(), None)]);
        let (shares, view) = (BTreeMap::new(), View::default());
        let facts = Facts { model: &model, down: &down, shares: &shares, view: &view };
        maker.make(&facts, &Sites::default())
    }

    fn maker() -> Maker {
        Maker::new(1, Box::new(Store::new(Path::new("/"))))
    }

    fn client() -> SocketAddr {
        "192.0.2.1:4000".parse().unwrap()
    }

    #[test]
    fn requests_spread_by_weight_and_each_server_is_tried_once() {
        for algorithm in ["maglev", "round-robin", "random-two", "least-connections"] {
            let pool = format!("algorithm = \"{algorithm}\"\n{SERVERS}");
            let snapshot = make(&mut maker(), &pool);
            let service = &snapshot.services["w"];
            let mut met = [0; 4];
            let mut under_way = Vec::new();
            for number in 0..4000 {
                let chosen = fresh(service, client(), number, &Tried::default()).unwrap();
                met[chosen.server] += 1;
                under_way.push(chosen.place);
            }
            assert!((2800..3200).contains(&met[0]), "{algorithm}: {met:?}");
            assert_eq!(met[0] + met[1], 4000, "{algorithm}: {met:?}");
            let mut tried = Tried::default();
            let mut order = BTreeSet::new();
            while let Ok(chosen) = fresh(service, client(), 7, &tried) {
                assert!(order.insert(chosen.server));
                tried.add(chosen.server);
            }
            assert_eq!(order, BTreeSet::from([0, 1]), "{algorithm}");
        }
    }

    #[test]
    fn turns_are_taken_exactly_and_whoever_is_idle_is_next() {
        let snapshot = make(&mut maker(), &format!("algorithm = \"round-robin\"\n{SERVERS}"));
        let next = |name: &str| {
            fresh(&snapshot.services[name], client(), 0, &Tried::default()).unwrap().server
        };
        let order: Vec<usize> =
            (0..8).map(|turn| next(if turn % 2 == 0 { "w" } else { "v" })).collect();
        assert_eq!(order, [0, 0, 1, 0, 0, 0, 1, 0], "both services take from the same turns");
        let snapshot = make(&mut maker(), &format!("algorithm = \"least-connections\"\n{SERVERS}"));
        let service = &snapshot.services["w"];
        let busy = [0, 0, 0, 0, 0, 0, 1].map(|server| bound(service, server).unwrap().unwrap());
        for _ in 0..3 {
            assert_eq!(fresh(service, client(), 0, &Tried::default()).unwrap().server, 1);
        }
        drop(busy);
        let met = |_| fresh(service, client(), 0, &Tried::default()).unwrap().server;
        assert!((0..3).map(met).all(|server| server == 0), "the one with the greater weight");
    }

    #[test]
    fn limits_hold_for_all_services_of_a_pool_and_outlive_a_configuration() {
        let servers = "servers = [{ address = \"10.0.0.2\", max_connections = 2 }, { address = \"10.0.0.3\", max_connections = 1 }]";
        for algorithm in ["maglev", "round-robin", "random-two", "least-connections"] {
            let pool = |on_limit: &str| {
                format!("algorithm = \"{algorithm}\"\non_limit = \"{on_limit}\"\n{servers}")
            };
            let mut maker = maker();
            let snapshot = make(&mut maker, &pool("spill"));
            let ask = |snapshot: &Snapshot, name: &str| {
                fresh(&snapshot.services[name], client(), 1, &Tried::default())
            };
            let mut under_way: Vec<Chosen> =
                ["w", "v", "w"].iter().map(|name| ask(&snapshot, name).unwrap()).collect();
            assert_eq!(under_way.iter().filter(|one| one.server == 0).count(), 2, "{algorithm}");
            assert_eq!(ask(&snapshot, "v").unwrap_err(), Reason::ServerFull, "{algorithm}");
            assert!(bound(&snapshot.services["w"], 0).unwrap().is_none());
            let snapshot = make(&mut maker, &pool("reject"));
            assert_eq!(ask(&snapshot, "w").unwrap_err(), Reason::ServerFull, "{algorithm}");
            assert_eq!(bound(&snapshot.services["v"], 0).unwrap_err(), Reason::ServerFull);
            let snapshot = make(&mut maker, &pool("exceed"));
            let more = bound(&snapshot.services["w"], 0).unwrap().unwrap();
            let place = under_way.iter().position(|one| one.server == 0).unwrap();
            drop(under_way.remove(place));
            assert_eq!(ask(&snapshot, "w").unwrap_err(), Reason::ServerFull, "two are left");
            drop(more);
            assert_eq!(ask(&snapshot, "w").unwrap().server, 0, "{algorithm}");
        }
    }
}
