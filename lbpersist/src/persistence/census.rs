//! Who is bound to a server by tables of this process, and whether there may be cookies that name it.

use std::{sync::Arc, time::Duration};

use super::{
    Keeper,
    table::{Bound, Remaining, Table},
};
use crate::model::{Method, PersistenceProfile, Pool, Server, ServerDown};

/// What may bind clients to one server.
#[derive(Debug, Default)]
pub struct Census {
    bound: Vec<Bound>,
    tables: Vec<Arc<Table>>,
    /// How long sealed cookies hold; zero without an end.
    cookies: Vec<Duration>,
}

impl Keeper {
    /// What may bind clients to a server of `pool`. Nothing of profiles does that let clients go from one that does not serve.
    pub fn census(&self, pool: &Pool, server: &Server, serves: bool) -> Census {
        let mut census = Census::default();
        for (of_pool, keeping) in self.made().filter(|(of_pool, _)| of_pool.name == pool.name) {
            let is_it = |one: &Server| (one.address, one.port) == (server.address, server.port);
            if let Some(place) = of_pool.servers.iter().position(is_it) {
                census.bound.push(keeping.roster.bound(place));
            }
        }
        let profiles = pool.persistence.iter().flat_map(PersistenceProfile::chain);
        for profile in profiles.filter(|one| serves || one.server_down != ServerDown::Immediate) {
            match &profile.method {
                Method::HttpCookie(settings) if !census.bound.is_empty() => {
                    census.cookies.push(settings.timeout);
                }
                Method::AppCookie(_) => {
                    census.tables.extend(self.table_of(&profile.name, &pool.name));
                }
                _ => {}
            }
        }
        census
    }
}

impl Census {
    /// The keys that lead to the server.
    pub fn entries(&self, now_ms: u64) -> Remaining {
        let is_it = |bound: &Bound| self.bound.contains(bound);
        let tables = self.tables.iter().map(|table| table.remaining(is_it, now_ms));
        tables.fold(Remaining::default(), Remaining::and)
    }

    /// Whether clients may have cookies that name the server.
    pub fn has_cookies(&self) -> bool {
        !self.cookies.is_empty()
    }

    /// For how many seconds from now a cookie could hold, if that has an end.
    pub fn cookies_s(&self) -> Option<u64> {
        let longest = self.cookies.iter().max()?;
        (!self.cookies.contains(&Duration::ZERO)).then_some(longest.as_secs())
    }
}
