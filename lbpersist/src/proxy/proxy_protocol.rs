//! The header by which one proxy tells the next whose connection it carries (HAProxy's PROXY protocol, versions 1 and 2).
//!
//! Pure: bytes in, addresses out, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::model::ProxyProtocol;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, with its end.
const LINE: usize = 107;
/// The longest header of version 2 that is taken: addresses, and some further fields that are not read.
const LONGEST: usize = 16 + 2048;

/// Who speaks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

/// A header that has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of it.
    pub length: usize,
    /// `None` when the proxy before speaks for itself, as in its health checks.
    pub addresses: Option<Addresses>,
}

/// The bytes do not begin with such a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY protocol header")]
pub struct Wrong;

/// Reads a header; `None` while it is not whole.
///
/// # Errors
/// When the bytes cannot become one.
pub fn read(bytes: &[u8]) -> Result<Option<Header>, Wrong> {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] == SIGNATURE[..common] {
        return read_binary(bytes);
    }
    let common = bytes.len().min(6);
    if bytes[..common] != b"PROXY "[..common] {
        return Err(Wrong);
    }
    let Some(end) = bytes.iter().take(LINE).position(|byte| *byte == b'\n') else {
        return if bytes.len() < LINE { Ok(None) } else { Err(Wrong) };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or(Wrong)?;
    let line = std::str::from_utf8(line).map_err(|_| Wrong)?;
    Ok(Some(Header { length: end + 1, addresses: read_line(line)? }))
}

/// A header to send.
pub fn write(version: ProxyProtocol, addresses: Addresses) -> Vec<u8> {
    let Addresses { source, destination } = addresses;
    match (version, source.ip(), destination.ip()) {
        (ProxyProtocol::V1, IpAddr::V4(from), IpAddr::V4(to)) => {
            let (from_port, to_port) = (source.port(), destination.port());
            format!("PROXY TCP4 {from} {to} {from_port} {to_port}\r\n").into_bytes()
        }
        (ProxyProtocol::V1, from, to) => {
            let [from, to] = [from, to].map(mapped);
            let (from_port, to_port) = (source.port(), destination.port());
            format!("PROXY TCP6 {from} {to} {from_port} {to_port}\r\n").into_bytes()
        }
        (ProxyProtocol::V2, IpAddr::V4(from), IpAddr::V4(to)) => {
            binary(0x11, &from.octets(), &to.octets(), addresses)
        }
        (ProxyProtocol::V2, from, to) => {
            let [from, to] = [from, to].map(mapped);
            binary(0x21, &from.octets(), &to.octets(), addresses)
        }
    }
}

fn binary(family: u8, from: &[u8], to: &[u8], addresses: Addresses) -> Vec<u8> {
    // Two addresses of at most 16 bytes.
    let length = (from.len() + to.len() + 4) as u16;
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend_from_slice(&[0x21, family]);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(from);
    bytes.extend_from_slice(to);
    bytes.extend_from_slice(&addresses.source.port().to_be_bytes());
    bytes.extend_from_slice(&addresses.destination.port().to_be_bytes());
    bytes
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 4000 80`, or `PROXY UNKNOWN` and anything.
fn read_line(line: &str) -> Result<Option<Addresses>, Wrong> {
    let mut words = line.split(' ').skip(1);
    let family = words.next().ok_or(Wrong)?;
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let mut address = || -> Result<IpAddr, Wrong> {
        let word = words.next().ok_or(Wrong)?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| Wrong),
            "TCP6" => word.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| Wrong),
            _ => Err(Wrong),
        }
    };
    let (from, to) = (address()?, address()?);
    let mut port = || -> Result<u16, Wrong> {
        let word = words.next().ok_or(Wrong)?;
        let plain = word.bytes().all(|byte| byte.is_ascii_digit());
        if plain { word.parse().map_err(|_| Wrong) } else { Err(Wrong) }
    };
    let source = SocketAddr::new(from, port()?);
    let destination = SocketAddr::new(to, port()?);
    if words.next().is_some() {
        return Err(Wrong);
    }
    Ok(Some(Addresses { source, destination }))
}

fn read_binary(bytes: &[u8]) -> Result<Option<Header>, Wrong> {
    let Some((start, rest)) = bytes.split_at_checked(16) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([start[14], start[15]]));
    if start[12] >> 4 != 2 || 16 + length > LONGEST {
        return Err(Wrong);
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let addresses = match (start[12] & 0xf, start[13]) {
        (0, _) => None,
        (1, 0x11) => Some(read_addresses::<4>(body)?),
        (1, 0x21) => Some(read_addresses::<16>(body)?),
        // Other families, and datagrams, are allowed and tell nothing that could be used.
        (1, _) => None,
        _ => return Err(Wrong),
    };
    Ok(Some(Header { length: 16 + length, addresses }))
}

fn read_addresses<const N: usize>(body: &[u8]) -> Result<Addresses, Wrong>
where
    IpAddr: From<[u8; N]>,
{
    let (from, rest) = body.split_first_chunk::<N>().ok_or(Wrong)?;
    let (to, rest) = rest.split_first_chunk::<N>().ok_or(Wrong)?;
    let (ports, _) = rest.split_first_chunk::<4>().ok_or(Wrong)?;
    let [from_port, to_port] = [[ports[0], ports[1]], [ports[2], ports[3]]].map(u16::from_be_bytes);
    Ok(Addresses {
        source: SocketAddr::new(IpAddr::from(*from), from_port),
        destination: SocketAddr::new(IpAddr::from(*to), to_port),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_read_as_they_are_specified() {
        let addresses = Addresses {
            source: "192.0.2.1:4000".parse().unwrap(),
            destination: "198.51.100.1:80".parse().unwrap(),
        };
        type Read = Result<Option<Option<Addresses>>, Wrong>;
        let rows: [(&[u8], Read); 12] = [
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 4000 80\r\nGET", Ok(Some(Some(addresses)))),
            (b"PROXY UNKNOWN\r\n", Ok(Some(None))),
            (b"PROXY UNKNOWN ffff:f ffff::1 1 2\r\n", Ok(Some(None))),
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 4000 80", Ok(None)),
            (b"PRO", Ok(None)),
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 4000 80\n", Err(Wrong)),
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 4000 80 1\r\n", Err(Wrong)),
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 +400 80\r\n", Err(Wrong)),
            (b"PROXY TCP4 ::1 198.51.100.1 4000 80\r\n", Err(Wrong)),
            (b"PROXY UDP4 192.0.2.1 198.51.100.1 4000 80\r\n", Err(Wrong)),
            (b"GET / HTTP/1.1\r\n", Err(Wrong)),
            (b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0", Err(Wrong)),
        ];
        for (bytes, expected) in rows {
            let read = read(bytes).map(|header| header.map(|header| header.addresses));
            assert_eq!(read, expected, "{}", String::from_utf8_lossy(bytes));
        }
        let long = format!("PROXY UNKNOWN {}", "x".repeat(100));
        assert_eq!(read(long.as_bytes()), Err(Wrong));
    }

    #[test]
    fn what_is_not_about_a_client_has_no_addresses() {
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x01xGET";
        assert_eq!(read(local), Ok(Some(Header { length: 17, addresses: None })));
        let unix = [&SIGNATURE[..], &[0x21, 0x31, 0, 2, 1, 1]].concat();
        assert_eq!(read(&unix), Ok(Some(Header { length: 18, addresses: None })));
        let short = [&SIGNATURE[..], &[0x21, 0x11, 0, 2, 1, 1]].concat();
        assert_eq!(read(&short), Err(Wrong));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            from: [u8; 16], to: [u8; 16], ports: [u16; 2], is_v4: bool, is_v1: bool,
        ) {
            let address = |bytes: [u8; 16]| match is_v4 {
                true => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
                false => IpAddr::from(bytes),
            };
            let addresses = Addresses {
                source: SocketAddr::new(address(from), ports[0]),
                destination: SocketAddr::new(address(to), ports[1]),
            };
            let version = if is_v1 { ProxyProtocol::V1 } else { ProxyProtocol::V2 };
            let bytes = write(version, addresses);
            let whole = Header { length: bytes.len(), addresses: Some(addresses) };
            prop_assert_eq!(read(&bytes), Ok(Some(whole)));
            for end in 0..bytes.len() {
                prop_assert_eq!(read(&bytes[..end]), Ok(None));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
