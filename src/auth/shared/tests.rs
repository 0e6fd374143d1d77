use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::time::timeout;

use super::store::Looked;
use super::*;
use crate::auth::refreshing::Refreshing;
use crate::auth::spec::{ClientAuth, SecretSource};
use crate::route::upstream::HostPort;
use crate::tasks::Tasks;

pub(super) const HOUR: Duration = Duration::from_hours(1);
const LIMIT: Duration = Duration::from_millis(250);

/// A store in memory, whose time is tokio's.
#[derive(Clone, Default)]
pub(super) struct Shelf(Arc<Books>);

#[derive(Default)]
struct Books {
    /// By slot: entries and leases, and their ends.
    entries: Mutex<BTreeMap<String, (Vec<u8>, Instant)>>,
    leases: Mutex<BTreeMap<String, (String, Instant)>>,
    /// The code of the error that all calls end with.
    fails: Mutex<Option<&'static str>>,
    hangs: AtomicBool,
    calls: AtomicU32,
    discarded: AtomicU32,
}

impl Shelf {
    fn fail(&self, code: Option<&'static str>) {
        *self.0.fails.lock().unwrap() = code;
    }

    fn hang(&self, hangs: bool) {
        self.0.hangs.store(hangs, Ordering::Relaxed);
    }

    /// The one entry there is.
    fn entry(&self) -> Option<Vec<u8>> {
        self.0.entries.lock().unwrap().values().next().map(|(bytes, _)| bytes.clone())
    }

    fn put(&self, bytes: &[u8], life: Duration) {
        for (entry, end) in self.0.entries.lock().unwrap().values_mut() {
            (*entry, *end) = (bytes.to_vec(), Instant::now() + life);
        }
    }

    async fn called(&self) -> Result<(), StoreError> {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        if self.0.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let code = *self.0.fails.lock().unwrap();
        match code {
            None => Ok(()),
            Some("unreachable") => {
                Err(StoreError::Unreachable { server: server(), source: io::ErrorKind::ConnectionRefused.into() })
            }
            Some(code) => Err(StoreError::refused(&server(), code, "")),
        }
    }

    fn lease(&self, slot: &str) -> Option<String> {
        let leases = self.0.leases.lock().unwrap();
        leases.get(slot).filter(|(_, end)| *end > Instant::now()).map(|(fence, _)| fence.clone())
    }

    fn living(&self, slot: &str) -> Option<(Vec<u8>, Instant)> {
        self.0.entries.lock().unwrap().get(slot).filter(|(_, end)| *end > Instant::now()).cloned()
    }

    fn write_lease(&self, slot: &str, fence: &str, life: Duration) {
        self.0.leases.lock().unwrap().insert(slot.to_owned(), (fence.to_owned(), Instant::now() + life));
    }
}

fn server() -> HostPort {
    HostPort { host: "cache".into(), port: 6379 }
}

impl Store for Shelf {
    async fn prepare(&self, _anew: bool) -> Result<(), StoreError> {
        Ok(())
    }

    async fn look(&self, slot: &str) -> Result<Looked, StoreError> {
        self.called().await?;
        let lease = match self.lease(slot).as_deref() {
            None => Held::Free,
            Some("r") => Held::Resting,
            Some(_) => Held::Fetching,
        };
        let (sealed, end) = self.living(slot).unzip();
        Ok(Looked { sealed: sealed.unwrap_or_default(), left: end.map(|end| end - Instant::now()), lease })
    }

    async fn take(&self, slot: &str, seen: &[u8], lease: Lease<'_>) -> Result<Taken, StoreError> {
        self.called().await?;
        if self.living(slot).unwrap_or((Vec::new(), Instant::now())).0 != seen {
            return Ok(Taken::Changed);
        }
        if self.lease(slot).is_some() {
            return Ok(Taken::Others);
        }
        self.write_lease(slot, lease.fence, lease.life);
        Ok(Taken::Ours)
    }

    async fn extend(&self, slot: &str, lease: Lease<'_>) -> Result<bool, StoreError> {
        self.called().await?;
        let is_ours = self.lease(slot).as_deref() == Some(lease.fence);
        if is_ours {
            self.write_lease(slot, lease.fence, lease.life);
        }
        Ok(is_ours)
    }

    async fn rest(&self, slot: &str, fence: &str, pause: Duration) -> Result<bool, StoreError> {
        self.called().await?;
        let is_ours = self.lease(slot).as_deref() == Some(fence);
        if is_ours {
            self.write_lease(slot, "r", pause);
        }
        Ok(is_ours)
    }

    async fn publish(&self, slot: &str, fence: &str, entry: Sealed<'_>) -> Result<bool, StoreError> {
        self.called().await?;
        let is_ours = self.lease(slot).as_deref() == Some(fence);
        if is_ours {
            let end = Instant::now() + entry.life;
            self.0.entries.lock().unwrap().insert(slot.to_owned(), (entry.bytes.to_vec(), end));
            self.0.leases.lock().unwrap().remove(slot);
        }
        Ok(is_ours)
    }

    async fn offer(&self, slot: &str, entry: Sealed<'_>) -> Result<bool, StoreError> {
        self.called().await?;
        if self.living(slot).is_some() {
            return Ok(false);
        }
        let end = Instant::now() + entry.life;
        self.0.entries.lock().unwrap().insert(slot.to_owned(), (entry.bytes.to_vec(), end));
        Ok(true)
    }

    async fn discard(&self, slot: &str, sealed: &[u8]) -> Result<bool, StoreError> {
        self.called().await?;
        let is_same = self.living(slot).is_some_and(|(bytes, _)| bytes == sealed);
        if is_same {
            self.0.entries.lock().unwrap().remove(slot);
            self.0.discarded.fetch_add(1, Ordering::Relaxed);
        }
        Ok(is_same)
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.called().await
    }

    fn reset(&self) {}

    fn slow(&self, limit: Duration) -> StoreError {
        StoreError::TimedOut { server: server(), limit }
    }

    fn describe(&self) -> String {
        "a shelf".to_owned()
    }
}

/// A token endpoint that all members ask.
#[derive(Default)]
struct Endpoint {
    asked: AtomicU32,
    /// How many of the first calls are never answered.
    swallows: AtomicU32,
    fails: AtomicBool,
    /// In each second since the start.
    seconds: Mutex<BTreeMap<u64, u32>>,
}

struct Teller {
    endpoint: Arc<Endpoint>,
    client: ClientCredentials,
    secret: Arc<Mutex<String>>,
    begun: Instant,
}

impl Source for Teller {
    type Value = Secret;
    const WHEN_EXPIRED: WhenExpired = WhenExpired::Refuse;

    async fn fetch(&self, now: Moment) -> Result<Fetched<Secret>, FetchError> {
        let secret = self.secret().await?;
        self.ask(secret, now).await.1
    }

    fn describe(&self) -> String {
        "a token".to_owned()
    }
}

impl Issuer for Teller {
    fn client(&self) -> &ClientCredentials {
        &self.client
    }

    async fn secret(&self) -> Result<Secret, FetchError> {
        Ok(Secret::new(self.secret.lock().unwrap().clone()))
    }

    async fn ask(&self, secret: Secret, now: Moment) -> (Secret, Result<Fetched<Secret>, FetchError>) {
        let Endpoint { asked, swallows, fails, seconds } = &*self.endpoint;
        let number = asked.fetch_add(1, Ordering::Relaxed) + 1;
        *seconds.lock().unwrap().entry(self.begun.elapsed().as_secs()).or_default() += 1;
        if number <= swallows.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        sleep(Duration::from_millis(200)).await;
        if fails.load(Ordering::Relaxed) {
            return (secret, Err(FetchError::Failing { endpoint: "e".into(), status: 503, retry_after: None }));
        }
        let token = Secret::new(format!("token-{number}"));
        (secret, Ok(Fetched::new(token, Some(Expiry::after(now, HOUR)))))
    }
}

/// Members of one fleet.
struct Fleet {
    shelf: Shelf,
    endpoint: Arc<Endpoint>,
    secret: Arc<Mutex<String>>,
    tasks: Tasks,
    begun: Instant,
}

type Member = Arc<Refreshing<Shared<Teller, Shelf>>>;

pub(super) fn client() -> ClientCredentials {
    ClientCredentials {
        token_url: "https://issuer.example/oauth2/token".into(),
        client_id: "abc".into(),
        client_secret: SecretSource::Fixed("unused".into()),
        client_auth: ClientAuth::Basic,
        scopes: Vec::new(),
        params: BTreeMap::new(),
    }
}

pub(super) fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
}

impl Fleet {
    fn new() -> Self {
        fastrand::seed(7);
        let secret = Arc::new(Mutex::new("s3cret".to_owned()));
        let (shelf, endpoint, tasks) = (Shelf::default(), Arc::default(), Tasks::default());
        Self { shelf, endpoint, secret, tasks, begun: Instant::now() }
    }

    /// A member whose clock is ahead by so many seconds.
    fn skewed(&self, seconds: i64) -> (Member, Arc<TokenCache<Shelf>>) {
        let begun = self.begun;
        let clock = Clock::from_fn(move || {
            let now = noon() + begun.elapsed();
            let by = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { now - by } else { now + by }
        });
        let (endpoint, secret) = (Arc::clone(&self.endpoint), Arc::clone(&self.secret));
        let own = Teller { endpoint, client: client(), secret, begun };
        let cache = TokenCache::new(self.shelf.clone(), LIMIT, self.tasks.clone());
        let shared = Shared::new(own, Some(Arc::clone(&cache)), clock.clone());
        (Refreshing::start("m".into(), shared, clock, &self.tasks), cache)
    }

    fn member(&self) -> (Member, Arc<TokenCache<Shelf>>) {
        self.skewed(0)
    }

    fn asked(&self) -> u32 {
        self.endpoint.asked.load(Ordering::Relaxed)
    }
}

async fn token(member: &Member) -> String {
    member.get().await.unwrap().value.expose().to_owned()
}

fn ways(cache: &TokenCache<Shelf>) -> Vec<(&'static str, u64)> {
    cache.status().ways.iter().filter(|(_, count)| *count > 0).map(|(way, count)| (way.as_str(), *count)).collect()
}

#[tokio::test(start_paused = true)]
async fn one_of_many_fetches_and_all_have_its_token() {
    let fleet = Fleet::new();
    let members: Vec<_> = (0..100).map(|_| fleet.member()).collect();
    for (member, _) in &members {
        assert_eq!(token(member).await, "token-1");
    }
    assert_eq!(fleet.asked(), 1);
    let late = fleet.member();
    assert_eq!(token(&late.0).await, "token-1");
    assert_eq!(ways(&late.1), [("found", 1)]);
    // All refresh in 65 to 80 % of its life, and one does it for all.
    sleep(HOUR.mul_f64(0.81)).await;
    for (member, _) in &members {
        assert_eq!(token(member).await, "token-2");
    }
    assert_eq!(fleet.asked(), 2);
    let fetched: u64 = members.iter().flat_map(|(_, cache)| ways(cache)).map(|(_, count)| count).sum();
    assert_eq!(fetched, 200);
}

#[tokio::test(start_paused = true)]
async fn requests_do_not_touch_the_store() {
    let fleet = Fleet::new();
    let (member, _) = fleet.member();
    token(&member).await;
    sleep(Duration::from_secs(1)).await;
    let calls = fleet.shelf.0.calls.load(Ordering::Relaxed);
    for _ in 0..1000 {
        token(&member).await;
    }
    assert_eq!(fleet.shelf.0.calls.load(Ordering::Relaxed), calls);
}

#[tokio::test(start_paused = true)]
async fn another_takes_the_place_of_a_holder_that_dies_before_requests_give_up() {
    let fleet = Fleet::new();
    fleet.endpoint.swallows.store(1, Ordering::Relaxed);
    let holder = fleet.member();
    while fleet.asked() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let members: Vec<_> = (0..50).map(|_| fleet.member()).collect();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(fleet.asked(), 1, "it lives, and says so");
    // Its process is gone: no heartbeat, no answer, no release.
    fleet.tasks.stop().await;
    drop((holder, members));
    let fleet = Fleet { tasks: Tasks::default(), ..fleet };
    let begun = Instant::now();
    let members: Vec<_> = (0..50).map(|_| fleet.member()).collect();
    for (member, _) in &members {
        assert_eq!(token(member).await, "token-2");
    }
    assert!(begun.elapsed() < LEASE_LIFE + Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(fleet.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_merely_slow_costs_no_request_its_token() {
    let fleet = Fleet::new();
    fleet.endpoint.swallows.store(1, Ordering::Relaxed);
    let _holder = fleet.member();
    let (member, cache) = fleet.member();
    assert_eq!(token(&member).await, "token-2", "within the 5 s that a request waits");
    assert_eq!(ways(&cache), [("impatient", 1)]);
    // And has shared it.
    sleep(Duration::from_millis(1)).await;
    assert_eq!(token(&fleet.member().0).await, "token-2");
}

#[tokio::test(start_paused = true)]
async fn whatever_the_store_does_a_member_asks_by_itself_within_the_limit() {
    for code in [Some("unreachable"), Some("READONLY"), Some("OOM"), Some("WRONGPASS"), None] {
        let fleet = Fleet::new();
        fleet.shelf.fail(code);
        fleet.shelf.hang(code.is_none());
        let members: Vec<_> = (0..20).map(|_| fleet.member()).collect();
        for (member, _) in &members {
            token(member).await;
        }
        assert_eq!(fleet.asked(), 20);
        assert!(fleet.begun.elapsed() <= LIMIT + Duration::from_millis(201), "{:?}", fleet.begun.elapsed());
        let (_, cache) = &members[0];
        let status = cache.status();
        assert!(status.is_shunned() && status.errors.len() == 1, "{status:?}");
        assert_eq!(ways(cache), [("alone", 1)]);
        // It comes back by itself.
        fleet.shelf.fail(None);
        fleet.shelf.hang(false);
        sleep(2 * Duration::from_secs(30)).await;
        assert!(!cache.status().is_shunned(), "{:?}", cache.status());
        // One of them fetches for all again, the next time.
        sleep(HOUR.mul_f64(0.8)).await;
        assert_eq!(fleet.asked(), 21);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_left_alone_until_it_answers() {
    let fleet = Fleet::new();
    fleet.shelf.hang(true);
    let (member, cache) = fleet.member();
    token(&member).await;
    assert_eq!(cache.status().errors, [("cache-slow", 1)]);
    member.reject(1);
    // Its next fetch, 10 s behind the first, goes straight to the endpoint, which takes 200 ms.
    sleep(Duration::from_millis(10_220)).await;
    assert_eq!(token(&member).await, "token-2");
}

#[tokio::test(start_paused = true)]
async fn an_old_entry_that_is_put_back_is_not_taken() {
    let fleet = Fleet::new();
    let (member, _) = fleet.member();
    token(&member).await;
    sleep(Duration::from_secs(1)).await;
    let old = fleet.shelf.entry().unwrap();
    sleep(HOUR.mul_f64(0.81)).await;
    assert_eq!(token(&member).await, "token-2");
    let new = fleet.shelf.entry().unwrap();
    // Still good by its end, and sealed by the fleet itself.
    fleet.shelf.put(&old, HOUR);
    member.reject(2);
    sleep(Duration::from_secs(11)).await;
    assert_eq!(token(&member).await, "token-3", "neither the old one nor the refused one");
    fleet.shelf.put(&new, HOUR);
    sleep(HOUR.mul_f64(0.81)).await;
    assert_eq!(token(&member).await, "token-4");
    // After its end it is of no use to anybody.
    fleet.shelf.put(&old, HOUR);
    let (fresh, cache) = fleet.member();
    assert_eq!(token(&fresh).await, "token-5");
    assert_eq!(ways(&cache), [("fetched", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_taken_out_once_and_fetched_once() {
    let fleet = Fleet::new();
    let members: Vec<_> = (0..200).map(|_| fleet.member()).collect();
    for (member, _) in &members {
        token(member).await;
    }
    sleep(Duration::from_mins(1)).await;
    for (member, _) in &members {
        let lease = member.get().await.unwrap();
        member.reject(lease.generation);
    }
    sleep(Duration::from_secs(5)).await;
    for (member, _) in &members {
        assert_eq!(token(member).await, "token-2");
    }
    assert_eq!(fleet.asked(), 2);
    assert_eq!(fleet.shelf.0.discarded.load(Ordering::Relaxed), 1);
    let taken_out: u64 = members.iter().map(|(_, cache)| cache.status().invalidations).sum();
    assert_eq!(taken_out, 1);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_finds_a_refused_token_need_not_wait_for_it_to_age() {
    let fleet = Fleet::new();
    token(&fleet.member().0).await;
    sleep(Duration::from_mins(1)).await;
    let (late, _) = fleet.member();
    let lease = late.get().await.unwrap();
    assert!(timeout(Duration::from_secs(1), late.renew(lease.generation)).await.unwrap());
    assert_eq!(token(&late).await, "token-2");
}

#[tokio::test(start_paused = true)]
async fn garbage_is_written_over() {
    let fleet = Fleet::new();
    token(&fleet.member().0).await;
    sleep(Duration::from_secs(1)).await;
    fleet.shelf.put(b"garbage", HOUR);
    let (member, cache) = fleet.member();
    assert_eq!(token(&member).await, "token-2");
    let status = cache.status();
    assert_eq!((ways(&cache), status.errors), (vec![("fetched", 1)], vec![("cache-garbage", 1)]));
    sleep(Duration::from_secs(1)).await;
    assert!(cache.status().fault.is_none(), "mended");
    assert_eq!(token(&fleet.member().0).await, "token-2");
}

#[tokio::test(start_paused = true)]
async fn a_fleet_asks_an_endpoint_that_fails_as_one() {
    let fleet = Fleet::new();
    let members: Vec<_> = (0..200).map(|_| fleet.member()).collect();
    for (member, _) in &members {
        token(member).await;
    }
    fleet.endpoint.fails.store(true, Ordering::Relaxed);
    // The whole outage is within the life of the token.
    sleep(HOUR.mul_f64(0.85)).await;
    let asked = fleet.asked();
    let busiest = fleet.endpoint.seconds.lock().unwrap().values().copied().max();
    assert!(asked > 10 && busiest <= Some(1), "{asked} calls, {busiest:?} in a second");
    for (member, _) in &members {
        assert_eq!(token(member).await, "token-1");
    }
    fleet.endpoint.fails.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(90)).await;
    let newest = token(&members[0].0).await;
    assert_ne!(newest, "token-1");
    for (member, _) in &members {
        assert_eq!(token(member).await, newest);
    }
}

#[tokio::test(start_paused = true)]
async fn who_keeps_the_lease_for_himself_keeps_nobody_from_a_token() {
    let fleet = Fleet::new();
    let (member, _) = fleet.member();
    token(&member).await;
    // Whoever may write to the store says that somebody has just failed, for ever.
    let keys = Keys::derive(&client(), &"s3cret".into()).unwrap();
    fleet.shelf.write_lease(keys.name(), "r", 10 * HOUR);
    sleep(Duration::from_mins(30)).await;
    assert_eq!(token(&fleet.member().0).await, "token-1", "what is there is still good");
    for _ in 0..60 {
        sleep(Duration::from_secs(30)).await;
        token(&member).await;
    }
    assert_eq!(fleet.asked(), 2);
    let begun = Instant::now();
    token(&fleet.member().0).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "as long as a request waits");
}

#[tokio::test(start_paused = true)]
async fn no_clock_is_trusted_alone() {
    let fleet = Fleet::new();
    let (member, _) = fleet.member();
    token(&member).await;
    sleep(Duration::from_secs(1)).await;
    // Ten minutes behind: the store's own time says when it ends.
    let (behind, _) = fleet.skewed(-600);
    assert_eq!(token(&behind).await, "token-1");
    let status = behind.status();
    let left =
        status.expires.unwrap().duration_since(noon() + fleet.begun.elapsed() - Duration::from_mins(10)).unwrap();
    assert!(left <= HOUR, "{left:?}");
    // Ten minutes ahead: earlier by that.
    let (ahead, _) = fleet.skewed(600);
    assert_eq!(token(&ahead).await, "token-1");
    // Two hours ahead: it has ended, as far as can be known here.
    let (far, cache) = fleet.skewed(7200);
    assert_eq!(token(&far).await, "token-2");
    assert_eq!(ways(&cache), [("fetched", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_found_late_is_refreshed_when_all_are() {
    let fleet = Fleet::new();
    let (member, _) = fleet.member();
    token(&member).await;
    fleet.endpoint.fails.store(true, Ordering::Relaxed);
    sleep(Duration::from_mins(35)).await;
    let (late, _) = fleet.member();
    assert_eq!(token(&late).await, "token-1");
    let status = late.status();
    assert!(status.life > Some(HOUR.mul_f64(0.99)), "{:?}", status.life);
    assert!(status.age > Some(Duration::from_mins(34)), "{:?}", status.age);
    drop(member);
    fleet.endpoint.fails.store(false, Ordering::Relaxed);
    sleep(Duration::from_mins(3)).await;
    assert_eq!(fleet.asked(), 1, "before 65 % of the life of the token");
    sleep(Duration::from_mins(11)).await;
    assert_eq!(token(&late).await, "token-2", "at 80 %");
}

#[tokio::test(start_paused = true)]
async fn a_rotated_secret_begins_a_new_entry() {
    let fleet = Fleet::new();
    token(&fleet.member().0).await;
    sleep(Duration::from_secs(1)).await;
    *fleet.secret.lock().unwrap() = "rotated".to_owned();
    let (member, cache) = fleet.member();
    assert_eq!(token(&member).await, "token-2");
    assert_eq!(ways(&cache), [("fetched", 1)]);
    assert!(cache.status().fault.is_none());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(fleet.shelf.0.entries.lock().unwrap().len(), 2);
}
