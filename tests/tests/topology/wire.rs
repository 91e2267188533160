//! Packets that are not like most: pings, fragments, too big ones, jumbo frames. Real stacks at both ends.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use lbpersist_tests::{
    balancer::Balancer,
    client,
    config::Config,
    scenario::members,
    topology::{Family, Topology, Wiring},
    wait,
};

const PORT: u16 = 7;
const LONG: usize = 300_000;
const LIMIT: Duration = Duration::from_secs(8);

/// A client, a server that sends back what it gets, and lbpersist between them.
struct Lab {
    balancer: Balancer,
    topology: Topology,
}

impl Lab {
    /// With `prepare` done to the wires before lbpersist starts.
    fn start(prepare: impl FnOnce(&Topology)) -> Self {
        let topology = Topology::new(Wiring::Routed, 1, 1).unwrap();
        prepare(&topology);
        for family in Family::BOTH {
            serve(&topology, family);
        }
        let config = Family::BOTH.into_iter().fold(
            Config::new().profile("kept", "5m", ""),
            |config, family| {
                let members = members(&topology.servers, family, Some(PORT), &[]);
                let (name, at) = (format!("echo-{family:?}"), family.service(PORT));
                config
                    .tcp(&format!("{name}-tcp"), at, &name)
                    .udp(&format!("{name}-udp"), at, &name)
                    .pool(&name, &members, "persistence_profile = \"kept\"")
            },
        );
        let balancer = Balancer::start(&topology.balancer, config, &topology.interfaces).unwrap();
        let lab = Self { balancer, topology };
        wait::until_true("the server has a next hop", || {
            let status = lab.balancer.status().unwrap();
            let pools = status.0["pools"].as_array().unwrap().clone();
            pools.iter().all(|pool| pool["servers"][0]["reachable"] == true)
        });
        lab
    }

    fn from(&self, family: Family) -> IpAddr {
        self.topology.clients[0].address(family)
    }

    /// Sends `length` bytes through TCP and expects them back.
    fn transfer(&self, family: Family, length: usize) {
        let data: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        let back = self.topology.clients[0].namespace.run(|| {
            let mut stream = TcpStream::connect(family.service(PORT)).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            let mut writer = stream.try_clone().unwrap();
            thread::scope(|scope| {
                scope.spawn(|| {
                    writer.write_all(&data).unwrap();
                    writer.shutdown(std::net::Shutdown::Write).unwrap();
                });
                let mut back = Vec::new();
                stream.read_to_end(&mut back).map(|_| back)
            })
        });
        assert!(back.unwrap() == data, "{family:?}: something else came back");
    }

    /// Sends a datagram of `length` bytes and expects it back.
    fn datagram(&self, family: Family, length: usize) {
        let data: Vec<u8> = (0..length).map(|n| (n % 241) as u8).collect();
        let from = self.from(family);
        let back = self.topology.clients[0].namespace.run(|| {
            let socket = UdpSocket::bind(SocketAddr::new(from, 0)).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket.connect(family.service(PORT)).unwrap();
            socket.send(&data).unwrap();
            let mut back = vec![0; length + 1];
            socket.recv(&mut back).map(|received| back[..received].to_vec())
        });
        assert!(back.unwrap() == data, "{family:?}: something else came back");
    }

    fn verdict(&self, name: &str) -> u64 {
        self.balancer.status().unwrap().verdict(name)
    }
}

/// Sends back what comes, over TCP and UDP, for as long as the process lives.
fn serve(topology: &Topology, family: Family) {
    let host = &topology.servers[0];
    let at = SocketAddr::new(host.address(family), PORT);
    let (listener, datagrams) =
        host.namespace.run(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut writer = stream.try_clone()?;
                std::io::copy(&mut &stream, &mut writer)
            });
        }
    });
    thread::spawn(move || {
        let mut datagram = vec![0; 65_536];
        while let Ok((length, from)) = datagrams.recv_from(&mut datagram) {
            let _ = datagrams.send_to(&datagram[..length], from);
        }
    });
}

#[test]
fn a_service_answers_pings() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Lab::start(|_| ());
    for family in Family::BOTH {
        for length in [0, 56, 1400] {
            let namespace = &lab.topology.clients[0].namespace;
            let back = client::ping(namespace, family.service_address(), length).unwrap();
            assert_eq!(back.len(), length, "{family:?}");
            assert!(back.iter().enumerate().all(|(n, &byte)| byte == n as u8));
        }
    }
    assert_eq!(lab.verdict("echo_answered"), 6);
}

#[test]
fn datagrams_larger_than_the_wire_arrive_in_both_directions() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Lab::start(|_| ());
    for family in Family::BOTH {
        for length in [1, 1472, 1473, 4000, 20_000] {
            lab.datagram(family, length);
        }
    }
    for reason in ["fragment", "fragment_lost", "fragment_refused", "malformed"] {
        assert_eq!(lab.verdict(reason), 0, "{reason}");
    }
}

#[test]
fn a_client_learns_of_a_narrow_way_to_the_server() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Lab::start(|topology| topology.balancer.ip("link set server1 mtu 1300").unwrap());
    // The server must not send what the narrow end would not take.
    lab.topology.servers[0].namespace.ip("link set eth0 mtu 1300").unwrap();
    for family in Family::BOTH {
        // A connection's segments are as long as both ends allow, a datagram's packet is not asked about.
        lab.transfer(family, LONG);
    }
    for family in Family::BOTH {
        let from = lab.from(family);
        let told = lab.topology.clients[0].namespace.run(|| {
            let socket = UdpSocket::bind(SocketAddr::new(from, 0)).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket.connect(family.service(PORT)).unwrap();
            let mut back = [0; 2000];
            wait::until("a datagram that fits the narrow way", || {
                // The first is answered by its size; the stack remembers that and cuts the later ones.
                let _ = socket.send(&[1; 1400]);
                socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                socket.recv(&mut back).ok()
            })
        });
        assert_eq!(told, 1400, "{family:?}");
    }
    assert!(lab.verdict("too_big") >= 2);
}

#[test]
fn a_server_learns_of_a_narrow_way_to_the_client() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Lab::start(|topology| {
        topology.balancer.ip("link set client1 mtu 1300").unwrap();
        topology.clients[0].namespace.ip("link set eth0 mtu 1300").unwrap();
    });
    for family in Family::BOTH {
        let from = lab.from(family);
        let length = lab.topology.clients[0].namespace.run(|| {
            let socket = UdpSocket::bind(SocketAddr::new(from, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            socket.connect(family.service(PORT)).unwrap();
            let mut back = [0; 5000];
            wait::until("an answer in pieces that fit the narrow way", || {
                // The first answer is as wide as the server's own wire; the server is told, and remembers.
                let _ = socket.send(&[1; 4000]);
                socket.recv(&mut back).ok()
            })
        });
        assert_eq!(length, 4000, "{family:?}");
    }
    assert!(lab.verdict("too_big") >= 2);
}

#[test]
fn jumbo_frames_are_carried() {
    if !wait::is_root_or_skip() {
        return;
    }
    let lab = Lab::start(|topology| {
        let hosts = [&topology.clients[0].namespace, &topology.servers[0].namespace];
        for host in hosts {
            host.ip("link set eth0 mtu 9000").unwrap();
        }
        let interfaces = topology.interfaces.iter();
        interfaces
            .for_each(|name| topology.balancer.ip(&format!("link set {name} mtu 9000")).unwrap());
    });
    let status = lab.balancer.status().unwrap();
    for interface in status.0["interfaces"].as_array().unwrap() {
        assert_eq!(interface["mode"], "native", "{interface}");
    }
    for family in Family::BOTH {
        lab.transfer(family, LONG);
        lab.datagram(family, 8_900);
        lab.datagram(family, 30_000);
    }
    assert_eq!(lab.verdict("malformed"), 0);
    let status = lab.balancer.status().unwrap();
    let echo = status.named("virtual_services", "echo-V4-udp");
    let of = |name: &str| lbpersist_tests::balancer::number(&echo[name]);
    assert!(of("bytes") > 5_000 * of("packets"), "{echo}");
}
