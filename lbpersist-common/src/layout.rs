//! The version of everything that is pinned.

use bytemuck::{Pod, Zeroable};

/// Raised whenever a key, a value or the meaning of one changes.
pub const VERSION: u32 = 4;

/// The one record of the `layout` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Layout {
    /// [`VERSION`] of the daemon that made the maps.
    pub version: u32,
    /// Slots of every ring.
    pub ring_slots: u32,
    /// The next id for a service or pool: ids are never used twice.
    pub next_id: u32,
    /// Which lookups the services ask for: bits of [`feature`].
    pub features: u32,
    /// The first of the ports that masquerade may use towards servers.
    pub first_port: u16,
    /// How many ports there are from that on.
    pub ports: u16,
    /// Zero.
    pub reserved: u32,
    /// Added to the clock, wrapping around; 0 but in tests.
    pub clock_offset_ns: u64,
}

const _: () = assert!(size_of::<Layout>() == 32);

/// Lookups that a packet is spared while no service asks for them. The daemon sets a bit before it writes the first such
/// service and clears it after the last.
pub mod feature {
    /// A service listens on all ports of an address.
    pub const ALL_PORTS: u32 = 1;
    /// A service listens on a prefix.
    pub const PREFIX: u32 = 2;
    /// A service listens on one port of a prefix: a later fragment to such an address does not show whose it is.
    pub const PREFIX_PORT: u32 = 4;
}

/// Whose name a record of the `names` map holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct NameKey {
    /// A [`kind`] number.
    pub kind: u32,
    /// The number: a service's counter index, or a pool's number.
    pub number: u32,
}

/// What a [`NameKey`] names.
pub mod kind {
    /// A virtual service.
    pub const SERVICE: u32 = 1;
    /// A pool.
    pub const POOL: u32 = 2;
}

/// Bytes a name may have.
pub const NAME_LENGTH: usize = 64;

/// The name of a service or pool, so that a daemon that starts again, and anyone who looks, knows whose numbers these are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Name {
    /// UTF-8, filled up with zeros.
    pub text: [u8; NAME_LENGTH],
    /// The id, as entry scopes and connection keys hold it.
    pub id: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Name>() == 72);

impl Name {
    /// A record of `text`, which must fit [`NAME_LENGTH`]; the configuration refuses longer names.
    pub fn new(text: &str, id: u32) -> Self {
        let mut bytes = [0; NAME_LENGTH];
        let fitting = text.len().min(NAME_LENGTH);
        bytes[..fitting].copy_from_slice(&text.as_bytes()[..fitting]);
        Self { text: bytes, id, reserved: 0 }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let length = self.text.iter().position(|&byte| byte == 0).unwrap_or(NAME_LENGTH);
        core::str::from_utf8(&self.text[..length]).unwrap_or("?")
    }
}
