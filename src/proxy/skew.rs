//! How far an upstream's clock is from ours, learnt only when it matters.
//!
//! The rule is the AWS SDKs' (aws.md A5): the `Date` of an answer against the middle of its exchange, not believed when
//! the answer was stored somewhere on the way (`Age`) or took long, and used only when a signature was refused and the
//! distance explains it. A small distance is left alone: API Gateway allows five minutes. Imports `clock`.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use http::header::{AGE, DATE, HeaderMap};

use crate::clock::Moment;

/// A smaller distance is no reason for a refusal (the SDKs' figure).
const TOLERATED: i64 = 4 * 60 * 1_000;
/// A slower exchange says too little of the time.
const LONGEST_EXCHANGE: Duration = Duration::from_secs(5);

/// Milliseconds that an upstream's clock is ahead of ours; zero until a refusal showed otherwise.
#[derive(Debug, Default)]
pub struct Skew(AtomicI64);

impl Skew {
    /// The time to sign with.
    pub fn correct(&self, ours: SystemTime) -> SystemTime {
        let ahead = self.0.load(Ordering::Relaxed);
        let distance = Duration::from_millis(ahead.unsigned_abs());
        let theirs = if ahead < 0 { ours.checked_sub(distance) } else { ours.checked_add(distance) };
        theirs.unwrap_or(ours)
    }

    /// Learns from an answer that refused a signature made with [`Skew::correct`]. True when the time was the likely
    /// reason and is now right.
    pub fn learn(&self, headers: &HeaderMap, sent: Moment, received: Moment) -> bool {
        let Some(ahead) = measure(headers, sent, received) else { return false };
        let known = self.0.load(Ordering::Relaxed);
        if (ahead - known).abs() <= TOLERATED {
            return false;
        }
        self.0.store(ahead, Ordering::Relaxed);
        tracing::warn!(
            upstream_ahead_by_seconds = ahead / 1_000,
            "this machine's clock is wrong, or the upstream's is: signing with the upstream's time"
        );
        true
    }
}

fn measure(headers: &HeaderMap, sent: Moment, received: Moment) -> Option<i64> {
    let took = received.monotonic.saturating_duration_since(sent.monotonic);
    if headers.contains_key(AGE) || took > LONGEST_EXCHANGE {
        return None;
    }
    let theirs = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    let ours = sent.wall + took / 2;
    let milliseconds = |distance: Duration| i64::try_from(distance.as_millis()).ok();
    match theirs.duration_since(ours) {
        Ok(ahead) => milliseconds(ahead),
        Err(behind) => milliseconds(behind.duration()).map(|distance| -distance),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tokio::time::Instant;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn moment(wall: SystemTime) -> Moment {
        Moment { wall, monotonic: Instant::now() }
    }

    fn dated(time: SystemTime) -> HeaderMap {
        [(DATE, HeaderValue::try_from(httpdate::fmt_http_date(time)).unwrap())].into_iter().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_ten_minutes_off_is_corrected_in_both_directions() {
        let ours = SystemTime::UNIX_EPOCH + 100_000 * MINUTE;
        for theirs in [ours + 10 * MINUTE, ours - 10 * MINUTE] {
            let skew = Skew::default();
            assert!(skew.learn(&dated(theirs), moment(ours), moment(ours)));
            assert_eq!(skew.correct(ours), theirs);
            assert!(!skew.learn(&dated(theirs), moment(ours), moment(ours)), "known by now: something else is wrong");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_explain_a_refusal_is_not_learnt() {
        let ours = SystemTime::UNIX_EPOCH + 100_000 * MINUTE;
        let skew = Skew::default();
        let now = moment(ours);
        assert!(!skew.learn(&dated(ours + 2 * MINUTE), now, now), "within what is allowed");
        assert!(!skew.learn(&HeaderMap::new(), now, now), "no Date");
        let mut stored = dated(ours + 10 * MINUTE);
        stored.insert(AGE, HeaderValue::from(9));
        assert!(!skew.learn(&stored, now, now), "an answer from a cache");
        let late = Moment { monotonic: now.monotonic + 2 * LONGEST_EXCHANGE, ..now };
        assert!(!skew.learn(&dated(ours + 10 * MINUTE), now, late), "an exchange that took long");
        assert_eq!(skew.correct(ours), ours);
    }
}
