//! Has each event happen to the rules and to the program, and compares verdicts and tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Debug, Display},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use lbpersist_common::{counter::Event as Counted, reason::Reason, tcp::flag};
use lbpersist_tests::{packet::Packet, rig::Rig, topology::Family};

mod compare;

use crate::{
    budget::Budget,
    events::{Case, Event, Who},
    plan::{POOLS, at, host, pool, text},
    rules::{MILLISECOND, Rules, SECOND},
    setup::{V4, server_address},
    world::{Answer, Flow, Key, Says, Server, Service},
};

/// Clients: some share a /24.
const CLIENTS: [Ipv4Addr; 6] = [
    Ipv4Addr::new(172, 16, 1, 7),
    Ipv4Addr::new(172, 16, 1, 8),
    Ipv4Addr::new(172, 16, 2, 7),
    Ipv4Addr::new(172, 16, 3, 7),
    Ipv4Addr::new(172, 16, 3, 9),
    Ipv4Addr::new(172, 17, 0, 1),
];
/// The same of IPv6: some share a /64.
const CLIENTS_V6: [Ipv6Addr; 6] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0xc, 1, 0, 0, 0, 7),
    Ipv6Addr::new(0x2001, 0xdb8, 0xc, 1, 0, 0, 0, 8),
    Ipv6Addr::new(0x2001, 0xdb8, 0xc, 2, 0, 0, 0, 7),
    Ipv6Addr::new(0x2001, 0xdb8, 0xc, 3, 0, 0, 0, 7),
    Ipv6Addr::new(0x2001, 0xdb8, 0xc, 3, 9, 0, 0, 7),
    Ipv6Addr::new(0x2001, 0xdb8, 0xd, 0, 0, 0, 0, 1),
];
/// Where the virtual clock begins, and how much later at each further case: what is spent of a budget is not forgotten otherwise.
const START: u64 = 100_000 * SECOND;
const LATER: u64 = 10_000 * SECOND;
static CASES: AtomicU64 = AtomicU64::new(0);
const TENTH: u64 = 100 * MILLISECOND;

type Check = Result<(), String>;

/// A case under way.
struct Run<'rig> {
    rig: &'rig mut Rig,
    rules: Rules,
    now: u64,
    /// The server that each client met last.
    met: BTreeMap<Flow, u8>,
    /// The program's numbers of services, and scopes of entries.
    services: BTreeMap<u32, Service>,
    scopes: BTreeMap<u32, (usize, Option<usize>)>,
    faults: u64,
}

/// A disagreement: after how many events, and what differs.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) events: usize,
    pub(crate) what: String,
}

/// Carries a case out.
pub(crate) fn run(rig: &mut Rig, case: &Case) -> Result<(), Found> {
    let mut run = begin(rig, case).map_err(|what| Found { events: 0, what })?;
    // The sweep comes to every end, where it may find what nothing else has shown.
    for (n, event) in case.events.iter().chain([&Event::Sweep]).enumerate() {
        let found = |what| Found { events: n + 1, what: format!("{event:?}: {what}") };
        run.event(*event).map_err(found)?;
    }
    Ok(())
}

fn begin<'rig>(rig: &'rig mut Rig, case: &Case) -> Result<Run<'rig>, String> {
    let [all, of_prefix] = case.budget;
    let budget = Budget::new(all, of_prefix);
    let pools = case.pools.iter().enumerate().map(|(n, plan)| pool(n, plan)).collect();
    let rules = Rules::new(pools, budget);
    let start = START + CASES.fetch_add(1, Relaxed) * LATER;
    rig.set_clock(start);
    rig.reset(&text(&rules.pools, &rules.budget)).map_err(told)?;
    let faults = faults(rig)?;
    let mut run = Run {
        rig,
        rules,
        now: start,
        met: BTreeMap::new(),
        services: BTreeMap::new(),
        scopes: BTreeMap::new(),
        faults,
    };
    run.learn_numbers();
    Ok(run)
}

impl Run<'_> {
    fn event(&mut self, event: Event) -> Check {
        match event {
            Event::Syn(who) => self.syn(self.flow(who))?,
            Event::Client(who, says) => self.segment(self.flow(who), says)?,
            Event::Server(who, says) => self.answer(self.flow(who), says)?,
            Event::Open(who) => {
                let flow = self.flow(who);
                self.syn(flow)?;
                self.answer(flow, Says::Nothing)?;
                self.segment(flow, Says::Nothing)?;
            }
            Event::Close(who) => {
                let flow = self.flow(who);
                self.segment(flow, Says::Fin)?;
                self.answer(flow, Says::Fin)?;
                self.segment(flow, Says::Nothing)?;
            }
            Event::Datagram(Who(_, _, pool, _)) if self.rules.pools[self.pool(pool)].limit > 0 => {}
            Event::Datagram(who) => self.datagram(who)?,
            Event::Pass(tenths) => self.now = self.now / TENTH * TENTH + u64::from(tenths) * TENTH,
            Event::Sweep => self.sweep()?,
            Event::SweepHandshakes => {
                let now = self.tick()?;
                self.rules.sweep_handshakes(now);
                self.rig.sweep_handshakes(now).map_err(told)?;
            }
            Event::Turn(pool, place) => {
                self.change(pool, place, |server| server.up = !server.up)?;
            }
            Event::Swap(pool, place) => self.swap(pool, place)?,
            Event::Weigh(pool, place, weight) => {
                self.change(pool, place, |server| server.weight = weight)?;
            }
            Event::Timeout(pool, milliseconds) => {
                let pool = self.pool(pool);
                let timeout = &mut self.rules.pools[pool].timeout;
                if *timeout > 0 {
                    *timeout = milliseconds * MILLISECOND;
                }
                self.configure()?;
            }
            Event::Flush(number) => self.flush(number)?,
            Event::FlushAll => {
                while !self.rules.entries.is_empty() {
                    self.flush(0)?;
                }
            }
            Event::Restart => {
                self.rig.reopen().map_err(told)?;
                self.rig.apply().map_err(told)?;
            }
        }
        self.compare()
    }

    fn syn(&mut self, flow: Flow) -> Check {
        let now = self.tick()?;
        let expected = self.rules.syn(flow, now);
        self.forwarded(flow, &self.tcp(flow, flag::SYN), expected)
    }

    fn segment(&mut self, flow: Flow, says: Says) -> Check {
        let now = self.tick()?;
        let expected = self.rules.segment(flow, says, now);
        self.forwarded(flow, &self.tcp(flow, flags(says)), expected)
    }

    fn datagram(&mut self, Who(client, port, pool, _): Who) -> Check {
        let flow = self.flow(Who(client, port, pool, 2));
        let now = self.tick()?;
        let expected = self.rules.datagram(flow, now);
        self.forwarded(flow, &Packet::udp(from(flow), self.at(flow.service)), expected)
    }

    /// The server's segment to a client that met it; without one nothing happens.
    fn answer(&mut self, flow: Flow, says: Says) -> Check {
        let now = self.tick()?;
        let Some(&host) = self.met.get(&flow) else { return Ok(()) };
        let service = self.at(flow.service);
        let family = self.rules.pools[flow.service.pool].family;
        let server = SocketAddr::new(server_address(family, host), service.port());
        // To a client that has only begun, a server says SYN.
        let opens = says == Says::Nothing && self.rules.handshakes.contains_key(&flow);
        let opening = if opens { flag::SYN } else { 0 };
        let packet = Packet::tcp(server, from(flow), flags(says) | opening);
        let outcome = self.rig.send(&packet.bytes()).map_err(told)?;
        let servers = &self.rules.pools[flow.service.pool].servers;
        if !servers.iter().any(|server| server.host == host && !server.removed) {
            return same("a removed server's segment is", &outcome.reason, &Reason::NotOurs);
        }
        self.rules.answer(flow, says, now);
        same("an answer is", &outcome.reason, &Reason::Returned)?;
        match service.ip() {
            IpAddr::V4(source) => {
                same("it comes from", &outcome.packet[26..30], &source.octets()[..])
            }
            IpAddr::V6(source) => {
                same("it comes from", &outcome.packet[22..38], &source.octets()[..])
            }
        }
    }

    /// Sends a client's packet and compares where it goes.
    fn forwarded(&mut self, flow: Flow, packet: &Packet, expected: Answer) -> Check {
        let outcome = self.rig.send(&packet.bytes()).map_err(told)?;
        let found = match outcome.reason {
            Reason::Forwarded => {
                let family = self.rules.pools[flow.service.pool].family;
                let host = number(family, outcome.packet[if family == V4 { 33 } else { 53 }]);
                self.met.insert(flow, host);
                if let Answer::ToOneOf(hosts) = &expected
                    && hosts.contains(&host)
                {
                    self.rules.chose(&flow, host);
                    return Ok(());
                }
                Answer::To(host)
            }
            Reason::ServerFull => Answer::Full,
            Reason::ServerDown => Answer::Refused,
            Reason::ServerGone => Answer::Reset,
            Reason::NoServer => Answer::Nobody,
            other => return Err(format!("counted as {other:?}")),
        };
        same(&format!("{flow:?} goes"), &found, &expected)
    }

    fn sweep(&mut self) -> Check {
        let now = self.tick()?;
        self.rig.sweep_pass(now).map_err(told)?;
        let left: BTreeSet<Flow> = self.connections()?.into_keys().collect();
        self.rules.sweep(&left, now)
    }

    fn change(&mut self, pool: u8, place: u8, change: impl Fn(&mut Server)) -> Check {
        let pool = self.pool(pool);
        let host = host(pool, place);
        self.change_servers(pool, |servers| {
            servers
                .iter_mut()
                .filter(|server| server.host == host && !server.removed)
                .for_each(change);
        })
    }

    /// Removes a server or adds it: as another server, even at the same address.
    fn swap(&mut self, pool: u8, place: u8) -> Check {
        let pool = self.pool(pool);
        let host = host(pool, place);
        self.change_servers(pool, |servers| {
            match servers.iter_mut().find(|server| server.host == host && !server.removed) {
                Some(server) => server.removed = true,
                None => servers.push(Server { host, weight: 1, up: true, removed: false }),
            }
        })
    }

    /// Changes a pool's servers, unless it would have none with a weight, which a configuration must not say.
    fn change_servers(&mut self, pool: usize, change: impl FnOnce(&mut Vec<Server>)) -> Check {
        let servers = &mut self.rules.pools[pool].servers;
        let before = servers.clone();
        change(servers);
        if !servers.iter().any(|server| !server.removed && server.weight > 0) {
            *servers = before;
        }
        self.configure()
    }

    fn configure(&mut self) -> Check {
        self.tick()?;
        self.rig.down.clear();
        for (pool, name) in self.rules.pools.iter().zip(POOLS) {
            let down = pool.servers.iter().filter(|server| !server.removed && !server.up);
            let keys = down
                .map(|server| (name.to_owned(), server_address(pool.family, server.host), None));
            self.rig.down.extend(keys);
        }
        self.rig.configure(&text(&self.rules.pools, &self.rules.budget)).map(drop).map_err(told)
    }

    fn flush(&mut self, number: u8) -> Check {
        let keys: Vec<Key> = self.rules.entries.keys().copied().collect();
        if keys.is_empty() {
            return Ok(());
        }
        let key = keys[usize::from(number) % keys.len()];
        self.rules.entries.remove(&key);
        let (real, _) = self.real_entry(&key)?;
        let maps = &mut self.rig.data_path().maps;
        maps.entries.remove(&real).map_err(told)?;
        maps.recent_flows.forget_all();
        Ok(())
    }

    /// The next moment, with every entry settled.
    fn tick(&mut self) -> Result<u64, String> {
        self.now += 1000;
        self.rig.set_clock(self.now);
        for key in self.rules.unsettled(self.now) {
            let (_, entry) = self.real_entry(&key)?;
            self.rules.settle(&key, entry.idle_since_ns)?;
        }
        for flow in self.rules.unsettled_flows(self.now) {
            let noted = self.real_flow(&flow)?;
            self.rules.settle_flow(&flow, noted)?;
        }
        Ok(self.now)
    }

    fn pool(&self, pool: u8) -> usize {
        usize::from(pool) % self.rules.pools.len()
    }

    fn flow(&self, Who(client, port, pool, service): Who) -> Flow {
        let service = Service { pool: self.pool(pool), number: service.into() };
        let client = usize::from(client) % CLIENTS.len();
        let client: IpAddr = match self.rules.pools[service.pool].family {
            Family::V4 => CLIENTS[client].into(),
            Family::V6 => CLIENTS_V6[client].into(),
        };
        Flow { client, port: 40_000 + u16::from(port), service }
    }

    fn at(&self, service: Service) -> SocketAddr {
        at(&self.rules.pools[service.pool], service)
    }

    fn tcp(&self, flow: Flow, flags: u8) -> Packet {
        Packet::tcp(from(flow), self.at(flow.service), flags)
    }
}

/// The number of a host by the last byte of its address: an IPv6 address has its figures as hexadecimal ones.
fn number(family: Family, last: u8) -> u8 {
    if family == V4 { last } else { last / 16 * 10 + last % 16 }
}

fn same<T: PartialEq + Debug + ?Sized>(what: &str, found: &T, expected: &T) -> Check {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what} {found:?}\n   by the rules {expected:?}"))
}

fn told(error: impl Display) -> String {
    format!("{error:#}")
}

fn faults(rig: &mut Rig) -> Result<u64, String> {
    let mut sum = 0;
    for event in [Counted::EntryRepaired, Counted::TableRefused] {
        sum += rig.event(event).map_err(told)?;
    }
    Ok(sum)
}

fn flags(says: Says) -> u8 {
    flag::ACK
        | match says {
            Says::Nothing => 0,
            Says::Fin => flag::FIN,
            Says::Rst => flag::RST,
        }
}

fn from(flow: Flow) -> SocketAddr {
    (flow.client, flow.port).into()
}
