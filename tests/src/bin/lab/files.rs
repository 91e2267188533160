//! What of a laboratory is neither a namespace nor a wire: its files, and the processes they tell of.

use std::{
    fs,
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use lbpersist_tests::{
    command,
    sys::{self, Signal},
};

/// How long processes may take to start and to end.
const LIMIT: Duration = Duration::from_secs(20);

/// Where a laboratory keeps what is not in the namespaces.
pub(crate) struct Files {
    /// Configuration, logs, and the two lists below.
    pub(crate) directory: PathBuf,
    /// Where lbpersist pins.
    pub(crate) pins: PathBuf,
}

impl Files {
    /// The places of a name.
    pub(crate) fn of(name: &str) -> Self {
        Self {
            directory: Path::new("/run").join(format!("lbpersist-{name}")),
            pins: Path::new("/sys/fs/bpf").join(format!("lbpersist-{name}")),
        }
    }

    /// Holds the process that will remove the laboratory, or `kept`.
    pub(crate) fn owner(&self) -> PathBuf {
        self.directory.join("owner")
    }

    /// The daemon's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("lbpersist.log")
    }

    /// One line for each process: its role and its number.
    fn process_list(&self) -> PathBuf {
        self.directory.join("processes")
    }

    /// Notes a process that was started.
    pub(crate) fn note(&self, role: &str, process: u32) -> Result<()> {
        let mut list = OpenOptions::new().create(true).append(true).open(self.process_list())?;
        writeln!(list, "{role} {process}")?;
        Ok(())
    }

    /// The processes that were started, in that order.
    pub(crate) fn processes(&self) -> Vec<(String, u32)> {
        let list = fs::read_to_string(self.process_list()).unwrap_or_default();
        let entry = |line: &str| {
            let (role, process) = line.split_once(' ')?;
            Some((role.to_owned(), process.parse().ok()?))
        };
        list.lines().filter_map(entry).collect()
    }

    /// Whether somebody plays with the laboratory, or still runs the demo in it.
    pub(crate) fn is_in_use(&self) -> bool {
        match fs::read_to_string(self.owner()) {
            Ok(owner) => owner == "kept" || owner.parse().is_ok_and(is_running),
            Err(_) => false,
        }
    }
}

/// Ends a process, if it still is one of a namespace of the laboratory: its number may be somebody else's by now.
pub(crate) fn end(process: u32, namespaces: &[String]) -> Result<()> {
    let is_ours = namespaces.iter().any(|name| {
        command::run(Command::new("ip").args(["netns", "pids", name]))
            .is_ok_and(|found| found.stdout.lines().any(|line| line == process.to_string()))
    });
    if !is_ours || !is_running(process) {
        return Ok(());
    }
    sys::signal(process, Signal::Terminate)?;
    if wait_until("it ends", || Ok(!is_running(process))).is_err() {
        sys::signal(process, Signal::Kill)?;
    }
    Ok(())
}

/// Whether a process runs; one that has ended but was not waited for has no program any more.
pub(crate) fn is_running(process: u32) -> bool {
    fs::read_link(format!("/proc/{process}/exe")).is_ok()
}

/// Waits for something that must come soon.
pub(crate) fn wait_until(what: &str, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !probe()? {
        if start.elapsed() > LIMIT {
            bail!("not within {LIMIT:?}: {what}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
