//! Services on all ports of an address and on prefixes.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
};

use lbpersist_tests::{
    balancer::Balancer,
    client::Transport::{self, Http, Udp},
    config::{Config, Member},
    scenario::{SERVER_PORTS, Scenario, distinct, members, tally},
    server::Server,
    topology::{Family, Host, Topology, Wiring},
    wait,
};

use crate::direct_return::{TUNNEL, far_ends, hold};

const PORT: u16 = SERVER_PORTS[0];
/// Where a second server of every host listens, whose name says so.
const OTHER_PORT: u16 = 9000;

#[test]
fn all_ports_of_an_address_have_one_server_for_a_client() {
    if !wait::is_root_or_skip() {
        return;
    }
    let (lab, _others) = on_all_ports();
    for (transport, family) in everything() {
        let from = lab.subnets(family, 0, 30);
        let at = |port| lab.meet_at(transport, &from, family.service(port));
        let met = at(PORT);
        assert!(distinct(&met).len() > 1, "{transport:?} {family:?}: {:?}", tally(&met));
        assert_eq!(at(SERVER_PORTS[1]), met, "{transport:?} {family:?}");
        let others: Vec<_> = met.iter().map(|server| format!("{server}-{OTHER_PORT}")).collect();
        assert_eq!(at(OTHER_PORT), others, "{transport:?} {family:?}: the port is kept");
        assert_eq!(at(PORT), met, "{transport:?} {family:?}");
    }
    assert_eq!(lab.balancer.entries().unwrap().len(), 120, "one for all ports");

    let held = lab.client().hold(Family::V4.service(OTHER_PORT)).unwrap();
    let refused = lab.client().ask(Family::V4.service(OTHER_PORT + 1)).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "by the server");
    assert_eq!(held.ask().unwrap(), held.first);
}

#[test]
fn clients_of_a_killed_server_move_on_all_ports() {
    if !wait::is_root_or_skip() {
        return;
    }
    let (mut lab, _others) = on_all_ports();
    let from = lab.subnets(Family::V4, 0, 30);
    let at = |lab: &Scenario, port| lab.meet_at(Http, &from, Family::V4.service(port));
    let before = at(&lab, PORT);
    let victim = before[0].clone();
    lab.kill(&victim);
    let after = at(&lab, PORT);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before != after, *before == victim, "{before} to {after}");
    }
    assert_eq!(at(&lab, SERVER_PORTS[1]), after);
}

#[test]
fn addresses_of_a_prefix_are_keys_of_their_own_under_masquerade() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Scenario::start(Wiring::Routed, 3, |hosts| {
        let [v4, v6] = Family::BOTH.map(Family::masquerade_address);
        for host in hosts {
            host.knows_only(&[v4, v6]).unwrap();
        }
        let forwarding = format!(
            "forwarding = \"masquerade\"\nmasquerade_ipv4 = \"{v4}\"\nmasquerade_ipv6 = \"{v6}\""
        );
        config(prefix, &forwarding, |family| members(hosts, family, Some(PORT), &[]))
    })
    .unwrap();
    addresses_are_keys(&lab);
}

#[test]
fn addresses_of_a_prefix_are_keys_of_their_own_under_tunnel() {
    if !wait::is_root_or_skip() {
        return;
    }
    let topology = Topology::new(Wiring::OneArm, 1, 3).unwrap();
    let all: Vec<_> = Family::BOTH.into_iter().flat_map(destinations).collect();
    let start = |host: &Host| {
        hold(host, &all);
        let mut listen = host.listen(&[PORT], &[PORT]);
        listen.addresses.extend(&all);
        Server::start(&host.name(), &host.namespace, listen).unwrap()
    };
    let servers = topology.servers.iter().map(start).collect();
    let config = config(prefix, TUNNEL, |family| members(&topology.servers, family, None, &[]));
    let balancer = Balancer::start(&topology.balancer, config, &topology.interfaces).unwrap();
    let lab = Scenario { balancer, servers, topology };
    lab.wait_until_all_are_up();
    let _far_ends = far_ends(&lab.topology);
    addresses_are_keys(&lab);
}

/// Each of the two addresses keeps a client on a server that does not depend on the other.
fn addresses_are_keys(lab: &Scenario) {
    for (transport, family) in everything() {
        let from = lab.subnets(family, 0, 30);
        let ask = || {
            destinations(family).map(|address| {
                // The client's socket takes answers from the address it asked only.
                lab.meet_at(transport, &from, SocketAddr::new(address, PORT))
            })
        };
        let [one, other] = ask();
        assert!(distinct(&one).len() > 1, "{transport:?} {family:?}: {:?}", tally(&one));
        let differing = one.iter().zip(&other).filter(|(one, other)| one != other).count();
        // Two in three, by chance.
        assert!((8..30).contains(&differing), "{transport:?} {family:?}: {differing}");
        for _ in 0..3 {
            assert_eq!(ask(), [one.clone(), other.clone()], "{transport:?} {family:?}");
        }
    }
    let entries = lab.balancer.entries().unwrap();
    let listed: BTreeSet<_> =
        entries.iter().map(|entry| entry.0["destination"].as_str().unwrap().to_owned()).collect();
    let asked = Family::BOTH.into_iter().flat_map(destinations).map(|address| address.to_string());
    assert_eq!((entries.len(), listed), (240, asked.collect()));
}

/// Servers on three ports behind services on all ports of the services' addresses.
fn on_all_ports() -> (Scenario, Vec<Server>) {
    let lab = Scenario::start(Wiring::Routed, 3, |hosts| {
        let at = |family: Family| (family.service_address().to_string(), "\"all\"".to_owned());
        config(at, "", |family| members(hosts, family, None, &[]))
    })
    .unwrap();
    let start = |host: &Host| {
        let name = format!("{}-{OTHER_PORT}", host.name());
        let listen = host.listen(&[OTHER_PORT], &[OTHER_PORT]);
        Server::start(&name, &host.namespace, listen).unwrap()
    };
    let others = lab.topology.servers.iter().map(start).collect();
    (lab, others)
}

/// A TCP and a UDP service for each family, at the address and port that `at` tells in the words of the configuration, each with
/// a pool of its own.
fn config(
    at: impl Fn(Family) -> (String, String),
    forwarding: &str,
    members: impl Fn(Family) -> Vec<Member>,
) -> Config {
    let monitor = format!(
        "[[health_monitor]]\nname = \"probe\"\ninterval = \"200ms\"\ntimeout = \"200ms\"\nrise = 1\nfall = 2\nport = {PORT}"
    );
    let lines =
        format!("persistence_profile = \"kept\"\nhealth_monitors = [\"probe\"]\n{forwarding}");
    let mut config = Config::new().profile("kept", "5m", "").also(monitor);
    for family in Family::BOTH {
        let (address, port) = at(family);
        for protocol in ["tcp", "udp"] {
            let name = format!("{protocol}-{family:?}");
            config = config.pool(&name, &members(family), &lines).also(format_args!(
                "[[virtual_service]]\nname = \"{name}\"\naddress = \"{address}\"\nport = {port}\nprotocol = \"{protocol}\"\n\
                 pool = \"{name}\""
            ));
        }
    }
    config
}

fn prefix(family: Family) -> (String, String) {
    let address = match family {
        Family::V4 => "203.0.113.0/24",
        Family::V6 => "2001:db8:113::/48",
    };
    (address.to_owned(), PORT.to_string())
}

/// Two addresses of the prefix.
fn destinations(family: Family) -> [IpAddr; 2] {
    let texts = match family {
        Family::V4 => ["203.0.113.7", "203.0.113.200"],
        Family::V6 => ["2001:db8:113::7", "2001:db8:113:5::1"],
    };
    texts.map(|text| text.parse().unwrap())
}

fn everything() -> [(Transport, Family); 4] {
    [(Http, Family::V4), (Http, Family::V6), (Udp, Family::V4), (Udp, Family::V6)]
}
