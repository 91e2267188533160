//! Fragments follow the first one of their packet, and that one its client.

use lbpersist_common::{reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::Packet,
    rig::{Action, Outcome, Rig},
    topology::Family,
    wire,
};

use crate::{
    headers::{direct, passed, tunnel, tunnelled},
    setup::{
        DNS, FAR, NEAR, Text, V4, V6, Visits as _, WEB, client, host_address, link_to, server,
    },
};

/// A packet's fragments as they come in and as they have to go out.
fn pieces(packet: &Packet, out: &Packet, id: u16) -> Vec<(Vec<u8>, Vec<u8>)> {
    let split = |packet: &Packet| wire::fragments(&packet.bytes(), id, 1400);
    split(packet).into_iter().zip(split(out)).collect()
}

fn datagram(family: Family) -> Packet {
    let data: Vec<u8> = (0..4000_u32).map(|n| (n * 7 % 251) as u8).collect();
    Packet::udp(client(family, 1), family.service(DNS)).payload(&data)
}

#[test]
fn fragments_to_a_server_go_where_the_first_went() {
    for (text, shows) in [(Text::default(), "nat"), (direct(), "direct"), (tunnel(), "tunnel")] {
        let Some(mut rig) = text.rig() else { return };
        for family in Family::BOTH {
            let segment = Packet::tcp(client(family, 1), family.service(WEB), flag::ACK);
            for (id, packet) in [(7, datagram(family)), (8, segment.payload(&[9; 3000]))] {
                let to = if shows == "nat" { server(family, 11) } else { packet.to };
                let out = packet.forwarded(to, link_to(family, FAR, 11));
                let pieces = pieces(&packet, &out, id);
                assert!(pieces.len() >= 3);
                // The later ones in any order.
                for (piece, out) in pieces[..1].iter().chain(pieces[1..].iter().rev()) {
                    let packet = if shows == "tunnel" { tunnelled(out) } else { out.clone() };
                    let forwarded =
                        Outcome { action: Action::Redirect, reason: Reason::Forwarded, packet };
                    assert_eq!(rig.send(piece).unwrap(), forwarded, "{shows} {family:?}");
                }
            }
        }
    }
}

#[test]
fn fragments_of_an_answer_come_from_the_service() {
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        let packet = Packet { from: server(family, 11), to: client(family, 1), ..datagram(family) };
        let out = packet.returned(family.service(DNS), link_to(family, NEAR, 1));
        for (piece, packet) in pieces(&packet, &out, 3) {
            let returned = Outcome { action: Action::Transmit, reason: Reason::Returned, packet };
            assert_eq!(rig.send(&piece).unwrap(), returned, "{family:?}");
        }
    }
}

#[test]
fn packets_with_tags_and_of_other_clients_are_told_apart() {
    let Some(mut rig) = Text::servers(&[11, 12, 13]).rig() else { return };
    for family in Family::BOTH {
        // The same identification from many clients.
        let packets: Vec<Packet> =
            (1..20).map(|n| Packet { from: client(family, n), ..datagram(family) }).collect();
        let tag = |frame: &[u8]| wire::tagged(frame, &[(wire::DOT1Q, 100)]);
        let firsts: Vec<Outcome> = packets
            .iter()
            .map(|packet| rig.send(&tag(&wire::fragments(&packet.bytes(), 5, 1400)[0])).unwrap())
            .collect();
        for (packet, first) in packets.iter().zip(&firsts) {
            let later = rig.send(&tag(&wire::fragments(&packet.bytes(), 5, 1400)[1])).unwrap();
            assert_eq!(later.reason, Reason::Forwarded);
            assert_eq!(later.packet[..18], first.packet[..18], "to the server of the first");
        }
    }
}

#[test]
fn a_later_fragment_alone_follows_its_client_to_the_only_service() {
    let Some(mut rig) = Text::servers(&[11, 12, 13]).rig() else { return };
    for family in Family::BOTH {
        for n in 1..20 {
            let packet = Packet { from: client(family, n), ..datagram(family) };
            let pieces = wire::fragments(&packet.bytes(), 77, 1400);
            let later = rig.send(&pieces[1]).unwrap();
            let first = rig.send(&pieces[0]).unwrap();
            assert_eq!((later.reason, first.reason), (Reason::Forwarded, Reason::Forwarded));
            assert_eq!(later.packet[..12], first.packet[..12], "client {n}");
        }
    }
}

#[test]
fn a_later_fragment_that_nothing_is_known_of_is_dropped() {
    let second = Text::default().also("web2", V4.service(81), "other4").also(
        "web3",
        V6.service(81),
        "other6",
    );
    let mut second = second.without_persistence();
    for (family, pool) in [(V4, "other4"), (V6, "other6")] {
        let address = server(family, 12).ip();
        second.more += &format!(
            "[[pool]]\nname = \"{pool}\"\nservers = [{{ address = \"{address}\", port = 80 }}]\n"
        );
    }
    let Some(mut rig) = second.rig() else { return };
    for family in Family::BOTH {
        let segment = Packet::tcp(client(family, 1), family.service(WEB), flag::ACK);
        for (shows, packet) in [
            ("two services", segment.payload(&[1; 3000])),
            ("a pool that keeps nobody by address", datagram(family)),
        ] {
            let later = wire::fragments(&packet.bytes(), 9, 1400).remove(1);
            let expected = Outcome {
                action: Action::Drop,
                reason: Reason::FragmentLost,
                packet: later.clone(),
            };
            assert_eq!(rig.send(&later).unwrap(), expected, "{shows}");
        }
    }
}

#[test]
fn a_note_of_a_first_fragment_is_forgotten() {
    let Some(mut rig) = Text::default().without_persistence().rig() else { return };
    for (step, family) in Family::BOTH.into_iter().enumerate() {
        let start = 1_000_000_000_000 * (step as u64 + 1);
        let pieces = wire::fragments(&datagram(family).bytes(), 9, 1400);
        rig.set_clock(start);
        assert_eq!(rig.send(&pieces[0]).unwrap().reason, Reason::Forwarded);
        rig.set_clock(start + 59_000_000_000);
        assert_eq!(rig.send(&pieces[1]).unwrap().reason, Reason::Forwarded);
        rig.set_clock(start + 61_000_000_000);
        assert_eq!(rig.send(&pieces[1]).unwrap().reason, Reason::FragmentLost);
    }
}

#[test]
fn tricks_with_fragments_are_refused() {
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        let segment = Packet::tcp(client(family, 1), family.service(WEB), flag::ACK);
        let segment = segment.payload(&[1; 600]).bytes();
        let udp = datagram(family).bytes();
        let tiny =
            |frame: &[u8], most, number: usize| wire::fragments(frame, 4, most).remove(number);
        let mut long = wire::fragments(&udp, 4, 1400).remove(1);
        let place = if family == V4 { 20 } else { 14 + 40 + 2 };
        long[place..place + 2].copy_from_slice(if family == V4 {
            &[0x1f, 0xff]
        } else {
            &[0xff, 0xf8]
        });
        if family == V4 {
            long = wire::with_header_checksum(long);
        }
        for (shows, frame) in [
            ("a first fragment of 8 bytes of TCP", tiny(&segment, 8, 0)),
            ("a first fragment of 16 bytes of TCP", tiny(&segment, 16, 0)),
            ("a fragment over the flags of TCP", tiny(&segment, 8, 1)),
            ("a fragment over the checksum of TCP", tiny(&segment, 16, 1)),
            ("a fragment right behind the header of UDP", tiny(&udp, 8, 1)),
            ("a fragment beyond the longest packet", long),
        ] {
            refused(&mut rig, shows, &frame);
        }
    }
}

fn refused(rig: &mut Rig, shows: &str, frame: &[u8]) {
    let packet = frame.to_vec();
    let expected = Outcome { action: Action::Drop, reason: Reason::FragmentRefused, packet };
    assert_eq!(rig.send(frame).unwrap(), expected, "{shows}");
}

#[test]
fn fragments_of_others_pass() {
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        let to = std::net::SocketAddr::new(host_address(family, FAR, 50), 53);
        let packet = Packet { to, ..datagram(family) };
        for piece in wire::fragments(&packet.bytes(), 9, 1400) {
            assert_eq!(rig.send(&piece).unwrap(), passed(&piece, Reason::Fragment));
        }
        let ping = if family == V4 { [8, 0] } else { [128, 0] };
        let ends = (client(family, 1).ip(), family.service_address());
        let ping = wire::icmp(&[2; 12], ends, 64, (ping, [0; 4]), &[1; 3000]);
        for piece in wire::fragments(&ping, 9, 1400) {
            assert_eq!(rig.send(&piece).unwrap(), passed(&piece, Reason::Fragment), "a long ping");
        }
    }
}

#[test]
fn what_is_bigger_than_the_way_out_is_answered() {
    for (text, room) in [(Text::default(), 1500), (direct(), 1500), (tunnel(), 0)] {
        let Some(mut rig) = text.rig() else { return };
        for family in Family::BOTH {
            let room = match (room, family) {
                (0, V4) => 1480,
                (0, V6) => 1460,
                (room, _) => room,
            };
            let headers = if family == V4 { 40 } else { 60 };
            let packet = Packet::tcp(client(family, 1), family.service(WEB), flag::ACK);
            let fitting = packet.clone().payload(&vec![7; room - headers]);
            assert_eq!(rig.send_packet(&fitting).reason, Reason::Forwarded, "{room}");
            let frame = packet.payload(&vec![7; room - headers + 1]).bytes();
            too_big(
                &mut rig,
                family,
                &frame,
                room,
                (family.service_address(), client(family, 1).ip()),
            );
        }
    }
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        let answer = Packet::udp(server(family, 11), client(family, 1)).payload(&[7; 1473]);
        let answer = answer.bytes();
        too_big(&mut rig, family, &answer, 1500, (client(family, 1).ip(), server(family, 11).ip()));
    }
}

/// Expects the answer to a packet that is too big: `ends` are those of the answer.
pub(crate) fn too_big(
    rig: &mut Rig,
    family: Family,
    frame: &[u8],
    fits: usize,
    ends: (std::net::IpAddr, std::net::IpAddr),
) {
    let [high, low] = u16::try_from(fits).unwrap().to_be_bytes();
    let (kind, quoted) = if family == V4 { ([3, 4], 28) } else { ([2, 0], 48) };
    let head = [&frame[6..12], &frame[..6]].concat();
    let kind = (kind, [0, 0, high, low]);
    let mut answer = wire::icmp(&head, ends, 64, kind, &frame[14..][..quoted]);
    if family == V4 {
        // The program's packets have no identification.
        answer[19] = 0;
        answer = wire::with_header_checksum(answer);
    }
    let expected = Outcome { action: Action::Transmit, reason: Reason::TooBig, packet: answer };
    assert_eq!(rig.send(frame).unwrap(), expected);
}
