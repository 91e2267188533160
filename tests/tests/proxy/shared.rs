//! Clients that are kept by address meet the same server in every mode, in the table that packets use.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use lbpersist_tests::{topology::Family, wait};
use serde_json::Value;

use crate::setup::{PATIENCE, Rig, head_of};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
/// The port of the service of mode `l4`.
const L4: u16 = 81;
/// The port of the service of mode `tcp`.
const TCP: u16 = 82;

/// A pool whose servers take turns, behind a service of each mode that share its entries.
fn rig(timeout: &str) -> Rig {
    let pool = "algorithm = \"round-robin\"\npersistence_profile = \"p\"";
    Rig::configured("http", "", 3, pool, |text| {
        let service = |name: &str, port: u16, mode: &str| {
            let address = Family::V4.service_address();
            format!(
                "[[virtual_service]]\nname = \"{name}\"\naddress = \"{address}\"\nport = {port}\nmode = \"{mode}\"\npool = \"web\"\n"
            )
        };
        let profile = format!(
            "[[persistence_profile]]\nname = \"p\"\ntimeout = \"{timeout}\"\nscope = \"pool\"\n"
        );
        text + &service("raw", L4, "l4") + &service("carried", TCP, "tcp") + &profile
    })
}

/// Asks on a connection, and gives the name of the server that answers.
fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(GET).expect("the rig works");
    let head = head_of(stream).to_lowercase();
    let field = |name: &str| {
        let value = head.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap_or_else(|| panic!("no {name} in {head}")).to_owned()
    };
    let length: usize = field("content-length: ").parse().expect("the rig works");
    stream.read_exact(&mut vec![0; length]).expect("the rig works");
    field("server: ")
}

fn connect(rig: &Rig, port: u16) -> TcpStream {
    let at = SocketAddr::new(Rig::service().ip(), port);
    let stream = rig.topology.clients[0].namespace.run(|| TcpStream::connect(at));
    let stream = stream.expect("the rig works");
    stream.set_read_timeout(Some(PATIENCE)).expect("the rig works");
    stream
}

/// The only entry: its server's place in the name, and the open connections.
fn entry(rig: &Rig) -> Option<(String, u64)> {
    let list = rig.balancer.json(&["persistence", "list"]).expect("the rig works");
    let list = list.as_array().cloned().expect("a list");
    assert!(list.len() <= 1, "{list:?}");
    let one = list.first()?;
    assert_eq!(one["virtual_service"], Value::Null, "all services share it");
    let server = one["server"].as_str()?;
    let place = rig
        .topology
        .servers
        .iter()
        .position(|host| server.starts_with(&format!("{}:", host.address(Family::V4))));
    Some((rig.servers[place?].name.clone(), one["open"].as_u64()?))
}

fn wait_for_open(rig: &Rig, server: &str, open: u64) {
    let wanted = Some((server.to_owned(), open));
    wait::until_true(&format!("{open} connections are counted"), || entry(rig) == wanted);
}

#[test]
fn a_client_meets_the_same_server_at_layer_4_and_7() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = rig("1s");
    let mut first_servers = Vec::new();
    for ports in [[L4, 80, TCP], [80, TCP, L4], [TCP, L4, 80], [80, L4, 80]] {
        let mut first = connect(&rig, ports[0]);
        let server = ask(&mut first);
        wait_for_open(&rig, &server, 1);
        let mut others: Vec<TcpStream> =
            ports[1..].iter().map(|&port| connect(&rig, port)).collect();
        for stream in &mut others {
            assert_eq!(ask(stream), server, "first at port {}", ports[0]);
        }
        wait_for_open(&rig, &server, 3);
        // What is asked on an open connection changes nothing.
        for stream in &mut others {
            assert_eq!(ask(stream), server);
        }
        assert_eq!(entry(&rig), Some((server.clone(), 3)));
        drop(first);
        wait_for_open(&rig, &server, 2);
        drop(others);
        wait_for_open(&rig, &server, 0);
        first_servers.push(server);
        // Its time begins with the last close.
        wait::until_true("the entry expires", || entry(&rig).is_none());
    }
    first_servers.sort();
    first_servers.dedup();
    assert!(first_servers.len() > 1, "new clients go in turn, so this is no accident");
}

#[test]
fn entries_of_carried_clients_are_like_any_others() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut rig = rig("60s");
    let mut stream = connect(&rig, 80);
    let server = ask(&mut stream);
    wait_for_open(&rig, &server, 1);
    // A sweep has looked at it meanwhile.
    wait::throughout(Duration::from_secs(1), "the count stays", || {
        entry(&rig) == Some((server.clone(), 1))
    });
    let explained = rig
        .balancer
        .json(&["explain", "--virtual-service", "web", "--client", "10.1.0.2"])
        .expect("the rig works");
    assert_eq!(explained["opening"]["decided_by"], "entry", "{explained}");
    assert_eq!(explained["carried"], true);
    let exported = rig.balancer.cli(&["persistence", "export"]).expect("the rig works");
    assert!(exported.stdout.contains("10.1.0.2"), "{exported:?}");
    // Flushing ends no connection, but the next one is a new client's.
    assert_eq!(rig.balancer.flush(&[]).expect("the rig works"), 1);
    assert_eq!(ask(&mut stream), server);
    let mut second = connect(&rig, TCP);
    let other = ask(&mut second);
    assert_ne!(other, server, "in turn");
    wait_for_open(&rig, &other, 1);
    drop((stream, second));
    wait_for_open(&rig, &other, 0);

    // A daemon that is killed takes its clients' connections with it; the next one counts them as closed.
    let mut stream = connect(&rig, 80);
    assert_eq!(ask(&mut stream), other);
    wait_for_open(&rig, &other, 1);
    rig.balancer.kill_dash_nine().expect("the rig works");
    assert_eq!(entry(&rig), Some((other.clone(), 1)));
    rig.balancer.restart().expect("the rig works");
    wait_for_open(&rig, &other, 0);
    let mut stream = connect(&rig, TCP);
    assert_eq!(ask(&mut stream), other, "the entry has outlived the daemon");
    wait_for_open(&rig, &other, 1);
    let repaired = rig.balancer.json(&["status"]).expect("the rig works");
    assert_eq!(repaired["events"]["entries_repaired"], 0, "every count was exact");
}

#[test]
fn an_entry_follows_when_its_server_is_taken_out() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = rig("60s");
    let mut stream = connect(&rig, 80);
    let server = ask(&mut stream);
    let place = rig.servers.iter().position(|one| one.name == server).expect("the rig works");
    let address = rig.topology.servers[place].address(Family::V4).to_string();
    rig.balancer
        .cli(&["server", "disable", "web", &address])
        .expect("the rig works")
        .success()
        .expect("it is disabled");
    let other = wait::until("the next request meets another server", || {
        let met = ask(&mut stream);
        (met != server).then_some(met)
    });
    wait_for_open(&rig, &other, 1);
    assert_eq!(ask(&mut connect(&rig, L4)), other, "also at layer 4");
    assert_eq!(ask(&mut stream), other);
}
