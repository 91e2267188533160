//! Who shares an entry: two services on two ports, one pool whose servers keep the port.

use lbpersist_tests::{
    balancer::Entry,
    config::Config,
    scenario::{SERVER_PORTS, Scenario, members},
    topology::{Family, Wiring},
    wait,
};

/// A monitor that knows which port to ask, since the servers have none of their own.
const POOL: &str = "persistence_profile = \"kept\"\nhealth_monitors = [\"first-port\"]";

const MONITOR: &str = "[[health_monitor]]
name = \"first-port\"
interval = \"200ms\"
timeout = \"200ms\"
rise = 1
fall = 2
port = 8080";

#[test]
fn scope_pool_takes_a_client_to_the_same_server_on_every_service() {
    if !wait::is_root_or_skip() {
        return;
    }
    let (lab, moved_from, moved_to) = client_moved_on_the_first_service("pool");
    let second = lab.client().ask(Family::V4.service(SERVER_PORTS[1])).unwrap().server;
    assert_eq!(second, moved_to, "not its ring's {moved_from}");
    let entries = lab.balancer.entries().unwrap();
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert!(entries[0].0["virtual_service"].is_null(), "{entries:?}");
}

#[test]
fn scope_virtual_service_keeps_the_services_apart() {
    if !wait::is_root_or_skip() {
        return;
    }
    let (lab, moved_from, moved_to) = client_moved_on_the_first_service("virtual-service");
    let second = lab.client().ask(Family::V4.service(SERVER_PORTS[1])).unwrap().server;
    assert_eq!(second, moved_from, "the entry for {moved_to} is the other service's");
    let entries = lab.balancer.entries().unwrap();
    let service = |entry: &Entry| entry.0["virtual_service"].as_str().map(str::to_owned);
    let mut services: Vec<_> = entries.iter().map(service).collect();
    services.sort();
    assert_eq!(services, [Some("first".to_owned()), Some("second".to_owned())]);
}

/// A client that has met the first service only, whose server died, and who was moved: the ring's server, which is back, and the
/// one it is bound to.
fn client_moved_on_the_first_service(scope: &str) -> (Scenario, String, String) {
    let mut lab = Scenario::start(Wiring::Routed, 3, |hosts| {
        Config::new()
            .profile("kept", "5m", &format!("scope = \"{scope}\""))
            .also(MONITOR)
            .tcp("first", Family::V4.service(SERVER_PORTS[0]), "both")
            .tcp("second", Family::V4.service(SERVER_PORTS[1]), "both")
            .pool("both", &members(hosts, Family::V4, None, &[]), POOL)
    })
    .unwrap();
    let first = Family::V4.service(SERVER_PORTS[0]);
    let moved_from = lab.client().ask(first).unwrap().server;
    lab.kill(&moved_from);
    let moved_to = lab.client().ask(first).unwrap().server;
    assert_ne!(moved_from, moved_to);
    lab.revive(&moved_from);
    assert_eq!(lab.client().ask(first).unwrap().server, moved_to);
    (lab, moved_from, moved_to)
}
