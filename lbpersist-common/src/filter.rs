//! Which addresses may be a service's or a server's: two filters that spare other packets the look-ups.
//!
//! A filter is [`BITS`] bits; an address has one of them. That it is set says that the address may be known, that it is not
//! says that it is not. The hash has no key: whoever picks addresses by it has them looked up, as all were without a filter.

use crate::net::Address;

/// Bits of a filter.
pub const BITS: u32 = 1 << 16;

/// Words of a filter.
pub const WORDS: u32 = BITS / u64::BITS;

/// Which filter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Of the addresses that services are on, but for prefixes.
    Services = 0,
    /// Of the addresses that answers of servers come from.
    Servers = 1,
}

impl Filter {
    /// How many there are.
    pub const COUNT: u32 = 2;

    /// The word that holds the bit of `address`, and the bit.
    #[inline(always)]
    pub fn place(self, address: &Address) -> (u32, u64) {
        let bit = bit(address);
        (self as u32 * WORDS + bit / u64::BITS, 1 << (bit % u64::BITS))
    }
}

const MULTIPLIERS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];

/// Xor-shift and multiply, twice; the uppermost bits depend on all others.
#[inline(always)]
fn bit(address: &Address) -> u32 {
    let [high, low] = address.words().map(u64::to_le);
    // What tells IPv4 addresses apart lies high in the word, where multiplying spreads it little.
    let mixed = (high ^ low ^ low >> 32).wrapping_mul(MULTIPLIERS[0]);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(MULTIPLIERS[1]);
    (mixed >> (u64::BITS - BITS.trailing_zeros())) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_addresses_share_few_bits() {
        let mut filter = [0_u64; (WORDS * Filter::COUNT) as usize];
        for n in 0..4_096_u32 {
            let (word, bit) =
                Filter::Servers.place(&Address::from_ipv4((0x0a00_0000 + n).to_be_bytes()));
            filter[word as usize] |= bit;
        }
        let set: u32 = filter.iter().map(|word| word.count_ones()).sum();
        assert!(set > 3_800, "{set} bits for 4,096 addresses");
        let services = &filter[..WORDS as usize];
        assert!(services.iter().all(|word| *word == 0), "the filters lie apart");
        let of_others = (0..4_096_u32).filter(|n| {
            let (word, bit) =
                Filter::Servers.place(&Address::from_ipv4((0xc633_0000 + n).to_be_bytes()));
            filter[word as usize] & bit != 0
        });
        assert!(of_others.count() < 512);
    }
}
