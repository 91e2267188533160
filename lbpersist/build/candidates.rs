//! The compilers and linkers that stand on this machine, best first. Only looks, never judges.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{CARGO_OVERRIDE, Compiler, Facts, LINKER_OVERRIDE, LINKER_VERSION, Linker, invoke};

/// The one that is named by environment, and no other; else Debian's, then those of rustup.
pub(super) fn compilers() -> Vec<Compiler> {
    let cargos = match env::var_os(CARGO_OVERRIDE) {
        Some(cargo) => vec![PathBuf::from(cargo)],
        None => {
            let mut cargos = vec![PathBuf::from("/usr/bin/cargo")];
            cargos.extend(rustup_cargos());
            cargos.retain(|cargo| cargo.is_file());
            cargos
        }
    };
    cargos
        .into_iter()
        .map(|cargo| Compiler { facts: facts(&cargo.with_file_name("rustc")), cargo })
        .collect()
}

/// The one that is named by environment, and no other; else PATH's, cargo's, and what xtask installed.
pub(super) fn linkers() -> Vec<Linker> {
    if let Some(path) = env::var_os(LINKER_OVERRIDE) {
        return vec![Linker { path: path.into(), llvm: None }];
    }
    // The installed ones come first: they are of the version this workspace was tried with.
    let mut linkers = cached_linkers();
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = env::split_paths(&path).collect();
    directories.extend(home_directory("CARGO_HOME", ".cargo").map(|home| home.join("bin")));
    for directory in directories {
        let path = directory.join("bpf-linker");
        if path.is_file() && linkers.iter().all(|known| known.path != path) {
            linkers.push(Linker { path, llvm: None });
        }
    }
    linkers
}

/// Where xtask puts a bpf-linker of this LLVM, as `cargo install --root` takes it: once for each user,
/// so that a fresh clone finds it.
pub(crate) fn cached_linker_root(llvm: u32) -> Option<PathBuf> {
    let cache = home_directory("XDG_CACHE_HOME", ".cache")?;
    Some(cache.join("lbpersist").join("tools").join(format!("{}{llvm}", cache_prefix())))
}

fn cached_linkers() -> Vec<Linker> {
    let tools = cached_linker_root(0).and_then(|root| root.parent().map(Path::to_path_buf));
    let mut linkers: Vec<Linker> = tools
        .map(|tools| entries(&tools))
        .unwrap_or_default()
        .into_iter()
        .filter_map(|root| {
            let name = root.file_name()?.to_str()?;
            let llvm = name.strip_prefix(&cache_prefix())?.parse().ok()?;
            Some(Linker { path: root.join("bin/bpf-linker"), llvm: Some(llvm) })
        })
        .filter(|linker| linker.path.is_file())
        .collect();
    linkers.sort_by_key(|linker| linker.llvm);
    linkers
}

fn cache_prefix() -> String {
    format!("bpf-linker-{LINKER_VERSION}-llvm-")
}

/// Every toolchain of rustup, the nightlies first: the others can be made to do, with RUSTC_BOOTSTRAP.
fn rustup_cargos() -> Vec<PathBuf> {
    let Some(home) = home_directory("RUSTUP_HOME", ".rustup") else {
        return Vec::new();
    };
    let mut toolchains = entries(&home.join("toolchains"));
    let is_nightly = |toolchain: &PathBuf| {
        let name = toolchain.file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| name.starts_with("nightly"))
    };
    toolchains.sort_by_key(|toolchain| (!is_nightly(toolchain), toolchain.clone()));
    toolchains.iter().map(|toolchain| toolchain.join("bin/cargo")).collect()
}

fn facts(rustc: &Path) -> Result<Facts, String> {
    let version = say(rustc, &["-vV"])?;
    let sysroot = say(rustc, &["--print", "sysroot"])?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    let (release, llvm) = parse_version(&version)
        .ok_or_else(|| String::from("has a rustc that does not tell its version"))?;
    Ok(Facts { release, llvm, core_source: library.join("core/Cargo.toml").is_file() })
}

/// Release and LLVM major number out of `rustc -vV`.
pub(super) fn parse_version(output: &str) -> Option<((u32, u32), u32)> {
    let field = |name: &str| output.lines().find_map(|line| line.strip_prefix(name));
    let release = parse_release(field("release: ")?)?;
    let (llvm, _) = parse_release(field("LLVM version: ")?)?;
    Some((release, llvm))
}

/// The first two numbers of `1.96.0-nightly` and the like.
pub(super) fn parse_release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some((major, minor))
}

fn say(rustc: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(rustc);
    invoke::forget_outer_cargo(&mut command);
    let output = command
        .args(arguments)
        .output()
        .map_err(|error| format!("has no rustc that starts: {error}"))?;
    if !output.status.success() {
        return Err(format!("has a rustc that fails ({})", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn home_directory(variable: &str, under_home: &str) -> Option<PathBuf> {
    let named = env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    named.or_else(|| env::home_dir().map(|home| home.join(under_home)))
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    // A directory that is not there is one without entries.
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect()
}
