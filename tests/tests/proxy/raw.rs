//! Requests as they may come, byte for byte, and what client and server get of them.

use std::io::Write as _;

use lbpersist_tests::wait;

use crate::setup::{Reply, Rig, echoed, finish, read_all_of, read_like, refusal};

/// What a client sends on a connection, and all it gets before the connection ends.
struct Row {
    name: &'static str,
    sent: String,
    got: String,
}

fn row(name: &'static str, sent: impl Into<String>, got: impl Into<String>) -> Row {
    Row { name, sent: sent.into(), got: got.into() }
}

/// A request that is refused as this.
fn bad(name: &'static str, sent: impl Into<String>, reason: &str) -> Row {
    row(name, sent, refusal("400 Bad Request", reason))
}

/// What a server gets of a request with these lines, and answers it with.
fn passed(lines: &str, body: &str) -> String {
    echoed(&format!("{lines}\r\n{body}"))
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn requests_that_pass() -> Vec<Row> {
    let get = passed("GET / HTTP/1.1\r\nhost: a\r\n", "");
    let chunked = "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let got_chunked = "host: a\r\ntransfer-encoding: chunked\r\n";
    vec![
        row("a plain request", GET, &*get),
        row("two in one piece", [GET, GET].concat(), [&*get, &*get].concat()),
        row(
            "a query and an odd path",
            "GET /a%20b;c=d/../?x=y&z HTTP/1.1\r\nHost: a\r\n\r\n",
            passed("GET /a%20b;c=d/../?x=y&z HTTP/1.1\r\nhost: a\r\n", ""),
        ),
        row("an empty line first", ["\r\n", GET].concat(), &*get),
        row(
            "a body of known length",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            passed("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n", "hello"),
        ),
        row(
            "a body of no length",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            passed("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n", ""),
        ),
        row(
            "a body and another request",
            ["POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", GET].concat(),
            [&*passed("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n", "hello"), &*get]
                .concat(),
        ),
        row(
            "a body in a GET",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            passed("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n", "hi"),
        ),
        row(
            "a body in chunks",
            format!("POST / HTTP/1.1\r\n{chunked}5\r\nhello\r\n0\r\n\r\n"),
            passed(&format!("POST / HTTP/1.1\r\n{got_chunked}"), "5\r\nhello\r\n0\r\n\r\n"),
        ),
        row(
            "chunks with extensions, which end here",
            format!("POST / HTTP/1.1\r\n{chunked}5;a=\"b\"\r\nhello\r\n0\r\n\r\n"),
            passed(&format!("POST / HTTP/1.1\r\n{got_chunked}"), "5\r\nhello\r\n0\r\n\r\n"),
        ),
        row(
            "chunks in a GET, with sizes in capitals and leading zeros",
            format!("GET / HTTP/1.1\r\n{chunked}000A\r\n0123456789\r\n0\r\n\r\n"),
            passed(&format!("GET / HTTP/1.1\r\n{got_chunked}"), "A\r\n0123456789\r\n0\r\n\r\n"),
        ),
        row(
            "fields after the chunks",
            format!("POST / HTTP/1.1\r\nTrailer: x\r\n{chunked}2\r\nhi\r\n0\r\nX: y\r\n\r\n"),
            passed(
                &format!("POST / HTTP/1.1\r\ntrailer: x\r\n{got_chunked}"),
                "2\r\nhi\r\n0\r\nx: y\r\n\r\n",
            ),
        ),
        row(
            "a client that waits for 100 Continue",
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
            format!(
                "HTTP/1.1 100 Continue\r\n\r\n{}",
                passed("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n", "hi")
            ),
        ),
        row(
            "HTTP/1.0 closes",
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            get.replacen("HTTP/1.1 200", "HTTP/1.0 200", 1),
        ),
        row(
            "HTTP/1.0 without a host is given one",
            "GET / HTTP/1.0\r\n\r\n",
            passed("GET / HTTP/1.1\r\nhost: 198.51.100.10:80\r\n", "").replacen(
                "HTTP/1.1 200",
                "HTTP/1.0 200",
                1,
            ),
        ),
        row(
            "HTTP/1.0 that stays",
            "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
            get.replacen("HTTP/1.1 200", "HTTP/1.0 200", 1).replacen(
                "\r\n\r\n",
                "\r\nconnection: keep-alive\r\n\r\n",
                1,
            ),
        ),
        row(
            "a client that closes",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            get.replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1),
        ),
        row(
            "what follows a request that closes is not read",
            ["GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", GET].concat(),
            get.replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1),
        ),
        row(
            "fields of one connection end here",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Private\r\nX-Private: 1\r\n\
             Keep-Alive: 5\r\nProxy-Connection: close\r\nTE: trailers, deflate\r\n\
             Upgrade: h2c\r\nX-Kept: 2\r\n\r\n",
            passed("GET / HTTP/1.1\r\nhost: a\r\nx-kept: 2\r\n", ""),
        ),
        row(
            "no field can be smuggled out by naming it",
            "POST / HTTP/1.1\r\nHost: a\r\nCookie: c\r\nContent-Length: 2\r\n\
             Connection: host, content-length, cookie\r\n\r\nhi",
            passed("POST / HTTP/1.1\r\nhost: a\r\ncookie: c\r\ncontent-length: 2\r\n", "hi"),
        ),
        row(
            "a whole URL names the host",
            "GET http://b:81/x HTTP/1.1\r\nHost: a\r\n\r\n",
            passed("GET /x HTTP/1.1\r\nhost: b:81\r\n", ""),
        ),
        row(
            "a whole URL without a path",
            "GET http://b HTTP/1.1\r\nHost: a\r\n\r\n",
            passed("GET / HTTP/1.1\r\nhost: b\r\n", ""),
        ),
        row(
            "a whole URL with a query at once, and a scheme in capitals",
            "GET HTTPS://[::1]:80?q HTTP/1.1\r\nHost: a\r\n\r\n",
            passed("GET /?q HTTP/1.1\r\nhost: [::1]:80\r\n", ""),
        ),
        row(
            "what looks like a host is a path behind a slash",
            "GET //b/@c HTTP/1.1\r\nHost: a\r\n\r\n",
            passed("GET //b/@c HTTP/1.1\r\nhost: a\r\n", ""),
        ),
        row(
            "OPTIONS of the server itself",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            passed("OPTIONS * HTTP/1.1\r\nhost: a\r\n", ""),
        ),
        row(
            "a method of one's own",
            "BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n",
            passed("BREW /pot HTTP/1.1\r\nhost: a\r\n", ""),
        ),
        row(
            "several fields of a name, and a value with spaces and high bytes",
            "GET / HTTP/1.1\r\nHost: a\r\nX:  1 \r\nX:\r\nX: \u{e9} \t2\r\n\r\n",
            passed("GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\nx: \r\nx: \u{e9} \t2\r\n", ""),
        ),
        row(
            "HEAD has the length and no body",
            "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\ndate: today\r\nserver: s1\r\ncontent-length: 28\r\n\r\n",
        ),
    ]
}

fn requests_that_are_refused() -> Vec<Row> {
    let post = |rest: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{rest}");
    let get = |rest: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{rest}\r\n\r\n");
    let chunks = |rest: &str| post(&format!("Transfer-Encoding: chunked\r\n\r\n{rest}"));
    vec![
        bad(
            "a bare line feed after the request line",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "bare_line_end",
        ),
        bad("bare line feeds throughout", "GET / HTTP/1.1\nHost: a\n\n", "bare_line_end"),
        bad("a bare line feed in a field", get("X: a\nY: b"), "bare_line_end"),
        bad("a bare carriage return in a field", get("X: a\rY: b"), "bare_line_end"),
        bad("a field folded by a space", get("X: a\r\n b"), "folded_field"),
        bad("a field folded by a tab", get("X: a\r\n\tb"), "folded_field"),
        bad("a space before the colon", get("Content-Length : 5"), "malformed"),
        bad("a field without a colon", get("X"), "malformed"),
        bad("a field without a name", get(": x"), "malformed"),
        bad("a name with a forbidden byte", get("X(y): 1"), "malformed"),
        bad("a name with a high byte", get("X\u{e9}: 1"), "malformed"),
        bad("a zero byte in a value", get("X: \0"), "malformed"),
        bad("a control byte in a value", get("X: \u{1b}[m"), "malformed"),
        bad("no host", "GET / HTTP/1.1\r\n\r\n", "bad_host"),
        bad("two hosts", get("Host: b"), "bad_host"),
        bad("a host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "bad_host"),
        bad("a host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "bad_host"),
        bad(
            "two lengths that differ",
            post("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
            "bad_length",
        ),
        bad(
            "two lengths that agree",
            post("Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
            "bad_length",
        ),
        bad("two lengths in one field", post("Content-Length: 5, 5\r\n\r\nhello"), "bad_length"),
        bad("a length with a sign", post("Content-Length: +5\r\n\r\nhello"), "bad_length"),
        bad("a negative length", post("Content-Length: -5\r\n\r\nhello"), "bad_length"),
        bad("a hexadecimal length", post("Content-Length: 0x5\r\n\r\nhello"), "bad_length"),
        bad("a length that is empty", post("Content-Length:\r\n\r\n"), "bad_length"),
        bad(
            "a length that is too long",
            post("Content-Length: 18446744073709551616\r\n\r\n"),
            "bad_length",
        ),
        bad(
            "length and chunks",
            post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            "bad_length",
        ),
        bad(
            "chunks and length",
            post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
            "bad_length",
        ),
        bad(
            "chunks twice",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            "bad_length",
        ),
        bad(
            "chunks and then something",
            post("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
            "bad_length",
        ),
        bad("nearly chunks", post("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), "bad_length"),
        bad(
            "chunks behind a vertical tab",
            post("Transfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n"),
            "malformed",
        ),
        bad(
            "chunks in HTTP/1.0",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "bad_length",
        ),
        row(
            "another coding",
            post("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            refusal("501 Not Implemented", "unknown_coding"),
        ),
        row(
            "another version",
            "GET / HTTP/2.1\r\nHost: a\r\n\r\n",
            refusal("505 HTTP Version Not Supported", "unknown_version"),
        ),
        row(
            "another expectation",
            get("Expect: 200-ok"),
            refusal("417 Expectation Failed", "unknown_expectation"),
        ),
        bad("no version", "GET /\r\n\r\n", "malformed"),
        bad("a version in small letters", "GET / http/1.1\r\nHost: a\r\n\r\n", "malformed"),
        bad("two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "malformed"),
        bad("a space at the end of the line", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "malformed"),
        bad("a space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "malformed"),
        bad("a high byte in the target", "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", "malformed"),
        bad("a fragment in the target", "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", "malformed"),
        bad("a host in place of a path", "GET echo HTTP/1.1\r\nHost: x\r\n\r\n", "malformed"),
        bad(
            "a host and port in place of a path",
            "GET b:80 HTTP/1.1\r\nHost: a\r\n\r\n",
            "malformed",
        ),
        bad("a path without its slash", "GET b/c HTTP/1.1\r\nHost: a\r\n\r\n", "malformed"),
        bad("a query alone", "GET ?x HTTP/1.1\r\nHost: a\r\n\r\n", "malformed"),
        bad("a star that is not for OPTIONS", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", "malformed"),
        bad("a URL of no HTTP", "GET ftp://o/ HTTP/1.1\r\nHost: a\r\n\r\n", "malformed"),
        bad("a URL without a host", "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", "malformed"),
        bad("a URL with a port alone", "GET http://:80/ HTTP/1.1\r\nHost: a\r\n\r\n", "malformed"),
        bad("a URL with a wrong port", "GET http://b:c/ HTTP/1.1\r\nHost: a\r\n\r\n", "malformed"),
        bad(
            "a URL with a name and password",
            "GET http://u:p@other/echo HTTP/1.1\r\nHost: a\r\n\r\n",
            "bad_host",
        ),
        bad("a URL and no host", "GET http://b/ HTTP/1.1\r\n\r\n", "bad_host"),
        bad("a host with a name", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "bad_host"),
        bad("CONNECT to a path", "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", "malformed"),
        bad("a method that is no word", "G@T / HTTP/1.1\r\nHost: a\r\n\r\n", "malformed"),
        bad("TLS", "\u{16}\u{3}\u{1}\r\n\r\n", "malformed"),
        row(
            "CONNECT",
            "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
            refusal("501 Not Implemented", "refused_method").replacen(
                "connection: close\r\n",
                "",
                1,
            ),
        ),
        bad("a chunk with no size", chunks("\r\nhello\r\n0\r\n\r\n"), "bad_chunk"),
        bad("a chunk size with a prefix", chunks("0x5\r\nhello\r\n0\r\n\r\n"), "bad_chunk"),
        bad("a chunk size with a space", chunks("5 \r\nhello\r\n0\r\n\r\n"), "bad_chunk"),
        bad("a chunk size with a sign", chunks("+5\r\nhello\r\n0\r\n\r\n"), "bad_chunk"),
        bad(
            "a chunk size that is too long",
            chunks("10000000000000005\r\nhello\r\n0\r\n\r\n"),
            "bad_chunk",
        ),
        bad("a chunk size with a bare line feed", chunks("5\nhello\r\n0\r\n\r\n"), "bare_line_end"),
        bad(
            "an extension with a bare line feed",
            chunks("5;a\nb\r\nhello\r\n0\r\n\r\n"),
            "bare_line_end",
        ),
        bad("a chunk longer than its size", chunks("5\r\nhello!\r\n0\r\n\r\n"), "bad_chunk"),
        bad("a chunk with a bare line feed", chunks("5\r\nhello\n0\r\n\r\n"), "bad_chunk"),
        bad("a length after the chunks", chunks("0\r\nContent-Length: 5\r\n\r\n"), "malformed"),
        bad("a folded field after the chunks", chunks("0\r\n X: y\r\n\r\n"), "folded_field"),
        row(
            "a line that is too long",
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(4096)),
            refusal("431 Request Header Fields Too Large", "header_too_large"),
        ),
        row(
            "too many fields",
            get(&"X: y\r\n".repeat(100)),
            refusal("431 Request Header Fields Too Large", "header_too_large"),
        ),
        row(
            "a body that says it is too long",
            post("Content-Length: 1001\r\n\r\n"),
            refusal("413 Payload Too Large", "body_too_large"),
        ),
        row(
            "chunks that become too long",
            chunks(&format!("3e8\r\n{}\r\n1\r\nx\r\n0\r\n\r\n", "x".repeat(1000))),
            refusal("413 Payload Too Large", "body_too_large"),
        ),
        row(
            "a good request, and then a bad one",
            format!("{GET}GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
            format!(
                "{}{}",
                passed("GET / HTTP/1.1\r\nhost: a\r\n", ""),
                refusal("400 Bad Request", "malformed")
            ),
        ),
        row(
            "a bad request, and then a good one",
            format!("GET / HTTP/1.1\r\nHost : a\r\n\r\n{GET}"),
            refusal("400 Bad Request", "malformed"),
        ),
    ]
}

#[test]
fn what_clients_say_of_themselves_is_taken_out_when_it_is_set() {
    if !wait::is_root_or_skip() {
        return;
    }
    let said = "Forwarded: for=6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Port: 1\r\n";
    let sent = format!("GET / HTTP/1.1\r\nHost: a\r\n{said}\r\n");
    let x = "x-forwarded-for: 10.1.0.2\r\nx-forwarded-proto: http\r\nx-forwarded-host: a\r\n";
    let rfc = "forwarded: for=10.1.0.2;proto=http\r\n";
    for (fields, told) in [("x-forwarded", x), ("forwarded", rfc), ("both", &*[x, rfc].concat())] {
        let rig = Rig::new("http", &format!("forwarded_fields = \"{fields}\""), 1);
        let got = passed(&format!("GET / HTTP/1.1\r\nhost: a\r\n{told}"), "");
        check(&rig, &[row(fields, sent.clone(), got)]);
    }
}

fn rig() -> Rig {
    Rig::new("http", "forwarded = \"off\"\nmax_header_bytes = 4096\nmax_body_bytes = 1000\n", 1)
}

/// Checks rows in one piece, and then byte by byte, which must not matter.
fn check(rig: &Rig, rows: &[Row]) {
    let mut wrong = String::new();
    for Row { name, sent, got } in rows {
        // A chunk that comes in pieces may go on as several.
        let is_passed_in_chunks = got.contains("transfer-encoding: chunked");
        for pieces in [sent.len(), if is_passed_in_chunks { sent.len() } else { 7 }] {
            let mut stream = rig.connect();
            for piece in sent.as_bytes().chunks(pieces) {
                // A refusal may come before the last piece has gone.
                if stream.write_all(piece).is_err() {
                    break;
                }
            }
            let seen = read_all_of(&mut stream, got);
            if seen != *got {
                wrong +=
                    &format!("{name}, in pieces of {pieces}:\n  got  {seen:?}\n  want {got:?}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}{}", rig.balancer.log());
}

#[test]
fn requests_with_one_reading_pass() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = rig();
    let rows = requests_that_pass();
    check(&rig, &rows);
    assert!(rig.servers[0].connections() < rows.len(), "connections to servers are used again");
}

#[test]
fn requests_with_two_readings_and_others_that_cannot_be_are_refused() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = rig();
    let rows = requests_that_are_refused();
    assert!(rows.len() + requests_that_pass().len() >= 60);
    check(&rig, &rows);
    for reason in
        ["bare_line_end", "folded_field", "malformed", "bad_host", "bad_length", "bad_chunk"]
    {
        assert!(rig.outcomes(reason) > 0, "{reason} is counted");
    }
    assert_eq!(rig.outcomes("body_too_large"), 4);
    assert_eq!(rig.outcomes("unknown_version"), 2);
}

/// What a client asks by (a method, or a field of a GET), what a server says, and what the client gets of it.
#[test]
fn answers_pass_as_they_are() {
    if !wait::is_root_or_skip() {
        return;
    }
    let rig = rig();
    let rows: &[(&str, &str, &str, &str)] = &[
        (
            "a body in chunks",
            "GET",
            "HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ndate: d\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "fields after the chunks, which nobody has asked for",
            "GET",
            "HTTP/1.1 200 OK\r\nDate: d\r\nTrailer: x\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nX: y\r\n\r\n",
            "HTTP/1.1 200 OK\r\ndate: d\r\ntrailer: x\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "fields after the chunks",
            "TE: trailers",
            "HTTP/1.1 200 OK\r\nDate: d\r\nTrailer: x\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nX: y\r\n\r\n",
            "HTTP/1.1 200 OK\r\ndate: d\r\ntrailer: x\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nx: y\r\n\r\n",
        ),
        (
            "length and chunks",
            "GET",
            "HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ndate: d\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "fields of one connection",
            "GET",
            "HTTP/1.1 200 OK\r\nDate: d\r\nConnection: X-Own\r\nX-Own: 1\r\nKeep-Alive: 5\r\n\
             Content-Length: 2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\ndate: d\r\ncontent-length: 2\r\n\r\nhi",
        ),
        (
            "two cookies",
            "GET",
            "HTTP/1.1 302 Found\r\nDate: d\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
             Content-Length: 0\r\n\r\n",
            "HTTP/1.1 302 Found\r\ndate: d\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\
             content-length: 0\r\n\r\n",
        ),
        (
            "nothing",
            "GET",
            "HTTP/1.1 204 No Content\r\nDate: d\r\n\r\n",
            "HTTP/1.1 204 No Content\r\ndate: d\r\n\r\n",
        ),
        (
            "not modified",
            "GET",
            "HTTP/1.1 304 Not Modified\r\nDate: d\r\nETag: x\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\ndate: d\r\netag: x\r\n\r\n",
        ),
        (
            "a word before the answer",
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nDate: d\r\n\
             Content-Length: 2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\ndate: d\r\ncontent-length: 2\r\n\r\nhi",
        ),
        (
            "HEAD in chunks",
            "HEAD",
            "HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ndate: d\r\n\r\n",
        ),
    ];
    let mut wrong = String::new();
    for (place, (name, method, said, got)) in rows.iter().enumerate() {
        let row = place.to_string();
        rig.servers[0].on(&row, Reply::Bytes(said.as_bytes().to_vec()));
        let mut stream = rig.connect();
        // The second is there to show that the first was understood to its end.
        let (method, more) = match method.split_once(' ') {
            Some(_) => ("GET", format!("{method}\r\n")),
            None => (*method, String::new()),
        };
        let ask = format!("{method} / HTTP/1.1\r\nHost: a\r\n{more}Row: {row}\r\n\r\n");
        for _ in 0..2 {
            stream.write_all(ask.as_bytes()).unwrap();
            let seen = read_like(&mut stream, got);
            if seen != *got {
                wrong += &format!("{name}:\n  got  {seen:?}\n  want {got:?}\n");
            }
        }
        let rest = finish(&mut stream);
        assert_eq!(rest, "", "{name}");
    }
    assert!(wrong.is_empty(), "{wrong}{}", rig.balancer.log());
    let complete = 2 * rows.len() as u64;
    wait::until_true("all are counted as complete", || rig.outcomes("answered") == complete);
    assert_eq!(rig.outcomes("client_gone"), 0);
}
