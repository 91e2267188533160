//! Health monitors as plain values: when servers are asked, how, and what is a good answer.

use std::{fmt, net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

/// How a server is asked whether it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthMonitor {
    /// Unique among monitors.
    pub name: String,
    /// Pause between the beginnings of two checks of a server.
    pub interval: Duration,
    /// The same while the last answer spoke against the server's state; no longer than `interval`.
    pub fast_interval: Duration,
    /// By how much pauses differ at random, in percent of the interval, 0 to 50.
    pub jitter: u8,
    /// How long a check may take.
    pub timeout: Duration,
    /// Checks in a row that must pass before a server that was down is up.
    pub rise: u32,
    /// Checks in a row that must fail before a server that was up is down.
    pub fall: u32,
    /// The address to ask instead of the server's own.
    pub address: Option<IpAddr>,
    /// The port to ask instead of the server's own.
    pub port: Option<u16>,
    /// What is asked.
    pub kind: MonitorKind,
}

/// What a monitor asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MonitorKind {
    /// A TCP connection opens.
    Tcp,
    /// A TLS handshake is finished.
    Tls(TlsCheck),
    /// An HTTP/1.1 request is answered, over TLS or not.
    Http(Box<HttpCheck>),
    /// A datagram is answered.
    Udp(UdpCheck),
    /// An ICMP or ICMPv6 echo is answered.
    Icmp,
    /// A command ends with exit code 0.
    External(ExternalCheck),
}

impl MonitorKind {
    /// As the configuration writes it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls(_) => "tls",
            Self::Http(check) if check.tls.is_some() => "https",
            Self::Http(_) => "http",
            Self::Udp(_) => "udp",
            Self::Icmp => "icmp",
            Self::External(_) => "external",
        }
    }

    /// Whether it cannot ask without a port.
    pub fn needs_port(&self) -> bool {
        !matches!(self, Self::Icmp | Self::External(_))
    }
}

/// A TLS handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsCheck {
    /// The name that is asked for (SNI) and that a checked certificate must have; `None` is the address.
    pub server_name: Option<String>,
    /// What is wanted of the certificate.
    pub certificate: Certificate,
}

/// What is wanted of a server's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Certificate {
    /// Any will do.
    #[default]
    Any,
    /// It is valid for the name, and an authority that this machine trusts has signed it.
    Trusted,
    /// It is valid for the name, and an authority of this PEM file has signed it.
    SignedBy(PathBuf),
}

/// An HTTP request and the answers that are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// The method, such as `GET`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The `Host` header; `None` is the address and port that are asked.
    pub host: Option<String>,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// The status codes that are good.
    pub status: StatusRanges,
    /// What the body must hold.
    pub body: Option<Pattern>,
    /// TLS, for HTTPS.
    pub tls: Option<TlsCheck>,
}

/// A datagram and the answers that are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpCheck {
    /// What is sent.
    pub request: Vec<u8>,
    /// What the answer must hold; `None` takes any.
    pub answer: Option<Vec<u8>>,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalCheck {
    /// The program, by its absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// Whose word decides when a pool has several monitors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthRule {
    /// A server is up when all monitors say so.
    #[default]
    All,
    /// A server is up when one monitor says so.
    Any,
}

/// Ranges of HTTP status codes, as in `200-299, 401`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRanges(Vec<RangeInclusive<u16>>);

impl StatusRanges {
    /// Whether a code is in one of them.
    pub fn contains(&self, code: u16) -> bool {
        self.0.iter().any(|range| range.contains(&code))
    }

    /// Reads them.
    ///
    /// # Errors
    ///
    /// The words that are to follow "must be ranges of status codes".
    pub fn parse(text: &str) -> Result<Self, String> {
        let code = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            let code = text.parse::<u16>().ok().filter(|code| digits && *code >= 100);
            code.filter(|code| *code <= 599)
        };
        let range = |part: &str| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = (code(from.trim())?, code(to.trim())?);
            (from <= to).then_some(from..=to)
        };
        let ranges: Result<Vec<_>, _> =
            text.split(',').map(|part| range(part.trim()).ok_or_else(|| part.trim())).collect();
        match ranges {
            Ok(ranges) => Ok(Self(ranges)),
            Err("") => Err("with something between the commas".to_owned()),
            Err(part) => Err(format!("from 100 to 599, which `{}` is not", part.escape_debug())),
        }
    }
}

impl Default for StatusRanges {
    fn default() -> Self {
        Self(vec![200..=299])
    }
}

impl fmt::Display for StatusRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, range) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            match (range.start(), range.end()) {
                (from, to) if from == to => write!(f, "{comma}{from}")?,
                (from, to) => write!(f, "{comma}{from}-{to}")?,
            }
        }
        Ok(())
    }
}

/// What a body must hold.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// This text.
    Text(String),
    /// A match of this expression.
    Expression(regex::bytes::Regex),
}

impl Pattern {
    /// A regular expression in the syntax of the regex crate. The text it matches need not be UTF-8.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in one line.
    pub fn expression(text: &str) -> Result<Self, String> {
        regex::bytes::Regex::new(text).map(Self::Expression).map_err(|error| match error {
            // The full message draws the expression over several lines; the last one says what is wrong.
            regex::Error::Syntax(message) => {
                let last = message.lines().last().unwrap_or_default();
                last.trim_start_matches("error: ").to_owned()
            }
            regex::Error::CompiledTooBig(limit) => {
                format!("it takes more than {limit} bytes of memory")
            }
            other => other.to_string().replace('\n', " "),
        })
    }

    /// Whether `bytes` hold it.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Text(text) => contains(bytes, text.as_bytes()),
            Self::Expression(expression) => expression.is_match(bytes),
        }
    }

    /// Whether more bytes at the end could not take away what was found. An expression may look at the end.
    pub fn is_settled_by(&self, bytes: &[u8]) -> bool {
        matches!(self, Self::Text(_)) && self.is_in(bytes)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(own), Self::Text(others)) => own == others,
            (Self::Expression(own), Self::Expression(others)) => own.as_str() == others.as_str(),
            _ => false,
        }
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Expression(expression) => write!(f, "match of {:?}", expression.as_str()),
        }
    }
}

/// Whether `bytes` hold `wanted`; everything holds nothing.
pub fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_ranges_are_read_and_written() {
        for (text, inside, outside) in [
            ("200", &[200][..], &[199, 201][..]),
            ("200-299, 401", &[200, 250, 299, 401], &[199, 300, 400, 402]),
            ("100-599", &[100, 599], &[99, 600]),
        ] {
            let ranges = StatusRanges::parse(text).unwrap();
            assert_eq!(ranges.to_string(), text);
            assert!(inside.iter().all(|&code| ranges.contains(code)), "{text}");
            assert!(!outside.iter().any(|&code| ranges.contains(code)), "{text}");
        }
    }

    #[test]
    fn what_is_no_status_range_is_refused() {
        for text in
            ["", "200,", "2xx", "200-", "-200", "299-200", "99", "600", "+200", "0200", "20 0"]
        {
            assert!(StatusRanges::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn patterns_are_found_in_bytes() {
        let text = Pattern::Text("ready".to_owned());
        let expression = Pattern::expression("^(?i)all (ready|well)$").unwrap();
        for (body, by_text, by_expression) in [
            (&b"all ready"[..], true, true),
            (b"ALL WELL", false, true),
            (b"\xff not ready yet", true, false),
            (b"", false, false),
        ] {
            assert_eq!(text.is_in(body), by_text, "{body:?}");
            assert_eq!(expression.is_in(body), by_expression, "{body:?}");
        }
        assert!(text.is_settled_by(b"ready") && !expression.is_settled_by(b"all ready"));
    }

    #[test]
    fn a_wrong_expression_is_explained_in_one_line() {
        for text in ["(", "a{1,100000}{1,100000}", "[z-a]", "a\n("] {
            let why = Pattern::expression(text).unwrap_err();
            assert!(!why.is_empty() && !why.contains('\n'), "{why}");
        }
    }
}
