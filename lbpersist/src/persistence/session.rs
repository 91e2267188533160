//! A request that has its server, until its answer has been given.

use std::sync::Arc;

use super::{
    header,
    keeping::{Keeping, Method},
    request::Now,
    table::Hold,
    token::Token,
};
use crate::{clock, model::PersistenceProfile};

const LINKS: usize = PersistenceProfile::LONGEST_CHAIN;

/// A request that has its server. It keeps the entries it uses from expiring, until it is dropped.
#[derive(Debug)]
pub struct Session {
    keeping: Arc<Keeping>,
    server: usize,
    /// Of each profile, what the answer's cookie is to say.
    pub(super) tokens: [Option<Token>; LINKS],
    /// Of each profile, the entry that is in use.
    pub(super) holds: [Option<Hold>; LINKS],
}

impl Session {
    pub(super) fn new(keeping: Arc<Keeping>, server: usize) -> Self {
        Self { keeping, server, tokens: [None; LINKS], holds: [const { None }; LINKS] }
    }

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
