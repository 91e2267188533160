//! A configuration that changes, and a daemon that ends, while connections are open.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use lbpersist_tests::wait;

use crate::setup::{Reply, Rig, echoed, finish, read_like};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn plain() -> String {
    echoed("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
}

/// Asks on an open connection, which must stay open.
fn ask(stream: &mut TcpStream) {
    stream.write_all(GET.as_bytes()).expect("the rig works");
    assert_eq!(read_like(stream, &plain()), plain());
}

/// Replaces text of the configuration, and has the daemon read it again.
fn change(rig: &Rig, from: &str, to: &str) {
    let text = std::fs::read_to_string(rig.balancer.configuration_file()).expect("the rig works");
    assert!(text.contains(from), "{text}");
    rig.balancer.configure(text.replacen(from, to, 1)).expect("the rig works");
    rig.balancer.cli(&["reload"]).expect("the rig works").success().expect("it is reloaded");
}

#[test]
fn connections_go_on_with_new_settings_and_listeners_stay_open() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "forwarded = \"off\"", 1);
    let mut open = rig.connect();
    ask(&mut open);
    // Connections that nobody has asked anything on yet must live as well: a listener that is opened again would reset them.
    let mut waiting: Vec<TcpStream> = (0..20).map(|_| rig.connect()).collect();
    change(&rig, "forwarded = \"off\"", "forwarded = \"set\"");
    open.write_all(GET.as_bytes()).expect("the rig works");
    let mut part = [0; 1024];
    wait::until_true("an open connection's next request has the new setting", || {
        let length = open.read(&mut part).expect("the rig works");
        let seen = String::from_utf8_lossy(&part[..length]).into_owned();
        open.write_all(GET.as_bytes()).expect("the rig works");
        seen.contains("x-forwarded-for: 10.1.0.2")
    });
    change(&rig, "forwarded = \"set\"", "forwarded = \"off\"");
    wait::until_true("and back again", || {
        let mut stream = rig.connect();
        stream.write_all(GET.as_bytes()).expect("the rig works");
        let seen = read_like(&mut stream, &plain());
        seen == plain()
    });
    for stream in &mut waiting {
        ask(stream);
    }
}

#[test]
fn a_service_that_is_gone_ends_its_connections_in_order() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "forwarded = \"off\"", 1);
    rig.servers[0].on(
        "hang",
        Reply::Hang(b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 4\r\n\r\nab".to_vec()),
    );
    let (mut idle, mut busy) = (rig.connect(), rig.connect());
    ask(&mut idle);
    busy.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nRow: hang\r\n\r\n").expect("the rig works");
    let start = "HTTP/1.1 200 OK\r\ndate: d\r\ncontent-length: 4\r\n\r\nab";
    assert_eq!(read_like(&mut busy, start), start);
    change(&rig, "port = 80\n", "port = 81\n");
    wait::until_true("nobody listens there any more", || {
        let namespace = &rig.topology.clients[0].namespace;
        namespace.run(|| TcpStream::connect(Rig::service())).is_err()
    });
    let namespace = &rig.topology.clients[0].namespace;
    let mut moved = Rig::service();
    moved.set_port(81);
    let mut other = namespace.run(|| TcpStream::connect(moved)).expect("the rig works");
    other.set_read_timeout(Some(Duration::from_secs(5))).expect("the rig works");
    ask(&mut other);
    // The service has only moved, so those who are connected are still its clients.
    ask(&mut idle);
    change(&rig, "name = \"web\"\naddress", "name = \"other\"\naddress");
    assert_eq!(
        idle.read(&mut [0]).expect("the rig works"),
        0,
        "a connection without a request ends"
    );
    busy.set_read_timeout(Some(Duration::from_millis(200))).expect("the rig works");
    assert!(busy.read(&mut [0]).is_err(), "one with a request goes on");
    assert_eq!(finish(&mut busy), "");
}

#[test]
fn who_has_said_nothing_yet_goes_with_the_service() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "forwarded = \"off\"", 1);
    // Some on each thread, silent or in the midst of what may become HTTP/2.
    let mut waiting: Vec<TcpStream> = (0..20).map(|_| rig.connect()).collect();
    for stream in waiting.iter_mut().step_by(2) {
        stream.write_all(b"PRI * HT").expect("the rig works");
    }
    ask(&mut rig.connect());
    // Shorter than the time that a client has for its first request.
    change(&rig, "name = \"web\"\naddress", "name = \"other\"\naddress");
    for stream in &mut waiting {
        stream.set_read_timeout(Some(Duration::from_secs(2))).expect("the rig works");
        assert_eq!(stream.read(&mut [0]).expect("it is closed, not reset"), 0);
    }
    ask(&mut rig.connect());
}

#[test]
fn who_has_said_nothing_yet_has_the_new_settings() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = Rig::new("http", "forwarded = \"off\"", 1);
    let mut waiting: Vec<TcpStream> = (0..20).map(|_| rig.connect()).collect();
    ask(&mut rig.connect());
    change(&rig, "forwarded = \"off\"", "forwarded = \"set\"");
    wait::until_true("both threads know", || (0..8).all(|_| forwarded_for(&mut rig.connect())));
    for stream in &mut waiting {
        assert!(forwarded_for(stream));
    }
}

/// Whether the server was told who asked.
fn forwarded_for(stream: &mut TcpStream) -> bool {
    stream.write_all(GET.as_bytes()).expect("the rig works");
    let mut part = [0; 1024];
    let length = stream.read(&mut part).expect("the rig works");
    String::from_utf8_lossy(&part[..length]).contains("x-forwarded-for: 10.1.0.2")
}

#[test]
fn a_daemon_that_ends_finishes_what_is_under_way() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut rig = Rig::new("http", "forwarded = \"off\"", 1);
    let mut idle = rig.connect();
    ask(&mut idle);
    let start = Instant::now();
    rig.balancer.stop().expect("the rig works");
    assert!(start.elapsed() < Duration::from_secs(4), "idle connections need no patience");
    assert_eq!(idle.read(&mut [0]).expect("the rig works"), 0);
}
