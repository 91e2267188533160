//! What large tables cost: the passes of the sweep over them, the daemon that has them, and the memory they take.
//!
//! The tables are filled by system calls, every client with an entry and one open connection on the server that its ring says.
//! Passes are measured on the library's own sweep, in this process, by the CPU time of its thread. Then the real daemon takes
//! the same maps over, and is looked at from outside: its CPU time and memory while nobody asks it anything, how long it lets
//! an asker wait while it sweeps, and how frames fare that clients send meanwhile.
#![expect(clippy::print_stdout, reason = "the table is what this program is run for")]

pub(crate) mod outside;
mod plot;
mod tables;

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lbpersist_common::tcp::State;

use self::{
    outside::Outside,
    plot::Plot,
    tables::{Pass, Tables},
};
use crate::{
    figures::Spread,
    report::{self, Record},
};

/// Options of the table suite.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Entries, and connections.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(10_000..=16_000_000))]
    entries: u32,
    /// Passes of each kind; the median of them is what counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Seconds for which the daemon is left alone.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    idle: u64,
    /// Writes the figures to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures everything and prints a line of each figure.
pub(crate) fn measure(options: &Options) -> Result<()> {
    let Options { entries, runs, .. } = *options;
    println!("{entries} entries and connections, {runs} runs, {}\n", report::machine());
    println!("{:<26} {:>9} {:>9} {:>9}  unit", "case", "median", "min", "max");
    let mut figures = Figures { entries, records: Vec::new() };
    let mut plot = Plot::build(entries)?;
    let mut tables = Tables::open(plot.balancer(), entries)?;
    passes(&mut tables, runs, &mut figures)?;
    tables.fill(State::Established)?;
    drop(tables);
    daemon(&mut plot, Duration::from_secs(options.idle), &mut figures)?;
    options.json.as_ref().map_or(Ok(()), |path| report::write(path, &figures.records))
}

/// Days after the tables were filled, and what a pass does then: no connection has been silent for its limit; all have, and are
/// suspected; all have for as long again, and end; so much later their entries have expired.
const PASSES: [(u64, &str); 4] =
    [(0, "pass"), (7, "pass-suspects"), (14, "pass-ends"), (14, "pass-reclaims")];
/// The same of connections that have closed, as a daemon finds them that has not run for a while: all goes with their entries.
const ALL_OVER: (u64, &str) = (7, "pass-all-over");

/// The sweep's passes in this process.
fn passes(tables: &mut Tables, runs: u32, figures: &mut Figures) -> Result<()> {
    for (case, bytes) in tables.bytes_of_a_record()? {
        figures.note(case, "bytes", [bytes])?;
    }
    let mut seen: Vec<(&str, Vec<Pass>)> = PASSES.map(|(_, case)| (case, Vec::new())).into();
    let mut over = Vec::new();
    for _ in 0..runs {
        tables.fill(State::Closed)?;
        over.push(tables.sweep(Duration::from_secs(ALL_OVER.0 * 86_400))?);
        ensure!(tables.counts()? == (0, 0), "what was over left {:?}", tables.counts()?);
        tables.fill(State::Established)?;
        for ((days, _), (_, runs)) in PASSES.iter().zip(&mut seen) {
            runs.push(tables.sweep(Duration::from_secs(days * 86_400))?);
            let (entries, connections) = tables.counts()?;
            let wanted = figures.entries as usize;
            ensure!(*days > 0 || entries.min(connections) == wanted, "a pass lost living ones");
        }
        ensure!(tables.counts()? == (0, 0), "a pass left {:?}", tables.counts()?);
    }
    seen.push((ALL_OVER.1, over));
    for (case, runs) in &seen {
        figures.note(&format!("{case}-cpu"), "us", runs.iter().map(|pass| us(pass.cpu)))?;
        let portions = runs.iter().map(|pass| us(pass.longest_portion));
        figures.note(&format!("{case}-portion"), "us", portions)?;
    }
    Ok(())
}

/// For how long the daemon is asked: with a million entries that is a pass and the rest after it.
const ASKED: Duration = Duration::from_secs(30);
/// For how long frames are sent without it.
const ALONE: Duration = Duration::from_secs(10);

/// The daemon with the same tables.
fn daemon(plot: &mut Plot, idle: Duration, figures: &mut Figures) -> Result<()> {
    let begun = Instant::now();
    let outside = Outside::of(plot.start()?)?;
    figures.note("takeover", "ms", [begun.elapsed().as_millis().try_into()?])?;
    // The first pass, and what else comes with a start, are not idleness.
    outside.settle()?;
    let before = outside.cpu()?;
    thread::sleep(idle);
    let share = (outside.cpu()? - before).as_secs_f64() / idle.as_secs_f64();
    figures.note("idle-cpu", "permille", [(share * 1_000.0).round() as i64])?;
    let resident = outside.resident()?;
    figures.note("resident", "kB", [resident.now])?;
    figures.note("resident-most", "kB", [resident.most])?;

    let before = outside.cpu()?;
    let mut bursts = Vec::new();
    let waits = outside.ask_while(|| {
        bursts = plot.bursts(ASKED)?;
        Ok(())
    })?;
    println!(
        "({} answers, {:.2} s of the daemon's CPU time)",
        waits.len(),
        (outside.cpu()? - before).as_secs_f64()
    );
    figures.note("answers", "us", waits)?;
    figures.note("frames-beside-daemon", "us/1000", bursts)?;
    plot.kill()?;
    figures.note("frames-without-daemon", "us/1000", plot.bursts(ALONE)?)
}

/// What has been measured.
struct Figures {
    entries: u32,
    records: Vec<Record>,
}

impl Figures {
    fn note(
        &mut self,
        case: &str,
        unit: &'static str,
        values: impl IntoIterator<Item = i64>,
    ) -> Result<()> {
        let values: Vec<i64> = values.into_iter().collect();
        let runs = u32::try_from(values.len())?;
        ensure!(runs > 0, "nothing was measured for {case}");
        let Spread { median, min, max } = Spread::of(values);
        println!("{case:<26} {median:>9} {min:>9} {max:>9}  {unit}");
        self.records.push(Record {
            suite: "table",
            case: case.to_owned(),
            clients: self.entries.into(),
            system: "lbpersist",
            value: median,
            min,
            max,
            unit,
            runs,
        });
        Ok(())
    }
}

fn us(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
