//! Fragments under masquerade: the later ones get both addresses of the first, in both directions.

use lbpersist::clock::now_ns;
use lbpersist_common::reason::Reason;
use lbpersist_tests::{
    packet::Packet,
    rig::{Action, Outcome},
    topology::Family,
    wire,
};

use super::{rig, seen};
use crate::{
    headers::passed,
    setup::{DNS, FAR, NEAR, Visits as _, client, link_to, server},
};

fn datagram(family: Family, n: u16) -> Packet {
    let data: Vec<u8> = (0..4000_u32).map(|n| (n * 7 % 251) as u8).collect();
    Packet::udp(client(family, n), family.service(DNS)).payload(&data)
}

fn split(packet: &Packet, id: u16) -> Vec<Vec<u8>> {
    wire::fragments(&packet.bytes(), id, 1400)
}

#[test]
fn fragments_of_a_question_come_from_us() {
    let Some(mut rig) = rig("2000-9999", &[11]) else { return };
    for family in Family::BOTH {
        let packet = datagram(family, 1);
        let pieces = split(&packet, 7);
        let first = rig.send(&pieces[0]).unwrap();
        let at = if family == Family::V4 { 34 } else { 62 };
        let port = u16::from_be_bytes([first.packet[at], first.packet[at + 1]]);
        let us = super::own(family, port);
        let there = packet.forwarded(server(family, 11), link_to(family, FAR, 11));
        let out = split(&Packet { from: us, ..there }, 7);
        assert_eq!(first.packet, out[0]);
        for (piece, packet) in pieces[1..].iter().zip(&out[1..]).rev() {
            let packet = packet.clone();
            let expected = Outcome { action: Action::Redirect, reason: Reason::Forwarded, packet };
            assert_eq!(rig.send(piece).unwrap(), expected);
        }
    }
}

#[test]
fn fragments_of_an_answer_go_to_the_client_of_the_first() {
    let Some(mut rig) = rig("2000-9999", &[11]) else { return };
    for family in Family::BOTH {
        // Two clients, and answers to both at once: the server sees one address and gives them numbers of their own.
        let clients: Vec<_> = (1..3).map(|n| datagram(family, n)).collect();
        let answers: Vec<_> = clients
            .iter()
            .map(|packet| {
                let small = packet.clone().payload(b"question");
                let us = seen(&rig.send_packet(&small).packet);
                Packet { from: server(family, 11), to: us, ..packet.clone() }
            })
            .collect();
        let expected = |n: usize, id| {
            let home = answers[n].returned(family.service(DNS), link_to(family, NEAR, 1));
            split(&Packet { to: clients[n].from, ..home }, id)
        };
        let pieces: Vec<_> = (0..2).zip(20..).map(|(n, id)| split(&answers[n], id)).collect();
        for (number, (one, other)) in pieces[0].iter().zip(&pieces[1]).enumerate() {
            for (n, piece) in [(0, one), (1, other)] {
                let packet = expected(n, 20 + n as u16)[number].clone();
                let returned =
                    Outcome { action: Action::Transmit, reason: Reason::Returned, packet };
                assert_eq!(rig.send(piece).unwrap(), returned, "{family:?} {n} {number}");
            }
        }
    }
}

#[test]
fn a_later_fragment_of_an_answer_that_is_not_noted_is_left_to_this_machine() {
    let Some(mut rig) = rig("2000-9999", &[11]) else { return };
    let start = now_ns();
    rig.set_clock(start);
    for family in Family::BOTH {
        let packet = datagram(family, 1);
        let us = seen(&rig.send_packet(&packet.clone().payload(b"question")).packet);
        let pieces = split(&Packet { from: server(family, 11), to: us, ..packet }, 3);
        let expected = passed(&pieces[1], Reason::Fragment);
        assert_eq!(rig.send(&pieces[1]).unwrap(), expected, "before the first");
        assert_eq!(rig.send(&pieces[0]).unwrap().reason, Reason::Returned);
        assert_eq!(rig.send(&pieces[1]).unwrap().reason, Reason::Returned);
        rig.set_clock(start + 61_000_000_000);
        assert_eq!(rig.send(&pieces[1]).unwrap(), expected, "long after it");
        rig.set_clock(start);
    }
}
