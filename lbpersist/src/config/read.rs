//! Reading each kind of table: one function a kind, beside the fields it knows.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use toml_edit::Table as TomlTable;

use super::{
    field::{At, Choices, Field, Found, Report, Shape},
    monitor::read_monitor,
    profile,
    proxy::{self, RawMode},
    raw::{Declared, Raw, RawForwarding, RawPool, RawServer, RawService},
    reader::Table,
    words::quoted,
};
use crate::model::{
    Algorithm, DaemonSettings, DataPathSettings, FloodLimits, HealthRule, IdleLimits, NoServer,
    OnLimit, Protocol, ProxySettings, ServerState, TunnelSources,
};

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// Reads a document.
pub(super) fn read(document: &TomlTable, report: &mut Report<'_>) -> Raw {
    const ROOT: Shape = Shape {
        kind: "",
        label: "",
        required: &[],
        optional: &[
            "interfaces",
            "daemon",
            "data_path",
            "flood_limits",
            "idle_limits",
            "proxy",
            "virtual_service",
            "pool",
            "persistence_profile",
            "health_monitor",
        ],
        later: &[],
    };
    let mut root = Table::open(report, Found::root(document), &ROOT, "");
    let interfaces = read_interfaces(&mut root);
    let daemon = match root.table("daemon") {
        Some(found) => read_daemon(root.report, found),
        None => DaemonSettings::default(),
    };
    let (data_path, ring_size_line) = match root.table("data_path") {
        Some(found) => read_data_path(root.report, found),
        None => (DataPathSettings::default(), None),
    };
    let flood_limits = match root.table("flood_limits") {
        Some(found) => read_flood_limits(root.report, found),
        None => FloodLimits::default(),
    };
    let idle_limits = match root.table("idle_limits") {
        Some(found) => read_idle_limits(root.report, found),
        None => IdleLimits::default(),
    };
    let proxy = match root.table("proxy") {
        Some(found) => proxy::read_settings(root.report, found),
        None => ProxySettings::default(),
    };
    Raw {
        interfaces,
        daemon,
        data_path,
        ring_size_line,
        flood_limits,
        idle_limits,
        proxy,
        services: read_each(&mut root, "virtual_service", read_service),
        pools: read_each(&mut root, "pool", read_pool),
        profiles: read_each(&mut root, "persistence_profile", profile::read),
        monitors: read_each(&mut root, "health_monitor", read_monitor),
    }
}

fn read_each<T>(
    root: &mut Table<'_, '_, '_>,
    kind: &'static str,
    read_one: impl Fn(&mut Report<'_>, Found<'_>) -> Declared<T>,
) -> Vec<Declared<T>> {
    let found = root.tables(kind).unwrap_or_default();
    found.into_iter().map(|found| read_one(root.report, found)).collect()
}

fn read_interfaces(root: &mut Table<'_, '_, '_>) -> Vec<At<String>> {
    let interfaces = root.texts("interfaces");
    for At { line, value } in &interfaces {
        let named = Field::Is(At { line: *line, value: value.as_str() });
        root.refine(named, check_interface);
    }
    interfaces
}

/// The rules of the kernel's `dev_valid_name`.
fn check_interface(name: &str) -> Result<(), String> {
    const LONGEST: usize = 15;
    let interface = quoted(name);
    if name.is_empty() {
        Err("the name of an interface must not be empty".to_owned())
    } else if name.len() > LONGEST {
        Err(format!("interface {interface} must be at most {LONGEST} bytes long"))
    } else if matches!(name, "." | "..")
        || name.contains(|c: char| c.is_whitespace() || c.is_control() || "/:".contains(c))
    {
        Err(format!("interface {interface} has a name that no interface can have"))
    } else {
        Ok(())
    }
}

fn read_daemon(report: &mut Report<'_>, found: Found<'_>) -> DaemonSettings {
    const DAEMON: Shape = Shape {
        kind: "daemon",
        label: "",
        required: &[],
        optional: &["state_dir", "snapshot"],
        later: &[],
    };
    let mut table = Table::open(report, found, &DAEMON, "");
    let state_dir = table.text("state_dir");
    let state_dir = table.refine(state_dir, |path| match path {
        path if path.starts_with('/') && !path.contains(char::is_control) => {
            Ok(PathBuf::from(path))
        }
        path => {
            Err(format!("`state_dir` must be a path that begins with `/`, not {}", quoted(path)))
        }
    });
    let snapshot = table.duration("snapshot", Duration::from_secs(1)..=24 * HOUR).known();
    DaemonSettings {
        state_dir: state_dir.or(DaemonSettings::default().state_dir),
        snapshot: snapshot.map(|found| found.value),
    }
}

fn read_data_path(report: &mut Report<'_>, found: Found<'_>) -> (DataPathSettings, Option<usize>) {
    const DATA_PATH: Shape = Shape {
        kind: "data_path",
        label: "",
        required: &[],
        optional: &[
            "ring_size",
            "entry_table",
            "connection_table",
            "handshake_table",
            "translation_table",
            "masquerade_ports",
            "sweep_interval",
            "answer_echo",
        ],
        later: &[],
    };
    const TABLE: RangeInclusive<u32> = 1024..=1 << 26;
    let default = DataPathSettings::default();
    let mut table = Table::open(report, found, &DATA_PATH, "");
    let ring_size = table.integer("ring_size", 11..=1_000_003_u32);
    let ring_size = table.refine(ring_size, |size| {
        if is_prime(size) {
            return Ok(size);
        }
        let next = (size..).find(|&size| is_prime(size)).unwrap_or(default.ring_size);
        Err(format!("`ring_size` must be a prime, not {size}; the next one is {next}"))
    });
    let settings = DataPathSettings {
        ring_size: ring_size.or(default.ring_size),
        entry_table: table.integer("entry_table", TABLE).or(default.entry_table),
        connection_table: table.integer("connection_table", TABLE).or(default.connection_table),
        handshake_table: table
            .integer("handshake_table", 1024..=1 << 22)
            .or(default.handshake_table),
        translation_table: table.integer("translation_table", TABLE).or(default.translation_table),
        masquerade_ports: table.port_range("masquerade_ports").or(default.masquerade_ports),
        sweep_interval: table
            .duration("sweep_interval", Duration::from_millis(100)..=MINUTE)
            .or(default.sweep_interval),
        answer_echo: table.boolean("answer_echo").or(default.answer_echo),
    };
    (settings, ring_size.known().map(|size| size.line))
}

fn is_prime(number: u32) -> bool {
    number >= 2 && (2..).take_while(|d| d * d <= number).all(|d| !number.is_multiple_of(d))
}

fn read_flood_limits(report: &mut Report<'_>, found: Found<'_>) -> FloodLimits {
    const FLOOD_LIMITS: Shape = Shape {
        kind: "flood_limits",
        label: "",
        required: &[],
        optional: &["new_clients", "new_clients_of_prefix", "ipv4_prefix", "ipv6_prefix"],
        later: &[],
    };
    const MOST: u32 = 1_000_000_000;
    let default = FloodLimits::default();
    let mut table = Table::open(report, found, &FLOOD_LIMITS, "");
    FloodLimits {
        new_clients: table.integer("new_clients", 0..=MOST).or(default.new_clients),
        new_clients_of_prefix: table
            .integer("new_clients_of_prefix", 0..=MOST)
            .or(default.new_clients_of_prefix),
        ipv4_prefix: table.integer("ipv4_prefix", 0..=32).or(default.ipv4_prefix),
        ipv6_prefix: table.integer("ipv6_prefix", 0..=128).or(default.ipv6_prefix),
    }
}

fn read_idle_limits(report: &mut Report<'_>, found: Found<'_>) -> IdleLimits {
    const IDLE_LIMITS: Shape = Shape {
        kind: "idle_limits",
        label: "",
        required: &[],
        optional: &["tcp", "tcp_closing", "handshake", "udp"],
        later: &[],
    };
    let default = IdleLimits::default();
    let mut table = Table::open(report, found, &IDLE_LIMITS, "");
    let mut limit =
        |field, default| table.duration(field, Duration::from_secs(1)..=MONTH).or(default);
    IdleLimits {
        tcp: limit("tcp", default.tcp),
        tcp_closing: limit("tcp_closing", default.tcp_closing),
        handshake: limit("handshake", default.handshake),
        udp: limit("udp", default.udp),
    }
}

fn read_service(report: &mut Report<'_>, found: Found<'_>) -> Declared<RawService> {
    const VIRTUAL_SERVICE: Shape = Shape {
        kind: "virtual_service",
        label: "name",
        required: &["name", "address", "port", "pool"],
        optional: &["protocol", "mode", "tcp", "http"],
        later: &[],
    };
    const PROTOCOLS: Choices<Protocol> =
        Choices { allowed: &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)], later: &[] };
    let mut table = Table::open(report, found, &VIRTUAL_SERVICE, "");
    let name = table.name("name").known();
    let RawMode { mode, line: mode_line, carried } = proxy::read_mode(&mut table, name.as_ref());
    Declared {
        line: found.line,
        name,
        value: RawService {
            addresses: table.addresses("address").known().map(|found| found.value),
            ports: table.ports("port").known().map(|found| found.value),
            protocol: table.choice("protocol", &PROTOCOLS).or_default(Protocol::Tcp),
            mode,
            mode_line,
            carried,
            pool: table.name("pool").known(),
        },
    }
}

fn read_pool(report: &mut Report<'_>, found: Found<'_>) -> Declared<RawPool> {
    const POOL: Shape = Shape {
        kind: "pool",
        label: "name",
        required: &["name", "servers"],
        optional: &[
            "algorithm",
            "forwarding",
            "tunnel_source_ipv4",
            "tunnel_source_ipv6",
            "masquerade_ipv4",
            "masquerade_ipv6",
            "persistence_profile",
            "health_monitors",
            "on_limit",
            "no_server",
            "reset_connections",
            "health_rule",
            "slow_start",
        ],
        later: &[],
    };
    const ALGORITHMS: Choices<Algorithm> = Choices {
        allowed: &[
            ("maglev", Algorithm::Maglev),
            ("round-robin", Algorithm::RoundRobin),
            ("least-connections", Algorithm::LeastConnections),
            ("random-two", Algorithm::RandomTwo),
        ],
        later: &[],
    };
    const ON_LIMIT: Choices<OnLimit> = Choices {
        allowed: &[
            ("spill", OnLimit::Spill),
            ("exceed", OnLimit::Exceed),
            ("reject", OnLimit::Reject),
        ],
        later: &[],
    };
    const FORWARDINGS: Choices<RawForwarding> = Choices {
        allowed: &[
            ("nat", RawForwarding::Nat),
            ("masquerade", RawForwarding::Masquerade),
            ("direct", RawForwarding::Direct),
            ("tunnel", RawForwarding::Tunnel),
        ],
        later: &[],
    };
    const NO_SERVER: Choices<NoServer> =
        Choices { allowed: &[("reject", NoServer::Reject), ("drop", NoServer::Drop)], later: &[] };
    const RULES: Choices<HealthRule> =
        Choices { allowed: &[("all", HealthRule::All), ("any", HealthRule::Any)], later: &[] };
    let mut table = Table::open(report, found, &POOL, "");
    let algorithm = table.choice("algorithm", &ALGORITHMS).or_default(Algorithm::Maglev);
    let forwarding = table.choice("forwarding", &FORWARDINGS).or_default(RawForwarding::Nat);
    let [tunnel, masquerade] = [TUNNEL_FIELDS, MASQUERADE_FIELDS];
    let tunnel_sources = read_sources(&mut table, tunnel);
    let masquerade_sources = read_sources(&mut table, masquerade);
    let name = table.name("name").known();
    let owner =
        name.as_ref().map_or_else(String::new, |name| format!(" of pool {}", quoted(&name.value)));
    let persistence_profile = table.name("persistence_profile").known();
    let health_monitors = table.texts("health_monitors");
    let on_limit = table.choice("on_limit", &ON_LIMIT).or(OnLimit::Spill);
    let no_server = table.choice("no_server", &NO_SERVER).or(NoServer::Reject);
    let reset_connections = table.boolean("reset_connections").or(true);
    let health_rule = table.choice("health_rule", &RULES).or(HealthRule::All);
    let slow_start = table.duration("slow_start", Duration::ZERO..=HOUR).or(Duration::ZERO);
    let servers = table.tables("servers").map(|servers| {
        servers.into_iter().map(|found| read_server(table.report, found, &owner)).collect()
    });
    Declared {
        line: found.line,
        name,
        value: RawPool {
            forwarding,
            tunnel_sources,
            masquerade_sources,
            persistence_profile,
            health_monitors,
            algorithm,
            on_limit,
            no_server,
            reset_connections,
            health_rule,
            slow_start,
            servers,
        },
    }
}

const TUNNEL_FIELDS: [&str; 2] = ["tunnel_source_ipv4", "tunnel_source_ipv6"];
const MASQUERADE_FIELDS: [&str; 2] = ["masquerade_ipv4", "masquerade_ipv6"];

fn read_sources(table: &mut Table<'_, '_, '_>, fields: [&'static str; 2]) -> TunnelSources {
    let mut sources = TunnelSources::default();
    for (field, family) in fields.into_iter().zip(["IPv4", "IPv6"]) {
        let Some(source) = table.address(field).known() else { continue };
        match (family, source.value) {
            ("IPv4", IpAddr::V4(address)) => sources.ipv4 = Some(address),
            ("IPv6", IpAddr::V6(address)) => sources.ipv6 = Some(address),
            _ => table.report.add(source.line, format!("`{field}` must be an {family} address")),
        }
    }
    sources
}

/// More than any table of connections holds.
const MOST_CONNECTIONS: u32 = 1 << 26;

fn read_server(report: &mut Report<'_>, found: Found<'_>, owner: &str) -> RawServer {
    const SERVER: Shape = Shape {
        kind: "server",
        label: "address",
        required: &["address"],
        optional: &["port", "weight", "max_connections", "state", "header_value"],
        later: &[],
    };
    const STATES: Choices<ServerState> = Choices {
        allowed: &[
            ("enabled", ServerState::Enabled),
            ("draining", ServerState::Draining),
            ("disabled", ServerState::Disabled),
        ],
        later: &[],
    };
    let mut table = Table::open(report, found, &SERVER, owner);
    RawServer {
        line: found.line,
        address: table.address("address").known().map(|address| address.value),
        port: table.integer("port", 1..=u16::MAX),
        weight: table.integer("weight", 0..=1000).or_default(1),
        max_connections: table.integer("max_connections", 1..=MOST_CONNECTIONS),
        header_value: profile::read_header_value(&mut table).known(),
        state: table.choice("state", &STATES).or(ServerState::Enabled),
    }
}
