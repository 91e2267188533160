//! What came of the checks so far, for whoever asks: one line for each server and monitor.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{Judge, Key, Target, probe::Fault};

/// A handle of what the checker knows; clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Board {
    lines: Arc<Mutex<BTreeMap<Key, Line>>>,
}

/// The state of every server and monitor at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// By pool, server and monitor.
    pub monitors: Vec<MonitorStatus>,
}

/// What one monitor knows of one server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MonitorStatus {
    /// Name of the pool.
    pub pool: String,
    /// The server's address.
    pub server: IpAddr,
    /// The server's port as configured.
    pub port: Option<u16>,
    /// Name of the monitor.
    pub monitor: String,
    /// Its type, as the configuration writes it.
    pub kind: String,
    /// Whom it asks.
    pub address: IpAddr,
    /// On which port; `None` if it needs none.
    pub to_port: Option<u16>,
    /// What it takes the server for.
    pub state: State,
    /// Seconds since that changed, or since it was first asked for.
    pub state_seconds: f64,
    /// Checks in a row that spoke against the state.
    pub against: u32,
    /// What came of the last check; `None` before the first.
    pub last_outcome: Option<Outcome>,
    /// Seconds since the last check ended.
    pub last_check_seconds: Option<f64>,
    /// How long it took, in milliseconds.
    pub last_took_milliseconds: Option<f64>,
    /// What was wrong the last time something was, be it the server's fault or this machine's.
    pub last_error: Option<String>,
    /// Seconds since then.
    pub last_error_seconds: Option<f64>,
}

impl MonitorStatus {
    /// The server's address and port as they are written.
    pub fn endpoint(&self) -> String {
        self.port.map_or_else(
            || self.server.to_string(),
            |port| SocketAddr::new(self.server, port).to_string(),
        )
    }
}

/// What a monitor takes a server for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It lives.
    Up,
    /// It does not.
    Down,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The server did well.
    Passed,
    /// It did not.
    Failed,
    /// This machine could not ask; it counts neither way.
    NotAsked,
}

/// What is remembered of a target.
#[derive(Debug)]
struct Line {
    kind: &'static str,
    address: SocketAddr,
    up: bool,
    since: Instant,
    against: u32,
    last: Option<Last>,
    error: Option<(Instant, String)>,
}

#[derive(Debug)]
struct Last {
    at: Instant,
    took: Duration,
    outcome: Outcome,
}

impl Board {
    /// Everything, as of now.
    pub fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let lines = self.lines();
        Snapshot { monitors: lines.iter().map(|(key, line)| line.status(key, now)).collect() }
    }

    /// Begins a line anew.
    pub(super) fn begin(&self, key: &Key, target: &Target) {
        let line = Line {
            kind: target.monitor.kind.name(),
            address: target.address,
            up: target.initially_up,
            since: Instant::now(),
            against: 0,
            last: None,
            error: None,
        };
        self.lines().insert(key.clone(), line);
    }

    /// Drops the lines of other targets.
    pub(super) fn retain(&self, is_target: impl Fn(&Key) -> bool) {
        self.lines().retain(|key, _| is_target(key));
    }

    /// Notes a check that began then and ended now, after the judge has heard it.
    pub(super) fn note(
        &self,
        key: &Key,
        begun: Instant,
        result: &Result<(), Fault>,
        judge: &Judge,
    ) {
        let now = Instant::now();
        let mut lines = self.lines();
        let Some(line) = lines.get_mut(key) else { return };
        let (outcome, error) = match result {
            Ok(()) => (Outcome::Passed, None),
            Err(Fault::Server(error)) => (Outcome::Failed, Some(error)),
            Err(Fault::Own(error)) => (Outcome::NotAsked, Some(error)),
        };
        line.last = Some(Last { at: now, took: now.duration_since(begun), outcome });
        if let Some(error) = error {
            line.error = Some((now, error.clone()));
        }
        if line.up != judge.is_up() {
            line.up = judge.is_up();
            line.since = now;
        }
        line.against = judge.against();
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<Key, Line>> {
        // Every change is whole before anything can panic.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn status(&self, key: &Key, now: Instant) -> MonitorStatus {
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs_f64();
        MonitorStatus {
            pool: key.pool.clone(),
            server: key.server,
            port: key.port,
            monitor: key.monitor.clone(),
            kind: self.kind.to_owned(),
            address: self.address.ip(),
            to_port: Some(self.address.port()).filter(|port| *port != 0),
            state: if self.up { State::Up } else { State::Down },
            state_seconds: seconds(self.since),
            against: self.against,
            last_outcome: self.last.as_ref().map(|last| last.outcome),
            last_check_seconds: self.last.as_ref().map(|last| seconds(last.at)),
            last_took_milliseconds: self.last.as_ref().map(|last| last.took.as_secs_f64() * 1000.0),
            last_error: self.error.as_ref().map(|(_, error)| error.clone()),
            last_error_seconds: self.error.as_ref().map(|(at, _)| seconds(*at)),
        }
    }
}
