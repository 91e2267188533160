//! Breaks, as they are told to people and programs: whichever half noticed them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A live client that met another server than its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Break {
    /// When, seconds since 1970.
    pub time: f64,
    /// Where.
    pub virtual_service: String,
    /// The client's key: its address, or its prefix under the profile's mask.
    #[serde(with = "client_key")]
    pub client: IpNet,
    /// The address the client came for, if the service is on a prefix.
    pub destination: Option<IpAddr>,
    /// The server it was bound to, with its port if it has one of its own; `None` if that is no longer known.
    pub before: Option<String>,
    /// The server it met.
    pub after: Option<String>,
    /// Why: the name of a [`lbpersist_common::breaks::BreakReason`].
    pub reason: String,
}

impl Break {
    /// The client as it is written: an address, or a prefix.
    pub fn client_text(&self) -> String {
        client_text(&self.client)
    }
}

/// A client's key as it is written: an address, or a prefix.
pub fn client_text(client: &IpNet) -> String {
    if client.prefix_len() == client.max_prefix_len() {
        client.addr().to_string()
    } else {
        client.to_string()
    }
}

/// A client's key as text: an address, or a prefix.
mod client_key {
    use std::net::IpAddr;

    use ipnet::IpNet;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(client: &IpNet, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::client_text(client))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<IpNet, D::Error> {
        let text = String::deserialize(from)?;
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address.or_else(|_| text.parse()).map_err(D::Error::custom)
    }
}

/// Which breaks are meant; empty means all that are remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this service.
    pub virtual_service: Option<String>,
    /// Of clients in this prefix, or of prefixes that contain it.
    pub client: Option<IpNet>,
    /// For this reason.
    pub reason: Option<String>,
}

impl Filter {
    /// Whether `one` is meant.
    pub fn means(&self, one: &Break) -> bool {
        let service = self.virtual_service.as_ref().is_none_or(|name| *name == one.virtual_service);
        let client = self
            .client
            .is_none_or(|wanted| wanted.contains(&one.client) || one.client.contains(&wanted));
        service && client && self.reason.as_ref().is_none_or(|reason| *reason == one.reason)
    }
}

/// Of the connections of live clients, how many met their server, from 0 to 1; `None` if there was none.
pub fn share_kept(kept: u64, broken: u64) -> Option<f64> {
    let all = kept + broken;
    (all > 0).then(|| kept as f64 / all as f64)
}

/// A share in per cent, never rounded up to all of them.
pub fn share_text(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.2}%", (share * 1e4).floor() / 1e2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_whole_only_if_nobody_was_lost() {
        assert_eq!(share_text(share_kept(0, 0)), "-");
        assert_eq!(share_text(share_kept(7, 0)), "100.00%");
        assert_eq!(share_text(share_kept(9_999_999, 1)), "99.99%");
        assert_eq!(share_text(share_kept(0, 3)), "0.00%");
    }

    #[test]
    fn filters_mean_what_they_say() {
        let one = Break {
            time: 1.5,
            virtual_service: "web".to_owned(),
            client: "192.0.2.0/24".parse().unwrap(),
            destination: None,
            before: Some("10.0.0.1".to_owned()),
            after: None,
            reason: "down".to_owned(),
        };
        assert!(Filter::default().means(&one));
        for (client, meant) in [("192.0.2.7/32", true), ("192.0.0.0/16", true), ("::/0", false)] {
            let filter = Filter { client: Some(client.parse().unwrap()), ..Filter::default() };
            assert_eq!(filter.means(&one), meant, "{client}");
        }
        let filter = Filter { reason: Some("limit".to_owned()), ..Filter::default() };
        assert!(!filter.means(&one));
        for client in ["192.0.2.0/24", "192.0.2.7", "2001:db8::/64"] {
            let key = client.parse().or_else(|_| client.parse::<IpAddr>().map(IpNet::from));
            let one = Break { client: key.unwrap(), ..one.clone() };
            let json = serde_json::to_value(&one).unwrap();
            assert_eq!(json["client"], client);
            assert_eq!(serde_json::from_value::<Break>(json).unwrap(), one);
        }
    }
}
