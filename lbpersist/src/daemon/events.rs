//! What the servers' monitors say: whom to check, and what a report changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use super::Daemon;
use crate::{
    datapath::{self, DataPath, desired::ServerKey},
    health::{Report, Target},
    model::{Model, Pool, Server},
};

impl Daemon {
    /// Says whether a server came up or went down by it.
    pub(super) fn take_report(&mut self, report: Report) -> bool {
        let key = (report.pool, report.server, report.port);
        let known = self.model.pools.get(&key.0).is_some_and(|pool| {
            pool.servers.iter().any(|server| (server.address, server.port) == (key.1, key.2))
        });
        if !known {
            return false;
        }
        let was_up = !self.failing.contains_key(&key);
        let (pool, server) = (key.0.clone(), key.1);
        if report.up {
            if let Some(monitors) = self.failing.get_mut(&key) {
                monitors.remove(&report.monitor);
                if monitors.is_empty() {
                    self.failing.remove(&key);
                }
            }
        } else {
            self.failing.entry(key.clone()).or_default().insert(report.monitor.clone());
        }
        let is_up = !self.failing.contains_key(&key);
        match (was_up, is_up, report.error) {
            (true, false, error) => {
                let error = error.unwrap_or_default();
                tracing::warn!(pool, %server, monitor = report.monitor, error, "server is down");
            }
            (false, true, _) => tracing::info!(pool, %server, "server is up"),
            (_, _, Some(error)) => {
                tracing::info!(pool, %server, monitor = report.monitor, error, "a check failed");
            }
            _ => {}
        }
        was_up != is_up
    }
}

/// The servers that an earlier daemon left marked as down: they stay so until their monitors say otherwise.
pub(super) fn adopted_failures(
    model: &Model,
    data_path: &DataPath,
) -> BTreeMap<ServerKey, BTreeSet<String>> {
    let mut failing = BTreeMap::new();
    for pool in model.pools.values().filter(|pool| !pool.health_monitors.is_empty()) {
        let Some(known) = data_path.identities.pools.get(&pool.name) else { continue };
        for server in &pool.servers {
            let identity = datapath::desired::server_identity(known.number, server);
            let was_down = data_path
                .identities
                .servers
                .get(&identity)
                .and_then(|known| data_path.actual().servers.get(&u32::from(known.number)))
                .is_some_and(|server| server.state == lbpersist_common::server::state::DOWN);
            if was_down {
                let monitors =
                    pool.health_monitors.iter().map(|monitor| monitor.name.clone()).collect();
                failing.insert((pool.name.clone(), server.address, server.port), monitors);
            }
        }
    }
    failing
}

/// Whom to check, and how.
pub(super) fn targets(
    model: &Model,
    failing: &BTreeMap<ServerKey, BTreeSet<String>>,
) -> Vec<Target> {
    let mut targets = Vec::new();
    for pool in model.pools.values() {
        for server in &pool.servers {
            for monitor in &pool.health_monitors {
                let Some(port) = monitor.port.or(server.port).or_else(|| first_port(model, pool))
                else {
                    continue;
                };
                targets.push(Target {
                    pool: pool.name.clone(),
                    server: server.address,
                    port: server.port,
                    address: SocketAddr::new(server.address, port),
                    monitor: monitor.clone(),
                    initially_up: !is_failing(failing, pool, server, &monitor.name),
                });
            }
        }
    }
    targets
}

fn is_failing(
    failing: &BTreeMap<ServerKey, BTreeSet<String>>,
    pool: &Pool,
    server: &Server,
    monitor: &str,
) -> bool {
    failing
        .get(&(pool.name.clone(), server.address, server.port))
        .is_some_and(|monitors| monitors.contains(monitor))
}

/// The port of a pool whose servers have none of their own: that of its first service.
fn first_port(model: &Model, pool: &Pool) -> Option<u16> {
    model.services.values().find(|service| service.pool == pool.name).map(|service| service.port)
}
