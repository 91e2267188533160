//! ICMP errors under masquerade: what they quote has two ends that its sender did not know so.

use lbpersist_common::{reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::{Checksum, Packet, Transport},
    rig::{Action, Outcome},
    topology::Family,
    wire,
};

use super::{open, own, rig, seen, sizes, tcp};
use crate::{
    headers::passed,
    icmp::{head, kinds, quotes, router},
    setup::{
        DNS, FAR, NEAR, V4, Visits as _, WEB, client, host_address, link_to, server, server_address,
    },
};

/// A packet of a client, from which all others of its kind are made.
fn questions(family: Family) -> Vec<Packet> {
    let (from, dns) = (client(family, 1), family.service(DNS));
    let mut all = vec![
        Packet::tcp(from, family.service(WEB), flag::SYN).payload(&[1; 700]),
        Packet::udp(from, dns).payload(b"question?"),
    ];
    if family == V4 {
        all.push(Packet::udp(from, dns).without_checksum());
    }
    all
}

/// The same packet further on, after a router.
fn with_ends(packet: &Packet, from: std::net::SocketAddr, to: std::net::SocketAddr) -> Packet {
    Packet { from, to, hops: 40, ..packet.clone() }
}

#[test]
fn an_error_about_what_we_sent_goes_to_the_client() {
    let Some(mut rig) = rig("2000-9999", &[11]) else { return };
    for family in Family::BOTH {
        for packet in questions(family) {
            let us = seen(&rig.send_packet(&packet).packet);
            let there = with_ends(&packet, us, server(family, 11));
            let asked = with_ends(&packet, packet.from, packet.to);
            let before = (sizes(&mut rig), rig.translations().unwrap());
            // From the server itself, and from a router before it.
            for source in [server_address(family, 11), host_address(family, FAR, 1)] {
                for length in quotes(family, &there) {
                    for kind in kinds(family) {
                        let quoted = &there.bytes()[14..][..length];
                        let frame =
                            wire::icmp(&head(packet.link), (source, us.ip()), 64, kind, quoted);
                        let quoted = &asked.bytes()[14..][..length];
                        let ends = (family.service_address(), packet.from.ip());
                        let link = head(link_to(family, NEAR, 1));
                        let expected = Outcome {
                            action: Action::Transmit,
                            reason: Reason::ErrorReturned,
                            packet: wire::icmp(&link, ends, 63, kind, quoted),
                        };
                        assert_eq!(rig.send(&frame).unwrap(), expected, "{kind:?}, {length}");
                    }
                }
            }
            assert_eq!((sizes(&mut rig), rig.translations().unwrap()), before, "only read");
        }
    }
}

#[test]
fn an_error_about_an_answer_goes_to_the_server_and_comes_from_us() {
    let Some(mut rig) = rig("2000-9999", &[11, 12, 13]) else { return };
    for family in Family::BOTH {
        for packet in questions(family) {
            let out = rig.send_packet(&packet).packet;
            let us = seen(&out);
            let host = [11, 12, 13]
                .into_iter()
                .find(|&host| out[..6] == link_to(family, FAR, host).destination)
                .unwrap();
            let answer = with_ends(&packet, packet.to, packet.from);
            let sent = with_ends(&packet, server(family, host), us);
            let before = rig.translations().unwrap();
            for length in quotes(family, &answer) {
                for kind in kinds(family) {
                    let quoted = &answer.bytes()[14..][..length];
                    let ends = (router(family), packet.to.ip());
                    let frame = wire::icmp(&head(packet.link), ends, 64, kind, quoted);
                    let quoted = &sent.bytes()[14..][..length];
                    let ends = (us.ip(), server_address(family, host));
                    let link = head(link_to(family, FAR, host));
                    let expected = Outcome {
                        action: Action::Redirect,
                        reason: Reason::ErrorForwarded,
                        packet: wire::icmp(&link, ends, 63, kind, quoted),
                    };
                    assert_eq!(rig.send(&frame).unwrap(), expected, "{kind:?}, {length} bytes");
                }
            }
            assert_eq!(rig.translations().unwrap(), before, "only read");
        }
    }
}

#[test]
fn each_client_s_error_goes_to_that_client() {
    let Some(mut rig) = rig("2000-2015", &[11]) else { return };
    for family in Family::BOTH {
        let ports: Vec<u16> = (0..16).map(|n| open(&mut rig, client(family, n))).collect();
        for (n, port) in (0..).zip(ports) {
            let quoted = Packet::tcp(own(family, port), server(family, 11), flag::ACK).bytes();
            let ends = (host_address(family, FAR, 1), own(family, port).ip());
            let frame = wire::icmp(&[2; 12], ends, 64, kinds(family)[0], &quoted[14..]);
            let outcome = rig.send(&frame).unwrap();
            let sent = Packet::tcp(client(family, n), family.service(WEB), flag::ACK).bytes();
            let out = wire::icmp(
                &head(link_to(family, NEAR, 1)),
                (family.service_address(), client(family, n).ip()),
                63,
                kinds(family)[0],
                &sent[14..],
            );
            assert_eq!(outcome.packet, out, "client {n}");
        }
    }
}

#[test]
fn errors_about_what_is_no_client_s_pass_unchanged() {
    let Some(mut rig) = rig("2000-9999", &[11]) else { return };
    for family in Family::BOTH {
        let port = tcp(&mut rig, client(family, 1), flag::SYN);
        let other = if family == V4 { "192.0.2.50" } else { "fd00:1::50" }.parse().unwrap();
        let tcp = |from, to| Packet::tcp(from, to, flag::ACK);
        let free = if port == 2000 { 2001 } else { 2000 };
        let web = family.service(WEB);
        let rows = [
            ("our own connection to a server", tcp(own(family, 40_000), server(family, 11))),
            ("a port of ours that nobody has", tcp(own(family, free), server(family, 11))),
            (
                "that port at another address",
                tcp(std::net::SocketAddr::new(other, port), server(family, 11)),
            ),
            ("an answer to whom nobody knows", tcp(web, client(family, 2))),
        ];
        for (shows, quoted) in rows {
            for hops in [64, 1] {
                let ends = (router(family), quoted.from.ip());
                let frame =
                    wire::icmp(&[2; 12], ends, hops, kinds(family)[0], &quoted.bytes()[14..]);
                let outcome = rig.send(&frame).unwrap();
                if hops == 1 && quoted.from == web {
                    assert_eq!(outcome.reason, Reason::HopLimit, "{shows}");
                } else {
                    assert_eq!(outcome, passed(&frame, Reason::OtherProtocol), "{shows}");
                }
            }
        }
        // Over UDP the client's port is another one.
        let quoted = Packet::udp(own(family, port), server(family, 11));
        assert!(matches!(quoted.transport, Transport::Udp { checksum: Checksum::Computed }));
        let ends = (router(family), own(family, port).ip());
        let frame = wire::icmp(&[2; 12], ends, 64, kinds(family)[0], &quoted.bytes()[14..]);
        assert_eq!(rig.send(&frame).unwrap(), passed(&frame, Reason::OtherProtocol), "UDP");
    }
}
