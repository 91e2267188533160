//! Who serves a new client under each algorithm; a client that has met its server stays.

use lbpersist_common::tcp::flag;
use lbpersist_tests::rig::Rig;

use crate::setup::{Text, V4, V6, Visits as _, at_port, client};

fn rig(servers: &[(u8, u16)], algorithm: &'static str) -> Option<Rig> {
    Text { servers: servers.to_vec(), ..Text::default() }.pool(algorithm).rig()
}

/// The servers of so many new clients, each with one connection.
fn new_clients(rig: &mut Rig, clients: std::ops::Range<u16>) -> Vec<u8> {
    clients.map(|n| rig.open(client(V4, n))).collect()
}

/// How many connections the servers have open, in the order of their numbers.
fn open(rig: &mut Rig, servers: u32) -> Vec<u32> {
    let maps = &rig.data_path().maps;
    (1..=servers).map(|number| maps.server_load.of(number).open).collect()
}

#[test]
fn round_robin_takes_turns_by_weight_and_keeps_who_has_come() {
    let Some(mut rig) = rig(&[(11, 1), (12, 1), (13, 1)], "algorithm = \"round-robin\"") else {
        return;
    };
    let met = new_clients(&mut rig, 0..30);
    assert_eq!(met, [11, 12, 13].repeat(10));
    for (n, &host) in (0..30).zip(&met) {
        assert_eq!(rig.data(client(V4, n)), host, "its open connection");
        assert_eq!(rig.open(at_port(client(V4, n), 1)), host, "another one");
        assert_eq!(rig.ask(client(V4, n)), [11, 12, 13][usize::from(n) % 3], "another service");
        assert_eq!(rig.ask(client(V4, n)), [11, 12, 13][usize::from(n) % 3]);
    }
    let text = Text { servers: vec![(11, 1), (12, 3)], ..Text::default() };
    rig.configure(&text.pool("algorithm = \"round-robin\"").text()).unwrap();
    let more = new_clients(&mut rig, 100..140);
    assert_eq!(more.iter().filter(|host| **host == 12).count(), 30, "{more:?}");
    for (n, &host) in (0..30).zip(&met).filter(|(_, host)| **host != 13) {
        assert_eq!(rig.data(client(V4, n)), host, "weights move nobody");
    }
}

#[test]
fn without_persistence_every_connection_has_its_turn_and_keeps_its_server() {
    let text = Text::servers(&[11, 12]).without_persistence().pool("algorithm = \"round-robin\"");
    let Some(mut rig) = text.rig() else { return };
    let from = client(V6, 1);
    let met: Vec<u8> = (0..20).map(|port| rig.open(at_port(from, port))).collect();
    assert_eq!(met, [11, 12].repeat(10));
    for (port, &host) in (0..20).zip(&met) {
        assert_eq!(rig.data(at_port(from, port)), host);
        rig.close(host, at_port(from, port));
    }
}

#[test]
fn least_connections_fills_the_emptiest_for_its_weight() {
    let least = "algorithm = \"least-connections\"";
    let Some(mut rig) = rig(&[(11, 1), (12, 1), (13, 2)], least) else { return };
    let met = new_clients(&mut rig, 0..40);
    assert_eq!(open(&mut rig, 3), [10, 10, 20]);
    // Those of server 11 close, and it gets the next ones.
    for (n, _) in (0..40).zip(&met).filter(|(_, host)| **host == 11) {
        rig.close(11, client(V4, n));
    }
    assert_eq!(open(&mut rig, 3), [0, 10, 20]);
    assert_eq!(new_clients(&mut rig, 100..109), [11; 9]);
    for (n, &host) in (0..40).zip(&met) {
        assert_eq!(rig.open(at_port(client(V4, n), 1)), host, "bound to its server, busy or not");
    }
}

#[test]
fn random_two_leans_to_the_emptier_one() {
    let Some(mut rig) = rig(&[(11, 1), (12, 1)], "algorithm = \"random-two\"") else { return };
    // All of one key, so that one server is busy: the weights of chance stay as they are.
    let busy = rig.open(client(V4, 0));
    for port in 1..60 {
        assert_eq!(rig.open(at_port(client(V4, 0), port)), busy);
    }
    let met = new_clients(&mut rig, 1..41);
    let at_busy = met.iter().filter(|host| **host == busy).count();
    // Both picks are the busy one for a quarter of the clients.
    assert!((1..=22).contains(&at_busy), "{at_busy} of 40");
}

#[test]
fn open_connections_are_counted_through_resets_evictions_and_silence() {
    let limits = "tcp = \"10s\"\nudp = \"2s\"";
    let Some(mut rig) = Text::servers(&[11]).limits(limits).rig() else { return };
    let second = 1_000_000_000;
    let mut now = lbpersist::clock::now_ns();
    rig.set_clock(now);
    for n in 0..10 {
        rig.open(client(V4, n));
    }
    rig.ask(client(V4, 0));
    assert_eq!(open(&mut rig, 1), [11], "ten connections and one client over UDP");
    rig.segment(client(V4, 0), flag::RST);
    assert_eq!(open(&mut rig, 1), [10]);
    // Evicted: nobody is told.
    let (key, _) = rig.connections().unwrap()[1];
    rig.data_path().maps.connections.remove(&key).unwrap();
    now += second;
    rig.set_clock(now);
    rig.sweep_pass(now).unwrap();
    let known = rig.connections().unwrap().iter().filter(|(_, c)| c.state == 1).count();
    assert_eq!(open(&mut rig, 1), [u32::try_from(known).unwrap() + 1]);
    now += 3 * second;
    rig.set_clock(now);
    rig.sweep_pass(now).unwrap();
    assert_eq!(open(&mut rig, 1), [u32::try_from(known).unwrap()], "the UDP client is silent");
    for _ in 0..3 {
        now += 20 * second;
        rig.set_clock(now);
        rig.sweep_pass(now).unwrap();
    }
    assert_eq!(open(&mut rig, 1), [0], "all have ended by silence");
}
