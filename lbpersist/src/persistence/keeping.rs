//! Which server a request goes to, by the persistence of its pool: a chain of profiles that are asked in turn.
//!
//! [`Keeping::decide`] asks them. Who has no server yet is balanced by the caller. [`Keeping::settle`] then notes the server
//! wherever the profiles keep it, and gives a [`Session`] that sees the answer and lives as long as the request. Nothing here
//! waits, and nothing allocates for a request that has its server already.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lbpersist_common::breaks::BreakReason;

use super::{
    breaks::Breaks,
    cookie::Cookie,
    count::{Counters, Event},
    entries::{Book, Tenure},
    header::{self, Without},
    request::{Choice, Condition, Now, Outcome, Request},
    roster::Roster,
    session::Session,
    table::{Bound, Hold, Table},
    token::Token,
};
use crate::{
    clock,
    model::{OnLimit, ServerDown},
};

/// How many cookies of our name are opened for one request: opening costs, and a client may send many.
const CANDIDATES: usize = 4;

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

/// What a profile knows of a client.
enum Found {
    /// `fresh`: the client need not be given it anew.
    Cookie {
        token: Token,
        fresh: bool,
    },
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
        let mut session = Session::new(Arc::clone(self), server);
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
                    session.tokens[place] = Some(cookie.token(bound, now.unix_s()));
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
    /// say changes nothing, so nobody can overrule a cookie by adding one. A client with several is given that one anew.
    fn find_cookie(
        &self,
        cookie: &Cookie,
        request: &impl Request,
        now: Now,
    ) -> Result<Option<(usize, Found)>, Unknown> {
        let mut values = named(request, &cookie.name);
        let mut found = None;
        let mut is_unknown = false;
        let mut is_alone = true;
        for value in values.by_ref().take(CANDIDATES) {
            if found.is_some() {
                self.counters.count(Event::Doubled);
                is_alone = false;
                break;
            }
            match cookie.open(value, request.memory(), now.unix_s()) {
                Ok((token, fresh)) => {
                    let bound = Bound { server: token.server, generation: token.generation };
                    match self.roster.by_id(bound) {
                        Some(server) => found = Some((server, Found::Cookie { token, fresh })),
                        None => {
                            self.counters.count(Event::UnknownServer);
                            (is_unknown, is_alone) = (true, false);
                        }
                    }
                }
                Err(refusal) => {
                    self.counters.refuse(refusal);
                    is_alone = false;
                }
            }
        }
        if let Some((_, Found::Cookie { fresh, .. })) = &mut found {
            *fresh &= is_alone;
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

    pub(super) fn close(&self, place: usize, hold: Hold, now_ms: u64) {
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
