//! Requests by the thousands: wrk for HTTP/1.1, h2load for HTTP/2. A run with an error, a status other than 200 or an answer
//! of another length than it should have is no measurement.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lbpersist_tests::namespace::Namespace;
use serde::Deserialize;

use super::{
    probe::{BODY_LENGTH, Visitor},
    process::{Running, pinned},
};

const SCRIPT: &str = include_str!("../../http/wrk.lua");

/// How much longer than it should a run may take.
const GRACE: Duration = Duration::from_secs(15);

/// Who asks whom, and where from.
pub(crate) struct Clients<'c> {
    pub(crate) namespace: &'c Namespace,
    pub(crate) cpu: usize,
    /// For scripts and logs.
    pub(crate) directory: &'c Path,
    pub(crate) visitors: &'c [Visitor],
    pub(crate) at: SocketAddr,
    pub(crate) seconds: u32,
}

/// What a run saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// What the script prints in the end.
#[derive(Debug, Deserialize)]
struct Summary {
    requests: u64,
    bytes: u64,
    duration_us: u64,
    p50_us: u64,
    p99_us: u64,
    connect: u64,
    read: u64,
    write: u64,
    timeout: u64,
    status: u64,
}

impl Clients<'_> {
    /// HTTP/1.1 over so many connections; with `connection` as the field of that name, if it is to be sent. Each answer has
    /// `length` bytes.
    pub(crate) fn http1(
        &self,
        connections: u32,
        connection: Option<&str>,
        length: u64,
    ) -> Result<Seen> {
        let script = self.directory.join("wrk.lua");
        fs::write(&script, SCRIPT)?;
        let mut wrk = pinned(self.cpu, "wrk");
        wrk.args(["-t", &self.visitors.len().to_string(), "-c", &connections.to_string()])
            .args(["-d", &self.seconds.to_string(), "--timeout", "10", "-s"])
            .arg(script)
            .args([&format!("http://{}/", self.at), "--"])
            .args(self.visitors.iter().flat_map(|one| [&one.cookie, &one.server]))
            .args(connection);
        let log = self.directory.join("wrk.log");
        let running = Running::start(self.namespace, &mut wrk, log)?;
        let said = running.output(self.limit()).context("wrk")?;
        judge(&said, connections, length).with_context(|| said.clone())
    }

    /// HTTP/2 over so many connections, each with one request at a time.
    pub(crate) fn http2(&self, connections: u32) -> Result<Seen> {
        let each = connections / self.visitors.len() as u32;
        let begin = Instant::now();
        let mut running = Vec::new();
        for (number, visitor) in self.visitors.iter().enumerate() {
            let times = self.directory.join(format!("h2load-{number}.times"));
            let mut h2load = pinned(self.cpu, "h2load");
            h2load
                .args(["-c", &each.to_string(), "-m", "1", "-D", &self.seconds.to_string()])
                .args(["-H", &format!("cookie: {}", visitor.cookie)])
                .args(["-H", &format!("x-server: {}", visitor.server)])
                .arg(format!("--log-file={}", times.display()))
                .arg(format!("http://{}/", self.at));
            let log = self.directory.join(format!("h2load-{number}.log"));
            let process = Running::start(self.namespace, &mut h2load, log);
            running.push((process.context("h2load")?, times));
        }
        let (mut requests, mut delays) = (0, Vec::new());
        for (process, times) in running {
            let said = process.output(self.limit()).context("h2load")?;
            requests += count(&said).with_context(|| said.clone())?;
            delays.extend(read_times(&fs::read_to_string(times)?)?);
        }
        let took = begin.elapsed().as_secs_f64();
        ensure!(took < f64::from(self.seconds) + 2.0, "h2load took {took} seconds");
        ensure!(delays.len() as u64 >= requests, "{} of {requests} timed", delays.len());
        delays.sort_unstable();
        let at = |share: usize| delays.get(delays.len() * share / 100).copied().unwrap_or_default();
        let seconds = f64::from(self.seconds);
        Ok(Seen { requests, seconds, p50_us: at(50), p99_us: at(99) })
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.seconds.into()) + GRACE
    }
}

/// What the summary says, if all went well.
fn judge(said: &str, connections: u32, length: u64) -> Result<Seen> {
    let line = said.lines().find(|line| line.starts_with('{')).context("no summary")?;
    let summary: Summary = serde_json::from_str(line)?;
    let Summary { requests, bytes, connect, read, write, timeout, status, .. } = summary;
    ensure!([connect, read, write, timeout, status] == [0; 5], "there were errors");
    ensure!(requests > 0, "there were no requests");
    // Answers that were on their way in the end are not counted, but their bytes are.
    let whole = requests * length..=(requests + u64::from(connections)) * length;
    ensure!(whole.contains(&bytes), "{bytes} bytes are not {requests} answers of {length}");
    let seconds = summary.duration_us as f64 / 1e6;
    Ok(Seen { requests, seconds, p50_us: summary.p50_us, p99_us: summary.p99_us })
}

/// How many requests h2load says were answered well, if all were.
fn count(said: &str) -> Result<u64> {
    let line = |start: &str| said.lines().find_map(|line| line.strip_prefix(start));
    let number = |line: &str, name: &str| -> Result<u64> {
        let item = line.split(',').find_map(|item| item.trim().strip_suffix(name));
        Ok(item.with_context(|| format!("no number{name}"))?.trim().parse()?)
    };
    let requests = line("requests: ").context("no line of requests")?;
    let statuses = line("status codes: ").context("no line of statuses")?;
    let succeeded = number(requests, " succeeded")?;
    for bad in [" failed", " errored", " timeout"] {
        ensure!(number(requests, bad)? == 0, "there were errors");
    }
    ensure!(succeeded > 0 && number(statuses, " 2xx")? >= succeeded, "not all are 200");
    for bad in [" 3xx", " 4xx", " 5xx"] {
        ensure!(number(statuses, bad)? == 0, "not all are 200");
    }
    // `traffic: 3.57MB (3743040) total, 1.06MB (1109049) headers (..), 486.56KB (498240) data`
    let data = line("traffic: ").and_then(|line| line.rsplit_once('(')?.1.split_once(')'));
    let data: u64 = data.context("no line of traffic")?.0.parse()?;
    ensure!(data / BODY_LENGTH >= succeeded, "{data} bytes are not {succeeded} answers");
    Ok(succeeded)
}

/// The microseconds in lines of start, status and time.
fn read_times(text: &str) -> Result<Vec<u64>> {
    text.lines()
        .map(|line| {
            let mut words = line.split('\t').skip(1);
            ensure!(words.next() == Some("200"), "a request ended with {line:?}");
            Ok(words.next().context("a line without a time")?.parse()?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"requests":10,"bytes":1000,"duration_us":2000000,"p50_us":5,"p99_us":9,"connect":0,"read":0,"write":0,"timeout":0,"status":0}"#;

    #[test]
    fn errors_and_short_answers_are_no_measurement() {
        let seen = Seen { requests: 10, seconds: 2.0, p50_us: 5, p99_us: 9 };
        assert_eq!(judge(GOOD, 2, 100).unwrap(), seen);
        assert_eq!(judge(GOOD, 2, 84).unwrap(), seen);
        assert!(judge(GOOD, 2, 83).is_err());
        assert!(judge(GOOD, 2, 101).is_err());
        for error in ["connect", "read", "write", "timeout", "status"] {
            let bad = GOOD.replace(&format!(r#""{error}":0"#), &format!(r#""{error}":1"#));
            assert!(judge(&bad, 2, 100).is_err(), "{error}");
        }
        assert!(judge("", 2, 100).is_err());
    }

    #[test]
    fn h2load_must_have_met_no_error() {
        let good = "requests: 9 total, 9 started, 9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout\n\
                    status codes: 9 2xx, 0 3xx, 0 4xx, 0 5xx\n\
                    traffic: 1KB (1000) total, 1B (10) headers (space savings 9%), 162B (162) data\n";
        assert_eq!(count(good).unwrap(), 9);
        for (right, wrong) in [
            ("0 failed", "1 failed"),
            ("0 timeout", "1 timeout"),
            ("9 2xx", "8 2xx"),
            ("0 5xx", "1 5xx"),
            ("(162)", "(161)"),
        ] {
            assert!(count(&good.replace(right, wrong)).is_err(), "{wrong}");
        }
        assert_eq!(read_times("7\t200\t31\n8\t200\t40\n").unwrap(), [31, 40]);
        assert!(read_times("7\t409\t31\n").is_err());
    }
}
