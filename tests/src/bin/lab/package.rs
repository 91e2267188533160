//! A Debian package meets a clean system: a small Debian in a directory, in which it is installed, used, removed and purged.
//!
//! Only what the package brings runs in there, by `chroot`; its network is a topology of namespaces. There is no service manager:
//! what the unit says is left to the tests that stand for one.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use lbpersist_tests::{
    command::{self, Finished},
    scenario::{SERVER_PORTS, Web, at},
    sys::{self, Signal},
    topology::{Family, Topology, Wiring},
};

use crate::{
    files::wait_until,
    report::{Report, Seen},
};

/// How long a Debian may take to be fetched and unpacked.
const BOOTSTRAP_LIMIT: Duration = Duration::from_secs(15 * 60);
const STEP_LIMIT: Duration = Duration::from_secs(5 * 60);

/// What dpkg writes about packages that were there once.
const RECORDS: [&str; 3] = ["var/lib/dpkg", "var/log", "var/cache/debconf"];

/// Programs that would be needed to build something.
const COMPILERS: [&str; 6] = ["cc", "gcc", "clang", "rustc", "cargo", "ld"];

/// Tries a package, and says with the exit code whether all was seen.
pub(crate) fn run(package: &Path) -> Result<ExitCode> {
    let mut report = Report::new();
    report.step("A clean Debian");
    let system = System::fetch()?;
    let compilers = COMPILERS.iter().filter(|name| system.has(name)).count();
    report.claim(compilers == 0, "there is no compiler in it");
    fs::copy(package, system.path("tmp/lbpersist.deb"))?;
    let before = system.files()?;
    installed(&system, &mut report)?;
    used(&system, &mut report)?;
    gone(&system, &before, &mut report)?;
    Ok(match report.conclude() {
        Seen::Yes => ExitCode::SUCCESS,
        Seen::No => ExitCode::FAILURE,
    })
}

fn installed(system: &System, report: &mut Report) -> Result<()> {
    report.step("dpkg --install");
    report.text(&system.run(&["dpkg", "--install", "/tmp/lbpersist.deb"])?.success()?);
    report.claim(true, "it needs nothing that a minimal Debian lacks");
    let version = system.run(&["lbpersist", "--version"])?.success()?;
    report.claim(version.starts_with("lbpersist 0."), format!("it runs: {}", version.trim()));
    let configuration = "/etc/lbpersist/lbpersist.toml";
    let check = system.run(&["lbpersist", "check", "--config", configuration])?;
    report.claim(check.code == Some(0), "its own configuration passes `lbpersist check`");
    let enabled = system.path("etc/systemd/system/multi-user.target.wants/lbpersist.service");
    report.claim(!enabled.exists(), "the service waits to be enabled");
    Ok(())
}

fn used(system: &System, report: &mut Report) -> Result<()> {
    report.step("A client, the package's daemon, and two servers");
    let topology = Topology::new(Wiring::Routed, 1, 2)?;
    let _servers = topology.start_servers(&SERVER_PORTS, &[])?;
    let configuration = Web::default().config(&topology.servers).to_string();
    fs::write(system.path("etc/lbpersist/lbpersist.toml"), configuration)?;
    let mut daemon = Daemon::start(system, &topology)?;
    wait_until("every server is up", || {
        let servers = system.run(&["lbpersist", "server", "list", "-o", "json"])?.stdout;
        Ok(servers.matches("\"up\"").count() == 4)
    })?;
    report.claim(true, "the daemon is ready, and its monitor finds every server up");
    let client = &topology.clients[0];
    let mut met = Vec::new();
    for number in 0..20 {
        let from = client.address_in(Family::V4, number % 5, 7).to_string();
        let url = format!("http://{}/", at(Family::V4));
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "10", "--interface", &from, &url]);
        let answer = client.namespace.run(|| command::run(&mut curl))?.success()?;
        met.push(answer.split_whitespace().next().unwrap_or_default().to_owned());
    }
    let kept = met.iter().skip(5).zip(&met).all(|(later, before)| later == before);
    report.claim(kept, "five clients come four times, and meet their server each time (curl)");
    let entries = system.run(&["lbpersist", "persistence", "list"])?.success()?;
    report.text(&entries);
    daemon.stop()?;
    report.claim(
        system.path("sys/fs/bpf/lbpersist/maps/entries").exists(),
        "after SIGTERM the kernel still has its tables",
    );
    report.step("dpkg --remove");
    system.run(&["dpkg", "--remove", "lbpersist"])?.success()?;
    report.claim(!system.path("sys/fs/bpf/lbpersist").exists(), "no pin is left");
    let links = topology.balancer.run(|| command::run(Command::new("ip").args(["-d", "link"])))?;
    report.claim(!links.success()?.contains("xdp"), "no program is left on an interface");
    report.claim(!system.has("lbpersist"), "the program is gone");
    let configuration = system.path("etc/lbpersist/lbpersist.toml").exists();
    report.claim(configuration, "the configuration is still there");
    Ok(())
}

fn gone(system: &System, before: &BTreeSet<String>, report: &mut Report) -> Result<()> {
    report.step("dpkg --purge");
    system.run(&["dpkg", "--purge", "lbpersist"])?.success()?;
    let left = leftovers(before, &system.files()?);
    report.text(&left.join("\n"));
    report.claim(left.is_empty(), "every file is gone, but for what dpkg notes of its own work");
    Ok(())
}

/// What has come and is no record of dpkg's.
fn leftovers(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    let is_record = |path: &str| RECORDS.iter().any(|record| Path::new(path).starts_with(record));
    after.difference(before).filter(|path| !is_record(path)).cloned().collect()
}

/// A small Debian in a directory that goes with it. Fields are in the order in which they have to go.
struct System {
    mounts: Mounts,
    directory: tempfile::TempDir,
}

impl System {
    /// Fetches the release that runs here.
    fn fetch() -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release")?;
        let suite = codename(&release).context("this is no release of Debian")?;
        let directory = tempfile::tempdir()?;
        let mut fetch = Command::new("debootstrap");
        fetch.args(["--variant=minbase", suite]).arg(directory.path());
        println!("   (debootstrap fetches {suite})");
        command::run_within(&mut fetch, BOOTSTRAP_LIMIT)?.success()?;
        let mut system = Self { mounts: Mounts::default(), directory };
        for (kind, to) in [("proc", "proc"), ("sysfs", "sys"), ("bpf", "sys/fs/bpf")] {
            let to = system.path(to);
            system.mounts.add(kind, to)?;
        }
        Ok(system)
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.directory.path().join(inside)
    }

    /// A command of the system, without anything of this one's environment.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.arg(self.directory.path()).args(words).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        command.env("DEBIAN_FRONTEND", "noninteractive").env("NO_COLOR", "1");
        command
    }

    fn run(&self, words: &[&str]) -> Result<Finished> {
        command::run_within(&mut self.command(words), STEP_LIMIT)
    }

    fn has(&self, program: &str) -> bool {
        ["usr/bin", "usr/sbin", "usr/local/bin"]
            .iter()
            .any(|it| self.path(it).join(program).exists())
    }

    /// Every path on its own file system.
    fn files(&self) -> Result<BTreeSet<String>> {
        let mut find = Command::new("find");
        find.arg(self.directory.path()).args(["-xdev", "-printf", "%P\\n"]);
        Ok(command::run(&mut find)?.success()?.lines().map(str::to_owned).collect())
    }
}

fn codename(release: &str) -> Option<&str> {
    release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))
}

/// Mounts that end with it, the last one first.
#[derive(Default)]
struct Mounts(Vec<PathBuf>);

impl Mounts {
    fn add(&mut self, kind: &str, to: PathBuf) -> Result<()> {
        command::run(Command::new("mount").args(["-t", kind, kind]).arg(&to))?.success()?;
        self.0.push(to);
        Ok(())
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for mounted in self.0.iter().rev() {
            // What is still in use goes when it is not any more. There is nobody left to tell of errors.
            let _ = command::run(Command::new("umount").arg("--lazy").arg(mounted));
        }
    }
}

/// The package's daemon.
struct Daemon {
    process: Child,
    _log: tempfile::TempDir,
}

impl Daemon {
    /// Starts it in the balancer's namespace and waits until it is ready.
    fn start(system: &System, topology: &Topology) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // Outside, or it would be found among what is left.
        let log = directory.path().join("lbpersist.log");
        let mut command = system.command(&["lbpersist", "run"]);
        command.args(["--config", "/etc/lbpersist/lbpersist.toml"]);
        for interface in &topology.interfaces {
            command.args(["--interface", interface]);
        }
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(Stdio::from(file.try_clone()?)).stderr(file);
        let daemon = Self { process: topology.balancer.run(|| command.spawn())?, _log: directory };
        let text = || -> Result<String> { Ok(fs::read_to_string(&log)?) };
        wait_until("the daemon is ready", || Ok(text()?.contains("ready")))
            .with_context(|| text().unwrap_or_default())?;
        Ok(daemon)
    }

    fn stop(&mut self) -> Result<()> {
        sys::signal(self.process.id(), Signal::Terminate)?;
        let status = self.process.wait()?;
        anyhow::ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After `stop` there is nothing left to kill.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_came_and_is_no_record() {
        let set = |paths: &[&str]| paths.iter().map(|&path| path.to_owned()).collect();
        let before = set(&["etc", "usr/bin/sh"]);
        let after =
            set(&["etc", "etc/lbpersist", "var/lib/dpkg/status-old", "var/lib/dpkgs", "var/log/a"]);
        assert_eq!(leftovers(&before, &after), ["etc/lbpersist", "var/lib/dpkgs"]);
    }

    #[test]
    fn the_release_is_the_one_that_runs_here() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
        assert_eq!(codename("ID=other\n"), None);
    }
}
