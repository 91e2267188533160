//! Fragments to addresses of prefixes and to all ports of an address, and of answers from there, in order and not.

use std::net::SocketAddr;

use lbpersist_common::{reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::Packet,
    rig::{Action, Outcome, Rig},
    topology::Family,
    wire,
};

use super::{at, rig};
use crate::{
    headers::passed,
    setup::{FAR, NEAR, V4, client, link_to, server_address},
};

const PREFIXES: [(&str, &str, &str, &str); 2] =
    [("198.18.0.0/15", "\"all\"", "udp", "a"), ("2001:db8:200::/48", "\"all\"", "udp", "a6")];

fn inside(family: Family) -> SocketAddr {
    if family == V4 { at("198.18.7.9", 5000) } else { at("2001:db8:200::9", 5000) }
}

fn datagram(from: SocketAddr, to: SocketAddr) -> Packet {
    Packet::udp(from, to).payload(&[5; 3000])
}

fn pieces(packet: &Packet) -> Vec<Vec<u8>> {
    wire::fragments(&packet.bytes(), 9, 1400)
}

/// Sends the fragments in that order; all must go to one server, as they are but for frame and hops.
fn meet(rig: &mut Rig, packet: &Packet, order: &[usize]) -> u8 {
    let family = if packet.from.is_ipv4() { V4 } else { Family::V6 };
    let pieces = pieces(packet);
    let mut met = None;
    for &number in order {
        let outcome = rig.send(&pieces[number]).unwrap();
        assert_eq!(outcome.reason, Reason::Forwarded, "{number} of {order:?}");
        let host = *met.get_or_insert(outcome.packet[5]);
        let out = packet.forwarded(packet.to, link_to(family, FAR, host));
        assert_eq!(outcome.packet, self::pieces(&out)[number], "{number} of {order:?}");
    }
    met.unwrap()
}

#[test]
fn fragments_to_a_prefix_meet_one_server_in_any_order() {
    let Some(mut rig) = rig("direct", &PREFIXES) else { return };
    for family in Family::BOTH {
        let mut met = Vec::new();
        for n in 1..20 {
            let packet = datagram(client(family, n), inside(family));
            for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
                met.push(meet(&mut rig, &packet, &order));
            }
        }
        assert!(met.chunks(3).all(|three| three.iter().all(|host| *host == three[0])), "{met:?}");
        assert!(met.contains(&11) && met.contains(&12), "{met:?}");
    }
}

#[test]
fn what_a_fragment_to_a_prefix_does_not_show_is_not_guessed() {
    let mut services = PREFIXES.to_vec();
    // Inside the prefix: another one with a service on one port, and an address with one.
    services.push(("198.18.4.0/24", "53", "udp", "b"));
    services.push(("198.18.8.1", "53", "udp", "c"));
    let Some(mut rig) = rig("direct", &services) else { return };
    for (n, to) in (1..).zip(["198.18.7.9", "198.18.4.7", "198.18.8.1"]) {
        for port in [53, 5000] {
            let packet = datagram(client(V4, port + n), at(to, port));
            let pieces = pieces(&packet);
            let lost = Outcome {
                action: Action::Drop,
                reason: Reason::FragmentLost,
                packet: pieces[1].clone(),
            };
            assert_eq!(rig.send(&pieces[1]).unwrap(), lost, "{to}:{port}");
            let host = meet(&mut rig, &packet, &[0, 2, 1]);
            match (to, port) {
                ("198.18.4.7", 53) => assert_eq!(host, 13),
                ("198.18.8.1", 53) => assert_eq!(host, 14),
                _ => assert!(host == 11 || host == 12, "{to}:{port} met {host}"),
            }
        }
    }
    // Fragments of another protocol, and to addresses without a service, are others'.
    for packet in [
        Packet::tcp(client(V4, 1), at("198.18.7.9", 80), flag::ACK).payload(&[1; 3000]),
        datagram(client(V4, 1), at("198.20.0.1", 53)),
        // An address of this machine.
        datagram(client(V4, 1), at("192.0.2.2", 53)),
    ] {
        for piece in pieces(&packet) {
            assert_eq!(rig.send(&piece).unwrap(), passed(&piece, Reason::Fragment));
        }
    }
}

#[test]
fn tricks_with_fragments_to_a_prefix_are_refused() {
    let Some(mut rig) = rig("direct", &PREFIXES) else { return };
    for family in Family::BOTH {
        let packet = Packet::udp(client(family, 1), inside(family)).payload(&[1; 100]);
        let pieces = wire::fragments(&packet.bytes(), 9, 8);
        for _ in 0..2 {
            let outcome = rig.send(&pieces[1]).unwrap();
            assert_eq!(
                (outcome.action, outcome.reason),
                (Action::Drop, Reason::FragmentRefused),
                "right behind the header of UDP"
            );
            // Also when it has a note to follow.
            assert_eq!(rig.send(&pieces[0]).unwrap().reason, Reason::Forwarded);
        }
    }
}

#[test]
fn a_later_fragment_of_an_answer_from_all_ports_needs_no_first() {
    let all =
        [("198.51.100.10", "\"all\"", "udp", "a"), ("2001:db8:100::10", "\"all\"", "udp", "a6")];
    let Some(mut rig) = rig("nat", &all) else { return };
    for family in Family::BOTH {
        let server = SocketAddr::new(server_address(family, 11), 5353);
        let packet = datagram(server, client(family, 1));
        let out = packet.returned(family.service(5353), link_to(family, NEAR, 1));
        for number in [1, 2, 0, 1] {
            let expected = Outcome {
                action: Action::Transmit,
                reason: Reason::Returned,
                packet: pieces(&out)[number].clone(),
            };
            assert_eq!(rig.send(&pieces(&packet)[number]).unwrap(), expected, "{number}");
        }
        // Over TCP the server answers for nobody.
        let segment = Packet::tcp(server, client(family, 1), flag::ACK).payload(&[1; 3000]);
        let later = &pieces(&segment)[1];
        assert_eq!(rig.send(later).unwrap(), passed(later, Reason::Fragment));
    }
}
