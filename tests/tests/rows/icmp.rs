//! ICMP: errors go to whoever sent the packet that they quote, pings to services are answered.

use std::net::{IpAddr, SocketAddr};

use lbpersist_common::{reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::{Link, Packet},
    rig::{Action, Outcome, Rig},
    topology::Family,
    wire,
};

use crate::{
    headers::{changes, direct, passed, tunnel, tunnelled},
    setup::{
        DNS, FAR, NEAR, Text, V4, V6, Visits as _, WEB, at_port, client, host_address, link_to,
        server, server_address,
    },
};

/// Type and code, and the four bytes behind the checksum.
pub(crate) type Kind = ([u8; 2], [u8; 4]);

/// Errors that follow a connection.
pub(crate) fn kinds(family: Family) -> Vec<Kind> {
    match family {
        V4 => vec![
            ([3, 3], [0; 4]),
            ([3, 4], [0, 0, 5, 0x78]),
            ([11, 0], [0; 4]),
            ([12, 0], [20, 0, 0, 0]),
        ],
        V6 => vec![
            ([1, 4], [0; 4]),
            ([2, 0], [0, 0, 5, 0x78]),
            ([3, 0], [0; 4]),
            ([4, 1], [0, 0, 0, 6]),
        ],
    }
}

/// A router on the way to the client.
pub(crate) fn router(family: Family) -> IpAddr {
    host_address(family, NEAR, 1)
}

pub(crate) fn head(link: Link) -> Vec<u8> {
    [link.destination, link.source].concat()
}

/// The packets that a client got from the service, as a router on the way saw them, and as the server had sent them.
fn answers(family: Family) -> [(Packet, Packet); 3] {
    let to = client(family, 1);
    let tcp = |from| Packet::tcp(from, to, flag::ACK).payload(&[7; 600]).hops(40);
    let udp = |from| Packet::udp(from, to).payload(b"answer").hops(40);
    let bare = |from| Packet::udp(from, to).payload(b"answer").hops(40);
    let bare = |from| if family == V4 { bare(from).without_checksum() } else { bare(from) };
    let (web, dns, server) = (family.service(WEB), family.service(DNS), server(family, 11));
    [(tcp(web), tcp(server)), (udp(dns), udp(server)), (bare(dns), bare(server))]
}

/// How much routers quote: the least, a little more, up to all.
pub(crate) fn quotes(family: Family, packet: &Packet) -> Vec<usize> {
    let headers = if family == V4 { 20 } else { 40 };
    let all = packet.bytes().len() - 14;
    let mut lengths = vec![headers + 4, headers + 8, headers + 16, headers + 18, headers + 20, all];
    lengths.retain(|&length| length <= all);
    lengths
}

#[test]
fn an_error_about_an_answer_goes_to_the_server_under_nat() {
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        for (seen, sent) in answers(family) {
            for length in quotes(family, &seen) {
                for kind in kinds(family) {
                    let (from, service) = (router(family), seen.from.ip());
                    let link = head(seen.link);
                    let quoted = &seen.bytes()[14..][..length];
                    let frame = wire::icmp(&link, (from, service), 64, kind, quoted);
                    let link = head(link_to(family, FAR, 11));
                    let quoted = &sent.bytes()[14..][..length];
                    let to = server_address(family, 11);
                    let out = wire::icmp(&link, (from, to), 63, kind, quoted);
                    let outcome = rig.send(&frame).unwrap();
                    assert_eq!(
                        (outcome.action, outcome.reason),
                        (Action::Redirect, Reason::ErrorForwarded)
                    );
                    assert_eq!(outcome.packet, out, "{kind:?}, {length} bytes of {seen:?}");
                }
            }
        }
    }
    nothing_was_written(&mut rig);
}

#[test]
fn an_error_about_a_clients_packet_goes_to_the_client() {
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        let from = client(family, 1);
        for (service, packet) in [
            (WEB, Packet::tcp(from, server(family, 11), flag::SYN).payload(&[1; 900])),
            (DNS, Packet::udp(from, server(family, 11)).payload(b"question?")),
        ] {
            // From the server itself, and from a router before it.
            for source in [server_address(family, 11), host_address(family, FAR, 1)] {
                for length in quotes(family, &packet) {
                    for kind in kinds(family) {
                        let (link, quoted) = (head(packet.link), &packet.bytes()[14..][..length]);
                        let frame = wire::icmp(&link, (source, from.ip()), 64, kind, quoted);
                        let sent = Packet { to: family.service(service), ..packet.clone() };
                        let ends = (family.service_address(), from.ip());
                        let link = head(link_to(family, NEAR, 1));
                        let quoted = &sent.bytes()[14..][..length];
                        let out = wire::icmp(&link, ends, 63, kind, quoted);
                        let expected = Outcome {
                            action: Action::Transmit,
                            reason: Reason::ErrorReturned,
                            packet: out,
                        };
                        assert_eq!(rig.send(&frame).unwrap(), expected, "{kind:?}, {packet:?}");
                    }
                }
            }
        }
    }
    nothing_was_written(&mut rig);
}

#[test]
fn under_direct_and_tunnel_errors_arrive_as_they_were_sent() {
    for (text, is_tunnel) in [(direct(), false), (tunnel(), true)] {
        let Some(mut rig) = text.rig() else { return };
        for family in Family::BOTH {
            for (seen, _) in answers(family) {
                let kind = kinds(family)[1];
                let ends = (router(family), seen.from.ip());
                let quoted = &seen.bytes()[14..][..48.min(seen.bytes().len() - 14)];
                let frame = wire::icmp(&head(seen.link), ends, 64, kind, quoted);
                let link = head(link_to(family, FAR, 11));
                let out = wire::icmp(&link, ends, 63, kind, quoted);
                for (shows, change) in changes(family) {
                    if is_tunnel && !shows.contains("tag") {
                        let outcome = rig.send(&change(&frame)).unwrap();
                        assert_eq!(outcome.packet, tunnelled(&change(&out)), "{shows}");
                    } else if !is_tunnel {
                        let outcome = rig.send(&change(&frame)).unwrap();
                        assert_eq!(outcome.packet, change(&out), "{shows}");
                        assert_eq!(outcome.reason, Reason::ErrorForwarded);
                    }
                }
                let out = if is_tunnel { tunnelled(&out) } else { out };
                assert_eq!(rig.send(&frame).unwrap().packet, out);
            }
        }
    }
}

#[test]
fn an_error_follows_the_client_where_tables_say_so() {
    let hosts = [11, 12, 13, 14];
    let Some(mut rig) = Text::servers(&hosts).rig() else { return };
    for family in Family::BOTH {
        let clients: Vec<SocketAddr> = (1..20).map(|n| client(family, n)).collect();
        let met: Vec<u8> = clients.iter().map(|&client| rig.open(client)).collect();
        let asked: Vec<u8> = clients.iter().map(|&client| rig.ask(client)).collect();
        // The ring moves under them.
        rig.configure(&Text::servers(&[11, 12, 13, 14, 15, 16, 17]).text()).unwrap();
        let (entries, connections) = (rig.entries().unwrap(), rig.connections().unwrap());
        for (number, &to) in clients.iter().enumerate() {
            for (packet, host) in [
                (Packet::tcp(family.service(WEB), to, flag::ACK), met[number]),
                (Packet::udp(family.service(DNS), to), asked[number]),
            ] {
                let ends = (router(family), packet.from.ip());
                let quoted = &packet.bytes()[14..];
                let frame = wire::icmp(&head(packet.link), ends, 64, kinds(family)[0], quoted);
                let outcome = rig.send(&frame).unwrap();
                assert_eq!(outcome.reason, Reason::ErrorForwarded);
                assert_eq!(outcome.packet[..6], link_to(family, FAR, host).destination);
            }
        }
        assert_eq!(rig.entries().unwrap(), entries, "nobody was told");
        assert_eq!(rig.connections().unwrap(), connections, "nobody was told");
        rig.configure(&Text::servers(&hosts).text()).unwrap();
    }
}

#[test]
fn errors_about_nothing_of_ours_pass_unchanged() {
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        let (from, to, service) = (client(family, 1), client(family, 2), family.service(WEB));
        let tcp = |from, to| Packet::tcp(from, to, flag::ACK).bytes()[14..].to_vec();
        let ping = wire::icmp(&[0; 12], (service.ip(), from.ip()), 9, echo(family), b"ping");
        let mut later = Packet::udp(family.service(DNS), from).payload(&[1; 64]).bytes();
        if family == V4 {
            later = wire::fragments(&later, 9, 24).remove(1);
        } else {
            later = wire::fragments(&later, 9, 24).remove(2);
        }
        let other_service = SocketAddr::new(service.ip(), 9999);
        let error = |to: IpAddr, quoted: &[u8]| {
            wire::icmp(&[2; 12], (router(family), to), 64, kinds(family)[0], quoted)
        };
        let rows = [
            ("about strangers", error(from.ip(), &tcp(from, to))),
            ("to another than the quoted sender", error(from.ip(), &tcp(service, from))),
            ("about another port", error(service.ip(), &tcp(other_service, from))),
            ("about a ping", error(service.ip(), &ping[14..])),
            ("about a later fragment", error(service.ip(), &later[14..])),
            (
                "about less than the ports",
                error(service.ip(), &tcp(service, from)[..if family == V4 { 23 } else { 43 }]),
            ),
        ];
        for (shows, frame) in rows {
            let outcome = rig.send(&frame).unwrap();
            assert_eq!((outcome.action, &outcome.packet), (Action::Pass, &frame), "{shows}");
            assert!(
                matches!(outcome.reason, Reason::OtherProtocol | Reason::Malformed),
                "{shows}: {:?}",
                outcome.reason
            );
        }
    }
    let redirect = Packet::tcp(V4.service(WEB), client(V4, 1), flag::ACK).bytes();
    let ends = (router(V4), V4.service_address());
    let redirect = wire::icmp(&[2; 12], ends, 64, ([5, 1], [1, 2, 3, 4]), &redirect[14..]);
    assert_eq!(rig.send(&redirect).unwrap(), passed(&redirect, Reason::OtherProtocol));
}

#[test]
fn errors_are_never_answered() {
    let Some(mut rig) = tunnel().rig() else { return };
    for family in Family::BOTH {
        let quoted = Packet::udp(family.service(DNS), client(family, 1)).payload(&[1; 1440]);
        let ends = (router(family), family.service_address());
        let kind = kinds(family)[0];
        let frame = wire::icmp(&[2; 12], ends, 64, kind, &quoted.bytes()[14..]);
        let expected =
            Outcome { action: Action::Drop, reason: Reason::TooBig, packet: frame.clone() };
        assert_eq!(rig.send(&frame).unwrap(), expected, "too big for the tunnel");
        let last = wire::icmp(&[2; 12], ends, 1, kind, &quoted.bytes()[14..][..60]);
        let outcome = rig.send(&last).unwrap();
        assert_eq!((outcome.action, outcome.reason), (Action::Drop, Reason::HopLimit));
    }
}

fn echo(family: Family) -> Kind {
    (if family == V4 { [8, 0] } else { [128, 0] }, [0x12, 0x34, 0, 9])
}

fn echo_reply(family: Family) -> Kind {
    (if family == V4 { [0, 0] } else { [129, 0] }, [0x12, 0x34, 0, 9])
}

#[test]
fn a_ping_to_a_service_is_answered() {
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        for length in [0, 1, 56, 57, 1400] {
            for hops in [1, 64, 255] {
                let data: Vec<u8> = (0..length).map(|n| n as u8).collect();
                let (from, service) = (client(family, 1).ip(), family.service_address());
                let link = [2, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2];
                let turned = [2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1];
                let frame = wire::icmp(&link, (from, service), hops, echo(family), &data);
                let reply = wire::icmp(&turned, (service, from), 64, echo_reply(family), &data);
                let answered = |packet| Outcome {
                    action: Action::Transmit,
                    reason: Reason::EchoAnswered,
                    packet,
                };
                assert_eq!(rig.send(&frame).unwrap(), answered(reply.clone()));
                for (shows, change) in changes(family) {
                    let outcome = rig.send(&change(&frame)).unwrap();
                    if shows.contains("extension") || !shows.contains("tag") {
                        let expected = passed(&change(&frame), Reason::OtherProtocol);
                        assert_eq!(outcome, expected, "{shows}");
                    } else {
                        assert_eq!(outcome, answered(change(&reply)), "{shows}");
                    }
                }
            }
        }
    }
    nothing_was_written(&mut rig);
}

#[test]
fn other_pings_pass_to_the_stack() {
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        let (from, service) = (client(family, 1).ip(), family.service_address());
        let ping = |ends| wire::icmp(&[2; 12], ends, 64, echo(family), b"ping");
        let nobody: IpAddr = if family == V4 { "224.0.0.1" } else { "ff02::1" }.parse().unwrap();
        let mut to_all = ping((from, service));
        to_all[..6].fill(0xff);
        let rows = [
            ("to a server", ping((from, server_address(family, 11))), Reason::OtherProtocol),
            ("to a group", ping((from, nobody)), Reason::OtherProtocol),
            ("from a group", ping((nobody, service)), Reason::OtherProtocol),
            ("in a frame to all", to_all, Reason::NotOurs),
            (
                "an answer to a ping",
                wire::icmp(&[2; 12], (from, service), 64, echo_reply(family), b"ping"),
                Reason::OtherProtocol,
            ),
        ];
        for (shows, frame, reason) in rows {
            if frame[0] & 1 == 0 || reason == Reason::NotOurs {
                assert_eq!(rig.send(&frame).unwrap(), passed(&frame, reason), "{shows}");
            }
        }
    }
    let off = Text::default().text().replace("[data_path]", "[data_path]\nanswer_echo = false");
    rig.configure(&off).unwrap();
    for family in Family::BOTH {
        let ends = (client(family, 1).ip(), family.service_address());
        let frame = wire::icmp(&[2; 12], ends, 64, echo(family), b"ping");
        assert_eq!(rig.send(&frame).unwrap(), passed(&frame, Reason::OtherProtocol), "off");
    }
}

fn nothing_was_written(rig: &mut Rig) {
    assert_eq!(rig.entries().unwrap(), []);
    assert_eq!(rig.connections().unwrap(), []);
    assert_eq!(rig.handshakes().unwrap(), []);
}

#[test]
fn a_port_of_a_connection_is_no_other_connections() {
    let Some(mut rig) = Text::servers(&[11, 12, 13]).without_persistence().rig() else { return };
    for family in Family::BOTH {
        for n in 0..16 {
            let from = at_port(client(family, 1), n);
            let host = rig.open(from);
            let quoted = Packet::tcp(family.service(WEB), from, flag::ACK).bytes();
            let ends = (router(family), family.service_address());
            let frame = wire::icmp(&[2; 12], ends, 64, kinds(family)[0], &quoted[14..]);
            let outcome = rig.send(&frame).unwrap();
            assert_eq!(outcome.packet[..6], link_to(family, FAR, host).destination);
        }
    }
}
