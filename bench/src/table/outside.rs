//! The daemon as others see it: by /proc, and over its socket.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lbpersist::control::{Action, client};
use lbpersist_tests::balancer::Balancer;

use super::us;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(60);
/// A daemon is at rest when it has used hardly anything for so long.
const REST: Duration = Duration::from_secs(1);
/// Of the clock of /proc: USER_HZ is 100 on every machine this runs on.
const TICK: Duration = Duration::from_millis(10);

/// A running daemon.
pub(crate) struct Outside {
    process: u32,
    socket: PathBuf,
}

/// Memory that is resident, in kB.
pub(crate) struct Resident {
    pub(crate) now: i64,
    pub(crate) most: i64,
}

impl Outside {
    pub(crate) fn of(balancer: &Balancer) -> Result<Self> {
        Ok(Self { process: balancer.process()?, socket: balancer.socket() })
    }

    /// Waits until the daemon has done what a start brings.
    pub(crate) fn settle(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let before = self.cpu()?;
            thread::sleep(REST);
            if self.cpu()? - before <= 2 * TICK {
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "the daemon does not come to rest");
        }
    }

    /// CPU time of all its threads so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process))?;
        ticks(&stat).map(|ticks| TICK * ticks).context("an unreadable /proc/PID/stat")
    }

    /// Its memory now, and the most that it ever was.
    pub(crate) fn resident(&self) -> Result<Resident> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process))?;
        let of = |name: &str| kilobytes(&status, name).with_context(|| format!("no {name}"));
        Ok(Resident { now: of("VmRSS:")?, most: of("VmHWM:")? })
    }

    /// Asks, again and again while `work` is done, what the task that owns the state answers; how long each took, in microseconds.
    pub(crate) fn ask_while(&self, work: impl FnOnce() -> Result<()>) -> Result<Vec<i64>> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let asking = scope.spawn(|| -> Result<Vec<i64>> {
                let mut waits = Vec::new();
                let question = Action::ServerList { pool: None, search: None };
                while !done.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    client::ask_within(&self.socket, &question, PATIENCE)?;
                    waits.push(us(begin.elapsed()));
                    thread::sleep(PAUSE);
                }
                Ok(waits)
            });
            let worked = work();
            done.store(true, Ordering::Relaxed);
            let waits = asking.join().expect("asking does not panic");
            worked.and(waits)
        })
    }
}

/// User and system time of a line of /proc/PID/stat.
fn ticks(stat: &str) -> Option<u32> {
    // The name of the program may have spaces and parentheses; state follows the last one.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let [user, system] = [11, 12].map(|at| fields.get(at)?.parse::<u32>().ok());
    user?.checked_add(system?)
}

fn kilobytes(status: &str, name: &str) -> Option<i64> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))?
        .trim()
        .strip_suffix(" kB")?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_read() {
        let stat = "7 (a) b)) S 1 7 7 0 -1 4194560 990 0 0 0 25 17 0 0 20 0 4 0 99 1 2";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a"), None);
        let status = "Name:\ta\nVmHWM:\t  9000 kB\nVmRSS:\t  8000 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:"), Some(8_000));
        assert_eq!(kilobytes(status, "VmSwap:"), None);
    }
}
