//! What services of mode `tcp` and `http` are set to do.

use std::time::Duration;

/// What the daemon is set to do with a service whose clients' connections it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    /// In mode `tcp`.
    Tcp(TcpSettings),
    /// In mode `http`.
    Http(Box<HttpSettings>),
}

impl Carried {
    /// How servers are reached.
    pub const fn link(&self) -> &LinkSettings {
        match self {
            Self::Tcp(settings) => &settings.link,
            Self::Http(settings) => &settings.link,
        }
    }

    /// What holds for HTTP, in a service of that mode.
    pub const fn http(&self) -> Option<&HttpSettings> {
        match self {
            Self::Http(settings) => Some(settings),
            Self::Tcp(_) => None,
        }
    }
}

/// Settings of the proxy as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// Worker threads; `None` for one a CPU.
    pub threads: Option<u16>,
    /// How long requests under way may take when the daemon is told to end.
    pub stop_timeout: Duration,
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self { threads: None, stop_timeout: Duration::from_secs(5) }
    }
}

/// How the proxy talks to servers below HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// How long opening a connection to a server may take.
    pub connect_timeout: Duration,
    /// How many other servers are tried when one cannot be reached.
    pub retries: u8,
    /// Clients' connections begin with a PROXY protocol header, version 1 or 2.
    pub proxy_protocol_receive: bool,
    /// Connections to servers begin with such a header.
    pub proxy_protocol_send: Option<ProxyProtocol>,
    /// Servers see the client's address as the source.
    pub transparent: bool,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            retries: 2,
            proxy_protocol_receive: false,
            proxy_protocol_send: None,
            transparent: false,
        }
    }
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// A service of mode `tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSettings {
    /// How servers are reached.
    pub link: LinkSettings,
    /// After how much silence of both sides a connection is cut.
    pub idle_timeout: Duration,
    /// One line for each connection.
    pub access_log: AccessLog,
}

impl Default for TcpSettings {
    fn default() -> Self {
        Self {
            link: LinkSettings::default(),
            idle_timeout: Duration::from_secs(3600),
            access_log: AccessLog::Off,
        }
    }
}

/// A service of mode `http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// How servers are reached.
    pub link: LinkSettings,
    /// How long things may take.
    pub timeouts: HttpTimeouts,
    /// The most bytes of a request's line and header fields together.
    pub max_header_bytes: u32,
    /// The most bytes of a request's body; `None` for no limit.
    pub max_body_bytes: Option<u64>,
    /// Streams a client may have open at a time on an HTTP/2 connection.
    pub max_streams: u32,
    /// Idle connections that each worker keeps to each server.
    pub max_idle_connections: u16,
    /// What servers are told of the client in header fields.
    pub forwarded: Forwarded,
    /// In which fields.
    pub forwarded_fields: ForwardedFields,
    /// What servers are spoken to in.
    pub server_protocol: ServerProtocol,
    /// One line for each request.
    pub access_log: AccessLog,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            link: LinkSettings::default(),
            timeouts: HttpTimeouts::default(),
            max_header_bytes: 32 << 10,
            max_body_bytes: None,
            max_streams: 128,
            max_idle_connections: 64,
            forwarded: Forwarded::Set,
            forwarded_fields: ForwardedFields::XForwarded,
            server_protocol: ServerProtocol::Http1,
            access_log: AccessLog::Off,
        }
    }
}

/// How long each phase of a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpTimeouts {
    /// From the first byte of a request to the end of its header.
    pub header: Duration,
    /// Between two pieces of a request's body.
    pub body: Duration,
    /// Without a request on a client's connection.
    pub idle: Duration,
    /// That a client takes nothing of its answer.
    pub write: Duration,
    /// From the end of the request to the header of the server's answer.
    pub response: Duration,
    /// Between two pieces of an answer's body.
    pub response_body: Duration,
    /// Of silence on an upgraded connection.
    pub upgraded: Duration,
    /// Without a request on a connection to a server.
    pub server_idle: Duration,
}

impl Default for HttpTimeouts {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self {
            header: Duration::from_secs(10),
            body: Duration::from_secs(30),
            idle: minute,
            write: minute,
            response: minute,
            response_body: minute,
            upgraded: 60 * minute,
            server_idle: Duration::from_secs(30),
        }
    }
}

/// What servers are told of the client in header fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// The proxy's word replaces the client's.
    Set,
    /// The proxy's word follows the client's.
    Append,
    /// Fields pass as they are.
    Off,
}

/// The fields that tell servers of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedFields {
    /// `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// All of them.
    Both,
}

impl ForwardedFields {
    /// Whether `X-Forwarded-...` are written.
    pub const fn has_x_forwarded(self) -> bool {
        matches!(self, Self::XForwarded | Self::Both)
    }

    /// Whether `Forwarded` is written.
    pub const fn has_forwarded(self) -> bool {
        matches!(self, Self::Forwarded | Self::Both)
    }
}

/// What servers are spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, known beforehand.
    H2,
}

/// How requests are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Not at all.
    Off,
    /// As words and `key=value`.
    Text,
    /// As one JSON object a line.
    Json,
}
