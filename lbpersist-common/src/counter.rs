//! What is counted beside the verdicts. No counter ever changes a verdict.

use bytemuck::{Pod, Zeroable};

/// Things that happen to tables. Numbers are places in the per-CPU array `events`; append only.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A client's SYN was sent to a server.
    HandshakeStarted = 0,
    /// A client finished its handshake; for UDP without entries, a flow began.
    ConnectionOpened = 1,
    /// A connection was closed by its ends.
    ConnectionClosed = 2,
    /// A silent connection was ended by the sweep.
    ConnectionIdle = 3,
    /// A client was bound to a server.
    EntryCreated = 4,
    /// A client was bound to another server than it was last, because that is down or gone or its entry had expired.
    EntryMoved = 5,
    /// An entry was reclaimed after it had expired.
    EntryExpired = 6,
    /// The count of open connections of an entry was put right by the sweep.
    EntryRepaired = 7,
    /// A table refused an insertion; the client was served from the ring.
    TableRefused = 8,
    /// A connection got a port towards its server.
    TranslationStarted = 9,
    /// A translation was freed after its connection had ended.
    TranslationEnded = 10,
    /// Every port that a client could have had towards its server was taken; it was refused.
    PortsExhausted = 11,
    /// The table of translations is full; a connection keeps its unfinished one, which may be evicted.
    TranslationRefused = 12,
    /// An unfinished translation gave its port to another client.
    TranslationDisplaced = 13,
    /// A client whose server was at its limit of connections was given another one.
    LimitSpilled = 14,
    /// A new client was served from the ring without a record: more came than the budget allows.
    BudgetSpent = 15,
}

impl Event {
    /// All events, by number.
    pub const ALL: [Self; 16] = [
        Self::HandshakeStarted,
        Self::ConnectionOpened,
        Self::ConnectionClosed,
        Self::ConnectionIdle,
        Self::EntryCreated,
        Self::EntryMoved,
        Self::EntryExpired,
        Self::EntryRepaired,
        Self::TableRefused,
        Self::TranslationStarted,
        Self::TranslationEnded,
        Self::PortsExhausted,
        Self::TranslationRefused,
        Self::TranslationDisplaced,
        Self::LimitSpilled,
        Self::BudgetSpent,
    ];

    /// How many events there can be before the map has to grow.
    pub const CAPACITY: u32 = 64;

    /// The name that the CLI and, later, the metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HandshakeStarted => "handshakes_started",
            Self::ConnectionOpened => "connections_opened",
            Self::ConnectionClosed => "connections_closed",
            Self::ConnectionIdle => "connections_idle",
            Self::EntryCreated => "entries_created",
            Self::EntryMoved => "entries_moved",
            Self::EntryExpired => "entries_expired",
            Self::EntryRepaired => "entries_repaired",
            Self::TableRefused => "table_refused",
            Self::TranslationStarted => "translations_started",
            Self::TranslationEnded => "translations_ended",
            Self::PortsExhausted => "ports_exhausted",
            Self::TranslationRefused => "translation_refused",
            Self::TranslationDisplaced => "translations_displaced",
            Self::LimitSpilled => "limit_spilled",
            Self::BudgetSpent => "budget_spent",
        }
    }
}

/// Per virtual service and CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ServiceCounters {
    /// Packets of clients that were forwarded.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
    /// Packets of servers that were returned.
    pub answer_packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub answer_bytes: u64,
    /// New connections; for UDP, clients that were not known.
    pub connections: u64,
    /// Of these, the ones whose client had an entry and met its server.
    pub kept: u64,
}

/// Per server and CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ServerCounters {
    /// Packets that were forwarded to it.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
    /// New connections; for UDP, clients that were not known.
    pub connections: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_in_the_list() {
        for (number, event) in Event::ALL.into_iter().enumerate() {
            assert_eq!(event as usize, number);
        }
    }
}
