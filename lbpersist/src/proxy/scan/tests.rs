use super::*;

/// Everything that a connection's bytes are cut into, when they come all at once.
fn cut(bytes: &[u8]) -> Result<Vec<Step>, Reason> {
    let mut scanner = Scanner::new(512);
    let (mut rest, mut steps) = (bytes, Vec::new());
    loop {
        let step = scanner.scan(rest)?;
        match step {
            Step::Head { length, .. } | Step::Body(length) => rest = &rest[length..],
            Step::More => return Ok(steps),
        }
        steps.push(step);
    }
}

/// The same, when they come one by one: only heads are told apart from bodies then.
fn heads_one_by_one(bytes: &[u8]) -> Result<Vec<usize>, Reason> {
    let mut scanner = Scanner::new(512);
    let (mut start, mut heads) = (0, Vec::new());
    for end in 1..=bytes.len() {
        while start < end {
            match scanner.scan(&bytes[start..end])? {
                Step::Head { length, .. } => {
                    heads.push(length);
                    start += length;
                }
                Step::Body(length) => start += length,
                Step::More => break,
            }
        }
    }
    Ok(heads)
}

const fn head(length: usize) -> Step {
    Step::Head { length, upgrade: false }
}

#[test]
fn requests_are_cut_where_they_end() {
    let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
    let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Upgrade\r\nUpgrade: y\r\n\r\n";
    let rows: [(Vec<u8>, Vec<Step>); 6] = [
        (get.to_vec(), vec![head(get.len())]),
        ([get, &get[..]].concat(), vec![head(get.len()), head(get.len())]),
        (
            [post, &b"hello"[..], get].concat(),
            vec![head(post.len()), Step::Body(5), head(get.len())],
        ),
        (
            [chunked, &b"5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n"[..], get].concat(),
            vec![
                head(chunked.len()),
                Step::Body(7),
                Step::Body(5),
                Step::Body(2),
                Step::Body(3),
                Step::Body(6),
                Step::Body(2),
                head(get.len()),
            ],
        ),
        (upgrade.to_vec(), vec![Step::Head { length: upgrade.len(), upgrade: true }]),
        ([b"\r\n", &get[..]].concat(), vec![head(get.len() + 2)]),
    ];
    for (bytes, expected) in rows {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let heads: Vec<usize> = expected
            .iter()
            .filter_map(
                |step| if let Step::Head { length, .. } = step { Some(*length) } else { None },
            )
            .collect();
        assert_eq!(cut(&bytes), Ok(expected), "{text}");
        assert_eq!(heads_one_by_one(&bytes), Ok(heads), "{text}");
    }
}

#[test]
fn what_has_two_readings_is_refused_however_it_comes() {
    let rows: &[(&str, Reason)] = &[
        ("GET / HTTP/1.1\nHost: a\n\n", Reason::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Reason::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", Reason::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", Reason::FoldedField),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Reason::FoldedField),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Reason::Malformed),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Reason::Malformed),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Reason::Malformed),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", Reason::Malformed),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Malformed),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Reason::Malformed),
        ("GET /\r\n\r\n", Reason::Malformed),
        ("GET / HTTP/3.0\r\n\r\n", Reason::UnknownVersion),
        ("GET / http/1.1\r\n\r\n", Reason::Malformed),
        ("G(T / HTTP/1.1\r\n\r\n", Reason::Malformed),
        ("GET a HTTP/1.1\r\n", Reason::Malformed),
        ("GET a:80 HTTP/1.1\r\n", Reason::Malformed),
        ("GET a/b HTTP/1.1\r\n", Reason::Malformed),
        ("GET ?x HTTP/1.1\r\n", Reason::Malformed),
        ("GET * HTTP/1.1\r\n", Reason::Malformed),
        ("OPTIONS ** HTTP/1.1\r\n", Reason::Malformed),
        ("GET ftp://a/ HTTP/1.1\r\n", Reason::Malformed),
        ("GET http:/a HTTP/1.1\r\n", Reason::Malformed),
        ("GET http:///a HTTP/1.1\r\n", Reason::Malformed),
        ("GET http://:80/ HTTP/1.1\r\n", Reason::Malformed),
        ("GET http://a:b/ HTTP/1.1\r\n", Reason::Malformed),
        ("GET http://a:1:2/ HTTP/1.1\r\n", Reason::Malformed),
        ("GET http://a,b/ HTTP/1.1\r\n", Reason::Malformed),
        ("GET http://[::x]/ HTTP/1.1\r\n", Reason::Malformed),
        ("GET http://[::1]x/ HTTP/1.1\r\n", Reason::Malformed),
        ("GET http://u@a/ HTTP/1.1\r\n", Reason::BadHost),
        ("GET http://u:p@a HTTP/1.1\r\n", Reason::BadHost),
        ("CONNECT /a HTTP/1.1\r\n", Reason::Malformed),
        ("CONNECT a HTTP/1.1\r\n", Reason::Malformed),
        ("CONNECT http://a:80 HTTP/1.1\r\n", Reason::Malformed),
        ("GET /\u{e9} HTTP/1.1\r\n\r\n", Reason::Malformed),
        ("GET / HTTP/1.1\r\n\r\n", Reason::BadHost),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Reason::BadHost),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Reason::BadHost),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", Reason::BadHost),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", Reason::BadHost),
        ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", Reason::BadHost),
        ("GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", Reason::BadHost),
        ("POST / HTTP/1.1\r\nContent-Length: +1\r\n", Reason::BadLength),
        ("POST / HTTP/1.1\r\nContent-Length: 1,1\r\n", Reason::BadLength),
        ("POST / HTTP/1.1\r\nContent-Length: 0x1\r\n", Reason::BadLength),
        ("POST / HTTP/1.1\r\nContent-Length:\r\n", Reason::BadLength),
        ("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n", Reason::BadLength),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n", Reason::BadLength),
        (
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            Reason::BadLength,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n",
            Reason::BadLength,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            Reason::BadLength,
        ),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n", Reason::BadLength),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n", Reason::BadLength),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n", Reason::BadLength),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n", Reason::BadLength),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n", Reason::UnknownCoding),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", Reason::BadLength),
        ("POST / HTTP/1.1\r\nExpect: 200-ok\r\n", Reason::UnknownExpectation),
    ];
    for (text, reason) in rows {
        assert_eq!(cut(text.as_bytes()), Err(*reason), "{text}");
        assert_eq!(heads_one_by_one(text.as_bytes()), Err(*reason), "{text}");
    }
}

#[test]
fn targets_are_paths_or_urls_of_http() {
    for target in
        ["/", "//a", "/a@b?c", "http://a", "HTTP://a:80?b", "https://[::1]:80/@", "http://a:/"]
    {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(cut(text.as_bytes()), Ok(vec![head(text.len())]), "{text}");
    }
    for line in ["OPTIONS *", "CONNECT a:80", "CONNECT [::1]:80"] {
        let text = format!("{line} HTTP/1.1\r\nHost: [::1]:80\r\n\r\n");
        assert_eq!(cut(text.as_bytes()), Ok(vec![head(text.len())]), "{text}");
    }
}

#[test]
fn wrong_chunks_are_refused_however_they_come() {
    let rows: &[(&str, Reason)] = &[
        ("5\nhello\r\n", Reason::BareLineEnd),
        ("5\r\nhello\n0\r\n\r\n", Reason::BadChunk),
        ("5\r\nhelloX\r\n", Reason::BadChunk),
        ("5 \r\nhello", Reason::BadChunk),
        (" 5\r\nhello", Reason::BadChunk),
        ("0x5\r\nhello", Reason::BadChunk),
        ("-5\r\nhello", Reason::BadChunk),
        ("\r\nhello", Reason::BadChunk),
        ("g\r\n", Reason::BadChunk),
        ("ffffffffffffffffff\r\n", Reason::BadChunk),
        ("5;a\0b\r\nhello", Reason::BadChunk),
        ("0\r\nHost: a\r\n\r\n", Reason::Malformed),
        ("0\r\nContent-Length: 1\r\n\r\n", Reason::Malformed),
        ("0\r\n A: b\r\n\r\n", Reason::FoldedField),
    ];
    let start = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (chunks, reason) in rows {
        let text = format!("{start}{chunks}");
        assert_eq!(cut(text.as_bytes()), Err(*reason), "{text}");
        assert_eq!(heads_one_by_one(text.as_bytes()), Err(*reason), "{text}");
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_there() {
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(500));
    assert_eq!(cut(long.as_bytes()), Err(Reason::HeaderTooLarge));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "a:\r\n".repeat(100));
    assert_eq!(Scanner::new(1 << 20).scan(many.as_bytes()), Err(Reason::HeaderTooLarge));
    let trailers = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}",
        "a: b\r\n".repeat(100)
    );
    assert_eq!(cut(trailers.as_bytes()), Err(Reason::HeaderTooLarge));
}

mod any {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_are_cut_alike_however_they_come(text in "[GET /HTP1.\r\n:a0ConteLgth5-]{0,80}") {
            let start = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{text}");
            for text in [text, start] {
                let whole = cut(text.as_bytes()).map(|steps| {
                    steps.into_iter().filter(|step| matches!(step, Step::Head { .. })).count()
                });
                let single = heads_one_by_one(text.as_bytes()).map(|heads| heads.len());
                prop_assert_eq!(whole, single);
            }
        }
    }
}
