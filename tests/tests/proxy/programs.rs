//! Programs of others as servers and clients: nginx, curl, h2load, wrk.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lbpersist_tests::{command, namespace::Namespace, topology::Family, wait};
use tempfile::TempDir;

use crate::setup::Rig;

/// Where nginx listens, on every server.
const PORT: u16 = 8090;
/// Bytes of the large file.
const LARGE: usize = 20 << 20;

/// Says why a test is skipped if one of these programs is not there.
pub(crate) fn has_or_skip(programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs
        .iter()
        .filter(|name| {
            let there = |directory: &str| Path::new(directory).join(name).exists();
            !["/usr/bin", "/usr/sbin", "/usr/local/bin"].into_iter().any(there)
        })
        .copied()
        .collect();
    if missing.is_empty() {
        return wait::is_root_or_skip();
    }
    wait::skip(&format!("{} is not installed; `cargo xtask test` installs it", missing.join(", ")));
    false
}

/// nginx on a server's host, ended when dropped.
pub(crate) struct Nginx {
    child: Child,
    directory: TempDir,
}

impl Nginx {
    /// Starts it as the server of that name.
    fn start(name: &str, namespace: &Namespace, address: IpAddr) -> Self {
        let directory = tempfile::tempdir().expect("the rig works");
        let at = directory.path();
        let large: Vec<u8> = (0..LARGE).map(|place| (place / 3 % 253) as u8).collect();
        fs::write(at.join("large"), large).expect("the rig works");
        fs::write(at.join("chunks.html"), "<p>some</p>".repeat(5_000)).expect("the rig works");
        fs::write(at.join("nginx.conf"), configuration(name, at, address)).expect("the rig works");
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(at).arg("-c").arg(at.join("nginx.conf"));
        nginx.arg("-e").arg(at.join("error.log")).stdin(Stdio::null()).stdout(Stdio::null());
        let child = namespace.run(|| nginx.spawn()).expect("nginx starts");
        wait::until_true("nginx listens", || {
            namespace.run(|| TcpStream::connect(SocketAddr::new(address, PORT))).is_ok()
        });
        Self { child, directory }
    }

    /// How many requests it has answered.
    fn requests(&self) -> usize {
        let log = fs::read_to_string(self.directory.path().join("access.log"));
        log.expect("the rig works").lines().count()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(name: &str, at: &Path, address: IpAddr) -> String {
    let at = at.display();
    format!(
        r#"daemon off;
master_process off;
pid {at}/nginx.pid;
events {{ worker_connections 512; }}
http {{
    access_log {at}/access.log;
    client_body_temp_path {at}/body;
    proxy_temp_path {at}/proxy;
    fastcgi_temp_path {at}/fastcgi;
    uwsgi_temp_path {at}/uwsgi;
    scgi_temp_path {at}/scgi;
    keepalive_requests 100000;
    client_max_body_size 0;
    server {{
        listen {address}:{PORT};
        root {at};
        default_type text/html;
        add_header X-Connection $connection;
        location / {{ return 200 "<html><body><p id=\"server\">{name}</p></body></html>"; }}
        location = /large {{ }}
        location = /chunks.html {{ ssi on; }}
        location = /cookies {{ return 200 "$http_cookie"; }}
    }}
}}
"#
    )
}

/// A service whose servers are nginx, with `pool` in the pool's table.
pub(crate) fn rig(servers: u8, pool: &str) -> (Rig, Vec<Nginx>) {
    let rig = Rig::configured("http", "", servers, pool, |text| {
        text.replace("port = 8080, weight", &format!("port = {PORT}, weight"))
            + "[[persistence_profile]]\nname = \"c\"\ntype = \"http-cookie\"\ncookie_name = \"LB\"\n"
    });
    let hosts = rig.topology.servers.iter();
    let nginx = hosts
        .map(|host| Nginx::start(&host.name(), &host.namespace, host.address(Family::V4)))
        .collect();
    (rig, nginx)
}

/// Runs a program in the client's namespace, and gives its output.
fn run(rig: &Rig, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let namespace = &rig.topology.clients[0].namespace;
    let finished = namespace.run(|| command::run(&mut command));
    finished.expect("the rig works").success().expect("the rig works")
}

fn url(path: &str) -> String {
    format!("http://{}{path}", Rig::service())
}

/// A cookie that leads to the server of that name: new clients come until one is given it.
fn cookie_of(rig: &Rig, name: &str) -> String {
    wait::until("a client of every server", || {
        let answer = run(rig, "curl", &["-sSi", &url("/")]);
        let line = answer.lines().find_map(|line| line.strip_prefix("set-cookie: "))?;
        let cookie = line.split(';').next()?.to_owned();
        answer.contains(&format!(">{name}<")).then_some(cookie)
    })
}

#[test]
fn nginx_is_kept_alive_and_large_bodies_and_chunks_pass() {
    if !has_or_skip(&["nginx", "curl"]) {
        return;
    }
    let (rig, _nginx) = rig(1, "");
    let answers = run(&rig, "curl", &["-sSi", &url("/"), &url("/"), &url("/")]);
    let connections: Vec<&str> =
        answers.lines().filter_map(|line| line.strip_prefix("x-connection: ")).collect();
    assert_eq!(connections.len(), 3, "{answers}");
    // Each worker has connections of its own, and one client's is one worker's.
    assert!(connections.iter().all(|one| one == &connections[0]), "{connections:?}");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let directory = tempfile::tempdir().expect("the rig works");
        let file = directory.path().join("got");
        let path = file.to_str().expect("the rig works");
        run(&rig, "curl", &["-sS", "--fail", version, "-o", path, &url("/large")]);
        let got = fs::read(&file).expect("the rig works");
        assert_eq!(got.len(), LARGE, "{version}");
        assert!(got.iter().enumerate().all(|(place, byte)| *byte == (place / 3 % 253) as u8));
        let chunks = run(&rig, "curl", &["-sSi", version, &url("/chunks.html")]);
        assert_eq!(chunks.matches("<p>some</p>").count(), 5_000, "{version}");
        assert!(!chunks.contains("content-length"), "{version}");
        let is_chunked = chunks.contains("transfer-encoding: chunked");
        assert_eq!(is_chunked, version == "--http1.1");
    }
    assert_eq!(rig.outcomes("bad_answer") + rig.outcomes("answer_cut"), 0);
}

#[test]
fn load_of_h2load_and_wrk_goes_where_its_cookie_says() {
    if !has_or_skip(&["nginx", "curl", "h2load", "wrk"]) {
        return;
    }
    let (rig, nginx) = rig(3, "persistence_profile = \"c\"");
    let cookie = cookie_of(&rig, "s2");
    assert_eq!(
        run(&rig, "curl", &["-sS", "-H", &format!("Cookie: a=1; {cookie}"), &url("/cookies")]),
        "a=1"
    );
    let before: Vec<usize> = nginx.iter().map(Nginx::requests).collect();
    let field = format!("Cookie: {cookie}");
    let report =
        run(&rig, "h2load", &["-n", "300", "-c", "4", "-m", "10", "-H", &field, &url("/")]);
    assert!(report.contains("300 succeeded, 0 failed"), "{report}");
    let report = run(&rig, "wrk", &["-t", "1", "-c", "16", "-d", "1s", "-H", &field, &url("/")]);
    assert!(!report.contains("Non-2xx") && !report.contains("Socket errors"), "{report}");
    let after: Vec<usize> = nginx.iter().map(Nginx::requests).collect();
    assert!(after[1] > before[1] + 300, "{before:?} {after:?}");
    assert_eq!((after[0], after[2]), (before[0], before[2]), "nobody else was asked");
}

#[test]
fn every_stream_goes_where_its_own_cookie_says() {
    if !has_or_skip(&["nginx", "curl"]) {
        return;
    }
    let (rig, _nginx) = rig(3, "persistence_profile = \"c\"");
    let names = ["s1", "s2", "s3"];
    let cookies = names.map(|name| cookie_of(&rig, name));
    // One connection of HTTP/1.1; `--next` lets every request have a cookie of its own.
    let mut arguments = vec!["-sS".to_owned()];
    for turn in 0..12 {
        let field = format!("Cookie: {}", cookies[turn % 3]);
        arguments.extend((turn > 0).then(|| "--next".to_owned()));
        let parts = ["-sS", "-w", " %{num_connects};", "-H", &field, &url("/")];
        arguments.extend(parts.map(str::to_owned));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answers = run(&rig, "curl", &arguments);
    let answers: Vec<&str> = answers.split_terminator(';').collect();
    assert_eq!(answers.len(), 12, "{answers:?}");
    for (turn, answer) in answers.iter().enumerate() {
        assert!(answer.contains(&format!(">{}<", names[turn % 3])), "{turn}: {answer}");
        let connects = if turn == 0 { " 1" } else { " 0" };
        assert!(answer.ends_with(connects), "one connection for all: {answer}");
    }
    // And one of HTTP/2, all streams at once. (curl 7.88 cannot use such a connection again.)
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the rig works");
    let fields: Vec<String> = (0..12).map(|turn| cookies[turn % 3].clone()).collect();
    let answers = runtime.block_on(ask_at_once(rig.connect(), fields));
    for (turn, answer) in answers {
        assert!(answer.contains(&format!(">{}<", names[turn % 3])), "stream {turn}: {answer}");
    }
}

/// Sends a request with each of these cookies on one HTTP/2 connection: the pages, by the places of the cookies.
async fn ask_at_once(stream: TcpStream, cookies: Vec<String>) -> Vec<(usize, String)> {
    stream.set_nonblocking(true).expect("the rig works");
    let io = TokioIo::new(tokio::net::TcpStream::from_std(stream).expect("the rig works"));
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (sender, connection) = handshake.expect("the rig works");
    tokio::spawn(connection);
    let mut asking = tokio::task::JoinSet::new();
    for (place, cookie) in cookies.into_iter().enumerate() {
        let mut sender = sender.clone();
        asking.spawn(async move {
            let request = http::Request::get(url("/")).header("cookie", cookie);
            let request = request.body(Empty::<bytes::Bytes>::new()).expect("the rig works");
            let answer = sender.send_request(request).await.expect("the rig works");
            let page = answer.into_body().collect().await.expect("the rig works").to_bytes();
            (place, String::from_utf8_lossy(&page).into_owned())
        });
    }
    asking.join_all().await
}
