//! What most end-to-end tests start from: a topology, a server on every host, and lbpersist between them with one web service for
//! each family.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;

use crate::{
    balancer::{Balancer, Status},
    client::Transport,
    config::{Config, Member},
    server::Server,
    topology::{Client, Family, Host, Topology, Wiring},
    wait,
};

/// The port of the web services.
pub const SERVICE_PORT: u16 = 80;

/// The ports that every server has open, over TCP and UDP. Pools that name a port use the first.
pub const SERVER_PORTS: [u16; 2] = [8080, 8081];

/// The configuration of a web service for each family, `web4` and `web6`, each with a pool of its name.
#[derive(Clone, Copy, Debug)]
pub struct Web<'a> {
    /// Weights of the servers, in turn; 1 for those beyond the list.
    pub weights: &'a [u16],
    /// The profile's timeout.
    pub timeout: &'a str,
    /// Further lines of the profile.
    pub profile: &'a str,
    /// Further lines of each pool.
    pub pool: &'a str,
}

impl Default for Web<'_> {
    fn default() -> Self {
        Self { weights: &[], timeout: "5m", profile: "", pool: "health_monitors = [\"fast\"]" }
    }
}

impl Web<'_> {
    /// The text, for these servers.
    pub fn config(&self, hosts: &[Host]) -> Config {
        let lines = format!("persistence_profile = \"kept\"\n{}", self.pool);
        Family::BOTH.into_iter().fold(
            Config::new().profile("kept", self.timeout, self.profile),
            |config, family| {
                let name = web(family);
                let members = members(hosts, family, Some(SERVER_PORTS[0]), self.weights);
                config.tcp(name, at(family), name).pool(name, &members, &lines)
            },
        )
    }
}

/// The name of the web service of a family, and of its pool.
pub const fn web(family: Family) -> &'static str {
    match family {
        Family::V4 => "web4",
        Family::V6 => "web6",
    }
}

/// Where the web service of a family is.
pub const fn at(family: Family) -> SocketAddr {
    family.service(SERVICE_PORT)
}

/// Pool members on these hosts.
pub fn members(hosts: &[Host], family: Family, port: Option<u16>, weights: &[u16]) -> Vec<Member> {
    let weights = weights.iter().copied().chain(std::iter::repeat(1));
    let member =
        |(host, weight): (&Host, u16)| Member { address: host.address(family), port, weight };
    hosts.iter().zip(weights).map(member).collect()
}

/// A topology at work. Fields are in the order in which they have to go.
#[derive(Debug)]
pub struct Scenario {
    /// The daemon.
    pub balancer: Balancer,
    /// A server on every host.
    pub servers: Vec<Server>,
    /// The wires.
    pub topology: Topology,
}

impl Scenario {
    /// One client, three servers and the web services, each on a veth of its own.
    pub fn web(web: &Web<'_>) -> Result<Self> {
        Self::start(Wiring::Routed, 3, |hosts| web.config(hosts))
    }

    /// One client, `servers` servers and what `config` says.
    pub fn start(
        wiring: Wiring,
        servers: u8,
        config: impl FnOnce(&[Host]) -> Config,
    ) -> Result<Self> {
        let topology = Topology::new(wiring, 1, servers)?;
        let servers = topology.start_servers(&SERVER_PORTS, &SERVER_PORTS)?;
        let config = config(&topology.servers);
        let balancer = Balancer::start(&topology.balancer, config, &topology.interfaces)?;
        let scenario = Self { balancer, servers, topology };
        scenario.wait_until_all_are_up();
        Ok(scenario)
    }

    /// The first client.
    pub fn client(&self) -> &Client {
        &self.topology.clients[0]
    }

    /// One address in each of `count` subnets of the first client, from subnet number `first` on.
    pub fn subnets(&self, family: Family, first: u32, count: u32) -> Vec<IpAddr> {
        (first..first + count).map(|n| self.client().address_in(family, n, 7)).collect()
    }

    /// Asks the web service from each of these addresses of the first client: the servers' names in the same order.
    ///
    /// # Panics
    /// When somebody gets no answer.
    pub fn meet(&self, from: &[IpAddr]) -> Vec<String> {
        let family = if from[0].is_ipv4() { Family::V4 } else { Family::V6 };
        self.meet_at(Transport::Http, from, at(family))
    }

    /// The same, of any service.
    ///
    /// # Panics
    /// When somebody gets no answer.
    pub fn meet_at(&self, transport: Transport, from: &[IpAddr], to: SocketAddr) -> Vec<String> {
        let answers = self.client().ask_from_each(transport, from, to);
        answers
            .into_iter()
            .zip(from)
            .map(|(answer, from)| match answer {
                Ok(answer) => answer.server,
                Err(error) => panic!("{from} asked {to}: {error}; {:?}", self.balancer.status()),
            })
            .collect()
    }

    /// `lbpersist status`.
    ///
    /// # Panics
    /// When there is none.
    pub fn status(&self) -> Status {
        self.balancer.status().unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// The server of every client in `persistence list`. A client that is listed for several services counts once.
    ///
    /// # Panics
    /// When there is no list.
    pub fn bindings(&self) -> BTreeMap<String, String> {
        let entries = self.balancer.entries().unwrap_or_else(|error| panic!("{error:#}"));
        entries.iter().map(|entry| (entry.client().to_owned(), entry.server().to_owned())).collect()
    }

    /// Where a server of that name lives.
    ///
    /// # Panics
    /// When there is none.
    pub fn host(&self, server: &str) -> &Host {
        let found = self.topology.servers.iter().find(|host| host.name() == server);
        found.unwrap_or_else(|| panic!("no server {server}"))
    }

    /// Kills a server and waits until the monitor has noticed.
    ///
    /// # Panics
    /// When there is no such server.
    pub fn kill(&mut self, server: &str) {
        let victim = self.servers.iter_mut().find(|candidate| candidate.name() == server);
        victim.unwrap_or_else(|| panic!("no server {server}")).kill();
        self.wait_for(server, &Family::BOTH, "down");
    }

    /// Starts a server again and waits until the monitor has noticed.
    ///
    /// # Panics
    /// When there is no such server, or its ports are taken.
    pub fn revive(&mut self, server: &str) {
        let found = self.servers.iter_mut().find(|candidate| candidate.name() == server);
        let revived = found.unwrap_or_else(|| panic!("no server {server}")).start_again();
        revived.unwrap_or_else(|error| panic!("{error:#}"));
        self.wait_for(server, &Family::BOTH, "up");
    }

    /// Waits until every server of every pool is up and has a next hop.
    pub fn wait_until_all_are_up(&self) {
        wait::until_true("every server is up and reachable", || {
            servers_of(&self.status()).all(|(_, state, reachable)| state == "up" && reachable)
        });
    }

    /// Waits until a server is in a state, `up` or `down`, with its addresses of these families.
    ///
    /// # Panics
    /// When there is no such server, or it never is.
    pub fn wait_for(&self, server: &str, families: &[Family], wanted: &str) {
        let host = self.host(server);
        let addresses: Vec<_> =
            families.iter().map(|family| host.address(*family).to_string()).collect();
        wait::until_true(&format!("{server} is {wanted}"), || {
            servers_of(&self.status())
                .filter(|(address, ..)| addresses.contains(address))
                .all(|(_, state, _)| state == wanted)
        });
    }
}

/// Address, state and reachability of every server in every pool.
fn servers_of(status: &Status) -> impl Iterator<Item = (String, String, bool)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let pools = status.0["pools"].as_array().into_iter().flatten();
    pools.flat_map(|pool| pool["servers"].as_array().into_iter().flatten()).map(move |server| {
        (text(&server["address"]), text(&server["state"]), server["reachable"] == true)
    })
}

/// How often each name occurs.
pub fn tally(names: &[String]) -> BTreeMap<&str, usize> {
    names.iter().fold(BTreeMap::new(), |mut tally, name| {
        *tally.entry(name.as_str()).or_default() += 1;
        tally
    })
}

/// The names that occur.
pub fn distinct(names: &[String]) -> BTreeSet<&str> {
    names.iter().map(String::as_str).collect()
}
