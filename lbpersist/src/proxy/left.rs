//! What of the proxy's is left on a server that is to go.

use super::Proxy;
use crate::{
    clock,
    control::Left,
    model::{Pool, Server},
    persistence::Census,
    store::unix_s,
};

/// What is left on a server, with its tables still to be counted: that takes time, and any thread may do it.
#[derive(Debug)]
pub struct Leaving {
    under_way: u64,
    census: Census,
}

impl Proxy {
    /// What is left on a server of `pool`; `serves` says whether it may have requests of those who are bound to it.
    pub fn leaving(&self, pool: &Pool, server: &Server, serves: bool) -> Leaving {
        // Before its tables: a request under way may bind its client only at its end.
        let under_way = self.maker.counted.under_way(pool, server);
        Leaving { under_way, census: self.maker.keeper.census(pool, server, serves) }
    }
}

impl Leaving {
    /// Adds it to what the kernel's tables say.
    pub fn add_to(&self, left: &mut Left) {
        left.under_way = self.under_way;
        let remaining = self.census.entries(clock::now_ns() / 1_000_000);
        left.entries += remaining.keys;
        if let Some(ends_ms) = remaining.last_ends_ms {
            let seconds = ends_ms as f64 / 1e3;
            left.last_ends_in_seconds =
                Some(left.last_ends_in_seconds.map_or(seconds, |last| last.max(seconds)));
        }
        left.cookies = self.census.has_cookies();
        left.cookies_until = self.census.cookies_s().map(|s| unix_s() + s);
    }
}
