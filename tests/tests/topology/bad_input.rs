//! Bad input: a sentence that says what and where, an exit code, and nothing half attached.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use lbpersist_tests::{
    balancer::{self, Balancer},
    command::{self, Finished},
    scenario::Web,
    topology::{Topology, Wiring},
    wait,
};

/// A valid pool with a server that nobody else has.
const POOL: &str = "[[pool]]\nname = \"other\"\nservers = [{ address = \"10.9.9.9\", port = 9 }]";

#[test]
fn each_mistake_is_named() {
    let Some((_topology, balancer, valid)) = prepare() else {
        return;
    };
    let finished = check(&balancer, &valid);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);

    for (added, words) in [
        ("[[pool]]\nname = \"x\"\ncolour = \"red\"\nservers = []", &["colour"][..]),
        ("[[persistence_profile]]\nname = \"x\"\ntimeot = \"5m\"", &["timeot", "timeout"]),
        ("[[persistence_profile]]\nname = \"x\"\nipv4_mask = 33", &["ipv4_mask", "33"]),
        ("[[persistence_profile]]\nname = \"x\"\nipv6_mask = 129", &["ipv6_mask", "129"]),
        ("[[persistence_profile]]\nname = \"x\"\ntype = \"tls\"", &["type", "tls"]),
        ("[[persistence_profile]]\nname = \"x\"\ntimeout = \"5 parsecs\"", &["timeout", "parsecs"]),
        ("[[persistence_profile]]\nname = \"kept\"", &["kept"]),
        (
            "[[virtual_service]]\nname = \"x\"\naddress = \"198.51.100.10\"\nport = 80\npool = \"web4\"",
            &["web4", "198.51.100.10"],
        ),
        (
            "[[virtual_service]]\nname = \"x\"\naddress = \"198.51.100.11\"\nport = 80\npool = \"nowhere\"",
            &["nowhere"],
        ),
        (
            "[[virtual_service]]\nname = \"x\"\naddress = \"198.51.100.11\"\nport = 80\nmode = \"https\"\npool = \"web4\"",
            &["mode", "https"],
        ),
        (
            "[[pool]]\nname = \"thief\"\nservers = [{ address = \"10.2.0.10\", port = 8080 }]\n\
             [[virtual_service]]\nname = \"x\"\naddress = \"198.51.100.11\"\nport = 80\npool = \"thief\"",
            &["10.2.0.10", "8080", "thief"],
        ),
        ("[[pool]\n", &[]),
    ] {
        let finished = check(&balancer, &format!("{valid}\n{added}\n"));
        assert_eq!(finished.code, Some(2), "{added}: {}", finished.stderr);
        assert!(
            finished.stderr.lines().all(|line| line.contains("lbpersist.toml:")),
            "{added}: {}",
            finished.stderr
        );
        for word in words {
            assert!(finished.stderr.contains(word), "{added}: no {word} in {}", finished.stderr);
        }
    }
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once_with_their_lines() {
    let Some((_topology, balancer, valid)) = prepare() else {
        return;
    };
    let text = format!(
        "{valid}\n{POOL}\n[[persistence_profile]]\nname = \"x\"\nipv4_mask = 33\n[[pool]]\nname = \"y\"\nsize = 1\n\
         servers = []\n[[virtual_service]]\nname = \"z\"\naddress = \"nowhere\"\nport = 0\npool = \"other\"\n"
    );
    let finished = check(&balancer, &text);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    for (start, word) in [
        ("ipv4_mask = 33", "33"),
        ("size = 1", "size"),
        ("address = \"nowhere\"", "nowhere"),
        ("port = 0", "port"),
    ] {
        let line = text.lines().position(|line| line == start).unwrap() + 1;
        let told = finished.stderr.lines().any(|told| {
            told.contains(word) && numbers(told).any(|number| number == line.to_string())
        });
        assert!(told, "line {line}, {word}: {}", finished.stderr);
    }
}

#[test]
fn run_refuses_a_bad_file_and_attaches_nothing() {
    let Some((topology, balancer, valid)) = prepare() else {
        return;
    };
    balancer.configure(format!("colour = \"red\"\n{valid}")).unwrap();
    let finished = run(&balancer, &["client1"]);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert_nothing_is_left(&topology, &balancer);
}

#[test]
fn run_attaches_to_all_interfaces_or_to_none() {
    let Some((topology, balancer, _)) = prepare() else {
        return;
    };
    let finished = run(&balancer, &["client1", "nowhere0"]);
    assert!(matches!(finished.code, Some(1 | 2)), "{finished:?}");
    assert!(finished.stderr.contains("nowhere0"), "{}", finished.stderr);
    assert_nothing_is_left(&topology, &balancer);
}

#[test]
fn run_without_interfaces_says_so() {
    let Some((topology, balancer, _)) = prepare() else {
        return;
    };
    let finished = run(&balancer, &[]);
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("interface"), "{}", finished.stderr);
    assert_nothing_is_left(&topology, &balancer);
}

#[test]
fn pins_outside_a_bpf_file_system_are_refused() {
    let Some((topology, balancer, _)) = prepare() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = directory.path().to_str().unwrap();
    // Something of somebody's, under names that are ours as well.
    let letters = directory.path().join("maps/letters");
    fs::create_dir_all(letters.parent().unwrap()).unwrap();
    fs::write(&letters, "dear").unwrap();
    let around = format!("/sys/fs/bpf/../../..{elsewhere}");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path(), &link).unwrap();
    let file = balancer.configuration_file();
    let run = ["run", "--config", file.to_str().unwrap(), "--interface", "client1"];
    let (attach, far_end) = (["attach", "client1"], ["decapsulate", "client1"]);
    for pins in [elsewhere, &around, link.to_str().unwrap()] {
        for command in [&run[..], &["detach", "--all"], &attach, &far_end] {
            let finished = balancer.cli(&[&["--pin-dir", pins], command].concat()).unwrap();
            assert!(matches!(finished.code, Some(1 | 2)), "{pins} {command:?}: {finished:?}");
            assert_eq!(fs::read_to_string(&letters).unwrap(), "dear", "{pins} {command:?}");
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "{pins} {command:?}");
        }
        let finished = balancer.cli(&[&["--pin-dir", pins], &run[..]].concat()).unwrap();
        assert!(finished.stderr.contains("not on a BPF file system"), "{}", finished.stderr);
    }
    assert_nothing_is_left(&topology, &balancer);
}

#[test]
fn what_others_pin_beside_is_left_to_them() {
    let Some((_topology, balancer, _)) = prepare() else {
        return;
    };
    let pins = format!("/sys/fs/bpf/lbpersist-beside-{}", std::process::id());
    let theirs = format!("{pins}/theirs");
    fs::create_dir_all(&theirs).unwrap();
    let cli = |arguments: &[&str]| {
        let finished = balancer.cli(&[&["--pin-dir", &pins], arguments].concat()).unwrap();
        (finished.code, finished.stdout)
    };
    assert_eq!(cli(&["attach", "client1"]).0, Some(0));
    assert!(fs::exists(format!("{pins}/maps")).unwrap());
    assert_eq!(cli(&["detach", "--all"]).0, Some(0));
    let left: Vec<_> = fs::read_dir(&pins).unwrap().map(|one| one.unwrap().file_name()).collect();
    assert_eq!(left, ["theirs"]);
    let (code, said) = cli(&["detach", "--all"]);
    assert_eq!((code, said), (Some(0), format!("nothing is pinned under {pins}\n")));
    fs::remove_dir(theirs).unwrap();
    fs::remove_dir(pins).unwrap();
}

#[test]
fn without_root_a_sentence_says_what_is_missing() {
    let Some((topology, balancer, valid)) = prepare() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let everyone = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), everyone.clone()).unwrap();
    let binary = directory.path().join("lbpersist");
    fs::copy(balancer::binary().unwrap(), &binary).unwrap();
    fs::set_permissions(&binary, everyone).unwrap();
    let file = directory.path().join("lbpersist.toml");
    fs::write(&file, valid).unwrap();

    // A socket where nobody but root may make one, and where everyone may: then it is the kernel that refuses.
    let open = directory.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    for socket in [balancer.socket(), open.join("lbpersist.sock")] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
        command.arg("--pin-dir").arg(balancer.pin_directory()).arg("--socket").arg(&socket);
        command.args(["run", "--interface", "client1", "--config"]).arg(&file);
        let finished = topology.balancer.run(|| command::run(&mut command)).unwrap();
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.starts_with("lbpersist: "), "{}", finished.stderr);
        assert!(finished.stderr.contains("root"), "{}", finished.stderr);
    }
}

#[test]
fn unknown_commands_and_missing_files_are_bad_input() {
    let Some((_topology, balancer, _)) = prepare() else {
        return;
    };
    assert_eq!(balancer.cli(&["balance"]).unwrap().code, Some(2));
    assert_eq!(balancer.cli(&["persistence", "flush", "--client", "all"]).unwrap().code, Some(2));
    let finished = balancer.cli(&["check", "--config", "/no/such/file.toml"]).unwrap();
    assert!(matches!(finished.code, Some(1 | 2)), "{finished:?}");
    assert!(finished.stderr.contains("/no/such/file.toml"), "{}", finished.stderr);
}

/// One client, one server, no daemon, and a valid file; `None` without root.
fn prepare() -> Option<(Topology, Balancer, String)> {
    if !wait::is_root_or_skip() {
        return None;
    }
    let topology = Topology::new(Wiring::Routed, 1, 1).unwrap();
    let valid = Web::default().config(&topology.servers).to_string();
    let balancer = Balancer::prepare(&topology.balancer, &valid, &[]).unwrap();
    Some((topology, balancer, valid))
}

fn check(balancer: &Balancer, text: &str) -> Finished {
    balancer.configure(text).unwrap();
    let file = balancer.configuration_file();
    balancer.cli(&["check", "--config", file.to_str().unwrap()]).unwrap()
}

fn run(balancer: &Balancer, interfaces: &[&str]) -> Finished {
    let file = balancer.configuration_file();
    let mut arguments = vec!["run", "--config", file.to_str().unwrap()];
    for interface in interfaces {
        arguments.extend(["--interface", interface]);
    }
    balancer.cli(&arguments).unwrap()
}

fn assert_nothing_is_left(topology: &Topology, balancer: &Balancer) {
    let mut ip = Command::new("ip");
    ip.args(["-n", topology.balancer.name(), "-d", "link"]);
    let links = command::run(&mut ip).unwrap().success().unwrap();
    assert!(!links.contains("xdp"), "{links}");
    let pins = files_below(balancer.pin_directory());
    assert!(pins.is_empty(), "{pins:?}");
}

fn files_below(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path()),
            _ => vec![entry.path()],
        })
        .collect()
}

fn numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_digit()).filter(|number| !number.is_empty())
}
