//! Readings by plain values.

use super::*;
use crate::{
    model::{Ports, Protocol},
    proxy::Counts,
};

/// A reading of one service in the kernel, one that the daemon carries, and one server, which counted so much.
pub(in crate::cli::top) fn reading(counted: u64) -> Reading {
    let web = service("web", counted);
    let server = ServerStatus {
        address: "10.0.0.11".parse().unwrap(),
        port: Some(8080),
        weight: 1,
        state: "up",
        reachable: true,
        packets: counted * 2,
        bytes: counted * 100,
        connections: counted,
        open: 3,
        max_connections: Some(10),
    };
    let pool = PoolStatus { name: "pool".to_owned(), persistent: true, servers: vec![server] };
    let counts = Counts {
        connections: counted,
        closed_connections: counted / 2,
        received_bytes: counted * 10,
        sent_bytes: counted * 30,
        ..Counts::default()
    };
    let shop = ServiceCounts {
        name: "shop".to_owned(),
        counts,
        persistence: BTreeMap::new(),
        kept: 3,
        breaks: [("down".to_owned(), 1), ("moved".to_owned(), 0)].into(),
    };
    Reading {
        status: Status {
            interfaces: Vec::new(),
            virtual_services: vec![web],
            pools: vec![pool],
            verdicts: [("forwarded", counted), ("no_server", 7)].into(),
            events: [("entries_created", counted)].into(),
        },
        proxied: vec![shop],
    }
}

fn service(name: &str, counted: u64) -> ServiceStatus {
    ServiceStatus {
        name: name.to_owned(),
        address: "198.51.100.10/32".parse().unwrap(),
        port: Ports::One(80),
        protocol: Protocol::Tcp,
        pool: "pool".to_owned(),
        packets: counted * 2,
        bytes: counted * 100,
        answer_packets: counted,
        answer_bytes: counted * 200,
        connections: counted,
        kept: counted,
        breaks: [("down", 2), ("flushed", 1), ("limit", 0)].into(),
        share_kept: Some(0.5),
    }
}

fn rates(packets: Option<f64>, bits: f64, connections: f64) -> Rates {
    Rates { packets, bits: Some(bits), connections: Some(connections) }
}

#[test]
fn rates_are_what_was_counted_between_two_readings_by_the_time_between_them() {
    let rows = Rows::new(Some((&reading(100), Duration::from_secs(2))), &reading(120));
    let [web, shop] = &rows.services[..] else { panic!("{rows:?}") };
    assert_eq!(web.rates, rates(Some(30.0), 24_000.0, 10.0));
    assert_eq!((web.open, web.share_kept), (None, Some(0.5)));
    assert_eq!(web.breaks, [("down".to_owned(), 2), ("flushed".to_owned(), 1)]);
    assert_eq!(shop.rates, rates(None, 3200.0, 10.0));
    assert_eq!((shop.open, shop.share_kept), (Some(60), Some(0.75)));
    assert_eq!(shop.breaks, [("down".to_owned(), 1)]);
    assert_eq!(rows.servers[0].server, "10.0.0.11:8080");
    assert_eq!(rows.servers[0].rates, rates(Some(20.0), 8000.0, 10.0));
    assert_eq!(rows.verdicts, [("forwarded", 10.0)]);
    assert_eq!(rows.entries_made, Some(10.0));
    assert_eq!(rows.total(), rates(Some(30.0), 27_200.0, 20.0));
}

#[test]
fn counters_that_went_back_give_nothing() {
    let rows = Rows::new(Some((&reading(100), Duration::from_secs(1))), &reading(4));
    assert_eq!(rows.services[0].rates, rates(Some(0.0), 0.0, 0.0));
    assert_eq!(rows.services[1].rates, rates(None, 0.0, 0.0));
    assert_eq!(rows.servers[0].rates, rates(Some(0.0), 0.0, 0.0));
    assert_eq!((rows.verdicts, rows.entries_made), (Vec::new(), Some(0.0)));
}

#[test]
fn what_was_not_there_before_has_no_rate() {
    let now = reading(5);
    let rows = Rows::new(None, &now);
    assert_eq!(rows.services[0].rates, Rates::default());
    assert_eq!((rows.total(), rows.entries_made), (Rates::default(), None));

    let mut before = reading(1);
    before.status.virtual_services[0].name = "other".to_owned();
    before.status.pools[0].servers[0].port = None;
    before.proxied.clear();
    let rows = Rows::new(Some((&before, Duration::from_secs(1))), &now);
    assert!(rows.services.iter().all(|one| one.rates == Rates::default()), "{rows:?}");
    assert_eq!(rows.servers[0].rates, Rates::default());

    let at_once = Rows::new(Some((&before, Duration::ZERO)), &now);
    assert_eq!(at_once.entries_made, None, "no division by zero");
}

#[test]
fn rows_are_sorted_by_name_or_by_what_is_most() {
    let (mut before, mut now) = (reading(0), reading(10));
    before.status.virtual_services.push(service("api", 0));
    now.status.virtual_services.push(service("api", 5));
    let mut rows = Rows::new(Some((&before, Duration::from_secs(1))), &now);
    let mut names = |sort| {
        rows.sort(sort);
        rows.services.iter().map(|one| one.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(Sort::Packets), ["web", "api", "shop"]);
    assert_eq!(names(Sort::Connections), ["shop", "web", "api"]);
    assert_eq!(names(Sort::Name), ["api", "shop", "web"]);
    assert_eq!(Sort::Name.next().next().next(), Sort::Name);
}
