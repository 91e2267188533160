//! Live frames: sent by a test run out of a client's interface, and counted where they arrive.

use std::{
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lbpersist_tests::namespace::Namespace;

use super::Sent;
use crate::{cpu, plan::Plan, replay::Replay};

/// How long frames may be on their way once all have been sent.
const LAST_ARRIVES_WITHIN: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_micros(200);

/// Sends frames from one namespace and counts those that arrive in others.
pub(crate) struct Generator {
    replay: Replay,
    from: Namespace,
}

impl Generator {
    /// Loads the programs.
    pub(crate) fn load(from: &Namespace) -> Result<Self> {
        Ok(Self { replay: Replay::load(1)?, from: from.clone() })
    }

    /// Counts frames that reach the interface from now on, and drops them.
    pub(crate) fn count_at(&mut self, namespace: &Namespace, interface: &str) -> Result<()> {
        namespace.attach_xdp(interface, self.replay.far_end()?.as_fd())
    }

    /// Sends so many packets of a plan, from its first client on.
    pub(crate) fn send(&mut self, plan: &Plan, packets: u32) -> Result<Sent> {
        let Self { replay, from } = self;
        replay.set_plan(plan, 0)?;
        let before = replay.arrived()?;
        let took = from.run(|| -> Result<Duration> {
            // This thread alone: servers and daemons stay where they like.
            cpu::pin_to_last()?;
            let begin = Instant::now();
            replay.run_live("eth0", packets)?;
            Ok(begin.elapsed())
        })?;
        let sent = u64::from(packets);
        let arrived = last_arrival(replay, before, sent).context("counting what arrived")?;
        ensure!(arrived <= sent, "{arrived} of {sent} frames arrived");
        Ok(Sent { sent, arrived, took })
    }
}

/// How many arrived, once no more do.
fn last_arrival(replay: &Replay, before: u64, sent: u64) -> Result<u64> {
    let (mut arrived, mut since) = (replay.arrived()? - before, Instant::now());
    while arrived < sent && since.elapsed() < LAST_ARRIVES_WITHIN {
        std::thread::sleep(POLL);
        let now = replay.arrived()? - before;
        if now != arrived {
            (arrived, since) = (now, Instant::now());
        }
    }
    Ok(arrived)
}
