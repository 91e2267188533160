//! How clients are kept on their servers, as configured.

use std::time::Duration;

/// A named way of keeping clients, and what follows from it when their server is down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersistenceProfile {
    /// Unique among profiles.
    pub name: String,
    /// How clients are told apart, and where it is noted which server they have.
    pub method: Method,
    /// What happens to clients of a server that is down.
    pub server_down: ServerDown,
    /// The profile that is asked when this one knows no server for a client.
    pub fallback: Option<Box<PersistenceProfile>>,
}

impl PersistenceProfile {
    /// How many profiles a chain of fallbacks may have, the first one counted.
    pub const LONGEST_CHAIN: usize = 4;

    /// This profile, its fallback, the fallback of that, and so on.
    pub fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |profile| profile.fallback.as_deref())
    }

    /// The profile of the chain that keeps clients by address, unless its timeout turns that off.
    pub fn by_address(&self) -> Option<(&Self, &ClientIp)> {
        self.chain().find_map(|profile| match &profile.method {
            Method::ClientIp(method) if !method.timeout.is_zero() => Some((profile, method)),
            _ => None,
        })
    }
}

/// How clients are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// By address, in a table.
    ClientIp(ClientIp),
    /// By a cookie that lbpersist gives them; it says which server they have.
    HttpCookie(HttpCookie),
    /// By a cookie that the application gives them, in a table.
    AppCookie(AppCookie),
    /// By a header whose value belongs to one server.
    Header(Header),
}

impl Method {
    /// As `type` is written in the file.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ClientIp(_) => "client-ip",
            Self::HttpCookie(_) => "http-cookie",
            Self::AppCookie(_) => "app-cookie",
            Self::Header(_) => "header",
        }
    }
}

/// Clients are kept by their address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientIp {
    /// How long an entry outlives its last connection; zero keeps none.
    pub timeout: Duration,
    /// Bits of an IPv4 client's address that make its key, 0 to 32.
    pub ipv4_mask: u8,
    /// Bits of an IPv6 client's address that make its key, 0 to 128.
    pub ipv6_mask: u8,
    /// Who shares an entry.
    pub scope: Scope,
}

/// Clients are kept by a sealed cookie of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCookie {
    /// The cookie's name; `None` has one made, which is kept.
    pub cookie_name: Option<String>,
    /// Send the cookie with every answer, not only when the client has none that is good.
    pub always_send: bool,
    /// Keep scripts from reading it.
    pub http_only: bool,
    /// Have it sent over TLS only.
    pub secure: bool,
    /// Which requests from other sites it goes with; `None` leaves it to the client.
    pub same_site: Option<SameSite>,
    /// How long it holds, from when the client was bound; zero for as long as the client keeps it.
    pub timeout: Duration,
    /// The client keeps it for `timeout`, even when it ends in between.
    pub persistent: bool,
    /// Which paths it goes with.
    pub path: String,
    /// Which hosts it goes with; `None` for the one that was asked only.
    pub domain: Option<String>,
    /// Take it out of requests before servers see them.
    pub strip_from_request: bool,
}

/// Which requests from other sites a cookie goes with (RFC 6265bis, section 4.1.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// None of them.
    Strict,
    /// Those that take the user to this site.
    Lax,
    /// All of them.
    None,
}

impl SameSite {
    /// As `Set-Cookie` has it.
    pub const fn attribute(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        }
    }
}

/// Clients are kept by a cookie of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppCookie {
    /// The cookie that servers set.
    pub cookie_name: String,
    /// The query argument, or path parameter, that stands for it in requests without the cookie.
    pub query_argument: String,
    /// How long an entry outlives its last request.
    pub timeout: Duration,
    /// How many values are kept at a time, for each pool.
    pub table_size: u32,
}

/// Clients are kept by a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The header's name.
    pub header_name: String,
}

/// Who shares an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Each virtual service keeps its own entries.
    VirtualService,
    /// A client meets the same server on every service of the pool.
    Pool,
}

/// What happens to clients of a server that is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerDown {
    /// Another server takes them and the entry follows.
    Immediate,
    /// They keep their entry and are refused.
    Never,
    /// They keep their entry and are sent to the server all the same.
    Continue,
}
