//! Builds the XDP program (package `lbpersist-ebpf`) and leaves the object in `OUT_DIR`, where the data
//! path embeds it. It runs again only when a source of the program or an override changed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

// xtask looks for the same toolchain, to install what is missing. Neither crate may depend on the other,
// and build scripts cannot use the library they build, so both include the file.
#[path = "build/toolchain.rs"]
mod toolchain;

const OBJECT: &str = "lbpersist-ebpf";

/// Every variable that changes the outcome.
const OVERRIDES: [&str; 3] =
    [toolchain::CARGO_OVERRIDE, toolchain::LINKER_OVERRIDE, toolchain::OBJECT_OVERRIDE];

fn main() -> ExitCode {
    match place_object() {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("{sentence}");
            ExitCode::FAILURE
        }
    }
}

fn place_object() -> Result<(), String> {
    let out = PathBuf::from(cargo_variable("OUT_DIR")?);
    let manifest = PathBuf::from(cargo_variable("CARGO_MANIFEST_DIR")?);
    let workspace = manifest
        .parent()
        .ok_or_else(|| format!("{} has no directory above it", manifest.display()))?;
    announce_inputs(workspace);

    let object = match env::var_os(toolchain::OBJECT_OVERRIDE) {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            path
        }
        None => build(workspace, &out)?,
    };
    fs::copy(&object, out.join(OBJECT))
        .map(drop)
        .map_err(|error| format!("cannot take the BPF object {}: {error}", object.display()))
}

/// Tells cargo what the object is made of; whatever else changes, the object stays.
fn announce_inputs(workspace: &Path) {
    for input in
        ["lbpersist-ebpf", "lbpersist-common", "lbpersist-packet", "Cargo.lock", "Cargo.toml"]
    {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    for variable in OVERRIDES {
        println!("cargo::rerun-if-env-changed={variable}");
    }
}

fn build(workspace: &Path, out: &Path) -> Result<PathBuf, String> {
    let toolchain = toolchain::find(out).map_err(|missing| missing.to_string())?;
    // Seen with `cargo build -vv`, and kept for whoever wonders later.
    println!("the BPF object is built by {toolchain}");
    fs::write(out.join("bpf-toolchain.txt"), format!("{toolchain}\n"))
        .map_err(|error| format!("cannot write to {}: {error}", out.display()))?;

    let triple = match cargo_variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => toolchain::BIG_ENDIAN,
        _ => toolchain::LITTLE_ENDIAN,
    };
    let target_dir = bpf_target_dir(out);
    let status = toolchain
        .cargo("build", triple, &target_dir)
        .args(["--release", "--package", OBJECT, "--bin", OBJECT])
        .current_dir(workspace)
        .status()
        .map_err(|error| format!("cannot start {toolchain}: {error}"))?;
    if !status.success() {
        return Err(format!("the BPF object did not build ({status}); tried with {toolchain}"));
    }
    Ok(target_dir.join(triple).join("release").join(OBJECT))
}

/// A target directory apart: cargo holds the lock of the usual one while this script runs. It is not in
/// `OUT_DIR` where that can be avoided, since check, clippy and release builds have one each, and would each
/// compile `core` again. No build that holds its lock waits for another one.
fn bpf_target_dir(out: &Path) -> PathBuf {
    // target/PROFILE/build/PACKAGE-HASH/out
    let directory = |levels| out.ancestors().nth(levels);
    match (directory(2), directory(4)) {
        (Some(build), Some(target)) if build.ends_with("build") => target.join("bpf"),
        _ => out.join("bpf"),
    }
}

fn cargo_variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("cargo gave no usable {name}: {error}"))
}
