//! Asks servers whether they live.
//!
//! `probe` asks once; [`Judge`] decides from the answers whether a server is up; [`Checker`] does this at intervals for every
//! target, one task each, and reports changes. Nothing here knows pools or services: what a report means is for the
//! daemon to say, and a server with several monitors gets the reports of each.

mod judge;
mod probe;
mod schedule;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

pub use judge::{Change, Judge};

use crate::model::HealthMonitor;
use probe::{Outcome, Probe};
use schedule::Jitter;

/// Up to so many targets that are new at the same moment are checked at once; more are spread over a while.
const AT_ONCE: usize = 16;
/// The longest while over which first checks are spread.
const SPREAD: Duration = Duration::from_secs(1);

/// A server as one monitor sees it. Pool, server, port and the monitor's name tell it from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name of the pool.
    pub pool: String,
    /// The server's address.
    pub server: IpAddr,
    /// The server's port as configured.
    pub port: Option<u16>,
    /// Where to connect to.
    pub address: SocketAddr,
    /// How to ask.
    pub monitor: HealthMonitor,
    /// Whether it counts as up before the first answer.
    pub initially_up: bool,
}

impl Target {
    fn key(&self) -> Key {
        Key {
            pool: self.pool.clone(),
            server: self.server,
            port: self.port,
            monitor: self.monitor.name.clone(),
        }
    }

    /// Whether the two are checked in the same way.
    fn is_checked_like(&self, other: &Self) -> bool {
        self.address == other.address && self.monitor == other.monitor
    }
}

/// What a monitor has to say about a server: after its first answer, and whenever it has changed its mind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Name of the pool.
    pub pool: String,
    /// The server's address.
    pub server: IpAddr,
    /// The server's port as configured.
    pub port: Option<u16>,
    /// Name of the monitor.
    pub monitor: String,
    /// Whether the server counts as up. After one failed answer it may well still do.
    pub up: bool,
    /// What was wrong, if the last answer was not a good one.
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    pool: String,
    server: IpAddr,
    port: Option<u16>,
    monitor: String,
}

/// Checks a changing set of targets until it is dropped. Lives within a tokio runtime.
#[derive(Debug)]
pub struct Checker {
    report: mpsc::Sender<Report>,
    running: BTreeMap<Key, Running>,
}

/// The task of a target.
#[derive(Debug)]
struct Running {
    target: Target,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checker {
    /// A checker without targets. When nobody takes its reports, checks wait; when the receiver is gone, they end.
    pub fn start(report: mpsc::Sender<Report>) -> Self {
        Self { report, running: BTreeMap::new() }
    }

    /// Makes these the targets. Those that are checked already, and in the same way, go on and keep what their judge has
    /// heard, whatever `initially_up` says now; others begin, or end. Of targets that cannot be told apart the last counts.
    ///
    /// A report that was sent before a target ended may still be waiting in the channel.
    pub fn set_targets(&mut self, targets: Vec<Target>) {
        let wanted: BTreeMap<Key, Target> =
            targets.into_iter().map(|target| (target.key(), target)).collect();
        self.running.retain(|key, running| {
            wanted.get(key).is_some_and(|target| target.is_checked_like(&running.target))
        });
        let new: Vec<_> =
            wanted.into_iter().filter(|(key, _)| !self.running.contains_key(key)).collect();
        let crowd = new.len() > AT_ONCE;
        for (key, target) in new {
            let mut jitter = Jitter::of(&key);
            let delay = if crowd {
                jitter.below(target.monitor.interval.min(SPREAD))
            } else {
                Duration::ZERO
            };
            let probe = Probe::TcpConnect(target.address);
            let task = check(target.clone(), probe, delay, jitter, self.report.clone());
            let task = tokio::spawn(task);
            self.running.insert(key, Running { target, task });
        }
    }
}

/// The life of a target: ask, judge, report, wait.
async fn check(
    target: Target,
    probe: Probe,
    delay: Duration,
    mut jitter: Jitter,
    report: mpsc::Sender<Report>,
) {
    let monitor = &target.monitor;
    let mut judge = Judge::new(monitor.rise, monitor.fall, target.initially_up);
    let mut first = true;
    sleep(delay).await;
    loop {
        let next = Instant::now() + jitter.around(monitor.interval);
        let error = match probe.run(monitor.timeout).await {
            Outcome::Passed => Some(None),
            Outcome::Failed(error) => Some(Some(error)),
            Outcome::NotAsked(error) => {
                // No fault of the server's: that this machine is out of sockets must not take every server down.
                tracing::warn!("{} was not checked: {error}", target.address);
                None
            }
        };
        if let Some(error) = error {
            let changed = judge.observe(error.is_none()).is_some();
            if (changed || first) && report.send(said(&target, &judge, error)).await.is_err() {
                return;
            }
            first = false;
        }
        sleep_until(next).await;
    }
}

fn said(target: &Target, judge: &Judge, error: Option<String>) -> Report {
    Report {
        pool: target.pool.clone(),
        server: target.server,
        port: target.port,
        monitor: target.monitor.name.clone(),
        up: judge.is_up(),
        error,
    }
}
