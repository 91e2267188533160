//! The kernel forwards without the daemon, and a daemon that starts again takes over what is there.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use lbpersist_tests::{
    client,
    scenario::{Scenario, Web, at, distinct, web},
    topology::{Family, Wiring},
    wait,
};

#[test]
fn traffic_goes_on_after_kill_9_and_a_restart_keeps_every_entry() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = Scenario::web(&Web::default()).unwrap();
    // Clients that were moved: the ring alone would send them elsewhere.
    lab.kill("s1");
    let from = lab.subnets(Family::V4, 0, 60);
    let met = lab.meet(&from);
    lab.revive("s1");
    assert_eq!(lab.meet(&from), met);
    let bindings = lab.bindings();
    let held = lab.client().hold_from(from[0], at(Family::V4)).unwrap();

    lab.balancer.kill_dash_nine().unwrap();
    assert_eq!(lab.meet(&from), met, "clients with an entry");
    assert_eq!(held.ask().unwrap(), held.first, "an open connection");
    let new = lab.subnets(Family::V4, 100, 60);
    assert_eq!(distinct(&lab.meet(&new)).len(), 3, "new clients");
    assert_eq!(lab.bindings().len(), 120, "they are listed without the daemon");

    // Nobody may notice the restart either.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (client, family) = (lab.topology.clients[0].clone(), Family::V4);
        let (from, server, done) = (from[1], met[1].clone(), &done);
        let asking = scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(client.ask_from(from, at(family)).unwrap().server, server);
            }
        });
        let restarted = lab.balancer.restart();
        done.store(true, Ordering::Relaxed);
        asking.join().unwrap();
        restarted.unwrap();
    });
    assert_eq!(held.ask().unwrap(), held.first, "an open connection");
    assert_eq!(lab.meet(&from), met, "clients with an entry");
    assert_same(&bindings, &lab.bindings());
}

#[test]
fn adding_and_removing_a_server_moves_no_client_that_can_stay() {
    if !wait::is_root_or_skip() {
        return;
    }
    let web = Web::default();
    let mut lab = Scenario::start(Wiring::Routed, 4, |hosts| web.config(&hosts[..3])).unwrap();
    for (round, family) in [(0, Family::V4), (1, Family::V6)] {
        let from = lab.subnets(family, 0, 200);
        let met = lab.meet(&from);
        assert_eq!(distinct(&met).len(), 3);
        let held = lab.client().hold_from(from[0], at(family)).unwrap();

        lab.balancer.configure(web.config(&lab.topology.servers)).unwrap();
        lab.balancer.restart().unwrap();
        lab.wait_until_all_are_up();
        assert_eq!(lab.meet(&from), met, "{family:?}: clients with an entry stay");
        assert_eq!(held.ask().unwrap(), held.first, "{family:?}: an open connection");
        let new = lab.subnets(family, 1000 + 500 * round, 200);
        let new_met = lab.meet(&new);
        assert!(distinct(&new_met).contains("s4"), "{family:?}: new clients meet the new server");

        lab.balancer.configure(web.config(&lab.topology.servers[..3])).unwrap();
        lab.balancer.restart().unwrap();
        lab.wait_until_all_are_up();
        assert_eq!(lab.meet(&from), met, "{family:?}: clients with an entry stay");
        for (before, after) in new_met.iter().zip(lab.meet(&new)) {
            if before == "s4" {
                assert_ne!(after, "s4");
            } else {
                assert_eq!(after, *before, "{family:?}: moved without need");
            }
        }
    }
}

#[test]
fn sigterm_leaves_the_kernel_forwarding_and_detach_all_leaves_nothing() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = Scenario::web(&Web::default()).unwrap();
    let from = lab.subnets(Family::V4, 0, 20);
    let met = lab.meet(&from);
    lab.balancer.stop().unwrap();
    assert_eq!(lab.meet(&from), met);

    lab.balancer.cli(&["detach", "--all"]).unwrap().success().unwrap();
    assert!(lab.client().ask(at(Family::V4)).is_err(), "nobody is balanced any more");
    let pins = lab.balancer.pin_directory();
    let left = std::fs::read_dir(pins).map_or(0, Iterator::count);
    assert_eq!(left, 0, "in {}", pins.display());
}

#[test]
fn five_kills_and_starts_lose_no_packet() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = Scenario::start(Wiring::Routed, 3, |hosts| {
        let config = Web::default().config(hosts);
        config.udp("datagrams", at(Family::V4), web(Family::V4))
    })
    .unwrap();
    let from = lab.subnets(Family::V4, 0, 12);
    let met = lab.meet(&from);
    let held: Vec<_> =
        from.iter().map(|&from| lab.client().hold_from(from, at(Family::V4)).unwrap()).collect();
    let bindings = lab.bindings();
    let done = AtomicBool::new(false);
    let namespace = lab.client().namespace.clone();
    let (done, from, met) = (&done, &from, &met);
    std::thread::scope(|scope| {
        // Datagrams are not sent again: one that is lost is an answer that does not come.
        let datagrams = scope.spawn(move || {
            let mut asked = 0;
            while !done.load(Ordering::Relaxed) {
                for (&from, server) in from.iter().zip(met) {
                    let answer = client::ask_udp(&namespace, from, at(Family::V4));
                    assert_eq!(answer.unwrap().server, *server, "datagram {asked}");
                    asked += 1;
                }
            }
            asked
        });
        let connections = scope.spawn(|| {
            let mut asked = 0;
            while !done.load(Ordering::Relaxed) {
                for held in &held {
                    assert_eq!(held.ask().unwrap(), held.first);
                    asked += 1;
                }
            }
            asked
        });
        let cycles = (0..5).try_for_each(|_| {
            lab.balancer.kill_dash_nine()?;
            lab.balancer.restart()
        });
        done.store(true, Ordering::Relaxed);
        let asked = [datagrams.join().unwrap(), connections.join().unwrap()];
        cycles.unwrap();
        assert!(asked.iter().all(|&asked| asked > 100), "{asked:?}");
    });
    assert_eq!(lab.meet(from), *met);
    assert_same(&bindings, &lab.bindings());
}

#[test]
fn detach_all_leaves_nothing_after_a_kill_in_the_middle_of_a_start() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = Scenario::web(&Web::default()).unwrap();
    lab.balancer.stop().unwrap();
    let pins = lab.balancer.pin_directory().to_owned();
    for moment in 0..12 {
        lab.balancer.start_and_kill(Duration::from_millis(moment * 25)).unwrap();
        if pins.exists() {
            lab.balancer.cli(&["detach", "--all"]).unwrap().success().unwrap();
        }
        assert!(!pins.exists(), "killed after {} ms", moment * 25);
        let view = lab.topology.balancer.run(lbpersist::network::read_once).unwrap();
        let left: Vec<_> = view.links.values().filter(|link| link.xdp.is_some()).collect();
        assert!(left.is_empty(), "killed after {} ms: {left:?}", moment * 25);
    }
    lab.balancer.restart().unwrap();
    lab.wait_until_all_are_up();
    lab.meet(&lab.subnets(Family::V4, 0, 3));
}

fn assert_same(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
    for (client, server) in before {
        assert_eq!(after.get(client), Some(server), "{client}");
    }
}
