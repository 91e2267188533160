//! Bytes from one socket to another without a copy through this process: splice(2), by way of a pipe.
//!
//! A pipe costs two descriptors, so a relay has one only while there is something in it; in between it is the thread's.
#![expect(unsafe_code, reason = "pipe2(2), fcntl(2) and splice(2) take descriptors and addresses")]

use std::{
    cell::RefCell,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
};

/// Bytes that a pipe is asked to hold. Where that is not allowed it holds less.
const SIZE: i32 = 1 << 20;
/// Empty pipes that a thread keeps.
const KEPT: usize = 32;

thread_local! {
    static EMPTY: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe, and how much is in it.
#[derive(Debug)]
pub(super) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty one.
    pub(super) fn take() -> io::Result<Self> {
        EMPTY.with_borrow_mut(Vec::pop).map_or_else(Self::new, Ok)
    }

    /// Gives it back, if it is empty; what is left in it is lost otherwise.
    pub(super) fn give_back(self) {
        EMPTY.with_borrow_mut(|empty| {
            if self.held == 0 && empty.len() < KEPT {
                empty.push(self);
            }
        });
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves what a socket has into the pipe, which must be empty: only then "would block" says something of the socket.
    /// 0 at its end.
    pub(super) fn fill(&mut self, from: BorrowedFd<'_>) -> io::Result<usize> {
        debug_assert!(self.is_empty());
        self.held = splice(from, borrowed(&self.into), SIZE as usize)?;
        Ok(self.held)
    }

    /// Moves what is in the pipe into a socket, as much as it takes.
    pub(super) fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let moved = splice(borrowed(&self.out), to, self.held)?;
        self.held -= moved;
        Ok(moved)
    }

    fn new() -> io::Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: the call writes two descriptors into an array of two.
        let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both were just made for us.
        let [out, into] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        // SAFETY: a descriptor and a number. A refusal leaves the pipe as it is.
        unsafe { libc::fcntl(into.as_raw_fd(), libc::F_SETPIPE_SZ, SIZE) };
        Ok(Self { out, into, held: 0 })
    }
}

fn borrowed(fd: &OwnedFd) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(fd)
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
    // SAFETY: two descriptors that live, no offsets, a number and flags.
    let moved = unsafe {
        libc::splice(
            from.as_raw_fd(),
            ptr::null_mut(),
            to.as_raw_fd(),
            ptr::null_mut(),
            most,
            libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK,
        )
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}
