//! The answer, as it is printed: what programs read must not change its shape.

use std::net::IpAddr;

use lbpersist_common::{
    connection::{Connection, Handshake},
    persistence::Entry,
    ring::mark,
    service::Pool,
    tcp::State,
};
use serde::Serialize;

use super::{
    rules::{Fate, Rule, Situation, Verdict, Worth},
    servers::{Names, ServerExplained},
};
use crate::{
    datapath::{Error, report::seconds},
    model::Protocol,
};

/// Who is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The service's name.
    pub virtual_service: String,
    /// The client's address.
    pub client: IpAddr,
    /// Its port; without one, a connection from a port that nothing is known of is meant.
    pub client_port: Option<u16>,
    /// The address it comes for; may be left out if the service is on one address.
    pub address: Option<IpAddr>,
    /// The port it comes for; may be left out if the service is on one port.
    pub port: Option<u16>,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// The question is about nothing that there is.
    #[error("{0}")]
    Question(String),
    /// The maps could not be read.
    #[error(transparent)]
    Maps(#[from] Error),
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The service.
    pub virtual_service: String,
    /// Where it listens.
    pub listens: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Whether the daemon carries it: cookies and headers, where the pool's profile asks for them, decide before what is said here,
    /// and limits of servers are not looked at.
    pub carried: bool,
    /// Its pool.
    pub pool: String,
    /// Whether the pool keeps entries.
    pub persistent: bool,
    /// How the pool chooses for new clients.
    pub algorithm: &'static str,
    /// The client, with its port if that was given.
    pub client: String,
    /// What of the client's address its entry is kept by: an address or prefix.
    pub key: String,
    /// The address it comes for, if the service is on a prefix.
    pub destination: Option<IpAddr>,
    /// What becomes of a new connection from there, or over UDP of the next datagram.
    pub opening: Decision,
    /// What becomes of a TCP segment from these ports that neither opens nor closes a connection; `None` without a port and for UDP.
    pub segment: Option<Decision>,
    /// The client's slot of the ring; `None` where it follows from a port that was not given.
    pub slot: Option<SlotExplained>,
    /// What is known of the connection of these ports, or of the UDP flow.
    pub connection: Option<ConnectionExplained>,
    /// The unfinished handshake of these ports.
    pub handshake: Option<HandshakeExplained>,
    /// The client's entry, live or expired.
    pub entry: Option<EntryExplained>,
    /// The servers of the pool, and why each but the chosen one is not.
    pub servers: Vec<ServerExplained>,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// What decides.
    pub decided_by: Rule,
    /// Where it goes; `None` when it goes nowhere or that is decided when it comes.
    pub server: Option<String>,
    /// Where it may go, when it is decided when it comes.
    pub one_of: Vec<String>,
    /// What it is counted under when it goes nowhere.
    pub refused: Option<&'static str>,
    /// The server that the client is bound to is full, so that it gets another.
    pub spilled: bool,
}

/// A slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotExplained {
    /// Its number.
    pub number: u32,
    /// Slots of the ring.
    pub of: u32,
    /// The server it picks.
    pub pick: Option<String>,
    /// Why packets of the slot read the tables: `exception`, `handshake`, `suspect`. With none, segments go to the pick.
    pub marks: Vec<&'static str>,
}

/// A connection or UDP flow.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConnectionExplained {
    /// Its server.
    pub server: String,
    /// What that is worth.
    pub binding: Worth,
    /// `established`, `client-closed`, `server-closed`, `closed` or `flow`.
    pub state: &'static str,
    /// Seconds since its last packet that was noted; packets of an unmarked slot are not.
    pub silent_seconds: f64,
    /// Whether it is suspected of having gone without a word.
    pub suspect: bool,
}

/// An unfinished handshake.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HandshakeExplained {
    /// Its server.
    pub server: String,
    /// What that is worth.
    pub binding: Worth,
    /// Seconds since the client's SYN.
    pub age_seconds: f64,
    /// Whether the server's answer was seen.
    pub answered: bool,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EntryExplained {
    /// Its server.
    pub server: String,
    /// What that is worth.
    pub binding: Worth,
    /// Whether it still binds the client.
    pub live: bool,
    /// Open connections.
    pub open: u32,
    /// Seconds since the client was bound.
    pub age_seconds: f64,
    /// Seconds until it expires if nothing opens; `None` while connections are open. 0 when it has expired.
    pub expires_in_seconds: Option<f64>,
    /// Seconds that it outlives the last connection.
    pub timeout_seconds: f64,
}

pub(super) fn decision(verdict: &Verdict, names: &Names<'_>) -> Decision {
    let (server, one_of, refused) = match &verdict.fate {
        Fate::Server(number) => (names.of(*number), Vec::new(), None),
        Fate::OneOf(numbers) => {
            (None, numbers.iter().filter_map(|number| names.of(*number)).collect(), None)
        }
        Fate::Refused(reason) => (None, Vec::new(), Some(reason.name())),
    };
    Decision { decided_by: verdict.rule, server, one_of, refused, spilled: verdict.spilled }
}

pub(super) fn connection(
    known: &Connection,
    at: &Situation,
    names: &Names<'_>,
) -> ConnectionExplained {
    ConnectionExplained {
        server: names.bound(known.binding),
        binding: at.worth(known.binding),
        state: match State::from_number(known.state) {
            _ if at.is_udp => "flow",
            _ if known.state == Connection::CARRIED => "carried",
            State::Established => "established",
            State::ClientClosed => "client-closed",
            State::ServerClosed => "server-closed",
            State::Closed => "closed",
        },
        silent_seconds: seconds(at.now_ns.saturating_sub(known.last_seen_ns)),
        suspect: known.suspect != 0,
    }
}

pub(super) fn handshake(
    known: &Handshake,
    at: &Situation,
    names: &Names<'_>,
) -> HandshakeExplained {
    HandshakeExplained {
        server: names.bound(known.binding),
        binding: at.worth(known.binding),
        age_seconds: seconds(at.now_ns.saturating_sub(known.started_ns)),
        answered: known.answers > 0,
    }
}

pub(super) fn entry(known: &Entry, at: &Situation, names: &Names<'_>) -> EntryExplained {
    let left = known.expires_ns(at.pool.timeout_ns).saturating_sub(at.now_ns);
    EntryExplained {
        server: names.bound(known.binding),
        binding: at.worth(known.binding),
        live: at.live_entry().is_some(),
        open: known.open,
        age_seconds: seconds(at.now_ns.saturating_sub(known.created_ns)),
        expires_in_seconds: (known.open == 0).then(|| seconds(left)),
        timeout_seconds: seconds(at.pool.timeout_ns),
    }
}

pub(super) fn algorithm_name(pool: &Pool) -> &'static str {
    use lbpersist_common::service::algorithm;
    match pool.algorithm {
        algorithm::ROUND_ROBIN => "round-robin",
        algorithm::LEAST_CONNECTIONS => "least-connections",
        algorithm::RANDOM_TWO => "random-two",
        _ => "maglev",
    }
}

pub(super) fn mark_names(marks: u32) -> Vec<&'static str> {
    let all = [
        (mark::EXCEPTION, "exception"),
        (mark::HANDSHAKE, "handshake"),
        (mark::SUSPECT, "suspect"),
    ];
    all.into_iter().filter(|(one, _)| marks & mark::any(*one) != 0).map(|(_, name)| name).collect()
}
