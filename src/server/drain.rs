//! Stopping without losing a request.
//!
//! In three steps: *leaving* (still accepting, every answer says `Connection: close`), *closed* (no new connection, idle
//! ones end), *cut* (whatever is left is dropped, and counted). The app beside us may get its SIGTERM at the same time as
//! we do and still has calls to make, so leaving lasts until it has been quiet for a while. Tunnels have no end of their
//! own: nobody waits for them to be quiet, and they are told to end once the rest is. A listener that goes while the
//! others stay has a [`Drain::part`] of its own. Imports `sync`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::{AtomicU64, AtomicUsize, CancellationToken, Ordering, TaskTracker, Token, sleep_until};

/// Without a request for this long, an app that is itself ending has made its calls (docs/rules.md 3.4).
pub const QUIET: Duration = Duration::from_secs(2);
/// The part of the time for a stop after which tunnels are told to end, however busy the rest is: what is left is for
/// both sides of a WebSocket to say goodbye.
const TUNNELS_PART: f64 = 0.8;

/// The state that all listeners and connections share.
#[derive(Clone, Debug, Default)]
pub struct Drain(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    leaving: CancellationToken,
    /// Tunnels are told to end.
    ending: CancellationToken,
    closed: CancellationToken,
    cut: CancellationToken,
    work: Arc<Work>,
}

/// What must end before a stop has.
#[derive(Debug)]
struct Work {
    connections: TaskTracker,
    in_flight: AtomicUsize,
    /// Of those, the ones that have become tunnels.
    tunnels: AtomicUsize,
    started: Instant,
    /// Milliseconds after `started` at which a request last began or ended.
    last_request: AtomicU64,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            connections: TaskTracker::new(),
            in_flight: AtomicUsize::new(0),
            tunnels: AtomicUsize::new(0),
            started: Instant::now(),
            last_request: AtomicU64::new(0),
        }
    }
}

/// A request between its head and the end of its answer.
#[derive(Debug)]
pub struct InFlight {
    drain: Drain,
    is_tunnel: bool,
}

impl InFlight {
    /// The request has become a tunnel: a stop does not wait for it to be quiet.
    pub(super) fn become_tunnel(&mut self) {
        if !std::mem::replace(&mut self.is_tunnel, true) {
            self.drain.0.work.tunnels.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let work = &self.drain.0.work;
        // First: who no longer counts it must see when it ended, or it would have been quiet for long.
        work.touch();
        if self.is_tunnel {
            work.tunnels.fetch_sub(1, Ordering::Release);
        }
        work.in_flight.fetch_sub(1, Ordering::Release);
    }
}

/// Says when a tunnel should end.
#[derive(Clone, Debug)]
pub struct Ending(CancellationToken);

impl Ending {
    /// Ready once it should.
    pub async fn told(&self) {
        self.0.cancelled().await;
    }
}

impl Drain {
    /// A request has begun.
    pub fn enter(&self) -> InFlight {
        self.0.work.in_flight.fetch_add(1, Ordering::Relaxed);
        if self.is_leaving() {
            self.0.work.touch();
        }
        InFlight { drain: self.clone(), is_tunnel: false }
    }

    /// The part of it that a listener has which may go before the others. It goes with them, too.
    #[must_use]
    pub fn part(&self) -> Self {
        let Inner { leaving, ending, closed, cut, work } = &*self.0;
        Self(Arc::new(Inner {
            leaving: leaving.child_token(),
            ending: ending.child_token(),
            closed: closed.child_token(),
            cut: cut.child_token(),
            work: Arc::clone(work),
        }))
    }

    /// Ends this part: no new connection, and those there are end when their request does.
    pub fn retire(&self) {
        self.0.leaving.cancel();
        self.0.closed.cancel();
    }

    /// Ready once a stop was asked for.
    pub async fn leaving(&self) {
        self.0.leaving.cancelled().await;
    }

    /// When a tunnel should end.
    pub fn ending(&self) -> Ending {
        Ending(self.0.ending.clone())
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

    /// Counts a connection, or whoever accepts connections, until it is dropped.
    pub fn count(&self) -> Token {
        self.0.work.connections.token()
    }

    /// Counts a connection until its task has ended.
    pub(super) fn connections(&self) -> &TaskTracker {
        &self.0.work.connections
    }

    /// Drains, `limit` at most, and returns how many requests were cut. Connections are accepted until there was no
    /// request for `quiet`; `hurry` ends the waiting at once.
    pub async fn run(&self, limit: Duration, quiet: Duration, hurry: impl Future<Output = ()>) -> usize {
        let Inner { leaving, ending, closed, cut, work } = &*self.0;
        let begun = Instant::now();
        work.touch();
        leaving.cancel();
        let drained = async {
            tokio::select! {
                () = work.quiet(quiet) => closed.cancel(),
                () = sleep_until(begun + limit.mul_f64(TUNNELS_PART)) => {}
            }
            ending.cancel();
            work.quiet(quiet).await;
            closed.cancel();
            work.ended().await;
        };
        tokio::select! {
            () = drained => {}
            () = sleep_until(begun + limit) => {}
            () = hurry => {}
        }
        let lost = work.in_flight.load(Ordering::Relaxed);
        closed.cancel();
        cut.cancel();
        work.ended().await;
        lost
    }
}

impl Work {
    async fn quiet(&self, quiet: Duration) {
        loop {
            let tunnels = self.tunnels.load(Ordering::Acquire);
            let busy = self.in_flight.load(Ordering::Acquire) > tunnels;
            // Last: of a request that has ended before it was counted here, the mark is seen.
            let last = self.started + Duration::from_millis(self.last_request.load(Ordering::Relaxed));
            let quiet_at = last + quiet;
            let now = Instant::now();
            if !busy && now >= quiet_at {
                return;
            }
            // A request that ends moves the mark, so a busy proxy is looked at again a quiet time later.
            sleep_until(if busy { now + quiet / 8 } else { quiet_at }).await;
        }
    }

    async fn ended(&self) {
        self.connections.close();
        self.connections.wait().await;
    }

    fn touch(&self) {
        let since = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Not a store: of two that end, the earlier one may come here last.
        self.last_request.fetch_max(since, Ordering::Relaxed);
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

    #[tokio::test(start_paused = true)]
    async fn tunnels_are_told_to_end_once_all_else_is_quiet() {
        let drain = Drain::default();
        let (request, mut tunnel) = (drain.enter(), drain.enter());
        tunnel.become_tunnel();
        let (begun, ending) = (Instant::now(), drain.ending());
        let busy_for = Duration::from_secs(10);
        let sides = async {
            tokio::time::sleep(busy_for).await;
            drop(request);
            ending.told().await;
            drop(tunnel);
            begun.elapsed()
        };
        let sides = drain.connections().track_future(sides);
        let (cut, told) = tokio::join!(drain.run(Duration::from_mins(1), QUIET, std::future::pending()), sides);
        assert_eq!(cut, 0);
        assert!(told >= busy_for + QUIET && told < busy_for + 2 * QUIET, "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn tunnels_are_told_before_the_deadline_however_busy_the_rest_is() {
        let drain = Drain::default();
        let (_request, mut tunnel) = (drain.enter(), drain.enter());
        tunnel.become_tunnel();
        let (begun, ending) = (Instant::now(), drain.ending());
        let side = async {
            ending.told().await;
            drop(tunnel);
            begun.elapsed()
        };
        let (cut, told) = tokio::join!(drain.run(Duration::from_secs(10), QUIET, std::future::pending()), side);
        assert_eq!((cut, told), (1, Duration::from_secs(8)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_goes_alone_or_with_the_others() {
        let drain = Drain::default();
        let (one, other) = (drain.part(), drain.part());
        one.retire();
        one.closed().await;
        assert!(one.is_leaving() && !other.is_leaving() && !drain.is_leaving());
        let _request = other.enter();
        assert_eq!(drain.run(Duration::ZERO, QUIET, std::future::ready(())).await, 1, "it is everybody's request");
        assert!(other.is_leaving());
        other.closed().await;
    }
}
