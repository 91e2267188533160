//! Internet checksums: incremental (RFC 1624, equation 3) and whole (RFC 1071).

use lbpersist_common::net::Address;

use network_types::ip::Ipv4Hdr;

use crate::load;

/// A ones' complement sum of 16-bit words, in the machine's byte order, which such a sum does not mind (RFC 1071, section 2).
#[derive(Clone, Copy)]
pub struct Sum(u64);

impl Sum {
    /// Of nothing.
    pub const ZERO: Self = Self(0);

    /// With two bytes.
    #[inline(always)]
    pub fn and_u16(self, bytes: [u8; 2]) -> Self {
        Self(self.0 + u64::from(u16::from_ne_bytes(bytes)))
    }

    /// With some times four bytes.
    #[inline(always)]
    pub fn and_words<const N: usize>(self, words: &[[u8; 4]; N]) -> Self {
        let mut sum = self.0;
        let mut index = 0;
        while index < N {
            sum += u64::from(load::u32(&words[index]));
            index += 1;
        }
        Self(sum)
    }

    /// With an address of a pseudo header. The mapped form of IPv4 may stand for the four octets: what it has more is 16
    /// ones, which is another zero.
    #[inline(always)]
    pub fn and_address(self, address: &Address) -> Self {
        let [high, low] = address.words();
        let halves = |word: u64| (word & 0xffff_ffff) + (word >> 32);
        Self(self.0 + halves(high) + halves(low))
    }

    /// The checksum of all that.
    #[inline(always)]
    pub fn checksum(self) -> [u8; 2] {
        (!fold(self.0)).to_ne_bytes()
    }
}

/// Whether the checksum of an IPv4 header without options is right.
#[inline(always)]
pub fn is_right(header: &Ipv4Hdr) -> bool {
    let sum = Sum::ZERO.and_words(load::ipv4_words(header));
    sum.checksum() == [0, 0]
}

/// What has changed below a checksum: the ones' complement sum of what was and what is.
#[derive(Clone, Copy)]
pub struct Change(u64);

impl Change {
    /// Nothing has changed.
    pub const NONE: Self = Self(0);

    /// Two bytes have changed.
    #[inline(always)]
    pub fn and_u16(self, was: [u8; 2], is: [u8; 2]) -> Self {
        Self(self.0 + u64::from(!u16::from_ne_bytes(was)) + u64::from(u16::from_ne_bytes(is)))
    }

    /// Four bytes have changed.
    #[inline(always)]
    pub fn and_u32(self, was: u32, is: u32) -> Self {
        Self(self.0 + u64::from(!was) + u64::from(is))
    }

    /// Sixteen bytes have changed.
    #[inline(always)]
    pub fn and_u128(self, was: [u64; 2], is: [u64; 2]) -> Self {
        let mut change = self;
        let mut index = 0;
        while index < 2 {
            change = change
                .and_u32(was[index] as u32, is[index] as u32)
                .and_u32((was[index] >> 32) as u32, (is[index] >> 32) as u32);
            index += 1;
        }
        change
    }

    /// With another change.
    #[inline(always)]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum after the change.
    #[inline(always)]
    pub fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        (!fold(u64::from(!u16::from_ne_bytes(checksum)) + self.0)).to_ne_bytes()
    }
}

/// The 16 bits of a sum below 2^48.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}
