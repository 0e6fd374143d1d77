//! Causes as they come: each said once in the log, then counted, so that a storm of failures is a handful of lines.
//!
//! A cause that was away for an hour is news again. Holds 256 causes at most, each of one route or credential; of more, the
//! one that was seen longest ago is forgotten. Touched by failures alone. Imports nothing of ours.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::{Cause, Diagnosis, Finding};

const MOST_ENTRIES: usize = 256;
const NEWS_AFTER: Duration = Duration::from_hours(1);

/// What has failed so far, and why.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<BTreeMap<Key, Seen>>);

/// Of which route, and the likeliest cause.
type Key = (Arc<str>, Cause);

/// A cause as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The causes, with the evidence of the latest time.
    pub diagnosis: Diagnosis,
    /// How often.
    pub times: u64,
    /// When first.
    pub first: SystemTime,
    /// When last.
    pub last: SystemTime,
}

impl Ledger {
    /// Notes that `diagnosis` was made of a request on `route`; logs it if it is news, or at the tenth, hundredth and
    /// thousandth time and so on.
    pub fn note(&self, route: &Arc<str>, diagnosis: &Diagnosis, now: SystemTime) {
        let key = (Arc::clone(route), diagnosis.first().cause);
        let times = {
            let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !entries.contains_key(&key) && entries.len() >= MOST_ENTRIES {
                let oldest = entries.iter().min_by_key(|(_, seen)| seen.last).map(|(key, _)| key.clone());
                if let Some(oldest) = oldest {
                    entries.remove(&oldest);
                }
            }
            let fresh = || Seen { diagnosis: diagnosis.clone(), times: 0, first: now, last: now };
            let seen = entries.entry(key).or_insert_with(fresh);
            if now.duration_since(seen.last).is_ok_and(|away| away > NEWS_AFTER) {
                *seen = fresh();
            }
            seen.diagnosis.clone_from(diagnosis);
            (seen.times, seen.last) = (seen.times.saturating_add(1), now);
            seen.times
        };
        if times == 1 {
            say(route, diagnosis);
        } else if is_power_of_ten(times) {
            tracing::warn!(target: "diagnosis", route = %route, cause = diagnosis.first().cause.code(), times, "still the same");
        }
    }

    /// All causes that are remembered, by route, the latest first.
    pub fn list(&self) -> Vec<(Arc<str>, Seen)> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<(Arc<str>, Seen)> =
            entries.iter().map(|((route, _), seen)| (Arc::clone(route), seen.clone())).collect();
        list.sort_by_key(|(_, seen)| std::cmp::Reverse(seen.last));
        list
    }
}

fn say(route: &str, diagnosis: &Diagnosis) {
    let Finding { cause, evidence } = diagnosis.first();
    let entry = cause.entry();
    let others: Vec<&str> = diagnosis.findings().skip(1).map(|other| other.cause.code()).collect();
    let or = (!others.is_empty()).then(|| others.join(", "));
    tracing::warn!(
        target: "diagnosis", route, cause = entry.code, evidence = evidence.as_deref(), fix = entry.fix, or,
        "{}", entry.is
    );
}

fn is_power_of_ten(mut number: u64) -> bool {
    while number > 1 && number.is_multiple_of(10) {
        number /= 10;
    }
    number == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_cause_is_counted_and_is_news_again_after_an_hour() {
        let (ledger, route) = (Ledger::default(), Arc::from("orders"));
        for second in 0..100 {
            ledger.note(&route, &Diagnosis::of(Cause::NoSuchPath).because(&second.to_string()), at(second));
        }
        ledger.note(&Arc::from("stock"), &Diagnosis::of(Cause::NoSuchPath), at(50));
        let list = ledger.list();
        assert_eq!(list.len(), 2);
        let (name, seen) = &list[0];
        assert_eq!((&**name, seen.times, seen.first, seen.last), ("orders", 100, at(0), at(99)));
        assert_eq!(seen.diagnosis.first().evidence.as_deref(), Some("99"));
        ledger.note(&route, &Diagnosis::of(Cause::NoSuchPath), at(9_999));
        assert_eq!((ledger.list()[0].1.times, ledger.list()[0].1.first), (1, at(9_999)));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let ledger = Ledger::default();
        for number in 0..1_000_u64 {
            ledger.note(&Arc::from(format!("route-{number}")), &Diagnosis::of(Cause::WebAcl), at(number));
        }
        let list = ledger.list();
        assert_eq!((list.len(), &*list[0].0, &*list[255].0), (256, "route-999", "route-744"));
        assert!([1, 10, 1_000].map(is_power_of_ten).into_iter().all(|is| is));
        assert!([0, 2, 20, 101].map(is_power_of_ten).into_iter().all(|is| !is));
    }
}
