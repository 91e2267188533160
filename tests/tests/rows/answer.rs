//! The way back to a client.

use std::net::SocketAddr;

use lbpersist::network::View;
use lbpersist_common::{net::Address, reason::Reason, route::NeighbourKey, tcp::flag};
use lbpersist_tests::{
    packet::{Link, Packet},
    rig::{Action, Outcome},
    topology::Family,
};

use crate::setup::{
    DNS, FAR, NEAR, Text, V4, V6, Visits as _, WEB, client, family, host_address, link_to, links,
    neighbours, routes, server, server_address,
};

struct Row {
    shows: &'static str,
    to: SocketAddr,
    action: Action,
    link: Link,
}

fn rows() -> Vec<Row> {
    let behind = |text: &str| SocketAddr::new(text.parse().unwrap(), 40_000);
    let on_link = |family, interface| SocketAddr::new(host_address(family, interface, 50), 40_000);
    let server_itself = |family| SocketAddr::new(server_address(family, 12), 40_000);
    let mut rows = Vec::new();
    for (family, specific) in [(V4, "203.0.113.9"), (V6, "2001:db8:f::9")] {
        rows.extend([
            Row {
                shows: "through the router of the default route, where the answer came in",
                to: client(family, 1),
                action: Action::Transmit,
                link: link_to(family, NEAR, 1),
            },
            Row {
                shows: "through the router of a longer prefix",
                to: behind(specific),
                action: Action::Redirect,
                link: link_to(family, FAR, 1),
            },
            Row {
                shows: "to a neighbour",
                to: on_link(family, NEAR),
                action: Action::Transmit,
                link: link_to(family, NEAR, 50),
            },
            Row {
                shows: "to another server that is a client, on the other interface",
                to: server_itself(family),
                action: Action::Redirect,
                link: link_to(family, FAR, 12),
            },
        ]);
    }
    rows
}

#[test]
fn answers_come_from_the_service() {
    let Some(mut rig) = Text::default().rig() else { return };
    for Row { shows, to, action, link } in rows() {
        let family = family(to);
        let from = server(family, 11);
        let tcp = Packet::tcp(from, to, flag::SYN | flag::ACK).tcp_options(&[2, 4, 5, 0xb4]);
        let data = Packet::tcp(from, to, flag::ACK).payload(b"odd");
        let udp = Packet::udp(from, to).payload(b"answer");
        for (packet, port) in [(tcp, WEB), (data, WEB), (udp, DNS)] {
            let out = packet.returned(family.service(port), link).bytes();
            let expected = Outcome { action, reason: Reason::Returned, packet: out };
            assert_eq!(rig.send_packet(&packet), expected, "{shows}: {packet:?}");
        }
    }
    let none = Packet::udp(server(V4, 11), client(V4, 1)).without_checksum();
    let out = none.returned(V4.service(DNS), link_to(V4, NEAR, 1)).bytes();
    assert_eq!(rig.send_packet(&none).packet, out, "no UDP checksum stays none");
}

#[test]
fn answers_to_this_machine_pass_untouched() {
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        let own = SocketAddr::new(host_address(family, NEAR, 2), 50_000);
        for hops in [64, 1] {
            let packet =
                Packet::tcp(server(family, 11), own, flag::SYN | flag::ACK).hops(hops).bytes();
            let passed = Outcome {
                action: Action::Pass,
                reason: Reason::ToThisMachine,
                packet: packet.clone(),
            };
            assert_eq!(rig.send(&packet).unwrap(), passed);
        }
    }
}

#[test]
fn answers_from_another_port_or_protocol_of_a_server_pass_untouched() {
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        let other = SocketAddr::new(server_address(family, 11), 22);
        let stranger = SocketAddr::new(server_address(family, 12), 8080);
        for from in [other, stranger] {
            let packet = Packet::tcp(from, client(family, 1), flag::ACK).bytes();
            let passed =
                Outcome { action: Action::Pass, reason: Reason::NotOurs, packet: packet.clone() };
            assert_eq!(rig.send(&packet).unwrap(), passed);
        }
    }
}

#[test]
fn an_answer_that_no_route_leads_back_is_dropped() {
    let dropped =
        |packet: &Packet, reason| Outcome { action: Action::Drop, reason, packet: packet.bytes() };
    let without = |prefix: &str| {
        let left = routes().into_iter().filter(|route| route.prefix.to_string() != prefix);
        View::new(links(), left.collect(), neighbours())
    };
    for family in Family::BOTH {
        let packet = Packet::tcp(server(family, 11), client(family, 1), flag::ACK);
        let default = if family == V4 { "0.0.0.0/0" } else { "::/0" };
        // With the IPv4 one gone, the IPv6 default route must not catch IPv4 clients, and the other way round.
        let Some(mut rig) = Text::default().rig_in(without(default)) else { return };
        assert_eq!(rig.send_packet(&packet), dropped(&packet, Reason::NoRoute));
        let last = packet.clone().hops(1);
        let mut rig = Text::default().rig().unwrap();
        assert_eq!(rig.send_packet(&last), dropped(&last, Reason::HopLimit));
    }
}

#[test]
fn a_neighbour_that_is_not_known_is_asked_for() {
    let Some(mut rig) = Text::default().rig() else { return };
    for family in Family::BOTH {
        let to = SocketAddr::new(host_address(family, NEAR, 77), 40_000);
        let packet = Packet::tcp(server(family, 11), to, flag::ACK);
        let outcome = rig.send_packet(&packet);
        assert_eq!((outcome.action, outcome.reason), (Action::Drop, Reason::NoRoute));
        assert_eq!(outcome.packet, packet.bytes());
        let address = match to.ip() {
            std::net::IpAddr::V4(address) => Address::from_ipv4(address.octets()),
            std::net::IpAddr::V6(address) => Address::from_ipv6(address.octets()),
        };
        let key = NeighbourKey { address, interface: NEAR, reserved: 0 };
        let wanted = rig.data_path().maps.wanted.all().unwrap();
        assert!(wanted.iter().any(|(wanted, _)| *wanted == key), "{wanted:?}");

        rig.view.neighbours.insert((NEAR, to.ip()), [2, 7, 7, 7, 7, 7]);
        rig.apply().unwrap();
        assert_eq!(rig.send_packet(&packet).reason, Reason::Returned);
    }
}
