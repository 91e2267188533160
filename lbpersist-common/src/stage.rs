//! The programs that the first one hands packets on to.

/// Places in the map `stages`; append only.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reads whatever headers a packet has: VLAN tags, IPv4 options, IPv6 extension headers, fragments, ICMP.
    Uncommon = 0,
}

impl Stage {
    /// All stages, by place.
    pub const ALL: [Self; 1] = [Self::Uncommon];

    /// How many stages there can be before the map has to grow.
    pub const CAPACITY: u32 = 8;

    /// The program's name in the object.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Uncommon => "uncommon",
        }
    }
}
