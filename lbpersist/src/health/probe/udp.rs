//! Whether a datagram is answered as it should be.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::{Fault, socket_fault};
use crate::model::{UdpCheck, contains};

/// As much of an answer is looked at, in bytes.
const MOST_ANSWER: usize = 4096;

/// How much of a wrong answer is shown, in bytes.
const MOST_SHOWN: usize = 60;

/// Sends the request once and takes the first answer.
pub(super) async fn check(address: SocketAddr, check: &UdpCheck) -> Result<(), Fault> {
    let mut answer = vec![0; MOST_ANSWER];
    let exchange = async {
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any).await?;
        // A connected socket hears its peer only, and learns when nobody listens there.
        socket.connect(address).await?;
        socket.send(&check.request).await?;
        socket.recv(&mut answer).await
    };
    let length = exchange
        .await
        .map_err(|error| socket_fault(&error, "cannot exchange datagrams with", address))?;
    judge(&answer[..length], check).map_err(Fault::Server)
}

fn judge(answer: &[u8], check: &UdpCheck) -> Result<(), String> {
    let Some(wanted) = &check.answer else { return Ok(()) };
    if contains(answer, wanted) {
        return Ok(());
    }
    let shown = &answer[..answer.len().min(MOST_SHOWN)];
    let more = if shown.len() < answer.len() { "..." } else { "" };
    Err(format!(
        "the answer \"{}{more}\" has no \"{}\"",
        shown.escape_ascii(),
        wanted.escape_ascii()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_what_they_hold() {
        let mut check = UdpCheck { request: Vec::new(), answer: Some(b"\x00ok".to_vec()) };
        assert_eq!(judge(b"all \x00ok here", &check), Ok(()));
        let wrong = judge(b"ok\xff", &check).unwrap_err();
        assert_eq!(wrong, r#"the answer "ok\xff" has no "\x00ok""#);
        assert!(judge(&[b'x'; 4000], &check).unwrap_err().len() < 200);
        check.answer = None;
        assert_eq!(judge(b"", &check), Ok(()));
    }
}
