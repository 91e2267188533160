//! Every rule of the methods, on requests that are plain values.

use lbpersist_common::server::Binding;

use super::{
    count::{EVENTS, Event},
    token::Refusal,
    *,
};
use crate::config;

mod world;

use world::{Ask, SERVERS, World, ask, make, site, text, with_cookie};

fn to(server: usize) -> Choice {
    Choice::Server { server, may_move: true }
}

const COOKIE: &str = "type = \"http-cookie\"\ncookie_name = \"LB\"";

#[test]
fn a_cookie_leads_back_to_its_server_and_is_set_once() {
    let world = World::new(COOKIE);
    assert_eq!(world.choice(&ask()), Choice::Balance);
    let cookie = world.cookie(2);
    assert!(cookie.starts_with("LB=") && cookie.len() == 3 + 71, "{cookie}");
    let again = with_cookie(&format!("a=1; {cookie}; b=2"));
    assert_eq!(world.choice(&again), to(2));
    assert_eq!(world.visit(&again, 2), [""; 0], "the client has it");
    let moved = world.visit(&again, 1);
    assert_eq!(world.choice(&with_cookie(moved[0].split(';').next().unwrap())), to(1));
}

#[test]
fn the_line_has_what_is_configured() {
    let rows = [
        ("", "; Path=/; HttpOnly"),
        (
            "http_only = false\npath = \"/shop\"\ndomain = \"example.com\"",
            "; Path=/shop; Domain=example.com",
        ),
        ("secure = true\nsame_site = \"none\"", "; Path=/; Secure; HttpOnly; SameSite=None"),
        ("timeout = \"1h\"", "; Path=/; HttpOnly"),
        ("timeout = \"1h\"\npersistent = true", "; Path=/; HttpOnly; Max-Age=3600"),
    ];
    for (fields, expected) in rows {
        let world = World::new(&format!("{COOKIE}\n{fields}"));
        let lines = world.visit(&ask(), 0);
        assert_eq!(&lines[0][3 + 71..], expected);
    }
}

#[test]
fn a_cookie_ends_with_its_timeout_though_it_is_sent_always() {
    let mut world =
        World::new(&format!("{COOKIE}\ntimeout = \"1h\"\npersistent = true\nalways_send = true"));
    let cookie = with_cookie(&world.cookie(1));
    world.now.unix_ms += 3_000_000;
    assert_eq!(world.choice(&cookie), to(1));
    let lines = world.visit(&cookie, 1);
    assert!(
        lines[0].ends_with("; Max-Age=600"),
        "counted from when the client was bound: {}",
        lines[0]
    );
    let again = with_cookie(lines[0].split(';').next().unwrap());
    world.now.unix_ms += 600_000;
    assert_eq!(world.choice(&again), Choice::Balance);
    assert_eq!(world.counted(Refusal::Expired as usize), 1);
}

#[test]
fn what_is_no_good_cookie_is_counted_ignored_and_replaced() {
    let world = World::new(COOKIE);
    let good = world.cookie(1);
    let mut forged = good.clone().into_bytes();
    forged[40] = if forged[40] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    let foreign =
        World::new("type = \"http-cookie\"\ncookie_name = \"LB\"\npath = \"/x\"").cookie(1);
    let rows = [
        ("LB=".to_owned(), Refusal::Malformed),
        ("LB=10.0.0.1:80".to_owned(), Refusal::Malformed),
        (format!("LB={}", "A".repeat(4_000)), Refusal::Oversized),
        (forged, Refusal::Forged),
        (foreign, Refusal::UnknownKey),
    ];
    for (cookie, refusal) in rows {
        let before = world.counted(refusal as usize);
        assert_eq!(world.visit(&with_cookie(&cookie), 0).len(), 1, "{cookie}");
        assert_eq!(world.counted(refusal as usize), before + 1, "{cookie}");
    }
    assert_eq!(world.choice(&with_cookie(&good)), to(1));
}

#[test]
fn of_two_good_cookies_the_first_wins_and_bad_ones_overrule_nothing() {
    let world = World::new(COOKIE);
    let (one, two) = (world.cookie(1), world.cookie(2));
    assert_eq!(world.choice(&with_cookie(&format!("{one}; {two}"))), to(1));
    assert_eq!(world.counted(Event::Doubled as usize), 1);
    assert_eq!(world.choice(&with_cookie(&format!("LB=x; {two}"))), to(2));
    for (several, server) in [
        (format!("{one}; {two}"), 1),
        (format!("{one}; {one}"), 1),
        (format!("{one}; LB=x"), 1),
        (format!("LB=x; {two}"), 2),
    ] {
        let lines = world.visit(&with_cookie(&several), server);
        assert_eq!(lines.len(), 1, "the client is to have one in the end: {several}");
        let left = with_cookie(lines[0].split(';').next().unwrap());
        assert_eq!(world.choice(&left), to(server));
        assert_eq!(world.visit(&left, server), [""; 0]);
    }
    let split = Ask { cookies: vec!["a=1".to_owned(), two.clone()], ..ask() };
    assert_eq!(world.choice(&split), to(2), "HTTP/2 sends a header for each");
    let flood = format!("{}{two}", "LB=x; ".repeat(100));
    let before = world.counted(Refusal::Malformed as usize);
    assert_eq!(world.choice(&with_cookie(&flood)), Choice::Balance);
    assert_eq!(
        world.counted(Refusal::Malformed as usize) - before,
        4,
        "no more than four are opened"
    );
}

#[test]
fn a_cookie_of_another_pool_or_of_a_server_that_was_away_leads_nowhere() {
    let mut world = World::new(COOKIE);
    let cookie = with_cookie(&world.cookie(2));
    let [two, three] = [
        "{ address = \"10.0.0.1\" }, { address = \"10.0.0.2\" }",
        "{ address = \"10.0.0.3\" }, { address = \"10.0.0.1\" }",
    ];
    let other = text(three, COOKIE).replace("web", "other");
    world.keeping = make(&mut world.keeper, &world.entries, &other);
    assert_eq!(world.choice(&cookie), Choice::Balance);
    world.keeping = make(&mut world.keeper, &world.entries, &text(two, COOKIE));
    assert_eq!(world.choice(&cookie), Choice::Balance);
    world.keeping = make(&mut world.keeper, &world.entries, &text(SERVERS, COOKIE));
    assert_eq!(
        world.choice(&cookie),
        Choice::Balance,
        "the address is there again, the server is another"
    );
    assert_eq!(world.counted(Event::UnknownServer as usize), 2);
    let cookie = with_cookie(&world.cookie(1));
    let reordered = text(&SERVERS.split(", {").collect::<Vec<_>>().join(", {"), COOKIE);
    world.keeping = make(&mut world.keeper, &world.entries, &reordered);
    assert_eq!(world.choice(&cookie), to(1));
}

#[test]
fn our_cookie_is_taken_out_of_requests() {
    let world = World::new(COOKIE);
    assert_eq!(world.keeping.strip(b"a=1; LB=x; b=2"), header::Without::Rest(b"a=1; b=2".to_vec()));
    assert_eq!(world.keeping.strip(b"a=1"), header::Without::Unchanged);
    let kept = World::new(&format!("{COOKIE}\nstrip_from_request = false"));
    assert_eq!(kept.keeping.strip(b"LB=x"), header::Without::Unchanged);
}

#[test]
fn when_the_server_is_down_the_profile_says_what_happens() {
    use Condition::{Down, Full, Usable};
    let stay = Choice::Server { server: 1, may_move: false };
    let rows = [
        ("", Usable, to(1)),
        ("", Down, Choice::Balance),
        ("", Full, Choice::Balance),
        ("server_down = \"never\"", Usable, stay),
        ("server_down = \"never\"", Down, Choice::Refuse),
        ("server_down = \"never\"", Full, Choice::Balance),
        ("server_down = \"continue\"", Down, stay),
        ("server_down = \"continue\"", Full, Choice::Balance),
    ];
    for (fields, condition, expected) in rows {
        let world = World::new(&format!("{COOKIE}\n{fields}"));
        let cookie = with_cookie(&world.cookie(1));
        world.set(1, condition);
        assert_eq!(world.choice(&cookie), expected, "{fields} {condition:?}");
    }
}

#[test]
fn when_the_server_is_full_the_pool_says_what_happens() {
    let stay = Choice::Server { server: 1, may_move: false };
    for (on_limit, server_down, expected) in [
        ("spill", "immediate", Choice::Balance),
        ("spill", "never", Choice::Balance),
        ("exceed", "immediate", to(1)),
        ("exceed", "never", stay),
        ("reject", "immediate", Choice::RefuseFull),
        ("reject", "continue", Choice::RefuseFull),
    ] {
        let fields = format!("{COOKIE}\nserver_down = \"{server_down}\"");
        let world = World::in_pool(&format!("on_limit = \"{on_limit}\""), &fields);
        let cookie = with_cookie(&world.cookie(1));
        world.set(1, Condition::Full);
        assert_eq!(world.choice(&cookie), expected, "{on_limit} {server_down}");
    }
}

#[test]
fn a_client_that_moved_has_the_new_server_for_good() {
    for fields in [COOKIE, "type = \"client-ip\""] {
        let world = World::new(fields);
        let first = world.visit(&ask(), 1);
        let returning =
            first.first().map_or_else(ask, |line| with_cookie(line.split(';').next().unwrap()));
        world.set(1, Condition::Down);
        assert_eq!(world.choice(&returning), Choice::Balance);
        let second = world.visit(&returning, 2);
        let returning =
            second.first().map_or_else(ask, |line| with_cookie(line.split(';').next().unwrap()));
        world.set(1, Condition::Usable);
        assert_eq!(world.choice(&returning), to(2), "{fields}");
    }
}

#[test]
fn requests_of_bound_clients_count_as_kept_or_broken() {
    use Condition::{Disabled, Down, Drained, Full, Usable};
    let rows = [(Down, "down"), (Drained, "drained"), (Disabled, "disabled"), (Full, "limit")];
    for (condition, reason) in rows {
        let world = World::new(COOKIE);
        let bound = with_cookie(&world.cookie(1));
        world.visit(&bound, 1);
        world.set(1, condition);
        world.visit(&bound, 2);
        world.set(1, Usable);
        // It could not be reached, whatever the monitors say.
        world.visit(&bound, 0);
        let breaks = &world.keeper.breaks()["w"];
        let counts = breaks.counts();
        assert_eq!((breaks.count_kept(), counts.values().sum::<u64>()), (1, 2));
        let expected = if reason == "down" { (2, 2) } else { (1, 1) };
        assert_eq!((counts["down"], counts[reason]), expected);
        let last = breaks.last("w");
        assert_eq!(last.len(), 2);
        assert_eq!(last[0].before.as_deref(), Some("10.0.0.2"), "{last:?}");
        assert_eq!(last[0].after.as_deref(), Some("10.0.0.3"));
        assert_eq!((last[0].time * 1e3).round() as u64, world.now.unix_ms, "to a millisecond");
    }
}

#[test]
fn a_client_of_a_server_that_was_removed_counts_as_broken() {
    let mut world = World::new(COOKIE);
    let bound = with_cookie(&world.cookie(1));
    let servers = "{ address = \"10.0.0.1\" }, { address = \"10.0.0.3\" }";
    world.keeping = make(&mut world.keeper, &world.entries, &text(servers, COOKIE));
    world.visit(&bound, 1);
    let breaks = &world.keeper.breaks()["w"];
    assert_eq!(breaks.counts()["removed"], 1);
    assert_eq!(breaks.last("w")[0].before, None);
    // One that says nothing of ours breaks nothing.
    world.visit(&with_cookie("LB=forged"), 0);
    assert_eq!(breaks.counts().values().sum::<u64>(), 1);
}

#[test]
fn an_application_cookie_is_learned_and_found_wherever_it_is() {
    let world =
        World::new("type = \"app-cookie\"\ncookie_name = \"JSID\"\nquery_argument = \"jsid\"");
    assert_eq!(world.choice(&with_cookie("JSID=abc")), Choice::Balance, "servers have not set it");
    let mut session = world.keeping.settle(world.decide(&ask()), &Tenure::default(), 2, world.now);
    assert!(session.learns());
    session.learn(b"other=1", world.now);
    session.learn(b"JSID=abc; Path=/; HttpOnly", world.now);
    assert_eq!(session.set_cookies(world.now).count(), 0);
    drop(session);
    let asked = |target: &str| Ask { target: target.to_owned(), ..ask() };
    for request in [with_cookie("x=1; JSID=abc"), asked("/a?jsid=abc"), asked("/a;jsid=abc/b?c=d")]
    {
        assert_eq!(world.choice(&request), to(2));
    }
    for request in [with_cookie("jsid=abc"), asked("/a?JSID=abc"), asked("/a?jsid=abd")] {
        assert_eq!(world.choice(&request), Choice::Balance);
    }
    let both = Ask { cookies: vec!["JSID=zzz".to_owned()], ..asked("/?jsid=abc") };
    assert_eq!(world.choice(&both), Choice::Balance, "the cookie is what counts when there is one");
}

#[test]
fn a_connection_counts_once_from_its_first_request_until_it_ends() {
    let world = World::new("type = \"client-ip\"");
    let key = site(32, 128).entry_key([192, 0, 2, 1].into());
    let known = || world.fake.0.lock().unwrap().get(&key).map(|(to, open)| (to.server, *open));
    let tenure = Tenure::default();
    let request = |condition, server| {
        let decision = world.keeping.decide(&ask(), &tenure, |_| condition, world.now);
        let choice = decision.choice();
        drop(world.keeping.settle(decision, &tenure, server, world.now));
        choice
    };
    assert_eq!(request(Condition::Usable, 1), Choice::Balance);
    assert_eq!(known(), Some((2, 1)));
    assert_eq!(request(Condition::Usable, 1), to(1));
    assert_eq!(known(), Some((2, 1)), "its next request changes nothing");
    let other = Tenure::default();
    let decision = world.keeping.decide(&ask(), &other, |_| Condition::Usable, world.now);
    drop(world.keeping.settle(decision, &other, 1, world.now));
    assert_eq!(known(), Some((2, 2)), "another connection of the client");
    drop(other);
    assert_eq!(known(), Some((2, 1)));
    // Whoever flushes entries ends no connection, and its requests go on to the same server.
    world.fake.0.lock().unwrap().remove(&key);
    assert_eq!(request(Condition::Usable, 1), to(1));
    world.fake.0.lock().unwrap().insert(key, (Binding { server: 2, generation: 1 }, 1));
    // Its server goes down, and the entry follows it to another one.
    assert_eq!(request(Condition::Down, 2), Choice::Balance);
    assert_eq!(known(), Some((3, 1)));
    // One that was to meet its server and could not reach it.
    assert_eq!(request(Condition::Usable, 0), to(2));
    assert_eq!(known(), Some((1, 1)));
    drop(tenure);
    assert_eq!(known(), Some((1, 0)));
}

#[test]
fn what_belongs_to_removed_services_is_forgotten() {
    let fields = "type = \"app-cookie\"\ncookie_name = \"ID\"";
    let mut world = World::new(fields);
    let mut session = world.keeping.settle(world.decide(&ask()), &Tenure::default(), 2, world.now);
    session.learn(b"ID=abc", world.now);
    drop(session);
    let service = "[[virtual_service]]\nname = \"w\"\naddress = \"10.9.9.9\"\nport = 80\nmode = \"http\"\npool = \"web\"\n";
    let text = text(SERVERS, fields);
    let with = config::parse(&(service.to_owned() + &text)).unwrap();
    world.keeper.retain(&with);
    world.keeping = make(&mut world.keeper, &world.entries, &text);
    assert_eq!(world.choice(&with_cookie("ID=abc")), to(2), "what is still there is kept");
    world.keeper.retain(&config::parse(&text).unwrap());
    assert!(world.keeper.counts("w").is_empty());
    world.keeping = make(&mut world.keeper, &world.entries, &text);
    assert_eq!(world.choice(&with_cookie("ID=abc")), Choice::Balance);
}

#[test]
fn clients_of_a_prefix_share_an_entry() {
    let world = World::new("type = \"client-ip\"\nipv4_mask = 24\nipv6_mask = 64");
    let from = |client: &str| Ask { client: client.parse().unwrap(), ..ask() };
    world.visit(&from("192.0.2.1"), 1);
    world.visit(&from("2001:db8::1"), 2);
    assert_eq!(world.choice(&from("192.0.2.200")), to(1));
    assert_eq!(world.choice(&from("::ffff:192.0.2.200")), to(1));
    assert_eq!(world.choice(&from("192.0.3.1")), Choice::Balance);
    assert_eq!(world.choice(&from("2001:db8::ffff:1")), to(2));
    assert_eq!(world.choice(&from("2001:db8:0:1::1")), Choice::Balance);
    assert_eq!(world.keeping.address_key([192, 0, 2, 9].into()), Some([192, 0, 2, 0].into()));
}

#[test]
fn a_header_names_its_server_and_others_are_balanced() {
    let world = World::new("type = \"header\"\nheader_name = \"x-shard\"");
    let sent = |shard| Ask { shard: Some(shard), ..ask() };
    assert_eq!(world.choice(&sent("blue")), to(1));
    assert_eq!(world.choice(&sent("green")), Choice::Balance);
    assert_eq!(world.choice(&ask()), Choice::Balance);
}

#[test]
fn the_fallback_is_asked_and_the_cookie_is_given_again() {
    let fields = format!("{COOKIE}\nfallback = \"q\"\n[[persistence_profile]]\nname = \"q\"");
    let world = World::new(&fields);
    let cookie = world.cookie(2);
    assert_eq!(world.choice(&ask()), to(2), "by its address");
    let lines = world.visit(&ask(), 2);
    assert_eq!(world.choice(&with_cookie(lines[0].split(';').next().unwrap())), to(2));
    let elsewhere = Ask { client: [203, 0, 113, 9].into(), ..with_cookie(&cookie) };
    assert_eq!(world.choice(&elsewhere), to(2), "by its cookie");
    assert_eq!(world.visit(&elsewhere, 2), [""; 0]);
    let bare = Ask { cookies: Vec::new(), ..elsewhere };
    assert_eq!(world.choice(&bare), Choice::Balance, "whose cookie is good has no entry");
    world.visit(&ask(), 1);
    assert_eq!(world.choice(&with_cookie(&cookie)), to(2), "the cookie comes before the entry");
    world.set(2, Condition::Down);
    assert_eq!(world.choice(&with_cookie(&cookie)), to(1), "and the entry before any server");
}

#[test]
fn every_event_has_its_name() {
    assert_eq!(EVENTS[Refusal::Future as usize], "cookie_future");
    assert_eq!(EVENTS[Event::UnknownServer as usize], "unknown_server");
    assert_eq!(EVENTS[Event::Refused as usize], "refused");
}
