//! Live clients that meet another server than theirs: each counts once, under its reason, and nobody else counts.

use std::{collections::BTreeMap, net::SocketAddr};

use lbpersist::{
    clock,
    datapath::{
        bind::{Fate, Wanted},
        report::{Filter, Reader},
    },
};
use lbpersist_common::{
    breaks::{BreakReason, REMEMBERED},
    server::Binding,
};
use lbpersist_tests::rig::Rig;

use crate::{
    down::set_down,
    setup::{SERVER_PORT, Text, V4, V6, Visits as _, at_port, client, server_address},
};

const CLIENTS: u16 = 30;
const SECOND: u64 = 1_000_000_000;

fn clients() -> impl Iterator<Item = SocketAddr> {
    (0..CLIENTS).flat_map(|n| [V4, V6].map(|family| client(family, n)))
}

/// Servers 11 and 12 with clients of each over TCP and UDP, and the servers they met.
fn met(text: &Text) -> Option<(Rig, Vec<u8>)> {
    let mut rig = text.rig()?;
    let met: Vec<u8> = clients().map(|from| (rig.open(from), rig.ask(from)).0).collect();
    assert!(met.contains(&11) && met.contains(&12), "{met:?}");
    assert_eq!(rig.breaks().unwrap(), BTreeMap::new(), "new clients break nothing");
    Some((rig, met))
}

/// All clients come again, over TCP and UDP, and twice; returns the servers they meet.
fn come_again(rig: &mut Rig) -> Vec<u8> {
    let met: Vec<u8> = clients().map(|from| rig.open(at_port(from, 1))).collect();
    let asked: Vec<u8> = clients().map(|from| rig.ask(from)).collect();
    assert_eq!(met, asked);
    let again: Vec<u8> = clients().map(|from| rig.open(at_port(from, 2))).collect();
    assert_eq!(met, again);
    met
}

fn differing(before: &[u8], after: &[u8]) -> u64 {
    before.iter().zip(after).filter(|(before, after)| before != after).count() as u64
}

/// Each client has an entry for TCP and one for UDP, and lost both.
fn assert_counted(rig: &mut Rig, reason: BreakReason, clients: u64) {
    assert!(clients > 0);
    assert_eq!(rig.breaks().unwrap(), BTreeMap::from([(reason, 2 * clients)]));
}

#[test]
fn a_server_that_is_down_breaks_its_clients_alone() {
    let Some((mut rig, before)) = met(&Text::servers(&[11, 12])) else { return };
    set_down(&mut rig, &[11]);
    let after = come_again(&mut rig);
    assert_counted(&mut rig, BreakReason::Down, differing(&before, &after));
    set_down(&mut rig, &[]);
    assert_eq!(come_again(&mut rig), after);
    assert_counted(&mut rig, BreakReason::Down, differing(&before, &after));
}

#[test]
fn draining_breaks_nothing_until_the_server_goes() {
    let text = Text::servers(&[11, 12]);
    let Some((mut rig, before)) = met(&text) else { return };
    rig.configure(&text.states(&[(11, "state = \"draining\"")]).text()).unwrap();
    assert_eq!(come_again(&mut rig), before);
    assert_eq!(rig.breaks().unwrap(), BTreeMap::new());
    set_down(&mut rig, &[11]);
    let after = come_again(&mut rig);
    assert_counted(&mut rig, BreakReason::Drained, differing(&before, &after));
}

#[test]
fn disabling_and_removing_a_server_are_told_apart() {
    let text = Text::servers(&[11, 12]);
    for (next, reason) in [
        (text.clone().states(&[(11, "state = \"disabled\"")]), BreakReason::Disabled),
        (Text::servers(&[12]), BreakReason::Removed),
    ] {
        let Some((mut rig, before)) = met(&text) else { return };
        rig.configure(&next.text()).unwrap();
        let after = come_again(&mut rig);
        assert_counted(&mut rig, reason, differing(&before, &after));
        let breaks = told(&mut rig);
        for one in &breaks {
            let server = |host| {
                let family = if one.client.addr().is_ipv4() { V4 } else { V6 };
                SocketAddr::new(server_address(family, host), SERVER_PORT).to_string()
            };
            assert_eq!(one.reason, reason.name());
            assert_eq!(
                (one.before.clone(), one.after.clone()),
                (Some(server(11)), Some(server(12)))
            );
        }
    }
}

fn told(rig: &mut Rig) -> Vec<lbpersist::breaks::Break> {
    let reader = Reader::open(rig.data_path().pins()).unwrap();
    reader.breaks(&lbpersist::breaks::Filter::default(), clock::now_ns()).unwrap()
}

#[test]
fn nobody_breaks_whose_entry_has_expired_or_who_is_refused() {
    let start = clock::now_ns();
    for (profile, expires) in [("timeout = \"5m\"", true), ("server_down = \"never\"", false)] {
        let Some(mut rig) = Text::servers(&[11, 12]).profile(profile).rig() else { return };
        rig.set_clock(start);
        for from in clients() {
            let host = rig.open(from);
            rig.close(host, from);
        }
        if expires {
            rig.set_clock(start + 301 * SECOND);
        }
        set_down(&mut rig, &[11]);
        for from in clients() {
            let packet = lbpersist_tests::packet::Packet::tcp(
                at_port(from, 1),
                crate::setup::web(from),
                lbpersist_common::tcp::flag::SYN,
            );
            rig.send_packet(&packet);
        }
        if expires {
            clients().for_each(|from| assert_eq!(rig.open(at_port(from, 2)), 12));
        }
        assert_eq!(rig.breaks().unwrap(), BTreeMap::new(), "{profile}");
    }
}

#[test]
fn a_full_server_breaks_those_that_it_has_no_room_for() {
    let text = Text { limit: Some(2), ..Text::servers(&[11, 12]) };
    let Some(mut rig) = text.rig() else { return };
    let from = client(V4, 1);
    let host = rig.open(from);
    assert_eq!(rig.open(at_port(from, 1)), host);
    assert_eq!(rig.breaks().unwrap(), BTreeMap::new());
    assert_eq!(rig.open(at_port(from, 2)), 23 - host);
    assert_eq!(rig.breaks().unwrap(), BTreeMap::from([(BreakReason::Limit, 1)]));
}

/// Clients that all met server 11, and would now be sent to 11 or 12 by the ring.
fn all_at_11() -> Option<Rig> {
    let mut rig = Text::servers(&[11]).rig()?;
    clients().for_each(|from| assert_eq!((rig.open(from), rig.ask(from)), (11, 11)));
    rig.configure(&Text::servers(&[11, 12]).text()).unwrap();
    clients().for_each(|from| assert_eq!((rig.open(at_port(from, 10)), rig.ask(from)), (11, 11)));
    Some(rig)
}

#[test]
fn a_flush_breaks_those_whom_the_ring_sends_elsewhere() {
    let Some(mut rig) = all_at_11() else { return };
    let mut reader = Reader::open(rig.data_path().pins()).unwrap();
    let flushed = reader.flush(&Filter::default(), clock::now_ns()).unwrap();
    assert_eq!(flushed, 2 * clients().count());
    assert_eq!(rig.breaks().unwrap(), BTreeMap::new(), "not before they come");
    let after = come_again(&mut rig);
    let moved = after.iter().filter(|host| **host == 12).count() as u64;
    assert_counted(&mut rig, BreakReason::Flushed, moved);
}

#[test]
fn moving_a_client_by_hand_breaks_it_once_it_comes() {
    let Some(mut rig) = all_at_11() else { return };
    let entries = rig.entries().unwrap();
    let (&number, server) = {
        let servers = &rig.data_path().actual().servers;
        let wanted = |server: &lbpersist_common::server::Server| {
            server.address.is_ipv4() && server.address.bytes[15] == 12
        };
        let (number, server) = servers.iter().find(|(_, server)| wanted(server)).unwrap();
        (number, *server)
    };
    let binding = Binding { server: number, generation: server.generation };
    let of_v4 = entries.iter().filter(|(key, _)| key.client.is_ipv4());
    let wanted: Vec<Wanted> =
        of_v4.map(|(key, _)| Wanted { key: *key, binding, left_ns: u64::MAX, age_ns: 0 }).collect();
    let now = clock::now_ns();
    let kept = rig.data_path().bind(&wanted, false, now).unwrap();
    assert!(kept.iter().all(|fate| *fate == Fate::Kept));
    let moved = rig.data_path().bind(&wanted, true, now).unwrap();
    assert!(moved.iter().all(|fate| *fate == Fate::Moved));
    assert_eq!(rig.breaks().unwrap(), BTreeMap::new(), "not before they come");
    let after = come_again(&mut rig);
    let expected: Vec<u8> = clients().map(|from| if from.is_ipv4() { 12 } else { 11 }).collect();
    assert_eq!(after, expected);
    assert_counted(&mut rig, BreakReason::Moved, CLIENTS.into());
}

#[test]
fn evictions_break_those_whom_the_ring_sends_elsewhere() {
    // More than the table has room for.
    const MANY: u16 = 1_400;
    let Some(mut rig) = Text::servers(&[11]).rig() else { return };
    for n in 0..MANY {
        assert_eq!(rig.ask(client(V4, n)), 11);
        if n % 50 == 49 {
            rig.sweep_pass(clock::now_ns()).unwrap();
        }
    }
    let left = rig.entries().unwrap().len();
    assert!(left < usize::from(MANY), "{left} entries");
    rig.configure(&Text::servers(&[11, 12]).text()).unwrap();
    let moved = (0..MANY).filter(|&n| rig.ask(client(V4, n)) == 12).count() as u64;
    let breaks = rig.breaks().unwrap();
    let evicted = breaks[&BreakReason::Evicted];
    assert_eq!(breaks.len(), 1, "{breaks:?}");
    // Those that were evicted before a sweep had seen them are not known, nor those whose ghost had to make room.
    assert!(moved > 50 && evicted <= moved && evicted * 10 > moved * 8, "{evicted} of {moved}");
}

#[test]
fn the_last_breaks_are_remembered_and_more_change_nothing() {
    let Some(mut rig) = Text::servers(&[11, 12]).rig() else { return };
    let mut broken = 0;
    let mut met: Vec<u8> = (0..300).map(|n| rig.ask(client(V4, n))).collect();
    for down in [11, 12].into_iter().cycle().take(6) {
        set_down(&mut rig, &[down]);
        let now: Vec<u8> = (0..300).map(|n| rig.ask(client(V4, n))).collect();
        assert!(now.iter().all(|host| *host == 23 - down));
        broken += differing(&met, &now);
        met = now;
    }
    assert!(broken > u64::from(REMEMBERED), "{broken}");
    assert_eq!(rig.breaks().unwrap(), BTreeMap::from([(BreakReason::Down, broken)]));
    let breaks = told(&mut rig);
    assert_eq!(breaks.len(), REMEMBERED as usize);
    assert!(breaks.iter().all(|one| one.virtual_service == "dns-v4" && one.reason == "down"));
    assert!(breaks.is_sorted_by(|one, next| one.time <= next.time + 0.05));
}
