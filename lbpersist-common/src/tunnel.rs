//! The far end of tunnels.

/// What became of a packet at the far end. Numbers are places in the per-CPU array `unpacked`; append only.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its outer header was taken off.
    Unpacked = 0,
    /// It is none that came through a tunnel: passed as it is.
    NoTunnel = 1,
    /// It came through a tunnel from an address that is not allowed: dropped.
    Stranger = 2,
}

impl Outcome {
    /// How many outcomes there can be before the map has to grow.
    pub const CAPACITY: u32 = 8;
}
