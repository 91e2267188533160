//! Campaigns: much happens, and numbers say what clients noticed.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Instant, SystemTime},
};

use anyhow::Result;
use clap::Subcommand;
use lbpersist_tests::campaign::{self, Plan};

#[derive(Subcommand)]
pub(crate) enum Campaign {
    /// Kills, reloads, a drain, an upgrade and a server that goes down, under clients that hold connections and come back
    Change {
        /// How many clients
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=4_000))]
        clients: u32,
        /// How often the daemon is killed and started again
        #[arg(long, default_value_t = 50)]
        kills: u32,
        /// How often it is given another configuration
        #[arg(long, default_value_t = 200)]
        reloads: u32,
        /// What decides the order of events; a number that is printed, when left out
        #[arg(long)]
        seed: Option<u64>,
        /// An older lbpersist to begin with; the upgrade from it then comes first
        #[arg(long, value_name = "BINARY")]
        from: Option<PathBuf>,
    },
}

/// Runs one; the last line says what became of the clients, and so does the exit code.
pub(crate) fn run(campaign: &Campaign) -> Result<ExitCode> {
    let Campaign::Change { clients, kills, reloads, seed, ref from } = *campaign;
    let (seed, from) = (seed.unwrap_or_else(by_the_clock), from.clone());
    println!(
        "{clients} clients, {kills} kills, {reloads} reloads, a drain, an upgrade, a server that goes down; seed {seed}"
    );
    let start = Instant::now();
    let plan = Plan { clients, kills, reloads, seed, from };
    let outcome = campaign::run(&plan, &mut |line| println!("{line}"))?;
    for complaint in &outcome.complaints {
        println!("{complaint}");
    }
    println!(
        "{:.0} s; the slowest answer took {} ms; because their server went down {} clients moved and {} requests were lost",
        start.elapsed().as_secs_f64(),
        outcome.slowest_ms,
        outcome.excused_moves,
        outcome.excused_losses,
    );
    let breaks: Vec<String> =
        outcome.breaks.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let breaks = if breaks.is_empty() { "none".to_owned() } else { breaks.join(", ") };
    println!("breaks that the balancer counted, which may be for `down` alone: {breaks}");
    println!("{outcome}");
    Ok(if outcome.is_kept() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Any number that is short enough to be typed again.
fn by_the_clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::from(since.subsec_micros())
}
