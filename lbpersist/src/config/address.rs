//! Addresses of services and servers: what the data path can serve, and why not the rest.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::words::quoted;

/// Reads an address. The error is the sentence to follow the name of the field.
pub(super) fn parse(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| not_an_address(text))?;
    match unusable(address) {
        None => Ok(address),
        Some(why) => Err(format!("must not be {address}: {why}")),
    }
}

/// Reads an address or a prefix. The error is the sentence to follow the name of the field.
pub(super) fn parse_prefix(text: &str) -> Result<IpNet, String> {
    if !text.contains('/') {
        return parse(text).map(IpNet::from);
    }
    let prefix: IpNet = text
        .parse()
        .map_err(|_| format!("must be an IPv4 or IPv6 address or prefix, not {}", quoted(text)))?;
    if prefix.prefix_len() == prefix.max_prefix_len() {
        return parse(&prefix.addr().to_string()).map(IpNet::from);
    }
    if prefix != prefix.trunc() {
        let whole = prefix.trunc();
        return Err(format!("must not be {text}: it has bits beyond the prefix; write {whole}"));
    }
    match unusable_prefix(prefix) {
        None => Ok(prefix),
        Some(why) => Err(format!("must not be {prefix}: {why}")),
    }
}

fn unusable_prefix(prefix: IpNet) -> Option<&'static str> {
    match prefix {
        IpNet::V6(net) if net.prefix_len() < SHORTEST_IPV6 => {
            Some("keys have room for 96 bits of a destination, so an IPv6 prefix is /32 or longer")
        }
        IpNet::V6(net) if net.network().to_ipv4_mapped().is_some() => {
            Some("IPv4 addresses are written as such")
        }
        IpNet::V6(net) if is_link_local(net.network()) => {
            Some("a link-local address does not tell which link it is on")
        }
        _ if prefix.network().is_multicast() => Some("a multicast address is not one machine's"),
        IpNet::V4(net) if net.network().is_loopback() => {
            Some("packets to a loopback address never reach XDP")
        }
        _ => None,
    }
}

/// The first 32 bits are not a part of keys.
const SHORTEST_IPV6: u8 = 32;

fn not_an_address(text: &str) -> String {
    let hint = if text.parse::<SocketAddr>().is_ok() {
        "; the port goes into `port`"
    } else if text.parse::<IpNet>().is_ok() {
        "; only a virtual service may have a prefix"
    } else if text.contains('%') {
        "; an address has no zone here"
    } else if text.starts_with('[') && text.ends_with(']') {
        "; leave the brackets out"
    } else {
        ""
    };
    format!("must be an IPv4 or IPv6 address, not {}{hint}", quoted(text))
}

fn unusable(address: IpAddr) -> Option<String> {
    let why = match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            let v4 = v6.to_ipv4_mapped()?;
            return Some(format!("an IPv4 address is written as such; write {v4}"));
        }
        _ if address.is_unspecified() => "the unspecified address is nobody's",
        _ if address.is_loopback() => "packets to a loopback address never reach XDP",
        _ if address.is_multicast() => "a multicast address is not one machine's",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address is not one machine's",
        IpAddr::V6(v6) if is_link_local(v6) => {
            "a link-local address does not tell which link it is on"
        }
        _ => return None,
    };
    Some(why.to_owned())
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_machine_are_taken() {
        for text in ["198.51.100.10", "10.0.0.1", "2001:db8::10", "fd00::1"] {
            assert_eq!(parse(text).map(|address| address.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn prefixes_are_read_and_bad_ones_explained() {
        for text in ["198.51.100.0/24", "0.0.0.0/0", "2001:db8::/32", "10.0.0.1/32"] {
            assert_eq!(parse_prefix(text).map(|net| net.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(parse_prefix("10.0.0.1"), Ok("10.0.0.1/32".parse().expect("a prefix")));
        for (text, why) in [
            ("10.0.0.0/33", "must be an IPv4 or IPv6 address or prefix, not `10.0.0.0/33`"),
            (
                "198.51.100.10/24",
                "must not be 198.51.100.10/24: it has bits beyond the prefix; write 198.51.100.0/24",
            ),
            (
                "2001::/16",
                "must not be 2001::/16: keys have room for 96 bits of a destination, so an IPv6 prefix is /32 or longer",
            ),
            ("224.0.0.0/4", "must not be 224.0.0.0/4: a multicast address is not one machine's"),
            (
                "127.0.0.0/8",
                "must not be 127.0.0.0/8: packets to a loopback address never reach XDP",
            ),
            (
                "127.0.0.1/32",
                "must not be 127.0.0.1: packets to a loopback address never reach XDP",
            ),
            (
                "fe80::/64",
                "must not be fe80::/64: a link-local address does not tell which link it is on",
            ),
        ] {
            assert_eq!(parse_prefix(text), Err(why.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_served_is_explained() {
        for (text, why) in [
            ("web.example", "must be an IPv4 or IPv6 address, not `web.example`"),
            ("", "must be an IPv4 or IPv6 address, not ``"),
            (
                "10.0.0.1:80",
                "must be an IPv4 or IPv6 address, not `10.0.0.1:80`; the port goes into `port`",
            ),
            (
                "10.0.0.0/8",
                "must be an IPv4 or IPv6 address, not `10.0.0.0/8`; only a virtual service may have a prefix",
            ),
            (
                "fe80::1%eth0",
                "must be an IPv4 or IPv6 address, not `fe80::1%eth0`; an address has no zone here",
            ),
            (
                "[2001:db8::1]",
                "must be an IPv4 or IPv6 address, not `[2001:db8::1]`; leave the brackets out",
            ),
            (
                "::ffff:10.0.0.1",
                "must not be ::ffff:10.0.0.1: an IPv4 address is written as such; write 10.0.0.1",
            ),
            ("0.0.0.0", "must not be 0.0.0.0: the unspecified address is nobody's"),
            ("::", "must not be ::: the unspecified address is nobody's"),
            ("127.0.0.2", "must not be 127.0.0.2: packets to a loopback address never reach XDP"),
            ("::1", "must not be ::1: packets to a loopback address never reach XDP"),
            ("224.0.0.1", "must not be 224.0.0.1: a multicast address is not one machine's"),
            ("ff02::1", "must not be ff02::1: a multicast address is not one machine's"),
            (
                "255.255.255.255",
                "must not be 255.255.255.255: the broadcast address is not one machine's",
            ),
            (
                "fe80::1",
                "must not be fe80::1: a link-local address does not tell which link it is on",
            ),
        ] {
            assert_eq!(parse(text), Err(why.to_owned()), "{text}");
        }
    }
}
