//! Programs beside us: each stays on one CPU, and ends with whoever started it.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lbpersist_tests::{
    command,
    namespace::Namespace,
    sys::{self, Signal},
};

/// How long a program may take to end once it is told to.
const PATIENCE: Duration = Duration::from_secs(5);

/// A program that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a program; what it says goes to `log`.
    pub(crate) fn start(
        namespace: &Namespace,
        command: &mut Command,
        log: PathBuf,
    ) -> Result<Self> {
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = namespace.run(|| command.spawn());
        let told = || format!("{} cannot be started", command.get_program().display());
        Ok(Self { child: child.with_context(told)?, log })
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with what it has said, if it has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("it ended with {status}: {}", self.said()),
        }
    }

    /// What it says in all, if it ends well and in time.
    pub(crate) fn output(mut self, within: Duration) -> Result<String> {
        let status = command::wait_for(&mut self.child, within)?;
        let status = status.with_context(|| format!("it has not ended: {}", self.said()))?;
        ensure!(status.success(), "it ended with {status}: {}", self.said());
        Ok(self.said())
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // There is nobody left to tell of errors.
        let _ = sys::signal(self.id(), Signal::Terminate);
        if !matches!(command::wait_for(&mut self.child, PATIENCE), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A program that stays on one CPU.
pub(crate) fn pinned(cpu: usize, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &cpu.to_string(), program]);
    command
}

/// The CPU time that the threads of a process have used so far, in nanoseconds, as the scheduler counts it.
pub(crate) fn cpu_ns(process: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end while this looks.
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0);
    }
    ensure!(sum > 0, "process {process} has used no time");
    Ok(sum)
}

/// How many bytes of a process are in memory.
pub(crate) fn resident(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kilobytes.context("how much memory a process uses")? * 1024)
}
