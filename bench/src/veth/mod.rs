//! Packets and connections per second from a client's namespace through a balancer's to servers', beside nftables.
//!
//! Every system has namespaces and wires of its own, alike in all, so that none meets what another has left. They take turns in
//! every round. Packets are live frames: they leave by the client's interface, on one CPU, and are counted and dropped at the
//! servers'; connections are those of a client that asks a server over HTTP and closes.
#![expect(clippy::print_stdout, reason = "the table is what this program is run for")]

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    cpu,
    figures::Spread,
    report::{self, Record},
};

pub(crate) mod generator;
mod nftables;
pub(crate) mod site;

use site::{Site, System};

/// Options of the suite.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; the median of them is what counts.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
    /// Packets per system and round.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    packets: u32,
    /// Clients, each an address and a port, that packets come from.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    clients: u32,
    /// Connections per system and round.
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
    /// Writes the figures to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What was sent and what arrived, and how long that took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) sent: u64,
    pub(crate) arrived: u64,
    pub(crate) took: Duration,
}

impl Sent {
    /// Arrived per second.
    fn rate(&self) -> i64 {
        (self.arrived as f64 / self.took.as_secs_f64()) as i64
    }
}

/// Measures and prints a table.
pub(crate) fn measure(options: &Options) -> Result<()> {
    let Options { runs, packets, clients, connections, .. } = *options;
    let mut sites: Vec<Site> = System::ALL.into_iter().map(Site::build).collect::<Result<_>>()?;
    // Frames of one client first, then of many: as many turns for everybody.
    let numbers = if clients == 1 { vec![1] } else { vec![1, clients] };
    let mut rows: Vec<Row> = Vec::new();
    for round in 1..=runs {
        eprintln!("round {round} of {runs}");
        for &clients in &numbers {
            for site in &mut sites {
                let sent = site.packets(clients, packets).with_context(|| site.system.name())?;
                Row::note(&mut rows, "packets", clients.into(), site.system, sent);
            }
        }
        for site in sites.iter().filter(|site| site.system != System::Floor) {
            let sent = site.connections(round, connections).with_context(|| site.system.name())?;
            Row::note(&mut rows, "connections", site::ADDRESSES.into(), site.system, sent);
        }
    }
    print(&rows, options)?;
    options.json.as_ref().map_or(Ok(()), |path| report::write(path, &records(&rows)))
}

/// All rounds of one case and system.
struct Row {
    case: &'static str,
    clients: u64,
    system: System,
    rounds: Vec<Sent>,
}

impl Row {
    fn note(rows: &mut Vec<Self>, case: &'static str, clients: u64, system: System, sent: Sent) {
        let same = |row: &&mut Self| (row.case, row.clients, row.system) == (case, clients, system);
        match rows.iter_mut().find(same) {
            Some(row) => row.rounds.push(sent),
            None => rows.push(Self { case, clients, system, rounds: vec![sent] }),
        }
    }

    fn rates(&self) -> Spread {
        Spread::of(self.rounds.iter().map(Sent::rate))
    }

    /// Lost of a million, over all rounds.
    fn lost(&self) -> i64 {
        let sent: u64 = self.rounds.iter().map(|round| round.sent).sum();
        let arrived: u64 = self.rounds.iter().map(|round| round.arrived).sum();
        (sent.saturating_sub(arrived) * 1_000_000 / sent.max(1)) as i64
    }
}

fn print(rows: &[Row], options: &Options) -> Result<()> {
    let Options { runs, packets, connections, .. } = options;
    println!(
        "{runs} rounds of {packets} packets (sent from CPU {}) and {connections} connections, {}",
        cpu::last()?,
        report::machine()
    );
    println!("per second at the far end; floor: frames counted where they reach the balancer\n");
    println!(
        "{:<12} {:>8} {:<20} {:>9} {:>9} {:>9} {:>9} {:>12}",
        "case", "clients", "system", "median", "min", "max", "lost ppm", "lbpersist is"
    );
    for row in rows {
        let Spread { median, min, max } = row.rates();
        let ours = rows.iter().find(|other| {
            (other.case, other.clients, other.system) == (row.case, row.clients, System::Lbpersist)
        });
        let times = ours.map_or(0.0, |ours| ours.rates().median as f64 / median.max(1) as f64);
        println!(
            "{:<12} {:>8} {:<20} {median:>9} {min:>9} {max:>9} {:>9} {times:>11.2}x",
            row.case,
            row.clients,
            row.system.name(),
            row.lost()
        );
    }
    Ok(())
}

/// A record of what arrived and one of what did not, for every row.
fn records(rows: &[Row]) -> Vec<Record> {
    let record = |row: &Row, case: String, spread: Spread, unit| Record {
        suite: "veth",
        case,
        clients: row.clients,
        system: row.system.name(),
        value: spread.median,
        min: spread.min,
        max: spread.max,
        unit,
        runs: row.rounds.len() as u32,
    };
    rows.iter()
        .flat_map(|row| {
            let unit = if row.case == "packets" { "packets/s" } else { "connections/s" };
            let lost = Spread::of([row.lost()]);
            [
                record(row, row.case.to_owned(), row.rates(), unit),
                record(row, format!("{}-lost", row.case), lost, "ppm"),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_what_arrived_and_loss_is_over_all_rounds() {
        let mut rows = Vec::new();
        for (arrived, millis) in [(1_000, 500), (900, 1_000), (1_000, 250)] {
            let sent = Sent { sent: 1_000, arrived, took: Duration::from_millis(millis) };
            Row::note(&mut rows, "packets", 1, System::Lbpersist, sent);
        }
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].rates(), Spread { median: 2_000, min: 900, max: 4_000 });
        assert_eq!(rows[0].lost(), 33_333);
        let cases: Vec<String> = records(&rows).into_iter().map(|record| record.case).collect();
        assert_eq!(cases, ["packets", "packets-lost"]);
    }
}
