//! Whether an HTTP/1.1 request is answered as it should be, over TLS or not.

use std::{error::Error as _, net::SocketAddr};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Fault, Stage, tcp, tls};
use crate::model::{HttpCheck, Pattern, contains};

/// As much of a body is looked at, in bytes.
pub(in crate::health) const MOST_BODY: usize = 64 << 10;

/// The largest head of an answer, in bytes.
const MOST_HEAD: usize = 64 << 10;

const USER_AGENT: &str = concat!("lbpersist/", env!("CARGO_PKG_VERSION"));

/// Connects, asks once, and judges the answer.
pub(super) async fn check(
    address: SocketAddr,
    check: &HttpCheck,
    client: Option<&tls::Client>,
    stage: &Stage,
) -> Result<(), Fault> {
    let request = request(address, check).map_err(Fault::Own)?;
    let stream = tcp::open(address).await?;
    let answered = match client {
        None => exchange(stream, request, check, stage).await,
        Some(client) => {
            let stream = tls::handshake(stream, address, client, stage).await?;
            exchange(stream, request, check, stage).await
        }
    };
    answered.map_err(|why| Fault::Server(format!("{address}: {why}")))
}

fn request(address: SocketAddr, check: &HttpCheck) -> Result<Request<Empty<Bytes>>, String> {
    let host = check.host.clone().unwrap_or_else(|| address.to_string());
    let mut request = Request::builder()
        .method(check.method.as_str())
        .uri(check.path.as_str())
        .header(header::HOST, host)
        .header(header::CONNECTION, "close");
    for (name, value) in &check.headers {
        request = request.header(name, value);
    }
    if !check.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
        request = request.header(header::USER_AGENT, USER_AGENT);
    }
    request.body(Empty::new()).map_err(|error| format!("the request cannot be made: {error}"))
}

/// Says in words what was wrong with the answer.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Empty<Bytes>>,
    check: &HttpCheck,
    stage: &Stage,
) -> Result<(), String> {
    stage.set("HTTP answer");
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MOST_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| in_words(&error))?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(|error| in_words(&error))?;
        let status = response.status().as_u16();
        if !check.status.contains(status) {
            return Err(format!("status {status}, not {}", check.status));
        }
        stage.set("end of the answer");
        match &check.body {
            Some(pattern) => judge_body(response.into_body(), pattern).await,
            None => Ok(()),
        }
    };
    tokio::pin!(answered, connection);
    // The connection has to be driven for as long as it lasts, and what it has read before it ended still counts.
    tokio::select! {
        biased;
        answered = &mut answered => return answered,
        _ = &mut connection => {}
    }
    answered.await
}

async fn judge_body(mut body: Incoming, pattern: &Pattern) -> Result<(), String> {
    let mut seen = Vec::new();
    while seen.len() < MOST_BODY
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|error| format!("the answer broke off: {}", in_words(&error)))?;
        let Ok(data) = frame.into_data() else { continue };
        let old = seen.len();
        seen.extend_from_slice(&data[..data.len().min(MOST_BODY - old)]);
        // A text is found where it first can be. An expression may look at the end, so it waits for that.
        if let Pattern::Text(text) = pattern
            && contains(&seen[(old + 1).saturating_sub(text.len())..], text.as_bytes())
        {
            return Ok(());
        }
    }
    if pattern.is_in(&seen) {
        return Ok(());
    }
    let length = seen.len();
    Err(match length {
        MOST_BODY.. => format!("the first {length} bytes of the body have no {pattern}"),
        _ => format!("the body of {length} bytes has no {pattern}"),
    })
}

/// An error with its causes: hyper's own words alone often say little.
fn in_words(error: &hyper::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words += &format!(": {error}");
        cause = error.source();
    }
    words
}
