use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const A: Bound = Bound { server: 1, generation: 0 };
const B: Bound = Bound { server: 2, generation: 0 };

fn bound(table: &Table, secret: &str, now: u64) -> Option<Bound> {
    let (bound, hold) = table.open(secret.as_bytes(), now)?;
    table.close(hold, now);
    Some(bound)
}

#[test]
fn the_timer_runs_from_the_end_of_the_last_use() {
    let table = Table::new(1024, 1_000, 0);
    let first = table.bind(b"s", A, 0);
    let (_, second) = table.open(b"s", 10).unwrap();
    table.close(first, 5_000);
    assert_eq!(
        table.open(b"s", 90_000).map(|(bound, hold)| {
            table.close(hold, 90_000);
            bound
        }),
        Some(A)
    );
    table.close(second, 100_000);
    let (_, third) = table.open(b"s", 100_999).unwrap();
    table.close(third, 101_000);
    assert_eq!(table.open(b"s", 102_000), None, "at the very end it is over");
    assert_eq!(table.happened(), Happened { created: 1, expired: 1, ..Happened::default() });
}

#[test]
fn a_close_ends_only_the_use_it_belongs_to() {
    let table = Table::new(1024, 1_000, 0);
    let old = table.bind(b"s", A, 0);
    let new = table.bind(b"s", B, 1);
    table.close(old, 2);
    assert_eq!(bound(&table, "s", 50_000), Some(B), "the new use goes on");
    table.close(new, 50_000);
    assert_eq!(bound(&table, "s", 51_001), None);
    assert_eq!(table.happened().moved, 1);
}

#[test]
fn memory_comes_back_without_anybody_asking_for_the_key() {
    let table = Table::new(1 << 16, 60_000, 0);
    for n in 0..1_000_u32 {
        let hold = table.bind(&n.to_be_bytes(), A, 0);
        table.close(hold, u64::from(n));
    }
    table.expire(60_499);
    assert!((500..=600).contains(&table.len()), "{}", table.len());
    table.expire(61_100);
    assert_eq!((table.len(), table.happened().expired), (0, 1_000));
}

#[test]
fn the_least_recently_used_goes_first_and_those_in_use_last() {
    let table = Table::new(1_024, 1_000_000, 0);
    let held: Vec<Hold> =
        (0..16_u32).map(|n| table.bind(format!("held{n}").as_bytes(), A, 0)).collect();
    for n in 0..20_000_u32 {
        let hold = table.bind(&n.to_be_bytes(), A, u64::from(n));
        table.close(hold, u64::from(n));
        assert!(table.len() <= 1_024);
    }
    assert_eq!(bound(&table, "held3", 20_000), Some(A), "in use all the time");
    let newest = 19_999_u32.to_be_bytes();
    let (found, hold) = table.open(&newest, 20_000).unwrap();
    table.close(hold, 20_000);
    assert_eq!(found, A);
    assert_eq!(table.open(&0_u32.to_be_bytes(), 20_000), None);
    assert_eq!(table.happened().evicted, 20_016 - table.len() as u64);
    held.into_iter().for_each(|hold| table.close(hold, 20_000));
}

#[test]
fn a_table_of_keys_in_use_still_takes_new_ones() {
    let table = Table::new(1_024, 1_000, 0);
    let holds: Vec<Hold> = (0..5_000_u32).map(|n| table.bind(&n.to_be_bytes(), A, 0)).collect();
    assert!(table.len() <= 1_024);
    holds.into_iter().for_each(|hold| table.close(hold, 1));
    table.expire(10_000);
    assert_eq!(table.len(), 0);
}

#[test]
fn keys_of_a_server_can_be_forgotten_and_limits_changed() {
    let table = Table::new(1_024, 1_000, 0);
    for n in 0..10_u32 {
        let hold = table.bind(&n.to_be_bytes(), if n < 4 { A } else { B }, 0);
        table.close(hold, 0);
    }
    assert_eq!(table.remove_if(|bound| *bound == A), 4);
    assert_eq!(table.len(), 6);
    table.set_limits(1_024, 5_000);
    table.expire(4_999);
    assert_eq!(table.len(), 6, "the longer timeout holds for those that were there");
    table.expire(5_100);
    assert_eq!(table.len(), 0);
}

#[derive(Clone, Debug)]
enum Act {
    Open(u8),
    Bind(u8, u8),
    Close(usize),
    Wait(u64),
    Expire,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..12_u8).prop_map(Act::Open),
        2 => (0..12_u8, 0..3_u8).prop_map(|(key, server)| Act::Bind(key, server)),
        4 => any::<usize>().prop_map(Act::Close),
        2 => prop_oneof![0..200_u64, 500..1_500_u64].prop_map(Act::Wait),
        1 => Just(Act::Expire),
    ]
}

struct Known {
    bound: Bound,
    open: u32,
    idle_since: u64,
    incarnation: u32,
}

proptest! {
    /// A virtual clock, and a plain map that does by the rules what the table does by wheel and lists.
    #[test]
    fn it_does_as_its_rules_say(acts in prop::collection::vec(act(), 1..300)) {
        const TIMEOUT: u64 = 1_000;
        let table = Table::new(1 << 16, TIMEOUT, 0);
        let mut model: HashMap<u8, Known> = HashMap::new();
        let mut holds: Vec<(Hold, u8, u32)> = Vec::new();
        let (mut now, mut incarnations) = (0, 0);
        for act in acts {
            match act {
                Act::Wait(by) => now += by,
                Act::Expire => {
                    table.expire(now);
                    let surely = model.values().filter(|known| known.open > 0 || now < known.idle_since + TIMEOUT);
                    let possibly =
                        model.values().filter(|known| known.open > 0 || now < known.idle_since + TIMEOUT + TICK_MS);
                    prop_assert!((surely.count()..=possibly.count()).contains(&table.len()));
                }
                Act::Open(key) => {
                    let live = model
                        .get_mut(&key)
                        .filter(|known| known.open > 0 || now < known.idle_since + TIMEOUT);
                    let opened = table.open(&[key], now);
                    prop_assert_eq!(opened.map(|(bound, _)| bound), live.as_ref().map(|known| known.bound));
                    match (opened, live) {
                        (Some((_, hold)), Some(known)) => {
                            known.open += 1;
                            holds.push((hold, key, known.incarnation));
                        }
                        _ => drop(model.remove(&key)),
                    }
                }
                Act::Bind(key, server) => {
                    let bound = Bound { server: server.into(), generation: 0 };
                    let hold = table.bind(&[key], bound, now);
                    let same = model
                        .get_mut(&key)
                        .filter(|known| known.open > 0 || now < known.idle_since + TIMEOUT)
                        .filter(|known| known.bound == bound);
                    let incarnation = match same {
                        Some(known) => {
                            known.open += 1;
                            known.incarnation
                        }
                        None => {
                            incarnations += 1;
                            let known = Known { bound, open: 1, idle_since: now, incarnation: incarnations };
                            model.insert(key, known);
                            incarnations
                        }
                    };
                    holds.push((hold, key, incarnation));
                }
                Act::Close(which) if !holds.is_empty() => {
                    let (hold, key, incarnation) = holds.swap_remove(which % holds.len());
                    table.close(hold, now);
                    if let Some(known) = model.get_mut(&key)
                        && known.incarnation == incarnation
                    {
                        known.open -= 1;
                        known.idle_since = now;
                    }
                }
                Act::Close(_) => {}
            }
        }
    }
}
