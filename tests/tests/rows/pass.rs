//! What is not ours goes to the stack, every byte as it came.

use std::net::SocketAddr;

use lbpersist_common::{reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::{Link, Packet},
    rig::{Action, Outcome},
    topology::Family,
    wire,
};

use crate::setup::{DNS, SERVER_PORT, Text, V4, V6, WEB, client, server_address};

const MAC: [u8; 6] = [2, 9, 9, 9, 9, 9];

#[test]
fn what_is_not_ours_passes_unchanged() {
    let Some(mut rig) = Text::default().rig() else { return };
    let mut rows = foreign_frames();
    for family in Family::BOTH {
        rows.extend(foreign_packets(family));
    }
    for (shows, packet, reason) in rows {
        let passed = Outcome { action: Action::Pass, reason, packet: packet.clone() };
        assert_eq!(rig.send(&packet).unwrap(), passed, "{shows}");
    }
    assert_eq!(rig.entries().unwrap(), []);
    assert_eq!(rig.connections().unwrap(), []);
    assert_eq!(rig.handshakes().unwrap(), []);
}

#[test]
fn frames_to_a_group_are_not_carried() {
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        for group in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            let packet = Packet::tcp(client(family, 1), family.service(WEB), flag::SYN);
            let frame = Packet { link: Link { destination: group, ..packet.link }, ..packet };
            assert_eq!(rig.send(&frame.bytes()).unwrap().reason, Reason::NotOurs, "{group:x?}");
        }
    }
    assert_eq!(rig.handshakes().unwrap(), []);
}

#[test]
fn nobody_is_a_client_who_cannot_be_one() {
    let Some(mut rig) = Text::default().rig() else { return };
    for (family, sources) in [
        (V4, ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"]),
        (V6, ["::", "::1", "ff02::1", "ff0e::1"]),
    ] {
        let mut ends: Vec<SocketAddr> =
            sources.map(|source| SocketAddr::new(source.parse().unwrap(), 40_000)).into();
        // Answers to these would be balanced again, and the answers to those, and so on.
        ends.push(family.service(DNS));
        ends.push(family.service(WEB));
        ends.push(SocketAddr::new(server_address(family, 11), SERVER_PORT));
        for from in ends {
            let datagram = Packet::udp(from, family.service(DNS)).bytes();
            let outcome = rig.send(&datagram).unwrap();
            let tcp_only = from == family.service(WEB);
            let expected = if tcp_only { Reason::Forwarded } else { Reason::ImpossibleSource };
            assert_eq!(outcome.reason, expected, "a datagram from {from}");
            let syn = Packet::tcp(from, family.service(WEB), flag::SYN).bytes();
            let udp_only = from == family.service(DNS);
            let expected = if udp_only { Reason::Forwarded } else { Reason::ImpossibleSource };
            assert_eq!(rig.send(&syn).unwrap().reason, expected, "a SYN from {from}");
        }
    }
}

#[test]
fn a_wrong_header_checksum_is_not_carried_on() {
    let Some(mut rig) = Text::default().rig() else { return };
    let mut packet = Packet::tcp(client(V4, 1), V4.service(WEB), flag::SYN).bytes();
    packet[24] ^= 0x10;
    let passed =
        Outcome { action: Action::Pass, reason: Reason::Malformed, packet: packet.clone() };
    assert_eq!(rig.send(&packet).unwrap(), passed);
}

type Row = (&'static str, Vec<u8>, Reason);

fn foreign_frames() -> Vec<Row> {
    let frame = |ether_type: u16, length: usize| {
        let mut frame = [[0xff; 6], MAC].concat();
        frame.extend(ether_type.to_be_bytes());
        frame.resize(14 + length, 0x5a);
        frame
    };
    vec![
        ("an ARP request", frame(0x0806, 28), Reason::NotIp),
        ("link-layer discovery", frame(0x88cc, 100), Reason::NotIp),
        ("a frame that tells its length", frame(46, 46), Reason::NotIp),
        ("nothing but the frame", frame(0x88cc, 0), Reason::NotIp),
        ("the IPv4 type in the other byte order", frame(0x0008, 40), Reason::NotIp),
    ]
}

fn foreign_packets(family: Family) -> Vec<Row> {
    let (from, service) = (client(family, 1), family.service(WEB));
    let at = |port| SocketAddr::new(service.ip(), port);
    let other = SocketAddr::new(server_address(family, 50), WEB);
    let tcp = |to| Packet::tcp(from, to, flag::SYN).bytes();
    let udp = |to| Packet::udp(from, to).bytes();
    vec![
        ("a SYN to another address", tcp(other), Reason::NotOurs),
        ("a SYN to another port", tcp(at(81)), Reason::NotOurs),
        ("a SYN to the UDP service", tcp(at(DNS)), Reason::NotOurs),
        ("a datagram to the TCP service", udp(at(WEB)), Reason::NotOurs),
        (
            "a SYN to a server itself",
            tcp((server_address(family, 11), SERVER_PORT).into()),
            Reason::NotOurs,
        ),
        ("GRE to the service", with_protocol(tcp(service), family, 47), Reason::OtherProtocol),
        ("SCTP to the service", with_protocol(tcp(service), family, 132), Reason::OtherProtocol),
    ]
}

#[test]
fn a_packet_that_may_be_fragmented_is_no_fragment_yet() {
    let Some(mut rig) = Text::default().rig() else { return };
    let mut frame = Packet::tcp(client(V4, 1), V4.service(WEB), flag::ACK).bytes();
    assert_eq!(frame[14 + 6], 0x40, "others may not");
    frame[14 + 6] = 0;
    assert_eq!(rig.send(&wire::with_header_checksum(frame)).unwrap().reason, Reason::Forwarded);
}

#[test]
fn mapped_addresses_on_the_wire_are_nobodys() {
    let Some(mut rig) = Text::default().rig() else { return };
    let mapped = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => address,
    };
    let rows = [
        ("to the mapped address of a service", client(V6, 1), mapped(V4.service(WEB))),
        ("from a mapped client", mapped(client(V4, 1)), V6.service(WEB)),
        (
            "from the mapped address of a server",
            mapped((server_address(V4, 11), SERVER_PORT).into()),
            client(V6, 1),
        ),
    ];
    for (shows, from, to) in rows {
        let packet = Packet::tcp(from, to, flag::SYN).bytes();
        let outcome = rig.send(&packet).unwrap();
        assert_eq!(outcome.action, Action::Pass, "{shows}");
        assert_eq!(outcome.packet, packet, "{shows}");
    }
}

fn with_protocol(mut frame: Vec<u8>, family: Family, protocol: u8) -> Vec<u8> {
    frame[if family == V4 { 14 + 9 } else { 14 + 6 }] = protocol;
    if family == V4 { wire::with_header_checksum(frame) } else { frame }
}
