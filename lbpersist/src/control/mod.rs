//! What a running daemon can be asked to do, and what it answers.
//!
//! [`Action`] and [`Outcome`] are all there is to say; `socket` carries them over a Unix socket, one JSON object a line, and
//! `client` is the other end. What an action does is written in `daemon`, once: whatever else may carry actions one day
//! only translates.

pub mod client;
pub mod entries;
pub mod socket;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use self::entries::{EntryRecord, Imported};
use crate::{
    breaks::Break, clock, config::format_duration, datapath::maps::PinDirectory,
    health::MonitorStatus, model::ServerState, proxy::ServiceCounts, store::StoreStatus,
};

/// The most bytes of one request: the largest configuration file, and what JSON adds to it.
pub const LARGEST_REQUEST: u64 = 17 << 20;

/// The most bytes of one answer: 65,535 servers, each with a few hundred bytes.
pub const LARGEST_ANSWER: u64 = 64 << 20;

/// Where sockets are.
const DIRECTORY: &str = "/run/lbpersist";

/// The socket of the daemon that has its maps in `pins`, unless another is named: it is called after the pin directory.
pub fn default_socket(pins: &PinDirectory) -> PathBuf {
    let name = pins.path().file_name().unwrap_or_else(|| "lbpersist".as_ref());
    let mut name = name.to_owned();
    name.push(".sock");
    PathBuf::from(DIRECTORY).join(name)
}

/// What the daemon can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Which servers there are. Answered by [`Outcome::Servers`].
    ServerList {
        /// Of this pool; of all without it.
        #[serde(default)]
        pool: Option<String>,
        /// Those of which pool, address or state contain this text; all without it.
        #[serde(default)]
        search: Option<String>,
    },
    /// What monitors know of servers. Answered by [`Outcome::Monitors`].
    MonitorList {
        /// Those of this pool; of all without it.
        #[serde(default)]
        pool: Option<String>,
        /// Those of which pool, server, name, type or state contain this text; all without it.
        #[serde(default)]
        search: Option<String>,
    },
    /// What was counted of services of mode `tcp` and `http`. Answered by [`Outcome::Proxied`].
    ProxiedList,
    /// The last breaks of services of mode `tcp` and `http`. Answered by [`Outcome::Breaks`].
    BreakList,
    /// A server, and who is left on it. Answered by [`Outcome::Server`].
    ServerShow(ServerName),
    /// Use a server otherwise than the configuration says, or as it says again. Answered by [`Outcome::Server`].
    ServerSet {
        /// Which.
        server: ServerName,
        /// What for.
        state: ServerState,
    },
    /// Read the daemon's own configuration file again. Answered by [`Outcome::Applied`].
    Reload,
    /// Take another configuration. Answered by [`Outcome::Applied`].
    Apply {
        /// What messages call it: the name of the file.
        name: String,
        /// Its text.
        text: String,
        /// Only say what would change.
        #[serde(default)]
        dry_run: bool,
        /// Put it in the place of the daemon's own file, once it is applied.
        #[serde(default)]
        save: bool,
    },
    /// Bind clients to servers; those that have an entry keep it unless they are to be moved. Answered by [`Outcome::Imported`].
    PersistenceImport {
        /// At most [`crate::daemon::ENTRIES_AT_ONCE`].
        entries: Vec<EntryRecord>,
        /// Move clients that have an entry with another server.
        #[serde(default)]
        replace: bool,
    },
    /// How the store does. Answered by [`Outcome::Store`].
    StoreShow,
}

/// A server of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerName {
    /// The pool's name.
    pub pool: String,
    /// Where it listens.
    pub address: IpAddr,
    /// Its port as configured; without one the pool's only server of that address is meant.
    #[serde(default)]
    pub port: Option<u16>,
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The servers that were asked for, by pool and in the order of the configuration.
    Servers {
        /// Each of them.
        servers: Vec<ServerInfo>,
    },
    /// A server.
    Server {
        /// What it is used for.
        server: Box<ServerInfo>,
        /// Who is left on it.
        left: Left,
    },
    /// What was asked for of the monitors, by pool, server and monitor.
    Monitors {
        /// One of each server and monitor.
        monitors: Vec<MonitorStatus>,
    },
    /// A configuration was applied, or could be.
    Applied {
        /// What changed, or would: a sentence each, without full stop.
        changes: Vec<String>,
        /// What of the configuration does not hold yet, and why.
        warnings: Vec<String>,
        /// Whom it would move, if that was only asked.
        moves: Option<Moves>,
    },
    /// The services of mode `tcp` and `http`.
    Proxied {
        /// By name.
        services: Vec<ServiceCounts>,
    },
    /// What was asked for of the breaks.
    Breaks {
        /// Those that are remembered, oldest first within each service.
        breaks: Vec<Break>,
    },
    /// Clients were bound.
    Imported(Imported),
    /// How the store does.
    Store {
        /// Its file, and what is wrong with it.
        store: StoreStatus,
    },
    /// It was not done, and nothing was changed.
    Failed {
        /// Whose fault that is.
        fault: Fault,
        /// Why: a sentence, or several lines about a file.
        message: String,
    },
}

impl Outcome {
    /// The refusal of what cannot be meant.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Failed { fault: Fault::Input, message: message.into() }
    }

    /// The failure of what was meant well.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { fault: Fault::Work, message: message.into() }
    }
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// What was asked cannot be meant.
    Input,
    /// It could not be done.
    Work,
}

/// A server as the daemon knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// The pool's name.
    pub pool: String,
    /// Where it listens.
    pub address: IpAddr,
    /// Its port; `None` if it is the service's.
    pub port: Option<u16>,
    /// Its share of new clients.
    pub weight: u16,
    /// `up`, `down`, `draining` or `disabled`: what the packets meet.
    pub state: String,
    /// What it is used for as long as it is up.
    pub used: ServerState,
    /// Who says so.
    pub origin: Origin,
    /// What the configuration says.
    pub configured: ServerState,
    /// The monitors that call it down.
    pub failing: Vec<String>,
}

impl ServerInfo {
    /// Address and port as they are written.
    pub fn endpoint(&self) -> String {
        self.port.map_or_else(
            || self.address.to_string(),
            |port| std::net::SocketAddr::new(self.address, port).to_string(),
        )
    }
}

/// Who says what a server is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The configuration.
    Configuration,
    /// An operator, at run time.
    Hand,
}

/// Living clients that would meet another server, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// Clients with a live entry.
    pub entries: u64,
    /// Open connections, and UDP flows of pools that keep no entries.
    pub connections: u64,
}

impl std::fmt::Display for Moves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { entries, connections } = self;
        if (*entries, *connections) == (0, 0) {
            return f.write_str("no living client would lose its server");
        }
        write!(
            f,
            "clients that would lose their server: {entries} by entry, {connections} by open connection"
        )
    }
}

/// Who is left on a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Left {
    /// Clients that are bound to it: live entries.
    pub entries: u64,
    /// Open connections to it, and UDP flows of pools that keep no entries.
    pub connections: u64,
    /// Unfinished handshakes with it.
    pub handshakes: u64,
    /// Requests, upgraded connections and connections of mode `tcp` that the daemon carries to it now.
    #[serde(default)]
    pub under_way: u64,
    /// Entries that still name it, though it is down or disabled under `immediate`: their clients meet another server, if there is
    /// one, with the next connection they open.
    #[serde(default)]
    pub lost_entries: u64,
    /// Open connections of such clients.
    #[serde(default)]
    pub lost_connections: u64,
    /// Seconds until the last entry ends if its clients open nothing and close what is open now; `None` without entries.
    pub last_ends_in_seconds: Option<f64>,
    /// Clients may hold sealed cookies that name it. They cannot be counted.
    #[serde(default)]
    pub cookies: bool,
    /// When the last of them has ended, in seconds since 1970; `None` when they have no end, or there are none.
    #[serde(default)]
    pub cookies_until: Option<u64>,
}

impl Left {
    /// Whether nobody is, as far as that can be counted.
    pub fn is_empty(&self) -> bool {
        self.entries == 0 && self.connections == 0 && self.handshakes == 0 && self.under_way == 0
    }

    /// What is to be said of clients that cannot be counted, after what can.
    pub fn by_cookie(&self) -> String {
        match self.cookies_until {
            _ if !self.cookies => String::new(),
            Some(until) => {
                let text = clock::time_text(until as f64);
                let until = text.trim_end_matches(".000");
                format!("; clients may come back by cookie until {until} UTC at the latest")
            }
            None => "; clients may come back by cookie at any time".to_owned(),
        }
    }
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = |number: u64, one: &str, many: &str| {
            format!("{number} {}", if number == 1 { one } else { many })
        };
        let (entries, connections) = (self.lost_entries, self.lost_connections);
        if self.is_empty() && (entries, connections) != (0, 0) {
            let entries = count(entries, "entry", "entries");
            let connections = count(connections, "open connection", "open connections");
            return write!(
                f,
                "nobody may stay: clients with {entries} and {connections} lose it, and meet another server when they come again{}",
                self.by_cookie()
            );
        }
        if self.is_empty() {
            return write!(f, "nobody is left{}", self.by_cookie());
        }
        let entries = count(self.entries, "entry", "entries");
        let connections = count(self.connections, "open connection", "open connections");
        write!(f, "{entries} and {connections} left")?;
        if self.handshakes > 0 {
            write!(f, ", {}", count(self.handshakes, "handshake", "handshakes"))?;
        }
        if self.under_way > 0 {
            let (one, many) = ("carried request or connection", "carried requests or connections");
            write!(f, ", {} under way", count(self.under_way, one, many))?;
        }
        if let Some(seconds) = self.last_ends_in_seconds {
            let last = Duration::from_secs(seconds.ceil().max(0.0) as u64);
            write!(f, "; the last entry could end in {}", format_duration(last))?;
        }
        f.write_str(&self.by_cookie())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_objects_with_the_action_as_a_field() {
        let text = r#"{"action":"server-set","server":{"pool":"web","address":"10.0.0.1"},"state":"draining"}"#;
        let server =
            ServerName { pool: "web".to_owned(), address: [10, 0, 0, 1].into(), port: None };
        let action = Action::ServerSet { server, state: ServerState::Draining };
        assert_eq!(serde_json::from_str::<Action>(text).unwrap(), action);
        let text = serde_json::to_string(&action).unwrap();
        assert_eq!(serde_json::from_str::<Action>(&text).unwrap(), action);
        for wrong in [r#"{"action":"server-list","pol":"web"}"#, r#"{"action":"explode"}"#, "[]"] {
            assert!(serde_json::from_str::<Action>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sockets_are_called_after_the_pin_directory() {
        let socket = |path: &str| default_socket(&PinDirectory::new(path)).display().to_string();
        assert_eq!(socket("/sys/fs/bpf/lbpersist"), "/run/lbpersist/lbpersist.sock");
        assert_eq!(socket("/sys/fs/bpf/other/"), "/run/lbpersist/other.sock");
    }

    #[test]
    fn who_is_left_is_said_in_a_line() {
        let mut left = Left::default();
        assert_eq!(left.to_string(), "nobody is left");
        left = Left { lost_entries: 1, lost_connections: 2, ..left };
        assert!(left.is_empty());
        assert_eq!(
            left.to_string(),
            "nobody may stay: clients with 1 entry and 2 open connections lose it, and meet another server when they come again"
        );
        left = Left {
            entries: 1,
            connections: 2,
            lost_entries: 0,
            lost_connections: 0,
            last_ends_in_seconds: Some(61.2),
            ..left
        };
        assert_eq!(
            left.to_string(),
            "1 entry and 2 open connections left; the last entry could end in 1m2s"
        );
        left = Left { under_way: 1, cookies: true, ..Left::default() };
        assert!(!left.is_empty());
        assert_eq!(
            left.to_string(),
            "0 entries and 0 open connections left, 1 carried request or connection under way; \
             clients may come back by cookie at any time"
        );
        left = Left { under_way: 0, cookies_until: Some(86_400), ..left };
        assert!(left.is_empty(), "they cannot be waited for");
        assert_eq!(
            left.to_string(),
            "nobody is left; clients may come back by cookie until 1970-01-02 00:00:00 UTC at the latest"
        );
    }
}
