//! Measures what lbpersist costs. `cargo xtask bench` builds and runs this.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod balancer;
mod case;
mod config;
mod cpu;
mod figures;
mod frame;
mod http;
mod measure;
mod open;
mod replay;
mod report;
mod table;
mod veth;

// The replaying program is told what to do by the same types.
#[path = "../ebpf/src/plan.rs"]
mod plan;

/// Measures what lbpersist costs.
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Arguments {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Subcommand)]
enum Suite {
    /// Nanoseconds per packet of the XDP program, beyond a program that only moves the packet's head.
    Packet(Packet),
    /// Packets and connections per second between network namespaces, beside nftables.
    Veth(veth::Options),
    /// Milliseconds that a configuration of many services takes from its text to the maps.
    Config(config::Options),
    /// What a million entries and connections cost: the sweep's passes, the idle daemon, memory.
    Table(table::Options),
    /// CPU time per request and per GiB, requests, delays and memory of the proxy, beside haproxy and nginx.
    Http(http::Options),
}

/// Options of the packet suite.
#[derive(clap::Args)]
struct Packet {
    /// Runs per case; the median of them is what counts.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
    /// Packets per run; an even number.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(2..=1_000_000_000))]
    repeat: u32,
    /// Writes the figures to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measures only the cases of this name; may be given more than once.
    #[arg(long = "case", value_name = "NAME", value_parser = case::names())]
    cases: Vec<String>,
    /// Measures only with this many clients.
    #[arg(long, value_name = "NUMBER")]
    clients: Option<u32>,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().suite {
        Suite::Packet(options) => packet(&options),
        Suite::Veth(options) => veth::measure(&options),
        Suite::Config(options) => config::measure(&options),
        Suite::Table(options) => table::measure(&options),
        Suite::Http(options) => http::measure(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lbpersist-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn packet(options: &Packet) -> Result<()> {
    // A turn of two packets must not be cut in two by the end of a run.
    let extent = measure::Extent { runs: options.runs, repeat: options.repeat & !1 };
    let wanted = |name: &str, clients: u32| {
        (options.cases.is_empty() || options.cases.iter().any(|case| case == name))
            && options.clients.is_none_or(|wanted| wanted == clients)
    };
    let cpu = cpu::pin_to_last()?;
    report::head(cpu, &extent)?;
    let mut figures = Vec::new();
    let mut note = |figure: figures::Figure| -> Result<()> {
        report::row(&figure)?;
        figures.push(figure);
        Ok(())
    };
    for (name, clients) in case::floors().filter(|(name, clients)| wanted(name, *clients)) {
        note(measure::floor(name, clients, &extent)?)?;
    }
    for case in &case::CASES {
        for &clients in case.clients.iter().filter(|clients| wanted(case.name, **clients)) {
            note(measure::case(case, clients, &extent)?)?;
        }
    }
    match &options.json {
        Some(path) => report::json(path, &figures),
        None => Ok(()),
    }
}
