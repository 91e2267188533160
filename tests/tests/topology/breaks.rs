//! Breaks, as real clients meet them: every client that meets another server than its own is counted, and no other.

use std::collections::BTreeMap;

use lbpersist_tests::{
    balancer::number,
    scenario::{Scenario, Web, web},
    topology::Family,
    wait,
};
use serde_json::Value;

const V4: Family = Family::V4;

/// Breaks of the web service by reason, those that there were.
fn counted(lab: &Scenario) -> BTreeMap<String, u64> {
    let status = lab.status();
    let breaks = status.named("virtual_services", web(V4))["breaks"].as_object().unwrap();
    let counts = breaks.iter().map(|(reason, count)| (reason.clone(), number(count)));
    counts.filter(|(_, count)| *count > 0).collect()
}

fn expect(lab: &Scenario, expected: &[(&str, u64)]) {
    let expected = expected.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
    assert_eq!(counted(lab), expected);
}

fn differing(one: &[String], other: &[String]) -> u64 {
    one.iter().zip(other).filter(|(one, other)| one != other).count() as u64
}

fn told(lab: &Scenario, filters: &[&str]) -> Vec<Value> {
    let list = lab.balancer.json(&[&["breaks"], filters].concat()).unwrap();
    list.as_array().unwrap().clone()
}

#[test]
fn clients_that_lose_their_server_are_counted_and_named() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = Scenario::web(&Web::default()).unwrap();
    let from = lab.subnets(V4, 0, 60);
    let first = lab.meet(&from);
    lab.kill("s1");
    let second = lab.meet(&from);
    let down = differing(&first, &second);
    expect(&lab, &[("down", down)]);
    lab.revive("s1");
    assert_eq!(lab.meet(&from), second);

    let hosts: BTreeMap<String, String> = ["s1", "s2", "s3"]
        .map(|server| (server.to_owned(), lab.host(server).address(V4).to_string()))
        .into();
    let address = |server: &str| hosts[server].clone();
    lab.balancer.json(&["server", "drain", web(V4), &address("s2")]).unwrap();
    assert_eq!(lab.meet(&from), second, "a drain keeps its clients");
    expect(&lab, &[("down", down)]);
    lab.balancer.json(&["server", "enable", web(V4), &address("s2")]).unwrap();

    lab.balancer.flush(&[]).unwrap();
    let third = lab.meet(&from);
    assert_eq!(third, first, "without entries, the ring as it was");
    let flushed = differing(&second, &third);
    expect(&lab, &[("down", down), ("flushed", flushed)]);

    let client = from[0].to_string();
    let other = if third[0] == "s3" { "s2" } else { "s3" };
    let to = format!("{}:8080", address(other));
    let set = |client: &str, to: &str| {
        let words = ["--virtual-service", web(V4), "--client", client, "--server", to];
        lab.balancer.cli(&[&["persistence", "set"], &words[..]].concat()).unwrap()
    };
    assert!(set(&client, &to).success().unwrap().contains("is moved to"));
    assert_eq!(lab.meet(&from[..1]), [other]);
    assert_eq!(lab.meet(&from[1..]), third[1..]);
    assert_eq!(lab.meet(&from[..1]), [other]);
    expect(&lab, &[("down", down), ("flushed", flushed), ("moved", 1)]);
    assert_eq!(set(&client, "192.0.2.99:8080").code, Some(2), "no such server");

    // Nothing of this is lost with the daemon.
    lab.balancer.restart().unwrap();
    expect(&lab, &[("down", down), ("flushed", flushed), ("moved", 1)]);
    assert_eq!(told(&lab, &[]).len() as u64, down + flushed + 1);
    assert_eq!(told(&lab, &["--reason", "down", "--last", "2"]).len() as u64, down.min(2));
    let moved =
        told(&lab, &["--virtual-service", web(V4), "--client", &client, "--reason", "moved"]);
    let place = format!("{}:8080", address(&third[0]));
    assert_eq!(moved.len(), 1, "{moved:?}");
    assert_eq!((&moved[0]["before"], &moved[0]["after"]), (&place.into(), &to.into()));
    assert_eq!(moved[0]["client"], client);
    let text = lab.balancer.cli(&["breaks"]).unwrap().success().unwrap();
    assert!(text.contains(&client) && text.contains("flushed"), "{text}");

    let status = lab.status();
    let service = status.named("virtual_services", web(V4));
    let (kept, broken) = (number(&service["kept"]), down + flushed + 1);
    let share = service["share_kept"].as_f64().unwrap();
    assert!((share - kept as f64 / (kept + broken) as f64).abs() < 1e-9, "{share}");
}
