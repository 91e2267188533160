//! What the rules speak of: pools and their servers, flows, and what becomes of packets.

use std::{collections::BTreeSet, net::IpAddr};

use lbpersist::{
    balance::maglev::{self, Member},
    datapath::address::to_map,
};
use lbpersist_common::{hash, ring::slot_of};
use lbpersist_tests::topology::Family;

use crate::setup::server_address;

/// Slots of every ring: few, so that clients share them.
pub(crate) const SLOTS: u32 = 13;

/// A service: its pool, and 0 or 1 for TCP, 2 for UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Service {
    pub(crate) pool: usize,
    pub(crate) number: usize,
}

/// One client, port and service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) client: IpAddr,
    pub(crate) port: u16,
    pub(crate) service: Service,
}

/// Whose entry it is: a masked client, at a service or at the whole pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) client: IpAddr,
    pub(crate) pool: usize,
    pub(crate) service: Option<usize>,
}

/// `server_down` of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Down {
    Immediate,
    Never,
    Continue,
}

/// `on_limit` of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnLimit {
    Spill,
    Exceed,
    Reject,
}

/// A pool and its profile. Servers are known by their places; one that was removed keeps its own.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) family: Family,
    /// Connections that each server may have; 0 for any number. Such a pool has no datagrams: their ends are seen by the sweep
    /// alone.
    pub(crate) limit: u32,
    pub(crate) on_limit: OnLimit,
    pub(crate) timeout: u64,
    pub(crate) mask: u8,
    pub(crate) shared: bool,
    pub(crate) down: Down,
    /// Whether open connections whose server is gone are reset.
    pub(crate) resets: bool,
    pub(crate) servers: Vec<Server>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    pub(crate) host: u8,
    pub(crate) weight: u16,
    pub(crate) up: bool,
    pub(crate) removed: bool,
}

/// Where a client's packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    To(u8),
    /// To one of these, the least loaded ones.
    ToOneOf(BTreeSet<u8>),
    /// Every server that it may have is full.
    Full,
    /// Its server is down and it may have no other.
    Refused,
    /// The server of its connection is gone.
    Reset,
    /// There is no server for it.
    Nobody,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// A UDP flow, which has no states.
    Flow,
    Established,
    ClientClosed,
    ServerClosed,
    Closed,
}

/// Who sent a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What a segment says besides data and acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    Nothing,
    Fin,
    Rst,
}

/// What a binding is worth.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Usable,
    Refused,
    Gone,
}

impl Pool {
    pub(super) fn is_persistent(&self) -> bool {
        self.timeout > 0
    }

    pub(super) fn standing(&self, server: usize) -> Standing {
        let Server { up, removed, .. } = self.servers[server];
        let down = if self.is_persistent() { self.down } else { Down::Immediate };
        match (removed, up, down) {
            (true, _, _) | (false, false, Down::Immediate) => Standing::Gone,
            (false, true, _) | (false, false, Down::Continue) => Standing::Usable,
            (false, false, Down::Never) => Standing::Refused,
        }
    }

    pub(super) fn masked(&self, client: IpAddr) -> IpAddr {
        masked(client, self.mask)
    }

    /// The place of the server that the ring picks.
    pub(super) fn pick(&self, flow: &Flow) -> Option<usize> {
        let new = |server: &Server| !server.removed && server.up && server.weight > 0;
        let members: Vec<Member> = self
            .servers
            .iter()
            .enumerate()
            .filter(|(_, server)| new(server))
            .map(|(place, server)| Member {
                address: to_map(server_address(self.family, server.host)),
                port: 0,
                weight: u32::from(server.weight),
                number: u16::try_from(place + 1).expect("few servers"),
            })
            .collect();
        let hash = if self.is_persistent() {
            hash::client(&to_map(self.masked(flow.client)), 0)
        } else {
            hash::client(&to_map(flow.client), flow.port)
        };
        let number = maglev::ring(&members, SLOTS)[slot_of(hash, SLOTS) as usize];
        usize::from(number).checked_sub(1)
    }
}

/// The first bits of an address, as it is written.
pub(super) fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let all = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(address) & all).into())
        }
        IpAddr::V6(address) => {
            let all = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(address) & all).into())
        }
    }
}
