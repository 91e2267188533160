//! The servers, and the proxies under test, in a namespace of their own.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lbpersist_tests::{balancer::Balancer, namespace::Namespace};
use tempfile::TempDir;

use super::{
    probe::{self, Probe, Visitor},
    process::{Running, pinned},
    stream,
};
use crate::cpu;

const SERVERS: &str = include_str!("../../http/servers.conf");
const HAPROXY: &str = include_str!("../../http/haproxy.cfg");
const NGINX: &str = include_str!("../../http/nginx.conf");
const LBPERSIST: &str = include_str!("../../http/lbpersist.toml");

/// How long anything may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    Lbpersist,
    Haproxy,
    Nginx,
}

impl System {
    pub(crate) const ALL: [Self; 3] = [Self::Lbpersist, Self::Haproxy, Self::Nginx];

    /// Its name in records.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lbpersist => "lbpersist",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// Where it listens for HTTP/1.1.
    pub(crate) fn http1(self) -> SocketAddr {
        self.at(80)
    }

    /// Where it listens for HTTP/2 without TLS.
    pub(crate) fn http2(self) -> SocketAddr {
        self.at(if self == Self::Lbpersist { 80 } else { 81 })
    }

    /// Where it carries bytes as they are, if it does.
    pub(crate) fn stream(self) -> Option<SocketAddr> {
        match self {
            Self::Lbpersist | Self::Haproxy => Some(self.at(82)),
            // It needs a module that Debian has apart.
            Self::Nginx => None,
        }
    }

    fn at(self, port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(198, 18, 0, self as u8 + 1), port))
    }
}

/// Everything that runs. It ends when this is dropped, proxies first.
pub(crate) struct Site {
    pub(crate) proxies: Vec<Proxy>,
    _servers: Running,
    pub(crate) namespace: Namespace,
    pub(crate) directory: TempDir,
    /// Where clients and servers run, and where proxies do.
    pub(crate) cpus: [usize; 2],
}

/// One proxy.
pub(crate) struct Proxy {
    pub(crate) system: System,
    process: Process,
    /// One for each server.
    pub(crate) visitors: Vec<Visitor>,
    /// Bytes of an answer on a connection that goes on, and on one that ends.
    pub(crate) lengths: [u64; 2],
}

enum Process {
    Ours(Box<Balancer>),
    Other(Running),
}

impl Site {
    /// Starts all, and sees to it that every proxy keeps its clients.
    pub(crate) fn build() -> Result<Self> {
        let cpus = [cpu::first()?, cpu::last()?];
        ensure!(cpus[0] != cpus[1], "one CPU is not enough: clients would measure themselves");
        let namespace = Namespace::create("http")?;
        namespace.ip("addr add 198.18.0.0/24 dev lo\naddr add 198.18.1.0/24 dev lo\n\
             link add name unused0 type veth peer name unused1")?;
        // New connections by the thousands a second must find ports.
        namespace.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
        namespace.sysctl("ipv4/tcp_tw_reuse", "1")?;
        namespace.sysctl("core/somaxconn", "4096")?;
        namespace.sysctl("ipv4/tcp_max_syn_backlog", "4096")?;
        let directory = tempfile::tempdir()?;
        let mut nginx = nginx(cpus[0], directory.path(), "servers", SERVERS)?;
        stream::prepare(&directory.path().join("servers"))?;
        let log = directory.path().join("servers.log");
        let mut servers = Running::start(&namespace, &mut nginx, log)?;
        let at = SocketAddr::from(([198, 18, 1, 1], 8080));
        wait_for(&namespace, at, || servers.must_run()).context("the servers")?;
        let mut site = Self { proxies: Vec::new(), _servers: servers, namespace, directory, cpus };
        for system in System::ALL {
            let proxy = site.start(system).with_context(|| system.name())?;
            site.proxies.push(proxy);
        }
        Ok(site)
    }

    /// Starts a proxy anew, in place of the one that runs.
    pub(crate) fn restart(&mut self, place: usize) -> Result<()> {
        let system = self.proxies.remove(place).system;
        self.proxies.insert(place, self.start(system)?);
        Ok(())
    }

    fn start(&self, system: System) -> Result<Proxy> {
        let mut process = self.launch(system)?;
        wait_for(&self.namespace, system.http1(), || process.must_run())?;
        self.namespace.run(|| {
            let at = system.http1();
            let visitors = probe::visitors(at, SERVERS.matches("return 200").count())?;
            let mut lengths = [0; 2];
            for visitor in &visitors {
                lengths[0] = probe::check(at, visitor, "")?;
                lengths[1] = probe::check(at, visitor, "Connection: close\r\n")?;
            }
            Ok(Proxy { system, process, visitors, lengths })
        })
    }

    fn launch(&self, system: System) -> Result<Process> {
        let (cpu, directory) = (self.cpus[1], self.directory.path());
        let log = directory.join(format!("{}.log", system.name()));
        let mut command = match system {
            System::Lbpersist => {
                let interfaces = ["unused0".to_owned()];
                let mut balancer = Balancer::prepare(&self.namespace, LBPERSIST, &interfaces)?;
                balancer.use_wrapper(&["taskset", "-c", &cpu.to_string()]);
                balancer.restart()?;
                return Ok(Process::Ours(Box::new(balancer)));
            }
            System::Haproxy => {
                let file = directory.join("haproxy.cfg");
                fs::write(&file, HAPROXY)?;
                let mut haproxy = pinned(cpu, "haproxy");
                haproxy.args(["-db", "-q", "-f"]).arg(file);
                haproxy
            }
            System::Nginx => nginx(cpu, directory, "nginx", NGINX)?,
        };
        Ok(Process::Other(Running::start(&self.namespace, &mut command, log)?))
    }
}

impl Proxy {
    /// The number of its process.
    pub(crate) fn id(&self) -> Result<u32> {
        match &self.process {
            Process::Ours(balancer) => balancer.process(),
            Process::Other(running) => Ok(running.id()),
        }
    }
}

impl Process {
    fn must_run(&mut self) -> Result<()> {
        match self {
            Self::Ours(_) => Ok(()),
            Self::Other(running) => running.must_run(),
        }
    }
}

/// An nginx whose files are in a directory of that name.
fn nginx(cpu: usize, directory: &Path, name: &str, configuration: &str) -> Result<Command> {
    let prefix = directory.join(name);
    fs::create_dir_all(&prefix)?;
    let file = prefix.join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut nginx = pinned(cpu, "nginx");
    nginx.arg("-p").arg(prefix).arg("-c").arg(file).args(["-e", "stderr"]);
    Ok(nginx)
}

/// Waits until something listens there.
fn wait_for(
    namespace: &Namespace,
    at: SocketAddr,
    mut must_run: impl FnMut() -> Result<()>,
) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    while let Err(error) = namespace.run(|| Probe::open(at)) {
        must_run()?;
        ensure!(Instant::now() < deadline, "{at} cannot be reached: {error:#}");
        std::thread::sleep(Duration::from_millis(5));
    }
    must_run()
}
