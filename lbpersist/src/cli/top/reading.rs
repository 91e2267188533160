//! From two readings of the counters to rows with rates. Knows no clock and no terminal.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use crate::{
    breaks::share_kept,
    datapath::report::{PoolStatus, ServerStatus, ServiceStatus, Status},
    proxy::ServiceCounts,
};

/// What the counters said at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reading {
    /// What the maps say.
    pub(super) status: Status,
    /// What a running daemon says of the services that it carries itself.
    pub(super) proxied: Vec<ServiceCounts>,
}

/// What is shown: the newest reading, and what changed a second since the one before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rows {
    /// The services.
    pub(super) services: Vec<ServiceRow>,
    /// The servers of all pools.
    pub(super) servers: Vec<ServerRow>,
    /// What became of packets, a second; those of which there were none are left out.
    pub(super) verdicts: Vec<(&'static str, f64)>,
    /// Entries that were made, a second.
    pub(super) entries_made: Option<f64>,
}

/// What a second saw; `None` when it is not counted, or was not there to be read before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// Packets, to servers and back where both are counted.
    pub(super) packets: Option<f64>,
    /// Their bits.
    pub(super) bits: Option<f64>,
    /// New connections.
    pub(super) connections: Option<f64>,
}

/// A service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ServiceRow {
    /// Its name.
    pub(super) name: String,
    /// What a second saw.
    pub(super) rates: Rates,
    /// Open connections; known of proxied services only.
    pub(super) open: Option<u64>,
    /// Connections of live clients that met their server, from 0 to 1.
    pub(super) share_kept: Option<f64>,
    /// Breaks since counting began by reason, those that there were.
    pub(super) breaks: Vec<(String, u64)>,
}

/// A server of a pool.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ServerRow {
    /// The pool's name.
    pub(super) pool: String,
    /// Its address, with its port if it has one of its own.
    pub(super) server: String,
    /// `up`, `down`, `draining` or `disabled`.
    pub(super) state: &'static str,
    /// What a second saw.
    pub(super) rates: Rates,
    /// Open connections.
    pub(super) open: u32,
    /// How many may be.
    pub(super) max_connections: Option<u32>,
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// The name, and the pool's before the server's.
    #[default]
    Name,
    /// Packets a second, most first.
    Packets,
    /// Connections a second, most first.
    Connections,
}

impl Sort {
    /// The one that the key leads to.
    pub(super) fn next(self) -> Self {
        match self {
            Self::Name => Self::Packets,
            Self::Packets => Self::Connections,
            Self::Connections => Self::Name,
        }
    }

    /// The word for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Packets => "packets/s",
            Self::Connections => "connections/s",
        }
    }

    fn of(self, rates: &Rates) -> f64 {
        match self {
            Self::Name => 0.0,
            Self::Packets => rates.packets.unwrap_or(0.0),
            Self::Connections => rates.connections.unwrap_or(0.0),
        }
    }
}

impl Rows {
    /// The rows of `now`, with rates if there is a reading from so much earlier.
    pub(super) fn new(before: Option<(&Reading, Duration)>, now: &Reading) -> Self {
        let before = before.map(|(reading, time)| (Earlier::of(reading), time.as_secs_f64()));
        let since = Since { before: before.as_ref() };
        let in_kernel = now.status.virtual_services.iter().map(|one| since.service(one));
        let in_proxy = now.proxied.iter().map(|one| since.proxied(one));
        let servers = now
            .status
            .pools
            .iter()
            .flat_map(|pool| pool.servers.iter().map(|server| since.server(pool, server)));
        let verdicts = now.status.verdicts.iter().filter_map(|(reason, count)| {
            let rate = since.rate(|earlier| earlier.status.verdicts.get(reason).copied(), *count);
            rate.filter(|rate| *rate > 0.0).map(|rate| (*reason, rate))
        });
        let made = |status: &Status| status.events.get("entries_created").copied();
        Self {
            services: in_kernel.chain(in_proxy).collect(),
            servers: servers.collect(),
            verdicts: verdicts.collect(),
            entries_made: made(&now.status)
                .and_then(|count| since.rate(|earlier| made(earlier.status), count)),
        }
    }

    /// Puts services and servers in order; those that are equal stay by name.
    pub(super) fn sort(&mut self, by: Sort) {
        self.services.sort_by(|one, other| {
            let rates = by.of(&other.rates).total_cmp(&by.of(&one.rates));
            rates.then_with(|| one.name.cmp(&other.name))
        });
        self.servers.sort_by(|one, other| {
            let rates = by.of(&other.rates).total_cmp(&by.of(&one.rates));
            // Servers of a pool come in the order of the file, as in `status`.
            rates.then_with(|| one.pool.cmp(&other.pool))
        });
    }

    /// The rates of all services together.
    pub(super) fn total(&self) -> Rates {
        let sum = |field: fn(&Rates) -> Option<f64>| {
            let known = self.services.iter().filter_map(|one| field(&one.rates));
            known.fold(None, |sum, rate| Some(sum.unwrap_or(0.0) + rate))
        };
        Rates {
            packets: sum(|rates| rates.packets),
            bits: sum(|rates| rates.bits),
            connections: sum(|rates| rates.connections),
        }
    }
}

/// A server, whatever else changes about it.
type Place<'r> = (&'r str, std::net::IpAddr, Option<u16>);

/// An earlier reading, by names.
struct Earlier<'r> {
    status: &'r Status,
    services: BTreeMap<&'r str, &'r ServiceStatus>,
    proxied: BTreeMap<&'r str, &'r ServiceCounts>,
    servers: BTreeMap<Place<'r>, &'r ServerStatus>,
}

impl<'r> Earlier<'r> {
    fn of(Reading { status, proxied }: &'r Reading) -> Self {
        let servers = status.pools.iter().flat_map(|pool| {
            let place = |one: &ServerStatus| (pool.name.as_str(), one.address, one.port);
            pool.servers.iter().map(move |one| (place(one), one))
        });
        Self {
            status,
            services: status.virtual_services.iter().map(|one| (one.name.as_str(), one)).collect(),
            proxied: proxied.iter().map(|one| (one.name.as_str(), one)).collect(),
            servers: servers.collect(),
        }
    }
}

/// What there was before, and how many seconds ago.
struct Since<'r> {
    before: Option<&'r (Earlier<'r>, f64)>,
}

impl Since<'_> {
    /// What was counted a second. A counter that went back is another one's: a service or server of that name was replaced.
    fn rate(&self, before: impl Fn(&Earlier<'_>) -> Option<u64>, now: u64) -> Option<f64> {
        let (earlier, seconds) = self.before?;
        let counted = now.saturating_sub(before(earlier)?);
        (*seconds > 0.0).then(|| counted as f64 / seconds)
    }

    fn service(&self, now: &ServiceStatus) -> ServiceRow {
        let rate = |count: fn(&ServiceStatus) -> u64| {
            self.rate(
                |earlier| earlier.services.get(now.name.as_str()).map(|one| count(one)),
                count(now),
            )
        };
        let rates = Rates {
            packets: rate(|one| one.packets.saturating_add(one.answer_packets)),
            bits: rate(|one| one.bytes.saturating_add(one.answer_bytes)).map(bits),
            connections: rate(|one| one.connections),
        };
        let breaks = now.breaks.iter().filter(|(_, count)| **count > 0);
        ServiceRow {
            name: now.name.clone(),
            rates,
            open: None,
            share_kept: now.share_kept,
            breaks: breaks.map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        }
    }

    fn proxied(&self, now: &ServiceCounts) -> ServiceRow {
        let rate = |count: fn(&ServiceCounts) -> u64| {
            self.rate(
                |earlier| earlier.proxied.get(now.name.as_str()).map(|one| count(one)),
                count(now),
            )
        };
        let counts = &now.counts;
        let breaks = now.breaks.iter().filter(|(_, count)| **count > 0);
        ServiceRow {
            name: now.name.clone(),
            rates: Rates {
                packets: None,
                bits: rate(|one| one.counts.received_bytes.saturating_add(one.counts.sent_bytes))
                    .map(bits),
                connections: rate(|one| one.counts.connections),
            },
            open: Some(counts.connections.saturating_sub(counts.closed_connections)),
            share_kept: share_kept(now.kept, now.breaks.values().sum()),
            breaks: breaks.map(|(reason, count)| (reason.clone(), *count)).collect(),
        }
    }

    fn server(&self, pool: &PoolStatus, now: &ServerStatus) -> ServerRow {
        let place = (pool.name.as_str(), now.address, now.port);
        let rate = |count: fn(&ServerStatus) -> u64| {
            self.rate(|earlier| earlier.servers.get(&place).map(|one| count(one)), count(now))
        };
        ServerRow {
            pool: pool.name.clone(),
            server: match now.port {
                Some(port) => SocketAddr::new(now.address, port).to_string(),
                None => now.address.to_string(),
            },
            state: now.state,
            rates: Rates {
                packets: rate(|one| one.packets),
                bits: rate(|one| one.bytes).map(bits),
                connections: rate(|one| one.connections),
            },
            open: now.open,
            max_connections: now.max_connections,
        }
    }
}

fn bits(bytes: f64) -> f64 {
    bytes * 8.0
}

#[cfg(test)]
pub(super) mod tests;
