//! Incremental Internet checksums (RFC 1624, equation 3).

/// What has changed below a checksum: the ones' complement sum of what was and what is.
#[derive(Clone, Copy)]
pub(crate) struct Change(u64);

impl Change {
    /// Nothing has changed.
    pub(crate) const NONE: Self = Self(0);

    /// Two bytes have changed.
    #[inline(always)]
    pub(crate) fn and_u16(self, was: [u8; 2], is: [u8; 2]) -> Self {
        Self(self.0 + u64::from(!u16::from_ne_bytes(was)) + u64::from(u16::from_ne_bytes(is)))
    }

    /// Four bytes have changed.
    #[inline(always)]
    pub(crate) fn and_u32(self, was: u32, is: u32) -> Self {
        Self(self.0 + u64::from(!was) + u64::from(is))
    }

    /// Sixteen bytes have changed.
    #[inline(always)]
    pub(crate) fn and_u128(self, was: [u64; 2], is: [u64; 2]) -> Self {
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

    /// The checksum after the change.
    #[inline(always)]
    pub(crate) fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        let sum = u64::from(!u16::from_ne_bytes(checksum)) + self.0;
        // The sum is below 2^36: three folds leave 16 bits.
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (!(sum as u16)).to_ne_bytes()
    }
}
