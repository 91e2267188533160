//! What the sweep does to tables and marks. Its time is given, so that nothing waits.

use lbpersist::clock::now_ns;
use lbpersist_common::{counter::Event, ring::REGIONS};
use lbpersist_tests::rig::Rig;

use crate::{
    persistence::{open, sizes, weighted},
    setup::{POOL_V4, Text, V4, Visits as _, at_port, client},
};

const SECOND: u64 = 1_000_000_000;

#[test]
fn old_handshakes_go_and_their_slots_are_clear() {
    let Some(mut rig) = Text::servers(&[11, 12]).limits("handshake = \"10s\"").rig() else {
        return;
    };
    quiet(&mut rig, now_ns());
    rig.syn(client(V4, 1));
    rig.sweep_handshakes(now_ns() + 9 * SECOND).unwrap();
    assert_eq!(sizes(&mut rig), [0, 0, 1]);
    assert_eq!(rig.marked(POOL_V4).unwrap(), 1);
    rig.sweep_handshakes(now_ns() + 11 * SECOND).unwrap();
    assert_eq!(sizes(&mut rig), [0, 0, 0]);
    assert_eq!(rig.marked(POOL_V4).unwrap(), 0);
}

#[test]
fn expired_entries_are_reclaimed_and_others_are_not() {
    let Some(mut rig) = Text::servers(&[11, 12]).profile("timeout = \"10s\"").rig() else { return };
    let (closed, held) = (client(V4, 1), client(V4, 2));
    let host = rig.open(closed);
    rig.open(held);
    rig.close(host, closed);
    rig.sweep_pass(now_ns() + 9 * SECOND).unwrap();
    assert_eq!(rig.entries().unwrap().len(), 2);
    rig.sweep_pass(now_ns() + 11 * SECOND).unwrap();
    assert_eq!(open(&mut rig), 1, "the one with a connection is left");
    assert_eq!(rig.connections().unwrap().len(), 1, "the closed connection went too");
    assert_eq!(rig.event(Event::EntryExpired).unwrap(), 1);
}

#[test]
fn a_count_is_put_right_when_two_passes_agree() {
    let Some(mut rig) = Text::servers(&[11, 12]).rig() else { return };
    let from = client(V4, 1);
    rig.open(from);
    rig.open(at_port(from, 1));
    evict_connection(&mut rig);
    rig.sweep_pass(now_ns()).unwrap();
    assert_eq!(open(&mut rig), 2, "one pass may have missed it");
    rig.sweep_pass(now_ns()).unwrap();
    assert_eq!(open(&mut rig), 1);
    assert_eq!(rig.event(Event::EntryRepaired).unwrap(), 1);

    evict_connection(&mut rig);
    rig.sweep_pass(now_ns()).unwrap();
    rig.open(at_port(from, 2));
    rig.sweep_pass(now_ns()).unwrap();
    assert_eq!(open(&mut rig), 2, "it changed in between, so the first pass says nothing");
    rig.sweep_pass(now_ns()).unwrap();
    assert_eq!(open(&mut rig), 1);

    evict_connection(&mut rig);
    let before = now_ns();
    rig.sweep_pass(before).unwrap();
    rig.sweep_pass(before).unwrap();
    assert_eq!(open(&mut rig), 0);
    assert!(rig.entries().unwrap()[0].1.idle_since_ns >= before, "the timer starts now");
}

fn evict_connection(rig: &mut Rig) {
    let (key, _) = rig.connections().unwrap()[0];
    assert!(rig.data_path().maps.connections.remove(&key).unwrap());
}

#[test]
fn a_silent_connection_is_suspected_and_then_ended() {
    let Some(mut rig) = Text::servers(&[11, 12]).limits("tcp = \"10s\"").rig() else { return };
    rig.open(client(V4, 1));
    let start = now_ns();
    quiet(&mut rig, start);
    rig.sweep_pass(start + 9 * SECOND).unwrap();
    assert_eq!(suspect(&mut rig), 0);
    assert_eq!(rig.marked(POOL_V4).unwrap(), 0);
    rig.sweep_pass(start + 11 * SECOND).unwrap();
    assert_eq!(suspect(&mut rig), 1);
    assert_eq!(rig.marked(POOL_V4).unwrap(), 1, "its next packet must be noted");
    rig.sweep_pass(start + 19 * SECOND).unwrap();
    assert_eq!(sizes(&mut rig), [1, 1, 0]);
    rig.sweep_pass(start + 24 * SECOND).unwrap();
    assert_eq!(sizes(&mut rig), [1, 0, 0]);
    assert_eq!(open(&mut rig), 0);
    assert_eq!(rig.event(Event::ConnectionIdle).unwrap(), 1);
    rig.sweep_pass(start + 25 * SECOND).unwrap();
    assert_eq!(rig.marked(POOL_V4).unwrap(), 0);
}

#[test]
fn connections_that_end_together_are_taken_from_their_entry_at_once() {
    let Some(mut rig) = Text::servers(&[11, 12]).limits("tcp = \"10s\"").rig() else { return };
    let from = client(V4, 1);
    for port in 0..4 {
        rig.open(at_port(from, port));
    }
    let start = now_ns();
    quiet(&mut rig, start);
    rig.sweep_pass(start + 11 * SECOND).unwrap();
    rig.data(at_port(from, 3));
    rig.sweep_pass(start + 24 * SECOND).unwrap();
    assert_eq!(sizes(&mut rig), [1, 1, 0]);
    assert_eq!(open(&mut rig), 1, "the one that sent something is left");
    assert_eq!(rig.event(Event::ConnectionIdle).unwrap(), 3);
    assert_eq!(rig.event(Event::EntryRepaired).unwrap(), 0);
}

#[test]
fn rings_are_gone_through_only_where_there_have_been_handshakes() {
    let Some(mut rig) = Text::servers(&[11, 12]).limits("handshake = \"10s\"").rig() else {
        return;
    };
    let now = now_ns();
    let all = rig.sweep_handshakes(now).unwrap();
    assert!(all >= 2 * 251, "{all}: it is not known what another daemon has left");
    rig.sweep_pass(now).unwrap();
    for n in 0..10 {
        rig.open(client(V4, n));
    }
    assert!(rig.marked(POOL_V4).unwrap() > 0);
    let region = all / REGIONS as usize + 2;
    let looked = rig.sweep_handshakes(now).unwrap();
    assert!((1..=10 * region).contains(&looked), "{looked}");
    assert_eq!(rig.marked(POOL_V4).unwrap(), 0);
    // What stays unfinished is found again by every look, also by that of another daemon.
    rig.syn(client(V4, 99));
    for _ in 0..2 {
        assert!(rig.sweep_handshakes(now).unwrap() <= 2 * region);
        assert_eq!(rig.marked(POOL_V4).unwrap(), 1);
    }
    rig.reopen().unwrap();
    rig.apply().unwrap();
    assert_eq!(rig.sweep_handshakes(now).unwrap(), all);
    assert_eq!(rig.marked(POOL_V4).unwrap(), 1);
    rig.sweep_handshakes(now + 11 * SECOND).unwrap();
    assert_eq!(rig.marked(POOL_V4).unwrap(), 0);
}

#[test]
fn marks_that_packets_set_for_other_reasons_are_found_again() {
    let text = Text::servers(&[11, 12]).pool("algorithm = \"round-robin\"");
    let Some(mut rig) = text.profile("timeout = \"10s\"").rig() else { return };
    let now = now_ns();
    quiet(&mut rig, now);
    let hosts: Vec<u8> = (0..20).map(|n| rig.open(client(V4, n))).collect();
    quiet(&mut rig, now);
    assert!(rig.marked(POOL_V4).unwrap() > 0, "some of them are not where the ring says");
    for (n, &host) in (0..20).zip(&hosts) {
        rig.close(host, client(V4, n));
    }
    for _ in 0..2 {
        rig.sweep_pass(now_ns() + 71 * SECOND).unwrap();
    }
    assert_eq!(sizes(&mut rig), [0, 0, 0]);
    assert_eq!(rig.marked(POOL_V4).unwrap(), 0);
}

#[test]
fn a_packet_of_a_suspect_keeps_it() {
    let Some(mut rig) = Text::servers(&[11, 12]).limits("tcp = \"10s\"").rig() else { return };
    let from = client(V4, 1);
    rig.open(from);
    let start = now_ns();
    quiet(&mut rig, start);
    rig.sweep_pass(start + 11 * SECOND).unwrap();
    rig.data(from);
    assert_eq!(suspect(&mut rig), 0);
    rig.sweep_pass(start + 22 * SECOND).unwrap();
    assert_eq!(open(&mut rig), 1, "only suspected again");
}

#[test]
fn a_connection_that_was_not_looked_at_for_long_is_given_its_time() {
    let Some(mut rig) = Text::servers(&[11, 12]).limits("tcp = \"10s\"").rig() else { return };
    let from = client(V4, 1);
    rig.open(from);
    let start = now_ns();
    quiet(&mut rig, start);
    // As after a daemon that was away for a while: its packets were not noted, whatever it sent.
    rig.sweep_pass(start + 100 * SECOND).unwrap();
    rig.sweep_pass(start + 101 * SECOND).unwrap();
    assert_eq!(open(&mut rig), 1, "it had one second to send what would be noted");
    rig.sweep_pass(start + 113 * SECOND).unwrap();
    assert_eq!(open(&mut rig), 0);
}

#[test]
fn the_slot_of_an_exception_stays_marked_until_it_is_none() {
    let profile = "timeout = \"10s\"";
    let Some(mut rig) = Text::servers(&[11, 12]).profile(profile).rig() else { return };
    let from = client(V4, 1);
    let host = rig.open(from);
    rig.configure(&weighted(23 - host).profile(profile).text()).unwrap();
    let now = now_ns();
    for _ in 0..3 {
        quiet(&mut rig, now);
        assert_eq!(rig.marked(POOL_V4).unwrap(), 1, "this slot and no other");
        assert_eq!(rig.data(from), host);
    }
    rig.close(host, from);
    rig.sweep_pass(now_ns() + 71 * SECOND).unwrap();
    assert_eq!(sizes(&mut rig), [0, 0, 0]);
    rig.sweep_pass(now_ns() + 71 * SECOND).unwrap();
    assert_eq!(rig.marked(POOL_V4).unwrap(), 0);
    assert_eq!(rig.data(from), 23 - host, "by the ring again");
}

#[test]
fn silent_flows_are_forgotten() {
    let text = Text::servers(&[11, 12]).without_persistence().limits("udp = \"10s\"");
    let Some(mut rig) = text.rig() else { return };
    rig.ask(client(V4, 1));
    rig.sweep_pass(now_ns() + 9 * SECOND).unwrap();
    assert_eq!(sizes(&mut rig), [0, 1, 0]);
    rig.sweep_pass(now_ns() + 12 * SECOND).unwrap();
    assert_eq!(sizes(&mut rig), [0, 0, 0]);
}

fn suspect(rig: &mut Rig) -> u32 {
    u32::from(rig.connections().unwrap()[0].1.suspect != 0)
}

/// Clears the marks that handshakes have left.
fn quiet(rig: &mut Rig, now: u64) {
    rig.sweep_handshakes(now).unwrap();
    rig.sweep_pass(now).unwrap();
}
