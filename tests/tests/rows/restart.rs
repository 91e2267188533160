//! A daemon that starts again takes over what is pinned.

use lbpersist_tests::rig::Rig;

use crate::setup::{POOL_V4, Text, V4, Visits as _, at_port, client};

fn side(rig: &mut Rig) -> u32 {
    rig.data_path().side(POOL_V4).unwrap()
}

#[test]
fn everything_is_kept() {
    let text = Text::servers(&[11, 12, 13]);
    let Some(mut rig) = text.rig() else { return };
    // Not the first ids, numbers and generations, which a daemon would give that remembers nothing.
    rig.configure(&Text::servers(&[11, 12]).text()).unwrap();
    rig.configure(&text.text()).unwrap();
    let met: Vec<u8> = (0..40).map(|n| rig.open(client(V4, n))).collect();
    rig.configure(&Text::servers(&[11, 12, 13, 14]).text()).unwrap();
    let tables = (rig.entries().unwrap(), rig.connections().unwrap());
    let identities = rig.data_path().identities.clone();
    let side_before = side(&mut rig);
    let marked = rig.marked(POOL_V4).unwrap();
    let mut maps = rig.data_path().actual().clone();
    assert!(marked > 0, "the ring differs from some entries");

    rig.reopen().unwrap();
    assert_eq!(rig.data_path().identities, identities);
    maps.rings.clear();
    assert_eq!(*rig.data_path().actual(), maps, "all but who is in the rings is read back");
    rig.apply().unwrap();
    assert_eq!(rig.data_path().identities, identities);
    assert_eq!((rig.entries().unwrap(), rig.connections().unwrap()), tables);
    assert_eq!(side(&mut rig), side_before, "no ring was published");
    assert_eq!(rig.marked(POOL_V4).unwrap(), marked);
    assert_eq!(rig.apply().unwrap(), 0, "and nothing is left to do");
    for (n, &host) in (0..40).zip(&met) {
        assert_eq!(rig.data(client(V4, n)), host);
        assert_eq!(rig.open(at_port(client(V4, n), 1)), host);
    }
}

#[test]
fn a_change_while_no_daemon_ran_is_a_change_like_any_other() {
    let Some(mut rig) = Text::servers(&[11, 12]).rig() else { return };
    let met: Vec<u8> = (0..40).map(|n| rig.open(client(V4, n))).collect();
    rig.reopen().unwrap();
    rig.configure(&Text::servers(&[11, 12, 13, 14]).text()).unwrap();
    for (n, &host) in (0..40).zip(&met) {
        assert_eq!(rig.data(client(V4, n)), host);
    }
    rig.reopen().unwrap();
    rig.configure(&Text::servers(&[13, 14]).text()).unwrap();
    for n in 0..40 {
        assert!(rig.open(at_port(client(V4, n), 1)) > 12);
    }
}

#[test]
fn packets_are_carried_while_nobody_is_there() {
    let Some(mut rig) = Text::servers(&[11, 12]).rig() else { return };
    let from = client(V4, 1);
    let host = rig.open(from);
    rig.reopen().unwrap();
    assert_eq!(rig.data(from), host, "before anything is applied");
    assert_eq!(rig.open(at_port(from, 1)), host);
    assert_eq!(rig.entries().unwrap()[0].1.open, 2);
}

#[test]
fn a_pool_that_goes_and_comes_back_is_another_pool() {
    let with = Text::servers(&[11, 12]);
    let Some(mut rig) = with.rig() else { return };
    let from = client(V4, 1);
    rig.open(from);
    let scope = rig.entries().unwrap()[0].0.scope;
    rig.configure("[data_path]\nring_size = 251").unwrap();
    rig.reopen().unwrap();
    rig.configure(&with.text()).unwrap();
    rig.open(from);
    let scopes: Vec<u32> = rig.entries().unwrap().iter().map(|(key, _)| key.scope).collect();
    assert_eq!(scopes.len(), 2);
    assert!(scopes.iter().filter(|other| **other != scope).count() == 1, "{scopes:?}");
    rig.sweep_pass(lbpersist::clock::now_ns()).unwrap();
    assert_eq!(rig.entries().unwrap().len(), 1, "what belongs to nothing goes");
    assert_eq!(rig.connections().unwrap().len(), 1);
}
