use proptest::prelude::*;

use super::*;

const ETH0: u32 = 2;
const ETH1: u32 = 3;
const OUR_MAC: Mac = [2, 0, 0, 0, 0, 2];
const THEIR_MAC: Mac = [2, 0, 0, 0, 0, 9];

fn link(name: &str, mac: Option<Mac>, up: bool) -> Link {
    Link { name: name.to_owned(), mac, up, mtu: 1500, xdp: None }
}

fn route(prefix: &str, interface: u32, gateway: Option<&str>) -> Route {
    Route {
        prefix: prefix.parse().unwrap(),
        table: Table::Main,
        kind: RouteKind::Unicast,
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        interface,
        metric: 0,
    }
}

fn local(prefix: &str) -> Route {
    Route { table: Table::Local, kind: RouteKind::Local, ..route(prefix, 1, None) }
}

fn view(routes: Vec<Route>, neighbours: &[(u32, &str)]) -> View {
    View::new(
        BTreeMap::from([
            (1, link("lo", None, true)),
            (ETH0, link("eth0", Some(OUR_MAC), true)),
            (ETH1, link("eth1", Some([2, 0, 0, 0, 0, 3]), false)),
        ]),
        routes,
        neighbours
            .iter()
            .map(|(interface, address)| ((*interface, address.parse().unwrap()), THEIR_MAC))
            .collect(),
    )
}

fn next_hop(view: &View, to: &str) -> NextHop {
    view.next_hop(to.parse().unwrap())
}

fn resolved(interface: u32) -> NextHop {
    NextHop::Resolved { interface, source: OUR_MAC, destination: THEIR_MAC }
}

fn unresolved(neighbour: &str) -> NextHop {
    NextHop::Unresolved { interface: ETH0, neighbour: neighbour.parse().unwrap() }
}

#[test]
fn a_neighbour_on_the_link_is_sent_to_directly() {
    let view =
        view(vec![route("10.0.0.0/24", ETH0, None)], &[(ETH0, "10.0.0.9"), (ETH1, "10.0.0.8")]);
    assert_eq!(next_hop(&view, "10.0.0.9"), resolved(ETH0));
    assert_eq!(next_hop(&view, "10.0.0.8"), unresolved("10.0.0.8"));
    assert_eq!(next_hop(&view, "10.0.1.9"), NextHop::Unreachable);
    assert_eq!(next_hop(&view, "::ffff:10.0.0.9"), NextHop::Unreachable);
}

#[test]
fn the_longest_prefix_wins() {
    let view = view(
        vec![
            route("0.0.0.0/0", ETH0, Some("10.0.0.1")),
            route("10.0.0.0/8", ETH0, Some("10.0.0.2")),
            route("10.0.0.0/24", ETH0, None),
            Route { kind: RouteKind::Unreachable, ..route("10.0.0.64/26", 0, None) },
        ],
        &[],
    );
    assert_eq!(next_hop(&view, "192.0.2.1"), unresolved("10.0.0.1"));
    assert_eq!(next_hop(&view, "10.9.0.1"), unresolved("10.0.0.2"));
    assert_eq!(next_hop(&view, "10.0.0.63"), unresolved("10.0.0.63"));
    assert_eq!(next_hop(&view, "10.0.0.64"), NextHop::Unreachable);
    assert_eq!(next_hop(&view, "10.0.0.128"), unresolved("10.0.0.128"));
}

#[test]
fn the_lowest_metric_wins_and_then_the_first() {
    let metric = |metric, gateway| Route { metric, ..route("0.0.0.0/0", ETH0, Some(gateway)) };
    let view =
        view(vec![metric(200, "10.0.0.3"), metric(100, "10.0.0.2"), metric(100, "10.0.0.1")], &[]);
    assert_eq!(next_hop(&view, "192.0.2.1"), unresolved("10.0.0.2"));
    assert_eq!(view.best_routes().count(), 1);
}

#[test]
fn the_local_table_is_asked_before_the_main_one() {
    let view = view(
        vec![
            route("198.51.100.8/30", ETH0, Some("10.0.0.1")),
            route("198.51.100.0/24", ETH0, None),
            route("198.51.0.0/16", ETH0, Some("10.0.0.2")),
            local("198.51.100.0/24"),
            local("198.51.100.255/32"),
        ],
        &[],
    );
    assert_eq!(next_hop(&view, "198.51.100.9"), NextHop::Local);
    assert_eq!(next_hop(&view, "198.51.100.255"), NextHop::Local);
    assert_eq!(next_hop(&view, "198.51.99.9"), unresolved("10.0.0.2"));
    let prefixes: Vec<_> = view.best_routes().map(|(prefix, _)| prefix.to_string()).collect();
    assert_eq!(prefixes, ["198.51.0.0/16", "198.51.100.0/24", "198.51.100.255/32"]);
}

#[test]
fn links_that_are_down_gone_or_without_ethernet_lead_nowhere() {
    let view = view(
        vec![
            route("10.1.0.0/24", ETH1, None),
            route("10.2.0.0/24", 77, None),
            route("10.3.0.0/24", 1, None),
            local("10.1.0.5/32"),
        ],
        &[(ETH1, "10.1.0.9")],
    );
    assert_eq!(next_hop(&view, "10.1.0.9"), NextHop::Unreachable);
    assert_eq!(next_hop(&view, "10.2.0.9"), NextHop::Unreachable);
    assert_eq!(next_hop(&view, "10.3.0.9"), NextHop::Unreachable);
    assert_eq!(next_hop(&view, "10.1.0.5"), NextHop::Local);
}

#[test]
fn a_gateway_may_be_link_local_and_of_the_other_family() {
    let view = view(
        vec![
            route("0.0.0.0/0", ETH0, Some("fe80::1")),
            route("::/0", ETH0, Some("fe80::1")),
            route("fe80::/64", ETH0, None),
            route("fe80::/64", ETH1, None),
        ],
        &[(ETH0, "fe80::1")],
    );
    assert_eq!(next_hop(&view, "192.0.2.1"), resolved(ETH0));
    assert_eq!(next_hop(&view, "2001:db8::1"), resolved(ETH0));
    assert_eq!(next_hop(&view, "fe80::1"), NextHop::Unreachable);
    assert_eq!(next_hop(&view, "fe80::7"), NextHop::Unreachable);
    let rows: Vec<_> = view.best_routes().collect();
    let gateway = RouteTarget::Gateway {
        interface: ETH0,
        source: OUR_MAC,
        gateway: "fe80::1".parse().unwrap(),
        mac: Some(THEIR_MAC),
    };
    assert_eq!(
        rows,
        [
            ("0.0.0.0/0".parse().unwrap(), gateway),
            ("::/0".parse().unwrap(), gateway),
            (LINK_LOCAL, RouteTarget::Unreachable),
        ]
    );
    assert!(view.unresolved_gateways().is_empty());
}

#[test]
fn gateways_without_an_ethernet_address_are_named_once() {
    let view = view(
        vec![
            route("0.0.0.0/0", ETH0, Some("10.0.0.1")),
            route("10.8.0.0/16", ETH0, Some("10.0.0.1")),
            route("10.9.0.0/16", ETH1, Some("10.0.0.2")),
        ],
        &[],
    );
    let expected = BTreeSet::from([(ETH0, "10.0.0.1".parse().unwrap())]);
    assert_eq!(view.unresolved_gateways(), expected);
}

#[test]
fn links_are_found_by_name() {
    let view = view(Vec::new(), &[]);
    assert_eq!(view.link_by_name("eth0").map(|(index, _)| index), Some(ETH0));
    assert_eq!(view.link_by_name("eth9"), None);
}

/// Routes crowded into 10.0.0.0/28, so that they meet.
fn any_route() -> impl Strategy<Value = Route> {
    (0u8..16, 28u8..=32, any::<bool>(), 0u32..3, 1u8..9).prop_map(
        |(host, length, main, metric, gateway)| {
            let prefix = IpNet::new(IpAddr::from([10, 0, 0, host]), length).unwrap().trunc();
            Route {
                prefix,
                metric,
                ..if main {
                    route("0.0.0.0/0", ETH0, Some(&format!("10.0.0.{gateway}")))
                } else {
                    local("0.0.0.0/0")
                }
            }
        },
    )
}

/// The kernel's way: table by table, longest prefix, lowest metric, first of equals.
fn by_the_kernel(routes: &[Route], to: IpAddr) -> Option<&Route> {
    [Table::Local, Table::Main].into_iter().find_map(|table| {
        routes
            .iter()
            .filter(|route| route.table == table && route.prefix.contains(&to))
            .min_by_key(|route| (std::cmp::Reverse(route.prefix.prefix_len()), route.metric))
    })
}

proptest! {
    #[test]
    fn the_kernel_s_choice_is_ours(routes in prop::collection::vec(any_route(), 0..12), host in 0u8..16) {
        let to = IpAddr::from([10, 0, 0, host]);
        let view = view(routes.clone(), &[]);
        let expected = match by_the_kernel(&routes, to) {
            None => NextHop::Unreachable,
            Some(Route { kind: RouteKind::Local, .. }) => NextHop::Local,
            Some(route) => NextHop::Unresolved { interface: ETH0, neighbour: route.gateway.unwrap() },
        };
        prop_assert_eq!(view.next_hop(to), expected);
    }
}
