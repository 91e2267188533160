//! Bytes from one stream to the other and back, until both have ended or neither says anything.

use std::{
    cell::Cell,
    future::{Future as _, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::Instant,
};

use super::{guard::Alarm, reason::Reason};

/// Bytes that wait in each direction at most.
const BUFFER: usize = 32 << 10;

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
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let mut there = Way::new(client_read, server_write, from_client, &carried.received);
    let mut back = Way::new(server_read, client_write, from_server, &carried.sent);
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
    from: ReadHalf<'s>,
    to: WriteHalf<'s>,
    count: &'s Cell<u64>,
    buffer: Vec<u8>,
    /// What of the buffer has yet to be written.
    start: usize,
    end: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ending,
    Ended,
}

impl<'s> Way<'s> {
    fn new(from: ReadHalf<'s>, to: WriteHalf<'s>, first: &[u8], count: &'s Cell<u64>) -> Self {
        let mut buffer = vec![0; BUFFER.max(first.len())];
        buffer[..first.len()].copy_from_slice(first);
        Self { from, to, count, buffer, start: 0, end: first.len(), state: State::Open }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.start < self.end {
                let bytes = &self.buffer[self.start..self.end];
                let length = ready!(Pin::new(&mut self.to).poll_write(cx, bytes))?;
                if length == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.start += length;
                self.count.set(self.count.get() + length as u64);
            }
            match self.state {
                State::Open => {
                    let mut into = ReadBuf::new(&mut self.buffer);
                    ready!(Pin::new(&mut self.from).poll_read(cx, &mut into))?;
                    (self.start, self.end) = (0, into.filled().len());
                    if self.end == 0 {
                        self.state = State::Ending;
                    }
                }
                State::Ending => {
                    // The other side may have gone already.
                    let _ = ready!(Pin::new(&mut self.to).poll_shutdown(cx));
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}
