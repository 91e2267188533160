//! What a case begins with: its pools, and the configuration that says the same.

use std::{fmt::Write as _, net::SocketAddr};

use lbpersist_tests::topology::Family;

use crate::{
    budget::Budget,
    events::{Plan, SERVERS},
    rules::{CLOSING_IDLE, HANDSHAKE_IDLE, MILLISECOND, TCP_IDLE, UDP_IDLE},
    setup::{V4, V6, server_address},
    world::{Down, OnLimit, Pool, SLOTS, Server, Service},
};

pub(crate) const POOLS: [&str; 2] = ["a", "b"];
/// The number of a pool's UDP service; 0 and 1 are TCP.
pub(crate) const UDP: usize = 2;

pub(crate) fn at(pool: &Pool, service: Service) -> SocketAddr {
    let port = [80, 81, 53][service.number] + if service.pool == 0 { 0 } else { 10 };
    pool.family.service(port)
}

pub(crate) fn host(pool: usize, place: u8) -> u8 {
    11 + place % SERVERS + if pool == 0 { 0 } else { SERVERS }
}

pub(crate) fn pool(number: usize, plan: &Plan) -> Pool {
    let servers = plan.weights.iter().zip(0..).map(|(&weight, place)| Server {
        host: host(number, place),
        weight,
        up: true,
        removed: false,
    });
    let mask = match (plan.ipv6, plan.mask) {
        (false, mask) => mask,
        (true, 32) => 128,
        (true, _) => 64,
    };
    Pool {
        family: if plan.ipv6 { V6 } else { V4 },
        limit: plan.limit,
        on_limit: plan.on_limit,
        timeout: plan.timeout * MILLISECOND,
        mask,
        shared: plan.shared,
        down: plan.down,
        resets: plan.resets,
        servers: servers.collect(),
    }
}

/// The configuration of these pools.
pub(crate) fn text(pools: &[Pool], budget: &Budget) -> String {
    let ms = |time: u64| format!("\"{}ms\"", time / MILLISECOND);
    let mut text = format!(
        "[data_path]\nring_size = {SLOTS}\nentry_table = 1024\nconnection_table = 1024\n\
         handshake_table = 1024\n[idle_limits]\ntcp = {}\ntcp_closing = {}\nhandshake = {}\nudp = {}\n",
        ms(TCP_IDLE),
        ms(CLOSING_IDLE),
        ms(HANDSHAKE_IDLE),
        ms(UDP_IDLE)
    );
    let _ = writeln!(
        text,
        "[flood_limits]\nnew_clients = {}\nnew_clients_of_prefix = {}\nipv4_prefix = 24\nipv6_prefix = 48",
        budget.all, budget.of_prefix
    );
    for (number, (pool, name)) in pools.iter().zip(POOLS).enumerate() {
        let down = match pool.down {
            Down::Immediate => "immediate",
            Down::Never => "never",
            Down::Continue => "continue",
        };
        let timeout = if pool.timeout == 0 { "\"0\"".to_owned() } else { ms(pool.timeout) };
        let scope = if pool.shared { "pool" } else { "virtual-service" };
        let mask = match pool.family {
            Family::V4 => format!("ipv4_mask = {}", pool.mask),
            Family::V6 => format!("ipv6_mask = {}", pool.mask),
        };
        let on_limit = match pool.on_limit {
            OnLimit::Spill => "spill",
            OnLimit::Exceed => "exceed",
            OnLimit::Reject => "reject",
        };
        let _ = writeln!(
            text,
            "[[persistence_profile]]\nname = \"{name}\"\ntimeout = {timeout}\n{mask}\n\
             scope = \"{scope}\"\nserver_down = \"{down}\"\n[[pool]]\nname = \"{name}\"\n\
             persistence_profile = \"{name}\"\non_limit = \"{on_limit}\"\nreset_connections = {}\nservers = [",
            pool.resets
        );
        for server in pool.servers.iter().filter(|server| !server.removed) {
            let (address, weight) = (server_address(pool.family, server.host), server.weight);
            let limit = match pool.limit {
                0 => String::new(),
                limit => format!(", max_connections = {limit}"),
            };
            let _ = writeln!(text, "  {{ address = \"{address}\", weight = {weight}{limit} }},");
        }
        text += "]\n";
        for service in 0..=UDP {
            let at = at(pool, Service { pool: number, number: service });
            let protocol = if service == UDP { "udp" } else { "tcp" };
            let _ = writeln!(
                text,
                "[[virtual_service]]\nname = \"{name}{service}\"\naddress = \"{}\"\nport = {}\n\
                 protocol = \"{protocol}\"\npool = \"{name}\"",
                at.ip(),
                at.port()
            );
        }
    }
    text
}
