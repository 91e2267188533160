//! A client's stream as the HTTP parser sees it: bytes that have one reading only, and never late.
//!
//! An HTTP/1 header is held back until it is whole and [`Scanner`] has passed it. In place of one that is refused or late,
//! the parser reads a request of ours, so that the refusal is answered in its turn, after the answers to what came before;
//! [`Link::begin`] says what it stands for. Wrong and late bodies are errors of the stream.
//!
//! Between requests a connection keeps no buffer: bytes are read into one of the thread's, and nearly always passed on at once.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::{
    alarm::Alarm,
    reason::Reason,
    scan::{Place, Scanner, Step},
    stream::{poll_write_vectored, unacknowledged},
};
use crate::clock;

/// What the parser reads instead of a request that is refused.
const REFUSED: &[u8] = b"GET / HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n";

/// After so much silence between two requests a client is waited for without a parser, whose buffers are large.
const QUIET: Duration = Duration::from_secs(1);

/// The most and the least bytes that are asked for at a time.
const SCRATCH: usize = 64 << 10;
const LEAST: usize = 4 << 10;

/// Less than the time after which the kernel acknowledges a request that has no answer (40 ms), for a request may have waited
/// to be read, and this is counted by a coarse clock.
const LATE: Duration = Duration::from_millis(10);

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// How long a client may take, phase by phase.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) header: Duration,
    pub(super) body: Duration,
    pub(super) idle: Duration,
    pub(super) write: Duration,
}

/// What a stream and the requests that came over it tell each other.
#[derive(Debug)]
pub(super) struct Link {
    limits: Limits,
    /// Which request is refused, from 0, and why.
    refused: Cell<Option<(u64, Reason)>>,
    /// Why a body ended before its end.
    body_fault: Cell<Option<Reason>>,
    gate: Cell<Gate>,
    reader: RefCell<Option<Waker>>,
    under_way: Cell<u32>,
    begun: Cell<u64>,
    begun_at: Cell<Instant>,
    idle_since: Cell<Instant>,
    /// The last answer took so long that the kernel may have forgotten that answers come at all.
    was_late: Cell<bool>,
    write_timed_out: Cell<bool>,
    /// All that has been read are whole requests.
    whole: Cell<bool>,
    /// The client has said nothing for a while, and has all that it was sent.
    quiet: Cell<bool>,
    /// Bodies that go on only when the client takes more of them.
    pub(super) held: Cell<u32>,
    /// Pieces of bodies for the client.
    pub(super) given: Cell<u64>,
    /// Bytes from the client.
    pub(super) received: Cell<u64>,
    /// Bytes to the client.
    pub(super) sent: Cell<u64>,
}

/// What the bytes that follow are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Http,
    /// It is for the server to say.
    Held,
    Raw,
}

impl Link {
    pub(super) fn new(limits: Limits) -> Rc<Self> {
        Rc::new(Self {
            limits,
            refused: Cell::new(None),
            body_fault: Cell::new(None),
            gate: Cell::new(Gate::Http),
            reader: RefCell::new(None),
            under_way: Cell::new(0),
            begun: Cell::new(0),
            begun_at: Cell::new(clock::tick()),
            idle_since: Cell::new(clock::tick()),
            was_late: Cell::new(false),
            write_timed_out: Cell::new(false),
            whole: Cell::new(false),
            quiet: Cell::new(false),
            held: Cell::new(0),
            given: Cell::new(0),
            received: Cell::new(0),
            sent: Cell::new(0),
        })
    }

    /// Notes that a request has begun, and says why it is to be refused, if it is.
    pub(super) fn begin(&self) -> Option<Reason> {
        let number = self.begun.get();
        self.begun.set(number + 1);
        self.begun_at.set(clock::tick());
        self.under_way.set(self.under_way.get() + 1);
        self.refused.get().filter(|(refused, _)| *refused == number).map(|(_, reason)| reason)
    }

    /// Notes that a request has ended.
    pub(super) fn end(&self) {
        self.under_way.set(self.under_way.get().saturating_sub(1));
        let now = clock::tick();
        self.was_late.set(now.duration_since(self.begun_at.get()) >= LATE);
        self.idle_since.set(now);
        self.decide(Gate::Http);
    }

    /// From here on the client's bytes are not HTTP.
    pub(super) fn turn_raw(&self) {
        self.decide(Gate::Raw);
    }

    fn decide(&self, gate: Gate) {
        if self.gate.get() == Gate::Raw {
            return;
        }
        self.gate.set(gate);
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }

    /// How many requests have begun.
    pub(super) fn begun(&self) -> u64 {
        self.begun.get()
    }

    /// When the last request ended.
    pub(super) fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    /// Whether the client has sent its request, and has but to wait for the answer.
    pub(super) fn client_waits(&self) -> bool {
        self.whole.get() && !self.is_idle() && self.gate.get() == Gate::Http
    }

    /// Whether the client has been silent between two requests for so long that it should be waited for by
    /// [`Guard::poll_rest`].
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.get()
    }

    /// Whether no request is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.get() == 0
    }

    /// Why the last body ended before its end.
    pub(super) fn body_fault(&self) -> Option<Reason> {
        self.body_fault.get()
    }

    /// For how long the client may take nothing.
    pub(super) fn write_limit(&self) -> Duration {
        self.limits.write
    }

    /// Notes that the client took nothing for too long.
    pub(super) fn write_has_timed_out(&self) {
        self.write_timed_out.set(true);
    }

    /// Whether the client took nothing for too long.
    pub(super) fn has_write_timed_out(&self) -> bool {
        self.write_timed_out.get()
    }
}

/// The stream.
#[derive(Debug)]
pub(super) struct Guard {
    stream: ClientStream,
    link: Rc<Link>,
    /// `None` when the bytes are for others to read: HTTP/2, or after an upgrade.
    scanner: Option<Scanner>,
    /// Read but not passed on, from `start` on; of these the first `pass` may.
    buffer: Vec<u8>,
    start: usize,
    pass: usize,
    heads: u64,
    refused: bool,
    ended: bool,
    /// When the last byte of a body came, or the first of a header.
    since: Instant,
    reading: Alarm,
    writing: Alarm,
    stuck: Option<Stuck>,
}

/// When a client that could not be written to was last looked at, and how much it had yet to take.
#[derive(Clone, Copy, Debug)]
struct Stuck {
    since: Instant,
    left: Option<i32>,
}

impl Guard {
    /// Guards a stream from which `first` has been read already. Without a scanner it only watches the time of writes.
    pub(super) fn new(
        stream: TcpStream,
        link: Rc<Link>,
        scanner: Option<Scanner>,
        first: Vec<u8>,
    ) -> Self {
        Self {
            stream: ClientStream(Rc::new(RefCell::new(stream))),
            link,
            scanner,
            buffer: first,
            start: 0,
            pass: 0,
            heads: 0,
            refused: false,
            ended: false,
            since: clock::tick(),
            reading: Alarm::default(),
            writing: Alarm::default(),
            stuck: None,
        }
    }

    /// The stream, and what was read from it but not passed on.
    pub(super) fn into_parts(mut self) -> (TcpStream, Vec<u8>) {
        self.buffer.drain(..self.start);
        let stream = Rc::into_inner(self.stream.0).expect("nobody watches it any more");
        (stream.into_inner(), self.buffer)
    }

    /// The stream, for watching it while nothing is read. It must be gone before [`Guard::into_parts`].
    pub(super) fn stream(&self) -> ClientStream {
        ClientStream(Rc::clone(&self.stream.0))
    }

    /// Whether the client has sent all it will.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    fn has_bytes(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// Looks at what is in the buffer.
    fn look(&mut self) -> io::Result<()> {
        if self.link.gate.get() == Gate::Raw {
            self.scanner = None;
        }
        let Some(scanner) = &mut self.scanner else {
            self.pass = self.buffer.len() - self.start;
            return Ok(());
        };
        if self.refused || self.link.gate.get() == Gate::Held {
            return Ok(());
        }
        let place = scanner.place();
        match scanner.scan(&self.buffer[self.start..]) {
            Ok(Step::Head { length, upgrade }) => {
                self.pass = length;
                self.heads += 1;
                if upgrade {
                    self.link.gate.set(Gate::Held);
                }
                Ok(())
            }
            Ok(Step::Body(length)) => {
                self.pass = length;
                Ok(())
            }
            Ok(Step::More) => Ok(()),
            Err(reason) if place == Place::Body => Err(self.body_error(reason)),
            Err(reason) => {
                self.refuse(reason);
                Ok(())
            }
        }
    }

    fn refuse(&mut self, reason: Reason) {
        self.link.refused.set(Some((self.heads, reason)));
        self.heads += 1;
        self.refused = true;
        self.start = 0;
        self.buffer.clear();
        self.buffer.extend_from_slice(REFUSED);
        self.pass = REFUSED.len();
    }

    fn body_error(&mut self, reason: Reason) -> io::Error {
        self.link.body_fault.set(Some(reason));
        self.refused = true;
        io::Error::new(io::ErrorKind::InvalidData, reason.name())
    }

    /// Passes on as much as may and fits.
    fn give(&mut self, cursor: &mut ReadBufCursor<'_>) {
        let length = self.pass.min(cursor.remaining());
        cursor.put_slice(&self.buffer[self.start..self.start + length]);
        self.pass -= length;
        self.start += length;
        if !self.has_bytes() {
            self.buffer = Vec::new();
            self.start = 0;
        }
        let is_between = self.scanner.as_ref().is_some_and(|s| s.place() == Place::Between);
        self.link.whole.set(is_between && !self.has_bytes());
        self.link.quiet.set(false);
    }

    /// Reads from the stream, at least a little more than nothing even if `wanted` is less.
    fn fill(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<()>> {
        if self.link.was_late.take() {
            // After an answer that was late the kernel acknowledges each request with a packet of its own as soon as it is read,
            // until it is told that this is a conversation. Nothing is lost if it does not listen.
            let _ = self.stream.0.borrow().set_quickack(false);
        }
        BUFFER.with_borrow_mut(|scratch| {
            let most = wanted.clamp(LEAST, SCRATCH);
            let mut into = ReadBuf::new(&mut scratch[..most]);
            ready!(Pin::new(&mut *self.stream.0.borrow_mut()).poll_read(cx, &mut into))?;
            let bytes = into.filled();
            self.ended = bytes.is_empty();
            let is_first = !self.has_bytes();
            let in_body = self.scanner.as_ref().is_some_and(|s| s.place() == Place::Body);
            if is_first || in_body {
                self.since = clock::tick();
            }
            self.link.received.set(self.link.received.get() + bytes.len() as u64);
            self.buffer.extend_from_slice(bytes);
            Poll::Ready(Ok(()))
        })
    }

    /// Until when the client may be silent; `None` while it is not its turn.
    fn deadline(&self) -> Option<Instant> {
        let limits = &self.link.limits;
        let idle_since = self.link.idle_since.get();
        match self.scanner.as_ref()?.place() {
            Place::Body => Some(self.since + limits.body),
            // What came during the request before has waited for it.
            _ if self.has_bytes() => Some(self.since.max(idle_since) + limits.header),
            _ if self.link.under_way.get() > 0 => None,
            _ if self.heads == 0 => Some(idle_since + limits.header.min(limits.idle)),
            _ => Some(idle_since + limits.idle),
        }
    }

    /// When a client between two requests, which has all that it was sent, counts as quiet; `None` if it does.
    fn quiet_at(&self) -> Option<Instant> {
        let link = &self.link;
        let may = self.heads > 0 && link.whole.get() && link.is_idle() && !link.quiet.get();
        (may && self.stuck.is_none()).then(|| link.idle_since.get() + QUIET)
    }

    /// Ready once a quiet client is not quiet any more, has gone or is to go: the parser will see which.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.fill(cx, LEAST) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => self.ended = true,
            Poll::Pending => {
                if let Some(deadline) = self.deadline() {
                    ready!(self.reading.poll(cx, deadline));
                }
                self.ended = true;
            }
        }
        Poll::Ready(())
    }

    /// What a silence that was too long means.
    fn late(&mut self) -> io::Result<()> {
        if self.scanner.as_ref().is_some_and(|scanner| scanner.place() == Place::Body) {
            return Err(self.body_error(Reason::BodyTimeout));
        }
        if self.has_bytes() {
            self.refuse(Reason::HeaderTimeout);
        } else {
            self.ended = true;
        }
        Ok(())
    }

    /// Notes what became of a write.
    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Ready(Ok(length)) => {
                self.stuck = None;
                self.link.sent.set(self.link.sent.get() + length as u64);
            }
            Poll::Pending => {
                let left = || unacknowledged(&self.stream.0.borrow()).ok();
                let stuck = self.stuck.get_or_insert_with(|| {
                    let left = left();
                    Stuck { since: clock::tick(), left }
                });
                loop {
                    ready!(self.writing.poll(cx, stuck.since + self.link.limits.write));
                    // A large buffer takes more only when much of it has gone, and a slow client may need longer for that.
                    let left = left();
                    if left == stuck.left {
                        break;
                    }
                    *stuck = Stuck { since: clock::tick(), left };
                }
                self.link.write_timed_out.set(true);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            Poll::Ready(Err(_)) => {}
        }
        outcome
    }
}

impl Read for Guard {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.has_bytes() && this.pass == 0 {
                this.look()?;
            }
            if this.pass > 0 {
                this.give(&mut cursor);
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            if this.refused {
                return Poll::Pending;
            }
            if this.link.gate.get() == Gate::Held {
                *this.link.reader.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            match this.fill(cx, cursor.remaining()) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    let Some(deadline) = this.deadline() else { return Poll::Pending };
                    if let Some(quiet) = this.quiet_at().filter(|quiet| *quiet < deadline) {
                        ready!(this.reading.poll(cx, quiet));
                        this.link.quiet.set(true);
                    }
                    ready!(this.reading.poll(cx, deadline));
                    this.late()?;
                }
            }
        }
    }
}

impl Write for Guard {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut *this.stream.0.borrow_mut()).poll_write(cx, bytes);
        this.wrote(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = poll_write_vectored(&mut this.stream.0.borrow_mut(), cx, slices);
        this.wrote(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.0.borrow_mut()).poll_shutdown(cx)
    }
}

/// The stream of a client. Whoever has it uses it for a moment at a time.
#[derive(Debug)]
pub(super) struct ClientStream(Rc<RefCell<TcpStream>>);

impl ClientStream {
    /// Ready once the client has gone, or there is something more to be read, which is for others to do. The end of what it
    /// sends is no more than that: it may well wait for its answer.
    pub(super) fn poll_news(&self, cx: &mut Context<'_>) -> Poll<News> {
        let mut byte = [0];
        let peeked = ready!(self.0.borrow().poll_peek(cx, &mut ReadBuf::new(&mut byte)));
        Poll::Ready(if peeked.is_ok() { News::Unread } else { News::Gone })
    }
}

/// What a client has sent while it had but to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Unread,
    Gone,
}
