//! Persistence, for requests as the proxy has them.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, Uri, header::COOKIE, header::SET_COOKIE};

use super::{
    choose::{self, Chosen, Tried},
    reason::Reason,
    snapshot::Service,
};
use crate::{
    clock,
    persistence::{self, Choice, Decision, Memory, Now, Outcome, Session, Tenure, header::Without},
};

/// What is looked at of a request, or of a connection, which has neither header nor target.
struct Asked<'r> {
    headers: &'r HeaderMap,
    uri: &'r Uri,
    client: SocketAddr,
    memory: Option<&'r Memory>,
}

impl persistence::Request for Asked<'_> {
    fn cookies(&self) -> impl Iterator<Item = &[u8]> {
        self.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes)
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.get(name).map(HeaderValue::as_bytes)
    }

    fn target(&self) -> &[u8] {
        self.uri.path_and_query().map_or(&b""[..], |target| target.as_str().as_bytes())
    }

    fn client(&self) -> SocketAddr {
        self.client
    }

    fn memory(&self) -> Option<&Memory> {
        self.memory
    }
}

/// Where a request may go, and what is noted when it has gone there.
pub(super) struct Kept {
    decision: Option<Decision>,
    choice: Choice,
}

impl Kept {
    /// Asks for a request.
    pub(super) fn of(
        service: &Service,
        headers: &HeaderMap,
        uri: &Uri,
        client: SocketAddr,
        tenure: &Tenure,
        memory: Option<&Memory>,
    ) -> Self {
        let Some(keeping) = &service.keeping else {
            return Self { decision: None, choice: Choice::Balance };
        };
        let asked = Asked { headers, uri, client, memory };
        let condition = |server: usize| service.condition(server);
        let decision = keeping.decide(&asked, tenure, condition, now());
        Self { choice: decision.choice(), decision: Some(decision) }
    }

    /// Asks for a connection.
    pub(super) fn of_connection(service: &Service, client: SocketAddr, tenure: &Tenure) -> Self {
        Self::of(service, &HeaderMap::new(), &Uri::default(), client, tenure, None)
    }

    /// Why the client is refused, if its server cannot have it and it may have no other.
    pub(super) fn refused(&self) -> Option<Reason> {
        match self.choice {
            Choice::Refuse => Some(Reason::ServerDown),
            Choice::RefuseFull => Some(Reason::ServerFull),
            Choice::Server { .. } | Choice::Balance => None,
        }
    }

    /// The server that the client has.
    fn server(&self) -> Option<usize> {
        match self.choice {
            Choice::Server { server, .. } => Some(server),
            Choice::Balance | Choice::Refuse | Choice::RefuseFull => None,
        }
    }

    /// Whether another server may be tried when the first one cannot be reached.
    fn may_move(&self) -> bool {
        !matches!(self.choice, Choice::Server { may_move: false, .. })
    }

    /// A server to ask: the client's own, as long as it may have no other or has not been asked, and then any.
    pub(super) fn next(
        &self,
        service: &Service,
        client: SocketAddr,
        number: u64,
        tried: &Tried,
    ) -> Result<Chosen, Reason> {
        if let Some(server) = self.server()
            && (tried.is_empty() || !self.may_move())
            && let Some(chosen) = choose::bound(service, server)?
        {
            return Ok(chosen);
        }
        choose::fresh(service, client, number, tried)
    }

    /// What it comes to when `server` has it; nothing where clients are not kept.
    pub(super) fn outcome(&self, server: usize) -> Option<Outcome> {
        self.decision.as_ref().map(|decision| decision.outcome(server))
    }

    /// Notes that a server has it.
    pub(super) fn settle(
        self,
        service: &Service,
        server: usize,
        tenure: &Tenure,
    ) -> Option<Session> {
        Some(service.keeping.as_ref()?.settle(self.decision?, tenure, server, now()))
    }
}

/// Takes our cookies out of a request.
pub(super) fn strip(service: &Service, headers: &mut HeaderMap) {
    let Some(keeping) = &service.keeping else { return };
    let mut changed = false;
    let left: Vec<HeaderValue> = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| {
            let without = keeping.strip(value.as_bytes());
            changed |= without != Without::Unchanged;
            match without {
                Without::Unchanged => Some(value.clone()),
                Without::Nothing => None,
                // A part of a value that was allowed is allowed.
                Without::Rest(rest) => HeaderValue::from_bytes(&rest).ok(),
            }
        })
        .collect();
    if !changed {
        return;
    }
    headers.remove(COOKIE);
    for value in left {
        headers.append(COOKIE, value);
    }
}

/// Learns from a server's answer, and gives the client its cookies.
pub(super) fn answer(session: &mut Session, headers: &mut HeaderMap) {
    let now = now();
    if session.learns() {
        for value in headers.get_all(SET_COOKIE) {
            session.learn(value.as_bytes(), now);
        }
    }
    for line in session.set_cookies(now) {
        // Names, paths and domains have been checked, and a sealed value has letters and digits.
        if let Ok(value) = HeaderValue::try_from(line) {
            headers.append(SET_COOKIE, value);
        }
    }
}

fn now() -> Now {
    Now { unix_ms: clock::unix_ms(), ms: clock::now_ns() / 1_000_000 }
}
