//! Limits of a server's open connections.

use lbpersist_common::{counter::Event, reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::Packet,
    rig::{Action, Rig},
};

use crate::setup::{DNS, Text, V4, V6, Visits as _, at_port, client, family, web};

/// Servers that may have so many connections each.
fn rig(hosts: &[u8], limit: u32, pool: &'static str) -> Option<Rig> {
    Text { limit: Some(limit), ..Text::servers(hosts) }.pool(pool).rig()
}

/// Opens connections of one client until its server is full; returns the server.
fn fill(rig: &mut Rig, from: std::net::SocketAddr, limit: u16) -> u8 {
    let host = rig.open(from);
    for port in 1..limit {
        assert_eq!(rig.open(at_port(from, port)), host);
    }
    host
}

fn assert_refused(rig: &mut Rig, packet: &Packet) {
    let outcome = rig.send_packet(packet);
    assert_eq!((outcome.action, outcome.reason), (Action::Transmit, Reason::ServerFull));
}

#[test]
fn new_clients_pass_a_full_server_by() {
    for algorithm in ["maglev", "round-robin", "least-connections", "random-two"] {
        let text = Text { limit: Some(3), ..Text::servers(&[11, 12, 13]) };
        let Some(mut rig) = text.rig() else { return };
        let text = text
            .text()
            .replace("name = \"v4\"\n", &format!("name = \"v4\"\nalgorithm = \"{algorithm}\"\n"));
        rig.configure(&text).unwrap();
        let mut met: Vec<u8> = (0..9).map(|n| rig.open(client(V4, n))).collect();
        met.sort_unstable();
        assert_eq!(met, [11, 11, 11, 12, 12, 12, 13, 13, 13], "{algorithm}");
        let from = client(V4, 100);
        assert_refused(&mut rig, &Packet::tcp(from, web(from), flag::SYN));
        assert_eq!(rig.handshakes().unwrap(), [], "{algorithm}");
    }
}

#[test]
fn a_bound_client_spills_to_another_server_and_its_entry_follows() {
    let Some(mut rig) = rig(&[11, 12], 3, "") else { return };
    for from in [client(V4, 1), client(V6, 1)] {
        let full = fill(&mut rig, from, 3);
        let other = 23 - full;
        assert_eq!(rig.open(at_port(from, 10)), other);
        for port in 0..3 {
            assert_eq!(rig.data(at_port(from, port)), full, "open connections stay");
        }
        assert_eq!(rig.open(at_port(from, 11)), other, "the entry has followed");
        assert_eq!(rig.open(at_port(from, 12)), other, "and stays");
        assert_refused(&mut rig, &Packet::tcp(at_port(from, 30), web(from), flag::SYN));
        rig.close(full, from);
        assert_eq!(rig.open(at_port(from, 31)), full, "where there is room again");
    }
    // Once each where there was room, and once where there was none.
    assert_eq!(rig.event(Event::LimitSpilled).unwrap(), 6);
}

#[test]
fn a_bound_client_may_exceed() {
    let Some(mut rig) = rig(&[11, 12], 2, "on_limit = \"exceed\"") else { return };
    let from = client(V4, 1);
    let full = fill(&mut rig, from, 5);
    for n in 10..12 {
        assert_eq!(rig.open(client(V4, n)), 23 - full, "a new client may not");
    }
}

#[test]
fn a_bound_client_is_rejected() {
    let Some(mut rig) = rig(&[11, 12], 2, "on_limit = \"reject\"") else { return };
    let from = client(V4, 1);
    let full = fill(&mut rig, from, 2);
    assert_refused(&mut rig, &Packet::tcp(at_port(from, 9), web(from), flag::SYN));
    assert_eq!(rig.data(from), full);
    rig.close(full, from);
    assert_eq!(rig.open(at_port(from, 9)), full, "there is room again");
}

#[test]
fn udp_clients_count_and_spill_when_they_come_back() {
    let limits = "udp = \"2s\"";
    let text = Text { limit: Some(1), ..Text::servers(&[11, 12]) }.limits(limits);
    let Some(mut rig) = text.rig() else { return };
    let mut now = lbpersist::clock::now_ns();
    rig.set_clock(now);
    let clients = [client(V4, 1), client(V4, 2), client(V4, 3)];
    let met = [rig.ask(clients[0]), rig.ask(clients[1])];
    assert_ne!(met[0], met[1]);
    let datagram = Packet::udp(clients[2], family(clients[2]).service(DNS));
    assert_refused(&mut rig, &datagram);
    assert_eq!([rig.ask(clients[0]), rig.ask(clients[1])], met, "who is served goes on");
    now += 3_000_000_000;
    rig.set_clock(now);
    rig.sweep_pass(now).unwrap();
    let third = rig.ask(clients[2]);
    let left = clients.iter().zip(met).find(|(_, host)| *host == third).unwrap().0;
    assert_eq!(rig.ask(*left), 23 - third, "its server is taken, so it gets the other");
}
