//! The harness against itself: without lbpersist, through the kernel's own forwarding.

use std::{collections::BTreeSet, io, net::SocketAddr};

use lbpersist_tests::{
    client::{self, Transport},
    topology::{Family, Topology, Wiring},
    wait,
};

const PORT: u16 = 8080;

#[test]
fn clients_reach_servers_in_every_wiring_and_family() {
    if !wait::is_root_or_skip() {
        return;
    }
    for wiring in [Wiring::Routed, Wiring::OneArm, Wiring::OneArmGeneric] {
        let topology = Topology::new(wiring, 2, 2).unwrap();
        let _servers = topology.start_servers(&[PORT], &[PORT]).unwrap();
        for family in Family::BOTH {
            for host in &topology.servers {
                let to = SocketAddr::new(host.address(family), PORT);
                for client in &topology.clients {
                    let answer = client.ask(to).unwrap();
                    assert_eq!(answer.server, host.name(), "{wiring:?} {family:?}");
                    let answer = client::ask_udp(&client.namespace, client.address(family), to);
                    assert_eq!(answer.unwrap().server, host.name(), "{wiring:?} {family:?}");
                }
            }
        }
    }
}

#[test]
fn one_client_speaks_from_thousands_of_addresses() {
    if !wait::is_root_or_skip() {
        return;
    }
    let topology = Topology::new(Wiring::Routed, 1, 1).unwrap();
    let _servers = topology.start_servers(&[PORT], &[]).unwrap();
    for family in Family::BOTH {
        let to = SocketAddr::new(topology.servers[0].address(family), PORT);
        let from: Vec<_> =
            (0..2000).map(|subnet| topology.clients[0].address_in(family, subnet, 7)).collect();
        let answers = topology.clients[0].ask_from_each(Transport::Http, &from, to);
        let seen: BTreeSet<_> =
            answers.into_iter().map(|answer| answer.unwrap().peer.ip()).collect();
        assert_eq!(seen, from.into_iter().collect(), "{family:?}");
    }
}

#[test]
fn a_killed_server_resets_refuses_and_comes_back() {
    if !wait::is_root_or_skip() {
        return;
    }
    let topology = Topology::new(Wiring::Routed, 1, 1).unwrap();
    let mut servers = topology.start_servers(&[PORT], &[]).unwrap();
    let to = SocketAddr::new(topology.servers[0].address(Family::V4), PORT);
    let client = &topology.clients[0];
    let held = client.hold(to).unwrap();
    assert_eq!(held.ask().unwrap(), held.first);

    servers[0].kill();
    assert_eq!(held.ask().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(client.ask(to).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);

    servers[0].start_again().unwrap();
    assert_eq!(client.ask(to).unwrap().server, "s1");
    client.hold(to).unwrap().close().unwrap();
}

#[test]
fn nobody_listens_at_the_service_address_itself() {
    if !wait::is_root_or_skip() {
        return;
    }
    let topology = Topology::new(Wiring::OneArm, 1, 1).unwrap();
    for family in Family::BOTH {
        let error = topology.clients[0].ask(family.service(80)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{family:?}");
    }
}
