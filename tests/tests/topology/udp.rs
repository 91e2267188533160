//! Client-IP persistence over UDP, which has no open and close.

use std::time::{Duration, Instant};

use lbpersist_tests::{
    client::Transport::Udp,
    config::Config,
    scenario::{SERVER_PORTS, Scenario, distinct, members, tally},
    topology::{Family, Wiring},
    wait,
};

const PORT: u16 = 53;

#[test]
fn datagrams_of_one_address_meet_one_server_whatever_their_port() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = start("5m", "30s");
    for family in Family::BOTH {
        let address = lab.client().address(family);
        let met = lab.meet_at(Udp, &[address; 100], family.service(PORT));
        assert_eq!(distinct(&met).len(), 1, "{family:?}: {:?}", tally(&met));
        assert!(lab.bindings().contains_key(&address.to_string()), "{:?}", lab.bindings());

        let met = lab.meet_at(Udp, &lab.subnets(family, 0, 100), family.service(PORT));
        assert_eq!(distinct(&met).len(), 3, "{family:?}: {:?}", tally(&met));
    }
    assert_eq!(lab.bindings().len(), 202);
}

#[test]
fn an_entry_ends_its_timeout_after_the_client_fell_silent() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = start("1s", "1s");
    let asked = Instant::now();
    let service = Family::V4.service(PORT);
    lab.meet_at(Udp, &[lab.client().address(Family::V4)], service);
    wait::throughout(Duration::from_millis(1500), "the entry of a silent client", || {
        lab.bindings().len() == 1
    });
    wait::until_true("the entry ends", || lab.bindings().is_empty());
    // The clock of the tables may be a tick behind.
    assert!(asked.elapsed() > Duration::from_millis(1_950), "{:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
}

fn start(timeout: &str, idle: &str) -> Scenario {
    Scenario::start(Wiring::Routed, 3, |hosts| {
        let config = Config::new()
            .also(format_args!("[idle_limits]\nudp = \"{idle}\""))
            .profile("kept", timeout, "");
        Family::BOTH.into_iter().fold(config, |config, family| {
            let name = format!("dns-{family:?}");
            let members = members(hosts, family, Some(SERVER_PORTS[0]), &[]);
            config.udp(&name, family.service(PORT), &name).pool(
                &name,
                &members,
                "persistence_profile = \"kept\"",
            )
        })
    })
    .unwrap()
}
