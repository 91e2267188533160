//! A laboratory to play in: two clients, three servers and lbpersist between them, in network namespaces of this machine.
#![expect(clippy::print_stdout, reason = "a program that talks to whoever runs it")]

mod campaign;
mod configuration;
mod demo;
mod files;
mod laboratory;
mod package;
mod report;
mod visit;

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use lbpersist_tests::{
    server::{self, Listen},
    sys,
};

use crate::laboratory::Laboratory;

#[derive(Parser)]
#[command(name = "lab", about = "A laboratory for lbpersist in network namespaces of this machine")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the laboratory, start lbpersist in it, and say how to play with it
    Up {
        /// What its namespaces and files are named after
        #[arg(long, default_value = "lab")]
        name: String,
    },
    /// End everything in the laboratory and remove it
    Down {
        /// What its namespaces and files are named after
        #[arg(long, default_value = "lab")]
        name: String,
    },
    /// Show clients being kept on their servers; exits with 0 only if all it says was seen
    Demo {
        /// Leave the laboratory for playing
        #[arg(long)]
        keep: bool,
        /// What its namespaces and files are named after
        #[arg(long, default_value = "demo")]
        name: String,
    },
    /// Change everything under a crowd of clients; exits with 0 only if nobody noticed
    Campaign {
        #[command(subcommand)]
        campaign: campaign::Campaign,
    },
    /// Install a Debian package in a clean system, use it, and remove it; exits with 0 only if nothing is left
    Package {
        /// The package
        file: PathBuf,
    },
    /// Be one of the servers: answer HTTP with a name and the client's address, until killed
    Serve {
        /// The name to answer with
        name: String,
        /// An address to listen on
        #[arg(long, required = true)]
        address: Vec<IpAddr>,
        /// A port to listen on
        #[arg(long, required = true)]
        port: Vec<u16>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Serve { name, address, port } => {
            server::serve_forever(
                &name,
                &Listen { addresses: address, tcp: port, udp: Vec::new() },
            )?;
        }
        Command::Up { name } => {
            check_root()?;
            let laboratory = Laboratory::up(&name)?;
            laboratory.keep()?;
            println!("{}", laboratory.how_to_play());
        }
        Command::Down { name } => {
            check_root()?;
            Laboratory::down(&name)?;
        }
        Command::Campaign { campaign } => {
            check_root()?;
            return campaign::run(&campaign);
        }
        Command::Package { file } => {
            check_root()?;
            return package::run(&file);
        }
        Command::Demo { keep, name } => {
            check_root()?;
            return demo::run(&name, if keep { demo::After::Keep } else { demo::After::Remove });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check_root() -> Result<()> {
    ensure!(sys::is_root(), "network namespaces and XDP need root: run this with sudo");
    Ok(())
}
