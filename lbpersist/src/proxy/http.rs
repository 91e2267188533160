//! The way of a request: checked, given to a server, its answer passed back.

use std::{
    convert::Infallible,
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE},
};
use http_body::Body as _;
use hyper::body::Incoming;

use super::{
    access_log::Entry,
    again::Spare,
    body::{AnswerBody, ClientBody, Progress},
    choose::{Chosen, Tried},
    connection::Connection,
    exchange::Exchange,
    headers,
    keep::{self, Kept},
    reason::Reason,
    scan,
    upstream::{self, Lease},
};
use crate::{
    clock,
    model::{HttpSettings, ServerProtocol},
};

/// Answers a request.
pub(super) async fn handle(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let service = connection.service();
    let mut exchange = Exchange::begin(&connection, service, || Entry::of(&request));
    let carried = match ready(&exchange, request) {
        Ok(ready) => carry(&mut exchange, ready).await,
        Err(reason) => Err(reason),
    };
    Ok(match carried {
        Ok(answer) => pass(exchange, answer),
        Err(reason) => exchange.refuse(reason),
    })
}

/// What a server has said to a request.
struct Answer {
    response: Response<Incoming>,
    /// The client asked for another protocol, and may have it.
    upgrade: bool,
}

/// A request as it goes to servers.
struct Outgoing {
    request: Box<Request<ClientBody>>,
    progress: Option<Rc<Progress>>,
}

/// A request that is ready to go to a server.
struct Ready {
    outgoing: Outgoing,
    upgrade: bool,
    kept: Kept,
}

/// Checks a request, and sees which server its client has.
fn ready(exchange: &Exchange, request: Request<Incoming>) -> Result<Ready, Reason> {
    if let Some(reason) = exchange.refused {
        return Err(reason);
    }
    let service = &exchange.service;
    let settings = service.settings.http().ok_or(Reason::NoServer)?;
    let (mut outgoing, upgrade) = prepare(exchange, settings, request)?;
    let client = exchange.connection.client.source;
    let (headers, uri) = (outgoing.request.headers(), outgoing.request.uri());
    let (tenure, memory) = (&exchange.connection.tenure, Some(&exchange.connection.memory));
    let kept = Kept::of(service, headers, uri, client, tenure, memory);
    if let Some(reason) = kept.refused() {
        return Err(reason);
    }
    keep::strip(service, outgoing.request.headers_mut());
    Ok(Ready { outgoing, upgrade, kept })
}

/// Gives a request to servers until one answers.
async fn carry(exchange: &mut Exchange, ready: Ready) -> Result<Answer, Reason> {
    let Ready { mut outgoing, upgrade, kept } = ready;
    let service = Arc::clone(&exchange.service);
    let settings = service.settings.http().ok_or(Reason::NoServer)?;
    let client = exchange.connection.client.source;
    let mut tried = Tried::default();
    for attempt in 0..=settings.link.retries {
        // The place at the server before, if it has one.
        exchange.place = None;
        let Chosen { server, place } = match kept.next(&service, client, exchange.number, &tried) {
            Ok(chosen) => chosen,
            Err(reason) if attempt == 0 => return Err(reason),
            Err(_) => break,
        };
        if attempt > 0 {
            exchange.connection.shard().retries.add(1);
        }
        exchange.server = Some(server);
        exchange.place = Some(place);
        match ask(exchange, settings, server, outgoing).await {
            Ok(response) => {
                exchange.kept = kept.outcome(server);
                exchange.session = kept.settle(&service, server, &exchange.connection.tenure);
                return Ok(Answer { response, upgrade });
            }
            Err(Unanswered::NotSent(back)) => outgoing = back,
            Err(Unanswered::Failed(reason)) => return Err(reason),
        }
        tried.add(server);
    }
    Err(Reason::ConnectFailed)
}

/// Makes of a client's request the one that servers get. Says whether it asks for another protocol.
fn prepare(
    exchange: &Exchange,
    settings: &HttpSettings,
    request: Request<Incoming>,
) -> Result<(Outgoing, bool), Reason> {
    let (mut parts, body) = request.into_parts();
    let (is_http1, to_http1) =
        (exchange.connection.is_http1, settings.server_protocol == ServerProtocol::Http1);
    if parts.method == Method::CONNECT {
        return Err(Reason::RefusedMethod);
    }
    if !headers::may_ask_for(&parts.method, &parts.uri) {
        return Err(Reason::Malformed);
    }
    let length = parts.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|value| scan::content_length(value.as_bytes()));
    if length.zip(settings.max_body_bytes).is_some_and(|(length, most)| length > most) {
        return Err(Reason::BodyTooLarge);
    }
    if !headers::settle_host(&mut parts.headers, &parts.uri) {
        if parts.version != Version::HTTP_10 {
            return Err(Reason::BadHost);
        }
        let listen = exchange.service.listen.to_string();
        parts.headers.extend(HeaderValue::try_from(listen).ok().map(|host| (HOST, host)));
    }
    let host = parts.headers.get(HOST).filter(|_| !is_http1);
    if host.is_some_and(|host| !scan::is_host(host.as_bytes())) {
        return Err(Reason::BadHost);
    }
    let takes_trailers = headers::remove_te(&mut parts.headers);
    let upgrade = headers::remove_hop_by_hop(&mut parts.headers)
        .filter(|wanted| !wanted.as_bytes().eq_ignore_ascii_case(b"h2c"))
        .filter(|_| is_http1 && to_http1 && body.is_end_stream());
    parts.headers.remove(EXPECT);
    if !is_http1 {
        headers::join_cookies(&mut parts.headers);
    }
    let (how, fields) = (settings.forwarded, settings.forwarded_fields);
    headers::forwarded(&mut parts.headers, &exchange.connection.told, how, fields);
    if to_http1 && !body.is_end_stream() && length.is_none() {
        parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if !to_http1 && takes_trailers {
        parts.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let asks_upgrade = upgrade.is_some();
    if let Some(wanted) = upgrade {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, wanted);
    }
    parts.uri = if to_http1 {
        headers::origin_form(parts.uri)
    } else {
        headers::absolute_form(parts.uri, &mut parts.headers).ok_or(Reason::BadHost)?
    };
    parts.version = if to_http1 { Version::HTTP_11 } else { Version::HTTP_2 };
    parts.extensions.clear();
    let (most, limit) = (settings.max_body_bytes, settings.timeouts.body);
    let (body, progress) = ClientBody::new(body, most, limit, &exchange.connection.link);
    let request = Box::new(Request::from_parts(parts, body));
    Ok((Outgoing { request, progress }, asks_upgrade))
}

/// Why a server gave no answer.
enum Unanswered {
    /// It could not be reached: nothing was sent, and another one may be asked.
    NotSent(Outgoing),
    /// It has, or may have, seen something of the request.
    Failed(Reason),
}

/// Asks one server, over a connection that is kept or over a new one.
async fn ask(
    exchange: &mut Exchange,
    settings: &HttpSettings,
    server: usize,
    mut outgoing: Outgoing,
) -> Result<Response<Incoming>, Unanswered> {
    let server = &Arc::clone(&exchange.service).servers[server];
    let connection = Rc::clone(&exchange.connection);
    let pool = connection.pool(&settings.link);
    let mut may_reuse = true;
    loop {
        let protocol = settings.server_protocol;
        let kept = may_reuse.then(|| pool.take(server.address, protocol)).flatten();
        let (mut lease, is_new) = match kept {
            Some(lease) => (lease, false),
            // Seldom, and large: it is not to make every request's future as large as itself.
            None => match Box::pin(open(&connection, server.address, settings)).await {
                Some(lease) => (lease, true),
                None => return Err(Unanswered::NotSent(outgoing)),
            },
        };
        exchange.times.connected = Some(exchange.times.now());
        let Outgoing { request, progress } = outgoing;
        let spare = (!is_new).then(|| Spare::of(&request)).flatten();
        let limit = settings.timeouts.response;
        let sent = send(&connection, &mut lease, request, progress.as_deref(), limit);
        match sent.await.map_err(Unanswered::Failed)? {
            Ok(response) => {
                if progress.is_some_and(|progress| !progress.is_over()) {
                    lease.detach();
                }
                exchange.lease = Some(lease);
                return Ok(response);
            }
            Err(error) => {
                if let Some(request) = error.back {
                    outgoing = Outgoing { request, progress };
                    if is_new {
                        return Err(Unanswered::NotSent(outgoing));
                    }
                } else if let Some(spare) = spare.filter(|spare| error.may_ask_again(spare)) {
                    // The server closed it as the request came, or takes no more of them. A new connection shows whether
                    // there is more to it.
                    may_reuse = false;
                    outgoing = Outgoing { request: spare.into_request(), progress };
                } else {
                    let fault = progress.and_then(|progress| progress.fault());
                    return Err(Unanswered::Failed(fault.unwrap_or(Reason::BadAnswer)));
                }
            }
        }
    }
}

/// Sends a request and waits for the header of its answer, for `limit` from the last of the request.
async fn send(
    connection: &Connection,
    lease: &mut Lease,
    request: Box<Request<ClientBody>>,
    progress: Option<&Progress>,
    limit: Duration,
) -> Result<Result<Response<Incoming>, upstream::Unanswered>, Reason> {
    let mut sending = pin!(lease.send(request));
    let mut until = clock::tick() + limit;
    // One timer for all requests of a connection that come one after the other.
    let mut alarm = connection.alarm.take();
    let sent = poll_fn(|cx| {
        loop {
            if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
                return Poll::Ready(Ok(sent));
            }
            ready!(alarm.poll(cx, until));
            // A body that is still coming is no silence of the server's.
            match progress.map(|progress| progress.last() + limit) {
                Some(later) if later > clock::tick() => until = later,
                _ => return Poll::Ready(Err(Reason::AnswerTimeout)),
            }
        }
    });
    let sent = sent.await;
    connection.alarm.replace(alarm);
    sent
}

async fn open(
    connection: &Connection,
    server: SocketAddr,
    settings: &HttpSettings,
) -> Option<Lease> {
    let opened = upstream::connect(server, &settings.link, connection.client).await;
    let stream =
        opened.inspect_err(|error| tracing::debug!(%server, %error, "cannot connect")).ok()?;
    connection.shard().server_connections.add(1);
    Lease::new(server, stream, settings.server_protocol).await.ok()
}

/// Makes of a server's answer the one that the client gets.
fn pass(mut exchange: Box<Exchange>, answer: Answer) -> Response<AnswerBody> {
    let Answer { response, upgrade } = answer;
    let (mut parts, body) = response.into_parts();
    if parts.headers.contains_key(TRANSFER_ENCODING) {
        // The chunks are what counts (RFC 9112, section 6.3).
        parts.headers.remove(CONTENT_LENGTH);
    }
    let protocol = headers::remove_hop_by_hop(&mut parts.headers);
    parts.extensions.clear();
    parts.version = Version::HTTP_11;
    if let Some(session) = &mut exchange.session {
        keep::answer(session, &mut parts.headers);
    }
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let Some(protocol) = protocol.filter(|_| upgrade) else {
            exchange.lease = None;
            return exchange.refuse(Reason::BadAnswer);
        };
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, protocol);
        exchange.answered_with(parts.status);
        let connection = Rc::clone(&exchange.connection);
        connection.link.turn_raw();
        connection.upgrade(exchange);
        return Response::from_parts(parts, AnswerBody::Own(None));
    }
    if exchange.connection.is_http1 && exchange.connection.is_closing() {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    exchange.answered_with(parts.status);
    let limit = exchange.service.settings.http().map(|settings| settings.timeouts.response_body);
    let body = AnswerBody::of_server(body, exchange, limit.unwrap_or_default());
    Response::from_parts(parts, body)
}
