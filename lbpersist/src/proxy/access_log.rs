//! One line for each request: who asked what, who answered, and how long it took.
//!
//! Lines are gathered by each worker and written to standard output together, when there are many or after a moment.

use std::{
    cell::RefCell,
    fmt::Write as _,
    io::Write as _,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{Method, Request, StatusCode, Version, header::HOST};
use serde::Serialize;
use tokio::time::Instant;

use super::{reason::Reason, snapshot::Service};
use crate::{
    clock,
    model::{AccessLog, Carried},
    persistence::Outcome,
};

/// How many bytes are gathered at most.
const ENOUGH: usize = 32 << 10;

/// What is noted of a request while it is under way.
#[derive(Debug)]
pub(super) struct Entry {
    method: Method,
    target: String,
    version: Version,
    host: String,
}

impl Entry {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| request.uri().authority().map(http::uri::Authority::as_str));
        Self {
            method: request.method().clone(),
            target: request.uri().path_and_query().map_or("", |path| path.as_str()).to_owned(),
            version: request.version(),
            host: host.unwrap_or_default().to_owned(),
        }
    }
}

/// When things happened.
#[derive(Debug)]
pub(super) struct Times {
    now: fn() -> Instant,
    begun: Instant,
    /// There was a connection to the server.
    pub(super) connected: Option<Instant>,
    /// There was an answer.
    pub(super) answered: Option<Instant>,
}

impl Times {
    /// For a log: by the precise clock.
    pub(super) fn begin() -> Self {
        Self::by(Instant::now)
    }

    /// For nobody to read: without the cost of that.
    pub(super) fn unread() -> Self {
        Self::by(clock::tick)
    }

    /// The time by its clock.
    pub(super) fn now(&self) -> Instant {
        (self.now)()
    }

    fn by(now: fn() -> Instant) -> Self {
        Self { now, begun: now(), connected: None, answered: None }
    }
}

/// Whom a client has met, and whether it was kept there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Met {
    pub(super) server: Option<SocketAddr>,
    pub(super) kept: Option<Outcome>,
}

/// A line, as its reader sees it. Times are milliseconds from the first byte, in thousandths.
#[derive(Serialize)]
struct Line<'l> {
    time: f64,
    virtual_service: &'l str,
    client: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'l str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'l str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'l str>,
    server: Option<SocketAddr>,
    persistence: Option<&'static str>,
    status: Option<u16>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_bytes: Option<u64>,
    connected_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answered_ms: Option<f64>,
    total_ms: f64,
}

/// The lines of one worker that have not been written.
#[derive(Debug, Default)]
pub(super) struct Log {
    lines: RefCell<String>,
}

impl Log {
    /// Notes a request that has ended.
    #[expect(clippy::too_many_arguments, reason = "a line has that many columns")]
    pub(super) fn request(
        &self,
        entry: &Entry,
        service: &Service,
        client: SocketAddr,
        met: Met,
        status: Option<StatusCode>,
        reason: Reason,
        times: &Times,
    ) {
        let line = Line {
            method: Some(entry.method.as_str()),
            target: Some(&entry.target),
            version: Some(version(entry.version)),
            host: Some(&entry.host),
            status: status.map(|status| status.as_u16()),
            answered_ms: times.answered.map(|at| milliseconds(at - times.begun)),
            ..Line::new(service, client, met, reason, times)
        };
        self.write(service, &line);
    }

    /// Notes a connection of mode `tcp` that has ended.
    pub(super) fn connection(
        &self,
        service: &Service,
        client: SocketAddr,
        met: Met,
        [received, sent]: [u64; 2],
        reason: Reason,
        times: &Times,
    ) {
        let line = Line {
            received_bytes: Some(received),
            sent_bytes: Some(sent),
            ..Line::new(service, client, met, reason, times)
        };
        self.write(service, &line);
    }

    /// Writes what has gathered.
    pub(super) fn flush(&self) {
        let lines = self.lines.take();
        if !lines.is_empty() {
            // Whoever reads the log may have gone away; requests go on.
            let _ = std::io::stdout().lock().write_all(lines.as_bytes());
        }
    }

    fn write(&self, service: &Service, line: &Line<'_>) {
        let mut lines = self.lines.borrow_mut();
        match form(service) {
            AccessLog::Off => return,
            AccessLog::Json => lines.push_str(&serde_json::to_string(line).unwrap_or_default()),
            AccessLog::Text => line.write_text(&mut lines),
        }
        lines.push('\n');
        if lines.len() >= ENOUGH {
            drop(lines);
            self.flush();
        }
    }
}

impl<'l> Line<'l> {
    fn new(
        service: &'l Service,
        client: SocketAddr,
        met: Met,
        reason: Reason,
        times: &Times,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            time: now.as_millis() as f64 / 1000.0,
            virtual_service: &service.name,
            client,
            method: None,
            target: None,
            version: None,
            host: None,
            server: met.server,
            persistence: met.kept.map(Outcome::name),
            status: None,
            outcome: reason.name(),
            received_bytes: None,
            sent_bytes: None,
            connected_ms: times.connected.map(|at| milliseconds(at - times.begun)),
            answered_ms: None,
            total_ms: milliseconds(times.begun.elapsed()),
        }
    }

    fn write_text(&self, out: &mut String) {
        let _ = write!(out, "{:.3} {} {}", self.time, self.virtual_service, self.client);
        if let (Some(method), Some(target), Some(version)) =
            (self.method, self.target, self.version)
        {
            let host = self.host.unwrap_or_default();
            let _ =
                write!(out, " \"{method} {} {version}\" host=\"{}\"", plain(target), plain(host));
        }
        match self.server {
            Some(server) => out.push_str(&format!(" server={server}")),
            None => out.push_str(" server=-"),
        }
        if let Some(persistence) = self.persistence {
            let _ = write!(out, " persistence={persistence}");
        }
        if let Some(status) = self.status {
            let _ = write!(out, " status={status}");
        }
        let _ = write!(out, " outcome={}", self.outcome);
        for (name, bytes) in [("received", self.received_bytes), ("sent", self.sent_bytes)] {
            if let Some(bytes) = bytes {
                let _ = write!(out, " {name}={bytes}");
            }
        }
        for (name, time) in [("connected", self.connected_ms), ("answered", self.answered_ms)] {
            if let Some(time) = time {
                let _ = write!(out, " {name}={time}");
            }
        }
        let _ = write!(out, " total={}", self.total_ms);
    }
}

fn form(service: &Service) -> AccessLog {
    match &service.settings {
        Carried::Tcp(settings) => settings.access_log,
        Carried::Http(settings) => settings.access_log,
    }
}

/// A client's text with nothing in it that would end the quotes or the line.
fn plain(text: &str) -> String {
    text.chars().flat_map(char::escape_default).collect()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
