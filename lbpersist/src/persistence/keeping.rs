//! Which server a request goes to, by the persistence of its pool: a chain of profiles that are asked in turn.
//!
//! [`Keeping::decide`] asks them. Who has no server yet is balanced by the caller. [`Keeping::settle`] then notes the server
//! wherever the profiles keep it, and gives a [`Session`] that sees the answer and lives as long as the request. Nothing here
//! waits, and nothing allocates for a request that has its server already.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use lbpersist_common::breaks::BreakReason;

use super::{
    breaks::Breaks,
    entries::{Book, Tenure},
    header::{self, Without},
    memory::{Memory, Stamp},
    roster::Roster,
    table::{Bound, Hold, Table},
    token::{Keyring, LENGTH, Refusal, Token},
};
use crate::{
    clock,
    model::{HttpCookie, OnLimit, PersistenceProfile, ServerDown},
};

const LINKS: usize = PersistenceProfile::LONGEST_CHAIN;

/// How many cookies of our name are opened for one request: opening costs, and a client may send many.
const CANDIDATES: usize = 4;

/// What the methods read of a request.
pub trait Request {
    /// Its Cookie headers.
    fn cookies(&self) -> impl Iterator<Item = &[u8]>;
    /// The value of a header.
    fn header(&self, name: &str) -> Option<&[u8]>;
    /// Path and query.
    fn target(&self) -> &[u8];
    /// Whose it is.
    fn client(&self) -> SocketAddr;
    /// What is remembered of its cookie from requests before.
    fn memory(&self) -> Option<&Memory> {
        None
    }
}

/// Whether a server may have a request of a client that is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It may.
    Usable,
    /// It has as many connections as it may have.
    Full,
    /// Its monitors say that it is down.
    Down,
    /// The same, and it was being drained.
    Drained,
    /// It is to serve nobody.
    Disabled,
}

/// The time of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// Milliseconds of the monotonic clock.
    pub ms: u64,
}

impl Now {
    /// Seconds since 1970.
    pub fn unix_s(self) -> u32 {
        u32::try_from(self.unix_ms / 1_000).unwrap_or(u32::MAX)
    }
}

/// What is to become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It goes to this server of the pool.
    Server {
        /// Its place in the pool.
        server: usize,
        /// When it cannot be reached, another one may be tried.
        may_move: bool,
    },
    /// Its client has no server yet: any will do.
    Balance,
    /// Its server is down, and it may have no other.
    Refuse,
    /// Its server is full, and it may have no other.
    RefuseFull,
}

/// How a request that has met a server stands to those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No profile knew a server for it.
    New,
    /// It has met the server that a profile knew.
    Kept,
    /// It has met another one.
    Moved,
}

impl Outcome {
    /// Its name in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Kept => "kept",
            Self::Moved => "moved",
        }
    }
}

/// What is counted. Numbers are places in [`Counters`]; the first are those of [`Refusal`]; append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A cookie, or an entry, named a server that is no longer there.
    UnknownServer = 7,
    /// A request had more than one cookie of our name.
    Doubled = 8,
    /// A client's server was down, and it was given another one.
    Down = 9,
    /// A client's server had no room, and it was given another one.
    Full = 10,
    /// A client's server was down, and it was refused.
    Refused = 11,
    /// A client's server had no room, and it was refused.
    RefusedFull = 12,
}

/// Names of what is counted, by number. None is the name of an outcome, beside which they stand in `status`.
pub const EVENTS: [&str; 13] = [
    "cookie_malformed",
    "cookie_oversized",
    "cookie_version",
    "cookie_unknown_key",
    "cookie_forged",
    "cookie_expired",
    "cookie_future",
    "unknown_server",
    "cookie_doubled",
    "moved_down",
    "moved_full",
    "refused",
    "refused_full",
];

/// What has happened, by number.
#[derive(Debug, Default)]
pub struct Counters([AtomicU64; EVENTS.len()]);

impl Counters {
    /// How often each has happened.
    pub fn counts(&self) -> [u64; EVENTS.len()] {
        std::array::from_fn(|place| self.0[place].load(Relaxed))
    }

    fn count(&self, event: Event) {
        self.0[event as usize].fetch_add(1, Relaxed);
    }

    fn refuse(&self, refusal: Refusal) {
        self.0[refusal as usize].fetch_add(1, Relaxed);
    }
}

/// The keys that are in use, exchanged when they rotate.
#[derive(Debug)]
pub struct Keys {
    ring: RwLock<Keyring>,
    /// How many there have been.
    number: AtomicU64,
}

impl Keys {
    /// These keys.
    pub fn new(keyring: Keyring) -> Self {
        Self { ring: RwLock::new(keyring), number: AtomicU64::new(0) }
    }

    /// Other keys from now on.
    pub fn set(&self, keyring: Keyring) {
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = keyring;
        self.number.fetch_add(1, Release);
    }

    fn with<T>(&self, act: impl FnOnce(&Keyring) -> T) -> T {
        act(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The persistence of a pool behind a service.
#[derive(Debug)]
pub struct Keeping {
    pub(super) links: Vec<Link>,
    pub(super) on_limit: OnLimit,
    pub(super) roster: Roster,
    pub(super) counters: Arc<Counters>,
    pub(super) breaks: Arc<Breaks>,
}

/// A profile of the chain.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) method: Method,
    pub(super) server_down: ServerDown,
}

#[derive(Debug)]
pub(super) enum Method {
    Cookie(Box<Cookie>),
    App { name: String, argument: String, table: Arc<Table> },
    Header { name: String },
    Address { ipv4_mask: u8, ipv6_mask: u8, book: Arc<Book> },
}

/// A cookie of ours, with all of its line that is always the same.
#[derive(Debug)]
pub(super) struct Cookie {
    /// No other has it.
    id: u64,
    name: String,
    /// Profile and pool, which values are bound to.
    owner: Vec<u8>,
    attributes: String,
    timeout_s: u32,
    persistent: bool,
    always_send: bool,
    strip: bool,
    keys: Arc<Keys>,
}

impl Cookie {
    pub(super) fn new(
        name: &str,
        profile: &str,
        pool: &str,
        settings: &HttpCookie,
        keys: Arc<Keys>,
    ) -> Self {
        let mut attributes = format!("; Path={}", settings.path);
        if let Some(domain) = &settings.domain {
            attributes += &format!("; Domain={domain}");
        }
        if settings.secure {
            attributes += "; Secure";
        }
        if settings.http_only {
            attributes += "; HttpOnly";
        }
        if let Some(same_site) = settings.same_site {
            attributes += &format!("; SameSite={}", same_site.attribute());
        }
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            name: name.to_owned(),
            owner: [profile.as_bytes(), b"\0", pool.as_bytes()].concat(),
            attributes,
            timeout_s: u32::try_from(settings.timeout.as_secs()).unwrap_or(u32::MAX),
            persistent: settings.persistent,
            always_send: settings.always_send,
            strip: settings.strip_from_request,
            keys,
        }
    }

    /// What a value says, and whether its key is the one that seals now.
    fn open(
        &self,
        value: &[u8],
        memory: Option<&Memory>,
        now_s: u32,
    ) -> Result<(Token, bool), Refusal> {
        let Some(memory) = memory else {
            return self.keys.with(|keys| keys.open(value, &self.owner, now_s));
        };
        // The number before the keys: what other keys have opened meanwhile is not found again.
        let stamp = Stamp { cookie: self.id, keys: self.keys.number.load(Acquire) };
        if let Some((token, fresh)) = memory.recall(stamp, value) {
            return token.check(now_s).map(|()| (token, fresh));
        }
        let opened = self.keys.with(|keys| keys.open(value, &self.owner, now_s))?;
        memory.note(stamp, value, opened);
        Ok(opened)
    }

    fn line(&self, token: &Token, now_s: u32) -> Vec<u8> {
        let sealed = self.keys.with(|keys| keys.seal(token, &self.owner));
        let mut line = Vec::with_capacity(self.name.len() + LENGTH + self.attributes.len() + 24);
        line.extend_from_slice(self.name.as_bytes());
        line.push(b'=');
        line.extend_from_slice(&sealed);
        line.extend_from_slice(self.attributes.as_bytes());
        if self.persistent {
            let left = token.expires.saturating_sub(now_s);
            line.extend_from_slice(format!("; Max-Age={left}").as_bytes());
        }
        line
    }
}

/// What a profile knows of a client.
enum Found {
    Cookie { token: Token, fresh: bool },
    Entry(Hold),
    Address,
    Named,
}

/// What the profiles say of a request. To be settled, or else dropped, when the request goes to no server.
pub struct Decision {
    choice: Choice,
    /// The profile that named the server, by its place in the chain.
    by: Option<usize>,
    token: Option<(Token, bool)>,
    hold: Option<(usize, Hold)>,
    /// A profile knew a server that cannot have the request.
    lost: bool,
    /// The client's entry names another server than it is to have.
    moved: bool,
    client: SocketAddr,
    /// The server that the client was bound to and does not meet, if it is still there, and why.
    broken: Option<(Option<usize>, BreakReason)>,
    keeping: Arc<Keeping>,
}

impl Decision {
    /// What is to become of the request.
    pub fn choice(&self) -> Choice {
        self.choice
    }

    /// What it comes to when `server` has the request.
    pub fn outcome(&self, server: usize) -> Outcome {
        match self.choice {
            Choice::Server { server: own, .. } if own == server => Outcome::Kept,
            Choice::Balance if !self.lost => Outcome::New,
            _ => Outcome::Moved,
        }
    }
}

impl Drop for Decision {
    fn drop(&mut self) {
        if let Some((link, hold)) = self.hold.take() {
            self.keeping.close(link, hold, clock::now_ns() / 1_000_000);
        }
    }
}

impl Keeping {
    /// Asks the profiles in turn. `tenure` is that of the client's connection.
    pub fn decide(
        self: &Arc<Self>,
        request: &impl Request,
        tenure: &Tenure,
        condition: impl Fn(usize) -> Condition,
        now: Now,
    ) -> Decision {
        let mut decision = Decision {
            choice: Choice::Balance,
            by: None,
            token: None,
            hold: None,
            lost: false,
            moved: false,
            client: request.client(),
            broken: None,
            keeping: Arc::clone(self),
        };
        for (place, link) in self.links.iter().enumerate() {
            let (server, found) = match self.find(link, request, tenure, now) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(Unknown) => {
                    decision.broken.get_or_insert((None, BreakReason::Removed));
                    continue;
                }
            };
            let judged = self.judge(link, server, condition(server));
            if let (Found::Entry(hold), Err(_)) = (&found, judged) {
                self.close(place, *hold, now.ms);
            }
            match judged {
                Ok(choice) => {
                    decision.choice = choice;
                    decision.by = Some(place);
                    match found {
                        Found::Cookie { token, fresh } => decision.token = Some((token, fresh)),
                        Found::Entry(hold) => decision.hold = Some((place, hold)),
                        Found::Address | Found::Named => {}
                    }
                    return decision;
                }
                Err(Lost::Refused(choice)) => {
                    decision.choice = choice;
                    return decision;
                }
                // The next profile may know better, and then any server will do.
                Err(Lost::Gone(reason)) => {
                    decision.lost = true;
                    decision.moved |= matches!(found, Found::Address);
                    decision.broken.get_or_insert((Some(server), reason));
                }
            }
        }
        decision
    }

    /// Notes that the request goes to `server`, wherever the profiles keep that.
    pub fn settle(
        self: &Arc<Self>,
        mut decision: Decision,
        tenure: &Tenure,
        server: usize,
        now: Now,
    ) -> Session {
        let mut session = Session {
            keeping: Arc::clone(self),
            server,
            tokens: [None; LINKS],
            holds: [const { None }; LINKS],
        };
        let (by, hold) = (decision.by, decision.hold.take());
        let as_decided =
            matches!(decision.choice, Choice::Server { server: decided, .. } if decided == server);
        self.count(&decision, server, now);
        if let Some((place, hold)) = hold {
            if as_decided {
                session.holds[place] = Some(hold);
            } else {
                self.close(place, hold, now.ms);
            }
        }
        let bound = self.roster.bound(server);
        // Those that were asked and knew nothing; the one that knew, if it was not to be.
        let last = by.map_or(self.links.len(), |by| if as_decided { by } else { by + 1 });
        for (place, link) in self.links.iter().enumerate().take(last) {
            match &link.method {
                Method::Cookie(cookie) => {
                    let expires = if cookie.timeout_s == 0 {
                        0
                    } else {
                        now.unix_s().saturating_add(cookie.timeout_s)
                    };
                    let Bound { server, generation } = bound;
                    session.tokens[place] =
                        Some(Token { server, generation, issued: now.unix_s(), expires });
                }
                Method::Address { book, .. } => {
                    // Its entry named a server, and the request has gone to another one.
                    let moved = decision.moved || by == Some(place);
                    tenure.settle(book, decision.client, server, moved);
                }
                Method::App { .. } | Method::Header { .. } => {}
            }
        }
        if as_decided
            && let Some(place) = by
            && let Method::Address { book, .. } = &self.links[place].method
        {
            tenure.settle(book, decision.client, server, false);
        }
        if let (true, Some(place), Some((token, fresh))) = (as_decided, by, decision.token)
            && let Method::Cookie(cookie) = &self.links[place].method
            && (cookie.always_send || !fresh)
        {
            session.tokens[place] = Some(token);
        }
        session
    }

    /// Counts whether a bound client met its server.
    fn count(&self, decision: &Decision, server: usize, now: Now) {
        let lost = match decision.choice {
            // It could not be reached, whatever its monitors say.
            Choice::Server { server: decided, .. } if decided != server => {
                decision.broken.or(Some((Some(decided), BreakReason::Down)))
            }
            _ => decision.broken,
        };
        match lost {
            Some((before, reason)) if before != Some(server) => {
                let before = before.and_then(|before| self.roster.name(before));
                let servers = [before, self.roster.name(server)];
                let client = decision.client.ip().to_canonical();
                self.breaks.broken(reason, client, servers, now.unix_ms);
            }
            _ if decision.by.is_some() => self.breaks.kept(),
            _ => {}
        }
    }

    /// Takes our cookies out of a Cookie header.
    pub fn strip(&self, cookies: &[u8]) -> Without {
        let ours = |name: &[u8]| {
            self.links.iter().any(|link| match &link.method {
                Method::Cookie(cookie) => cookie.strip && cookie.name.as_bytes() == name,
                _ => false,
            })
        };
        header::without(cookies, ours)
    }

    /// The bits of a client's address that make its key, if clients are kept by it at last: who shares them shall meet the
    /// same server from the first request on.
    pub fn address_key(&self, client: IpAddr) -> Option<IpAddr> {
        self.links.iter().find_map(|link| match &link.method {
            Method::Address { ipv4_mask, ipv6_mask, .. } => {
                let key = masked(client, *ipv4_mask, *ipv6_mask);
                Some(match client {
                    IpAddr::V4(_) => IpAddr::from([key[12], key[13], key[14], key[15]]),
                    IpAddr::V6(_) => IpAddr::from(key),
                })
            }
            _ => None,
        })
    }

    /// The server that a profile knows for a request.
    fn find(
        &self,
        link: &Link,
        request: &impl Request,
        tenure: &Tenure,
        now: Now,
    ) -> Result<Option<(usize, Found)>, Unknown> {
        let entry = |table: &Table, secret: &[u8]| {
            let Some((bound, hold)) = table.open(secret, now.ms) else { return Ok(None) };
            match self.roster.by_id(bound) {
                Some(server) => Ok(Some((server, Found::Entry(hold)))),
                None => {
                    table.close(hold, now.ms);
                    self.counters.count(Event::UnknownServer);
                    Err(Unknown)
                }
            }
        };
        match &link.method {
            Method::Cookie(cookie) => self.find_cookie(cookie, request, now),
            Method::App { name, argument, table } => {
                let named = named(request, name).find(|value| !value.is_empty());
                let value =
                    named.or_else(|| header::argument(request.target(), argument.as_bytes()));
                value.map_or(Ok(None), |value| entry(table, value))
            }
            Method::Header { name } => {
                let value = request.header(name);
                let server = value.and_then(|value| self.roster.by_header(value));
                Ok(server.map(|server| (server, Found::Named)))
            }
            Method::Address { book, .. } => match tenure.find(book, request.client().ip()) {
                None => Ok(None),
                Some(Ok(server)) => Ok(Some((server, Found::Address))),
                Some(Err(())) => {
                    self.counters.count(Event::UnknownServer);
                    Err(Unknown)
                }
            },
        }
    }

    /// The first cookie of the name that opens and names a server: browsers send that of the longest path first. What others
    /// say changes nothing, so nobody can overrule a cookie by adding one.
    fn find_cookie(
        &self,
        cookie: &Cookie,
        request: &impl Request,
        now: Now,
    ) -> Result<Option<(usize, Found)>, Unknown> {
        let mut values = named(request, &cookie.name);
        let mut found = None;
        let mut is_unknown = false;
        for value in values.by_ref().take(CANDIDATES) {
            if found.is_some() {
                self.counters.count(Event::Doubled);
                break;
            }
            match cookie.open(value, request.memory(), now.unix_s()) {
                Ok((token, fresh)) => {
                    let bound = Bound { server: token.server, generation: token.generation };
                    match self.roster.by_id(bound) {
                        Some(server) => found = Some((server, Found::Cookie { token, fresh })),
                        None => {
                            self.counters.count(Event::UnknownServer);
                            is_unknown = true;
                        }
                    }
                }
                Err(refusal) => self.counters.refuse(refusal),
            }
        }
        if found.is_none() && is_unknown { Err(Unknown) } else { Ok(found) }
    }

    fn judge(&self, link: &Link, server: usize, condition: Condition) -> Result<Choice, Lost> {
        let may_move = link.server_down == ServerDown::Immediate;
        let stays = Ok(Choice::Server { server, may_move });
        let reason = match condition {
            Condition::Usable => return stays,
            Condition::Full => BreakReason::Limit,
            Condition::Down => BreakReason::Down,
            Condition::Drained => BreakReason::Drained,
            Condition::Disabled => BreakReason::Disabled,
        };
        let (event, lost) = match (condition, link.server_down, self.on_limit) {
            (Condition::Full, _, OnLimit::Exceed) => return stays,
            (Condition::Full, _, OnLimit::Spill) => (Event::Full, Lost::Gone(reason)),
            (Condition::Full, _, OnLimit::Reject) => {
                (Event::RefusedFull, Lost::Refused(Choice::RefuseFull))
            }
            (_, ServerDown::Continue, _) => return stays,
            (_, ServerDown::Immediate, _) => (Event::Down, Lost::Gone(reason)),
            (_, ServerDown::Never, _) => (Event::Refused, Lost::Refused(Choice::Refuse)),
        };
        self.counters.count(event);
        Err(lost)
    }

    fn close(&self, place: usize, hold: Hold, now_ms: u64) {
        if let Method::App { table, .. } = &self.links[place].method {
            table.close(hold, now_ms);
        }
    }
}

/// Why a client does not go to the server it is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Gone(BreakReason),
    Refused(Choice),
}

/// A client is bound to a server that is no longer in the pool.
struct Unknown;

/// A request that has its server. It keeps the entries it uses from expiring, until it is dropped.
#[derive(Debug)]
pub struct Session {
    keeping: Arc<Keeping>,
    server: usize,
    tokens: [Option<Token>; LINKS],
    holds: [Option<Hold>; LINKS],
}

impl Session {
    /// Learns from the answer's Set-Cookie headers.
    pub fn learn(&mut self, set_cookie: &[u8], now: Now) {
        let Some((name, value)) = header::set_cookie(set_cookie) else { return };
        for (place, link) in self.keeping.links.iter().enumerate() {
            let Method::App { name: wanted, table, .. } = &link.method else { continue };
            if wanted.as_bytes() == name {
                let hold = table.bind(value, self.keeping.roster.bound(self.server), now.ms);
                if let Some(old) = self.holds[place].replace(hold) {
                    table.close(old, now.ms);
                }
            }
        }
    }

    /// Whether [`Session::learn`] has anything to learn.
    pub fn learns(&self) -> bool {
        self.keeping.links.iter().any(|link| matches!(link.method, Method::App { .. }))
    }

    /// The Set-Cookie lines that the answer is to have.
    pub fn set_cookies(&self, now: Now) -> impl Iterator<Item = Vec<u8>> {
        self.tokens.iter().zip(&self.keeping.links).filter_map(move |(token, link)| {
            match (token, &link.method) {
                (Some(token), Method::Cookie(cookie)) => Some(cookie.line(token, now.unix_s())),
                _ => None,
            }
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for place in 0..LINKS {
            if let Some(hold) = self.holds[place].take() {
                self.keeping.close(place, hold, clock::now_ns() / 1_000_000);
            }
        }
    }
}

/// The values of the cookies called `name`.
fn named<'r>(request: &'r impl Request, name: &str) -> impl Iterator<Item = &'r [u8]> {
    let pairs = request.cookies().flat_map(header::cookies);
    pairs.filter(move |(own, _)| *own == name.as_bytes()).map(|(_, value)| value)
}

/// The bits of an address that make its key, IPv4 in mapped form.
fn masked(client: IpAddr, ipv4_mask: u8, ipv6_mask: u8) -> [u8; 16] {
    let (bits, kept) = match client.to_canonical() {
        IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), 96 + u32::from(ipv4_mask)),
        IpAddr::V6(address) => (address.to_bits(), u32::from(ipv6_mask)),
    };
    (bits & !u128::MAX.checked_shr(kept).unwrap_or(0)).to_be_bytes()
}
