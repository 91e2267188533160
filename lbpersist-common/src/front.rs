//! The addresses that services are on, for packets that show no port: pings and fragments.

use bytemuck::{Pod, Zeroable};

/// An address that services are on.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Front {
    /// See [`front_flag`].
    pub flags: u32,
    /// The port of its only TCP service, in host byte order; see [`front_flag::SOLE_TCP`].
    pub tcp_port: u16,
    /// The port of its only UDP service, in host byte order; see [`front_flag::SOLE_UDP`].
    pub udp_port: u16,
}

const _: () = assert!(size_of::<Front>() == 8);

/// Flags of a [`Front`].
pub mod front_flag {
    /// Pings to the address are answered.
    pub const ECHO: u32 = 1;
    /// Exactly one TCP service is on the address.
    pub const SOLE_TCP: u32 = 2;
    /// Exactly one UDP service is on the address.
    pub const SOLE_UDP: u32 = 4;
}

impl Front {
    /// The port of the only service of that protocol, if there is exactly one.
    #[inline(always)]
    pub fn sole_port(&self, protocol: u8) -> Option<u16> {
        let (flag, port) = match protocol {
            crate::net::TCP => (front_flag::SOLE_TCP, self.tcp_port),
            crate::net::UDP => (front_flag::SOLE_UDP, self.udp_port),
            _ => return None,
        };
        if self.flags & flag != 0 { Some(port) } else { None }
    }
}
