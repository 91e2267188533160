//! Builds the measuring programs (package `lbpersist-bench-ebpf`) and leaves the object in `OUT_DIR`.
//!
//! They are a package of their own, so that the daemon's build neither waits for them nor carries them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

// The daemon's build script looks for the same toolchain; see there why the file is included.
#[path = "../lbpersist/build/toolchain.rs"]
mod toolchain;

const OBJECT: &str = "lbpersist-bench-ebpf";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("{sentence}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(cargo_variable("OUT_DIR")?);
    let manifest = PathBuf::from(cargo_variable("CARGO_MANIFEST_DIR")?);
    let workspace = manifest
        .parent()
        .ok_or_else(|| format!("{} has no directory above it", manifest.display()))?;
    for input in ["bench/ebpf", "Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    for variable in [toolchain::CARGO_OVERRIDE, toolchain::LINKER_OVERRIDE] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let toolchain = toolchain::find(&out).map_err(|missing| missing.to_string())?;
    let triple = match cargo_variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => toolchain::BIG_ENDIAN,
        _ => toolchain::LITTLE_ENDIAN,
    };
    let target_dir = bpf_target_dir(&out);
    let status = toolchain
        .cargo("build", triple, &target_dir)
        .args(["--release", "--package", OBJECT, "--bin", OBJECT])
        .current_dir(workspace)
        .status()
        .map_err(|error| format!("cannot start {toolchain}: {error}"))?;
    if !status.success() {
        return Err(format!("{OBJECT} did not build ({status}); tried with {toolchain}"));
    }
    let object = target_dir.join(triple).join("release").join(OBJECT);
    fs::copy(&object, out.join(OBJECT))
        .map(drop)
        .map_err(|error| format!("cannot take the BPF object {}: {error}", object.display()))
}

/// The directory that the daemon's object is built in: `core` and the crates below are then compiled once.
fn bpf_target_dir(out: &Path) -> PathBuf {
    // target/PROFILE/build/PACKAGE-HASH/out
    match out.ancestors().nth(4) {
        Some(target) => target.join("bpf"),
        None => out.join("bpf"),
    }
}

fn cargo_variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("cargo gave no usable {name}: {error}"))
}
