//! What tables say about each other: names, references, services, the servers of a pool; `ways` has the rest.
//!
//! Values that could not be read are known to be wrong already; nothing is concluded from them.

use std::{collections::HashMap, net::IpAddr};

use super::{
    Problem,
    field::{At, Field},
    keeping, proxy,
    raw::{BUILT_IN_MONITOR, Declared, Raw, RawPool, RawServer, RawService},
    ways::{self, Endpoint},
    words::{nearest, quoted},
};
use crate::model::Ports;

/// Numbers there are for servers: ring slots hold 16 bits, and 0 is no server.
const MOST_SERVERS: usize = u16::MAX as usize;

/// Adds what is wrong between tables.
pub(super) fn check(raw: &Raw, problems: &mut Vec<Problem>) {
    let mut checks = Checks { raw, problems };
    checks.names();
    checks.references();
    checks.fallbacks();
    checks.services_apart();
    checks.servers_of_pools();
    checks.monitors_have_ports();
    proxy::check(raw, problems);
    ways::check(raw, problems);
    keeping::check(raw, problems);
}

struct Checks<'c> {
    raw: &'c Raw,
    problems: &'c mut Vec<Problem>,
}

impl<'c> Checks<'c> {
    fn add(&mut self, line: usize, message: String) {
        self.problems.push(Problem { line, message });
    }

    fn names(&mut self) {
        let raw = self.raw;
        self.once("interface", "", raw.interfaces.iter());
        self.once("virtual_service", "", raw.services.iter().filter_map(|s| s.name.as_ref()));
        self.once("pool", "", raw.pools.iter().filter_map(|p| p.name.as_ref()));
        self.once("persistence_profile", "", raw.profiles.iter().filter_map(|p| p.name.as_ref()));
        self.once("health_monitor", "", raw.monitors.iter().filter_map(|m| m.name.as_ref()));
        for pool in &raw.pools {
            let owner = format!(" of pool {}", pool.label());
            self.once("health_monitor", &owner, pool.value.health_monitors.iter());
        }
    }

    fn once(&mut self, kind: &str, owner: &str, names: impl Iterator<Item = &'c At<String>>) {
        let mut lines = HashMap::new();
        for At { line, value } in names {
            let first = *lines.entry(value).or_insert(line);
            if !std::ptr::eq(first, line) {
                let name = quoted(value);
                self.add(*line, format!("{kind} {name}{owner} is there already (line {first})"));
            }
        }
    }

    fn references(&mut self) {
        let raw = self.raw;
        for service in &raw.services {
            let by = format!("virtual_service {}", service.label());
            self.refers(&by, service.value.pool.as_ref(), "pool", &raw.pools, None);
        }
        for pool in &raw.pools {
            let by = format!("pool {}", pool.label());
            let profile = pool.value.persistence_profile.as_ref();
            self.refers(&by, profile, "persistence_profile", &raw.profiles, None);
            for monitor in &pool.value.health_monitors {
                let built_in = Some(BUILT_IN_MONITOR);
                self.refers(&by, Some(monitor), "health_monitor", &raw.monitors, built_in);
            }
        }
    }

    fn fallbacks(&mut self) {
        let raw = self.raw;
        for profile in &raw.profiles {
            let by = format!("persistence_profile {}", profile.label());
            let fallback = profile.value.fallback.as_ref();
            self.refers(&by, fallback, "persistence_profile", &raw.profiles, None);
        }
    }

    fn refers<T>(
        &mut self,
        by: &str,
        name: Option<&At<String>>,
        kind: &str,
        declared: &[Declared<T>],
        built_in: Option<&str>,
    ) {
        let Some(At { line, value: name }) = name else {
            return;
        };
        // One whose name could not be read may be the one that is meant.
        let may_be_meant = |one: &Declared<T>| one.name.is_none() || one.is_named(name);
        if built_in == Some(name.as_str()) || declared.iter().any(may_be_meant) {
            return;
        }
        let names = declared.iter().filter_map(|one| one.name.as_ref());
        let near = nearest(name, names.map(|name| name.value.as_str()).chain(built_in));
        let hint = near.map_or_else(String::new, |near| {
            let line = declared.iter().find(|one| one.is_named(near)).map(|one| one.line);
            let line = line.map_or_else(String::new, |line| format!(" (line {line})"));
            format!("; did you mean {}{line}?", quoted(near))
        });
        self.add(*line, format!("{by} names {kind} {}, which is not declared{hint}", quoted(name)));
    }

    fn services_apart(&mut self) {
        let mut first: HashMap<Endpoint, &Declared<RawService>> = HashMap::new();
        for service in &self.raw.services {
            let Some(endpoint) = service.value.endpoint() else {
                continue;
            };
            let Some(other) = first.get(&endpoint) else {
                first.insert(endpoint, service);
                continue;
            };
            let (own, others, line) = (service.label(), other.label(), other.line);
            self.add(
                service.line,
                format!("virtual_service {own} overlaps virtual_service {others} (line {line}): both are {endpoint}"),
            );
        }
    }

    fn servers_of_pools(&mut self) {
        let mut total = 0;
        for pool in &self.raw.pools {
            let Some(servers) = &pool.value.servers else {
                continue;
            };
            total += servers.len();
            let label = pool.label();
            if servers.is_empty() {
                self.add(pool.line, format!("pool {label} has no servers"));
            } else if servers.iter().all(|server| server.weight == Some(0)) {
                self.add(
                    pool.line,
                    format!("pool {label} has no server for new clients: every weight is 0"),
                );
            }
            self.servers_once(pool, servers);
            self.fits_ring(pool, servers.len());
            if total > MOST_SERVERS {
                self.add(
                    pool.line,
                    format!("pool {label} makes the servers more than {MOST_SERVERS} in all"),
                );
                return;
            }
        }
    }

    fn servers_once(&mut self, pool: &Declared<RawPool>, servers: &[RawServer]) {
        let mut lines: HashMap<(IpAddr, Option<u16>), usize> = HashMap::new();
        for server in servers {
            let (Some(address), port) = (server.address, server.port.known()) else {
                continue;
            };
            if matches!(server.port, Field::Wrong) {
                continue;
            }
            let port = port.map(|port| port.value);
            let Some(first) = lines.get(&(address, port)) else {
                lines.insert((address, port), server.line);
                continue;
            };
            let on = port.map_or_else(String::new, |port| format!(" port {port}"));
            let label = pool.label();
            self.add(
                server.line,
                format!("server {address}{on} is in pool {label} already (line {first})"),
            );
        }
    }

    /// A monitor asks the server's port, or that of the pool's service; where there is neither it must name one.
    fn monitors_have_ports(&mut self) {
        let raw = self.raw;
        for pool in &raw.pools {
            let Some(name) = &pool.name else { continue };
            let names_pool = |service: &&Declared<RawService>| {
                service.value.pool.as_ref().is_some_and(|pool| pool.value == name.value)
            };
            let mut services = raw.services.iter().filter(names_pool).peekable();
            let Some(first) = services.peek() else { continue };
            let (service, line) = (first.label(), first.line);
            if services.any(|service| service.value.ports != Some(Ports::All)) {
                continue;
            }
            for monitor in &pool.value.health_monitors {
                let declared = raw.monitors.iter().find(|one| one.is_named(&monitor.value));
                if declared
                    .is_some_and(|one| one.value.port.is_some() || !one.value.kind.needs_port())
                {
                    continue;
                }
                let (monitor_name, pool) = (quoted(&monitor.value), pool.label());
                self.add(
                    monitor.line,
                    format!(
                        "pool {pool} has no port that health_monitor {monitor_name} could ask, since virtual_service {service} \
                         (line {line}) is on all ports; name a monitor with a `port`"
                    ),
                );
            }
        }
    }

    fn fits_ring(&mut self, pool: &Declared<RawPool>, servers: usize) {
        let slots = self.raw.data_path.ring_size;
        if servers <= slots as usize {
            return;
        }
        let (label, line) = (pool.label(), pool.line);
        match self.raw.ring_size_line {
            Some(at) => self.add(
                at,
                format!("`ring_size` {slots} is too small for the {servers} servers of pool {label} (line {line})"),
            ),
            None => self.add(
                line,
                format!("pool {label} has {servers} servers, more than the default `ring_size` of {slots}"),
            ),
        }
    }
}
