//! Makes clients of lost servers speak, so that the program can reset their connections: a thread that reads the table of
//! connections and sends segments, few at a time. Whom and what is [`crate::datapath::nudge`]'s.

use std::{
    collections::hash_map::RandomState,
    io,
    net::{IpAddr, SocketAddr},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::datapath::{
    self,
    maps::PinDirectory,
    nudge::{Known, ROUNDS, Waiting},
    report::Reader,
};

/// Segments at a time, and how long after them the next ones follow: at most 10,000 a second.
const AT_ONCE: usize = 100;
const PAUSE: Duration = Duration::from_millis(10);
/// How long a client has to speak before it is asked once more.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(1);
/// The protocol of raw sockets whose packets begin with an IP header (raw(7)).
const WITH_HEADERS: i32 = libc::IPPROTO_RAW;

/// The thread's end that the daemon holds; the thread ends when it is dropped.
pub(super) struct Nudger(Option<Sender<Known>>);

impl Nudger {
    pub(super) fn start(pins: PinDirectory) -> Self {
        let (sender, tasks) = channel();
        let started = thread::Builder::new().name("nudge".to_owned()).spawn(move || {
            run(&pins, &tasks);
        });
        match started {
            Ok(_) => Self(Some(sender)),
            Err(error) => {
                tracing::warn!(%error, "no thread for clients that wait for lost servers");
                Self(None)
            }
        }
    }

    /// Has the clients whose servers are lost by what is `known` speak. What was under way for others before begins anew.
    pub(super) fn begin(&self, known: Known) {
        if let Some(sender) = &self.0 {
            // It has ended only if it has panicked, and has said so.
            let _ = sender.send(known);
        }
    }
}

/// Why work stops before it is done.
enum Interrupted {
    By(Known),
    ByTheEnd,
}

fn run(pins: &PinDirectory, tasks: &Receiver<Known>) {
    let mut next = tasks.recv().ok();
    while let Some(known) = next {
        next = match rounds(pins, &known, tasks) {
            Ok(()) => tasks.recv().ok(),
            Err(Interrupted::By(newer)) => Some(newer),
            Err(Interrupted::ByTheEnd) => None,
        };
    }
}

/// Asks everybody who waits, until nobody does.
fn rounds(pins: &PinDirectory, known: &Known, tasks: &Receiver<Known>) -> Result<(), Interrupted> {
    let (secrets, mut sockets) = (RandomState::new(), Sockets::default());
    for round in 0..ROUNDS {
        let waiting = match waiting(pins, known) {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::warn!(%error, "cannot see which clients wait for lost servers");
                return Ok(());
            }
        };
        if waiting.is_empty() {
            return Ok(());
        }
        tracing::info!(clients = waiting.len(), round, "connections of lost servers are reset");
        for some in waiting.chunks(AT_ONCE) {
            for client in some {
                if let Err(error) = sockets.send(client, &client.packet(&secrets, round)) {
                    tracing::debug!(client = %client.client, %error, "a client is not told");
                }
            }
            pause(tasks, PAUSE)?;
        }
        if let Some(error) = sockets.refused.take() {
            tracing::warn!(
                %error,
                "clients that wait for lost servers are not told until they send something; \
                 it takes CAP_NET_RAW"
            );
            return Ok(());
        }
        pause(tasks, BETWEEN_ROUNDS)?;
    }
    Ok(())
}

fn waiting(pins: &PinDirectory, known: &Known) -> Result<Vec<Waiting>, datapath::Error> {
    let connections = Reader::open(pins)?.maps().connections.all()?;
    Ok(connections.iter().filter_map(|(key, value)| known.waiting(key, value)).collect())
}

/// Waits, unless there is something newer to do.
fn pause(tasks: &Receiver<Known>, time: Duration) -> Result<(), Interrupted> {
    match tasks.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => Ok(()),
        Err(RecvTimeoutError::Disconnected) => Err(Interrupted::ByTheEnd),
        Ok(mut newest) => {
            while let Ok(newer) = tasks.try_recv() {
                newest = newer;
            }
            Err(Interrupted::By(newest))
        }
    }
}

/// A raw socket for each family, opened when it is first needed.
#[derive(Default)]
struct Sockets {
    opened: [Option<Socket>; 2],
    /// Why there is none.
    refused: Option<io::Error>,
}

impl Sockets {
    fn send(&mut self, to: &Waiting, packet: &[u8]) -> io::Result<()> {
        let address = to.to();
        let place = &mut self.opened[usize::from(address.is_ipv6())];
        if place.is_none() && self.refused.is_none() {
            match open(address) {
                Ok(socket) => *place = Some(socket),
                Err(error) => self.refused = Some(error),
            }
        }
        let Some(socket) = place else { return Err(io::ErrorKind::PermissionDenied.into()) };
        socket.send_to(packet, &SocketAddr::new(address, 0).into()).map(|_| ())
    }
}

fn open(family: IpAddr) -> io::Result<Socket> {
    let domain = if family.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(WITH_HEADERS)))?;
    // A full queue is no reason to wait: there is another round.
    socket.set_nonblocking(true)?;
    Ok(socket)
}
