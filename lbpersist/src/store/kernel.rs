//! What the pinned maps know of pools, services and servers, in the form that outlives them.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::datapath::{
    desired::Desired,
    identity::{Generation, Identities, Numbered, POOLS, SERVICES, ServerIdentity},
};

/// Numbers, ids and generations, and what was said of servers by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    next_id: u32,
    pools: BTreeMap<String, (u32, u32)>,
    services: BTreeMap<String, (u32, u32)>,
    servers: Vec<KeptServer>,
    retired: BTreeMap<u16, u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptServer {
    pool: u32,
    address: IpAddr,
    port: u16,
    number: u16,
    generation: u32,
    by_hand: u8,
}

impl Kernel {
    /// Of a running daemon.
    pub fn of(identities: &Identities, actual: &Desired) -> Self {
        let numbered = |all: &BTreeMap<String, Numbered>| {
            all.iter().map(|(name, of)| (name.clone(), (of.number, of.id))).collect()
        };
        let server = |(identity, known): (&ServerIdentity, &Generation)| KeptServer {
            pool: identity.pool,
            address: identity.address,
            port: identity.port,
            number: known.number,
            generation: known.generation,
            by_hand: actual.servers.get(&known.number.into()).map_or(0, |server| server.by_hand),
        };
        Self {
            next_id: identities.next_id,
            pools: numbered(&identities.pools),
            services: numbered(&identities.services),
            servers: identities.servers.iter().map(server).collect(),
            retired: identities.retired.clone(),
        }
    }

    /// The identities, if they can be those of a daemon.
    pub fn identities(&self) -> Option<Identities> {
        let mut identities = Identities::default();
        identities.next_id = self.next_id;
        identities.pools = numbered(&self.pools, POOLS, self.next_id)?;
        identities.services = numbered(&self.services, SERVICES, self.next_id)?;
        identities.retired = self.retired.clone();
        let mut taken: HashSet<u16> = self.retired.keys().copied().collect();
        for KeptServer { pool, address, port, number, generation, .. } in &self.servers {
            let identity = ServerIdentity { pool: *pool, address: *address, port: *port };
            let known = Generation { number: *number, generation: *generation };
            let is_new = taken.insert(*number) && *number != 0 && *generation != 0;
            if !is_new || identities.servers.insert(identity, known).is_some() {
                return None;
            }
        }
        Some(identities)
    }

    /// What was said of servers by hand: see [`lbpersist_common::server::by_hand`].
    pub fn by_hand(&self) -> BTreeMap<ServerIdentity, u8> {
        let said = self.servers.iter().filter(|server| server.by_hand != 0);
        said.map(|&KeptServer { pool, address, port, by_hand, .. }| {
            (ServerIdentity { pool, address, port }, by_hand)
        })
        .collect()
    }
}

/// Numbers below `room` and ids up to `last`, each used once.
fn numbered(
    kept: &BTreeMap<String, (u32, u32)>,
    room: u32,
    last: u32,
) -> Option<BTreeMap<String, Numbered>> {
    let mut taken = HashSet::new();
    let mut ids = HashSet::new();
    let one = |(name, &(number, id)): (&String, &(u32, u32))| {
        let sound = number < room && (1..=last).contains(&id);
        (sound && taken.insert(number) && ids.insert(id))
            .then(|| (name.clone(), Numbered { number, id }))
    };
    kept.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_out_is_known_again_and_what_cannot_be_is_not_taken() {
        let mut identities = Identities::default();
        let web = identities.pool("web").unwrap();
        identities.service("web").unwrap();
        let server =
            |n: u8| ServerIdentity { pool: web.number, address: [10, 0, 0, n].into(), port: 80 };
        identities.server(server(1)).unwrap();
        identities.server(server(2)).unwrap();
        identities.retain(|_| true, |_| true, |kept| *kept == server(2));
        let kernel = Kernel::of(&identities, &Desired::default());
        let text = serde_json::to_string(&kernel).unwrap();
        let mut read: Kernel = serde_json::from_str(&text).unwrap();
        assert_eq!(read.identities().unwrap(), identities);
        read.retired.insert(2, 1);
        assert_eq!(read.identities(), None, "a number that is taken twice");
        let mut read = kernel.clone();
        read.next_id = 1;
        assert_eq!(read.identities(), None, "an id that will be given out again");
    }
}
