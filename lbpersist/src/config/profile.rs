//! Reading persistence profiles: which fields there are depends on the type.

use std::time::Duration;

use toml_edit::Item;

use super::{
    field::{Choices, Field, Found, Report, Shape},
    raw::{Declared, RawProfile},
    read::{MINUTE, MONTH},
    reader::Table,
    words::quoted,
};
use crate::model::{AppCookie, ClientIp, Header, HttpCookie, Method, SameSite, Scope, ServerDown};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    ClientIp,
    HttpCookie,
    AppCookie,
    Header,
}

const TYPES: Choices<Type> = Choices {
    allowed: &[
        ("client-ip", Type::ClientIp),
        ("http-cookie", Type::HttpCookie),
        ("app-cookie", Type::AppCookie),
        ("header", Type::Header),
    ],
    later: &["tls", "gslb-site"],
};

const REQUIRED: &[&str] = &["name"];

/// Fields of every type first, then those of one.
macro_rules! shape {
    ($required:expr, $($field:literal),*) => {
        Shape {
            kind: "persistence_profile",
            label: "name",
            required: $required,
            optional: &["type", "server_down", "fallback", $($field),*],
            later: &[],
        }
    };
}

impl Type {
    fn shape(self) -> Shape {
        match self {
            Self::ClientIp => shape!(REQUIRED, "timeout", "ipv4_mask", "ipv6_mask", "scope"),
            Self::HttpCookie => shape!(
                REQUIRED,
                "cookie_name",
                "always_send",
                "http_only",
                "secure",
                "same_site",
                "timeout",
                "persistent",
                "path",
                "domain",
                "strip_from_request"
            ),
            Self::AppCookie => {
                shape!(&["name", "cookie_name"], "query_argument", "timeout", "table_size")
            }
            Self::Header => shape!(&["name", "header_name"],),
        }
    }
}

/// Reads a profile.
pub(super) fn read(report: &mut Report<'_>, found: Found<'_>) -> Declared<RawProfile> {
    const SERVER_DOWN: Choices<ServerDown> = Choices {
        allowed: &[
            ("immediate", ServerDown::Immediate),
            ("never", ServerDown::Never),
            ("continue", ServerDown::Continue),
        ],
        later: &[],
    };
    let named = found.items.get("type").and_then(Item::as_str).unwrap_or("client-ip");
    let known = TYPES.allowed.iter().find(|(name, _)| *name == named).map(|&(_, kind)| kind);
    let shape = match known {
        Some(kind) => kind.shape(),
        // Of a type that is not known, the type alone is worth a word.
        None => shape!(
            REQUIRED,
            "timeout",
            "ipv4_mask",
            "ipv6_mask",
            "scope",
            "cookie_name",
            "always_send",
            "http_only",
            "secure",
            "same_site",
            "persistent",
            "path",
            "domain",
            "strip_from_request",
            "query_argument",
            "table_size",
            "header_name"
        ),
    };
    let mut table = Table::open(report, found, &shape, "");
    let name = table.name("name").known();
    let method = match table.choice("type", &TYPES).or_default(Type::ClientIp) {
        Some(Type::ClientIp) => Some(Method::ClientIp(read_client_ip(&mut table))),
        Some(Type::HttpCookie) => Some(Method::HttpCookie(read_http_cookie(&mut table))),
        Some(Type::AppCookie) => read_app_cookie(&mut table).map(Method::AppCookie),
        Some(Type::Header) => read_header(&mut table).map(Method::Header),
        None => None,
    };
    let fallback = table.name("fallback").known();
    if let (Some(Method::ClientIp(_)), Some(fallback)) = (&method, &fallback) {
        let message = "`fallback` would never be asked by a profile of type client-ip: every client has an address";
        table.report.add(fallback.line, message);
    }
    let value = RawProfile {
        method,
        server_down: table.choice("server_down", &SERVER_DOWN).or(ServerDown::Immediate),
        fallback,
    };
    Declared { line: found.line, name, value }
}

fn read_client_ip(table: &mut Table<'_, '_, '_>) -> ClientIp {
    const SCOPES: Choices<Scope> = Choices {
        allowed: &[("virtual-service", Scope::VirtualService), ("pool", Scope::Pool)],
        later: &[],
    };
    ClientIp {
        timeout: table.duration("timeout", Duration::ZERO..=MONTH).or(5 * MINUTE),
        ipv4_mask: table.integer("ipv4_mask", 0..=32).or(32),
        ipv6_mask: table.integer("ipv6_mask", 0..=128).or(128),
        scope: table.choice("scope", &SCOPES).or(Scope::VirtualService),
    }
}

fn read_http_cookie(table: &mut Table<'_, '_, '_>) -> HttpCookie {
    const SAME_SITE: Choices<SameSite> = Choices {
        allowed: &[("strict", SameSite::Strict), ("lax", SameSite::Lax), ("none", SameSite::None)],
        later: &[],
    };
    let name = table.text("cookie_name");
    let name = table.refine(name, |name| match name {
        "" => Ok(None),
        name => check_token("cookie_name", name).map(Some),
    });
    let (path, domain) = (table.text("path"), table.text("domain"));
    let path = table.refine(path, check_path);
    let domain = table.refine(domain, check_domain);
    let same_site = table.choice("same_site", &SAME_SITE).known();
    let cookie = HttpCookie {
        cookie_name: name.or(None),
        always_send: table.boolean("always_send").or(false),
        http_only: table.boolean("http_only").or(true),
        secure: table.boolean("secure").or(false),
        same_site: same_site.map(|value| value.value),
        timeout: table.duration("timeout", Duration::ZERO..=MONTH).or(Duration::ZERO),
        persistent: table.boolean("persistent").or(false),
        path: path.or("/".to_owned()),
        domain: domain.known().map(|domain| domain.value),
        strip_from_request: table.boolean("strip_from_request").or(true),
    };
    for (field, message) in contradictions(&cookie) {
        let line = table.line_of(field);
        table.report.add(line, message);
    }
    cookie
}

/// What clients would refuse or forget, with the field that is to blame.
fn contradictions(cookie: &HttpCookie) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    if cookie.persistent && cookie.timeout.is_zero() {
        wrong.push((
            "persistent",
            "`persistent` needs a `timeout`: how long clients are to keep the cookie".to_owned(),
        ));
    }
    if cookie.same_site == Some(SameSite::None) && !cookie.secure {
        wrong.push((
            "same_site",
            "`same_site` `none` needs `secure = true`: browsers drop the cookie without it"
                .to_owned(),
        ));
    }
    let name = cookie.cookie_name.as_deref().unwrap_or_default();
    let begins = |prefix: &str| {
        name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
    };
    if begins("__Host-") && (!cookie.secure || cookie.path != "/" || cookie.domain.is_some()) {
        wrong.push(("cookie_name", format!("cookie {} needs `secure = true`, the path `/` and no `domain`: browsers drop it without them", quoted(name))));
    } else if begins("__Secure-") && !cookie.secure {
        wrong.push((
            "cookie_name",
            format!("cookie {} needs `secure = true`: browsers drop it without", quoted(name)),
        ));
    }
    wrong
}

fn read_app_cookie(table: &mut Table<'_, '_, '_>) -> Option<AppCookie> {
    let name = table.text("cookie_name");
    let name = table.refine(name, |name| check_token("cookie_name", name)).known();
    let argument = table.text("query_argument");
    let argument = table.refine(argument, |name| check_token("query_argument", name)).known();
    let timeout = table.duration("timeout", Duration::from_secs(1)..=MONTH).or(20 * MINUTE);
    let table_size = table.integer("table_size", 1024..=1 << 24).or(1 << 18);
    let cookie_name = name?.value;
    let query_argument = argument.map_or_else(|| cookie_name.clone(), |argument| argument.value);
    Some(AppCookie { cookie_name, query_argument, timeout, table_size })
}

fn read_header(table: &mut Table<'_, '_, '_>) -> Option<Header> {
    let name = table.text("header_name");
    let name = table.refine(name, |name| check_token("header_name", name));
    Some(Header { header_name: name.known()?.value })
}

/// Reads what a server's header is to say.
pub(super) fn read_header_value(table: &mut Table<'_, '_, '_>) -> Field<String> {
    const LONGEST: usize = 256;
    let text = table.text("header_value");
    table.refine(text, |text| {
        let visible = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if text.is_empty() || text.trim() != text || !visible || text.len() > LONGEST {
            return Err(format!("`header_value` must be 1 to {LONGEST} visible ASCII characters with no space at the ends, not {}", quoted(text)));
        }
        Ok(text.to_owned())
    })
}

/// A token of RFC 9110, section 5.6.2: what names of cookies and headers are made of.
fn check_token(field: &str, text: &str) -> Result<String, String> {
    const LONGEST: usize = 64;
    let of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || text.len() > LONGEST || !text.bytes().all(of_token) {
        return Err(format!(
            "`{field}` must be 1 to {LONGEST} letters, digits or signs of !#$%&'*+-.^_`|~, not {}",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

fn check_path(path: &str) -> Result<String, String> {
    let fits = |byte: u8| matches!(byte, b'!'..=b'~') && byte != b';';
    if !path.starts_with('/') || path.len() > 256 || !path.bytes().all(fits) {
        return Err(format!(
            "`path` must begin with `/` and have up to 256 visible ASCII characters without `;`, not {}",
            quoted(path)
        ));
    }
    Ok(path.to_owned())
}

fn check_domain(domain: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let labels = || domain.strip_prefix('.').unwrap_or(domain).split('.');
    let is_label = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(fits);
    if domain.len() > 253 || !labels().all(is_label) {
        return Err(format!("`domain` must be the name of a domain, not {}", quoted(domain)));
    }
    Ok(domain.to_owned())
}
