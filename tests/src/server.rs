//! Real servers: HTTP/1.1 and UDP echoes that answer with their name and the client they saw.
//!
//! A connection stays open for as long as the client wants, unless it asks for `Connection: close`. Killing a server closes what it
//! listens on and resets what is open, as the kernel does for a process that was killed.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::oneshot,
};

use crate::namespace::Namespace;

/// The longest request that is read.
const REQUEST_LIMIT: usize = 8192;

/// Where a server listens: every address with every port.
#[derive(Clone, Debug, Default)]
pub struct Listen {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Ports for HTTP.
    pub tcp: Vec<u16>,
    /// Ports for UDP.
    pub udp: Vec<u16>,
}

/// A server on a thread of this process, with its sockets in a namespace. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    name: Arc<str>,
    namespace: Namespace,
    listen: Listen,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    // Dropped to end the thread.
    _stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Server {
    /// Starts a server; its ports are open when this returns.
    pub fn start(name: &str, namespace: &Namespace, listen: Listen) -> Result<Self> {
        let mut server =
            Self { name: name.into(), namespace: namespace.clone(), listen, running: None };
        server.start_again()?;
        Ok(server)
    }

    /// The name it answers with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Closes what it listens on and resets every connection; all of that is done when this returns.
    pub fn kill(&mut self) {
        if let Some(Running { _stop: stop, thread }) = self.running.take() {
            drop(stop);
            // A panic of the thread has been printed, and a dead server is what was asked for.
            let _ = thread.join();
        }
    }

    /// Starts it again after [`Self::kill`].
    pub fn start_again(&mut self) -> Result<()> {
        self.kill();
        let sockets = self
            .namespace
            .run(|| Sockets::bind(&self.listen))
            .with_context(|| format!("server {}", self.name))?;
        let (stop, stopped) = oneshot::channel();
        let name = Arc::clone(&self.name);
        let thread = thread::Builder::new()
            .name(format!("server {name}"))
            .spawn(move || serve(&name, sockets, stopped).expect("the server runs"))?;
        self.running = Some(Running { _stop: stop, thread });
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Serves in this process and namespace until it is killed.
pub fn serve_forever(name: &str, listen: &Listen) -> Result<()> {
    let (_stop, stopped) = oneshot::channel();
    serve(&name.into(), Sockets::bind(listen)?, stopped)?;
    Ok(())
}

/// Sockets that are bound but belong to no runtime yet.
struct Sockets {
    listeners: Vec<StdTcpListener>,
    datagrams: Vec<StdUdpSocket>,
}

impl Sockets {
    fn bind(listen: &Listen) -> Result<Self> {
        let mut sockets = Self { listeners: Vec::new(), datagrams: Vec::new() };
        for &address in &listen.addresses {
            for &port in &listen.tcp {
                let socket = SocketAddr::new(address, port);
                let listener = StdTcpListener::bind(socket)
                    .with_context(|| format!("listening on TCP {socket}"))?;
                listener.set_nonblocking(true)?;
                sockets.listeners.push(listener);
            }
            for &port in &listen.udp {
                let socket = SocketAddr::new(address, port);
                let datagrams = StdUdpSocket::bind(socket)
                    .with_context(|| format!("listening on UDP {socket}"))?;
                datagrams.set_nonblocking(true)?;
                sockets.datagrams.push(datagrams);
            }
        }
        Ok(sockets)
    }
}

fn serve(name: &Arc<str>, sockets: Sockets, stopped: oneshot::Receiver<()>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // When the runtime goes, so do its tasks, and with them every socket.
    runtime.block_on(async {
        for listener in sockets.listeners {
            tokio::spawn(accept(Arc::clone(name), TcpListener::from_std(listener)?));
        }
        for datagrams in sockets.datagrams {
            tokio::spawn(echo(Arc::clone(name), UdpSocket::from_std(datagrams)?));
        }
        // Both a word and a dropped sender mean the end.
        let _ = stopped.await;
        Ok(())
    })
}

async fn accept(name: Arc<str>, listener: TcpListener) {
    // An accept may fail because its client has given up: the next one is none the worse.
    loop {
        if let Ok((stream, peer)) = listener.accept().await {
            let connection = Connection { stream, finished: false };
            tokio::spawn(connection.serve(Arc::clone(&name), peer));
        }
    }
}

async fn echo(name: Arc<str>, socket: UdpSocket) {
    let mut question = [0; 2048];
    loop {
        if let Ok((_, peer)) = socket.recv_from(&mut question).await {
            // A client that is gone needs no answer.
            let _ = socket.send_to(format!("{name} {peer}\n").as_bytes(), peer).await;
        }
    }
}

/// A connection that is reset when it is dropped before its end.
struct Connection {
    stream: TcpStream,
    finished: bool,
}

impl Connection {
    async fn serve(mut self, name: Arc<str>, peer: SocketAddr) {
        // What goes wrong with a connection is for its client to tell.
        let _ = self.answer_all(&name, peer).await;
        self.finished = true;
    }

    async fn answer_all(&mut self, name: &str, peer: SocketAddr) -> io::Result<()> {
        let mut request = Vec::with_capacity(512);
        loop {
            request.clear();
            while !request.ends_with(b"\r\n\r\n") {
                let ended = self.stream.read_buf(&mut request).await? == 0;
                if ended || request.len() > REQUEST_LIMIT {
                    return Ok(());
                }
            }
            let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
            let last = text.contains("\r\nconnection: close\r\n");
            self.stream.write_all(answer(name, peer, last).as_bytes()).await?;
            if last {
                return Ok(());
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.finished {
            // The socket is closed right after; without this it would say a polite goodbye.
            let _ = self.stream.set_zero_linger();
        }
    }
}

fn answer(name: &str, peer: SocketAddr, last: bool) -> String {
    let body = format!("{name} {peer}\n");
    let connection = if last { "close" } else { "keep-alive" };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{body}",
        body.len()
    )
}
