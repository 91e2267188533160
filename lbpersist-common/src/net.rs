//! Addresses as the maps hold them.

use bytemuck::{Pod, Zeroable};

/// An IPv6 address, or an IPv4 address in its mapped form `::ffff:a.b.c.d`, in network byte order.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Address {
    /// The sixteen bytes, most significant first.
    pub bytes: [u8; 16],
}

const _: () = assert!(size_of::<Address>() == 16);

/// The first twelve bytes of every mapped IPv4 address, as the two words of [`Address::words`] see them.
const MAPPED: Address = Address::from_ipv4([0, 0, 0, 0]);

impl Address {
    /// `::`
    pub const UNSPECIFIED: Self = Self { bytes: [0; 16] };

    /// The mapped form of an IPv4 address.
    #[inline(always)]
    pub const fn from_ipv4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self { bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] }
    }

    /// An IPv6 address.
    #[inline(always)]
    pub const fn from_ipv6(octets: [u8; 16]) -> Self {
        Self { bytes: octets }
    }

    /// The two halves as they lie in memory, in the machine's byte order: for hashing and masking, not for arithmetic.
    #[inline(always)]
    pub fn words(&self) -> [u64; 2] {
        bytemuck::cast(*self)
    }

    /// The inverse of [`words`](Self::words).
    #[inline(always)]
    pub fn from_words(words: [u64; 2]) -> Self {
        bytemuck::cast(words)
    }

    /// Whether this is an IPv4 address in mapped form.
    #[inline(always)]
    pub fn is_ipv4(&self) -> bool {
        let ([high, low], [_, mapped]) = (self.words(), MAPPED.words());
        high == 0 && low & MAPPED_BITS == mapped & MAPPED_BITS
    }

    /// Whether a host may send from this address: it is not unspecified, loopback, multicast or broadcast (RFC 1122, section
    /// 3.2.1.3; RFC 4291, section 2.7).
    #[inline(always)]
    pub fn may_be_source(&self) -> bool {
        let [high, low] = self.words();
        if self.is_ipv4() {
            let first = self.bytes[12];
            first != 0 && first != 127 && first < 224
        } else {
            self.bytes[0] != 0xff && (high != 0 || u64::from_be(low) > 1)
        }
    }

    /// The last four bytes: the IPv4 address when [`is_ipv4`](Self::is_ipv4).
    #[inline(always)]
    pub const fn ipv4_octets(&self) -> [u8; 4] {
        let b = &self.bytes;
        [b[12], b[13], b[14], b[15]]
    }

    /// The address with the bits outside `mask` cleared.
    #[inline(always)]
    pub fn masked(&self, mask: &Self) -> Self {
        let ([high, low], [mask_high, mask_low]) = (self.words(), mask.words());
        Self::from_words([high & mask_high, low & mask_low])
    }

    /// A mask of `bits` leading ones, 0 to 128.
    pub const fn prefix_mask(bits: u8) -> Self {
        let mut bytes = [0; 16];
        let mut index = 0;
        while index < 16 {
            let left = (bits as usize).saturating_sub(index * 8);
            bytes[index] = if left >= 8 { 0xff } else { !(0xff_u8 >> left) };
            index += 1;
        }
        Self { bytes }
    }

    /// A mask for mapped IPv4 addresses: `bits` ones, 0 to 32, below the prefix that says it is IPv4.
    pub const fn ipv4_prefix_mask(bits: u8) -> Self {
        Self::prefix_mask(96 + bits)
    }

    /// How many bits of this mask are set.
    pub fn prefix_length(&self) -> u8 {
        self.bytes.iter().map(|byte| byte.count_ones() as u8).sum()
    }
}

/// The bytes of the low word that tell a mapped address: `00 00 ff ff` before the four octets.
const MAPPED_BITS: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);

/// One end of a TCP connection or UDP flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port, in host byte order.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u16,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Endpoint>() == 24);

impl Endpoint {
    /// An end at `address` and `port`, which is in host byte order.
    #[inline(always)]
    pub const fn new(address: Address, port: u16, protocol: u8) -> Self {
        Self { address, port, protocol: protocol as u16, reserved: 0 }
    }
}

/// The destination of a client's packets as keys hold it: the low 96 bits of an [`Address`], or zeros for a service on one address.
///
/// Prefixes of IPv6 are /32 or longer, so the bits that are missing are those of the service.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Destination {
    /// The twelve bytes, most significant first.
    pub bytes: [u8; 12],
}

const _: () = assert!(size_of::<Destination>() == 12);

impl Destination {
    /// That of a service on one address.
    pub const NONE: Self = Self { bytes: [0; 12] };

    /// The part of `address` that keys hold.
    #[inline(always)]
    pub fn of(address: &Address) -> Self {
        let words: [u32; 4] = bytemuck::cast(*address);
        bytemuck::cast([words[1], words[2], words[3]])
    }

    /// The three quarters as they lie in memory, in the machine's byte order.
    #[inline(always)]
    pub fn words(&self) -> [u32; 3] {
        bytemuck::cast(*self)
    }
}

/// An Ethernet address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Mac {
    /// The six bytes as they stand in a frame.
    pub bytes: [u8; 6],
}

impl Mac {
    /// No address.
    pub const ZERO: Self = Self { bytes: [0; 6] };
}

/// The first twelve bytes of a frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FrameAddresses {
    /// Who is to receive it: the next hop.
    pub destination: Mac,
    /// Who sends it: the interface it leaves by.
    pub source: Mac,
}

impl FrameAddresses {
    /// No addresses.
    pub const ZERO: Self = Self { destination: Mac::ZERO, source: Mac::ZERO };
}

/// IANA protocol number of TCP.
pub const TCP: u8 = 6;
/// IANA protocol number of UDP.
pub const UDP: u8 = 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_told_from_ipv6() {
        assert!(Address::from_ipv4([10, 1, 2, 3]).is_ipv4());
        assert!(Address::from_ipv4([0, 0, 0, 0]).is_ipv4());
        assert!(!Address::UNSPECIFIED.is_ipv4());
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&[0x20, 0x01]);
        bytes[10..12].copy_from_slice(&[0xff, 0xff]);
        assert!(!Address::from_ipv6(bytes).is_ipv4());
    }

    #[test]
    fn masks_keep_exactly_the_prefix() {
        for bits in 0..=32_u8 {
            let all = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            let client = 0xc633_64f5_u32;
            let masked =
                Address::from_ipv4(client.to_be_bytes()).masked(&Address::ipv4_prefix_mask(bits));
            assert!(masked.is_ipv4());
            assert_eq!(u32::from_be_bytes(masked.ipv4_octets()), client & all, "/{bits}");
        }
        for bits in 0..=128_u8 {
            let mask = Address::prefix_mask(bits);
            let expected = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            assert_eq!(u128::from_be_bytes(mask.bytes), expected, "/{bits}");
            assert_eq!(mask.prefix_length(), bits);
        }
    }

    #[test]
    fn some_addresses_are_never_a_source() {
        for (octets, may) in [
            ([10, 0, 0, 1], true),
            ([223, 255, 255, 255], true),
            ([0, 0, 0, 0], false),
            ([127, 0, 0, 1], false),
            ([224, 0, 0, 1], false),
            ([255, 255, 255, 255], false),
        ] {
            assert_eq!(Address::from_ipv4(octets).may_be_source(), may, "{octets:?}");
        }
        let ipv6 = |first, last| {
            let mut bytes = [0; 16];
            (bytes[0], bytes[15]) = (first, last);
            Address::from_ipv6(bytes).may_be_source()
        };
        assert!(ipv6(0x20, 1) && ipv6(0xfe, 1) && ipv6(0, 2));
        assert!(!ipv6(0xff, 1) && !ipv6(0, 0) && !ipv6(0, 1));
    }

    #[test]
    fn words_round_trip() {
        let address = Address::from_ipv4([192, 0, 2, 77]);
        assert_eq!(Address::from_words(address.words()), address);
    }
}
