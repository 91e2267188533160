//! `cargo xtask test`: what a change has to pass, in an order that lets cheap checks fail first.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::host::{self, Profile};
use crate::needs;
use crate::output::{self, Seen};
use crate::provision::Provision;
use crate::run;
use crate::toolchain::{self, Toolchain};

/// The packages whose tests need nothing but a CPU.
const UNIT_TESTED: [&str; 5] =
    ["lbpersist-common", "lbpersist-packet", "lbpersist", "lbpersist-bench", "xtask"];

/// The package whose tests load programs into the kernel and make network namespaces.
const TESTED_OUTSIDE: &str = "lbpersist-tests";

const EBPF: [&str; 2] = ["lbpersist-ebpf", "lbpersist-bench-ebpf"];

/// What comes of a test that skips itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skips {
    Told,
    /// In CI: a machine there has everything, so a skip is a mistake.
    Forbidden,
}

/// Runs everything, or with a filter the tests whose name contains it.
pub(crate) fn all(filter: Option<&str>) -> Result<ExitCode> {
    let provision = Provision::new();
    provision.lab_programs()?;
    provision.optional_programs(&needs::PROXY)?;
    let toolchain = provision.bpf_toolchain()?;
    if filter.is_none() {
        Provision::companions()?;
        stage("format", format)?;
        stage("lints", lints)?;
        match &toolchain {
            Some(toolchain) => {
                stage("lints of the BPF programs", || {
                    EBPF.iter().try_for_each(|package| bpf_lints(&provision, toolchain, package))
                })?;
            }
            None => eprintln!("xtask: the BPF object is given, so its source is not linted"),
        }
    }
    let mut seen = Seen::default();
    stage("unit tests", || unit_tests(filter, &mut seen))?;
    stage("build", run::build_binaries)?;
    stage("data path and topology tests", || outside_tests(filter, &mut seen))?;
    let skips = match env::var("CI").as_deref() {
        Ok("true") => Skips::Forbidden,
        _ => Skips::Told,
    };
    verdict(&seen, filter, skips)?;
    Ok(ExitCode::SUCCESS)
}

/// Announces a step, and how long it took.
fn stage(name: &str, step: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("xtask: {name}");
    let start = Instant::now();
    let outcome = step();
    let word = if outcome.is_ok() { "passed" } else { "failed" };
    eprintln!("xtask: {name} {word} after {:.1} s", start.elapsed().as_secs_f64());
    outcome.with_context(|| name.to_owned())
}

fn format() -> Result<()> {
    host::succeed(host::cargo()?.args(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    // Without packages named, cargo takes the default members: all but the BPF programs.
    host::succeed(host::cargo()?.args(["clippy", "--all-targets", "--", "-D", "warnings"]))
}

/// Clippy of the BPF compiler, or where it has none the warnings of the compiler itself.
fn bpf_lints(provision: &Provision, toolchain: &Toolchain, package: &str) -> Result<()> {
    let triple = match cfg!(target_endian = "big") {
        true => toolchain::BIG_ENDIAN,
        false => toolchain::LITTLE_ENDIAN,
    };
    // The build script's, so that the dependencies' procedural macros are there already.
    let target_dir = host::binaries(Profile::Dev)?.with_file_name("bpf");
    let mut cargo = if provision.bpf_clippy(toolchain).is_some() {
        let mut cargo = toolchain.cargo("clippy", triple, &target_dir);
        cargo.args(["--no-deps", "--release"]);
        cargo
    } else {
        eprintln!("xtask: the BPF compiler has no clippy; its own warnings are looked at alone");
        let mut cargo = toolchain.cargo("rustc", triple, &target_dir);
        cargo.args(["--profile", "check"]);
        cargo
    };
    cargo.args(["--package", package, "--bin", package, "--", "-D", "warnings"]);
    host::succeed(cargo.current_dir(host::workspace()?))
}

fn unit_tests(filter: Option<&str>, seen: &mut Seen) -> Result<()> {
    let mut cargo = host::cargo()?;
    cargo.arg("test");
    for package in UNIT_TESTED {
        cargo.args(["--package", package]);
    }
    watched(cargo.args(filter), seen)
}

fn outside_tests(filter: Option<&str>, seen: &mut Seen) -> Result<()> {
    let daemon = host::binaries(Profile::Dev)?.join("lbpersist");
    let mut cargo = host::cargo()?;
    cargo.args(["test", "--package", TESTED_OUTSIDE]).args(filter);
    cargo.args(["--", "--test-threads", &outside_threads().to_string()]);
    watched(cargo.env("LBPERSIST_BIN", Path::new(&daemon)), seen)
}

/// Each of these tests runs a daemon, clients and servers of its own, so more at once than there are cores
/// only stretches their time limits.
fn outside_threads() -> usize {
    thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4))
}

fn watched(command: &mut Command, seen: &mut Seen) -> Result<()> {
    let status = output::watch(command, seen)?;
    if !status.success() {
        bail!("{} failed ({status})", host::described(command));
    }
    Ok(())
}

/// Whether runs that all succeeded have shown what they should.
fn verdict(seen: &Seen, filter: Option<&str>, skips: Skips) -> Result<()> {
    if seen.passed == 0 {
        match filter {
            Some(filter) => bail!("no test has `{filter}` in its name"),
            None => bail!("no test was run"),
        }
    }
    let skipped = seen.skipped.len();
    if skipped == 0 {
        eprintln!("xtask: {} tests passed", seen.passed);
        return Ok(());
    }
    let list = seen.skipped.join("\n  ");
    if skips == Skips::Forbidden {
        bail!("CI=true allows no skipped test, and {skipped} skipped themselves:\n  {list}");
    }
    // A test that skips itself returns, which the test runner takes for a pass.
    let passed = seen.passed.saturating_sub(skipped as u64);
    eprintln!("xtask: {passed} tests passed, {skipped} skipped themselves:\n  {list}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(passed: u64, skipped: &[&str]) -> Seen {
        Seen { passed, skipped: skipped.iter().map(|it| (*it).to_owned()).collect() }
    }

    #[test]
    fn a_skipped_test_fails_in_ci_only() {
        let seen = seen(3, &["ipv6: no IPv6 here"]);
        assert!(verdict(&seen, None, Skips::Told).is_ok());
        let error = verdict(&seen, None, Skips::Forbidden).unwrap_err().to_string();
        assert!(error.contains("ipv6: no IPv6 here"), "{error}");
    }

    #[test]
    fn running_nothing_is_no_success() {
        assert!(verdict(&seen(0, &[]), None, Skips::Told).is_err());
        let error = verdict(&seen(0, &[]), Some("nosuch"), Skips::Told).unwrap_err().to_string();
        assert!(error.contains("nosuch"), "{error}");
        assert!(verdict(&seen(1, &[]), Some("some"), Skips::Forbidden).is_ok());
    }
}
