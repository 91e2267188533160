//! The servers of a pool, by what cookies, entries and headers call them.

use std::collections::HashMap;

use lbpersist_common::hash;

use super::table::Bound;
use crate::model::{Pool, Server};

/// The servers of a pool, by their places in it.
#[derive(Debug)]
pub(super) struct Roster {
    bound: Vec<Bound>,
    names: Vec<String>,
    by_id: HashMap<Bound, usize>,
    by_header: HashMap<Box<[u8]>, usize>,
}

impl Roster {
    /// The servers of `pool`; `generation` says which of a server's incarnations it is, by its id.
    pub(super) fn of(pool: &Pool, generation: impl Fn(u64) -> u32) -> Self {
        let bound: Vec<Bound> = ids(pool)
            .into_iter()
            .map(|server| Bound { server, generation: generation(server) })
            .collect();
        let by_id = bound.iter().enumerate().map(|(place, bound)| (*bound, place)).collect();
        let values = pool.servers.iter().enumerate().filter_map(|(place, server)| {
            Some((server.header_value.as_ref()?.as_bytes().into(), place))
        });
        let names = pool.servers.iter().map(name).collect();
        Self { bound, names, by_id, by_header: values.collect() }
    }

    pub(super) fn bound(&self, server: usize) -> Bound {
        self.bound[server]
    }

    /// The server as it is written: its address, with its port if it has one of its own.
    pub(super) fn name(&self, server: usize) -> Option<&str> {
        self.names.get(server).map(String::as_str)
    }

    pub(super) fn by_id(&self, bound: Bound) -> Option<usize> {
        self.by_id.get(&bound).copied()
    }

    pub(super) fn by_header(&self, value: &[u8]) -> Option<usize> {
        self.by_header.get(value.trim_ascii()).copied()
    }
}

fn name(server: &Server) -> String {
    server.port.map_or_else(
        || server.address.to_string(),
        |port| std::net::SocketAddr::new(server.address, port).to_string(),
    )
}

/// The stable id of a pool.
pub(super) fn pool_id(pool: &str) -> u64 {
    hash::bytes(0, pool.as_bytes())
}

/// The stable ids of a pool's servers, in order: the same on every node, whatever else is configured there.
pub(super) fn ids(pool: &Pool) -> Vec<u64> {
    let id = |server: &Server| {
        let port = server.port.map_or_else(String::new, |port| port.to_string());
        hash::bytes(pool_id(&pool.name), format!("{} {port}", server.address).as_bytes())
    };
    pool.servers.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn ids_never_change() {
        let text = "[[pool]]\nname = \"web\"\nservers = [{ address = \"10.0.0.11\", port = 8080 }, { address = \"10.0.0.11\" }]";
        let model = config::parse(text).unwrap();
        assert_eq!(
            ids(&model.pools["web"]),
            [8_261_517_544_861_378_882, 12_346_044_799_629_556_854]
        );
    }
}
