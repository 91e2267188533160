//! Whether clients can be kept as profiles, pools and services say together.

use std::collections::HashMap;

use super::{
    Problem,
    raw::{Declared, Raw, RawPool, RawProfile, RawService},
    words::quoted,
};
use crate::model::{Method, Mode, PersistenceProfile};

/// Adds chains of fallbacks that do not end, services whose packets a profile cannot read, and servers that a header cannot
/// tell apart.
pub(super) fn check(raw: &Raw, problems: &mut Vec<Problem>) {
    for profile in &raw.profiles {
        check_chain(raw, profile, problems);
    }
    for service in &raw.services {
        check_service(raw, service, problems);
    }
    for pool in &raw.pools {
        check_header_values(raw, pool, problems);
    }
}

fn check_chain(raw: &Raw, first: &Declared<RawProfile>, problems: &mut Vec<Problem>) {
    let Some(fallback) = &first.value.fallback else { return };
    let mut length = 1;
    for profile in chain(raw, first).skip(1) {
        if std::ptr::eq(profile, first) {
            let message = format!("persistence_profile {} falls back to itself", first.label());
            problems.push(Problem { line: fallback.line, message });
            return;
        }
        length += 1;
        if length > raw.profiles.len() {
            // A loop that this one only leads into; those in it are told.
            return;
        }
    }
    if length > PersistenceProfile::LONGEST_CHAIN {
        let (label, most) = (first.label(), PersistenceProfile::LONGEST_CHAIN);
        let message = format!(
            "persistence_profile {label} begins a chain of {length} profiles; {most} are the most"
        );
        problems.push(Problem { line: fallback.line, message });
    }
}

/// A profile and those it falls back to; without an end when they are in a loop.
fn chain<'r>(
    raw: &'r Raw,
    first: &'r Declared<RawProfile>,
) -> impl Iterator<Item = &'r Declared<RawProfile>> {
    std::iter::successors(Some(first), |profile| {
        let name = profile.value.fallback.as_ref()?;
        raw.profiles.iter().find(|other| other.is_named(&name.value))
    })
}

/// The chain of the pool's profile, with no end in sight cut off.
fn profiles_of<'r>(
    raw: &'r Raw,
    pool: &'r Declared<RawPool>,
) -> impl Iterator<Item = &'r Declared<RawProfile>> {
    let name = pool.value.persistence_profile.as_ref();
    let first = name.and_then(|name| raw.profiles.iter().find(|one| one.is_named(&name.value)));
    first.into_iter().flat_map(|first| chain(raw, first)).take(PersistenceProfile::LONGEST_CHAIN)
}

fn check_service(raw: &Raw, service: &Declared<RawService>, problems: &mut Vec<Problem>) {
    let (Some(mode), Some(name)) = (service.value.mode, &service.value.pool) else { return };
    let Some(pool) = raw.pools.iter().find(|pool| pool.is_named(&name.value)) else { return };
    for profile in profiles_of(raw, pool) {
        let Some(reason) = profile.value.method.as_ref().and_then(|method| obstacle(method, mode))
        else {
            continue;
        };
        let (own, kept, line) = (service.label(), profile.label(), profile.line);
        let kind = profile.value.method.as_ref().map_or("", Method::name);
        let message = format!(
            "virtual_service {own} of mode {mode} cannot keep clients by persistence_profile {kept} (line {line}) of its pool {}: {kind} {reason}",
            quoted(&name.value)
        );
        problems.push(Problem { line: name.line, message });
    }
}

/// Why a method is of no use in a mode.
fn obstacle(method: &Method, mode: Mode) -> Option<&'static str> {
    match (method, mode) {
        (Method::ClientIp(_), _) | (_, Mode::Http) => None,
        (Method::HttpCookie(_) | Method::AppCookie(_) | Method::Header(_), Mode::L4) => Some(
            "needs HTTP requests, and here packets are forwarded unread; use mode http or type client-ip",
        ),
        (Method::HttpCookie(_) | Method::AppCookie(_) | Method::Header(_), Mode::Tcp) => Some(
            "needs HTTP requests, and here bytes are carried unread; use mode http or type client-ip",
        ),
    }
}

fn check_header_values(raw: &Raw, pool: &Declared<RawPool>, problems: &mut Vec<Problem>) {
    let Some(servers) = &pool.value.servers else { return };
    let mut lines: HashMap<&str, usize> = HashMap::new();
    for value in servers.iter().filter_map(|server| server.header_value.as_ref()) {
        let Some(line) = lines.insert(&value.value, value.line) else { continue };
        let message = format!(
            "`header_value` {} is that of another server of pool {} already (line {line})",
            quoted(&value.value),
            pool.label()
        );
        problems.push(Problem { line: value.line, message });
    }
    let by_header =
        |profile: &&Declared<RawProfile>| matches!(profile.value.method, Some(Method::Header(_)));
    if let Some(profile) = profiles_of(raw, pool).find(by_header)
        && lines.is_empty()
        && !servers.is_empty()
    {
        let message = format!(
            "pool {} keeps clients by persistence_profile {} (line {}), but none of its servers has a `header_value`",
            pool.label(),
            profile.label(),
            profile.line
        );
        problems.push(Problem { line: pool.line, message });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::parse, *};
    use crate::model::{AppCookie, Header, HttpCookie, SameSite, ServerDown};

    const SERVICE: &str = r#"[[virtual_service]]
name = "web"
address = "198.51.100.10"
port = 80
pool = "web"
[[pool]]
name = "web"
persistence_profile = "first"
servers = [{ address = "10.0.0.11", port = 8080 }]
"#;

    /// The problems of profiles alone, on lines from 1.
    fn problems(profiles: &str) -> String {
        parse(profiles).expect_err(profiles).to_string()
    }

    fn profile(name: &str, fields: &str) -> String {
        format!("[[persistence_profile]]\nname = \"{name}\"\n{fields}\n")
    }

    /// The method of a profile with `fields` after its name.
    fn method(fields: &str) -> Method {
        let pool = "[[pool]]\nname = \"web\"\npersistence_profile = \"first\"\n\
            servers = [{ address = \"10.0.0.11\", header_value = \"blue\" }]\n";
        let model = parse(&(pool.to_owned() + &profile("first", fields))).unwrap();
        model.pools["web"].persistence.as_ref().unwrap().method.clone()
    }

    #[test]
    fn defaults_of_every_type() {
        let cookie = HttpCookie {
            cookie_name: None,
            always_send: false,
            http_only: true,
            secure: false,
            same_site: None,
            timeout: Duration::ZERO,
            persistent: false,
            path: "/".to_owned(),
            domain: None,
            strip_from_request: true,
        };
        assert_eq!(method("type = \"http-cookie\""), Method::HttpCookie(cookie.clone()));
        assert_eq!(
            method("type = \"http-cookie\"\ncookie_name = \"\""),
            Method::HttpCookie(cookie)
        );
        let named = AppCookie {
            cookie_name: "JSESSIONID".to_owned(),
            query_argument: "JSESSIONID".to_owned(),
            timeout: Duration::from_secs(1200),
            table_size: 262_144,
        };
        let fields = "type = \"app-cookie\"\ncookie_name = \"JSESSIONID\"";
        assert_eq!(method(fields), Method::AppCookie(named));
        let header = Header { header_name: "x-shard".to_owned() };
        let fields = "type = \"header\"\nheader_name = \"x-shard\"";
        assert_eq!(method(fields), Method::Header(header));
    }

    #[test]
    fn every_setting_of_a_cookie_arrives() {
        let fields = "type = \"http-cookie\"\ncookie_name = \"LB\"\nalways_send = true\nhttp_only = false\nsecure = true\n\
            same_site = \"none\"\ntimeout = \"1h\"\npersistent = true\npath = \"/shop\"\ndomain = \"example.com\"\n\
            strip_from_request = false";
        let expected = HttpCookie {
            cookie_name: Some("LB".to_owned()),
            always_send: true,
            http_only: false,
            secure: true,
            same_site: Some(SameSite::None),
            timeout: Duration::from_secs(3600),
            persistent: true,
            path: "/shop".to_owned(),
            domain: Some("example.com".to_owned()),
            strip_from_request: false,
        };
        assert_eq!(method(fields), Method::HttpCookie(expected));
    }

    #[test]
    fn fields_belong_to_their_type_and_cookies_must_be_takable() {
        let rows = [
            (
                "type = \"tls\"",
                "3: type `tls` is not available yet; this version has `client-ip`, `http-cookie`, `app-cookie` and `header`",
            ),
            ("type = \"app-cookie\"", "1: missing field `cookie_name` in persistence_profile `p`"),
            ("type = \"header\"", "1: missing field `header_name` in persistence_profile `p`"),
            (
                "type = \"header\"\nheader_name = \"x y\"",
                "4: `header_name` must be 1 to 64 letters, digits or signs of !#$%&'*+-.^_`|~, not `x y`",
            ),
            (
                "type = \"http-cookie\"\ncookie_name = \"a;b\"",
                "4: `cookie_name` must be 1 to 64 letters, digits or signs of !#$%&'*+-.^_`|~, not `a;b`",
            ),
            (
                "type = \"http-cookie\"\npersistent = true",
                "4: `persistent` needs a `timeout`: how long clients are to keep the cookie",
            ),
            (
                "type = \"http-cookie\"\nsame_site = \"none\"",
                "4: `same_site` `none` needs `secure = true`: browsers drop the cookie without it",
            ),
            (
                "type = \"http-cookie\"\ncookie_name = \"__Secure-x\"",
                "4: cookie `__Secure-x` needs `secure = true`: browsers drop it without",
            ),
            (
                "type = \"http-cookie\"\ncookie_name = \"__host-x\"\nsecure = true\npath = \"/a\"",
                "4: cookie `__host-x` needs `secure = true`, the path `/` and no `domain`: browsers drop it without them",
            ),
            (
                "type = \"http-cookie\"\npath = \"a\"",
                "4: `path` must begin with `/` and have up to 256 visible ASCII characters without `;`, not `a`",
            ),
            (
                "type = \"http-cookie\"\ndomain = \"a..b\"",
                "4: `domain` must be the name of a domain, not `a..b`",
            ),
            (
                "type = \"http-cookie\"\nsecure = \"yes\"",
                "4: `secure` must be true or false, not a string",
            ),
            (
                "type = \"http-cookie\"\ntimeout = \"31d\"",
                "4: `timeout` must be \"0\" or a duration up to 30d, not 31d",
            ),
            (
                "type = \"app-cookie\"\ncookie_name = \"a\"\ntimeout = \"0\"",
                "5: `timeout` must be a duration from 1s to 30d, not 0",
            ),
            (
                "fallback = \"p\"",
                "3: `fallback` would never be asked by a profile of type client-ip: every client has an address",
            ),
        ];
        for (fields, expected) in rows {
            assert!(
                problems(&profile("p", fields)).lines().any(|line| line == expected),
                "{fields}: {}",
                problems(&profile("p", fields))
            );
        }
        let stray = problems(&profile("p", "type = \"http-cookie\"\nipv4_mask = 24"));
        assert!(
            stray.starts_with("4: unknown field `ipv4_mask` in persistence_profile `p`"),
            "{stray}"
        );
    }

    #[test]
    fn chains_end() {
        let cookie = |name: &str, fallback: &str| {
            profile(name, &format!("type = \"http-cookie\"\nfallback = \"{fallback}\""))
        };
        assert_eq!(problems(&cookie("a", "a")), "4: persistence_profile `a` falls back to itself");
        let into_a_loop = cookie("a", "b") + &cookie("b", "c") + &cookie("c", "b");
        let expected = "8: persistence_profile `b` falls back to itself\n12: persistence_profile `c` falls back to itself";
        assert_eq!(problems(&into_a_loop), expected);
        let missing =
            "4: persistence_profile `a` names persistence_profile `zz`, which is not declared";
        assert_eq!(problems(&cookie("a", "zz")), missing);
        let long = cookie("a", "b") + &cookie("b", "c") + &cookie("c", "d") + &cookie("d", "e");
        let long = long + &profile("e", "");
        assert_eq!(
            problems(&long),
            "4: persistence_profile `a` begins a chain of 5 profiles; 4 are the most"
        );
    }

    #[test]
    fn a_chain_arrives_in_its_order() {
        let text = profile(
            "first",
            "type = \"http-cookie\"\nfallback = \"second\"\nserver_down = \"never\"",
        ) + &profile("second", "timeout = \"8s\"\nserver_down = \"continue\"");
        let pool = "[[pool]]\nname = \"web\"\npersistence_profile = \"first\"\nservers = [{ address = \"10.0.0.11\" }]\n";
        let model = parse(&(pool.to_owned() + &text)).unwrap();
        let first = model.pools["web"].persistence.as_ref().unwrap();
        let names: Vec<_> = first.chain().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["first", "second"]);
        let (by_address, method) = first.by_address().unwrap();
        assert_eq!(
            (by_address.server_down, method.timeout),
            (ServerDown::Continue, Duration::from_secs(8))
        );
    }

    #[test]
    fn packets_cannot_be_read_for_cookies() {
        let text = SERVICE.to_owned() + &profile("first", "type = \"http-cookie\"");
        let expected = "5: virtual_service `web` of mode l4 cannot keep clients by persistence_profile `first` (line 10) of its pool `web`: \
            http-cookie needs HTTP requests, and here packets are forwarded unread; use mode http or type client-ip";
        assert_eq!(problems(&text), expected);
        let cookie = method("type = \"http-cookie\"");
        assert!(obstacle(&cookie, Mode::Tcp).is_some());
        assert_eq!(obstacle(&cookie, Mode::Http), None);
        let address = method("");
        assert!(
            [Mode::L4, Mode::Tcp, Mode::Http]
                .iter()
                .all(|&mode| obstacle(&address, mode).is_none())
        );
    }

    #[test]
    fn header_values_tell_servers_apart() {
        let pool = |servers: &str| {
            format!(
                "[[pool]]\nname = \"web\"\npersistence_profile = \"first\"\nservers = [{servers}]\n"
            ) + &profile("first", "type = \"header\"\nheader_name = \"x-shard\"")
        };
        let twice = r#"{ address = "10.0.0.11", header_value = "a" }, { address = "10.0.0.12", header_value = "a" }"#;
        let expected =
            "4: `header_value` `a` is that of another server of pool `web` already (line 4)";
        assert_eq!(problems(&pool(twice)), expected);
        let none = r#"{ address = "10.0.0.11" }"#;
        let expected = "1: pool `web` keeps clients by persistence_profile `first` (line 5), but none of its servers has a `header_value`";
        assert_eq!(problems(&pool(none)), expected);
    }
}
