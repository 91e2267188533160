//! One line of a header at a time: what it may look like, and what it says about the message.

use super::target;
use crate::proxy::reason::Reason;

/// What the lines of a header have said so far.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// The minor version of HTTP/1, once there is a request line.
    minor: Option<u8>,
    fields: u16,
    hosts: u16,
    length: Option<u64>,
    chunked: bool,
    has_upgrade: bool,
    connection_upgrade: bool,
}

impl Facts {
    pub(super) fn has_request_line(&self) -> bool {
        self.minor.is_some()
    }

    pub(super) fn fields(&self) -> u16 {
        self.fields
    }

    pub(super) fn content_length(&self) -> Option<u64> {
        self.length
    }

    pub(super) fn is_chunked(&self) -> bool {
        self.chunked
    }

    pub(super) fn wants_upgrade(&self) -> bool {
        self.minor == Some(1) && self.has_upgrade && self.connection_upgrade
    }

    /// `METHOD SP target SP HTTP/1.x`, with single spaces.
    pub(super) fn request_line(&mut self, line: &[u8]) -> Result<(), Reason> {
        let mut words = line.split(|byte| *byte == b' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        let (Some(method), Some(target), Some(version), None) =
            (method, target, version, words.next())
        else {
            return Err(Reason::Malformed);
        };
        let known = is_token(method)
            && !target.is_empty()
            && target.iter().all(|byte| (0x21..=0x7e).contains(byte) && *byte != b'#');
        if !known {
            return Err(Reason::Malformed);
        }
        let minor = match version {
            b"HTTP/1.1" => 1,
            b"HTTP/1.0" => 0,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(Reason::UnknownVersion);
            }
            _ => return Err(Reason::Malformed),
        };
        self.minor = Some(minor);
        target::check(method, target)
    }

    pub(super) fn field(&mut self, line: &[u8]) -> Result<(), Reason> {
        let (name, value) = split(line)?;
        self.fields += 1;
        // The lengths tell most fields from those that matter, without looking at a letter.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(value),
            6 if name.eq_ignore_ascii_case(b"expect") => {
                if value.eq_ignore_ascii_case(b"100-continue") {
                    Ok(())
                } else {
                    Err(Reason::UnknownExpectation)
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.has_upgrade = !value.is_empty();
                Ok(())
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.connection_upgrade |=
                    tokens(value).any(|t| t.eq_ignore_ascii_case(b"upgrade"));
                Ok(())
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() || self.chunked {
                    return Err(Reason::BadLength);
                }
                self.length = Some(digits(value).ok_or(Reason::BadLength)?);
                Ok(())
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.coding(value),
            _ => Ok(()),
        }
    }

    /// What can be said only once all lines are there.
    pub(super) fn check(&self) -> Result<(), Reason> {
        if self.hosts == 0 && self.minor == Some(1) { Err(Reason::BadHost) } else { Ok(()) }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Reason> {
        self.hosts += 1;
        if self.hosts > 1 || !is_host(value) { Err(Reason::BadHost) } else { Ok(()) }
    }

    fn coding(&mut self, value: &[u8]) -> Result<(), Reason> {
        if self.length.is_some() || self.chunked || self.minor == Some(0) {
            return Err(Reason::BadLength);
        }
        if value.eq_ignore_ascii_case(b"chunked") {
            self.chunked = true;
            return Ok(());
        }
        // Whoever sends it means a body whose end only this coding tells; the others are no mistake, but not known here.
        let mut codings = tokens(value).collect::<Vec<_>>();
        let ends_chunked = codings.pop().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
        let known_order = codings
            .iter()
            .all(|coding| is_token(coding) && !coding.eq_ignore_ascii_case(b"chunked"));
        let proper = ends_chunked && known_order && !codings.is_empty();
        Err(if proper { Reason::UnknownCoding } else { Reason::BadLength })
    }
}

/// A field after the last chunk: as others, but it says nothing about the message's shape.
pub(super) fn trailer(line: &[u8]) -> Result<(), Reason> {
    const NEVER: [&[u8]; 4] = [b"content-length", b"transfer-encoding", b"host", b"connection"];
    let (name, _) = split(line)?;
    if NEVER.iter().any(|never| name.eq_ignore_ascii_case(never)) {
        Err(Reason::Malformed)
    } else {
        Ok(())
    }
}

/// Name and value of a line.
fn split(line: &[u8]) -> Result<(&[u8], &[u8]), Reason> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Reason::FoldedField);
    }
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Reason::Malformed)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) || !value.iter().all(|byte| is_visible(*byte)) {
        return Err(Reason::Malformed);
    }
    Ok((name, trimmed(value)))
}

fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The elements of a comma-separated list.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trimmed)
}

/// A byte that a field's value may have: no control character but the tab.
pub(super) fn is_visible(byte: u8) -> bool {
    (byte >= 0x20 && byte != 0x7f) || byte == b'\t'
}

/// A `token` of RFC 9110, section 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Whether a value of `Host` is a host and perhaps a port; it may be empty.
fn is_host(value: &[u8]) -> bool {
    value.is_empty() || target::is_host(value)
}

/// A decimal number of at most 19 digits, which always fits.
pub(super) fn digits(value: &[u8]) -> Option<u64> {
    let fits = (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    fits.then(|| value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// A hexadecimal number of at most 15 digits: no chunk is larger.
pub(super) fn hexadecimal(value: &[u8]) -> Option<u64> {
    if !(1..=15).contains(&value.len()) {
        return None;
    }
    value
        .iter()
        .try_fold(0, |sum, byte| Some(sum * 16 + u64::from(char::from(*byte).to_digit(16)?)))
}
