//! Links, routes and neighbours as plain values, and where a packet goes by them.
//!
//! No netlink type and no clock. Invariant: `routes` holds at most one route for a prefix, the one the kernel would use, so
//! that [`View::next_hop`] and a longest-prefix table filled from [`View::best_routes`] give the same answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv6Net};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Link-local IPv6 addresses.
const LINK_LOCAL: IpNet =
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10));

/// What the kernel knew at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The links, by interface index.
    pub links: BTreeMap<u32, Link>,
    /// The winning route of every prefix; shared, because a view in which only a neighbour differs has the same.
    pub routes: Arc<BTreeMap<IpNet, Route>>,
    /// Neighbours whose Ethernet address is known, by interface index and address.
    pub neighbours: BTreeMap<(u32, IpAddr), Mac>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its Ethernet address; `None` on loopback, tun and other links without Ethernet frames.
    pub mac: Option<Mac>,
    /// Whether it is set up and has a carrier.
    pub up: bool,
    /// The largest IP packet it carries, in bytes.
    pub mtu: u32,
    /// How an XDP program is attached to it, if one is.
    pub xdp: Option<XdpMode>,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the stack, after a socket buffer was made.
    Generic,
    /// On the network card.
    Offloaded,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destinations it is for, host bits zero.
    pub prefix: IpNet,
    /// The table it stands in.
    pub table: Table,
    /// What becomes of packets.
    pub kind: RouteKind,
    /// The router to send to; `None` when the destination itself is on the link. May be IPv6 for an IPv4 prefix.
    pub gateway: Option<IpAddr>,
    /// The interface to leave by; 0 where there is none.
    pub interface: u32,
    /// The lower one of two routes for a prefix is used.
    pub metric: u32,
}

/// A routing table, in the order in which the kernel asks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// This machine's own addresses.
    Local,
    /// Everything else.
    Main,
}

/// What becomes of a route's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// They are for this machine's stack; broadcast, multicast and anycast routes count as this too.
    Local,
    /// They go to a neighbour.
    Unicast,
    /// They go nowhere.
    Unreachable,
}

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Out of an interface, in a frame with these addresses.
    Resolved {
        /// The interface's index.
        interface: u32,
        /// The interface's Ethernet address.
        source: Mac,
        /// The neighbour's Ethernet address.
        destination: Mac,
    },
    /// To a neighbour whose Ethernet address is not known yet.
    Unresolved {
        /// The interface's index.
        interface: u32,
        /// Whom to look for on it.
        neighbour: IpAddr,
    },
    /// To this machine's own stack.
    Local,
    /// Nowhere: no route, a route that says so, or a link that is down or has no Ethernet frames.
    Unreachable,
}

/// Where packets for a whole prefix go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// To this machine's own stack.
    Local,
    /// Straight to the neighbour that has the destination's address.
    OnLink {
        /// The interface's index.
        interface: u32,
        /// The interface's Ethernet address.
        source: Mac,
    },
    /// Through a router.
    Gateway {
        /// The interface's index.
        interface: u32,
        /// The interface's Ethernet address.
        source: Mac,
        /// The router's address.
        gateway: IpAddr,
        /// The router's Ethernet address, once it is known.
        mac: Option<Mac>,
    },
    /// Nowhere, for the reasons of [`NextHop::Unreachable`].
    Unreachable,
}

impl View {
    /// A view of these links and neighbours, and of the routes that win among `routes`. Of two routes that are alike in
    /// prefix, table and metric the first wins, so they should come in the kernel's order.
    pub fn new(
        links: BTreeMap<u32, Link>,
        routes: Vec<Route>,
        neighbours: BTreeMap<(u32, IpAddr), Mac>,
    ) -> Self {
        Self { links, routes: Arc::new(winners(routes)), neighbours }
    }

    /// The link of that name, and its interface index.
    pub fn link_by_name(&self, name: &str) -> Option<(u32, &Link)> {
        self.links.iter().find(|(_, link)| link.name == name).map(|(index, link)| (*index, link))
    }

    /// Where a packet to that address goes.
    pub fn next_hop(&self, to: IpAddr) -> NextHop {
        let target = self.route_to(to).map(|route| self.target(route));
        match target.unwrap_or(RouteTarget::Unreachable) {
            RouteTarget::Local => NextHop::Local,
            RouteTarget::Unreachable => NextHop::Unreachable,
            RouteTarget::OnLink { interface, source } => self.through(interface, source, to),
            RouteTarget::Gateway { interface, source, gateway, .. } => {
                self.through(interface, source, gateway)
            }
        }
    }

    /// The neighbour that packets to that address are handed to, and the interface it is behind.
    pub fn neighbour_towards(&self, to: IpAddr) -> Option<(u32, IpAddr)> {
        match self.target(self.route_to(to)?) {
            RouteTarget::OnLink { interface, .. } => Some((interface, to)),
            RouteTarget::Gateway { interface, gateway, .. } => Some((interface, gateway)),
            RouteTarget::Local | RouteTarget::Unreachable => None,
        }
    }

    /// Every prefix with the place its packets go to, for a longest-prefix table.
    ///
    /// Of the link-local addresses fe80::/10 there is one row that says unreachable: they mean another neighbour on every
    /// link, which a table keyed by address alone cannot tell, and no router may forward to them (RFC 4291, section
    /// 2.5.6). Without the row a default route would catch them. A gateway may have such an address all the same.
    pub fn best_routes(&self) -> impl Iterator<Item = (IpNet, RouteTarget)> {
        self.routes.iter().map(|(prefix, route)| (*prefix, self.target(route)))
    }

    /// The gateways in use whose Ethernet address is not known: without it nothing behind them can be reached.
    pub fn unresolved_gateways(&self) -> BTreeSet<(u32, IpAddr)> {
        self.best_routes()
            .filter_map(|(_, target)| match target {
                RouteTarget::Gateway { interface, gateway, mac: None, .. } => {
                    Some((interface, gateway))
                }
                _ => None,
            })
            .collect()
    }

    /// The most specific route to an address.
    fn route_to(&self, to: IpAddr) -> Option<&Route> {
        let longest = IpNet::from(to).max_prefix_len();
        (0..=longest).rev().find_map(|length| {
            let prefix = IpNet::new(to, length).ok()?.trunc();
            self.routes.get(&prefix)
        })
    }

    fn target(&self, route: &Route) -> RouteTarget {
        match route.kind {
            RouteKind::Local => return RouteTarget::Local,
            RouteKind::Unreachable => return RouteTarget::Unreachable,
            RouteKind::Unicast => {}
        }
        let interface = route.interface;
        let Some(Link { mac: Some(source), up: true, .. }) = self.links.get(&interface) else {
            return RouteTarget::Unreachable;
        };
        let source = *source;
        match route.gateway {
            None => RouteTarget::OnLink { interface, source },
            Some(gateway) => RouteTarget::Gateway {
                interface,
                source,
                gateway,
                mac: self.neighbours.get(&(interface, gateway)).copied(),
            },
        }
    }

    fn through(&self, interface: u32, source: Mac, neighbour: IpAddr) -> NextHop {
        match self.neighbours.get(&(interface, neighbour)) {
            Some(destination) => NextHop::Resolved { interface, source, destination: *destination },
            None => NextHop::Unresolved { interface, neighbour },
        }
    }
}

/// The route the kernel would use, for every prefix that any packet can meet.
///
/// The kernel asks the local table first and the main table only where the local one is silent, so a route of the main
/// table inside a prefix of the local one is never used, however specific it is.
fn winners(mut routes: Vec<Route>) -> BTreeMap<IpNet, Route> {
    let ipv6 = routes.iter().any(|route| route.prefix.addr().is_ipv6());
    routes.retain(|route| !LINK_LOCAL.contains(&route.prefix));
    if ipv6 {
        routes.push(nowhere(LINK_LOCAL));
    }
    // A prefix sorts before all that it contains. The sort is stable: among equals the kernel's order stays.
    routes.sort_by_key(|route| (route.prefix, route.table, route.metric));

    let mut winners = BTreeMap::new();
    let mut local: Option<IpNet> = None;
    for route in routes {
        let covered = local.is_some_and(|local| local.contains(&route.prefix));
        if covered && route.table == Table::Main {
            continue;
        }
        if !covered && route.table == Table::Local {
            local = Some(route.prefix);
        }
        winners.entry(route.prefix).or_insert(route);
    }
    winners
}

fn nowhere(prefix: IpNet) -> Route {
    Route {
        prefix,
        table: Table::Main,
        kind: RouteKind::Unreachable,
        gateway: None,
        interface: 0,
        metric: 0,
    }
}

#[cfg(test)]
mod tests;
