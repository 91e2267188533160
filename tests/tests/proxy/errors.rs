//! Servers that lie, servers that are not there, and clients that take their time.

use std::{
    io::{Read as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use lbpersist_tests::{topology::Family, wait};

use crate::setup::{Reply, Rig, echoed, failure, read_all_of, refusal, reset, undated};

fn get(row: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\nRow: {row}\r\n\r\n")
}

/// What a client gets for a plain request, which shows that all is well again.
fn well() -> String {
    echoed("GET / HTTP/1.1\r\nhost: a\r\nrow: well\r\n\r\n")
}

#[test]
fn a_server_that_lies_is_told_of_once_and_its_connection_is_not_used_again() {
    if !wait::is_root_or_skip() {
        return;
    }
    let settings =
        "forwarded = \"off\"\nresponse_timeout = \"500ms\"\nresponse_body_timeout = \"500ms\"";
    let rig = Rig::new("http", settings, 1);
    let bad = failure("502 Bad Gateway", "bad_answer");
    let ok = "HTTP/1.1 200 OK\r\ndate: d\r\n";
    let close = |text: &str| Reply::Close(text.as_bytes().to_vec());
    let hang = |text: &str| Reply::Hang(text.as_bytes().to_vec());
    // What it does, what the client gets, and whether the client's connection can go on.
    let rows = [
        ("nothing and closes", close(""), bad.clone(), true),
        ("garbage", close("SSH-2.0-OpenSSH_9\r\n"), bad.clone(), true),
        ("half a header", close("HTTP/1.1 200 OK\r\nContent-Le"), bad.clone(), true),
        ("two lengths", close("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhi"), bad.clone(), true),
        ("a length that is none", close("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhi"), bad.clone(), true),
        ("another protocol unasked", hang("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), bad.clone(), true),
        ("nothing", hang(""), failure("504 Gateway Timeout", "answer_timeout"), true),
        ("a short body", close("HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 9\r\n\r\nhi"), format!("{ok}content-length: 9\r\n\r\nhi"), false),
        ("a body that stops", hang("HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 9\r\n\r\nhi"), format!("{ok}content-length: 9\r\n\r\nhi"), false),
        ("chunks that stop", close("HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"), format!("{ok}transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"), false),
        ("chunks that are none", close("HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nxyz\r\n"), format!("{ok}transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"), false),
        ("more than it said", Reply::Bytes(b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison".to_vec()), format!("{ok}content-length: 2\r\n\r\nhi"), true),
        ("a body until the end", close("HTTP/1.1 200 OK\r\nDate: d\r\n\r\nhi"), format!("{ok}transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"), true),
    ];
    for (row, reply, got, goes_on) in rows {
        rig.servers[0].on(row, reply);
        let mut stream = rig.connect();
        let mut expected = got;
        stream.write_all(get(row).as_bytes()).unwrap();
        if goes_on {
            // The next request finds a connection that works, whatever became of the other.
            stream.write_all(get("well").as_bytes()).unwrap();
            expected += &well();
        }
        let seen = if goes_on {
            read_all_of(&mut stream, &expected)
        } else {
            let mut seen = Vec::new();
            stream.read_to_end(&mut seen).unwrap();
            undated(&seen)
        };
        assert_eq!(seen, expected, "{row}");
    }
    assert_eq!(rig.outcomes("bad_answer"), 6);
    assert_eq!(rig.outcomes("answer_timeout"), 1);
    assert_eq!(rig.outcomes("answer_cut"), 3);
    assert_eq!(rig.outcomes("answer_body_timeout"), 1);
}

#[test]
fn another_server_is_asked_while_nothing_was_sent() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut rig = Rig::new("http", "forwarded = \"off\"", 2);
    // Nothing listens on the second host's port any more, and no monitor says so.
    rig.servers.pop().unwrap().stop();
    for _ in 0..8 {
        let seen = rig.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(seen.contains("\r\nserver: s1\r\n"), "{seen}");
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_a_bad_gateway() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut rig = Rig::new("http", "", 1);
    rig.servers.pop().unwrap().stop();
    let expected =
        refusal("502 Bad Gateway", "connect_failed").replacen("connection: close\r\n", "", 1);
    let mut stream = rig.connect();
    stream.write_all(get("x").as_bytes()).unwrap();
    assert_eq!(read_all_of(&mut stream, &expected), expected);
}

#[test]
fn without_a_server_clients_are_told_when_to_come_again() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut rig = Rig::with_pool("http", "", 1, "health_monitors = [\"fast\"]");
    rig.servers.pop().unwrap().stop();
    let expected = failure("503 Service Unavailable", "no_server").replacen(
        "\r\n\r\n",
        "\r\nretry-after: 10\r\n\r\n",
        1,
    );
    wait::until_true("503 when the monitor has noticed", || {
        let mut stream = rig.connect();
        stream.write_all(get("x").as_bytes()).unwrap();
        read_all_of(&mut stream, &expected) == expected
    });
    assert!(rig.outcomes("no_server") > 0);
}

#[test]
fn slow_clients_are_cut_phase_by_phase() {
    if !wait::is_root_or_skip() {
        return;
    }
    let settings = "forwarded = \"off\"\nheader_timeout = \"600ms\"\nbody_timeout = \"600ms\"\nidle_timeout = \"900ms\"";
    let rig = Rig::new("http", settings, 1);
    let timeout = |reason| refusal("408 Request Timeout", reason);
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel";
    let rows = [
        ("half a header", "GET / HTTP/1.1\r\nHo".to_owned(), timeout("header_timeout")),
        ("a byte", "G".to_owned(), timeout("header_timeout")),
        ("half a body", post.to_owned(), timeout("body_timeout")),
        ("nothing", String::new(), String::new()),
        ("nothing after a request", get("well"), well()),
        (
            "half a header after a request",
            get("well") + "GET /",
            well() + &timeout("header_timeout"),
        ),
    ];
    for (name, sent, expected) in rows {
        let mut stream = rig.connect();
        stream.write_all(sent.as_bytes()).unwrap();
        let start = Instant::now();
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).unwrap();
        assert_eq!(undated(&seen), expected, "{name}");
        let took = start.elapsed();
        let limits = Duration::from_millis(500)..Duration::from_secs(4);
        assert!(limits.contains(&took), "{name} took {took:?}");
    }
    // Bytes that drip do not extend the time for a header.
    let mut stream = rig.connect();
    let start = Instant::now();
    for byte in b"GET / HTTP/1.1\r\nX-Long: abcdefghijklmnopqrstuvwxyz".iter() {
        if start.elapsed() > Duration::from_millis(1500) || stream.write_all(&[*byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let mut seen = Vec::new();
    let _ = stream.read_to_end(&mut seen);
    assert_eq!(undated(&seen), timeout("header_timeout"));
    assert!(start.elapsed() < Duration::from_secs(4));
    assert_eq!(rig.outcomes("body_timeout"), 1);
    assert_eq!(rig.outcomes("header_timeout"), 4);
}

#[test]
fn a_client_that_takes_nothing_is_cut() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "write_timeout = \"500ms\"", 1);
    let body = 64 << 20;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n");
    rig.servers[0].on("large", Reply::Close([head.as_bytes(), &vec![b'x'; body]].concat()));
    let mut stream = rig.connect();
    stream.write_all(get("large").as_bytes()).unwrap();
    wait::until_true("it is counted", || rig.outcomes("write_timeout") == 1);
    let mut seen = Vec::new();
    let _ = stream.read_to_end(&mut seen);
    assert!(seen.len() < body, "all of it arrived");
}

#[test]
fn a_client_that_takes_little_at_a_time_is_not_cut() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "write_timeout = \"1s\"", 1);
    let body = 64 << 20;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n");
    rig.servers[0].on("large", Reply::Close([head.as_bytes(), &vec![b'x'; body]].concat()));
    let mut stream = rig.connect();
    stream.write_all(get("large").as_bytes()).unwrap();
    // Buffers grow with what passes.
    let mut part = vec![0; 64 << 10];
    for _ in 0..256 {
        stream.read_exact(&mut part).unwrap();
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        stream.read_exact(&mut part).unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(rig.outcomes("write_timeout"), 0);
    wait::until_true("it is counted once it takes nothing", || rig.outcomes("write_timeout") == 1);
}

#[test]
fn a_client_that_goes_away_ends_its_request() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "", 1);
    rig.servers[0].on("hang", Reply::Hang(Vec::new()));
    let mut stream = rig.connect();
    stream.write_all(get("hang").as_bytes()).unwrap();
    wait::until_true("the server has the request", || rig.servers[0].connections() == 1);
    reset(stream);
    wait::until_true("it is counted", || rig.outcomes("client_gone") == 1);
}

#[test]
fn an_address_of_another_machine_is_refused_at_the_start() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "", 1);
    let config = std::fs::read_to_string(rig.balancer.configuration_file()).unwrap();
    let own = Family::V4.service_address().to_string();
    rig.balancer.configure(config.replacen(&own, "198.51.100.99", 1)).unwrap();
    let mut balancer = rig.balancer;
    let error = balancer.restart().unwrap_err().to_string();
    let expected = "cannot listen on 198.51.100.99:80 for virtual_service `web`: Cannot assign requested address (os error 99); \
        a service of mode `tcp` or `http` needs an address of this machine";
    assert!(error.contains(expected), "{error}");
}
