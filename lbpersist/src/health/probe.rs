//! One question to a server, and its answer.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpStream},
    os::{fd::AsFd, linux::net::TcpStreamExt},
    time::Duration,
};

use tokio::{
    net::TcpSocket,
    time::{error::Elapsed, timeout},
};

/// A kind of question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// Does it take TCP connections?
    TcpConnect(SocketAddr),
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The server did well.
    Passed,
    /// It did not; in words.
    Failed(String),
    /// It was never asked, because this machine could not; in words.
    NotAsked(String),
}

impl Probe {
    /// Asks, and waits for the answer no longer than that. Whatever was opened is closed when this returns or is dropped.
    pub(super) async fn run(&self, limit: Duration) -> Outcome {
        match self {
            Self::TcpConnect(address) => {
                let answer = timeout(limit, tcp_connect(*address)).await;
                tcp_outcome(*address, limit, answer)
            }
        }
    }
}

/// Connects, and lets go at once by a reset.
///
/// The reset leaves no socket in TIME_WAIT here, whatever the number of checks. And it is the politer way for the server too,
/// because with the kernel told not to hurry with its acknowledgement (TCP_QUICKACK off) it goes out in place of the
/// handshake's third packet: the server's kernel has shown that it takes connections, but its application is never
/// woken, nor its accept queue filled, nor its log. HAProxy's TCP checks do the same.
async fn tcp_connect(address: SocketAddr) -> io::Result<()> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_zero_linger()?;
    // The standard library has this option on a stream only, and the setting outlives the second descriptor.
    TcpStream::from(socket.as_fd().try_clone_to_owned()?).set_quickack(false)?;
    socket.connect(address).await?;
    Ok(())
}

fn tcp_outcome(
    address: SocketAddr,
    limit: Duration,
    answer: Result<io::Result<()>, Elapsed>,
) -> Outcome {
    let error = match answer {
        Ok(Ok(())) => return Outcome::Passed,
        Ok(Err(error)) => error,
        Err(_) => return Outcome::Failed(format!("no answer from {address} within {limit:?}")),
    };
    if is_our_own(&error) {
        return Outcome::NotAsked(error.to_string());
    }
    Outcome::Failed(match error.kind() {
        ErrorKind::ConnectionRefused => format!("connection refused by {address}"),
        ErrorKind::ConnectionReset => format!("connection reset by {address}"),
        ErrorKind::TimedOut => format!("no answer from {address}"),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            format!("no way to {address}: {error}")
        }
        _ => format!("cannot connect to {address}: {error}"),
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

    fn outcome_of(number: i32) -> Outcome {
        let address = SocketAddr::from(([10, 0, 0, 11], 8080));
        let error = io::Error::from_raw_os_error(number);
        tcp_outcome(address, Duration::from_secs(2), Ok(Err(error)))
    }

    #[test]
    fn what_this_machine_lacks_is_not_held_against_the_server() {
        for number in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::EADDRNOTAVAIL] {
            assert!(matches!(outcome_of(number), Outcome::NotAsked(_)), "{number}");
        }
        for number in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EACCES] {
            assert!(matches!(outcome_of(number), Outcome::Failed(_)), "{number}");
        }
    }

    #[test]
    fn a_failure_says_what_and_where() {
        let refused = Outcome::Failed("connection refused by 10.0.0.11:8080".to_owned());
        assert_eq!(outcome_of(libc::ECONNREFUSED), refused);
    }
}
