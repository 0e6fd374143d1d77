//! The last hundred requests, for people who want to know what happened just now.
//!
//! A ring of fixed length: a request that ends moves what it has for its log line into the place of the oldest, under a
//! lock that is held for no longer. Names of fields are kept, values never. Imports `message`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::pace::Verdict;
use crate::message::gateway_ids::GatewayIds;

/// So many are kept.
pub const KEPT: usize = 100;
/// Of a cause's text. It names endpoints and codes, and a library may be wordy.
const LONGEST_CAUSE: usize = 2_048;

/// The last requests; newer ones push out older ones.
#[derive(Debug, Default)]
pub struct History(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Entry>,
    /// Requests that ever came in here: the number of the newest.
    count: u64,
}

/// A request that has ended.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Counted from 1, in the order in which requests end.
    pub number: u64,
    /// When.
    pub ended: Instant,
    /// From its head to the end of its answer.
    pub took: Duration,
    /// The parts of that, in the order of [`super::phases::Phase::ALL`].
    pub phases: [Duration; 5],
    /// Its id in the log.
    pub request_id: HeaderValue,
    /// Unknown if it did not come so far.
    pub method: Option<Method>,
    /// Without the query; empty where the log does not tell it either.
    pub path: String,
    /// Where it went.
    pub route: Option<Arc<str>>,
    /// What the client got.
    pub status: Option<StatusCode>,
    /// How it ended.
    pub outcome: &'static str,
    /// The same in words.
    pub title: &'static str,
    /// Whose fault it was.
    pub fault: Option<&'static str>,
    /// The same for a color.
    pub verdict: Verdict,
    /// Why, as the log has it.
    pub cause: Option<String>,
    /// What is probably behind it and what to do, from whoever looked into it.
    pub hint: Option<String>,
    /// Fields that the credential added.
    pub granted: Names,
    /// How often it was sent to the upstream.
    pub sends: u8,
    /// What it was sent on, the last time.
    pub connection: Option<Connection>,
    /// Body bytes from the client.
    pub received: u64,
    /// And to it.
    pub sent: u64,
    /// What the upstream calls it.
    pub upstream_ids: Option<Box<GatewayIds>>,
}

/// A connection to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Made for this request.
    New,
    /// Kept from an earlier one.
    Kept,
}

impl Connection {
    /// Label and member value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Kept => "kept",
        }
    }
}

/// What a signature adds (docs/aws.md B1), and most tokens.
const USUAL: [&str; 4] = ["authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"];

/// The names of the fields that a credential adds: any of the usual ones and one of another name. In the place of a list,
/// which would be an allocation for each request, and a large thing to carry.
#[derive(Clone, Debug, Default)]
pub struct Names {
    usual: [bool; 4],
    other: Option<Box<HeaderName>>,
}

impl Names {
    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let usual = USUAL.into_iter().zip(self.usual).filter_map(|(name, is_there)| is_there.then_some(name));
        usual.chain(self.other.as_deref().map(HeaderName::as_str))
    }
}

impl<'a> FromIterator<&'a HeaderName> for Names {
    fn from_iter<I: IntoIterator<Item = &'a HeaderName>>(names: I) -> Self {
        let mut kept = Self::default();
        for name in names {
            let mut places = USUAL.into_iter().zip(&mut kept.usual);
            match places.find(|(usual, _)| name == usual) {
                Some((_, is_there)) => *is_there = true,
                None => kept.other = Some(Box::new(name.clone())),
            }
        }
        kept
    }
}

impl History {
    /// A request has ended; `entry` gets its number here.
    pub fn push(&self, mut entry: Entry) {
        if let Some(cause) = entry.cause.as_mut().filter(|cause| cause.len() > LONGEST_CAUSE) {
            cause.truncate(cause.floor_char_boundary(LONGEST_CAUSE));
        }
        let mut ring = self.ring();
        ring.count += 1;
        entry.number = ring.count;
        let oldest = if ring.entries.len() < KEPT { None } else { ring.entries.pop_front() };
        ring.entries.push_back(entry);
        // Freed where nobody waits for it.
        drop(ring);
        drop(oldest);
    }

    /// Those with a number above `after`, oldest first.
    pub fn since(&self, after: u64) -> Vec<Entry> {
        let ring = self.ring();
        let known = ring.entries.partition_point(|entry| entry.number <= after);
        ring.entries.iter().skip(known).cloned().collect()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry {
            number: 0,
            ended: Instant::now(),
            took: Duration::ZERO,
            phases: [Duration::ZERO; 5],
            request_id: HeaderValue::from_static("id"),
            method: Some(Method::GET),
            path: path.to_owned(),
            route: None,
            status: None,
            outcome: "delivered",
            title: "",
            fault: None,
            verdict: Verdict::Fine,
            cause: Some("ä".repeat(5_000)),
            hint: None,
            granted: Names::default(),
            sends: 0,
            connection: None,
            received: 0,
            sent: 0,
            upstream_ids: None,
        }
    }

    #[test]
    fn a_hundred_are_kept_and_each_is_told_once() {
        let history = History::default();
        assert!(history.since(0).is_empty());
        for number in 1..=250 {
            history.push(entry(&number.to_string()));
        }
        let all = history.since(0);
        assert_eq!((all.len(), all[0].number, all[99].number), (KEPT, 151, 250));
        assert!(all.iter().all(|entry| entry.path == entry.number.to_string()));
        assert!(all.iter().all(|entry| entry.cause.as_ref().is_some_and(|cause| cause.len() <= LONGEST_CAUSE)));
        assert_eq!(history.since(248).iter().map(|entry| entry.number).collect::<Vec<_>>(), [249, 250]);
        assert!(history.since(250).is_empty() && history.since(9_999).is_empty());
    }

    #[test]
    fn the_names_of_a_grant_are_kept() {
        for names in [&["authorization", "x-amz-date", "x-amz-security-token"] as &[_], &["x-api-token"], &[]] {
            let fields: Vec<HeaderName> = names.iter().copied().map(HeaderName::from_static).collect();
            let kept: Names = fields.iter().collect();
            assert_eq!(kept.iter().collect::<Vec<_>>(), names);
        }
    }
}
