//! The system calls of the harness that the standard library does not offer. The only unsafe code outside data-path rows.
#![expect(
    unsafe_code,
    reason = "namespaces, signals, offload settings and bpf(2) have no safe interface"
)]

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read as _, Write as _},
    net::UdpSocket,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

/// A signal for a process of ours.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    /// Please end.
    Terminate,
    /// Please read your files again.
    HangUp,
    /// End now, without a chance to clean up.
    Kill,
}

/// What a network interface leaves to hardware, or to the kernel's batching.
#[derive(Clone, Copy, Debug)]
pub enum Offload {
    /// Checksums of sent packets.
    TransmitChecksum,
    /// Segmentation by the device.
    TcpSegmentation,
    /// Segmentation just before the device.
    GenericSegmentation,
    /// Merging of received segments; on a veth this also starts NAPI, without which XDP cannot send to it.
    GenericReceive,
}

impl Offload {
    /// The number of the "set" command in `linux/ethtool.h`.
    const fn command(self) -> u32 {
        match self {
            Self::TransmitChecksum => 0x17,
            Self::TcpSegmentation => 0x1f,
            Self::GenericSegmentation => 0x24,
            Self::GenericReceive => 0x2c,
        }
    }
}

/// Whether an offload is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Wanted.
    On,
    /// Not wanted.
    Off,
}

/// Moves the calling thread, and no other, into the network namespace of `file`.
pub(crate) fn enter_network_namespace(file: &File) -> io::Result<()> {
    // SAFETY: setns reads two integers; the descriptor stays open while `file` is borrowed.
    check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Whether this process may make namespaces and load programs.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Sends a signal to a process.
pub fn signal(process: u32, signal: Signal) -> io::Result<()> {
    let process = i32::try_from(process).map_err(io::Error::other)?;
    let number = match signal {
        Signal::Terminate => libc::SIGTERM,
        Signal::HangUp => libc::SIGHUP,
        Signal::Kill => libc::SIGKILL,
    };
    // SAFETY: kill reads two integers. A number above 0 means one process and never a group.
    check(unsafe { libc::kill(process.max(1), number) })
}

/// Sets an offload of an interface of the calling thread's namespace, as `ethtool -K` does.
pub(crate) fn set_offload(interface: &str, offload: Offload, switch: Switch) -> io::Result<()> {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }

    // The request needs some socket; a datagram socket that is never used will do.
    let socket = UdpSocket::bind("0.0.0.0:0").or_else(|_| UdpSocket::bind("[::]:0"))?;
    let mut value = Value { command: offload.command(), data: u32::from(switch == Switch::On) };
    let mut request = libc::ifreq {
        ifr_name: interface_name(interface)?,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() },
    };
    ioctl(socket.as_raw_fd(), &mut request)
}

/// Puts an XDP program that passes every packet on an interface of the calling thread's namespace, for as long as there is the
/// interface.
///
/// veth tells its other end of packets sent by XDP_TX only if that end has a program (`veth_xdp_flush` in drivers/net/veth.c);
/// receive offload is enough for XDP_REDIRECT, but not for this.
pub(crate) fn pass_everything(interface: &str) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        rest: [u64; 15],
    }
    const PROGRAM_LOAD: libc::c_int = 5;
    const KIND_XDP: u32 = 6;
    // w0 = XDP_PASS; exit
    // Packets in several buffers as well, or the interface would refuse a large MTU: the upper half of the word with the flags.
    const HAS_FRAGS: u64 = 1 << 5;
    let mut rest = [0; 15];
    rest[2] = HAS_FRAGS << 32;
    let instructions: [u64; 2] = [0x0000_0002_0000_00b4, 0x95];
    let mut program = Program {
        kind: KIND_XDP,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        rest,
    };
    let program = bpf(PROGRAM_LOAD, &mut program)?;
    attach_program(interface, program.as_fd())
}

/// Attaches an XDP program to an interface of the calling thread's namespace, in the place of the one it has.
pub(crate) fn attach_program(interface: &str, program: BorrowedFd<'_>) -> io::Result<()> {
    attach_native(interface_index(interface)?, program)
}

/// A socket for pings to that family of addresses, whose numbers and checksums the kernel writes. It works like one for UDP.
pub(crate) fn ping_socket(is_ipv4: bool) -> io::Result<UdpSocket> {
    let (family, protocol) = if is_ipv4 {
        (libc::AF_INET, libc::IPPROTO_ICMP)
    } else {
        (libc::AF_INET6, libc::IPPROTO_ICMPV6)
    };
    // SAFETY: takes numbers only.
    let descriptor =
        unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }.into())
}

/// Attaches by netlink: a link would end with its descriptor.
fn attach_native(interface: i32, program: BorrowedFd<'_>) -> io::Result<()> {
    const SET_LINK: u16 = 19;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const XDP_NESTED: u16 = 43 | 1 << 15;
    const XDP_FD: u16 = 1;
    const XDP_FLAGS: u16 = 3;
    const NATIVE: u32 = 1 << 2;

    let mut message = Vec::new();
    // nlmsghdr: length, type, flags, sequence, port.
    message.extend(52_u32.to_ne_bytes());
    message.extend(SET_LINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    message.extend([0; 8]);
    // ifinfomsg: family and type, index, flags, change.
    message.extend([0; 4]);
    message.extend(interface.to_ne_bytes());
    message.extend([0; 8]);
    // Attributes: length, type, value.
    message.extend([20_u16, XDP_NESTED, 8, XDP_FD].map(u16::to_ne_bytes).concat());
    message.extend(program.as_raw_fd().to_ne_bytes());
    message.extend([8_u16, XDP_FLAGS].map(u16::to_ne_bytes).concat());
    message.extend(NATIVE.to_ne_bytes());

    // SAFETY: three numbers; the descriptor that comes back is ours alone.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE) };
    check(socket)?;
    // SAFETY: made just now.
    let socket = File::from(unsafe { OwnedFd::from_raw_fd(socket) });
    (&socket).write_all(&message)?;
    // nlmsghdr, and in an answer that only acknowledges the negated error.
    let mut answer = [0; 256];
    let length = (&socket).read(&mut answer)?;
    let error = answer[..length].get(16..20).and_then(|bytes| bytes.try_into().ok());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
    }
}

/// A command of bpf(2) that returns a descriptor. `T` is laid out as the command's part of `union bpf_attr`.
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    let attributes = std::ptr::from_mut(attributes);
    // SAFETY: the kernel reads `size_of::<T>()` bytes and the memory they name, which the callers keep alive.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    let fd = RawFd::try_from(result).map_err(io::Error::other)?;
    check(fd)?;
    // SAFETY: the command has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn interface_index(name: &str) -> io::Result<i32> {
    let name = CString::new(name)?;
    // SAFETY: reads a string that ends with a zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => i32::try_from(index).map_err(io::Error::other),
    }
}

fn ioctl(socket: RawFd, request: &mut libc::ifreq) -> io::Result<()> {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    // SAFETY: the kernel reads and writes an ifreq and the eight bytes its data pointer names; the caller keeps both alive.
    check(unsafe { libc::ioctl(socket, SIOCETHTOOL, std::ptr::from_mut(request)) })
}

fn interface_name(name: &str) -> io::Result<[libc::c_char; libc::IFNAMSIZ]> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: too long")));
    }
    let mut field = [0; libc::IFNAMSIZ];
    for (place, byte) in field.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    Ok(field)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
