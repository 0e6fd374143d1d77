//! Background tasks with a name, ended together.
//!
//! Every task but the clients' connections (`server::drain` counts those) and the wait for signals is started here, so
//! that none is forgotten at the end. Imports nothing of ours.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one run. Dropping the last clone does not end them; [`Tasks::stop`] does.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Tasks {
    /// Starts `work` under `name`; it is dropped at its next await once [`Tasks::stop`] is called.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that starts tasks")]
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        drop(tokio::spawn(self.tracker.track_future(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = work => {}
            }
            tracing::trace!(task = name, "task ended");
        })));
    }

    /// How many tasks are running.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Ends all tasks and waits until they are gone.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
