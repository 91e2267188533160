//! Reading what the proxy is set to do: `[proxy]`, and the table `http` or `tcp` of a service of that mode.

#[cfg(test)]
mod tests;

use std::{ops::RangeInclusive, time::Duration};

use super::{
    Problem,
    field::{At, Choices, Found, Report, Shape},
    raw::{Raw, RawService},
    reader::Table,
    words::quoted,
};
use crate::model::{
    AccessLog, Carried, Forwarded, ForwardedFields, HttpSettings, HttpTimeouts, LinkSettings, Mode,
    Ports, Protocol, ProxyProtocol, ProxySettings, ServerProtocol, TcpSettings,
};

const MODES: Choices<Mode> =
    Choices { allowed: &[("l4", Mode::L4), ("tcp", Mode::Tcp), ("http", Mode::Http)], later: &[] };
const ACCESS_LOGS: Choices<AccessLog> = Choices {
    allowed: &[("off", AccessLog::Off), ("text", AccessLog::Text), ("json", AccessLog::Json)],
    later: &[],
};
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(86_400);

/// How a service's traffic is carried, as it was written.
pub(super) struct RawMode {
    /// `None` when it could not be read.
    pub(super) mode: Option<Mode>,
    /// Where it is written, if it is.
    pub(super) line: Option<usize>,
    pub(super) carried: Option<Carried>,
}

/// Reads `[proxy]`.
pub(super) fn read_settings(report: &mut Report<'_>, found: Found<'_>) -> ProxySettings {
    const PROXY: Shape = Shape {
        kind: "proxy",
        label: "",
        required: &[],
        optional: &["threads", "stop_timeout"],
        later: &[],
    };
    let default = ProxySettings::default();
    let mut table = Table::open(report, found, &PROXY, "");
    ProxySettings {
        threads: table.integer("threads", 1..=256).known().map(|threads| threads.value),
        stop_timeout: table
            .duration("stop_timeout", Duration::ZERO..=Duration::from_secs(3600))
            .or(default.stop_timeout),
    }
}

/// Reads a service's `mode` and the table that goes with it.
pub(super) fn read_mode(table: &mut Table<'_, '_, '_>, service: Option<&At<String>>) -> RawMode {
    let mode = table.choice("mode", &MODES);
    let line = mode.known().map(|mode| mode.line);
    let mode = mode.or_default(Mode::L4);
    let owner = service
        .map_or_else(String::new, |name| format!(" of virtual_service {}", quoted(&name.value)));
    let tcp = table.table("tcp");
    let http = table.table("http");
    for (name, found, wanted) in [("tcp", tcp, Mode::Tcp), ("http", http, Mode::Http)] {
        if let Some(found) = found
            && mode.is_some_and(|mode| mode != wanted)
        {
            let message = format!("table `{name}`{owner} needs `mode = \"{name}\"`");
            table.report.add(found.line, message);
        }
    }
    let tcp = tcp.map(|found| read_tcp(table.report, found, &owner));
    let http = http.map(|found| read_http(table.report, found, &owner));
    let carried = match mode {
        None | Some(Mode::L4) => None,
        Some(Mode::Tcp) => Some(Carried::Tcp(tcp.unwrap_or_default())),
        Some(Mode::Http) => Some(Carried::Http(Box::new(http.unwrap_or_default()))),
    };
    RawMode { mode, line, carried }
}

/// Adds what the daemon cannot listen on.
pub(super) fn check(raw: &Raw, problems: &mut Vec<Problem>) {
    for service in &raw.services {
        let RawService { addresses, ports, protocol, mode, mode_line, .. } = &service.value;
        let Some(mode) = mode.filter(|mode| *mode != Mode::L4) else { continue };
        let own = format!("virtual_service {} of mode `{mode}`", service.label());
        let mut add = |what: &str| {
            let line = mode_line.unwrap_or(service.line);
            problems.push(Problem { line, message: format!("{own} {what}") });
        };
        if *protocol == Some(Protocol::Udp) {
            add("must have protocol `tcp`, not `udp`");
        }
        if addresses.is_some_and(|net| net.prefix_len() < net.max_prefix_len()) {
            add("must have one address, not a prefix");
        }
        if *ports == Some(Ports::All) {
            add("must have one port, not all");
        }
    }
}

fn read_tcp(report: &mut Report<'_>, found: Found<'_>, owner: &str) -> TcpSettings {
    const TCP: Shape = Shape {
        kind: "tcp",
        label: "",
        required: &[],
        optional: &[
            "idle_timeout",
            "access_log",
            "connect_timeout",
            "retries",
            "proxy_protocol_receive",
            "proxy_protocol_send",
            "transparent",
        ],
        later: &[],
    };
    let default = TcpSettings::default();
    let mut table = Table::open(report, found, &TCP, owner);
    TcpSettings {
        link: read_link(&mut table),
        idle_timeout: table.duration("idle_timeout", TIMEOUT).or(default.idle_timeout),
        access_log: table.choice("access_log", &ACCESS_LOGS).or(default.access_log),
    }
}

fn read_http(report: &mut Report<'_>, found: Found<'_>, owner: &str) -> HttpSettings {
    const HTTP: Shape = Shape {
        kind: "http",
        label: "",
        required: &[],
        optional: &[
            "header_timeout",
            "body_timeout",
            "idle_timeout",
            "write_timeout",
            "response_timeout",
            "response_body_timeout",
            "upgraded_timeout",
            "server_idle_timeout",
            "max_header_bytes",
            "max_body_bytes",
            "max_streams",
            "max_idle_connections",
            "forwarded",
            "forwarded_fields",
            "server_protocol",
            "access_log",
            "connect_timeout",
            "retries",
            "proxy_protocol_receive",
            "proxy_protocol_send",
            "transparent",
        ],
        later: &[],
    };
    const FORWARDED: Choices<Forwarded> = Choices {
        allowed: &[("set", Forwarded::Set), ("append", Forwarded::Append), ("off", Forwarded::Off)],
        later: &[],
    };
    const FIELDS: Choices<ForwardedFields> = Choices {
        allowed: &[
            ("x-forwarded", ForwardedFields::XForwarded),
            ("forwarded", ForwardedFields::Forwarded),
            ("both", ForwardedFields::Both),
        ],
        later: &[],
    };
    const PROTOCOLS: Choices<ServerProtocol> = Choices {
        allowed: &[("http1", ServerProtocol::Http1), ("h2", ServerProtocol::H2)],
        later: &[],
    };
    let default = HttpSettings::default();
    let mut table = Table::open(report, found, &HTTP, owner);
    let max_body = table.integer("max_body_bytes", 0..=i64::MAX.unsigned_abs());
    HttpSettings {
        link: read_link(&mut table),
        timeouts: read_timeouts(&mut table),
        max_header_bytes: table
            .integer("max_header_bytes", 1024..=1 << 20)
            .or(default.max_header_bytes),
        max_body_bytes: max_body.known().map(|bytes| bytes.value),
        max_streams: table.integer("max_streams", 1..=10_000).or(default.max_streams),
        max_idle_connections: table
            .integer("max_idle_connections", 0..=10_000)
            .or(default.max_idle_connections),
        forwarded: table.choice("forwarded", &FORWARDED).or(default.forwarded),
        forwarded_fields: table.choice("forwarded_fields", &FIELDS).or(default.forwarded_fields),
        server_protocol: table.choice("server_protocol", &PROTOCOLS).or(default.server_protocol),
        access_log: table.choice("access_log", &ACCESS_LOGS).or(default.access_log),
    }
}

fn read_timeouts(table: &mut Table<'_, '_, '_>) -> HttpTimeouts {
    let default = HttpTimeouts::default();
    let mut timeout = |field, default| table.duration(field, TIMEOUT).or(default);
    HttpTimeouts {
        header: timeout("header_timeout", default.header),
        body: timeout("body_timeout", default.body),
        idle: timeout("idle_timeout", default.idle),
        write: timeout("write_timeout", default.write),
        response: timeout("response_timeout", default.response),
        response_body: timeout("response_body_timeout", default.response_body),
        upgraded: timeout("upgraded_timeout", default.upgraded),
        server_idle: timeout("server_idle_timeout", default.server_idle),
    }
}

fn read_link(table: &mut Table<'_, '_, '_>) -> LinkSettings {
    const SENDS: Choices<Option<ProxyProtocol>> = Choices {
        allowed: &[("off", None), ("v1", Some(ProxyProtocol::V1)), ("v2", Some(ProxyProtocol::V2))],
        later: &[],
    };
    let default = LinkSettings::default();
    LinkSettings {
        connect_timeout: table.duration("connect_timeout", TIMEOUT).or(default.connect_timeout),
        retries: table.integer("retries", 0..=10).or(default.retries),
        proxy_protocol_receive: table
            .boolean("proxy_protocol_receive")
            .or(default.proxy_protocol_receive),
        proxy_protocol_send: table
            .choice("proxy_protocol_send", &SENDS)
            .or(default.proxy_protocol_send),
        transparent: table.boolean("transparent").or(default.transparent),
    }
}
