//! What became of requests, by service: counted by each worker for itself, added up when asked.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::{Deserialize, Serialize};

use super::reason::Reason;

/// The counters of one service.
#[derive(Debug)]
pub(super) struct Counters {
    workers: Box<[Arc<Shard>]>,
}

impl Counters {
    /// Zeroes, for so many workers.
    pub(super) fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| Arc::default()).collect() }
    }

    /// The counters of one worker, which alone may write them.
    pub(super) fn shard(&self, worker: usize) -> &Arc<Shard> {
        &self.workers[worker]
    }

    /// The sums.
    pub(super) fn sum(&self) -> Counts {
        let mut sum = Counts::default();
        for shard in &self.workers {
            sum.connections += shard.connections.read();
            sum.closed_connections += shard.closed_connections.read();
            sum.requests += shard.requests.read();
            sum.received_bytes += shard.received_bytes.read();
            sum.sent_bytes += shard.sent_bytes.read();
            sum.server_connections += shard.server_connections.read();
            sum.retries += shard.retries.read();
            for (reason, count) in Reason::ALL.iter().zip(&shard.outcomes) {
                *sum.outcomes.entry(reason.name().to_owned()).or_default() += count.read();
            }
            for (class, count) in CLASSES.iter().zip(&shard.statuses) {
                *sum.statuses.entry((*class).to_owned()).or_default() += count.read();
            }
        }
        sum
    }
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What one worker has counted of one service.
#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) connections: Count,
    pub(super) closed_connections: Count,
    pub(super) requests: Count,
    pub(super) received_bytes: Count,
    pub(super) sent_bytes: Count,
    pub(super) server_connections: Count,
    pub(super) retries: Count,
    outcomes: [Count; Reason::COUNT],
    statuses: [Count; CLASSES.len()],
}

impl Shard {
    /// Counts an outcome.
    pub(super) fn outcome(&self, reason: Reason) {
        self.outcomes[reason as usize].add(1);
    }

    /// Counts the status of an answer.
    pub(super) fn status(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        self.statuses[class.min(CLASSES.len() - 1)].add(1);
    }
}

/// A counter that one thread writes and others read: no bus is locked.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    pub(super) fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What has been counted of a service since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections that clients have opened.
    pub connections: u64,
    /// Of these, those that have ended.
    pub closed_connections: u64,
    /// Requests that have begun.
    pub requests: u64,
    /// Bytes from clients.
    pub received_bytes: u64,
    /// Bytes to clients.
    pub sent_bytes: u64,
    /// Connections that were opened to servers.
    pub server_connections: u64,
    /// Servers that were tried after another one could not be reached.
    pub retries: u64,
    /// What became of requests, and of connections that made none, by reason.
    pub outcomes: BTreeMap<String, u64>,
    /// Answers by the first digit of their status.
    pub statuses: BTreeMap<String, u64>,
}
