//! HTTP/2 from clients and to servers, with clients and servers of others.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lbpersist_tests::{command, scenario::SERVER_PORTS, topology::Family, wait};

use crate::setup::{Reply, Rig};

/// Runs curl in the client's namespace, and gives its output.
fn curl(rig: &Rig, arguments: &[&str]) -> String {
    let namespace = &rig.topology.clients[0].namespace;
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "10"]).args(arguments);
    namespace
        .run(|| command::run(&mut curl))
        .expect("the rig works")
        .success()
        .expect("the rig works")
}

/// Begins HTTP/2 on a stream.
async fn speak_http2(
    stream: TcpStream,
) -> hyper::client::conn::http2::SendRequest<Empty<bytes::Bytes>> {
    stream.set_nonblocking(true).expect("the rig works");
    let io = TokioIo::new(tokio::net::TcpStream::from_std(stream).expect("the rig works"));
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .expect("the rig works");
    tokio::spawn(connection);
    sender
}

/// Asks for so many paths at once on one HTTP/2 connection: the answers' `server` fields.
async fn ask_at_once(stream: TcpStream, paths: usize) -> Vec<String> {
    let sender = speak_http2(stream).await;
    let mut asking = tokio::task::JoinSet::new();
    for path in 0..paths {
        let mut sender = sender.clone();
        asking.spawn(async move {
            let request = http::Request::get(format!("http://{}/{path}", Rig::service()));
            let request = request.body(Empty::<bytes::Bytes>::new()).expect("the rig works");
            let answer = sender.send_request(request).await.expect("the rig works");
            let server = answer.headers()["server"].to_str().expect("the rig works").to_owned();
            let body = answer.into_body().collect().await.expect("the rig works").to_bytes();
            let first = format!("GET /{path} HTTP/1.1\r\n");
            assert!(body.starts_with(first.as_bytes()), "each stream has its own answer");
            server
        });
    }
    asking.join_all().await
}

#[test]
fn streams_of_one_connection_go_to_servers_of_their_own() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "", 3);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("the rig works");
    let servers = runtime.block_on(ask_at_once(rig.connect(), 24));
    let share = |name: &str| servers.iter().filter(|server| *server == name).count();
    let shares: Vec<usize> = rig.servers.iter().map(|server| share(&server.name)).collect();
    assert_eq!(shares.iter().sum::<usize>(), 24, "{shares:?}");
    assert!(shares.iter().all(|share| *share > 1), "{shares:?}");
    let status = rig.balancer.json(&["status"]).expect("the rig works");
    assert_eq!(status["proxied_services"][0]["connections"], 1, "{status}");
    assert_eq!(status["proxied_services"][0]["requests"], 24, "{status}");
}

/// What the balancer says to requests for these targets on one HTTP/2 connection.
async fn ask_for(stream: TcpStream, targets: &[(&str, http::Uri)]) -> Vec<String> {
    stream.set_nonblocking(true).expect("the rig works");
    let io = TokioIo::new(tokio::net::TcpStream::from_std(stream).expect("the rig works"));
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .expect("the rig works");
    tokio::spawn(connection);
    let mut said = Vec::new();
    for (method, target) in targets {
        let request = http::Request::builder().method(*method).uri(target.clone());
        let request = request.body(Empty::<bytes::Bytes>::new()).expect("the rig works");
        let answer = sender.send_request(request).await.expect("the rig works");
        let body = answer.into_body().collect().await.expect("the rig works").to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        let mut lines = body.lines();
        let first = lines.next().unwrap_or_default().to_owned();
        let host = lines.find(|line| line.starts_with("host: "));
        said.push(host.map_or(first.clone(), |host| format!("{first}, {host}")));
    }
    said
}

#[test]
fn targets_of_http2_have_one_reading() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "forwarded = \"off\"", 1);
    let uri = |scheme: &str, authority: &str, path: &'static str| {
        let uri = http::Uri::builder().scheme(scheme).authority(authority).path_and_query(path);
        uri.build().expect("the rig works")
    };
    let rows = [
        ("GET", uri("http", "a:80", "/x"), "GET /x HTTP/1.1, host: a:80"),
        ("GET", uri("https", "a", "/x"), "GET /x HTTP/1.1, host: a"),
        ("OPTIONS", uri("http", "a", "*"), "OPTIONS * HTTP/1.1, host: a"),
        ("GET", uri("http", "a", "*"), "400 malformed"),
        ("GET", uri("ftp", "a", "/x"), "400 malformed"),
        ("GET", uri("http", "u@x", "/x"), "400 bad_host"),
        ("GET", uri("http", "u:p@x:80", "/x"), "400 bad_host"),
    ];
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("the rig works");
    let targets = rows.clone().map(|(method, target, _)| (method, target));
    let said = runtime.block_on(ask_for(rig.connect(), &targets));
    assert_eq!(said, rows.map(|(_, _, expected)| expected));
}

#[test]
fn bodies_of_any_size_pass_both_ways() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "forwarded = \"off\"", 1);
    let directory = tempfile::tempdir().expect("the rig works");
    let file = directory.path().join("body");
    std::fs::write(&file, vec![b'x'; 3 << 20]).expect("the rig works");
    let data = format!("@{}", file.display());
    let url = format!("http://{}/", Rig::service());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for more in [&["-H", "Transfer-Encoding: chunked"][..], &[], &["-H", "Expect:"]] {
            let out = directory.path().join("out");
            let name = out.display().to_string();
            let mut arguments = vec![version, "--data-binary", &data, "-o", &name, &url];
            arguments.extend(more);
            curl(&rig, &arguments);
            let seen = std::fs::read(&out).expect("the rig works");
            // The answer is the request, with whatever its chunks needed.
            let body = seen.iter().filter(|byte| **byte == b'x').count();
            assert!((3 << 20..(3 << 20) + 64).contains(&body), "{version} {more:?}: {body}");
        }
    }
}

#[test]
fn what_is_no_http2_is_counted() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "", 1);
    let mut stream = rig.connect();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        .expect("the rig works");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    wait::until_true("it is counted", || rig.outcomes("malformed") == 1);
}

#[test]
fn servers_are_spoken_to_in_http2_when_told_so() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "server_protocol = \"h2\"\nresponse_timeout = \"1s\"", 1);
    // A server of HTTP/1 does not understand, and says so in its way.
    let url = format!("http://{}/", Rig::service());
    let seen = curl(&rig, &["-i", &url]);
    assert!(seen.starts_with("HTTP/1.1 502 "), "{seen}");
}

/// A server of HTTP/2 that answers so many requests on a connection, the last but one refused, and then says GOAWAY and
/// looks at no more of them. As some do, it waits for the client to close.
fn leave_after(answers: usize, mut stream: TcpStream) -> io::Result<()> {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
    const STATUS_200: [u8; 1] = [0x88];
    stream.set_nodelay(true)?;
    stream.read_exact(&mut [0; 24])?;
    let frame = |kind: u8, flags: u8, id: &[u8], payload: &[u8]| {
        let length = [0, 0, payload.len() as u8];
        [&length, &[kind, flags][..], id, payload].concat()
    };
    let none = [0; 4];
    stream.write_all(&frame(SETTINGS, 0, &none, &[]))?;
    let mut asked = 0;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [_, high, low, kind, flags, id @ ..] = head;
        let mut payload = vec![0; usize::from(high) << 8 | usize::from(low)];
        stream.read_exact(&mut payload)?;
        match kind {
            HEADERS => {
                asked += 1;
                if asked > answers {
                    continue;
                }
                if asked + 1 == answers {
                    stream.write_all(&frame(RST_STREAM, 0, &id, &REFUSED_STREAM))?;
                    continue;
                }
                // Its end is there at once, and so is that of its header.
                stream.write_all(&frame(HEADERS, 5, &id, &STATUS_200))?;
                if asked == answers {
                    let last = [&id[..], &[0; 4]].concat();
                    stream.write_all(&frame(GOAWAY, 0, &none, &last))?;
                }
            }
            SETTINGS if flags == 0 => stream.write_all(&frame(SETTINGS, 1, &none, &[]))?,
            PING if flags == 0 => stream.write_all(&frame(PING, 1, &none, &payload))?,
            _ => {}
        }
    }
}

/// Asks in rounds of so many requests without a body at once: the answers' statuses.
async fn ask_in_rounds(stream: TcpStream, rounds: usize, at_once: usize) -> Vec<u16> {
    let sender = speak_http2(stream).await;
    let mut statuses = Vec::new();
    for _ in 0..rounds {
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..at_once {
            let mut sender = sender.clone();
            asking.spawn(async move {
                let request = http::Request::post(format!("http://{}/", Rig::service()));
                let request = request.body(Empty::<bytes::Bytes>::new()).expect("the rig works");
                let answer = sender.send_request(request).await.expect("the rig works");
                answer.status().as_u16()
            });
        }
        statuses.extend(asking.join_all().await);
    }
    statuses
}

#[test]
fn no_request_is_lost_when_servers_take_no_more_on_a_connection() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut rig = Rig::new("http", "server_protocol = \"h2\"\nresponse_timeout = \"3s\"", 1);
    rig.servers.remove(0).stop();
    let host = &rig.topology.servers[0];
    let at = SocketAddr::new(host.address(Family::V4), SERVER_PORTS[0]);
    let listener = host.namespace.run(|| TcpListener::bind(at)).expect("the rig works");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || leave_after(7, stream));
        }
    });
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("the rig works");
    let statuses = runtime.block_on(ask_in_rounds(rig.connect(), 40, 16));
    assert_eq!(statuses, [200; 640]);
    assert_eq!(rig.outcomes("answered"), 640);
}

/// Asks for what the server gives to `row`, on a new HTTP/2 connection that takes `window` bytes of it.
fn ask_with_window(rig: &Rig, row: &str, window: u32) -> TcpStream {
    let field = |name: &str, value: &str| {
        [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    // GET, http, and / have numbers, and the other fields are spelled out.
    let fields = [&[0x82, 0x86, 0x84][..], &field(":authority", "a"), &field("row", row)].concat();
    let settings = [&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4][..], &window.to_be_bytes()].concat();
    let head = [0, 0, fields.len() as u8, 1, 5, 0, 0, 0, 1];
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut stream = rig.connect();
    stream.write_all(&[&preface[..], &settings, &head, &fields].concat()).expect("the rig works");
    let mut unread = stream.try_clone().expect("the rig works");
    thread::spawn(move || io::copy(&mut unread, &mut io::sink()));
    stream
}

#[test]
fn an_http2_client_that_takes_nothing_of_a_body_is_cut() {
    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const MORE: [u8; 13] = [0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 8, 0];
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "write_timeout = \"1s\"", 1);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1 << 20);
    rig.servers[0].on("large", Reply::Hang([head.as_bytes(), &vec![b'x'; 1 << 20]].concat()));
    rig.servers[0].on("slow", Reply::Hang([head.as_bytes(), b"x"].concat()));
    // One takes little at a time, and the other one all that its server has.
    let mut little = ask_with_window(&rig, "large", 0);
    let mut all = ask_with_window(&rig, "slow", 65_535);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        little.write_all(&MORE).expect("it is not cut");
        all.write_all(&PING).expect("it is not cut");
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(rig.outcomes("write_timeout"), 0);
    wait::until_true("it is cut once it takes nothing", || {
        let _ = little.write_all(&PING);
        thread::sleep(Duration::from_millis(100));
        rig.outcomes("write_timeout") == 1
    });
    let _nothing = ask_with_window(&rig, "large", 0);
    wait::until_true("it never took anything", || rig.outcomes("write_timeout") == 2);
    all.write_all(&PING).expect("it is not cut");
    assert_eq!(rig.outcomes("client_gone"), 0);
}
