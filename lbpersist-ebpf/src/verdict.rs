//! What is to become of a packet.

use aya_ebpf::bindings::xdp_action;
use lbpersist_common::reason::Reason;

/// What the kernel is told to do with a packet.
#[must_use]
#[derive(Clone, Copy)]
pub(crate) enum Verdict {
    /// To the stack of this machine.
    Pass,
    /// Nowhere.
    Drop,
    /// Nowhere, and its sender is told so, by the program behind.
    Refuse,
    /// Out of the interface it came in by.
    Transmit,
    /// Out of another interface, which the redirect helper has been told.
    Redirect,
}

impl Verdict {
    /// The number the kernel expects.
    #[inline(always)]
    pub(crate) fn action(self) -> u32 {
        match self {
            Self::Pass => xdp_action::XDP_PASS,
            Self::Drop | Self::Refuse => xdp_action::XDP_DROP,
            Self::Transmit => xdp_action::XDP_TX,
            Self::Redirect => xdp_action::XDP_REDIRECT,
        }
    }

    /// The verdict of an action, if it is one of ours.
    #[inline(always)]
    pub(crate) fn from_action(action: u32) -> Self {
        match action {
            xdp_action::XDP_TX => Self::Transmit,
            xdp_action::XDP_REDIRECT => Self::Redirect,
            xdp_action::XDP_PASS => Self::Pass,
            _ => Self::Drop,
        }
    }

    /// The verdict on a packet that is not carried any further, for `reason`.
    #[inline(always)]
    pub(crate) fn of(reason: Reason) -> Self {
        match reason {
            Reason::NoServer
            | Reason::ServerDown
            | Reason::NoNextHop
            | Reason::NoRoute
            | Reason::HopLimit
            | Reason::TooBig
            | Reason::ImpossibleSource
            | Reason::ServerGone
            | Reason::SourceRouted
            | Reason::FragmentLost
            | Reason::FragmentRefused
            | Reason::NoPort
            | Reason::ServerFull => Self::Drop,
            Reason::Forwarded
            | Reason::Returned
            | Reason::ErrorForwarded
            | Reason::ErrorReturned
            | Reason::EchoAnswered
            | Reason::NotOurs
            | Reason::NotIp
            | Reason::ToThisMachine
            | Reason::Fragment
            | Reason::Malformed
            | Reason::OtherProtocol => Self::Pass,
        }
    }
}
