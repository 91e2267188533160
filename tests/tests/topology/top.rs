//! `lbpersist top --once`: rates, as clients make them.

use lbpersist_tests::{
    scenario::{Scenario, Web, web},
    topology::Family,
    wait,
};

const V4: Family = Family::V4;

/// Packets and connections a second in the lines that begin with `name`, whose figures follow so many words.
fn rates(text: &str, name: &str, words: usize) -> (f64, f64) {
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own: Vec<_> = lines.filter(|line| line.first() == Some(&name)).collect();
    let sum = |column: usize| -> f64 {
        let figures = own.iter().filter_map(|line| line.get(words + column));
        figures.filter_map(|figure| figure.parse::<f64>().ok()).sum()
    };
    (sum(0), sum(2))
}

#[test]
fn a_service_has_rates_while_clients_talk_and_none_when_they_are_silent() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = Scenario::web(&Web::default()).unwrap();
    let from = lab.subnets(V4, 0, 5);
    let frame = || lab.balancer.cli(&["top", "--once", "--interval", "500ms"]);
    let busy = std::thread::scope(|scope| {
        let top = scope.spawn(frame);
        while !top.is_finished() {
            lab.meet(&from);
        }
        top.join().expect("the thread ends").unwrap().success().unwrap()
    });
    // A service is named before its pool is; both bear one name here.
    let (services, servers) = busy.split_once("\n\n").unwrap();
    let (packets, connections) = rates(services, web(V4), 1);
    assert!(packets > 0.0 && connections > 0.0 && packets > connections, "{busy}");
    let (to_servers, _) = rates(servers, web(V4), 3);
    assert!(to_servers > 0.0 && to_servers < packets, "answers count for services only: {busy}");
    let (forwarded, _) = rates(servers, "forwarded", 1);
    assert!(forwarded > 0.0, "{busy}");

    // The maps need no daemon.
    lab.balancer.stop().unwrap();
    let calm = lab.balancer.cli(&["top", "--once", "--interval", "100ms"]).unwrap();
    let calm = calm.success().unwrap();
    let (services, _) = calm.split_once("\n\n").unwrap();
    assert!(services.contains(web(V4)), "{calm}");
    assert_eq!(rates(services, web(V4), 1), (0.0, 0.0), "{calm}");
}

#[test]
fn without_a_terminal_it_says_what_works() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Scenario::web(&Web::default()).unwrap();
    for (words, said) in [
        (&["top"][..], "--once"),
        (&["top", "--once", "-o", "json"], "status -o json"),
        (&["top", "--once", "--interval", "1ms"], "from 100ms to 1h"),
        (&["top", "--interval", "fast"], "such as"),
    ] {
        let refused = lab.balancer.cli(words).unwrap();
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains(said), "{refused:?}");
    }
}
