//! Monitors of every kind against servers that fall ill and recover, and what their clients notice.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use lbpersist_tests::{
    balancer::Balancer,
    config::Config,
    patient::Patient,
    scenario::{SERVER_PORTS, Scenario, Web, at, distinct, members, tally, web},
    topology::{Family, Topology, Wiring},
    wait,
};

/// Where patients listen, beside the servers' own ports.
const PORT: u16 = 8090;

/// What all monitors here have: they are quick.
const QUICK: &str = "interval = \"200ms\"\ntimeout = \"200ms\"\nrise = 1\nfall = 2\n";

#[test]
fn a_wrong_http_answer_takes_a_server_down_and_a_right_one_brings_it_back() {
    if !wait::is_root_or_skip() {
        return;
    }
    let monitor = format!(
        "type = \"http\"\nport = {PORT}\npath = \"/health\"\nstatus = \"200-299\"\nbody_regex = '^ready\\s*$'\n"
    );
    let (lab, patients) = start(&monitor, "health_monitors = [\"sick\"]");
    let from = lab.subnets(Family::V4, 0, 40);
    let before = lab.meet(&from);
    let victim = &patients[0];

    for (status, body) in [("503 Service Unavailable", "ready\n"), ("200 OK", "warming up\n")] {
        victim.says_http(status, body);
        lab.wait_for("s1", &[Family::V4], "down");
        let during = lab.meet(&from);
        for (before, during) in before.iter().zip(&during) {
            assert!(if before == "s1" { during != "s1" } else { during == before });
        }
        victim.says_http("204 No Content", "");
        wait::throughout(Duration::from_millis(500), "s1 stays down", || {
            lab.status().server("web4", &address(&lab, "s1"))["state"] == "down"
        });
        victim.says_http("200 OK", "ready\n");
        lab.wait_for("s1", &[Family::V4], "up");
        lab.balancer.flush(&[]).unwrap();
        assert_eq!(lab.meet(&from), before);
    }
    let log = lab.balancer.log();
    for words in ["status 503, not 200-299", "the body of 11 bytes has no match of"] {
        assert!(log.contains(words), "no {words} in {log}");
    }
}

#[test]
fn what_monitors_know_is_listed_while_the_daemon_runs() {
    if !wait::is_root_or_skip() {
        return;
    }
    let monitor = format!("type = \"http\"\nport = {PORT}\n");
    let (mut lab, patients) = start(&monitor, "health_monitors = [\"fast\", \"sick\"]");
    patients[1].says_http("500 Oops", "");
    lab.wait_for("s2", &[Family::V4], "down");

    let (all, down) = (
        lab.balancer.monitors(&[]).unwrap(),
        lab.balancer.monitors(&["--pool", "web4", "--search", "down"]).unwrap(),
    );
    assert_eq!((all.len(), down.len()), (6, 1), "{all:?}");
    let (line, server) = (&down[0], address(&lab, "s2"));
    for (field, expected) in [
        ("pool", "web4"),
        ("server", server.as_str()),
        ("monitor", "sick"),
        ("kind", "http"),
        ("state", "down"),
        ("last_outcome", "failed"),
        ("last_error", &format!("{server}:{PORT}: status 500, not 200-299")),
    ] {
        assert_eq!(line[field], *expected, "{line}");
    }
    assert_eq!((&line["port"], &line["to_port"]), (&SERVER_PORTS[0].into(), &PORT.into()));
    assert!(line["last_check_seconds"].as_f64().unwrap() < 10.0, "{line}");
    let others = all.iter().filter(|line| line["state"] == "up" && line["last_error"].is_null());
    assert_eq!(others.count(), 5, "{all:?}");

    let text = lab.balancer.cli(&["monitor", "list"]).unwrap().success().unwrap();
    assert!(text.contains("ago: ") && text.contains("status 500, not 200-299"), "{text}");
    let status = lab.balancer.cli(&["status"]).unwrap().success().unwrap();
    assert!(status.contains("status 500, not 200-299"), "{status}");
    assert_eq!(lab.status().0["monitors"].as_array().unwrap().len(), 6);
    let unknown = lab.balancer.cli(&["monitor", "list", "--pool", "none"]).unwrap();
    assert_eq!(
        (unknown.code, unknown.stderr.as_str()),
        (Some(2), "lbpersist: there is no pool `none`\n")
    );

    // Without a daemon the rest of the status is still there.
    lab.balancer.stop().unwrap();
    assert_eq!(lab.balancer.cli(&["monitor", "list"]).unwrap().code, Some(1));
    assert!(lab.status().0["monitors"].is_null());
    assert_eq!(lab.status().server("web4", &server)["state"], "down");
    let status = lab.balancer.cli(&["status"]).unwrap().success().unwrap();
    assert!(status.contains("what monitors say is not known"), "{status}");

    // What was down stays so until its monitors have seen it well, however short the start.
    lab.balancer.restart().unwrap();
    assert_eq!(lab.status().server("web4", &server)["state"], "down");
    patients[1].says_http("200 OK", "");
    lab.wait_for("s2", &[Family::V4], "up");
}

#[test]
fn a_wrong_datagram_and_silence_take_a_server_down() {
    if !wait::is_root_or_skip() {
        return;
    }
    let monitor =
        format!("type = \"udp\"\nport = {PORT}\nrequest = \"ping\"\nanswer_hex = \"706f6e67\"\n");
    let (lab, patients) = start(&monitor, "health_monitors = [\"sick\"]");
    for wrong in [Some(&b"pang"[..]), None] {
        patients[1].says_udp(wrong);
        lab.wait_for("s2", &[Family::V4], "down");
        let met = lab.meet(&lab.subnets(Family::V4, 0, 40));
        assert!(!distinct(&met).contains("s2"), "{met:?}");
        patients[1].says_udp(Some(b"a pong"));
        lab.wait_for("s2", &[Family::V4], "up");
    }
    let log = lab.balancer.log();
    for words in [r#"the answer \"pang\" has no \"pong\""#, "within 200ms"] {
        let plain = words.replace('\\', "");
        assert!(log.contains(words) || log.contains(&plain), "no {words} in {log}");
    }
}

/// A UDP service whose servers are asked on the very port that clients are sent to.
#[test]
fn a_datagram_to_the_port_that_clients_use_is_answered_to_the_balancer() {
    if !wait::is_root_or_skip() {
        return;
    }
    let monitor = format!("type = \"udp\"\nrequest = \"ping\"\nanswer = \"s\"\n{QUICK}");
    let mut lab = Scenario::start(Wiring::Routed, 2, |hosts| {
        let members = members(hosts, Family::V4, Some(SERVER_PORTS[0]), &[]);
        Config::new()
            .udp("echo", Family::V4.service(53), "echo")
            .pool("echo", &members, "health_monitors = [\"ask\"]")
            .also(format_args!("[[health_monitor]]\nname = \"ask\"\n{monitor}"))
    })
    .unwrap();
    let victim = lab.servers.iter_mut().find(|server| server.name() == "s1").unwrap();
    victim.kill();
    lab.wait_for("s1", &[Family::V4], "down");
    lab.servers[0].start_again().unwrap();
    lab.wait_for("s1", &[Family::V4], "up");
}

#[test]
fn echoes_of_both_families_are_told_apart() {
    if !wait::is_root_or_skip() {
        return;
    }
    let sick = "health_monitors = [\"sick\"]";
    let (lab, _patients) = start_with(&format!("type = \"icmp\"\n{QUICK}"), [sick, sick]);
    let host = &lab.host("s3").namespace;
    for (family, other, key) in [
        (Family::V4, Family::V6, "ipv4/icmp_echo_ignore_all"),
        (Family::V6, Family::V4, "ipv6/icmp/echo_ignore_all"),
    ] {
        host.sysctl(key, "1").unwrap();
        lab.wait_for("s3", &[family], "down");
        lab.wait_for("s3", &[other], "up");
        let met = lab.meet(&lab.subnets(family, 0, 40));
        assert!(!distinct(&met).contains("s3"), "{met:?}");
        host.sysctl(key, "0").unwrap();
        lab.wait_for("s3", &Family::BOTH, "up");
    }
}

#[test]
fn a_command_is_told_whom_to_check() {
    if !wait::is_root_or_skip() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (program, list) = (directory.path().join("check"), directory.path().join("sick"));
    fs::write(&list, "").unwrap();
    let script = "#!/bin/sh\nif grep -qx \"$LBPERSIST_SERVER_ADDRESS $LBPERSIST_SERVER_PORT\" \"$1\"; then\n\
        echo \"on the list of $LBPERSIST_POOL\"; exit 1; fi\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    // Shells start slowly on a machine that has much to do.
    let pace = "interval = \"300ms\"\ntimeout = \"5s\"\nrise = 1\nfall = 1\n";
    let monitor = format!("type = \"external\"\ncommand = [{program:?}, {list:?}]\n{pace}");
    let sick = "health_monitors = [\"sick\"]";
    let (lab, _patients) = start_with(&monitor, [sick, sick]);
    let sick = format!("{} {}\n", address(&lab, "s2"), SERVER_PORTS[0]);
    fs::write(&list, sick).unwrap();
    lab.wait_for("s2", &[Family::V4], "down");
    lab.wait_for("s2", &[Family::V6], "up");
    assert!(lab.balancer.log().contains("on the list of web4"), "{}", lab.balancer.log());
    fs::write(&list, "").unwrap();
    lab.wait_for("s2", &Family::BOTH, "up");
}

#[test]
fn with_the_rule_any_a_server_is_down_when_no_monitor_says_otherwise() {
    if !wait::is_root_or_skip() {
        return;
    }
    let monitor = format!("type = \"udp\"\nport = {PORT}\nrequest = \"ping\"\nanswer = \"pong\"\n");
    let (lab, patients) =
        start(&monitor, "health_monitors = [\"fast\", \"sick\"]\nhealth_rule = \"any\"");
    patients[0].says_udp(None);
    let noticed = || lab.balancer.log().contains("within 200ms");
    wait::until_true("the monitor notices", noticed);
    wait::throughout(Duration::from_millis(800), "s1 stays up", || {
        lab.status().server("web4", &address(&lab, "s1"))["state"] == "up"
    });
    let mut lab = lab;
    lab.servers[0].kill();
    lab.wait_for("s1", &[Family::V4], "down");
    patients[0].says_udp(Some(b"pong"));
    lab.wait_for("s1", &[Family::V4], "up");
}

#[test]
fn a_server_that_came_up_gets_new_clients_little_by_little_and_moves_nobody() {
    if !wait::is_root_or_skip() {
        return;
    }
    let pool = "health_monitors = [\"fast\"]\nslow_start = \"5s\"";
    let mut lab = Scenario::web(&Web { pool, ..Web::default() }).unwrap();
    let whole = lab.meet(&lab.subnets(Family::V4, 0, 200));
    let its_share = tally(&whole)["s1"];
    assert!(its_share > 40, "{its_share} of 200: nothing starts slowly when the daemon starts");

    lab.kill("s1");
    let living = lab.subnets(Family::V4, 256, 100);
    let before = lab.meet(&living);
    lab.revive("s1");
    // The share is a tenth of a whole one, and a little later still no more than a few.
    let early = lab.meet(&lab.subnets(Family::V4, 512, 200));
    let early = tally(&early).get("s1").copied().unwrap_or(0);
    assert!(early * 2 < its_share, "{early} of 200, whole is {its_share}");

    let first = lab.subnets(Family::V4, 0, 200);
    wait::until_true("s1 has its whole share again", || {
        assert_eq!(lab.meet(&living), before, "a step moved somebody");
        lab.balancer.flush(&["--client", "10.64.0.0/16"]).unwrap();
        lab.meet(&first) == whole
    });
}

#[test]
fn two_thousand_servers_take_few_threads_and_files() {
    if !wait::is_root_or_skip() {
        return;
    }
    // Half of them answer; the others are addresses that swallow everything.
    let monitor = format!(
        "type = \"http\"\nport = {PORT}\ninterval = \"2s\"\ntimeout = \"1s\"\nrise = 1\nfall = 1\n"
    );
    let topology = Topology::new(Wiring::Routed, 1, 1).unwrap();
    let host = &topology.servers[0];
    let gateway = host.address(Family::V4);
    host.namespace
        .ip("route add local 10.9.0.0/21 dev lo\nroute add blackhole 10.9.8.0/21")
        .unwrap();
    let interface = &topology.interfaces[1];
    topology.balancer.ip(&format!("route add 10.9.0.0/20 via {gateway} dev {interface}")).unwrap();
    let _patient = Patient::start(&host.namespace, [0, 0, 0, 0].into(), PORT).unwrap();
    let servers: String = (0..1000)
        .flat_map(|n| [0, 8].map(|block| (n / 250 + block, n % 250 + 1)))
        .map(|(block, n)| format!("  {{ address = \"10.9.{block}.{n}\", port = 8080 }},\n"))
        .collect();
    let config = Config::new()
        .tcp("many", at(Family::V4), "many")
        .also(format_args!(
            "[[pool]]\nname = \"many\"\nhealth_monitors = [\"sick\"]\nservers = [\n{servers}]"
        ))
        .also(format_args!("[[health_monitor]]\nname = \"sick\"\n{monitor}"));
    let balancer = Balancer::start(&topology.balancer, config, &topology.interfaces).unwrap();
    let process = balancer.process().unwrap();
    let (mut threads, mut files) = (0, 0);
    wait::until_true("every server is up or down as it should be", || {
        threads = threads.max(fs::read_dir(format!("/proc/{process}/task")).unwrap().count());
        files = files.max(fs::read_dir(format!("/proc/{process}/fd")).unwrap().count());
        let status = balancer.status().unwrap();
        let pool = status.named("pools", "many");
        let servers = pool["servers"].as_array().unwrap();
        servers.iter().all(|server| {
            let block = server["address"].as_str().unwrap().split('.').nth(2).unwrap();
            let is_silent = block.parse::<u8>().unwrap() >= 8;
            server["state"] == if is_silent { "down" } else { "up" }
        })
    });
    assert!(threads <= 4, "{threads} threads");
    assert!(files <= 700, "{files} files");
    assert!(files >= 300, "{files} files: the checks did not run side by side");
}

/// Three servers, each with a patient beside it on its IPv4 address, and the monitor `sick`. `pool` are lines of the pool
/// `web4`; `web6` has no monitor.
fn start(monitor: &str, pool: &str) -> (Scenario, Vec<Patient>) {
    start_with(&format!("{monitor}{QUICK}"), [pool, ""])
}

fn start_with(monitor: &str, pools: [&str; 2]) -> (Scenario, Vec<Patient>) {
    let mut patients = Vec::new();
    let lab = Scenario::start(Wiring::Routed, 3, |hosts| {
        for host in hosts {
            let address = host.address(Family::V4);
            patients.push(Patient::start(&host.namespace, address, PORT).unwrap());
        }
        let config = Config::new()
            .profile("kept", "5m", "")
            .also(format_args!("[[health_monitor]]\nname = \"sick\"\n{monitor}"));
        Family::BOTH.into_iter().zip(pools).fold(config, |config, (family, pool)| {
            let members = members(hosts, family, Some(SERVER_PORTS[0]), &[]);
            let lines = format!("persistence_profile = \"kept\"\n{pool}");
            config.tcp(web(family), at(family), web(family)).pool(web(family), &members, &lines)
        })
    })
    .unwrap();
    (lab, patients)
}

fn address(lab: &Scenario, server: &str) -> String {
    lab.host(server).address(Family::V4).to_string()
}
