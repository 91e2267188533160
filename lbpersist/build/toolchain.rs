//! Which compiler and linker build the BPF object: the choice, and what to say when there is none.
//!
//! Shared by `lbpersist/build.rs` and xtask. The choice is pure: `candidates` reads the facts from the
//! machine, `invoke` runs what was chosen. A compiler fits when it is new enough for this workspace and has the
//! sources of `core` (the BPF targets come without a compiled one); a linker fits when its LLVM reads
//! what the compiler's LLVM writes.

use std::fmt;
use std::path::{Path, PathBuf};

pub(crate) mod candidates;
mod invoke;

/// A cargo to build with; its rustc stands beside it.
pub(crate) const CARGO_OVERRIDE: &str = "LBPERSIST_BPF_CARGO";
/// A bpf-linker to link with.
pub(crate) const LINKER_OVERRIDE: &str = "LBPERSIST_BPF_LINKER";
/// A BPF object built elsewhere; nothing is compiled then.
pub(crate) const OBJECT_OVERRIDE: &str = "LBPERSIST_BPF_OBJECT";

/// The target for hosts that store the least significant byte first.
pub(crate) const LITTLE_ENDIAN: &str = "bpfel-unknown-none";
/// The target for hosts that store the most significant byte first.
pub(crate) const BIG_ENDIAN: &str = "bpfeb-unknown-none";

/// The release of bpf-linker that is asked for and installed.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// What `rustc` and its sysroot say of a compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Major and minor number of the Rust release.
    pub(crate) release: (u32, u32),
    /// Major number of the LLVM inside.
    pub(crate) llvm: u32,
    /// Whether the sources of `core` are installed.
    pub(crate) core_source: bool,
}

/// A cargo that might build for BPF, or why nothing could be learned of it.
#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    pub(crate) cargo: PathBuf,
    pub(crate) facts: Result<Facts, String>,
}

impl Compiler {
    /// The compiler that goes with the cargo.
    pub(crate) fn rustc(&self) -> PathBuf {
        self.cargo.with_file_name("rustc")
    }

    /// The facts of a compiler that fits, or in what it falls short.
    fn fitting(&self) -> Result<&Facts, String> {
        let facts = self.facts.as_ref().map_err(Clone::clone)?;
        let (major, minor) = facts.release;
        if facts.release < required_release() {
            let wanted = env!("CARGO_PKG_RUST_VERSION");
            return Err(format!("is Rust {major}.{minor}, {wanted} is needed"));
        }
        if !facts.core_source {
            return Err(format!("is Rust {major}.{minor} without the sources of core"));
        }
        Ok(facts)
    }
}

/// A bpf-linker that might do.
#[derive(Debug, Clone)]
pub(crate) struct Linker {
    pub(crate) path: PathBuf,
    /// Major number of its LLVM, where the place it was found in tells.
    pub(crate) llvm: Option<u32>,
}

/// A compiler and a linker that were seen to work together.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.compiler.cargo.display())?;
        if let Ok(Facts { release: (major, minor), llvm, .. }) = &self.compiler.facts {
            write!(f, " (Rust {major}.{minor}, LLVM {llvm})")?;
        }
        write!(f, " with {}", self.linker.display())
    }
}

/// Why there is no toolchain: the first thing that is lacking, and what was looked at.
#[derive(Debug)]
pub(crate) enum Missing {
    /// No compiler fits; each that was seen, with the reason.
    Compiler { seen: Vec<String> },
    /// A compiler fits, but no linker goes with it.
    Linker { cargo: PathBuf, llvm: u32, seen: Vec<String> },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seen, llvm) = match self {
            Self::Compiler { seen } => {
                writeln!(f, "no Rust compiler here can build the BPF object")?;
                (seen, None)
            }
            Self::Linker { cargo, llvm, seen } => {
                let cargo = cargo.display();
                writeln!(f, "no bpf-linker here links what {cargo} (LLVM {llvm}) compiles")?;
                (seen, Some(*llvm))
            }
        };
        for line in seen {
            writeln!(f, "  {line}")?;
        }
        if seen.is_empty() {
            writeln!(f, "  none was found")?;
        }
        write!(f, "{}", Remedy { llvm })
    }
}

/// The commands that mend it. `llvm` is known when only the linker is missing.
struct Remedy {
    llvm: Option<u32>,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = LINKER_VERSION;
        writeln!(
            f,
            "As root on a Debian, `cargo xtask setup` installs it. By hand, on Debian 12:"
        )?;
        if self.llvm.is_none() {
            writeln!(f, "    apt-get update && apt-get install rustc-web cargo-web rust-web-src")?;
        }
        let n = self.llvm.unwrap_or(22);
        writeln!(f, "    apt-get install llvm-{n}-dev")?;
        writeln!(
            f,
            "    PATH=/usr/lib/llvm-{n}/bin:$PATH cargo install bpf-linker --version {v} --locked \
             --no-default-features --features llvm-{n}"
        )?;
        writeln!(f, "Elsewhere:")?;
        if self.llvm.is_none() {
            writeln!(f, "    rustup toolchain install nightly --component rust-src")?;
        }
        let features = self.llvm.map_or_else(String::new, |llvm| {
            format!(" --no-default-features --features llvm-{llvm}")
        });
        writeln!(f, "    cargo install bpf-linker --version {v} --locked{features}")?;
        writeln!(f, "  (with llvm-config of the LLVM in that rustc; its releases are ready-made)")?;
        write!(
            f,
            "Or name them yourself: {CARGO_OVERRIDE} (a cargo, its rustc beside it), {LINKER_OVERRIDE} \
             (a bpf-linker), {OBJECT_OVERRIDE} (an object built elsewhere)."
        )
    }
}

/// Looks at this machine and picks. `scratch` is a directory that may be written to for a trial link.
pub(crate) fn find(scratch: &Path) -> Result<Toolchain, Missing> {
    let compilers = candidates::compilers();
    let linkers = candidates::linkers();
    choose(&compilers, &linkers, |compiler, linker| {
        invoke::trial_link(compiler, &linker.path, scratch)
    })
}

/// The first compiler, in the order given, that fits and has a linker; for it the first linker that is not known
/// to be of another LLVM and that passes `trial`.
pub(crate) fn choose(
    compilers: &[Compiler],
    linkers: &[Linker],
    mut trial: impl FnMut(&Compiler, &Linker) -> Result<(), String>,
) -> Result<Toolchain, Missing> {
    let mut misfits = Vec::new();
    let mut first_without_linker = None;
    for compiler in compilers {
        let llvm = match compiler.fitting() {
            Ok(facts) => facts.llvm,
            Err(reason) => {
                misfits.push(format!("{} {reason}", compiler.cargo.display()));
                continue;
            }
        };
        let mut seen = Vec::new();
        for linker in linkers {
            let path = &linker.path;
            let outcome = match linker.llvm {
                Some(other) if other != llvm => Err(format!("has LLVM {other}")),
                _ => trial(compiler, linker),
            };
            match outcome {
                Ok(()) => {
                    return Ok(Toolchain { compiler: compiler.clone(), linker: path.clone() });
                }
                Err(reason) => seen.push(format!("{} {reason}", path.display())),
            }
        }
        first_without_linker.get_or_insert_with(|| Missing::Linker {
            cargo: compiler.cargo.clone(),
            llvm,
            seen,
        });
    }
    Err(first_without_linker.unwrap_or(Missing::Compiler { seen: misfits }))
}

/// The `rust-version` of the workspace, which the BPF crates share.
fn required_release() -> (u32, u32) {
    candidates::parse_release(env!("CARGO_PKG_RUST_VERSION")).unwrap_or_default()
}

#[cfg(test)]
mod tests;
