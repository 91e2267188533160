//! Interfaces: one for all or one for each, native XDP or generic, attached and detached at run time.

use lbpersist_tests::{
    balancer::Status,
    scenario::{Scenario, Web, distinct},
    topology::{Family, Wiring},
    wait,
};

#[test]
fn each_on_its_own_interface_is_native() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Scenario::web(&Web::default()).unwrap();
    let mut modes = modes(&lab.status());
    modes.sort();
    let native = |name: &str| (name.to_owned(), "native".to_owned());
    assert_eq!(modes, ["client1", "server1", "server2", "server3"].map(native));
}

#[test]
fn clients_and_servers_on_one_interface() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Scenario::start(Wiring::OneArm, 3, |hosts| Web::default().config(hosts)).unwrap();
    assert_eq!(modes(&lab.status()), [("uplink".to_owned(), "native".to_owned())]);
    everyone_is_kept(&lab);
}

#[test]
fn an_interface_without_native_xdp_is_served_in_generic_mode() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab =
        Scenario::start(Wiring::OneArmGeneric, 3, |hosts| Web::default().config(hosts)).unwrap();
    assert_eq!(modes(&lab.status()), [("uplink".to_owned(), "generic".to_owned())]);
    everyone_is_kept(&lab);
}

#[test]
fn detach_and_attach_work_while_the_daemon_runs() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Scenario::web(&Web::default()).unwrap();
    let from = lab.subnets(Family::V4, 0, 10);
    let met = lab.meet(&from);

    lab.balancer.cli(&["detach", "client1"]).unwrap().success().unwrap();
    assert!(modes(&lab.status()).iter().all(|(name, _)| name != "client1"));
    let answer = lab.client().ask(lbpersist_tests::scenario::at(Family::V4));
    assert!(answer.is_err(), "{answer:?}");

    lab.balancer.cli(&["attach", "client1"]).unwrap().success().unwrap();
    assert!(modes(&lab.status()).iter().any(|(name, _)| name == "client1"));
    assert_eq!(lab.meet(&from), met);
}

fn everyone_is_kept(lab: &Scenario) {
    for family in Family::BOTH {
        let address = lab.client().address(family);
        assert_eq!(distinct(&lab.meet(&[address; 100])).len(), 1, "{family:?}");
        let from = lab.subnets(family, 0, 100);
        let met = lab.meet(&from);
        assert_eq!(distinct(&met).len(), 3, "{family:?}");
        assert_eq!(lab.meet(&from), met, "{family:?}");
    }
    let status = lab.status();
    assert_eq!(lab.bindings().len(), 202);
    assert!(status.verdict("forwarded") > 0 && status.verdict("returned") > 0);
}

fn modes(status: &Status) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let interfaces = status.0["interfaces"].as_array().cloned().unwrap_or_default();
    interfaces
        .iter()
        .map(|interface| (text(&interface["name"]), text(&interface["mode"])))
        .collect()
}
