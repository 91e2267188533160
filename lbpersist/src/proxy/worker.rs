//! One thread: its listeners, its connections, and its connections to servers. Nothing of it is another thread's.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::mpsc::UnboundedReceiver,
    task::{JoinHandle, spawn_local},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    access_log::Log,
    connection,
    snapshot::{Service, Snapshot},
    upstream::Pool,
};

/// How often idle connections to servers are looked through, and the log is written.
const TICK: Duration = Duration::from_millis(500);
/// How long nothing is accepted when the machine has no room for more.
const NO_ROOM: Duration = Duration::from_millis(50);

/// What the daemon tells a worker.
#[derive(Debug)]
pub(super) enum Command {
    /// Listen here as well.
    Listen(SocketAddr, std::net::TcpListener),
    /// Listen here no longer. Connections go on.
    Close(SocketAddr),
    /// This is how things are now.
    Publish(Arc<Snapshot>),
    /// Accept nothing more, finish what is under way in at most this time, and end.
    Stop(Duration),
}

/// A worker's state.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) number: usize,
    /// Connections to servers that any client may use.
    pub(super) pool: Pool,
    pub(super) log: Log,
    snapshot: RefCell<Arc<Snapshot>>,
    generation: Cell<u64>,
    stopping: Cell<bool>,
    requests: Cell<u64>,
    connections: RefCell<HashMap<u64, Option<Waker>>>,
    next_connection: Cell<u64>,
}

impl Worker {
    fn new(number: usize) -> Self {
        Self {
            number,
            pool: Pool::default(),
            log: Log::default(),
            snapshot: RefCell::default(),
            generation: Cell::new(0),
            stopping: Cell::new(false),
            // Workers shall not choose the same servers in the same order.
            requests: Cell::new((number as u64) << 32),
            connections: RefCell::default(),
            next_connection: Cell::new(0),
        }
    }

    /// How things are.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Rises whenever things change.
    pub(super) fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Whether the daemon is about to end.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Whether connections of this service may go on to their first request.
    fn carries(&self, service: &Service) -> bool {
        !self.is_stopping() && self.snapshot.borrow().services.contains_key(&service.name)
    }

    /// A number for the next request.
    pub(super) fn next_number(&self) -> u64 {
        let number = self.requests.get();
        self.requests.set(number.wrapping_add(1));
        number
    }

    /// Has every connection look at what has changed.
    fn ring(&self) {
        self.generation.set(self.generation.get() + 1);
        self.connections.borrow().values().flatten().for_each(Waker::wake_by_ref);
    }

    fn publish(&self, snapshot: Arc<Snapshot>) {
        let before = self.snapshot.replace(snapshot);
        let now = self.snapshot.borrow();
        // A server's health concerns the next request; that a service is gone concerns connections without one.
        if before.services.keys().all(|name| now.services.contains_key(name)) {
            self.generation.set(self.generation.get() + 1);
        } else {
            drop(now);
            self.ring();
        }
    }
}

/// A connection's place in the worker's list of those to wake.
#[derive(Debug)]
pub(super) struct Registration {
    worker: Rc<Worker>,
    id: u64,
    seen: u64,
    registered: bool,
}

impl Registration {
    pub(super) fn new(worker: &Rc<Worker>) -> Self {
        let id = worker.next_connection.get();
        worker.next_connection.set(id + 1);
        worker.connections.borrow_mut().insert(id, None);
        Self { worker: Rc::clone(worker), id, seen: worker.generation(), registered: false }
    }

    /// Up to which generation it has looked.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// Ready whenever something has changed since it was last asked.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.registered {
            self.registered = true;
            self.worker.connections.borrow_mut().insert(self.id, Some(cx.waker().clone()));
        }
        if self.seen == self.worker.generation() && !self.worker.is_stopping() {
            return Poll::Pending;
        }
        self.seen = self.worker.generation();
        Poll::Ready(())
    }

    /// Does what a connection begins with; nothing comes of it once its service is gone, or the daemon is about to end.
    pub(super) async fn unless_gone<T>(
        &mut self,
        service: &Service,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if self.poll(cx).is_ready() && !self.worker.carries(service) {
                return Poll::Ready(None);
            }
            work.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.id);
    }
}

/// The life of a worker.
pub(super) async fn run(number: usize, mut commands: UnboundedReceiver<Command>) {
    let worker = Rc::new(Worker::new(number));
    let mut listeners: HashMap<SocketAddr, Listening> = HashMap::new();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let patience = loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Listen(at, listener)) => match TcpListener::from_std(listener) {
                    Ok(listener) => {
                        let task = spawn_local(accept(Rc::clone(&worker), at, listener));
                        listeners.insert(at, Listening(task));
                    }
                    Err(error) => tracing::error!(%at, %error, "cannot listen"),
                },
                Some(Command::Close(at)) => {
                    listeners.remove(&at);
                }
                Some(Command::Publish(snapshot)) => worker.publish(snapshot),
                Some(Command::Stop(patience)) => break patience,
                None => break Duration::ZERO,
            },
            _ = tick.tick() => {
                worker.pool.sweep(Instant::now());
                worker.log.flush();
            }
        }
    };
    drop(listeners);
    worker.stopping.set(true);
    worker.ring();
    let until = Instant::now() + patience;
    while !worker.connections.borrow().is_empty() && Instant::now() < until {
        sleep(Duration::from_millis(10)).await;
    }
    worker.log.flush();
}

/// Accepts for as long as it lives.
struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept(worker: Rc<Worker>, at: SocketAddr, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let service = worker.snapshot().by_address(at);
                if let Some(service) = service {
                    // Before anything else can happen to the service.
                    let registration = Registration::new(&worker);
                    let worker = Rc::clone(&worker);
                    spawn_local(connection::serve(worker, registration, service, stream, peer));
                }
            }
            // Mostly the machine has no more sockets; those that wait are taken when there are.
            Err(error) => {
                tracing::warn!(%at, %error, "cannot accept a connection");
                sleep(NO_ROOM).await;
            }
        }
    }
}
