//! Bodies on their way through: timed, limited, and watched for their end.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{alarm::Alarm, exchange::Exchange, guard::Link, reason::Reason, taking::Held};
use crate::clock;

/// The body of a client's request.
#[derive(Debug)]
pub(super) struct ClientBody {
    /// `None` where there is nothing to come.
    inner: Option<Incoming>,
    /// How many more bytes it may have.
    left: u64,
    watch: Option<Watch>,
}

/// What is kept of a body that has yet to come.
#[derive(Debug)]
struct Watch {
    progress: Rc<Progress>,
    link: Rc<Link>,
    limit: Duration,
    alarm: Alarm,
    since: Instant,
}

/// How far the body of a request has come.
#[derive(Debug)]
pub(super) struct Progress {
    last: Cell<Instant>,
    fault: Cell<Option<Reason>>,
    over: Cell<bool>,
}

impl Progress {
    /// When the last piece passed.
    pub(super) fn last(&self) -> Instant {
        self.last.get()
    }

    /// Whether nothing more will be sent of it.
    pub(super) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Why the body ended before its end.
    pub(super) fn fault(&self) -> Option<Reason> {
        self.fault.get()
    }
}

impl ClientBody {
    /// A body of at most `most` bytes, with at most `limit` between two pieces. Nothing is watched where there is none.
    pub(super) fn new(
        inner: Incoming,
        most: Option<u64>,
        limit: Duration,
        link: &Rc<Link>,
    ) -> (Self, Option<Rc<Progress>>) {
        if inner.is_end_stream() {
            return (Self::nothing(), None);
        }
        let left = most.unwrap_or(u64::MAX);
        let since = clock::tick();
        let (last, fault, over) = (Cell::new(since), Cell::new(None), Cell::new(false));
        let progress = Rc::new(Progress { last, fault, over });
        let link = Rc::clone(link);
        let alarm = Alarm::default();
        let watch = Watch { progress: Rc::clone(&progress), link, limit, alarm, since };
        (Self { inner: Some(inner), left, watch: Some(watch) }, Some(progress))
    }

    /// The body of a request that has none.
    pub(super) fn nothing() -> Self {
        Self { inner: None, left: 0, watch: None }
    }

    /// Whether there is nothing to come, and never was.
    pub(super) fn is_nothing(&self) -> bool {
        self.inner.is_none()
    }

    fn fail(&self, reason: Reason) -> io::Error {
        if let Some(watch) = &self.watch {
            watch.progress.fault.set(Some(reason));
        }
        io::Error::other(reason.name())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.progress.over.set(true);
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let polled = Pin::new(inner).poll_frame(cx);
        let Some(watch) = &mut this.watch else { return polled.map_err(io::Error::other) };
        let Poll::Ready(frame) = polled else {
            ready!(watch.alarm.poll(cx, watch.since + watch.limit));
            return Poll::Ready(Some(Err(this.fail(Reason::BodyTimeout))));
        };
        watch.since = clock::tick();
        watch.progress.last.set(watch.since);
        match frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                match this.left.checked_sub(length) {
                    Some(left) => this.left = left,
                    None => return Poll::Ready(Some(Err(this.fail(Reason::BodyTooLarge)))),
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(_)) => {
                let reason = watch.link.body_fault().unwrap_or(Reason::ClientGone);
                Poll::Ready(Some(Err(this.fail(reason))))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum AnswerBody {
    /// The proxy's own word.
    Own(Option<Bytes>),
    /// The server's.
    Server(ServerBody),
}

/// The body of a server's answer, and what is to be done at its end.
#[derive(Debug)]
pub(super) struct ServerBody {
    inner: Incoming,
    exchange: Option<Box<Exchange>>,
    /// Nothing for HTTP/1, where a client that takes nothing lets the stream be stuck.
    held: Option<Held>,
    limit: Duration,
    alarm: Alarm,
    silent_since: Option<Instant>,
    /// What is wrong, when the client has yet to get what came before.
    failure: Option<io::Error>,
}

impl AnswerBody {
    /// Passes on what a server sends, with at most `limit` between two pieces.
    pub(super) fn of_server(inner: Incoming, exchange: Box<Exchange>, limit: Duration) -> Self {
        if inner.is_end_stream() {
            exchange.finish(Reason::Answered);
            return Self::Own(None);
        }
        let alarm = Alarm::default();
        let connection = &exchange.connection;
        let held = (!connection.is_http1).then(|| Held::new(&connection.link));
        let exchange = Some(exchange);
        let (silent_since, failure) = (None, None);
        Self::Server(ServerBody { inner, exchange, held, limit, alarm, silent_since, failure })
    }
}

impl ServerBody {
    fn finish(&mut self, reason: Reason) {
        self.held = None;
        if let Some(exchange) = self.exchange.take() {
            exchange.finish(reason);
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(failure) = self.failure.take() {
            self.finish(Reason::AnswerCut);
            return Poll::Ready(Some(Err(failure)));
        }
        let lease = self.exchange.as_mut().and_then(|exchange| exchange.lease.as_mut());
        let polled = match lease {
            Some(lease) => lease.poll_body(cx, &mut self.inner),
            None => Pin::new(&mut self.inner).poll_frame(cx),
        };
        if let Some(held) = &mut self.held {
            held.asked(polled.is_ready());
        }
        let Poll::Ready(frame) = polled else {
            let since = *self.silent_since.get_or_insert_with(clock::tick);
            ready!(self.alarm.poll(cx, since + self.limit));
            self.finish(Reason::AnswerBodyTimeout);
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        };
        self.silent_since = None;
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                // Nobody asks again after the last of a known length, or after trailers.
                if self.inner.is_end_stream() || frame.is_trailers() {
                    self.finish(Reason::Answered);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                // An error ends the connection at once: what is there is written first.
                self.failure = Some(io::Error::other(error));
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => {
                self.finish(Reason::Answered);
                None
            }
        })
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Server(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Server(body) => body.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Server(body) => body.inner.size_hint(),
        }
    }
}
