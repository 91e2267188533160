//! A plan in words: what a change of the configuration does to services, pools and servers. What follows the network is left out.

use std::net::SocketAddr;

use lbpersist_common::{
    layout::{Name, NameKey, kind},
    server::Server,
    service::Service,
};

use super::{address::from_map, desired::Desired, plan::Step, report::state_name};

/// What `steps` do, in their order; each a sentence without its full stop.
pub fn describe(steps: &[Step], was: &Desired, is: &Desired) -> Vec<String> {
    let words = Words { was, is };
    let mut said: Vec<String> = steps.iter().flat_map(|step| words.step(step)).collect();
    said.dedup();
    said
}

struct Words<'a> {
    was: &'a Desired,
    is: &'a Desired,
}

impl Words<'_> {
    fn step(&self, step: &Step) -> Vec<String> {
        match step {
            Step::SetServer(number, server) => self.server(*number, server),
            Step::RemoveServer(number) => {
                let gone = self.was.servers.get(number);
                gone.map(|server| format!("{} is removed", self.label(server)))
                    .into_iter()
                    .collect()
            }
            Step::SetPool(number, pool) => {
                let name = self.name(kind::POOL, *number);
                match self.was.pools.get(number) {
                    None => vec![format!("pool {name} is added")],
                    Some(before) if before == pool => vec![format!("pool {name}: new ring")],
                    Some(before)
                        if super::apply::client_keys(before) != super::apply::client_keys(pool) =>
                    {
                        vec![format!(
                            "pool {name}: clients have other keys; entries that were made under the old ones bind nobody"
                        )]
                    }
                    Some(_) => vec![format!("pool {name}: new settings")],
                }
            }
            Step::RemovePool(number) => {
                vec![format!("pool {} is removed", self.name(kind::POOL, *number))]
            }
            Step::SetService(endpoint, service) => {
                self.service(self.was.services.get(endpoint), service)
            }
            Step::SetCarried(endpoint, service) => {
                self.service(self.was.carried.get(endpoint), service)
            }
            Step::RemoveCarried(endpoint) => self.removed(self.was.carried.get(endpoint)),
            Step::SetPrefixService(place, service) if service.id != 0 => {
                self.service(self.was.prefix_services.get(place), service)
            }
            Step::RemoveService(endpoint) => self.removed(self.was.services.get(endpoint)),
            Step::RemovePrefixService(place) => self.removed(self.was.prefix_services.get(place)),
            _ => Vec::new(),
        }
    }

    fn server(&self, number: u32, server: &Server) -> Vec<String> {
        let label = self.label(server);
        let Some(was) =
            self.was.servers.get(&number).filter(|was| was.generation == server.generation)
        else {
            let (state, weight) = (state_name(server.state), server.weight);
            return vec![format!("{label} is added: {state}, weight {weight}")];
        };
        let mut said = Vec::new();
        if was.weight != server.weight {
            said.push(format!("{label}: weight {} instead of {}", server.weight, was.weight));
        }
        if was.state != server.state {
            let [is, was] = [server.state, was.state].map(state_name);
            said.push(format!("{label}: {is} instead of {was}"));
        }
        said
    }

    fn service(&self, was: Option<&Service>, is: &Service) -> Vec<String> {
        let name = self.name(kind::SERVICE, is.index);
        let pool = self.name(kind::POOL, is.pool);
        match was {
            None => vec![format!("virtual service {name} is added, to pool {pool}")],
            Some(was) if was.id != is.id => {
                vec![format!("virtual service {name} begins anew, to pool {pool}")]
            }
            Some(was) if was.scope != is.scope => {
                vec![format!("virtual service {name}: another scope, so it begins without entries")]
            }
            Some(_) => vec![format!("virtual service {name} changes")],
        }
    }

    fn removed(&self, was: Option<&Service>) -> Vec<String> {
        // One that only moves to another address goes on.
        let gone = was.filter(|was| {
            let mut left = self.is.services.values().chain(self.is.carried.values());
            was.id != 0 && !left.any(|service| service.id == was.id)
        });
        let gone = gone.map(|was| self.old_name(kind::SERVICE, was.index));
        gone.map(|name| format!("virtual service {name} is removed")).into_iter().collect()
    }

    fn label(&self, server: &Server) -> String {
        let address = from_map(server.address);
        let endpoint = match server.port {
            0 => address.to_string(),
            port => SocketAddr::new(address, port).to_string(),
        };
        format!("pool {}: server {endpoint}", self.name(kind::POOL, server.pool))
    }

    fn name(&self, kind: u32, number: u32) -> String {
        let key = NameKey { kind, number };
        let name = self.is.names.get(&key).or_else(|| self.was.names.get(&key));
        name.map_or_else(|| format!("#{number}"), |name| name.as_str().to_owned())
    }

    fn old_name(&self, kind: u32, number: u32) -> String {
        let name = self.was.names.get(&NameKey { kind, number }).map(Name::as_str);
        name.map_or_else(|| format!("#{number}"), str::to_owned)
    }
}
