//! Who serves new clients beyond the ring, and limits of what servers have to do at a time.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use lbpersist_tests::wait;

use crate::setup::{Reply, Rig, failure, head_of, read_like};

const BY_COOKIE: &str = "persistence_profile = \"c\"";
const HANG: &[u8] = b"HTTP/1.1 200 OK\r\nServer: here\r\nContent-Length: 4\r\n\r\nab";

/// A rig whose servers take one request or connection each, with a cookie profile `c`.
fn limited(mode: &str, settings: &str, pool: &str) -> Rig {
    let rig = Rig::configured(mode, settings, 2, pool, |text| {
        let text = text.replace(", weight = 1 }", ", max_connections = 1 }");
        text + "[[persistence_profile]]\nname = \"c\"\ntype = \"http-cookie\"\ncookie_name = \"LB\"\n"
    });
    for server in &rig.servers {
        server.on("hang", Reply::Hang(HANG.to_vec()));
    }
    rig
}

/// Sends a request on a connection of its own, which stays open.
fn send(rig: &Rig, fields: &str) -> TcpStream {
    let mut stream = rig.connect();
    stream
        .write_all(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes())
        .expect("the rig works");
    stream
}

/// The cookie that an answer sets, as a field of a request.
fn cookie(head: &str) -> Option<String> {
    let line = head.lines().find_map(|line| line.strip_prefix("set-cookie: "))?;
    Some(format!("Cookie: {}\r\n", line.split(';').next().expect("the rig works")))
}

/// How many connections each server has accepted.
fn accepted(rig: &Rig) -> Vec<usize> {
    rig.servers.iter().map(super::setup::Script::connections).collect()
}

#[test]
fn a_client_of_a_full_server_is_treated_as_the_pool_says() {
    if !wait::is_root_or_skip() {
        return;
    }
    for on_limit in ["spill", "exceed", "reject"] {
        let rig = limited("http", "", &format!("{BY_COOKIE}\non_limit = \"{on_limit}\""));
        let mut busy = send(&rig, "Row: hang\r\n");
        let bound = cookie(&head_of(&mut busy)).expect("a new client gets a cookie");
        let answered =
            rig.servers.iter().position(|server| server.connections() > 0).expect("the rig works");
        let mut again = send(&rig, &bound);
        let answer = head_of(&mut again);
        let server = rig.servers[answered].name.as_str();
        let other = rig.servers[1 - answered].name.as_str();
        match on_limit {
            "spill" => {
                assert!(answer.contains(&format!("server: {other}")), "{answer}");
                assert!(cookie(&answer).is_some(), "its cookie follows: {answer}");
            }
            "exceed" => {
                assert!(answer.contains(&format!("server: {server}")), "{answer}");
                assert_eq!(cookie(&answer), None);
                continue;
            }
            _ => {
                assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
                assert!(answer.contains("retry-after: 10\r\n"), "{answer}");
                assert_eq!(rig.outcomes("server_full"), 1);
            }
        }
        // A new client meets the one that has room, and then nobody has any.
        let mut second = send(&rig, "Row: hang\r\n");
        assert!(head_of(&mut second).starts_with("HTTP/1.1 200 "));
        let mut third = send(&rig, "");
        assert!(head_of(&mut third).starts_with("HTTP/1.1 503 "));
        // Whoever leaves makes room.
        drop(busy);
        wait::until_true("the place is free again", || {
            head_of(&mut send(&rig, "")).starts_with("HTTP/1.1 200 ")
        });
    }
}

#[test]
fn all_workers_count_connections_together() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = limited("tcp", "", "algorithm = \"least-connections\"");
    let open: Vec<TcpStream> = (0..12).map(|_| rig.connect()).collect();
    wait::until_true("all but two are refused", || rig.outcomes("server_full") == 10);
    assert_eq!(accepted(&rig), [1, 1]);
    drop(open);
    wait::until_true("they have ended", || {
        rig.outcomes("carried") + rig.outcomes("client_gone") == 2
    });
    let mut stream = rig.connect();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("the rig works");
    assert_eq!(read_like(&mut stream, "HTTP/1.1 200"), "HTTP/1.1 200");
}

#[test]
fn requests_go_in_turn_or_to_whoever_has_the_least_to_do() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::with_pool("http", "", 2, "algorithm = \"round-robin\"");
    let mut stream = rig.connect();
    let mut met = Vec::new();
    for _ in 0..6 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nRow: x\r\n\r\n").expect("the rig works");
        let answer = head_of(&mut stream);
        let length = answer
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .expect("the rig works");
        let mut body = vec![0; length.parse().expect("the rig works")];
        stream.read_exact(&mut body).expect("the rig works");
        met.push(answer.contains("server: s1"));
    }
    assert!(met.windows(2).all(|two| two[0] != two[1]), "in turn: {met:?}");

    let rig = Rig::with_pool("http", "", 2, "algorithm = \"least-connections\"");
    for server in &rig.servers {
        server.on("hang", Reply::Hang(HANG.to_vec()));
    }
    let mut busy = send(&rig, "Row: hang\r\n");
    head_of(&mut busy);
    let first = accepted(&rig);
    for _ in 0..5 {
        head_of(&mut send(&rig, ""));
    }
    let later = accepted(&rig);
    let idle = usize::from(first[0] == 1);
    assert_eq!(later[1 - idle], 1, "the busy one has got nothing more: {later:?}");
    busy.set_read_timeout(Some(Duration::from_millis(100))).expect("the rig works");
}

#[test]
fn a_request_is_refused_in_the_proxys_words_when_everybody_is_full() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = limited("http", "forwarded = \"off\"", "");
    let mut busy = [send(&rig, "Row: hang\r\n"), send(&rig, "Row: hang\r\n")];
    busy.iter_mut().for_each(|stream| drop(head_of(stream)));
    let mut third = send(&rig, "");
    let expected = failure("503 Service Unavailable", "server_full").replacen(
        "\r\n\r\n",
        "\r\nretry-after: 10\r\n\r\n",
        1,
    );
    let mut answer = head_of(&mut third);
    let mut body = vec![0; "503 server_full\n".len()];
    third.read_exact(&mut body).expect("the rig works");
    answer += std::str::from_utf8(&body).expect("the rig works");
    assert_eq!(super::setup::undated(answer.as_bytes()), expected);
}
