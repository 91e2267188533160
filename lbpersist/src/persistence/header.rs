//! Reading Cookie and Set-Cookie headers and request targets, where they lie, as tolerantly as browsers and servers do.
//!
//! Nothing here allocates but [`without`] when there is something to take out, and no input makes it panic.

/// The name-value pairs of a Cookie header (RFC 6265bis, section 5.6, read backwards): split at `;`, spaces around names and
/// values gone, one pair of quotes around a value gone. A piece without `=` is skipped.
pub fn cookies(header: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    header.split(|&byte| byte == b';').filter_map(pair)
}

/// Name and value that a Set-Cookie header sets; nothing when it takes the cookie away (an empty value, or `Max-Age` of 0 or
/// less).
pub fn set_cookie(header: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut pieces = header.split(|&byte| byte == b';');
    let (name, value) = pair(pieces.next()?)?;
    let taken_away = pieces.filter_map(pair).any(|(name, value)| {
        name.eq_ignore_ascii_case(b"max-age") && matches!(value, [b'0'] | [b'-', ..])
    });
    (!value.is_empty() && !taken_away).then_some((name, value))
}

/// What is left of a Cookie header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Without {
    /// All of it: there was nothing to take out.
    Unchanged,
    /// Nothing.
    Nothing,
    /// This.
    Rest(Vec<u8>),
}

/// Takes the cookies whose names `goes` names out of a Cookie header. What stays is left as it was written.
pub fn without(header: &[u8], goes: impl Fn(&[u8]) -> bool) -> Without {
    if !cookies(header).any(|(name, _)| goes(name)) {
        return Without::Unchanged;
    }
    let mut rest = Vec::with_capacity(header.len());
    for piece in header.split(|&byte| byte == b';') {
        let piece = piece.trim_ascii();
        if piece.is_empty() || pair(piece).is_some_and(|(name, _)| goes(name)) {
            continue;
        }
        if !rest.is_empty() {
            rest.extend_from_slice(b"; ");
        }
        rest.extend_from_slice(piece);
    }
    if rest.is_empty() { Without::Nothing } else { Without::Rest(rest) }
}

/// The value of query argument `name` in a request target, as it is written there; else that of the path parameter `;name=`.
/// An empty value is none.
pub fn argument<'t>(target: &'t [u8], name: &[u8]) -> Option<&'t [u8]> {
    let end = target.iter().position(|&byte| byte == b'#').unwrap_or(target.len());
    let target = &target[..end];
    let question = target.iter().position(|&byte| byte == b'?');
    let (path, query) = match question {
        Some(place) => (&target[..place], &target[place + 1..]),
        None => (target, &[][..]),
    };
    let in_query = query.split(|&byte| byte == b'&').find_map(|piece| named(piece, name));
    in_query.or_else(|| path_parameter(path, name))
}

/// A parameter of any segment of a path (RFC 3986, section 3.3).
fn path_parameter<'t>(path: &'t [u8], name: &[u8]) -> Option<&'t [u8]> {
    path.split(|&byte| byte == b'/').find_map(|segment| {
        segment.split(|&byte| byte == b';').skip(1).find_map(|piece| named(piece, name))
    })
}

fn named<'p>(piece: &'p [u8], name: &[u8]) -> Option<&'p [u8]> {
    let value = piece.strip_prefix(name)?.strip_prefix(b"=")?;
    (!value.is_empty()).then_some(value)
}

fn pair(piece: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = piece.iter().position(|&byte| byte == b'=')?;
    let (name, value) = (piece[..equals].trim_ascii(), piece[equals + 1..].trim_ascii());
    let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    (!name.is_empty()).then_some((name, unquoted.unwrap_or(value)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(header: &str) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        cookies(header.as_bytes()).map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn cookies_are_read_as_browsers_write_them_and_worse() {
        let rows: [(&str, &[(&str, &str)]); 9] = [
            ("", &[]),
            ("a=1", &[("a", "1")]),
            ("a=1; b=2;c=3", &[("a", "1"), ("b", "2"), ("c", "3")]),
            ("a=1 ;  b = 2 ;", &[("a", "1"), ("b", "2")]),
            ("a=\"x y\"; b=\"", &[("a", "x y"), ("b", "\"")]),
            ("a=b=c; =d; e", &[("a", "b=c")]),
            ("a=; a=2", &[("a", ""), ("a", "2")]),
            (";;=;", &[]),
            ("$Version=1; a=1", &[("$Version", "1"), ("a", "1")]),
        ];
        for (header, expected) in rows {
            let expected: Vec<(String, String)> =
                expected.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
            assert_eq!(read(header), expected, "{header}");
        }
    }

    #[test]
    fn only_our_cookie_is_taken_out() {
        let take = |header: &str| without(header.as_bytes(), |name| name == b"LB");
        let rest = |text: &str| Without::Rest(text.as_bytes().to_vec());
        assert_eq!(take("a=1; b=2"), Without::Unchanged);
        assert_eq!(take("xLB=1; LBx=2; lb=3"), Without::Unchanged);
        assert_eq!(take("LB=x"), Without::Nothing);
        assert_eq!(take("LB=x; LB=y;"), Without::Nothing);
        assert_eq!(take("a=1; LB=x; b=2"), rest("a=1; b=2"));
        assert_eq!(take("LB=x;a=\"1 2\" ;junk; LB=y"), rest("a=\"1 2\"; junk"));
    }

    #[test]
    fn set_cookie_is_read_unless_it_takes_the_cookie_away() {
        let read = |header: &'static str| set_cookie(header.as_bytes());
        assert_eq!(read("s=1; Path=/"), Some((&b"s"[..], &b"1"[..])));
        assert_eq!(read("s=1; Max-Age=60; Secure"), Some((&b"s"[..], &b"1"[..])));
        for header in ["s=; Path=/", "s=1; max-age=0", "s=1;Max-Age = -5", "s", "", "=1"] {
            assert_eq!(read(header), None, "{header}");
        }
    }

    #[test]
    fn arguments_come_from_the_query_and_then_from_the_path() {
        let rows: [(&str, Option<&str>); 14] = [
            ("/a?s=1", Some("1")),
            ("/a?x=0&s=1&s=2", Some("1")),
            ("/a?xs=0&s=1", Some("1")),
            ("/a?s=", None),
            ("/a?s", None),
            ("/a?S=1", None),
            ("/a;s=1", Some("1")),
            ("/a;s=1/b;t=2?x=3", Some("1")),
            ("/a/b;t=2;s=1?x=3", Some("1")),
            ("/a;s=1?s=2", Some("2")),
            ("/s=1/b", None),
            ("/a#?s=1", None),
            ("http://h/a;s=1?q", Some("1")),
            ("*", None),
        ];
        for (target, expected) in rows {
            let found = argument(target.as_bytes(), b"s");
            assert_eq!(found, expected.map(str::as_bytes), "{target}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            cookies(&bytes).for_each(drop);
            let _ = (set_cookie(&bytes), argument(&bytes, b"s"));
            let names = |name: &[u8]| name == b"LB";
            if let Without::Rest(rest) = without(&bytes, names) {
                prop_assert!(!cookies(&rest).any(|(name, _)| names(name)));
            }
        }

        #[test]
        fn what_stays_is_what_was_there(
            pairs in prop::collection::vec(("[a-c]{1,2}", "[a-z0-9]{0,4}"), 0..8),
        ) {
            let header = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ");
            let kept: Vec<_> = pairs.iter().filter(|(name, _)| name != "a").cloned().collect();
            let rest = match without(header.as_bytes(), |name| name == b"a") {
                Without::Unchanged => header.clone(),
                Without::Nothing => String::new(),
                Without::Rest(rest) => String::from_utf8(rest).unwrap(),
            };
            prop_assert_eq!(read(&rest), kept);
        }
    }
}
