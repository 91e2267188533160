//! `lbpersist monitor`, and what `status` says of monitors.

use std::{path::Path, time::Duration};

use super::{
    arguments::Output,
    commands::{Failure, print, print_json},
    server::{ask, unexpected},
    text::Table,
};
use crate::{
    config::format_duration,
    control::{Action, Outcome, client},
    health::{self, MonitorStatus},
};

/// How long `status`, which needs no daemon, waits for one.
const PATIENCE: Duration = Duration::from_secs(2);

/// `monitor list`.
pub(super) fn list(
    socket: &Path,
    pool: Option<String>,
    search: Option<String>,
    output: Output,
) -> Result<(), Failure> {
    match ask(socket, &Action::MonitorList { pool, search })? {
        Outcome::Monitors { monitors } => match output {
            Output::Text => print(&table(&monitors)),
            Output::Json => print_json(&monitors),
        },
        other => Err(unexpected(&other)),
    }
}

/// What the monitors know, if a daemon says so.
pub(super) fn known(socket: &Path) -> Option<Vec<MonitorStatus>> {
    let everything = Action::MonitorList { pool: None, search: None };
    match client::ask_within(socket, &everything, PATIENCE) {
        Ok(Outcome::Monitors { monitors }) => Some(monitors),
        Ok(_) | Err(_) => None,
    }
}

/// The part of `status` that is about them.
pub(super) fn section(monitors: Option<&[MonitorStatus]>) -> String {
    match monitors {
        Some(monitors) => table(monitors),
        None => "no daemon answers: what monitors say is not known\n".to_owned(),
    }
}

fn table(monitors: &[MonitorStatus]) -> String {
    let heads = ["POOL", "SERVER", "MONITOR", "TYPE", "STATE", "LAST CHECK", "LAST ERROR"];
    let mut table = Table::new(heads);
    for status in monitors {
        table.row([
            status.pool.clone(),
            status.endpoint(),
            status.monitor.clone(),
            status.kind.clone(),
            state(status),
            last_check(status),
            last_error(status),
        ]);
    }
    table.text("no monitors")
}

fn state(status: &MonitorStatus) -> String {
    let state = status.state;
    match status.against {
        0 => format!("{state} for {}", whole_seconds(status.state_seconds)),
        // While it may be about to change, that is of more interest than how long it has been so.
        against => format!("{state}, {against} against"),
    }
}

fn last_check(status: &MonitorStatus) -> String {
    let (Some(outcome), Some(seconds)) = (status.last_outcome, status.last_check_seconds) else {
        return "-".to_owned();
    };
    let outcome = match outcome {
        health::Outcome::Passed => "passed",
        health::Outcome::Failed => "failed",
        health::Outcome::NotAsked => "not asked",
    };
    let took = status.last_took_milliseconds.unwrap_or(0.0);
    format!("{outcome} {} ago in {took:.1} ms", whole_seconds(seconds))
}

fn last_error(status: &MonitorStatus) -> String {
    match (&status.last_error, status.last_error_seconds) {
        (Some(error), Some(seconds)) => format!("{} ago: {error}", whole_seconds(seconds)),
        _ => "-".to_owned(),
    }
}

fn whole_seconds(seconds: f64) -> String {
    match Duration::from_secs(seconds.max(0.0) as u64) {
        Duration::ZERO => "0s".to_owned(),
        duration => format_duration(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Outcome, State};

    #[test]
    fn a_line_says_what_is_known() {
        let mut status = MonitorStatus {
            pool: "web".to_owned(),
            server: [10, 0, 0, 11].into(),
            port: Some(8080),
            monitor: "page".to_owned(),
            kind: "http".to_owned(),
            address: [10, 0, 0, 11].into(),
            to_port: Some(8080),
            state: State::Up,
            state_seconds: 75.3,
            against: 0,
            last_outcome: None,
            last_check_seconds: None,
            last_took_milliseconds: None,
            last_error: None,
            last_error_seconds: None,
        };
        let heads = "POOL  SERVER          MONITOR  TYPE  STATE";
        assert_eq!(
            table(std::slice::from_ref(&status)),
            format!(
                "{heads}         LAST CHECK  LAST ERROR\nweb   10.0.0.11:8080  page     http  up for 1m15s  -           -\n"
            )
        );
        status.against = 2;
        status.last_outcome = Some(Outcome::Failed);
        status.last_check_seconds = Some(0.4);
        status.last_took_milliseconds = Some(12.34);
        status.last_error = Some("status 503, not 200-299".to_owned());
        status.last_error_seconds = Some(0.4);
        assert_eq!(
            table(&[status]),
            format!(
                "{heads}          LAST CHECK                LAST ERROR\n\
                 web   10.0.0.11:8080  page     http  up, 2 against  failed 0s ago in 12.3 ms  0s ago: status 503, not 200-299\n"
            )
        );
        assert_eq!(table(&[]), "no monitors\n");
    }
}
