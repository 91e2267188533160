//! Frames of every unusual kind, cut at every length: none is carried in part, none confuses the program.

use lbpersist_common::{reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::Packet,
    rig::{Action, Rig},
    topology::Family,
    wire,
};

use crate::{
    headers::{changes, direct, tunnel},
    setup::{DNS, NEAR, Text, V4, WEB, client, host_address, server},
};

/// The shortest frame that the kernel runs a program on.
const SHORTEST: usize = 14;

/// Frames that are carried or answered whole.
fn frames(family: Family, under_nat: bool) -> Vec<(&'static str, Vec<u8>)> {
    let (from, service) = (client(family, 1), family.service_address());
    let unreachable = if family == V4 { [3, 3] } else { [1, 4] };
    let error = |ends, packet: &Packet| {
        wire::icmp(&[2; 12], ends, 64, (unreachable, [0; 4]), &packet.bytes()[14..])
    };
    let router = host_address(family, NEAR, 1);
    let ping = if family == V4 { [8, 0] } else { [128, 0] };
    let segment = Packet::tcp(from, family.service(WEB), flag::ACK).payload(b"data");
    let datagram = Packet::udp(from, family.service(DNS)).payload(&[7; 60]);
    let pieces = wire::fragments(&datagram.bytes(), 9, 32);
    let answer = Packet::tcp(family.service(WEB), from, flag::ACK).payload(b"answer");
    let mut frames = vec![
        ("a segment", segment.bytes()),
        ("a datagram", datagram.bytes()),
        ("an error about an answer", error((router, service), &answer)),
        ("a ping", wire::icmp(&[2; 12], (from.ip(), service), 64, (ping, [0; 4]), b"data")),
        ("a first fragment", pieces[0].clone()),
        ("a later fragment", pieces[1].clone()),
        ("the last fragment", pieces[2].clone()),
    ];
    if under_nat {
        let sent = Packet::udp(from, server(family, 11));
        let host = server(family, 11).ip();
        frames.push(("an error about a question", error((host, from.ip()), &sent)));
    }
    frames
}

#[test]
fn no_part_of_an_unusual_frame_is_carried_or_altered() {
    for (shows, text) in [("nat", Text::default()), ("direct", direct()), ("tunnel", tunnel())] {
        let Some(mut rig) = text.rig() else { return };
        for family in Family::BOTH {
            for (name, frame) in frames(family, shows == "nat") {
                assert!(is_sent(&mut rig, &frame), "{shows}: {name}");
                cut(&mut rig, name, &frame);
                for (around, change) in changes(family) {
                    if frame.len() < 200 {
                        cut(&mut rig, around, &change(&frame));
                    }
                }
            }
        }
    }
}

/// The quoted packet may end anywhere. What is quoted of it decides.
#[test]
fn an_error_may_quote_any_part() {
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        let answer = Packet::tcp(family.service(WEB), client(family, 1), flag::ACK).payload(b"odd");
        let quote = answer.bytes()[14..].to_vec();
        let enough = if family == V4 { 24 } else { 44 };
        let ends = (host_address(family, NEAR, 1), family.service_address());
        let kind = if family == V4 { [11, 0] } else { [3, 0] };
        for length in 0..quote.len() {
            let frame = wire::icmp(&[2; 12], ends, 64, (kind, [0; 4]), &quote[..length]);
            let outcome = rig.send(&frame).unwrap();
            if length < enough {
                assert_eq!((outcome.action, &outcome.packet), (Action::Pass, &frame), "{length}");
                assert_eq!(outcome.reason, Reason::Malformed, "{length}");
            } else {
                assert_eq!(outcome.reason, Reason::ErrorForwarded, "{length}");
                assert_eq!(outcome.packet.len(), frame.len());
            }
        }
    }
}

fn cut(rig: &mut Rig, name: &str, frame: &[u8]) {
    for length in SHORTEST..frame.len() {
        let part = &frame[..length];
        let outcome = rig.send(part).unwrap();
        assert_eq!(outcome.action, Action::Pass, "{length} bytes of {name}");
        assert_eq!(outcome.packet, part, "{length} bytes of {name}");
        assert!(
            matches!(outcome.reason, Reason::Malformed | Reason::NotIp),
            "{length} bytes of {name}: {:?}",
            outcome.reason
        );
    }
}

fn is_sent(rig: &mut Rig, frame: &[u8]) -> bool {
    matches!(rig.send(frame).unwrap().action, Action::Transmit | Action::Redirect)
}
