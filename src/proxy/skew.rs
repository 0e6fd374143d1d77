//! How far an upstream's clock is from ours, learnt only when it matters.
//!
//! The rule is the AWS SDKs' (docs/aws.md A5): the `Date` of an answer against the middle of its exchange, not believed when
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
    /// What is known of it now, for one request.
    pub fn known(&self) -> Offset {
        Offset(self.0.load(Ordering::Relaxed))
    }

    /// Learns from an answer that refused a signature whose time was corrected by `used`. True when the time was the
    /// likely reason and is now right, whoever learnt it first.
    pub fn learn(&self, used: Offset, headers: &HeaderMap, sent: Moment, received: Moment) -> bool {
        let Some(ahead) = measure(headers, sent, received) else { return false };
        if (ahead - used.0).abs() <= TOLERATED {
            return false;
        }
        let before = self.0.swap(ahead, Ordering::Relaxed);
        if (ahead - before).abs() > TOLERATED {
            tracing::warn!(
                upstream_ahead_by_seconds = ahead / 1_000,
                "this machine's clock is wrong, or the upstream's is: signing with the upstream's time"
            );
        }
        true
    }
}

/// Milliseconds that an upstream's clock was taken to be ahead when a request was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset(i64);

impl Offset {
    /// The upstream's time at our `time`.
    pub fn correct(self, time: SystemTime) -> SystemTime {
        let distance = Duration::from_millis(self.0.unsigned_abs());
        let theirs = if self.0 < 0 { time.checked_sub(distance) } else { time.checked_add(distance) };
        theirs.unwrap_or(time)
    }
}

/// Milliseconds that the upstream's clock is ahead of ours, by the `Date` of its answer.
pub(super) fn measure(headers: &HeaderMap, sent: Moment, received: Moment) -> Option<i64> {
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
            let used = skew.known();
            assert!(skew.learn(used, &dated(theirs), moment(ours), moment(ours)));
            assert_eq!(skew.known().correct(ours), theirs);
            assert!(skew.learn(used, &dated(theirs), moment(ours), moment(ours)), "a second one, signed before");
            let known = skew.known();
            assert!(!skew.learn(known, &dated(theirs), moment(ours), moment(ours)), "something else is wrong");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_explain_a_refusal_is_not_learnt() {
        let ours = SystemTime::UNIX_EPOCH + 100_000 * MINUTE;
        let skew = Skew::default();
        let (now, used) = (moment(ours), skew.known());
        assert!(!skew.learn(used, &dated(ours + 2 * MINUTE), now, now), "within what is allowed");
        assert!(!skew.learn(used, &HeaderMap::new(), now, now), "no Date");
        let mut stored = dated(ours + 10 * MINUTE);
        stored.insert(AGE, HeaderValue::from(9));
        assert!(!skew.learn(used, &stored, now, now), "an answer from a cache");
        let late = Moment { monotonic: now.monotonic + 2 * LONGEST_EXCHANGE, ..now };
        assert!(!skew.learn(used, &dated(ours + 10 * MINUTE), now, late), "an exchange that took long");
        assert_eq!(skew.known().correct(ours), ours);
    }
}
