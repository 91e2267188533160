//! Connections to servers: opened, told whose they are, and kept for the next request.
//!
//! A worker has its own; nothing crosses threads. A connection that carries a client's address, by PROXY protocol header or
//! as its source, serves that client's connection alone. What comes back to be kept has carried a whole answer: one that
//! was cut, or has something left to read, is closed by the parser's own rules and thrown away when it is next looked at.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
    sync::oneshot,
    task::spawn_local,
    time::{Instant, timeout},
};

use super::{
    body::ClientBody,
    proxy_protocol::{self, Addresses},
};
use crate::model::{LinkSettings, ServerProtocol};

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
        let now = Instant::now();
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
    pub(super) fn put(&self, lease: Lease, most: usize, time: Duration) {
        if lease.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let kept = idle.entry((lease.server, lease.sender.protocol())).or_default();
        let until = Instant::now() + time;
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
            kept.retain(|one| one.until > now && !one.sender.is_closed());
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
    Http1(http1::SendRequest<ClientBody>, Upgrade),
    Http2(http2::SendRequest<ClientBody>),
}

/// The stream itself, and what was read from it, for when the server agrees to another protocol.
#[derive(Debug)]
struct Upgrade {
    wanted: Rc<Cell<bool>>,
    stream: oneshot::Receiver<(TcpStream, Bytes)>,
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
            Self::Http1(sender, _) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender, _) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }

    fn shared(&self) -> Option<Self> {
        match self {
            Self::Http1(..) => None,
            Self::Http2(sender) => Some(Self::Http2(sender.clone())),
        }
    }
}

/// A request that was not answered; it comes back if nothing of it was sent.
pub(super) type Unanswered = TrySendError<Request<ClientBody>>;

impl Lease {
    /// Speaks HTTP on a stream to a server.
    pub(super) async fn new(
        server: SocketAddr,
        stream: TcpStream,
        protocol: ServerProtocol,
    ) -> hyper::Result<Self> {
        let io = TokioIo::new(stream);
        let sender = match protocol {
            ServerProtocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                let (wants, stream) = oneshot::channel();
                let wanted = Rc::new(Cell::new(false));
                spawn_local(run(connection, Rc::clone(&wanted), wants));
                let upgrade = Upgrade { wanted, stream };
                Sender::Http1(sender, upgrade)
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
        request: Request<ClientBody>,
    ) -> Result<Response<Incoming>, Box<Unanswered>> {
        let answer = match &mut self.sender {
            Sender::Http1(sender, _) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        };
        answer.map_err(Box::new)
    }

    /// Gives the stream itself, once the server has agreed to another protocol; nothing for HTTP/2.
    pub(super) fn upgraded(self) -> Option<oneshot::Receiver<(TcpStream, Bytes)>> {
        match self.sender {
            Sender::Http1(_, upgrade) => Some(upgrade.stream),
            Sender::Http2(_) => None,
        }
    }

    /// Keeps the stream if the server agrees to another protocol: it ends as an HTTP connection then.
    pub(super) fn expect_upgrade(&self) {
        if let Sender::Http1(_, upgrade) = &self.sender {
            upgrade.wanted.set(true);
        }
    }
}

async fn run(
    mut connection: http1::Connection<TokioIo<TcpStream>, ClientBody>,
    wanted: Rc<Cell<bool>>,
    stream: oneshot::Sender<(TcpStream, Bytes)>,
) {
    // What goes wrong here has been told to whoever waited for an answer, or concerns nobody.
    let ended = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    if wanted.get() && ended.is_ok() {
        let parts = connection.into_parts();
        // If nobody wants it any more, it is closed.
        let _ = stream.send((parts.io.into_inner(), parts.read_buf));
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
