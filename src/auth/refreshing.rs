//! The one cache of credentials: fetched by a task of its own, ahead of their end, once for all who wait.
//!
//! The rules are docs/rules.md 3.6, 3.7. A credential is fetched again at a random point in 65 to 80 % of its life, so
//! that a fleet that started together does not come back together. While a refresh fails, what is still valid is used.
//! After a failure nobody asks again until a hold-off has passed; everybody who comes meanwhile gets the same answer.
//! The SDK's own cache does none of this (docs/aws.md F2). Imports `clock`, `sync`, `tasks`.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::error::{FetchError, Permanence};
pub use super::status::{About, Chain, Status};
use crate::clock::{Clock, Expiry, Moment};
use crate::sync::{ArcSwap, AtomicU64, Notify, Ordering, sleep_until, timeout, timeout_at, watch};
use crate::tasks::Tasks;

/// How long a request waits for a credential (docs/rules.md 3.1).
const CREDENTIAL_WAIT: Duration = Duration::from_secs(5);
/// Below this much life a caller waits for a fresh one: it must still be valid when the upstream reads it. Of a life that
/// is itself short it is a fifth, which begins where the refresh is under way already; with 5 s of a life of 5 s every
/// caller would wait and every answer would be asked for anew.
const NEAR_END: Duration = Duration::from_secs(5);
/// One try: three of an AWS source's own, of 2 s connect and 5 s read at most.
const FETCH_LIMIT: Duration = Duration::from_secs(15);
/// Between tries once the answer was a refusal: a person has to act first.
const PERMANENT_HOLD_OFF: Duration = Duration::from_mins(1);
/// After a refusal that counts against a lockout: a user pool's own counter doubles from five failures on and ends at
/// about 15 min (docs/aws.md D4). Tries this far apart never run into it, and leave a person room to log in.
const COUNTED_HOLD_OFF: Duration = Duration::from_mins(5);
const LONGEST_COUNTED_HOLD_OFF: Duration = Duration::from_mins(15);
/// Longest pause between tries while an old credential is still valid.
const LONGEST_BACK_OFF: Duration = Duration::from_mins(1);
/// Longest pause while requests are failing, so that the end of an outage is noticed within 5 s.
const LONGEST_BACK_OFF_WITHOUT: Duration = Duration::from_secs(5);
/// No try comes sooner than this after another, however it ended: a source may give lives of milliseconds.
const SHORTEST_BACK_OFF: Duration = Duration::from_secs(1);
/// A Retry-After beyond this is not believed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(10);
/// The part of a life in which it is fetched again (docs/rules.md 3.7): what is left behind it is the outage ridden out.
const EARLIEST_POINT: f64 = 0.65;
pub(super) const LATEST_POINT: f64 = 0.80;
/// Between two refreshes that refusals by the upstream ask for.
const FORCED_REFRESH_FLOOR: Duration = Duration::from_secs(10);
/// Between tries while expired AWS credentials are used on; up to twice this (docs/rules.md 3.6: 5 to 10 min).
const USED_ON_PAUSE: Duration = Duration::from_mins(5);
/// How long it may take to see whether a secret has changed.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// How often the wall clock is looked at, in case it was set.
const WALL_CHECK: Duration = Duration::from_secs(30);

/// Where a kind of credential comes from.
pub trait Source: Send + Sync + 'static {
    /// The credential.
    type Value: Clone + Send + Sync + 'static;
    /// What to do with one that has expired while no other can be had.
    const WHEN_EXPIRED: WhenExpired;
    /// Gets a fresh one. Called by one task at a time.
    fn fetch(&self, now: Moment) -> impl Future<Output = Result<Fetched<Self::Value>, FetchError>> + Send;
    /// What kind of credential it is and whose, in a few words without secrets.
    fn describe(&self) -> String;

    /// How often to ask [`Source::has_changed`]; `None` where nothing that it reads can change.
    fn pause(&self) -> Option<Duration> {
        None
    }

    /// Whether a secret or file that the last fetch read is another by now, so that a fetch may end otherwise.
    fn has_changed(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }

    /// An upstream refused this one, which was fetched here last.
    fn refused(&self, _value: &Self::Value) {}

    /// Whose it is, where that takes a call of its own to find out; `None` where it does not, or is not told.
    fn owner(&self, _value: &Self::Value) -> impl Future<Output = Option<String>> + Send {
        std::future::ready(None)
    }
}

/// What to do with an expired credential while no other can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenExpired {
    /// A token known dead is never sent.
    Refuse,
    /// AWS credentials are used on: the rule that the AWS SDKs share, since services may extend them in an outage.
    UseOn,
}

/// A fresh credential.
#[derive(Clone, Debug)]
pub struct Fetched<V> {
    /// The credential.
    pub value: V,
    /// Its end; `None` for keys that have none.
    pub expiry: Option<Expiry>,
    /// What may be shown of it.
    pub about: About,
    /// The whole of its life, where another has fetched it and a part of that is over.
    pub life: Option<Duration>,
}

impl<V> Fetched<V> {
    /// A credential of which nothing more is known.
    pub fn new(value: V, expiry: Option<Expiry>) -> Self {
        Self { value, expiry, about: About::default(), life: None }
    }
}

/// A credential lent to one request.
#[derive(Clone, Debug)]
pub struct Lease<V> {
    /// The credential.
    pub value: V,
    /// Which fetch it came from, for [`Refreshing::reject`].
    pub generation: u64,
}

/// No credential can be lent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no valid credential")]
pub struct Unavailable {
    /// Why the last try failed; `None` while the first is under way.
    #[source]
    pub cause: Option<Arc<FetchError>>,
    /// When the next try may have succeeded.
    pub retry_after: Duration,
}

/// A credential that stays fresh.
pub struct Refreshing<S: Source> {
    /// What logs and metrics call it: a reload may rename what it keeps.
    name: ArcSwap<Arc<str>>,
    source: S,
    clock: Clock,
    state: ArcSwap<State<S::Value>>,
    /// Wakes the task, which holds no other part of this between fetches.
    demand: Arc<Notify>,
    /// Counts tries that have ended; wakes those who wait.
    tries: watch::Sender<u64>,
    fetched: AtomicU64,
    failed: AtomicU64,
}

struct State<V> {
    held: Option<Held<V>>,
    failure: Option<Failure>,
}

#[derive(Clone)]
struct Held<V> {
    lease: Lease<V>,
    expiry: Option<Expiry>,
    about: About,
    life: Option<Duration>,
    fetched_at: Instant,
    /// It is fetched again when this much is left, by either clock.
    reserve: Duration,
    /// Callers wait for a fresh one when this much is left.
    near_end: Duration,
    /// It is fetched again at this time at the latest: the upstream refused it.
    forced: Option<Instant>,
}

#[derive(Clone)]
struct Failure {
    cause: Arc<FetchError>,
    at: Instant,
    retry_at: Instant,
    in_a_row: u32,
}

impl<S: Source> Refreshing<S> {
    /// Starts the task that keeps the credential fresh; the first fetch begins at once. Dropping the last handle ends it.
    pub fn start(name: Arc<str>, source: S, clock: Clock, tasks: &Tasks) -> Arc<Self> {
        let credential = Arc::new(Self {
            name: ArcSwap::from_pointee(name),
            source,
            clock,
            state: ArcSwap::from_pointee(State { held: None, failure: None }),
            demand: Arc::default(),
            tries: watch::Sender::new(0),
            fetched: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        tasks.spawn("credential", Self::keep_fresh(Arc::downgrade(&credential), Arc::clone(&credential.demand)));
        credential
    }

    /// Where it comes from.
    pub(super) fn source(&self) -> &S {
        &self.source
    }

    /// Calls it `name` from now on.
    pub(super) fn rename(&self, name: Arc<str>) {
        self.name.store(Arc::new(name));
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name.load())
    }

    /// A credential that is valid now, from memory in all but the first moments and outages.
    ///
    /// # Errors
    /// [`Unavailable`]: at once during a hold-off, else after 5 s.
    ///
    /// # Cancellation
    /// Safe: the fetch goes on for the others.
    pub async fn get(&self) -> Result<Lease<S::Value>, Unavailable> {
        self.get_within(CREDENTIAL_WAIT).await
    }

    /// The same with another limit on the wait.
    ///
    /// # Errors
    /// [`Unavailable`]: at once during a hold-off, else after `limit`.
    ///
    /// # Cancellation
    /// As [`Refreshing::get`].
    pub async fn get_within(&self, limit: Duration) -> Result<Lease<S::Value>, Unavailable> {
        let now = self.clock.now();
        if let Some(held) = &self.state.load().held
            && !held.is_near_end(now)
        {
            return Ok(held.lease.clone());
        }
        self.wait(now.monotonic + limit).await
    }

    /// Which credential would be lent now; `None` where one would have to be waited for.
    pub fn generation(&self) -> Option<u64> {
        let state = self.state.load();
        state.held.as_ref().filter(|held| !held.is_near_end(self.clock.now())).map(|held| held.lease.generation)
    }

    /// The upstream refused this credential: it is fetched again soon, but not because of each of many refusals.
    pub fn reject(&self, generation: u64) {
        let now = self.clock.now();
        if let Some(held) = &self.state.load().held
            && held.lease.generation == generation
        {
            self.source.refused(&held.lease.value);
        }
        self.state.rcu(|state| {
            let held = state.held.clone().map(|mut held| {
                if held.lease.generation == generation {
                    let forced = held.forcible_at().max(now.monotonic);
                    held.forced = Some(held.forced.map_or(forced, |earlier| earlier.min(forced)));
                }
                held
            });
            let mut failure = state.failure.clone();
            if let Some(failure) = failure.as_mut().filter(|_| state.is_used_on(now)) {
                // The API does not take what has expired, so the long pause of an outage is over.
                failure.hasten((failure.at + FORCED_REFRESH_FLOOR).max(now.monotonic));
            }
            Arc::new(State { held, failure })
        });
        self.demand.notify_one();
    }

    /// What it reads has changed, so a hold-off means nothing any more.
    fn look_again(&self) {
        let now = self.clock.now().monotonic;
        tracing::info!(credential = %self.name(), "what it is made from has changed; fetching it again");
        self.state.rcu(|state| {
            let mut state = State { held: state.held.clone(), failure: state.failure.clone() };
            if let Some(held) = state.held.as_mut().filter(|held| held.expiry.is_none()) {
                held.forced = Some(now);
            }
            if let Some(failure) = &mut state.failure {
                failure.retry_at = failure.retry_at.min(now.max(failure.asked_until()));
            }
            state
        });
    }

    /// [`Refreshing::reject`], and waits for what comes of it: true once a newer one is held. False at once when the
    /// refused one was fetched just now, so that another would fare no better, or when a hold-off is on.
    ///
    /// # Cancellation
    /// Safe: the fetch goes on for the others.
    pub async fn renew(&self, generation: u64) -> bool {
        self.reject(generation);
        let now = self.clock.now();
        let deadline = now.monotonic + CREDENTIAL_WAIT;
        let mut tries = self.tries.subscribe();
        loop {
            let now = self.clock.now();
            let state = self.state.load_full();
            let Some(held) = &state.held else { return false };
            if held.lease.generation > generation {
                return true;
            }
            let holding_off = state.failure.as_ref().is_some_and(|failure| failure.retry_at > now.monotonic);
            let too_new = held.forcible_at() > now.monotonic;
            if holding_off || too_new || timeout_at(deadline, tries.changed()).await.is_err() {
                return false;
            }
        }
    }

    /// How the credential fares.
    pub fn status(&self) -> Status {
        let now = self.clock.now();
        let state = self.state.load();
        let fetched = self.fetched.load(Ordering::Relaxed);
        let failed = self.failed.load(Ordering::Relaxed);
        Status {
            name: self.name(),
            kind: self.source.describe(),
            about: state.held.as_ref().map(|held| held.about.clone()).unwrap_or_default(),
            life: state.held.as_ref().and_then(|held| held.life),
            usable: state.held.as_ref().is_some_and(|held| held.may_be_used::<S>(now)),
            tried: fetched + failed > 0,
            expires: state.held.as_ref().and_then(|held| held.expiry).map(Expiry::wall),
            age: state.held.as_ref().map(|held| now.monotonic.saturating_duration_since(held.fetched_at)),
            retry_in: state.failure.as_ref().map(|failure| failure.retry_at.saturating_duration_since(now.monotonic)),
            failure: state.failure.as_ref().map(|failure| Arc::clone(&failure.cause)),
            fetched,
            failed,
        }
    }

    /// Whose it is, for `check --online`: what it says itself, or what the source finds out.
    pub async fn owner(&self) -> Option<String> {
        let value =
            self.state.load().held.as_ref().map(|held| (held.about.principal.clone(), held.lease.value.clone()));
        match value? {
            (Some(principal), _) => Some(principal),
            (None, value) => self.source.owner(&value).await,
        }
    }

    /// Returns once a first try has ended, well or not.
    pub async fn tried(&self) {
        let mut tries = self.tries.subscribe();
        // The sender lives as long as `self`.
        let _alive = tries.wait_for(|tries| *tries > 0).await;
    }

    async fn wait(&self, deadline: Instant) -> Result<Lease<S::Value>, Unavailable> {
        let mut tries = self.tries.subscribe();
        let mut patience = None;
        loop {
            let now = self.clock.now();
            let state = self.state.load_full();
            let held = state.held.as_ref().filter(|held| held.may_be_used::<S>(now));
            if let Some(held) = held
                && !held.is_near_end(now)
            {
                return Ok(held.lease.clone());
            }
            let holding_off = state.failure.as_ref().is_some_and(|failure| failure.retry_at > now.monotonic);
            if !holding_off {
                self.demand.notify_one();
                // One that still lives is lent while half of what is left of it is there, and not after its end.
                let left = held.and_then(|held| held.left(now)).filter(|left| !left.is_zero());
                let until = *patience
                    .get_or_insert_with(|| left.map_or(deadline, |left| deadline.min(now.monotonic + left / 2)));
                // A wall clock that is set back makes valid again what is held, and then no try ends.
                let look = now.monotonic + SHORTEST_BACK_OFF;
                if timeout_at(until.min(look), tries.changed()).await.is_ok() {
                    patience = None;
                    continue;
                }
                if look < until {
                    continue;
                }
            }
            let now = self.clock.now();
            let held = held.filter(|held| held.may_be_used::<S>(now));
            let failure = state.failure.as_ref();
            return held.map(|held| held.lease.clone()).ok_or_else(|| Unavailable {
                cause: failure.map(|failure| Arc::clone(&failure.cause)),
                retry_after: failure
                    .map(|failure| failure.retry_at.saturating_duration_since(now.monotonic))
                    .unwrap_or_default()
                    // A try is under way: a caller that came back at once would only wait for it again.
                    .max(SHORTEST_BACK_OFF),
            });
        }
    }

    async fn keep_fresh(credential: Weak<Self>, demand: Arc<Notify>) {
        let mut generation = 0;
        let mut looked = Instant::now();
        while let Some(credential) = credential.upgrade() {
            let (due, look) = {
                let state = credential.state.load();
                let pause = credential.source.pause().filter(|_| state.depends_on_changes());
                (state.due(credential.clock.now()), pause.map(|pause| looked + pause))
            };
            // Asked last: "at once" means the moment at which the state was looked at.
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                generation += 1;
                credential.refresh(generation).await;
                looked = Instant::now();
            } else if look.is_some_and(|look| look <= now) {
                if timeout(LOOK_LIMIT, credential.source.has_changed()).await == Ok(true) {
                    credential.look_again();
                }
                looked = Instant::now();
            } else {
                let wake = due.into_iter().chain(look).fold(now + WALL_CHECK, Instant::min);
                // Whoever drops the last handle meanwhile wakes this task for its end.
                drop(credential);
                tokio::select! {
                    () = sleep_until(wake) => {}
                    () = demand.notified() => {}
                }
            }
        }
    }

    async fn refresh(&self, generation: u64) {
        let before = self.clock.now();
        let outcome = timeout(FETCH_LIMIT, self.source.fetch(before)).await;
        let now = self.clock.now();
        let outcome = outcome
            .unwrap_or_else(|_elapsed| {
                Err(FetchError::TimedOut { endpoint: self.source.describe(), limit: FETCH_LIMIT })
            })
            .and_then(|fetched| match fetched.expiry.map(|expiry| expiry.left(now)) {
                Some(Duration::ZERO) => Err(FetchError::Malformed {
                    endpoint: self.source.describe(),
                    problem: "the credential has already expired; is this machine's clock right?".into(),
                }),
                _ => Ok(fetched),
            });
        match outcome {
            Ok(fetched) => self.accept(fetched, generation, now),
            Err(error) => self.hold_off(error, now),
        }
        self.tries.send_modify(|tries| *tries += 1);
    }

    fn accept(&self, fetched: Fetched<S::Value>, generation: u64, now: Moment) {
        let left = fetched.expiry.map(|expiry| expiry.left(now));
        // All members of a fleet count from the same moment: their refreshes are spread over the life of one token.
        let life = left.map(|left| fetched.life.unwrap_or(left).max(left));
        let behind = life.unwrap_or_default().saturating_sub(left.unwrap_or_default());
        let recovered = self.state.load().failure.is_some();
        self.state.store(Arc::new(State {
            held: Some(Held {
                lease: Lease { value: fetched.value, generation },
                expiry: fetched.expiry,
                about: fetched.about,
                life,
                fetched_at: now.monotonic.checked_sub(behind).unwrap_or(now.monotonic),
                reserve: life.unwrap_or_default().mul_f64(1.0 - refresh_point()),
                near_end: NEAR_END.min(life.unwrap_or_default() / 5),
                forced: None,
            }),
            failure: None,
        }));
        self.fetched.fetch_add(1, Ordering::Relaxed);
        if recovered || generation == 1 {
            tracing::info!(credential = %self.name(), ?life, "credential obtained");
        } else {
            tracing::debug!(credential = %self.name(), ?life, "credential refreshed");
        }
    }

    fn hold_off(&self, error: FetchError, now: Moment) {
        let old = self.state.load_full();
        let in_a_row = old.failure.as_ref().map_or(0, |failure| failure.in_a_row) + 1;
        let longest = match old.held.as_ref().map(|held| held.left(now)) {
            Some(None) => LONGEST_BACK_OFF,
            Some(Some(left)) if !left.is_zero() => LONGEST_BACK_OFF.min(left / 4),
            Some(Some(_)) | None => LONGEST_BACK_OFF_WITHOUT,
        };
        let mut pause = back_off(&error, in_a_row, longest);
        if old.is_used_on(now) && S::WHEN_EXPIRED == WhenExpired::UseOn && error.permanence() == Permanence::Passing {
            // Until the API refuses them, what has expired is as good as fresh; the SDKs share this pause.
            pause = pause.max(USED_ON_PAUSE.mul_f64(1.0 + fastrand::f64()));
        }
        let cause = Arc::new(error);
        let chain = Chain(&*cause);
        let likely = cause.diagnose().first().cause.entry();
        if let Some(old) = old.held.as_ref().filter(|held| held.may_be_used::<S>(now)) {
            let left = old.left(now);
            tracing::warn!(
                credential = %self.name(), error = %chain, cause = likely.code, fix = likely.fix, still_valid_for = ?left,
                next_try_in = ?pause, "credential not refreshed"
            );
        } else {
            tracing::error!(
                credential = %self.name(), error = %chain, cause = likely.code, fix = likely.fix, next_try_in = ?pause,
                "no credential"
            );
        }
        let failure = Failure { cause, at: now.monotonic, retry_at: now.monotonic + pause, in_a_row };
        // Not a plain store: a refusal by the upstream may be noted meanwhile.
        self.state.rcu(|state| State { held: state.held.clone(), failure: Some(failure.clone()) });
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

impl<S: Source> Drop for Refreshing<S> {
    fn drop(&mut self) {
        self.demand.notify_one();
    }
}

impl<S: Source> fmt::Debug for Refreshing<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refreshing").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl Failure {
    /// Has the next try at `at`, unless it is sooner anyway, or who was asked said when, or a person must act first.
    fn hasten(&mut self, at: Instant) {
        if self.cause.permanence() == Permanence::Passing {
            self.retry_at = self.retry_at.min(at.max(self.asked_until()));
        }
    }

    /// Until when whoever was asked wants to be left alone.
    fn asked_until(&self) -> Instant {
        self.at + self.cause.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER)
    }
}

impl<V> State<V> {
    /// Whether what is held has expired.
    fn is_used_on(&self, now: Moment) -> bool {
        self.held.as_ref().and_then(|held| held.left(now)) == Some(Duration::ZERO)
    }

    /// Whether only a change of what it is made from brings another: it has no end, or cannot be had.
    fn depends_on_changes(&self) -> bool {
        self.failure.is_some() || self.held.as_ref().is_some_and(|held| held.expiry.is_none())
    }

    /// When the next fetch is due; `None` when there is nothing to refresh.
    fn due(&self, now: Moment) -> Option<Instant> {
        let wanted = match &self.held {
            None => now.monotonic,
            Some(held) => held.refresh_at(now)?,
        };
        Some(self.failure.as_ref().map_or(wanted, |failure| wanted.max(failure.retry_at)))
    }
}

impl<V> Held<V> {
    fn left(&self, now: Moment) -> Option<Duration> {
        self.expiry.map(|expiry| expiry.left(now))
    }

    fn is_near_end(&self, now: Moment) -> bool {
        self.left(now).is_some_and(|left| left <= self.near_end)
    }

    /// A refusal by the upstream does not have it fetched again before this.
    fn forcible_at(&self) -> Instant {
        self.fetched_at + FORCED_REFRESH_FLOOR
    }

    /// When a fresh one is wanted, as the clocks stand now: a wall clock that jumps brings it nearer.
    fn refresh_at(&self, now: Moment) -> Option<Instant> {
        let planned = self.left(now).map(|left| now.monotonic + left.saturating_sub(self.reserve));
        let wanted = planned.into_iter().chain(self.forced).min()?;
        Some(wanted.max(self.fetched_at + SHORTEST_BACK_OFF))
    }

    fn may_be_used<S: Source>(&self, now: Moment) -> bool {
        S::WHEN_EXPIRED == WhenExpired::UseOn || self.left(now).is_none_or(|left| !left.is_zero())
    }
}

/// A random point in the part of a life in which it is fetched again.
fn refresh_point() -> f64 {
    EARLIEST_POINT + (LATEST_POINT - EARLIEST_POINT) * fastrand::f64()
}

/// How long nobody asks again: full jitter over a doubling range, up to `longest`.
fn back_off(error: &FetchError, in_a_row: u32, longest: Duration) -> Duration {
    let asked = error.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
    let pause = match error.permanence() {
        Permanence::Permanent => PERMANENT_HOLD_OFF,
        Permanence::Counted => {
            COUNTED_HOLD_OFF.saturating_mul(1 << (in_a_row - 1).min(4)).min(LONGEST_COUNTED_HOLD_OFF)
        }
        Permanence::Passing => {
            let range = SHORTEST_BACK_OFF.saturating_mul(1_u32 << in_a_row.min(10)).min(longest);
            range.mul_f64(fastrand::f64()).max(SHORTEST_BACK_OFF)
        }
    };
    pause.max(asked)
}

#[cfg(test)]
mod fleet;
#[cfg(test)]
mod tests;
