//! The daemon: one task owns the state and brings the kernel in line with it.
//!
//! Health reports and changes of the network come in as events; each burst of them leads to one computation of what the maps
//! should hold and one application of the difference. Between events the sweep does its portions.

mod control;
mod events;
mod import;
mod interfaces;
mod keep;
mod neighbours;
mod notify;
mod nudge;
mod reload;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};

pub use self::import::ENTRIES_AT_ONCE;
use self::{
    control::adopt_by_hand,
    events::{adopted_failures, later, targets},
    notify::Watchdog,
    nudge::Nudger,
    reload::Prepared,
};
use crate::{
    balance::slow_start::Rise,
    clock,
    control::socket::{self, Listener, Request},
    datapath::{
        self, DataPath, carried,
        desired::{Desired, Facts, ServerKey},
        local_ports,
        maps::PinDirectory,
        migrate::Migration,
        nudge::{self as lost, Known},
        object,
        sweep::{Progress, Sweep},
    },
    health::{Checker, Report},
    model::Model,
    network::{self, View, Watcher},
    persistence::entries::Entries,
    proxy::{self, Proxy},
    store::{Kernel, Store},
};

/// What stops the daemon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's half.
    #[error(transparent)]
    DataPath(#[from] datapath::Error),
    /// The network.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// The health checks.
    #[error("cannot begin to check servers: {0}")]
    Health(std::io::Error),
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] socket::Error),
    /// Services of mode `tcp` and `http`.
    #[error(transparent)]
    Proxy(#[from] proxy::Error),
    /// Signals.
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
    /// Another daemon.
    #[error(
        "another lbpersist runs on {0}; stop it first, or give this one a --pin-dir of its own"
    )]
    AlreadyRunning(String),
}

/// Where a daemon keeps its ends.
#[derive(Clone, Debug)]
pub struct Places {
    /// Maps, programs and links.
    pub pins: PinDirectory,
    /// The control socket.
    pub socket: PathBuf,
    /// The configuration file, which is read again when that is asked for.
    pub file: PathBuf,
    /// Interfaces beside those of the configuration.
    pub interfaces: Vec<String>,
}

/// Runs until SIGTERM or SIGINT. What is in the kernel stays there and goes on.
pub async fn run(model: Model, places: &Places) -> Result<(), Error> {
    let (watcher, views) = Watcher::start().await?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let hangup = signal(SignalKind::hangup()).map_err(Error::Signals)?;
    let (report, reports) = mpsc::channel(1_024);

    let (request, requests) = mpsc::channel(16);
    let (prepared, ready) = mpsc::channel(1);
    let sources = Sources { reports, requests, ready, hangup };

    let mut daemon =
        Daemon::start(model, places, watcher, views, report, request, prepared).await?;
    tracing::info!("ready");
    notify::ready();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        result = daemon.serve(sources) => result?,
    }
    notify::stopping();
    tracing::info!(
        "stopping; the kernel goes on forwarding until `lbpersist detach --all` removes it"
    );
    daemon.keep_last();
    daemon.proxy.stop();
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

/// Where events come from, beside the network's views.
struct Sources {
    reports: mpsc::Receiver<Report>,
    requests: mpsc::Receiver<Request>,
    ready: mpsc::Receiver<Option<Prepared>>,
    hangup: Signal,
}

struct Daemon {
    model: Model,
    data_path: DataPath,
    sweep: Sweep,
    watcher: Watcher,
    views: watch::Receiver<Arc<View>>,
    view: View,
    // Ends its checks when dropped.
    checker: Checker,
    failing: BTreeMap<ServerKey, BTreeSet<String>>,
    // Those servers that came up and may not have their whole share of new clients yet.
    rising: BTreeMap<ServerKey, Rise>,
    proxy: Proxy,
    // Where those are kept by address whose connections the proxy carries.
    entries: Arc<dyn Entries>,
    store: Store,
    // What the store was given last.
    kept: Option<Kernel>,
    snapshot_at: Instant,
    snapshot_runs: keep::Running,
    nudger: Nudger,
    looked: HashMap<(u32, IpAddr), Instant>,
    // The indices of the configured interfaces that the program was put on. An interface that is made again has another one.
    attached: BTreeMap<String, u32>,
    // The configuration file, and the interfaces that are meant beside those it names.
    file: PathBuf,
    more_interfaces: Vec<String>,
    // Where a configuration goes that has been prepared; whether one is under way; whether the file has to be read once more then.
    prepared: mpsc::Sender<Option<Prepared>>,
    preparing: bool,
    reload_again: bool,
    // Removes its socket when dropped.
    _listener: Listener,
    _lock: Option<File>,
}

impl Daemon {
    async fn start(
        mut model: Model,
        places: &Places,
        watcher: Watcher,
        views: watch::Receiver<Arc<View>>,
        report: mpsc::Sender<Report>,
        request: mpsc::Sender<Request>,
        prepared: mpsc::Sender<Option<Prepared>>,
    ) -> Result<Self, Error> {
        let pins = &places.pins;
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
        let listener = Listener::start(&places.socket, request)?;
        let migration = Migration::begin(pins, &model.data_path)?;
        if let Some((entries, connections)) = migration.as_ref().map(Migration::counts) {
            tracing::info!(entries, connections, "maps of an older layout are migrated");
        }
        let mut data_path = DataPath::open(pins, &model.data_path)?;
        for warning in object::size_differences(&data_path.maps, &model.data_path)? {
            tracing::warn!("{warning}");
        }
        if let Some(warning) = local_ports::warning(&model, &data_path.maps)? {
            tracing::warn!("{warning}");
        }
        let store = Store::new(&model.daemon.state_dir);
        let restored = keep::restore(&mut data_path, &store)?;
        let is_restored = restored.is_some();
        adopt_by_hand(&mut model, &data_path, restored.unwrap_or_default());
        let failing = adopted_failures(&model, &data_path);
        let mut checker = Checker::start(report).map_err(Error::Health)?;
        checker.set_targets(targets(&model, &failing));
        let proxy = Proxy::new(&model, Box::new(store.clone()));
        let entries = Arc::new(data_path.ledger()?);
        let sweep = Sweep::new(&model.idle_limits, model.data_path.sweep_interval);
        let mut daemon = Self {
            model,
            data_path,
            sweep,
            watcher,
            views,
            view,
            checker,
            failing,
            rising: BTreeMap::new(),
            proxy,
            entries,
            store,
            kept: None,
            snapshot_at: Instant::now(),
            snapshot_runs: keep::Running::default(),
            nudger: Nudger::start(pins.clone()),
            looked: HashMap::new(),
            attached: BTreeMap::new(),
            file: places.file.clone(),
            more_interfaces: places.interfaces.clone(),
            prepared,
            preparing: false,
            reload_again: false,
            _listener: listener,
            _lock: lock,
        };
        daemon.update()?;
        if is_restored {
            daemon.put_back_entries()?;
        }
        daemon.look_for_neighbours().await;
        daemon.attach()?;
        if let Some(migration) = migration {
            let late = migration.finish(&mut daemon.data_path)?;
            tracing::info!(late, "the migration is done");
        }
        Ok(daemon)
    }

    /// Turns events into changes, and sweeps in between. Returns only when something has failed.
    async fn serve(&mut self, sources: Sources) -> Result<(), Error> {
        let Sources { mut reports, mut requests, mut ready, mut hangup } = sources;
        let mut tick = ticks(self.model.data_path.sweep_interval);
        let mut watchdog = Watchdog::from_environment();
        let mut progress = Progress::Rest;
        loop {
            if tick.period() != self.model.data_path.sweep_interval {
                tick = ticks(self.model.data_path.sweep_interval);
            }
            let next_share = self.next_share(Instant::now());
            tokio::select! {
                () = later(next_share) => self.update()?,
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
                Some(request) = requests.recv() => self.take_request(request),
                Some(prepared) = ready.recv() => self.finish(prepared),
                _ = hangup.recv() => self.hang_up(),
                () = watchdog.due() => watchdog.feed(),
                _ = tick.tick() => {
                    self.maintain().await?;
                    progress = Progress::More;
                }
                // Comes last: it is ready only when it is asked for the second time.
                () = tokio::task::yield_now(), if progress == Progress::More => {
                    progress = self.sweep.portion(&mut self.data_path, clock::now_ns())?;
                }
            }
        }
    }

    async fn maintain(&mut self) -> Result<(), Error> {
        for line in self.data_path.object.told() {
            tracing::warn!(target: "lbpersist::kernel", "{line}");
        }
        self.sweep.handshakes(&mut self.data_path, clock::now_ns())?;
        self.data_path.maps.recent_flows.forget_old(clock::now_ns());
        self.proxy.maintain();
        self.maintain_store();
        self.look_for_neighbours().await;
        Ok(())
    }

    /// Brings the maps in line with what is known now.
    fn update(&mut self) -> Result<(), Error> {
        let down = self.down();
        let shares = self.shares(Instant::now());
        let facts = Facts { model: &self.model, down: &down, shares: &shares, view: &self.view };
        let desired = Desired::compute(&facts, &mut self.data_path.identities)
            .map_err(datapath::Error::from)?;
        let identities = &self.data_path.identities;
        let sites = carried::sites(&self.model, &desired, identities, &self.entries);
        let prepared = self.proxy.prepare(&facts, &sites)?;
        let has_lost = lost::has_lost(self.data_path.actual(), &desired);
        let steps = self.data_path.apply(desired)?;
        self.proxy.apply(prepared);
        if has_lost {
            self.nudger.begin(Known::of(self.data_path.actual()));
        }
        if steps > 0 {
            tracing::debug!(steps, "the kernel's maps were changed");
        }
        self.keep();
        Ok(())
    }
}

fn ticks(interval: Duration) -> tokio::time::Interval {
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick
}
