//! Reading health monitors: what all have, and what each type has of its own.

#[cfg(test)]
mod tests;
mod texts;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use toml_edit::Item;

use self::texts::{
    LONGEST, datagram, is_absolute, is_header_name, is_header_value, is_server_name, name_of_host,
    wanted_text,
};
use super::{
    field::{At, Choices, Field, Found, Report, Shape},
    raw::{Declared, built_in_monitor},
    read::{HOUR, MINUTE},
    reader::Table,
    words::{list, quoted},
};
use crate::model::{
    Certificate, ExternalCheck, HealthMonitor, HttpCheck, MonitorKind, Pattern, StatusRanges,
    TlsCheck, UdpCheck,
};

const HEALTH_MONITOR: Shape = Shape {
    kind: "health_monitor",
    label: "name",
    required: &["name"],
    optional: &[
        "type",
        "interval",
        "fast_interval",
        "timeout",
        "jitter",
        "rise",
        "fall",
        "address",
        "port",
        "method",
        "path",
        "host",
        "headers",
        "status",
        "body",
        "body_regex",
        "server_name",
        "check_certificate",
        "ca_file",
        "request",
        "request_hex",
        "answer",
        "answer_hex",
        "command",
    ],
    later: &[],
};

const TYPES: Choices<&str> = Choices {
    allowed: &[
        ("tcp", "tcp"),
        ("tls", "tls"),
        ("http", "http"),
        ("https", "https"),
        ("udp", "udp"),
        ("icmp", "icmp"),
        ("external", "external"),
    ],
    later: &[],
};

/// Fields that only some types have.
const OF_TYPES: [(&str, &[&str]); 16] = [
    ("port", &["tcp", "tls", "http", "https", "udp", "external"]),
    ("method", HTTP),
    ("path", HTTP),
    ("host", HTTP),
    ("headers", HTTP),
    ("status", HTTP),
    ("body", HTTP),
    ("body_regex", HTTP),
    ("server_name", TLS),
    ("check_certificate", TLS),
    ("ca_file", TLS),
    ("request", &["udp"]),
    ("request_hex", &["udp"]),
    ("answer", &["udp"]),
    ("answer_hex", &["udp"]),
    ("command", &["external"]),
];
const HTTP: &[&str] = &["http", "https"];
const TLS: &[&str] = &["tls", "https"];

/// Headers that are written by other means.
const OWN_HEADERS: [&str; 4] = ["host", "connection", "content-length", "transfer-encoding"];

pub(super) fn read_monitor(report: &mut Report<'_>, found: Found<'_>) -> Declared<HealthMonitor> {
    let mut table = Table::open(report, found, &HEALTH_MONITOR, "");
    let kind = table.choice("type", &TYPES).or_default("tcp");
    if let Some(kind) = kind {
        refuse_what_others_have(&mut table, kind);
    }
    let name = table.name("name").known();
    let label =
        name.as_ref().map_or_else(|| "without a name".to_owned(), |name| quoted(&name.value));
    let default = built_in_monitor();
    let [intervals, timeouts] =
        [(100, HOUR), (10, MINUTE)].map(|(from, to)| Duration::from_millis(from)..=to);
    let interval = table.duration("interval", intervals.clone()).or(default.interval);
    let fast_interval = table.duration("fast_interval", intervals);
    let fast_interval = table.refine(fast_interval, |fast| {
        (fast <= interval).then_some(fast).ok_or_else(|| {
            let [fast, slow] = [fast, interval].map(super::duration::format);
            format!("`fast_interval` {fast} must not be longer than `interval`, {slow}")
        })
    });
    let value = HealthMonitor {
        name: name.as_ref().map(|name| name.value.clone()).unwrap_or_default(),
        interval,
        fast_interval: fast_interval.or(interval),
        jitter: table.integer("jitter", 0..=50).or(default.jitter),
        timeout: table.duration("timeout", timeouts).or(default.timeout),
        rise: table.integer("rise", 1..=100).or(default.rise),
        fall: table.integer("fall", 1..=100).or(default.fall),
        address: read_address(&mut table),
        port: table.integer("port", 1..=u16::MAX).known().map(|port| port.value),
        kind: match kind {
            Some("tls") => MonitorKind::Tls(read_tls(&mut table)),
            Some("http") => MonitorKind::Http(Box::new(read_http(&mut table, None))),
            Some("https") => {
                let tls = read_tls(&mut table);
                MonitorKind::Http(Box::new(read_http(&mut table, Some(tls))))
            }
            Some("udp") => MonitorKind::Udp(read_udp(&mut table, found.line, &label)),
            Some("icmp") => MonitorKind::Icmp,
            Some("external") => {
                MonitorKind::External(read_external(&mut table, found.line, &label))
            }
            _ => MonitorKind::Tcp,
        },
    };
    Declared { line: found.line, name, value }
}

fn refuse_what_others_have(table: &mut Table<'_, '_, '_>, kind: &str) {
    for (field, types) in OF_TYPES {
        if types.contains(&kind) {
            continue;
        }
        if let Some(there) = table.typed(field, "", Some).known() {
            let types = list(types, "and");
            let message = format!("`{field}` is for monitors of type {types}, not `{kind}`");
            table.report.add(there.line, message);
        }
    }
}

/// Unlike a server's, this address is one that the machine's own stack connects to.
fn read_address(table: &mut Table<'_, '_, '_>) -> Option<IpAddr> {
    let text = table.text("address");
    let address = table.refine(text, |text| {
        let address = text.parse::<IpAddr>().ok();
        address.filter(|address| !address.is_unspecified() && !address.is_multicast()).ok_or_else(
            || {
                format!(
                    "`address` must be the IPv4 or IPv6 address of a machine, not {}",
                    quoted(text)
                )
            },
        )
    });
    address.known().map(|address| address.value)
}

fn read_tls(table: &mut Table<'_, '_, '_>) -> TlsCheck {
    let server_name = table.text("server_name");
    let server_name = table.refine(server_name, |name| {
        is_server_name(name)
            .then(|| name.to_owned())
            .ok_or_else(|| format!("`server_name` must be a host name, not {}", quoted(name)))
    });
    let checked = table.boolean("check_certificate");
    let ca_file = table.text("ca_file");
    let ca_file = table.refine(ca_file, |path| match checked {
        Field::Is(At { line, value: false }) => {
            Err(format!("`ca_file` is of no use with `check_certificate = false` (line {line})"))
        }
        _ if !is_absolute(path) => {
            Err(format!("`ca_file` must be an absolute path, not {}", quoted(path)))
        }
        _ => Ok(PathBuf::from(path)),
    });
    let certificate = match (ca_file.known(), checked.or(false)) {
        (Some(path), _) => Certificate::SignedBy(path.value),
        (None, true) => Certificate::Trusted,
        (None, false) => Certificate::Any,
    };
    TlsCheck { server_name: server_name.known().map(|name| name.value), certificate }
}

fn read_http(table: &mut Table<'_, '_, '_>, tls: Option<TlsCheck>) -> HttpCheck {
    let method = checked_text(table, "method", "a method such as GET", |text| {
        (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_uppercase())
    });
    let path = checked_text(table, "path", "a path that begins with /", |text| {
        text.starts_with('/') && text.len() <= LONGEST && text.bytes().all(|b| b.is_ascii_graphic())
    });
    let host = checked_text(table, "host", "a host name, with a port or without", |text| {
        (1..=LONGEST).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/@?#\\".contains(&byte))
    });
    let status = table.text("status");
    let status = table.refine(status, |text| {
        StatusRanges::parse(text)
            .map_err(|why| format!("`status` must be ranges such as \"200-299, 401\" {why}"))
    });
    let body = one_of(table, ["body", "body_regex"]);
    let body = table.refine(body, |(field, text)| match field {
        "body" => wanted_text(field, text).map(|text| Pattern::Text(text.to_owned())),
        _ => Pattern::expression(text)
            .map_err(|why| format!("`{field}` must be a regular expression: {why}")),
    });
    let headers = read_headers(table);
    // The name in the request is the one the certificate has.
    let tls = tls.map(|tls| TlsCheck {
        server_name: tls.server_name.or_else(|| host.as_deref().and_then(name_of_host)),
        ..tls
    });
    HttpCheck {
        method: method.unwrap_or_else(|| "GET".to_owned()),
        path: path.unwrap_or_else(|| "/".to_owned()),
        host,
        headers,
        status: status.or(StatusRanges::default()),
        body: body.known().map(|body| body.value),
        tls,
    }
}

fn read_headers(table: &mut Table<'_, '_, '_>) -> Vec<(String, String)> {
    let wanted = "a table of header names and strings";
    let Some(found) = table.typed("headers", wanted, Item::as_table_like).known() else {
        return Vec::new();
    };
    let mut headers = Vec::new();
    for (name, item) in found.value.iter() {
        let line = table.report.line_of(item).unwrap_or(found.line);
        let value = item.as_str().filter(|value| is_header_value(value));
        let problem = match value {
            _ if !is_header_name(name) => format!("{} is no name of a header", quoted(name)),
            _ if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) => {
                format!("header {} cannot be set here", quoted(name))
            }
            None => format!("header {} must be a string of printable ASCII", quoted(name)),
            Some(value) => {
                headers.push((name.to_owned(), value.to_owned()));
                continue;
            }
        };
        table.report.add(line, format!("`headers`: {problem}"));
    }
    headers
}

fn read_udp(table: &mut Table<'_, '_, '_>, line: usize, label: &str) -> UdpCheck {
    let request = one_of(table, ["request", "request_hex"]);
    if matches!(request, Field::Absent) && !table.report.fragments {
        let message =
            format!("health_monitor {label} of type `udp` needs `request` or `request_hex`");
        table.report.add(line, message);
    }
    let request = table.refine(request, |(field, text)| datagram(field, text));
    let answer = one_of(table, ["answer", "answer_hex"]);
    let answer = table.refine(answer, |(field, text)| match datagram(field, text)? {
        bytes if bytes.is_empty() => Err(format!("`{field}` must not be empty")),
        bytes => Ok(bytes),
    });
    UdpCheck { request: request.or(Vec::new()), answer: answer.known().map(|answer| answer.value) }
}

fn read_external(table: &mut Table<'_, '_, '_>, line: usize, label: &str) -> ExternalCheck {
    let there = table.typed("command", "", Some);
    let words = table.texts("command");
    let problem = match (&there, words.first()) {
        (Field::Absent, _) if table.report.fragments => None,
        (Field::Absent, _) => {
            Some((line, format!("health_monitor {label} of type `external` needs `command`")))
        }
        (Field::Is(at), None) if at.value.as_array().is_some_and(toml_edit::Array::is_empty) => {
            Some((at.line, "`command` must not be empty".to_owned()))
        }
        (_, Some(program)) if !is_absolute(&program.value) => {
            let program_text = quoted(&program.value);
            let message = format!(
                "`command` must begin with the absolute path of a program, not {program_text}; no shell looks for it"
            );
            Some((program.line, message))
        }
        _ => words
            .iter()
            .find(|word| word.value.contains('\0'))
            .map(|word| (word.line, "`command` must have no zero bytes".to_owned())),
    };
    if let Some((line, message)) = problem {
        table.report.add(line, message);
    }
    let mut words = words.into_iter().map(|word| word.value);
    ExternalCheck { program: words.next().unwrap_or_default().into(), arguments: words.collect() }
}

/// The text of whichever field is there, with its name; both are one too many.
fn one_of<'d>(
    table: &mut Table<'_, '_, 'd>,
    fields: [&'static str; 2],
) -> Field<(&'static str, &'d str)> {
    let [first, second] =
        fields.map(|field| table.text(field).and_then(|text| Some((field, text))));
    match (first, second) {
        (first, Field::Absent) => first,
        (Field::Absent, second) => second,
        (first, second) => {
            let line = first.known().or(second.known()).map_or(1, |one| one.line);
            let [one, other] = fields;
            table
                .report
                .add(line, format!("`{one}` and `{other}` are both there; one says it all"));
            Field::Wrong
        }
    }
}

fn checked_text(
    table: &mut Table<'_, '_, '_>,
    field: &'static str,
    wanted: &str,
    is_good: impl FnOnce(&str) -> bool,
) -> Option<String> {
    let text = table.text(field);
    let text = table.refine(text, |text| {
        is_good(text)
            .then(|| text.to_owned())
            .ok_or_else(|| format!("`{field}` must be {wanted}, not {}", quoted(text)))
    });
    text.known().map(|text| text.value)
}
