//! A request that may have to be sent once more, kept in few bytes.
//!
//! A kept connection may be closed by its server in the moment that a request is sent over it, and the client is not to pay for
//! that. It happens seldom, and a copy is made for every request: so the fields lie in one piece of memory, which costs nothing
//! more when it is forgotten, and are parsed again when they are needed.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::body::ClientBody;

/// A copy of a request without a body.
#[derive(Debug)]
pub(super) struct Spare {
    method: Method,
    uri: Uri,
    version: Version,
    fields: Fields,
    /// The server may see it twice (RFC 9110, section 9.2.2).
    pub(super) may_repeat: bool,
}

impl Spare {
    /// A copy of a request that has no body.
    pub(super) fn of(request: &Request<ClientBody>) -> Option<Self> {
        request.body().is_nothing().then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            fields: Fields::of(request.headers()),
            may_repeat: request.method().is_idempotent(),
        })
    }

    /// The request as it was.
    pub(super) fn into_request(self) -> Box<Request<ClientBody>> {
        let mut request = Box::new(Request::new(ClientBody::nothing()));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.fields.read();
        request
    }
}

/// Names and values, each after its length.
#[derive(Debug)]
struct Fields(Vec<u8>);

/// How many bytes a length takes.
const LENGTH: usize = size_of::<u32>();

impl Fields {
    fn of(headers: &HeaderMap) -> Self {
        let pieces = || headers.iter().flat_map(|(name, value)| [name.as_ref(), value.as_bytes()]);
        let mut bytes = Vec::with_capacity(pieces().map(|piece| LENGTH + piece.len()).sum());
        for piece in pieces() {
            // No header is as long as that: `max_header_bytes` is a u32.
            let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&length.to_ne_bytes());
            bytes.extend_from_slice(piece);
        }
        Self(bytes)
    }

    fn read(&self) -> HeaderMap {
        let mut rest = &self.0[..];
        let mut piece = || {
            let (length, after) = rest.split_first_chunk::<LENGTH>()?;
            let (piece, after) = after.split_at_checked(u32::from_ne_bytes(*length) as usize)?;
            rest = after;
            Some(piece)
        };
        let mut headers = HeaderMap::new();
        while let (Some(name), Some(value)) = (piece(), piece()) {
            // They were a name and a value before.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                headers.append(name, value);
            }
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method) -> Request<ClientBody> {
        let mut request = Request::new(ClientBody::nothing());
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_static("/a;b?c=%20d");
        *request.version_mut() = Version::HTTP_2;
        let fields: [(&[u8], &[u8]); 6] = [
            (b"host", b"a.example"),
            (b"cookie", b"x=1; y=\xe4"),
            (b"x-empty", b""),
            (b"accept", b"one"),
            (b"x-own-name", b"\tq"),
            (b"accept", b"two"),
        ];
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name).unwrap();
            request.headers_mut().append(name, HeaderValue::from_bytes(value).unwrap());
        }
        request
    }

    #[test]
    fn a_copy_is_the_same_request() {
        let request = request(Method::GET);
        let again = Spare::of(&request).unwrap().into_request();
        assert_eq!(again.method(), request.method());
        assert_eq!(again.uri(), request.uri());
        assert_eq!(again.version(), request.version());
        assert_eq!(again.headers(), request.headers());
        let accepts: Vec<_> = again.headers().get_all("accept").iter().collect();
        assert_eq!(accepts, ["one", "two"]);
    }

    #[test]
    fn what_a_server_may_see_twice_goes_by_the_method() {
        assert!(Spare::of(&request(Method::DELETE)).unwrap().may_repeat);
        assert!(!Spare::of(&request(Method::POST)).unwrap().may_repeat);
        assert!(!Spare::of(&request(Method::PATCH)).unwrap().may_repeat);
    }
}
