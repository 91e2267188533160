//! The daemon as a service manager runs it: what it tells, what it may, and what it logs.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    time::{Duration, Instant},
};

use lbpersist_tests::{
    balancer::Balancer,
    scenario::{Scenario, Web, at},
    topology::{Family, Topology, Wiring},
    wait,
};

/// Stands for the service manager.
struct Manager(UnixDatagram);

impl Manager {
    /// The next thing that is told, but for signs of life if `word` is not one.
    fn hears(&self, word: &str) -> String {
        let deadline = Instant::now() + wait::SOON;
        let mut told = [0; 512];
        loop {
            assert!(Instant::now() < deadline, "{word} is not told");
            let length = self.0.recv(&mut told).unwrap_or_else(|error| panic!("{word}: {error}"));
            let text = String::from_utf8_lossy(&told[..length]).into_owned();
            if text.trim_end() != "WATCHDOG=1" || word == "WATCHDOG=1" {
                assert!(text.lines().any(|line| line == word), "{text} instead of {word}");
                return text;
            }
        }
    }
}

/// A balancer that has not been started, and who it tells.
fn watched() -> Option<(Manager, Balancer, Topology, tempfile::TempDir)> {
    if !wait::is_root_or_skip() {
        return None;
    }
    let topology = Topology::new(Wiring::Routed, 1, 1).unwrap();
    let config = Web::default().config(&topology.servers);
    let mut balancer = Balancer::prepare(&topology.balancer, config, &topology.interfaces).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(wait::SOON)).unwrap();
    balancer.use_variable("NOTIFY_SOCKET", path.to_str().unwrap());
    Some((Manager(socket), balancer, topology, directory))
}

#[test]
fn the_service_manager_is_told_of_start_reload_life_and_end() {
    let Some((manager, mut balancer, _topology, _directory)) = watched() else {
        return;
    };
    balancer.use_variable("WATCHDOG_USEC", "200000");
    balancer.restart().unwrap();
    manager.hears("READY=1");
    let start = Instant::now();
    for _ in 0..5 {
        manager.hears("WATCHDOG=1");
    }
    // Every 100 ms, of which the first may be at once; a busy machine may be late.
    assert!(start.elapsed() > Duration::from_millis(300), "{:?}", start.elapsed());
    balancer.hang_up().unwrap();
    assert!(manager.hears("RELOADING=1").contains("MONOTONIC_USEC="));
    manager.hears("READY=1");
    balancer.configure("colour = \"red\"").unwrap();
    balancer.hang_up().unwrap();
    manager.hears("RELOADING=1");
    manager.hears("READY=1");
    balancer.stop().unwrap();
    manager.hears("STOPPING=1");
}

#[test]
fn without_a_watchdog_nothing_but_the_states_is_told() {
    let Some((manager, mut balancer, _topology, _directory)) = watched() else {
        return;
    };
    balancer.restart().unwrap();
    manager.hears("READY=1");
    balancer.stop().unwrap();
    let mut told = [0; 64];
    let length = manager.0.recv(&mut told).unwrap();
    assert_eq!(String::from_utf8_lossy(&told[..length]).trim_end(), "STOPPING=1");
}

#[test]
fn the_log_can_be_json_and_a_wrong_level_is_refused() {
    let Some((_manager, mut balancer, _topology, _directory)) = watched() else {
        return;
    };
    balancer.use_variable("LBPERSIST_LOG_FORMAT", "json");
    balancer.use_variable("LBPERSIST_LOG", "debug");
    balancer.restart().unwrap();
    let log = balancer.log();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect();
    assert!(
        lines.iter().any(|line| line["message"] == "ready" && line["level"] == "INFO"),
        "{log}"
    );
    assert!(lines.iter().any(|line| line["level"] == "DEBUG"), "{log}");
    assert!(lines.iter().all(|line| line["timestamp"].is_string()), "{log}");

    let file = balancer.configuration_file();
    let run = ["run", "--log-level", "lbpersist=loud", "--config", file.to_str().unwrap()];
    let refused = balancer.cli(&run).unwrap();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("--log-level"), "{}", refused.stderr);
}

#[test]
fn the_capabilities_of_the_unit_are_enough_and_sys_admin_is_needed() {
    if !wait::is_root_or_skip() {
        return;
    }
    let capabilities = capabilities_of_the_unit();
    let icmp = "[[health_monitor]]\nname = \"ping\"\ntype = \"icmp\"\ninterval = \"200ms\"\ntimeout = \"1s\"\nrise = 1\nfall = 3";
    let web = Web { pool: "health_monitors = [\"fast\", \"ping\"]", ..Web::default() };
    let mut lab = Scenario::start(Wiring::Routed, 2, |hosts| web.config(hosts).also(icmp)).unwrap();
    let from = lab.subnets(Family::V4, 0, 20);
    let met = lab.meet(&from);
    let held = lab.client().hold_from(from[0], at(Family::V4)).unwrap();

    let set = bounding(&capabilities);
    lab.balancer.use_wrapper(&wrapper(&set));
    lab.balancer.restart().unwrap();
    lab.kill("s1");
    lab.revive("s1");
    lab.balancer.hang_up().unwrap();
    let new = lab.meet(&lab.subnets(Family::V4, 100, 20));
    assert_eq!(new.len(), 20);
    let stayed = lab.meet(&from);
    for (before, after) in met.iter().zip(&stayed) {
        assert!(before == "s1" || before == after, "moved without need");
    }
    if held.first.server != "s1" {
        assert_eq!(held.ask().unwrap(), held.first);
    }

    let fewer: Vec<_> = capabilities.into_iter().filter(|one| one != "sys_admin").collect();
    lab.balancer.stop().unwrap();
    lab.balancer.use_wrapper(&wrapper(&bounding(&fewer)));
    assert!(lab.balancer.restart().is_err(), "it starts without SYS_ADMIN");
}

#[test]
fn without_net_raw_pings_fail_and_without_net_bind_service_low_ports() {
    if !wait::is_root_or_skip() {
        return;
    }
    let more = "[[health_monitor]]\nname = \"ping\"\ntype = \"icmp\"\ninterval = \"200ms\"\ntimeout = \"150ms\"\n\
                [[virtual_service]]\nname = \"low\"\nmode = \"tcp\"\naddress = \"10.2.0.1\"\nport = 81\npool = \"carried\"\n\
                [[pool]]\nname = \"carried\"\nservers = [{ address = \"10.2.0.10\", port = 8080 }]\n";
    let web = Web { pool: "health_monitors = [\"ping\"]", ..Web::default() };
    let mut lab = Scenario::start(Wiring::Routed, 2, |hosts| web.config(hosts).also(more)).unwrap();
    let without = |missing: &str| {
        let capabilities = capabilities_of_the_unit();
        assert!(capabilities.iter().any(|one| one == missing), "{missing} is not asked for");
        bounding(&capabilities.into_iter().filter(|one| one != missing).collect::<Vec<_>>())
    };
    lab.balancer.use_wrapper(&wrapper(&without("net_raw")));
    lab.balancer.restart().unwrap();
    wait::until_true("a check says what it lacks", || {
        let list = lab.balancer.cli(&["monitor", "list"]).unwrap().success().unwrap();
        list.contains("it takes CAP_NET_RAW")
    });
    lab.balancer.stop().unwrap();
    lab.balancer.use_wrapper(&wrapper(&without("net_bind_service")));
    let refused = lab.balancer.restart().unwrap_err().to_string();
    assert!(refused.contains("cannot listen on 10.2.0.1:81"), "{refused}");
}

/// Those of `packaging/lbpersist.service`, as setpriv names them.
fn capabilities_of_the_unit() -> Vec<String> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/lbpersist.service");
    let unit = fs::read_to_string(unit).unwrap();
    let set = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    set.split(' ').map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase()).collect()
}

fn bounding(capabilities: &[String]) -> String {
    capabilities.iter().fold("-all".to_owned(), |set, name| format!("{set},+{name}"))
}

fn wrapper(set: &str) -> [&str; 4] {
    ["setpriv", "--no-new-privs", "--bounding-set", set]
}
