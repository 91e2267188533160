//! Fuzzing: runs a target of `fuzz/` with cargo-fuzz for some time.

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::host;

/// Runs `target`, or every target, for that many seconds each.
pub(crate) fn run(target: Option<&str>, seconds: u32) -> Result<ExitCode> {
    let known = targets()?;
    let chosen: Vec<String> = match target {
        None => known,
        Some(name) if known.iter().any(|known| known == name) => vec![name.to_owned()],
        Some(name) => bail!("there is no fuzz target {name}; there are: {}", known.join(", ")),
    };
    if !host::has_program("cargo-fuzz") && !in_cargo_home() {
        bail!("cargo-fuzz is missing: cargo install cargo-fuzz");
    }
    for name in chosen {
        eprintln!("xtask: fuzzing {name} for {seconds} s");
        let mut cargo = host::cargo()?;
        // The sanitizer needs options that a stable compiler has, but does not show.
        cargo.env("RUSTC_BOOTSTRAP", "1").args(["fuzz", "run", &name, "--"]);
        cargo.arg(format!("-max_total_time={seconds}"));
        host::succeed(&mut cargo)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The names of the targets, in order.
fn targets() -> Result<Vec<String>> {
    let directory = host::workspace()?.join("fuzz/fuzz_targets");
    let failed = || format!("cannot read {}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        if let Some(name) = path.file_stem() {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Whether cargo finds it where it installs programs, which need not be in PATH.
fn in_cargo_home() -> bool {
    Command::new(host::cargo_path())
        .args(["fuzz", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}
