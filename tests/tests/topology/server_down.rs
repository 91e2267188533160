//! What each value of `server_down` does for the clients of a killed server, and that the others notice nothing.

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use lbpersist_tests::{
    balancer::number,
    scenario::{Scenario, Web, at, web},
    topology::Family,
    wait,
};

#[test]
fn immediate_gives_the_clients_of_a_dead_server_another_one_for_good() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = start("immediate");
    for family in Family::BOTH {
        let from = lab.subnets(family, 0, 40);
        let before = lab.meet(&from);
        let victim = before[0].clone();
        let held: Vec<_> = from
            .iter()
            .zip(&before)
            .filter(|&(_, server)| *server != victim)
            .take(5)
            .map(|(&from, _)| lab.client().hold_from(from, at(family)).unwrap())
            .collect();

        lab.kill(&victim);
        let during = lab.meet(&from);
        for (before, during) in before.iter().zip(&during) {
            if *before == victim {
                assert_ne!(*during, victim);
            } else {
                assert_eq!(during, before, "{family:?}: moved without need");
            }
        }
        lab.revive(&victim);
        assert_eq!(lab.meet(&from), during, "{family:?}: nobody moves back");
        for held in held {
            assert_eq!(held.ask().unwrap(), held.first, "{family:?}: an open connection");
        }

        lab.balancer.flush(&[]).unwrap();
        assert_eq!(lab.meet(&from), before, "{family:?}: without entries, the ring as it was");
    }
    let moved = number(&lab.status().0["events"]["entries_moved"]);
    assert!(moved > 0, "moves are counted");
}

#[test]
fn never_refuses_the_clients_of_a_dead_server_until_it_is_back() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = start("never");
    for family in Family::BOTH {
        let from = lab.subnets(family, 0, 40);
        let before = lab.meet(&from);
        let victim = before[0].clone();
        lab.kill(&victim);

        let refused_before = lab.status().verdict("server_down");
        let refused = refusals(&lab, family, &from, &before, &victim);
        let counted = lab.status().verdict("server_down") - refused_before;
        assert!(counted >= refused, "{family:?}: {refused} were refused, {counted} counted");
        assert_eq!(lab.bindings().len(), 40, "{family:?}: entries stay");

        lab.revive(&victim);
        assert_eq!(lab.meet(&from), before, "{family:?}");
        lab.balancer.flush(&[]).unwrap();
    }
}

#[test]
fn continue_sends_the_clients_of_a_dead_server_to_it_all_the_same() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = start("continue");
    for family in Family::BOTH {
        let from = lab.subnets(family, 0, 40);
        let before = lab.meet(&from);
        let victim = before[0].clone();
        lab.kill(&victim);

        let address = lab.host(&victim).address(family).to_string();
        let packets =
            |lab: &Scenario| number(&lab.status().server(web(family), &address)["packets"]);
        let (sent, kept_back) = (packets(&lab), lab.status().verdict("server_down"));
        let refused = refusals(&lab, family, &from, &before, &victim);
        assert_eq!(packets(&lab) - sent, refused, "{family:?}: each SYN went to the dead server");
        assert_eq!(lab.status().verdict("server_down"), kept_back, "{family:?}");

        lab.revive(&victim);
        assert_eq!(lab.meet(&from), before, "{family:?}");
        lab.balancer.flush(&[]).unwrap();
    }
}

#[test]
fn a_pool_without_a_living_server_refuses_nobody_for_good() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = start("immediate");
    let from = lab.subnets(Family::V4, 0, 10);
    for server in ["s1", "s2", "s3"] {
        lab.kill(server);
    }
    let error = lab.client().ask_from(from[0], at(Family::V4)).unwrap_err();
    assert!(
        matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::ConnectionRefused),
        "{error}"
    );
    assert!(lab.status().verdict("no_server") > 0);
    lab.revive("s2");
    assert!(lab.meet(&from).iter().all(|server| server == "s2"));
}

#[test]
fn a_client_that_only_waits_is_reset_when_its_server_is_lost() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = start("immediate");
    for family in Family::BOTH {
        let from = lab.subnets(family, 0, 30);
        let held: Vec<_> =
            from.iter().map(|&from| lab.client().hold_from(from, at(family)).unwrap()).collect();
        let victim = held[0].first.server.clone();
        let pool = web(family);
        let address = lab.host(&victim).address(family).to_string();
        // Its host vanishes for one family and is taken out of service for the other: it closes nothing in both cases.
        let start = Instant::now();
        if family == Family::V4 {
            lab.balancer.cli(&["server", "disable", pool, &address]).unwrap();
        } else {
            lab.host(&victim).hears_nobody().unwrap();
            lab.wait_for(&victim, &[family], "down");
        }
        let (lost, others): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|held| held.first.server == victim);
        assert!(!lost.is_empty() && !others.is_empty(), "{} {}", lost.len(), others.len());
        for held in lost {
            let error = held.wait(Duration::from_secs(3)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{family:?}: {error}");
        }
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        for held in others {
            let error = held.wait(Duration::from_millis(1)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{family:?}: {error}");
            assert_eq!(held.ask().unwrap(), held.first, "{family:?}: nobody else was disturbed");
        }
        assert!(lab.meet(&from).iter().all(|server| *server != victim), "they come back elsewhere");
    }
}

fn start(server_down: &str) -> Scenario {
    let profile = format!("server_down = \"{server_down}\"");
    Scenario::web(&Web { profile: &profile, ..Web::default() }).unwrap()
}

/// Asks once from each address: the clients of `victim` must be refused at once, the others served as before. How many were
/// refused.
fn refusals(
    lab: &Scenario,
    family: Family,
    from: &[IpAddr],
    before: &[String],
    victim: &str,
) -> u64 {
    let mut refused = 0;
    for (&from, before) in from.iter().zip(before) {
        let answer = lab.client().ask_from(from, at(family));
        if before == victim {
            let error = answer.expect_err("the server is dead");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{from}");
            refused += 1;
        } else {
            assert_eq!(answer.unwrap().server, *before, "{from}");
        }
    }
    refused
}
