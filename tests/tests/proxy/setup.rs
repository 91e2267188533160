//! A client, a balancer that carries one service, and servers that answer with the bytes they are told to.

use std::{
    collections::HashMap,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use lbpersist_tests::{
    balancer::Balancer,
    config::Config,
    namespace::Namespace,
    scenario::{SERVER_PORTS, members},
    topology::{Family, Topology, Wiring},
};
use tokio::net::TcpSocket;

/// How long anybody waits for bytes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The service's port.
const PORT: u16 = 80;

/// Everything at work. Fields are in the order in which they have to go.
pub(crate) struct Rig {
    pub(crate) balancer: Balancer,
    pub(crate) servers: Vec<Script>,
    pub(crate) topology: Topology,
}

impl Rig {
    /// A service of `mode` with `settings` in its table, before so many servers.
    pub(crate) fn new(mode: &str, settings: &str, servers: u8) -> Self {
        Self::with_pool(mode, settings, servers, "")
    }

    /// The same, with further lines in the pool's table.
    pub(crate) fn with_pool(mode: &str, settings: &str, servers: u8, pool: &str) -> Self {
        Self::configured(mode, settings, servers, pool, |text| text)
    }

    /// The same, with the text of the configuration changed.
    pub(crate) fn configured(
        mode: &str,
        settings: &str,
        servers: u8,
        pool: &str,
        change: impl FnOnce(String) -> String,
    ) -> Self {
        let topology = Topology::new(Wiring::Routed, 1, servers).expect("the rig works");
        let hosts = &topology.servers;
        let scripts = hosts.iter().map(|host| {
            let at = SocketAddr::new(host.address(Family::V4), SERVER_PORTS[0]);
            Script::start(&host.name(), &host.namespace, at)
        });
        let scripts = scripts.collect();
        let config = Config::new()
            .also(format_args!(
                "[[virtual_service]]\nname = \"web\"\naddress = \"{}\"\nport = {PORT}\n\
                 mode = \"{mode}\"\npool = \"web\"\n[virtual_service.{mode}]\n{settings}\n",
                Family::V4.service_address()
            ))
            .pool("web", &members(hosts, Family::V4, Some(SERVER_PORTS[0]), &[]), pool)
            .also("[proxy]\nthreads = 2\n");
        let config = change(config.to_string());
        let balancer = Balancer::start(&topology.balancer, config, &topology.interfaces)
            .expect("the rig works");
        Self { balancer, servers: scripts, topology }
    }

    /// Where the service is.
    pub(crate) fn service() -> SocketAddr {
        Family::V4.service(PORT)
    }

    /// Connects to the service from the client.
    pub(crate) fn connect(&self) -> TcpStream {
        let namespace = &self.topology.clients[0].namespace;
        let stream = namespace.run(|| TcpStream::connect(Self::service())).expect("the rig works");
        stream.set_read_timeout(Some(PATIENCE)).expect("the rig works");
        stream.set_nodelay(true).expect("the rig works");
        stream
    }

    /// Sends bytes on a new connection, and reads until the balancer closes it.
    pub(crate) fn ask(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).expect("the rig works");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap_or_else(|error| {
            panic!("{error} after {}", String::from_utf8_lossy(&answer));
        });
        undated(&answer)
    }

    /// How often the service counted this outcome.
    pub(crate) fn outcomes(&self, reason: &str) -> u64 {
        let status = self.balancer.json(&["status"]).expect("the rig works");
        let services = status["proxied_services"].as_array().cloned().unwrap_or_default();
        services.iter().filter_map(|service| service["outcomes"][reason].as_u64()).sum()
    }
}

/// Reads as many bytes as `expected` has, and gives them as text.
pub(crate) fn read_like(stream: &mut TcpStream, expected: &str) -> String {
    let mut bytes = vec![0; expected.len()];
    let mut length = 0;
    while length < bytes.len() {
        match stream.read(&mut bytes[length..]) {
            Ok(0) | Err(_) => break,
            Ok(more) => length += more,
        }
    }
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// Reads until there is as much as `expected`, dates of the balancer's apart, then says goodbye and reads what else comes.
pub(crate) fn read_all_of(stream: &mut TcpStream, expected: &str) -> String {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    while undated(&bytes).len() < expected.len() {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => break,
            Ok(length) => bytes.extend_from_slice(&part[..length]),
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut bytes);
    undated(&bytes)
}

/// Resets a connection.
pub(crate) fn reset(stream: TcpStream) {
    TcpSocket::from_std_stream(stream).set_zero_linger().expect("the rig works");
}

/// Reads the header of an answer.
pub(crate) fn head_of(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut one = [0];
    while !bytes.ends_with(b"\r\n\r\n") && stream.read(&mut one).expect("the rig works") > 0 {
        bytes.push(one[0]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Says that nothing more will come, and reads what does.
pub(crate) fn finish(stream: &mut TcpStream) -> String {
    stream.shutdown(Shutdown::Write).expect("the rig works");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    String::from_utf8_lossy(&rest).into_owned()
}

/// Text without the date that the balancer puts into what it says itself.
pub(crate) fn undated(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.split_inclusive("\r\n");
    lines.filter(|line| !(line.starts_with("date: ") && line.ends_with("GMT\r\n"))).collect()
}

/// What the balancer says when it refuses a request and ends the connection.
pub(crate) fn refusal(status: &str, reason: &str) -> String {
    answer_of_ours(status, reason, "connection: close\r\n")
}

/// What the balancer says when a server has failed; the connection goes on.
pub(crate) fn failure(status: &str, reason: &str) -> String {
    answer_of_ours(status, reason, "")
}

fn answer_of_ours(status: &str, reason: &str, more: &str) -> String {
    let body = format!("{} {reason}\n", &status[..3]);
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n{more}\r\n{body}"
    )
}

/// What a script does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Sends these bytes and waits for the next request.
    Bytes(Vec<u8>),
    /// The same, but waits for so long only, and closes the connection.
    Idle(Vec<u8>, Duration),
    /// Sends these bytes as the first answer on a connection, and closes a connection that has had an answer before.
    Once(Vec<u8>),
    /// Sends these bytes and closes the connection.
    Close(Vec<u8>),
    /// Sends these bytes and then nothing.
    Hang(Vec<u8>),
    /// Sends these bytes and then whatever comes back, as it comes.
    Echo(Vec<u8>),
}

/// A server that answers a request with the very bytes it got, or as it was told for the value of the field `row`.
pub(crate) struct Script {
    pub(crate) name: String,
    replies: Arc<Mutex<HashMap<String, Reply>>>,
    peers: Arc<Mutex<Vec<IpAddr>>>,
    stopped: Arc<AtomicBool>,
    at: SocketAddr,
    namespace: Namespace,
    thread: Option<thread::JoinHandle<()>>,
}

impl Script {
    fn start(name: &str, namespace: &Namespace, at: SocketAddr) -> Self {
        let listener = namespace.run(|| TcpListener::bind(at)).expect("the rig works");
        let mut script = Self {
            name: name.to_owned(),
            replies: Arc::default(),
            peers: Arc::default(),
            stopped: Arc::default(),
            at,
            namespace: namespace.clone(),
            thread: None,
        };
        let (replies, peers) = (Arc::clone(&script.replies), Arc::clone(&script.peers));
        let (name, stopped) = (script.name.clone(), Arc::clone(&script.stopped));
        script.thread = Some(thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let peer = stream.peer_addr().map_or(at.ip(), |peer| peer.ip());
                peers.lock().expect("the rig works").push(peer);
                let (name, replies) = (name.clone(), Arc::clone(&replies));
                thread::spawn(move || serve(stream, &name, &replies));
            }
        }));
        script
    }

    /// Listens no longer. Connections go on.
    pub(crate) fn stop(mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // The last one that it accepts.
        let _ = self.namespace.run(|| TcpStream::connect(self.at));
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the rig works");
        }
    }

    /// Answers requests with this value of `row` in this way.
    pub(crate) fn on(&self, row: &str, reply: Reply) {
        self.replies.lock().expect("the rig works").insert(row.to_owned(), reply);
    }

    /// How many connections it has accepted.
    pub(crate) fn connections(&self) -> usize {
        self.peers().len()
    }

    /// Who opened them.
    pub(crate) fn peers(&self) -> Vec<IpAddr> {
        self.peers.lock().expect("the rig works").clone()
    }
}

fn serve(mut stream: TcpStream, name: &str, replies: &Mutex<HashMap<String, Reply>>) {
    let mut bytes = Vec::new();
    let mut answered = 0;
    while let Ok(Some(length)) = read_request(&mut stream, &mut bytes) {
        let request: Vec<u8> = bytes.drain(..length).collect();
        let text = String::from_utf8_lossy(&request).into_owned();
        let row = text.lines().find_map(|line| line.strip_prefix("row: "));
        let reply = row.and_then(|row| replies.lock().expect("the rig works").get(row).cloned());
        let reply = reply.unwrap_or_else(|| Reply::Bytes(echo(name, &request)));
        if answered > 0 && matches!(reply, Reply::Once(_)) {
            return;
        }
        answered += 1;
        let (Reply::Bytes(answer)
        | Reply::Idle(answer, _)
        | Reply::Once(answer)
        | Reply::Close(answer)
        | Reply::Hang(answer)
        | Reply::Echo(answer)) = &reply;
        if stream.write_all(answer).is_err() {
            return;
        }
        match reply {
            Reply::Bytes(_) | Reply::Once(_) => {}
            Reply::Idle(_, time) => {
                let _ = stream.set_read_timeout(Some(time));
            }
            Reply::Close(_) => {
                // In order, so that what was sent arrives.
                let _ = stream.shutdown(Shutdown::Write);
                let _ = io::copy(&mut stream, &mut io::sink());
                return;
            }
            Reply::Hang(_) => {
                let _ = io::copy(&mut stream, &mut io::sink());
                return;
            }
            Reply::Echo(_) => {
                let _ = stream.write_all(&bytes);
                if let Ok(mut from) = stream.try_clone() {
                    let _ = io::copy(&mut from, &mut stream);
                }
                let _ = stream.shutdown(Shutdown::Write);
                return;
            }
        }
    }
}

/// An answer whose body is the request.
pub(crate) fn echo(name: &str, request: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nDate: today\r\nServer: {name}\r\nContent-Length: {}\r\n\r\n",
        request.len()
    );
    let is_head = request.starts_with(b"HEAD ");
    [head.as_bytes(), if is_head { &[] } else { request }].concat()
}

/// What a client gets of [`echo`] from the first server.
pub(crate) fn echoed(request: &str) -> String {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ndate: today\r\nserver: s1\r\ncontent-length: {}\r\n\r\n",
        request.len()
    );
    answer + request
}

/// Reads until there is a whole request at the start of `bytes`, and gives its length; nothing when the client is done.
fn read_request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<Option<usize>> {
    let mut part = [0; 16 << 10];
    loop {
        if let Some(length) = request_length(bytes) {
            return Ok(Some(length));
        }
        match stream.read(&mut part)? {
            0 => return Ok(None),
            length => bytes.extend_from_slice(&part[..length]),
        }
    }
}

fn request_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name).map(|value| value.trim().to_owned()))
    };
    if let Some(length) = field("content-length:") {
        let end = head + length.parse::<usize>().ok()?;
        return (bytes.len() >= end).then_some(end);
    }
    if field("transfer-encoding:").is_some() {
        // Whoever sends chunks sends nothing behind them here, so a look at the end will do.
        let tail = &bytes[bytes.len().saturating_sub(32).max(head)..];
        let ended = tail.ends_with(b"\r\n\r\n") && tail.windows(3).any(|last| last == b"0\r\n");
        return ended.then_some(bytes.len());
    }
    Some(head)
}
