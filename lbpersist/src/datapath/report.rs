//! What the maps say, for people and programs: read from the pins, whether a daemon runs or not.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use lbpersist_common::{
    layout::{Name, NameKey, kind},
    net::Address,
    server::{Server, state},
    service::{Pool, scope},
};

mod entries;
mod status;

pub use entries::{EntryStatus, Filter};
pub use status::{InterfaceStatus, PoolStatus, ServerStatus, ServiceStatus, Status};

use super::{
    Error,
    address::from_map,
    listed::{self, Listed},
    maps::{self, Maps, PinDirectory},
};

/// Reads the pinned maps.
pub struct Reader {
    pins: PinDirectory,
    maps: Maps,
    names: HashMap<NameKey, Name>,
    pools: BTreeMap<u32, Pool>,
    services: Vec<Listed>,
}

impl Reader {
    /// Opens what is pinned.
    ///
    /// # Errors
    ///
    /// When nothing is, or something of another layout.
    pub fn open(pins: &PinDirectory) -> Result<Self, Error> {
        let maps = Maps::open(pins)?;
        let pools = maps::scan::<u32, Pool>(pins, "pools")?;
        let services = listed::services(pins, &maps)?;
        Ok(Self {
            pins: pins.clone(),
            maps,
            names: maps::scan(pins, "names")?.into_iter().collect(),
            pools: pools.into_iter().filter(|(_, pool)| pool.id != 0).collect(),
            services,
        })
    }

    /// Whether a service of that name is configured.
    pub fn has_service(&self, name: &str) -> bool {
        self.services.iter().any(|one| self.name(kind::SERVICE, one.service.index) == name)
    }

    /// Whose the entries of a service's clients are: the service, unless all of its pool share them, and the pool. `None` if there
    /// is no such service.
    pub fn entries_belong_to(&self, name: &str) -> Option<(Option<String>, String)> {
        let mut services = self.services.iter().map(|one| one.service);
        let service = services.find(|one| self.name(kind::SERVICE, one.index) == name)?;
        let own = (service.scope == scope::service(service.id)).then(|| name.to_owned());
        Some((own, self.name(kind::POOL, service.pool)))
    }

    /// Whether a pool of that name is configured.
    pub fn has_pool(&self, name: &str) -> bool {
        self.pools.keys().any(|&number| self.name(kind::POOL, number) == name)
    }

    /// A server by its number.
    pub(super) fn server(&self, number: u32) -> Result<Server, Error> {
        self.maps.servers.get(&number, 0).map_err(|error| Error::map("servers", error))
    }

    /// The numbers of a pool's servers.
    pub(super) fn servers_of(&self, pool: u32) -> Result<Vec<u32>, Error> {
        let servers = maps::scan::<u32, Server>(&self.pins, "servers")?.into_iter();
        let own = servers.filter(|(_, one)| one.state != state::ABSENT && one.pool == pool);
        Ok(own.map(|(number, _)| number).collect())
    }

    /// Where everything is pinned.
    pub(super) fn pins(&self) -> &PinDirectory {
        &self.pins
    }

    /// The pools by number.
    pub(super) fn pools(&self) -> &BTreeMap<u32, Pool> {
        &self.pools
    }

    /// The services.
    pub(super) fn services(&self) -> &[Listed] {
        &self.services
    }

    /// The maps themselves.
    pub(crate) fn maps(&self) -> &Maps {
        &self.maps
    }

    /// The name of a service by its counters' place, or of a pool by its number.
    pub(super) fn name(&self, kind: u32, number: u32) -> String {
        self.names
            .get(&NameKey { kind, number })
            .map_or_else(|| format!("#{number}"), |name| name.as_str().to_owned())
    }
}

/// The word for a server's state.
pub fn state_name(state: u8) -> &'static str {
    match state {
        state::UP => "up",
        state::DRAINING => "draining",
        state::DISABLED => "disabled",
        _ => "down",
    }
}

/// A server's address, with its port if it has one of its own.
pub(super) fn server_name(address: Address, port: u16) -> String {
    match (from_map(address), port) {
        (address, 0) => address.to_string(),
        (IpAddr::V4(address), port) => format!("{address}:{port}"),
        (IpAddr::V6(address), port) => format!("[{address}]:{port}"),
    }
}

/// Seconds of so many nanoseconds.
pub(super) fn seconds(nanoseconds: u64) -> f64 {
    // To a millisecond: finer is not what the clock of the tables knows.
    (nanoseconds / 1_000_000) as f64 / 1_000.0
}
