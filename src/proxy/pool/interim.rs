//! Counting the interim answers (1xx) to one request.
//!
//! hyper swallows them and goes on for as long as they come: two million were seen (security.md F8). Over HTTP/2 it does
//! not tell of them; there `response_timeout` alone ends them, and nothing is kept meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::Request;
use tokio::sync::Notify;

/// Before a final answer (security.md 2.5). Nobody has a use for more than one or two.
const MOST: u32 = 32;

/// How many have come.
#[derive(Debug, Default)]
pub(super) struct Interim {
    number: AtomicU32,
    exceeded: Notify,
}

impl Interim {
    /// Counts those of `request`.
    pub(super) fn watch<B>(request: &mut Request<B>) -> Arc<Self> {
        let interim = Arc::new(Self::default());
        let counting = Arc::clone(&interim);
        hyper::ext::on_informational(request, move |_| {
            if counting.number.fetch_add(1, Ordering::Relaxed) == MOST {
                counting.exceeded.notify_one();
            }
        });
        interim
    }

    /// Whether there were too many.
    pub(super) fn is_exceeded(&self) -> bool {
        self.number.load(Ordering::Relaxed) > MOST
    }

    /// Ready once there are too many.
    pub(super) async fn exceeded(&self) {
        self.exceeded.notified().await;
    }
}
