//! Every decoder of what clients and servers say to the proxy, on any bytes. What is read must not contradict itself.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use lbpersist::{
    model::{Forwarded, ForwardedFields, ProxyProtocol},
    persistence::{
        header::{Without, argument, cookies, set_cookie, without},
        token::{Key, Keyring, LENGTH, Refusal, Sealed, Secret, Token},
    },
    proxy::{
        headers,
        proxy_protocol::{self, Addresses},
        reason::Reason,
        scan::{Scanner, Step},
    },
};

const OWNER: &[u8] = b"profile\0pool";
const NOW: u32 = 1_000;
const TOKEN: Token = Token { server: 7, generation: 1, issued: NOW, expires: 0 };

/// The keys that seal and open here.
pub(crate) fn keyring() -> Keyring {
    let key = |id: u32| Key::new(id, &Secret::new([id as u8; 32]));
    Keyring::new(vec![key(1), key(2)], 2).expect("the key that seals is there")
}

/// A Cookie or Set-Cookie header, or the value of a cookie of ours.
pub(crate) fn cookie(keys: &Keyring, bytes: &[u8]) {
    let pairs: Vec<_> = cookies(bytes).collect();
    for (name, value) in &pairs {
        assert!(!name.is_empty() && *name == name.trim_ascii());
        assert!(!name.contains(&b';') && !value.contains(&b';'));
    }
    let is_ours = |name: &[u8]| name == b"LB";
    let others: Vec<_> = pairs.iter().copied().filter(|(name, _)| !is_ours(name)).collect();
    match without(bytes, is_ours) {
        Without::Unchanged => assert_eq!(others.len(), pairs.len()),
        Without::Nothing => assert!(others.is_empty()),
        Without::Rest(rest) => assert_eq!(cookies(&rest).collect::<Vec<_>>(), others),
    }
    if let Some((name, value)) = set_cookie(bytes) {
        assert!(!name.is_empty() && !value.is_empty());
        assert_eq!(cookies(bytes).next(), Some((name, value)));
    }
    // Nobody but the one who seals makes a value that opens.
    match keys.open(bytes, OWNER, NOW) {
        Ok(_) => panic!("a forged value opens"),
        Err(refusal) => assert_eq!(refusal == Refusal::Oversized, bytes.len() > LENGTH),
    }
    changed(keys, bytes);
}

/// A sealed value, changed in the places that the bytes say.
fn changed(keys: &Keyring, bytes: &[u8]) {
    let sealed = keys.seal(&TOKEN, OWNER);
    let mut value: Sealed = sealed;
    for change in bytes.chunks_exact(2).take(3) {
        value[usize::from(change[0]) % LENGTH] = change[1];
    }
    match keys.open(&value, OWNER, NOW) {
        Ok((token, _)) => assert_eq!((value, token), (sealed, TOKEN)),
        Err(_) => assert_ne!(value, sealed),
    }
}

/// What a client sends from its first byte on, and the parts of it.
pub(crate) fn request(bytes: &[u8]) {
    let whole = scanned(bytes, bytes.len().max(1));
    for piece in [1, 2, 7, 64] {
        assert_eq!(scanned(bytes, piece), whole, "in pieces of {piece}");
    }
    target(bytes);
    proxy_header(bytes);
    fields(bytes);
}

/// Where requests begin, how many bytes pass, and why no more do, when bytes come in pieces.
fn scanned(bytes: &[u8], piece: usize) -> (Vec<(usize, usize)>, usize, Option<Reason>) {
    let mut scanner = Scanner::new(1 << 20);
    let (mut heads, mut passed, mut end) = (Vec::new(), 0, 0);
    loop {
        match scanner.scan(&bytes[passed..end]) {
            Ok(Step::Head { length, .. }) => {
                assert!(length > 0);
                origin(&bytes[passed..passed + length]);
                heads.push((passed, length));
                passed += length;
            }
            Ok(Step::Body(length)) => {
                assert!(length > 0);
                passed += length;
            }
            Ok(Step::More) if end < bytes.len() => end = bytes.len().min(end + piece),
            Ok(Step::More) => return (heads, passed, None),
            Err(reason) => return (heads, passed, Some(reason)),
        }
        assert!(passed <= end);
    }
}

/// A request that passes asks for a path, or for a URL of HTTP.
fn origin(head: &[u8]) {
    let line = head.trim_ascii_start().split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let small = target.to_ascii_lowercase();
    let is_url = small.starts_with(b"http://") || small.starts_with(b"https://");
    let is_own = target == b"*" && method == b"OPTIONS" || method == b"CONNECT";
    assert!(target.starts_with(b"/") || is_url || is_own, "{}", line.escape_ascii());
}

fn target(bytes: &[u8]) {
    if let Some(value) = argument(bytes, b"s") {
        assert!(!value.is_empty() && !value.contains(&b'#'));
        let written = [b"s=", value].concat();
        assert!(bytes.windows(written.len()).any(|window| window == written));
    }
}

fn proxy_header(bytes: &[u8]) {
    let Ok(Some(found)) = proxy_protocol::read(bytes) else { return };
    let head = &bytes[..found.length];
    assert_eq!(proxy_protocol::read(head), Ok(Some(found)), "what follows has no say");
    if let Some(addresses) = found.addresses {
        written(addresses);
    }
}

/// What is written is read again.
fn written(addresses: Addresses) {
    let Addresses { source, destination } = addresses;
    if source.is_ipv4() != destination.is_ipv4() {
        return;
    }
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let bytes = proxy_protocol::write(version, addresses);
        let read = proxy_protocol::read(&bytes).expect("it is one").expect("it is whole");
        let bare = |end: SocketAddr| (end.ip().to_canonical(), end.port());
        let again = read.addresses.expect("it has addresses");
        assert_eq!(read.length, bytes.len());
        assert_eq!(
            (bare(again.source), bare(again.destination)),
            (bare(source), bare(destination))
        );
    }
}

/// Header fields, as the parser behind the scanner would give them.
fn fields(bytes: &[u8]) {
    let mut map = HeaderMap::new();
    for line in bytes.split(|&byte| byte == b'\n').take(50) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    let uri =
        bytes.split(|&byte| byte == b' ').nth(1).and_then(|target| Uri::try_from(target).ok());
    let uri = uri.unwrap_or_default();
    let mut hosted = map.clone();
    if headers::settle_host(&mut hosted, &uri) {
        assert_eq!(hosted.get_all(header::HOST).iter().count(), 1);
        let is_named = uri.authority().is_some();
        assert!(!is_named || !hosted[header::HOST].as_bytes().contains(&b'@'));
        let _ = headers::absolute_form(uri.clone(), &mut hosted);
    }
    assert!(headers::origin_form(uri).scheme().is_none());
    let _ = headers::remove_te(&mut map);
    let _ = headers::remove_hop_by_hop(&mut map);
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE] {
        assert!(!map.contains_key(&name), "{name}");
    }
    headers::join_cookies(&mut map);
    assert!(map.get_all(header::COOKIE).iter().count() <= 1);
    let client = IpAddr::from([192, 0, 2, 1]);
    for how in [Forwarded::Append, Forwarded::Set] {
        headers::forwarded(&mut map, &headers::Told::of(client), how, ForwardedFields::Both);
        let last = map.get_all("x-forwarded-for").iter().next_back().map(HeaderValue::as_bytes);
        assert!(last.is_some_and(|last| last.ends_with(b"192.0.2.1")));
    }
    assert_eq!(map.get_all("x-forwarded-for").iter().count(), 1, "set, whatever the client said");
}
