//! Bytes from one stream to the other and back, until both have ended or neither says anything.
//!
//! What comes in small pieces is copied through a buffer. A stream that fills it is moved without a copy ([`Pipe`]) until it
//! comes in small pieces again.

use std::{
    cell::Cell,
    future::{Future as _, poll_fn},
    io,
    net::Shutdown,
    os::fd::AsFd as _,
    pin::pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream, time::Instant};

use super::{alarm::Alarm, reason::Reason, splice::Pipe};

/// Bytes that are copied at a time, and that wait in each direction at most when they are.
const BUFFER: usize = 32 << 10;
/// Pieces that are not worth a pipe.
const SMALL: usize = 16 << 10;

/// What a relay has carried.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Bytes from the client.
    pub(super) received: Cell<u64>,
    /// Bytes to the client.
    pub(super) sent: Cell<u64>,
}

/// Carries bytes both ways. What was read from either before goes first. The end of one direction is passed on and leaves
/// the other open.
pub(super) async fn relay(
    client: &mut TcpStream,
    server: &mut TcpStream,
    [from_client, from_server]: [&[u8]; 2],
    idle: Duration,
    carried: &Tally,
) -> Result<(), Reason> {
    let mut there = Way::new(client, server, from_client, &carried.received);
    let mut back = Way::new(server, client, from_server, &carried.sent);
    let mut alarm = Alarm::default();
    let mut last = Instant::now();
    let mut moved = 0;
    let mut run = pin!(poll_fn(|cx| {
        let (there, back) = (there.poll(cx)?, back.poll(cx)?);
        if there.is_ready() && back.is_ready() {
            return Poll::Ready(io::Result::Ok(None));
        }
        let total = carried.received.get() + carried.sent.get();
        if total != moved {
            moved = total;
            last = Instant::now();
        }
        alarm.poll(cx, last + idle).map(|()| Ok(Some(Reason::IdleTimeout)))
    }));
    match poll_fn(|cx| run.as_mut().poll(cx)).await {
        Ok(None) => Ok(()),
        Ok(Some(reason)) => Err(reason),
        Err(_) => Err(Reason::ClientGone),
    }
}

/// One direction.
struct Way<'s> {
    from: &'s TcpStream,
    to: &'s TcpStream,
    count: &'s Cell<u64>,
    buffer: Vec<u8>,
    /// What of the buffer has yet to be written.
    start: usize,
    end: usize,
    pipe: Option<Pipe>,
    how: How,
    state: State,
}

/// How bytes are carried next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Copied,
    Moved,
    /// Always copied: there are no pipes, or these streams cannot be moved.
    OnlyCopied,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ending,
    Ended,
}

impl<'s> Way<'s> {
    fn new(from: &'s TcpStream, to: &'s TcpStream, first: &[u8], count: &'s Cell<u64>) -> Self {
        let mut buffer = vec![0; BUFFER.max(first.len())];
        buffer[..first.len()].copy_from_slice(first);
        let (end, how, state) = (first.len(), How::Copied, State::Open);
        Self { from, to, count, buffer, start: 0, end, pipe: None, how, state }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_write(cx))?;
            match self.state {
                State::Open => {
                    if ready!(self.poll_read(cx))? == 0 {
                        self.state = State::Ending;
                    }
                }
                State::Ending => {
                    // The other side may have gone already.
                    let _ = SockRef::from(self.to).shutdown(Shutdown::Write);
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Writes what was read, until nothing of it is left.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.start < self.end || self.pipe.is_some() {
            ready!(self.to.poll_write_ready(cx))?;
            let to = self.to;
            let written = match &mut self.pipe {
                Some(pipe) => to.try_io(Interest::WRITABLE, || pipe.drain(to.as_fd())),
                None => to.try_write(&self.buffer[self.start..self.end]),
            };
            let length = match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => written?,
            };
            self.count.set(self.count.get() + length as u64);
            match self.pipe.take() {
                Some(pipe) if pipe.is_empty() => pipe.give_back(),
                Some(pipe) => self.pipe = Some(pipe),
                None => self.start += length,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads something, when nothing is left to write; says how much, 0 at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.from.poll_read_ready(cx))?;
            let read = if self.how == How::Moved { self.fill() } else { self.copy() };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) if self.how == How::Moved => self.how = How::OnlyCopied,
                read => return Poll::Ready(read),
            }
        }
    }

    fn copy(&mut self) -> io::Result<usize> {
        let length = self.from.try_read(&mut self.buffer)?;
        (self.start, self.end) = (0, length);
        if length == self.buffer.len() && self.how == How::Copied {
            self.how = How::Moved;
        }
        Ok(length)
    }

    fn fill(&mut self) -> io::Result<usize> {
        let (from, mut pipe) = (self.from, Pipe::take()?);
        let moved = from.try_io(Interest::READABLE, || pipe.fill(from.as_fd()));
        if let Ok(length) = moved
            && length > 0
        {
            self.pipe = Some(pipe);
            if length < SMALL {
                self.how = How::Copied;
            }
        } else {
            pipe.give_back();
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (one, other) = tokio::join!(TcpStream::connect(at), listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    #[tokio::test]
    async fn every_byte_arrives_in_order_whatever_the_pieces() {
        let ((mut client, mut near), (mut far, mut server)) = (pair().await, pair().await);
        let tally = Tally::default();
        let idle = Duration::from_secs(20);
        let relayed = relay(&mut near, &mut far, [b"first", b""], idle, &tally);
        // Bulk, then small pieces, then bulk again.
        let bytes: Vec<u8> = (0..6_000_000_u32).map(|number| (number / 7 % 251) as u8).collect();
        let sending = async {
            client.write_all(&bytes[..5_000_000]).await.unwrap();
            for piece in bytes[5_000_000..5_020_000].chunks(1_000) {
                tokio::time::sleep(Duration::from_millis(1)).await;
                client.write_all(piece).await.unwrap();
            }
            client.write_all(&bytes[5_020_000..]).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let receiving = async {
            let mut got = Vec::new();
            // In fits and starts, so that the pipe is not emptied at once.
            while got.len() < 1_000_000 {
                let mut part = vec![0; 50_000];
                let length = server.read(&mut part).await.unwrap();
                got.extend_from_slice(&part[..length]);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            server.read_to_end(&mut got).await.unwrap();
            server.write_all(&bytes[..100_000]).await.unwrap();
            server.shutdown().await.unwrap();
            got
        };
        let (ended, answer, got) = tokio::join!(relayed, sending, receiving);
        assert_eq!(ended, Ok(()));
        assert_eq!(got.len(), bytes.len() + 5);
        assert!(got[..5] == *b"first" && got[5..] == bytes[..]);
        assert!(answer == bytes[..100_000]);
        assert_eq!((tally.received.get(), tally.sent.get()), (6_000_005, 100_000));
    }
}
