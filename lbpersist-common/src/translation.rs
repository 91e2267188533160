//! Translations: how a client's packets look to a server that is reached by masquerade.
//!
//! The server sees them come from the balancer, by a port that tells the clients apart. The port of a client is one of
//! [`CANDIDATES`] that a hash of its flow names; which of them, the tables tell.

use bytemuck::{Pod, Zeroable};

use crate::{
    net::{Address, Endpoint},
    ring::slot_of,
    service::Reverse,
};

/// Ports that are tried for a client.
pub const CANDIDATES: u32 = 16;

/// What an answer shows: whom it comes from, and our port it goes to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct TranslationKey {
    /// The server's address.
    pub server: Address,
    /// The server's port, in host byte order.
    pub server_port: u16,
    /// Our port, in host byte order.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u16,
    /// Zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<TranslationKey>() == 24);

/// Whose packets they are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Translation {
    /// What becomes of an answer: the address and port the client came for, and the numbers of the service.
    pub answer: Reverse,
    /// The client.
    pub client: Endpoint,
    /// A [`crate::tcp::State`] number, or one of [`progress`].
    pub state: u32,
    /// Zero.
    pub reserved: u32,
    /// The last packet that was noted, nanoseconds of `CLOCK_MONOTONIC`.
    pub last_seen_ns: u64,
}

const _: () = assert!(size_of::<Translation>() == 80);

/// What [`Translation::state`] is where TCP has no state yet, and over UDP.
pub mod progress {
    /// The client has asked.
    pub const ASKED: u32 = 0;
    /// Over UDP: the server has answered.
    pub const ANSWERED: u32 = 16;
}

impl Translation {
    /// Whether it is that of a packet from `from` to `to`.
    #[inline(always)]
    pub fn is_of(&self, from: &Endpoint, to: &Endpoint) -> bool {
        self.client == *from && self.answer.port == to.port && self.answer.address == to.address
    }
}

/// The `number`th candidate of a flow's hash among `count` ports from `first` on. As long as there are [`CANDIDATES`] ports the
/// candidates differ; with fewer every port is one.
#[inline(always)]
pub const fn candidate(hash: u64, number: u32, first: u16, count: u16) -> u16 {
    let count = count as u32;
    let begin = slot_of(hash as u32, count);
    // Sixteen steps of a sixteenth do not come round.
    let step = 1 + slot_of((hash >> 32) as u32, count / CANDIDATES);
    let place = begin + number * step;
    let mut place = if count >= CANDIDATES && place >= count { place - count } else { place };
    if count < CANDIDATES && count > 0 {
        place %= count;
    }
    first.wrapping_add(place as u16)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn candidates_differ_and_stay_in_the_range() {
        let hashes = [0, u64::MAX, 0x1234_5678_9abc_def0, 0xffff_ffff_0000_0000];
        for count in [1, 2, 3, 4, 15, 16, 17, 100, 31_744, u16::MAX] {
            for hash in hashes {
                let ports: BTreeSet<u16> =
                    (0..CANDIDATES).map(|number| candidate(hash, number, 1_000, count)).collect();
                assert_eq!(ports.len(), usize::from(count.min(16)), "{count} {hash:x}");
                if let Some(end) = 1_000_u16.checked_add(count) {
                    assert!(
                        ports.iter().all(|port| (1_000..end).contains(port)),
                        "{count} {hash:x}"
                    );
                }
            }
        }
    }
}
