//! The campaign of change: a crowd of clients that hold connections and come back, while the daemon is killed, started, reloaded
//! and replaced under them, a server is drained, and another one really goes down and comes back.
//!
//! What is promised: nobody meets another server, and every question is answered, but for the clients of the server that went
//! down. A seed decides the order of events and what each does; how they interleave with packets is the machine's.

mod course;
mod crowd;
mod random;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use anyhow::Result;

use self::{course::Course, random::Random};

/// How large a campaign is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Clients, half of them of each family. At most 4,000.
    pub clients: u32,
    /// How often the daemon is killed and started again.
    pub kills: u32,
    /// How often it is given another configuration.
    pub reloads: u32,
    /// Decides the order of events, and what each does.
    pub seed: u64,
    /// An older lbpersist, which begins and is upgraded before anything else happens than kills; of those it gets a tenth.
    pub from: Option<PathBuf>,
}

/// What became of the crowd.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Clients there were.
    pub clients: u64,
    /// Those that met another server though theirs had not gone down.
    pub moved: u64,
    /// Questions asked.
    pub requests: u64,
    /// Those without an answer, though the client's server had not gone down.
    pub lost: u64,
    /// Clients that met another server because theirs had gone down.
    pub excused_moves: u64,
    /// Questions without an answer because the client's server had gone down.
    pub excused_losses: u64,
    /// Clients that the balancer itself says met another server, by reason, if there were any.
    pub breaks: BTreeMap<String, u64>,
    /// The longest that an answer took, in milliseconds.
    pub slowest_ms: u128,
    /// The first things that went wrong, in words.
    pub complaints: Vec<String>,
}

impl Outcome {
    /// Whether the promise was kept, and the balancer agrees.
    pub fn is_kept(&self) -> bool {
        self.moved == 0
            && self.lost == 0
            && self.requests > 0
            && self.breaks.keys().all(|reason| reason == "down")
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { moved, clients, lost, requests, .. } = self;
        write!(f, "moved {moved} of {clients} clients, lost {lost} of {requests} requests")
    }
}

/// Runs a campaign, telling `say` what happens.
///
/// # Errors
/// When the campaign itself cannot go on: the daemon does not start, a configuration is refused.
pub fn run(plan: &Plan, say: &mut dyn FnMut(&str)) -> Result<Outcome> {
    Course::prepare(plan, say)?.run()
}
