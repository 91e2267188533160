//! Services of mode `tcp` and `http`: clients' connections end here, and each request, or each connection of mode `tcp`,
//! is carried to a server of its own choice.
//!
//! The daemon's task owns a [`Proxy`] and tells it what is configured and who is up. The work is done by worker threads,
//! each with a runtime, listeners and connections of its own: what costs is work that crosses threads. Workers read an
//! immutable snapshot and send nothing back but counters.
//!
//! The way of a request: `worker` accepts, `connection` serves, `guard` and `scan` let pass what has one reading, `http`
//! checks and carries, `choose` names the server, `upstream` has the connection to it, `body` and `exchange` see to the end.

mod access_log;
mod again;
mod alarm;
mod body;
mod choose;
mod connection;
mod counters;
mod exchange;
mod guard;
pub mod headers;
mod http;
mod keep;
pub mod left;
mod load;
pub mod proxy_protocol;
pub mod reason;
mod relay;
pub mod scan;
mod snapshot;
mod splice;
mod stream;
mod taking;
mod tcp;
mod upstream;
mod worker;

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener},
    num::NonZero,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

pub use counters::Counts;

use self::{
    snapshot::{Maker, Snapshot},
    worker::Command,
};
use crate::{
    breaks::Break,
    datapath::desired::Facts,
    model::Model,
    persistence::{entries::Sites, state::Store},
};

/// Connections that wait to be accepted, for each listener.
const BACKLOG: i32 = 4096;

/// Why the proxy cannot do what is configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error("cannot listen on {at} for virtual_service `{service}`: {source}{}", hint(source))]
    Listen {
        /// The address.
        at: SocketAddr,
        /// The service's name.
        service: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is no thread to be had.
    #[error("cannot start a worker of the proxy: {0}")]
    Thread(io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => {
            "; a service of mode `tcp` or `http` needs an address of this machine"
        }
        _ => "",
    }
}

/// What is known of the traffic of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCounts {
    /// The service's name.
    pub name: String,
    /// Its counters since the daemon started.
    #[serde(flatten)]
    pub counts: Counts,
    /// What has happened to the persistence of its clients, by event.
    #[serde(default)]
    pub persistence: BTreeMap<String, u64>,
    /// Requests, or connections of mode `tcp`, of bound clients that met their server.
    pub kept: u64,
    /// Those that met another one, by reason.
    pub breaks: BTreeMap<String, u64>,
}

/// The daemon's end of the workers.
#[derive(Debug)]
pub struct Proxy {
    threads: usize,
    workers: Vec<Handle>,
    maker: Maker,
    listening: BTreeMap<SocketAddr, Arc<str>>,
    stop_timeout: Duration,
}

/// Services and servers as they are to be, with the listeners that are new.
#[derive(Debug)]
pub struct Prepared {
    snapshot: Snapshot,
    wanted: BTreeMap<SocketAddr, Arc<str>>,
    new: Vec<(SocketAddr, TcpListener)>,
    stop_timeout: Duration,
}

#[derive(Debug)]
struct Handle {
    commands: UnboundedSender<Command>,
    thread: JoinHandle<()>,
}

impl Proxy {
    /// A proxy for this configuration, which listens nowhere yet. Its number of threads stays as it is. Keys and names
    /// are kept in `store`.
    pub fn new(model: &Model, store: Box<dyn Store>) -> Self {
        let threads = model
            .proxy
            .threads
            .map_or_else(|| thread::available_parallelism().map_or(1, NonZero::get), usize::from);
        Self {
            threads,
            workers: Vec::new(),
            maker: Maker::new(threads, store),
            listening: BTreeMap::new(),
            stop_timeout: model.proxy.stop_timeout,
        }
    }

    /// Gets ready to bring services and servers in line with what is known now. Nothing changes yet: workers must not use
    /// numbers of servers before the kernel's tables have them.
    ///
    /// # Errors
    /// When an address cannot be listened on or a thread cannot be started.
    pub fn prepare(&mut self, facts: &Facts<'_>, sites: &Sites) -> Result<Prepared, Error> {
        let snapshot = self.maker.make(facts, sites);
        let wanted: BTreeMap<SocketAddr, Arc<str>> =
            snapshot.services.values().map(|s| (s.listen, Arc::clone(&s.name))).collect();
        let mut new = Vec::new();
        for (&at, service) in wanted.iter().filter(|(at, _)| !self.listening.contains_key(at)) {
            for _ in 0..self.threads {
                let listener = listen(at).map_err(|source| Error::Listen {
                    at,
                    service: service.to_string(),
                    source,
                })?;
                new.push((at, listener));
            }
        }
        if !wanted.is_empty() {
            self.start_workers()?;
        }
        Ok(Prepared { snapshot, wanted, new, stop_timeout: facts.model.proxy.stop_timeout })
    }

    /// Does what was prepared. Listeners that stay are not touched.
    pub fn apply(&mut self, prepared: Prepared) {
        let Prepared { snapshot, wanted, new, stop_timeout } = prepared;
        self.stop_timeout = stop_timeout;
        // What a listener takes must be known before it listens.
        self.publish(snapshot);
        let workers = self.workers.iter().cycle();
        for ((at, listener), worker) in new.into_iter().zip(workers) {
            worker.tell(Command::Listen(at, listener));
        }
        for at in self.listening.keys().filter(|at| !wanted.contains_key(at)) {
            self.workers.iter().for_each(|worker| worker.tell(Command::Close(*at)));
        }
        self.listening = wanted;
    }

    /// Does what persistence needs from time to time: keys rotate, and expired entries give their memory back.
    pub fn maintain(&mut self) {
        self.maker.keeper.tick();
    }

    /// What has been counted, by service.
    pub fn counts(&self) -> Vec<ServiceCounts> {
        let counters = self.maker.counters().iter();
        counters
            .map(|(name, counters)| {
                let breaks = self.maker.keeper.breaks().get(&**name);
                ServiceCounts {
                    name: name.to_string(),
                    counts: counters.sum(),
                    persistence: self.maker.keeper.counts(name),
                    kept: breaks.map_or(0, |breaks| breaks.count_kept()),
                    breaks: breaks.map(|breaks| breaks.counts()).unwrap_or_default(),
                }
            })
            .collect()
    }

    /// The last breaks of all services, by service.
    pub fn breaks(&self) -> Vec<Break> {
        let all = self.maker.keeper.breaks().iter();
        all.flat_map(|(service, breaks)| breaks.last(service)).collect()
    }

    /// Ends every worker; requests under way have the time that is configured.
    pub fn stop(self) {
        for worker in &self.workers {
            worker.tell(Command::Stop(self.stop_timeout));
        }
        for worker in self.workers {
            if worker.thread.join().is_err() {
                tracing::error!("a worker of the proxy has panicked");
            }
        }
    }

    fn publish(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        for worker in &self.workers {
            worker.tell(Command::Publish(Arc::clone(&snapshot)));
        }
    }

    fn start_workers(&mut self) -> Result<(), Error> {
        while self.workers.len() < self.threads {
            let number = self.workers.len();
            let (commands, receiver) = unbounded_channel();
            let thread = thread::Builder::new()
                .name(format!("proxy-{number}"))
                .spawn(move || work(number, receiver))
                .map_err(Error::Thread)?;
            self.workers.push(Handle { commands, thread });
        }
        Ok(())
    }
}

impl Handle {
    fn tell(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::error!("a worker of the proxy has ended");
        }
    }
}

fn work(number: usize, commands: UnboundedReceiver<Command>) {
    // It cannot be made elsewhere: it belongs to its thread.
    match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime.block_on(worker::run(number, commands)),
        Err(error) => tracing::error!(%error, "a worker of the proxy cannot start"),
    }
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
