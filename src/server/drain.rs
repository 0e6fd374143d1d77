//! Stopping without losing a request.
//!
//! In three steps: *leaving* (still accepting, every answer says `Connection: close`), *closed* (no new connection, idle
//! ones end), *cut* (whatever is left is dropped, and counted). The app beside us may get its SIGTERM at the same time as
//! we do and still has calls to make, so leaving lasts until it has been quiet for a while. Imports nothing of ours.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Without a request for this long, an app that is itself ending has made its calls (security.md 3.4).
pub const QUIET: Duration = Duration::from_secs(2);

/// The state that all listeners and connections share.
#[derive(Clone, Debug, Default)]
pub struct Drain(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    leaving: CancellationToken,
    closed: CancellationToken,
    cut: CancellationToken,
    connections: TaskTracker,
    in_flight: AtomicUsize,
    started: Instant,
    /// Milliseconds after `started` at which a request last began or ended.
    last_request: AtomicU64,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            leaving: CancellationToken::new(),
            closed: CancellationToken::new(),
            cut: CancellationToken::new(),
            connections: TaskTracker::new(),
            in_flight: AtomicUsize::new(0),
            started: Instant::now(),
            last_request: AtomicU64::new(0),
        }
    }
}

/// A request between its head and the end of its answer.
#[derive(Debug)]
pub struct InFlight(Drain);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

impl Drain {
    /// A request has begun.
    pub fn enter(&self) -> InFlight {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        if self.is_leaving() {
            self.touch();
        }
        InFlight(self.clone())
    }

    /// Whether a stop was asked for.
    pub fn is_leaving(&self) -> bool {
        self.0.leaving.is_cancelled()
    }

    /// Ready once no connection is accepted any more.
    pub async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    /// Ready once connections must end as they are.
    pub(super) async fn cut(&self) {
        self.0.cut.cancelled().await;
    }

    /// Counts a connection until its task has ended.
    pub(super) fn connections(&self) -> &TaskTracker {
        &self.0.connections
    }

    /// Drains, `limit` at most, and returns how many requests were cut. Connections are accepted until there was no
    /// request for `quiet`; `hurry` ends the waiting at once.
    pub async fn run(&self, limit: Duration, quiet: Duration, hurry: impl Future<Output = ()>) -> usize {
        let Inner { leaving, closed, cut, connections, in_flight, .. } = &*self.0;
        let deadline = Instant::now() + limit;
        self.touch();
        leaving.cancel();
        let drained = async {
            self.quiet(quiet).await;
            closed.cancel();
            connections.close();
            connections.wait().await;
        };
        tokio::select! {
            () = drained => {}
            () = sleep_until(deadline) => {}
            () = hurry => {}
        }
        let lost = in_flight.load(Ordering::Relaxed);
        closed.cancel();
        cut.cancel();
        connections.close();
        connections.wait().await;
        lost
    }

    async fn quiet(&self, quiet: Duration) {
        loop {
            let last = self.0.started + Duration::from_millis(self.0.last_request.load(Ordering::Relaxed));
            let busy = self.0.in_flight.load(Ordering::Relaxed) > 0;
            let quiet_at = last + quiet;
            let now = Instant::now();
            if !busy && now >= quiet_at {
                return;
            }
            // A request that ends moves the mark, so a busy proxy is looked at again a quiet time later.
            sleep_until(if busy { now + quiet / 8 } else { quiet_at }).await;
        }
    }

    fn touch(&self) {
        let since = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last_request.store(since, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn leaving_lasts_until_it_has_been_quiet() {
        let drain = Drain::default();
        let request = drain.enter();
        let mut running = std::pin::pin!(drain.run(Duration::from_mins(1), QUIET, std::future::pending()));
        let busy = tokio::time::timeout(Duration::from_secs(10), running.as_mut()).await;
        assert!(busy.is_err() && drain.is_leaving());
        drop(request);
        let ended = Instant::now();
        assert_eq!(running.await, 0);
        assert!(ended.elapsed() >= QUIET, "{:?}", ended.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_at_the_deadline_is_counted() {
        let drain = Drain::default();
        let _one = drain.enter();
        let _two = drain.enter();
        assert_eq!(drain.run(Duration::from_secs(5), QUIET, std::future::pending()).await, 2);
        let drain = Drain::default();
        let _one = drain.enter();
        assert_eq!(drain.run(Duration::from_secs(5), QUIET, std::future::ready(())).await, 1);
    }
}
