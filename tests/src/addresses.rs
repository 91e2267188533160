//! Who has which address in a [`crate::topology::Topology`].

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The address of the virtual services.
    pub const fn service_address(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10)),
        }
    }

    /// The balancer's address towards the first server, which is its address under masquerade in tests that use that. The other
    /// servers reach it through their own balancer's address.
    pub const fn masquerade_address(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(10, 2, 0, 1)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1)),
        }
    }

    /// The virtual service on a port.
    pub const fn service(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.service_address(), port)
    }
}

/// The subnet between the balancer and a host: a /24 and a /64.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subnet {
    /// 1 for clients, 2 for servers.
    pub(crate) kind: u8,
    /// Which of them.
    pub(crate) index: u8,
}

impl Subnet {
    /// An address in it.
    pub(crate) fn host(self, family: Family, host: u8) -> IpAddr {
        let Self { kind, index } = self;
        match family {
            Family::V4 => Ipv4Addr::new(10, kind, index, host).into(),
            Family::V6 => {
                Ipv6Addr::new(0xfd00, kind.into(), index.into(), 0, 0, 0, 0, host.into()).into()
            }
        }
    }
}

/// An address out of the block of client number `index`.
pub(crate) fn block_address(index: u8, family: Family, subnet: u32, host: u8) -> IpAddr {
    let block = 64 + 16 * index;
    match family {
        Family::V4 => {
            assert!(subnet < 4096, "a /12 has 4096 subnets");
            let bits = (10 << 24) | (u32::from(block) << 16) | (subnet << 8) | u32::from(host);
            Ipv4Addr::from_bits(bits).into()
        }
        Family::V6 => {
            let high = (0xfd00 << 16) | u128::from(block);
            let bits = (high << 96) | (u128::from(subnet) << 64) | u128::from(host);
            Ipv6Addr::from_bits(bits).into()
        }
    }
}

/// Lines for `ip` in the balancer's namespace: its addresses in the subnet.
pub(crate) fn gateway_lines(subnet: &Subnet, interface: &str) -> String {
    format!(
        "address add {}/24 dev {interface}\naddress add {}/64 dev {interface} nodad\n",
        subnet.host(Family::V4, 1),
        subnet.host(Family::V6, 1)
    )
}

/// Lines for `ip` in the host's namespace: addresses and the way to everybody else.
pub(crate) fn host_lines(subnet: &Subnet) -> String {
    let host = if subnet.kind == 1 { 2 } else { 0x0a };
    let mut lines = String::new();
    for (family, length) in [(Family::V4, 24), (Family::V6, 64)] {
        let (address, gateway) = (subnet.host(family, host), subnet.host(family, 1));
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "address add {address}/{length} dev eth0");
        let _ = writeln!(lines, "route add default via {gateway}");
    }
    lines
}
