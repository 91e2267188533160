//! Servers whose health is what a test says, from one moment to the next: for monitors, not for clients.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::oneshot,
};

use crate::namespace::Namespace;

/// The longest question that is read, in bytes.
const QUESTION_LIMIT: usize = 8192;

/// A server on a thread of this process, with its sockets in a namespace. Dropping it ends it.
#[derive(Debug)]
pub struct Patient {
    says: Arc<Mutex<Says>>,
    // Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What it says to whoever asks.
#[derive(Clone, Debug)]
struct Says {
    http: String,
    /// Nothing is silence.
    udp: Option<Vec<u8>>,
}

impl Patient {
    /// Starts one on an address or on all (`0.0.0.0`, `::`), TCP and UDP; its port is open when this returns. It is well: it
    /// answers HTTP with 200 and `ready`, datagrams with `pong`.
    pub fn start(namespace: &Namespace, address: IpAddr, port: u16) -> Result<Self> {
        let at = SocketAddr::new(address, port);
        let (listener, datagrams) = namespace
            .run(|| -> io::Result<_> {
                let listener = StdTcpListener::bind(at)?;
                let datagrams = StdUdpSocket::bind(at)?;
                listener.set_nonblocking(true)?;
                datagrams.set_nonblocking(true)?;
                Ok((listener, datagrams))
            })
            .with_context(|| format!("listening on {at}"))?;
        let says = Says { http: response("200 OK", "ready\n"), udp: Some(b"pong".to_vec()) };
        let says = Arc::new(Mutex::new(says));
        let (stop, stopped) = oneshot::channel();
        let answers = Arc::clone(&says);
        let thread = thread::Builder::new()
            .name(format!("patient {at}"))
            .spawn(move || serve(&answers, listener, datagrams, stopped).expect("it runs"))?;
        Ok(Self { says, stop: Some(stop), thread: Some(thread) })
    }

    /// From now on HTTP requests are answered with this.
    pub fn says_http(&self, status: &str, body: &str) {
        self.change(|says| says.http = response(status, body));
    }

    /// From now on datagrams are answered with this, or by silence.
    pub fn says_udp(&self, answer: Option<&[u8]>) {
        self.change(|says| says.udp = answer.map(<[u8]>::to_vec));
    }

    fn change(&self, change: impl FnOnce(&mut Says)) {
        change(&mut self.says.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}

fn response(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

fn serve(
    says: &Arc<Mutex<Says>>,
    listener: StdTcpListener,
    datagrams: StdUdpSocket,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // When the runtime goes, so do its tasks, and with them every socket.
    runtime.block_on(async {
        tokio::spawn(accept(Arc::clone(says), TcpListener::from_std(listener)?));
        tokio::spawn(answer_datagrams(Arc::clone(says), UdpSocket::from_std(datagrams)?));
        // Both a word and a dropped sender mean the end.
        let _ = stopped.await;
        Ok(())
    })
}

async fn accept(says: Arc<Mutex<Says>>, listener: TcpListener) {
    // An accept may fail because its client has given up: the next one is none the worse.
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(Arc::clone(&says), stream));
        }
    }
}

async fn answer(says: Arc<Mutex<Says>>, mut stream: TcpStream) {
    let mut request = Vec::with_capacity(512);
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_buf(&mut request).await {
            Ok(1..) if request.len() <= QUESTION_LIMIT => {}
            _ => return,
        }
    }
    let answer = says.lock().unwrap_or_else(PoisonError::into_inner).http.clone();
    // Whoever asked may be gone.
    let _ = stream.write_all(answer.as_bytes()).await;
}

async fn answer_datagrams(says: Arc<Mutex<Says>>, socket: UdpSocket) {
    let mut question = [0; QUESTION_LIMIT];
    loop {
        let Ok((_, peer)) = socket.recv_from(&mut question).await else { continue };
        let answer = says.lock().unwrap_or_else(PoisonError::into_inner).udp.clone();
        if let Some(answer) = answer {
            let _ = socket.send_to(&answer, peer).await;
        }
    }
}
