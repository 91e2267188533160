//! Header fields on their way through: what ends at the proxy is taken out, what servers are told of the client is put in.

use std::{cell::OnceCell, fmt::Write as _, net::IpAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{self, CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    uri::{PathAndQuery, Scheme},
};

use super::scan;
use crate::model::{Forwarded, ForwardedFields};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST_ASKED: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Takes out the fields that concern one connection only (RFC 9110, section 7.6.1). Gives the protocols that `Upgrade`
/// names if `Connection` names it.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let mut upgrade = None;
    if headers.contains_key(CONNECTION) {
        let mut named = Vec::new();
        for value in headers.get_all(CONNECTION) {
            let tokens = value.as_bytes().split(|byte| *byte == b',');
            named
                .extend(tokens.filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok()));
        }
        for name in named {
            match name {
                UPGRADE => upgrade = headers.remove(UPGRADE),
                // Without these the request would be another one.
                HOST | header::CONTENT_LENGTH | header::COOKIE | header::AUTHORIZATION => {}
                name => {
                    headers.remove(name);
                }
            }
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    upgrade
}

/// Whether the client takes fields after the body of its answer. Takes the field out, which concerns one connection only.
pub fn remove_te(headers: &mut HeaderMap) -> bool {
    let Some(value) = headers.remove(TE) else { return false };
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// What servers are told of a client, written once for all of its requests.
#[derive(Debug)]
pub struct Told {
    client: IpAddr,
    address: OnceCell<Option<HeaderValue>>,
    node: OnceCell<Option<HeaderValue>>,
}

impl Told {
    /// What they are told of this one.
    pub fn of(client: IpAddr) -> Self {
        Self { client, address: OnceCell::new(), node: OnceCell::new() }
    }

    /// For `X-Forwarded-For`.
    fn address(&self) -> Option<HeaderValue> {
        self.address.get_or_init(|| text(format_args!("{}", self.client))).clone()
    }

    /// For `Forwarded`.
    fn node(&self) -> Option<HeaderValue> {
        let write = || match self.client {
            IpAddr::V4(address) => text(format_args!("for={address};proto=http")),
            IpAddr::V6(address) => text(format_args!("for=\"[{address}]\";proto=http")),
        };
        self.node.get_or_init(write).clone()
    }
}

/// Tells the server who asked.
pub fn forwarded(headers: &mut HeaderMap, client: &Told, how: Forwarded, fields: ForwardedFields) {
    if how == Forwarded::Off {
        return;
    }
    let keep = how == Forwarded::Append;
    if !keep {
        remove_told(headers);
    }
    let host = headers.get(HOST).cloned();
    if fields.has_x_forwarded() {
        add(headers, FOR, client.address(), keep);
        // What the first proxy saw is what later ones must not overwrite.
        if !keep || !headers.contains_key(PROTO) {
            headers.insert(PROTO, HeaderValue::from_static("http"));
        }
        if let Some(host) = &host
            && !(keep && headers.contains_key(HOST_ASKED))
        {
            headers.insert(HOST_ASKED, host.clone());
        }
    }
    if fields.has_forwarded() {
        add(headers, header::FORWARDED, client.node(), keep);
    }
}

/// Takes out all that a client says of itself, also under names that are not written: a server may trust those as well.
fn remove_told(headers: &mut HeaderMap) {
    let is_told =
        |name: &HeaderName| *name == header::FORWARDED || name.as_str().starts_with("x-forwarded-");
    // Nearly always there are none.
    let told: Vec<HeaderName> = headers.keys().filter(|name| is_told(name)).cloned().collect();
    for name in told {
        headers.remove(name);
    }
}

/// Puts a value in, behind those that are there if they are kept.
fn add(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>, keep: bool) {
    let Some(value) = value else { return };
    if keep && headers.contains_key(&name) {
        headers.append(name, value);
    } else {
        headers.insert(name, value);
    }
}

/// Text of letters, digits and marks, which every field may have.
fn text(what: std::fmt::Arguments<'_>) -> Option<HeaderValue> {
    let mut bytes = bytes::BytesMut::with_capacity(64);
    bytes.write_fmt(what).ok()?;
    HeaderValue::from_maybe_shared(bytes.freeze()).ok()
}

/// Several `Cookie` fields, as HTTP/2 allows, become the one that HTTP/1 wants (RFC 9113, section 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut values = headers.get_all(header::COOKIE).iter();
    if values.next().is_none() || values.next().is_none() {
        return;
    }
    let values: Vec<&[u8]> =
        headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&values.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Whether a request may have this target (RFC 9112, section 3.2). The scanner has looked at those of HTTP/1 before they were
/// parsed; at those of HTTP/2 nobody has.
pub fn may_ask_for(method: &Method, uri: &Uri) -> bool {
    let of_http = match uri.scheme() {
        Some(scheme) => *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS,
        // A host alone, which is for `CONNECT`.
        None => uri.authority().is_none(),
    };
    let path = uri.path();
    of_http && (path.starts_with('/') || path == "*" && *method == Method::OPTIONS)
}

/// Makes `Host` say what the target says, if that names a host (RFC 9112, section 3.2.2). False when there is no host, more than
/// one, or one that is none.
pub fn settle_host(headers: &mut HeaderMap, uri: &Uri) -> bool {
    let Some(authority) = uri.authority() else {
        // The scanner refuses two over HTTP/1; over HTTP/2 nobody has looked yet.
        let mut hosts = headers.get_all(HOST).iter();
        return hosts.next().is_some() && hosts.next().is_none();
    };
    let host = HeaderValue::from_str(authority.as_str());
    match host.ok().filter(|host| scan::is_host(host.as_bytes())) {
        Some(host) => {
            headers.insert(HOST, host);
            true
        }
        None => false,
    }
}

/// The target as servers are asked for it: a path.
pub fn origin_form(uri: Uri) -> Uri {
    if uri.scheme().is_none() && uri.authority().is_none() {
        return uri;
    }
    let path = uri.into_parts().path_and_query;
    path.map_or_else(|| Uri::from(PathAndQuery::from_static("/")), Uri::from)
}

/// The target as servers are asked for it over HTTP/2: with scheme and host, which takes the place of `Host`.
pub fn absolute_form(uri: Uri, headers: &mut HeaderMap) -> Option<Uri> {
    let host = headers.remove(HOST)?;
    let path = uri.into_parts().path_and_query;
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    Uri::builder().scheme("http").authority(host.as_bytes()).path_and_query(path).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn what_concerns_one_connection_ends_here() {
        let mut headers = map(&[
            ("host", "a"),
            ("connection", "close, X-Secret"),
            ("connection", "host,upgrade"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-kept", "2"),
        ]);
        assert_eq!(remove_hop_by_hop(&mut headers), Some(HeaderValue::from_static("websocket")));
        assert_eq!(headers, map(&[("host", "a"), ("x-kept", "2")]));
        let mut headers = map(&[("upgrade", "h2c")]);
        assert_eq!(remove_hop_by_hop(&mut headers), None);
        assert!(headers.is_empty());
    }

    #[test]
    fn servers_are_told_of_the_client() {
        let sent = [("host", "a"), ("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https")];
        let ipv6 = &Told::of("2001:db8::1".parse().unwrap());
        let mut headers = map(&sent);
        forwarded(&mut headers, ipv6, Forwarded::Set, ForwardedFields::Both);
        let expected = [
            ("host", "a"),
            ("x-forwarded-for", "2001:db8::1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "a"),
            ("forwarded", "for=\"[2001:db8::1]\";proto=http"),
        ];
        assert_eq!(headers, map(&expected));
        let mut headers = map(&sent);
        let ipv4 = &Told::of("192.0.2.1".parse().unwrap());
        forwarded(&mut headers, ipv4, Forwarded::Append, ForwardedFields::XForwarded);
        let expected = [
            ("host", "a"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a"),
        ];
        assert_eq!(headers, map(&expected));
        let mut headers = map(&sent);
        forwarded(&mut headers, ipv4, Forwarded::Off, ForwardedFields::Both);
        assert_eq!(headers, map(&sent));
    }

    #[test]
    fn cookies_of_http2_become_one_field() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2"), ("x", "y")]);
        join_cookies(&mut headers);
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn the_target_says_which_host() {
        let mut headers = map(&[("host", "a")]);
        let uri = Uri::from_static("http://b:80/x?y");
        assert!(settle_host(&mut headers, &uri));
        assert_eq!(headers, map(&[("host", "b:80")]));
        assert_eq!(origin_form(uri), Uri::from_static("/x?y"));
        assert!(!settle_host(&mut map(&[]), &Uri::from_static("/x")));
        let mut two = map(&[("host", "a"), ("host", "b")]);
        assert!(!settle_host(&mut two, &Uri::from_static("/x")));
        for bad in ["http://user@b/", "http://u:p@b:80/", "http://b:x/"] {
            let uri = Uri::try_from(bad);
            assert!(
                uri.is_err() || !settle_host(&mut map(&[("host", "a")]), &uri.unwrap()),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_target_is_a_path_or_a_url_of_http() {
        let may =
            |method: Method, target: &'static str| may_ask_for(&method, &Uri::from_static(target));
        for target in ["/", "/x?y", "//x", "http://b", "HTTPS://b/x"] {
            assert!(may(Method::GET, target), "{target}");
        }
        for target in ["b", "b:80", "*", "ftp://b/"] {
            assert!(!may(Method::GET, target), "{target}");
        }
        assert!(may(Method::OPTIONS, "*"));
    }

    #[test]
    fn nothing_that_a_client_says_of_itself_stays_when_it_is_set() {
        let sent = [
            ("host", "a"),
            ("forwarded", "for=6.6.6.6"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-port", "1"),
            ("x-forwarded", "kept"),
        ];
        let client = &Told::of("192.0.2.1".parse().unwrap());
        let written = |fields| {
            let mut headers = map(&sent);
            forwarded(&mut headers, client, Forwarded::Set, fields);
            headers
        };
        let x = [
            ("host", "a"),
            ("x-forwarded", "kept"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "a"),
        ];
        assert_eq!(written(ForwardedFields::XForwarded), map(&x));
        let rfc =
            [("host", "a"), ("x-forwarded", "kept"), ("forwarded", "for=192.0.2.1;proto=http")];
        assert_eq!(written(ForwardedFields::Forwarded), map(&rfc));
    }
}
