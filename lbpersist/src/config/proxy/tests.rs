use std::time::Duration;

use crate::{
    config::parse,
    model::{
        AccessLog, Carried, Forwarded, ForwardedFields, HttpSettings, HttpTimeouts, LinkSettings,
        Mode, ProxyProtocol, ProxySettings, ServerProtocol,
    },
};

/// A small valid file.
const SMALL: &str = r#"[[virtual_service]]
name = "web"
address = "198.51.100.10"
port = 80
pool = "web"
[[pool]]
name = "web"
servers = [{ address = "10.0.0.11", port = 8080 }]
"#;

#[test]
fn every_setting_of_the_proxy_arrives() {
    let fields = r#"
header_timeout = "1s"
body_timeout = "2s"
idle_timeout = "3s"
write_timeout = "4s"
connect_timeout = "5s"
response_timeout = "6s"
response_body_timeout = "7s"
upgraded_timeout = "8s"
server_idle_timeout = "9s"
max_header_bytes = 1024
max_body_bytes = 0
max_streams = 1
max_idle_connections = 0
retries = 0
forwarded = "append"
forwarded_fields = "both"
server_protocol = "h2"
proxy_protocol_receive = true
proxy_protocol_send = "v1"
transparent = true
access_log = "json"
"#;
    let table = format!("pool = \"web\"\nmode = \"http\"\n[virtual_service.http]{fields}");
    let text = SMALL.replacen("pool = \"web\"\n", &table, 1);
    let text = text + "[proxy]\nthreads = 3\nstop_timeout = \"1m\"\n";
    let [
        header,
        body,
        idle,
        write,
        connect_timeout,
        response,
        response_body,
        upgraded,
        server_idle,
    ] = [1, 2, 3, 4, 5, 6, 7, 8, 9].map(Duration::from_secs);
    let expected = HttpSettings {
        link: LinkSettings {
            connect_timeout,
            retries: 0,
            proxy_protocol_receive: true,
            proxy_protocol_send: Some(ProxyProtocol::V1),
            transparent: true,
        },
        timeouts: HttpTimeouts {
            header,
            body,
            idle,
            write,
            response,
            response_body,
            upgraded,
            server_idle,
        },
        max_header_bytes: 1024,
        max_body_bytes: Some(0),
        max_streams: 1,
        max_idle_connections: 0,
        forwarded: Forwarded::Append,
        forwarded_fields: ForwardedFields::Both,
        server_protocol: ServerProtocol::H2,
        access_log: AccessLog::Json,
    };
    let model = parse(&text).unwrap();
    assert_eq!(model.services["web"].mode, Mode::Http);
    assert_eq!(model.services["web"].carried, Some(Carried::Http(Box::new(expected))));
    let proxy = ProxySettings { threads: Some(3), stop_timeout: Duration::from_secs(60) };
    assert_eq!(model.proxy, proxy);
}

#[test]
fn a_mode_and_its_table_go_together() {
    for (lines, expected) in [
        (
            "mode = \"http\"\nprotocol = \"udp\"",
            "5: virtual_service `web` of mode `http` must have protocol `tcp`, not `udp`",
        ),
        (
            "mode = \"http\"\ntcp = {}",
            "6: table `tcp` of virtual_service `web` needs `mode = \"tcp\"`",
        ),
        (
            "http = { header_timout = \"1s\" }",
            "5: table `http` of virtual_service `web` needs `mode = \"http\"`\n5: unknown field `header_timout` in http of virtual_service `web`; did you mean `header_timeout`?",
        ),
        (
            "mode = \"http\"\nhttp = { transparent = 1 }",
            "6: `transparent` must be true or false, not an integer",
        ),
        (
            "mode = \"tcp\"\ntcp = { proxy_protocol_send = \"v3\" }",
            "6: `proxy_protocol_send` must be `off`, `v1` or `v2`, not `v3`; did you mean `v1`?",
        ),
    ] {
        let text = SMALL.replacen("pool = \"web\"", &format!("{lines}\npool = \"web\""), 1);
        assert_eq!(parse(&text).expect_err(&text).to_string(), expected);
    }
}

#[test]
fn the_daemon_listens_on_one_address_and_port() {
    let text = SMALL
        .replacen("10\"\nport = 80", "0/24\"\nport = \"all\"\nmode = \"tcp\"", 1)
        .replacen(", port = 8080", "", 1);
    let expected = "\
5: virtual_service `web` of mode `tcp` must have one address, not a prefix
5: virtual_service `web` of mode `tcp` must have one port, not all";
    assert_eq!(parse(&text).expect_err(&text).to_string(), expected);
}

#[test]
fn servers_behind_the_daemon_may_be_of_any_family_and_shared() {
    let text = SMALL.replacen("pool = \"web\"\n", "pool = \"web\"\nmode = \"http\"\n", 1)
        + "[[virtual_service]]\nname = \"b\"\naddress = \"2001:db8::1\"\nport = 81\nmode = \"tcp\"\npool = \"web\"\n";
    assert!(parse(&text).is_ok());
}
