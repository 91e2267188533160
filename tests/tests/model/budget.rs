//! The budget of new clients.

use std::{collections::BTreeMap, net::IpAddr};

use crate::world::masked;

/// The budget of new clients that have not proven their address: of windows of 2^30 nanoseconds, in all and by prefix.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    pub(crate) all: u32,
    pub(crate) of_prefix: u32,
    window: u64,
    spent: u32,
    spent_of_prefix: BTreeMap<IpAddr, u32>,
}

impl Budget {
    pub(crate) fn new(all: u32, of_prefix: u32) -> Self {
        Self { all, of_prefix, ..Self::default() }
    }

    /// Whether a record may be made for that client.
    pub(super) fn allows(&mut self, client: IpAddr, now: u64) -> bool {
        if self.window != now >> 30 {
            *self = Self { window: now >> 30, ..Self::new(self.all, self.of_prefix) };
        }
        let prefix = masked(client, if client.is_ipv4() { 24 } else { 48 });
        let spent = self.spent_of_prefix.entry(prefix).or_default();
        if *spent == self.of_prefix {
            return false;
        }
        *spent += 1;
        let is_left = self.spent < self.all;
        self.spent += u32::from(is_left);
        is_left
    }
}
