//! The network as the daemon knows it, and the neighbours that packets go through.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use lbpersist_common::route::NeighbourKey;

use super::Daemon;
use crate::{datapath::address::from_map, network};

/// How often the kernel is asked to look again for the neighbours that packets go through.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Neighbours that are remembered after the kernel forgot them.
const REMEMBERED_NEIGHBOURS: usize = 60_000;

impl Daemon {
    /// Takes the newest view. Neighbours that the kernel has forgotten are remembered: a packet to where one was is better than
    /// a packet to nowhere, and the kernel forgets those that XDP alone talks to.
    pub(super) fn take_view(&mut self) {
        let mut view = self.views.borrow_and_update().as_ref().clone();
        for (key, mac) in std::mem::take(&mut self.view.neighbours) {
            if view.neighbours.len() >= REMEMBERED_NEIGHBOURS {
                break;
            }
            if view.links.contains_key(&key.0) {
                view.neighbours.entry(key).or_insert(mac);
            }
        }
        self.view = view;
    }

    /// Asks the kernel to look for the neighbours that packets need, so that it knows them and notices when they change.
    pub(super) async fn look_for_neighbours(&mut self) {
        let now = Instant::now();
        let wanted = self.wanted_neighbours();
        self.looked.retain(|key, _| wanted.contains(key));
        for (interface, neighbour) in wanted {
            let recently = self
                .looked
                .get(&(interface, neighbour))
                .is_some_and(|at| now.duration_since(*at) < LOOK_EVERY);
            if recently {
                continue;
            }
            self.looked.insert((interface, neighbour), now);
            if let Err(error) = self.watcher.resolve(interface, neighbour).await {
                tracing::debug!(interface, %neighbour, %error, "cannot look for a neighbour");
            }
        }
    }

    /// The servers' next hops, gateways, and the clients that answers could not be sent to.
    fn wanted_neighbours(&mut self) -> BTreeSet<(u32, IpAddr)> {
        let mut wanted = self.view.unresolved_gateways();
        for (prefix, target) in self.view.best_routes() {
            if let network::RouteTarget::Gateway { interface, gateway, .. } = target
                && prefix.prefix_len() < prefix.max_prefix_len()
            {
                wanted.insert((interface, gateway));
            }
        }
        let servers = self.model.pools.values().flat_map(|pool| &pool.servers);
        wanted.extend(servers.filter_map(|server| self.view.neighbour_towards(server.address)));
        let clients: Vec<(NeighbourKey, u64)> =
            self.data_path.maps.wanted.all().unwrap_or_default();
        for (key, _) in clients {
            wanted.insert((key.interface, from_map(key.address)));
            if let Err(error) = self.data_path.maps.wanted.remove(&key) {
                tracing::debug!(%error, "cannot clear a wanted neighbour");
            }
        }
        wanted
    }
}
