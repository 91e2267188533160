//! The watcher against the kernel, each test in network namespaces of its own.
//!
//! A test runs itself once more under unshare(1), so that no namespace is entered in this process and none can be left
//! behind. It needs root, or user namespaces.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    net::IpAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use super::*;

const INSIDE: &str = "LBPERSIST_TEST_INSIDE_NAMESPACE";
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a command that must succeed.
fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
}

/// Whether this process is the one inside the namespace. Outside, runs the test of that name inside.
fn inside(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    // Whoever is not root needs a user namespace around the other, which a chroot, say, does not allow.
    let is_root =
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
    let user = if is_root { &[][..] } else { &["--user", "--map-root-user"] };
    let output = Command::new("unshare")
        .args(user)
        .args(["--net", "--"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("network::tests::{test}")])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

/// A namespace beside ours with a veth pair between, gone when dropped: `near` (02:00:00:00:00:01, 10.9.0.1, 2001:db8::1)
/// here, `far` (…:02, …2, …2) there.
struct Peer(Child);

impl Peer {
    fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "echo here; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let peer = Self(child);
        let id = peer.0.id();
        run(&format!(
            "ip link add near address 02:00:00:00:00:01 type veth \
             peer name far address 02:00:00:00:00:02 netns {id}"
        ));
        // The kernel's own link-local addresses would change something seconds later, in the midst of a test.
        run("ip link set near addrgenmode none");
        peer.run("ip link set far addrgenmode none");
        run("ip link set lo up");
        run("ip addr add 10.9.0.1/24 dev near");
        run("ip addr add 2001:db8::1/64 dev near nodad");
        run("ip addr add fe80::11/64 dev near nodad");
        run("ip link set near up");
        peer.run("ip addr add 10.9.0.2/24 dev far");
        peer.run("ip addr add 2001:db8::2/64 dev far nodad");
        peer.run("ip link set far up");
        peer
    }

    fn run(&self, command: &str) {
        run(&format!("nsenter --net=/proc/{}/ns/net {command}", self.0.id()));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Waits for a view of which `wanted` is true.
async fn see(views: &mut watch::Receiver<Arc<View>>, wanted: impl Fn(&View) -> bool) -> Arc<View> {
    let wait = async {
        while !wanted(&views.borrow_and_update()) {
            views.changed().await.unwrap();
        }
    };
    let seen = tokio::time::timeout(PATIENCE, wait).await;
    let last = Arc::clone(&views.borrow());
    assert!(seen.is_ok(), "not seen in time; last: {last:#?}");
    last
}

#[tokio::test]
async fn asking_the_kernel_resolves_neighbours_of_both_families() {
    if !inside("asking_the_kernel_resolves_neighbours_of_both_families") {
        return;
    }
    let _peer = Peer::new();
    let (watcher, mut views) = Watcher::start().await.unwrap();
    for neighbour in ["10.9.0.2", "2001:db8::2"].map(address) {
        let on_link = |view: &View| view.next_hop(neighbour) != NextHop::Unreachable;
        let view = see(&mut views, on_link).await;
        let (interface, _) = view.link_by_name("near").unwrap();
        let before = NextHop::Unresolved { interface, neighbour };
        assert_eq!(view.next_hop(neighbour), before);

        watcher.resolve(interface, neighbour).await.unwrap();
        let after = NextHop::Resolved {
            interface,
            source: [2, 0, 0, 0, 0, 1],
            destination: [2, 0, 0, 0, 0, 2],
        };
        see(&mut views, |view| view.next_hop(neighbour) == after).await;
        // Once more, now that there is an entry.
        watcher.resolve(interface, neighbour).await.unwrap();
    }
    let error = watcher.resolve(9999, address("10.9.0.2")).await.unwrap_err();
    assert!(error.to_string().contains("10.9.0.2 on interface 9999"), "{error}");
}

#[tokio::test]
async fn links_addresses_routes_and_neighbours_are_followed() {
    if !inside("links_addresses_routes_and_neighbours_are_followed") {
        return;
    }
    let peer = Peer::new();
    let (_watcher, mut views) = Watcher::start().await.unwrap();
    let own = address("10.9.0.1");
    let far = address("192.0.2.1");
    let unresolved = |gateway: &'static str| {
        move |view: &View| {
            matches!(view.next_hop(far),
                NextHop::Unresolved { neighbour, .. } if neighbour == address(gateway))
        }
    };
    let view = see(&mut views, |view| view.next_hop(own) == NextHop::Local).await;
    assert_eq!(view.next_hop(far), NextHop::Unreachable);

    run("ip route add 192.0.2.0/24 via 10.9.0.7 metric 50");
    see(&mut views, unresolved("10.9.0.7")).await;
    run("ip route add 192.0.2.0/24 via inet6 fe80::7 dev near metric 10");
    see(&mut views, unresolved("fe80::7")).await;
    run("ip neigh add fe80::7 lladdr 02:00:00:00:00:07 dev near nud permanent");
    see(&mut views, |view| {
        matches!(view.next_hop(far), NextHop::Resolved { destination: [2, 0, 0, 0, 0, 7], .. })
    })
    .await;
    run("ip route replace unreachable 192.0.2.0/24 metric 10");
    see(&mut views, |view| view.next_hop(far) == NextHop::Unreachable).await;
    run("ip addr add 198.51.100.10/32 dev lo");
    let service = address("198.51.100.10");
    see(&mut views, |view| view.next_hop(service) == NextHop::Local).await;

    peer.run("ip link set far down");
    see(&mut views, |view| view.next_hop(address("10.9.0.2")) == NextHop::Unreachable).await;
    peer.run("ip link set far up");
    see(&mut views, |view| view.next_hop(address("10.9.0.2")) != NextHop::Unreachable).await;
    run("ip link del near");
    let view = see(&mut views, |view| view.link_by_name("near").is_none()).await;
    assert_eq!(view.next_hop(own), NextHop::Unreachable);
    assert!(view.neighbours.is_empty(), "{:?}", view.neighbours);
}

#[tokio::test]
async fn next_hops_of_multipath_routes_and_nexthop_objects_are_seen() {
    if !inside("next_hops_of_multipath_routes_and_nexthop_objects_are_seen") {
        return;
    }
    let _peer = Peer::new();
    let (_watcher, mut views) = Watcher::start().await.unwrap();
    run("ip route add 192.0.2.0/24 nexthop via 10.9.0.7 nexthop via 10.9.0.8");
    run("ip nexthop add id 1 via 10.9.0.9 dev near");
    run("ip route add 198.51.100.0/24 nhid 1");
    for (to, gateway) in [("192.0.2.1", "10.9.0.7"), ("198.51.100.1", "10.9.0.9")] {
        see(&mut views, |view| {
            matches!(view.next_hop(address(to)),
                NextHop::Unresolved { neighbour, .. } if neighbour == address(gateway))
        })
        .await;
    }
    run("ip nexthop replace id 1 via 10.9.0.10 dev near");
    see(&mut views, |view| {
        matches!(view.next_hop(address("198.51.100.1")),
            NextHop::Unresolved { neighbour, .. } if neighbour == address("10.9.0.10"))
    })
    .await;
}

#[tokio::test]
async fn nothing_is_missing_after_lost_notifications() {
    if !inside("nothing_is_missing_after_lost_notifications") {
        return;
    }
    // Far more notifications than a socket's buffer holds by default; nobody reads it meanwhile, because the command
    // holds up this thread, which is the runtime's only one.
    const NEIGHBOURS: usize = 2000;
    let _peer = Peer::new();
    let (_watcher, mut views) = Watcher::start().await.unwrap();
    let commands: String = (0..NEIGHBOURS)
        .map(|n| {
            let (high, low) = (n / 250, n % 250 + 1);
            format!("neigh add 10.8.{high}.{low} lladdr 02:00:00:00:01:01 dev near nud permanent\n")
        })
        .collect();
    let mut batch = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    batch.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(batch.wait().unwrap().success());
    see(&mut views, |view| view.neighbours.len() >= NEIGHBOURS).await;
}

#[tokio::test]
async fn what_does_not_change_the_view_is_not_published() {
    if !inside("what_does_not_change_the_view_is_not_published") {
        return;
    }
    let _peer = Peer::new();
    let (_watcher, mut views) = Watcher::start().await.unwrap();
    let both_up = |view: &View| {
        let on_link = |to| view.next_hop(address(to)) != NextHop::Unreachable;
        on_link("10.9.0.2") && on_link("2001:db8::2")
    };
    see(&mut views, both_up).await;
    run("ip route add 192.0.2.0/24 via 10.9.0.7");
    see(&mut views, |view| view.next_hop(address("192.0.2.1")) != NextHop::Unreachable).await;
    let before = Arc::clone(&views.borrow_and_update());

    // The first makes the kernel notify, so that all is read again; the second is of a table that does not count.
    run("ip link set near alias uplink");
    run("ip route add 203.0.113.0/24 via 10.9.0.7 table 100");
    let seen = tokio::time::timeout(Duration::from_millis(300), views.changed()).await;
    assert!(seen.is_err(), "{before:#?} became {:#?}", views.borrow());

    run("ip link set near mtu 1400");
    let after = see(&mut views, |view| *view != *before).await;
    assert_eq!(after.link_by_name("near").unwrap().1.mtu, 1400);
}

#[test]
fn a_single_reading_sees_what_is_there() {
    if !inside("a_single_reading_sees_what_is_there") {
        return;
    }
    let _peer = Peer::new();
    let view = read_once().unwrap();
    let (_, lo) = view.link_by_name("lo").unwrap();
    assert_eq!(lo.mac, None);
    let (_, near) = view.link_by_name("near").unwrap();
    assert_eq!((near.mac, near.mtu, near.xdp), (Some([2, 0, 0, 0, 0, 1]), 1500, None));
    assert_eq!(view.next_hop(address("127.0.0.1")), NextHop::Local);
    assert_eq!(view.next_hop(address("10.9.0.1")), NextHop::Local);
    assert_eq!(view.next_hop(address("10.9.0.255")), NextHop::Local);
    assert_eq!(view.next_hop(address("::1")), NextHop::Local);
}
