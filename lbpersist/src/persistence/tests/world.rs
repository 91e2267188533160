//! What the tests ask: a pool of three servers, its entries, and requests that are plain values.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use lbpersist_common::{
    net::Address,
    persistence::EntryKey,
    server::Binding,
    service::{Service, scope},
};

use crate::{
    config,
    persistence::{
        Choice, Condition, Decision, Keeper, Keeping, Now, Request, Tenure,
        count::EVENTS,
        entries::{Entries, Opened, Site, Sites},
        state::{State, Store},
    },
};

/// Keeps nothing for longer than it lives.
struct Memory(Mutex<Option<State>>);

impl Store for Memory {
    fn load(&self) -> Option<State> {
        self.0.lock().unwrap().take()
    }

    fn save(&self, _: &State) {}
}

/// A table of entries that stands still: who is bound to which server, and how many connections count.
#[derive(Debug, Default)]
pub(super) struct Fake(pub(super) Mutex<HashMap<EntryKey, (Binding, u32)>>);

impl Entries for Fake {
    fn find(&self, site: &Site, client: IpAddr) -> Option<Binding> {
        self.0.lock().unwrap().get(&site.entry_key(client)).map(|(binding, _)| *binding)
    }

    fn open(
        &self,
        site: &Site,
        client: SocketAddr,
        binding: Binding,
        moved: bool,
    ) -> Option<Opened> {
        let entry = site.entry_key(client.ip());
        let mut entries = self.0.lock().unwrap();
        let (bound, open) = entries.entry(entry).or_insert((binding, 0));
        if moved {
            (*bound, *open) = (binding, 0);
        }
        *open += 1;
        Some(Opened { entry, connection: site.connection_key(client), opened_ns: 0 })
    }

    fn close(&self, opened: &Opened) {
        self.0.lock().unwrap().get_mut(&opened.entry).unwrap().1 -= 1;
    }
}

pub(super) fn site(ipv4_mask: u8, ipv6_mask: u8) -> Site {
    Site {
        service: Service { id: 7, index: 0, pool: 0, scope: scope::service(7), prefix_length: 0 },
        port: 80,
        ipv4_mask: Address::ipv4_prefix_mask(ipv4_mask),
        ipv6_mask: Address::prefix_mask(ipv6_mask),
        timeout_ns: 1,
        bindings: (1..=3).map(|server| Binding { server, generation: 1 }).collect(),
    }
}

#[derive(Clone)]
pub(super) struct Ask {
    pub(super) cookies: Vec<String>,
    pub(super) shard: Option<&'static str>,
    pub(super) target: String,
    pub(super) client: IpAddr,
}

impl Request for Ask {
    fn cookies(&self) -> impl Iterator<Item = &[u8]> {
        self.cookies.iter().map(String::as_bytes)
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        assert_eq!(name, "x-shard");
        self.shard.map(str::as_bytes)
    }

    fn target(&self) -> &[u8] {
        self.target.as_bytes()
    }

    fn client(&self) -> SocketAddr {
        SocketAddr::new(self.client, 4000)
    }
}

pub(super) fn ask() -> Ask {
    Ask { cookies: Vec::new(), shard: None, target: "/".to_owned(), client: [192, 0, 2, 1].into() }
}

pub(super) fn with_cookie(cookie: &str) -> Ask {
    Ask { cookies: vec![cookie.to_owned()], ..ask() }
}

/// A pool of three servers whose profile `p` has `fields`, and the conditions of its servers.
pub(super) struct World {
    pub(super) keeper: Keeper,
    pub(super) keeping: Arc<Keeping>,
    pub(super) entries: Arc<dyn Entries>,
    pub(super) fake: Arc<Fake>,
    pub(super) conditions: RefCell<[Condition; 3]>,
    pub(super) now: Now,
}

pub(super) const SERVERS: &str = "{ address = \"10.0.0.1\" }, { address = \"10.0.0.2\", header_value = \"blue\" }, { address = \"10.0.0.3\" }";

pub(super) fn text(servers: &str, fields: &str) -> String {
    format!(
        "[[pool]]\nname = \"web\"\npersistence_profile = \"p\"\nservers = [{servers}]\n\
         [[persistence_profile]]\nname = \"p\"\n{fields}\n"
    )
}

impl World {
    pub(super) fn new(fields: &str) -> Self {
        Self::in_pool("", fields)
    }

    /// The same, with `settings` in the table of the pool.
    pub(super) fn in_pool(settings: &str, fields: &str) -> Self {
        let mut keeper = Keeper::new(Box::new(Memory(Mutex::new(None))));
        let fake = Arc::new(Fake::default());
        let entries: Arc<dyn Entries> = Arc::<Fake>::clone(&fake);
        let keeping = make(
            &mut keeper,
            &entries,
            &text(SERVERS, fields).replacen("[[pool]]\n", &format!("[[pool]]\n{settings}\n"), 1),
        );
        let conditions = RefCell::new([Condition::Usable; 3]);
        let ms = crate::clock::now_ns() / 1_000_000;
        Self { keeper, keeping, entries, fake, conditions, now: Now { unix_ms: unix_ms(), ms } }
    }

    pub(super) fn decide(&self, request: &Ask) -> Decision {
        let condition = |server: usize| self.conditions.borrow()[server];
        self.keeping.decide(request, &Tenure::default(), condition, self.now)
    }

    pub(super) fn choice(&self, request: &Ask) -> Choice {
        self.decide(request).choice()
    }

    /// Sends a request to `server`, and gives the cookies that are set.
    pub(super) fn visit(&self, request: &Ask, server: usize) -> Vec<String> {
        let session =
            self.keeping.settle(self.decide(request), &Tenure::default(), server, self.now);
        session.set_cookies(self.now).map(|line| String::from_utf8(line).unwrap()).collect()
    }

    /// The cookie that a client of `server` gets.
    pub(super) fn cookie(&self, server: usize) -> String {
        let lines = self.visit(&ask(), server);
        assert_eq!(lines.len(), 1);
        lines[0].split(';').next().unwrap().to_owned()
    }

    pub(super) fn counted(&self, event: usize) -> u64 {
        self.keeper.counts("w")[EVENTS[event]]
    }

    pub(super) fn set(&self, server: usize, condition: Condition) {
        self.conditions.borrow_mut()[server] = condition;
    }
}

fn unix_ms() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

pub(super) fn make(keeper: &mut Keeper, entries: &Arc<dyn Entries>, text: &str) -> Arc<Keeping> {
    let model = config::parse(text).unwrap();
    let (name, pool) = model.pools.first_key_value().unwrap();
    let by_address = pool.persistence.as_ref().unwrap().by_address();
    let site = by_address.map(|(_, method)| Arc::new(site(method.ipv4_mask, method.ipv6_mask)));
    let by_service = site.map(|site| ("w".to_owned(), site)).into_iter().collect();
    let sites = Sites { entries: Some(Arc::clone(entries)), by_service };
    keeper.keeping("w", name, &model, &sites).unwrap()
}
