//! How many requests in the last five minutes, how they ended and how long they took: what a sparkline shows.
//!
//! Sixty steps of 5 s, overwritten as time goes round: some 8 KB a route, and nothing before its first request. Imports
//! nothing of ours.

use std::time::Duration;

use serde::Serialize;

/// One step.
pub const STEP: Duration = Duration::from_secs(5);
/// So many are kept: five minutes.
pub const STEPS: usize = 60;
/// A rate is that of so many whole steps and the one under way: long enough to be calm, short enough to be now.
const RATE_STEPS: u32 = 3;
/// Upper ends of the bins of time, in microseconds: five to a decade, so that a quantile is right within a fifth or so.
const ENDS: [u64; 27] = [
    250, 400, 630, 1_000, 1_600, 2_500, 4_000, 6_300, 10_000, 16_000, 25_000, 40_000, 63_000, 100_000, 160_000,
    250_000, 400_000, 630_000, 1_000_000, 1_600_000, 2_500_000, 4_000_000, 6_300_000, 10_000_000, 16_000_000,
    25_000_000, 40_000_000,
];
/// What took longer is taken for at most this.
const LONGEST: u64 = 80_000_000;
/// One more, for that.
const BINS: usize = ENDS.len() + 1;

/// How a request ended, for a color.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answered, with a status below 400.
    Fine,
    /// Answered with a 4xx, or given up by the client.
    Refused,
    /// Answered with a 5xx, or not to the end.
    Failed,
}

impl Verdict {
    /// Member value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Requests, by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// All.
    pub requests: u64,
    /// Of these, [`Verdict::Refused`].
    pub refused: u64,
    /// Of these, [`Verdict::Failed`].
    pub failed: u64,
}

impl Tally {
    fn count(&mut self, verdict: Verdict) {
        self.requests += 1;
        match verdict {
            Verdict::Fine => {}
            Verdict::Refused => self.refused += 1,
            Verdict::Failed => self.failed += 1,
        }
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.refused += other.refused;
        self.failed += other.failed;
    }
}

/// The last five minutes of one route.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    total: Tally,
    /// Empty before the first request.
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    /// Which one since the start, counted from 1; 0 in a place that was never used.
    number: u64,
    tally: Tally,
    bins: Bins,
}

#[derive(Clone, Copy, Debug)]
struct Bins([u32; BINS]);

/// A moment, in steps since the start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At {
    number: u64,
    /// How much of the step has passed, in seconds.
    passed: f64,
}

impl At {
    /// So long after the start.
    pub fn after(elapsed: Duration) -> Self {
        let number = u64::try_from(elapsed.as_nanos() / STEP.as_nanos()).unwrap_or(u64::MAX - 1) + 1;
        let passed = elapsed.as_secs_f64() % STEP.as_secs_f64();
        Self { number, passed }
    }
}

/// What is to be shown of a [`Pace`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Since the start.
    pub total: Tally,
    /// In the five minutes.
    pub recent: Tally,
    /// Requests a second, just now.
    pub rate: f64,
    /// Half of the five minutes' requests took at most this.
    pub median: Option<Duration>,
    /// And 95 % of them this.
    pub p95: Option<Duration>,
    /// Oldest first; the last is under way.
    pub steps: Vec<Tally>,
    /// The p95 of each step.
    pub slow: Vec<Option<Duration>>,
}

impl Pace {
    /// A request has ended.
    pub fn count(&mut self, at: At, took: Duration, verdict: Verdict) {
        self.total.count(verdict);
        if let Some(step) = self.step(at.number) {
            step.tally.count(verdict);
            step.bins.count(took);
        }
    }

    /// The sum of this and `other`.
    pub fn merge(&mut self, other: &Self) {
        self.total.add(&other.total);
        for theirs in other.steps.iter().filter(|step| step.number > 0) {
            if let Some(ours) = self.step(theirs.number) {
                ours.tally.add(&theirs.tally);
                ours.bins.add(&theirs.bins);
            }
        }
    }

    /// What is to be shown at this moment.
    pub fn view(&self, at: At) -> View {
        let mut view = View { total: self.total, ..View::default() };
        let mut all = Bins::NONE;
        let mut lately = 0;
        for back in (0..STEPS as u64).rev() {
            let number = at.number.saturating_sub(back);
            let step = self.steps.iter().find(|step| step.number == number && number > 0);
            let tally = step.map(|step| step.tally).unwrap_or_default();
            if back <= u64::from(RATE_STEPS) {
                lately += tally.requests;
            }
            view.recent.add(&tally);
            view.steps.push(tally);
            view.slow.push(step.and_then(|step| step.bins.quantile(0.95)));
            if let Some(step) = step {
                all.add(&step.bins);
            }
        }
        // Right after the start there are no whole steps to divide by.
        let whole = u32::try_from(at.number.saturating_sub(1)).map_or(RATE_STEPS, |steps| steps.min(RATE_STEPS));
        let over = (STEP * whole).as_secs_f64() + at.passed;
        view.rate = real(lately) / over.max(1.0);
        (view.median, view.p95) = (all.quantile(0.5), all.quantile(0.95));
        view
    }

    /// The place of step `number`, cleared if an older one was there; none if a newer one is.
    fn step(&mut self, number: u64) -> Option<&mut Step> {
        if self.steps.is_empty() {
            self.steps = vec![Step { number: 0, tally: Tally::default(), bins: Bins::NONE }; STEPS];
        }
        let place = usize::try_from(number % STEPS as u64).unwrap_or_default();
        let step = self.steps.get_mut(place)?;
        if step.number < number {
            *step = Step { number, tally: Tally::default(), bins: Bins::NONE };
        }
        (step.number == number).then_some(step)
    }
}

impl Bins {
    const NONE: Self = Self([0; BINS]);

    fn count(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(bin) = self.0.get_mut(ENDS.partition_point(|end| *end < micros)) {
            *bin = bin.saturating_add(1);
        }
    }

    fn add(&mut self, other: &Self) {
        for (ours, theirs) in self.0.iter_mut().zip(other.0) {
            *ours = ours.saturating_add(theirs);
        }
    }

    /// Below this are so many of all, as if those of a bin were spread evenly over it.
    fn quantile(&self, part: f64) -> Option<Duration> {
        let all: u64 = self.0.iter().copied().map(u64::from).sum();
        let wanted = (real(all) * part).max(1.0);
        let (mut below, mut begin) = (0.0, Duration::ZERO);
        let ends = ENDS.into_iter().chain([LONGEST]).map(Duration::from_micros);
        for (count, end) in self.0.iter().zip(ends) {
            let count = f64::from(*count);
            if count > 0.0 && below + count >= wanted {
                return Some(begin + end.saturating_sub(begin).mul_f64((wanted - below) / count));
            }
            (below, begin) = (below + count, end);
        }
        None
    }
}

/// Exact up to four thousand million, which no five minutes bring.
fn real(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> At {
        At::after(Duration::from_secs(seconds))
    }

    #[test]
    fn what_is_older_than_five_minutes_is_forgotten_but_in_the_total() {
        let mut pace = Pace::default();
        assert_eq!(pace.view(at(0)).steps.len(), STEPS);
        for second in 0..700 {
            pace.count(at(second), Duration::from_millis(10), Verdict::Fine);
        }
        pace.count(at(699), Duration::from_secs(100), Verdict::Failed);
        pace.count(at(699), Duration::from_secs(1), Verdict::Refused);
        let view = pace.view(at(699));
        assert_eq!(view.total, Tally { requests: 702, refused: 1, failed: 1 });
        assert_eq!(view.recent, Tally { requests: 302, refused: 1, failed: 1 });
        assert_eq!(view.steps.last(), Some(&Tally { requests: 7, refused: 1, failed: 1 }));
        assert_eq!(view.steps.first(), Some(&Tally { requests: 5, refused: 0, failed: 0 }));
        let quiet = pace.view(at(2_000));
        assert_eq!((quiet.recent, quiet.rate, quiet.p95), (Tally::default(), 0.0, None));
    }

    #[test]
    fn rates_are_of_now_and_quantiles_close() {
        let mut pace = Pace::default();
        for second in 100..119 {
            for request in 1..=100 {
                pace.count(at(second), Duration::from_millis(request), Verdict::Fine);
            }
        }
        let view = pace.view(at(119));
        assert!((view.rate - 100.0).abs() < 1.0, "{view:?}");
        let (median, p95) = (view.median.unwrap().as_millis(), view.p95.unwrap().as_millis());
        assert!((45..=55).contains(&median) && (90..=100).contains(&p95), "{median} {p95}");
        let mut sum = Pace::default();
        sum.merge(&pace);
        sum.merge(&pace);
        assert_eq!(sum.view(at(119)).total.requests, 3_800);
        assert_eq!(sum.view(at(119)).p95, view.p95);
        // Long after: the place of an old step is not its successor's.
        let fresh = At::after(Duration::from_millis(1_500));
        let mut first = Pace::default();
        first.count(fresh, Duration::ZERO, Verdict::Fine);
        assert!((first.view(fresh).rate - 1.0 / 1.5).abs() < 0.01);
    }
}
