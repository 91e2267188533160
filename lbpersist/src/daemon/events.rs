//! What the servers' monitors say: whom to check, and what a report changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Daemon, control::endpoint};
use crate::{
    balance::slow_start::{self, Rise},
    datapath::{self, DataPath, desired::ServerKey},
    health::{Report, Target, is_up},
    model::{Model, Pool, Server},
};

impl Daemon {
    /// Says whether a server came up or went down by it.
    pub(super) fn take_report(&mut self, report: Report) -> bool {
        let Report { up, monitor, error, .. } = report;
        let key = (report.pool, report.server, report.port);
        let Some(pool) = self.model.pools.get(&key.0).filter(|pool| {
            pool.servers.iter().any(|server| (server.address, server.port) == (key.1, key.2))
        }) else {
            return false;
        };
        let was_up = is_up(pool, self.failing.get(&key));
        let failing = self.failing.entry(key.clone()).or_default();
        if up {
            failing.remove(&monitor);
        } else {
            failing.insert(monitor.clone());
        }
        let up_now = is_up(pool, Some(failing));
        if failing.is_empty() {
            self.failing.remove(&key);
        }
        let (pool, server) = (&key.0, endpoint(key.1, key.2));
        match (was_up, up_now, error) {
            (true, false, error) => {
                let error = error.unwrap_or_default();
                tracing::warn!(pool, server, monitor, error, "server is down");
                self.rising.remove(&key);
            }
            (false, true, _) => {
                tracing::info!(pool, server, "server is up");
                self.rising.insert(key, Rise::begin(Instant::now()));
            }
            (_, _, Some(error)) => {
                tracing::info!(pool, server, monitor, error, "a check failed");
            }
            _ => {}
        }
        was_up != up_now
    }

    /// The servers that are down by what their monitors say.
    pub(super) fn down(&self) -> BTreeSet<ServerKey> {
        let is_down = |(key, failing): &(&ServerKey, &BTreeSet<String>)| {
            self.model.pools.get(&key.0).is_some_and(|pool| !is_up(pool, Some(failing)))
        };
        self.failing.iter().filter(is_down).map(|(key, _)| key.clone()).collect()
    }

    /// The tenths of their weights that servers have which came up a short while ago. Forgets those that have it all.
    pub(super) fn shares(&mut self, now: Instant) -> BTreeMap<ServerKey, u32> {
        let pools = &self.model.pools;
        let mut shares = BTreeMap::new();
        self.rising.retain(|key, rise| {
            let time = pools.get(&key.0).map_or(Duration::ZERO, |pool| pool.slow_start);
            let share = rise.give(now, time);
            if share < slow_start::WHOLE {
                shares.insert(key.clone(), share);
            }
            share < slow_start::WHOLE
        });
        shares
    }

    /// How long it is until a server gets a larger share.
    pub(super) fn next_share(&self, now: Instant) -> Option<Duration> {
        let steps = self.rising.iter().filter_map(|(key, rise)| {
            let time = self.model.pools.get(&key.0)?.slow_start;
            rise.until_next(now, time)
        });
        steps.min()
    }
}

/// Waits so long, or for ever.
pub(super) async fn later(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
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
    for pool in model.pools.values().filter(|pool| !pool.health_monitors.is_empty()) {
        let first_port = first_port(model, pool);
        for server in &pool.servers {
            for monitor in &pool.health_monitors {
                let port = monitor.port.or(server.port).or(first_port);
                if port.is_none() && monitor.kind.needs_port() {
                    continue;
                }
                let address = monitor.address.unwrap_or(server.address);
                targets.push(Target {
                    pool: pool.name.clone(),
                    server: server.address,
                    port: server.port,
                    address: SocketAddr::new(address, port.unwrap_or(0)),
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

/// The port of a pool whose servers have none of their own: that of its first service on one port.
fn first_port(model: &Model, pool: &Pool) -> Option<u16> {
    model
        .services
        .values()
        .filter(|service| service.pool == pool.name)
        .find_map(|service| service.ports.one())
}
