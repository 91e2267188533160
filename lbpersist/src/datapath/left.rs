//! Who is left on a server: counted from the pinned tables.

use std::collections::HashMap;

use lbpersist_common::{
    server::{Binding, state},
    service::{Pool, scope, server_down},
};

use super::{Error, report::Reader};
use crate::{control::Left, model::Protocol};

impl Reader {
    /// Who is bound to the server with this number now. Clients of a server that is down under `immediate` have lost it: the next
    /// thing they do takes them elsewhere.
    pub fn left(&self, number: u32, now_ns: u64) -> Result<Left, Error> {
        let server = self.server(number)?;
        let mut left = Left::default();
        let Some(pool) = self.pools().get(&server.pool) else { return Ok(left) };
        let bound = Binding { server: number, generation: server.generation };
        self.entries_left(bound, server.pool, pool, now_ns, &mut left)?;
        let protocols: HashMap<u32, Protocol> =
            self.services().iter().map(|one| (one.service.id, one.protocol)).collect();
        for (key, connection) in self.maps().connections.all()? {
            let open = match protocols.get(&key.service) {
                Some(Protocol::Udp) => {
                    now_ns <= connection.last_seen_ns.saturating_add(pool.udp_idle_ns)
                }
                Some(Protocol::Tcp) => connection.is_open(),
                None => false,
            };
            left.connections += u64::from(open && connection.binding == bound);
        }
        if !state::serves(server.state) && pool.server_down == server_down::IMMEDIATE {
            return Ok(Left {
                lost_entries: left.entries,
                lost_connections: left.connections,
                ..Left::default()
            });
        }
        let handshakes = self.maps().handshakes.all()?;
        let own = handshakes.iter().filter(|(_, handshake)| handshake.binding == bound);
        left.handshakes = own.count() as u64;
        Ok(left)
    }

    fn entries_left(
        &self,
        bound: Binding,
        number: u32,
        pool: &Pool,
        now_ns: u64,
        left: &mut Left,
    ) -> Result<(), Error> {
        let of_pool = |wanted| {
            wanted == scope::pool(pool.id)
                || self
                    .services()
                    .iter()
                    .any(|one| one.service.scope == wanted && one.service.pool == number)
        };
        for (key, entry) in self.maps().entries.all()? {
            if entry.binding != bound
                || !entry.is_live(now_ns, pool.timeout_ns)
                || !of_pool(key.scope)
            {
                continue;
            }
            left.entries += 1;
            let ends_ns = if entry.open > 0 {
                pool.timeout_ns
            } else {
                entry.expires_ns(pool.timeout_ns).saturating_sub(now_ns)
            };
            let seconds = ends_ns as f64 / 1e9;
            left.last_ends_in_seconds =
                Some(left.last_ends_in_seconds.map_or(seconds, |last| last.max(seconds)));
        }
        Ok(())
    }
}
