//! What goes both ways: upgraded connections, mode `tcp`, and whose connection a server believes it is.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
};

use lbpersist_tests::{topology::Family, wait};

use crate::setup::{Reply, Rig, echoed, read_all_of, read_like, refusal};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: x\r\nRow: upgrade\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nDate: d\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: y\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\ndate: d\r\n\
    sec-websocket-accept: y\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

#[test]
fn an_upgraded_connection_carries_anything_both_ways() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "upgraded_timeout = \"1s\"", 1);
    rig.servers[0].on("upgrade", Reply::Echo(format!("{SWITCH}first").into_bytes()));
    let mut stream = rig.connect();
    // What follows is not HTTP, though it looks like bad HTTP; some of it comes before the server has agreed.
    stream.write_all(format!("{UPGRADE}GET / HTTP/1.1\n\n").as_bytes()).unwrap();
    let expected = format!("{SWITCHED}firstGET / HTTP/1.1\n\n");
    assert_eq!(read_like(&mut stream, &expected), expected);
    let large: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[0]).collect();
    let mut writer = stream.try_clone().unwrap();
    let sent = large.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == large, "{} bytes came back", back.len());
    assert_eq!(rig.outcomes("upgraded"), 1);

    // One that nobody uses ends.
    let mut stream = rig.connect();
    stream.write_all(UPGRADE.as_bytes()).unwrap();
    let mut seen = String::new();
    let _ = stream.read_to_string(&mut seen);
    assert_eq!(seen, format!("{SWITCHED}first"));
    assert_eq!(rig.outcomes("idle_timeout"), 1);
}

#[test]
fn a_refused_upgrade_leaves_the_connection_as_it_was() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "forwarded = \"off\"", 1);
    let mut stream = rig.connect();
    let asked = UPGRADE.replacen("Row: upgrade\r\n", "", 1);
    let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(format!("{asked}{plain}bad\r\n\r\n").as_bytes()).unwrap();
    let got = "GET /chat HTTP/1.1\r\nhost: a\r\nsec-websocket-key: x\r\nconnection: upgrade\r\n\
        upgrade: websocket\r\n\r\n";
    let expected = echoed(got)
        + &echoed("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        + &refusal("400 Bad Request", "malformed");
    assert_eq!(read_all_of(&mut stream, &expected), expected);
}

#[test]
fn servers_are_told_of_the_client_in_fields() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "forwarded_fields = \"both\"", 1);
    let client = rig.topology.clients[0].address(Family::V4);
    let mut stream = rig.connect();
    let sent =
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\r\n";
    stream.write_all(sent.as_bytes()).unwrap();
    let expected = echoed(&format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: {client}\r\nx-forwarded-proto: http\r\n\
         x-forwarded-host: a\r\nforwarded: for={client};proto=http\r\n\r\n"
    ));
    assert_eq!(read_all_of(&mut stream, &expected), expected);
}

#[test]
fn tcp_is_carried_and_each_side_may_end_first() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("tcp", "idle_timeout = \"1s\"", 1);
    rig.servers[0].on("echo", Reply::Echo(b"hello\n".to_vec()));
    let start = "GET / HTTP/1.1\r\nrow: echo\r\n\r\n";
    let mut stream = rig.connect();
    stream.write_all(start.as_bytes()).unwrap();
    assert_eq!(read_like(&mut stream, "hello\n"), "hello\n");
    stream.write_all(b"more").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    // The client has ended its side; what the server says then still comes.
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "more");
    wait::until_true("it is counted", || rig.outcomes("carried") == 1);

    let mut stream = rig.connect();
    stream.write_all(start.as_bytes()).unwrap();
    assert_eq!(read_like(&mut stream, "hello\n"), "hello\n");
    wait::until_true("silence ends it", || rig.outcomes("idle_timeout") == 1);
    assert!(stream.read(&mut [0]).is_err(), "it is reset, which is no orderly end");
}

#[test]
fn the_proxy_protocol_goes_in_and_out() {
    if !wait::is_root_or_skip() {
        return;
    }
    let receive_and_send = "proxy_protocol_receive = true\nproxy_protocol_send = \"v1\"";
    let rig = Rig::new("tcp", receive_and_send, 1);
    let mut stream = rig.connect();
    let header = "PROXY TCP4 192.0.2.7 198.51.100.10 4000 80\r\n";
    stream.write_all(format!("{header}GET / HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
    let expected = echoed(&format!("{header}GET / HTTP/1.1\r\n\r\n"))
        .replacen("date", "Date", 1)
        .replacen("server", "Server", 1)
        .replacen("content-length", "Content-Length", 1);
    assert_eq!(read_all_of(&mut stream, &expected), expected);
    let mut stream = rig.connect();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(stream.read(&mut [0]).is_err(), "without the header there is nothing to be had");
    assert_eq!(rig.outcomes("bad_proxy_header"), 1);
}

#[test]
fn a_connection_that_carries_a_clients_address_serves_that_client_alone() {
    if !wait::is_root_or_skip() {
        return;
    }
    for (setting, first) in [
        ("proxy_protocol_send = \"v1\"", "PROXY TCP4 10.1.0.2 198.51.100.10 "),
        ("transparent = true", "GET / HTTP/1.1\r\n"),
    ] {
        let rig = Rig::new("http", &format!("{setting}\nforwarded = \"off\""), 1);
        if setting.starts_with("transparent") {
            // Answers to clients' addresses are for this machine when they come from a server.
            let lines = "rule add iif server1 lookup 100\nroute add local default dev lo table 100";
            rig.topology.balancer.ip(lines).unwrap();
        }
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for clients in 1..=3 {
            let mut stream = rig.connect();
            for _ in 0..2 {
                stream.write_all(get.as_bytes()).unwrap();
                let mut part = [0; 1024];
                let length = stream.read(&mut part).unwrap();
                let seen = String::from_utf8_lossy(&part[..length]).into_owned();
                let (_, body) = seen.split_once("\r\n\r\n").unwrap();
                assert!(body.starts_with(first) || body.starts_with("GET / "), "{seen}");
            }
            assert_eq!(rig.servers[0].connections(), clients, "{setting}");
        }
        let peers = rig.servers[0].peers();
        if setting.starts_with("transparent") {
            let client = rig.topology.clients[0].address(Family::V4);
            assert!(peers.iter().all(|peer| *peer == client), "{peers:?}");
        }
    }
}
