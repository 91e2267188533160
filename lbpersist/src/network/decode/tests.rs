use netlink_packet_route::route::RouteNextHop;

use super::*;

const MAC: Mac = [2, 0, 0, 0, 0, 1];

fn neighbour_message(state: NeighbourState, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = 2;
    message.header.state = state;
    message.attributes = vec![
        NeighbourAttribute::Destination(address.into()),
        NeighbourAttribute::LinkLayerAddress(MAC.to_vec()),
    ];
    message
}

fn route_message(prefix: &str, attributes: Vec<RouteAttribute>) -> RouteMessage {
    let prefix: IpNet = prefix.parse().unwrap();
    let mut message = RouteMessage::default();
    message.header.address_family = match prefix {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = prefix.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = RouteType::Unicast;
    message.attributes = attributes;
    if prefix.prefix_len() != 0 {
        message.attributes.push(RouteAttribute::Destination(prefix.addr().into()));
    }
    message
}

fn gateway(address: &str) -> RouteAttribute {
    RouteAttribute::Gateway(address.parse::<IpAddr>().unwrap().into())
}

fn hop(interface: u32, flags: RouteNextHopFlags, via: RouteAttribute) -> RouteNextHop {
    let mut hop = RouteNextHop::default();
    hop.interface_index = interface;
    hop.flags = flags;
    hop.attributes = vec![via];
    hop
}

#[test]
fn only_neighbours_the_kernel_would_use_have_an_address() {
    use NeighbourState as S;
    let address = IpAddr::from([10, 0, 0, 9]);
    for state in [S::Reachable, S::Stale, S::Delay, S::Probe, S::Permanent, S::Noarp] {
        let got = neighbour(&neighbour_message(state, address));
        assert_eq!(got, Some(((2, address), Some(MAC))), "{state}");
    }
    for state in [S::Incomplete, S::Failed, S::None] {
        let got = neighbour(&neighbour_message(state, address));
        assert_eq!(got, Some(((2, address), None)), "{state}");
    }
}

#[test]
fn group_proxy_and_bridge_entries_are_no_neighbours() {
    let group = "ff02::1".parse().unwrap();
    assert_eq!(neighbour(&neighbour_message(NeighbourState::Noarp, group)), None);

    let mut proxy = neighbour_message(NeighbourState::Permanent, IpAddr::from([10, 0, 0, 9]));
    proxy.header.flags = NeighbourFlags::Proxy;
    assert_eq!(neighbour(&proxy), None);

    let mut bridge = neighbour_message(NeighbourState::Permanent, IpAddr::from([10, 0, 0, 9]));
    bridge.header.family = AddressFamily::Bridge;
    assert_eq!(neighbour(&bridge), None);
}

#[test]
fn a_plain_route_is_read_whole() {
    let message = route_message(
        "10.0.0.0/24",
        vec![gateway("10.1.0.1"), RouteAttribute::Oif(3), RouteAttribute::Priority(7)],
    );
    let expected = Route {
        prefix: "10.0.0.0/24".parse().unwrap(),
        table: Table::Main,
        kind: RouteKind::Unicast,
        gateway: Some(IpAddr::from([10, 1, 0, 1])),
        interface: 3,
        metric: 7,
    };
    assert_eq!(route(&message), Some(expected));
}

#[test]
fn a_route_without_a_destination_is_the_default_of_its_family() {
    for prefix in ["0.0.0.0/0", "::/0"] {
        let route = route(&route_message(prefix, vec![RouteAttribute::Oif(3)])).unwrap();
        assert_eq!(route.prefix.to_string(), prefix);
    }
}

#[test]
fn an_ipv4_route_may_go_through_an_ipv6_gateway() {
    let via = RouteVia::Inet6("fe80::1".parse().unwrap());
    let route = route(&route_message("0.0.0.0/0", vec![RouteAttribute::Via(via)])).unwrap();
    assert_eq!(route.gateway, Some("fe80::1".parse().unwrap()));
}

#[test]
fn of_several_next_hops_the_first_that_lives_is_taken() {
    let dead = RouteNextHopFlags::Dead;
    let living = RouteNextHopFlags::empty();
    let hops = vec![
        hop(3, dead, gateway("10.1.0.1")),
        hop(4, living, gateway("10.1.0.2")),
        hop(5, living, gateway("10.1.0.3")),
    ];
    let all = vec![RouteAttribute::MultiPath(hops)];
    let route = route(&route_message("10.0.0.0/24", all)).unwrap();
    assert_eq!((route.interface, route.gateway), (4, Some(IpAddr::from([10, 1, 0, 2]))));

    let none = vec![RouteAttribute::MultiPath(vec![hop(3, dead, gateway("10.1.0.1"))])];
    assert_eq!(super::route(&route_message("10.0.0.0/24", none)), None);
}

#[test]
fn routes_that_are_not_for_every_packet_are_left_out() {
    let spoil: [fn(&mut RouteMessage); 6] = [
        |message| message.header.table = 100,
        |message| message.attributes.push(RouteAttribute::Table(1000)),
        |message| message.header.tos = 4,
        |message| message.header.source_prefix_length = 64,
        |message| message.header.flags = RouteFlags::Cloned,
        |message| message.header.flags = RouteFlags::Dead,
    ];
    let plain = route_message("2001:db8::/64", vec![RouteAttribute::Oif(3)]);
    assert!(route(&plain).is_some());
    for spoil in spoil {
        let mut message = plain.clone();
        spoil(&mut message);
        assert_eq!(route(&message), None, "{message:?}");
    }
}

#[test]
fn route_types_become_kinds() {
    for (kind, expected) in [
        (RouteType::Unicast, RouteKind::Unicast),
        (RouteType::Local, RouteKind::Local),
        (RouteType::Broadcast, RouteKind::Local),
        (RouteType::Multicast, RouteKind::Local),
        (RouteType::Anycast, RouteKind::Local),
        (RouteType::BlackHole, RouteKind::Unreachable),
        (RouteType::Prohibit, RouteKind::Unreachable),
        (RouteType::Throw, RouteKind::Unreachable),
    ] {
        let mut message = route_message("10.0.0.0/24", Vec::new());
        message.header.kind = kind;
        assert_eq!(route(&message).unwrap().kind, expected, "{kind:?}");
    }
}

#[test]
fn a_link_has_an_ethernet_address_only_if_it_is_ethernet() {
    let mut message = LinkMessage::default();
    message.header.index = 2;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
    message.attributes = vec![
        LinkAttribute::IfName("eth0".to_owned()),
        LinkAttribute::Mtu(1500),
        LinkAttribute::Address(MAC.to_vec()),
    ];
    let ether = Link { name: "eth0".to_owned(), mac: Some(MAC), up: true, mtu: 1500, xdp: None };
    assert_eq!(link(&message), (2, ether));

    message.header.flags = LinkFlags::Up;
    assert!(!link(&message).1.up, "no carrier");
    message.header.link_layer_type = LinkLayerType::Loopback;
    assert_eq!(link(&message).1.mac, None);
}

#[test]
fn the_xdp_mode_is_that_of_the_first_program_to_see_a_packet() {
    let mode = |attached, more: &[LinkXdp]| {
        let mut attributes = vec![LinkXdp::Attached(attached)];
        attributes.extend_from_slice(more);
        xdp(&attributes)
    };
    assert_eq!(mode(XdpAttached::None, &[]), None);
    assert_eq!(mode(XdpAttached::Driver, &[]), Some(XdpMode::Native));
    assert_eq!(mode(XdpAttached::SocketBuffer, &[]), Some(XdpMode::Generic));
    assert_eq!(mode(XdpAttached::Hardware, &[]), Some(XdpMode::Offloaded));
    let both = [LinkXdp::SkbProgId(4), LinkXdp::DrvProgId(5)];
    assert_eq!(mode(XdpAttached::Multiple, &both), Some(XdpMode::Native));
}

#[test]
fn lost_notifications_and_changed_routes_make_a_view_stale() {
    let event = |inner| event(&NetlinkMessage::from(inner));
    let overrun = NetlinkMessage::new(Default::default(), NetlinkPayload::Overrun(Vec::new()));
    assert_eq!(super::event(&overrun), Some(Event::Stale));

    let route = route_message("10.0.0.0/24", Vec::new());
    assert_eq!(event(RouteNetlinkMessage::NewRoute(route.clone())), Some(Event::Stale));
    let mut elsewhere = route;
    elsewhere.header.table = 100;
    assert_eq!(event(RouteNetlinkMessage::DelRoute(elsewhere)), None);

    let key = (2, IpAddr::from([10, 0, 0, 9]));
    let message = neighbour_message(NeighbourState::Reachable, key.1);
    let new = RouteNetlinkMessage::NewNeighbour(message.clone());
    let gone = RouteNetlinkMessage::DelNeighbour(message);
    assert_eq!(event(new), Some(Event::Neighbour { key, mac: Some(MAC) }));
    assert_eq!(event(gone), Some(Event::Neighbour { key, mac: None }));
}
