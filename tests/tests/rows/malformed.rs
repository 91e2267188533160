//! Headers that are cut short or contradict each other: never forwarded, never altered.

use lbpersist_common::{reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::Packet,
    rig::{Action, Outcome, Rig},
    topology::Family,
};

use crate::setup::{DNS, NEAR, Text, V4, V6, WEB, client, family, host_address, server};

/// The shortest frame that the kernel runs a program on.
const SHORTEST: usize = 14;

/// Where the headers behind Ethernet begin.
const IP: usize = 14;
const V4_TRANSPORT: usize = 34;
const V6_TRANSPORT: usize = 54;

fn segment(family: Family) -> Packet {
    Packet::tcp(client(family, 1), family.service(WEB), flag::ACK).payload(b"some data")
}

fn datagram(family: Family) -> Packet {
    Packet::udp(client(family, 1), family.service(DNS)).payload(b"some data")
}

/// Every shape of a packet that is carried.
fn shapes() -> Vec<Packet> {
    let mut shapes = Vec::new();
    for family in Family::BOTH {
        let from = server(family, 11);
        shapes.extend([
            segment(family),
            Packet::tcp(client(family, 1), family.service(WEB), flag::SYN)
                .tcp_options(&[2, 4, 5, 0xb4]),
            Packet::tcp(client(family, 1), family.service(WEB), flag::RST),
            datagram(family),
            datagram(family).payload(b""),
            Packet::tcp(from, client(family, 1), flag::FIN | flag::ACK),
            Packet::tcp(from, (host_address(family, NEAR, 50), 4000).into(), flag::ACK),
            Packet::udp(from, client(family, 1)),
        ]);
    }
    shapes.extend([
        segment(V4).ip_options(&[1; 4]),
        segment(V4).ip_options(&[1; 40]).tcp_options(&[1; 40]),
        datagram(V4).ip_options(&[1; 40]).without_checksum(),
    ]);
    shapes
}

#[test]
fn no_part_of_a_packet_is_carried_or_altered() {
    let Some(mut rig) = Text::default().rig() else { return };
    for packet in shapes() {
        let frame = packet.bytes();
        for length in SHORTEST..frame.len() {
            let cut = frame[..length].to_vec();
            let passed = malformed(&cut);
            assert_eq!(rig.send(&cut).unwrap(), passed, "{length} bytes of {packet:?}");
        }
        assert_eq!(rig.entries().unwrap(), []);
        assert_eq!(rig.connections().unwrap(), []);
        assert_eq!(rig.handshakes().unwrap(), []);
    }
    for packet in shapes() {
        let outcome = rig.send(&packet.bytes()).unwrap();
        assert!(matches!(outcome.action, Action::Transmit | Action::Redirect), "{packet:?}");
    }
}

/// What is wrong, the packet it is wrong with, and the bytes written over it.
type Row = (&'static str, Packet, &'static [(usize, u8)]);

fn contradictions() -> Vec<Row> {
    vec![
        ("an IPv4 header of no length", segment(V4), &[(IP, 0x40)]),
        ("an IPv4 header of 16 bytes", segment(V4), &[(IP, 0x44)]),
        ("an IPv4 header longer than the packet", segment(V4).payload(b""), &[(IP, 0x4f)]),
        ("IPv4 options that reach over the ports", segment(V4).payload(b""), &[(IP, 0x46)]),
        ("version 6 in an IPv4 frame", segment(V4), &[(IP, 0x65)]),
        ("version 5 in an IPv4 frame", datagram(V4), &[(IP, 0x55)]),
        ("version 0 in an IPv4 frame", datagram(V4), &[(IP, 0x05)]),
        ("version 4 in an IPv6 frame", segment(V6), &[(IP, 0x42)]),
        ("an IPv4 packet longer than its frame", segment(V4), &[(IP + 2, 0), (IP + 3, 50)]),
        ("an IPv4 packet far longer than its frame", segment(V4), &[(IP + 2, 0xff)]),
        ("an IPv4 packet shorter than its header", segment(V4), &[(IP + 3, 19)]),
        ("an IPv4 packet of no length", segment(V4), &[(IP + 3, 0)]),
        ("an IPv4 packet that ends before TCP does", segment(V4), &[(IP + 3, 39)]),
        ("an IPv4 packet that ends before UDP does", datagram(V4), &[(IP + 3, 27)]),
        ("an IPv4 packet that ends before its data", datagram(V4), &[(IP + 3, 36)]),
        ("an IPv6 packet longer than its frame", segment(V6), &[(IP + 5, 30)]),
        ("an IPv6 packet far longer than its frame", segment(V6), &[(IP + 4, 0xff)]),
        ("an IPv6 packet without payload", segment(V6), &[(IP + 5, 0)]),
        ("an IPv6 packet that ends before TCP does", segment(V6), &[(IP + 5, 19)]),
        ("an IPv6 packet that ends before UDP does", datagram(V6), &[(IP + 5, 7)]),
        ("an IPv6 packet that ends before its data", datagram(V6), &[(IP + 5, 16)]),
        ("a TCP header of no length", segment(V4), &[(V4_TRANSPORT + 12, 0x00)]),
        ("a TCP header of 16 bytes", segment(V4), &[(V4_TRANSPORT + 12, 0x40)]),
        ("a TCP header longer than the segment", segment(V4), &[(V4_TRANSPORT + 12, 0x80)]),
        ("the longest TCP header", segment(V4), &[(V4_TRANSPORT + 12, 0xf0)]),
        ("the same over IPv6, short", segment(V6), &[(V6_TRANSPORT + 12, 0x40)]),
        ("the same over IPv6, long", segment(V6), &[(V6_TRANSPORT + 12, 0x80)]),
        ("a datagram of no length", datagram(V4), &[(V4_TRANSPORT + 5, 0)]),
        ("a datagram shorter than its header", datagram(V4), &[(V4_TRANSPORT + 5, 7)]),
        ("a datagram longer than the packet", datagram(V4), &[(V4_TRANSPORT + 5, 18)]),
        ("the longest datagram", datagram(V4), &[(V4_TRANSPORT + 4, 0xff)]),
        ("the same over IPv6, none", datagram(V6), &[(V6_TRANSPORT + 5, 0)]),
        ("the same over IPv6, short", datagram(V6), &[(V6_TRANSPORT + 5, 7)]),
        ("the same over IPv6, long", datagram(V6), &[(V6_TRANSPORT + 5, 18)]),
    ]
}

#[test]
fn contradictions_pass_unchanged() {
    let Some(mut rig) = Text::default().rig() else { return };
    for (shows, packet, bytes) in contradictions() {
        let mut frame = packet.bytes();
        for &(place, byte) in bytes {
            frame[place] = byte;
        }
        assert_eq!(rig.send(&frame).unwrap(), malformed(&frame), "{shows}");
    }
    nothing_was_written(&mut rig);
}

#[test]
fn padding_does_not_make_a_short_packet_whole() {
    let Some(mut rig) = Text::default().rig() else { return };
    for packet in [segment(V4), segment(V6), datagram(V4), datagram(V6)] {
        let header = if family(packet.to) == V4 { V4_TRANSPORT } else { V6_TRANSPORT };
        let mut frame = packet.bytes();
        // The length says that the packet ends within the transport header; the frame goes on.
        let (place, length) = if header == V4_TRANSPORT { (IP + 3, 24) } else { (IP + 5, 4) };
        frame[place] = length;
        frame.resize(200, 0);
        assert_eq!(rig.send(&frame).unwrap(), malformed(&frame), "{packet:?}");
    }
    nothing_was_written(&mut rig);
}

fn nothing_was_written(rig: &mut Rig) {
    assert_eq!(rig.entries().unwrap(), []);
    assert_eq!(rig.connections().unwrap(), []);
    assert_eq!(rig.handshakes().unwrap(), []);
}

fn malformed(frame: &[u8]) -> Outcome {
    Outcome { action: Action::Pass, reason: Reason::Malformed, packet: frame.to_vec() }
}
