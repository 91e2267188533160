//! Telling the service manager how the daemon is (sd_notify(3)); without one nothing is told.
//!
//! The watchdog is fed by the task that owns the state, between two events: a daemon that is stuck is not fed, and is started again,
//! while the kernel goes on forwarding.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior};

/// Everything is attached, or a reload is done.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Another configuration is being prepared.
pub(super) fn reloading() {
    // The time is what units of type notify-reload wait for.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The daemon is about to end.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// What the service manager wants to hear from time to time.
pub(super) struct Watchdog {
    interval: Option<Interval>,
}

impl Watchdog {
    /// Asks the environment whether anybody watches.
    pub(super) fn from_environment() -> Self {
        // Twice in the time after which the daemon is taken for dead, as sd_watchdog_enabled(3) advises.
        let period = sd_notify::watchdog_enabled()
            .map(|limit| limit / 2)
            .filter(|period| *period > Duration::ZERO);
        let interval = period.map(|period| {
            let mut interval = tokio::time::interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        Self { interval }
    }

    /// Returns when a sign of life is due, or never.
    pub(super) async fn due(&mut self) {
        match &mut self.interval {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    /// Gives it.
    pub(super) fn feed(&self) {
        tell(&[NotifyState::Watchdog]);
    }
}
