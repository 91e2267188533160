//! UDP clients: their first datagram makes the entry, and silence ends the flow.

use lbpersist_common::counter::Event;
use lbpersist_tests::{topology::Family, wait};

use crate::{
    persistence::{open, sizes, weighted},
    setup::{Text, V4, Visits as _, at_port, client},
};

#[test]
fn the_first_datagram_makes_the_entry() {
    for family in Family::BOTH {
        let Some(mut rig) = Text::servers(&[11, 12, 13]).rig() else { return };
        let from = client(family, 1);
        let host = rig.ask(from);
        assert_eq!(sizes(&mut rig), [1, 0, 0]);
        assert_eq!(open(&mut rig), 0, "nothing tells when a flow ends");
        for n in 1..5 {
            assert_eq!(rig.ask(at_port(from, n)), host);
        }
        assert_eq!(sizes(&mut rig), [1, 0, 0]);
        assert_eq!(rig.event(Event::EntryCreated).unwrap(), 1);
        assert_eq!(rig.event(Event::EntryMoved).unwrap(), 0);
    }
}

#[test]
fn an_entry_holds_when_the_ring_names_another_server() {
    let Some(mut rig) = Text::servers(&[11, 12]).rig() else { return };
    let before: Vec<u8> = (0..40).map(|n| rig.ask(client(V4, n))).collect();
    rig.configure(&Text::servers(&[11, 12, 13, 14]).text()).unwrap();
    let after: Vec<u8> = (0..40).map(|n| rig.ask(client(V4, n))).collect();
    assert_eq!(before, after);
}

#[test]
fn the_timeout_runs_from_the_end_of_the_flow() {
    let profile = "timeout = \"1s\"";
    let limits = "udp = \"1s\"";
    let Some(mut rig) = Text::servers(&[11, 12]).profile(profile).limits(limits).rig() else {
        return;
    };
    let from = client(V4, 1);
    let host = rig.ask(from);
    rig.configure(&weighted(23 - host).profile(profile).limits(limits).text()).unwrap();
    let start = lbpersist::clock::now_ns();
    // A datagram now and then keeps it alive beyond idle limit and timeout together.
    wait::throughout(std::time::Duration::from_millis(2500), "the client is kept", || {
        rig.ask(from) == host
    });
    let entry = rig.entries().unwrap()[0].1;
    assert!(entry.idle_since_ns > start + 3_000_000_000, "the flow's end moves with it");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(rig.ask(from), host, "the flow has ended, the entry has not");
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(rig.ask(from), 23 - host, "now it has");
    assert_eq!(rig.event(Event::EntryMoved).unwrap(), 1);
}

#[test]
fn without_persistence_a_flow_is_remembered_until_it_is_silent() {
    let limits = "udp = \"1s\"";
    let text = Text::servers(&[11, 12]).without_persistence().limits(limits);
    let Some(mut rig) = text.rig() else { return };
    let flows = |rig: &mut lbpersist_tests::rig::Rig| -> Vec<u8> {
        (0..40).map(|n| rig.ask(at_port(client(V4, 1), n))).collect()
    };
    let before = flows(&mut rig);
    assert!(before.contains(&11) && before.contains(&12), "each flow by itself: {before:?}");
    assert_eq!(sizes(&mut rig), [0, 40, 0]);
    let gone = weighted(11).without_persistence().limits(limits);
    rig.configure(&gone.text()).unwrap();
    assert_eq!(flows(&mut rig), before);
    std::thread::sleep(std::time::Duration::from_millis(1200));
    assert_eq!(flows(&mut rig), vec![11; 40], "by the new ring");
    assert_eq!(sizes(&mut rig), [0, 40, 0]);
}
