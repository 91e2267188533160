//! The programs that the first one hands packets on to.

/// Places in the map `stages`; append only.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reads whatever headers a packet has: VLAN tags, IPv4 options, IPv6 extension headers.
    Uncommon = 0,
    /// Carries ICMP errors and answers pings.
    Icmp = 1,
    /// Carries the fragments after the first.
    Fragment = 2,
    /// Tells a client that it is refused.
    Refusal = 3,
}

impl Stage {
    /// All stages, by place.
    pub const ALL: [Self; 4] = [Self::Uncommon, Self::Icmp, Self::Fragment, Self::Refusal];

    /// How many stages there can be before the map has to grow.
    pub const CAPACITY: u32 = 8;

    /// The program's name in the object.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Uncommon => "uncommon",
            Self::Icmp => "icmp",
            Self::Fragment => "fragment",
            Self::Refusal => "refusal",
        }
    }
}
