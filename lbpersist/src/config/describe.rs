//! A configuration in a few readable lines, for `lbpersist check`.

use std::fmt::Write;

use super::duration;
use crate::model::{
    Algorithm, Certificate, ClientIp, DataPathSettings, FloodLimits, Forwarding, HealthMonitor,
    HealthRule, HttpCheck, Method, Mode, Model, MonitorKind, NoServer, OnLimit, PersistenceProfile,
    Pool, Scope, Server, ServerDown, ServerState, TlsCheck, TunnelSources, listen_text,
};

/// Bytes a record of each table takes in the kernel: key, value and the hash table's own element, rounded up.
/// Of an entry also the two places of what is remembered of it when it is gone.
const ENTRY_BYTES: u64 = 128 + 2 * size_of::<lbpersist_common::breaks::Ghost>() as u64;
const CONNECTION_BYTES: u64 = 136;
const TRANSLATION_BYTES: u64 = 168;
const HANDSHAKE_BYTES: u64 = 120;

/// Says what a configuration means: services, pools with their servers, settings, and about how much kernel memory they
/// take. Every line ends with a line break.
pub fn describe(model: &Model) -> String {
    let mut out = String::new();
    let interfaces = match model.interfaces.as_slice() {
        [] => "none named".to_owned(),
        names => names.join(", "),
    };
    let _ = writeln!(out, "interfaces: {interfaces}");
    let _ = writeln!(out, "virtual services: {}", model.services.len());
    for service in model.services.values() {
        let (name, protocol, pool) = (&service.name, service.protocol, &service.pool);
        let endpoint = listen_text(service.addresses, service.ports);
        let mode = describe_mode(service.mode);
        let _ = writeln!(out, "  {name}: {endpoint} {protocol}{mode}, pool {pool}");
    }
    let _ = writeln!(out, "pools: {}", model.pools.len());
    for pool in model.pools.values() {
        describe_pool(&mut out, pool);
    }
    describe_settings(&mut out, model);
    out
}

fn describe_mode(mode: Mode) -> String {
    match mode {
        Mode::L4 => String::new(),
        Mode::Tcp | Mode::Http => format!(" in mode {mode}: the daemon listens there"),
    }
}

fn describe_pool(out: &mut String, pool: &Pool) {
    let kept = pool.persistence.as_ref().map_or_else(|| "clients are not kept".to_owned(), profile);
    let _ = writeln!(out, "  {}: {kept}", pool.name);
    let _ = writeln!(out, "    {}", describe_forwarding(pool.forwarding));
    let _ = writeln!(out, "    {}", describe_choice(pool));
    let _ = writeln!(out, "    {}", describe_loss(pool));
    for monitor in &pool.health_monitors {
        let _ = writeln!(out, "    {}", describe_monitor(monitor));
    }
    if pool.health_rule == HealthRule::Any && pool.health_monitors.len() > 1 {
        let _ = writeln!(out, "    a server is up when one of the monitors says so");
    }
    if !pool.slow_start.is_zero() {
        let time = duration::format(pool.slow_start);
        let _ = writeln!(out, "    a server that came up gets its whole weight after {time}");
    }
    for server in &pool.servers {
        let _ = writeln!(out, "    {}", describe_server(server));
    }
}

fn describe_forwarding(forwarding: Forwarding) -> String {
    match forwarding {
        Forwarding::Nat => "nat: answers come back this way".to_owned(),
        Forwarding::Masquerade(sources) => {
            format!("masquerade as {}: servers answer this machine", sources_text(sources))
        }
        Forwarding::Direct => "direct: servers answer clients themselves".to_owned(),
        Forwarding::Tunnel(sources) => {
            format!("tunnel from {}: servers answer clients themselves", sources_text(sources))
        }
    }
}

fn sources_text(TunnelSources { ipv4, ipv6 }: TunnelSources) -> String {
    let ipv4 = ipv4.map(|address| address.to_string());
    let ipv6 = ipv6.map(|address| address.to_string());
    let from: Vec<String> = [ipv4, ipv6].into_iter().flatten().collect();
    from.join(" and ")
}

/// Who gets new clients, and where the limits are.
fn describe_choice(pool: &Pool) -> String {
    let by = match pool.algorithm {
        Algorithm::Maglev => "by their hash (maglev)",
        Algorithm::RoundRobin => "to each server in turn (round-robin)",
        Algorithm::LeastConnections => "to the server with the fewest connections",
        Algorithm::RandomTwo => "to the better of two servers at random (random-two)",
    };
    if !pool.is_limited() {
        return format!("new clients go {by}");
    }
    let bound = match pool.on_limit {
        OnLimit::Spill => "get another one",
        OnLimit::Exceed => "may exceed it",
        OnLimit::Reject => "are refused",
    };
    format!("new clients go {by}, if its limit allows; clients of a full server {bound}")
}

/// What becomes of clients and connections that lose their server.
fn describe_loss(pool: &Pool) -> String {
    let nobody = match pool.no_server {
        NoServer::Reject => "refused",
        NoServer::Drop => "dropped without an answer",
    };
    let open = if pool.reset_connections { "reset" } else { "sent to another server" };
    format!("without a server clients are {nobody}; open connections of a lost server are {open}")
}

fn profile(profile: &PersistenceProfile) -> String {
    let down = match profile.server_down {
        ServerDown::Immediate => "another server when theirs is down",
        ServerDown::Never => "refused when their server is down",
        ServerDown::Continue => "sent to their server even when it is down",
    };
    let name = &profile.name;
    let own = match &profile.method {
        Method::ClientIp(method) if method.timeout.is_zero() => {
            format!("clients are not kept: the timeout of profile {name} is 0")
        }
        method => {
            format!("clients are kept by {}, {down} (profile {name})", describe_method(method))
        }
    };
    match &profile.fallback {
        Some(fallback) => format!("{own}; else {}", self::profile(fallback)),
        None => own,
    }
}

fn describe_method(method: &Method) -> String {
    match method {
        Method::ClientIp(ClientIp { timeout, ipv4_mask, ipv6_mask, scope }) => {
            let timeout = duration::format(*timeout);
            let scope = match scope {
                Scope::VirtualService => "for each virtual service",
                Scope::Pool => "for the whole pool",
            };
            format!("/{ipv4_mask} (IPv6 /{ipv6_mask}) {scope}, {timeout} after the last close")
        }
        Method::HttpCookie(cookie) => {
            let name = cookie.cookie_name.as_deref().unwrap_or("with a generated name");
            let until = match (cookie.timeout.is_zero(), cookie.persistent) {
                (true, _) => "while the client keeps it".to_owned(),
                (false, true) => format!("for {}", duration::format(cookie.timeout)),
                (false, false) => {
                    format!("for {} of a browser's session", duration::format(cookie.timeout))
                }
            };
            format!("our cookie {name} {until}")
        }
        Method::AppCookie(cookie) => {
            let (name, timeout) = (&cookie.cookie_name, duration::format(cookie.timeout));
            format!("the application's cookie {name}, {timeout} after the last request")
        }
        Method::Header(header) => format!("the value of header {}", header.header_name),
    }
}

fn describe_monitor(monitor: &HealthMonitor) -> String {
    let HealthMonitor { name, rise, fall, .. } = monitor;
    let [interval, fast, timeout] =
        [monitor.interval, monitor.fast_interval, monitor.timeout].map(duration::format);
    let fast = match monitor.fast_interval < monitor.interval {
        true => format!(" ({fast} while in doubt)"),
        false => String::new(),
    };
    let asks = describe_kind(&monitor.kind);
    let to = match (monitor.address, monitor.port) {
        (None, None) => String::new(),
        (None, Some(port)) => format!(" to port {port}"),
        (Some(address), None) => format!(" to {address}"),
        (Some(address), Some(port)) => format!(" to {}", std::net::SocketAddr::new(address, port)),
    };
    format!(
        "monitor {name}: {asks}{to} every {interval}{fast}, up to {timeout}; {fall} failures down, {rise} passes up"
    )
}

fn describe_kind(kind: &MonitorKind) -> String {
    match kind {
        MonitorKind::Tcp => "TCP connect".to_owned(),
        MonitorKind::Tls(tls) => format!("TLS handshake{}", describe_certificate(tls)),
        MonitorKind::Icmp => "ICMP echo".to_owned(),
        MonitorKind::External(check) => format!("command {}", check.program.display()),
        MonitorKind::Udp(check) => {
            let answer = match &check.answer {
                Some(answer) => format!("answered by \"{}\"", answer.escape_ascii()),
                None => "answered".to_owned(),
            };
            format!("UDP datagram {answer}")
        }
        MonitorKind::Http(check) => {
            let HttpCheck { method, path, status, .. } = check.as_ref();
            let (name, certificate) = match &check.tls {
                Some(tls) => ("HTTPS", describe_certificate(tls)),
                None => ("HTTP", ""),
            };
            let body = check.body.as_ref().map_or_else(String::new, |body| format!(" with {body}"));
            format!("{name} {method} {path}{certificate}, status {status}{body},")
        }
    }
}

fn describe_certificate(tls: &TlsCheck) -> &'static str {
    match tls.certificate {
        Certificate::Any => "",
        Certificate::Trusted | Certificate::SignedBy(_) => " with the certificate checked",
    }
}

fn describe_server(server: &Server) -> String {
    let (address, weight) = (server.address, server.weight);
    let state = match server.configured {
        ServerState::Enabled => "",
        ServerState::Draining => ", draining: only the clients it has",
        ServerState::Disabled => ", disabled: nobody",
    };
    match server.port {
        Some(port) => {
            format!("server {}, weight {weight}{state}", std::net::SocketAddr::new(address, port))
        }
        None => format!("server {address}, the service's port, weight {weight}{state}"),
    }
}

fn describe_settings(out: &mut String, model: &Model) {
    let DataPathSettings {
        ring_size,
        entry_table,
        connection_table,
        handshake_table,
        translation_table,
        masquerade_ports,
        sweep_interval,
        answer_echo,
    } = model.data_path;
    let sweep = duration::format(sweep_interval);
    let FloodLimits { new_clients, new_clients_of_prefix, ipv4_prefix, ipv6_prefix } =
        model.flood_limits;
    let _ = writeln!(
        out,
        "new clients without proof: {new_clients} a second, {new_clients_of_prefix} of a prefix (/{ipv4_prefix}, IPv6 /{ipv6_prefix})"
    );
    let idle = model.idle_limits;
    let [tcp, closing, handshake, udp] =
        [idle.tcp, idle.tcp_closing, idle.handshake, idle.udp].map(duration::format);
    let pings = if answer_echo { "answered" } else { "passed to the stack" };
    let _ = writeln!(out, "pings to services: {pings}");
    let _ = writeln!(out, "rings: {ring_size} slots");
    let _ = writeln!(
        out,
        "tables: {entry_table} entries, {connection_table} connections, {handshake_table} handshakes; swept every {sweep}"
    );
    if model.masquerades() {
        let _ = writeln!(
            out,
            "masquerade: {translation_table} translations, by ports {masquerade_ports} towards servers"
        );
    }
    let _ = writeln!(
        out,
        "idle limits: tcp {tcp}, tcp_closing {closing}, handshake {handshake}, udp {udp}"
    );
    let _ = writeln!(out, "kernel memory: about {}", mebibytes(kernel_memory(model)));
}

fn kernel_memory(model: &Model) -> u64 {
    let settings = &model.data_path;
    let slot = size_of::<lbpersist_common::ring::Slot>() as u64;
    let rings = model.pools.len() as u64 * u64::from(settings.ring_size) * slot;
    u64::from(settings.entry_table) * ENTRY_BYTES
        + u64::from(settings.connection_table) * CONNECTION_BYTES
        + u64::from(settings.handshake_table) * (HANDSHAKE_BYTES + TRANSLATION_BYTES)
        + if model.masquerades() {
            // Memory is taken as they come.
            u64::from(settings.translation_table) * TRANSLATION_BYTES
        } else {
            0
        }
        + rings
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
