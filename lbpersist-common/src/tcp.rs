//! How far a tracked TCP connection is, and what a segment does to that.
//!
//! The balancer does not follow sequence numbers. It needs to know when a connection opened, when both sides have said
//! goodbye, and when one of them broke it off.

/// The flag bits of byte 13 of a TCP header (RFC 9293, section 3.1).
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// The sender opens a connection.
    pub const SYN: u8 = 0x02;
    /// The sender breaks the connection off.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;

    /// A segment with any of these may open or close a connection; one with none never does.
    pub const CONTROL: u8 = FIN | SYN | RST;
}

/// Who sent a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// How far a connection is. The numbers are those in the map.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Both sides may send.
    Established = 1,
    /// The client has sent its FIN.
    ClientClosed = 2,
    /// The server has sent its FIN.
    ServerClosed = 3,
    /// Both have sent theirs, or one has reset: the entry no longer counts it.
    Closed = 4,
}

impl State {
    /// The state after a segment with `flags` from the client, where the server's segments are not seen: the client's word is
    /// enough.
    #[inline(always)]
    pub const fn after_client_alone(self, flags: u8) -> Self {
        if flags & (flag::FIN | flag::RST) != 0 { Self::Closed } else { self }
    }

    /// The state of a number from the map; what is no state counts as closed.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::ClientClosed,
            3 => Self::ServerClosed,
            _ => Self::Closed,
        }
    }

    /// The state after a segment with `flags` from `side`.
    #[inline(always)]
    pub const fn after(self, side: Side, flags: u8) -> Self {
        if flags & flag::RST != 0 {
            return Self::Closed;
        }
        if flags & flag::FIN == 0 {
            return self;
        }
        match (self, side) {
            (Self::Established | Self::ClientClosed, Side::Client) => Self::ClientClosed,
            (Self::Established | Self::ServerClosed, Side::Server) => Self::ServerClosed,
            (Self::ClientClosed, Side::Server)
            | (Self::ServerClosed, Side::Client)
            | (Self::Closed, _) => Self::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{State::*, *};

    #[test]
    fn a_connection_closes_when_both_sides_have_said_so() {
        assert_eq!(Established.after(Side::Client, flag::FIN | flag::ACK), ClientClosed);
        assert_eq!(ClientClosed.after(Side::Client, flag::FIN | flag::ACK), ClientClosed);
        assert_eq!(ClientClosed.after(Side::Server, flag::ACK), ClientClosed);
        assert_eq!(ClientClosed.after(Side::Server, flag::FIN | flag::ACK), Closed);
        assert_eq!(Established.after(Side::Server, flag::FIN), ServerClosed);
        assert_eq!(ServerClosed.after(Side::Client, flag::FIN), Closed);
    }

    #[test]
    fn a_reset_closes_from_either_side_and_closed_stays_closed() {
        for side in [Side::Client, Side::Server] {
            for state in [Established, ClientClosed, ServerClosed, Closed] {
                assert_eq!(state.after(side, flag::RST), Closed);
            }
            assert_eq!(Closed.after(side, flag::FIN), Closed);
            assert_eq!(Closed.after(side, flag::ACK), Closed);
        }
    }

    #[test]
    fn where_only_the_client_is_seen_its_goodbye_closes() {
        assert_eq!(Established.after_client_alone(flag::ACK), Established);
        assert_eq!(Established.after_client_alone(flag::FIN | flag::ACK), Closed);
        assert_eq!(Established.after_client_alone(flag::RST), Closed);
    }

    #[test]
    fn numbers_are_those_of_the_states() {
        for state in [Established, ClientClosed, ServerClosed, Closed] {
            assert_eq!(State::from_number(state as u32), state);
        }
    }
}
