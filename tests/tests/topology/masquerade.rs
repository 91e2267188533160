//! Servers that know no way to the clients and answer the balancer: forwarding `masquerade`.

use std::{collections::BTreeSet, net::SocketAddr};

use lbpersist_tests::{
    balancer::Balancer,
    client::{
        Transport::{self, Http, Udp},
        ask_many,
    },
    config::Config,
    scenario::{SERVER_PORTS, Scenario, at, distinct, members, tally, web},
    topology::{Family, Topology, Wiring},
    wait,
};
use serde_json::Value::Null;

const DNS: u16 = 53;

#[test]
fn servers_without_a_way_to_the_clients_keep_them() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = start();
    for (transport, family, port) in everything() {
        let to = family.service(port);
        let from = lab.subnets(family, 0, 30);
        let met = lab.meet_at(transport, &from, to);
        assert_eq!(distinct(&met).len(), 3, "{to}: {:?}", tally(&met));
        for _ in 0..3 {
            assert_eq!(lab.meet_at(transport, &from, to), met, "{to}");
        }

        let mut ports = BTreeSet::new();
        let answers = lab.client().ask_from_each(transport, &from, to);
        for (answer, server) in answers.into_iter().zip(&met) {
            let peer = answer.unwrap().peer;
            assert_eq!(peer.ip(), family.masquerade_address(), "{to}: the server saw");
            assert!((1024..=32767).contains(&peer.port()), "{to}: {peer}");
            assert!(ports.insert((server, peer.port())), "{to}: {server} saw {peer} twice");
        }
    }
    // Each service has an entry of its own.
    assert_eq!(lab.balancer.entries().unwrap().len(), 120);
}

#[test]
fn open_connections_of_one_client_have_ports_of_their_own() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = start();
    for family in Family::BOTH {
        let held: Vec<_> = (0..50).map(|_| lab.client().hold(at(family)).unwrap()).collect();
        let servers: BTreeSet<_> = held.iter().map(|held| &held.first.server).collect();
        let peers: BTreeSet<_> = held.iter().map(|held| held.first.peer).collect();
        assert_eq!((servers.len(), peers.len()), (1, 50), "{family:?}");
        wait::until_true("all are counted as open", || {
            lab.balancer.entries().unwrap().iter().any(|entry| entry.open() == 50)
        });
        for held in held {
            assert_eq!(held.ask().unwrap(), held.first, "{family:?}");
            held.close().unwrap();
        }
        wait::until_true("all are counted as closed", || {
            lab.balancer.entries().unwrap().iter().all(|entry| entry.open() == 0)
        });
    }
}

#[test]
fn a_killed_server_moves_its_clients_and_no_others() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = start();
    let everything = everything();
    let ask = |lab: &Scenario, (transport, family, port): (Transport, Family, u16)| {
        lab.meet_at(transport, &lab.subnets(family, 0, 20), family.service(port))
    };
    let before = everything.map(|one| ask(&lab, one));
    let victim = before[0][0].clone();
    lab.kill(&victim);
    for (one, before) in everything.into_iter().zip(before) {
        let after = ask(&lab, one);
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before != after, *before == victim, "{one:?}: {before} to {after}");
        }
    }
}

#[test]
fn this_machine_s_own_connections_to_the_servers_go_on_beside_the_clients() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = start();
    for family in Family::BOTH {
        let held: Vec<_> = (0..20).map(|_| lab.client().hold(at(family)).unwrap()).collect();
        // From the address, and to the address and port, that clients' packets have.
        let own = family.masquerade_address();
        for host in &lab.topology.servers {
            let to = SocketAddr::new(host.address(family), SERVER_PORTS[0]);
            for transport in [Http, Udp] {
                let answers = ask_many(&lab.topology.balancer, transport, [(own, to); 10]);
                for answer in answers {
                    let answer = answer.unwrap();
                    assert_eq!((answer.server, answer.peer.ip()), (host.name(), own));
                    assert!(answer.peer.port() > 32767, "{}", answer.peer);
                }
            }
        }
        held.iter().for_each(|held| assert_eq!(held.ask().unwrap(), held.first));
    }
    for monitor in lab.balancer.monitors(&[]).unwrap() {
        assert_eq!((&monitor["state"], &monitor["last_error"]), (&"up".into(), &Null), "{monitor}");
    }
}

#[test]
fn ports_that_connections_of_this_machine_have_are_warned_of() {
    if !wait::is_root_or_skip() {
        return;
    }
    let topology = Topology::new(Wiring::Routed, 1, 1).unwrap();
    let log_with = |reserved: &str| {
        topology.balancer.sysctl("ipv4/ip_local_port_range", "30000 60999").unwrap();
        topology.balancer.sysctl("ipv4/ip_local_reserved_ports", reserved).unwrap();
        let config = config(&topology);
        let balancer = Balancer::start(&topology.balancer, config, &topology.interfaces).unwrap();
        balancer.log()
    };
    let log = log_with("");
    assert!(log.contains("masquerade_ports 1024-32767"), "{log}");
    assert!(log.contains("30000-60999"), "{log}");
    let log = log_with("29000-31000,31001-32767");
    assert!(!log.contains("masquerade_ports"), "{log}");
}

fn start() -> Scenario {
    let topology = Topology::new(Wiring::Routed, 1, 3).unwrap();
    let servers = topology.start_servers(&SERVER_PORTS, &SERVER_PORTS).unwrap();
    for host in &topology.servers {
        host.knows_only(&Family::BOTH.map(Family::masquerade_address)).unwrap();
    }
    let balancer =
        Balancer::start(&topology.balancer, config(&topology), &topology.interfaces).unwrap();
    let lab = Scenario { balancer, servers, topology };
    lab.wait_until_all_are_up();
    lab
}

/// A web and a DNS service for each family, on one pool for each family.
fn config(topology: &Topology) -> Config {
    let [v4, v6] = Family::BOTH.map(Family::masquerade_address);
    let lines = format!(
        "forwarding = \"masquerade\"\nmasquerade_ipv4 = \"{v4}\"\nmasquerade_ipv6 = \"{v6}\"\n\
         persistence_profile = \"kept\"\nhealth_monitors = [\"fast\"]"
    );
    Family::BOTH.into_iter().fold(Config::new().profile("kept", "5m", ""), |config, family| {
        let members = members(&topology.servers, family, Some(SERVER_PORTS[0]), &[]);
        let (pool, dns) = (web(family), format!("dns-{family:?}"));
        config
            .tcp(pool, at(family), pool)
            .udp(&dns, family.service(DNS), pool)
            .pool(pool, &members, &lines)
    })
}

fn everything() -> [(Transport, Family, u16); 4] {
    let [four, six] = Family::BOTH;
    let web = at(four).port();
    [(Http, four, web), (Http, six, web), (Udp, four, DNS), (Udp, six, DNS)]
}
