//! What the standard library does not offer: filters of ICMP sockets, and signals to process groups.
#![expect(unsafe_code, reason = "calls into libc")]

use std::{io, os::fd::AsFd, os::fd::AsRawFd as _};

/// ICMP_FILTER of linux/icmp.h, and the level it is set at.
const ICMP_FILTER: (i32, i32) = (255, 1);
/// ICMPV6_FILTER of linux/icmpv6.h, and the level it is set at.
const ICMPV6_FILTER: (i32, i32) = (libc::IPPROTO_ICMPV6, 1);

/// Has a raw ICMP socket drop everything but echo replies.
pub(super) fn only_echo_replies(socket: &impl AsFd) -> io::Result<()> {
    // A bit set drops the type of its number.
    set_filter(socket, ICMP_FILTER, &[!1])
}

/// Has a raw ICMPv6 socket drop everything but echo replies, which are type 129.
pub(super) fn only_echo_replies_v6(socket: &impl AsFd) -> io::Result<()> {
    let mut blocked = [u32::MAX; 8];
    blocked[129 / 32] &= !(1 << (129 % 32));
    set_filter(socket, ICMPV6_FILTER, &blocked)
}

fn set_filter(socket: &impl AsFd, (level, option): (i32, i32), filter: &[u32]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(filter)).map_err(io::Error::other)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel reads `length` bytes, which the slice has.
    let result = unsafe { libc::setsockopt(fd, level, option, filter.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Kills a process group. Its leader must not have been waited for, so that the number is still its own.
pub(super) fn kill_group(leader: u32) {
    let Ok(leader) = i32::try_from(leader) else { return };
    if leader > 1 {
        // SAFETY: the call takes plain numbers. That all are gone already is as good.
        unsafe { libc::kill(-leader, libc::SIGKILL) };
    }
}
