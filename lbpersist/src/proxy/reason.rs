//! Why a request or connection ended as it did: one append-only list, counted for each service.

use http::StatusCode;

/// What became of a request, or of a connection that never made one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The server's answer was passed on whole.
    Answered,
    /// The connection was upgraded, and has ended since.
    Upgraded,
    /// A connection of mode `tcp` was carried to its end.
    Carried,
    /// Not HTTP, or a header field that cannot be.
    Malformed,
    /// A line that ends without a carriage return, or a carriage return that ends none.
    BareLineEnd,
    /// A header field that goes on in the next line.
    FoldedField,
    /// Lengths that contradict each other or are no lengths.
    BadLength,
    /// A chunk whose size or end is wrong.
    BadChunk,
    /// No `Host`, several, or one that is no host.
    BadHost,
    /// More header than is allowed.
    HeaderTooLarge,
    /// More body than is allowed.
    BodyTooLarge,
    /// The header did not come in time.
    HeaderTimeout,
    /// The body did not come in time.
    BodyTimeout,
    /// A transfer coding other than `chunked`.
    UnknownCoding,
    /// A version of HTTP other than 1.0, 1.1 and 2.
    UnknownVersion,
    /// An expectation other than `100-continue`.
    UnknownExpectation,
    /// A method that a proxy for servers does not carry: `CONNECT`.
    RefusedMethod,
    /// The client went away before it had its answer.
    ClientGone,
    /// The client took nothing of its answer for too long.
    WriteTimeout,
    /// A connection that had to begin with a PROXY protocol header, and did not.
    BadProxyHeader,
    /// No server is up.
    NoServer,
    /// No server that was tried could be reached.
    ConnectFailed,
    /// The server closed, or did not speak HTTP, before it had answered.
    BadAnswer,
    /// The server's answer did not begin in time.
    AnswerTimeout,
    /// The server's answer ended before its end.
    AnswerCut,
    /// A silence within the server's answer was too long.
    AnswerBodyTimeout,
    /// Neither side said anything for too long.
    IdleTimeout,
    /// The client's server is down, and its profile allows no other.
    ServerDown,
    /// Every server that the client may have is full.
    ServerFull,
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All of them, in order.
    pub const ALL: [Self; 29] = [
        Self::Answered,
        Self::Upgraded,
        Self::Carried,
        Self::Malformed,
        Self::BareLineEnd,
        Self::FoldedField,
        Self::BadLength,
        Self::BadChunk,
        Self::BadHost,
        Self::HeaderTooLarge,
        Self::BodyTooLarge,
        Self::HeaderTimeout,
        Self::BodyTimeout,
        Self::UnknownCoding,
        Self::UnknownVersion,
        Self::UnknownExpectation,
        Self::RefusedMethod,
        Self::ClientGone,
        Self::WriteTimeout,
        Self::BadProxyHeader,
        Self::NoServer,
        Self::ConnectFailed,
        Self::BadAnswer,
        Self::AnswerTimeout,
        Self::AnswerCut,
        Self::AnswerBodyTimeout,
        Self::IdleTimeout,
        Self::ServerDown,
        Self::ServerFull,
    ];

    /// Its name in counters and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Upgraded => "upgraded",
            Self::Carried => "carried",
            Self::Malformed => "malformed",
            Self::BareLineEnd => "bare_line_end",
            Self::FoldedField => "folded_field",
            Self::BadLength => "bad_length",
            Self::BadChunk => "bad_chunk",
            Self::BadHost => "bad_host",
            Self::HeaderTooLarge => "header_too_large",
            Self::BodyTooLarge => "body_too_large",
            Self::HeaderTimeout => "header_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::UnknownCoding => "unknown_coding",
            Self::UnknownVersion => "unknown_version",
            Self::UnknownExpectation => "unknown_expectation",
            Self::RefusedMethod => "refused_method",
            Self::ClientGone => "client_gone",
            Self::WriteTimeout => "write_timeout",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::NoServer => "no_server",
            Self::ConnectFailed => "connect_failed",
            Self::BadAnswer => "bad_answer",
            Self::AnswerTimeout => "answer_timeout",
            Self::AnswerCut => "answer_cut",
            Self::AnswerBodyTimeout => "answer_body_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::ServerDown => "server_down",
            Self::ServerFull => "server_full",
        }
    }

    /// The status that a client is answered with, where it can still be answered.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Answered | Self::Carried => StatusCode::OK,
            Self::Upgraded => StatusCode::SWITCHING_PROTOCOLS,
            Self::Malformed
            | Self::BareLineEnd
            | Self::FoldedField
            | Self::BadLength
            | Self::BadChunk
            | Self::BadHost
            | Self::ClientGone
            | Self::BadProxyHeader => StatusCode::BAD_REQUEST,
            Self::HeaderTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeaderTimeout | Self::BodyTimeout | Self::WriteTimeout => {
                StatusCode::REQUEST_TIMEOUT
            }
            Self::UnknownCoding | Self::RefusedMethod => StatusCode::NOT_IMPLEMENTED,
            Self::UnknownVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::UnknownExpectation => StatusCode::EXPECTATION_FAILED,
            Self::NoServer | Self::ServerDown | Self::ServerFull => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectFailed | Self::BadAnswer | Self::AnswerCut => StatusCode::BAD_GATEWAY,
            Self::AnswerTimeout | Self::AnswerBodyTimeout | Self::IdleTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persistence::count::EVENTS;

    #[test]
    fn nothing_else_that_status_counts_beside_them_has_their_names() {
        for reason in Reason::ALL {
            assert!(!EVENTS.contains(&reason.name()), "{reason:?}");
        }
    }

    #[test]
    fn the_list_is_in_the_order_of_the_numbers() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{reason:?}");
        }
    }
}
