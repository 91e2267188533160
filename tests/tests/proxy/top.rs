//! `lbpersist top --once` of a service that the daemon carries.

use lbpersist_tests::wait;

use crate::setup::Rig;

#[test]
fn open_connections_of_a_carried_service_are_shown() {
    if !wait::is_root_or_skip() {
        return;
    }
    let mut rig = Rig::new("http", "", 1);
    let held = [rig.connect(), rig.connect()];
    let line = || {
        let frame = rig.balancer.cli(&["top", "--once", "--interval", "500ms"]);
        let frame = frame.expect("the rig works").success().expect("it prints");
        let (services, _) = frame.split_once("\n\n").expect("services come first");
        let own = services.lines().find(|line| line.starts_with("web "));
        own.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    };
    // Packets are the stack's and are not counted; nothing new came between the two readings.
    let shown = line().expect("the service has a line");
    assert_eq!(shown, ["web", "-", "0.0", "0.0", "2", "-", "0"]);
    drop(held);
    assert_eq!(line().expect("the service has a line")[4], "0");

    // What the daemon counts nobody knows without it.
    rig.balancer.stop().expect("the rig works");
    let frame = rig.balancer.cli(&["top", "--once", "--interval", "100ms"]);
    let frame = frame.expect("the rig works").success().expect("it prints");
    assert!(frame.starts_with("no virtual services\n"), "{frame}");
}
