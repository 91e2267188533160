//! What the commands of lbpersist print with `-o json`, read the way a user's script would.

use serde_json::Value;

/// What `lbpersist status -o json` says.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    /// The one of `list` that is named `name`.
    ///
    /// # Panics
    /// When there is none: the tests know what they configured.
    pub fn named(&self, list: &str, name: &str) -> &Value {
        let values = self.0[list].as_array().unwrap_or_else(|| panic!("no {list}: {}", self.0));
        let found = values.iter().find(|value| value["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} among {list}: {}", self.0))
    }

    /// The server of a pool that has this address.
    ///
    /// # Panics
    /// When there is none.
    pub fn server(&self, pool: &str, address: &str) -> &Value {
        let servers = &self.named("pools", pool)["servers"];
        let found = servers.as_array().and_then(|servers| {
            servers.iter().find(|server| server["address"].as_str() == Some(address))
        });
        found.unwrap_or_else(|| panic!("no {address} in {servers}"))
    }

    /// The counter of a verdict.
    pub fn verdict(&self, name: &str) -> u64 {
        number(&self.0["verdicts"][name])
    }

    /// All verdicts together.
    pub fn all_verdicts(&self) -> u64 {
        self.0["verdicts"].as_object().map_or(0, |verdicts| verdicts.values().map(number).sum())
    }
}

/// One line of `lbpersist persistence list -o json`.
#[derive(Clone, Debug)]
pub struct Entry(pub Value);

impl Entry {
    /// The client's address or prefix.
    pub fn client(&self) -> &str {
        self.0["client"].as_str().unwrap_or_default()
    }

    /// The server's address and port.
    pub fn server(&self) -> &str {
        self.0["server"].as_str().unwrap_or_default()
    }

    /// Connections that are open.
    pub fn open(&self) -> u64 {
        number(&self.0["open"])
    }
}

/// A counter.
///
/// # Panics
/// When it is none: a shape that changed must be noticed.
pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no counter: {value}"))
}
