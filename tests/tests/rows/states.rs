//! Servers that drain or are disabled.

use lbpersist_common::{reason::Reason, tcp::flag};
use lbpersist_tests::{packet::Packet, rig::Rig, topology::Family};

use crate::setup::{DNS, Text, Visits as _, at_port, client, family, web};

const CLIENTS: u16 = 30;
const DRAINING: (u8, &str) = (11, "state = \"draining\"");
const DISABLED: (u8, &str) = (11, "state = \"disabled\"");

fn clients(first: u16) -> impl Iterator<Item = std::net::SocketAddr> {
    (first..first + CLIENTS).flat_map(|n| Family::BOTH.map(|family| client(family, n)))
}

/// Servers 11 and 12 with clients of each, and the servers they met.
fn met(text: &Text) -> Option<(Rig, Vec<u8>)> {
    let mut rig = text.rig()?;
    let met: Vec<u8> = clients(0)
        .map(|from| {
            let host = rig.open(from);
            assert_eq!(rig.ask(from), host);
            host
        })
        .collect();
    assert!(met.contains(&11) && met.contains(&12), "{met:?}");
    Some((rig, met))
}

#[test]
fn a_draining_server_keeps_its_clients_and_gets_no_new_ones() {
    let text = Text::servers(&[11, 12]);
    let Some((mut rig, met)) = met(&text) else { return };
    let unfinished = client(Family::V4, 200);
    let began = rig.syn(unfinished);
    rig.configure(&text.clone().states(&[DRAINING]).text()).unwrap();
    for (from, &host) in clients(0).zip(&met) {
        assert_eq!(rig.data(from), host, "an open connection");
        assert_eq!(rig.open(at_port(from, 1)), host, "a new connection of a client with an entry");
        assert_eq!(rig.ask(from), host, "over UDP");
    }
    assert_eq!(rig.data(unfinished), began, "a handshake that had begun");
    for from in clients(300) {
        assert_eq!((rig.open(from), rig.ask(from)), (12, 12), "a new client");
    }
    rig.configure(&text.text()).unwrap();
    let back: Vec<u8> = clients(600).map(|from| rig.open(from)).collect();
    assert!(back.contains(&11), "enabled again it takes new clients");
}

#[test]
fn without_persistence_a_draining_server_keeps_open_connections_alone() {
    let text = Text::servers(&[11, 12]).without_persistence();
    let Some(mut rig) = text.rig() else { return };
    let met: Vec<u8> = clients(0).map(|from| rig.open(from)).collect();
    assert!(met.contains(&11) && met.contains(&12), "{met:?}");
    rig.configure(&text.states(&[DRAINING]).text()).unwrap();
    for (from, &host) in clients(0).zip(&met) {
        assert_eq!(rig.data(from), host);
        assert_eq!(rig.open(at_port(from, 1)), 12);
    }
}

#[test]
fn a_disabled_server_is_treated_as_down() {
    for (way, moves) in [("immediate", true), ("never", false), ("continue", false)] {
        let lines = match way {
            "immediate" => "server_down = \"immediate\"",
            "never" => "server_down = \"never\"",
            _ => "server_down = \"continue\"",
        };
        let text = Text::servers(&[11, 12]).profile(lines);
        let Some((mut rig, met)) = met(&text) else { return };
        rig.configure(&text.states(&[DISABLED]).text()).unwrap();
        for (from, &host) in clients(0).zip(&met) {
            let expected = if moves { 12 } else { host };
            if expected == host {
                assert_eq!(rig.data(from), host, "{way}: an open connection");
            } else {
                let data = rig.send_packet(&Packet::tcp(from, web(from), flag::ACK));
                assert_eq!(data.reason, Reason::ServerGone, "{way}: an open connection");
            }
            let next = at_port(from, 1);
            if way == "never" && host == 11 {
                let syn = rig.send_packet(&Packet::tcp(next, web(next), flag::SYN));
                assert_eq!(syn.reason, Reason::ServerDown);
                let asked = rig.send_packet(&Packet::udp(from, family(from).service(DNS)));
                assert_eq!(asked.reason, Reason::ServerDown);
            } else {
                assert_eq!((rig.open(next), rig.ask(from)), (expected, expected), "{way}");
            }
        }
        for from in clients(300) {
            assert_eq!(rig.open(from), 12, "{way}: a new client");
        }
    }
}

#[test]
fn a_pool_whose_servers_all_drain_refuses_new_clients_only() {
    let text = Text::servers(&[11]);
    let Some(mut rig) = text.rig() else { return };
    let old = client(Family::V4, 1);
    rig.open(old);
    rig.configure(&text.states(&[DRAINING]).text()).unwrap();
    assert_eq!(rig.open(at_port(old, 1)), 11);
    let new = client(Family::V4, 2);
    let syn = rig.send_packet(&Packet::tcp(new, web(new), flag::SYN));
    assert_eq!(syn.reason, Reason::NoServer);
}
