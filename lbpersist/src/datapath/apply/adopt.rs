//! Taking over what an earlier daemon has left in the maps.

use lbpersist_common::{
    front::Front,
    layout::{Name, NameKey, kind},
    net::{Address, Endpoint},
    route::{Neighbour, NeighbourKey},
    server::{Server, state},
    service::{Pool, Reverse, Service},
};

use super::DataPath;
use crate::datapath::{
    Error,
    address::from_map,
    desired::{Desired, identity_of},
    identity::{Generation, Identities, Numbered, ServerIdentity},
    maps,
};

impl DataPath {
    /// Reads back what an earlier daemon wrote.
    pub(super) fn adopt(&mut self) -> Result<(), Error> {
        let pins = self.pins.clone();
        self.identities.next_id = self.maps.layout()?.next_id;
        let actual = &mut self.actual;
        actual.names = maps::scan::<NameKey, Name>(&pins, "names")?.into_iter().collect();
        actual.services = maps::scan::<Endpoint, Service>(&pins, "services")?.into_iter().collect();
        actual.carried = maps::scan::<Endpoint, Service>(&pins, "carried")?.into_iter().collect();
        actual.reverse = maps::scan::<Endpoint, Reverse>(&pins, "reverse")?.into_iter().collect();
        actual.fronts = maps::scan::<Address, Front>(&pins, "fronts")?.into_iter().collect();
        actual.neighbours =
            maps::scan::<NeighbourKey, Neighbour>(&pins, "neighbours")?.into_iter().collect();
        for (key, service) in self.maps.prefix_services.iter().flatten() {
            actual.prefix_services.insert((key.prefix_len(), key.data()), service);
        }
        for (key, route) in self.maps.routes.iter().flatten() {
            actual.routes.insert((key.prefix_len(), key.data()), route);
        }
        for (number, pool) in maps::scan::<u32, Pool>(&pins, "pools")? {
            if pool.id != 0 {
                actual.pools.insert(number, Pool { side: 0, ..pool });
            }
        }
        let limits = self.maps.flood_limits.get(&0, 0);
        actual.flood_limits = Some(limits.map_err(|error| Error::map("flood_limits", error))?);
        for (number, limit) in maps::scan::<u32, u32>(&pins, "server_limits")? {
            if limit != 0 {
                actual.limits.insert(number, limit);
            }
        }
        for (number, server) in maps::scan::<u32, Server>(&pins, "servers")? {
            adopt_server(number, &server, actual, &mut self.identities);
        }
        adopt_names(actual, &mut self.identities);
        self.adopt_rings()
    }
}

fn adopt_server(number: u32, server: &Server, actual: &mut Desired, identities: &mut Identities) {
    let Ok(short) = u16::try_from(number) else { return };
    if server.generation == 0 {
        return;
    }
    if server.state == state::ABSENT {
        identities.retired.insert(short, server.generation);
        return;
    }
    actual.servers.insert(number, *server);
    let identity =
        ServerIdentity { pool: server.pool, address: from_map(server.address), port: server.port };
    let known = Generation { number: short, generation: server.generation };
    identities.servers.insert(identity, known);
}

fn adopt_names(actual: &Desired, identities: &mut Identities) {
    let name = |kind, number| actual.names.get(&NameKey { kind, number }).map(Name::as_str);
    for (&number, pool) in &actual.pools {
        if let Some(name) = name(kind::POOL, number) {
            identities.pools.insert(name.to_owned(), Numbered { number, id: pool.id });
        }
    }
    let prefixes = actual.prefix_services.values().filter(|service| service.id != 0);
    for service in actual.services.values().chain(actual.carried.values()).chain(prefixes) {
        let names = (name(kind::SERVICE, service.index), name(kind::POOL, service.pool));
        if let (Some(service_name), Some(pool_name)) = names {
            let identity = identity_of(service_name, pool_name);
            let numbered = Numbered { number: service.index, id: service.id };
            identities.services.insert(identity, numbered);
        }
    }
}
