//! What persistence reads of a request, and what it says of one.

use std::net::SocketAddr;

use super::memory::Memory;

/// What the methods read of a request.
pub trait Request {
    /// Its Cookie headers.
    fn cookies(&self) -> impl Iterator<Item = &[u8]>;
    /// The value of a header.
    fn header(&self, name: &str) -> Option<&[u8]>;
    /// Path and query.
    fn target(&self) -> &[u8];
    /// Whose it is.
    fn client(&self) -> SocketAddr;
    /// What is remembered of its cookie from requests before.
    fn memory(&self) -> Option<&Memory> {
        None
    }
}

/// Whether a server may have a request of a client that is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It may.
    Usable,
    /// It has as many connections as it may have.
    Full,
    /// Its monitors say that it is down.
    Down,
    /// The same, and it was being drained.
    Drained,
    /// It is to serve nobody.
    Disabled,
}

/// The time of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// Milliseconds of the monotonic clock.
    pub ms: u64,
}

impl Now {
    /// Seconds since 1970.
    pub fn unix_s(self) -> u32 {
        u32::try_from(self.unix_ms / 1_000).unwrap_or(u32::MAX)
    }
}

/// What is to become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It goes to this server of the pool.
    Server {
        /// Its place in the pool.
        server: usize,
        /// When it cannot be reached, another one may be tried.
        may_move: bool,
    },
    /// Its client has no server yet: any will do.
    Balance,
    /// Its server is down, and it may have no other.
    Refuse,
    /// Its server is full, and it may have no other.
    RefuseFull,
}

/// How a request that has met a server stands to those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No profile knew a server for it.
    New,
    /// It has met the server that a profile knew.
    Kept,
    /// It has met another one.
    Moved,
}

impl Outcome {
    /// Its name in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Kept => "kept",
            Self::Moved => "moved",
        }
    }
}
