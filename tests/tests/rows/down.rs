//! Servers that go down, under each of the three ways.

use lbpersist_common::{counter::Event, reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::Packet,
    rig::{Action, Rig},
    topology::Family,
};

use crate::setup::{
    DNS, SERVER_PORT, Text, Visits as _, at_port, client, family, server_address, web,
};

const CLIENTS: u16 = 30;

fn rig(way: &'static str) -> Option<Rig> {
    Text::servers(&[11, 12]).profile(way).rig()
}

pub(crate) fn set_down(rig: &mut Rig, hosts: &[u8]) {
    rig.down = hosts
        .iter()
        .flat_map(|&host| {
            [("v4", Family::V4), ("v6", Family::V6)].map(|(pool, family)| {
                (pool.to_owned(), server_address(family, host), Some(SERVER_PORT))
            })
        })
        .collect();
    rig.apply().unwrap();
}

fn clients() -> impl Iterator<Item = std::net::SocketAddr> {
    (0..CLIENTS).flat_map(|n| Family::BOTH.map(|family| client(family, n)))
}

#[test]
fn immediate_moves_the_clients_and_their_entries() {
    let Some(mut rig) = rig("server_down = \"immediate\"") else { return };
    let met: Vec<(u8, u8)> = clients().map(|from| (rig.open(from), rig.ask(from))).collect();
    assert!(met.contains(&(11, 11)) && met.contains(&(12, 12)), "{met:?}");
    set_down(&mut rig, &[11]);
    for (from, &(host, _)) in clients().zip(&met) {
        if host == 11 {
            assert_reset(&mut rig, from);
        }
        assert_eq!(rig.data(from), 12, "and then its packets belong to no connection");
        assert_eq!(rig.open(at_port(from, 1)), 12);
        assert_eq!(rig.ask(from), 12);
    }
    let moved = met.iter().filter(|(host, _)| *host == 11).count() as u64;
    assert_eq!(rig.event(Event::EntryMoved).unwrap(), 2 * moved, "over TCP and over UDP");
    set_down(&mut rig, &[]);
    for from in clients() {
        let kept = (rig.open(at_port(from, 2)), rig.ask(from));
        assert_eq!(kept, (12, 12), "back up, but the entries stay where they are");
    }
}

#[test]
fn connections_of_a_lost_server_may_be_left_to_the_next_one() {
    let text = Text::servers(&[11, 12]).pool("reset_connections = false");
    let Some(mut rig) = text.rig() else { return };
    let met: Vec<u8> = clients().map(|from| rig.open(from)).collect();
    set_down(&mut rig, &[11]);
    for (from, host) in clients().zip(met) {
        assert_eq!(rig.data(from), 12, "was at {host}");
    }
    assert_eq!(rig.connections().unwrap().len(), clients().count());
}

#[test]
fn a_reset_of_a_connection_whose_server_is_lost_gets_no_answer() {
    let Some(mut rig) = rig("") else { return };
    let from = client(Family::V4, 1);
    let host = rig.open(from);
    set_down(&mut rig, &[host]);
    let outcome = rig.send_packet(&Packet::tcp(from, web(from), flag::RST));
    assert_eq!((outcome.action, outcome.reason), (Action::Drop, Reason::ServerGone));
    assert!(rig.connections().unwrap().is_empty());
}

/// The client's open connection is answered with a reset, and is over.
fn assert_reset(rig: &mut Rig, from: std::net::SocketAddr) {
    let outcome = rig.send_packet(&Packet::tcp(from, web(from), flag::ACK));
    assert_eq!((outcome.action, outcome.reason), (Action::Transmit, Reason::ServerGone));
    let flags = if from.is_ipv4() { outcome.packet[47] } else { outcome.packet[67] };
    assert_eq!(flags, flag::RST);
}

#[test]
fn never_refuses_new_connections_and_keeps_the_entries() {
    let Some(mut rig) = rig("server_down = \"never\"") else { return };
    let met: Vec<u8> = clients().map(|from| rig.open(from)).collect();
    let asked: Vec<u8> = clients().map(|from| rig.ask(from)).collect();
    assert_eq!(met, asked);
    let entries = rig.entries().unwrap().len();
    set_down(&mut rig, &[11]);
    for (from, &host) in clients().zip(&met) {
        let new = at_port(from, 1);
        let syn = Packet::tcp(new, web(from), flag::SYN);
        let datagram = Packet::udp(from, family(from).service(DNS));
        assert_eq!(rig.data(from), host, "an open connection may try");
        if host == 12 {
            assert_eq!((rig.open(new), rig.ask(from)), (12, 12));
        } else {
            assert_eq!(rig.send_packet(&syn).reason, Reason::ServerDown);
            assert_eq!(rig.send_packet(&datagram).reason, Reason::ServerDown);
        }
    }
    for n in 100..120 {
        assert_eq!(rig.open(client(Family::V4, n)), 12, "a new client has another");
    }
    assert_eq!(rig.entries().unwrap().len(), entries + 20);
    set_down(&mut rig, &[]);
    for (from, &host) in clients().zip(&met) {
        assert_eq!((rig.open(at_port(from, 2)), rig.ask(from)), (host, host), "back up");
    }
    assert_eq!(rig.event(Event::EntryMoved).unwrap(), 0);
}

#[test]
fn continue_sends_the_clients_all_the_same() {
    let Some(mut rig) = rig("server_down = \"continue\"") else { return };
    let met: Vec<u8> = clients().map(|from| rig.open(from)).collect();
    let asked: Vec<u8> = clients().map(|from| rig.ask(from)).collect();
    set_down(&mut rig, &[11]);
    for ((from, &host), &asked) in clients().zip(&met).zip(&asked) {
        assert_eq!(rig.data(from), host);
        assert_eq!(rig.open(at_port(from, 1)), host);
        assert_eq!(rig.ask(from), asked);
    }
    for n in 100..120 {
        assert_eq!(rig.open(client(Family::V4, n)), 12, "a new client has another");
    }
    assert_eq!(rig.event(Event::EntryMoved).unwrap(), 0);
}

#[test]
fn with_every_server_down_only_the_bound_are_served() {
    for (way, served) in [("server_down = \"continue\"", true), ("", false)] {
        let Some(mut rig) = rig(way) else { return };
        let from = client(Family::V4, 1);
        let host = rig.open(from);
        set_down(&mut rig, &[11, 12]);
        let packet = |port, flags| Packet::tcp(at_port(from, port), web(from), flags);
        let stranger = Packet::tcp(client(Family::V4, 2), web(from), flag::SYN);
        let outcome = rig.send_packet(&stranger);
        assert_eq!((outcome.action, outcome.reason), (Action::Transmit, Reason::NoServer));
        if served {
            assert_eq!((rig.data(from), rig.open(at_port(from, 1))), (host, host));
        } else {
            assert_eq!(rig.send_packet(&packet(0, flag::ACK)).reason, Reason::ServerGone);
            assert_eq!(rig.send_packet(&packet(0, flag::ACK)).reason, Reason::NoServer);
            assert_eq!(rig.send_packet(&packet(1, flag::SYN)).reason, Reason::NoServer);
        }
    }
}

#[test]
fn without_a_server_clients_are_dropped_where_the_pool_says_so() {
    let Some(mut rig) = Text::servers(&[11]).pool("no_server = \"drop\"").rig() else { return };
    set_down(&mut rig, &[11]);
    for from in clients().take(4) {
        for packet in
            [Packet::tcp(from, web(from), flag::SYN), Packet::udp(from, family(from).service(DNS))]
        {
            let outcome = rig.send_packet(&packet);
            assert_eq!((outcome.action, outcome.reason), (Action::Drop, Reason::NoServer));
        }
    }
}
