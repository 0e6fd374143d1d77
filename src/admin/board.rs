//! What there is to be told of the running program, gathered when somebody asks.
//!
//! Imports `auth`, `clock`, `proxy`, `server`, `telemetry`.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::report::{Cause, Credential, Report, Request, Route, TokenCache, Traffic};
use super::time::Stamp;
use super::{FIRST_TRIES, Shown};
use crate::auth::refreshing::Status;
use crate::clock::Moment;
use crate::telemetry::level::Dial;

/// Pages that may be kept up to date at the same time: they must leave connections of the admin port to the probes.
const MOST_WATCHERS: usize = 8;

/// Whom to ask.
#[derive(Debug)]
pub(super) struct Board {
    shown: Shown,
    started: Moment,
    places: Arc<Semaphore>,
}

/// How far a page knows the requests: of which start of the program, and up to which number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    start: u128,
    pub(super) newest: u64,
}

impl Token {
    /// `1763685000123-42`
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (start, newest) = text.split_once('-')?;
        Some(Self { start: start.parse().ok()?, newest: newest.parse().ok()? })
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.start, self.newest)
    }
}

impl Board {
    pub(super) fn new(shown: Shown) -> Self {
        let started = shown.clock.now();
        Self { shown, started, places: Arc::new(Semaphore::new(MOST_WATCHERS)) }
    }

    /// What is shown.
    pub(super) fn shown(&self) -> &Shown {
        &self.shown
    }

    /// Sets the log's level.
    pub(super) fn dial(&self) -> Option<&Dial> {
        self.shown.dial.as_ref()
    }

    /// A place for a page that is kept up to date, while there is one.
    pub(super) fn watch(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// How the credentials fare.
    pub(super) fn statuses(&self) -> Vec<Status> {
        self.shown.credentials.statuses()
    }

    /// Whether no credential is in its first try, or one takes too long.
    pub(super) fn first_tries_are_over(&self, statuses: &[Status]) -> bool {
        let waited = self.shown.clock.now().monotonic.saturating_duration_since(self.started.monotonic);
        statuses.iter().all(|status| status.tried) || waited > FIRST_TRIES
    }

    /// A token that knows requests up to `newest`.
    pub(super) fn token(&self, newest: u64) -> Token {
        let start = self.started.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        Token { start, newest }
    }

    /// The newest request that whoever has `token` knows; none if it is of another start.
    pub(super) fn known(&self, token: Token) -> Option<u64> {
        (token.start == self.token(0).start).then_some(token.newest)
    }

    /// Everything, with the requests behind number `after`.
    pub(super) fn report(&self, after: u64) -> Report {
        let Shown { proxy, clock, drain, standing, .. } = &self.shown;
        let now = clock.now();
        let statuses = self.statuses();
        let state = match (drain.is_leaving(), self.first_tries_are_over(&statuses)) {
            (true, _) => "stopping",
            (false, true) => "ready",
            (false, false) => "starting",
        };
        let (lanes, at) = (proxy.metrics().lanes(), proxy.metrics().at(now.monotonic));
        let unrouted = Traffic::sum(lanes.iter().filter(|lane| lane.route.is_none()), at);
        let entries = proxy.metrics().history().since(after).into_iter().rev();
        Report {
            version: env!("CARGO_PKG_VERSION"),
            now: Stamp(now.wall),
            started: Stamp(self.started.wall),
            state,
            config: standing.report(),
            log_level: self.dial().map(Dial::level),
            total: Traffic::sum(&lanes, at),
            routes: proxy.routes().into_iter().map(|listed| Route::new(listed, &lanes, at)).collect(),
            unrouted: (unrouted.requests > 0).then_some(unrouted),
            credentials: statuses.iter().map(|status| Credential::new(status, now.wall)).collect(),
            causes: proxy.causes().list().iter().map(|(route, seen)| Cause::new(route, seen)).collect(),
            token_cache: self.shown.credentials.cache().as_ref().map(TokenCache::from),
            requests: entries.map(|entry| Request::new(entry, now)).collect(),
        }
    }
}
