//! Sees to it that what a command needs is there: installs it as root on a Debian, and says the exact
//! commands anywhere else.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::host::{self, Profile};
use crate::needs::{self, Program};
use crate::toolchain::{self, LINKER_VERSION, Missing, Toolchain};

/// The way to get programs onto this machine.
pub(crate) struct Provision {
    may_install: bool,
    /// Set once the package lists were fetched; they are fetched only when something is missing.
    lists_fetched: OnceCell<()>,
}

impl Provision {
    /// Learns whether packages may be installed here: by root, on a Debian.
    pub(crate) fn new() -> Self {
        let is_debian = Path::new("/etc/debian_version").is_file() && host::has_program("apt-get");
        Self { may_install: is_debian && is_root(), lists_fetched: OnceCell::new() }
    }

    /// The programs that the lab and the topology tests call.
    pub(crate) fn lab_programs(&self) -> Result<()> {
        self.programs(&needs::LAB)
    }

    /// Those programs.
    pub(crate) fn programs(&self, wanted: &[Program]) -> Result<()> {
        let absent = needs::absent(wanted, host::has_program);
        if absent.is_empty() {
            return Ok(());
        }
        let packages: Vec<&str> = absent.iter().map(|program| program.package).collect();
        if !self.may_install {
            bail!("{}", by_hand(&absent));
        }
        self.install(&packages)?;
        match needs::absent(&absent, host::has_program).first() {
            None => Ok(()),
            Some(still) => bail!("{} is still missing after installing {packages:?}", still.name),
        }
    }

    /// Programs that some tests do without, saying so: installed where that is allowed.
    pub(crate) fn optional_programs(&self, wanted: &[Program]) -> Result<()> {
        if self.may_install {
            return self.programs(wanted);
        }
        let absent = needs::absent(wanted, host::has_program);
        if !absent.is_empty() {
            eprintln!("xtask: {}; some tests are skipped", by_hand(&absent));
        }
        Ok(())
    }

    /// rustfmt and clippy of the cargo that runs us.
    pub(crate) fn companions() -> Result<()> {
        let absent = needs::absent_companions();
        if absent.is_empty() {
            return Ok(());
        }
        let cargo = host::cargo_path();
        bail!(
            "{} is missing beside {}; install it:\n    rustup component add {}",
            absent.join(" and "),
            cargo.display(),
            absent.join(" ")
        )
    }

    /// What builds the BPF object, if anything has to.
    pub(crate) fn bpf_toolchain(&self) -> Result<Option<Toolchain>> {
        if env::var_os(toolchain::OBJECT_OVERRIDE).is_some() {
            return Ok(None);
        }
        let scratch = scratch()?;
        let mut found = toolchain::find(&scratch);
        // Each step mends one lack, and there are two: the compiler, then its linker.
        for _ in 0..2 {
            found = match found {
                Err(missing) if self.mend(&missing)? => toolchain::find(&scratch),
                settled => settled,
            };
        }
        found.map(Some).map_err(|missing| anyhow!("{missing}"))
    }

    /// Debian's clippy for the BPF compiler, where that compiler is Debian's.
    pub(crate) fn bpf_clippy(&self, toolchain: &Toolchain) -> Option<PathBuf> {
        let clippy = toolchain.compiler.cargo.with_file_name("cargo-clippy");
        let is_debians = toolchain.compiler.cargo.starts_with("/usr/bin");
        if !clippy.is_file() && is_debians && self.may_install {
            // The compiler itself then takes over its part, so a failure here is no failure.
            self.install(&[needs::BPF_CLIPPY]).ok()?;
        }
        clippy.is_file().then_some(clippy)
    }

    /// Installs what is missing; false where that may not or cannot be done here.
    fn mend(&self, missing: &Missing) -> Result<bool> {
        // What was named by hand is not to be replaced behind the user's back.
        let named = |variable: &str| env::var_os(variable).is_some();
        match missing {
            Missing::Compiler { .. } => {
                let may = self.may_install && !named(toolchain::CARGO_OVERRIDE);
                if !may || !self.offers(needs::BPF_COMPILER[0])? {
                    return Ok(false);
                }
                self.install(&needs::BPF_COMPILER)?;
                Ok(true)
            }
            Missing::Linker { llvm, .. } => {
                let package = needs::llvm_package(*llvm);
                let llvm_bin = PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin"));
                if named(toolchain::LINKER_OVERRIDE) {
                    return Ok(false);
                }
                if !llvm_bin.join("llvm-config").is_file() {
                    if !self.may_install || !self.offers(&package)? {
                        return Ok(false);
                    }
                    self.install(&[&package])?;
                }
                build_linker(*llvm, &llvm_bin)?;
                Ok(true)
            }
        }
    }

    /// Whether the package lists have this package.
    fn offers(&self, package: &str) -> Result<bool> {
        self.fetch_lists();
        let output = Command::new("apt-cache").args(["show", package]).output();
        Ok(output.context("cannot start apt-cache")?.status.success())
    }

    fn install<S: AsRef<std::ffi::OsStr> + std::fmt::Debug>(&self, packages: &[S]) -> Result<()> {
        self.fetch_lists();
        eprintln!("xtask: installing {packages:?}");
        let mut command = apt_get(&["install", "--yes", "--no-install-recommends"]);
        host::succeed(command.args(packages))
    }

    /// An old list, or one of many that cannot be reached, may still do: the installation will tell.
    fn fetch_lists(&self) {
        self.lists_fetched.get_or_init(|| {
            eprintln!("xtask: fetching Debian's package lists");
            if let Err(error) = host::succeed(&mut apt_get(&["update"])) {
                eprintln!("xtask: going on with the lists that are there, because {error:#}");
            }
        });
    }
}

/// Builds bpf-linker into the cache of this user, where the build script looks as well.
fn build_linker(llvm: u32, llvm_bin: &Path) -> Result<()> {
    let root = toolchain::candidates::cached_linker_root(llvm)
        .context("there is no home directory to keep bpf-linker in; set XDG_CACHE_HOME")?;
    eprintln!("xtask: building bpf-linker {LINKER_VERSION} for LLVM {llvm}, once, a minute or two");
    let features = format!("llvm-{llvm}");
    let mut command = host::cargo()?;
    command
        .args(["install", "bpf-linker", "--locked", "--version", LINKER_VERSION])
        .args(["--no-default-features", "--features", &features])
        .arg("--root")
        .arg(&root)
        .env("PATH", linker_path(llvm_bin)?)
        // A cross-compiling or hardened configuration of the user is meant for other programs.
        .env_remove("CARGO_BUILD_TARGET")
        .stdin(Stdio::null());
    host::succeed(&mut command)
}

/// llvm-config first, then the cargo that runs us.
fn linker_path(llvm_bin: &Path) -> Result<std::ffi::OsString> {
    let rest = host::path_after(host::cargo_path().parent())?;
    let directories = std::iter::once(llvm_bin.to_path_buf()).chain(env::split_paths(&rest));
    env::join_paths(directories).context("PATH cannot be extended")
}

/// What to type where nothing may be installed by us.
fn by_hand(absent: &[Program]) -> String {
    let mut text = String::from("this needs programs that are missing:\n");
    for program in absent {
        text.push_str(&format!("  {} ({})\n", program.name, program.purpose));
    }
    let packages: Vec<&str> = absent.iter().map(|program| program.package).collect();
    let packages = packages.join(" ");
    text.push_str(&format!(
        "On a Debian, as root:\n    apt-get update && apt-get install {packages}"
    ));
    text
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-qq", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    command
}

/// Whether the effective user is root; without /proc the answer is no.
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_user(&status) == Some(0)
}

/// The second number of the line `Uid: real effective saved filesystem`.
fn effective_user(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// A directory beside our binary for trial links.
fn scratch() -> Result<PathBuf> {
    let scratch = host::binaries(Profile::Dev)?.join("xtask-scratch");
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    Ok(scratch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_user_is_the_second_number() {
        assert_eq!(effective_user("Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t5\t5\n"), Some(0));
        assert_eq!(effective_user("Name:\tx\nUid:\t0\t1000\t0\t0\n"), Some(1000));
        assert_eq!(effective_user(""), None);
    }

    #[test]
    fn one_command_installs_all_that_is_absent() {
        let text = by_hand(&needs::absent(&needs::LAB, |name| name == "ip"));
        assert!(text.ends_with("apt-get install ethtool curl bpftool"), "{text}");
        assert!(text.contains("curl (is the client)"), "{text}");
    }
}
