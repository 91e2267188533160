//! Client-IP persistence over TCP.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use lbpersist_tests::{
    balancer::Entry,
    command,
    scenario::{Scenario, Web, at, distinct, tally},
    topology::Family,
    wait,
};

#[test]
fn two_hundred_connections_of_one_address_meet_one_server() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Scenario::web(&Web::default()).unwrap();
    for family in Family::BOTH {
        let address = lab.client().address(family);
        let met = lab.meet(&[address; 200]);
        assert_eq!(met.len(), 200);
        assert_eq!(distinct(&met).len(), 1, "{family:?}: {:?}", tally(&met));

        let bindings = lab.bindings();
        let server = format!("{}", lab.host(&met[0]).address(family));
        let bound = &bindings[&address.to_string()];
        assert!(bound.contains(&server), "{family:?}: met {server}, listed {bound}");
    }
    assert_eq!(lab.bindings().len(), 2, "one entry for each family");
}

#[test]
fn all_addresses_under_one_mask_meet_one_server() {
    if !wait::is_root_or_skip() {
        return;
    }
    let web = Web { profile: "ipv4_mask = 24\nipv6_mask = 64", ..Web::default() };
    let lab = Scenario::web(&web).unwrap();
    for (family, prefix) in [(Family::V4, 24), (Family::V6, 64)] {
        let from: Vec<_> = (1..=250).map(|host| lab.client().address_in(family, 7, host)).collect();
        let met = lab.meet(&from);
        assert_eq!(distinct(&met).len(), 1, "{family:?}: {:?}", tally(&met));

        let key = format!("{}/{prefix}", lab.client().address_in(family, 7, 0));
        assert!(lab.bindings().contains_key(&key), "{key} in {:?}", lab.bindings());
    }
    assert_eq!(lab.bindings().len(), 2, "one entry for each subnet");
}

#[test]
fn two_thousand_subnets_spread_by_weight() {
    if !wait::is_root_or_skip() {
        return;
    }
    let web =
        Web { weights: &[1, 1, 2], profile: "ipv4_mask = 24\nipv6_mask = 64", ..Web::default() };
    let lab = Scenario::web(&web).unwrap();
    for family in Family::BOTH {
        let met = lab.meet(&lab.subnets(family, 0, 2000));
        let tally = tally(&met);
        for (server, share) in [("s1", 500), ("s2", 500), ("s3", 1000)] {
            let got = tally.get(server).copied().unwrap_or_default();
            assert!(got.abs_diff(share) <= share / 10, "{family:?}: {share} wanted, {tally:?}");
        }
    }
    assert_eq!(lab.bindings().len(), 4000);
}

#[test]
fn an_entry_outlives_an_idle_connection_and_ends_its_timeout_after_the_close() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Scenario::web(&Web { timeout: "2s", ..Web::default() }).unwrap();
    let client = lab.client();
    let held = Family::BOTH.map(|family| client.hold(at(family)).unwrap());
    let entries = || lab.balancer.entries().unwrap();
    let never_ends = |entry: &Entry| entry.open() == 1 && entry.0["expires_in_seconds"].is_null();

    wait::until_true("both connections are counted", || entries().iter().all(never_ends));
    wait::throughout(Duration::from_secs(5), "entries of open connections", || {
        let entries = entries();
        entries.len() == 2 && entries.iter().all(never_ends)
    });
    for (held, family) in held.iter().zip(Family::BOTH) {
        assert_eq!(held.ask().unwrap().server, held.first.server, "the connection lives");
        assert_eq!(client.ask(at(family)).unwrap().server, held.first.server);
    }

    let closed = Instant::now();
    held.into_iter().for_each(|held| held.close().unwrap());
    wait::throughout(Duration::from_millis(1500), "entries within their timeout", || {
        entries().len() == 2
    });
    wait::until_true("the entries end", || entries().is_empty());
    // The clock of the tables may be a tick behind.
    assert!(closed.elapsed() > Duration::from_millis(1_950), "{:?}", closed.elapsed());
    assert!(closed.elapsed() < Duration::from_secs(5), "{:?}", closed.elapsed());
}

#[test]
fn a_timeout_of_zero_spreads_the_connections_of_one_client() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Scenario::web(&Web { timeout: "0", ..Web::default() }).unwrap();
    for family in Family::BOTH {
        let address = lab.client().address(family);
        let held: Vec<_> = (0..20).map(|_| lab.client().hold(at(family)).unwrap()).collect();
        let met = lab.meet(&[address; 100]);
        assert_eq!(distinct(&met).len(), 3, "{family:?}: {:?}", tally(&met));
        for held in held {
            assert_eq!(
                held.ask().unwrap(),
                held.first,
                "{family:?}: a connection keeps its server"
            );
        }
    }
    assert!(lab.bindings().is_empty(), "{:?}", lab.bindings());
}

#[test]
fn flush_takes_what_its_filters_name_and_nothing_else() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Scenario::web(&Web { profile: "ipv4_mask = 24", ..Web::default() }).unwrap();
    let from = lab.subnets(Family::V4, 0, 60);
    let met = lab.meet(&from);
    lab.meet(&lab.subnets(Family::V6, 0, 5));
    assert_eq!(lab.bindings().len(), 65);

    let subnet = format!("{}/24", lab.client().address_in(Family::V4, 3, 0));
    assert_eq!(lab.balancer.flush(&["--client", &subnet]).unwrap(), 1);
    assert!(!lab.bindings().contains_key(&subnet));
    assert_eq!(lab.balancer.flush(&["--virtual-service", "web6"]).unwrap(), 5);

    let address = lab.host("s1").address(Family::V4).to_string();
    let of_s1 = met.iter().enumerate().filter(|&(n, server)| n != 3 && server == "s1").count();
    assert_eq!(lab.balancer.flush(&["--server", &address]).unwrap(), of_s1 as u64);
    assert!(lab.bindings().values().all(|server| !server.contains(&address)));

    assert_eq!(lab.balancer.flush(&["--pool", "web6"]).unwrap(), 0);
    assert_eq!(lab.balancer.flush(&[]).unwrap(), 59 - of_s1 as u64);
    assert!(lab.bindings().is_empty());
    assert_eq!(lab.meet(&from), met, "the ring is as it was");
}

#[test]
fn bpftool_shows_entries_with_named_fields() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut bpftool = Command::new("bpftool");
    if command::run(bpftool.arg("version")).is_err() {
        wait::skip("bpftool is not installed");
        return;
    }
    let lab = Scenario::web(&Web::default()).unwrap();
    lab.client().ask(at(Family::V4)).unwrap();
    let map = lab.balancer.pin_directory().join("maps/entries");
    let mut bpftool = Command::new("bpftool");
    let dump = command::run(bpftool.args(["map", "dump", "pinned"]).arg(map)).unwrap();
    let dump = dump.success().unwrap();
    for field in ["client", "scope", "binding", "open", "idle_since_ns", "created_ns"] {
        assert!(dump.contains(&format!("\"{field}\"")), "no {field} in {dump}");
    }
}
