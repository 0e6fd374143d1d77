//! One token for a fleet: the client-credentials source, with a store in front of it that all members share.
//!
//! Stands between a member's own cache, which requests are served from, and the token endpoint; so the store is asked once
//! in the life of a token, and never by a request. A member that wants a token looks into the store first. Where there is none
//! that is newer than its own, one member takes the lease and fetches for all, and the others wait for its entry; the lease
//! of a member that dies ends by itself. Whatever goes wrong with the store, a member fetches by itself, as it would without
//! one, and nothing that stands in the store can keep it from that for long. Imports `clock`, `secret`.

pub mod cache;
pub mod nodes;
mod sealing;
pub mod store;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, sleep_until};

pub use self::cache::{CacheStatus, TokenCache, Way};
pub use self::nodes::{Layout, Nodes, Settings, Transport};
use self::sealing::{Entry, Garbage, Keys};
use self::store::{Held, Lease, Sealed, Store, StoreError, Taken};
use super::error::FetchError;
use super::refreshing::{Fetched, Source, WhenExpired};
use super::spec::ClientCredentials;
use super::status::About;
use crate::clock::{Clock, Expiry, Moment};
use crate::secret::Secret;

/// How long a holder of the lease may be silent before another takes its place: requests wait 5 s for a first token, so
/// there must be time for the next one to fetch.
const LEASE_LIFE: Duration = Duration::from_millis(2500);
const LEASE_BEAT: Duration = Duration::from_millis(500);
/// Between two looks for the entry that another fetches, at first and in the end; half to one and a half of it.
const FIRST_POLL: Duration = Duration::from_millis(100);
const LAST_POLL: Duration = Duration::from_millis(500);
/// How long a member without a good token waits for another's: long enough for one holder to die and the next to fetch, and
/// short enough to ask by itself within the 5 s of a request.
const PATIENCE_WITHOUT: [f64; 2] = [3.5, 4.2];
/// The same with a token that is good for long: its one fetch of 15 s must still hold an own call of 5 s.
const PATIENCE_WITH: [f64; 2] = [7.0, 9.5];
/// A token with less than this part of its life left is one that a member does not wait on others for.
const LAST_PART: u32 = 10;
/// After a failed fetch nobody asks for this long: the endpoint's own word, within bounds that leave a fleet of any size one
/// try in each back-off of a member without a token.
const SHORTEST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(5);
/// Entries that change under a member's eyes are looked at so often.
const MOST_LOOKS: usize = 4;

/// Who fetches tokens that may be shared: whoever has the same settings and secret may have the same token.
pub trait Issuer: Source<Value = Secret> {
    /// The client.
    fn client(&self) -> &ClientCredentials;

    /// Its secret as it is now.
    fn secret(&self) -> impl Future<Output = Result<Secret, FetchError>> + Send;

    /// A token for who has `secret`, or what took its place meanwhile; that is told, too.
    fn ask(
        &self,
        secret: Secret,
        now: Moment,
    ) -> impl Future<Output = (Secret, Result<Fetched<Secret>, FetchError>)> + Send;
}

/// A source whose tokens come from a shared store where they can.
pub struct Shared<S, T = Nodes> {
    own: S,
    clock: Clock,
    /// A reload may bring another, or none.
    cache: Mutex<Option<Arc<TokenCache<T>>>>,
    memory: Mutex<Memory>,
}

/// What this member knows of the tokens that it had.
#[derive(Default)]
struct Memory {
    token: Option<Secret>,
    ends: Option<Expiry>,
    life: Duration,
    /// Of the token; older entries are not taken, whoever put them back.
    generation: u64,
    /// The newest that was ever read.
    seen: u64,
    /// Entries up to this one have a token that an API refused.
    refused: u64,
}

/// What came of looking for a token.
enum Sought {
    Found(Fetched<Secret>),
    /// It is for us to fetch, under this fence.
    Ours(String),
    /// Another has just failed to.
    Resting,
    Alone(Way),
}

enum Step {
    Found(Fetched<Secret>),
    Ours,
    Wait(Held),
    Failed,
}

impl<S: Issuer, T: Store> Shared<S, T> {
    /// Tokens of `own`, shared through `cache` if there is one.
    pub fn new(own: S, cache: Option<Arc<TokenCache<T>>>, clock: Clock) -> Self {
        Self { own, clock, cache: Mutex::new(cache), memory: Mutex::default() }
    }

    /// Shares through `cache` from the next fetch on.
    pub(super) fn share_through(&self, cache: Option<Arc<TokenCache<T>>>) {
        *self.cache.lock().unwrap_or_else(PoisonError::into_inner) = cache;
    }

    fn cache(&self) -> Option<Arc<TokenCache<T>>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn seek(&self, cache: &TokenCache<T>, keys: &Keys) -> Sought {
        if cache.is_shunned() {
            return Sought::Alone(Way::Alone);
        }
        let mut begun = Instant::now();
        let hurries = self.memory().hurries(self.clock.now());
        let [least, most] = if hurries { PATIENCE_WITHOUT } else { PATIENCE_WITH };
        let patience = begun + Duration::from_secs_f64(least + (most - least) * fastrand::f64());
        let (mut way, mut poll) = (Way::Found, FIRST_POLL);
        let fence = format!("l{:032x}", fastrand::u128(..));
        loop {
            match self.step(cache, keys, &fence, begun + cache.budget()).await {
                Step::Found(fetched) => {
                    cache.count(way);
                    return Sought::Found(fetched);
                }
                Step::Ours => return Sought::Ours(fence),
                Step::Failed => {
                    sleep_until(cache.jitter(begun)).await;
                    return Sought::Alone(Way::Alone);
                }
                // What is in the store cannot keep a member from its token: in the end it asks by itself.
                Step::Wait(Held::Resting) if !hurries => return Sought::Resting,
                Step::Wait(_) if Instant::now() >= patience => return Sought::Alone(Way::Impatient),
                Step::Wait(_) => {}
            }
            sleep(poll.mul_f64(0.5 + fastrand::f64())).await;
            (way, poll, begun) = (Way::Waited, poll.mul_f64(1.5).min(LAST_POLL), Instant::now());
        }
    }

    /// Looks once, and takes the lease if nothing good is there.
    async fn step(&self, cache: &TokenCache<T>, keys: &Keys, fence: &str, deadline: Instant) -> Step {
        let (store, slot) = (cache.store(), keys.name());
        for _ in 0..MOST_LOOKS {
            let Some(looked) = cache.call(deadline, store.look(slot)).await else { return Step::Failed };
            let mut seen = looked.sealed;
            if !seen.is_empty() {
                match keys.open(&seen) {
                    Err(Garbage) => cache.note(StoreError::Garbage),
                    Ok(entry) => {
                        cache.mended();
                        if let Some(fetched) = self.accept(&entry, looked.left) {
                            return Step::Found(fetched);
                        }
                        if self.memory().is_refused(&entry) {
                            let Some(is_ours) = cache.call(deadline, store.discard(slot, &seen)).await else {
                                return Step::Failed;
                            };
                            if !is_ours {
                                continue;
                            }
                            cache.invalidated();
                            seen.clear();
                        }
                    }
                }
            }
            if looked.lease != Held::Free {
                return Step::Wait(looked.lease);
            }
            let lease = Lease { fence, life: LEASE_LIFE };
            match cache.call(deadline, store.take(slot, &seen, lease)).await {
                None => return Step::Failed,
                Some(Taken::Ours) => return Step::Ours,
                Some(Taken::Others) => return Step::Wait(Held::Fetching),
                Some(Taken::Changed) => {}
            }
        }
        Step::Wait(Held::Fetching)
    }

    /// The token of `entry`, if it is newer than ours, and lives.
    fn accept(&self, entry: &Entry, left: Option<Duration>) -> Option<Fetched<Secret>> {
        let now = self.clock.now();
        let mut memory = self.memory();
        memory.seen = memory.seen.max(entry.generation);
        if entry.generation <= memory.generation || memory.is_refused(entry) {
            return None;
        }
        // By the clock of who fetched it and by that of the store, whichever leaves less: no clock here or there is trusted alone.
        let by_wall = entry.expires.duration_since(now.wall).unwrap_or_default();
        let left = by_wall.min(left.unwrap_or(by_wall)).min(entry.life);
        if left.is_zero() {
            return None;
        }
        let expiry = Expiry::after(now, left);
        memory.keep(&entry.token, expiry, entry.life, entry.generation);
        let about = About { principal: Some(self.own.client().client_id.clone()), scopes: entry.scopes.clone() };
        Some(Fetched { value: entry.token.clone(), expiry: Some(expiry), about, life: Some(entry.life) })
    }

    /// Fetches for all who wait, and says that it lives while it does.
    async fn ask_for_all(
        &self,
        cache: &Arc<TokenCache<T>>,
        (keys, secret): (Keys, Secret),
        fence: String,
    ) -> Result<Fetched<Secret>, FetchError> {
        let beat = async {
            loop {
                sleep(LEASE_BEAT).await;
                let lease = Lease { fence: &fence, life: LEASE_LIFE };
                if cache.call(cache.deadline(), cache.store().extend(keys.name(), lease)).await != Some(true) {
                    // Lost, and so somebody else's matter.
                    return std::future::pending::<Infallible>().await;
                }
            }
        };
        let (used, outcome) = tokio::select! {
            asked = self.own.ask(secret.clone(), self.clock.now()) => asked,
            never = beat => match never {},
        };
        match outcome {
            Ok(fetched) if used == secret => {
                cache.count(Way::Fetched);
                let entry = self.remember(&fetched).and_then(|entry| Some((keys.seal(&entry)?, entry)));
                cache.behind(async move |cache| {
                    let Some((bytes, entry)) = entry else { return };
                    let entry = Sealed { bytes: &bytes, life: entry.life };
                    if cache.call(cache.deadline(), cache.store().publish(keys.name(), &fence, entry)).await
                        == Some(true)
                    {
                        cache.mended();
                    }
                });
                Ok(fetched)
            }
            outcome => {
                // It is another client's by now, or nobody's: the lease of this one is of no use.
                let asked = outcome.as_ref().err().and_then(FetchError::retry_after).unwrap_or_default();
                let pause = asked.clamp(SHORTEST_REST, LONGEST_REST);
                cache.behind(async move |cache| {
                    let _rested = cache.call(cache.deadline(), cache.store().rest(keys.name(), &fence, pause)).await;
                });
                if let Ok(fetched) = &outcome {
                    cache.count(Way::Fetched);
                    self.offer(cache, Keys::derive(self.own.client(), &used), fetched);
                }
                outcome
            }
        }
    }

    /// Fetches without a lease. Where the store is in order the token is put there, if there is none.
    async fn ask_alone(
        &self,
        cache: &Arc<TokenCache<T>>,
        secret: Secret,
        way: Way,
    ) -> Result<Fetched<Secret>, FetchError> {
        let (used, outcome) = self.own.ask(secret, self.clock.now()).await;
        let fetched = outcome?;
        cache.count(way);
        if way == Way::Impatient {
            self.offer(cache, Keys::derive(self.own.client(), &used), &fetched);
        } else {
            self.remember(&fetched);
        }
        Ok(fetched)
    }

    fn offer(&self, cache: &Arc<TokenCache<T>>, keys: Option<Keys>, fetched: &Fetched<Secret>) {
        let entry = self.remember(fetched);
        cache.behind(async move |cache| {
            let (Some(keys), Some(entry)) = (keys, entry) else { return };
            let Some(bytes) = keys.seal(&entry) else { return };
            let entry = Sealed { bytes: &bytes, life: entry.life };
            let _offered = cache.call(cache.deadline(), cache.store().offer(keys.name(), entry)).await;
        });
    }

    /// Gives a token its generation: the milliseconds since 1970, or one more than the newest known, whichever is later. So
    /// it grows, though the store may forget and clocks differ.
    fn remember(&self, fetched: &Fetched<Secret>) -> Option<Entry> {
        let now = self.clock.now();
        let expiry = fetched.expiry?;
        let life = expiry.left(now);
        let millis = now.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut memory = self.memory();
        let newest = memory.generation.max(memory.seen);
        let generation = u64::try_from(millis).unwrap_or(u64::MAX).max(newest.saturating_add(1));
        memory.keep(&fetched.value, expiry, life, generation);
        let (token, scopes) = (fetched.value.clone(), fetched.about.scopes.clone());
        (!life.is_zero()).then(|| Entry { token, expires: expiry.wall(), life, generation, scopes })
    }

    fn another_failed(&self) -> FetchError {
        FetchError::AnotherFailed { asked_for: self.own.describe() }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn keep(&mut self, token: &Secret, ends: Expiry, life: Duration, generation: u64) {
        (self.token, self.ends, self.life, self.generation) = (Some(token.clone()), Some(ends), life, generation);
        self.seen = self.seen.max(generation);
    }

    fn is_refused(&self, entry: &Entry) -> bool {
        entry.generation <= self.refused
    }

    /// Whether requests may soon be without a token.
    fn hurries(&self, now: Moment) -> bool {
        self.refused >= self.generation || self.ends.is_none_or(|ends| ends.left(now) <= self.life / LAST_PART)
    }
}

impl<S: Issuer, T: Store> fmt::Debug for Shared<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("own", &self.own.describe()).finish_non_exhaustive()
    }
}

impl<S: Issuer, T: Store> Source for Shared<S, T> {
    type Value = Secret;
    const WHEN_EXPIRED: WhenExpired = WhenExpired::Refuse;

    async fn fetch(&self, now: Moment) -> Result<Fetched<Secret>, FetchError> {
        let Some(cache) = self.cache() else { return self.own.fetch(now).await };
        let secret = self.own.secret().await?;
        cache.prepare().await;
        let sought = match Keys::derive(self.own.client(), &secret) {
            Some(keys) => (self.seek(&cache, &keys).await, Some(keys)),
            None => (Sought::Alone(Way::Alone), None),
        };
        match sought {
            (Sought::Found(fetched), _) => Ok(fetched),
            (Sought::Ours(fence), Some(keys)) => self.ask_for_all(&cache, (keys, secret), fence).await,
            (Sought::Resting, _) => Err(self.another_failed()),
            (Sought::Alone(way), _) => self.ask_alone(&cache, secret, way).await,
            (Sought::Ours(_), None) => self.ask_alone(&cache, secret, Way::Alone).await,
        }
    }

    fn describe(&self) -> String {
        self.own.describe()
    }

    fn pause(&self) -> Option<Duration> {
        self.own.pause()
    }

    async fn has_changed(&self) -> bool {
        self.own.has_changed().await
    }

    fn refused(&self, token: &Secret) {
        let mut memory = self.memory();
        if memory.token.as_ref() == Some(token) {
            memory.refused = memory.generation;
        }
    }
}

#[cfg(test)]
mod fleet;
#[cfg(test)]
mod tests;
