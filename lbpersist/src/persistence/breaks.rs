//! Breaks of a service that the daemon carries: requests, or connections of mode `tcp`, of a client that was bound to a server
//! and met another one.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ipnet::IpNet;
use lbpersist_common::breaks::BreakReason;

use crate::breaks::Break;

/// How many of the last ones are remembered.
const REMEMBERED: usize = 256;

/// What has happened to the bound clients of one service.
#[derive(Debug, Default)]
pub struct Breaks {
    kept: AtomicU64,
    by_reason: [AtomicU64; BreakReason::ALL.len()],
    last: Mutex<VecDeque<Broken>>,
}

#[derive(Debug)]
struct Broken {
    unix_ms: u64,
    client: IpAddr,
    before: Option<String>,
    after: String,
    reason: BreakReason,
}

impl Breaks {
    /// A bound client met its server.
    pub(super) fn kept(&self) {
        self.kept.fetch_add(1, Relaxed);
    }

    /// A bound client met another server.
    pub(super) fn broken(
        &self,
        reason: BreakReason,
        client: IpAddr,
        [before, after]: [Option<&str>; 2],
        unix_ms: u64,
    ) {
        self.by_reason[reason as usize].fetch_add(1, Relaxed);
        let before = before.map(str::to_owned);
        let after = after.unwrap_or_default().to_owned();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(Broken { unix_ms, client, before, after, reason });
    }

    /// How many bound clients met their server.
    pub fn count_kept(&self) -> u64 {
        self.kept.load(Relaxed)
    }

    /// How many did not, by reason.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let all = BreakReason::ALL.into_iter();
        all.map(|reason| (reason.name().to_owned(), self.by_reason[reason as usize].load(Relaxed)))
            .collect()
    }

    /// The last ones, oldest first, as those of `service`.
    pub fn last(&self, service: &str) -> Vec<Break> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter()
            .map(|one| Break {
                time: Duration::from_millis(one.unix_ms).as_secs_f64(),
                virtual_service: service.to_owned(),
                client: IpNet::from(one.client),
                destination: None,
                before: one.before.clone(),
                after: Some(one.after.clone()),
                reason: one.reason.name().to_owned(),
            })
            .collect()
    }
}
