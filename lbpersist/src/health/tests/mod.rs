//! The checker against real sockets on loopback, in real time; nothing waits longer than what it waits for.

mod datagram;
mod external;
mod http;
mod server;
mod tls;

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc::{self, error::TryRecvError},
    time::{Instant, timeout},
};

use super::{
    probe::{Fault, Probe, Tools, tls::Clients},
    *,
};
use crate::model::MonitorKind;

const PATIENCE: Duration = Duration::from_secs(10);

fn monitor() -> HealthMonitor {
    HealthMonitor {
        name: "tcp".to_owned(),
        interval: Duration::from_millis(10),
        fast_interval: Duration::from_millis(10),
        jitter: 10,
        timeout: Duration::from_secs(5),
        rise: 1,
        fall: 1,
        address: None,
        port: None,
        kind: MonitorKind::Tcp,
    }
}

fn target(address: SocketAddr) -> Target {
    Target {
        pool: "web".to_owned(),
        server: address.ip(),
        port: Some(address.port()),
        address,
        monitor: monitor(),
        initially_up: true,
    }
}

fn start(targets: Vec<Target>) -> (Checker, mpsc::Receiver<Report>) {
    let (report, reports) = mpsc::channel(1024);
    let mut checker = Checker::start(report).unwrap();
    checker.set_targets(targets);
    (checker, reports)
}

async fn next(reports: &mut mpsc::Receiver<Report>) -> Report {
    timeout(PATIENCE, reports.recv()).await.expect("a report in time").expect("a checker")
}

/// Asks once, as a monitor of that kind does.
async fn ask(kind: MonitorKind, address: SocketAddr, limit: Duration) -> Result<(), Fault> {
    let mut target = target(address);
    target.monitor.kind = kind;
    Probe::new(&target, &mut Clients::default()).run(limit, &Tools::default()).await
}

/// The words for a server that did not do well.
async fn complaint(kind: MonitorKind, address: SocketAddr, limit: Duration) -> String {
    match ask(kind, address, limit).await {
        Err(Fault::Server(words)) => words,
        other => panic!("{other:?}"),
    }
}

async fn listen(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Opens the port of a listener that was closed.
fn reopen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(128).unwrap()
}

#[tokio::test]
async fn a_server_that_listens_is_up() {
    for any in ["127.0.0.1:0", "[::1]:0"] {
        let (_listener, address) = listen(any).await;
        let mut down = target(address);
        down.initially_up = false;
        let (_checker, mut reports) = start(vec![down]);
        let expected = Report {
            pool: "web".to_owned(),
            server: address.ip(),
            port: Some(address.port()),
            monitor: "tcp".to_owned(),
            up: true,
            error: None,
        };
        assert_eq!(next(&mut reports).await, expected);
    }
}

#[tokio::test]
async fn a_closed_port_is_down() {
    let (listener, address) = listen("127.0.0.1:0").await;
    drop(listener);
    let (_checker, mut reports) = start(vec![target(address)]);
    let report = next(&mut reports).await;
    assert!(!report.up);
    assert_eq!(report.error, Some(format!("connection refused by {address}")));
}

#[tokio::test]
async fn silence_is_down_after_the_timeout() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // A listener whose accept queue is full (it holds one more than the backlog) does not answer.
    let mut queue = Vec::new();
    for _ in 0..2 {
        queue.push(TcpStream::connect(address).await.unwrap());
    }
    let mut target = target(address);
    target.monitor.timeout = Duration::from_millis(100);
    let begun = Instant::now();
    let (_checker, mut reports) = start(vec![target]);
    let report = next(&mut reports).await;
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert!(!report.up);
    assert_eq!(report.error, Some(format!("no answer from {address} within 100ms")));
}

#[tokio::test]
async fn a_check_does_not_wake_the_application() {
    let (listener, address) = listen("127.0.0.1:0").await;
    for _ in 0..20 {
        assert_eq!(ask(MonitorKind::Tcp, address, PATIENCE).await, Ok(()));
    }
    // Connections are accepted in their order: those of checks would come before this one. A few may, on a machine so
    // busy that the acknowledgement that was held back went out before the reset.
    let client = TcpStream::connect(address).await.unwrap().local_addr().unwrap();
    let mut woken = 0;
    while listener.accept().await.unwrap().1 != client {
        woken += 1;
    }
    assert!(woken < 5, "{woken} of 20 checks");
}

#[tokio::test]
async fn checks_leave_no_socket_behind() {
    let (listener, address) = listen("127.0.0.1:0").await;
    for _ in 0..200 {
        assert_eq!(ask(MonitorKind::Tcp, address, PATIENCE).await, Ok(()));
    }
    drop(listener);
    for _ in 0..200 {
        complaint(MonitorKind::Tcp, address, PATIENCE).await;
    }
    // Of all sockets of this machine, those to or from that port, whatever their state.
    let port = format!(":{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let left: Vec<_> = table.lines().skip(1).filter(|line| line.contains(&port)).collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn rise_and_fall_are_honoured() {
    let (listener, address) = listen("127.0.0.1:0").await;
    let mut target = target(address);
    (target.monitor.rise, target.monitor.fall) = (3, 4);
    let (_checker, mut reports) = start(vec![target]);
    assert!(next(&mut reports).await.up);
    drop(listener);
    // Four checks at no less than nine tenths of the interval; the first may come at once.
    let begun = Instant::now();
    assert!(!next(&mut reports).await.up);
    assert!(begun.elapsed() >= Duration::from_millis(27), "{:?}", begun.elapsed());
    let begun = Instant::now();
    let _listener = reopen(address);
    let report = next(&mut reports).await;
    assert_eq!((report.up, report.error), (true, None));
    assert!(begun.elapsed() >= Duration::from_millis(18), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_first_result_is_reported_even_if_it_changes_nothing() {
    let (listener, address) = listen("127.0.0.1:0").await;
    drop(listener);
    let mut target = target(address);
    target.monitor.fall = 3;
    let (_checker, mut reports) = start(vec![target]);
    let first = next(&mut reports).await;
    assert!(first.up && first.error.is_some());
    assert!(!next(&mut reports).await.up);
}

#[tokio::test]
async fn unchanged_targets_keep_their_judge_and_changed_ones_begin_anew() {
    let (_listener, address) = listen("127.0.0.1:0").await;
    let (gone, refused) = listen("127.0.0.1:0").await;
    drop(gone);
    let up = target(address);
    let (mut checker, mut reports) = start(vec![up.clone()]);
    assert!(next(&mut reports).await.up);

    // Told again with another first state: no new first report, so the next one is the other target's.
    let again = Target { initially_up: false, ..up.clone() };
    checker.set_targets(vec![again, target(refused)]);
    assert_eq!(next(&mut reports).await.port, Some(refused.port()));

    let mut slower = up;
    slower.monitor.interval = Duration::from_millis(20);
    checker.set_targets(vec![slower]);
    let report = next(&mut reports).await;
    assert_eq!((report.port, report.up), (Some(address.port()), true));
}

#[tokio::test]
async fn removed_targets_are_silent_and_a_dropped_checker_ends_its_tasks() {
    let (listener, address) = listen("127.0.0.1:0").await;
    let (_other, other) = listen("127.0.0.1:0").await;
    let (mut checker, mut reports) = start(vec![target(address)]);
    assert!(next(&mut reports).await.up);
    checker.set_targets(vec![target(other)]);
    drop(listener);
    assert_eq!(next(&mut reports).await.port, Some(other.port()));
    assert_eq!(reports.try_recv(), Err(TryRecvError::Empty));
    // The channel closes once the checker and every task have let go of it.
    drop(checker);
    assert_eq!(timeout(PATIENCE, reports.recv()).await, Ok(None));
}

#[tokio::test]
async fn a_state_in_doubt_is_asked_for_more_often() {
    let (listener, address) = listen("127.0.0.1:0").await;
    drop(listener);
    let mut target = target(address);
    target.monitor.interval = Duration::from_secs(3600);
    target.monitor.fall = 3;
    let (_checker, mut reports) = start(vec![target]);
    assert!(next(&mut reports).await.up, "one failure is not enough");
    assert!(!next(&mut reports).await.up, "the others came long before the hour was over");
}

#[tokio::test]
async fn the_board_shows_what_came_of_each_check() {
    let (listener, address) = listen("127.0.0.1:0").await;
    let mut target = target(address);
    target.monitor.fall = 2;
    let (mut checker, mut reports) = start(vec![target.clone()]);
    assert!(next(&mut reports).await.up);
    let status = only(&checker);
    assert_eq!(
        (status.pool.as_str(), status.server, status.port, status.monitor.as_str()),
        ("web", address.ip(), Some(address.port()), "tcp")
    );
    assert_eq!((status.kind.as_str(), status.to_port), ("tcp", Some(address.port())));
    assert_eq!((status.state, status.last_outcome), (State::Up, Some(Outcome::Passed)));
    assert_eq!((status.last_error, status.against), (None, 0));
    assert!(status.last_check_seconds.is_some() && status.last_took_milliseconds.is_some());

    drop(listener);
    assert!(!next(&mut reports).await.up);
    let status = only(&checker);
    assert_eq!((status.state, status.last_outcome), (State::Down, Some(Outcome::Failed)));
    assert_eq!(status.last_error, Some(format!("connection refused by {address}")));

    // What was wrong stays to be seen when it is no more.
    let _listener = reopen(address);
    assert!(next(&mut reports).await.up);
    let status = only(&checker);
    assert_eq!((status.state, status.last_outcome), (State::Up, Some(Outcome::Passed)));
    assert!(status.last_error.is_some() && status.last_error_seconds >= status.last_check_seconds);

    let text = serde_json::to_string(&checker.board().snapshot()).unwrap();
    let back: Snapshot = serde_json::from_str(&text).unwrap();
    assert_eq!(back.monitors.len(), 1, "{text}");

    checker.set_targets(Vec::new());
    let empty = async {
        while !checker.board().snapshot().monitors.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, empty).await.expect("a board without targets");
}

/// The one line of a board.
fn only(checker: &Checker) -> MonitorStatus {
    let mut monitors = checker.board().snapshot().monitors;
    assert_eq!(monitors.len(), 1);
    monitors.remove(0)
}

#[tokio::test]
async fn what_cannot_be_asked_takes_nobody_down() {
    let (_listener, address) = listen("127.0.0.1:0").await;
    let mut target = target(address);
    target.monitor.kind = MonitorKind::External(crate::model::ExternalCheck {
        program: "/no/such/program".into(),
        arguments: Vec::new(),
    });
    let (checker, mut reports) = start(vec![target]);
    let noted = async {
        while only_outcome(&checker) != Some(Outcome::NotAsked) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, noted).await.expect("a check");
    let status = only(&checker);
    assert_eq!(status.state, State::Up);
    let error = status.last_error.unwrap();
    assert!(error.starts_with("cannot run /no/such/program: "), "{error}");
    assert_eq!(reports.try_recv(), Err(TryRecvError::Empty));
}

fn only_outcome(checker: &Checker) -> Option<Outcome> {
    checker.board().snapshot().monitors.first()?.last_outcome
}

#[tokio::test]
async fn thousands_of_targets_are_all_checked() {
    let (_listener, open) = listen("127.0.0.1:0").await;
    let (closed, refused) = listen("127.0.0.1:0").await;
    drop(closed);
    let targets = (0..3000u16).map(|n| {
        let address = if n % 3 == 0 { refused } else { open };
        let mut target = target(address);
        target.port = Some(n);
        target.monitor.interval = Duration::from_secs(1);
        target
    });
    let begun = Instant::now();
    let (_checker, mut reports) = start(targets.collect());
    let mut up = BTreeMap::new();
    while up.len() < 3000 {
        let report = next(&mut reports).await;
        up.insert(report.port.unwrap(), report.up);
    }
    assert!(up.iter().all(|(n, up)| *up == (n % 3 != 0)));
    assert!(begun.elapsed() >= Duration::from_millis(500), "first checks were not spread");
}
