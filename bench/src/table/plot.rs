//! Where the daemon lives: a client that sends frames, four servers that count them, and the balancer between.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lbpersist_common::tcp::flag;
use lbpersist_tests::{
    balancer::Balancer,
    topology::{Family, Topology, Wiring},
};

use super::us;
use crate::veth::{generator::Generator, site};

const SERVERS: u8 = 4;
/// Clients that send frames: the first of those with a connection.
const SENDERS: u32 = 1_000;
/// Frames of a burst.
const BURST: u32 = 1_000;
/// How long frames may be lost before all servers' addresses are known.
const WARM_WITHIN: Duration = Duration::from_secs(30);

/// A place, and what was put there. Fields are in the order in which they have to go.
pub(super) struct Plot {
    balancer: Balancer,
    generator: Generator,
    _topology: Topology,
}

impl Plot {
    /// Wires everything, and leaves the daemon to be started.
    pub(super) fn build(entries: u32) -> Result<Self> {
        let topology = Topology::new(Wiring::Routed, 1, SERVERS)?;
        let near = &topology.interfaces[0];
        topology.balancer.ip(&format!("link set {near} address {}", site::MAC))?;
        let mut generator = Generator::load(&topology.clients[0].namespace)?;
        for host in &topology.servers {
            generator.count_at(&host.namespace, "eth0")?;
        }
        let addresses = topology.servers.iter().map(|host| host.address(Family::V4));
        let addresses: Vec<IpAddr> = addresses.collect();
        let configuration = format!("{}\n{}", site::configuration(&addresses), sizes(entries));
        let balancer = Balancer::prepare(&topology.balancer, configuration, &topology.interfaces)?;
        Ok(Self { balancer, generator, _topology: topology })
    }

    pub(super) fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// Starts the daemon and waits until frames get through.
    pub(super) fn start(&mut self) -> Result<&Balancer> {
        self.balancer.restart()?;
        let begin = Instant::now();
        loop {
            let sent = self.generator.send(&site::plan(SENDERS, &[flag::ACK]), BURST)?;
            if sent.arrived == sent.sent {
                return Ok(&self.balancer);
            }
            ensure!(begin.elapsed() < WARM_WITHIN, "only {} frames arrive", sent.arrived);
        }
    }

    /// Ends the daemon without a word.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.balancer.kill_dash_nine()
    }

    /// Sends one burst after the other, of which no frame may be lost; what each took, in microseconds.
    pub(super) fn bursts(&mut self, length: Duration) -> Result<Vec<i64>> {
        let plan = site::plan(SENDERS, &[flag::ACK]);
        let begin = Instant::now();
        let mut bursts = Vec::new();
        while begin.elapsed() < length {
            let sent = self.generator.send(&plan, BURST)?;
            ensure!(sent.arrived == sent.sent, "{} of {} frames", sent.arrived, sent.sent);
            bursts.push(us(sent.took));
        }
        Ok(bursts)
    }
}

/// Tables that hold so many: those of the default, if they do.
fn sizes(entries: u32) -> String {
    // An LRU table begins to forget before its last place is taken.
    let room = (entries + entries / 32).max(1 << 20);
    format!("[data_path]\nentry_table = {room}\nconnection_table = {room}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_fits_the_default() {
        assert!(sizes(1_000_000).contains("entry_table = 1048576\n"));
        assert!(sizes(2_000_000).contains("connection_table = 2062500\n"));
    }
}
