//! Which target a request may have (RFC 9112, section 3.2): what one reader takes for a path, another must not take for a host.

use crate::proxy::reason::Reason;

/// Checks a target of visible characters. Where it names a host, that host takes the place of `Host`.
pub(super) fn check(method: &[u8], target: &[u8]) -> Result<(), Reason> {
    match (method, target) {
        // The only method with a host alone; it is refused later, for what it is.
        (b"CONNECT", host) if is_host(host) && host.contains(&b':') => Ok(()),
        (b"CONNECT", _) => Err(Reason::Malformed),
        (_, [b'/', ..]) | (b"OPTIONS", b"*") => Ok(()),
        (_, target) => absolute(target),
    }
}

fn absolute(target: &[u8]) -> Result<(), Reason> {
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
    });
    let rest = rest.ok_or(Reason::Malformed)?;
    let end = rest.iter().position(|byte| b"/?".contains(byte)).unwrap_or(rest.len());
    let host = &rest[..end];
    // A name and password are not for servers to see, and hide from people which host is meant.
    if host.contains(&b'@') {
        return Err(Reason::BadHost);
    }
    if is_host(host) { Ok(()) } else { Err(Reason::Malformed) }
}

/// Whether this is `host` or `host:port` (RFC 3986, section 3.2): a name, an IPv4 address, or an IPv6 address in brackets.
pub(super) fn is_host(bytes: &[u8]) -> bool {
    let (host, port) = match bytes {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let is_address = str::from_utf8(&rest[..end])
                .is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok());
            if !is_address {
                return false;
            }
            (&b"[]"[..], &rest[end + 1..])
        }
        _ => bytes.split_at(bytes.iter().position(|byte| *byte == b':').unwrap_or(bytes.len())),
    };
    let is_port = match port {
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        port => port.is_empty(),
    };
    is_port && (host == b"[]" || is_name(host))
}

fn is_name(host: &[u8]) -> bool {
    !host.is_empty()
        && host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(byte))
}
