//! What monitors may say, and what they are told when they may not.

use std::{path::PathBuf, time::Duration};

use crate::{
    config::parse,
    model::{
        Certificate, ExternalCheck, HealthMonitor, HealthRule, HttpCheck, MonitorKind, Pattern,
        StatusRanges, TlsCheck, UdpCheck,
    },
};

/// A pool with one monitor, whose table begins on line 5.
fn text(fields: &str) -> String {
    format!(
        "[[pool]]\nname = \"p\"\nservers = [{{ address = \"10.0.0.1\" }}]\nhealth_monitors = [\"m\"]\n\
         [[health_monitor]]\nname = \"m\"\n{fields}\n"
    )
}

fn monitor(fields: &str) -> HealthMonitor {
    let model = parse(&text(fields)).unwrap_or_else(|problems| panic!("{fields}: {problems}"));
    model.pools["p"].health_monitors[0].clone()
}

fn problems(fields: &str) -> String {
    parse(&text(fields)).expect_err(fields).to_string()
}

fn http() -> HttpCheck {
    HttpCheck {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        host: None,
        headers: Vec::new(),
        status: StatusRanges::default(),
        body: None,
        tls: None,
    }
}

#[test]
fn every_type_has_its_settings() {
    let owned = str::to_owned;
    let whole = HttpCheck {
        method: owned("HEAD"),
        path: owned("/a?b=c"),
        host: Some(owned("example.com:8443")),
        headers: vec![(owned("Accept"), owned("text/plain")), (owned("X-A"), owned(""))],
        status: StatusRanges::parse("200, 404").unwrap(),
        body: Some(Pattern::expression("^ok$").unwrap()),
        tls: None,
    };
    let whole_text = "method = \"HEAD\"\npath = \"/a?b=c\"\nhost = \"example.com:8443\"\n\
        headers = { Accept = \"text/plain\", X-A = \"\" }\nstatus = \"200,404\"\nbody_regex = '^ok$'\n";
    let named = TlsCheck { server_name: Some(owned("example.com")), certificate: Certificate::Any };
    let signed = TlsCheck {
        server_name: Some(owned("other.example")),
        certificate: Certificate::SignedBy(PathBuf::from("/ca.pem")),
    };
    let trusted = TlsCheck { server_name: None, certificate: Certificate::Trusted };
    let http_kind = |check: HttpCheck| MonitorKind::Http(Box::new(check));
    let udp = |request: &[u8], answer: Option<&[u8]>| {
        MonitorKind::Udp(UdpCheck { request: request.to_vec(), answer: answer.map(<[u8]>::to_vec) })
    };
    for (fields, expected) in [
        (owned(""), MonitorKind::Tcp),
        (owned("type = \"tcp\""), MonitorKind::Tcp),
        (owned("type = \"icmp\""), MonitorKind::Icmp),
        (owned("type = \"http\""), http_kind(http())),
        (format!("type = \"http\"\n{whole_text}"), http_kind(whole.clone())),
        (
            format!("type = \"https\"\n{whole_text}"),
            http_kind(HttpCheck { tls: Some(named), ..whole.clone() }),
        ),
        (
            format!(
                "type = \"https\"\nserver_name = \"other.example\"\nca_file = \"/ca.pem\"\n{whole_text}"
            ),
            http_kind(HttpCheck { tls: Some(signed.clone()), ..whole }),
        ),
        (
            owned("type = \"https\"\nhost = \"10.0.0.1:80\"\nbody = \"ready\""),
            http_kind(HttpCheck {
                host: Some(owned("10.0.0.1:80")),
                body: Some(Pattern::Text(owned("ready"))),
                tls: Some(TlsCheck::default()),
                ..http()
            }),
        ),
        (owned("type = \"tls\""), MonitorKind::Tls(TlsCheck::default())),
        (owned("type = \"tls\"\ncheck_certificate = true"), MonitorKind::Tls(trusted)),
        (
            owned(
                "type = \"tls\"\ncheck_certificate = true\nca_file = \"/ca.pem\"\nserver_name = \"other.example\"",
            ),
            MonitorKind::Tls(signed),
        ),
        (owned("type = \"udp\"\nrequest = \"\""), udp(b"", None)),
        (
            owned("type = \"udp\"\nrequest = \"ping\\n\"\nanswer = \"pong\""),
            udp(b"ping\n", Some(b"pong")),
        ),
        (
            owned("type = \"udp\"\nrequest_hex = \"00 fF 10\"\nanswer_hex = \"0a\""),
            udp(&[0, 255, 16], Some(&[10])),
        ),
        (
            owned("type = \"external\"\ncommand = [\"/bin/check\", \"-v\", \"\"]"),
            MonitorKind::External(ExternalCheck {
                program: PathBuf::from("/bin/check"),
                arguments: vec![owned("-v"), owned("")],
            }),
        ),
    ] {
        assert_eq!(monitor(&fields).kind, expected, "{fields}");
    }
}

#[test]
fn times_and_places_are_read_for_every_type() {
    let fields = "interval = \"10s\"\nfast_interval = \"1s\"\njitter = 0\ntimeout = \"3s\"\nrise = 4\nfall = 5\n\
        address = \"::1\"\nport = 99";
    let read = monitor(fields);
    assert_eq!(
        [read.interval, read.fast_interval, read.timeout],
        [10, 1, 3].map(Duration::from_secs)
    );
    assert_eq!((read.jitter, read.rise, read.fall), (0, 4, 5));
    assert_eq!((read.address, read.port), (Some("::1".parse().unwrap()), Some(99)));
    assert_eq!(monitor("interval = \"7s\"").fast_interval, Duration::from_secs(7));
}

#[test]
fn a_pool_has_a_rule_and_a_slow_start() {
    let text = text("")
        .replace("health_monitors", "health_rule = \"any\"\nslow_start = \"90s\"\nhealth_monitors");
    let pool = parse(&text).unwrap().pools["p"].clone();
    assert_eq!((pool.health_rule, pool.slow_start), (HealthRule::Any, Duration::from_secs(90)));
    let wrong = text.replace("any", "some").replace("90s", "2h");
    assert_eq!(
        parse(&wrong).unwrap_err().to_string(),
        "4: `health_rule` must be `all` or `any`, not `some`\n\
         5: `slow_start` must be \"0\" or a duration up to 1h, not 2h"
    );
}

#[test]
fn every_wrong_value_is_told_with_its_line() {
    let long = format!("type = \"http\"\nbody = \"{}\"", "x".repeat(1025));
    for (fields, expected) in [
        (
            "type = \"ftp\"",
            "7: `type` must be `tcp`, `tls`, `http`, `https`, `udp`, `icmp` or `external`, not `ftp`",
        ),
        ("path = \"/\"", "7: `path` is for monitors of type `http` and `https`, not `tcp`"),
        (
            "type = \"http\"\nca_file = \"/x\"",
            "8: `ca_file` is for monitors of type `tls` and `https`, not `http`",
        ),
        (
            "type = \"icmp\"\nport = 5",
            "8: `port` is for monitors of type `tcp`, `tls`, `http`, `https`, `udp` and `external`, not `icmp`",
        ),
        ("pth = \"/\"", "7: unknown field `pth` in health_monitor `m`; did you mean `path`?"),
        (
            "interval = \"1s\"\nfast_interval = \"2s\"",
            "8: `fast_interval` 2s must not be longer than `interval`, 1s",
        ),
        ("jitter = 51", "7: `jitter` must be an integer from 0 to 50, not 51"),
        (
            "address = \"nowhere\"",
            "7: `address` must be the IPv4 or IPv6 address of a machine, not `nowhere`",
        ),
        (
            "address = \"0.0.0.0\"",
            "7: `address` must be the IPv4 or IPv6 address of a machine, not `0.0.0.0`",
        ),
        (
            "type = \"http\"\nmethod = \"get it\"",
            "8: `method` must be a method such as GET, not `get it`",
        ),
        (
            "type = \"http\"\npath = \"health\"",
            "8: `path` must be a path that begins with /, not `health`",
        ),
        (
            "type = \"http\"\npath = \"/a b\"",
            "8: `path` must be a path that begins with /, not `/a b`",
        ),
        (
            "type = \"http\"\nhost = \"http://x\"",
            "8: `host` must be a host name, with a port or without, not `http://x`",
        ),
        (
            "type = \"http\"\nstatus = \"200-\"",
            "8: `status` must be ranges such as \"200-299, 401\" from 100 to 599, which `200-` is not",
        ),
        (
            "type = \"http\"\nstatus = \"200,,\"",
            "8: `status` must be ranges such as \"200-299, 401\" with something between the commas",
        ),
        ("type = \"http\"\nstatus = 200", "8: `status` must be a string, not an integer"),
        ("type = \"http\"\nbody = \"\"", "8: `body` must not be empty"),
        (&long, "8: `body` must be at most 1024 bytes long, not 1025"),
        (
            "type = \"http\"\nbody_regex = \"(\"",
            "8: `body_regex` must be a regular expression: unclosed group",
        ),
        (
            "type = \"http\"\nbody = \"a\"\nbody_regex = \"b\"",
            "8: `body` and `body_regex` are both there; one says it all",
        ),
        (
            "type = \"http\"\nheaders = 5",
            "8: `headers` must be a table of header names and strings, not an integer",
        ),
        (
            "type = \"http\"\nheaders = { \"a b\" = \"c\" }",
            "8: `headers`: `a b` is no name of a header",
        ),
        (
            "type = \"http\"\nheaders = { HOST = \"c\" }",
            "8: `headers`: header `HOST` cannot be set here",
        ),
        (
            "type = \"http\"\nheaders = { A = \"b\\r\\nC: d\" }",
            "8: `headers`: header `A` must be a string of printable ASCII",
        ),
        (
            "type = \"http\"\nheaders = { A = 5 }",
            "8: `headers`: header `A` must be a string of printable ASCII",
        ),
        (
            "type = \"tls\"\nserver_name = \"a_b..c\"",
            "8: `server_name` must be a host name, not `a_b..c`",
        ),
        (
            "type = \"tls\"\ncheck_certificate = \"yes\"",
            "8: `check_certificate` must be true or false, not a string",
        ),
        (
            "type = \"tls\"\nca_file = \"ca.pem\"",
            "8: `ca_file` must be an absolute path, not `ca.pem`",
        ),
        (
            "type = \"tls\"\ncheck_certificate = false\nca_file = \"/ca.pem\"",
            "9: `ca_file` is of no use with `check_certificate = false` (line 8)",
        ),
        ("type = \"udp\"", "5: health_monitor `m` of type `udp` needs `request` or `request_hex`"),
        (
            "type = \"udp\"\nrequest_hex = \"0g\"",
            "8: `request_hex` must be pairs of hexadecimal digits, not `0g`",
        ),
        (
            "type = \"udp\"\nrequest_hex = \"012\"",
            "8: `request_hex` must be pairs of hexadecimal digits, not `012`",
        ),
        (
            "type = \"udp\"\nrequest = \"a\"\nrequest_hex = \"61\"",
            "8: `request` and `request_hex` are both there; one says it all",
        ),
        ("type = \"udp\"\nrequest = \"a\"\nanswer = \"\"", "9: `answer` must not be empty"),
        ("type = \"external\"", "5: health_monitor `m` of type `external` needs `command`"),
        ("type = \"external\"\ncommand = []", "8: `command` must not be empty"),
        (
            "type = \"external\"\ncommand = \"/bin/true\"",
            "8: `command` must be an array of strings, not a string",
        ),
        (
            "type = \"external\"\ncommand = [\"check\"]",
            "8: `command` must begin with the absolute path of a program, not `check`; no shell looks for it",
        ),
        (
            "type = \"external\"\ncommand = [\"/bin/a\", \"b\\u0000\"]",
            "8: `command` must have no zero bytes",
        ),
    ] {
        assert_eq!(problems(fields), expected, "{fields}");
    }
}

#[test]
fn all_problems_of_a_monitor_are_told_at_once() {
    let fields = "type = \"https\"\nmethod = 5\npath = \"x\"\nstatus = \"700\"\nserver_name = \"\"\nrise = 0";
    assert_eq!(problems(fields).lines().count(), 5, "{}", problems(fields));
}
