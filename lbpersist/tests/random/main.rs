//! Many thousand headers and requests, right ones changed at random and such of nothing but chance, read in every way.

#[path = "../../../lbpersist-packet/tests/random/inputs.rs"]
mod inputs;
mod reading;

use inputs::Inputs;

/// Inputs of each kind.
const INPUTS: usize = 20_000;

/// What means something between others.
const WORDS: [&[u8]; 14] = [
    b";",
    b"=",
    b"\r\n",
    b"\n",
    b" ",
    b"\"",
    b"&",
    b"?",
    b"LB=",
    b"s=",
    b"0\r\n\r\n",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
];

#[test]
fn cookies_of_any_bytes_are_read_in_one_way_and_none_is_forged() {
    let keys = reading::keyring();
    let seeds: [&[u8]; 7] = [
        b"a=1; LB=xyz; b=\"2 3\"; c",
        b"LB=AQAAAAIB; LB=; =; LB",
        b"JSESSIONID=0123456789abcdef; Path=/; Max-Age=60; HttpOnly",
        b"JSESSIONID=; max-age = -1",
        b"$Version=1; LB=\"q\"; a=b=c",
        b"AQAAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        b"AQAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ];
    let inputs = Inputs::new(0x9e37_79b9_7f4a_7c15, &seeds, &WORDS);
    inputs.take(INPUTS).for_each(|bytes| reading::cookie(&keys, &bytes));
}

#[test]
fn requests_of_any_bytes_have_one_reading_however_they_are_cut() {
    let seeds: [&[u8]; 8] = [
        b"GET /a;s=1/b?x=2&s=3 HTTP/1.1\r\nHost: h\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: h\r\nContent-Length: 4\r\n\r\nbodyGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"PUT /?s= HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nbody\r\n0\r\nT: v\r\n\r\n",
        b"GET http://h:8080/ HTTP/1.0\r\nConnection: keep-alive, x, te\r\nX: 1\r\nTE: trailers\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4000 80\r\nGET / HTTP/1.1\r\n",
        b"PROXY TCP6 2001:db8::1 2001:db8::2 4000 80\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\x0f\xa0\0\x50GET /",
    ];
    let inputs = Inputs::new(0x2545_f491_4f6c_dd1d, &seeds, &WORDS);
    inputs.take(INPUTS).for_each(|bytes| reading::request(&bytes));
}
