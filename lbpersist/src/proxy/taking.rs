//! Whether the clients of HTTP/2 take what they have asked for: by its flow control they may leave a body where it is without
//! the stream being stuck.

use std::{
    mem,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::time::Instant;

use super::{alarm::Alarm, guard::Link};
use crate::clock;

/// Whether the body of an answer waits for the client, by the flow control of HTTP/2, rather than for its server.
#[derive(Debug)]
pub(super) struct Held {
    link: Rc<Link>,
    is_held: bool,
}

impl Held {
    /// A body that nobody has asked for a piece of.
    pub(super) fn new(link: &Rc<Link>) -> Self {
        let mut held = Self { link: Rc::clone(link), is_held: false };
        held.set(true);
        held
    }

    /// Notes what came of asking: a piece, after which the client must take it before there is another one, or nothing yet.
    pub(super) fn asked(&mut self, gave: bool) {
        self.link.given.set(self.link.given.get() + u64::from(gave));
        self.set(gave);
    }

    fn set(&mut self, is_held: bool) {
        let all = self.link.held.get();
        match (mem::replace(&mut self.is_held, is_held), is_held) {
            (false, true) => self.link.held.set(all + 1),
            (true, false) => self.link.held.set(all - 1),
            _ => {}
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// Looks whether an HTTP/2 client takes anything of the bodies that wait for it.
#[derive(Debug, Default)]
pub(super) struct Taking {
    alarm: Alarm,
    /// When that was last looked at, and the pieces and bytes that had been given then.
    last: Option<(Instant, u64, u64)>,
}

impl Taking {
    /// So many bytes are more than a connection without bodies sends to a client that asks now and then whether it lives.
    const SOME: u64 = 1024;

    /// Ready once the client has taken nothing for too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, link: &Link) -> Poll<()> {
        if link.held.get() == 0 {
            self.last = None;
            return Poll::Pending;
        }
        loop {
            let now = || (clock::tick(), link.given.get(), link.sent.get());
            let (since, given, sent) = *self.last.get_or_insert_with(now);
            ready!(self.alarm.poll(cx, since + link.write_limit()));
            if link.given.get() == given && link.sent.get() - sent < Self::SOME {
                link.write_has_timed_out();
                return Poll::Ready(());
            }
            self.last = Some(now());
        }
    }
}
