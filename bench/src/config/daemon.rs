//! Configurations handed to a running daemon: what `lbpersist apply` takes, as whoever calls it sees it.

use std::time::Instant;

use anyhow::Result;
use lbpersist_tests::{
    balancer::Balancer,
    topology::{Topology, Wiring},
};

use crate::table::outside::Outside;

/// A daemon on an interface of its own. Fields are in the order in which they have to go.
pub(super) struct Daemon {
    balancer: Balancer,
    _topology: Topology,
}

impl Daemon {
    /// Starts one with that configuration; also how long it took to be ready, in milliseconds.
    pub(super) fn start(text: &str) -> Result<(Self, i64)> {
        let topology = Topology::new(Wiring::Routed, 1, 1)?;
        let balancer = Balancer::prepare(&topology.balancer, text, &topology.interfaces)?;
        let mut daemon = Self { balancer, _topology: topology };
        let begin = Instant::now();
        daemon.balancer.restart()?;
        Ok((daemon, ms(begin)?))
    }

    /// Hands it another one; how long that took, in milliseconds.
    pub(super) fn apply(&self, text: &str, more: &[&str]) -> Result<i64> {
        self.balancer.configure(text)?;
        let file = self.balancer.configuration_file();
        let file = file.display().to_string();
        let begin = Instant::now();
        self.balancer.cli(&[&["apply", "--file", &file], more].concat())?.success()?;
        ms(begin)
    }

    /// Its memory now and at most, in kB.
    pub(super) fn resident(&self) -> Result<[i64; 2]> {
        let resident = Outside::of(&self.balancer)?.resident()?;
        Ok([resident.now, resident.most])
    }
}

fn ms(begin: Instant) -> Result<i64> {
    Ok(begin.elapsed().as_millis().try_into()?)
}
