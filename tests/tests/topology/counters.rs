//! Counters that add up: to each other, to what clients sent, and to what the interfaces saw.

use std::process::Command;

use lbpersist_tests::{
    balancer::{Status, number},
    client::Transport,
    command,
    config::Config,
    scenario::{SERVER_PORTS, Scenario, Web, at, members, web},
    topology::{Family, Wiring},
    wait,
};

#[test]
fn every_datagram_is_counted_once_at_service_server_and_verdict() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Scenario::start(Wiring::Routed, 3, |hosts| {
        let members = members(hosts, Family::V4, Some(SERVER_PORTS[0]), &[]);
        Config::new().profile("kept", "5m", "").udp("dns", Family::V4.service(53), "dns").pool(
            "dns",
            &members,
            "persistence_profile = \"kept\"",
        )
    })
    .unwrap();
    let from = lab.subnets(Family::V4, 0, 50);
    for _ in 0..2 {
        lab.meet_at(Transport::Udp, &from, Family::V4.service(53));
    }
    let status = lab.status();
    let service = status.named("virtual_services", "dns");
    assert_eq!(number(&service["packets"]), 100, "{service}");
    // "who are you?" behind the headers of Ethernet, IPv4 and UDP.
    assert_eq!(number(&service["bytes"]), 100 * (14 + 20 + 8 + 12), "{service}");
    assert_eq!(number(&service["answer_packets"]), 100, "{service}");
    let unknown = number(&service["connections"]) - number(&service["kept"]);
    assert_eq!(unknown, 50, "clients without an entry: {service}");
    assert_eq!(sum_of_servers(&status, "dns", "packets"), 100);
    assert_eq!((status.verdict("forwarded"), status.verdict("returned")), (100, 100));
}

#[test]
fn connections_and_kept_clients_are_counted() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Scenario::web(&Web::default()).unwrap();
    for family in Family::BOTH {
        let from = lab.subnets(family, 0, 30);
        for _ in 0..3 {
            lab.meet(&from);
        }
        let status = lab.status();
        let service = status.named("virtual_services", web(family));
        assert_eq!(number(&service["connections"]), 90, "{service}");
        assert_eq!(number(&service["kept"]), 60, "{service}");
        assert_eq!(sum_of_servers(&status, web(family), "connections"), 90);
        let packets = number(&service["packets"]);
        assert_eq!(sum_of_servers(&status, web(family), "packets"), packets);
    }
    let status = lab.status();
    let all = |field: &str| -> u64 {
        Family::BOTH
            .map(|family| number(&status.named("virtual_services", web(family))[field]))
            .iter()
            .sum()
    };
    assert_eq!(all("packets"), status.verdict("forwarded"));
    assert_eq!(all("answer_packets"), status.verdict("returned"));
    assert_eq!(number(&status.0["events"]["entries_created"]), 60);
    assert_eq!(number(&status.0["events"]["connections_opened"]), 180);
}

#[test]
fn verdicts_add_up_to_the_packets_that_the_interfaces_received() {
    if !wait::is_root_or_skip() {
        return;
    }
    // Checks of servers are packets too, so that nothing else moves there are none.
    let lab = Scenario::web(&Web { pool: "", ..Web::default() }).unwrap();
    let (verdicts_before, received_before) = counted(&lab);
    for family in Family::BOTH {
        lab.meet(&lab.subnets(family, 0, 100));
        lab.client().ask(family.service(81)).expect_err("no service is on this port");
        lab.client().ask(at(family)).unwrap();
    }
    wait::until_true("verdicts and received packets are equally many", || {
        let (verdicts, received) = counted(&lab);
        assert!(verdicts > verdicts_before + 1000, "a connection has at least ten packets");
        verdicts - verdicts_before == received - received_before
    });
}

/// All verdicts, and all packets that the attached interfaces received, at a moment when nothing moved.
fn counted(lab: &Scenario) -> (u64, u64) {
    wait::until("a quiet moment", || {
        let before = lab.status().all_verdicts();
        let received = lab.topology.interfaces.iter().map(|name| received(lab, name)).sum();
        (lab.status().all_verdicts() == before).then_some((before, received))
    })
}

fn received(lab: &Scenario, interface: &str) -> u64 {
    let mut ip = Command::new("ip");
    ip.args(["-n", lab.topology.balancer.name(), "-s", "-j", "link", "show", "dev", interface]);
    let output = command::run(&mut ip).unwrap().success().unwrap();
    let links: serde_json::Value = serde_json::from_str(&output).unwrap();
    number(&links[0]["stats64"]["rx"]["packets"])
}

fn sum_of_servers(status: &Status, pool: &str, field: &str) -> u64 {
    let servers = status.named("pools", pool)["servers"].as_array().cloned().unwrap_or_default();
    servers.iter().map(|server| number(&server[field])).sum()
}
