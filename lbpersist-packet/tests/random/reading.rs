//! Reads a frame in every way that the programs do, and holds the ways against each other. The fuzz target includes this file.
#![expect(unsafe_code, reason = "frames are reached by address, as in the kernel")]

use lbpersist_packet::{
    cursor::Cursor,
    parse::{Flow, Packet, Unread, identification},
    shape::{Piece, Shape},
};

/// Reads `frame`, which is all there is of it.
///
/// # Panics
/// When two ways of reading contradict each other, or a header is said to be where there is none.
pub(crate) fn everything(frame: &mut [u8]) {
    let length = frame.len();
    let usual = usual(frame);
    let shape = Shape::read(cursor(frame), length);
    if let Err(Unread::Not(_)) = usual {
        let carried = shape.is_ok_and(|shape| by_shape(frame, shape).is_some());
        assert!(!carried, "the long way carries what the usual one refuses");
    }
    let Ok(shape) = shape else {
        assert!(usual.is_err(), "the usual way carries what the long one refuses");
        return;
    };
    assert!(shape.network_at() + shape.network_length() <= length, "{shape:?} of {length}");
    let long = by_shape(frame, shape);
    if let Ok(usual) = usual {
        let long = long.expect("the long way carries what the usual one does");
        assert!(same(&usual, &long) && shape.tags() == 0 && shape.piece() == Piece::Whole);
    }
    if matches!(shape.protocol(), 1 | 58) {
        quoted(frame, shape);
    }
    if shape.is_ipv6() && shape.piece() != Piece::Whole {
        let mut cursor = cursor(frame);
        cursor.skip(shape.network_at() + 40);
        assert!(identification(cursor, shape).is_ok(), "a fragment has a fragment header");
    }
}

fn usual(frame: &mut [u8]) -> Result<Flow, Unread> {
    let length = frame.len();
    let packet = Packet::parse(cursor(frame), || length)?;
    Ok(touched(&packet, length))
}

fn by_shape(frame: &mut [u8], shape: Shape) -> Option<Flow> {
    let length = frame.len();
    let packet = Packet::at(cursor(frame), shape, length).ok()?;
    Some(touched(&packet, length))
}

/// What an ICMP error quotes may end anywhere.
fn quoted(frame: &mut [u8], shape: Shape) {
    let mut cursor = cursor(frame);
    cursor.skip(shape.network_at());
    cursor.skip(shape.network_length());
    cursor.skip(8);
    let left = cursor.left();
    let inner = if shape.is_ipv6() {
        Shape::ipv6(cursor, 14, usize::MAX)
    } else {
        Shape::ipv4(cursor, 14, usize::MAX)
    };
    if let Ok(inner) = inner
        && inner.network_length() + 4 <= left
    {
        cursor.skip(inner.network_length());
        assert!(cursor.take::<[u8; 4]>().is_some());
    }
}

/// Who talks to whom, after everything that is asked of a packet has been.
fn touched(packet: &Packet<'_>, length: usize) -> Flow {
    let total = packet.network.total_length() as usize;
    assert!(14 + packet.tags + total <= length, "{total} bytes in a frame of {length}");
    assert!(packet.network_length >= packet.network.plain_length());
    assert!(packet.network_length < total && packet.length as usize == length);
    assert!(packet.tcp_data_length() as usize <= total || packet.fragment.is_some());
    packet.flow()
}

fn same(one: &Flow, other: &Flow) -> bool {
    (one.from, one.to, one.flags, one.numbers.sequence, one.numbers.acknowledgement)
        == (
            other.from,
            other.to,
            other.flags,
            other.numbers.sequence,
            other.numbers.acknowledgement,
        )
}

fn cursor(frame: &mut [u8]) -> Cursor {
    let bounds = frame.as_mut_ptr_range();
    // SAFETY: the bytes are the caller's alone, who lends them for as long as what is read from them is used; a `Vec`'s
    // memory begins at an even address.
    unsafe { Cursor::over(bounds.start as usize, bounds.end as usize) }
}
