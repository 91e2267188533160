//! A snapshot of the entries, with the time that each has left.

use std::fs;

use bytemuck::{Pod, Zeroable};
use lbpersist_common::{persistence::EntryKey, server::Binding};
use serde::{Deserialize, Serialize};

use crate::datapath::bind::Wanted;

/// Entries of one value in the database.
const PART: usize = 4_096;

/// Entries at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// When it was taken, seconds since 1970.
    pub taken: u64,
    /// Which start of the machine it is of.
    pub boot: String,
    /// The entries.
    pub entries: Vec<Wanted>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    taken: u64,
    boot: String,
}

const VERSION: u32 = 1;

/// An entry as it is written.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Record {
    key: EntryKey,
    binding: Binding,
    left_ns: u64,
    age_ns: u64,
}

impl Snapshot {
    pub(super) fn write(&self) -> (Vec<u8>, Vec<Vec<u8>>) {
        let head = Head { version: VERSION, taken: self.taken, boot: self.boot.clone() };
        let record = |&Wanted { key, binding, left_ns, age_ns }: &Wanted| Record {
            key,
            binding,
            left_ns,
            age_ns,
        };
        let part = |part: &[Wanted]| {
            let records: Vec<Record> = part.iter().map(record).collect();
            bytemuck::cast_slice(&records).to_vec()
        };
        let head = serde_json::to_vec(&head).unwrap_or_default();
        (head, self.entries.chunks(PART).map(part).collect())
    }

    pub(super) fn read(head: &[u8], parts: &[Vec<u8>]) -> Option<Self> {
        let Head { version, taken, boot } = serde_json::from_slice(head).ok()?;
        if version != VERSION {
            return None;
        }
        let records = parts.iter().flat_map(|part| part.chunks_exact(size_of::<Record>()));
        let entries = records.map(|bytes| {
            let Record { key, binding, left_ns, age_ns } = bytemuck::pod_read_unaligned(bytes);
            Wanted { key, binding, left_ns, age_ns }
        });
        Some(Self { taken, boot, entries: entries.collect() })
    }

    /// The entries that are left at `now`, seconds since 1970.
    pub fn left_at(mut self, now: u64) -> Vec<Wanted> {
        let off = now.saturating_sub(self.taken).saturating_mul(1_000_000_000);
        for entry in &mut self.entries {
            entry.left_ns = entry.left_ns.saturating_sub(off);
            entry.age_ns = entry.age_ns.saturating_add(off);
        }
        self.entries.retain(|entry| entry.left_ns > 0);
        self.entries
    }
}

/// Which start of the machine this is; the same until it is started again.
pub fn this_boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}
