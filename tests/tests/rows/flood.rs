//! Floods from addresses that nobody has: earned entries stay, and real clients are served all the same.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lbpersist_common::{counter::Event, reason::Reason, tcp::flag};
use lbpersist_tests::packet::Packet;

use crate::{
    headers::tunnel,
    setup::{Text, V4, Visits as _, WEB, at_port, client},
};

const BUDGET: &str = "[flood_limits]\nnew_clients = 40\nnew_clients_of_prefix = 10\n";

/// Client `n` of prefix 172.30.`prefix`.0/24.
fn spoofed(prefix: u8, n: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(172, 30, prefix, n)), 40_000)
}

fn text(text: Text) -> Text {
    Text { more: BUDGET.to_owned(), ..text }
}

#[test]
fn a_flood_of_datagrams_writes_no_more_than_the_budget() {
    let Some(mut rig) = text(Text::servers(&[11, 12])).rig() else { return };
    let second = 1 << 30;
    let mut now = lbpersist::clock::now_ns() / second * second + second / 2;
    rig.set_clock(now);
    let earned = client(V4, 1);
    let host = rig.ask(earned);
    for n in 0..50 {
        rig.ask(spoofed(0, n));
    }
    assert_eq!(rig.entries().unwrap().len(), 1 + 10, "of one prefix");
    for prefix in 1..20 {
        for n in 0..5 {
            rig.ask(spoofed(prefix, n));
        }
    }
    assert_eq!(rig.entries().unwrap().len(), 40, "in all");
    let refused = rig.event(Event::BudgetSpent).unwrap();
    assert_eq!(refused, 40 + 19 * 5 - 29);
    let told = rig.data_path().object.told();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    assert!((1..=cpus).contains(&told.len()), "once a window and CPU: {told:?}");
    assert!(told.iter().all(|line| line.contains("flood_limits")), "{told:?}");
    assert_eq!(rig.ask(earned), host, "who has an entry needs no budget");
    assert_eq!(rig.ask(spoofed(100, 1)), rig.ask(spoofed(100, 1)), "the others have the ring");
    now += second;
    rig.set_clock(now);
    rig.ask(spoofed(100, 1));
    assert_eq!(rig.entries().unwrap().len(), 41, "a second later there is a budget again");
}

#[test]
fn proven_clients_need_no_budget_and_unproven_handshakes_do() {
    let Some(mut rig) = text(Text::servers(&[11])).rig() else { return };
    for n in 0..60 {
        rig.open(at_port(client(V4, 1), n));
        rig.open(client(V4, n));
    }
    assert_eq!(rig.event(Event::BudgetSpent).unwrap(), 0, "under nat the server's answer is seen");
    let Some(mut rig) = text(tunnel()).rig() else { return };
    rig.set_clock(lbpersist::clock::now_ns());
    for n in 0..60 {
        for flags in [flag::SYN, flag::ACK] {
            let packet = Packet::tcp(client(V4, n), V4.service(WEB), flags);
            assert_eq!(rig.send_packet(&packet).reason, Reason::Forwarded);
        }
    }
    assert_eq!(rig.connections().unwrap().len(), 40, "in all");
}

#[test]
fn spoofed_acknowledgements_write_nothing() {
    let Some(mut rig) = text(Text::servers(&[11])).rig() else { return };
    for n in 0..100 {
        let ack = Packet::tcp(spoofed(n, 1), V4.service(WEB), flag::ACK);
        assert_eq!(rig.send_packet(&ack).reason, Reason::Forwarded);
        let syn = Packet::tcp(spoofed(n, 2), V4.service(WEB), flag::SYN);
        assert_eq!(rig.send_packet(&syn).reason, Reason::Forwarded);
    }
    assert!(rig.entries().unwrap().is_empty() && rig.connections().unwrap().is_empty());
    assert_eq!(rig.event(Event::BudgetSpent).unwrap(), 0);
}
