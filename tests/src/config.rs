//! Configuration texts for tests: small tables and quick monitors, everything else as the test says it.

use std::{
    fmt::{self, Display, Write as _},
    net::{IpAddr, SocketAddr},
};

/// A configuration in the making. `to_string` gives the text.
#[derive(Clone, Debug)]
pub struct Config {
    text: String,
}

/// One server of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Where it listens.
    pub address: IpAddr,
    /// Its port; `None` keeps the service's.
    pub port: Option<u16>,
    /// Its share.
    pub weight: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// Tables for a few ten thousand clients, a quick sweep, and a monitor called `fast`.
    pub fn new() -> Self {
        let text = "\
[data_path]
entry_table = 65536
connection_table = 65536
handshake_table = 4096
sweep_interval = \"200ms\"

[[health_monitor]]
name = \"fast\"
interval = \"200ms\"
timeout = \"200ms\"
rise = 1
fall = 2
";
        Self { text: text.to_owned() }
    }

    /// Adds a TCP service.
    #[must_use]
    pub fn tcp(self, name: &str, at: SocketAddr, pool: &str) -> Self {
        self.service(name, at, "tcp", pool)
    }

    /// Adds a UDP service.
    #[must_use]
    pub fn udp(self, name: &str, at: SocketAddr, pool: &str) -> Self {
        self.service(name, at, "udp", pool)
    }

    /// Adds a pool without persistence profile and monitors; `more` are lines of its table.
    #[must_use]
    pub fn pool(self, name: &str, members: &[Member], more: &str) -> Self {
        let mut servers = String::new();
        for Member { address, port, weight } in members {
            let port = port.map(|port| format!("port = {port}, ")).unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(servers, "  {{ address = \"{address}\", {port}weight = {weight} }},");
        }
        self.also(format_args!("[[pool]]\nname = \"{name}\"\n{more}\nservers = [\n{servers}]"))
    }

    /// Adds a client-IP profile; `more` are lines of its table.
    #[must_use]
    pub fn profile(self, name: &str, timeout: &str, more: &str) -> Self {
        self.also(format_args!(
            "[[persistence_profile]]\nname = \"{name}\"\ntimeout = \"{timeout}\"\n{more}"
        ))
    }

    /// Adds any text.
    #[must_use]
    pub fn also(mut self, text: impl Display) -> Self {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "\n{text}");
        self
    }

    fn service(self, name: &str, at: SocketAddr, protocol: &str, pool: &str) -> Self {
        self.also(format_args!(
            "[[virtual_service]]\nname = \"{name}\"\naddress = \"{}\"\nport = {}\nprotocol = \"{protocol}\"\npool = \"{pool}\"",
            at.ip(),
            at.port()
        ))
    }
}

impl Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
