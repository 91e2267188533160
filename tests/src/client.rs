//! Real clients: each question is a connection (or datagram) from the address that was asked for, bounded in time.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream as StdTcpStream},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time,
};

use crate::{addresses::Family, namespace::Namespace};

/// How long a question may take. A lost SYN is sent again after a second, and once more two seconds later.
pub const TIMEOUT: Duration = Duration::from_secs(4);

/// Questions under way at a time.
const CONCURRENCY: usize = 64;

/// Who answered a client, and whom they saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The server's name.
    pub server: String,
    /// The address and port the server saw.
    pub peer: SocketAddr,
}

/// How a question travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// An HTTP request on a TCP connection of its own.
    Http,
    /// One datagram there and one back.
    Udp,
}

/// Asks once, over HTTP, from an address of the namespace.
pub fn ask(namespace: &Namespace, from: IpAddr, to: SocketAddr) -> io::Result<Answer> {
    ask_many(namespace, Transport::Http, [(from, to)]).remove(0)
}

/// Asks once, over UDP, from an address of the namespace and a new port.
pub fn ask_udp(namespace: &Namespace, from: IpAddr, to: SocketAddr) -> io::Result<Answer> {
    ask_many(namespace, Transport::Udp, [(from, to)]).remove(0)
}

/// Asks once for each pair, many at a time, and returns the answers in the order of the questions.
pub fn ask_many(
    namespace: &Namespace,
    transport: Transport,
    questions: impl IntoIterator<Item = (IpAddr, SocketAddr)>,
) -> Vec<io::Result<Answer>> {
    let questions: Vec<_> = questions.into_iter().collect();
    namespace.run(|| runtime().block_on(ask_all(transport, questions)))
}

/// An HTTP connection that is kept open.
#[derive(Debug)]
pub struct Held {
    stream: StdTcpStream,
    to: SocketAddr,
    /// What was answered when it was opened.
    pub first: Answer,
}

impl Held {
    /// Opens a connection from an address of the namespace and asks once.
    pub fn open(namespace: &Namespace, from: IpAddr, to: SocketAddr) -> io::Result<Self> {
        let stream = namespace
            .run(|| runtime().block_on(async { bounded(connect(from, to)).await?.into_std() }))?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let first = ask_on(&stream, to)?;
        Ok(Self { stream, to, first })
    }

    /// Asks again on the same connection.
    pub fn ask(&self) -> io::Result<Answer> {
        ask_on(&self.stream, self.to)
    }

    /// Waits for the server to say something more, or to be gone.
    pub fn wait(&self, time: Duration) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(time))?;
        let result = (&self.stream).read(&mut [0]);
        self.stream.set_read_timeout(Some(TIMEOUT))?;
        result
    }

    /// Closes it and waits until the server has closed its side too.
    pub fn close(mut self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)?;
        self.stream.read_to_end(&mut Vec::new())?;
        Ok(())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs no more than a few descriptors")
}

async fn ask_all(
    transport: Transport,
    questions: Vec<(IpAddr, SocketAddr)>,
) -> Vec<io::Result<Answer>> {
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    let mut answers: Vec<_> = questions.iter().map(|_| Err(io::ErrorKind::Other.into())).collect();
    let mut asking = JoinSet::new();
    for (number, (from, to)) in questions.into_iter().enumerate() {
        let permits = Arc::clone(&permits);
        asking.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let answer = match transport {
                Transport::Http => bounded(ask_http(from, to)).await,
                Transport::Udp => bounded(ask_datagram(from, to)).await,
            };
            (number, answer)
        });
    }
    while let Some(Ok((number, answer))) = asking.join_next().await {
        answers[number] = answer;
    }
    answers
}

async fn bounded<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    time::timeout(TIMEOUT, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

pub(crate) async fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

async fn ask_http(from: IpAddr, to: SocketAddr) -> io::Result<Answer> {
    let mut stream = connect(from, to).await?;
    stream.write_all(request(to, "close").as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let (_, body) = response.split_once("\r\n\r\n").ok_or_else(|| invalid(&response))?;
    parse(body, stream.local_addr()?)
}

async fn ask_datagram(from: IpAddr, to: SocketAddr) -> io::Result<Answer> {
    let socket = UdpSocket::bind(SocketAddr::new(from, 0)).await?;
    // A connected socket takes answers from the asked address only.
    socket.connect(to).await?;
    socket.send(b"who are you?").await?;
    let mut answer = [0; 256];
    let length = socket.recv(&mut answer).await?;
    parse(&String::from_utf8_lossy(&answer[..length]), socket.local_addr()?)
}

fn ask_on(mut stream: &StdTcpStream, to: SocketAddr) -> io::Result<Answer> {
    stream.write_all(request(to, "keep-alive").as_bytes())?;
    let mut response = Vec::new();
    let mut part = [0; 512];
    // The body is one line, and no header line ends without a carriage return.
    loop {
        let length = stream.read(&mut part)?;
        response.extend_from_slice(&part[..length]);
        let text = String::from_utf8_lossy(&response);
        match text.split_once("\r\n\r\n") {
            Some((_, body)) if body.ends_with('\n') => return parse(body, stream.local_addr()?),
            _ if length == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
    }
}

pub(crate) fn request(to: SocketAddr, connection: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {to}\r\nConnection: {connection}\r\n\r\n")
}

/// Reads an answer, which must tell this client as the peer, or the balancer by the address it has under masquerade: every other
/// forwarding leaves the source alone.
pub(crate) fn parse(body: &str, local: SocketAddr) -> io::Result<Answer> {
    let (server, peer) = body.trim_end().split_once(' ').ok_or_else(|| invalid(body))?;
    let peer: SocketAddr = peer.parse().map_err(|_| invalid(body))?;
    let own = Family::BOTH.map(Family::masquerade_address);
    if peer != local && !own.contains(&peer.ip()) {
        return Err(invalid(&format!("the server saw {peer}, but the client is {local}")));
    }
    Ok(Answer { server: server.to_owned(), peer })
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// Pings an address from the namespace with `length` bytes of data, and returns what came back of them.
pub fn ping(namespace: &Namespace, to: IpAddr, length: usize) -> io::Result<Vec<u8>> {
    // Everyone may, also those of group 0.
    namespace.sysctl("ipv4/ping_group_range", "0 0").map_err(io::Error::other)?;
    namespace.run(|| {
        let socket = crate::sys::ping_socket(to.is_ipv4())?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.connect(SocketAddr::new(to, 0))?;
        let kind = if to.is_ipv4() { 8 } else { 128 };
        let data: Vec<u8> = (0..length).map(|n| n as u8).collect();
        socket.send(&[&[kind, 0, 0, 0, 0, 0, 0, 1], &data[..]].concat())?;
        let mut answer = vec![0; length + 100];
        let received = socket.recv(&mut answer)?;
        Ok(answer[8..received].to_vec())
    })
}
