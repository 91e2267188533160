//! Connections that are closed by those on the other end: by servers while they are kept, by clients before their answer.

use std::{
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use lbpersist_tests::wait;

use crate::setup::{Reply, Rig, failure, finish, head_of, read_like, undated};

const ANSWER: &str = "HTTP/1.1 200 OK\r\ndate: d\r\ncontent-length: 0\r\n\r\n";

fn get(row: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\nRow: {row}\r\n\r\n")
}

#[test]
fn a_server_that_closes_kept_connections_costs_no_request() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "", 1);
    let idle = Duration::from_millis(50);
    rig.servers[0].on("idle", Reply::Idle(ANSWER.into(), idle));
    let mut stream = rig.connect();
    let begun = Instant::now();
    for number in 0..200_u32 {
        stream.write_all(get("idle").as_bytes()).unwrap();
        assert_eq!(read_like(&mut stream, ANSWER), ANSWER, "request {number}");
        // Before the server closes, as it does, and after it.
        let pause = match number {
            0..100 => idle - Duration::from_millis(3) + Duration::from_micros(50) * number,
            100..150 => idle * 2,
            _ => Duration::ZERO,
        };
        thread::sleep(pause);
    }
    // A single one that hung would take as long as `response_timeout`.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let opened = rig.servers[0].connections();
    assert!((50..200).contains(&opened), "{opened} connections: some were closed, some used again");
    assert_eq!(rig.outcomes("answered"), 200);
}

#[test]
fn a_request_that_may_be_sent_twice_is_when_a_kept_connection_ends_without_an_answer() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "", 1);
    rig.servers[0].on("once", Reply::Once(ANSWER.into()));
    let mut stream = rig.connect();
    for number in 0..20 {
        stream.write_all(get("once").as_bytes()).unwrap();
        assert_eq!(read_like(&mut stream, ANSWER), ANSWER, "request {number}");
    }
    assert_eq!(rig.servers[0].connections(), 20);
    // What these ask for may have been done.
    let bad = failure("502 Bad Gateway", "bad_answer");
    for request in [
        get("once").replacen("GET", "POST", 1),
        get("once").replacen("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nhi", 1),
    ] {
        stream.write_all(request.as_bytes()).unwrap();
        let head = head_of(&mut stream);
        assert!(undated(head.as_bytes()).starts_with(&bad[..bad.len() - "502 bad_answer\n".len()]));
        assert_eq!(read_like(&mut stream, "502 bad_answer\n"), "502 bad_answer\n");
        stream.write_all(get("once").as_bytes()).unwrap();
        assert_eq!(read_like(&mut stream, ANSWER), ANSWER, "after {request:?}");
    }
}

#[test]
fn a_server_that_has_gone_is_told_of_at_once() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut rig = Rig::new("http", "", 1);
    rig.servers[0].on("idle", Reply::Idle(ANSWER.into(), Duration::from_millis(20)));
    let mut stream = rig.connect();
    stream.write_all(get("idle").as_bytes()).unwrap();
    assert_eq!(read_like(&mut stream, ANSWER), ANSWER);
    rig.servers.pop().unwrap().stop();
    thread::sleep(Duration::from_millis(60));
    let begun = Instant::now();
    stream.write_all(get("idle").as_bytes()).unwrap();
    let head = head_of(&mut stream);
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(rig.outcomes("connect_failed"), 1);
}

#[test]
fn a_client_that_has_said_all_it_will_gets_its_answer() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "", 1);
    let (body, requests) = (8 << 20, 20);
    let head = format!("HTTP/1.1 200 OK\r\ndate: d\r\ncontent-length: {body}\r\n\r\n");
    rig.servers[0].on("small", Reply::Bytes(ANSWER.into()));
    rig.servers[0].on("large", Reply::Bytes([head.as_bytes(), &vec![b'x'; body]].concat()));
    for _ in 0..requests {
        let mut stream = rig.connect();
        stream.write_all(get("small").as_bytes()).unwrap();
        assert_eq!(finish(&mut stream), ANSWER);
    }
    // More than fits into buffers, so that the end is there long before all is written.
    let mut stream = rig.connect();
    stream.write_all(get("large").as_bytes()).unwrap();
    assert_eq!(finish(&mut stream).len(), head.len() + body);
    // And what came before in one piece.
    let mut stream = rig.connect();
    stream.write_all(get("small").repeat(3).as_bytes()).unwrap();
    assert_eq!(finish(&mut stream), ANSWER.repeat(3));
    assert_eq!(rig.outcomes("answered"), requests + 4);
    assert_eq!(rig.outcomes("client_gone"), 0);
}
