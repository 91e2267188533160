//! Looks at the bytes of an HTTP/1 client before they are parsed: where each request begins and ends, and whether all who
//! read it on its way would say the same.
//!
//! Parsers forgive much, and differ in what. A request that two of them cut differently smuggles another one past the first
//! (RFC 9112, section 11.2). What passes here has one reading: lines end in CR LF, header fields are one line with a proper
//! name, the target is a path or a whole URL, there is one length and it is one number or `chunked`, and chunks are sized in plain hexadecimal.
//! Pure: bytes in, lengths out. It neither copies nor keeps any.

mod field;
mod target;
#[cfg(test)]
mod tests;

use super::reason::Reason;
use field::{Facts, digits, hexadecimal, is_visible};

/// The longest line with the size of a chunk and its extensions, in bytes.
const CHUNK_LINE: usize = 4096;
/// The most header fields of a request, which is what the parser behind takes.
const MOST_FIELDS: u16 = 100;

/// What may be done with the bytes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes are a whole header and may pass; what follows belongs to its body or to the next request.
    Head {
        /// Bytes of the header.
        length: usize,
        /// The client wants another protocol on this connection: what follows is HTTP only if the server does not.
        upgrade: bool,
    },
    /// So many bytes, at least one, belong to a body and may pass.
    Body(usize),
    /// Nothing can be said without more bytes.
    More,
}

/// Where in a connection the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Between two requests.
    Between,
    /// Within a header.
    Head,
    /// Within a body.
    Body,
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    max_header: usize,
}

#[derive(Debug)]
enum State {
    /// So many bytes of the header, whole lines, have been looked at.
    Head { seen: usize, facts: Facts },
    /// So many bytes of a body are to come.
    Counted(u64),
    /// The size of a chunk.
    ChunkSize,
    /// So many bytes of a chunk are to come, and then its end.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// Fields after the last chunk; so many bytes have passed.
    Trailer(usize),
}

impl Scanner {
    /// A scanner for a new connection. `max_header` is the most bytes of a request's line and fields together.
    pub fn new(max_header: usize) -> Self {
        Self { state: State::head(), max_header }
    }

    /// Where the next byte belongs, if none are at hand that have not passed.
    pub fn place(&self) -> Place {
        match self.state {
            State::Head { seen: 0, .. } => Place::Between,
            State::Head { .. } => Place::Head,
            _ => Place::Body,
        }
    }

    /// Looks at `bytes`, which begin with the first one that has not passed yet: what was not passed before is given again.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Step, Reason> {
        if bytes.is_empty() {
            return Ok(Step::More);
        }
        match &mut self.state {
            State::Head { .. } => self.head(bytes),
            State::Counted(left) | State::Chunk(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= length as u64;
                if *left == 0 {
                    self.state = match self.state {
                        State::Chunk(_) => State::ChunkEnd,
                        _ => State::head(),
                    };
                }
                Ok(Step::Body(length))
            }
            State::ChunkSize => self.chunk_size(bytes),
            State::ChunkEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkSize;
                    Ok(Step::Body(2))
                }
                [b'\r'] => Ok(Step::More),
                _ => Err(Reason::BadChunk),
            },
            State::Trailer(_) => self.trailer(bytes),
        }
    }

    fn head(&mut self, bytes: &[u8]) -> Result<Step, Reason> {
        let State::Head { seen, facts } = &mut self.state else { return Ok(Step::More) };
        loop {
            let Some(line) = line(&bytes[*seen..])? else {
                let too_large = bytes.len() > self.max_header;
                return if too_large { Err(Reason::HeaderTooLarge) } else { Ok(Step::More) };
            };
            *seen += line.len() + 2;
            if *seen > self.max_header {
                return Err(Reason::HeaderTooLarge);
            }
            if !facts.has_request_line() {
                // Some clients end a body with a line end too many (RFC 9112, section 2.2).
                if !line.is_empty() {
                    facts.request_line(line)?;
                }
            } else if !line.is_empty() {
                if facts.fields() == MOST_FIELDS {
                    return Err(Reason::HeaderTooLarge);
                }
                facts.field(line)?;
            } else {
                let (length, facts) = (*seen, std::mem::take(facts));
                return self.body(length, &facts);
            }
        }
    }

    /// What follows a header.
    fn body(&mut self, length: usize, facts: &Facts) -> Result<Step, Reason> {
        facts.check()?;
        self.state = match facts.content_length() {
            _ if facts.is_chunked() => State::ChunkSize,
            None | Some(0) => State::head(),
            Some(length) => State::Counted(length),
        };
        let upgrade = facts.wants_upgrade() && matches!(self.state, State::Head { .. });
        Ok(Step::Head { length, upgrade })
    }

    fn chunk_size(&mut self, bytes: &[u8]) -> Result<Step, Reason> {
        let Some(line) = line(bytes)? else {
            return if bytes.len() > CHUNK_LINE { Err(Reason::BadChunk) } else { Ok(Step::More) };
        };
        let size = match line.iter().position(|byte| *byte == b';') {
            Some(place) if line.iter().all(|byte| is_visible(*byte)) => &line[..place],
            Some(_) => return Err(Reason::BadChunk),
            None => line,
        };
        let size = hexadecimal(size).ok_or(Reason::BadChunk)?;
        self.state = if size == 0 { State::Trailer(0) } else { State::Chunk(size) };
        Ok(Step::Body(line.len() + 2))
    }

    fn trailer(&mut self, bytes: &[u8]) -> Result<Step, Reason> {
        let State::Trailer(passed) = &mut self.state else { return Ok(Step::More) };
        let Some(line) = line(bytes)? else {
            let too_large = *passed + bytes.len() > self.max_header;
            return if too_large { Err(Reason::HeaderTooLarge) } else { Ok(Step::More) };
        };
        *passed += line.len() + 2;
        if *passed > self.max_header {
            return Err(Reason::HeaderTooLarge);
        }
        if line.is_empty() {
            self.state = State::head();
        } else {
            field::trailer(line)?;
        }
        Ok(Step::Body(line.len() + 2))
    }
}

impl State {
    fn head() -> Self {
        Self::Head { seen: 0, facts: Facts::default() }
    }
}

/// The first line of `bytes` without its end; nothing if the end has not come.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, Reason> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        // All but the last byte are known to be followed by something else than a line feed.
        let known = bytes.split_last().map_or(bytes, |(_, known)| known);
        return if known.contains(&b'\r') { Err(Reason::BareLineEnd) } else { Ok(None) };
    };
    match bytes[..end].split_last() {
        Some((b'\r', line)) if !line.contains(&b'\r') => Ok(Some(line)),
        _ => Err(Reason::BareLineEnd),
    }
}

/// Whether a client may mean this by the host it asks for; an empty one is none.
pub fn is_host(value: &[u8]) -> bool {
    target::is_host(value)
}

/// Reads a number of decimal digits, as `Content-Length` has it.
pub fn content_length(value: &[u8]) -> Option<u64> {
    digits(value)
}
