//! Entries from a file, bound by the task that owns the tables.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use lbpersist_common::{
    net::Destination,
    persistence::EntryKey,
    server::Binding,
    service::{Pool, Service, pool_flag, scope},
};

use super::Daemon;
use crate::{
    clock,
    control::{
        Outcome,
        entries::{EntryRecord, Imported},
    },
    datapath::{
        address::{from_map, to_map},
        bind::{Fate, Wanted},
        desired::{Desired, identity_of},
        identity::{Generation, Identities, ServerIdentity},
    },
    store::unix_s,
};

/// The most entries of one request, so that other events get their turn.
pub const ENTRIES_AT_ONCE: usize = 1_000;

impl Daemon {
    /// Binds the clients of `records`, moving those that are bound elsewhere only to `replace`; what is wrong with one does not stop the others.
    pub(super) fn import(&mut self, records: &[EntryRecord], replace: bool) -> Outcome {
        if records.len() > ENTRIES_AT_ONCE {
            return Outcome::refused(format!("at most {ENTRIES_AT_ONCE} entries at a time"));
        }
        let mut imported = Imported::default();
        let mut wanted = Vec::new();
        {
            let book = Book::of(self.data_path.actual(), &self.data_path.identities);
            for (place, record) in records.iter().enumerate() {
                match book.wanted(record, unix_s()) {
                    Ok(Some(one)) => wanted.push(one),
                    Ok(None) => imported.unknown_servers += 1,
                    Err(why) => imported.wrong.push((place, why)),
                }
            }
        }
        match self.data_path.bind(&wanted, replace, clock::now_ns()) {
            Ok(fates) => {
                for fate in fates {
                    *match fate {
                        Fate::Bound => &mut imported.bound,
                        Fate::Moved => &mut imported.moved,
                        Fate::Kept => &mut imported.kept,
                        Fate::Expired => &mut imported.expired,
                        Fate::Unknown => &mut imported.unknown_servers,
                    } += 1;
                }
                Outcome::Imported(imported)
            }
            Err(error) => Outcome::failed(error.to_string()),
        }
    }
}

/// What names mean.
struct Book<'a> {
    identities: &'a Identities,
    pools: &'a BTreeMap<u32, Pool>,
    services: HashMap<u32, Known<'a>>,
}

/// A service, the prefix that it is on if it is on one, and whether its clients are those of IPv4.
#[derive(Clone, Copy)]
struct Known<'a> {
    service: &'a Service,
    prefix: Option<IpNet>,
    is_ipv4: bool,
}

impl<'a> Book<'a> {
    fn of(actual: &'a Desired, identities: &'a Identities) -> Self {
        let exact = actual.services.iter().chain(&actual.carried).map(|(end, service)| {
            let is_ipv4 = end.address.is_ipv4();
            (service.id, Known { service, prefix: None, is_ipv4 })
        });
        let mut services: HashMap<_, _> = exact.collect();
        for ((_, key), service) in &actual.prefix_services {
            let address = from_map(key.address);
            let bits = u8::try_from(service.prefix_length).unwrap_or(128);
            let bits = if address.is_ipv4() { bits.saturating_sub(96) } else { bits };
            if service.id != 0 {
                let (prefix, is_ipv4) = (IpNet::new(address, bits).ok(), address.is_ipv4());
                services.insert(service.id, Known { service, prefix, is_ipv4 });
            }
        }
        Self { identities, pools: &actual.pools, services }
    }

    /// The entry, `None` if there is no such server, or what is wrong.
    fn wanted(&self, record: &EntryRecord, now: u64) -> Result<Option<Wanted>, String> {
        let EntryRecord { virtual_service, pool: name, client, destination, server, .. } = record;
        let Some(of_name) = self.identities.pools.get(name) else {
            return Err(format!("there is no pool `{name}`"));
        };
        let number = of_name.number;
        let pool = self.pools.get(&number).filter(|p| p.flags & pool_flag::PERSISTENT != 0);
        let pool = pool.ok_or_else(|| format!("pool `{name}` keeps no entries in the kernel"))?;
        let (scope, prefix) = match virtual_service {
            Some(service) => self.service(service, name)?,
            None => (scope::pool(pool.id), None),
        };
        let mut of_scope =
            self.services.values().filter(|known| known.service.scope == scope).peekable();
        if of_scope.peek().is_none() {
            return Err(format!("entries of pool `{name}` belong to one `virtual_service` each"));
        }
        let text = client;
        let client = self.client(text, pool)?;
        if of_scope.all(|known| known.is_ipv4 != client.is_ipv4()) {
            return Err(format!(
                "client {text} can never come: the service is of the other address family"
            ));
        }
        let destination = match (destination, prefix) {
            (Some(address), Some(prefix)) if prefix.contains(address) => {
                Destination::of(&to_map(*address))
            }
            (None, None) => Destination::NONE,
            (Some(address), _) => {
                return Err(format!("clients of this service cannot come for {address}"));
            }
            (None, Some(_)) => {
                return Err("`destination` is missing: the service is on a prefix".to_owned());
            }
        };
        let left_ns = nanoseconds(record.remaining_seconds)?.unwrap_or(pool.timeout_ns);
        let (address, port) = parse_server(server)?;
        let identity = ServerIdentity { pool: number, address, port };
        let Some(known) = self.server(&identity) else { return Ok(None) };
        let age = record.created.map_or(0, |created| now.saturating_sub(created));
        Ok(Some(Wanted {
            key: EntryKey { client, scope, destination },
            binding: Binding { server: known.number.into(), generation: known.generation },
            left_ns,
            age_ns: age.saturating_mul(1_000_000_000),
        }))
    }

    fn service(&self, service: &str, pool: &str) -> Result<(u32, Option<IpNet>), String> {
        let known = self.identities.services.get(&identity_of(service, pool));
        let found = known.and_then(|known| self.services.get(&known.id));
        let missing = || format!("there is no virtual service `{service}` with pool `{pool}`");
        found.map(|known| (known.service.scope, known.prefix)).ok_or_else(missing)
    }

    /// The server; one that is named without its port if there is one only on that address.
    fn server(&self, wanted: &ServerIdentity) -> Option<Generation> {
        let exactly = self.identities.servers.get(wanted).copied();
        let at_address = || {
            let mut there = self.identities.servers.iter().filter(|(one, _)| {
                wanted.port == 0 && (one.pool, one.address) == (wanted.pool, wanted.address)
            });
            match (there.next(), there.next()) {
                (Some((_, only)), None) => Some(*only),
                _ => None,
            }
        };
        exactly.or_else(at_address)
    }

    /// The key of the client: what the profile's mask leaves of it.
    fn client(&self, text: &str, pool: &Pool) -> Result<lbpersist_common::net::Address, String> {
        let wrong = || format!("client `{text}` is neither an address nor a prefix");
        let prefix = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().map_err(|_| wrong())?,
        };
        let mask = match prefix {
            IpNet::V4(_) => pool.ipv4_mask.prefix_length().saturating_sub(96),
            IpNet::V6(_) => pool.ipv6_mask.prefix_length(),
        };
        if prefix.prefix_len() < mask {
            return Err(format!("client {prefix} is wider than the /{mask} that the pool keeps"));
        }
        Ok(pool.masked(&to_map(prefix.addr())))
    }
}

fn nanoseconds(seconds: Option<f64>) -> Result<Option<u64>, String> {
    match seconds {
        None => Ok(None),
        Some(seconds) if seconds >= 0.0 => Ok(Some((seconds * 1e9) as u64)),
        Some(seconds) => Err(format!("`remaining_seconds` must be 0 or more, not {seconds}")),
    }
}

fn parse_server(text: &str) -> Result<(IpAddr, u16), String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, 0));
    }
    let server: SocketAddr = text
        .parse()
        .map_err(|_| format!("server `{text}` is neither an address nor one with a port"))?;
    Ok((server.ip(), server.port()))
}
