//! What `status` says of services of mode `tcp` and `http`, which the daemon carries and counts.

use std::{path::Path, time::Duration};

use super::text::Table;
use crate::{
    breaks::{share_kept, share_text},
    control::{Action, Outcome, client},
    proxy::ServiceCounts,
};

/// How long `status`, which needs no daemon, waits for one.
const PATIENCE: Duration = Duration::from_secs(2);

/// The services and their counters, if a daemon says so.
pub(super) fn known(socket: &Path) -> Option<Vec<ServiceCounts>> {
    match client::ask_within(socket, &Action::ProxiedList, PATIENCE) {
        Ok(Outcome::Proxied { services }) => Some(services),
        Ok(_) | Err(_) => None,
    }
}

/// The part of `status` that is about them; nothing when there are none.
pub(super) fn section(services: &[ServiceCounts]) -> String {
    if services.is_empty() {
        return String::new();
    }
    let heads = [
        "PROXIED SERVICE",
        "CONNECTIONS",
        "OPEN",
        "REQUESTS",
        "KEPT",
        "BREAKS",
        "SHARE KEPT",
        "RECEIVED",
        "SENT",
        "OUTCOMES",
    ];
    let mut table = Table::new(heads);
    for ServiceCounts { name, counts, persistence, kept, breaks } in services {
        let broken: u64 = breaks.values().sum();
        let outcomes = counts.outcomes.iter().filter(|(_, count)| **count > 0);
        let events = persistence.iter().filter(|(_, count)| **count > 0);
        let outcomes: Vec<_> =
            outcomes.chain(events).map(|(reason, count)| format!("{reason} {count}")).collect();
        table.row([
            name.clone(),
            counts.connections.to_string(),
            counts.connections.saturating_sub(counts.closed_connections).to_string(),
            counts.requests.to_string(),
            kept.to_string(),
            broken.to_string(),
            share_text(share_kept(*kept, broken)),
            counts.received_bytes.to_string(),
            counts.sent_bytes.to_string(),
            outcomes.join(", "),
        ]);
    }
    format!("\n{}", table.text(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Counts;

    #[test]
    fn a_line_says_what_was_counted() {
        let mut counts = Counts { connections: 3, closed_connections: 1, ..Counts::default() };
        counts.outcomes.insert("answered".to_owned(), 5);
        counts.outcomes.insert("bad_length".to_owned(), 1);
        counts.outcomes.insert("no_server".to_owned(), 0);
        let persistence =
            [("cookie_forged".to_owned(), 2), ("cookie_expired".to_owned(), 0)].into();
        let breaks = [("down".to_owned(), 1)].into();
        let name = "shop".to_owned();
        let text = section(&[ServiceCounts { name, counts, persistence, kept: 3, breaks }]);
        let heads = "PROXIED SERVICE  CONNECTIONS  OPEN  REQUESTS  KEPT  BREAKS  SHARE KEPT  RECEIVED  SENT  OUTCOMES";
        assert_eq!(
            text,
            format!(
                "\n{heads}\nshop             3            2     0         3     1       75.00%      0         0     answered 5, bad_length 1, cookie_forged 2\n"
            )
        );
        assert_eq!(section(&[]), "");
    }
}
