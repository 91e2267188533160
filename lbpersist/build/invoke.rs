//! Runs the toolchain that was chosen, away from the cargo that runs us.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Compiler, LITTLE_ENDIAN, Toolchain};

/// 32-bit arithmetic, and atomics that return the old value (Linux 5.12).
const TARGET_CPU: &str = "target-cpu=v3";

/// The smallest program that makes compiler and linker meet: without `core`, so that it takes no time.
const TRIAL: &str = r#"
#![feature(no_core, lang_items)]
#![allow(internal_features)]
#![no_core]
#![no_main]
#[lang = "pointee_sized"] trait PointeeSized {}
#[lang = "meta_sized"] trait MetaSized: PointeeSized {}
#[lang = "sized"] trait Sized: MetaSized {}
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
extern "C" fn trial() -> u32 { 2 }
"#;

/// What of cargo's own environment an inner cargo must still see: where its files are, how to reach a
/// registry, and the job tokens, so that the two together use no more cores than allowed.
const KEPT: [&str; 6] =
    ["CARGO_HOME", "CARGO_HTTP", "CARGO_NET", "CARGO_REGISTR", "CARGO_SOURCE", "CARGO_MAKEFLAGS"];

impl Toolchain {
    /// `cargo SUBCOMMAND` for a BPF target, to which the caller adds packages and profile.
    pub(crate) fn cargo(&self, subcommand: &str, triple: &str, target_dir: &Path) -> Command {
        let cargo = &self.compiler.cargo;
        let mut command = Command::new(cargo);
        forget_outer_cargo(&mut command);
        command
            .arg(subcommand)
            .args(["-Z", "build-std=core", "--target", triple, "--target-dir"])
            .arg(target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", encoded_flags(&self.linker))
            .env("RUSTC", self.compiler.rustc())
            .env("RUSTC_BOOTSTRAP", "1")
            // The linker sees the whole program as bitcode and optimizes it at once.
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("PATH", path_starting_at(cargo));
        command
    }
}

/// Takes away what a running cargo, or the user for the host's sake, put in the environment: host flags,
/// wrappers and profiles do not suit the BPF target.
pub(super) fn forget_outer_cargo(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let is_cargos =
            text.starts_with("CARGO") && !KEPT.iter().any(|kept| text.starts_with(kept));
        let is_rusts = text.starts_with("RUSTC")
            || text.starts_with("RUSTDOC")
            || matches!(text, "RUSTFLAGS" | "RUSTUP_TOOLCHAIN");
        if is_cargos || is_rusts {
            command.env_remove(name);
        }
    }
}

/// Compiles and links the smallest program; the reason of a failure is the linker's first word on it.
pub(super) fn trial_link(compiler: &Compiler, linker: &Path, scratch: &Path) -> Result<(), String> {
    let source = scratch.join("bpf-trial.rs");
    fs::write(&source, TRIAL).map_err(|error| format!("could not be tried: {error}"))?;
    let object = scratch.join("bpf-trial");
    // What an earlier trial left must not speak for this linker; mostly there is nothing to remove.
    let _ = fs::remove_file(&object);
    let mut command = Command::new(compiler.rustc());
    forget_outer_cargo(&mut command);
    let output = command
        .args(["--edition", "2024", "--crate-type", "bin", "--target", LITTLE_ENDIAN])
        .args(["-O", "-C", "panic=abort"])
        .args(flags(linker))
        .arg("-o")
        .arg(&object)
        .arg(source)
        .env("RUSTC_BOOTSTRAP", "1")
        .output()
        .map_err(|error| format!("could not be tried: {error}"))?;
    if output.status.success() && object.is_file() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let first = words.lines().find(|line| line.starts_with("error")).unwrap_or("it said nothing");
    Err(format!("does not link: {first}"))
}

/// The compiler flags of the BPF object: debug information is what BTF is made from.
fn flags(linker: &Path) -> Vec<OsString> {
    let mut linker_flag = OsString::from("linker=");
    linker_flag.push(linker);
    let settings = ["debuginfo=2".into(), "link-arg=--btf".into(), TARGET_CPU.into(), linker_flag];
    settings.into_iter().flat_map(|setting| [OsString::from("-C"), setting]).collect()
}

/// The same as cargo takes them, apart by a unit separator, so that a path may have spaces.
fn encoded_flags(linker: &Path) -> OsString {
    flags(linker).join(&OsString::from("\u{1f}"))
}

/// PATH with the directory of this cargo first: subcommands and build scripts then meet its companions.
fn path_starting_at(cargo: &Path) -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let first = cargo.parent().map(Path::to_path_buf);
    let directories: Vec<PathBuf> = first.into_iter().chain(env::split_paths(&path)).collect();
    env::join_paths(directories).unwrap_or(path)
}
