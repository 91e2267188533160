//! A server that drains is empty only when nothing is under way to it and nobody is bound to it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use lbpersist_tests::{command::Finished, topology::Family, wait};
use serde_json::Value;

use crate::setup::{Reply, Rig, head_of};

const HANG: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab";
const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nRow: upgrade\r\n";
const SESSION: &[u8] = b"HTTP/1.1 200 OK\r\nSet-Cookie: SID=one\r\nContent-Length: 0\r\n\r\n";
/// How long what is under way stays.
const STAYS: Duration = Duration::from_secs(2);

fn rig(mode: &str, pool: &str, more: &str) -> Rig {
    let rig = Rig::configured(mode, "", 2, pool, |text| text + more);
    for server in &rig.servers {
        server.on("hang", Reply::Hang(HANG.to_vec()));
        server.on("upgrade", Reply::Echo(SWITCH.to_vec()));
        server.on("session", Reply::Bytes(SESSION.to_vec()));
    }
    rig
}

/// Sends a request on a connection of its own, reads the header of its answer, and keeps the connection.
fn send(rig: &Rig, fields: &str) -> (TcpStream, String) {
    let mut stream = rig.connect();
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).expect("the rig works");
    let head = head_of(&mut stream);
    (stream, head)
}

/// The only server that has been connected to, and the other one.
fn met(rig: &Rig) -> [String; 2] {
    let met = rig.servers.iter().position(|server| server.connections() > 0).expect("one was met");
    [met, 1 - met].map(|place| format!("{}:8080", rig.topology.servers[place].address(Family::V4)))
}

fn drain(rig: &Rig, server: &str, deadline: &str) -> Finished {
    let arguments = ["server", "drain", "web", server, "--wait", "--deadline", deadline];
    rig.balancer.cli(&arguments).expect("the rig works")
}

fn left(rig: &Rig, server: &str) -> Value {
    rig.balancer.json(&["server", "show", "web", server]).expect("the rig works")["left"].clone()
}

/// Drains the server that `held` goes to: it is not empty before that has ended, and then it is.
fn outlasts(rig: &Rig, held: TcpStream, what: &str) {
    let [server, other] = met(rig);
    let begin = Instant::now();
    let ending = thread::spawn(move || {
        thread::sleep(STAYS);
        drop(held);
    });
    let refused = drain(rig, &server, "1s");
    assert_eq!(refused.code, Some(1), "{what}: {refused:?}");
    let text = "1 carried request or connection under way";
    assert!(refused.stderr.contains(text), "{what}: {}", refused.stderr);
    assert_eq!(left(rig, &server)["under_way"], 1, "{what}");
    let waited = drain(rig, &server, "20s");
    assert_eq!(waited.code, Some(0), "{what}: {waited:?}");
    assert!(begin.elapsed() >= STAYS, "{what}: after {:?}", begin.elapsed());
    assert!(waited.stdout.contains("is empty\n"), "{what}: {}", waited.stdout);
    assert_eq!(left(rig, &server)["under_way"], 0, "{what}");
    ending.join().expect("the rig works");
    assert_eq!(left(rig, &other)["under_way"], 0, "{what}: the other one has nothing to do");
}

#[test]
fn what_is_carried_to_a_server_is_waited_for() {
    if !wait::is_root_or_skip() {
        return;
    }
    for pool in ["", "algorithm = \"least-connections\""] {
        let asked = rig("http", pool, "");
        outlasts(&asked, send(&asked, "Row: hang\r\n").0, "a request");
        let upgraded = rig("http", pool, "");
        let (mut stream, head) = send(&upgraded, UPGRADE);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        stream.write_all(b"ping").unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"ping");
        outlasts(&upgraded, stream, "a WebSocket");
        let carried = rig("tcp", pool, "");
        outlasts(&carried, send(&carried, "").0, "a connection of mode tcp");
    }
}

#[test]
fn sessions_of_the_application_are_waited_for() {
    if !wait::is_root_or_skip() {
        return;
    }
    let profile = "[[persistence_profile]]\nname = \"c\"\ntype = \"app-cookie\"\n\
        cookie_name = \"SID\"\ntimeout = \"3s\"\n";
    let rig = rig("http", "persistence_profile = \"c\"", profile);
    let begin = Instant::now();
    drop(send(&rig, "Row: session\r\n"));
    let [server, other] = met(&rig);
    let refused = drain(&rig, &server, "500ms");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("1 entry and 0 open connections left"), "{}", refused.stderr);
    let ends = left(&rig, &server)["last_ends_in_seconds"].as_f64().unwrap();
    assert!(ends > 0.0 && ends <= 3.0, "{ends}");
    assert_eq!(left(&rig, &other)["entries"], 0);
    let waited = drain(&rig, &server, "20s");
    assert_eq!(waited.code, Some(0), "{waited:?}");
    assert!(begin.elapsed() >= Duration::from_secs(3), "after {:?}", begin.elapsed());
}

#[test]
fn clients_with_sealed_cookies_are_told_of_and_not_waited_for() {
    if !wait::is_root_or_skip() {
        return;
    }
    for (timeout, text) in [("0", " by cookie at any time\n"), ("2h", " UTC at the latest\n")] {
        let profile = format!(
            "[[persistence_profile]]\nname = \"c\"\ntype = \"http-cookie\"\ntimeout = \"{timeout}\"\n"
        );
        let rig = rig("http", "persistence_profile = \"c\"", &profile);
        drop(send(&rig, ""));
        let [server, _] = met(&rig);
        let waited = drain(&rig, &server, "5s");
        assert_eq!(waited.code, Some(0), "{waited:?}");
        assert!(waited.stdout.contains("is empty; clients may come back"), "{}", waited.stdout);
        assert!(waited.stdout.ends_with(text), "{}", waited.stdout);
        let left = left(&rig, &server);
        assert_eq!(left["cookies"], true, "{left}");
        assert_eq!(left["cookies_until"].is_u64(), timeout == "2h", "{left}");
    }
}
