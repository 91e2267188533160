//! Builds, demonstrates and tests lbpersist. Every command first sees to it that what it needs is there.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod checks;
mod dist;
mod fuzz;
mod host;
mod needs;
mod output;
mod provision;
mod run;

// The build script looks for the same toolchain; see there why the file is included twice.
#[path = "../../lbpersist/build/toolchain.rs"]
mod toolchain;

use host::Profile;

/// Builds, demonstrates and tests lbpersist.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask setup                      install what is missing, then say what builds the BPF object
  cargo xtask build --release            target/release/lbpersist
  cargo xtask demo                       clients, a balancer and servers; see who stays where
  cargo xtask demo --keep                the same, and leave the lab for playing
  cargo xtask lab down                   put it away
  cargo xtask test                       everything that a change has to pass
  cargo xtask test --filter persistence  only the tests with that in their name
  cargo xtask fuzz headers --seconds 60  random frames for the parser of the XDP programs
  cargo xtask campaign change            a thousand clients, and everything changes under them
  cargo xtask dist                       a Debian package, in target/release/dist
  cargo xtask dist --check               the same, and a clean Debian that it is tried in
  cargo xtask bench packet               nanoseconds per packet, case by case
  cargo xtask bench veth                 packets and connections per second beside nftables
  cargo xtask bench config               how long a thousand services take to be applied
  cargo xtask bench table                what a million entries cost the daemon
  cargo xtask bench http                 what requests and streams cost the proxy, beside haproxy and nginx

Environment:
  LBPERSIST_BPF_CARGO, LBPERSIST_BPF_LINKER, LBPERSIST_BPF_OBJECT
                                         a cargo, a bpf-linker, a finished object to use instead of those found
  CI=true                                a skipped test fails the run";

#[derive(Subcommand)]
enum Command {
    /// Builds the daemon with its BPF object.
    Build {
        /// Optimized.
        #[arg(long)]
        release: bool,
    },
    /// Shows persistence at work: a lab of clients and servers, a balancer between them.
    Demo {
        /// Leaves the lab and the daemon running.
        #[arg(long)]
        keep: bool,
    },
    /// Formatting, lints, unit tests, data path and topology tests.
    Test {
        /// Runs only the tests whose name contains this, and no formatting or lints.
        #[arg(long, value_name = "NAME")]
        filter: Option<String>,
    },
    /// A lab to play in.
    Lab {
        #[command(subcommand)]
        action: LabAction,
    },
    /// Changes everything under a crowd of clients, and counts what they noticed.
    Campaign {
        #[command(subcommand)]
        campaign: Campaign,
    },
    /// Measures what lbpersist costs; optimized, and better on a machine that does nothing else.
    Bench {
        #[command(subcommand)]
        suite: Suite,
    },
    /// Feeds random input to decoders; needs cargo-fuzz.
    Fuzz {
        /// A target of fuzz/fuzz_targets; all of them when left out.
        target: Option<String>,
        /// How long each runs.
        #[arg(long, value_name = "N", default_value_t = 60)]
        seconds: u32,
    },
    /// A Debian package of the optimized daemon.
    Dist {
        /// Tries it as well: by lintian, and in a clean Debian that is fetched for it.
        #[arg(long)]
        check: bool,
    },
    /// Installs what is missing, for all commands.
    Setup,
}

#[derive(Subcommand)]
enum Suite {
    /// Nanoseconds per packet of the XDP program; `--help` tells the options.
    #[command(disable_help_flag = true)]
    Packet {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        options: Vec<OsString>,
    },
    /// Packets and connections per second between network namespaces, beside nftables; `--help` tells the options.
    #[command(disable_help_flag = true)]
    Veth {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        options: Vec<OsString>,
    },
    /// Milliseconds that a configuration of many services takes; `--help` tells the options.
    #[command(disable_help_flag = true)]
    Config {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        options: Vec<OsString>,
    },
    /// What large tables cost the daemon: the sweep, idleness, memory; `--help` tells the options.
    #[command(disable_help_flag = true)]
    Table {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        options: Vec<OsString>,
    },
    /// CPU time per request, requests, delays and memory of the proxy, beside haproxy and nginx; `--help` tells the options.
    #[command(disable_help_flag = true)]
    Http {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        options: Vec<OsString>,
    },
}

#[derive(Subcommand)]
enum Campaign {
    /// Kills, reloads, a drain, an upgrade: `moved N of M clients, lost R of Q requests`; `--help` tells the options.
    #[command(disable_help_flag = true)]
    Change {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        options: Vec<OsString>,
    },
}

#[derive(Subcommand)]
enum LabAction {
    /// Makes the lab and starts the daemon.
    Up,
    /// Ends the daemon and removes the lab.
    Down,
}

fn main() -> ExitCode {
    match carry_out(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> Result<ExitCode> {
    match command {
        Command::Build { release: false } => run::build(Profile::Dev),
        Command::Build { release: true } => run::build(Profile::Release),
        Command::Demo { keep: false } => run::lab(&["demo".into()]),
        Command::Demo { keep: true } => run::lab(&["demo".into(), "--keep".into()]),
        Command::Test { filter } => checks::all(filter.as_deref()),
        Command::Lab { action: LabAction::Up } => run::lab(&["up".into()]),
        Command::Lab { action: LabAction::Down } => run::lab(&["down".into()]),
        Command::Campaign { campaign: Campaign::Change { options } } => {
            run::lab(&[&["campaign".into(), "change".into()], &options[..]].concat())
        }
        Command::Bench { suite: Suite::Packet { options } } => run::bench("packet", &options),
        Command::Bench { suite: Suite::Veth { options } } => run::bench("veth", &options),
        Command::Bench { suite: Suite::Config { options } } => run::bench("config", &options),
        Command::Bench { suite: Suite::Table { options } } => run::bench("table", &options),
        Command::Bench { suite: Suite::Http { options } } => run::bench("http", &options),
        Command::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Command::Dist { check: false } => dist::package().map(|_| ExitCode::SUCCESS),
        Command::Dist { check: true } => dist::check(),
        Command::Setup => run::setup(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Arguments;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
