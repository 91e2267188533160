//! A question, and the keys it leads to.

use std::net::IpAddr;

use ipnet::IpNet;
use lbpersist_common::{
    connection::ConnectionKey,
    net,
    persistence::EntryKey,
    ring::slot_of,
    service::{Pool, pool_flag},
};

use super::{Question, Unanswered};
use crate::{
    datapath::{address::to_map, listed::Listed},
    model::{Ports, listen_text},
};

/// A question whose service is found.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) question: &'a Question,
    pub(super) listed: &'a Listed,
    pub(super) pool: &'a Pool,
    pub(super) client: net::Address,
    pub(super) client_port: Option<u16>,
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

impl<'a> Asked<'a> {
    pub(super) fn new(
        question: &'a Question,
        listed: &'a Listed,
        pool: &'a Pool,
    ) -> Result<Self, Unanswered> {
        let refuse = |what: String| Err(Unanswered::Question(what));
        let listens = listen_text(listed.addresses, listed.ports);
        let on_prefix = listed.service.prefix_length != 0;
        let address = match question.address {
            Some(address) if !listed.addresses.contains(&address) => {
                return refuse(format!("{address} is not an address of the service on {listens}"));
            }
            Some(address) => address,
            None if on_prefix => {
                return refuse(format!(
                    "the service is on {listens}: say with --destination which address the client comes for"
                ));
            }
            None => listed.addresses.addr(),
        };
        if question.client.is_ipv4() != address.is_ipv4() {
            return refuse(format!(
                "{} never comes to {listens}: they are of different families",
                question.client
            ));
        }
        let port = match (listed.ports, question.port) {
            (Ports::All, None) if question.client_port.is_some() => {
                return refuse(format!(
                    "the service is on {listens}: say with --destination which port the client comes for"
                ));
            }
            (Ports::All, port) => port.unwrap_or(0),
            (ports, Some(port)) if ports.number() != port => {
                return refuse(format!("{port} is not the port of the service on {listens}"));
            }
            (ports, _) => ports.number(),
        };
        let client = to_map(question.client);
        Ok(Self {
            question,
            listed,
            pool,
            client,
            client_port: question.client_port,
            address,
            port,
        })
    }

    pub(super) fn protocol_number(&self) -> u8 {
        self.listed.protocol.number()
    }

    pub(super) fn destination(&self) -> net::Destination {
        self.listed.service.destination(&to_map(self.address))
    }

    pub(super) fn entry_key(&self) -> EntryKey {
        EntryKey {
            client: self.pool.masked(&self.client),
            scope: self.listed.service.scope,
            destination: self.destination(),
        }
    }

    pub(super) fn connection_key(&self) -> Option<ConnectionKey> {
        Some(ConnectionKey {
            client: self.client,
            service: self.listed.service.id,
            client_port: self.client_port?,
            service_port: self.port,
            destination: self.destination(),
            reserved: 0,
        })
    }

    /// The client's slot, if its port is known or does not matter.
    pub(super) fn slot(&self) -> Option<u32> {
        let matters = self.pool.flags & pool_flag::PERSISTENT == 0;
        let port = if matters { self.client_port? } else { self.client_port.unwrap_or(0) };
        let hash = self.pool.slot_hash(&self.client, port, &self.destination());
        Some(slot_of(hash, self.pool.slots))
    }

    pub(super) fn key_text(&self) -> String {
        let mask = if self.question.client.is_ipv4() {
            self.pool.ipv4_mask.prefix_length().saturating_sub(96)
        } else {
            self.pool.ipv6_mask.prefix_length()
        };
        let prefix = IpNet::new(self.question.client, mask).map(|prefix| prefix.trunc());
        prefix.map_or_else(|_| self.question.client.to_string(), crate::model::addresses_text)
    }
}
