//! Streams as the HTTP parsers write to them: what is small goes out by one plain write.
#![expect(unsafe_code, reason = "ioctl(2) takes an address")]

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    os::fd::AsRawFd as _,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWrite, net::TcpStream};

/// Up to so many bytes are put together before they are written: a header and a small body. The kernel takes longer to look
/// at a list of them than this takes to copy.
const SMALL: usize = 2048;

thread_local! {
    static TOGETHER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SMALL));
}

/// Writes as much of `slices` as the stream takes.
pub(super) fn poll_write_vectored(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let stream = Pin::new(stream);
    match slices {
        [] => stream.poll_write(cx, &[]),
        [one] => stream.poll_write(cx, one),
        several if several.iter().map(|slice| slice.len()).sum::<usize>() <= SMALL => TOGETHER
            .with_borrow_mut(|together| {
                together.clear();
                several.iter().for_each(|slice| together.extend_from_slice(slice));
                stream.poll_write(cx, together)
            }),
        several => stream.poll_write_vectored(cx, several),
    }
}

/// How many bytes the other side has yet to acknowledge.
pub(super) fn unacknowledged(stream: &TcpStream) -> io::Result<i32> {
    let mut bytes = 0;
    // SAFETY: the request (SIOCOUTQ, for a socket) writes one int to where it is told, and the descriptor lives.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

/// A stream to a server.
#[derive(Debug)]
pub(super) struct ServerStream(TokioIo<TcpStream>);

impl ServerStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(TokioIo::new(stream))
    }

    pub(super) fn into_inner(self) -> TcpStream {
        self.0.into_inner()
    }
}

impl Read for ServerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, cursor)
    }
}

impl Write for ServerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_vectored(self.0.inner_mut(), cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
