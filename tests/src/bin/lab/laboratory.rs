//! The laboratory: its namespaces, its processes, its files. It can outlive the process that made it, so what is needed to remove
//! it stands in a directory of its own.

use std::{
    env,
    fs::{self, File},
    net::IpAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use lbpersist_tests::{
    balancer,
    command::{self, Finished},
    namespace::{self, Namespace},
    topology::{Client, Family, Host, Topology, Wiring},
};

use crate::{
    configuration::configuration,
    files::{Files, end, is_running, wait_until},
};

const CLIENTS: u8 = 2;
const SERVERS: u8 = 3;
/// Where the servers listen.
pub(crate) const SERVER_PORT: u16 = 8080;

/// A laboratory that is up.
pub(crate) struct Laboratory {
    pub(crate) topology: Topology,
    name: String,
    files: Files,
}

impl Laboratory {
    /// Makes namespaces, servers and the daemon. What an earlier process of the same name left behind goes first, unless it was
    /// meant to stay.
    pub(crate) fn up(name: &str) -> Result<Self> {
        check_name(name)?;
        let files = Files::of(name);
        if files.directory.exists() || !namespace::names_of(name).is_empty() {
            ensure!(
                !files.is_in_use(),
                "a laboratory named {name} is up: `{} down --name {name}` removes it",
                this_program()?.display()
            );
            Self::down(name)?;
        }
        balancer::mount_bpf_file_system()?;
        fs::create_dir_all(&files.directory)?;
        fs::write(files.owner(), std::process::id().to_string())?;
        let made = Self::make(name, files);
        if made.is_err() {
            Self::down(name)?;
        }
        made
    }

    /// Ends the processes of a laboratory and removes all that belongs to it.
    pub(crate) fn down(name: &str) -> Result<()> {
        check_name(name)?;
        let files = Files::of(name);
        let namespaces = namespace::names_of(name);
        ensure!(
            files.directory.exists() || !namespaces.is_empty(),
            "there is no laboratory named {name}"
        );
        for (_, process) in files.processes() {
            end(process, &namespaces)?;
        }
        if files.pins.exists() {
            // Without the binary, removing the pins alone detaches as well.
            let detached = balancer::binary().and_then(|binary| {
                command::run(
                    Command::new(binary)
                        .args(["--pin-dir"])
                        .arg(&files.pins)
                        .args(["detach", "--all"]),
                )
            });
            drop(detached);
            if files.pins.exists() {
                fs::remove_dir_all(&files.pins)?;
            }
        }
        namespaces.iter().for_each(|name| namespace::remove(name));
        if files.directory.exists() {
            fs::remove_dir_all(&files.directory)?;
        }
        Ok(())
    }

    /// Leaves the laboratory for whoever wants to play.
    pub(crate) fn keep(&self) -> Result<()> {
        Ok(fs::write(self.files.owner(), "kept")?)
    }

    /// The configuration file.
    pub(crate) fn configuration_file(&self) -> PathBuf {
        self.files.directory.join("lbpersist.toml")
    }

    /// Where the map of entries is pinned.
    pub(crate) fn entries_pin(&self) -> PathBuf {
        self.files.pins.join("maps/entries")
    }

    /// What the daemon has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.files.log()).unwrap_or_default()
    }

    /// Runs a command of lbpersist.
    pub(crate) fn lbpersist(&self, arguments: &[&str]) -> Result<Finished> {
        let mut lbpersist = self.command()?;
        lbpersist.args(arguments);
        self.topology.balancer.run(|| command::run(&mut lbpersist))
    }

    /// What curl gets from the service, from an address of a client: the server's name.
    pub(crate) fn curl(&self, client: &Client, from: IpAddr, family: Family) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "5", "--interface"]);
        curl.arg(from.to_string()).arg(url(family));
        let answer = client.namespace.run(|| command::run(&mut curl))?.success()?;
        Ok(answer.split_whitespace().next().unwrap_or_default().to_owned())
    }

    /// Starts the server of a host; its port is open when this returns.
    pub(crate) fn start_server(&self, host: &Host) -> Result<()> {
        let mut serve = Command::new(this_program()?);
        serve.args(["serve", &host.name(), "--port", &SERVER_PORT.to_string()]);
        for address in Family::BOTH.map(|family| host.address(family)) {
            serve.args(["--address", &address.to_string()]);
        }
        let log = self.files.directory.join(format!("{}.log", host.name()));
        let process = self.start(&host.namespace, serve, &host.name(), &log)?;
        let mut sockets = Command::new("ss");
        sockets.args(["-N", host.namespace.name(), "-Hltn"]);
        wait_until(&format!("{} listens", host.name()), || {
            ensure!(is_running(process), "{} ended: {}", host.name(), fs::read_to_string(&log)?);
            let listening = command::run(&mut sockets)?.success()?;
            Ok(listening.lines().count() == Family::BOTH.len())
        })
    }

    /// Ends the server of a host, and with it its listening sockets and connections.
    pub(crate) fn stop_server(&self, host: &Host) -> Result<()> {
        let process = self.process(&host.name()).context("the server has no process")?;
        end(process, &[host.namespace.name().to_owned()])
    }

    /// How to play with it, as commands to copy.
    pub(crate) fn how_to_play(&self) -> String {
        let enter = |namespace: &Namespace| format!("nsenter --net={}", namespace.path().display());
        let binary = balancer::binary().unwrap_or_else(|_| "lbpersist".into());
        let lbpersist = format!("{} {}", enter(&self.topology.balancer), binary.display());
        let client = enter(&self.topology.clients[0].namespace);
        let other = self.topology.clients[0].address_in(Family::V4, 1, 7);
        let pids: Vec<_> = self
            .topology
            .servers
            .iter()
            .map(|host| format!("{} is {}", host.name(), self.process(&host.name()).unwrap_or(0)))
            .collect();
        format!(
            "\
The laboratory is up. First, for the commands of lbpersist:
   export LBPERSIST_PIN_DIR={pins}
A client asks; again, from another of its addresses; and over IPv6:
   {client} curl {url4}
   {client} curl --interface {other} {url4}
   {client} curl '{url6}'
What lbpersist keeps, how it is, and how to forget a client:
   {lbpersist} persistence list
   {lbpersist} status
   {lbpersist} persistence flush --client {other}
   bpftool map dump pinned {entries}
To see a client switch, kill its server's process ({pids}).
Configuration and log are in {directory}.
To remove it all:
   {this} down --name {name}",
            pins = self.files.pins.display(),
            url4 = url(Family::V4),
            url6 = url(Family::V6),
            entries = self.entries_pin().display(),
            pids = pids.join(", "),
            directory = self.files.directory.display(),
            this = this_program().unwrap_or_else(|_| "lab".into()).display(),
            name = self.name,
        )
    }

    fn make(name: &str, files: Files) -> Result<Self> {
        let naming = |role: &str| Namespace::create_named(&format!("lbp-{name}-{role}"));
        let topology = Topology::with_namespaces(Wiring::Routed, CLIENTS, SERVERS, &naming)?;
        // From here on `down` removes them, whichever process calls it.
        topology.keep();
        let laboratory = Self { topology, name: name.to_owned(), files };
        for host in &laboratory.topology.servers {
            laboratory.start_server(host)?;
        }
        let state = laboratory.files.directory.join("state");
        let text = configuration(&laboratory.topology, &state);
        fs::write(laboratory.configuration_file(), text)?;
        laboratory.start_daemon()?;
        Ok(laboratory)
    }

    fn start_daemon(&self) -> Result<()> {
        let mut daemon = self.command()?;
        daemon.args(["run", "--config"]).arg(self.configuration_file());
        let process =
            self.start(&self.topology.balancer, daemon, "lbpersist", &self.files.log())?;
        wait_until("lbpersist is ready", || {
            let log = self.log();
            ensure!(is_running(process), "lbpersist ended: {log}");
            Ok(log.lines().any(|line| line.contains("ready")))
        })
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(balancer::binary()?);
        command.env("LBPERSIST_PIN_DIR", &self.files.pins);
        Ok(command)
    }

    /// Starts a process that this one need not outlive, and notes it for [`Self::down`].
    fn start(
        &self,
        namespace: &Namespace,
        mut command: Command,
        role: &str,
        log: &Path,
    ) -> Result<u32> {
        let output = File::create(log)?;
        command.stdin(Stdio::null()).stdout(Stdio::from(output.try_clone()?)).stderr(output);
        // Ctrl-C is meant for the demo only.
        command.process_group(0);
        let process = namespace
            .run(|| command.spawn())
            .with_context(|| format!("{role} could not be started"))?
            .id();
        self.files.note(role, process)?;
        Ok(process)
    }

    /// The process of a role that was started last.
    fn process(&self, role: &str) -> Option<u32> {
        let processes = self.files.processes();
        processes.into_iter().rev().find(|(name, _)| name == role).map(|(_, process)| process)
    }
}

/// The service as a web address.
fn url(family: Family) -> String {
    match family.service_address() {
        IpAddr::V4(address) => format!("http://{address}/"),
        IpAddr::V6(address) => format!("http://[{address}]/"),
    }
}

/// Names go into those of namespaces and files, and must not look like the number of a process.
fn check_name(name: &str) -> Result<()> {
    let fits = name.len() <= 16
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit());
    ensure!(fits, "{name:?} is no name for a laboratory: up to 16 lower-case letters and digits");
    Ok(())
}

fn this_program() -> Result<PathBuf> {
    env::current_exe().context("the path of this program")
}
