//! The result of choosing a server, as one register.
//!
//! Choosing by the tables is a subprogram of its own, since together with the rest it would need more stack than a BPF frame
//! has; and a subprogram returns one number.

use lbpersist_common::reason::Reason;

const REFUSED: u32 = 1 << 31;

/// A server's number, or why there is none.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Choice(u32);

impl From<Result<u32, Reason>> for Choice {
    #[inline(always)]
    fn from(result: Result<u32, Reason>) -> Self {
        match result {
            Ok(server) => Self(server),
            Err(reason) => Self(REFUSED | reason as u32),
        }
    }
}

impl Choice {
    /// The choice as the number that a global function returns.
    #[inline(always)]
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// The inverse of [`number`](Self::number).
    #[inline(always)]
    pub(crate) fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// The choice as a result again.
    #[inline(always)]
    pub(crate) fn result(self) -> Result<u32, Reason> {
        const DOWN: u32 = REFUSED | Reason::ServerDown as u32;
        const SOURCE: u32 = REFUSED | Reason::ImpossibleSource as u32;
        const GONE: u32 = REFUSED | Reason::ServerGone as u32;
        const FULL: u32 = REFUSED | Reason::ServerFull as u32;
        match self.0 {
            DOWN => Err(Reason::ServerDown),
            SOURCE => Err(Reason::ImpossibleSource),
            GONE => Err(Reason::ServerGone),
            FULL => Err(Reason::ServerFull),
            number if number & REFUSED != 0 => Err(Reason::NoServer),
            number => Ok(number),
        }
    }
}
