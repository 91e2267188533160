//! The file, as it is meant, when it is damaged, cut off, or in the way.

use std::{fs, os::unix::fs::PermissionsExt as _};

use lbpersist_common::{
    net::{Address, Destination},
    persistence::EntryKey,
    server::Binding,
};

use super::*;
use crate::{
    datapath::{bind::Wanted, desired::Desired, identity::Identities},
    persistence::state::Store as _,
};

fn kernel(pools: u32) -> Kernel {
    let mut identities = Identities::default();
    for n in 0..pools {
        identities.pool(&format!("pool {n}")).unwrap();
    }
    Kernel::of(&identities, &Desired::default())
}

fn keep(store: &Store, kernel: &Kernel) {
    store.note_kernel(kernel);
    store.flush();
}

fn cookies(name: &str) -> State {
    let mut state = State::default();
    state.rotate(1, 86_400);
    state.name("profile", name);
    state
}

fn entry(n: u8) -> Wanted {
    let key = EntryKey {
        client: Address::from_ipv4([192, 0, 2, n]),
        scope: 3,
        destination: Destination::NONE,
    };
    let binding = Binding { server: 1, generation: 2 };
    Wanted { key, binding, left_ns: u64::from(n) * 1_000_000_000, age_ns: 7 }
}

#[test]
fn what_was_kept_is_known_to_the_next_and_to_the_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("a/b");
    let store = Store::new(&place);
    assert_eq!((store.kernel(), store.load(), store.snapshot()), (None, None, None));
    assert!(!place.exists(), "looking makes nothing");
    keep(&store, &kernel(2));
    let cookies = cookies("web");
    store.save(&cookies);
    let entries: Vec<Wanted> = (0..=255).map(entry).cycle().take(10_000).collect();
    let snapshot = Snapshot { taken: 100, boot: "b".to_owned(), entries };
    store.keep_snapshot(&Snapshot { taken: 1, ..snapshot.clone() });
    store.keep_snapshot(&snapshot);
    assert_eq!(store.status().problem, None);
    drop(store);
    let store = Store::new(&place);
    assert_eq!(store.kernel(), Some(kernel(2)));
    assert_eq!(store.load(), Some(cookies));
    assert_eq!(store.snapshot(), Some(snapshot));
    let rights = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((rights(place.join("state.redb")), rights(place)), (0o600, 0o700));
}

#[test]
fn time_goes_on_while_the_machine_is_off() {
    let entries = vec![entry(10), entry(60)];
    let snapshot = Snapshot { taken: 100, boot: String::new(), entries };
    let left = snapshot.clone().left_at(120);
    assert_eq!(left, [Wanted { left_ns: 40_000_000_000, age_ns: 20_000_000_007, ..entry(60) }]);
    assert_eq!(snapshot.left_at(50).len(), 2, "a clock that was put back takes nothing");
}

#[test]
fn a_damaged_file_is_set_aside_and_the_state_begins_anew() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.redb");
    keep(&Store::new(directory.path()), &kernel(500));
    let whole = fs::read(&file).unwrap();
    let mut torn = whole.clone();
    let middle = torn.len() / 2;
    torn.truncate(middle);
    let mut flipped = whole.clone();
    flipped.iter_mut().skip(4096).for_each(|byte| *byte ^= 0x55);
    for damaged in [b"nothing of ours".to_vec(), torn, flipped, vec![0; whole.len()]] {
        fs::write(&file, &damaged).unwrap();
        let store = Store::new(directory.path());
        assert_eq!(store.kernel(), None);
        assert_eq!(
            fs::read(directory.path().join("state.redb.damaged")).unwrap().len(),
            damaged.len()
        );
        keep(&store, &kernel(1));
        drop(store);
        assert_eq!(Store::new(directory.path()).kernel(), Some(kernel(1)));
    }
}

#[test]
fn the_file_of_an_earlier_version_is_taken_over_once() {
    let directory = tempfile::tempdir().unwrap();
    let old = directory.path().join("cookies");
    let state = cookies("web");
    fs::write(&old, state.write().as_bytes()).unwrap();
    let store = Store::new(directory.path());
    assert_eq!(store.load().as_ref(), Some(&state));
    assert!(old.exists(), "until it is written elsewhere");
    store.save(&state);
    assert!(!old.exists());
    assert_eq!(store.load(), Some(state));

    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("cookies"), "lbpersist coo").unwrap();
    let store = Store::new(directory.path());
    assert_eq!(store.load(), None);
    assert!(directory.path().join("cookies.damaged").exists());
}

#[test]
fn what_cannot_be_written_waits_and_is_written_later() {
    let directory = tempfile::tempdir().unwrap();
    // Not even root can make a directory where a file is.
    let place = directory.path().join("state");
    fs::write(&place, "in the way").unwrap();
    let store = Store::new(&place);
    assert_eq!(store.kernel(), None);
    keep(&store, &kernel(1));
    keep(&store, &kernel(2));
    store.save(&cookies("web"));
    assert!(store.status().problem.unwrap().contains("state.redb"));
    assert!(!store.is_due(), "not at once");
    fs::remove_file(&place).unwrap();
    store.flush();
    assert_eq!(store.status().problem, None);
    assert_eq!(store.kernel(), Some(kernel(2)));
    assert!(store.load().is_some());
}

#[test]
fn a_file_that_another_has_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let first = Store::new(directory.path());
    keep(&first, &kernel(1));
    let second = Store::new(directory.path());
    keep(&second, &kernel(2));
    assert!(second.status().problem.unwrap().contains("another process uses it"));
    assert_eq!(first.kernel(), Some(kernel(1)));
    drop(first);
    second.flush();
    assert_eq!(second.kernel(), Some(kernel(2)));
}

#[test]
fn what_could_not_be_read_at_the_start_is_not_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let first = Store::new(directory.path());
    keep(&first, &kernel(1));
    let second = Store::new(directory.path());
    assert_eq!(second.kernel(), None, "another has it");
    drop(first);
    keep(&second, &kernel(2));
    assert!(second.status().problem.unwrap().contains("is not overwritten"));
    drop(second);
    assert_eq!(Store::new(directory.path()).kernel(), Some(kernel(1)));
}
