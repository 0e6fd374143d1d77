//! Time, in one place, so that tests can set it.
//!
//! A credential's life is judged by the wall clock and by the monotonic clock, and it is over when either says so: the
//! monotonic one stands still while a laptop sleeps, the wall one jumps when somebody sets it. Imports nothing of ours.

pub mod civil;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Where "now" comes from.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

/// One moment, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time of day, UTC.
    pub wall: SystemTime,
    /// The monotonic clock; tests pause it.
    pub monotonic: Instant,
}

/// The moment at which something ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    wall: SystemTime,
    monotonic: Instant,
}

impl Clock {
    /// The machine's own clock.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    pub fn system() -> Self {
        Self(Arc::new(SystemTime::now))
    }

    /// A wall clock of the caller's; the monotonic side stays tokio's, which tests pause.
    pub fn from_fn(wall: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(wall))
    }

    /// Now, on both clocks.
    pub fn now(&self) -> Moment {
        Moment { wall: self.wall(), monotonic: Instant::now() }
    }

    /// The time of day alone.
    pub fn wall(&self) -> SystemTime {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// The longest life that is believed: beyond it the sum of `now` and the life could overflow.
const LONGEST_LIFE: Duration = Duration::from_hours(366 * 24);

impl Expiry {
    /// Ends `life` after `now`; a life of over a year is cut to one.
    pub fn after(now: Moment, life: Duration) -> Self {
        let life = life.min(LONGEST_LIFE);
        Self { wall: now.wall + life, monotonic: now.monotonic + life }
    }

    /// Ends at this time of day; in the past is allowed and means that it has ended.
    pub fn at(wall: SystemTime, now: Moment) -> Self {
        let life = wall.duration_since(now.wall).unwrap_or_default().min(LONGEST_LIFE);
        Self { wall: now.wall + life, monotonic: now.monotonic + life }
    }

    /// What is left at `now`, by the clock that leaves less; zero once it has ended.
    pub fn left(self, now: Moment) -> Duration {
        let by_wall = self.wall.duration_since(now.wall).unwrap_or_default();
        by_wall.min(self.monotonic.saturating_duration_since(now.monotonic))
    }

    /// The end by the wall clock, for people to read.
    pub fn wall(self) -> SystemTime {
        self.wall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[tokio::test(start_paused = true)]
    async fn a_life_is_over_when_either_clock_says_so() {
        let start = Moment { wall: SystemTime::UNIX_EPOCH + 1_000 * HOUR, monotonic: Instant::now() };
        let expiry = Expiry::after(start, HOUR);
        assert_eq!(expiry.left(start), HOUR);
        let slept = Moment { wall: start.wall + 2 * HOUR, ..start };
        assert_eq!(expiry.left(slept), Duration::ZERO, "a suspended laptop");
        let set_back = Moment { wall: start.wall - 9 * HOUR, monotonic: start.monotonic + HOUR };
        assert_eq!(expiry.left(set_back), Duration::ZERO, "a clock that was set back");
    }

    #[tokio::test(start_paused = true)]
    async fn absurd_lives_do_not_overflow() {
        let now = Clock::system().now();
        assert_eq!(Expiry::after(now, Duration::MAX).left(now), LONGEST_LIFE);
        assert_eq!(Expiry::at(SystemTime::UNIX_EPOCH, now).left(now), Duration::ZERO);
    }
}
