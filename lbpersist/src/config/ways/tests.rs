use crate::config::parse;

const ALL: &str = r#"[[virtual_service]]
name = "all"
address = "198.51.100.10"
port = "all"
pool = "all"
[[pool]]
name = "all"
servers = [{ address = "10.0.0.11" }]
"#;

const PREFIX: &str = r#"[[virtual_service]]
name = "prefix"
address = "198.51.100.0/24"
port = 80
pool = "prefix"
[[pool]]
name = "prefix"
forwarding = "direct"
servers = [{ address = "10.0.0.11" }]
"#;

fn service(address: &str, port: &str, pool: &str) -> String {
    format!(
        "[[virtual_service]]\nname = \"b\"\naddress = \"{address}\"\nport = {port}\npool = \"{pool}\"\n"
    )
}

fn pool(server: &str) -> String {
    format!("[[pool]]\nname = \"b\"\nservers = [{{ {server} }}]\n")
}

#[test]
fn what_is_wide_and_fits_is_taken() {
    let same_port = service("198.51.100.10", "81", "all");
    let other_server = service("203.0.113.9", "81", "b") + &pool("address = \"10.0.0.12\"");
    for more in ["", &same_port, &other_server] {
        assert!(parse(&format!("{ALL}{more}")).is_ok(), "{more}");
    }
    let inside = service("198.51.100.10", "80", "prefix");
    let longer = service("198.51.100.128/25", "80", "prefix");
    let all = service("198.51.100.0/24", "\"all\"", "prefix");
    for more in ["", &inside, &longer, &all] {
        assert!(parse(&format!("{PREFIX}{more}")).is_ok(), "{more}");
    }
}

#[test]
fn what_is_wide_and_stands_in_the_way_is_explained() {
    const WHY: &str = "under nat, answers of a server are told apart by its address and port alone";
    for (text, expected) in [
        (
            format!("{ALL}{}", service("198.51.100.10", "\"all\"", "all")),
            "9: virtual_service `b` overlaps virtual_service `all` (line 1): both are 198.51.100.10 on all ports (tcp)".to_owned(),
        ),
        (
            format!("{PREFIX}{}", service("198.51.100.0/24", "80", "prefix")),
            "10: virtual_service `b` overlaps virtual_service `prefix` (line 1): both are 198.51.100.0/24 port 80 (tcp)".to_owned(),
        ),
        (
            format!("{ALL}{}", service("203.0.113.9", "\"all\"", "all")),
            format!("9: virtual_service `b` and virtual_service `all` (line 1) both reach server 10.0.0.11 on all ports (tcp) through pool `all`; {WHY}, so give each service servers of its own"),
        ),
        (
            format!("{ALL}{}", service("203.0.113.9", "81", "all")),
            format!("8: server 10.0.0.11 port 81 (tcp) of pool `all`, behind virtual_service `b` (line 9), answers for all its ports behind virtual_service `all` (line 1); {WHY}, so give one of the services servers of its own, or both the same address and the server the service's port"),
        ),
        (
            format!("{ALL}{}", service("198.51.100.10", "81", "b") + &pool("address = \"10.0.0.11\", port = 8081")),
            format!("16: server 10.0.0.11 port 8081 (tcp) of pool `b`, behind virtual_service `b` (line 9), answers for all its ports behind virtual_service `all` (line 1); {WHY}, so give one of the services servers of its own, or both the same address and the server the service's port"),
        ),
        (
            ALL.replace("\"10.0.0.11\"", "\"10.0.0.11\", port = 80"),
            "8: server 10.0.0.11 of pool `all` has port 80, but virtual_service `all` (line 1) is on all ports, which its servers keep; leave `port` out".to_owned(),
        ),
        (
            PREFIX.replace("direct", "nat"),
            "9: server 10.0.0.11 of pool `prefix` cannot serve virtual_service `prefix` (line 1), which is on a prefix: under nat its answers do not tell which address the client came for; use masquerade, direct or tunnel".to_owned(),
        ),
        (
            ALL.replace("servers", "health_monitors = [\"tcp\"]\nservers"),
            "8: pool `all` has no port that health_monitor `tcp` could ask, since virtual_service `all` (line 1) is on all ports; name a monitor with a `port`".to_owned(),
        ),
    ] {
        let problems = parse(&text).expect_err(&text);
        assert_eq!(problems.to_string(), expected, "{text}");
    }
}
