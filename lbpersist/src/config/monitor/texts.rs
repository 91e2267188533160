//! What the texts of monitors may be: bytes, names, headers, paths.

use std::net::IpAddr;

use crate::config::words::quoted;

/// The longest text or datagram that is sent or looked for, in bytes.
pub(super) const LONGEST: usize = 1024;

pub(super) fn wanted_text<'t>(field: &str, text: &'t str) -> Result<&'t str, String> {
    match text.len() {
        0 => Err(format!("`{field}` must not be empty")),
        length if length > LONGEST => {
            Err(format!("`{field}` must be at most {LONGEST} bytes long, not {length}"))
        }
        _ => Ok(text),
    }
}

/// The bytes of a field whose name says whether it is written in hexadecimal.
pub(super) fn datagram(field: &str, text: &str) -> Result<Vec<u8>, String> {
    let bytes = match field.ends_with("_hex") {
        true => from_hex(text).ok_or_else(|| {
            format!("`{field}` must be pairs of hexadecimal digits, not {}", quoted(text))
        })?,
        false => text.as_bytes().to_vec(),
    };
    match bytes.len() {
        length if length > LONGEST => {
            Err(format!("`{field}` must be at most {LONGEST} bytes long, not {length}"))
        }
        _ => Ok(bytes),
    }
}

/// Bytes from hexadecimal digits; spaces between them do not count.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|character| *character != ' ')
        .map(|character| character.to_digit(16))
        .collect::<Option<_>>()?;
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    });
    pairs.collect()
}

pub(super) fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\0')
}

/// The name in a `Host` header, if it is a name and not an address.
pub(super) fn name_of_host(host: &str) -> Option<String> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    (is_server_name(name) && name.parse::<IpAddr>().is_err()).then(|| name.to_owned())
}

/// A host name as certificates have it, or an address.
pub(super) fn is_server_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    name.parse::<IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(is_label))
}

/// A token of RFC 9110, section 5.6.2.
pub(super) fn is_header_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

pub(super) fn is_header_value(value: &str) -> bool {
    value.len() <= LONGEST && value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}
