//! HTTP checks against servers that answer well, wrong, late, by halves, and too much.

use super::{
    server::{Act, start},
    *,
};
use crate::model::{HttpCheck, Pattern, StatusRanges};

const LIMIT: Duration = Duration::from_millis(300);

fn check() -> HttpCheck {
    HttpCheck {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        host: None,
        headers: Vec::new(),
        status: StatusRanges::default(),
        body: None,
        tls: None,
    }
}

fn kind(check: HttpCheck) -> MonitorKind {
    MonitorKind::Http(Box::new(check))
}

fn with_body(text: &str) -> MonitorKind {
    kind(HttpCheck { body: Some(Pattern::Text(text.to_owned())), ..check() })
}

fn with_expression(text: &str) -> MonitorKind {
    kind(HttpCheck { body: Some(Pattern::expression(text).unwrap()), ..check() })
}

#[tokio::test]
async fn status_codes_decide() {
    let wanted =
        |text: &str| kind(HttpCheck { status: StatusRanges::parse(text).unwrap(), ..check() });
    for (status, ranges, passes) in [
        ("200 OK", "200-299", true),
        ("204 No Content", "200-299", true),
        ("401 Unauthorized", "200-299, 401", true),
        ("302 Found", "200-299", false),
        ("503 Service Unavailable", "200-299, 401", false),
        ("500 Oops", "500", true),
    ] {
        let address = start(Act::answer(status, "")).await;
        let result = ask(wanted(ranges), address, PATIENCE).await;
        assert_eq!(result.is_ok(), passes, "{status}: {result:?}");
        if let Err(fault) = result {
            let code = status.split(' ').next().unwrap();
            let words = format!("{address}: status {code}, not {ranges}");
            assert_eq!(fault, Fault::Server(words));
        }
    }
}

#[tokio::test]
async fn the_request_is_what_the_monitor_says() {
    let address = start(Act::Echo).await;
    let asked = HttpCheck {
        method: "OPTIONS".to_owned(),
        path: "/health?deep=1".to_owned(),
        host: Some("www.example.com".to_owned()),
        headers: vec![("X-Check".to_owned(), "yes, it is".to_owned())],
        ..check()
    };
    for line in [
        r"^OPTIONS /health\?deep=1 HTTP/1\.1\r\n",
        r"(?i)\r\nhost: www\.example\.com\r\n",
        r"(?i)\r\nx-check: yes, it is\r\n",
        r"(?i)\r\nconnection: close\r\n",
        r"(?i)\r\nuser-agent: lbpersist/",
    ] {
        let body = Some(Pattern::expression(line).unwrap());
        let result = ask(kind(HttpCheck { body, ..asked.clone() }), address, PATIENCE).await;
        assert_eq!(result, Ok(()), "{line}");
    }
    let own_host = format!("(?i)\\r\\nhost: {address}\\r\\n");
    assert_eq!(ask(with_expression(&own_host), address, PATIENCE).await, Ok(()));
}

#[tokio::test]
async fn bodies_are_searched() {
    let address = start(Act::answer("200 OK", "status: ready\n")).await;
    assert_eq!(ask(with_body("ready"), address, PATIENCE).await, Ok(()));
    assert_eq!(ask(with_expression(r"^status: \w+\n$"), address, PATIENCE).await, Ok(()));
    assert_eq!(
        complaint(with_body("READY"), address, PATIENCE).await,
        format!("{address}: the body of 14 bytes has no \"READY\"")
    );
    assert_eq!(
        complaint(with_expression("^ready$"), address, PATIENCE).await,
        format!("{address}: the body of 14 bytes has no match of \"^ready$\"")
    );
}

#[tokio::test]
async fn a_text_is_found_across_pieces_and_before_the_end() {
    let pieces =
        ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nre\r\n", "3\r\nady\r\n"];
    let pause = Duration::from_millis(20);
    let slow = pieces.map(|piece| (pause, piece.into())).to_vec();
    // The last chunk never comes, which does not matter for a text and does for an expression.
    let held = format!("{}{}", pieces[0], pieces[1]);
    let address = start(Act::SayAndHold(held.into())).await;
    assert_eq!(ask(with_body("ready"), address, PATIENCE).await, Ok(()));
    assert_eq!(
        complaint(with_expression("ready"), address, LIMIT).await,
        format!("no end of the answer from {address} within 300ms")
    );
    let address = start(Act::Say(slow)).await;
    assert_eq!(ask(with_body("ready"), address, PATIENCE).await, Ok(()));
}

#[tokio::test]
async fn what_is_no_http_fails() {
    for (act, words) in [
        (Act::say("SSH-2.0-OpenSSH_9.2\r\n"), "invalid HTTP version"),
        (Act::say("\0\u{1}\u{2}garbage\r\n\r\n"), "invalid HTTP"),
        (Act::say(""), "connection closed before message completed"),
        (Act::say("HTTP/1.1 2"), "connection closed before message completed"),
        (Act::say("HTTP/1.1 200 OK\r\nContent-Le"), "connection closed before message completed"),
        (Act::say("HTTP/1.1 20 OK\r\n\r\n"), "invalid HTTP status-code"),
        (Act::say("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"), "invalid content-length"),
    ] {
        let address = start(act.clone()).await;
        let complaint = complaint(kind(check()), address, PATIENCE).await;
        assert!(complaint.contains(words), "{act:?}: {complaint}");
    }
}

#[tokio::test]
async fn half_an_answer_fails() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let address = start(Act::say(text)).await;
        let complaint = complaint(with_body("ready"), address, PATIENCE).await;
        assert!(complaint.contains("the answer broke off"), "{complaint}");
    }
}

#[tokio::test]
async fn a_late_answer_fails() {
    let trickle: Vec<_> =
        "HTTP/1.1 200 OK\r\n\r\n".bytes().map(|b| (Duration::from_millis(100), vec![b])).collect();
    for (act, words) in [
        (Act::SayAndHold(Vec::new()), "HTTP answer"),
        (Act::SayAndHold(b"HTTP/1.1 200 OK\r\n".to_vec()), "HTTP answer"),
        (Act::Say(trickle), "HTTP answer"),
    ] {
        let address = start(act).await;
        let complaint = complaint(kind(check()), address, LIMIT).await;
        assert_eq!(complaint, format!("no {words} from {address} within 300ms"));
    }
}

#[tokio::test]
async fn an_endless_answer_is_read_only_so_far() {
    let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let address = start(Act::Repeat(head.clone(), vec![b'x'; 1000])).await;
    assert_eq!(
        complaint(with_body("ready"), address, PATIENCE).await,
        format!("{address}: the first 65536 bytes of the body have no \"ready\"")
    );
    assert_eq!(ask(with_expression("x+$"), address, PATIENCE).await, Ok(()));
    // A head without end.
    let address =
        start(Act::Repeat(head[..17].to_vec(), b"X-Fill: xxxxxxxxxxxxxxxxx\r\n".to_vec())).await;
    let complaint = complaint(kind(check()), address, PATIENCE).await;
    assert!(complaint.contains("message head is too large"), "{complaint}");
}

#[tokio::test]
async fn checks_leave_no_connection_behind() {
    let address = start(Act::answer("200 OK", "ready")).await;
    for _ in 0..100 {
        assert_eq!(ask(with_body("ready"), address, PATIENCE).await, Ok(()));
    }
    // Those of the server's side whose client has closed first end in nothing; ours must not wait in TIME_WAIT (06).
    let port = format!(":{:04X} 06 ", address.port());
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let left: Vec<_> = table.lines().filter(|line| line.contains(&port)).collect();
    assert!(left.is_empty(), "{left:#?}");
}
