//! What keys of entries and connections refer to.

use std::collections::{BTreeMap, HashMap};

use lbpersist_common::{
    connection::ConnectionKey, persistence::EntryKey, ring::slot_of, service::Pool,
};

use crate::{datapath::desired::Desired, model::Protocol};

/// Services and scopes by the ids that keys hold.
pub struct Index<'a> {
    pub(super) pools: &'a BTreeMap<u32, Pool>,
    pub(super) services: HashMap<u32, ServiceInfo>,
    pub(super) scopes: HashMap<u32, u32>,
}

pub(super) struct ServiceInfo {
    pool: u32,
    scope: u32,
    pub(super) protocol: Option<Protocol>,
}

impl<'a> Index<'a> {
    /// An index of what the maps hold.
    pub fn of(desired: &'a Desired) -> Self {
        let mut index =
            Self { pools: &desired.pools, services: HashMap::new(), scopes: HashMap::new() };
        let exact = desired
            .services
            .iter()
            .chain(&desired.carried)
            .map(|(key, service)| (key.protocol, service));
        let prefixes = desired.prefix_services.iter();
        let prefixes = prefixes.map(|((_, key), service)| (key.protocol, service));
        for (protocol, service) in exact.chain(prefixes.filter(|(_, service)| service.id != 0)) {
            let protocol = u8::try_from(protocol).ok().and_then(Protocol::from_number);
            index.scopes.insert(service.scope, service.pool);
            index.services.insert(
                service.id,
                ServiceInfo { pool: service.pool, scope: service.scope, protocol },
            );
        }
        index
    }

    /// The numbers of pools by scope.
    pub fn into_scopes(self) -> HashMap<u32, u32> {
        self.scopes
    }
}

impl Index<'_> {
    pub(super) fn slot_of_connection(&self, key: &ConnectionKey) -> Option<(u32, u32)> {
        let number = self.services.get(&key.service)?.pool;
        let pool = self.pools.get(&number)?;
        let hash = pool.slot_hash(&key.client, key.client_port, &key.destination);
        Some((number, slot_of(hash, pool.slots)))
    }

    pub(super) fn entry_key(&self, info: &ServiceInfo, key: &ConnectionKey) -> Option<EntryKey> {
        let client = self.pools.get(&info.pool)?.masked(&key.client);
        Some(EntryKey { client, scope: info.scope, destination: key.destination })
    }
}
