//! The checking of many targets: one thread, one task a target, and a bound on how many checks run at a time.

use std::{collections::BTreeMap, io, sync::Arc, thread, time::Duration};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Board, Judge, Key, Report, Target,
    probe::{Fault, Probe, Tools, tls::Clients},
    schedule::Jitter,
};

/// Up to so many targets that are new at the same moment are checked at once; more are spread over a while.
const AT_ONCE: usize = 16;
/// The longest while over which first checks are spread.
const SPREAD: Duration = Duration::from_secs(1);

/// Checks a changing set of targets until it is dropped.
///
/// It has a thread and a runtime of its own, so that neither a long computation of the daemon makes answers look late nor
/// handshakes of thousands of checks hold up the daemon.
#[derive(Debug)]
pub struct Checker {
    // Taken when the thread is to end.
    orders: Option<mpsc::UnboundedSender<Vec<Target>>>,
    thread: Option<thread::JoinHandle<()>>,
    board: Board,
}

impl Checker {
    /// A checker without targets. When nobody takes its reports, checks wait; when the receiver is gone, they end.
    ///
    /// # Errors
    ///
    /// When this machine has no thread or no descriptors left.
    pub fn start(report: mpsc::Sender<Report>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, mut ordered) = mpsc::unbounded_channel::<Vec<Target>>();
        let board = Board::default();
        let mut crew = Crew::new(report, board.clone());
        let thread = thread::Builder::new().name("health".to_owned()).spawn(move || {
            runtime.block_on(async {
                while let Some(targets) = ordered.recv().await {
                    crew.set_targets(targets);
                }
            });
        })?;
        Ok(Self { orders: Some(orders), thread: Some(thread), board })
    }

    /// Makes these the targets. Those that are checked already, and in the same way, go on and keep what their judge has
    /// heard, whatever `initially_up` says now; others begin, or end. Of targets that cannot be told apart the last counts.
    ///
    /// It takes effect soon after. A report that was sent before a target ended may still be waiting in the channel.
    pub fn set_targets(&mut self, targets: Vec<Target>) {
        if let Some(orders) = &self.orders {
            // The thread takes orders for as long as there is a sender.
            let _ = orders.send(targets);
        }
    }

    /// Where to look for the state of each target.
    pub fn board(&self) -> &Board {
        &self.board
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed.
            let _ = thread.join();
        }
    }
}

/// The tasks, within the runtime.
struct Crew {
    shared: Arc<Shared>,
    running: BTreeMap<Key, Running>,
}

/// What all tasks use.
struct Shared {
    report: mpsc::Sender<Report>,
    board: Board,
    tools: Tools,
}

/// The task of a target.
struct Running {
    target: Arc<Target>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Crew {
    fn new(report: mpsc::Sender<Report>, board: Board) -> Self {
        let shared = Shared { report, board, tools: Tools::default() };
        Self { shared: Arc::new(shared), running: BTreeMap::new() }
    }

    fn set_targets(&mut self, targets: Vec<Target>) {
        let wanted: BTreeMap<Key, Target> =
            targets.into_iter().map(|target| (target.key(), target)).collect();
        self.running.retain(|key, running| {
            wanted.get(key).is_some_and(|target| target.is_checked_like(&running.target))
        });
        self.shared.board.retain(|key| self.running.contains_key(key));
        let new: Vec<_> =
            wanted.into_iter().filter(|(key, _)| !self.running.contains_key(key)).collect();
        let crowd = new.len() > AT_ONCE;
        let mut clients = Clients::default();
        for (key, target) in new {
            let mut jitter = Jitter::of(&key);
            let delay = if crowd {
                jitter.below(target.monitor.interval.min(SPREAD))
            } else {
                Duration::ZERO
            };
            self.shared.board.begin(&key, &target);
            let probe = Probe::new(&target, &mut clients);
            let target = Arc::new(target);
            let watch = Watch {
                key: key.clone(),
                judge: Judge::new(target.monitor.rise, target.monitor.fall, target.initially_up),
                target: Arc::clone(&target),
                probe,
                jitter,
                shared: Arc::clone(&self.shared),
            };
            let task = tokio::spawn(watch.run(delay));
            self.running.insert(key, Running { target, task });
        }
    }
}

/// The life of a target: ask, judge, report, wait.
struct Watch {
    key: Key,
    target: Arc<Target>,
    probe: Probe,
    judge: Judge,
    jitter: Jitter,
    shared: Arc<Shared>,
}

impl Watch {
    async fn run(mut self, delay: Duration) {
        let mut is_first = true;
        let mut last_fault_of_ours = None;
        sleep(delay).await;
        loop {
            let due = Instant::now();
            let (result, is_news) = self.ask().await;
            match result {
                // No fault of the server's: that this machine is out of sockets must not take every server down.
                Err(Fault::Own(error)) => {
                    if last_fault_of_ours.as_ref() != Some(&error) {
                        let Key { pool, server, port, monitor } = &self.key;
                        tracing::warn!(pool, %server, port, monitor, error, "was not checked");
                    }
                    last_fault_of_ours = Some(error);
                }
                Ok(()) | Err(Fault::Server(_)) => {
                    last_fault_of_ours = None;
                    let report = self.report(result);
                    if (is_news || is_first) && self.shared.report.send(report).await.is_err() {
                        return;
                    }
                    is_first = false;
                }
            }
            sleep_until(due + self.pause()).await;
        }
    }

    /// One check, in its turn: what came of it, and whether it changed the judge's mind.
    async fn ask(&mut self) -> (Result<(), Fault>, bool) {
        let monitor = &self.target.monitor;
        let turn = self.shared.tools.turn().await;
        let begun = std::time::Instant::now();
        let result = self.probe.run(monitor.timeout, &self.shared.tools).await;
        drop(turn);
        let change = match result {
            Ok(()) | Err(Fault::Server(_)) => self.judge.observe(result.is_ok()),
            Err(Fault::Own(_)) => None,
        };
        self.shared.board.note(&self.key, begun, &result, &self.judge);
        (result, change.is_some())
    }

    fn pause(&mut self) -> Duration {
        let monitor = &self.target.monitor;
        let in_doubt = self.judge.against() > 0;
        let interval = if in_doubt { monitor.fast_interval } else { monitor.interval };
        self.jitter.around(interval, monitor.jitter)
    }

    fn report(&self, result: Result<(), Fault>) -> Report {
        Report {
            pool: self.key.pool.clone(),
            server: self.key.server,
            port: self.key.port,
            monitor: self.key.monitor.clone(),
            up: self.judge.is_up(),
            error: result.err().map(Fault::into_words),
        }
    }
}
