//! One case, from empty tables to its figures.
//!
//! Runs of the program take turns with runs of its floors, so that all meet the machine in the same state, and counters
//! must say that every packet of a run was treated as the case says: what was not done is not measured.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use bytemuck::Zeroable as _;
use lbpersist_common::{counter::Event, net::UDP, reason::Reason, tcp::flag};

use crate::{
    balancer::{Balancer, Counts, SERVERS},
    case::{self, Before, Case, Door, EVER_NEW, Packets, Way},
    figures::{Figure, Spread, System},
    frame::{self, End, Headers, Offsets},
    plan::{ETHERNET, FRAME, Plan, Turn},
    replay::{Floor, Replay, scattered_step},
};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) runs: u32,
    pub(crate) repeat: u32,
}

/// `XDP_PASS` of linux/bpf.h.
const PASS: u32 = 2;
/// `XDP_TX`.
const TX: u32 = 3;

/// Clients that come once are drawn from so many.
const EVER_NEW_CLIENTS: u32 = 1 << 26;
/// The tables of a case that fills them.
const FULL_TABLES: u32 = 1 << 20;
/// Handshakes that are under way at a time.
const HANDSHAKES: u32 = 10_000;
/// The smallest tables of the others.
const SMALLEST_TABLES: u32 = 1 << 16;

/// Measures a case.
pub(crate) fn case(case: &Case, clients: u32, extent: &Extent) -> Result<Figure> {
    let told = || format!("case {} with {clients} clients", case.name);
    Measurement::prepare(case, clients).and_then(|it| it.finish(extent)).with_context(told)
}

/// Measures a floor.
pub(crate) fn floor(name: &'static str, clients: u32, extent: &Extent) -> Result<Figure> {
    let look_up = name == case::LOOKUP;
    let mut replay = Replay::load(if look_up { clients.next_power_of_two() * 2 } else { 1 })?;
    let mut plan = plan(&case::CASES[0], clients);
    if look_up {
        plan.step = 1;
        replay.set_plan(&plan, 0)?;
        replay.jump_to_floor(Floor::Put)?;
        replay.run(clients, TX)?;
        plan.step = scattered_step(clients);
    }
    replay.set_plan(&plan, 0)?;
    let mut runs = Vec::new();
    for _ in 0..extent.runs {
        let mut run = |floor| {
            replay.jump_to_floor(floor)?;
            replay.run(extent.repeat, TX)
        };
        let measured = match name {
            case::LOOKUP => Some(run(Floor::LookUp)?),
            _ => None,
        };
        let (head_move, empty) = (run(Floor::HeadMove)?, run(Floor::Empty)?);
        let measured = measured.unwrap_or(if name == case::EMPTY { empty } else { head_move });
        runs.push(Run { measured, head_move, empty });
    }
    let beyond_empty = Spread::of(runs.iter().map(|run| run.measured - run.empty));
    Ok(Figure {
        case: name,
        clients: clients.into(),
        ever_new: false,
        system: System::Floor,
        // A loop around nothing has nothing to be compared with.
        beyond: if name == case::EMPTY {
            Spread::of(runs.iter().map(|run| run.empty))
        } else {
            beyond_empty
        },
        beyond_empty,
        floor: Spread::of(runs.iter().map(|run| run.head_move)),
        entries: if look_up { clients as usize } else { 0 },
        runs: extent.runs,
    })
}

/// Nanoseconds per packet in three loops, one after the other.
struct Run {
    measured: i64,
    head_move: i64,
    empty: i64,
}

/// A case with its tables filled.
struct Measurement<'case> {
    case: &'case Case,
    clients: u32,
    plan: Plan,
    replay: Replay,
    balancer: Balancer,
}

impl<'case> Measurement<'case> {
    fn prepare(case: &'case Case, clients: u32) -> Result<Self> {
        let tables = match case.before {
            Before::Full => FULL_TABLES,
            _ => (clients * 2).next_power_of_two().max(SMALLEST_TABLES),
        };
        let mut measurement = Self {
            case,
            clients,
            plan: plan(case, clients),
            replay: Replay::load(1)?,
            balancer: Balancer::open(case.door, tables)?,
        };
        measurement.warm()?;
        Ok(measurement)
    }

    /// Brings the tables into the state that the case begins with.
    fn warm(&mut self) -> Result<()> {
        match self.case.before {
            Before::Nothing => Ok(()),
            Before::Connected => {
                self.connect()?;
                self.balancer.settle()
            }
            Before::Moved => {
                self.balancer.weigh(1, 0)?;
                self.connect()?;
                self.balancer.settle()?;
                self.balancer.weigh(0, 1)?;
                let slots = lbpersist_common::ring::DEFAULT_SLOTS as usize;
                let marked = self.balancer.marked()?;
                ensure!(marked == slots, "{marked} of {slots} slots are marked");
                Ok(())
            }
            Before::Known => {
                self.send_all(self.plan, self.clients)?;
                self.expect_entries(self.clients as usize)?;
                self.balancer.settle()
            }
            Before::Full => {
                let opening = Plan { first_address: WARM_CLIENTS, ..self.plan };
                self.send_all(opening, FULL_TABLES * 2 + FULL_TABLES / 2)?;
                // An LRU table evicts some records before the last place is taken.
                let (entries, full) = (self.balancer.entries()?, FULL_TABLES as usize);
                ensure!(entries > full / 10 * 9, "{entries} of {full} places are taken");
                Ok(())
            }
        }
    }

    /// Has every client open the connection that is replayed afterwards.
    fn connect(&mut self) -> Result<()> {
        let steps = match self.case.door.way() {
            // The server's answer goes another way.
            Way::Direct | Way::Tunnel(_) => &[Packets::Syns, Packets::Established][..],
            Way::Nat => &[Packets::Syns, Packets::Accepts, Packets::Established],
            // Only the program knows what the server answers to.
            Way::Masquerade => &[],
        };
        let mut first = if steps.is_empty() { self.clients } else { 0 };
        for number in 0..first {
            let address = FIRST_CLIENT.wrapping_add(number).to_be_bytes().into();
            let port = first_port(self.case).wrapping_add(number as u16);
            self.balancer.connect(End { address, port })?;
        }
        while first < self.clients {
            // No more at a time than there is room for handshakes.
            let count = HANDSHAKES.min(self.clients - first);
            for &packets in steps {
                self.send(packets, first, count)?;
            }
            first += count;
        }
        let connections = self.balancer.connections()?;
        let expected = self.clients as usize;
        ensure!(connections == expected, "{connections} of {expected} connections are known");
        let hidden = 32 - self.case.door.mask();
        let (first, last) = (FIRST_CLIENT, FIRST_CLIENT + self.clients - 1);
        self.expect_entries(((last >> hidden) - (first >> hidden) + 1) as usize)
    }

    fn expect_entries(&self, expected: usize) -> Result<()> {
        let entries = self.balancer.entries()?;
        ensure!(entries == expected, "{entries} clients have an entry, not {expected}");
        Ok(())
    }

    /// Replays one packet of each of some clients, the SYN of the connection that the case's own packets belong to, an answer or
    /// the third one.
    fn send(&mut self, packets: Packets, first: u32, count: u32) -> Result<()> {
        let reason = match packets {
            Packets::Accepts => Reason::Returned,
            _ => Reason::Forwarded,
        };
        let shape = Case { packets, ..*self.case };
        let plan = Plan { step: 1, ..plan(&shape, self.clients) };
        self.send_and_count(&plan, first, count, reason)
    }

    /// Replays `packets` of a plan through the program, client by client.
    fn send_all(&mut self, plan: Plan, packets: u32) -> Result<()> {
        self.send_and_count(&Plan { step: 1, ..plan }, 0, packets, Reason::Forwarded)
    }

    fn send_and_count(
        &mut self,
        plan: &Plan,
        first: u32,
        packets: u32,
        reason: Reason,
    ) -> Result<()> {
        let program = self.balancer.program()?;
        self.replay.jump_to(&program)?;
        self.replay.set_plan(plan, first)?;
        let before = self.balancer.counts()?;
        self.replay.run(packets, TX)?;
        let counted = self.balancer.counts()?.since(&before).reasons[reason as usize];
        ensure!(counted == u64::from(packets), "{counted} of {packets} were {}", reason.name());
        Ok(())
    }

    fn finish(mut self, extent: &Extent) -> Result<Figure> {
        self.look()?;
        let runs: Vec<Run> =
            (0..extent.runs).map(|_| self.run(extent.repeat)).collect::<Result<_>>()?;
        let ever_new = self.clients == EVER_NEW;
        Ok(Figure {
            case: self.case.name,
            clients: match ever_new {
                true => u64::from(extent.repeat / u32::from(self.plan.packets)),
                false => u64::from(self.clients),
            },
            ever_new,
            system: System::Lbpersist,
            beyond: Spread::of(runs.iter().map(|run| run.measured - run.head_move)),
            beyond_empty: Spread::of(runs.iter().map(|run| run.measured - run.empty)),
            floor: Spread::of(runs.iter().map(|run| run.head_move)),
            entries: self.balancer.entries()?,
            runs: extent.runs,
        })
    }

    /// The program on every packet, and then its floors on packets of the same kind.
    fn run(&mut self, repeat: u32) -> Result<Run> {
        let program = self.balancer.program()?;
        self.replay.jump_to(&program)?;
        let before = self.balancer.counts()?;
        let measured = self.replay.run(repeat, self.verdict())?;
        let counted = self.balancer.counts()?.since(&before);
        self.check(&counted, repeat.into())?;
        // The next run of the program goes on where this one stopped.
        let turn = self.replay.turn()?;
        self.replay.jump_to_floor(Floor::HeadMove)?;
        let head_move = self.replay.run(repeat, TX)?;
        self.replay.jump_to_floor(Floor::Empty)?;
        let empty = self.replay.run(repeat, TX)?;
        self.replay.set_turn(turn)?;
        Ok(Run { measured, head_move, empty })
    }

    /// Whether every packet of a run was treated as it should.
    fn check(&self, counted: &Counts, packets: u64) -> Result<()> {
        for (reason, &count) in Reason::ALL.into_iter().zip(&counted.reasons) {
            let expected = if reason == self.case.reason { packets } else { 0 };
            ensure!(count == expected, "{count} of {packets} packets were {}", reason.name());
        }
        for (event, &count) in Event::ALL.into_iter().zip(&counted.events) {
            let row = self.case.events.iter().find(|(known, _)| *known == event);
            let expected = row.map_or(0, |(_, every)| packets / every);
            ensure!(count == expected, "{count} {}, not {expected}", event.name());
        }
        let kept = if self.case.packets == Packets::NewPorts { packets } else { 0 };
        ensure!(counted.kept == kept, "{} connections were kept, not {kept}", counted.kept);
        Ok(())
    }

    /// Looks at one packet that comes out.
    fn look(&mut self) -> Result<()> {
        let program = self.balancer.program()?;
        self.replay.jump_to(&program)?;
        self.replay.set_plan(&self.plan, 0)?;
        let (verdict, packet) = self.replay.once()?;
        ensure!(verdict == self.verdict(), "the verdict on a packet is {verdict}");
        let sent = headers(self.case);
        if self.case.packets == Packets::Elsewhere {
            ensure!(packet == frame::build(&sent), "the packet was changed");
        } else {
            let packet = self.unpacked(packet)?;
            let (from, to) = frame::carried(&packet, &sent)?;
            self.check_ends(&sent, from, to)?;
        }
        // Client 0 has been seen now.
        let client = self.plan.step % self.plan.clients;
        self.replay.set_turn(Turn { client, ..Turn::default() })
    }

    /// The frame as it was before a tunnel, if it leads to one of the servers.
    fn unpacked(&self, frame: Vec<u8>) -> Result<Vec<u8>> {
        let Way::Tunnel(outer) = self.case.door.way() else { return Ok(frame) };
        let (ethernet, rest) = frame.split_at(14);
        let (header, inner) = rest.split_at(outer);
        let end = if outer == 20 { header[16..20].to_vec() } else { header[24..40].to_vec() };
        let servers = (1..=SERVERS).map(|number| self.case.door.server(number).address);
        let known = servers.into_iter().any(|server| match server {
            IpAddr::V4(server) => end == server.octets(),
            IpAddr::V6(server) => end == server.octets(),
        });
        ensure!(known, "the tunnel leads to {end:?}, which is no server");
        Ok([ethernet, inner].concat())
    }

    fn check_ends(&self, sent: &Headers, from: End, to: End) -> Result<()> {
        let door = self.case.door;
        if self.case.packets == Packets::Answers {
            ensure!(from == door.service() && to == sent.to, "it went from {from:?} to {to:?}");
            return Ok(());
        }
        if let Way::Direct | Way::Tunnel(_) = door.way() {
            ensure!(from == sent.from && to == sent.to, "it went from {from:?} to {to:?}");
            return Ok(());
        }
        // Of the servers that a moved ring no longer has, only the tables know.
        let last = if self.case.before == Before::Moved { SERVERS / 2 } else { SERVERS };
        let known = (1..=last).any(|number| door.server(number) == to);
        let is_hidden = from.address != sent.from.address;
        ensure!(
            known && if door.way() == Way::Masquerade { is_hidden } else { from == sent.from },
            "it went from {from:?} to {to:?}"
        );
        Ok(())
    }

    fn verdict(&self) -> u32 {
        if self.case.packets == Packets::Elsewhere { PASS } else { TX }
    }
}

impl Counts {
    fn since(&self, before: &Self) -> Self {
        let minus = |now: &[u64], then: &[u64]| now.iter().zip(then).map(|(a, b)| a - b).collect();
        Self {
            reasons: minus(&self.reasons, &before.reasons),
            events: minus(&self.events, &before.events),
            kept: self.kept - before.kept,
        }
    }
}

/// 10.0.0.1, or the last four bytes of an IPv6 client.
const FIRST_CLIENT: u32 = 0x0a00_0001;
/// 32.0.0.1, for clients that come once.
const FIRST_NEW_CLIENT: u32 = 0x2000_0001;
/// 64.0.0.1, for those that fill the tables.
const WARM_CLIENTS: u32 = 0x4000_0001;

/// The port of the first client; not that of the connection it opened before.
fn first_port(case: &Case) -> u16 {
    if case.packets == Packets::NewPorts { 20_001 } else { 20_000 }
}

/// The headers of the first client's packet.
fn headers(case: &Case) -> Headers {
    let first = if case.clients == [EVER_NEW] { FIRST_NEW_CLIENT } else { FIRST_CLIENT };
    let address = match case.door {
        Door::TcpV6 | Door::TunnelV6 => {
            let high = u16::try_from(first >> 16).unwrap_or_default();
            std::net::Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, high, first as u16).into()
        }
        _ => first.to_be_bytes().into(),
    };
    let client = End { address, port: first_port(case) };
    let (from, to) = match case.packets {
        Packets::Answers | Packets::Accepts => (case.door.server(1), client),
        Packets::Elsewhere => (client, End { address: [203, 0, 113, 9].into(), port: 443 }),
        _ => (client, case.door.service()),
    };
    let flags = match case.packets {
        Packets::Syns | Packets::NewPorts | Packets::SynThenAck => flag::SYN,
        Packets::Accepts => flag::SYN | flag::ACK,
        Packets::Established | Packets::Answers | Packets::Elsewhere => flag::ACK,
    };
    Headers { from, to, protocol: case.door.protocol(), flags }
}

/// What to replay for a case.
fn plan(case: &Case, clients: u32) -> Plan {
    let headers = headers(case);
    let at = Offsets::of(headers.to.address);
    let (address_at, port_at) = match case.packets {
        Packets::Answers | Packets::Accepts => (at.destination_tail(), at.destination_port()),
        _ => (at.source_tail(), at.source_port()),
    };
    let ever_new = clients == EVER_NEW;
    let clients = if ever_new { EVER_NEW_CLIENTS } else { clients };
    // The flags of a UDP packet are a byte of its payload, and zero.
    let (flags_at, flags) = match headers.protocol {
        UDP => (FRAME - 2, [0; 2]),
        _ => (at.flags(), [headers.flags, flag::ACK]),
    };
    Plan {
        frame: words(&frame::build(&headers)),
        clients,
        step: scattered_step(clients),
        first_address: if ever_new { FIRST_NEW_CLIENT } else { FIRST_CLIENT },
        first_port: first_port(case),
        address_at: address_at as u16,
        port_at: port_at as u16,
        flags_at: flags_at as u16,
        flags,
        packets: if case.packets == Packets::SynThenAck { 2 } else { 1 },
        new_ports: u8::from(case.packets == Packets::NewPorts),
        wide: u32::from(headers.to.address.is_ipv6()),
        ..Plan::zeroed()
    }
}

/// A frame as [`Plan::frame`] holds it.
pub(crate) fn words(frame: &[u8; FRAME]) -> [u64; 10] {
    let mut words = [0; 10];
    let (ethernet, rest) = frame.split_at(ETHERNET);
    for (word, bytes) in words.iter_mut().zip(ethernet.chunks(8).chain(rest.chunks(8))) {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(eight);
    }
    words
}
