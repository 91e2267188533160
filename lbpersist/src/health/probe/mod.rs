//! One question to a server, and its answer: one file for each kind of question.
//!
//! Whatever a question opened is closed when it ends, is over its time, or is dropped.

mod external;
mod http;
mod icmp;
mod tcp;
pub(super) mod tls;
mod udp;

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::Target;
use crate::model::{HttpCheck, MonitorKind, UdpCheck};

/// So many checks run at a time; the others wait for their turn.
const MOST_AT_ONCE: usize = 512;

/// A question to one server.
pub(super) enum Probe {
    /// Does it take TCP connections?
    Tcp(SocketAddr),
    /// Does it finish a TLS handshake?
    Tls(SocketAddr, tls::Client),
    /// Does it answer a request as it should?
    Http(SocketAddr, Box<HttpCheck>, Option<tls::Client>),
    /// Does it answer a datagram as it should?
    Udp(SocketAddr, UdpCheck),
    /// Does it answer an echo request?
    Icmp(std::net::IpAddr),
    /// Does a command say that it does well?
    External(Box<external::Task>),
    /// Nothing can be asked; why.
    Unusable(String),
}

/// Why a check has not passed, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server did not do well.
    Server(String),
    /// It was never asked, because this machine could not.
    Own(String),
}

impl Fault {
    pub(super) fn into_words(self) -> String {
        match self {
            Self::Server(words) | Self::Own(words) => words,
        }
    }
}

/// What checks share.
pub(super) struct Tools {
    turns: Semaphore,
    pinger: icmp::Pinger,
    processes: Semaphore,
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(MOST_AT_ONCE),
            pinger: icmp::Pinger::default(),
            processes: Semaphore::new(external::MOST_AT_ONCE),
        }
    }
}

impl Tools {
    /// Waits until one more check may run.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.turns.acquire().await.ok()
    }
}

/// What a check waits for, for the words when its time is over.
struct Stage(Mutex<&'static str>);

impl Stage {
    fn set(&self, awaited: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = awaited;
    }

    fn awaited(&self) -> &'static str {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probe {
    /// The question that a monitor has for a target.
    pub(super) fn new(target: &Target, clients: &mut tls::Clients) -> Self {
        let address = target.address;
        match &target.monitor.kind {
            MonitorKind::Tcp => Self::Tcp(address),
            MonitorKind::Udp(check) => Self::Udp(address, check.clone()),
            MonitorKind::Icmp => Self::Icmp(address.ip()),
            MonitorKind::External(check) => {
                Self::External(Box::new(external::Task::new(check, target)))
            }
            MonitorKind::Tls(check) => {
                match clients.client(check, address.ip(), tls::Speaks::Any) {
                    Ok(client) => Self::Tls(address, client),
                    Err(why) => Self::Unusable(why),
                }
            }
            MonitorKind::Http(check) => {
                let client = check
                    .tls
                    .as_ref()
                    .map(|tls| clients.client(tls, address.ip(), tls::Speaks::Http));
                match client.transpose() {
                    Ok(client) => Self::Http(address, check.clone(), client),
                    Err(why) => Self::Unusable(why),
                }
            }
        }
    }

    /// Asks, and waits for the answer no longer than that.
    pub(super) async fn run(&self, limit: Duration, tools: &Tools) -> Result<(), Fault> {
        let stage = Stage(Mutex::new("answer"));
        let (whom, asked): (String, BoxFuture<'_, _>) = match self {
            Self::Tcp(address) => (address.to_string(), Box::pin(tcp::check(*address))),
            Self::Tls(address, client) => {
                (address.to_string(), Box::pin(tls::check(*address, client, &stage)))
            }
            Self::Http(address, check, client) => {
                let asked = http::check(*address, check, client.as_ref(), &stage);
                (address.to_string(), Box::pin(asked))
            }
            Self::Udp(address, check) => {
                (address.to_string(), Box::pin(udp::check(*address, check)))
            }
            Self::Icmp(address) => (address.to_string(), Box::pin(tools.pinger.check(*address))),
            // The time that a command waits for its turn is not its own.
            Self::External(task) => return task.run(limit, &tools.processes).await,
            Self::Unusable(why) => return Err(Fault::Own(why.clone())),
        };
        timeout(limit, asked).await.unwrap_or_else(|_| {
            let awaited = stage.awaited();
            Err(Fault::Server(format!("no {awaited} from {whom} within {limit:?}")))
        })
    }
}

/// What an error of a socket says, and of whom; `doing` is what could not be done, as in "cannot connect to".
fn socket_fault(error: &io::Error, doing: &str, address: impl std::fmt::Display) -> Fault {
    if is_our_own(error) {
        return Fault::Own(error.to_string());
    }
    Fault::Server(match error.kind() {
        ErrorKind::ConnectionRefused => format!("connection refused by {address}"),
        ErrorKind::ConnectionReset => format!("connection reset by {address}"),
        ErrorKind::TimedOut => format!("no answer from {address}"),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            format!("no way to {address}: {error}")
        }
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => {
            format!("connection closed by {address}")
        }
        _ => format!("{doing} {address}: {error}"),
    })
}

/// Whether an error says that this machine has run out of something.
fn is_our_own(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        // EADDRNOTAVAIL and EAGAIN: no local port is free.
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EADDRNOTAVAIL
                | libc::EAGAIN
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault_of(number: i32) -> Fault {
        let error = io::Error::from_raw_os_error(number);
        socket_fault(&error, "cannot connect to", SocketAddr::from(([10, 0, 0, 11], 8080)))
    }

    #[test]
    fn what_this_machine_lacks_is_not_held_against_the_server() {
        for number in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::EADDRNOTAVAIL] {
            assert!(matches!(fault_of(number), Fault::Own(_)), "{number}");
        }
        for number in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EACCES] {
            assert!(matches!(fault_of(number), Fault::Server(_)), "{number}");
        }
    }

    #[test]
    fn a_failure_says_what_and_where() {
        let refused = Fault::Server("connection refused by 10.0.0.11:8080".to_owned());
        assert_eq!(fault_of(libc::ECONNREFUSED), refused);
    }
}
