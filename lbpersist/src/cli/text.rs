//! Results for people: tables whose columns are as wide as they need to be.

use crate::{
    breaks::share_text,
    config::format_duration,
    datapath::report::{EntryStatus, Status},
    model::{Protocol, listen_text},
};

/// The text of `status`.
pub(super) fn status(status: &Status) -> String {
    let mut text = String::new();
    let mut interfaces = Table::new(["INTERFACE", "INDEX", "XDP"]);
    for interface in &status.interfaces {
        interfaces.row([
            interface.name.clone(),
            interface.index.map_or_else(|| "-".to_owned(), |index| index.to_string()),
            interface.mode.unwrap_or("not attached").to_owned(),
        ]);
    }
    text.push_str(&interfaces.text("no interface is attached"));

    let mut services = Table::new([
        "VIRTUAL SERVICE",
        "ADDRESS",
        "POOL",
        "PACKETS",
        "ANSWERS",
        "CONNECTIONS",
        "KEPT",
        "BREAKS",
        "SHARE KEPT",
    ]);
    for service in &status.virtual_services {
        let address = listen_text(service.address, service.port);
        services.row([
            service.name.clone(),
            format!("{address}/{}", service.protocol),
            service.pool.clone(),
            service.packets.to_string(),
            service.answer_packets.to_string(),
            service.connections.to_string(),
            service.kept.to_string(),
            service.breaks.values().sum::<u64>().to_string(),
            share_text(service.share_kept),
        ]);
    }
    text.push('\n');
    text.push_str(&services.text("no virtual services"));

    let mut servers = Table::new([
        "POOL",
        "SERVER",
        "WEIGHT",
        "STATE",
        "REACHABLE",
        "PACKETS",
        "CONNECTIONS",
        "OPEN",
    ]);
    for pool in &status.pools {
        for server in &pool.servers {
            let address = match server.port {
                Some(port) => std::net::SocketAddr::new(server.address, port).to_string(),
                None => server.address.to_string(),
            };
            servers.row([
                pool.name.clone(),
                address,
                server.weight.to_string(),
                server.state.to_owned(),
                if server.reachable { "yes" } else { "no" }.to_owned(),
                server.packets.to_string(),
                server.connections.to_string(),
                match server.max_connections {
                    Some(limit) => format!("{} of {limit}", server.open),
                    None => server.open.to_string(),
                },
            ]);
        }
    }
    text.push('\n');
    text.push_str(&servers.text("no servers"));

    let mut verdicts = Table::new(["PACKETS", "COUNT", "MEANING"]);
    for reason in lbpersist_common::reason::Reason::ALL {
        let count = status.verdicts.get(reason.name()).copied().unwrap_or(0);
        if count > 0 {
            let meaning = reason.explanation().to_owned();
            verdicts.row([reason.name().to_owned(), count.to_string(), meaning]);
        }
    }
    text.push('\n');
    text.push_str(&verdicts.text("no packets yet"));
    text
}

/// The text of `persistence list`.
pub(super) fn entries(entries: &[EntryStatus]) -> String {
    let mut table =
        Table::new(["CLIENT", "SERVER", "VIRTUAL SERVICE", "POOL", "OPEN", "AGE", "EXPIRES IN"]);
    for entry in entries {
        let client = match entry.destination {
            Some(destination) => format!("{} to {destination}", entry.client),
            None => entry.client.clone(),
        };
        table.row([
            client,
            entry.server.clone(),
            entry.virtual_service.clone().unwrap_or_else(|| "(all of the pool)".to_owned()),
            entry.pool.clone(),
            // A flow has no end that could be counted.
            match entry.protocol {
                Some(Protocol::Udp) => "-".to_owned(),
                _ => entry.open.to_string(),
            },
            whole_seconds(entry.age_seconds),
            entry.expires_in_seconds.map_or_else(|| "-".to_owned(), whole_seconds),
        ]);
    }
    table.text("no entries")
}

fn whole_seconds(seconds: f64) -> String {
    format_duration(std::time::Duration::from_secs(seconds.round().max(0.0) as u64))
}

pub(super) struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(super) fn new(heads: [&str; COLUMNS]) -> Self {
        Self { rows: vec![heads.map(str::to_owned)] }
    }

    pub(super) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells);
    }

    /// The table, or `empty` when it has heads only.
    pub(super) fn text(&self, empty: &str) -> String {
        if self.rows.len() == 1 {
            return format!("{empty}\n");
        }
        let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        });
        let mut text = String::new();
        for row in &self.rows {
            let line: Vec<String> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            text.push_str(line.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["A", "LONG HEAD", "C"]);
        table.row(["a longer cell".to_owned(), "x".to_owned(), "y".to_owned()]);
        assert_eq!(
            table.text("none"),
            "A              LONG HEAD  C\na longer cell  x          y\n"
        );
        assert_eq!(Table::new(["A"]).text("none"), "none\n");
    }
}
