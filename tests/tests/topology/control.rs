//! The control socket, and servers taken out and put back over it while clients come.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    time::{Duration, Instant},
};

use lbpersist_tests::{
    balancer::Balancer,
    scenario::{Scenario, Web, at, distinct, web},
    topology::Family,
    wait,
};
use serde_json::Value;

const V4: Family = Family::V4;

/// The server as the commands name it, and a request for its state.
fn show(lab: &Scenario, server: &str) -> Value {
    let address = lab.host(server).address(V4).to_string();
    lab.balancer.json(&["server", "show", web(V4), &address]).unwrap()
}

fn set(lab: &Scenario, action: &str, server: &str) -> Value {
    let address = lab.host(server).address(V4).to_string();
    lab.balancer.json(&["server", action, web(V4), &address]).unwrap()
}

#[test]
fn a_drained_server_keeps_its_clients_until_the_last_has_gone() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = Scenario::web(&Web { timeout: "3s", ..Web::default() }).unwrap();
    let from = lab.subnets(V4, 0, 30);
    let met = lab.meet(&from);
    let held_at = met.iter().position(|server| server == "s1").unwrap();
    let held = lab.client().hold_from(from[held_at], at(V4)).unwrap();
    let on_s1 = met.iter().filter(|server| *server == "s1").count() as u64;

    let drained = set(&lab, "drain", "s1");
    assert_eq!(drained["server"]["state"], "draining");
    assert_eq!(drained["server"]["origin"], "hand");
    assert_eq!(drained["left"]["entries"], on_s1, "{drained}");
    assert_eq!(drained["left"]["connections"], 1, "{drained}");
    let last = drained["left"]["last_ends_in_seconds"].as_f64().unwrap();
    assert!(last > 1.0 && last <= 3.1, "{last}");
    assert_eq!(lab.meet(&from), met, "clients with an entry stay");
    assert_eq!(held.ask().unwrap(), held.first, "an open connection");
    let new = lab.meet(&lab.subnets(V4, 100, 60));
    assert_eq!(distinct(&new), ["s2", "s3"].into(), "new clients");

    // It holds over a restart, and with the deadline's word for what is left.
    lab.balancer.restart().unwrap();
    assert_eq!(show(&lab, "s1")["server"]["origin"], "hand");
    let address = lab.host("s1").address(V4).to_string();
    let drain = ["server", "drain", web(V4), &address, "--wait", "--deadline"];
    let refused = lab.balancer.cli(&[&drain[..], &["300ms"]].concat()).unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("1 open connection left"), "{}", refused.stderr);

    let begin = Instant::now();
    let client = std::thread::spawn(move || {
        assert_eq!(held.ask().unwrap(), held.first, "while it drains");
        drop(held);
    });
    let waited = lab.balancer.cli(&[&drain[..], &["20s"]].concat()).unwrap();
    client.join().unwrap();
    assert_eq!(waited.code, Some(0), "{waited:?}");
    assert!(begin.elapsed() >= Duration::from_millis(2500), "the entry's timeout has to pass");
    assert!(waited.stdout.contains("is empty"), "{}", waited.stdout);
    assert_eq!(distinct(&lab.meet(&from)), ["s2", "s3"].into(), "everybody is elsewhere");

    assert_eq!(set(&lab, "enable", "s1")["server"]["origin"], "configuration");
    let back = lab.meet(&lab.subnets(V4, 200, 60));
    assert!(distinct(&back).contains("s1"), "it takes new clients again");
}

#[test]
fn a_disabled_server_gets_nobody_and_comes_back() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Scenario::web(&Web::default()).unwrap();
    let from = lab.subnets(V4, 0, 40);
    let met = lab.meet(&from);
    assert!(distinct(&met).contains("s2"));
    let disabled = set(&lab, "disable", "s2");
    assert_eq!(disabled["server"]["state"], "disabled");
    assert_eq!(disabled["left"]["entries"], 0, "under `immediate` nobody is bound any more");
    let on_s2 = met.iter().filter(|server| *server == "s2").count();
    assert_eq!(disabled["left"]["lost_entries"], on_s2, "{disabled}");
    let address = lab.host("s2").address(V4).to_string();
    let set_to = ["--client", "192.0.2.77", "--server", &address];
    let service = ["persistence", "set", "--virtual-service", web(V4)];
    let refused = lab.balancer.cli(&[&service[..], &set_to[..]].concat()).unwrap();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("is disabled and takes nobody"), "{}", refused.stderr);
    for (before, after) in met.iter().zip(lab.meet(&from)) {
        if before == "s2" {
            assert_ne!(after, "s2");
        } else {
            assert_eq!(after, *before, "moved without need");
        }
    }
    set(&lab, "enable", "s2");
    assert!(distinct(&lab.meet(&lab.subnets(V4, 100, 60))).contains("s2"));
}

#[test]
fn the_list_says_who_said_what_and_names_must_be_known() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Scenario::web(&Web::default()).unwrap();
    set(&lab, "drain", "s3");
    let list = lab.balancer.json(&["server", "list", "--pool", web(V4)]).unwrap();
    let states: Vec<_> = list.as_array().unwrap().iter().map(|server| &server["state"]).collect();
    assert_eq!(states, ["up", "up", "draining"]);
    let found = lab.balancer.json(&["server", "list", "--search", "draining"]).unwrap();
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    let text = lab.balancer.cli(&["server", "list"]).unwrap().success().unwrap();
    assert!(text.lines().any(|line| line.contains("draining") && line.contains("by hand")));

    for (arguments, sentence) in [
        (["drain", "nothing", "10.2.0.10"], "there is no pool `nothing`"),
        (["disable", web(V4), "10.2.0.99"], "has no server 10.2.0.99"),
        (["show", web(V4), "10.2.0.10:1"], "has no server 10.2.0.10:1"),
    ] {
        let refused = lab.balancer.cli(&[&["server"], &arguments[..]].concat()).unwrap();
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains(sentence), "{}", refused.stderr);
    }
}

#[test]
fn the_socket_is_roots_alone_and_bears_garbage() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Scenario::web(&Web::default()).unwrap();
    let path = lab.balancer.socket();
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);

    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(wait::SOON)).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
    for garbage in ["\n", "{}\n", "\u{0}\u{1}\n", "{\"action\":\"explode\"}\n", "[1,2\n"] {
        stream.write_all(garbage.as_bytes()).unwrap();
        let answer: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
        assert_eq!(answer["outcome"], "failed", "{garbage:?}");
        assert_eq!(answer["fault"], "input", "{garbage:?}");
    }
    stream.write_all(b"{\"action\":\"server-list\"}\n").unwrap();
    let answer: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
    assert_eq!(answer["outcome"], "servers", "the connection goes on");

    // More than a request may have: one answer, and the end of the connection.
    let block = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while sent < 20 && stream.write_all(&block).is_ok() {
        sent += 1;
    }
    if let Some(Ok(answer)) = answers.next() {
        assert!(answer.contains("a request may have"), "{answer}");
        assert!(answers.next().is_none_or(|line| line.is_err()), "it is closed");
    }
    assert_eq!(show(&lab, "s1")["server"]["state"], "up", "others are still answered");
    drop(UnixStream::connect(&path).unwrap());
    assert_eq!(show(&lab, "s1")["server"]["state"], "up");
}

#[test]
fn a_dead_daemons_socket_is_replaced_and_a_living_ones_never() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = Scenario::web(&Web::default()).unwrap();
    lab.balancer.kill_dash_nine().unwrap();
    let path = lab.balancer.socket();
    assert!(path.exists(), "what it leaves behind");
    let nobody = lab.balancer.cli(&["server", "list"]).unwrap();
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.stderr.contains("no daemon answers"), "{}", nobody.stderr);
    lab.balancer.restart().unwrap();
    assert_eq!(show(&lab, "s1")["server"]["state"], "up");

    // Another daemon, with maps of its own, on the same socket.
    let config = fs::read_to_string(lab.balancer.configuration_file()).unwrap();
    let mut other = Balancer::prepare(&lab.topology.balancer, config, &["lo".to_owned()]).unwrap();
    other.use_socket(&path);
    let error = other.restart().unwrap_err().to_string();
    assert!(error.contains("another lbpersist listens"), "{error}");
    assert_eq!(show(&lab, "s1")["server"]["state"], "up", "the first goes on");

    lab.balancer.stop().unwrap();
    assert!(!path.exists(), "an orderly end removes it");
    fs::write(&path, "a file").unwrap();
    let error = lab.balancer.restart().unwrap_err().to_string();
    assert!(error.contains("cannot make the socket"), "{error}");
    fs::remove_file(&path).unwrap();
}
