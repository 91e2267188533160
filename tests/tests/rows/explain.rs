//! What `explain` says of a client, and what the program then does with its packet.

use std::{collections::BTreeSet, net::SocketAddr};

use lbpersist::datapath::{
    explain::{Decision, Explanation, Question, Rule, Unanswered},
    report::Reader,
};
use lbpersist_common::{reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::Packet,
    rig::{Outcome, Rig},
};

use crate::setup::{
    DNS, SERVER_PORT, Text, V4, V6, Visits as _, at_port, client, family, server, server_address,
    web,
};

const HOSTS: [u8; 4] = [11, 12, 13, 14];
const SECOND: u64 = 1_000_000_000;
/// Packets that are compared in each configuration.
const COMPARED: u32 = 120;

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    /// From 0 to `below`, which it never is.
    fn roll(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.roll(from.len() as u64)).unwrap()]
    }
}

/// Clients of both families, some at several ports, some in one /24.
fn someone(dice: &mut Dice) -> SocketAddr {
    let n = u16::try_from(dice.roll(8)).unwrap();
    let mut from = client(dice.pick(&[V4, V4, V6]), n / 2);
    if let (SocketAddr::V4(from), 1) = (&mut from, n % 2) {
        let [a, b, c, d] = from.ip().octets();
        from.set_ip([a, b, c, d + 1].into());
    }
    at_port(from, u16::try_from(dice.roll(2)).unwrap())
}

/// A configuration to which things happen.
struct Life {
    rig: Rig,
    text: Text,
    dice: Dice,
    now: u64,
    /// Which server each client met last over TCP.
    met: Vec<(SocketAddr, u8)>,
    compared: u32,
    /// What decided.
    rules: BTreeSet<&'static str>,
    /// Under what packets that went nowhere were counted.
    refusals: BTreeSet<&'static str>,
}

impl Life {
    fn new(text: Text, seed: u64) -> Option<Self> {
        let mut rig = text.rig()?;
        let now = 100_000 * SECOND;
        rig.set_clock(now);
        Some(Self {
            rig,
            text,
            dice: Dice(seed),
            now,
            met: Vec::new(),
            compared: 0,
            rules: BTreeSet::new(),
            refusals: BTreeSet::new(),
        })
    }

    fn go_on(&mut self) {
        self.now += 1_000;
        self.rig.set_clock(self.now);
        let from = someone(&mut self.dice);
        match self.dice.roll(32) {
            0..5 => self.open(from),
            5..8 => drop(self.syn(from)),
            8..14 => drop(self.data(from)),
            14..19 => self.ask(from),
            19..21 => self.answer(from),
            21 => self.close(from),
            22..25 => self.now += self.dice.roll(40) * SECOND / 10,
            25 => self.rig.sweep_pass(self.now).unwrap(),
            26 => drop(self.rig.sweep_handshakes(self.now).unwrap()),
            27..29 => self.turn(),
            29 => self.restate(),
            30 => self.reweigh(),
            _ => self.flush(),
        }
    }

    fn open(&mut self, from: SocketAddr) {
        if let Some(host) = self.syn(from) {
            let answer = Packet::tcp(server(family(from), host), from, flag::SYN | flag::ACK);
            self.rig.send_packet(&answer);
            self.data(from);
        }
    }

    fn close(&mut self, from: SocketAddr) {
        let Some(host) = self.met_by(from) else { return };
        let fin = flag::FIN | flag::ACK;
        self.rig.send_packet(&Packet::tcp(from, web(from), fin));
        self.rig.send_packet(&Packet::tcp(server(family(from), host), from, fin));
    }

    fn answer(&mut self, from: SocketAddr) {
        let Some(host) = self.met_by(from) else { return };
        let flags = self.dice.pick(&[flag::RST, flag::FIN | flag::ACK, flag::SYN | flag::ACK]);
        self.rig.send_packet(&Packet::tcp(server(family(from), host), from, flags));
    }

    fn met_by(&self, from: SocketAddr) -> Option<u8> {
        self.met.iter().rev().find(|(other, _)| *other == from).map(|(_, host)| *host)
    }

    fn syn(&mut self, from: SocketAddr) -> Option<u8> {
        let said = self.explain(from, "web");
        let host = self.compare(&said.opening, &said, &Packet::tcp(from, web(from), flag::SYN))?;
        self.met.push((from, host));
        Some(host)
    }

    fn data(&mut self, from: SocketAddr) -> Option<u8> {
        let said = self.explain(from, "web");
        let segment = said.segment.clone().unwrap();
        self.compare(&segment, &said, &Packet::tcp(from, web(from), flag::ACK).payload(b"data"))
    }

    fn ask(&mut self, from: SocketAddr) {
        let said = self.explain(from, "dns");
        assert_eq!(said.segment, None, "UDP has none");
        self.compare(&said.opening, &said, &Packet::udp(from, family(from).service(DNS)));
    }

    fn explain(&mut self, from: SocketAddr, service: &str) -> Explanation {
        let service = format!("{service}-{}", if from.is_ipv4() { "v4" } else { "v6" });
        explain(&mut self.rig, &about(&service, from), self.now).unwrap()
    }

    fn compare(&mut self, said: &Decision, all: &Explanation, packet: &Packet) -> Option<u8> {
        let outcome = self.rig.send_packet(packet);
        self.compared += 1;
        self.rules.insert(rule(said.decided_by));
        self.refusals.extend(said.refused);
        assert_agrees(said, all, &outcome)
    }

    fn turn(&mut self) {
        let host = self.dice.pick(&HOSTS);
        for family in [V4, V6] {
            let pool = if family == V4 { "v4" } else { "v6" };
            let key = (pool.to_owned(), server_address(family, host), Some(SERVER_PORT));
            if !self.rig.down.remove(&key) {
                self.rig.down.insert(key);
            }
        }
        self.rig.apply().unwrap();
    }

    /// One server or none drains or is disabled.
    fn restate(&mut self) {
        let host = self.dice.pick(&HOSTS);
        let state = self.dice.pick(&["state = \"draining\"", "state = \"disabled\""]);
        self.text.states = if self.dice.roll(3) == 0 { Vec::new() } else { vec![(host, state)] };
        self.rig.configure(&self.text.text()).unwrap();
    }

    /// Other weights, and perhaps a server less.
    fn reweigh(&mut self) {
        let mut servers: Vec<(u8, u16)> =
            HOSTS.iter().map(|&host| (host, self.dice.pick(&[1, 1, 1, 2, 5, 0]))).collect();
        servers[0].1 = 1;
        if self.dice.roll(2) == 0 {
            servers.remove(self.dice.pick(&[1, 2, 3]));
        }
        self.text.servers = servers;
        self.rig.configure(&self.text.text()).unwrap();
    }

    fn flush(&mut self) {
        let entries = self.rig.entries().unwrap();
        if !entries.is_empty() {
            let (key, _) = self.dice.pick(&entries);
            self.rig.data_path().maps.entries.remove(&key).unwrap();
        }
    }
}

fn explain(rig: &mut Rig, question: &Question, now: u64) -> Result<Explanation, Unanswered> {
    Reader::open(rig.data_path().pins()).unwrap().explain(question, now)
}

fn about(service: &str, from: SocketAddr) -> Question {
    Question {
        virtual_service: service.to_owned(),
        client: from.ip(),
        client_port: Some(from.port()),
        address: None,
        port: None,
    }
}

fn rule(rule: Rule) -> &'static str {
    match rule {
        Rule::Source => "source",
        Rule::Connection => "connection",
        Rule::Handshake => "handshake",
        Rule::Entry => "entry",
        Rule::Algorithm => "algorithm",
        Rule::Ring => "ring",
    }
}

/// The host that the packet went to, as was said.
fn assert_agrees(said: &Decision, all: &Explanation, outcome: &Outcome) -> Option<u8> {
    if outcome.reason != Reason::Forwarded {
        assert_eq!(said.refused, Some(outcome.reason.name()), "{outcome:?}\n{all:#?}");
        return None;
    }
    let (host, name) = if all.client.starts_with('[') {
        let last = outcome.packet[53];
        let host = last / 16 * 10 + last % 16;
        (host, server(V6, host).to_string())
    } else {
        (outcome.packet[33], server(V4, outcome.packet[33]).to_string())
    };
    match &said.server {
        Some(server) => assert_eq!(*server, name, "{all:#?}"),
        None => assert!(said.one_of.contains(&name), "{name}\n{all:#?}"),
    }
    for server in &all.servers {
        let goes = all.opening.server.as_ref() == Some(&server.server)
            || all.opening.one_of.contains(&server.server);
        assert_eq!(server.why_not.is_none(), goes, "{all:#?}");
    }
    Some(host)
}

/// Every configuration.
fn lives() -> [Text; 12] {
    let text = || {
        Text { servers: HOSTS.map(|host| (host, 1)).to_vec(), ..Text::default() }
            .limits("tcp = \"9s\"\ntcp_closing = \"3s\"\nhandshake = \"4s\"\nudp = \"2s\"")
    };
    let limited = |pool| Text { limit: Some(2), ..text() }.pool(pool);
    [
        text().profile("timeout = \"6s\""),
        text().profile("timeout = \"6s\"").pool("reset_connections = true"),
        text().profile("timeout = \"6s\"\nserver_down = \"never\""),
        text().profile("timeout = \"6s\"\nserver_down = \"continue\"\nipv4_mask = 24"),
        text().profile("timeout = \"0\"\nscope = \"pool\""),
        text().without_persistence(),
        text().pool("algorithm = \"round-robin\""),
        text().pool("algorithm = \"least-connections\""),
        text().pool("algorithm = \"random-two\"").without_persistence(),
        limited(""),
        limited("on_limit = \"exceed\""),
        limited("on_limit = \"reject\"\nalgorithm = \"round-robin\""),
    ]
}

#[test]
fn what_is_explained_is_what_happens() {
    let (mut rules, mut refusals) = (BTreeSet::new(), BTreeSet::new());
    for (seed, text) in (1..).zip(lives()) {
        let Some(mut life) = Life::new(text, seed) else { return };
        while life.compared < COMPARED {
            life.go_on();
        }
        rules.extend(life.rules);
        refusals.extend(life.refusals);
    }
    // Or else too little was compared.
    assert_eq!(rules, BTreeSet::from(["algorithm", "connection", "entry", "handshake", "ring"]));
    for refusal in [Reason::ServerDown, Reason::ServerGone, Reason::ServerFull] {
        assert!(refusals.contains(refusal.name()), "{refusals:?}");
    }
}

#[test]
fn an_explanation_tells_timers_and_why_not_the_others() {
    let text = Text { servers: vec![(11, 1), (12, 1), (13, 0), (14, 1)], ..Text::default() };
    let Some(mut rig) = text.clone().states(&[(12, "state = \"draining\"")]).rig() else { return };
    let now = lbpersist::clock::now_ns();
    rig.set_clock(now);
    rig.down.insert(("v4".to_owned(), server_address(V4, 14), Some(SERVER_PORT)));
    rig.apply().unwrap();
    let from = client(V4, 1);
    assert_eq!(rig.open(from), 11);
    rig.close(11, from);
    let later = now + 60 * SECOND;
    let said = explain(&mut rig, &about("web-v4", from), later).unwrap();
    assert_eq!(said.opening.decided_by, Rule::Entry);
    let entry = said.entry.unwrap();
    assert_eq!((entry.open, entry.live), (0, true));
    let left = entry.expires_in_seconds.unwrap();
    assert!((239.0..=241.0).contains(&left), "{left}");
    assert_eq!(said.connection.unwrap().state, "closed");
    let why: Vec<_> =
        said.servers.iter().map(|server| server.why_not.as_deref().unwrap_or("")).collect();
    let draining = "draining: only the clients it has";
    assert_eq!(why, ["", draining, "weight 0: no new clients", "down"]);
    let expired = explain(&mut rig, &about("web-v4", from), now + 301 * SECOND).unwrap();
    assert_eq!(expired.opening.decided_by, Rule::Ring);
    assert!(!expired.entry.unwrap().live);
    let whole = Question { client_port: None, ..about("web-v4", from) };
    let said = explain(&mut rig, &whole, later).unwrap();
    assert_eq!((said.connection, said.segment), (None, None), "no port, no connection");
}

#[test]
fn questions_about_nothing_are_refused() {
    let Some(mut rig) = Text::servers(&[11]).rig() else { return };
    let from = client(V4, 1);
    let now = lbpersist::clock::now_ns();
    let service = V4.service(80).ip();
    for (question, says) in [
        (about("shop", from), "there is no virtual service `shop`"),
        (about("web-v6", from), "of different families"),
        (Question { port: Some(81), ..about("web-v4", from) }, "81 is not the port"),
        (
            Question { address: Some("198.18.0.1".parse().unwrap()), ..about("web-v4", from) },
            "198.18.0.1 is not an address",
        ),
    ] {
        let refused = explain(&mut rig, &question, now).unwrap_err().to_string();
        assert!(refused.contains(says), "{refused}");
    }
    let itself = Question { client: service, client_port: Some(80), ..about("web-v4", from) };
    let said = explain(&mut rig, &itself, now).unwrap();
    assert_eq!(said.opening.refused, Some(Reason::ImpossibleSource.name()));
}
