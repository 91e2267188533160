//! What a refused client is told: a reset, or that the port is unreachable. The program writes all of it, checksums too.

use std::net::SocketAddr;

use etherparse::{
    Icmpv4Type, Icmpv6Type, NetHeaders, PacketHeaders, TransportHeader, icmpv4, icmpv6,
};
use lbpersist_common::{reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::{Link, Packet},
    rig::{Action, Rig},
    topology::Family,
};

use crate::{
    down,
    setup::{DNS, Text, V4, Visits as _, at_port, client, family, web},
};

const LINK: Link = Link { source: [2, 1, 1, 1, 1, 1], destination: [2, 2, 2, 2, 2, 2] };

/// A client of each family whose server is down, and may have no other.
fn refused() -> Option<(Rig, [SocketAddr; 2])> {
    let mut rig = Text::servers(&[11]).profile("server_down = \"never\"").rig()?;
    let clients = Family::BOTH.map(|family| client(family, 1));
    for from in clients {
        rig.open(from);
        rig.ask(from);
    }
    down::set_down(&mut rig, &[11]);
    Some((rig, clients))
}

#[test]
fn a_syn_is_answered_with_a_reset() {
    let Some((mut rig, clients)) = refused() else { return };
    for from in clients.map(|client| at_port(client, 1)) {
        let plain = Packet { link: LINK, ..Packet::tcp(from, web(from), flag::SYN) };
        let mut packets = vec![
            plain.clone(),
            plain.clone().tcp_options(&[1; 40]),
            plain.clone().payload(b"early data"),
        ];
        if family(from) == V4 {
            packets.push(plain.ip_options(&[1; 8]));
        }
        for packet in packets {
            let outcome = rig.send_packet(&packet);
            assert_eq!((outcome.action, outcome.reason), (Action::Transmit, Reason::ServerDown));
            check_reset(&packet, &outcome.packet);
        }
    }
}

fn check_reset(packet: &Packet, answer: &[u8]) {
    let read = PacketHeaders::from_ethernet_slice(answer).unwrap();
    check_way(packet, &read);
    let Some(TransportHeader::Tcp(tcp)) = &read.transport else { panic!("{read:?}") };
    assert_eq!((tcp.source_port, tcp.destination_port), (packet.to.port(), packet.from.port()));
    assert!(tcp.rst && tcp.ack && !tcp.syn && !tcp.fin, "{tcp:?}");
    let next = 1000 + 1 + u32::try_from(packet.payload.len()).unwrap();
    assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (0, next));
    assert_eq!((tcp.window_size, tcp.urgent_pointer, tcp.options.len()), (0, 0, 0));
    let checksum = match read.net.as_ref().unwrap() {
        NetHeaders::Ipv4(header, _) => tcp.calc_checksum_ipv4(header, &[]).unwrap(),
        NetHeaders::Ipv6(header, _) => tcp.calc_checksum_ipv6(header, &[]).unwrap(),
        NetHeaders::Arp(_) => panic!("{read:?}"),
    };
    assert_eq!(tcp.checksum, checksum);
    assert!(read.payload.slice().is_empty());
    let headers = if packet.to.is_ipv4() { 34 } else { 54 };
    assert_eq!(answer.len(), headers + 20, "nothing of the packet is left behind it");
}

#[test]
fn a_datagram_is_answered_with_port_unreachable() {
    let Some((mut rig, clients)) = refused() else { return };
    for from in clients {
        let datagram = Packet { link: LINK, ..Packet::udp(from, family(from).service(DNS)) };
        let mut packets =
            [&b""[..], b"odd", &[7; 1200]].map(|data| datagram.clone().payload(data)).to_vec();
        if family(from) == V4 {
            packets.push(datagram.clone().ip_options(&[1; 4]));
            packets.push(datagram.ip_options(&[1; 40]));
        }
        for packet in packets {
            let outcome = rig.send_packet(&packet);
            assert_eq!((outcome.action, outcome.reason), (Action::Transmit, Reason::ServerDown));
            check_unreachable(&packet, &outcome.packet);
        }
    }
}

fn check_unreachable(packet: &Packet, answer: &[u8]) {
    let read = PacketHeaders::from_ethernet_slice(answer).unwrap();
    check_way(packet, &read);
    let quoted = read.payload.slice();
    let sent = &packet.bytes()[14..];
    assert!(sent.starts_with(quoted), "what is quoted is the packet as it came");
    match (read.transport.as_ref().unwrap(), read.net.as_ref().unwrap()) {
        (TransportHeader::Icmpv4(icmp), NetHeaders::Ipv4(..)) => {
            let port = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
            assert_eq!(icmp.icmp_type, port);
            assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(quoted));
            assert_eq!(quoted.len(), 28 + packet.ip_options.len());
        }
        (TransportHeader::Icmpv6(icmp), NetHeaders::Ipv6(header, _)) => {
            let port = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
            assert_eq!(icmp.icmp_type, port);
            let (source, destination) = (header.source, header.destination);
            let sum = icmp.icmp_type.calc_checksum(source, destination, quoted).unwrap();
            assert_eq!(icmp.checksum, sum);
            assert_eq!(quoted.len(), 48);
        }
        other => panic!("{other:?}"),
    }
}

/// Back where it came from: frame, addresses, a full hop count, a right IPv4 checksum.
fn check_way(packet: &Packet, read: &PacketHeaders<'_>) {
    let Some(etherparse::LinkHeader::Ethernet2(frame)) = &read.link else { panic!("{read:?}") };
    assert_eq!((frame.source, frame.destination), (LINK.destination, LINK.source));
    let (from, to, hops) = match read.net.as_ref().unwrap() {
        NetHeaders::Ipv4(header, _) => {
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            (header.source.into(), header.destination.into(), header.time_to_live)
        }
        NetHeaders::Ipv6(header, _) => {
            (header.source.into(), header.destination.into(), header.hop_limit)
        }
        NetHeaders::Arp(_) => panic!("{read:?}"),
    };
    assert_eq!((from, to, hops), (packet.to.ip(), packet.from.ip(), 64));
}
