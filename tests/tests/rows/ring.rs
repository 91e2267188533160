//! Rings that change under living clients.

use std::collections::BTreeSet;

use lbpersist_common::{counter::Event, reason::Reason, tcp::flag};
use lbpersist_tests::{packet::Packet, rig::Rig, topology::Family};

use crate::{
    persistence::sizes,
    setup::{POOL_V4, Text, V4, Visits as _, at_port, client, link_to, server, web},
};

const CLIENTS: u16 = 60;

/// What it shows, the servers before, and the servers after.
type Row = (&'static str, &'static [(u8, u16)], &'static [(u8, u16)]);

const ROWS: [Row; 5] = [
    ("a server more", &[(11, 1), (12, 1)], &[(11, 1), (12, 1), (13, 1)]),
    ("many servers more", &[(11, 1)], &[(11, 1), (12, 1), (13, 9), (14, 9)]),
    ("a server less", &[(11, 1), (12, 1), (13, 1)], &[(11, 1), (12, 1)]),
    ("other weights", &[(11, 1), (12, 9)], &[(11, 9), (12, 1)]),
    ("a server that takes no more new clients", &[(11, 1), (12, 1)], &[(11, 1), (12, 0)]),
];

fn text(servers: &[(u8, u16)]) -> Text {
    Text { servers: servers.to_vec(), ..Text::default() }
}

#[test]
fn living_clients_stay_and_only_those_of_a_removed_server_move() {
    for family in Family::BOTH {
        for (shows, before, after) in ROWS {
            let Some(mut rig) = text(before).rig() else { return };
            let met: Vec<u8> = (0..CLIENTS).map(|n| rig.open(client(family, n))).collect();
            rig.configure(&text(after).text()).unwrap();
            let stays = |host: u8| after.iter().any(|(other, _)| *other == host);
            for (n, &host) in (0..CLIENTS).zip(&met) {
                let from = client(family, n);
                if stays(host) {
                    assert_eq!(rig.data(from), host, "{shows}: client {n}");
                    assert_eq!(rig.open(at_port(from, 1)), host, "{shows}: client {n}");
                } else {
                    let data = Packet::tcp(from, web(from), flag::ACK);
                    assert_eq!(rig.send_packet(&data).reason, Reason::ServerGone, "{shows}: {n}");
                    let again = rig.open(at_port(from, 1));
                    assert!(stays(again), "{shows}: client {n}");
                    assert_eq!(rig.open(at_port(from, 2)), again, "{shows}: client {n}");
                }
            }
            new_clients_follow(&mut rig, after, family);
            let flushed = flushed_clients(&mut rig, family);
            assert_ne!(flushed, met, "{shows}: not one slot has changed, which shows nothing");
        }
    }
}

/// New clients meet the servers that a rig meets that never knew another ring.
fn new_clients_follow(rig: &mut Rig, servers: &[(u8, u16)], family: Family) {
    let mut fresh = text(servers).rig().unwrap();
    for n in 200..300 {
        assert_eq!(rig.syn(client(family, n)), fresh.syn(client(family, n)));
    }
}

/// Where the same clients go once the tables are empty.
fn flushed_clients(rig: &mut Rig, family: Family) -> Vec<u8> {
    flush(rig);
    (0..CLIENTS).map(|n| rig.syn(client(family, n))).collect()
}

pub(crate) fn flush(rig: &mut Rig) {
    for (key, _) in rig.entries().unwrap() {
        rig.data_path().maps.entries.remove(&key).unwrap();
    }
    for (key, _) in rig.connections().unwrap() {
        rig.data_path().maps.connections.remove(&key).unwrap();
    }
    for (key, _) in rig.handshakes().unwrap() {
        rig.data_path().maps.handshakes.remove(&key).unwrap();
    }
    assert_eq!(sizes(rig), [0, 0, 0]);
}

#[test]
fn a_handshake_stays_on_its_server_when_the_ring_changes_meanwhile() {
    let Some(mut rig) = Text::servers(&[11, 12]).rig() else { return };
    let met: Vec<u8> = (0..CLIENTS).map(|n| rig.syn(client(V4, n))).collect();
    rig.configure(&Text::servers(&[11, 12, 13, 14]).text()).unwrap();
    // The sweep finds no entry and no connection that differs from the ring: those come afterwards.
    let now = lbpersist::clock::now_ns();
    rig.sweep_pass(now).unwrap();
    let finished: Vec<u8> = (0..CLIENTS).map(|n| rig.data(client(V4, n))).collect();
    assert_eq!(finished, met);
    // With this one the marks of finished handshakes go.
    rig.sweep_handshakes(now).unwrap();
    let data: Vec<u8> = (0..CLIENTS).map(|n| rig.data(client(V4, n))).collect();
    assert_eq!(data, met);
}

#[test]
fn an_address_used_again_inherits_nothing() {
    let Some(mut rig) = Text::servers(&[11]).rig() else { return };
    let from = client(V4, 1);
    assert_eq!(rig.open(from), 11);
    rig.configure(&Text::servers(&[12]).text()).unwrap();
    rig.configure(&Text::servers(&[12, 11]).text()).unwrap();
    let old = rig.entries().unwrap()[0].1.binding;
    for n in 1..40 {
        rig.open(at_port(client(V4, n), 1));
    }
    let bindings: BTreeSet<(u32, u32)> = rig
        .entries()
        .unwrap()
        .iter()
        .map(|(_, entry)| (entry.binding.server, entry.binding.generation))
        .collect();
    assert_eq!(bindings.len(), 2, "{bindings:?}");
    assert!(!bindings.contains(&(old.server, old.generation)), "{bindings:?} and {old:?}");
}

#[test]
fn a_number_used_again_inherits_nothing() {
    let Some(mut rig) = Text::servers(&[11, 12]).rig() else { return };
    let met: Vec<u8> = (0..CLIENTS).map(|n| rig.open(client(V4, n))).collect();
    // Numbers are used again only when all others were: say that they were.
    let number = |rig: &mut Rig, host| {
        let known = rig.data_path().identities.servers.clone();
        known.iter().find(|(id, _)| id.address == server(V4, host).ip()).unwrap().1.number
    };
    let was = number(&mut rig, 12);
    rig.configure(&Text::servers(&[11]).text()).unwrap();
    let retired = rig.data_path().identities.retired.clone();
    let taken: BTreeSet<u16> =
        rig.data_path().identities.servers.values().map(|known| known.number).collect();
    let others = (1..=u16::MAX).filter(|n| !taken.contains(n) && !retired.contains_key(n));
    let later = others.map(|number| (number, 1)).filter(|(number, _)| *number > was);
    let later: Vec<(u16, u32)> = later.collect();
    rig.data_path().identities.retired.extend(later);
    rig.configure(&Text::servers(&[11, 13]).text()).unwrap();
    assert_eq!(number(&mut rig, 13), was, "the row shows nothing otherwise");
    let mut fresh = Text::servers(&[11, 13]).rig().unwrap();
    for (n, host) in (0..CLIENTS).zip(met) {
        let from = at_port(client(V4, n), 1);
        let expected = if host == 11 { 11 } else { fresh.syn(from) };
        assert_eq!(rig.open(from), expected, "client {n}, once on {host}");
    }
}

#[test]
fn a_client_that_opens_again_after_its_server_is_gone_is_tracked_again() {
    let Some(mut rig) = Text::servers(&[11]).rig() else { return };
    let from = client(V4, 1);
    rig.open(from);
    rig.configure(&Text::servers(&[12]).text()).unwrap();
    // From the same port, since the old connection was never closed.
    assert_eq!(rig.open(from), 12);
    let entry = rig.entries().unwrap()[0].1;
    let connection = rig.connections().unwrap()[0].1;
    assert_eq!(sizes(&mut rig), [1, 1, 0]);
    assert_eq!(connection.binding, entry.binding);
    assert_eq!(entry.open, 1);
    assert_eq!(rig.event(Event::EntryMoved).unwrap(), 1);
    rig.close(12, from);
    assert_eq!(rig.entries().unwrap()[0].1.open, 0);
}

#[test]
fn a_service_that_is_gone_leaves_its_packets_alone() {
    let other = Text::default().also("other", V4.service(81), "other");
    let pool = "[[pool]]\nname = \"other\"\nservers = [{ address = \"10.0.0.15\", port = 8080 }]\n";
    let with = Text { more: other.more + pool, ..Text::default() };
    let Some(mut rig) = with.rig() else { return };
    let packet = Packet::tcp(client(V4, 1), V4.service(81), flag::SYN);
    let answer = Packet::tcp(server(V4, 15), client(V4, 1), flag::SYN | flag::ACK);
    assert_eq!(rig.server_of(&packet), 15);
    let out = answer.returned(V4.service(81), link_to(V4, 1, 1)).bytes();
    assert_eq!(rig.send_packet(&answer).packet, out);
    rig.configure(&Text::default().text()).unwrap();
    assert_eq!(rig.send_packet(&packet).reason, Reason::NotOurs);
    assert_eq!(rig.send_packet(&answer).reason, Reason::NotOurs);
    assert_eq!(rig.syn(client(V4, 1)), 11);
}

#[test]
fn an_unmarked_slot_needs_no_table() {
    let Some(mut rig) = Text::servers(&[11, 12]).rig() else { return };
    let from = client(V4, 1);
    let host = rig.open(from);
    let now = lbpersist::clock::now_ns();
    rig.sweep_handshakes(now).unwrap();
    rig.sweep_pass(now).unwrap();
    assert_eq!(rig.marked(POOL_V4).unwrap(), 0);
    let before = rig.connections().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(150));
    assert_eq!(rig.data(from), host);
    assert_eq!(rig.connections().unwrap(), before, "no packet was noted");
}

#[test]
fn another_profile_leaves_open_connections_where_they_are() {
    let profiles = ["", "ipv4_mask = 24\nipv6_mask = 48", "timeout = \"0\"", "ipv6_mask = 127"];
    for (before, after) in profiles.into_iter().zip(profiles.into_iter().cycle().skip(1)) {
        let text = |profile| Text::servers(&[11, 12, 13, 14]).profile(profile);
        let Some(mut rig) = text(before).rig() else { return };
        let clients = || (0..CLIENTS).flat_map(|n| Family::BOTH.map(|family| client(family, n)));
        let met: Vec<u8> = clients().map(|from| rig.open(from)).collect();
        let now = lbpersist::clock::now_ns();
        rig.sweep_handshakes(now).unwrap();
        rig.sweep_pass(now).unwrap();
        rig.configure(&text(after).text()).unwrap();
        let data: Vec<u8> = clients().map(|from| rig.data(from)).collect();
        assert_eq!(data, met, "from {before:?} to {after:?}");
        rig.sweep_pass(now).unwrap();
        let data: Vec<u8> = clients().map(|from| rig.data(from)).collect();
        assert_eq!(data, met, "from {before:?} to {after:?}, after a sweep");
    }
}
