//! How often an origin may be asked once more: retries must not become the load that keeps it down.
//!
//! A fifth of the requests and three a second (docs/rules.md 3.3). A request that certainly was not processed costs its
//! upstream nothing and is not counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Retries that each request earns.
const PER_REQUEST: f64 = 0.2;
/// Retries that each second earns.
const PER_SECOND: f64 = 3.0;
/// What can be saved up: as many as `MAX_IDLE`, the idle connections that may all be found dead at once.
const MOST: f64 = 256.0;
/// What there is at first.
const FIRST: f64 = 10.0 * PER_SECOND;

/// The retries of one origin.
#[derive(Debug)]
pub(super) struct Retries {
    /// Not yet among the savings.
    requests: AtomicU64,
    savings: Mutex<Savings>,
}

#[derive(Debug)]
struct Savings {
    retries: f64,
    counted: Instant,
}

impl Default for Retries {
    fn default() -> Self {
        let savings = Mutex::new(Savings { retries: FIRST, counted: Instant::now() });
        Self { requests: AtomicU64::new(0), savings }
    }
}

impl Retries {
    /// A request is sent for the first time.
    pub(super) fn earn(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether one more retry may be made; it is made then.
    #[expect(clippy::cast_precision_loss, reason = "requests since the last retry are no astronomic number")]
    pub(super) fn spend(&self) -> bool {
        let now = Instant::now();
        let mut savings = self.savings.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = self.requests.swap(0, Ordering::Relaxed) as f64;
        let seconds = now.duration_since(savings.counted).as_secs_f64();
        savings.counted = now;
        savings.retries = (savings.retries + requests * PER_REQUEST + seconds * PER_SECOND).min(MOST);
        let may = savings.retries >= 1.0;
        if may {
            savings.retries -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retries_are_a_fifth_of_the_requests_and_three_a_second() {
        let retries = Retries::default();
        let all = || std::iter::from_fn(|| retries.spend().then_some(())).count();
        assert_eq!(all(), 30);
        for _ in 0..500 {
            retries.earn();
        }
        assert_eq!(all(), 100);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(all(), 30);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(all(), 256);
    }
}
