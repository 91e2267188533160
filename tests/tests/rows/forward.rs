//! The way to a server: the whole packet out, compared with one that was written anew.

use lbpersist_common::{reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::Packet,
    rig::{Action, Outcome},
    topology::Family,
};

use crate::setup::{
    DNS, FAR, NEAR, Text, V4, V6, Visits as _, WEB, client, link_to, server, server_address,
};

struct Row {
    shows: &'static str,
    /// The only server.
    server: u8,
    packet: Packet,
}

fn syn(family: Family) -> Packet {
    Packet::tcp(client(family, 1), family.service(WEB), flag::SYN)
}

fn datagram(family: Family) -> Packet {
    Packet::udp(client(family, 1), family.service(DNS))
}

/// NOP, NOP, timestamp of another machine; and the options of a usual SYN.
const TIMESTAMP: [u8; 12] = [1, 1, 8, 10, 0, 1, 2, 3, 4, 5, 6, 7];
const MSS_SACK_WINDOW: [u8; 12] = [2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7];
/// Router alert, and the longest list of options: one that records the route, all places free.
const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];
const RECORD_ROUTE: [u8; 40] = {
    let mut options = [0; 40];
    (options[0], options[1], options[2]) = (7, 39, 4);
    options
};

fn rows(family: Family) -> Vec<Row> {
    let row = |shows, packet| Row { shows, server: 11, packet };
    let here = |shows, packet| Row { shows, server: 21, packet };
    vec![
        row("a SYN leaves by another interface", syn(family)),
        here("a SYN leaves by the interface it came in by", syn(family)),
        row("a SYN keeps its options", syn(family).tcp_options(&MSS_SACK_WINDOW)),
        row("TCP data of even length", segment(family).payload(&[7; 600])),
        row("TCP data of odd length", segment(family).payload(&[7; 601])),
        here("TCP data with options", segment(family).tcp_options(&TIMESTAMP).payload(b"data!")),
        row("the most options", segment(family).tcp_options(&[1; 40])),
        row("a full frame", segment(family).payload(&[0xff; 1400])),
        row("the last but one router", syn(family).hops(2)),
        row("the farthest client", syn(family).hops(255)),
        row("a datagram leaves by another interface", datagram(family)),
        here("a datagram leaves by the interface it came in by", datagram(family)),
        row("a datagram of odd length", datagram(family).payload(b"odd")),
        row("an empty datagram", datagram(family).payload(b"")),
    ]
}

fn segment(family: Family) -> Packet {
    Packet::tcp(client(family, 1), family.service(WEB), flag::ACK)
}

#[test]
fn packets_to_a_service_are_rewritten_for_its_server() {
    for family in Family::BOTH {
        run(rows(family));
    }
}

#[test]
fn what_only_ipv4_has_is_kept() {
    let row = |shows, packet| Row { shows, server: 11, packet };
    run(vec![
        row("no UDP checksum stays none", datagram(V4).without_checksum()),
        row("an option of IPv4", syn(V4).ip_options(&ROUTER_ALERT)),
        row("all options of IPv4", segment(V4).ip_options(&RECORD_ROUTE).payload(b"data")),
        row("an option of IPv4 before UDP", datagram(V4).ip_options(&ROUTER_ALERT)),
    ]);
}

#[test]
fn a_udp_checksum_that_becomes_zero_is_sent_as_all_ones() {
    let transport = |family| if family == V4 { 34 } else { 54 };
    let checksum = |packet: &Packet, family| packet.bytes()[transport(family)..][6..8].to_vec();
    for family in Family::BOTH {
        let packet = (0..=u16::MAX)
            .map(|word| datagram(family).payload(&word.to_be_bytes()))
            .find(|packet| checksum(&expected(packet, 11), family) == [0xff, 0xff])
            .expect("one of all words fits");
        run(vec![Row { shows: "a checksum that becomes zero", server: 11, packet }]);
    }
}

#[test]
fn checksums_are_right_for_many_payloads() {
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        for word in (0..=u16::MAX).step_by(257) {
            let payload = word.to_be_bytes();
            for packet in [segment(family).payload(&payload), datagram(family).payload(&payload)] {
                let outcome = rig.send_packet(&packet);
                assert_eq!(outcome.packet, expected(&packet, 11).bytes(), "{packet:?}");
            }
        }
    }
}

#[test]
fn a_server_without_port_is_met_on_the_port_of_the_service() {
    let Some(mut rig) = (Text { port: None, ..Text::default() }).rig() else { return };
    for family in Family::BOTH {
        for packet in [syn(family), datagram(family)] {
            let to = (server_address(family, 11), packet.to.port()).into();
            let out = packet.forwarded(to, link_to(family, FAR, 11));
            assert_eq!(rig.send_packet(&packet).packet, out.bytes(), "{packet:?}");
        }
    }
}

#[test]
fn padding_behind_a_short_packet_stays() {
    let Some(mut rig) = Text::default().rig() else { return };
    for (packet, length) in [(syn(V4), 60), (datagram(V4), 60), (syn(V6), 80)] {
        let (mut frame, mut out) = (packet.bytes(), expected(&packet, 11).bytes());
        frame.resize(length, 0xee);
        out.resize(length, 0xee);
        let forwarded =
            Outcome { action: Action::Redirect, reason: Reason::Forwarded, packet: out };
        assert_eq!(rig.send(&frame).unwrap(), forwarded);
    }
}

#[test]
fn a_server_behind_a_router_is_reached_through_it() {
    let mut view = crate::setup::network();
    let behind = crate::setup::route("10.0.0.11/32", Some("10.0.0.1"), FAR);
    let mut routes = crate::setup::routes();
    routes.push(behind);
    view = lbpersist::network::View::new(view.links, routes, view.neighbours);
    let Some(mut rig) = Text::default().rig_in(view) else { return };
    let out = syn(V4).forwarded(server(V4, 11), link_to(V4, FAR, 1));
    assert_eq!(rig.send_packet(&syn(V4)).packet, out.bytes());
}

#[test]
fn what_cannot_reach_a_server_is_dropped_and_says_why() {
    let servers = |hosts: &[u8]| Text::servers(hosts).rig();
    let Some(mut rig) = servers(&[11]) else { return };
    let dropped =
        |packet: &Packet, reason| Outcome { action: Action::Drop, reason, packet: packet.bytes() };
    for family in Family::BOTH {
        for packet in [syn(family), segment(family), datagram(family)] {
            for hops in [0, 1] {
                let packet = packet.clone().hops(hops);
                assert_eq!(rig.send_packet(&packet), dropped(&packet, Reason::HopLimit));
            }
        }
    }

    rig.view.neighbours.clear();
    rig.apply().unwrap();
    for packet in [syn(V4), segment(V6), datagram(V6)] {
        assert_eq!(rig.send_packet(&packet), dropped(&packet, Reason::NoNextHop));
    }

    let Some(mut rig) = Text::servers(&[11]).pool("no_server = \"drop\"").rig() else { return };
    for (pool, family) in [("v4", V4), ("v6", V6)] {
        rig.down.insert((pool.to_owned(), server_address(family, 11), Some(8080)));
    }
    rig.apply().unwrap();
    for packet in [syn(V4), segment(V6), datagram(V4)] {
        assert_eq!(rig.send_packet(&packet), dropped(&packet, Reason::NoServer));
    }
    assert_eq!(rig.entries().unwrap(), []);
    assert_eq!(rig.handshakes().unwrap(), []);
}

fn run(rows: Vec<Row>) {
    for host in [11, 21] {
        let Some(mut rig) = Text::servers(&[host]).rig() else { return };
        for Row { shows, packet, .. } in rows.iter().filter(|row| row.server == host) {
            let action = if host == 21 { Action::Transmit } else { Action::Redirect };
            let packet_out = expected(packet, host).bytes();
            let expected = Outcome { action, reason: Reason::Forwarded, packet: packet_out };
            assert_eq!(rig.send_packet(packet), expected, "{shows}: {packet:?}");
        }
    }
}

/// The packet that a server gets.
fn expected(packet: &Packet, host: u8) -> Packet {
    let family = if packet.to.is_ipv4() { V4 } else { V6 };
    let interface = if host < 20 { FAR } else { NEAR };
    packet.forwarded(server(family, host), link_to(family, interface, host))
}
