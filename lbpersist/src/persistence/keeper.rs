//! What persistence has from one configuration to the next: keys, names, tables and counters.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    breaks::Breaks,
    cookie::{Cookie, Keys},
    count::{Counters, EVENTS},
    entries::{Book, Site, Sites},
    keeping::{Keeping, Link, Method},
    roster::{self, Roster},
    state::{State, Store},
    table::Table,
};
use crate::{
    clock, model,
    model::{Model, Pool},
    store::unix_s,
};

/// How long a key seals.
const ROTATION: Duration = Duration::from_secs(86_400);

/// Makes the persistence of pools, and keeps what outlives a configuration.
pub struct Keeper {
    store: Box<dyn Store>,
    state: Option<State>,
    keys: Option<Arc<Keys>>,
    tables: HashMap<TableKey, Arc<Table>>,
    counters: HashMap<String, Arc<Counters>>,
    breaks: BTreeMap<String, Arc<Breaks>>,
    made: HashMap<String, Made>,
}

/// Profile and pool.
type TableKey = (String, String);

/// The persistence of a service, and what it was made of.
struct Made {
    pool: Pool,
    site: Option<Arc<Site>>,
    keeping: Arc<Keeping>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Keeper {
    /// One that keeps its state in `store`, which is not touched before a profile needs it.
    pub fn new(store: Box<dyn Store>) -> Self {
        Self {
            store,
            state: None,
            keys: None,
            tables: HashMap::new(),
            counters: HashMap::new(),
            breaks: BTreeMap::new(),
            made: HashMap::new(),
        }
    }

    /// The persistence of a service with that pool; nothing when clients are not kept.
    pub fn keeping(
        &mut self,
        service: &str,
        pool: &str,
        model: &Model,
        sites: &Sites,
    ) -> Option<Arc<Keeping>> {
        let pool = model.pools.get(pool)?;
        let profile = pool.persistence.as_ref()?;
        let site = sites.by_service.get(service);
        if let Some(made) = self.made.get(service)
            && made.pool == *pool
            && made.site.as_ref() == site
        {
            return Some(Arc::clone(&made.keeping));
        }
        let book = sites.entries.as_ref().zip(site).map(|(entries, site)| Book::new(entries, site));
        let mut book = book.map(Arc::new);
        let needs_state =
            profile.chain().any(|one| matches!(one.method, model::Method::HttpCookie(_)));
        if needs_state {
            self.load();
        }
        let ids = roster::ids(pool);
        let mut changed = false;
        if let Some(state) = &mut self.state {
            changed |= state.note_servers(roster::pool_id(&pool.name), &ids);
        }
        let mut links = Vec::new();
        for profile in profile.chain() {
            let Some(method) = self.method(profile, pool, &mut book, &mut changed) else {
                continue;
            };
            links.push(Link { method, server_down: profile.server_down });
        }
        if changed && let Some(state) = &self.state {
            self.store.save(state);
        }
        let generation = |id| self.state.as_ref().map_or(0, |state| state.generation(id));
        let roster = Roster::of(pool, generation);
        let counters = Arc::clone(self.counters.entry(service.to_owned()).or_default());
        let breaks = Arc::clone(self.breaks.entry(service.to_owned()).or_default());
        let on_limit = pool.on_limit;
        let keeping = Arc::new(Keeping { links, on_limit, roster, counters, breaks });
        let made = Made { pool: pool.clone(), site: site.cloned(), keeping: Arc::clone(&keeping) };
        self.made.insert(service.to_owned(), made);
        Some(keeping)
    }

    /// Forgets what belongs to services that are not carried any more, or to profiles that their pools do not name.
    pub fn retain(&mut self, model: &Model) {
        let carried = || model.services.values().filter(|service| service.carried.is_some());
        let has_service = |name: &String| carried().any(|service| service.name == *name);
        self.made.retain(|service, _| has_service(service));
        self.counters.retain(|service, _| has_service(service));
        self.tables.retain(|(profile, pool), _| {
            let pool = model.pools.get(pool).filter(|_| carried().any(|one| one.pool == *pool));
            let first = pool.and_then(|pool| pool.persistence.as_ref());
            first.is_some_and(|first| {
                let mut of_cookies =
                    first.chain().filter(|one| matches!(one.method, model::Method::AppCookie(_)));
                of_cookies.any(|one| one.name == *profile)
            })
        });
    }

    /// The persistence of services, and the pools that it was made of.
    pub(super) fn made(&self) -> impl Iterator<Item = (&Pool, &Keeping)> {
        self.made.values().map(|made| (&made.pool, &*made.keeping))
    }

    /// The table of a profile for a pool.
    pub(super) fn table_of(&self, profile: &str, pool: &str) -> Option<Arc<Table>> {
        self.tables.get(&(profile.to_owned(), pool.to_owned())).cloned()
    }

    /// Gives the memory of expired entries back, and rotates keys when it is time.
    pub fn tick(&mut self) {
        let now = clock::now_ns() / 1_000_000;
        self.tables.values().for_each(|table| table.expire(now));
        if let (Some(state), Some(keys)) = (&mut self.state, &self.keys)
            && state.rotate(unix_s(), ROTATION.as_secs())
        {
            self.store.save(state);
            if let Some(keyring) = state.keyring() {
                keys.set(keyring);
            }
        }
    }

    /// What has been counted for a service, by event.
    pub fn counts(&self, service: &str) -> BTreeMap<String, u64> {
        let Some(counters) = self.counters.get(service) else { return BTreeMap::new() };
        let counts = EVENTS.into_iter().zip(counters.counts());
        counts.map(|(event, count)| (event.to_owned(), count)).collect()
    }

    /// What has happened to the bound clients of each service.
    pub fn breaks(&self) -> &BTreeMap<String, Arc<Breaks>> {
        &self.breaks
    }

    fn load(&mut self) {
        if self.state.is_some() {
            return;
        }
        let mut state = self.store.load().unwrap_or_default();
        if state.rotate(unix_s(), ROTATION.as_secs()) {
            self.store.save(&state);
        }
        self.keys = state.keyring().map(|keyring| Arc::new(Keys::new(keyring)));
        self.state = Some(state);
    }

    fn method(
        &mut self,
        profile: &model::PersistenceProfile,
        pool: &Pool,
        book: &mut Option<Arc<Book>>,
        changed: &mut bool,
    ) -> Option<Method> {
        Some(match &profile.method {
            model::Method::HttpCookie(settings) => {
                let keys = Arc::clone(self.keys.as_ref()?);
                let generated = match &settings.cookie_name {
                    Some(name) => name.as_str(),
                    None => {
                        let (name, is_new) = self.state.as_mut()?.name(&profile.name, &pool.name);
                        *changed |= is_new;
                        name
                    }
                };
                let cookie = Cookie::new(generated, &profile.name, &pool.name, settings, keys);
                Method::Cookie(Box::new(cookie))
            }
            model::Method::AppCookie(settings) => Method::App {
                name: settings.cookie_name.clone(),
                argument: settings.query_argument.clone(),
                table: self.table(
                    (profile.name.clone(), pool.name.clone()),
                    settings.table_size,
                    settings.timeout,
                ),
            },
            model::Method::Header(settings) => {
                Method::Header { name: settings.header_name.clone() }
            }
            model::Method::ClientIp(settings) if settings.timeout.is_zero() => return None,
            model::Method::ClientIp(settings) => {
                let (ipv4_mask, ipv6_mask) = (settings.ipv4_mask, settings.ipv6_mask);
                Method::Address { ipv4_mask, ipv6_mask, book: book.take()? }
            }
        })
    }

    fn table(&mut self, key: TableKey, size: u32, timeout: Duration) -> Arc<Table> {
        let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let now = clock::now_ns() / 1_000_000;
        let table =
            self.tables.entry(key).or_insert_with(|| Arc::new(Table::new(size, timeout, now)));
        table.set_limits(size, timeout);
        Arc::clone(table)
    }
}
