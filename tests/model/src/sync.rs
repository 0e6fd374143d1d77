//! What `src/sync.rs` names, with a moment in front of every operation at which another task may come first.
//!
//! Sleeping and waking stay tokio's own, which does not care whose tasks they are.

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::sync::atomic::AtomicBool;
pub(crate) use shuttle::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::time::Instant;

/// Another task may come first. Not a yield, which says that this one has nothing to do.
fn moment() {
    AtomicBool::new(false).load(Ordering::SeqCst);
}

/// As `arc_swap`'s, one operation at a time.
#[derive(Debug)]
pub(crate) struct ArcSwap<T>(Mutex<Arc<T>>);

impl<T> ArcSwap<T> {
    pub(crate) fn from_pointee(value: T) -> Self {
        Self(Mutex::new(Arc::new(value)))
    }

    pub(crate) fn load(&self) -> Arc<T> {
        Arc::clone(&self.0.lock().unwrap())
    }

    pub(crate) fn load_full(&self) -> Arc<T> {
        self.load()
    }

    pub(crate) fn store(&self, value: Arc<T>) {
        *self.0.lock().unwrap() = value;
    }

    pub(crate) fn rcu<R: Into<Arc<T>>>(&self, mut change: impl FnMut(&Arc<T>) -> R) -> Arc<T> {
        loop {
            let before = self.load();
            let after = change(&before).into();
            let mut current = self.0.lock().unwrap();
            if Arc::ptr_eq(&current, &before) {
                *current = after;
                return before;
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Notify(tokio::sync::Notify);

impl Notify {
    pub(crate) fn notify_one(&self) {
        moment();
        self.0.notify_one();
    }

    pub(crate) async fn notified(&self) {
        moment();
        self.0.notified().await;
    }
}

pub(crate) mod watch {
    use tokio::sync::watch;

    use super::moment;

    #[derive(Debug)]
    pub(crate) struct Sender<T>(watch::Sender<T>);

    pub(crate) struct Receiver<T>(watch::Receiver<T>);

    impl<T> Sender<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(watch::Sender::new(value))
        }

        pub(crate) fn subscribe(&self) -> Receiver<T> {
            moment();
            Receiver(self.0.subscribe())
        }

        pub(crate) fn send_modify(&self, change: impl FnOnce(&mut T)) {
            moment();
            self.0.send_modify(change);
        }
    }

    impl<T> Receiver<T> {
        pub(crate) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
            moment();
            self.0.changed().await
        }

        pub(crate) async fn wait_for(
            &mut self,
            condition: impl FnMut(&T) -> bool,
        ) -> Result<watch::Ref<'_, T>, watch::error::RecvError> {
            moment();
            self.0.wait_for(condition).await
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct CancellationToken(tokio_util::sync::CancellationToken);

impl CancellationToken {
    pub(crate) fn child_token(&self) -> Self {
        moment();
        Self(self.0.child_token())
    }

    pub(crate) fn cancel(&self) {
        moment();
        self.0.cancel();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        moment();
        self.0.is_cancelled()
    }

    pub(crate) async fn cancelled(&self) {
        moment();
        self.0.cancelled().await;
    }
}

#[derive(Debug)]
pub struct TaskTracker(tokio_util::task::TaskTracker);

pub(crate) type Token = tokio_util::task::task_tracker::TaskTrackerToken;

impl TaskTracker {
    pub(crate) fn new() -> Self {
        Self(tokio_util::task::TaskTracker::new())
    }

    pub(crate) fn token(&self) -> Token {
        moment();
        self.0.token()
    }

    pub(crate) fn close(&self) {
        moment();
        self.0.close();
    }

    pub(crate) async fn wait(&self) {
        moment();
        self.0.wait().await;
    }
}

/// The time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

pub(crate) async fn sleep_until(at: Instant) {
    moment();
    crate::time::until(at).await;
}

pub(crate) async fn timeout<F: Future>(limit: std::time::Duration, work: F) -> Result<F::Output, Elapsed> {
    timeout_at(Instant::now() + limit, work).await
}

pub(crate) async fn timeout_at<F: Future>(at: Instant, work: F) -> Result<F::Output, Elapsed> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = crate::time::until(at) => Err(Elapsed),
    }
}
