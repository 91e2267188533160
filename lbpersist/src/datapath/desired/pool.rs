//! What the maps should say of a pool beside its servers, and of floods.

use lbpersist_common::{
    flood::FloodLimits,
    net::Address,
    recent,
    service::{self, Pool, pool_flag},
};

use super::nanoseconds;
use crate::{
    balance::{maglev::Member, turns},
    datapath::{address::to_map, identity::Numbered},
    model::{self, Algorithm, Forwarding, NoServer, OnLimit, PersistenceProfile, ServerDown},
};

pub(super) fn pool_value(
    pool: &model::Pool,
    given: Numbered,
    slots: u32,
    udp_idle_ns: u64,
) -> Pool {
    let by_address = pool.persistence.as_ref().and_then(PersistenceProfile::by_address);
    let method = by_address.map(|(_, method)| method);
    Pool {
        slots,
        side: 0,
        flags: pool_flags(pool, method.is_some()),
        server_down: by_address.map_or(
            service::server_down::IMMEDIATE,
            |(profile, _)| match profile.server_down {
                ServerDown::Immediate => service::server_down::IMMEDIATE,
                ServerDown::Never => service::server_down::NEVER,
                ServerDown::Continue => service::server_down::CONTINUE,
            },
        ),
        timeout_ns: method.map_or(0, |method| nanoseconds(method.timeout)),
        udp_idle_ns: recent::idle_ns(udp_idle_ns),
        ipv4_mask: Address::ipv4_prefix_mask(method.map_or(32, |method| method.ipv4_mask)),
        ipv6_mask: Address::prefix_mask(method.map_or(128, |method| method.ipv6_mask)),
        id: given.id,
        forwarding: match pool.forwarding {
            Forwarding::Nat => service::forwarding::NAT,
            Forwarding::Masquerade(_) => service::forwarding::MASQUERADE,
            Forwarding::Direct => service::forwarding::DIRECT,
            Forwarding::Tunnel(_) => service::forwarding::TUNNEL,
        },
        algorithm: match pool.algorithm {
            Algorithm::Maglev => service::algorithm::MAGLEV,
            Algorithm::RoundRobin => service::algorithm::ROUND_ROBIN,
            Algorithm::LeastConnections => service::algorithm::LEAST_CONNECTIONS,
            Algorithm::RandomTwo => service::algorithm::RANDOM_TWO,
        },
        turns: 0,
    }
}

pub(super) fn flood_limits(limits: &model::FloodLimits) -> FloodLimits {
    FloodLimits {
        all: limits.new_clients,
        of_prefix: limits.new_clients_of_prefix,
        ipv4_mask: Address::ipv4_prefix_mask(limits.ipv4_prefix),
        ipv6_mask: Address::prefix_mask(limits.ipv6_prefix),
    }
}

/// The servers that new clients are shared among one after the other, for the pools in which more than the ring decides.
pub(super) fn turns(pool: &model::Pool, members: &[Member]) -> Option<Vec<u16>> {
    match pool.algorithm {
        Algorithm::RoundRobin => Some(turns::round_robin(members)),
        Algorithm::LeastConnections => Some(turns::each_once(members)),
        Algorithm::Maglev | Algorithm::RandomTwo => {
            pool.is_limited().then(|| turns::each_once(members))
        }
    }
}

fn pool_flags(pool: &model::Pool, is_persistent: bool) -> u32 {
    [
        (is_persistent, pool_flag::PERSISTENT),
        (pool.no_server == NoServer::Reject, pool_flag::REFUSE),
        (pool.reset_connections, pool_flag::RESET),
        (pool.is_limited(), pool_flag::LIMITED),
        (pool.on_limit == OnLimit::Exceed, pool_flag::EXCEED),
        (pool.on_limit == OnLimit::Reject, pool_flag::REJECT),
    ]
    .into_iter()
    .filter_map(|(is_set, flag)| is_set.then_some(flag))
    .sum()
}

/// Where the tunnel to a server comes from, or packets under masquerade; `::` for others.
pub(super) fn tunnel_source(pool: &model::Pool, server: &model::Server) -> Address {
    match pool.forwarding {
        Forwarding::Tunnel(sources) | Forwarding::Masquerade(sources) => {
            sources.towards(server.address).map_or(Address::UNSPECIFIED, to_map)
        }
        Forwarding::Nat | Forwarding::Direct => Address::UNSPECIFIED,
    }
}
