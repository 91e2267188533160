//! Who shares an entry: masks and scopes.

use std::net::SocketAddr;

use lbpersist::{clock::now_ns, datapath::address::to_map};
use lbpersist_common::{net::Address, reason::Reason, tcp::flag};
use lbpersist_tests::{packet::Packet, rig::Rig};

use crate::{
    persistence::open,
    setup::{Text, V4, V6, Visits as _, WEB, server_address},
};

fn client(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 40_000)
}

#[test]
fn clients_of_a_prefix_share_an_entry() {
    // Profile, clients that share, the key, and one that does not.
    let rows: [(&str, [&str; 3], Address, Option<&str>); 6] = [
        (
            "ipv4_mask = 24",
            ["172.16.1.0", "172.16.1.99", "172.16.1.255"],
            Address::from_ipv4([172, 16, 1, 0]),
            Some("172.16.2.0"),
        ),
        (
            "ipv4_mask = 12",
            ["172.16.1.1", "172.31.255.255", "172.24.0.1"],
            Address::from_ipv4([172, 16, 0, 0]),
            Some("172.32.0.1"),
        ),
        ("ipv4_mask = 0", ["172.16.1.1", "8.8.8.8", "223.1.2.3"], Address::from_ipv4([0; 4]), None),
        (
            "ipv6_mask = 64",
            ["2001:db8:c:1::1", "2001:db8:c:1:ffff::9", "2001:db8:c:1::"],
            Address::from_ipv6([0x20, 1, 0xd, 0xb8, 0, 0xc, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
            Some("2001:db8:c:2::1"),
        ),
        (
            "ipv6_mask = 61",
            ["2001:db8:c:8::1", "2001:db8:c:f::9", "2001:db8:c:9::"],
            Address::from_ipv6([0x20, 1, 0xd, 0xb8, 0, 0xc, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]),
            Some("2001:db8:c:10::1"),
        ),
        (
            "ipv6_mask = 0",
            ["2001:db8:c:1::1", "fd00:9::1", "::1:2:3"],
            Address::from_ipv6([0; 16]),
            None,
        ),
    ];
    for (profile, together, key, apart) in rows {
        let Some(mut rig) = Text::servers(&[11, 12, 13, 14]).profile(profile).rig() else { return };
        let hosts = together.map(|address| rig.open(client(address)));
        assert_eq!(hosts, [hosts[0]; 3], "{profile}");
        assert_eq!(open(&mut rig), 3, "{profile}");
        assert_eq!(rig.entries().unwrap()[0].0.client, key, "{profile}");
        if let Some(apart) = apart {
            rig.open(client(apart));
            assert_eq!(rig.entries().unwrap().len(), 2, "{profile}");
        }
    }
}

#[test]
fn a_mask_of_zero_keeps_the_families_apart() {
    let profile = "ipv4_mask = 0\nipv6_mask = 0";
    let Some(mut rig) = Text::servers(&[11, 12]).profile(profile).rig() else { return };
    rig.open(client("172.16.1.1"));
    rig.open(client("2001:db8:c:1::1"));
    assert_eq!(rig.entries().unwrap().len(), 2);
}

#[test]
fn scope_says_whether_two_services_share_an_entry() {
    for (scope, entries) in [("virtual-service", 2), ("pool", 1)] {
        let profile: &'static str = if scope == "pool" { "scope = \"pool\"" } else { "" };
        // The servers keep the port, so that answers tell which service they are of.
        let text = Text { port: None, ..Text::servers(&[11, 12, 13]) }.profile(profile).also(
            "other",
            V4.service(81),
            "v4",
        );
        let Some(mut rig) = text.rig() else { return };
        let from = client("172.16.1.1");
        let answer = |rig: &mut Rig, host, port| {
            let from_server = SocketAddr::new(server_address(V4, host), port);
            let syn = Packet::tcp(from_server, from, flag::SYN | flag::ACK);
            assert_eq!(rig.send_packet(&syn).reason, Reason::Returned);
        };
        let first = rig.syn(from);
        answer(&mut rig, first, WEB);
        rig.data(from);
        let segment = |port, flags| Packet::tcp(from, V4.service(port), flags);
        // The ring changes, so that only an entry can bring the client to the same server again.
        rig.configure(&Text { servers: others(first), ..text.clone() }.text()).unwrap();
        let second = rig.server_of(&segment(81, flag::SYN));
        answer(&mut rig, second, 81);
        rig.server_of(&segment(81, flag::ACK));
        assert_eq!(second == first, scope == "pool", "scope {scope}");
        assert_eq!(rig.entries().unwrap().len(), entries, "scope {scope}");
        let open: u32 = rig.entries().unwrap().iter().map(|(_, entry)| entry.open).sum();
        assert_eq!(open, 2, "scope {scope}");
    }
}

#[test]
fn one_client_has_an_entry_for_tcp_and_udp_each() {
    let Some(mut rig) = Text::servers(&[11, 12]).rig() else { return };
    let from = client("2001:db8:c:1::1");
    assert_eq!(rig.open(from), rig.ask(from), "by the same ring");
    assert_eq!(rig.entries().unwrap().len(), 2);
    assert!(V6.service_address().is_ipv6());
}

#[test]
fn entries_that_no_client_has_after_a_change_of_the_mask_do_not_linger() {
    let text = Text::servers(&[11, 12, 13, 14]);
    let Some(mut rig) = text.rig() else { return };
    let idle = ["172.16.1.7", "172.16.1.0", "2001:db8:c:1::7"].map(client);
    for from in idle {
        let host = rig.open(from);
        rig.close(host, from);
    }
    let waiting = client("172.16.9.7");
    let host = rig.open(waiting);
    assert_eq!(rig.entries().unwrap().len(), 4);
    rig.configure(&text.profile("ipv4_mask = 24").text()).unwrap();
    // The first pass finds that the open connection is another entry's now, the second puts the count right.
    for _ in 0..3 {
        rig.sweep_pass(now_ns()).unwrap();
        assert_eq!(rig.data(waiting), host, "an open connection stays");
    }
    let left: Vec<_> = rig.entries().unwrap().iter().map(|(key, _)| key.client).collect();
    let [_, network, v6] = idle.map(|client| to_map(client.ip()));
    assert_eq!(left, [network, v6], "what is a key under the new mask as well");
}

fn others(host: u8) -> Vec<(u8, u16)> {
    [11, 12, 13].map(|other| (other, u16::from(other != host))).to_vec()
}
