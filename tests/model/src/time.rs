//! A clock that moves when it is told to.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

// All tasks of one schedule run on one thread of the system.
thread_local! {
    static WAITING: RefCell<Vec<(Instant, Waker)>> = const { RefCell::new(Vec::new()) };
}

/// Nobody waits.
pub(crate) fn reset() {
    WAITING.take();
}

/// Lets time pass, and wakes who has waited for it.
///
/// # Panics
/// Outside a schedule.
pub fn pass(time: Duration) {
    shuttle::thread::yield_now();
    // The clock moves when this is first asked; what it then waits for is the runtime, which does nothing here.
    let mut moved = pin!(tokio::time::advance(time));
    let _later = moved.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    let now = Instant::now();
    let due = WAITING.with_borrow_mut(|waiting| waiting.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>());
    for (_, waker) in due {
        waker.wake();
    }
}

/// Ready at `at`.
pub(crate) async fn until(at: Instant) {
    poll_fn(|cx| {
        if Instant::now() >= at {
            return Poll::Ready(());
        }
        WAITING.with_borrow_mut(|waiting| {
            if !waiting.iter().any(|(other, waker)| *other == at && waker.will_wake(cx.waker())) {
                waiting.push((at, cx.waker().clone()));
            }
        });
        Poll::Pending
    })
    .await;
}
