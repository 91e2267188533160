//! The workspace, and the cargo that builds for this machine.
//!
//! That cargo is the one that runs us, never the first in PATH: where the BPF compiler comes from Debian, a
//! second one stands in /usr/bin.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context as _, Result, bail};

/// The top of the workspace.
pub(crate) fn workspace() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask stands outside a workspace")
}

/// The path of the cargo that runs us.
pub(crate) fn cargo_path() -> PathBuf {
    env::var_os("CARGO").unwrap_or_else(|| OsString::from(env!("CARGO"))).into()
}

/// That cargo, in the workspace; its directory leads PATH, so that it meets its own rustc and clippy.
pub(crate) fn cargo() -> Result<Command> {
    let cargo = cargo_path();
    let mut command = Command::new(&cargo);
    command.current_dir(workspace()?).env("PATH", path_after(cargo.parent())?);
    Ok(command)
}

/// PATH with a directory put first.
pub(crate) fn path_after(first: Option<&Path>) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let first = first.map(Path::to_path_buf).into_iter();
    env::join_paths(first.chain(env::split_paths(&path))).context("PATH cannot be extended")
}

/// How optimized a build is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// The directory with the binaries of a profile: beside that which xtask itself was built into.
pub(crate) fn binaries(profile: Profile) -> Result<PathBuf> {
    let itself = env::current_exe().context("xtask cannot tell where it stands")?;
    let own = itself.parent().context("xtask stands in no directory")?;
    Ok(own.with_file_name(match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
    }))
}

/// Whether a program can be found; the directories of root are looked at for others too.
pub(crate) fn has_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let roots = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(roots).any(|directory| directory.join(name).is_file())
}

/// Runs a command to its end.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// Runs a command that has to succeed.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("{} failed ({status})", described(command));
    }
    Ok(())
}

/// A command as one would type it.
pub(crate) fn described(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
