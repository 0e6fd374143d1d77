//! The store as this member of the fleet finds it: every call within its limit, every failure said once, then counted.
//!
//! After a failure the store is left alone, so that no fetch waits for it a second time; a task of its own looks for its
//! return, at growing distances. Imports `clock`, `tasks`.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::store::{Store, StoreError};
use crate::auth::status::Chain;
use crate::diagnosis::Diagnosis;
use crate::tasks::Tasks;

/// How long a user name or password may take to be read, which may come from another store: while a token waits for it, and
/// behind that.
const LOGIN_PATIENCE: Duration = Duration::from_secs(2);
const LOGIN_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks for a store that has failed: full jitter over a range that doubles from the first to the last.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const LAST_LOOK: Duration = Duration::from_secs(30);

/// A store, and how it fares.
pub struct TokenCache<T> {
    store: T,
    limit: Duration,
    tasks: Tasks,
    state: Mutex<State>,
    ways: [AtomicU64; Way::ALL.len()],
    invalidations: AtomicU64,
    itself: Weak<Self>,
}

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    errors: BTreeMap<&'static str, u64>,
}

#[derive(Clone)]
struct Fault {
    error: Arc<StoreError>,
    since: Instant,
}

/// How a token came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It stood in the store.
    Found,
    /// Another member fetched it, and it was waited for.
    Waited,
    /// It was fetched for all.
    Fetched,
    /// It was fetched for this member alone: the store failed.
    Alone,
    /// So it was because who had the right to fetch took too long.
    Impatient,
}

/// How the store fares, and what it was good for.
#[derive(Clone, Debug)]
pub struct CacheStatus {
    /// Where it is, in words.
    pub store: String,
    /// Why it is not used, or what was wrong with an entry; `None` while all is well.
    pub fault: Option<Arc<StoreError>>,
    /// How long that has been so.
    pub failing_for: Option<Duration>,
    /// Tokens that were wanted, by how they came.
    pub ways: Vec<(Way, u64)>,
    /// Failed calls, by the code of their cause.
    pub errors: Vec<(&'static str, u64)>,
    /// Entries that this member took out because an API refused their token.
    pub invalidations: u64,
}

impl Way {
    /// All.
    pub const ALL: [Self; 5] = [Self::Found, Self::Waited, Self::Fetched, Self::Alone, Self::Impatient];

    /// For labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Waited => "waited",
            Self::Fetched => "fetched",
            Self::Alone => "alone",
            Self::Impatient => "impatient",
        }
    }
}

impl CacheStatus {
    /// Why it fails, in named causes.
    pub fn diagnosis(&self) -> Option<Diagnosis> {
        self.fault.as_ref().map(|fault| fault.diagnose())
    }

    /// Whether it is left alone because it fails.
    pub fn is_shunned(&self) -> bool {
        self.fault.as_ref().is_some_and(|fault| fault.shuns())
    }

    /// `token cache: failing, tokens are fetched without it`, for anybody.
    pub fn summary(&self) -> String {
        let words = match &self.fault {
            None => "in use",
            Some(fault) if fault.shuns() => "failing, tokens are fetched without it",
            Some(_) => "in use, with an entry that cannot be read",
        };
        format!("token cache: {words}")
    }

    /// [`CacheStatus::summary`], where it is and what is wrong with it; never a secret.
    pub fn describe(&self) -> String {
        let Self { store, fault, .. } = self;
        let summary = format!("{} ({store})", self.summary());
        match fault {
            None => summary,
            Some(fault) => format!("{summary}; last call: {}", Chain(&**fault)),
        }
    }
}

impl<T: Store> TokenCache<T> {
    /// A store whose calls may take `limit`.
    pub fn new(store: T, limit: Duration, tasks: Tasks) -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            store,
            limit,
            tasks,
            state: Mutex::default(),
            ways: Default::default(),
            invalidations: AtomicU64::new(0),
            itself: Weak::clone(itself),
        })
    }

    pub(super) fn store(&self) -> &T {
        &self.store
    }

    /// What the calls of one look at the store may take together: a random part of the limit, so that a fleet whose store
    /// hangs does not go on in one moment.
    pub(super) fn budget(&self) -> Duration {
        self.limit.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// A random moment from now on, no later than the limit behind `begun`.
    pub(super) fn jitter(&self, begun: Instant) -> Instant {
        let now = Instant::now();
        now + (begun + self.limit).saturating_duration_since(now).mul_f64(fastrand::f64())
    }

    /// Whether it is left alone because it failed.
    pub(super) fn is_shunned(&self) -> bool {
        self.state().fault.as_ref().is_some_and(|fault| fault.error.shuns())
    }

    /// Has what a connection needs at hand, which may take its time the first time.
    pub(super) async fn prepare(&self) {
        if self.is_shunned() {
            return;
        }
        let prepared = timeout(LOGIN_PATIENCE, self.store.prepare(false)).await;
        if let Err(error) = prepared.unwrap_or_else(|_elapsed| Err(self.store.slow(LOGIN_PATIENCE))) {
            self.note(error);
        }
    }

    /// What a call comes to until `deadline`; `None` where it failed, which is noted.
    pub(super) async fn call<R>(
        &self,
        deadline: Instant,
        call: impl Future<Output = Result<R, StoreError>>,
    ) -> Option<R> {
        let error = match timeout_at(deadline, call).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => error,
            Err(_elapsed) => {
                // Whatever hangs is not used again.
                self.store.reset();
                self.store.slow(self.limit)
            }
        };
        self.note(error);
        None
    }

    /// Does `work` behind whoever has a token already.
    pub(super) fn behind<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Arc<Self>) -> F) {
        if let Some(itself) = self.itself.upgrade() {
            self.tasks.spawn("token-cache", work(itself));
        }
    }

    /// A deadline for a call that nobody waits for.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.limit
    }

    pub(super) fn count(&self, way: Way) {
        let counter = Way::ALL.iter().zip(&self.ways).find(|(known, _)| **known == way);
        if let Some((_, counter)) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn invalidated(&self) {
        self.invalidations.fetch_add(1, Ordering::Relaxed);
    }

    /// An entry was read or written: garbage that stood there is gone.
    pub(super) fn mended(&self) {
        let mut state = self.state();
        if state.fault.as_ref().is_some_and(|fault| !fault.error.shuns()) {
            state.fault = None;
            drop(state);
            tracing::info!(store = self.store.describe(), "the token cache has a readable entry again");
        }
    }

    /// Says a failure once, and counts it.
    pub(super) fn note(&self, error: StoreError) {
        let code = error.code();
        let error = Arc::new(error);
        let shuns = error.shuns();
        let (is_new, has_watch) = {
            let mut state = self.state();
            *state.errors.entry(code).or_default() += 1;
            let known = state.fault.as_ref().map(|fault| (fault.error.code(), fault.since));
            let has_watch = state.fault.as_ref().is_some_and(|fault| fault.error.shuns());
            if has_watch && !shuns {
                return;
            }
            let since = known.map_or_else(Instant::now, |(_, since)| since);
            state.fault = Some(Fault { error: Arc::clone(&error), since });
            (known.is_none_or(|(before, _)| before != code), has_watch)
        };
        if is_new {
            let likely = error.diagnose().first().cause.entry();
            tracing::warn!(
                store = self.store.describe(), error = %Chain(&*error), cause = likely.code, fix = likely.fix,
                "the token cache fails; tokens are fetched without it until it is back"
            );
        }
        if shuns && !has_watch {
            let itself = Weak::clone(&self.itself);
            self.tasks.spawn("token-cache", Self::watch(itself));
        }
    }

    /// Looks for the store's return.
    async fn watch(itself: Weak<Self>) {
        let mut range = FIRST_LOOK;
        loop {
            sleep(range.mul_f64(0.1 + 0.9 * fastrand::f64())).await;
            range = (range * 2).min(LAST_LOOK);
            let Some(cache) = itself.upgrade() else { return };
            match cache.probe().await {
                Ok(()) => {
                    let failed_for = cache.state().fault.take().map(|fault| fault.since.elapsed());
                    tracing::info!(store = cache.store.describe(), ?failed_for, "the token cache is back");
                    return;
                }
                Err(error) => cache.note(error),
            }
        }
    }

    /// Whether it could be used now.
    ///
    /// # Errors
    /// [`StoreError`]: why it could not.
    pub async fn probe(&self) -> Result<(), StoreError> {
        match timeout(LOGIN_LIMIT, self.store.prepare(true)).await {
            Ok(prepared) => prepared?,
            Err(_elapsed) => return Err(self.store.slow(LOGIN_LIMIT)),
        }
        let outcome = timeout(self.limit, self.store.probe()).await;
        outcome.unwrap_or_else(|_elapsed| {
            self.store.reset();
            Err(self.store.slow(self.limit))
        })
    }

    /// How it fares.
    pub fn status(&self) -> CacheStatus {
        let state = self.state();
        CacheStatus {
            store: self.store.describe(),
            fault: state.fault.as_ref().map(|fault| Arc::clone(&fault.error)),
            failing_for: state.fault.as_ref().map(|fault| fault.since.elapsed()),
            ways: Way::ALL.iter().zip(&self.ways).map(|(way, count)| (*way, count.load(Ordering::Relaxed))).collect(),
            errors: state.errors.iter().map(|(code, count)| (*code, *count)).collect(),
            invalidations: self.invalidations.load(Ordering::Relaxed),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Store> fmt::Debug for TokenCache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").field("store", &self.store.describe()).finish_non_exhaustive()
    }
}
