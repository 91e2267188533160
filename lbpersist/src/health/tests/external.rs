//! Commands: what they get, what they say, and how they end.

use std::{fs, path::Path};

use super::*;
use crate::model::ExternalCheck;

/// A script for a shell, which the monitor itself never uses.
fn script(text: &str) -> MonitorKind {
    MonitorKind::External(ExternalCheck {
        program: "/bin/sh".into(),
        arguments: vec!["-c".to_owned(), text.to_owned(), "check".to_owned()],
    })
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

#[tokio::test]
async fn the_exit_code_decides_and_the_output_explains() {
    assert_eq!(ask(script("echo fine; exit 0"), address(), PATIENCE).await, Ok(()));
    assert_eq!(
        complaint(script("echo one; echo two >&2; exit 3"), address(), PATIENCE).await,
        "/bin/sh ended with exit status: 3: one two"
    );
    assert_eq!(
        complaint(script("kill -TERM $$"), address(), PATIENCE).await,
        "/bin/sh ended with signal: 15 (SIGTERM)"
    );
}

#[tokio::test]
async fn the_environment_is_small_and_says_whom_to_check() {
    let text = "exec 2>&1; /usr/bin/env | sort; pwd; read line || echo no input; exit 1";
    let said = complaint(script(text), address(), PATIENCE).await;
    let (_, said) = said.split_once(": ").and_then(|(_, rest)| rest.split_once(": ")).unwrap();
    let words: Vec<&str> = said.split(' ').filter(|word| !word.starts_with("PWD=")).collect();
    let expected = [
        "LBPERSIST_MONITOR=tcp",
        "LBPERSIST_POOL=web",
        "LBPERSIST_SERVER_ADDRESS=127.0.0.1",
        "LBPERSIST_SERVER_PORT=8080",
        "LC_ALL=C",
    ];
    assert_eq!(
        words
            .iter()
            .filter(|word| word.starts_with("LBPERSIST") || word.starts_with("LC"))
            .collect::<Vec<_>>(),
        expected.iter().collect::<Vec<_>>()
    );
    assert!(said.ends_with("/ no input"), "{said}");
    // What else is there was set by the shell.
    let others: Vec<_> = words
        .iter()
        .filter_map(|word| word.split_once('=').map(|(name, _)| name))
        .filter(|name| {
            !name.starts_with("LBPERSIST")
                && !["LC_ALL", "PATH", "OLDPWD", "SHLVL", "_"].contains(name)
        })
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

#[tokio::test]
async fn what_takes_too_long_is_killed_with_all_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("children");
    let text = format!(
        "sleep 1000 & echo $! >> {0}; sleep 1000 & echo $! >> {0}; echo waiting; wait",
        file.display()
    );
    assert_eq!(
        complaint(script(&text), address(), Duration::from_secs(2)).await,
        "/bin/sh took longer than 2s: waiting"
    );
    let children = fs::read_to_string(file).unwrap();
    assert_eq!(children.lines().count(), 2);
    let ended = async {
        while children.lines().any(is_running) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, ended).await.expect("the children are killed");
}

#[tokio::test]
async fn a_check_that_is_given_up_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("child");
    let mut target = target(address());
    target.monitor.kind = script(&format!("echo $$ > {}; exec sleep 1000", file.display()));
    target.monitor.timeout = Duration::from_secs(1000);
    let (checker, _reports) = start(vec![target]);
    let child = async {
        loop {
            match fs::read_to_string(&file) {
                Ok(child) if child.ends_with('\n') => break child,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let child = timeout(PATIENCE, child).await.expect("it runs");
    assert!(is_running(child.trim()));
    drop(checker);
    let ended = async {
        while is_running(child.trim()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, ended).await.expect("it is killed");
}

#[tokio::test]
async fn a_child_that_holds_the_pipe_keeps_nobody_waiting() {
    let begun = Instant::now();
    assert_eq!(ask(script("sleep 2 & exit 0"), address(), PATIENCE).await, Ok(()));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn endless_output_is_cut_and_stops_nothing() {
    let text = "head -c 1000000 /dev/zero | tr '\\0' x; exit 2";
    let complaint = complaint(script(text), address(), PATIENCE).await;
    assert!(complaint.starts_with("/bin/sh ended with exit status: 2: xxx"), "{complaint}");
    assert!(complaint.len() < 400, "{}", complaint.len());
}

#[tokio::test]
async fn a_command_that_cannot_be_run_is_not_the_servers_fault() {
    for program in ["/no/such/program", "/etc/passwd", "/"] {
        let check = ExternalCheck { program: program.into(), arguments: Vec::new() };
        let result = ask(MonitorKind::External(check), address(), PATIENCE).await;
        assert!(matches!(result, Err(Fault::Own(_))), "{program}: {result:?}");
    }
}

/// Whether there is a process of that number that has not ended.
fn is_running(process: &str) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(process).join("stat"));
    // The state follows the name, which is in parentheses.
    let state = status.as_deref().ok().and_then(|text| text.rsplit_once(") "));
    state.is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
