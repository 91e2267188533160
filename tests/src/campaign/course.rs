//! What happens to the balancer during a campaign, in an order that the seed decides.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Outcome, Plan, Random, crowd::Crowd};
use crate::{
    balancer::{self, Balancer},
    config::{Config, Member},
    scenario::{at, web},
    server::{Listen, Server},
    topology::{Family, Topology, Wiring},
};

/// Hosts of servers, and the ports of each: every address and port is a server with a name of its own.
const HOSTS: u8 = 4;
const PORTS: std::ops::Range<u16> = 8080..8090;

/// Servers at the start; reloads add the others.
const FIRST_SERVERS: usize = 8;

/// The longest a campaign may take.
const LIMIT: Duration = Duration::from_secs(15 * 60);

const SETTLED_LIMIT: Duration = Duration::from_secs(60);

/// How long a server may take to be called up or down, and a signal to be followed.
const SOON: Duration = Duration::from_secs(20);

/// Something that happens.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The daemon is killed, and started again after a while.
    Kill,
    /// The daemon is killed in the middle of a reload.
    KillInReload,
    /// The daemon is killed, and so is the next one before it is ready.
    KillInStart,
    /// Another configuration, by SIGHUP.
    Reload,
    /// Another configuration, by `apply --save`.
    Apply,
    /// A server gets no new clients from now on.
    Drain,
    /// Another copy of the program takes over.
    Upgrade,
    /// A server really goes down, and comes back.
    Fall,
}

/// A server that is or will be in the pools.
struct Backend {
    server: Server,
    host: usize,
    port: u16,
}

/// A campaign about to run. Fields are in the order in which they have to go.
pub(super) struct Course<'a> {
    plan: Plan,
    say: &'a mut dyn FnMut(&str),
    random: Random,
    balancer: Balancer,
    backends: Vec<Backend>,
    /// How many of them are configured, and how much each of those weighs.
    weights: Vec<u16>,
    directory: tempfile::TempDir,
    topology: Topology,
}

impl<'a> Course<'a> {
    /// Wires everything and starts the first daemon.
    pub(super) fn prepare(plan: &Plan, say: &'a mut dyn FnMut(&str)) -> Result<Self> {
        ensure!((2..=4_000).contains(&plan.clients), "between 2 and 4000 clients, please");
        let mut random = Random::new(plan.seed);
        let topology = Topology::new(Wiring::Routed, 1, HOSTS)?;
        let mut backends = Vec::new();
        for port in PORTS {
            for (host, place) in topology.servers.iter().enumerate() {
                let addresses = Family::BOTH.map(|family| place.address(family)).to_vec();
                let listen = Listen { addresses, tcp: vec![port], udp: Vec::new() };
                let name = format!("{}-{port}", place.name());
                let server = Server::start(&name, &place.namespace, listen)?;
                backends.push(Backend { server, host, port });
            }
        }
        let weights = vec![1; FIRST_SERVERS];
        random.shuffle(&mut backends);
        let config = config(&topology, &backends, &weights);
        let mut balancer = Balancer::prepare(&topology.balancer, &config, &topology.interfaces)?;
        if let Some(older) = &plan.from {
            balancer.configure_plainly(&config)?;
            balancer.use_binary(older);
        }
        balancer.restart()?;
        let directory = tempfile::tempdir()?;
        let plan = plan.clone();
        let mut course =
            Self { plan, say, random, balancer, backends, weights, directory, topology };
        course.wait("every server is up", |course| course.all_are("up", None))?;
        Ok(course)
    }

    /// Lets everything happen, and says what became of the clients.
    pub(super) fn run(mut self) -> Result<Outcome> {
        let client = &self.topology.clients[0];
        let visitors = (0..self.plan.clients).map(|number| {
            let family = Family::BOTH[(number / 2 % 2) as usize];
            (client.address_in(family, number, 7), at(family))
        });
        let crowd = Crowd::start(&client.namespace, visitors.collect(), &mut self.random)?;
        let start = Instant::now();
        while crowd.settled() < u64::from(self.plan.clients) {
            ensure!(
                start.elapsed() < SETTLED_LIMIT,
                "clients got no answer: {:?}",
                crowd.outcome()
            );
            thread::sleep(Duration::from_millis(20));
        }
        (self.say)(&format!(
            "{} clients have met a server after {:.1} s",
            self.plan.clients,
            start.elapsed().as_secs_f64()
        ));
        let events = self.events();
        for (number, &event) in events.iter().enumerate() {
            ensure!(start.elapsed() < LIMIT, "the campaign takes more than {LIMIT:?}");
            let before = crowd.outcome();
            self.happen(event, &crowd).with_context(|| format!("event {number}, {event:?}"))?;
            // Packets between events, and as many different moments as there are events.
            thread::sleep(Duration::from_millis(self.random.between(20, 150)));
            let now = crowd.outcome();
            if now.moved + now.lost > before.moved + before.lost {
                (self.say)(&format!("after event {number}, {event:?}: {now}"));
            } else if number % 25 == 24 || !matches!(event, Event::Reload | Event::Apply) {
                let seconds = start.elapsed().as_secs_f64();
                (self.say)(&format!("{seconds:6.1} s, event {number}, {event:?}: {now}"));
            }
        }
        // Everyone comes once more before the end.
        let asked = crowd.outcome().requests;
        while crowd.outcome().requests < asked + u64::from(self.plan.clients) {
            ensure!(start.elapsed() < LIMIT, "the campaign takes more than {LIMIT:?}");
            thread::sleep(Duration::from_millis(20));
        }
        let outcome = crowd.end()?;
        Ok(Outcome { breaks: self.breaks()?, ..outcome })
    }

    /// Breaks of all services by reason, those that there were.
    fn breaks(&self) -> Result<BTreeMap<String, u64>> {
        let status = self.balancer.json(&["status"])?;
        let mut sum: BTreeMap<String, u64> = BTreeMap::new();
        let services = status["virtual_services"].as_array().into_iter().flatten();
        for (reason, count) in services.flat_map(|one| one["breaks"].as_object()).flatten() {
            *sum.entry(reason.clone()).or_default() += count.as_u64().context("a count")?;
        }
        sum.retain(|_, count| *count > 0);
        Ok(sum)
    }

    fn events(&mut self) -> Vec<Event> {
        let kills = [Event::Kill, Event::KillInReload, Event::KillInStart];
        let reloads = [Event::Reload, Event::Apply];
        let mut events: Vec<Event> = Vec::new();
        events.extend(kills.iter().cycle().take(self.plan.kills as usize));
        events.extend(reloads.iter().cycle().take(self.plan.reloads as usize));
        events.extend([Event::Drain, Event::Fall]);
        if self.plan.from.is_none() {
            events.push(Event::Upgrade);
        }
        self.random.shuffle(&mut events);
        if self.plan.from.is_some() {
            // An older one knows neither the socket nor how to read its file again.
            let kills = vec![Event::Kill; self.plan.kills.div_ceil(10) as usize];
            events.splice(..0, [kills, vec![Event::Upgrade]].concat());
        }
        events
    }

    fn happen(&mut self, event: Event, crowd: &Crowd) -> Result<()> {
        match event {
            Event::Kill => {
                self.balancer.kill_dash_nine()?;
                self.moment(300);
                self.balancer.restart()
            }
            Event::KillInReload => {
                self.change()?;
                self.balancer.hang_up()?;
                self.moment(60);
                self.balancer.kill_dash_nine()?;
                self.balancer.restart()
            }
            Event::KillInStart => {
                self.balancer.kill_dash_nine()?;
                self.balancer.begin()?;
                self.moment(1_500);
                self.balancer.kill_dash_nine()?;
                self.balancer.restart()
            }
            Event::Reload => {
                self.change()?;
                let heard = self.reloads_heard();
                self.balancer.hang_up()?;
                self.wait("the file is read again", |course| Ok(course.reloads_heard() > heard))
            }
            Event::Apply => self.apply(),
            Event::Drain => self.drain(),
            Event::Upgrade => self.upgrade(),
            Event::Fall => self.fall(crowd),
        }
    }

    /// Waits up to so many milliseconds, to meet the daemon at any moment of its work.
    fn moment(&mut self, most: u64) {
        thread::sleep(Duration::from_millis(self.random.below(most)));
    }

    fn apply(&mut self) -> Result<()> {
        let text = self.next_config();
        let file = self.directory.path().join("next.toml");
        fs::write(&file, text)?;
        let file = file.to_str().context("a path that is no text")?;
        self.balancer.cli(&["apply", "--save", "--file", file])?.success()?;
        Ok(())
    }

    fn drain(&self) -> Result<()> {
        for family in Family::BOTH {
            let server = self.name_of(0, family);
            self.balancer.cli(&["server", "drain", web(family), &server])?.success()?;
        }
        Ok(())
    }

    fn upgrade(&mut self) -> Result<()> {
        if self.plan.from.is_some() {
            self.balancer.configure(config(&self.topology, &self.backends, &self.weights))?;
        }
        let copy = self.directory.path().join("lbpersist");
        fs::copy(balancer::binary()?, &copy)?;
        self.balancer.use_binary(&copy);
        self.balancer.restart()?;
        let log = self.balancer.log();
        log.lines().filter(|line| line.contains("migrat")).for_each(|line| (self.say)(line));
        Ok(())
    }

    fn fall(&mut self, crowd: &Crowd) -> Result<()> {
        const VICTIM: usize = 1;
        crowd.falls(self.backends[VICTIM].server.name());
        self.backends[VICTIM].server.kill();
        self.wait("the server is down", |course| course.all_are("down", Some(VICTIM)))?;
        self.moment(3_000);
        self.backends[VICTIM].server.start_again()?;
        self.wait("the server is up", |course| course.all_are("up", Some(VICTIM)))
    }

    /// Writes another configuration.
    fn change(&mut self) -> Result<()> {
        let text = self.next_config();
        self.balancer.configure(text)
    }

    /// Other weights, and now and then one more server.
    fn next_config(&mut self) -> String {
        for weight in &mut self.weights {
            *weight = 1 + self.random.below(8) as u16;
        }
        if self.weights.len() < self.backends.len() && self.random.below(4) == 0 {
            self.weights.push(4);
        }
        config(&self.topology, &self.backends, &self.weights).to_string()
    }

    fn reloads_heard(&self) -> usize {
        let log = self.balancer.log();
        log.lines().filter(|line| line.contains("the configuration was read again")).count()
    }

    /// The server as commands name it.
    fn name_of(&self, backend: usize, family: Family) -> String {
        let Backend { host, port, .. } = &self.backends[backend];
        let address = self.topology.servers[*host].address(family);
        std::net::SocketAddr::new(address, *port).to_string()
    }

    /// Whether all configured servers, or one of them, are in a state and can be reached.
    fn all_are(&self, state: &str, backend: Option<usize>) -> Result<bool> {
        let servers = self.balancer.json(&["status"])?;
        let wanted: Vec<String> = match backend {
            Some(one) => Family::BOTH.map(|family| self.name_of(one, family)).to_vec(),
            None => (0..self.weights.len())
                .flat_map(|one| Family::BOTH.map(|family| self.name_of(one, family)))
                .collect(),
        };
        let pools = servers["pools"].as_array().into_iter().flatten();
        let mut found = 0;
        for server in pools.flat_map(|pool| pool["servers"].as_array().into_iter().flatten()) {
            let address = server["address"].as_str().and_then(|address| address.parse().ok());
            let port = server["port"].as_u64().and_then(|port| u16::try_from(port).ok());
            let (Some(address), Some(port)) = (address, port) else { continue };
            let name = std::net::SocketAddr::new(address, port).to_string();
            if wanted.contains(&name) && server["state"] == state && server["reachable"] == true {
                found += 1;
            }
        }
        Ok(found == wanted.len())
    }

    fn wait(&mut self, what: &str, probe: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while !probe(self)? {
            ensure!(start.elapsed() < SOON, "not within {SOON:?}: {what}: {}", self.balancer.log());
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// The web service of both families. The monitor is patient: on a busy machine nobody may be called down who is not.
fn config(topology: &Topology, backends: &[Backend], weights: &[u16]) -> Config {
    let monitor = "[[health_monitor]]\nname = \"patient\"\ninterval = \"500ms\"\ntimeout = \"2s\"\nrise = 1\nfall = 3";
    let start = Config::new().profile("kept", "2m", "").also(monitor);
    Family::BOTH.into_iter().fold(start, |config, family| {
        let members: Vec<Member> = backends
            .iter()
            .zip(weights)
            .map(|(backend, &weight)| Member {
                address: topology.servers[backend.host].address(family),
                port: Some(backend.port),
                weight,
            })
            .collect();
        let lines = "persistence_profile = \"kept\"\nhealth_monitors = [\"patient\"]";
        let name = web(family);
        config.tcp(name, at(family), name).pool(name, &members, lines)
    })
}
