//! What outlives a reboot, what a full disk and a kill in the middle of a write do to it, and entries that travel by file.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use lbpersist::store::Store;
use lbpersist_tests::{
    command,
    scenario::{Scenario, Web, web},
    topology::{Family, Wiring},
    wait,
};
use redb::ReadableDatabase as _;
use serde_json::Value;

const STATE: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("state");

/// A scenario whose entries are kept.
fn lab(snapshot: &str) -> Scenario {
    Scenario::start(Wiring::Routed, 3, |hosts| {
        Web::default().config(hosts).also(format_args!("[daemon]\nsnapshot = {snapshot:?}"))
    })
    .unwrap()
}

/// Has clients move by hand of fate, so that the ring alone would send them elsewhere.
fn moved(lab: &mut Scenario) -> (Vec<std::net::IpAddr>, Vec<String>) {
    lab.kill("s1");
    let from = lab.subnets(Family::V4, 0, 60);
    let met = lab.meet(&from);
    lab.revive("s1");
    (from, met)
}

#[test]
fn a_reboot_keeps_ids_entries_and_what_was_said_by_hand() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = lab("1h");
    let (from, met) = moved(&mut lab);
    let bindings = lab.bindings();
    let s1 = lab.host("s1").address(Family::V4).to_string();
    lab.balancer.cli(&["server", "drain", web(Family::V4), &s1]).unwrap().success().unwrap();
    lab.balancer.stop().unwrap();
    lab.balancer.cli(&["detach", "--all"]).unwrap().success().unwrap();
    another_boot(&lab.balancer.state_directory());

    lab.balancer.restart().unwrap();
    assert_eq!(lab.bindings(), bindings, "{}", lab.balancer.log());
    lab.wait_for("s1", &[Family::V4], "draining");
    wait::until_true("servers are reachable", || {
        lab.balancer
            .json(&["status"])
            .is_ok_and(|status| !status.to_string().contains("\"reachable\":false"))
    });
    assert_eq!(lab.meet(&from), met, "clients with an entry");
    let new = lab.subnets(Family::V4, 1000, 60);
    assert!(!lab.meet(&new).contains(&"s1".to_owned()), "it still drains");

    // The same start of the machine: who removes the entries means it.
    lab.balancer.stop().unwrap();
    lab.balancer.cli(&["detach", "--all"]).unwrap().success().unwrap();
    lab.balancer.restart().unwrap();
    assert!(lab.bindings().is_empty());
}

#[test]
fn a_full_disk_is_told_of_survived_and_tried_again() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = lab("1s");
    lab.balancer.stop().unwrap();
    let disk = Disk::mount(&lab.balancer.state_directory());
    let filler = disk.0.join("filler");
    fill(&filler);
    lab.balancer.restart().unwrap();
    lab.wait_until_all_are_up();
    let (from, met) = moved(&mut lab);
    wait::until_true("the full disk is in `status`", || problem(&lab).contains("No space left"));
    assert!(lab.balancer.log().contains("the daemon goes on and tries again"));
    assert_eq!(lab.meet(&from), met);
    let text = lab.balancer.cli(&["status"]).unwrap().success().unwrap();
    assert!(text.contains("No space left on device"), "{text}");

    fs::remove_file(&filler).unwrap();
    wait::until_true("the state is kept", || problem(&lab).is_empty());
    fill(&filler);
    let s1 = lab.host("s1").address(Family::V4).to_string();
    lab.balancer.cli(&["server", "drain", web(Family::V4), &s1]).unwrap().success().unwrap();
    assert_eq!(lab.meet(&from), met);
    fs::remove_file(&filler).unwrap();
    wait::until_true("the state is kept", || problem(&lab).is_empty());
    lab.balancer.kill_dash_nine().unwrap();
    assert!(Store::new(&lab.balancer.state_directory()).kernel().is_some());
    drop(lab);
    drop(disk);
}

#[test]
fn a_kill_in_the_middle_of_writing_leaves_a_whole_state() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = lab("1s");
    let s1 = lab.host("s1").address(Family::V4).to_string();
    for round in 0..6 {
        for turn in 0..=round {
            let word = if turn % 2 == 0 { "drain" } else { "enable" };
            lab.balancer.cli(&["server", word, web(Family::V4), &s1]).unwrap().success().unwrap();
        }
        lab.balancer.kill_dash_nine().unwrap();
        let kept = Store::new(&lab.balancer.state_directory());
        assert!(kept.kernel().is_some_and(|kernel| kernel.identities().is_some()));
        assert_eq!(kept.status().problem, None);
        drop(kept);
        lab.balancer.restart().unwrap();
        assert!(!lab.balancer.log().contains("damaged"), "{}", lab.balancer.log());
    }
}

#[test]
fn a_damaged_state_is_set_aside_with_a_warning() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = lab("1h");
    lab.balancer.stop().unwrap();
    let file = lab.balancer.state_directory().join("state.redb");
    fs::write(&file, "nothing of ours").unwrap();
    lab.balancer.cli(&["detach", "--all"]).unwrap().success().unwrap();
    lab.balancer.restart().unwrap();
    assert!(lab.balancer.log().contains("set aside"), "{}", lab.balancer.log());
    assert!(file.with_extension("redb.damaged").exists());
    lab.wait_until_all_are_up();
    lab.meet(&lab.subnets(Family::V4, 0, 3));
}

#[test]
fn entries_go_to_a_file_and_come_back() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut lab = Scenario::web(&Web::default()).unwrap();
    let (from, met) = moved(&mut lab);
    lab.meet(&lab.subnets(Family::V6, 0, 5));
    let bindings = lab.bindings();
    let text = lab.balancer.cli(&["persistence", "export"]).unwrap().success().unwrap();
    assert_eq!(text.lines().count(), 65);
    let only = lab.balancer.cli(&["persistence", "export", "--pool", web(Family::V6)]).unwrap();
    assert_eq!(only.success().unwrap().lines().count(), 5);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("entries.jsonl");
    let file_name = file.to_str().unwrap();
    fs::write(&file, &text).unwrap();
    let import = || lab.balancer.json(&["persistence", "import", file_name]).unwrap();
    assert_eq!(import()["kept"], 65, "nobody is moved");

    lab.balancer.flush(&[]).unwrap();
    let imported = import();
    assert_eq!((&imported["bound"], &imported["wrong"]), (&65.into(), &0.into()));
    assert_eq!(lab.bindings(), bindings);
    assert_eq!(lab.meet(&from), met, "whatever the ring says");
    let again = lab.balancer.cli(&["persistence", "export"]).unwrap().success().unwrap();
    for (before, after) in text.lines().zip(again.lines()) {
        let [before, after]: [Value; 2] = [before, after].map(|l| serde_json::from_str(l).unwrap());
        for field in ["virtual_service", "pool", "client", "destination", "server"] {
            assert_eq!(before[field], after[field]);
        }
        let [b, a] = [&before, &after].map(|v| v["created"].as_u64().unwrap());
        assert!(b.abs_diff(a) <= 2, "{before} {after}");
    }

    lab.balancer.flush(&[]).unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let with = |field: &str, value: Value| {
        let mut line = first.clone();
        line[field] = value;
        line.to_string()
    };
    let lines = [
        with("server", "192.0.2.250:1".into()),
        "{".to_owned(),
        with("pool", "none".into()),
        with("client", "0.0.0.0/0".into()),
        with("remaining_seconds", (-1).into()),
        with("destination", "192.0.2.1".into()),
        format!("{{\"pool\":\"{}\"}}", "x".repeat(1 << 20)),
        with("remaining_seconds", 0.into()),
        with("remaining_seconds", 20.5.into()),
    ];
    fs::write(&file, lines.join("\n")).unwrap();
    let finished = lab.balancer.cli(&["persistence", "import", file_name]).unwrap();
    assert_eq!(finished.code, Some(2), "{finished:?}");
    for part in [
        "line 2: this is no entry",
        "line 3: there is no pool `none`",
        "line 4: client 0.0.0.0/0 is wider than the /32",
        "line 5: `remaining_seconds` must be 0 or more",
        "line 6: clients of this service cannot come for 192.0.2.1",
        "line 7: it has more than 4096 bytes",
        "6 lines are wrong",
    ] {
        assert!(finished.stderr.contains(part), "no {part} in {}", finished.stderr);
    }
    assert!(
        finished.stdout.contains("1 bound") && finished.stdout.contains("1 over"),
        "{finished:?}"
    );
    assert!(finished.stdout.contains("1 of unknown servers"), "{finished:?}");
    let left = &lab.balancer.json(&["persistence", "list"]).unwrap()[0]["expires_in_seconds"];
    assert!((10.0..=20.5).contains(&left.as_f64().unwrap()), "{left}");
}

fn problem(lab: &Scenario) -> String {
    let status = lab.balancer.json(&["status"]).unwrap();
    assert!(status["store"].is_object(), "{status}");
    status["store"]["problem"].as_str().unwrap_or_default().to_owned()
}

/// Makes the snapshot one of another start of the machine.
fn another_boot(directory: &Path) {
    let database = redb::Database::open(directory.join("state.redb")).unwrap();
    let read = database.begin_read().unwrap();
    let head = read.open_table(STATE).unwrap().get("snapshot").unwrap().unwrap().value().to_vec();
    drop(read);
    let mut head: Value = serde_json::from_slice(&head).unwrap();
    head["boot"] = "another".into();
    let write = database.begin_write().unwrap();
    let head = head.to_string();
    write.open_table(STATE).unwrap().insert("snapshot", head.as_bytes()).unwrap();
    write.commit().unwrap();
}

/// A small file system that can be full.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs"]).arg(at);
        command::run(&mut mount).unwrap().success().unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Takes all the room there is.
fn fill(file: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(file).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}
