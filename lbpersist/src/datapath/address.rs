//! Between the addresses of the standard library and those of the maps.

use std::net::{IpAddr, Ipv6Addr};

use lbpersist_common::net::Address;

/// The map form of an address.
pub fn to_map(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::from_ipv4(address.octets()),
        IpAddr::V6(address) => Address::from_ipv6(address.octets()),
    }
}

/// The address behind a map form.
pub fn from_map(address: Address) -> IpAddr {
    if address.is_ipv4() {
        IpAddr::from(address.ipv4_octets())
    } else {
        IpAddr::V6(Ipv6Addr::from(address.bytes))
    }
}
