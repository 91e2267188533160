//! The daemon: one task owns the state and brings the kernel in line with it.
//!
//! Health reports and changes of the network come in as events; each burst of them leads to one computation of what the maps
//! should hold and one application of the difference. Between events the sweep does its portions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use lbpersist_common::route::NeighbourKey;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    clock,
    datapath::{
        self, DataPath,
        address::from_map,
        attach::{self, Attached},
        desired::{Desired, Facts, ServerKey},
        maps::PinDirectory,
        object,
        sweep::{Progress, Sweep},
    },
    health::{Checker, Report, Target},
    model::{Model, Pool, Server},
    network::{self, View, Watcher},
};

/// How often the kernel is asked to look again for the neighbours that packets go through.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Neighbours that are remembered after the kernel forgot them.
const REMEMBERED_NEIGHBOURS: usize = 60_000;

/// What stops the daemon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's half.
    #[error(transparent)]
    DataPath(#[from] datapath::Error),
    /// The network.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// Signals.
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
    /// Another daemon.
    #[error(
        "another lbpersist runs on {0}; stop it first, or give this one a --pin-dir of its own"
    )]
    AlreadyRunning(String),
}

/// Runs until SIGTERM or SIGINT. What is in the kernel stays there and goes on.
pub async fn run(model: Model, pins: &PinDirectory) -> Result<(), Error> {
    let (watcher, views) = Watcher::start().await?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let (report, reports) = mpsc::channel(1_024);

    let mut daemon = Daemon::start(model, pins, watcher, views, report).await?;
    tracing::info!("ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        result = daemon.serve(reports) => result?,
    }
    tracing::info!(
        "stopping; the kernel goes on forwarding until `lbpersist detach --all` removes it"
    );
    Ok(())
}

/// Takes the lock that keeps a second daemon off the same maps. It ends with the file.
pub fn lock(pins: &PinDirectory) -> Result<Option<File>, std::io::Error> {
    let directory = File::open(pins.path())?;
    match directory.try_lock() {
        Ok(()) => Ok(Some(directory)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

struct Daemon {
    model: Model,
    data_path: DataPath,
    sweep: Sweep,
    watcher: Watcher,
    views: watch::Receiver<Arc<View>>,
    view: View,
    // Aborts its checks when dropped.
    _checker: Checker,
    failing: BTreeMap<ServerKey, BTreeSet<String>>,
    looked: HashMap<(u32, IpAddr), Instant>,
    // The indices of the configured interfaces that the program was put on. An interface that is made again has another one.
    attached: BTreeMap<String, u32>,
    _lock: Option<File>,
}

impl Daemon {
    async fn start(
        model: Model,
        pins: &PinDirectory,
        watcher: Watcher,
        views: watch::Receiver<Arc<View>>,
        report: mpsc::Sender<Report>,
    ) -> Result<Self, Error> {
        let view = views.borrow().as_ref().clone();
        for interface in &model.interfaces {
            if view.link_by_name(interface).is_none() {
                return Err(datapath::Error::NoInterface(interface.clone()).into());
            }
        }
        object::mount_bpf_file_system(pins);
        object::prepare_directories(pins)?;
        let lock = lock(pins).map_err(|source| datapath::Error::Pin {
            action: "lock",
            path: pins.path().to_owned(),
            source,
        })?;
        if lock.is_none() {
            return Err(Error::AlreadyRunning(pins.path().display().to_string()));
        }
        let data_path = DataPath::open(pins, &model.data_path)?;
        for warning in object::size_differences(&data_path.maps, &model.data_path)? {
            tracing::warn!("{warning}");
        }
        let failing = adopted_failures(&model, &data_path);
        let mut checker = Checker::start(report);
        checker.set_targets(targets(&model, &failing));
        let sweep = Sweep::new(&model.idle_limits, model.data_path.sweep_interval);
        let mut daemon = Self {
            model,
            data_path,
            sweep,
            watcher,
            views,
            view,
            _checker: checker,
            failing,
            looked: HashMap::new(),
            attached: BTreeMap::new(),
            _lock: lock,
        };
        daemon.update()?;
        daemon.look_for_neighbours().await;
        daemon.attach()?;
        Ok(daemon)
    }

    fn attach(&mut self) -> Result<(), Error> {
        // Interfaces that were attached by hand get this program as well.
        let mut names = attach::interfaces(self.data_path.pins())?;
        names.retain(|name| !self.model.interfaces.contains(name));
        names.retain(|name| self.view.link_by_name(name).is_some());
        names.extend(self.model.interfaces.iter().cloned());
        self.attach_to(&names)
    }

    /// Puts the program on configured interfaces that have come back since it was last put on them.
    fn follow_interfaces(&mut self) {
        let view = &self.view;
        self.attached.retain(|name, index| {
            let stays = view.links.get(index).is_some_and(|link| link.name == *name);
            if !stays {
                tracing::warn!(interface = name, "gone; its packets are not balanced");
            }
            stays
        });
        let back: Vec<String> = self
            .model
            .interfaces
            .iter()
            .filter(|name| !self.attached.contains_key(*name) && view.link_by_name(name).is_some())
            .cloned()
            .collect();
        for name in back {
            // One that refuses now is tried again when something else about the network changes.
            if let Err(error) = self.attach_to(std::slice::from_ref(&name)) {
                tracing::warn!(interface = name, %error, "cannot attach again");
            }
        }
    }

    fn attach_to(&mut self, names: &[String]) -> Result<(), Error> {
        let pins = self.data_path.pins().clone();
        let program = self.data_path.object.program()?;
        let done = attach::attach_all(program, &pins, &self.view, names)?;
        for (name, done) in names.iter().zip(done) {
            if let Some((index, _)) = self.view.link_by_name(name)
                && self.model.interfaces.contains(name)
            {
                self.attached.insert(name.clone(), index);
            }
            match done {
                Attached::Native => tracing::info!(interface = name, "attached in the driver"),
                Attached::Generic => tracing::warn!(
                    interface = name,
                    "attached in the stack (generic XDP): the driver has no XDP or not at this MTU; this is slower"
                ),
                Attached::Replaced => {
                    tracing::info!(interface = name, "replaced the program that was attached");
                }
            }
        }
        Ok(())
    }

    /// Turns events into changes, and sweeps in between. Returns only when something has failed.
    async fn serve(&mut self, mut reports: mpsc::Receiver<Report>) -> Result<(), Error> {
        let mut tick = tokio::time::interval(self.model.data_path.sweep_interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = self.views.changed() => {
                    changed.map_err(|_| network::Error::Closed)?;
                    self.take_view();
                    self.follow_interfaces();
                    self.update()?;
                    self.look_for_neighbours().await;
                }
                Some(report) = reports.recv() => {
                    let mut changed = self.take_report(report);
                    while let Ok(report) = reports.try_recv() {
                        changed |= self.take_report(report);
                    }
                    if changed {
                        self.update()?;
                    }
                }
                _ = tick.tick() => self.maintain().await?,
            }
        }
    }

    async fn maintain(&mut self) -> Result<(), Error> {
        self.sweep.handshakes(&mut self.data_path, clock::now_ns())?;
        while self.sweep.portion(&mut self.data_path, clock::now_ns())? == Progress::More {
            tokio::task::yield_now().await;
        }
        self.look_for_neighbours().await;
        Ok(())
    }

    /// Brings the maps in line with what is known now.
    fn update(&mut self) -> Result<(), Error> {
        let down: BTreeSet<ServerKey> = self.failing.keys().cloned().collect();
        let facts = Facts { model: &self.model, down: &down, view: &self.view };
        let desired = Desired::compute(&facts, &mut self.data_path.identities)
            .map_err(datapath::Error::from)?;
        let steps = self.data_path.apply(desired)?;
        if steps > 0 {
            tracing::debug!(steps, "the kernel's maps were changed");
        }
        Ok(())
    }

    /// Takes the newest view. Neighbours that the kernel has forgotten are remembered: a packet to where one was is better than
    /// a packet to nowhere, and the kernel forgets those that XDP alone talks to.
    fn take_view(&mut self) {
        let mut view = self.views.borrow_and_update().as_ref().clone();
        for (key, mac) in std::mem::take(&mut self.view.neighbours) {
            if view.neighbours.len() >= REMEMBERED_NEIGHBOURS {
                break;
            }
            if view.links.contains_key(&key.0) {
                view.neighbours.entry(key).or_insert(mac);
            }
        }
        self.view = view;
    }

    /// Says whether a server came up or went down by it.
    fn take_report(&mut self, report: Report) -> bool {
        let key = (report.pool, report.server, report.port);
        let known = self.model.pools.get(&key.0).is_some_and(|pool| {
            pool.servers.iter().any(|server| (server.address, server.port) == (key.1, key.2))
        });
        if !known {
            return false;
        }
        let was_up = !self.failing.contains_key(&key);
        let (pool, server) = (key.0.clone(), key.1);
        if report.up {
            if let Some(monitors) = self.failing.get_mut(&key) {
                monitors.remove(&report.monitor);
                if monitors.is_empty() {
                    self.failing.remove(&key);
                }
            }
        } else {
            self.failing.entry(key.clone()).or_default().insert(report.monitor.clone());
        }
        let is_up = !self.failing.contains_key(&key);
        match (was_up, is_up, report.error) {
            (true, false, error) => {
                let error = error.unwrap_or_default();
                tracing::warn!(pool, %server, monitor = report.monitor, error, "server is down");
            }
            (false, true, _) => tracing::info!(pool, %server, "server is up"),
            (_, _, Some(error)) => {
                tracing::info!(pool, %server, monitor = report.monitor, error, "a check failed");
            }
            _ => {}
        }
        was_up != is_up
    }

    /// Asks the kernel to look for the neighbours that packets need, so that it knows them and notices when they change.
    async fn look_for_neighbours(&mut self) {
        let now = Instant::now();
        let wanted = self.wanted_neighbours();
        self.looked.retain(|key, _| wanted.contains(key));
        for (interface, neighbour) in wanted {
            let recently = self
                .looked
                .get(&(interface, neighbour))
                .is_some_and(|at| now.duration_since(*at) < LOOK_EVERY);
            if recently {
                continue;
            }
            self.looked.insert((interface, neighbour), now);
            if let Err(error) = self.watcher.resolve(interface, neighbour).await {
                tracing::debug!(interface, %neighbour, %error, "cannot look for a neighbour");
            }
        }
    }

    /// The servers' next hops, gateways, and the clients that answers could not be sent to.
    fn wanted_neighbours(&mut self) -> BTreeSet<(u32, IpAddr)> {
        let mut wanted = self.view.unresolved_gateways();
        for (prefix, target) in self.view.best_routes() {
            if let network::RouteTarget::Gateway { interface, gateway, .. } = target
                && prefix.prefix_len() < prefix.max_prefix_len()
            {
                wanted.insert((interface, gateway));
            }
        }
        let servers = self.model.pools.values().flat_map(|pool| &pool.servers);
        wanted.extend(servers.filter_map(|server| self.view.neighbour_towards(server.address)));
        let clients: Vec<(NeighbourKey, u64)> =
            self.data_path.maps.wanted.all().unwrap_or_default();
        for (key, _) in clients {
            wanted.insert((key.interface, from_map(key.address)));
            if let Err(error) = self.data_path.maps.wanted.remove(&key) {
                tracing::debug!(%error, "cannot clear a wanted neighbour");
            }
        }
        wanted
    }
}

/// The servers that an earlier daemon left marked as down: they stay so until their monitors say otherwise.
fn adopted_failures(model: &Model, data_path: &DataPath) -> BTreeMap<ServerKey, BTreeSet<String>> {
    let mut failing = BTreeMap::new();
    for pool in model.pools.values().filter(|pool| !pool.health_monitors.is_empty()) {
        let Some(known) = data_path.identities.pools.get(&pool.name) else { continue };
        for server in &pool.servers {
            let identity = datapath::desired::server_identity(known.number, server);
            let was_down = data_path
                .identities
                .servers
                .get(&identity)
                .and_then(|known| data_path.actual().servers.get(&u32::from(known.number)))
                .is_some_and(|server| server.state == lbpersist_common::server::state::DOWN);
            if was_down {
                let monitors =
                    pool.health_monitors.iter().map(|monitor| monitor.name.clone()).collect();
                failing.insert((pool.name.clone(), server.address, server.port), monitors);
            }
        }
    }
    failing
}

/// Whom to check, and how.
fn targets(model: &Model, failing: &BTreeMap<ServerKey, BTreeSet<String>>) -> Vec<Target> {
    let mut targets = Vec::new();
    for pool in model.pools.values() {
        for server in &pool.servers {
            for monitor in &pool.health_monitors {
                let Some(port) = monitor.port.or(server.port).or_else(|| first_port(model, pool))
                else {
                    continue;
                };
                targets.push(Target {
                    pool: pool.name.clone(),
                    server: server.address,
                    port: server.port,
                    address: SocketAddr::new(server.address, port),
                    monitor: monitor.clone(),
                    initially_up: !is_failing(failing, pool, server, &monitor.name),
                });
            }
        }
    }
    targets
}

fn is_failing(
    failing: &BTreeMap<ServerKey, BTreeSet<String>>,
    pool: &Pool,
    server: &Server,
    monitor: &str,
) -> bool {
    failing
        .get(&(pool.name.clone(), server.address, server.port))
        .is_some_and(|monitors| monitors.contains(monitor))
}

/// The port of a pool whose servers have none of their own: that of its first service.
fn first_port(model: &Model, pool: &Pool) -> Option<u16> {
    model.services.values().find(|service| service.pool == pool.name).map(|service| service.port)
}
