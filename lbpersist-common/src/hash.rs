//! The one hash that maps a client to a slot of a ring.
//!
//! The same bits come out on every node and in every version: a cluster relies on it, and so do the pinned
//! rings that a new daemon takes over. It mixes as the finalizer of MurmurHash3 does (Appleby, public domain:
//! xor-shift and multiply, which the BPF instruction set has), over two 64-bit words.

use crate::{
    net::{Address, Destination, Endpoint},
    persistence::EntryKey,
};

const MULTIPLY_HIGH: u64 = 0xff51_afd7_ed55_8ccd;
const MULTIPLY_LOW: u64 = 0xc4ce_b9fe_1a85_ec53;
const START: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hashes a client key. `port` is 0 for a key that has none.
#[inline(always)]
pub fn client(client: &Address, port: u16) -> u32 {
    let [high, low] = client.words().map(u64::to_le);
    let first = mix(high ^ START).wrapping_add(u64::from(port));
    let hash = mix(first ^ low);
    (hash >> 32) as u32
}

/// Hashes a client key of which the destination is a part. Without one it is [`client`].
#[inline(always)]
pub fn client_to(address: &Address, port: u16, destination: &Destination) -> u32 {
    if *destination == Destination::NONE {
        return client(address, port);
    }
    let [high, low] = address.words().map(u64::to_le);
    let [first, second, third] = destination.words().map(|word| u64::from(word.to_le()));
    let hash = mix(mix(high ^ START).wrapping_add(u64::from(port)) ^ low);
    let hash = mix(mix(hash ^ (first | second << 32)) ^ third);
    (hash >> 32) as u32
}

/// Hashes an entry's key: for what this node alone decides.
#[inline(always)]
pub fn entry(key: &EntryKey) -> u64 {
    let [high, low] = key.client.words();
    let [first, second, third] = key.destination.words().map(u64::from);
    let hash = mix(high ^ u64::from(key.scope).wrapping_mul(MULTIPLY_LOW) ^ START);
    mix(mix(hash ^ low ^ (first | second << 32).rotate_left(17)) ^ third)
}

/// Hashes a flow: for what this node alone decides.
#[inline(always)]
pub fn flow(from: &Endpoint, to: &Endpoint) -> u64 {
    let ([high, low], [to_high, to_low]) = (from.address.words(), to.address.words());
    let ports = u64::from(from.port) << 16 | u64::from(to.port);
    let hash = mix(high ^ to_high.rotate_left(32) ^ ports.wrapping_mul(MULTIPLY_HIGH) ^ START);
    mix(hash ^ low.wrapping_mul(MULTIPLY_LOW) ^ to_low.rotate_left(17))
}

/// Hashes any bytes: for what is decided away from the packet's way, such as a member's place in a ring.
pub fn bytes(seed: u64, data: &[u8]) -> u64 {
    let hash = data.chunks(8).fold(seed ^ START, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word))
    });
    mix(hash ^ data.len() as u64)
}

#[inline(always)]
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 33)).wrapping_mul(MULTIPLY_HIGH);
    let value = (value ^ (value >> 33)).wrapping_mul(MULTIPLY_LOW);
    value ^ (value >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_never_change() {
        assert_eq!(client(&Address::from_ipv4([192, 0, 2, 1]), 0), CLIENT_V4);
        assert_eq!(client(&Address::from_ipv4([192, 0, 2, 1]), 40_000), CLIENT_V4_PORT);
        assert_eq!(bytes(7, b"10.0.0.11:8080"), BYTES);
        let client_v4 = Address::from_ipv4([192, 0, 2, 1]);
        assert_eq!(client_to(&client_v4, 40_000, &Destination::NONE), CLIENT_V4_PORT);
        let destination = Destination::of(&Address::from_ipv4([198, 51, 100, 10]));
        assert_eq!(client_to(&client_v4, 0, &destination), CLIENT_V4_DESTINATION);
    }

    #[test]
    fn neighbouring_clients_spread_evenly() {
        let mut buckets = [0_u32; 64];
        for n in 0..64_000_u32 {
            let address = Address::from_ipv4((0x0a00_0000 + n).to_be_bytes());
            buckets[(client(&address, 0) >> 26) as usize] += 1;
        }
        assert!(buckets.iter().all(|&n| (850..1150).contains(&n)), "{buckets:?}");
    }

    #[test]
    fn neighbouring_destinations_spread_evenly() {
        let mut buckets = [0_u32; 64];
        let from = Address::from_ipv4([192, 0, 2, 1]);
        for n in 0..64_000_u32 {
            let to = Destination::of(&Address::from_ipv4((0x0a00_0000 + n).to_be_bytes()));
            buckets[(client_to(&from, 0, &to) >> 26) as usize] += 1;
        }
        assert!(buckets.iter().all(|&n| (850..1150).contains(&n)), "{buckets:?}");
    }

    const CLIENT_V4: u32 = 0x28583013;
    const CLIENT_V4_PORT: u32 = 0x7d1ce984;
    const CLIENT_V4_DESTINATION: u32 = 0x00be379f;
    const BYTES: u64 = 0xc915d135fac52133;
}
