//! What a client's connection leaves in the tables, and what does not.

use lbpersist_common::{counter::Event, reason::Reason, tcp::flag};
use lbpersist_tests::{packet::Packet, rig::Rig, topology::Family, wait};

use crate::{
    ring::flush,
    setup::{SERVER_PORT, Text, V4, Visits as _, at_port, client, server, server_address, web},
};

#[test]
fn an_entry_is_earned_by_the_third_packet() {
    for family in Family::BOTH {
        let Some(mut rig) = Text::servers(&[11, 12, 13]).rig() else { return };
        let from = client(family, 1);
        let host = rig.syn(from);
        assert_eq!(sizes(&mut rig), [0, 0, 1], "after the SYN");
        rig.answer(host, from, flag::SYN | flag::ACK);
        assert_eq!(sizes(&mut rig), [0, 0, 1], "after the server's answer");
        assert_eq!(rig.data(from), host);
        assert_eq!(sizes(&mut rig), [1, 1, 0], "after the client's");
        assert_eq!(open(&mut rig), 1);
        let entry = rig.entries().unwrap()[0].1;
        let (key, connection) = rig.connections().unwrap()[0];
        assert_eq!(connection.binding, entry.binding);
        assert_eq!(connection.entry_created_ns, entry.created_ns);
        assert_eq!((key.client_port, key.service_port), (40_000, 80));
        let events = [Event::HandshakeStarted, Event::ConnectionOpened, Event::EntryCreated];
        assert_eq!(events.map(|event| rig.event(event).unwrap()), [1, 1, 1]);
    }
}

#[test]
fn a_packet_that_goes_no_further_changes_nothing() {
    for family in Family::BOTH {
        let Some(mut rig) = Text::servers(&[11, 12]).rig() else { return };
        let (known, stranger) = (client(family, 1), client(family, 2));
        rig.open(known);
        let before = (rig.entries().unwrap(), rig.connections().unwrap());
        let last = |from, flags| Packet::tcp(from, web(from), flags).hops(1);
        for packet in
            [last(stranger, flag::SYN), last(known, flag::RST), last(known, flag::FIN | flag::ACK)]
        {
            assert_eq!(rig.send_packet(&packet).reason, Reason::HopLimit);
        }
        assert_eq!((rig.entries().unwrap(), rig.connections().unwrap()), before);
        assert_eq!(rig.handshakes().unwrap(), []);
    }
}

#[test]
fn every_connection_of_a_client_counts() {
    let Some(mut rig) = Text::servers(&[11, 12, 13]).rig() else { return };
    let from = client(V4, 1);
    let host = rig.open(from);
    for n in 1..5 {
        assert_eq!(rig.open(at_port(from, n)), host);
        assert_eq!(open(&mut rig), u32::from(n) + 1);
    }
    for n in (0..5).rev() {
        rig.close(host, at_port(from, n));
        assert_eq!(open(&mut rig), u32::from(n));
    }
    assert_eq!(sizes(&mut rig), [1, 5, 0], "the closed ones linger until the sweep");
    assert_eq!(rig.event(Event::ConnectionClosed).unwrap(), 5);
    assert_eq!(rig.open(from), host, "a port used again is another connection");
    assert_eq!(open(&mut rig), 1);
}

#[test]
fn a_repeated_syn_goes_where_the_first_went() {
    let Some(mut rig) = Text::servers(&[11, 12]).rig() else { return };
    let first: Vec<u8> = (0..40).map(|n| rig.syn(client(V4, n))).collect();
    rig.configure(&Text::servers(&[11, 12, 13, 14]).text()).unwrap();
    let second: Vec<u8> = (0..40).map(|n| rig.syn(client(V4, n))).collect();
    assert_eq!(first, second);
    assert_eq!(rig.event(Event::HandshakeStarted).unwrap(), 40);
    assert_eq!(sizes(&mut rig), [0, 0, 40]);
}

#[test]
fn a_syn_on_an_open_connection_changes_nothing() {
    let Some(mut rig) = Text::servers(&[11, 12, 13]).rig() else { return };
    let from = client(V4, 1);
    let host = rig.open(from);
    let before = (rig.entries().unwrap(), rig.connections().unwrap());
    assert_eq!(rig.syn(from), host);
    assert_eq!((rig.entries().unwrap(), rig.connections().unwrap()), before);
    assert_eq!(sizes(&mut rig), [1, 1, 0]);
}

#[test]
fn data_without_a_handshake_goes_by_the_ring_and_writes_nothing() {
    let Some(mut rig) = Text::servers(&[11, 12, 13]).rig() else { return };
    for n in 0..20 {
        let from = client(V4, n);
        let hosts = [flag::ACK, flag::FIN | flag::ACK, flag::RST, flag::SYN | flag::ACK]
            .map(|flags| rig.segment(from, flags));
        assert_eq!(sizes(&mut rig), [0, 0, 0]);
        let host = rig.syn(from);
        assert_eq!(hosts, [host; 4], "client {n}");
        assert_eq!(rig.segment(from, flag::RST), host);
    }
}

#[test]
fn only_a_client_that_has_seen_the_servers_answer_earns_an_entry() {
    let Some(mut rig) = Text::servers(&[11, 12]).rig() else { return };
    for family in Family::BOTH {
        let (from, liar) = (client(family, 1), client(family, 2));
        let host = rig.syn(liar);
        let guess = |number| Packet::tcp(liar, web(liar), flag::ACK).acknowledging(number);
        assert_eq!(rig.server_of(&guess(2000)), host, "before the server has said anything");
        rig.answer(host, liar, flag::SYN | flag::ACK);
        for number in [0, 1, 1999, 2001, u32::MAX] {
            assert_eq!(rig.server_of(&guess(number)), host, "{number}: to its server all the same");
        }
        assert!(rig.entries().unwrap().is_empty() && rig.connections().unwrap().is_empty());
        assert_eq!(rig.server_of(&guess(2000)), host);
        assert_eq!((rig.entries().unwrap().len(), rig.connections().unwrap().len()), (1, 1));
        rig.open(from);
        flush(&mut rig);
    }
}

#[test]
fn a_server_may_change_its_number() {
    for answered in [5_000, 7_000, 6_000] {
        let Some(mut rig) = Text::servers(&[11]).rig() else { return };
        let from = client(V4, 1);
        let host = rig.syn(from);
        for number in [5_000, 6_000, 7_000] {
            let syn = Packet::tcp(server(V4, host), from, flag::SYN | flag::ACK).numbered(number);
            assert_eq!(rig.send_packet(&syn).reason, Reason::Returned);
        }
        rig.server_of(&Packet::tcp(from, web(from), flag::ACK).acknowledging(answered + 1));
        let is_known = answered != 6_000;
        assert_eq!(rig.connections().unwrap().len(), usize::from(is_known), "the first, the last");
    }
}

#[test]
fn a_reset_ends_a_handshake() {
    let Some(mut rig) = Text::servers(&[11, 12, 13]).rig() else { return };
    let from = client(V4, 1);
    let host = rig.syn(from);
    rig.answer(host, from, flag::RST | flag::ACK);
    assert_eq!(sizes(&mut rig), [0, 0, 0], "a server that refuses");
    rig.syn(from);
    rig.segment(from, flag::RST);
    assert_eq!(sizes(&mut rig), [0, 0, 0], "a client that gives up");
}

#[test]
fn a_third_packet_may_carry_data_or_end_the_connection() {
    for (flags, state) in [(flag::ACK, 1), (flag::FIN | flag::ACK, 2)] {
        let Some(mut rig) = Text::servers(&[11, 12, 13]).rig() else { return };
        let from = client(V4, 1);
        let host = rig.syn(from);
        rig.answer(host, from, flag::SYN | flag::ACK);
        assert_eq!(rig.segment(from, flags), host);
        assert_eq!(open(&mut rig), 1);
        assert_eq!(rig.connections().unwrap()[0].1.state, state);
    }
}

#[test]
fn timeout_zero_keeps_connections_but_no_entries() {
    for text in [
        Text::servers(&[11, 12]).profile("timeout = \"0\""),
        Text::servers(&[11, 12]).without_persistence(),
    ] {
        let Some(mut rig) = text.rig() else { return };
        let from = client(V4, 1);
        let host = rig.open(from);
        assert_eq!(sizes(&mut rig), [0, 1, 0]);
        assert_eq!(rig.connections().unwrap()[0].1.entry_created_ns, 0);
        rig.close(host, from);
        let hosts: Vec<u8> = (0..40).map(|n| rig.syn(at_port(from, n))).collect();
        assert!(hosts.contains(&11) && hosts.contains(&12), "each connection afresh: {hosts:?}");
    }
}

#[test]
fn an_entry_outlives_its_last_connection_by_the_timeout() {
    let text = Text::servers(&[11, 12]).profile("timeout = \"1s\"");
    let Some(mut rig) = text.rig() else { return };
    let from = client(V4, 1);
    let host = rig.open(from);
    let other = 23 - host;
    // From here on the ring names the other server; only the entry holds the client.
    rig.configure(&weighted(other).profile("timeout = \"1s\"").text()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1200));
    assert_eq!(rig.open(at_port(from, 1)), host, "open connections hold it beyond the timeout");
    rig.close(host, from);
    rig.close(host, at_port(from, 1));
    assert_eq!(rig.open(at_port(from, 2)), host, "just closed");
    rig.close(host, at_port(from, 2));
    let mut port = 3;
    // Only SYNs: what opens no connection must not lengthen the entry's life.
    wait::until_true("the entry has expired", || {
        port += 1;
        rig.syn(at_port(from, port)) == other
    });
    let closed = rig.entries().unwrap()[0].1.idle_since_ns;
    let lived = lbpersist::clock::now_ns() - closed;
    assert!((1_000_000_000..1_500_000_000).contains(&lived), "it lived for {lived} ns");
    assert_eq!(rig.open(at_port(from, 0)), other);
    assert_eq!(rig.event(Event::EntryMoved).unwrap(), 1);
}

#[test]
fn the_service_counts_new_and_kept_connections() {
    let Some(mut rig) = Text::servers(&[11, 12]).rig() else { return };
    let from = client(V4, 1);
    let host = rig.open(from);
    rig.open(at_port(from, 1));
    rig.close(host, from);
    let address = server_address(V4, host);
    let data_path = rig.data_path();
    let known = &data_path.identities.servers;
    let (_, given) = known.iter().find(|(identity, _)| identity.address == address).unwrap();
    let number = u32::from(given.number);
    let stats = data_path.maps.server_stats.get(&number, 0).unwrap();
    assert_eq!(stats.iter().map(|cpu| cpu.connections).sum::<u64>(), 2);
    // Two handshakes of two packets, and two to close.
    assert_eq!(stats.iter().map(|cpu| cpu.packets).sum::<u64>(), 6);
    let service = data_path.identities.services["web-v4\nv4"].number;
    let stats = data_path.maps.service_stats.get(&service, 0).unwrap();
    assert_eq!(stats.iter().map(|cpu| cpu.connections).sum::<u64>(), 2);
    assert_eq!(stats.iter().map(|cpu| cpu.kept).sum::<u64>(), 1);
    assert_eq!(stats.iter().map(|cpu| cpu.packets).sum::<u64>(), 6);
    assert_eq!(stats.iter().map(|cpu| cpu.answer_packets).sum::<u64>(), 3);
}

#[test]
fn a_stranger_to_the_server_is_no_answer() {
    let Some(mut rig) = Text::default().rig() else { return };
    rig.open(client(V4, 1));
    let before = (rig.entries().unwrap(), rig.connections().unwrap());
    // A reset that claims to be the server's, of a connection that is not there.
    let from = (server_address(V4, 11), SERVER_PORT).into();
    let packet = Packet::tcp(from, at_port(client(V4, 1), 9), flag::RST);
    assert_eq!(rig.send_packet(&packet).reason, Reason::Returned);
    assert_eq!((rig.entries().unwrap(), rig.connections().unwrap()), before);
}

/// Both servers, of which only one takes new clients.
pub(crate) fn weighted(host: u8) -> Text {
    let servers = [11, 12].map(|other| (other, u16::from(other == host)));
    Text { servers: servers.to_vec(), ..Text::default() }
}

/// How many entries, connections and handshakes there are.
pub(crate) fn sizes(rig: &mut Rig) -> [usize; 3] {
    [
        rig.entries().unwrap().len(),
        rig.connections().unwrap().len(),
        rig.handshakes().unwrap().len(),
    ]
}

/// The open connections of the only entry.
pub(crate) fn open(rig: &mut Rig) -> u32 {
    let entries = rig.entries().unwrap();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries[0].1.open
}
