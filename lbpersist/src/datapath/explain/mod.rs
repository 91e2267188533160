//! Why a client meets the server it meets: the program's rules, followed on the pinned maps without changing anything.

mod answer;
mod asked;
mod rules;
mod servers;

use std::collections::BTreeMap;

use aya::maps::{MapError, lpm_trie::Key};
use lbpersist_common::{
    layout::kind,
    net::{self, Endpoint},
    service::{Pool, PrefixKey, pool_flag},
};

pub use self::{
    answer::{
        ConnectionExplained, Decision, EntryExplained, Explanation, HandshakeExplained, Question,
        SlotExplained, Unanswered,
    },
    rules::{Rule, Worth},
    servers::ServerExplained,
};
use self::{
    answer::{algorithm_name, connection, decision, entry, handshake, mark_names},
    asked::Asked,
    rules::{Seen, Situation},
    servers::Names,
};
use super::{Error, listed::Listed, maps::is_missing, report::Reader, ring::Ring};
use crate::model::{Protocol, listen_text};

/// Bits of 0.0.0.0/0 in mapped form: such a prefix is not taken for an address of ours.
const WHOLE_OF_IPV4: u32 = 96;

impl Reader {
    /// Which server the client meets, and why.
    ///
    /// # Errors
    ///
    /// When there is no such service, its address or port is not told, or the maps cannot be read.
    pub fn explain(&self, question: &Question, now_ns: u64) -> Result<Explanation, Unanswered> {
        let listed = self.asked_service(question)?;
        let pool = self.pools().get(&listed.service.pool).ok_or_else(|| {
            Unanswered::Question("the service is being changed; ask again".to_owned())
        })?;
        let asked = Asked::new(question, listed, pool)?;
        self.refuse_another(&asked)?;
        let ring = self.ring(listed.service.pool, pool)?;
        let situation = self.situation(&asked, ring.as_ref(), now_ns)?;
        Ok(self.explanation(&asked, &situation, ring.as_ref()))
    }

    fn asked_service(&self, question: &Question) -> Result<&Listed, Unanswered> {
        let name = &question.virtual_service;
        let mut named = self
            .services()
            .iter()
            .filter(|one| self.name(kind::SERVICE, one.service.index) == *name);
        named
            .next()
            .ok_or_else(|| Unanswered::Question(format!("there is no virtual service `{name}`")))
    }

    fn ring(&self, number: u32, pool: &Pool) -> Result<Option<Ring>, Error> {
        if pool.slots == 0 {
            return Ok(None);
        }
        match self.maps().rings.get(&number, 0) {
            Ok(map) => Ring::of(&map, pool.slots).map(Some),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(Error::map("rings", error)),
        }
    }

    fn situation(
        &self,
        asked: &Asked<'_>,
        ring: Option<&Ring>,
        now_ns: u64,
    ) -> Result<Situation, Error> {
        let maps = self.maps();
        let side = asked.pool.side;
        let is_carried = asked.listed.is_carried;
        // What servers have to do there is counted by the daemon.
        let unlimited = if is_carried { pool_flag::LIMITED } else { 0 };
        let known = asked.connection_key();
        let mut situation = Situation {
            now_ns,
            pool: Pool { flags: asked.pool.flags & !unlimited, ..*asked.pool },
            is_udp: asked.listed.protocol == Protocol::Udp,
            may_be_client: asked.client.may_be_source() && !self.is_ours(asked)?,
            slot: match (ring, asked.slot()) {
                (Some(ring), Some(slot)) => {
                    Some((ring.marks(slot), ring.server(slot, side).into()))
                }
                (None, Some(_)) => Some((0, 0)),
                (_, None) => None,
            },
            connection: known.map_or(Ok(None), |key| maps.connections.find(&key))?,
            handshake: known.map_or(Ok(None), |key| maps.handshakes.find(&key))?,
            entry: maps.entries.find(&asked.entry_key())?,
            servers: BTreeMap::new(),
            members: ring.map(|ring| ring.members(side)).unwrap_or_default(),
        };
        for number in self.numbers_of(asked.listed.service.pool, &situation)? {
            let limit = maps.server_limits.get(&number, 0);
            let limit = limit.map_err(|error| Error::map("server_limits", error))?;
            let limit = if is_carried { 0 } else { limit };
            let open = maps.server_load.of(number).open;
            let seen = Seen { server: self.server(number)?, open, limit };
            situation.servers.insert(number, seen);
        }
        Ok(situation)
    }

    /// The servers of the pool, and those that something is bound to.
    fn numbers_of(&self, pool: u32, situation: &Situation) -> Result<Vec<u32>, Error> {
        let mut numbers = self.servers_of(pool)?;
        numbers.extend(&situation.members);
        numbers.extend(situation.connection.map(|connection| connection.binding.server));
        numbers.extend(situation.handshake.map(|handshake| handshake.binding.server));
        numbers.extend(situation.entry.map(|entry| entry.binding.server));
        Ok(numbers)
    }

    /// Refuses an address and port that another service takes out of this one's prefix or ports.
    fn refuse_another(&self, asked: &Asked<'_>) -> Result<(), Unanswered> {
        let own = |one: &&Listed| {
            one.protocol == asked.listed.protocol
                && one.addresses.contains(&asked.address)
                && one.ports.one().is_none_or(|port| port == asked.port)
        };
        // A single address goes before prefixes, the longest prefix before others, and one port before all.
        let nearest = self.services().iter().filter(own).max_by_key(|one| {
            (one.service.prefix_length == 0, one.service.prefix_length, one.ports.one().is_some())
        });
        match nearest {
            Some(other) if other.service.id != asked.listed.service.id => {
                let name = self.name(kind::SERVICE, other.service.index);
                Err(Unanswered::Question(format!(
                    "what comes for {} port {} is for the service `{name}`",
                    asked.address, asked.port
                )))
            }
            _ => Ok(()),
        }
    }

    /// Whether the client's end is a service or a server's end that answers for one.
    fn is_ours(&self, asked: &Asked<'_>) -> Result<bool, Error> {
        let maps = self.maps();
        let end =
            Endpoint::new(asked.client, asked.client_port.unwrap_or(0), asked.protocol_number());
        for end in [end, Endpoint { port: 0, ..end }] {
            if there(maps.services.get(&end, 0), "services")?
                || there(maps.reverse.get(&end, 0), "reverse")?
            {
                return Ok(true);
            }
        }
        if end.protocol != u16::from(net::UDP) {
            return Ok(false);
        }
        for port in [end.port, 0] {
            let key = Key::new(PrefixKey::BITS, PrefixKey::of(&end, port));
            match maps.prefix_services.get(&key, 0) {
                Ok(found) if found.id != 0 && found.prefix_length > WHOLE_OF_IPV4 => {
                    return Ok(true);
                }
                Ok(_) => {}
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(Error::map("prefix_services", error)),
            }
        }
        Ok(false)
    }

    fn explanation(
        &self,
        asked: &Asked<'_>,
        situation: &Situation,
        ring: Option<&Ring>,
    ) -> Explanation {
        let Asked { listed, pool, .. } = *asked;
        let names = Names(&situation.servers);
        let opening = situation.opening();
        let segment =
            (asked.client_port.is_some() && listed.protocol == Protocol::Tcp && !listed.is_carried)
                .then(|| decision(&situation.segment(), &names));
        Explanation {
            virtual_service: self.name(kind::SERVICE, listed.service.index),
            listens: listen_text(listed.addresses, listed.ports),
            protocol: listed.protocol,
            carried: listed.is_carried,
            pool: self.name(kind::POOL, listed.service.pool),
            persistent: pool.flags & pool_flag::PERSISTENT != 0,
            algorithm: algorithm_name(pool),
            client: match asked.client_port {
                Some(port) => std::net::SocketAddr::new(asked.question.client, port).to_string(),
                None => asked.question.client.to_string(),
            },
            key: asked.key_text(),
            destination: (listed.service.prefix_length != 0).then_some(asked.address),
            segment,
            slot: asked.slot().zip(ring).map(|(number, ring)| SlotExplained {
                number,
                of: pool.slots,
                pick: names.of(ring.server(number, pool.side).into()),
                marks: mark_names(ring.marks(number)),
            }),
            connection: situation.connection.map(|known| connection(&known, situation, &names)),
            handshake: situation.handshake.map(|known| handshake(&known, situation, &names)),
            entry: situation.entry.map(|known| entry(&known, situation, &names)),
            servers: servers::explained(situation, listed.service.pool, &opening, ring),
            opening: decision(&opening, &names),
        }
    }
}

fn there<V>(found: Result<V, MapError>, map: &'static str) -> Result<bool, Error> {
    match found {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(Error::map(map, error)),
    }
}
