//! Which server a request goes to.
//!
//! Without persistence every request, or connection of mode `tcp`, is balanced afresh: the client's address, its port and
//! the number of the request lead to a slot of the pool's ring, so that servers get requests by their weights.

use std::net::SocketAddr;

use lbpersist_common::{hash, ring::slot_of};

use super::snapshot::Service;
use crate::datapath::address::to_map;

/// The servers that have been tried for a request, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Tried(Vec<usize>);

impl Tried {
    pub(super) fn add(&mut self, server: usize) {
        self.0.push(server);
    }

    fn has(&self, server: usize) -> bool {
        self.0.contains(&server)
    }
}

/// Chooses a server for a request of a client that is bound to none; nothing when no server may be tried any more.
pub(super) fn fresh(
    service: &Service,
    client: SocketAddr,
    number: u64,
    tried: &Tried,
) -> Option<usize> {
    let slots = u32::try_from(service.ring.len()).ok().filter(|slots| *slots > 0)?;
    let key = service.keeping.as_ref().and_then(|keeping| keeping.address_key(client.ip()));
    let hash = match key {
        // Where clients are kept by address, a new one meets the server that the kernel would give it.
        Some(key) => hash::client(&to_map(key), 0),
        // Consecutive requests shall not go to slots that lie side by side: their servers follow from each other.
        None => hash::client(&to_map(client.ip()), client.port())
            .wrapping_add((number as u32).wrapping_mul(0x9e37_79b9)),
    };
    let first = slot_of(hash, slots) as usize;
    let wanted = |server: &u16| *server != 0 && !tried.has(usize::from(*server) - 1);
    let (before, from) = service.ring.split_at(first);
    // Whoever is not in the ring takes nobody new, so a round that finds none has seen all there are.
    if tried.0.is_empty() {
        return from.first().filter(|server| wanted(server)).map(|server| usize::from(*server) - 1);
    }
    let found = from.iter().chain(before).find(|server| wanted(server))?;
    Some(usize::from(*found) - 1)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        path::Path,
    };

    use super::*;
    use crate::{
        config, datapath::desired::Facts, network::View, proxy::snapshot::Maker, store::Store,
    };

    #[test]
    fn requests_spread_by_weight_and_each_server_is_tried_once() {
        let text = r#"
[[virtual_service]]
name = "w"
address = "10.0.0.1"
port = 80
mode = "http"
pool = "p"
[[pool]]
name = "p"
servers = [
  { address = "10.0.0.2", weight = 3 },
  { address = "10.0.0.3" },
  { address = "10.0.0.4", weight = 0 },
  { address = "10.0.0.5" },
]
"#;
        let model = config::parse(text).unwrap();
        let down = "10.0.0.5".parse().unwrap();
        let down = BTreeSet::from([("p".to_owned(), down, None)]);
        let (shares, view) = (BTreeMap::new(), View::default());
        let facts = Facts { model: &model, down: &down, shares: &shares, view: &view };
        let snapshot = Maker::new(1, Box::new(Store::new(Path::new("/")))).make(&facts);
        let service = &snapshot.services["w"];
        let client = "192.0.2.1:4000".parse().unwrap();
        let mut met = [0; 4];
        for number in 0..4000 {
            met[fresh(service, client, number, &Tried::default()).unwrap()] += 1;
        }
        assert!((2800..3200).contains(&met[0]) && met[0] + met[1] == 4000, "{met:?}");
        let mut tried = Tried::default();
        let mut order = BTreeSet::new();
        while let Some(server) = fresh(service, client, 7, &tried) {
            assert!(order.insert(server));
            tried.add(server);
        }
        assert_eq!(order, BTreeSet::from([0, 1]));
    }
}
