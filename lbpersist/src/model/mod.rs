//! What is configured, as plain values: virtual services, pools, servers, profiles, settings.
//!
//! No clock, no socket, no file. Everything here has been checked by `config`: names are unique and resolve, masks are in
//! range, services do not overlap.

mod health;
mod listen;
mod persistence;
mod proxy;

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
pub use persistence::{
    AppCookie, ClientIp, Header, HttpCookie, Method, PersistenceProfile, SameSite, Scope,
    ServerDown,
};
pub use proxy::{
    AccessLog, Carried, Forwarded, ForwardedFields, HttpSettings, HttpTimeouts, LinkSettings,
    ProxyProtocol, ProxySettings, ServerProtocol, TcpSettings,
};
use serde::Serialize;

pub use self::listen::{PortRange, Ports, addresses_text, listen_text};
pub use health::{
    Certificate, ExternalCheck, HealthMonitor, HealthRule, HttpCheck, MonitorKind, Pattern,
    StatusRanges, TlsCheck, UdpCheck, contains,
};

/// A whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Interfaces to attach to, by name.
    pub interfaces: Vec<String>,
    /// The daemon itself.
    pub daemon: DaemonSettings,
    /// Sizes of what lives in the kernel.
    pub data_path: DataPathSettings,
    /// How many new clients are written down.
    pub flood_limits: FloodLimits,
    /// How long things may be silent.
    pub idle_limits: IdleLimits,
    /// Settings of the proxy as a whole.
    pub proxy: ProxySettings,
    /// The virtual services, by name.
    pub services: BTreeMap<String, VirtualService>,
    /// The pools, by name.
    pub pools: BTreeMap<String, Pool>,
}

impl Model {
    /// Whether servers of any pool see clients at addresses of this machine.
    pub fn masquerades(&self) -> bool {
        self.pools.values().any(|pool| matches!(pool.forwarding, Forwarding::Masquerade(_)))
    }
}

/// What the daemon needs for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonSettings {
    /// Where it keeps what must outlive a reboot.
    pub state_dir: PathBuf,
    /// How often it keeps a snapshot of the entries there; `None` for never.
    pub snapshot: Option<Duration>,
}

impl Default for DaemonSettings {
    fn default() -> Self {
        Self { state_dir: PathBuf::from("/var/lib/lbpersist"), snapshot: None }
    }
}

/// Sizes of tables and rings. Changing one needs the maps to be made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataPathSettings {
    /// Slots of every ring; a prime.
    pub ring_size: u32,
    /// Client keys that can be bound at a time.
    pub entry_table: u32,
    /// Connections that can be tracked at a time.
    pub connection_table: u32,
    /// Unfinished handshakes that can be tracked at a time.
    pub handshake_table: u32,
    /// Connections and flows that can be translated at a time under masquerade.
    pub translation_table: u32,
    /// The ports that masquerade uses towards servers.
    pub masquerade_ports: PortRange,
    /// Pause between two sweeps of the tables.
    pub sweep_interval: Duration,
    /// Whether pings to services' addresses are answered here rather than passed to the stack.
    pub answer_echo: bool,
}

impl Default for DataPathSettings {
    fn default() -> Self {
        Self {
            ring_size: lbpersist_common::ring::DEFAULT_SLOTS,
            entry_table: 1 << 20,
            connection_table: 1 << 20,
            handshake_table: 1 << 16,
            translation_table: 1 << 20,
            // Below the ports that Linux gives to connections of its own.
            masquerade_ports: PortRange { first: 1_024, last: 32_767 },
            sweep_interval: Duration::from_secs(1),
            answer_echo: true,
        }
    }
}

/// How many clients that have not proven their address get a record in about a second. The others are served from the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodLimits {
    /// In all.
    pub new_clients: u32,
    /// Of one prefix.
    pub new_clients_of_prefix: u32,
    /// Bits that make an IPv4 prefix.
    pub ipv4_prefix: u8,
    /// Bits that make an IPv6 prefix.
    pub ipv6_prefix: u8,
}

impl Default for FloodLimits {
    fn default() -> Self {
        // A table of a million entries lasts a minute.
        Self { new_clients: 16_384, new_clients_of_prefix: 512, ipv4_prefix: 24, ipv6_prefix: 56 }
    }
}

/// After how much silence a connection counts as closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleLimits {
    /// An established TCP connection.
    pub tcp: Duration,
    /// A TCP connection of which one side has sent its FIN.
    pub tcp_closing: Duration,
    /// A TCP handshake.
    pub handshake: Duration,
    /// A UDP client.
    pub udp: Duration,
}

impl Default for IdleLimits {
    fn default() -> Self {
        Self {
            tcp: Duration::from_secs(3600),
            tcp_closing: Duration::from_secs(120),
            handshake: Duration::from_secs(60),
            udp: Duration::from_secs(30),
        }
    }
}

/// Addresses, protocol and ports that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    /// Unique among services.
    pub name: String,
    /// The addresses clients use: one, or a prefix, whose every address is a key of its own.
    pub addresses: IpNet,
    /// The ports clients use.
    pub ports: Ports,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Who carries its packets.
    pub mode: Mode,
    /// What the daemon is set to do with it, in the modes in which it does something.
    pub carried: Option<Carried>,
    /// Name of the pool.
    pub pool: String,
}

/// Who carries what clients of a service send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The kernel, packet by packet.
    #[default]
    L4,
    /// The daemon, connection by connection.
    Tcp,
    /// The daemon, request by request.
    Http,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L4 => "l4",
            Self::Tcp => "tcp",
            Self::Http => "http",
        })
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => lbpersist_common::net::TCP,
            Self::Udp => lbpersist_common::net::UDP,
        }
    }

    /// The protocol of an IANA number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            lbpersist_common::net::TCP => Some(Self::Tcp),
            lbpersist_common::net::UDP => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// The servers behind a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Unique among pools.
    pub name: String,
    /// How packets reach the servers.
    pub forwarding: Forwarding,
    /// The persistence profile, resolved; `None` balances every connection afresh.
    pub persistence: Option<PersistenceProfile>,
    /// The monitors whose word decides whether a server is up; with none, every server is.
    pub health_monitors: Vec<HealthMonitor>,
    /// Who chooses for new clients.
    pub algorithm: Algorithm,
    /// What becomes of a new connection of a client whose server is at its limit.
    pub on_limit: OnLimit,
    /// What a client is told for whom there is no server.
    pub no_server: NoServer,
    /// Whether the open connections of a server that is down or gone are reset when their clients may have another server.
    pub reset_connections: bool,
    /// Whose word decides when there are several.
    pub health_rule: HealthRule,
    /// How long a server that came up takes to get its whole share of new clients; zero gives it at once.
    pub slow_start: Duration,
    /// The servers, in the order of the file; no two have the same address and port.
    pub servers: Vec<Server>,
}

impl Pool {
    /// Whether some server has a limit of connections.
    pub fn is_limited(&self) -> bool {
        self.servers.iter().any(|server| server.max_connections.is_some())
    }
}

/// How a server is chosen for a new client. Who is bound to one is not asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// By a hash of the client's key, the same on every node.
    #[default]
    Maglev,
    /// In turn.
    RoundRobin,
    /// The server with the fewest open connections for its weight.
    LeastConnections,
    /// The better of two servers that chance picks by weight.
    RandomTwo,
}

/// What becomes of a new connection of a client whose server is at its limit of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLimit {
    /// Another server takes it, and the client's entry follows.
    #[default]
    Spill,
    /// Its server takes it all the same: the limit holds for new clients only.
    Exceed,
    /// It is refused.
    Reject,
}

/// What a client is told for whom there is no server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoServer {
    /// A TCP reset, or ICMP's "port unreachable".
    #[default]
    Reject,
    /// Nothing: its packets are dropped.
    Drop,
}

/// How packets reach servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// The destination is rewritten, and answers come back this way to be rewritten again.
    #[default]
    Nat,
    /// Source and destination are rewritten, so that servers answer this machine whatever their routes are.
    Masquerade(TunnelSources),
    /// Only the Ethernet addresses change. Servers hold the service's address and answer clients themselves.
    Direct,
    /// The packet travels inside another one. Servers unpack it, hold the service's address and answer clients themselves.
    Tunnel(TunnelSources),
}

/// Where the outer packets of a tunnel come from, or packets under masquerade, for servers of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelSources {
    /// To IPv4 servers.
    pub ipv4: Option<std::net::Ipv4Addr>,
    /// To IPv6 servers.
    pub ipv6: Option<std::net::Ipv6Addr>,
}

impl TunnelSources {
    /// The source for a server.
    pub fn towards(&self, server: IpAddr) -> Option<IpAddr> {
        match server {
            IpAddr::V4(_) => self.ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => self.ipv6.map(IpAddr::V6),
        }
    }
}

/// A server of a pool. Pool name, address and port tell it from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it listens.
    pub address: IpAddr,
    /// The port it listens on; `None` keeps the port of the service.
    pub port: Option<u16>,
    /// Its share of new clients, relative to the others; 1 to 1000, or 0 for no new clients.
    pub weight: u16,
    /// The value of a header that names this server, for profiles of type `header`.
    pub header_value: Option<String>,
    /// What the configuration says it is used for.
    pub configured: ServerState,
    /// What an operator said at run time, which then holds instead.
    pub by_hand: Option<ServerState>,
    /// Connections it may have open; `None` for any number.
    pub max_connections: Option<u32>,
}

impl Server {
    /// What it is used for.
    pub fn state(&self) -> ServerState {
        self.by_hand.unwrap_or(self.configured)
    }
}

/// What a server is used for, as long as it is up.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// Every client.
    #[default]
    Enabled,
    /// The clients it has: those with a live entry or an open connection.
    Draining,
    /// Nobody: its clients are treated as when it is down.
    Disabled,
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enabled => "enabled",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        })
    }
}
