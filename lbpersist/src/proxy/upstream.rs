//! Connections to servers: opened, told whose they are, and kept for the next request.
//!
//! A worker has its own; nothing crosses threads. An HTTP/1 connection has no task either, as long as nothing has to be sent
//! while an answer comes: whoever waits for something of it drives it, and while it is kept nobody does but [`Pool::sweep`]. A connection that carries a client's address, by PROXY protocol header or
//! as its source, serves that client's connection alone. What comes back to be kept has carried a whole answer: one that
//! was cut, or has something left to read, is closed by the parser's own rules and thrown away when it is next looked at.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::{Future as _, poll_fn},
    io, mem,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
    rt::Executor,
};
use hyper_util::rt::TokioTimer;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
    task::spawn_local,
    time::{Instant, timeout},
};

use super::{
    again::Spare,
    body::ClientBody,
    proxy_protocol::{self, Addresses},
    stream::ServerStream,
};
use crate::{
    clock,
    model::{LinkSettings, ServerProtocol},
};

/// Connections without a request, by server and protocol.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: RefCell<HashMap<(SocketAddr, ServerProtocol), Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    until: Instant,
}

impl Pool {
    /// Takes a connection that is ready for a request, the one that was used last.
    pub(super) fn take(&self, server: SocketAddr, protocol: ServerProtocol) -> Option<Lease> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(&(server, protocol))?;
        let now = clock::tick();
        let mut place = kept.len();
        while place > 0 {
            place -= 1;
            let one = &kept[place];
            if one.sender.is_closed() || one.until <= now {
                kept.swap_remove(place);
            } else if one.sender.is_ready() {
                // Requests share an HTTP/2 connection, so that stays where it is.
                let sender = one.sender.shared().unwrap_or_else(|| kept.remove(place).sender);
                return Some(Lease { server, sender, reused: true });
            }
        }
        None
    }

    /// Keeps a connection for `time`, unless `most` are kept already.
    pub(super) fn put(&self, mut lease: Lease, most: usize, time: Duration) {
        if !lease.may_be_kept() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let kept = idle.entry((lease.server, lease.sender.protocol())).or_default();
        let until = clock::tick() + time;
        if let Sender::Http2(_) = lease.sender {
            if lease.reused {
                // It is there already, and has just been of use.
                kept.iter_mut().for_each(|one| one.until = until);
            } else {
                kept.push(Idle { sender: lease.sender, until });
            }
        } else if kept.len() < most {
            kept.push(Idle { sender: lease.sender, until });
        }
    }

    /// Forgets those that were closed or not used for too long.
    pub(super) fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|_, kept| {
            kept.retain_mut(|one| {
                one.sender.drive_unwatched();
                one.until > now && !one.sender.is_closed()
            });
            !kept.is_empty()
        });
    }
}

/// A connection in use.
#[derive(Debug)]
pub(super) struct Lease {
    server: SocketAddr,
    sender: Sender,
    /// It has carried a request before, so its server may just have closed it.
    pub(super) reused: bool,
}

/// The end of a connection that takes requests.
#[derive(Debug)]
enum Sender {
    Http1(Box<Http1>),
    Http2(http2::SendRequest<ClientBody>),
}

/// A connection, and what gives it requests.
#[derive(Debug)]
struct Http1 {
    sender: http1::SendRequest<ClientBody>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It goes on when it is driven.
    Open(http1::Connection<ServerStream, ClientBody>),
    /// It goes on by itself.
    Detached,
    /// It has ended as it should: the stream may speak something else now.
    Ended(http1::Connection<ServerStream, ClientBody>),
    Failed,
}

impl Http1 {
    /// Reads and writes what can be. What goes wrong is told to whoever waits for an answer, or concerns nobody.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let State::Open(connection) = &mut self.state else { return };
        if let Poll::Ready(ended) = connection.poll_without_shutdown(cx) {
            self.state = match (ended, mem::replace(&mut self.state, State::Failed)) {
                (Ok(()), State::Open(connection)) => State::Ended(connection),
                _ => State::Failed,
            };
        }
    }

    fn is_closed(&self) -> bool {
        matches!(self.state, State::Ended(_) | State::Failed) || self.sender.is_closed()
    }

    /// Lets go of a connection that has ended: what it was given but never sent comes back. Says whether anything of an
    /// answer had been read from it.
    fn drop_ended(&mut self) -> bool {
        match mem::replace(&mut self.state, State::Failed) {
            State::Ended(connection) => !connection.into_parts().read_buf.is_empty(),
            other => {
                self.state = other;
                false
            }
        }
    }
}

impl Sender {
    fn protocol(&self) -> ServerProtocol {
        match self {
            Self::Http1(..) => ServerProtocol::Http1,
            Self::Http2(_) => ServerProtocol::H2,
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(one) => one.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    fn is_ready(&self) -> bool {
        match self {
            Self::Http1(one) => !one.is_closed() && one.sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }

    /// Lets a connection do what it can without being waited for.
    fn drive_unwatched(&mut self) {
        if let Self::Http1(one) = self {
            one.drive(&mut Context::from_waker(Waker::noop()));
        }
    }

    fn shared(&self) -> Option<Self> {
        match self {
            Self::Http1(..) => None,
            Self::Http2(sender) => Some(Self::Http2(sender.clone())),
        }
    }
}

/// A request that was not answered.
#[derive(Debug)]
pub(super) struct Unanswered {
    /// It comes back if nothing of it was sent.
    pub(super) back: Option<Box<Request<ClientBody>>>,
    how: How,
}

/// What is known of a request that was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// The server has said that it did nothing with it.
    Refused,
    /// The connection was closed before it brought anything of an answer.
    Silent,
    /// What came was wrong.
    Wrong,
}

impl Unanswered {
    fn new(mut error: TrySendError<Request<ClientBody>>, has_answer: bool) -> Self {
        let back = error.take_message().map(Box::new);
        let how = if has_answer { How::Wrong } else { how(error.error()) };
        Self { back, how }
    }

    /// Whether the same request may be sent over another connection.
    pub(super) fn may_ask_again(&self, spare: &Spare) -> bool {
        match self.how {
            How::Refused => true,
            How::Silent => spare.may_repeat,
            How::Wrong => false,
        }
    }
}

/// What an error says of the request that got it.
fn how(error: &hyper::Error) -> How {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<h2::Error>() {
            return how_http2(cause);
        }
        if let Some(cause) = cause.downcast_ref::<io::Error>() {
            return how_closed(cause);
        }
        source = cause.source();
    }
    // The second is what a stream says whose connection ended before it could be opened.
    if error.is_incomplete_message() || error.is_user() { How::Silent } else { How::Wrong }
}

fn how_closed(error: &io::Error) -> How {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    match error.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset => How::Silent,
        _ => How::Wrong,
    }
}

/// RFC 9113, section 8.7: neither a refused stream nor one above the last of a GOAWAY was looked at. Those up to the last
/// do not end by it, but are answered, or see the connection close.
fn how_http2(error: &h2::Error) -> How {
    if let Some(closed) = error.get_io() {
        return how_closed(closed);
    }
    let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    if error.is_remote() && (error.is_go_away() || is_refused) { How::Refused } else { How::Wrong }
}

impl Lease {
    /// Speaks HTTP on a stream to a server.
    pub(super) async fn new(
        server: SocketAddr,
        stream: TcpStream,
        protocol: ServerProtocol,
    ) -> hyper::Result<Self> {
        let io = ServerStream::new(stream);
        let sender = match protocol {
            ServerProtocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                Sender::Http1(Box::new(Http1 { sender, state: State::Open(connection) }))
            }
            ServerProtocol::H2 => {
                let (sender, connection) = http2::Builder::new(Local)
                    .timer(TokioTimer::new())
                    .adaptive_window(true)
                    .handshake(io)
                    .await?;
                spawn_local(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Self { server, sender, reused: false })
    }

    /// Sends a request and waits for the header of its answer.
    pub(super) async fn send(
        &mut self,
        request: Box<Request<ClientBody>>,
    ) -> Result<Response<Incoming>, Unanswered> {
        match &mut self.sender {
            Sender::Http1(one) => {
                let mut answer = pin!(one.sender.try_send_request(*request));
                // What the answer waits for is done by driving the connection.
                let unwatched = &mut Context::from_waker(Waker::noop());
                let answer = poll_fn(|cx| {
                    one.drive(cx);
                    let polled = answer.as_mut().poll(unwatched);
                    if polled.is_pending() && matches!(one.state, State::Ended(_)) {
                        // Its server had closed it: the request is still in its queue, where nobody will look any more.
                        one.drop_ended();
                        return answer.as_mut().poll(unwatched);
                    }
                    polled
                });
                let answer = answer.await;
                answer.map_err(|error| Unanswered::new(error, one.drop_ended()))
            }
            Sender::Http2(sender) => {
                let answer = sender.try_send_request(*request).await;
                answer.map_err(|error| Unanswered::new(error, false))
            }
        }
    }

    /// Asks for more of the body of an answer.
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Incoming,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Sender::Http1(one) = &mut self.sender else { return Pin::new(body).poll_frame(cx) };
        // A small body has come with the header.
        let unwatched = &mut Context::from_waker(Waker::noop());
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(unwatched) {
            return Poll::Ready(frame);
        }
        one.drive(cx);
        Pin::new(body).poll_frame(unwatched)
    }

    /// Whether it will take another request without being driven.
    fn may_be_kept(&mut self) -> bool {
        // It may have to note first that the one before is over.
        if !self.sender.is_ready() {
            self.sender.drive_unwatched();
        }
        let goes_on = match &self.sender {
            Sender::Http1(one) => matches!(one.state, State::Detached),
            Sender::Http2(_) => true,
        };
        !self.sender.is_closed() && (goes_on || self.sender.is_ready())
    }

    /// Has the connection go on by itself: there is more of the request to be sent, whether or not anybody takes the answer.
    pub(super) fn detach(&mut self) {
        let Sender::Http1(one) = &mut self.sender else { return };
        if let State::Open(mut connection) = mem::replace(&mut one.state, State::Detached) {
            // What goes wrong is told to whoever waits for an answer, or concerns nobody.
            spawn_local(async move {
                let _ = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
            });
        }
    }

    /// Gives the stream itself and what was read from it, once the server has agreed to another protocol. Nothing for HTTP/2.
    pub(super) async fn upgraded(self) -> Option<(TcpStream, Bytes)> {
        let Sender::Http1(mut one) = self.sender else { return None };
        let connection = poll_fn(|cx| {
            one.drive(cx);
            match mem::replace(&mut one.state, State::Failed) {
                State::Ended(connection) => Poll::Ready(Some(connection)),
                State::Open(connection) => {
                    one.state = State::Open(connection);
                    Poll::Pending
                }
                State::Detached | State::Failed => Poll::Ready(None),
            }
        });
        let parts = connection.await?.into_parts();
        Some((parts.io.into_inner(), parts.read_buf))
    }
}

/// Opens a connection to a server on behalf of a client.
pub(super) async fn connect(
    server: SocketAddr,
    link: &LinkSettings,
    client: Addresses,
) -> io::Result<TcpStream> {
    timeout(link.connect_timeout, open(server, link, client))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn open(server: SocketAddr, link: &LinkSettings, client: Addresses) -> io::Result<TcpStream> {
    let socket = if link.transparent && server.is_ipv4() == client.source.is_ipv4() {
        transparent(client.source)?
    } else if server.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_nodelay(true)?;
    let mut stream = socket.connect(server).await?;
    if let Some(version) = link.proxy_protocol_send {
        stream.write_all(&proxy_protocol::write(version, client)).await?;
    }
    Ok(stream)
}

/// A socket with somebody else's address as its own.
fn transparent(source: SocketAddr) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(source), Type::STREAM, Some(Protocol::TCP))?;
    // On Linux the option of IPv4 holds for the whole socket, of whichever family it is.
    socket.set_ip_transparent_v4(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(source.ip(), 0).into())?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Runs what HTTP/2 connections need run on the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local;

impl<F> Executor<F> for Local
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}
