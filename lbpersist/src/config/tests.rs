use std::{path::Path, time::Duration};

use super::*;
use crate::model::{
    ClientIp, DataPathSettings, IdleLimits, Method, PersistenceProfile, PortRange, Scope,
    ServerDown,
};

mod any;
mod example;

use example::{example, monitor};

const EXAMPLE: &str = include_str!("../../../docs/lbpersist.example.toml");

/// A small valid file. Rows add to it or change a piece of it.
const SMALL: &str = r#"[[virtual_service]]
name = "web"
address = "198.51.100.10"
port = 80
pool = "web"
[[pool]]
name = "web"
servers = [{ address = "10.0.0.11", port = 8080 }]
"#;

fn problems(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

/// The problems of the small file after `from` became `to`.
fn changed(from: &str, to: &str) -> String {
    assert!(SMALL.contains(from), "{from}");
    problems(&SMALL.replacen(from, to, 1))
}

#[test]
fn an_empty_file_is_a_model_with_the_defaults() {
    assert_eq!(parse(""), Ok(Model::default()));
}

#[test]
fn a_profile_with_defaults_and_one_that_is_off() {
    for (fields, timeout) in [("", 300), ("timeout = \"0\"", 0), ("timeout = \"8s\"", 8)] {
        let text = SMALL.replace("servers", "persistence_profile = \"p\"\nservers")
            + "[[persistence_profile]]\nname = \"p\"\n"
            + fields;
        let expected = PersistenceProfile {
            name: "p".to_owned(),
            method: Method::ClientIp(ClientIp {
                timeout: Duration::from_secs(timeout),
                ipv4_mask: 32,
                ipv6_mask: 128,
                scope: Scope::VirtualService,
            }),
            server_down: ServerDown::Immediate,
            fallback: None,
        };
        assert_eq!(parse(&text).unwrap().pools["web"].persistence, Some(expected));
    }
}

#[test]
fn every_setting_arrives() {
    let text = "[data_path]\nring_size = 11\nentry_table = 1024\nconnection_table = 2048\n\
        handshake_table = 4096\ntranslation_table = 2048\n\
         masquerade_ports = \"2000-2999\"\nsweep_interval = \"100ms\"\nanswer_echo = false\n\
        [idle_limits]\ntcp = \"1s\"\ntcp_closing = \"2s\"\nhandshake = \"3s\"\nudp = \"4s\"\n";
    let model = parse(text).unwrap();
    let data_path = DataPathSettings {
        ring_size: 11,
        entry_table: 1024,
        connection_table: 2048,
        handshake_table: 4096,
        translation_table: 2048,
        masquerade_ports: PortRange { first: 2000, last: 2999 },
        sweep_interval: Duration::from_millis(100),
        answer_echo: false,
    };
    let [tcp, tcp_closing, handshake, udp] = [1, 2, 3, 4].map(Duration::from_secs);
    assert_eq!(model.data_path, data_path);
    assert_eq!(model.idle_limits, IdleLimits { tcp, tcp_closing, handshake, udp });
}

#[test]
fn a_declared_monitor_takes_the_place_of_the_built_in_one() {
    let text = SMALL.replace("servers", "health_monitors = [\"tcp\"]\nservers");
    let built_in = parse(&text).unwrap().pools["web"].health_monitors.clone();
    assert_eq!(built_in, [monitor("tcp", [5000, 2000], None)]);
    let text = text + "[[health_monitor]]\nname = \"tcp\"\ninterval = \"1s\"\n";
    let declared = parse(&text).unwrap().pools["web"].health_monitors.clone();
    assert_eq!(declared, [monitor("tcp", [1000, 2000], None)]);
}

#[test]
fn all_errors_of_a_file_are_told_at_once_by_line() {
    let text = r#"interfaces = ["eth0", "eth0"]
colour = "red"
[data_path]
ring_size = 65536
sweep_interval = 5
[[virtual_service]]
name = "web"
adress = "198.51.100.10"
port = "80"
protocol = "tpc"
mode = "htpt"
pool = "wbe"
[[virtual_service]]
name = "web"
address = "::ffff:10.0.0.1"
port = 70000
pool = "web"
[[pool]]
name = "web"
algorithm = "random-too"
health_monitors = ["fsat", 5]
servers = [
  { address = "10.0.0.11", port = 8080, weight = 2000 },
  { address = "10.0.0.11", port = 8080, header_value = " x" },
  { prot = 8080 },
]
[[persistence_profile]]
name = ""
timeout = "5"
ipv4_mask = 33
[health_monitor]
name = "fast"
"#;
    let expected = r#"1: interface `eth0` is there already (line 1)
2: unknown field `colour`; known are `interfaces`, `daemon`, `data_path`, `flood_limits`, `idle_limits`, `proxy`, `virtual_service`, `pool`, `persistence_profile` and `health_monitor`
4: `ring_size` must be a prime, not 65536; the next one is 65537
5: `sweep_interval` must be a duration from 100ms to 1m, not the number 5; write a unit, as in "5s"
6: missing field `address` in virtual_service `web`
8: unknown field `adress` in virtual_service `web`; did you mean `address`?
9: `port` must be an integer from 1 to 65535 or "all", not `80`
10: `protocol` must be `tcp` or `udp`, not `tpc`; did you mean `tcp`?
11: `mode` must be `l4`, `tcp` or `http`, not `htpt`; did you mean `http`?
12: virtual_service `web` names pool `wbe`, which is not declared; did you mean `web` (line 18)?
14: virtual_service `web` is there already (line 7)
15: `address` must not be ::ffff:10.0.0.1: an IPv4 address is written as such; write 10.0.0.1
16: `port` must be an integer from 1 to 65535 or "all", not 70000
20: `algorithm` must be `maglev`, `round-robin`, `least-connections` or `random-two`, not `random-too`; did you mean `random-two`?
21: `health_monitors` must hold strings only, not an integer
21: pool `web` names health_monitor `fsat`, which is not declared; did you mean `fast` (line 31)?
23: `weight` must be an integer from 0 to 1000, not 2000
24: `header_value` must be 1 to 256 visible ASCII characters with no space at the ends, not ` x`
24: server 10.0.0.11 port 8080 is in pool `web` already (line 23)
25: unknown field `prot` in server of pool `web`; did you mean `port`?
25: missing field `address` in server of pool `web`
28: `name` must not be empty
29: `timeout` must be "0" or a duration up to 30d, not `5`, which has no unit; write "5s" for seconds
30: `ipv4_mask` must be an integer from 0 to 32, not 33
31: `health_monitor` must be tables, each written `[[health_monitor]]` or in an array, not one table, `[health_monitor]`"#;
    assert_eq!(problems(text), expected);
}

#[test]
fn syntax_errors_are_told_together_with_what_can_be_read() {
    let text = r#"interfaces = [eth0]
[[virtual_service]]
name = web
port = "80"
adress = "198.51.100.10"
[[pool]
name = "web"
servers = [
  { address = "10.0.0.11" port = 8080 },
]
[[pool]]
name = "b"
name = "c"
servers = [ { address = "127.0.0.1" }

[idle_limits]
tcp = "1w"
[idle_limits]
"#;
    let expected = r#"1: not TOML: string values must be quoted, expected literal string
3: not TOML: string values must be quoted, expected literal string
4: `port` must be an integer from 1 to 65535 or "all", not `80`
5: unknown field `adress` in virtual_service; did you mean `address`?
6: not TOML: unclosed array table, expected `]`
9: not TOML: missing comma between key-value pairs, expected `,`
13: `name` is there twice
14: not TOML: unclosed array, expected `]`
17: `tcp` must be a duration from 1s to 30d, not `1w`, whose unit `w` is none of `d`, `h`, `m`, `s` and `ms`
18: `idle_limits` is there twice"#;
    assert_eq!(problems(text), expected);
}

#[test]
fn what_a_value_may_not_be() {
    let long = "x".repeat(65);
    for (from, to, expected) in [
        (
            "\"198.51.100.10\"",
            "\"127.0.0.1\"",
            "3: `address` must not be 127.0.0.1: packets to a loopback address never reach XDP",
        ),
        (
            "\"10.0.0.11\"",
            "\"0.0.0.0\"",
            "8: `address` must not be 0.0.0.0: the unspecified address is nobody's",
        ),
        (
            "port = 80\n",
            "port = 0\n",
            "4: `port` must be an integer from 1 to 65535 or \"all\", not 0",
        ),
        (
            "port = 80\n",
            "port = 80.5\n",
            "4: `port` must be an integer from 1 to 65535 or \"all\", not a float",
        ),
        ("\"web\"", &format!("\"{long}\""), "2: `name` must be at most 64 bytes long, not 65"),
        ("\"web\"", "\"a\\nb\"", "2: `name` must have no control characters, as `a\\nb` has"),
        (
            "servers = [{ address = \"10.0.0.11\", port = 8080 }]",
            "",
            "6: missing field `servers` in pool `web`",
        ),
        (
            "servers = [{ address = \"10.0.0.11\", port = 8080 }]",
            "servers = []",
            "6: pool `web` has no servers",
        ),
        (
            "servers = [{ address = \"10.0.0.11\", port = 8080 }]",
            "servers = \"a\"",
            "8: `servers` must be tables, each written `[[servers]]` or in an array, not a string",
        ),
        (
            "port = 8080",
            "weight = 0",
            "6: pool `web` has no server for new clients: every weight is 0",
        ),
        (
            "[[virtual_service]]",
            "interfaces = [\"a/b\"]\n[[virtual_service]]",
            "1: interface `a/b` has a name that no interface can have",
        ),
        (
            "[[virtual_service]]",
            "interfaces = [\"sixteen-bytes-xx\"]\n[[virtual_service]]",
            "1: interface `sixteen-bytes-xx` must be at most 15 bytes long",
        ),
        (
            "servers",
            "forwarding = \"masquerade\"\nservers",
            "9: pool `web` (line 6) masquerades to server 10.0.0.11 but does not say from where; set \
             `masquerade_ipv4` to an address of this machine",
        ),
        (
            "[[virtual_service]]",
            "[data_path]\nmasquerade_ports = \"9-8\"\n[[virtual_service]]",
            "2: `masquerade_ports` must be two ports from 1 to 65535 with a `-` between, the lower first, not `9-8`",
        ),
        (
            "servers",
            "forwarding = \"direct\"\nservers",
            "9: server 10.0.0.11 of pool `web` has port 8080, but under direct packets keep the port 80 of \
             virtual_service `web` (line 1); leave `port` out",
        ),
        (
            "servers",
            "forwarding = \"tunnel\"\ntunnel_source_ipv6 = \"2001:db8::1\"\nservers",
            "10: pool `web` (line 6) tunnels to server 10.0.0.11 but does not say from where; set \
             `tunnel_source_ipv4` to an address of this machine",
        ),
        (
            "servers",
            "tunnel_source_ipv4 = \"2001:db8::1\"\nservers",
            "8: `tunnel_source_ipv4` must be an IPv4 address",
        ),
        (
            "[[virtual_service]]",
            "[data_path]\nring_size = 1000004\n[[virtual_service]]",
            "2: `ring_size` must be an integer from 11 to 1000003, not 1000004",
        ),
        (
            "[[virtual_service]]",
            "data_path = 5\n[[virtual_service]]",
            "1: `data_path` must be one table, written `[data_path]`, not an integer",
        ),
        (
            "pool = \"web\"",
            "pool = \"other\"",
            "5: virtual_service `web` names pool `other`, which is not declared",
        ),
        (
            "servers",
            "persistence_profile = \"p\"\nservers",
            "8: pool `web` names persistence_profile `p`, which is not declared",
        ),
        (
            "servers",
            "health_monitors = [\"tcp\", \"tcp\"]\nservers",
            "8: health_monitor `tcp` of pool `web` is there already (line 8)",
        ),
    ] {
        assert_eq!(changed(from, to), expected, "{to}");
    }
}

/// Services and servers that stand in each other's way, beside the small file's (service on line 1, server on line 8).
#[test]
fn who_would_answer_whom() {
    let service = |name: &str, address: &str, port: u16, pool: &str| {
        format!(
            "[[virtual_service]]\nname = \"{name}\"\naddress = \"{address}\"\nport = {port}\npool = \"{pool}\"\n"
        )
    };
    let pool = |servers: &str| format!("[[pool]]\nname = \"b\"\nservers = [\n{servers}\n]\n");
    let other = "203.0.113.9";
    const WHY: &str = "under nat, answers of a server are told apart by its address and port alone";
    for (more, expected) in [
        (
            service("b", "198.51.100.10", 80, "web"),
            "9: virtual_service `b` overlaps virtual_service `web` (line 1): both are 198.51.100.10 port 80 (tcp)".to_owned(),
        ),
        (
            service("b", other, 80, "web"),
            format!("9: virtual_service `b` and virtual_service `web` (line 1) both reach server 10.0.0.11 port 8080 (tcp) through pool `web`; {WHY}, so give each service a pool with ports of its own"),
        ),
        (
            service("b", other, 81, "web"),
            format!("9: virtual_service `b` and virtual_service `web` (line 1) both reach server 10.0.0.11 port 8080 (tcp) through pool `web`; {WHY}, so leave `port` out of the pool's servers, or give each service a pool with ports of its own"),
        ),
        (
            service("b", other, 8080, "b") + &pool("{ address = \"10.0.0.11\" }"),
            format!("17: server 10.0.0.11 port 8080 (tcp) of pool `b`, behind virtual_service `b` (line 9), is also in pool `web` (line 8), behind virtual_service `web` (line 1); {WHY}, so give it another port in one of the pools, or use one pool without fixed ports"),
        ),
        (
            service("b", other, 81, "b") + &pool("{ address = \"10.0.0.12\" },\n{ address = \"10.0.0.12\", port = 81 }"),
            "18: server 10.0.0.12 port 81 (tcp) is in pool `b` already (line 17): without a port it keeps that of virtual_service `b` (line 9)".to_owned(),
        ),
        (
            pool("{ address = \"10.0.0.12\" },\n{ address = \"10.0.0.12\" }"),
            "13: server 10.0.0.12 is in pool `b` already (line 12)".to_owned(),
        ),
        (
            service("b", other, 80, "b") + &pool("{ address = \"198.51.100.10\" }"),
            "17: server 198.51.100.10 port 80 (tcp) of pool `b` is virtual_service `web` itself (line 1); its packets would go round in circles".to_owned(),
        ),
        (
            service("b", "2001:db8::1", 80, "b") + &pool("{ address = \"10.0.0.12\" }"),
            "17: server 10.0.0.12 of pool `b` is IPv4, but virtual_service `b` (line 9) is IPv6; nat cannot change the family".to_owned(),
        ),
    ] {
        assert_eq!(problems(&format!("{SMALL}{more}")), expected, "{more}");
    }
}

#[test]
fn what_is_not_in_the_way_is_taken() {
    let udp = "[[virtual_service]]\nname = \"b\"\naddress = \"198.51.100.10\"\nport = 80\n\
        protocol = \"udp\"\npool = \"web\"\n";
    let unused = "[[pool]]\nname = \"b\"\nservers = [{ address = \"10.0.0.11\", port = 8080 }]\n";
    let same_machine = "[[pool]]\nname = \"b\"\nservers = [{ address = \"10.0.0.11\", port = 1 }]\n\
        [[virtual_service]]\nname = \"b\"\naddress = \"198.51.100.10\"\nport = 81\npool = \"b\"\n";
    for more in [udp, unused, same_machine] {
        assert!(parse(&format!("{SMALL}{more}")).is_ok(), "{more}");
    }
    // One pool without ports serves any number of ports of an address.
    let portless = SMALL.replace(", port = 8080", "");
    let second = udp.replace("80", "81").replace("udp", "tcp");
    assert!(parse(&format!("{portless}{second}")).is_ok());
}

#[test]
fn a_ring_must_have_room_for_every_server() {
    let server = |n| format!("{{ address = \"10.0.1.{n}\" }}");
    let servers: Vec<_> = (1..=12).map(server).collect();
    let pool = format!("[[pool]]\nname = \"p\"\nservers = [{}]\n", servers.join(", "));
    assert_eq!(
        problems(&format!("[data_path]\nring_size = 11\n{pool}")),
        "2: `ring_size` 11 is too small for the 12 servers of pool `p` (line 3)"
    );
    assert!(parse(&format!("[data_path]\nring_size = 13\n{pool}")).is_ok());
}

#[test]
fn nothing_is_concluded_from_what_could_not_be_read() {
    // The pool's name is wrong, so that the service's pool may be it; only the name is told.
    let text = SMALL.replace("[[pool]]\nname = \"web\"", "[[pool]]\nname = 5");
    assert_eq!(problems(&text), "7: `name` must be a string, not an integer");
    // A wrong protocol is not taken for the default, which would overlap.
    let text = format!(
        "{SMALL}{}",
        SMALL.split("[[pool]]").next().unwrap().replace("\"web\"\na", "\"b\"\nprotocol = \"x\"\na")
    );
    assert_eq!(problems(&text), "11: `protocol` must be `tcp` or `udp`, not `x`");
}

#[test]
fn a_file_is_named_in_every_line() {
    let missing = load(Path::new("no/such/file.toml")).unwrap_err().to_string();
    assert_eq!(
        missing,
        "cannot read the configuration no/such/file.toml: No such file or directory (os error 2)"
    );
    let problems = parse("a = 1\nb = 2\n").unwrap_err();
    let path = "lb.toml".into();
    let text = LoadError::Wrong { path, problems }.to_string();
    let starts: Vec<_> = text.lines().map(|line| line.split_once(": ").unwrap().0).collect();
    assert_eq!(starts, ["lb.toml:1", "lb.toml:2"]);
}

#[test]
fn a_description_says_what_the_file_means() {
    let expected = "interfaces: none named
virtual services: 1
  web: 198.51.100.10:80 tcp, pool web
pools: 1
  web: clients are not kept
    nat: answers come back this way
    new clients go by their hash (maglev)
    without a server clients are refused; open connections of a lost server are reset
    server 10.0.0.11:8080, weight 1
new clients without proof: 16384 a second, 512 of a prefix (/24, IPv6 /56)
pings to services: answered
rings: 65537 slots
tables: 1048576 entries, 1048576 connections, 65536 handshakes; swept every 1s
idle limits: tcp 1h, tcp_closing 2m, handshake 1m, udp 30s
kernel memory: about 315 MiB
";
    assert_eq!(describe(&parse(SMALL).unwrap()), expected);
    let example = describe(&example());
    for line in [
        "  web: clients are kept by /24 (IPv6 /64) for each virtual service, 5m after the last close, another server when theirs is down (profile per-subnet)\n",
        "    monitor fast: TCP connect to 10.0.9.9:8081 every 1s (500ms while in doubt), up to 500ms; 3 failures down, 2 passes up\n",
        "    a server that came up gets its whole weight after 30s\n",
        "    server 10.0.0.13, the service's port, weight 1\n",
        "    tunnel from 10.0.0.1 and 2001:db8:1::1: servers answer clients themselves\n",
    ] {
        assert!(example.contains(line), "{example}");
    }
}

#[test]
fn a_setting_that_is_gone_names_what_took_its_place() {
    let text = "[[persistence_profile]]\nname = \"p\"\nlimit_counts_as_down = true\n";
    let problems = parse(text).unwrap_err().to_string();
    assert!(
        problems.contains(
            "3: field `limit_counts_as_down` in persistence_profile `p` is no longer a setting"
        ),
        "{problems}"
    );
    assert!(problems.contains("`on_limit` of the pool"), "{problems}");
}
