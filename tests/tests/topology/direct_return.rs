//! Servers that hold the service's address and answer clients themselves: forwarding `direct` and `tunnel`.

use std::{fmt::Write as _, io, net::IpAddr, process::Command, time::Duration};

use lbpersist_tests::{
    balancer::{self, Balancer},
    client::Transport,
    command,
    config::Config,
    scenario::{SERVER_PORTS, Scenario, members, tally},
    server::Server,
    topology::{Family, Host, Topology, Wiring},
    wait,
};

const PORT: u16 = SERVER_PORTS[0];
pub(super) const TUNNEL: &str = "forwarding = \"tunnel\"
tunnel_source_ipv4 = \"10.2.0.1\"
tunnel_source_ipv6 = \"fd00:2::1\"";

#[test]
fn direct_keeps_clients_on_servers_that_answer_them_straight() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = start("forwarding = \"direct\"", Family::V4, Family::V6);
    everyone_is_kept(&lab);
    answers_go_past_the_balancer(&lab);
}

#[test]
fn tunnels_of_the_same_family_keep_clients() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = start(TUNNEL, Family::V4, Family::V6);
    let far_ends = far_ends(&lab.topology);
    everyone_is_kept(&lab);
    answers_go_past_the_balancer(&lab);
    // Once the balancer is no longer allowed, its tunnels end at the servers' door.
    for end in &far_ends {
        end.run(&["decapsulate", "eth0", "--from", "192.0.2.1"]);
    }
    let answer = lab.client().ask(Family::V4.service(PORT));
    assert!(answer.is_err(), "{answer:?}");
}

#[test]
fn tunnels_of_the_other_family_keep_clients() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = start(TUNNEL, Family::V6, Family::V4);
    let _far_ends = far_ends(&lab.topology);
    everyone_is_kept(&lab);
}

#[test]
fn a_client_learns_how_much_fits_through_the_tunnel() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = start(TUNNEL, Family::V4, Family::V6);
    let _far_ends = far_ends(&lab.topology);
    for family in Family::BOTH {
        // The request fills several segments of the size that fits the wire, and so does not fit the tunnel.
        let url = format!("http://{}/", family.service(PORT));
        let header = format!("X-Long: {}", "x".repeat(5_000));
        let namespace = format!("--net={}", lab.client().namespace.path().display());
        let mut curl = Command::new("nsenter");
        curl.args([&namespace, "curl", "--silent", "--fail", "--max-time", "8"]);
        curl.args(["--header", &header, &url]);
        command::run(&mut curl).unwrap().success().unwrap();
    }
    assert!(verdict(&lab, "too_big") >= 2);
}

#[test]
fn clients_that_only_wait_are_reset_when_their_server_is_lost() {
    if !wait::is_root_or_skip() {
        return;
    }
    for forwarding in ["forwarding = \"direct\"", TUNNEL] {
        let lab = start(forwarding, Family::V4, Family::V6);
        let _far_ends = (forwarding == TUNNEL).then(|| far_ends(&lab.topology));
        for (family, pool) in [(Family::V4, "four"), (Family::V6, "six")] {
            let hold = |from: IpAddr| lab.client().hold_from(from, family.service(PORT)).unwrap();
            let held: Vec<_> = lab.subnets(family, 0, 20).into_iter().map(hold).collect();
            let victim = held[0].first.server.clone();
            let address = lab.host(&victim).address(family).to_string();
            lab.balancer.cli(&["server", "disable", pool, &address]).unwrap();
            for held in held.iter().filter(|held| held.first.server == victim) {
                let error = held.wait(Duration::from_secs(3)).unwrap_err();
                let kind = io::ErrorKind::ConnectionReset;
                assert_eq!(error.kind(), kind, "{forwarding} {family:?}: {error}");
            }
            for held in held.iter().filter(|held| held.first.server != victim) {
                assert_eq!(held.ask().unwrap(), held.first, "nobody else was disturbed");
            }
        }
    }
}

/// Three servers on one wire with the balancer and a client. The IPv4 service's packets go to the servers' addresses of family
/// `four`, the IPv6 service's to those of `six`.
fn start(forwarding: &str, four: Family, six: Family) -> Scenario {
    let topology = Topology::new(Wiring::OneArm, 1, 3).unwrap();
    for host in &topology.servers {
        hold(host, &Family::BOTH.map(Family::service_address));
    }
    let servers = topology.servers.iter().map(serve_the_service).collect();
    let pool =
        format!("persistence_profile = \"kept\"\nhealth_monitors = [\"fast\"]\n{forwarding}");
    let config = [(Family::V4, "four", four), (Family::V6, "six", six)].into_iter().fold(
        Config::new().profile("kept", "5m", ""),
        |config, (family, name, towards)| {
            let members = members(&topology.servers, towards, None, &[]);
            config.tcp(name, family.service(PORT), name).pool(name, &members, &pool)
        },
    );
    let balancer = Balancer::start(&topology.balancer, config, &topology.interfaces).unwrap();
    let lab = Scenario { balancer, servers, topology };
    lab.wait_until_all_are_up();
    lab
}

/// Addresses of services on loopback, kept quiet about, and the way to the client past the balancer.
pub(super) fn hold(host: &Host, addresses: &[IpAddr]) {
    host.namespace.sysctl("ipv4/conf/all/arp_ignore", "1").unwrap();
    host.namespace.sysctl("ipv4/conf/all/arp_announce", "2").unwrap();
    let mut lines = String::new();
    for address in addresses {
        let _ = writeln!(lines, "address add {address} dev lo");
    }
    lines.push_str("route add 10.1.0.0/24 dev eth0\nroute add fd00:1::/64 dev eth0\n");
    lines.push_str("route add 10.64.0.0/12 via 10.1.0.2 dev eth0 onlink\n");
    lines.push_str("route add fd00:40::/32 via fd00:1::2 dev eth0 onlink\n");
    host.namespace.ip(&lines).unwrap();
    wait::until_true("usable addresses", || host.namespace.has_usable_addresses());
}

fn serve_the_service(host: &Host) -> Server {
    let mut listen = host.listen(&[PORT], &[]);
    listen.addresses.extend(Family::BOTH.map(Family::service_address));
    Server::start(&host.name(), &host.namespace, listen).unwrap()
}

fn everyone_is_kept(lab: &Scenario) {
    for family in Family::BOTH {
        let from = lab.subnets(family, 0, 30);
        let ask = || -> Vec<String> {
            let to = family.service(PORT);
            let answers = lab.client().ask_from_each(Transport::Http, &from, to);
            answers.into_iter().map(|answer| answer.unwrap().server).collect()
        };
        let met = ask();
        assert!(tally(&met).len() > 1, "{family:?}: {:?}", tally(&met));
        for _ in 0..3 {
            assert_eq!(ask(), met, "{family:?}");
        }
    }
    let entries = lab.balancer.entries().unwrap();
    assert_eq!(entries.len(), 60, "{entries:?}");
    wait::until_true("every client's goodbye was noted", || {
        lab.balancer.entries().unwrap().iter().all(|entry| entry.0["open"] == 0)
    });
}

fn answers_go_past_the_balancer(lab: &Scenario) {
    assert_eq!(verdict(lab, "returned"), 0);
    assert!(verdict(lab, "forwarded") > 0);
}

fn verdict(lab: &Scenario, name: &str) -> u64 {
    lab.balancer.json(&["status"]).unwrap()["verdicts"][name].as_u64().unwrap()
}

/// The far end of the tunnel on every server; removed when this is dropped.
pub(super) fn far_ends(topology: &Topology) -> Vec<FarEnd> {
    topology.servers.iter().map(FarEnd::start).collect()
}

pub(super) struct FarEnd {
    host: Host,
    pins: String,
}

impl FarEnd {
    fn start(host: &Host) -> Self {
        // The harness's own program has to make room.
        host.namespace.ip("link set eth0 xdp off").unwrap();
        let pins = format!("/sys/fs/bpf/lbpersist-test-far-{}", host.namespace.name());
        let end = Self { host: host.clone(), pins };
        end.run(&["decapsulate", "eth0", "--from", "10.2.0.1", "--from", "fd00:2::1"]);
        end
    }

    fn run(&self, arguments: &[&str]) {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.host.namespace.path().display()));
        command.arg(balancer::binary().unwrap()).args(["--pin-dir", &self.pins]).args(arguments);
        command::run(&mut command).unwrap().success().unwrap();
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.run(&["detach", "--all"]);
    }
}
