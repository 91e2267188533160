//! Who a client's server is, without telling the tables that somebody asked: for packets that are no part of a connection
//! themselves, ICMP errors and fragments without ports.
#![expect(unsafe_code, reason = "map values are reached through pointers")]

use lbpersist_common::{net, reason::Reason, server::Binding, service::Pool, service::Service};

use crate::{
    clock,
    maps::{CONNECTIONS, HANDSHAKES},
    parse::Flow,
    persistence,
    select::{self, Bound, Visit},
};

/// The server that packets of `flow` go to.
#[inline(always)]
pub(crate) fn server(flow: &Flow, service: &Service, pool: &Pool) -> Result<u32, Reason> {
    let slot = select::slot(flow, service, pool).ok_or(Reason::NoServer)?;
    if flow.to.protocol == u16::from(net::TCP) && slot.marks() == 0 {
        return slot.pick();
    }
    let visit = select::visit(flow, service, pool, slot);
    match bound(&visit) {
        Some(binding) if !matches!(visit.judge(binding), Bound::Gone) => Ok(binding.server),
        _ => slot.pick(),
    }
}

/// The server of the connection, or else of the client.
#[inline(always)]
fn bound(visit: &Visit<'_>) -> Option<Binding> {
    // SAFETY: copied out at once.
    if let Some(connection) = unsafe { CONNECTIONS.get(&visit.connection) } {
        return Some(connection.binding);
    }
    // SAFETY: as above.
    if let Some(handshake) = unsafe { HANDSHAKES.get(&visit.connection) } {
        return Some(handshake.binding);
    }
    if visit.is_persistent() { persistence::live(visit, clock::now_ns()) } else { None }
}
