//! What a virtual service listens on.

use std::fmt;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

/// The ports of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ports {
    /// Every one.
    All,
    /// This one.
    One(u16),
}

impl Ports {
    /// The ports that a number in the maps stands for, in host byte order.
    pub const fn from_number(number: u16) -> Self {
        if number == 0 { Self::All } else { Self::One(number) }
    }

    /// The number in the maps, in host byte order: 0 for all.
    pub const fn number(self) -> u16 {
        match self {
            Self::All => 0,
            Self::One(port) => port,
        }
    }

    /// The port, if it is one.
    pub const fn one(self) -> Option<u16> {
        match self {
            Self::All => None,
            Self::One(port) => Some(port),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::One(port) => port.fmt(f),
        }
    }
}

/// A number, or `"all"`: as the configuration has it.
impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::One(port) => serializer.serialize_u16(*port),
        }
    }
}

/// Ports from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last; not before the first, and not every port there is.
    pub last: u16,
}

impl PortRange {
    /// `count` ports from `first` on.
    pub const fn counted(first: u16, count: u16) -> Self {
        Self { first, last: first.saturating_add(count.saturating_sub(1)) }
    }

    /// How many there are.
    pub const fn count(self) -> u16 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    /// Whether a port is one of them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Addresses as people write them: a prefix, or one address without a length.
pub fn addresses_text(addresses: IpNet) -> String {
    if addresses.prefix_len() == addresses.max_prefix_len() {
        addresses.addr().to_string()
    } else {
        addresses.to_string()
    }
}

/// Addresses and ports in the shape of a socket address.
pub fn listen_text(addresses: IpNet, ports: Ports) -> String {
    match addresses {
        IpNet::V4(_) => format!("{}:{ports}", addresses_text(addresses)),
        IpNet::V6(_) => format!("[{}]:{ports}", addresses_text(addresses)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_read_like_socket_addresses() {
        for (addresses, ports, text) in [
            ("198.51.100.10/32", Ports::One(80), "198.51.100.10:80"),
            ("2001:db8::10/128", Ports::One(80), "[2001:db8::10]:80"),
            ("198.51.100.10/32", Ports::All, "198.51.100.10:all"),
            ("198.51.100.0/24", Ports::One(80), "198.51.100.0/24:80"),
            ("2001:db8::/32", Ports::All, "[2001:db8::/32]:all"),
        ] {
            assert_eq!(listen_text(addresses.parse().expect("a prefix"), ports), text);
        }
    }
}
