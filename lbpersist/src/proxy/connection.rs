//! A client's connection, from its acceptance to its end.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::Service as HyperService,
};
use hyper_util::rt::TokioTimer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    alarm::Alarm,
    body::AnswerBody,
    counters::Shard,
    exchange::Exchange,
    guard::{Guard, Limits, Link, News},
    headers::Told,
    http::handle,
    proxy_protocol::{self, Addresses},
    reason::Reason,
    relay::{Tally, relay},
    scan::Scanner,
    snapshot::Service,
    taking::Taking,
    tcp,
    upstream::{Local, Pool},
    worker::{Registration, Worker},
};
use crate::{
    model::{Carried, HttpSettings, LinkSettings},
    persistence::{Memory, Tenure},
};

/// How HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long, and for how many bytes, a client may go on sending what nobody reads any more.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// A client's connection of mode `http`.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) worker: Rc<Worker>,
    pub(super) client: Addresses,
    pub(super) link: Rc<Link>,
    pub(super) is_http1: bool,
    shard: Arc<Shard>,
    /// As the newest snapshot that was looked at has it, and which one that was.
    service: RefCell<Arc<Service>>,
    generation: Cell<u64>,
    closing: Cell<bool>,
    /// For the server's time to answer.
    pub(super) alarm: RefCell<Alarm>,
    /// What servers are told of the client.
    pub(super) told: Told,
    /// Its last cookie that was opened.
    pub(super) memory: Memory,
    /// Connections to servers that carry this client's address.
    own: Pool,
    upgraded: RefCell<Option<Box<Exchange>>>,
    /// What it has in the table of those who are kept by address.
    pub(super) tenure: Tenure,
}

impl Connection {
    /// The service as it is now, or as it last was.
    pub(super) fn service(&self) -> Arc<Service> {
        if self.generation.get() != self.worker.generation() {
            self.generation.set(self.worker.generation());
            let name = Arc::clone(&self.service.borrow().name);
            match self.worker.snapshot().services.get(&name) {
                Some(service) if matches!(service.settings, Carried::Http(_)) => {
                    self.service.replace(Arc::clone(service));
                }
                _ => self.closing.set(true),
            }
            if self.worker.is_stopping() {
                self.closing.set(true);
            }
        }
        Arc::clone(&self.service.borrow())
    }

    /// Whether it is to end with the request under way.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// What is counted of its service.
    pub(super) fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Where its connections to servers are kept.
    pub(super) fn pool(&self, link: &LinkSettings) -> &Pool {
        let tells_client = link.transparent || link.proxy_protocol_send.is_some();
        if tells_client { &self.own } else { &self.worker.pool }
    }

    /// Takes an exchange that goes on after HTTP.
    pub(super) fn upgrade(&self, exchange: Box<Exchange>) {
        self.upgraded.replace(Some(exchange));
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(
    worker: Rc<Worker>,
    mut registration: Registration,
    service: Arc<Service>,
    mut stream: TcpStream,
    peer: SocketAddr,
) {
    let shard = Arc::clone(service.counters.shard(worker.number));
    shard.connections.add(1);
    // The service is as it was then; the first request looks whether that has changed.
    let generation = registration.seen();
    if let (Ok(destination), Ok(())) = (stream.local_addr(), stream.set_nodelay(true)) {
        let addresses = Addresses { source: peer, destination };
        let begun = begin(&mut stream, addresses, &service);
        let begun = registration.unless_gone(&service, begun).await;
        match (begun, &service.settings) {
            (None, _) => {}
            (Some(Err(reason)), _) => {
                shard.outcome(reason);
                let _ = stream.set_zero_linger();
            }
            (Some(Ok((addresses, first))), Carried::Tcp(settings)) => {
                // Nobody who is carried is told to go.
                drop(registration);
                let settings = *settings;
                // While the header came, a server may have been taken out.
                let now = worker.snapshot().services.get(&service.name).cloned();
                let now = now.filter(|now| matches!(now.settings, Carried::Tcp(_)));
                let service = now.unwrap_or_else(|| Arc::clone(&service));
                Box::pin(tcp::carry(worker, service, settings, stream, addresses, first)).await;
            }
            (Some(Ok((addresses, first))), Carried::Http(settings)) => {
                let service = Arc::clone(&service);
                let begun = Begun { worker, registration, generation, stream, first };
                http(begun, service, settings, addresses).await;
            }
        }
    }
    shard.closed_connections.add(1);
}

/// Reads the PROXY protocol header where there must be one: whose connection it is, and what else was read.
async fn begin(
    stream: &mut TcpStream,
    addresses: Addresses,
    service: &Service,
) -> Result<(Addresses, Vec<u8>), Reason> {
    let link = service.settings.link();
    if !link.proxy_protocol_receive {
        return Ok((addresses, Vec::new()));
    }
    let mut bytes = Vec::new();
    let read = async {
        loop {
            match proxy_protocol::read(&bytes) {
                Ok(Some(header)) => return Ok(header),
                Ok(None) => {}
                Err(_) => return Err(Reason::BadProxyHeader),
            }
            match stream.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return Err(Reason::BadProxyHeader),
                Ok(_) => {}
            }
        }
    };
    // The proxy before sends it at once.
    let header =
        timeout(link.connect_timeout, read).await.map_err(|_| Reason::BadProxyHeader)??;
    bytes.drain(..header.length);
    Ok((header.addresses.unwrap_or(addresses), bytes))
}

/// A connection that is about to say something.
struct Begun {
    worker: Rc<Worker>,
    registration: Registration,
    /// Which snapshot its service is of.
    generation: u64,
    stream: TcpStream,
    /// What was read already.
    first: Vec<u8>,
}

async fn http(begun: Begun, service: Arc<Service>, settings: &HttpSettings, client: Addresses) {
    let Begun { worker, mut registration, generation, mut stream, mut first } = begun;
    let patience = settings.timeouts.header.min(settings.timeouts.idle);
    let version = timeout(patience, begins_http2(&mut stream, &mut first));
    let Some(Ok(Ok(is_http2))) = registration.unless_gone(&service, version).await else {
        // Who says nothing, or goes at once, has not asked for anything.
        return;
    };
    let limits = Limits {
        header: settings.timeouts.header,
        body: settings.timeouts.body,
        idle: settings.timeouts.idle,
        write: settings.timeouts.write,
    };
    let link = Link::new(limits);
    link.received.set(first.len() as u64);
    let max_header = settings.max_header_bytes as usize;
    let scanner = (!is_http2).then(|| Scanner::new(max_header));
    let guard = Guard::new(stream, Rc::clone(&link), scanner, first);
    let connection = Rc::new(Connection {
        shard: Arc::clone(service.counters.shard(worker.number)),
        generation: Cell::new(generation),
        closing: Cell::new(worker.is_stopping()),
        alarm: RefCell::default(),
        told: Told::of(client.source.ip()),
        memory: Memory::default(),
        service: RefCell::new(service),
        own: Pool::default(),
        upgraded: RefCell::new(None),
        tenure: Tenure::default(),
        is_http1: !is_http2,
        client,
        link: Rc::clone(&link),
        worker,
    });
    if is_http2 {
        // Larger than the other, which is not to take as much memory.
        Box::pin(http2(&connection, settings, guard, registration)).await;
    } else {
        http1(&connection, settings, guard, registration).await;
    }
    connection.shard.received_bytes.add(link.received.get());
    connection.shard.sent_bytes.add(link.sent.get());
}

/// Reads until it is clear whether the client speaks HTTP/2.
async fn begins_http2(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        if !PREFACE.starts_with(&bytes[..bytes.len().min(PREFACE.len())]) {
            return Ok(false);
        }
        if bytes.len() >= PREFACE.len() {
            return Ok(true);
        }
        bytes.reserve(4096);
        if stream.read_buf(bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Serves a client of HTTP/1. A client that is quiet has no parser.
async fn http1(
    connection: &Rc<Connection>,
    settings: &HttpSettings,
    mut guard: Guard,
    mut registration: Registration,
) {
    loop {
        let (ended, parts) =
            Box::pin(parse_http1(connection, settings, guard, &mut registration)).await;
        match ended {
            // Nothing else of it is kept: even an empty buffer holds on to its memory.
            Ended::Quiet if parts.read_buf.is_empty() => guard = into_io(parts),
            Ended::Quiet | Ended::Gone => return,
            // Seldom, and large.
            Ended::Parser(ended) => {
                return Box::pin(end_http1(connection, settings, ended, parts)).await;
            }
        }
        poll_fn(|cx| {
            if registration.poll(cx).is_ready() {
                connection.service();
                if connection.is_closing() {
                    return Poll::Ready(());
                }
            }
            guard.poll_rest(cx)
        })
        .await;
    }
}

/// Why there is nothing more to parse.
enum Ended {
    Parser(hyper::Result<()>),
    /// The client has reset the connection while it waited for its answer.
    Gone,
    /// For now.
    Quiet,
}

type Parts = http1::Parts<Guard, Requests>;

/// The stream alone.
fn into_io(parts: Parts) -> Guard {
    parts.io
}

/// Serves a client until it says nothing more.
async fn parse_http1(
    connection: &Rc<Connection>,
    settings: &HttpSettings,
    guard: Guard,
    registration: &mut Registration,
) -> (Ended, Parts) {
    let buffer = (settings.max_header_bytes as usize).max(64 << 10) + (16 << 10);
    let stream = guard.stream();
    let link = &connection.link;
    // Which request was under way when the client had sent more: its end cannot be seen before that is read.
    let mut news_during = None;
    let mut serving = http1::Builder::new()
        .header_read_timeout(None)
        // Whether a client that waits is still there is looked at below: the parser would make a buffer for that.
        .half_close(true)
        .max_buf_size(buffer)
        .serve_connection(guard, Requests(Rc::clone(connection)));
    if connection.is_closing() {
        Pin::new(&mut serving).graceful_shutdown();
    }
    let ended = poll_fn(|cx| {
        if registration.poll(cx).is_ready() {
            connection.service();
            if connection.is_closing() {
                Pin::new(&mut serving).graceful_shutdown();
            }
        }
        if let Poll::Ready(ended) = serving.poll_without_shutdown(cx) {
            return Poll::Ready(Ended::Parser(ended));
        }
        if link.is_quiet() {
            return Poll::Ready(Ended::Quiet);
        }
        if link.client_waits() && news_during != Some(link.begun()) {
            match stream.poll_news(cx) {
                Poll::Ready(News::Gone) => return Poll::Ready(Ended::Gone),
                Poll::Ready(News::Unread) => news_during = Some(link.begun()),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    })
    .await;
    (ended, serving.into_parts())
}

/// Ends a connection as what came last asks for.
async fn end_http1(
    connection: &Connection,
    settings: &HttpSettings,
    ended: hyper::Result<()>,
    parts: Parts,
) {
    drop(parts.service);
    match (ended, connection.upgraded.take()) {
        (Ok(()), Some(exchange)) => {
            let idle = settings.timeouts.upgraded;
            carry_upgraded(connection, exchange, parts.io, parts.read_buf, idle).await;
        }
        (Ok(()), None) => linger(parts.io).await,
        (Err(error), _) if error.is_parse() => connection.shard.outcome(Reason::Malformed),
        (Err(_), _) => {}
    }
}

/// Carries what follows the agreement to another protocol.
async fn carry_upgraded(
    connection: &Connection,
    mut exchange: Box<Exchange>,
    guard: Guard,
    parsed: Bytes,
    idle: Duration,
) {
    let server = match exchange.lease.take() {
        Some(lease) => lease.upgraded().await,
        None => None,
    };
    let Some((mut server, from_server)) = server else {
        return exchange.finish(Reason::BadAnswer);
    };
    let (mut client, rest) = guard.into_parts();
    let from_client = [&parsed[..], &rest].concat();
    let carried = Tally::default();
    let first = [&from_client[..], &from_server[..]];
    let ended = relay(&mut client, &mut server, first, idle, &carried).await;
    let link = &connection.link;
    link.received.set(link.received.get() + carried.received.get());
    link.sent.set(link.sent.get() + carried.sent.get());
    exchange.finish(ended.err().unwrap_or(Reason::Upgraded));
}

/// Closes a stream so that the client has time to read what it was sent: a socket that is closed with bytes unread is reset,
/// and what was under way is lost (RFC 9112, section 9.6).
async fn linger(guard: Guard) {
    if guard.has_ended() {
        return;
    }
    let (mut stream, _) = guard.into_parts();
    let drain = async {
        stream.shutdown().await?;
        let mut unread = 0;
        let mut scratch = [0; 4096];
        while unread < LINGER_BYTES {
            match stream.read(&mut scratch).await? {
                0 => break,
                length => unread += length,
            }
        }
        io::Result::Ok(())
    };
    // Whatever happens, the stream is closed now.
    let _ = timeout(LINGER, drain).await;
}

async fn http2(
    connection: &Rc<Connection>,
    settings: &HttpSettings,
    guard: Guard,
    mut registration: Registration,
) {
    let mut serving = pin!(
        http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.max_streams)
            .max_header_list_size(settings.max_header_bytes)
            .adaptive_window(true)
            .serve_connection(guard, Requests(Rc::clone(connection)))
    );
    let (mut idle, mut leaving) = (Alarm::default(), Alarm::default());
    let mut taking = Taking::default();
    let mut leaves_by: Option<Instant> = None;
    let link = &connection.link;
    let ended = poll_fn(|cx| {
        if registration.poll(cx).is_ready() {
            connection.service();
        }
        if let Poll::Ready(ended) = serving.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        if taking.poll(cx, link).is_ready() {
            return Poll::Ready(None);
        }
        let is_idle =
            link.is_idle() && idle.poll(cx, link.idle_since() + settings.timeouts.idle).is_ready();
        if leaves_by.is_none() && (is_idle || connection.is_closing()) {
            leaves_by = Some(Instant::now() + settings.timeouts.header);
            serving.as_mut().graceful_shutdown();
            // What the end means for the stream shows when it is polled again.
            cx.waker().wake_by_ref();
        }
        match leaves_by {
            // Who was told to leave and has nothing under way has had time to go.
            Some(by) if link.is_idle() => leaving.poll(cx, by).map(|()| None),
            _ => Poll::Pending,
        }
    })
    .await;
    if let Some(Err(error)) = ended
        && is_protocol_error(&error)
    {
        connection.shard.outcome(Reason::Malformed);
    }
}

/// Whether the client broke the rules of HTTP/2, rather than the connection.
fn is_protocol_error(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<io::Error>() {
            return false;
        }
        source = cause.source();
    }
    !error.is_canceled() && !error.is_closed()
}

/// What the HTTP server asks.
struct Requests(Rc<Connection>);

impl HyperService<Request<Incoming>> for Requests {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(handle(Rc::clone(&self.0), request))
    }
}
