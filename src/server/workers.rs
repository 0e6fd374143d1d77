//! Threads that serve connections, each with a runtime of its own.
//!
//! A connection stays with its thread from its first byte to its last, and with it, as a rule, the upstream connections that
//! its requests take: nothing of a request goes from core to core, which costs more than a signature does.
//! All else (accepting, credentials, the admin port) has the program's first thread, and is answered there however busy
//! these are. Imports nothing of ours.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

/// Shorter than the timers that most requests set, and long enough to cost nothing.
const BEAT: Duration = Duration::from_secs(1);

/// The threads; without any, connections are served where they are accepted. They end when the last clone of this goes.
#[derive(Clone, Debug, Default)]
pub struct Workers(Arc<[Thread]>);

#[derive(Debug)]
struct Thread {
    worker: Worker,
    _alive: oneshot::Sender<()>,
}

/// One of the threads.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    runtime: Handle,
    /// Each of its connections has a clone.
    load: Arc<()>,
}

impl Workers {
    /// Starts `number` of them.
    ///
    /// # Errors
    /// The system's, when it has no more threads or descriptors.
    pub fn start(number: NonZero<usize>) -> io::Result<Self> {
        (0..number.get()).map(Thread::start).collect::<io::Result<_>>().map(Self)
    }

    /// The one with the fewest connections.
    pub(super) fn choose(&self) -> Worker {
        let least = self.0.iter().map(|thread| &thread.worker).min_by_key(|worker| Arc::strong_count(&worker.load));
        least.cloned().unwrap_or_else(|| Worker { runtime: Handle::current(), load: Arc::default() })
    }
}

impl Thread {
    fn start(at: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let worker = Worker { runtime: runtime.handle().clone(), load: Arc::default() };
        let (alive, over) = oneshot::channel::<()>();
        drop(runtime.spawn(beat()));
        // Nothing is ever sent: it resolves when the sender goes.
        let work = move || drop(runtime.block_on(over));
        thread::Builder::new().name(format!("worker-{at}")).spawn(work)?;
        Ok(Self { worker, _alive: alive })
    }
}

/// Keeps a timer that is due before those of requests. For one that is due before all others tokio writes to an eventfd, to
/// end the wait of its thread, even where it is that thread that sets the timer and does not wait: a write, and a wait that
/// is over at once, for each request that comes alone.
async fn beat() {
    loop {
        sleep(BEAT).await;
    }
}

impl Worker {
    /// Calls `make` where what it makes is watched by this one's runtime.
    pub(super) fn enter<T>(&self, make: impl FnOnce() -> T) -> T {
        let _entered = self.runtime.enter();
        make()
    }

    /// Serves a connection, which has its `place` until then.
    pub(super) fn spawn(
        self,
        tracker: &TaskTracker,
        served: impl Future<Output = ()> + Send + 'static,
        place: impl Send + 'static,
    ) {
        let Self { runtime, load } = self;
        let counted = async move {
            served.await;
            drop((place, load));
        };
        drop(tracker.spawn_on(counted, &runtime));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_connection_goes_to_the_one_that_has_the_fewest() {
        let (workers, tracker) = (Workers::start(NonZero::new(3).unwrap()).unwrap(), TaskTracker::new());
        let (seen, mut names) = mpsc::unbounded_channel();
        let mut open = Vec::new();
        for _ in 0..7 {
            let (end, ended) = oneshot::channel::<()>();
            let seen = seen.clone();
            let served = async move {
                seen.send(thread::current().name().unwrap().to_owned()).unwrap();
                drop(ended.await);
            };
            workers.choose().spawn(&tracker, served, ());
            open.push((names.recv().await.unwrap(), end));
        }
        let named: Vec<&str> = open.iter().map(|(name, _)| &**name).collect();
        let all = ["worker-0", "worker-1", "worker-2"];
        assert_eq!(named, [all, all].concat().into_iter().chain(["worker-0"]).collect::<Vec<_>>());
        drop(open);
        tracker.close();
        timeout(Duration::from_secs(10), tracker.wait()).await.unwrap();
    }

    #[tokio::test]
    async fn without_any_it_is_served_here() {
        let tracker = TaskTracker::new();
        let (seen, id) = oneshot::channel();
        let served = async move { seen.send(thread::current().id()).unwrap() };
        Workers::default().choose().spawn(&tracker, served, ());
        assert_eq!(id.await.unwrap(), thread::current().id());
    }

    #[tokio::test]
    async fn they_end_with_the_last_who_has_them() {
        let (workers, tracker) = (Workers::start(NonZero::<usize>::MIN).unwrap(), TaskTracker::new());
        let (held, released) = oneshot::channel::<()>();
        let served = async move {
            let _held = held;
            std::future::pending::<()>().await;
        };
        workers.choose().spawn(&tracker, served, ());
        drop(workers.clone());
        assert_eq!(tracker.len(), 1);
        drop(workers);
        // What it was serving goes with it.
        assert!(timeout(Duration::from_secs(10), released).await.unwrap().is_err());
    }
}
