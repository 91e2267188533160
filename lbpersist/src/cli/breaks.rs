//! `lbpersist breaks`: the last clients that met another server than theirs, and what `status` says of them.

use std::{collections::BTreeMap, path::Path, time::Duration};

use lbpersist_common::breaks::BreakReason;

use super::{
    arguments::{Breaks, Output},
    commands::{Failure, print, print_json},
    text::Table,
};
use crate::{
    breaks::{Break, Filter},
    clock,
    control::{Action, Outcome, client},
    datapath::{maps::PinDirectory, report::Reader},
};

/// How long the command, which needs no daemon, waits for one.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn execute(
    asked: Breaks,
    pins: &PinDirectory,
    socket: &Path,
    output: Output,
) -> Result<(), Failure> {
    let reader = Reader::open(pins)?;
    let reason = asked.reason.map(|reason| reason.name().to_owned());
    let filter = Filter { virtual_service: asked.virtual_service, client: asked.client, reason };
    let mut breaks = reader.breaks(&filter, clock::now_ns())?;
    let proxied = match client::ask_within(socket, &Action::BreakList, PATIENCE) {
        Ok(Outcome::Breaks { breaks }) => breaks,
        // Those of the kernel are known without a daemon.
        Ok(_) | Err(_) => Vec::new(),
    };
    breaks.extend(proxied.into_iter().filter(|one| filter.means(one)));
    breaks.sort_by(|one, other| one.time.total_cmp(&other.time));
    let skipped = asked.last.map_or(0, |last| breaks.len().saturating_sub(last));
    let breaks = &breaks[skipped..];
    match output {
        Output::Text => print(&text(breaks)),
        Output::Json => print_json(&breaks),
    }
}

fn text(breaks: &[Break]) -> String {
    let mut table =
        Table::new(["TIME (UTC)", "VIRTUAL SERVICE", "CLIENT", "BEFORE", "AFTER", "REASON"]);
    let server = |name: &Option<String>| name.clone().unwrap_or_else(|| "(gone)".to_owned());
    for one in breaks {
        let client = match one.destination {
            Some(destination) => format!("{} to {destination}", one.client_text()),
            None => one.client_text(),
        };
        table.row([
            clock::time_text(one.time),
            one.virtual_service.clone(),
            client,
            server(&one.before),
            server(&one.after),
            one.reason.clone(),
        ]);
    }
    table.text("no client has met another server than its own")
}

/// The part of `status` that counts breaks, of these services; nothing when there were none.
pub(super) fn section<'s, C>(services: impl Iterator<Item = (&'s str, C)>) -> String
where
    C: IntoIterator<Item = (&'s str, u64)>,
{
    let mut table = Table::new(["BREAKS OF", "REASON", "CLIENTS"]);
    for (name, counts) in services {
        let counts: BTreeMap<&str, u64> = counts.into_iter().collect();
        for reason in BreakReason::ALL.map(BreakReason::name) {
            let count = counts.get(reason).copied().unwrap_or(0);
            if count > 0 {
                table.row([name.to_owned(), reason.to_owned(), count.to_string()]);
            }
        }
    }
    match table.text("") {
        text if text.trim().is_empty() => String::new(),
        text => format!("\n{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_has_the_reasons_that_there_were() {
        let counts = [("limit", 2), ("down", 1), ("flushed", 0)];
        let text = section([("web", counts)].into_iter());
        let heads = "BREAKS OF  REASON  CLIENTS";
        assert_eq!(text, format!("\n{heads}\nweb        down    1\nweb        limit   2\n"));
        assert_eq!(section([("web", [("down", 0)])].into_iter()), "");
    }

    #[test]
    fn breaks_are_told_in_lines() {
        let one = Break {
            time: 0.5,
            virtual_service: "web".to_owned(),
            client: "192.0.2.0/24".parse().unwrap(),
            destination: None,
            before: None,
            after: Some("10.0.0.2:80".to_owned()),
            reason: "removed".to_owned(),
        };
        let line = "1970-01-01 00:00:00.500  web              192.0.2.0/24  (gone)  10.0.0.2:80  removed\n";
        assert!(text(&[one]).ends_with(line));
    }
}
