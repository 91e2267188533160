//! Services on all ports of an address and on prefixes: looked for where the exact lookup has missed, and only while such a
//! service is configured. Subprograms of their own, for the stack that their keys take.
#![expect(unsafe_code, reason = "map values are reached through pointers")]

use aya_ebpf::btf_maps::lpm_trie::Key;
use lbpersist_common::{
    layout::feature,
    net::{Endpoint, UDP},
    service::{PrefixKey, Reverse, Service},
};

use crate::maps::{PREFIX_SERVICES, REVERSE, SERVICES, features};

/// The service on all ports of the address.
#[inline(always)]
pub(crate) fn service(end: &Endpoint) -> Option<&'static Service> {
    if features() & feature::ALL_PORTS == 0 { None } else { service_on_all_ports(end) }
}

/// The service whose server's every port answers for it.
#[inline(always)]
pub(crate) fn reverse(end: &Endpoint) -> Option<&'static Reverse> {
    if features() & feature::ALL_PORTS == 0 { None } else { reverse_of_all_ports(end) }
}

/// The service on a prefix around the address. The longest prefix wins, and at equal length one port before all.
#[inline(always)]
pub(crate) fn on_a_prefix(end: &Endpoint) -> Option<&'static Service> {
    if features() & feature::PREFIX == 0 { None } else { service_on_prefix(end) }
}

/// The service on all ports of a prefix around the address, whatever port `end` has. The longest prefix wins.
#[inline(always)]
pub(crate) fn on_all_ports_of_a_prefix(end: &Endpoint) -> Option<&'static Service> {
    if features() & feature::PREFIX == 0 {
        return None;
    }
    let found = PREFIX_SERVICES.get(&Key::new(PrefixKey::BITS, PrefixKey::of(end, 0)))?;
    (found.id != 0).then_some(found)
}

/// Whether some prefix has a service on one port, so that who does not know the port does not know the service.
#[inline(always)]
pub(crate) fn has_ports_of_prefixes() -> bool {
    features() & feature::PREFIX_PORT != 0
}

/// Whether an end is such a service, or the end of a server that answers for one.
#[inline(always)]
pub(crate) fn is_ours(end: &Endpoint) -> bool {
    service(end).is_some()
        || reverse(end).is_some()
        || on_a_prefix(end).is_some_and(|service| {
            // TCP between such an end and itself ends by a reset. And all of IPv4 is not ours, even if it is balanced.
            end.protocol == u16::from(UDP) && service.prefix_length > WHOLE_OF_IPV4
        })
}

/// Bits of 0.0.0.0/0 in mapped form.
const WHOLE_OF_IPV4: u32 = 96;

#[inline(never)]
fn service_on_all_ports(end: &Endpoint) -> Option<&'static Service> {
    let key = Endpoint { port: 0, ..*end };
    // SAFETY: as in `select::service`.
    unsafe { SERVICES.get(&key) }
}

#[inline(never)]
fn reverse_of_all_ports(end: &Endpoint) -> Option<&'static Reverse> {
    let key = Endpoint { port: 0, ..*end };
    // SAFETY: as in `select::service`.
    unsafe { REVERSE.get(&key) }
}

#[inline(never)]
fn service_on_prefix(end: &Endpoint) -> Option<&'static Service> {
    let one = PREFIX_SERVICES.get(&Key::new(PrefixKey::BITS, PrefixKey::of(end, end.port)));
    let all = PREFIX_SERVICES.get(&Key::new(PrefixKey::BITS, PrefixKey::of(end, 0)));
    let found = match (one, all) {
        (Some(one), Some(all)) if all.prefix_length > one.prefix_length => all,
        (Some(one), _) => one,
        (None, all) => all?,
    };
    // Of an address of this machine only that is known.
    (found.id != 0).then_some(found)
}
