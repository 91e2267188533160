//! What is to be done about the difference between what the maps hold and what they should.
//!
//! A plan is data: a list of steps in an order that leaves every packet a right answer at every moment. What something refers
//! to is written before it, and deleted after it.

use std::collections::BTreeMap;

use lbpersist_common::{
    flood::FloodLimits,
    front::Front,
    layout::{Name, NameKey},
    net::{Address, Endpoint},
    route::{Neighbour, NeighbourKey, Route},
    server::{Server, state},
    service::{Pool, Reverse, Service},
};

use super::desired::{Desired, PrefixPlace};

/// One change to the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write a name.
    SetName(NameKey, Name),
    /// Write a route: prefix length and prefix.
    SetRoute((u32, Address), Route),
    /// Write a neighbour.
    SetNeighbour(NeighbourKey, Neighbour),
    /// Write a server.
    SetServer(u32, Server),
    /// Write the budget of new keys.
    SetFloodLimits(FloodLimits),
    /// Write the limit of a server; 0 for none.
    SetLimit(u32, u32),
    /// Write a pool's turns.
    SetTurns(u32, Vec<u16>),
    /// Compute and publish the ring of a pool, and write the pool.
    SetPool(u32, Pool),
    /// Write where answers of a server go.
    SetReverse(Endpoint, Reverse),
    /// Write a service.
    SetService(Endpoint, Service),
    /// Write a service that the daemon carries.
    SetCarried(Endpoint, Service),
    /// Delete a service that the daemon carries.
    RemoveCarried(Endpoint),
    /// Write a service on a prefix.
    SetPrefixService(PrefixPlace, Service),
    /// Write an address that services are on.
    SetFront(Address, Front),
    /// Delete an address that services are on.
    RemoveFront(Address),
    /// Delete a service.
    RemoveService(Endpoint),
    /// Delete a service on a prefix.
    RemovePrefixService(PrefixPlace),
    /// Delete where answers of a server go.
    RemoveReverse(Endpoint),
    /// Clear a pool and drop its ring.
    RemovePool(u32),
    /// Drop a pool's turns.
    RemoveTurns(u32),
    /// Mark a server as absent; its generation stays.
    RemoveServer(u32),
    /// Delete a neighbour.
    RemoveNeighbour(NeighbourKey),
    /// Delete a route.
    RemoveRoute((u32, Address)),
    /// Delete a name.
    RemoveName(NameKey),
}

/// The steps from `actual` to `desired`.
pub fn plan(actual: &Desired, desired: &Desired) -> Vec<Step> {
    let mut steps = Vec::new();
    let was = actual;
    let is = desired;
    steps.extend(changed(&was.names, &is.names).map(|(k, v)| Step::SetName(k, v)));
    steps.extend(changed(&was.routes, &is.routes).map(|(k, v)| Step::SetRoute(k, v)));
    steps.extend(changed(&was.neighbours, &is.neighbours).map(|(k, v)| Step::SetNeighbour(k, v)));
    // Going down comes after the rings: until then new clients still find the server usable, and none is left without one.
    let (up, down): (Vec<_>, Vec<_>) =
        changed(&was.servers, &is.servers).partition(|(_, server)| state::serves(server.state));
    steps.extend(up.into_iter().map(|(k, v)| Step::SetServer(k, v)));
    let flood_limits = is.flood_limits.filter(|_| was.flood_limits != is.flood_limits);
    steps.extend(flood_limits.map(Step::SetFloodLimits));
    steps.extend(changed(&was.limits, &is.limits).map(|(k, v)| Step::SetLimit(k, v)));
    steps.extend(gone(&was.limits, &is.limits).map(|number| Step::SetLimit(number, 0)));
    let turns = is.turns.iter().filter(|(number, turns)| was.turns.get(number) != Some(turns));
    steps.extend(turns.map(|(&number, turns)| Step::SetTurns(number, turns.clone())));
    let pools = is.pools.iter().filter(|(number, pool)| {
        was.pools.get(number) != Some(pool) || was.rings.get(number) != is.rings.get(number)
    });
    steps.extend(pools.map(|(&k, &v)| Step::SetPool(k, v)));
    steps.extend(down.into_iter().map(|(k, v)| Step::SetServer(k, v)));
    steps.extend(changed(&was.reverse, &is.reverse).map(|(k, v)| Step::SetReverse(k, v)));
    steps.extend(changed(&was.services, &is.services).map(|(k, v)| Step::SetService(k, v)));
    steps.extend(changed(&was.carried, &is.carried).map(|(k, v)| Step::SetCarried(k, v)));
    let prefixes = changed(&was.prefix_services, &is.prefix_services);
    steps.extend(prefixes.map(|(k, v)| Step::SetPrefixService(k, v)));

    steps.extend(changed(&was.fronts, &is.fronts).map(|(k, v)| Step::SetFront(k, v)));

    steps.extend(gone(&was.fronts, &is.fronts).map(Step::RemoveFront));
    steps.extend(gone(&was.services, &is.services).map(Step::RemoveService));
    steps.extend(gone(&was.carried, &is.carried).map(Step::RemoveCarried));
    let prefixes = gone(&was.prefix_services, &is.prefix_services);
    steps.extend(prefixes.map(Step::RemovePrefixService));
    steps.extend(gone(&was.reverse, &is.reverse).map(Step::RemoveReverse));
    steps.extend(gone(&was.pools, &is.pools).map(Step::RemovePool));
    steps.extend(gone(&was.turns, &is.turns).map(Step::RemoveTurns));
    steps.extend(gone(&was.servers, &is.servers).map(Step::RemoveServer));
    steps.extend(gone(&was.neighbours, &is.neighbours).map(Step::RemoveNeighbour));
    steps.extend(gone(&was.routes, &is.routes).map(Step::RemoveRoute));
    steps.extend(gone(&was.names, &is.names).map(Step::RemoveName));
    steps
}

fn changed<'a, K: Ord + Copy, V: PartialEq + Copy>(
    was: &'a BTreeMap<K, V>,
    is: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (K, V)> + 'a {
    is.iter().filter(|(key, value)| was.get(key) != Some(value)).map(|(&key, &value)| (key, value))
}

fn gone<'a, K: Ord + Copy, V>(
    was: &'a BTreeMap<K, V>,
    is: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = K> + 'a {
    was.keys().filter(|key| !is.contains_key(key)).copied()
}
