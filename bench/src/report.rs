//! Figures for people and for programs.
#![expect(clippy::print_stdout, reason = "the table is what this program is run for")]

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    figures::{Figure, Spread, System},
    measure::Extent,
};

/// The head of the table.
pub(crate) fn head(cpu: usize, extent: &Extent) -> Result<()> {
    let Extent { runs, repeat } = extent;
    println!("{runs} runs of {repeat} packets on CPU {cpu}, {}", machine());
    println!(
        "ns per packet: beyond a loop that only moves the packet's head, beyond an empty loop, and that first loop"
    );
    println!("(floors: beyond an empty loop; empty-program: the loop itself)\n");
    println!(
        "{:<24} {:>9} {:>7} {:>7} {:>7} {:>13} {:>11} {:>9}",
        "case", "clients", "median", "min", "max", "beyond empty", "floor", "entries"
    );
    io::stdout().flush().context("writing the table")
}

/// One line of it.
pub(crate) fn row(figure: &Figure) -> Result<()> {
    let Spread { median, min, max } = figure.beyond;
    let clients = match figure.ever_new {
        true => "new".to_owned(),
        false => figure.clients.to_string(),
    };
    println!(
        "{:<24} {clients:>9} {median:>7} {min:>7} {max:>7} {:>13} {:>11} {:>9}",
        figure.case, figure.beyond_empty.median, figure.floor.median, figure.entries
    );
    io::stdout().flush().context("writing the table")
}

/// A measurement as records hold it.
#[derive(Serialize)]
pub(crate) struct Record<V = i64> {
    pub(crate) suite: &'static str,
    pub(crate) case: String,
    pub(crate) clients: u64,
    pub(crate) system: &'static str,
    pub(crate) value: V,
    pub(crate) min: V,
    pub(crate) max: V,
    pub(crate) unit: &'static str,
    pub(crate) runs: u32,
}

impl Record {
    fn new(figure: &Figure, system: System, spread: Spread) -> Self {
        Self {
            suite: "packet",
            case: figure.case.to_owned(),
            clients: figure.clients,
            system: system.name(),
            value: spread.median,
            min: spread.min,
            max: spread.max,
            unit: "ns",
            runs: figure.runs,
        }
    }
}

/// Writes the figures as an array of records, each of the program's beside its floor. What it takes beyond an empty loop is a suite of
/// its own.
pub(crate) fn json(path: &Path, figures: &[Figure]) -> Result<()> {
    let mut records = Vec::new();
    for figure in figures {
        records.push(Record::new(figure, figure.system, figure.beyond));
        let beyond_empty = Record::new(figure, figure.system, figure.beyond_empty);
        records.push(Record { suite: "packet-beyond-empty", ..beyond_empty });
        if figure.system == System::Lbpersist {
            records.push(Record::new(figure, System::Floor, figure.floor));
        }
    }
    write(path, &records)
}

/// Writes records to a file.
pub(crate) fn write<V: Serialize>(path: &Path, records: &[Record<V>]) -> Result<()> {
    let mut text = serde_json::to_string_pretty(records).context("writing the records")?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// The processor and kernel, for whoever compares tables.
pub(crate) fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("a processor that does not say its name", |(_, name)| name);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, Linux {}", release.trim())
}
