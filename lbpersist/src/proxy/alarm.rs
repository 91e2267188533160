//! The timers of time limits, which are set for every request and hardly ever go off.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use tokio::time::{Instant, Sleep};

/// A timer that is seldom set: when it goes off too early, it is set again.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whom it wakes.
    waker: Option<Waker>,
}

impl Alarm {
    /// Ready once `deadline` has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        let will_wake = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if will_wake && !sleep.is_elapsed() {
            // It need not be asked again for that.
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        loop {
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                // It is not to be polled again before it is set again.
                (self.sleep, self.waker) = (None, None);
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
