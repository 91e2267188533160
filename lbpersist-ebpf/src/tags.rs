//! VLAN tags. They stay on the packet as they came: whatever is put before the IP header goes behind them.

use lbpersist_common::net::FrameAddresses;
use network_types::eth::EthHdr;

use crate::{cursor::Cursor, load};

/// A frame's header with its tags, copied out of it.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    /// Addresses, and the type of the first tag or of the packet.
    pub(crate) ethernet: EthHdr,
    /// Of each tag what is behind its type: two bytes of the tag and the type of what follows.
    tags: [[u8; 4]; 2],
    /// Bytes of the tags: 0, 4 or 8.
    length: usize,
}

impl Head {
    /// Of the frame at `cursor`, which has `length` bytes of tags.
    #[inline(always)]
    pub(crate) fn read(mut cursor: Cursor, length: usize) -> Option<Self> {
        let ethernet = *cursor.take()?;
        let mut tags = [[0; 4]; 2];
        if length >= 4 {
            tags[0] = *cursor.take()?;
        }
        if length >= 8 {
            tags[1] = *cursor.take()?;
        }
        Some(Self { ethernet, tags, length })
    }

    /// Writes it at `cursor`, which is behind it afterwards.
    #[inline(always)]
    pub(crate) fn write(&self, cursor: &mut Cursor) -> Option<()> {
        *cursor.take()? = self.ethernet;
        if self.length >= 4 {
            *cursor.take()? = self.tags[0];
        }
        if self.length >= 8 {
            *cursor.take()? = self.tags[1];
        }
        Some(())
    }

    /// For a packet of another type.
    #[inline(always)]
    pub(crate) fn of_type(mut self, ether_type: u16) -> Self {
        let [high, low] = ether_type.to_ne_bytes();
        match self.length {
            0 => self.ethernet.ether_type = ether_type,
            4 => [self.tags[0][2], self.tags[0][3]] = [high, low],
            _ => [self.tags[1][2], self.tags[1][3]] = [high, low],
        }
        self
    }

    /// With other addresses.
    #[inline(always)]
    pub(crate) fn towards(mut self, addresses: &FrameAddresses) -> Self {
        load::set_frame_addresses(&mut self.ethernet, addresses);
        self
    }

    /// Back to where it came from.
    #[inline(always)]
    pub(crate) fn turned(mut self) -> Self {
        core::mem::swap(&mut self.ethernet.src_addr, &mut self.ethernet.dst_addr);
        self
    }
}
