//! Jumbo frames, which lie in several buffers: the headers are in the first, and the rest is never looked at.

use lbpersist::network::View;
use lbpersist_common::{reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::Packet,
    rig::{Action, Outcome, Rig},
    topology::Family,
};

use crate::{
    fragment::too_big,
    headers::{changes, direct, tunnel, tunnelled},
    setup::{
        DNS, FAR, NEAR, Text, V4, Visits as _, WEB, client, link_to, links, neighbours, routes,
        server,
    },
};

/// Bytes of an IP packet that every link carries.
const MTU: u32 = 9000;

fn rig(text: &Text) -> Option<Rig> {
    let links = links().into_iter();
    let links = links.map(|(index, link)| (index, lbpersist::network::Link { mtu: MTU, ..link }));
    text.rig_in(View::new(links.collect(), routes(), neighbours()))
}

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 % 251) as u8).collect()
}

fn packets(family: Family, length: usize) -> [Packet; 2] {
    let from = client(family, 1);
    let tcp = Packet::tcp(from, family.service(WEB), flag::ACK).payload(&data(length));
    [tcp, Packet::udp(from, family.service(DNS)).payload(&data(length))]
}

#[test]
fn jumbo_frames_go_to_servers_in_every_way() {
    for (text, shows) in [(Text::default(), "nat"), (direct(), "direct"), (tunnel(), "tunnel")] {
        let Some(mut rig) = rig(&text) else { return };
        for family in Family::BOTH {
            // One buffer has about 3,500 bytes in these runs; then two and three of them.
            for length in [3400, 3500, 5000, 8900] {
                for packet in packets(family, length) {
                    let to = if shows == "nat" { server(family, 11) } else { packet.to };
                    let out = packet.forwarded(to, link_to(family, FAR, 11)).bytes();
                    let expected = |packet| Outcome {
                        action: Action::Redirect,
                        reason: Reason::Forwarded,
                        packet,
                    };
                    let through = |out: Vec<u8>| {
                        if shows == "tunnel" { tunnelled(&out) } else { out }
                    };
                    let outcome = rig.send_packet(&packet);
                    assert_eq!(outcome, expected(through(out.clone())), "{shows} {length}");
                    // The stage behind the first program has them in several buffers as well.
                    for (what, change) in changes(family) {
                        if !what.contains("tag") && length < 8000 {
                            let outcome = rig.send(&change(&packet.bytes())).unwrap();
                            let out = through(change(&out));
                            assert_eq!(outcome, expected(out), "{shows} {length} {what}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn jumbo_answers_come_back() {
    let Some(mut rig) = rig(&Text::default()) else { return };
    for family in Family::BOTH {
        for question in packets(family, 8900) {
            let packet = Packet { from: server(family, 11), to: question.from, ..question.clone() };
            let out = packet.returned(question.to, link_to(family, NEAR, 1)).bytes();
            let expected =
                Outcome { action: Action::Transmit, reason: Reason::Returned, packet: out };
            assert_eq!(rig.send_packet(&packet), expected);
        }
    }
}

#[test]
fn a_jumbo_frame_that_is_too_big_for_its_tunnel_is_answered() {
    let Some(mut rig) = rig(&tunnel()) else { return };
    for family in Family::BOTH {
        let (outer, headers) = if family == V4 { (20, 40) } else { (40, 60) };
        let room = MTU as usize - outer;
        let packet = |length| {
            Packet::tcp(client(family, 1), family.service(WEB), flag::ACK).payload(&data(length))
        };
        let fitting = rig.send_packet(&packet(room - headers));
        assert_eq!(fitting.reason, Reason::Forwarded);
        assert_eq!(fitting.packet.len(), 14 + MTU as usize);
        let ends = (family.service_address(), client(family, 1).ip());
        too_big(&mut rig, family, &packet(room - headers + 1).bytes(), room, ends);
    }
}
