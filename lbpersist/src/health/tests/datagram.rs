//! UDP and echoes, on loopback.

use tokio::net::UdpSocket;

use super::*;
use crate::model::UdpCheck;

fn udp(request: &[u8], answer: Option<&[u8]>) -> MonitorKind {
    MonitorKind::Udp(UdpCheck { request: request.to_vec(), answer: answer.map(<[u8]>::to_vec) })
}

/// Answers every datagram with what `answer` makes of it, unless it makes nothing.
async fn start(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut question = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut question).await {
            if let Some(answer) = answer(&question[..length]) {
                let _ = socket.send_to(&answer, peer).await;
            }
        }
    });
    address
}

#[tokio::test]
async fn an_answer_passes_if_it_holds_what_is_wanted() {
    let address = start(|question| Some([b"you said ", question].concat())).await;
    for (request, answer, passes) in [
        (&b"ping"[..], None, true),
        (b"ping", Some(&b"said ping"[..]), true),
        (b"\x00\xff", Some(b"\x00\xff"), true),
        (b"", Some(b"you"), true),
        (b"ping", Some(b"pong"), false),
    ] {
        let result = ask(udp(request, answer), address, PATIENCE).await;
        assert_eq!(result.is_ok(), passes, "{request:?}: {result:?}");
    }
    assert_eq!(
        complaint(udp(b"ping", Some(b"\x01ng")), address, PATIENCE).await,
        r#"the answer "you said ping" has no "\x01ng""#
    );
}

#[tokio::test]
async fn silence_and_a_closed_port_fail() {
    let address = start(|_| None).await;
    assert_eq!(
        complaint(udp(b"ping", None), address, Duration::from_millis(100)).await,
        format!("no answer from {address} within 100ms")
    );
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(
        complaint(udp(b"ping", None), closed, PATIENCE).await,
        format!("connection refused by {closed}")
    );
}

#[tokio::test]
async fn a_huge_answer_is_looked_at_only_so_far() {
    let address = start(|_| Some([vec![b'x'; 5000], b"end".to_vec()].concat())).await;
    assert_eq!(ask(udp(b"?", Some(b"xxx")), address, PATIENCE).await, Ok(()));
    let complaint = complaint(udp(b"?", Some(b"end")), address, PATIENCE).await;
    assert!(complaint.len() < 200, "{complaint}");
}

#[tokio::test]
async fn loopback_answers_echoes() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let address: SocketAddr = address.parse().unwrap();
        match ask(MonitorKind::Icmp, address, PATIENCE).await {
            Ok(()) => {}
            // Without the right to open such a socket there is nothing to see.
            Err(Fault::Own(words)) => assert!(words.contains("CAP_NET_RAW"), "{words}"),
            Err(fault) => panic!("{address}: {fault:?}"),
        }
    }
}

#[tokio::test]
async fn echoes_to_many_do_not_get_mixed_up() {
    let tools = Tools::default();
    let probes: Vec<_> = (1..=250)
        .map(|n| {
            let mut target = target(SocketAddr::from(([127, 0, 1, n], 0)));
            target.monitor.kind = MonitorKind::Icmp;
            Probe::new(&target, &mut Clients::default())
        })
        .collect();
    let asked = probes.iter().map(|probe| probe.run(PATIENCE, &tools));
    let answers = futures_util::future::join_all(asked).await;
    let passed = answers.iter().filter(|answer| answer.is_ok()).count();
    if answers.iter().all(|answer| matches!(answer, Err(Fault::Own(_)))) {
        return;
    }
    assert_eq!(passed, 250, "{answers:?}");
}
