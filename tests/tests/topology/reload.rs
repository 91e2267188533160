//! Another configuration for the running daemon, by signal and by command, while clients come.

use std::fs;

use lbpersist_tests::{
    scenario::{Scenario, Web, at, distinct, web},
    topology::{Family, Wiring},
    wait,
};

const V4: Family = Family::V4;

fn scenario(web: &Web<'_>) -> Scenario {
    Scenario::start(Wiring::Routed, 4, |hosts| web.config(&hosts[..3])).unwrap()
}

#[test]
fn sighup_adds_servers_and_weights_and_moves_nobody() {
    if !wait::is_root_or_skip() {
        return;
    }
    let web = Web::default();
    let lab = scenario(&web);
    let from = lab.subnets(V4, 0, 120);
    let met = lab.meet(&from);
    let held = lab.client().hold_from(from[0], at(V4)).unwrap();
    let weighted = Web { weights: &[1, 5, 1, 3], ..web };
    lab.balancer.configure(weighted.config(&lab.topology.servers)).unwrap();
    lab.balancer.hang_up().unwrap();
    wait::until_true("the file was read", || {
        lab.balancer.log().contains("the configuration was read again")
    });
    lab.wait_until_all_are_up();
    assert!(lab.balancer.log().contains("weight 5 instead of 1"), "{}", lab.balancer.log());
    assert_eq!(lab.meet(&from), met, "clients with an entry stay");
    assert_eq!(held.ask().unwrap(), held.first, "an open connection");
    let new = lab.meet(&lab.subnets(V4, 1000, 120));
    assert!(distinct(&new).contains("s4"), "new clients meet the new server");
}

#[test]
fn a_bad_file_changes_nothing_and_every_mistake_is_told() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = scenario(&Web::default());
    let from = lab.subnets(V4, 0, 30);
    let met = lab.meet(&from);
    let good = fs::read_to_string(lab.balancer.configuration_file()).unwrap();
    let status = |lab: &Scenario| lab.balancer.json(&["server", "list"]).unwrap();
    let before = status(&lab);
    let own = lab.balancer.configuration_file();
    let own = own.to_str().unwrap();
    for (bad, sentences) in [
        (format!("{good}\nunknown = 1\n[[pool]]\nname = 7\n"), vec!["`unknown`", "`name`"]),
        (format!("interfaces = [\"nowhere0\"]\n{good}"), vec!["no interface `nowhere0`"]),
        (good.replace("[data_path]", "[data_path]\nring_size = 251"), vec!["ring_size = 251"]),
    ] {
        lab.balancer.configure(&bad).unwrap();
        for arguments in
            [&["reload"][..], &["apply", "--file", own], &["apply", "--file", own, "--dry-run"]]
        {
            let refused = lab.balancer.cli(arguments).unwrap();
            assert_eq!(refused.code, Some(2), "{refused:?}");
            for sentence in &sentences {
                assert!(refused.stderr.contains(sentence), "{sentence}: {}", refused.stderr);
            }
        }
        lab.balancer.hang_up().unwrap();
        wait::until_true("the log tells", || {
            let log = lab.balancer.log();
            log.contains("nothing was changed") && sentences.iter().all(|s| log.contains(s))
        });
        assert_eq!(status(&lab), before);
        assert_eq!(lab.meet(&from), met);
    }
    let missing = lab.balancer.cli(&["apply", "--file", "/nowhere/at-all.toml"]).unwrap();
    assert_eq!(missing.code, Some(2), "{missing:?}");
}

#[test]
fn a_dry_run_counts_whom_a_removal_moves_and_changes_nothing() {
    if !wait::is_root_or_skip() {
        return;
    }
    let web_config = Web::default();
    let lab = scenario(&web_config);
    let from = lab.subnets(V4, 0, 60);
    let met = lab.meet(&from);
    let on_s3 = met.iter().filter(|server| *server == "s3").count() as u64;
    let place = met.iter().position(|server| server == "s3").unwrap();
    let held = lab.client().hold_from(from[place], at(V4)).unwrap();
    let file = lab.balancer.configuration_file().with_file_name("other.toml");
    let file = file.to_str().unwrap();
    let dry = |config: &dyn ToString| {
        fs::write(file, config.to_string()).unwrap();
        lab.balancer.json(&["apply", "--dry-run", "--file", file]).unwrap()
    };

    let added = dry(&Web { weights: &[7, 1, 1, 2], ..web_config }.config(&lab.topology.servers));
    assert_eq!(added["moves"], serde_json::json!({"entries": 0, "connections": 0}), "{added}");
    assert!(added["changes"].to_string().contains("is added"), "{added}");
    let removed = dry(&web_config.config(&lab.topology.servers[..2]));
    let expected = serde_json::json!({"entries": on_s3, "connections": 1});
    assert_eq!(removed["moves"], expected, "{removed}");
    assert!(removed["changes"].to_string().contains("is removed"), "{removed}");
    let same = dry(&web_config.config(&lab.topology.servers[..3]));
    assert_eq!(same["changes"], serde_json::json!([]), "{same}");
    assert_eq!(lab.meet(&from), met, "nothing has changed");
    assert_eq!(held.ask().unwrap(), held.first);

    // And so it comes.
    drop(held);
    let other = web_config.config(&lab.topology.servers[..2]);
    fs::write(file, other.to_string()).unwrap();
    let applied = lab.balancer.json(&["apply", "--file", file]).unwrap();
    assert!(applied["warnings"].to_string().contains("says something else"), "{applied}");
    let moved = lab.meet(&from).iter().zip(&met).filter(|(after, before)| after != before).count();
    assert_eq!(moved as u64, on_s3);
}

#[test]
fn saving_replaces_the_file_and_interfaces_come_and_go() {
    if !wait::is_root_or_skip() {
        return;
    }
    let web_config = Web::default();
    let lab = scenario(&web_config);
    let config = web_config.config(&lab.topology.servers[..3]).to_string();
    let state = lab.balancer.state_directory();
    let with_lo = format!("interfaces = [\"lo\"]\n{config}\n[daemon]\nstate_dir = {state:?}\n");
    let file = lab.balancer.configuration_file().with_file_name("other.toml");
    fs::write(&file, &with_lo).unwrap();
    let file = file.to_str().unwrap();
    let applied = lab.balancer.json(&["apply", "--save", "--file", file]).unwrap();
    assert!(applied["changes"].to_string().contains("interface lo is attached"), "{applied}");
    assert_eq!(applied["warnings"], serde_json::json!([]));
    assert_eq!(fs::read_to_string(lab.balancer.configuration_file()).unwrap(), with_lo);
    let attached = |lab: &Scenario| lab.status().0["interfaces"].to_string().contains("\"lo\"");
    assert!(attached(&lab));
    assert_eq!(lab.meet(&lab.subnets(V4, 0, 10)).len(), 10);

    lab.balancer.configure(&config).unwrap();
    let reloaded = lab.balancer.cli(&["reload"]).unwrap().success().unwrap();
    assert!(reloaded.contains("interface lo is detached"), "{reloaded}");
    assert!(!attached(&lab));
    assert_eq!(lab.meet(&lab.subnets(V4, 0, 10)).len(), 10);
}

#[test]
fn what_was_said_by_hand_holds_until_the_file_says_something_else() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = scenario(&Web::default());
    let address = lab.host("s1").address(V4).to_string();
    let show = || lab.balancer.json(&["server", "show", web(V4), &address]).unwrap();
    lab.balancer.json(&["server", "drain", web(V4), &address]).unwrap();
    lab.balancer.json(&["reload"]).unwrap();
    assert_eq!(show()["server"]["origin"], "hand", "the file says nothing new");
    let text = fs::read_to_string(lab.balancer.configuration_file()).unwrap();
    let line = format!("{{ address = \"{address}\",");
    lab.balancer.configure(text.replace(&line, &format!("{line} state = \"disabled\","))).unwrap();
    lab.balancer.json(&["reload"]).unwrap();
    let server = &show()["server"];
    assert_eq!(server["state"], "disabled");
    assert_eq!(server["origin"], "configuration");
    let enabled = lab.balancer.json(&["server", "enable", web(V4), &address]).unwrap();
    assert_eq!(enabled["server"]["origin"], "hand");
    assert_eq!(enabled["server"]["state"], "up");
}
