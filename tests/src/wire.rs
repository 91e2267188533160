//! What can stand around and between the headers of a frame that [`Packet`](crate::packet::Packet) writes: VLAN tags, IPv6
//! extension headers, fragments, ICMP. Frames in, frames out.

use std::net::IpAddr;

/// Where the IP header of a frame without tags begins.
const IP: usize = 14;
/// Bytes of an IPv6 header.
const IPV6: usize = 40;

/// IEEE 802.1Q and 802.1ad.
pub const DOT1Q: u16 = 0x8100;
/// See [`DOT1Q`].
pub const DOT1AD: u16 = 0x88a8;

/// The frame with VLAN tags, the outer one first: type and tag.
pub fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let bytes = tags.iter().flat_map(|(kind, tag)| [kind.to_be_bytes(), tag.to_be_bytes()]);
    [&frame[..12], &bytes.flatten().collect::<Vec<u8>>(), &frame[12..]].concat()
}

/// An IPv6 extension header of that kind (its own number) and `length` bytes, of zeros but for the given first ones.
#[derive(Clone, Debug)]
pub struct Extension {
    /// The number by which the header before names it.
    pub kind: u8,
    /// Its bytes behind the first two; as many as make its length a multiple of eight.
    pub bytes: Vec<u8>,
}

/// The IPv6 frame with extension headers between the IPv6 header and what it carries.
///
/// # Panics
/// When an extension is not as long as its length field can say.
pub fn extended(frame: &[u8], extensions: &[Extension]) -> Vec<u8> {
    let mut out = frame[..IP + IPV6].to_vec();
    let mut last = IP + 6;
    let carried = out[last];
    let mut added = 0;
    for Extension { kind, bytes } in extensions {
        let length = bytes.len() + 2;
        assert!(length.is_multiple_of(8), "an extension header of {length} bytes");
        out[last] = *kind;
        last = out.len();
        // A fragment header has no length.
        let units = if *kind == 44 { 0 } else { length / 8 - 1 };
        out.extend([carried, u8::try_from(units).expect("at most 2,048 bytes")]);
        out.extend(bytes);
        added += length;
    }
    out[last] = carried;
    out.extend(&frame[IP + IPV6..]);
    let payload = usize::from(u16::from_be_bytes([frame[IP + 4], frame[IP + 5]])) + added;
    let payload = u16::try_from(payload).expect("it fits a packet");
    out[IP + 4..IP + 6].copy_from_slice(&payload.to_be_bytes());
    out
}

/// The frame of a whole packet in fragments of at most `most` bytes of what IP carries, a multiple of eight.
///
/// # Panics
/// When it is not.
pub fn fragments(frame: &[u8], id: u16, most: usize) -> Vec<Vec<u8>> {
    assert!(most.is_multiple_of(8), "fragments of {most} bytes");
    let is_ipv4 = frame[12..14] == [8, 0];
    let headers = if is_ipv4 { IP + usize::from(frame[IP] & 15) * 4 } else { IP + IPV6 };
    let carried = &frame[headers..];
    let count = carried.len().div_ceil(most);
    let piece = |(number, part): (usize, &[u8])| {
        let more = u16::from(number + 1 < count);
        let offset = u16::try_from(number * most).expect("it fits a packet");
        let bare = [&frame[..headers], part].concat();
        if is_ipv4 {
            ipv4_fragment(bare, id, offset, more)
        } else {
            ipv6_fragment(&bare, id, offset, more)
        }
    };
    carried.chunks(most).enumerate().map(piece).collect()
}

fn ipv4_fragment(mut frame: Vec<u8>, id: u16, offset: u16, more: u16) -> Vec<u8> {
    let total = u16::try_from(frame.len() - IP).expect("it fits a packet");
    frame[IP + 2..IP + 4].copy_from_slice(&total.to_be_bytes());
    frame[IP + 4..IP + 6].copy_from_slice(&id.to_be_bytes());
    frame[IP + 6..IP + 8].copy_from_slice(&((more << 13) | (offset / 8)).to_be_bytes());
    with_header_checksum(frame)
}

fn ipv6_fragment(frame: &[u8], id: u16, offset: u16, more: u16) -> Vec<u8> {
    let mut bare = frame.to_vec();
    let payload = u16::try_from(frame.len() - IP - IPV6).expect("it fits a packet");
    bare[IP + 4..IP + 6].copy_from_slice(&payload.to_be_bytes());
    let place = (offset | more).to_be_bytes();
    let id = u32::from(id).to_be_bytes();
    let bytes = [&place[..], &id].concat();
    extended(&bare, &[Extension { kind: 44, bytes }])
}

/// The frame with the checksum of its IPv4 header put right.
pub fn with_header_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    let end = IP + usize::from(frame[IP] & 15) * 4;
    frame[IP + 10..IP + 12].fill(0);
    let checksum = checksum(&[&frame[IP..end]]);
    frame[IP + 10..IP + 12].copy_from_slice(&checksum);
    frame
}

/// The Internet checksum of the parts, each of even length but for the last (RFC 1071).
pub fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| low.into())).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// An ICMP or ICMPv6 frame: type and code, the four bytes behind the checksum, and the rest. `head` is the frame's Ethernet header.
///
/// # Panics
/// When the addresses are of two families.
pub fn icmp(
    head: &[u8],
    (from, to): (IpAddr, IpAddr),
    hops: u8,
    (kind, rest): ([u8; 2], [u8; 4]),
    carried: &[u8],
) -> Vec<u8> {
    let message = |sum: [u8; 2]| [&kind[..], &sum, &rest, carried].concat();
    let length = u16::try_from(message([0; 2]).len()).expect("it fits a packet");
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = (length + 20).to_be_bytes();
            let header = [0x45, 0, high, low, 0, 7, 0, 0, hops, 1, 0, 0];
            let sum = checksum(&[&message([0; 2])]);
            let frame =
                [&head[..12], &[8, 0], &header, &from.octets(), &to.octets(), &message(sum)]
                    .concat();
            with_header_checksum(frame)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = length.to_be_bytes();
            let header = [0x60, 0, 0, 0, high, low, 58, hops];
            let pseudo = [0, 0, high, low, 0, 0, 0, 58];
            let sum = checksum(&[&from.octets(), &to.octets(), &pseudo, &message([0; 2])]);
            [&head[..12], &[0x86, 0xdd], &header, &from.octets(), &to.octets(), &message(sum)]
                .concat()
        }
        (from, to) => panic!("{from} and {to} are of two families"),
    }
}
