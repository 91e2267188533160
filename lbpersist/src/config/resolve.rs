//! From a file that has been read and checked to the model. Nothing is refused here any more.

use std::collections::BTreeMap;

use super::raw::{
    BUILT_IN_MONITOR, Declared, Raw, RawForwarding, RawPool, RawProfile, RawServer, RawService,
    built_in_monitor,
};
use crate::model::{
    Forwarding, HealthMonitor, Model, PersistenceProfile, Pool, Server, VirtualService,
};

/// Makes the model. `raw` must have passed every check: what could not be read would be left out without a word.
pub(super) fn resolve(raw: Raw) -> Model {
    let profiles = by_name(raw.profiles);
    let mut monitors = by_name(raw.monitors);
    monitors.entry(BUILT_IN_MONITOR.to_owned()).or_insert_with(built_in_monitor);
    let pools = by_name(raw.pools)
        .into_iter()
        .map(|(name, pool)| (name.clone(), pool_of(name, pool, &profiles, &monitors)));
    let services = by_name(raw.services)
        .into_iter()
        .filter_map(|(name, service)| Some((name.clone(), service_of(name, service)?)));
    Model {
        interfaces: raw.interfaces.into_iter().map(|interface| interface.value).collect(),
        daemon: raw.daemon,
        data_path: raw.data_path,
        flood_limits: raw.flood_limits,
        idle_limits: raw.idle_limits,
        proxy: raw.proxy,
        services: services.collect(),
        pools: pools.collect(),
    }
}

fn by_name<T>(declared: Vec<Declared<T>>) -> BTreeMap<String, T> {
    declared.into_iter().filter_map(|one| Some((one.name?.value, one.value))).collect()
}

fn service_of(name: String, raw: RawService) -> Option<VirtualService> {
    Some(VirtualService {
        name,
        addresses: raw.addresses?,
        ports: raw.ports?,
        protocol: raw.protocol?,
        mode: raw.mode?,
        carried: raw.carried,
        pool: raw.pool?.value,
    })
}

fn pool_of(
    name: String,
    raw: RawPool,
    profiles: &BTreeMap<String, RawProfile>,
    monitors: &BTreeMap<String, HealthMonitor>,
) -> Pool {
    let persistence = raw.persistence_profile.and_then(|name| profile_of(&name.value, profiles, 1));
    let named = raw.health_monitors.iter();
    let health_monitors = named.filter_map(|name| monitors.get(&name.value).cloned()).collect();
    let servers = raw.servers.unwrap_or_default().into_iter().filter_map(server_of).collect();
    let forwarding = match raw.forwarding {
        None | Some(RawForwarding::Nat) => Forwarding::Nat,
        Some(RawForwarding::Direct) => Forwarding::Direct,
        Some(RawForwarding::Masquerade) => Forwarding::Masquerade(raw.masquerade_sources),
        Some(RawForwarding::Tunnel) => Forwarding::Tunnel(raw.tunnel_sources),
    };
    Pool {
        name,
        forwarding,
        persistence,
        health_monitors,
        algorithm: raw.algorithm.unwrap_or_default(),
        on_limit: raw.on_limit,
        no_server: raw.no_server,
        reset_connections: raw.reset_connections,
        health_rule: raw.health_rule,
        slow_start: raw.slow_start,
        servers,
    }
}

/// The profile with its chain of fallbacks, which has no loop and no more than the longest chain.
fn profile_of(
    name: &str,
    profiles: &BTreeMap<String, RawProfile>,
    place: usize,
) -> Option<PersistenceProfile> {
    let raw = profiles.get(name).filter(|_| place <= PersistenceProfile::LONGEST_CHAIN)?;
    let fallback = raw.fallback.as_ref();
    let fallback = fallback.and_then(|name| profile_of(&name.value, profiles, place + 1));
    Some(PersistenceProfile {
        name: name.to_owned(),
        method: raw.method.clone()?,
        server_down: raw.server_down,
        fallback: fallback.map(Box::new),
    })
}

fn server_of(raw: RawServer) -> Option<Server> {
    let port = raw.port.known().map(|port| port.value);
    Some(Server {
        address: raw.address?,
        port,
        weight: raw.weight?,
        max_connections: raw.max_connections.known().map(|limit| limit.value),
        header_value: raw.header_value.map(|value| value.value),
        configured: raw.state,
        by_hand: None,
    })
}
