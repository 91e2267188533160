//! Whether an address may be one that is known: asked before the look-ups of services and servers.

use lbpersist_common::{filter::Filter, net::Address};

use crate::maps::KNOWN_ADDRESSES;

/// Whether a service may be on the address.
#[inline(always)]
pub(crate) fn may_be_service(address: &Address) -> bool {
    may_be(Filter::Services, address)
}

/// Whether a server's answers may come from the address.
#[inline(always)]
pub(crate) fn may_be_server(address: &Address) -> bool {
    may_be(Filter::Servers, address)
}

#[inline(always)]
fn may_be(filter: Filter, address: &Address) -> bool {
    let (word, bit) = filter.place(address);
    KNOWN_ADDRESSES.get(word).is_none_or(|known| known & bit != 0)
}
