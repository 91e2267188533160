//! One request and its answer, from the first to the last byte: counted and logged when it ends, however it ends.

use std::{rc::Rc, sync::Arc};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::{
    access_log::{Entry, Met, Times},
    body::AnswerBody,
    connection::Connection,
    counters::Shard,
    load::Place,
    reason::Reason,
    snapshot::Service,
    upstream::Lease,
};
use crate::{
    model::AccessLog,
    persistence::{Outcome, Session},
};

/// A request under way.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) connection: Rc<Connection>,
    pub(super) service: Arc<Service>,
    /// Its number on the worker.
    pub(super) number: u64,
    /// Why it was refused before it was read.
    pub(super) refused: Option<Reason>,
    pub(super) server: Option<usize>,
    pub(super) lease: Option<Lease>,
    /// Counts for the server.
    pub(super) place: Option<Place>,
    /// Keeps what its persistence uses from expiring.
    pub(super) session: Option<Session>,
    /// What became of the client's persistence.
    pub(super) kept: Option<Outcome>,
    pub(super) times: Times,
    status: Option<StatusCode>,
    entry: Option<Box<Entry>>,
    ended: bool,
}

impl Exchange {
    /// Begins one, which is large and goes through many hands; `entry` makes what is noted for the log, if there is one.
    pub(super) fn begin(
        connection: &Rc<Connection>,
        service: Arc<Service>,
        entry: impl FnOnce() -> Entry,
    ) -> Box<Self> {
        let refused = connection.link.begin();
        let logged =
            service.settings.http().is_some_and(|settings| settings.access_log != AccessLog::Off);
        connection.shard().requests.add(1);
        Box::new(Self {
            number: connection.worker.next_number(),
            refused,
            server: None,
            lease: None,
            place: None,
            session: None,
            kept: None,
            times: if logged { Times::begin() } else { Times::unread() },
            status: None,
            entry: logged.then(|| Box::new(entry())),
            ended: false,
            connection: Rc::clone(connection),
            service,
        })
    }

    /// Notes the answer's status.
    pub(super) fn answered_with(&mut self, status: StatusCode) {
        self.times.answered = Some(self.times.now());
        self.status = Some(status);
        self.shard().status(status);
    }

    /// Answers in the proxy's own words, and ends.
    pub(super) fn refuse(mut self: Box<Self>, reason: Reason) -> Response<AnswerBody> {
        let status = reason.status();
        self.answered_with(status);
        let mut headers = HeaderMap::new();
        let text = format!("{} {}\n", status.as_u16(), reason.name());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        if matches!(reason, Reason::NoServer | Reason::ServerDown | Reason::ServerFull) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        // Of a request that was not read to its end, the rest might be taken for another one.
        if self.connection.is_http1 && (ends_connection(reason) || self.connection.is_closing()) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        self.end(reason);
        let mut response = Response::new(AnswerBody::Own(Some(text.into())));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    /// Ends: the answer has gone to the client, or never will.
    pub(super) fn finish(mut self: Box<Self>, reason: Reason) {
        self.end(reason);
    }

    fn end(&mut self, reason: Reason) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.shard().outcome(reason);
        self.session = None;
        self.place = None;
        if let Some(lease) = self.lease.take()
            && reason == Reason::Answered
            && let Some(settings) = self.service.settings.http()
        {
            let kept = usize::from(settings.max_idle_connections);
            let time = settings.timeouts.server_idle;
            self.connection.pool(&settings.link).put(lease, kept, time);
        }
        if let Some(entry) = self.entry.take() {
            let server = self.server.and_then(|server| self.service.servers.get(server));
            self.connection.worker.log.request(
                &entry,
                &self.service,
                self.connection.client.source,
                Met { server: server.map(|server| server.address), kept: self.kept },
                self.status,
                reason,
                &self.times,
            );
        }
        self.connection.link.end();
    }

    fn shard(&self) -> &Shard {
        self.connection.shard()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Nobody was left to take the answer.
        let late = self.connection.link.has_write_timed_out();
        self.end(if late { Reason::WriteTimeout } else { Reason::ClientGone });
    }
}

/// When a client without a server may come again, in seconds.
const RETRY_AFTER: &str = "10";

/// Whether the rest of such a request is not worth reading, or not to be understood.
fn ends_connection(reason: Reason) -> bool {
    reason.status().is_client_error()
        || matches!(reason, Reason::UnknownCoding | Reason::UnknownVersion)
}
