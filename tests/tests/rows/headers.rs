//! Headers that not every packet has: VLAN tags, IPv6 extension headers. What surrounds them stays as it came; apart from that the
//! packet out is the one that would go out without them.

use std::net::{IpAddr, SocketAddr};

use lbpersist_common::{reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::Packet,
    rig::{Action, Outcome, Rig},
    topology::Family,
    wire::{self, DOT1AD, DOT1Q, Extension},
};

use crate::{
    down,
    setup::{
        DNS, FAR, NEAR, Text, V4, V6, Visits as _, WEB, at_port, client, family, host_address,
        link_to, server, server_address,
    },
};

/// A change of a frame: what it is, and the change.
pub(crate) type Change = (&'static str, Box<dyn Fn(&[u8]) -> Vec<u8>>);

fn tags() -> Vec<Change> {
    let tags = |name, tags: &'static [(u16, u16)]| -> Change {
        (name, Box::new(|frame: &[u8]| wire::tagged(frame, tags)))
    };
    vec![
        tags("one tag", &[(DOT1Q, 0x2064)]),
        tags("one tag of a provider", &[(DOT1AD, 7)]),
        tags("two tags", &[(DOT1AD, 0xe064), (DOT1Q, 0x0fff)]),
        tags("two tags of one kind", &[(DOT1Q, 1), (DOT1Q, 2)]),
    ]
}

fn extension(kind: u8, length: usize) -> Extension {
    Extension { kind, bytes: (2..length).map(|n| if n == 3 { 0 } else { 1 }).collect() }
}

fn extensions() -> Vec<Change> {
    let extended = |name, list: Vec<Extension>| -> Change {
        (name, Box::new(move |frame: &[u8]| wire::extended(frame, &list)))
    };
    let atomic = Extension { kind: 44, bytes: vec![0, 0, 0, 0, 0, 9] };
    vec![
        extended("hop-by-hop options", vec![extension(0, 8)]),
        extended("destination options", vec![extension(60, 24)]),
        extended("a routing header at its end", vec![extension(43, 24)]),
        extended("a fragment header of a whole packet", vec![atomic.clone()]),
        extended("one of each", vec![extension(0, 16), extension(60, 8), extension(43, 8), atomic]),
        extended("the longest", vec![extension(60, 1024)]),
        extended("two of a kind", vec![extension(60, 8), extension(60, 8)]),
    ]
}

/// Everything that can stand around the headers of a packet of that family.
pub(crate) fn changes(family: Family) -> Vec<Change> {
    let mut changes = tags();
    if family == V6 {
        changes.extend(extensions());
        let both: Change = (
            "tags and extension headers",
            Box::new(|frame: &[u8]| {
                wire::tagged(&wire::extended(frame, &[extension(0, 8)]), &[(DOT1Q, 5)])
            }),
        );
        changes.push(both);
    }
    changes
}

fn to_service(family: Family) -> [Packet; 3] {
    let from = client(family, 1);
    [
        Packet::tcp(from, family.service(WEB), flag::SYN).tcp_options(&[2, 4, 5, 0xb4]),
        Packet::tcp(from, family.service(WEB), flag::ACK).payload(b"some data"),
        Packet::udp(from, family.service(DNS)).payload(b"odd"),
    ]
}

#[test]
fn under_nat_everything_around_the_headers_stays() {
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        for (shows, change) in changes(family) {
            for packet in to_service(family) {
                let out = packet.forwarded(server(family, 11), link_to(family, FAR, 11));
                expect_out(&mut rig, shows, &change(&packet.bytes()), change(&out.bytes()));
            }
            let answer = Packet::tcp(server(family, 11), client(family, 1), flag::ACK);
            let out = answer.returned(family.service(WEB), link_to(family, NEAR, 1));
            let outcome = rig.send(&change(&answer.bytes())).unwrap();
            assert_eq!((outcome.action, outcome.reason), (Action::Transmit, Reason::Returned));
            assert_eq!(outcome.packet, change(&out.bytes()), "{shows}");
        }
    }
}

#[test]
fn under_direct_only_the_frames_addresses_change() {
    let Some(mut rig) = direct().rig() else { return };
    for family in Family::BOTH {
        for (shows, change) in changes(family) {
            for packet in to_service(family) {
                let out = packet.forwarded(packet.to, link_to(family, FAR, 11));
                expect_out(&mut rig, shows, &change(&packet.bytes()), change(&out.bytes()));
            }
        }
    }
}

#[test]
fn tunnels_begin_behind_the_tags() {
    let Some(mut rig) = tunnel().rig() else { return };
    for family in Family::BOTH {
        for packet in to_service(family) {
            let inner = packet.forwarded(packet.to, link_to(family, FAR, 11));
            expect_out(&mut rig, "no tag", &packet.bytes(), tunnelled(&inner.bytes()));
            for (shows, tagged) in tags() {
                let out = tagged(&tunnelled(&inner.bytes()));
                expect_out(&mut rig, shows, &tagged(&packet.bytes()), out);
            }
            if family == V6 {
                for (shows, extended) in extensions() {
                    let out = tunnelled(&extended(&inner.bytes()));
                    expect_out(&mut rig, shows, &extended(&packet.bytes()), out);
                }
            }
        }
    }
}

#[test]
fn the_type_behind_the_tags_is_that_of_the_outer_packet() {
    let mut text = tunnel();
    for (family, pool) in [(V4, "far6"), (V6, "far4")] {
        text = text.also(pool, family.service(81), pool);
        let towards = if family == V4 { V6 } else { V4 };
        let address = server_address(towards, 11);
        text.more += &format!(
            "[[pool]]\nname = \"{pool}\"\n{TUNNEL}\nservers = [{{ address = \"{address}\" }}]\n"
        );
    }
    let Some(mut rig) = text.rig() else { return };
    for family in Family::BOTH {
        let towards = if family == V4 { V6 } else { V4 };
        let packet = Packet::tcp(client(family, 1), family.service(81), flag::ACK);
        let inner = packet.forwarded(packet.to, link_to(towards, FAR, 11)).bytes();
        for (shows, tagged) in tags() {
            let out = tagged(&tunnelled_in(towards, &inner));
            expect_out(&mut rig, shows, &tagged(&packet.bytes()), out);
        }
    }
}

#[test]
fn answers_carry_the_tags_of_what_they_answer() {
    let Some(mut rig) = Text::servers(&[11]).profile("server_down = \"never\"").rig() else {
        return;
    };
    let clients = Family::BOTH.map(|family| client(family, 1));
    for from in clients {
        rig.open(from);
        rig.ask(from);
    }
    down::set_down(&mut rig, &[11]);
    for from in clients {
        let family = family(from);
        let syn = Packet::tcp(at_port(from, 1), family.service(WEB), flag::SYN).payload(b"early");
        let datagram = Packet::udp(from, family.service(DNS)).payload(&[1; 100]);
        for packet in [syn.clone(), datagram] {
            let answer = rig.send(&packet.bytes()).unwrap();
            assert_eq!((answer.action, answer.reason), (Action::Transmit, Reason::ServerDown));
            for (shows, tagged) in tags() {
                let outcome = rig.send(&tagged(&packet.bytes())).unwrap();
                let expected = Outcome { packet: tagged(&answer.packet), ..answer };
                assert_eq!(outcome, expected, "{shows}: {packet:?}");
            }
        }
        if family == V6 {
            let reset = rig.send(&syn.bytes()).unwrap();
            for (shows, extended) in extensions() {
                let outcome = rig.send(&extended(&syn.bytes())).unwrap();
                assert_eq!(outcome, reset, "{shows}: a reset has no extension headers");
            }
        }
    }
}

#[test]
fn an_error_quotes_extension_headers_and_the_ports_behind_them() {
    let Some(mut rig) = Text::servers(&[11]).profile("server_down = \"never\"").rig() else {
        return;
    };
    rig.ask(client(V6, 1));
    down::set_down(&mut rig, &[11]);
    let datagram = Packet::udp(client(V6, 1), V6.service(DNS)).payload(&[1; 2000]).bytes();
    for (shows, extended) in extensions() {
        let frame = extended(&datagram);
        let headers = frame.len() - datagram.len() + 48;
        let outcome = rig.send(&frame).unwrap();
        assert_eq!(outcome.reason, Reason::ServerDown, "{shows}");
        if headers > 48 + 64 {
            assert_eq!(outcome.action, Action::Drop, "{shows}: too much to quote");
            continue;
        }
        let ends = (V6.service(DNS).ip(), client(V6, 1).ip());
        let head = [&frame[6..12], &frame[..6]].concat();
        let quoted = &frame[14..][..headers];
        let answer = wire::icmp(&head, ends, 64, ([1, 4], [0; 4]), quoted);
        assert_eq!(outcome.packet, answer, "{shows}");
    }
}

#[test]
fn more_than_two_tags_are_not_read() {
    let Some(mut rig) = Text::default().rig() else { return };
    let packet = Packet::tcp(client(V4, 1), V4.service(WEB), flag::SYN).bytes();
    let frame = wire::tagged(&packet, &[(DOT1AD, 1), (DOT1Q, 2), (DOT1Q, 3)]);
    assert_eq!(rig.send(&frame).unwrap(), passed(&frame, Reason::NotIp));
    let frame = wire::tagged(&packet, &[(0x9100, 1)]);
    assert_eq!(rig.send(&frame).unwrap(), passed(&frame, Reason::NotIp));
}

#[test]
fn a_packet_that_is_to_go_on_from_its_destination_is_refused() {
    let Some(mut rig) = Text::default().rig() else { return };
    for kind in [0, 2, 4] {
        let mut routing = extension(43, 24);
        (routing.bytes[0], routing.bytes[1]) = (kind, 1);
        let frame = |to| {
            let syn = Packet::tcp(client(V6, 1), to, flag::SYN).bytes();
            wire::extended(&syn, std::slice::from_ref(&routing))
        };
        let refused = frame(V6.service(WEB));
        let outcome = rig.send(&refused).unwrap();
        let expected =
            Outcome { action: Action::Drop, reason: Reason::SourceRouted, packet: refused };
        assert_eq!(outcome, expected, "type {kind}");
        let foreign = frame(SocketAddr::new(host_address(V6, FAR, 50), WEB));
        assert_eq!(rig.send(&foreign).unwrap(), passed(&foreign, Reason::NotOurs));
    }
}

#[test]
fn the_wrong_extension_headers_are_not_followed() {
    let Some(mut rig) = Text::default().rig() else { return };
    let syn = Packet::tcp(client(V6, 1), V6.service(WEB), flag::SYN).bytes();
    let rows = [
        ("hop-by-hop options not at the beginning", vec![extension(60, 8), extension(0, 8)]),
        ("more than are read", vec![extension(60, 8); 7]),
        ("an authentication header", vec![extension(51, 24)]),
    ];
    for (shows, list) in rows {
        let frame = wire::extended(&syn, &list);
        assert_eq!(rig.send(&frame).unwrap(), passed(&frame, Reason::OtherProtocol), "{shows}");
    }
    let mut beyond = wire::extended(&syn, &[extension(60, 8)]);
    beyond[14 + 41] = 200;
    assert_eq!(rig.send(&beyond).unwrap(), passed(&beyond, Reason::Malformed));
}

#[test]
fn options_of_ipv4_do_not_hide_a_wrong_checksum() {
    let Some(mut rig) = Text::default().rig() else { return };
    for length in [4, 20, 40] {
        let packet = Packet::udp(client(V4, 1), V4.service(DNS)).ip_options(&vec![1; length]);
        let mut frame = packet.bytes();
        assert_eq!(rig.send(&frame).unwrap().reason, Reason::Forwarded);
        frame[14 + 20 + length - 1] ^= 0x80;
        assert_eq!(rig.send(&frame).unwrap(), passed(&frame, Reason::Malformed), "{length}");
    }
}

const TUNNEL: &str = "forwarding = \"tunnel\"\ntunnel_source_ipv4 = \"10.0.0.2\"\n\
                      tunnel_source_ipv6 = \"fd00:2::2\"\n";

/// As the default, with tunnels to the servers.
pub(crate) fn tunnel() -> Text {
    Text { port: None, ..Text::default() }.pool(TUNNEL)
}

/// As the default, with servers that answer clients themselves.
pub(crate) fn direct() -> Text {
    Text { port: None, ..Text::default() }.pool("forwarding = \"direct\"\n")
}

/// An untagged frame to server 11 in a tunnel of its own family.
pub(crate) fn tunnelled(frame: &[u8]) -> Vec<u8> {
    tunnelled_in(if frame[12] == 8 { V4 } else { V6 }, frame)
}

fn tunnelled_in(outer: Family, frame: &[u8]) -> Vec<u8> {
    let inner = &frame[14..];
    let (protocol, class) =
        if inner[0] >> 4 == 4 { (4, inner[1]) } else { (41, inner[0] << 4 | inner[1] >> 4) };
    let length = |add: usize| u16::try_from(inner.len() + add).unwrap().to_be_bytes();
    match (outer, server_address(outer, 11)) {
        (V4, IpAddr::V4(to)) => {
            let [high, low] = length(20);
            let header = [0x45, class, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 2];
            let out = [&frame[..12], &[8, 0], &header, &to.octets(), inner].concat();
            wire::with_header_checksum(out)
        }
        (V6, IpAddr::V6(to)) => {
            let [high, low] = length(0);
            let header = [0x60 | class >> 4, class << 4, 0, 0, high, low, protocol, 64];
            let from: std::net::Ipv6Addr = "fd00:2::2".parse().unwrap();
            let ends = [from.octets(), to.octets()].concat();
            [&frame[..12], &[0x86, 0xdd], &header, &ends, inner].concat()
        }
        (_, to) => panic!("{to}"),
    }
}

fn expect_out(rig: &mut Rig, shows: &str, frame: &[u8], packet: Vec<u8>) {
    let forwarded = Outcome { action: Action::Redirect, reason: Reason::Forwarded, packet };
    assert_eq!(rig.send(frame).unwrap(), forwarded, "{shows}");
}

pub(crate) fn passed(frame: &[u8], reason: Reason) -> Outcome {
    Outcome { action: Action::Pass, reason, packet: frame.to_vec() }
}
