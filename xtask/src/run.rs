//! `build`, `setup`, and the commands that hand over to the lab.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::host::{self, Profile};
use crate::needs;
use crate::provision::Provision;

/// Builds the daemon and says where it is.
pub(crate) fn build(profile: Profile) -> Result<ExitCode> {
    Provision::new().bpf_toolchain()?;
    let mut cargo = host::cargo()?;
    cargo.args(["build", "--package", "lbpersist"]);
    if matches!(profile, Profile::Release) {
        cargo.arg("--release");
    }
    host::succeed(&mut cargo)?;
    eprintln!("xtask: built {}", host::binaries(profile)?.join("lbpersist").display());
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing for every command.
pub(crate) fn setup() -> Result<ExitCode> {
    let provision = Provision::new();
    provision.lab_programs()?;
    match provision.bpf_toolchain()? {
        None => eprintln!("xtask: the BPF object is given, nothing compiles it"),
        Some(toolchain) => {
            provision.bpf_clippy(&toolchain);
            eprintln!("xtask: the BPF object is built by {toolchain}");
        }
    }
    Provision::companions()?;
    eprintln!("xtask: everything is there");
    Ok(ExitCode::SUCCESS)
}

/// Builds daemon and lab, runs `lab ARGUMENTS`, and ends with its exit code.
pub(crate) fn lab(arguments: &[OsString]) -> Result<ExitCode> {
    let provision = Provision::new();
    provision.lab_programs()?;
    provision.bpf_toolchain()?;
    build_binaries()?;
    let binaries = host::binaries(Profile::Dev)?;
    let mut lab = Command::new(binaries.join("lab"));
    lab.args(arguments).env("LBPERSIST_BIN", binaries.join("lbpersist"));
    handed_over(&mut lab)
}

/// Builds the benchmark, optimized, runs a suite of it and ends with its exit code.
pub(crate) fn bench(suite: &str, options: &[OsString]) -> Result<ExitCode> {
    let provision = Provision::new();
    provision.bpf_toolchain()?;
    let mut build = host::cargo()?;
    build.args(["build", "--release", "--bins", "--package", "lbpersist-bench"]);
    let programs: &[needs::Program] = match suite {
        "veth" | "table" => &needs::VETH,
        "http" => &needs::HTTP,
        _ => &[],
    };
    if !programs.is_empty() {
        // They start the daemon.
        provision.programs(programs)?;
        build.args(["--package", "lbpersist"]);
    }
    host::succeed(&mut build)?;
    let mut bench = Command::new(host::binaries(Profile::Release)?.join("lbpersist-bench"));
    handed_over(bench.arg(suite).args(options))
}

/// Runs a program of ours to its end, which is ours too.
fn handed_over(command: &mut Command) -> Result<ExitCode> {
    let status = host::status(command)?;
    // A signal has no exit code; a failure it is all the same.
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Builds the daemon and the lab, unoptimized: they start sooner so.
pub(crate) fn build_binaries() -> Result<()> {
    let packages = ["--package", "lbpersist", "--package", "lbpersist-tests"];
    host::succeed(host::cargo()?.args(["build", "--bins"]).args(packages))
}
