//! What a request costs the proxy of services of mode `http`, beside haproxy and nginx: CPU time, requests, delays, memory; and
//! what a stream costs it under mode `tcp`, beside haproxy.
//!
//! All three run at a time, each on one and the same CPU with one thread or worker; clients and servers have another CPU.
//! They take turns in every round. Clients send the cookie that they were given, and every request names the server
//! that must get it: a server refuses what is for another, so a proxy that does not keep its clients fails the run.
#![expect(clippy::print_stdout, reason = "the table is what this program is run for")]

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    figures::Spread,
    report::{self, Record},
};

mod load;
mod probe;
mod process;
mod site;
mod stream;

use load::{Clients, Seen};
use probe::Probe;
use site::{Proxy, Site, System};

/// Options of the suite.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; the median of them is what counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Measures only the cases of this name; may be given more than once.
    #[arg(long = "case", value_name = "NAME", value_enum)]
    cases: Vec<Case>,
    /// Writes the figures to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Case {
    /// Connections of HTTP/1.1 that stay open.
    #[value(name = "keepalive-64")]
    Keepalive64,
    /// The same, more of them.
    #[value(name = "keepalive-1000")]
    Keepalive1000,
    /// Connections of HTTP/2, each with one request at a time.
    #[value(name = "h2-64")]
    H2,
    /// A new connection for every request.
    #[value(name = "connect")]
    Connect,
    /// Connections that have made a request and wait.
    #[value(name = "idle-memory")]
    IdleMemory,
    /// A gibibyte through a service of mode `tcp`.
    #[value(name = "tcp-stream")]
    Stream,
}

impl Case {
    const ALL: [Self; 6] = [
        Self::Keepalive64,
        Self::Keepalive1000,
        Self::H2,
        Self::Connect,
        Self::IdleMemory,
        Self::Stream,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Keepalive64 => "keepalive-64",
            Self::Keepalive1000 => "keepalive-1000",
            Self::H2 => "h2-64",
            Self::Connect => "connect",
            Self::IdleMemory => "idle-memory",
            Self::Stream => "tcp-stream",
        }
    }

    /// Connections at a time.
    const fn clients(self) -> u32 {
        match self {
            Self::Keepalive64 | Self::H2 | Self::Connect => 64,
            Self::Keepalive1000 => 1_000,
            Self::IdleMemory => 5_000,
            Self::Stream => 1,
        }
    }

    /// Whether a system takes part.
    fn is_for(self, system: System) -> bool {
        self != Self::Stream || system.stream().is_some()
    }
}

/// How long connections have been idle when their memory is looked at.
const IDLE: Duration = Duration::from_secs(2);

/// Measures and prints a table.
pub(crate) fn measure(options: &Options) -> Result<()> {
    let cases = if options.cases.is_empty() { &Case::ALL[..] } else { &options.cases };
    // Proxies are started anew for their memory: that comes last, so that the other rounds meet proxies that have run for a while.
    let (memory, requests): (Vec<Case>, Vec<Case>) =
        cases.iter().partition(|case| **case == Case::IdleMemory);
    let mut site = Site::build()?;
    let mut rows: Vec<Row> = Vec::new();
    for cases in [requests, memory].iter().filter(|cases| !cases.is_empty()) {
        for round in 0..options.runs as usize {
            eprintln!("round {} of {}", round + 1, options.runs);
            take_turns(&mut site, cases, round, options.seconds, &mut rows)?;
        }
    }
    print(&rows, options);
    options.json.as_ref().map_or(Ok(()), |path| report::write(path, &records(&rows)))
}

/// One round of some cases: each system in each.
fn take_turns(
    site: &mut Site,
    cases: &[Case],
    round: usize,
    seconds: u32,
    rows: &mut Vec<Row>,
) -> Result<()> {
    for &case in cases {
        for turn in 0..System::ALL.len() {
            // Nobody is always the first.
            let place = (round + turn) % System::ALL.len();
            let system = site.proxies[place].system;
            if !case.is_for(system) {
                continue;
            }
            let figures = match case {
                Case::IdleMemory => idle_memory(site, place),
                Case::Stream => a_stream(site, &site.proxies[place]),
                _ => requests(site, &site.proxies[place], case, seconds),
            };
            let told = || format!("{} of {}", case.name(), system.name());
            for (unit, value) in figures.with_context(told)? {
                Row::note(rows, case, system, unit, value);
            }
        }
    }
    Ok(())
}

/// Figures, each with its unit. They are thousandths.
type Figures = Vec<(&'static str, i64)>;

/// Has clients ask for some seconds.
fn requests(site: &Site, proxy: &Proxy, case: Case, seconds: u32) -> Result<Figures> {
    let system = proxy.system;
    let clients = Clients {
        namespace: &site.namespace,
        cpu: site.cpus[0],
        directory: site.directory.path(),
        visitors: &proxy.visitors,
        at: if case == Case::H2 { system.http2() } else { system.http1() },
        seconds,
    };
    let process = proxy.id()?;
    let before = process::cpu_ns(process)?;
    let Seen { requests, seconds, p50_us, p99_us } = match case {
        Case::H2 => clients.http2(case.clients()),
        Case::Connect => clients.http1(case.clients(), Some("close"), proxy.lengths[1]),
        _ => clients.http1(case.clients(), None, proxy.lengths[0]),
    }?;
    let spent = process::cpu_ns(process)?.saturating_sub(before);
    let rate = if case == Case::Connect { "connections/s" } else { "requests/s" };
    Ok(vec![
        ("us cpu/request", (spent / requests).cast_signed()),
        (rate, (requests as f64 / seconds * 1_000.0) as i64),
        ("ms p50", p50_us.cast_signed()),
        ("ms p99", p99_us.cast_signed()),
    ])
}

/// How much more memory connections take of which each has made a request and none for a moment.
fn idle_memory(site: &mut Site, place: usize) -> Result<Figures> {
    // One that has had more connections before may have kept their memory.
    site.restart(place)?;
    let proxy = &site.proxies[place];
    let (process, at) = (proxy.id()?, proxy.system.http1());
    let fields: Vec<String> = proxy.visitors.iter().map(probe::Visitor::fields).collect();
    let before = process::resident(process)?;
    let connections = Case::IdleMemory.clients();
    let after = site.namespace.run(|| -> Result<u64> {
        let mut open = Vec::new();
        for (_, fields) in (0..connections).zip(fields.iter().cycle()) {
            let mut probe = Probe::open(at)?;
            probe.ask(fields)?.server()?;
            open.push((probe, fields));
        }
        thread::sleep(IDLE);
        let after = process::resident(process)?;
        // They have to be there still.
        for (probe, fields) in &mut open {
            probe.ask(fields)?.server()?;
        }
        Ok(after)
    })?;
    ensure!(after > before, "{connections} connections take no memory");
    let each = (after - before) * 1_000 / u64::from(connections);
    Ok(vec![("bytes/connection", each.cast_signed())])
}

/// Has a client fetch much on one connection.
fn a_stream(site: &Site, proxy: &Proxy) -> Result<Figures> {
    let process = proxy.id()?;
    let at = proxy.system.stream().context("it carries no streams here")?;
    let (before, begin) = (process::cpu_ns(process)?, Instant::now());
    stream::fetch(&site.namespace, site.cpus[0], site.directory.path(), at)?;
    let spent = process::cpu_ns(process)?.saturating_sub(before);
    let rate = (stream::TOTAL >> 20) as f64 / begin.elapsed().as_secs_f64();
    Ok(vec![("ms cpu/GiB", (spent / 1_000).cast_signed()), ("MiB/s", (rate * 1_000.0) as i64)])
}

/// All rounds of one figure.
struct Row {
    case: Case,
    system: System,
    unit: &'static str,
    rounds: Vec<i64>,
}

impl Row {
    fn note(rows: &mut Vec<Self>, case: Case, system: System, unit: &'static str, value: i64) {
        let same = |row: &&mut Self| (row.case, row.system, row.unit) == (case, system, unit);
        match rows.iter_mut().find(same) {
            Some(row) => row.rounds.push(value),
            None => rows.push(Self { case, system, unit, rounds: vec![value] }),
        }
    }

    /// Median, least and most.
    fn spread(&self) -> [f64; 3] {
        let Spread { median, min, max } = Spread::of(self.rounds.iter().copied());
        [median, min, max].map(|value| value as f64 / 1_000.0)
    }

    /// How many times another row it is: the median over rounds, for a machine may change its pace between two of them.
    fn times(&self, other: &Self) -> f64 {
        let rounds = self.rounds.iter().zip(&other.rounds);
        let times = rounds.map(|(ours, others)| ours * 1_000 / (*others).max(1));
        Spread::of(times).median as f64 / 1_000.0
    }
}

fn print(rows: &[Row], options: &Options) {
    let Options { runs, seconds, .. } = options;
    println!("{runs} rounds of {seconds} seconds, {}\n", report::machine());
    println!(
        "{:<15} {:>7} {:<10} {:<17} {:>10} {:>10} {:>10} {:>11}",
        "case", "clients", "system", "unit", "median", "min", "max", "of haproxy"
    );
    for row in rows {
        let [median, min, max] = row.spread();
        let haproxy = rows.iter().find(|other| {
            (other.case, other.unit, other.system) == (row.case, row.unit, System::Haproxy)
        });
        let times = haproxy.map_or(f64::NAN, |haproxy| row.times(haproxy));
        let (case, clients, system) = (row.case.name(), row.case.clients(), row.system.name());
        println!(
            "{case:<15} {clients:>7} {system:<10} {:<17} {median:>10.2} {min:>10.2} {max:>10.2} {times:>10.2}x",
            row.unit
        );
    }
}

fn records(rows: &[Row]) -> Vec<Record<f64>> {
    let records = rows.iter().map(|row| {
        let [value, min, max] = row.spread();
        Record {
            suite: "http",
            case: row.case.name().to_owned(),
            clients: row.case.clients().into(),
            system: row.system.name(),
            value,
            min,
            max,
            unit: row.unit,
            runs: row.rounds.len() as u32,
        }
    });
    records.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_median_of_its_rounds_in_its_unit() {
        let mut rows = Vec::new();
        for nanoseconds in [21_500, 19_000, 23_000] {
            Row::note(&mut rows, Case::H2, System::Haproxy, "us cpu/request", nanoseconds);
        }
        Row::note(&mut rows, Case::H2, System::Nginx, "us cpu/request", 1);
        for nanoseconds in [43_000, 19_000, 34_500] {
            Row::note(&mut rows, Case::H2, System::Lbpersist, "us cpu/request", nanoseconds);
        }
        assert_eq!(rows[2].times(&rows[0]), 1.5, "of 2, 1 and 1.5");
        let records = records(&rows);
        assert_eq!(records.len(), 3);
        let Record { case, value, min, max, runs, .. } = &records[0];
        assert_eq!((case.as_str(), *value, *min, *max, *runs), ("h2-64", 21.5, 19.0, 23.0, 3));
    }
}
