//! The example file, and all that it means.

use std::time::Duration;

use crate::model::{
    Algorithm, Carried, ClientIp, DaemonSettings, DataPathSettings, FloodLimits, Forwarding,
    HealthMonitor, HealthRule, HttpSettings, IdleLimits, LinkSettings, Method, Mode, Model,
    MonitorKind, NoServer, OnLimit, PersistenceProfile, Pool, Ports, Protocol, ProxyProtocol,
    ProxySettings, Scope, Server, ServerDown, ServerState, TcpSettings, TunnelSources,
    VirtualService,
};

use super::{EXAMPLE, parse};

fn server(address: &str, port: Option<u16>, weight: u16) -> Server {
    Server {
        address: address.parse().unwrap(),
        port,
        weight,
        max_connections: None,
        header_value: None,
        configured: ServerState::Enabled,
        by_hand: None,
    }
}

pub(super) fn monitor(
    name: &str,
    [interval, timeout]: [u64; 2],
    port: Option<u16>,
) -> HealthMonitor {
    let [interval, timeout] = [interval, timeout].map(Duration::from_millis);
    HealthMonitor {
        name: name.to_owned(),
        interval,
        fast_interval: interval,
        jitter: 10,
        timeout,
        rise: 2,
        fall: 3,
        address: None,
        port,
        kind: MonitorKind::Tcp,
    }
}

pub(super) fn example() -> Model {
    let service = |name: &str, address: &str, port, protocol| {
        let address: std::net::IpAddr = address.parse().unwrap();
        let (name, pool, mode) = (name.to_owned(), name.to_owned(), Mode::L4);
        let (addresses, ports) = (address.into(), Ports::One(port));
        VirtualService { name, addresses, ports, protocol, mode, carried: None, pool }
    };
    let http = HttpSettings { max_body_bytes: Some(10 << 20), ..HttpSettings::default() };
    let send_v2 =
        LinkSettings { proxy_protocol_send: Some(ProxyProtocol::V2), ..LinkSettings::default() };
    let shop = VirtualService {
        mode: Mode::Http,
        carried: Some(Carried::Http(Box::new(http))),
        ..service("shop", "198.51.100.11", 80, Protocol::Tcp)
    };
    let mail = VirtualService {
        mode: Mode::Tcp,
        carried: Some(Carried::Tcp(TcpSettings { link: send_v2, ..TcpSettings::default() })),
        pool: "shop".to_owned(),
        ..service("mail", "198.51.100.11", 25, Protocol::Tcp)
    };
    let services = [
        shop,
        mail,
        service("web", "198.51.100.10", 80, Protocol::Tcp),
        service("dns", "2001:db8::53", 53, Protocol::Udp),
    ];
    let web = Pool {
        forwarding: Forwarding::Nat,
        name: "web".to_owned(),
        persistence: Some(PersistenceProfile {
            name: "per-subnet".to_owned(),
            method: Method::ClientIp(ClientIp {
                timeout: Duration::from_secs(300),
                ipv4_mask: 24,
                ipv6_mask: 64,
                scope: Scope::VirtualService,
            }),
            server_down: ServerDown::Immediate,
            fallback: None,
        }),
        health_monitors: vec![
            monitor("tcp", [5000, 2000], None),
            HealthMonitor {
                fast_interval: Duration::from_millis(500),
                address: Some("10.0.9.9".parse().unwrap()),
                ..monitor("fast", [1000, 500], Some(8081))
            },
        ],
        health_rule: HealthRule::All,
        slow_start: Duration::from_secs(30),
        algorithm: Algorithm::Maglev,
        on_limit: OnLimit::Spill,
        no_server: NoServer::Reject,
        reset_connections: true,
        servers: vec![
            server("10.0.0.11", Some(8080), 2),
            Server { header_value: Some("blue".to_owned()), ..server("10.0.0.12", Some(8080), 1) },
            Server { max_connections: Some(50_000), ..server("10.0.0.13", None, 1) },
        ],
    };
    let dns = Pool {
        forwarding: Forwarding::Nat,
        name: "dns".to_owned(),
        persistence: None,
        health_monitors: Vec::new(),
        health_rule: HealthRule::All,
        slow_start: Duration::ZERO,
        algorithm: Algorithm::Maglev,
        on_limit: OnLimit::Spill,
        no_server: NoServer::Reject,
        reset_connections: true,
        servers: vec![
            server("2001:db8:1::11", None, 1),
            server("2001:db8:1::12", None, 0),
            Server { configured: ServerState::Draining, ..server("2001:db8:1::13", None, 1) },
        ],
    };
    let far = Pool {
        forwarding: Forwarding::Tunnel(TunnelSources {
            ipv4: Some("10.0.0.1".parse().unwrap()),
            ipv6: Some("2001:db8:1::1".parse().unwrap()),
        }),
        name: "far".to_owned(),
        persistence: None,
        health_monitors: Vec::new(),
        health_rule: HealthRule::All,
        slow_start: Duration::ZERO,
        algorithm: Algorithm::Maglev,
        on_limit: OnLimit::Spill,
        no_server: NoServer::Reject,
        reset_connections: true,
        servers: vec![server("10.9.0.11", None, 1), server("2001:db8:9::11", None, 1)],
    };
    let shop = Pool {
        name: "shop".to_owned(),
        servers: vec![server("10.0.0.21", Some(8080), 1), server("2001:db8:1::22", Some(8080), 1)],
        ..dns.clone()
    };
    Model {
        interfaces: vec!["eth0".to_owned()],
        daemon: DaemonSettings {
            snapshot: Some(Duration::from_secs(60)),
            ..DaemonSettings::default()
        },
        data_path: DataPathSettings::default(),
        flood_limits: FloodLimits::default(),
        idle_limits: IdleLimits::default(),
        proxy: ProxySettings { threads: Some(2), ..ProxySettings::default() },
        services: services.map(|service| (service.name.clone(), service)).into(),
        pools: [web, dns, far, shop].map(|pool| (pool.name.clone(), pool)).into(),
    }
}

#[test]
fn the_example_file_means_what_it_says() {
    assert_eq!(parse(EXAMPLE), Ok(example()));
}
