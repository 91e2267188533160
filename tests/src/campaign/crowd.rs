//! The clients of a campaign: one thread, a task for each.
//!
//! Each has an address of its own. Every other one holds a connection and asks on it from time to time; the rest come back on a new
//! connection each time, always well within the persistence timeout.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time,
};

use super::{Outcome, Random};
use crate::{client, namespace::Namespace};

/// How long a question may take: TCP has sent a lost SYN again three times by then.
const PATIENCE: Duration = Duration::from_secs(12);

/// Milliseconds between two questions of a client.
const THINKS: (u64, u64) = (400, 2_000);

/// A holder comes on a second connection as well once in so many questions.
const ALSO_COMES: u64 = 5;

/// What is remembered of what went wrong.
const COMPLAINTS: usize = 20;

/// A crowd at work.
pub(super) struct Crowd {
    shared: Arc<Shared>,
    thread: thread::JoinHandle<()>,
}

impl Crowd {
    /// Sends everyone out from addresses of `namespace`.
    pub(super) fn start(
        namespace: &Namespace,
        visitors: Vec<(IpAddr, SocketAddr)>,
        random: &mut Random,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.outcome().clients = visitors.len() as u64;
        let tasks: Vec<_> = (0_u64..)
            .zip(visitors)
            .map(|(number, (from, to))| Visitor {
                from,
                to,
                holds: number % 2 == 0,
                home: None,
                moved: false,
                held: None,
                random: random.split(),
                shared: Arc::clone(&shared),
            })
            .collect();
        let namespace = namespace.clone();
        let thread = thread::Builder::new().name("crowd".to_owned()).spawn(move || {
            namespace.run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime needs a few descriptors only").block_on(live(tasks));
            });
        })?;
        Ok(Self { shared, thread })
    }

    /// How many clients have met a server.
    pub(super) fn settled(&self) -> u64 {
        *lock(&self.shared.settled)
    }

    /// Says that a server goes down now: its clients are excused from now on, until they have met another one.
    pub(super) fn falls(&self, server: &str) {
        lock(&self.shared.fallen).insert(server.to_owned(), Instant::now());
    }

    /// What became of everyone until now.
    pub(super) fn outcome(&self) -> Outcome {
        self.shared.outcome().clone()
    }

    /// Calls everyone home.
    pub(super) fn end(self) -> Result<Outcome> {
        self.shared.over.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the crowd's thread has panicked")?;
        Ok(self.shared.outcome().clone())
    }
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    outcome: Mutex<Outcome>,
    settled: Mutex<u64>,
    fallen: Mutex<BTreeMap<String, Instant>>,
}

impl Shared {
    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        lock(&self.outcome)
    }

    /// Whether a server has gone down since.
    fn has_fallen_since(&self, server: &str, since: Instant) -> bool {
        lock(&self.fallen).get(server).is_some_and(|&fell| fell > since)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn live(visitors: Vec<Visitor>) {
    let mut tasks = JoinSet::new();
    for visitor in visitors {
        tasks.spawn(visitor.live());
    }
    while tasks.join_next().await.is_some() {}
}

/// Whom a question met.
#[derive(PartialEq, Eq)]
enum Met {
    /// The server it had to be, or the first one.
    Home,
    /// Another one, from now on home.
    Another,
    Nobody,
}

struct Visitor {
    from: IpAddr,
    to: SocketAddr,
    holds: bool,
    /// The server that has to answer, and since when.
    home: Option<(String, Instant)>,
    moved: bool,
    held: Option<TcpStream>,
    random: Random,
    shared: Arc<Shared>,
}

impl Visitor {
    async fn live(mut self) {
        // Not everyone at once.
        self.think(0, THINKS.1).await;
        while !self.shared.is_over() {
            let comes = !self.holds || self.held.is_some() && self.random.below(ALSO_COMES) == 0;
            if comes {
                self.come().await;
            } else {
                self.ask_held().await;
            }
            self.think(THINKS.0, THINKS.1).await;
        }
    }

    async fn think(&mut self, least: u64, most: u64) {
        time::sleep(Duration::from_millis(self.random.between(least, most))).await;
    }

    /// Asks on a new connection, which is closed then.
    async fn come(&mut self) {
        let (from, to) = (self.from, self.to);
        let begun = Instant::now();
        let answer = patiently(async {
            let mut stream = client::connect(from, to).await?;
            ask(&mut stream, to, "close").await
        });
        let answer = answer.await;
        if self.judge(begun, answer, "on a new connection") == Met::Another {
            // What is held was with the server before, and would be reset; that is no second loss.
            self.held = None;
        }
    }

    /// Asks on the connection that is held, or on one that is held from now on.
    async fn ask_held(&mut self) {
        let (from, to) = (self.from, self.to);
        let held = self.held.take();
        let what = if held.is_some() { "on an open connection" } else { "on a connection to hold" };
        let begun = Instant::now();
        let answer = patiently(async {
            let mut stream = match held {
                Some(stream) => stream,
                None => client::connect(from, to).await?,
            };
            let server = ask(&mut stream, to, "keep-alive").await?;
            Ok((server, stream))
        });
        let answer = answer.await.map(|(server, stream)| {
            self.held = Some(stream);
            server
        });
        self.judge(begun, answer, what);
    }

    fn judge(&mut self, begun: Instant, answer: io::Result<String>, how: &str) -> Met {
        let mut outcome = self.shared.outcome();
        outcome.requests += 1;
        let home = self.home.as_ref();
        let excused =
            home.is_some_and(|(server, since)| self.shared.has_fallen_since(server, *since));
        let home_name = home.map_or("nobody yet", |(server, _)| server.as_str()).to_owned();
        let (met, complaint) = match answer {
            Err(_) if excused => {
                outcome.excused_losses += 1;
                return Met::Nobody;
            }
            Err(error) => {
                outcome.lost += 1;
                let from = self.from;
                (Met::Nobody, format!("{from} of {home_name} lost a question {how}: {error}"))
            }
            Ok(server) => {
                outcome.slowest_ms = outcome.slowest_ms.max(begun.elapsed().as_millis());
                if home.is_some_and(|(known, _)| *known == server) {
                    return Met::Home;
                }
                let is_first = home.is_none();
                let complaint = format!("{} of {home_name} met {server} {how}", self.from);
                self.home = Some((server, Instant::now()));
                if is_first {
                    *lock(&self.shared.settled) += 1;
                    return Met::Home;
                }
                if excused {
                    outcome.excused_moves += 1;
                    return Met::Another;
                }
                outcome.moved += u64::from(!std::mem::replace(&mut self.moved, true));
                (Met::Another, complaint)
            }
        };
        if outcome.complaints.len() < COMPLAINTS {
            outcome.complaints.push(complaint);
        }
        met
    }
}

async fn patiently<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Asks who is there: the server's name.
async fn ask(stream: &mut TcpStream, to: SocketAddr, connection: &str) -> io::Result<String> {
    stream.write_all(client::request(to, connection).as_bytes()).await?;
    let mut response = Vec::with_capacity(256);
    // The body is one line, and no header line ends without a carriage return.
    loop {
        let ended = stream.read_buf(&mut response).await? == 0;
        let text = String::from_utf8_lossy(&response);
        match text.split_once("\r\n\r\n") {
            Some((_, body)) if body.ends_with('\n') => {
                return Ok(client::parse(body, stream.local_addr()?)?.server);
            }
            _ if ended => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
    }
}
