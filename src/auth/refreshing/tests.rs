use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::time::SystemTime;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;
use crate::auth::error::LoginError;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
/// Virtual time moves in whole milliseconds, and a timer may fire one late.
const TICK: Duration = Duration::from_millis(2);

/// What one fetch does.
enum Act {
    Give(Duration),
    GiveForever,
    GiveExpired,
    Fail(FetchError),
    Hang,
}

use Act::{Fail, Give, GiveExpired, GiveForever, Hang};

/// What the test sees of a source.
struct Seen {
    start: Instant,
    calls: Mutex<Vec<Instant>>,
    /// What is added to the wall clock, in seconds.
    jump: AtomicI64,
    /// Whether what it reads has changed since the last look.
    changed: AtomicBool,
}

impl Seen {
    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// When the fetches began, since the start.
    fn times(&self) -> Vec<Duration> {
        self.calls.lock().unwrap().iter().map(|call| call.duration_since(self.start)).collect()
    }

    fn gaps(&self) -> Vec<Duration> {
        self.times().windows(2).map(|pair| pair[1].checked_sub(pair[0]).unwrap()).collect()
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn set_wall(&self, seconds: i64) {
        self.jump.store(seconds, Ordering::Relaxed);
    }
}

type Plan = Box<dyn FnMut(usize) -> (Duration, Act) + Send>;

/// A source that follows a plan: for the number of the call (from 1), how long it takes and what it does.
struct Scripted<const USE_ON: bool> {
    seen: Arc<Seen>,
    plan: Mutex<Plan>,
}

impl<const USE_ON: bool> Source for Scripted<USE_ON> {
    /// The number of the fetch.
    type Value = usize;
    const WHEN_EXPIRED: WhenExpired = if USE_ON { WhenExpired::UseOn } else { WhenExpired::Refuse };

    async fn fetch(&self, now: Moment) -> Result<Fetched<usize>, FetchError> {
        self.seen.calls.lock().unwrap().push(now.monotonic);
        let number = self.seen.calls();
        let (delay, act) = (self.plan.lock().unwrap())(number);
        sleep(delay).await;
        let expiry = match act {
            Give(life) => Some(Expiry::after(now, life)),
            GiveForever => None,
            GiveExpired => Some(Expiry::at(SystemTime::UNIX_EPOCH, now)),
            Fail(error) => return Err(error),
            Hang => std::future::pending().await,
        };
        Ok(Fetched::new(number, expiry))
    }

    fn describe(&self) -> String {
        "scripted".to_owned()
    }

    fn pause(&self) -> Option<Duration> {
        Some(5 * SECOND)
    }

    async fn has_changed(&self) -> bool {
        self.seen.changed.swap(false, Ordering::Relaxed)
    }
}

type Token = Arc<Refreshing<Scripted<false>>>;

fn start<const USE_ON: bool>(
    tasks: &Tasks,
    plan: impl FnMut(usize) -> (Duration, Act) + Send + 'static,
) -> (Arc<Refreshing<Scripted<USE_ON>>>, Arc<Seen>) {
    let seen = Arc::new(Seen {
        start: Instant::now(),
        calls: Mutex::default(),
        jump: AtomicI64::new(0),
        changed: AtomicBool::new(false),
    });
    let source = Scripted { seen: Arc::clone(&seen), plan: Mutex::new(Box::new(plan)) };
    let clock = {
        let seen = Arc::clone(&seen);
        let noon = SystemTime::UNIX_EPOCH + 500_000 * HOUR;
        Clock::from_fn(move || {
            let jump = seen.jump.load(Ordering::Relaxed);
            let by = Duration::from_secs(jump.unsigned_abs());
            let true_time = noon + seen.elapsed();
            if jump < 0 { true_time - by } else { true_time + by }
        })
    };
    (Refreshing::start("test".into(), source, clock, tasks), seen)
}

/// A token that is never used when it has expired.
fn token(plan: impl FnMut(usize) -> (Duration, Act) + Send + 'static) -> (Token, Arc<Seen>) {
    start(&Tasks::default(), plan)
}

fn failing() -> FetchError {
    FetchError::Failing { endpoint: "e".into(), status: 500, retry_after: None }
}

fn throttled(seconds: u64) -> FetchError {
    FetchError::Throttled { endpoint: "e".into(), retry_after: Some(Duration::from_secs(seconds)) }
}

fn refused() -> FetchError {
    FetchError::Refused { endpoint: "e".into(), code: "invalid_client".into(), message: String::new() }
}

/// Gives once, then fails.
fn once_then(life: Duration, fail: fn() -> FetchError) -> impl FnMut(usize) -> (Duration, Act) + Send {
    move |call| (Duration::ZERO, if call == 1 { Give(life) } else { Fail(fail()) })
}

async fn until(seen: &Seen, at: Duration) {
    sleep_until(seen.start + at).await;
}

#[tokio::test(start_paused = true)]
async fn five_hundred_first_requests_make_one_fetch() {
    let (token, seen) = token(|_| (SECOND, Give(HOUR)));
    let mut callers = JoinSet::new();
    for _ in 0..500 {
        let token = Arc::clone(&token);
        callers.spawn(async move { token.get().await.unwrap() });
    }
    let leases = callers.join_all().await;
    assert!(leases.iter().all(|lease| lease.value == 1 && lease.generation == 1));
    assert_eq!((leases.len(), seen.calls()), (500, 1));
    assert!(seen.elapsed() <= SECOND + TICK, "{:?}", seen.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_to_all_who_wait_and_to_all_who_come_during_the_hold_off() {
    let (token, seen) = token(|_| (SECOND, Fail(failing())));
    let mut callers = JoinSet::new();
    for _ in 0..500 {
        let token = Arc::clone(&token);
        callers.spawn(async move { token.get().await.unwrap_err().cause.unwrap() });
    }
    let causes = callers.join_all().await;
    assert!(causes.iter().all(|cause| Arc::ptr_eq(cause, &causes[0])));
    let late = token.get().await.unwrap_err();
    assert!(Arc::ptr_eq(&late.cause.unwrap(), &causes[0]));
    assert!((SECOND.mul_f64(0.99)..=2 * SECOND).contains(&late.retry_after), "{:?}", late.retry_after);
    assert_eq!(seen.calls(), 1);
    assert!(seen.elapsed() <= SECOND + TICK, "the late one waited: {:?}", seen.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_is_obeyed_whatever_requests_and_refusals_ask_for() {
    for (asked, obeyed) in [(30, 30), (100_000, 600)] {
        let (token, seen) =
            token(move |call| (Duration::ZERO, if call == 1 { Fail(throttled(asked)) } else { Give(HOUR) }));
        for second in 1..obeyed {
            until(&seen, Duration::from_secs(second)).await;
            assert!(token.get().await.is_err());
            token.reject(1);
        }
        assert_eq!(seen.calls(), 1);
        until(&seen, Duration::from_secs(obeyed) + TICK).await;
        assert_eq!(token.get().await.unwrap().value, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_is_obeyed_while_the_old_one_is_still_used() {
    let (token, seen) = token(once_then(Duration::from_secs(100), || throttled(90)));
    until(&seen, Duration::from_secs(81)).await;
    let refreshed_at = seen.times()[1];
    assert_eq!(token.get().await.unwrap().generation, 1);
    token.reject(1);
    until(&seen, refreshed_at + Duration::from_secs(89)).await;
    assert!(token.get().await.is_err(), "it has expired meanwhile");
    assert_eq!(seen.calls(), 2);
    until(&seen, refreshed_at + Duration::from_secs(91)).await;
    assert_eq!(seen.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_needs_a_person_is_asked_about_once_a_minute() {
    let (token, seen) = token(|_| (Duration::ZERO, Fail(refused())));
    for tenth in 0..3_000 {
        until(&seen, Duration::from_millis(tenth * 100)).await;
        assert!(token.get().await.is_err());
        token.reject(1);
    }
    assert!(seen.calls() <= 6, "{:?}", seen.times());
    assert!(seen.gaps().iter().all(|gap| *gap >= Duration::from_mins(1)), "{:?}", seen.gaps());
}

#[tokio::test(start_paused = true)]
async fn while_nothing_is_valid_tries_come_at_random_points_between_one_and_five_seconds() {
    fastrand::seed(1);
    let (_token, seen) = token(|_| (Duration::ZERO, Fail(failing())));
    until(&seen, Duration::from_secs(1_000)).await;
    let gaps = seen.gaps();
    assert!(gaps.iter().all(|gap| (SECOND..=5 * SECOND + TICK).contains(gap)), "{gaps:?}");
    for second in 1..5 {
        let share = gaps.iter().filter(|gap| gap.as_secs() == second).count();
        assert!(share > gaps.len() / 8, "{share} of {} in second {second}", gaps.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_counts_against_a_lockout_is_not_asked_about_for_minutes() {
    let counted = || {
        FetchError::Login(Box::new(LoginError::Refused {
            endpoint: "e".into(),
            username: "u".into(),
            code: "NotAuthorizedException".into(),
            message: String::new(),
            help: String::new(),
            permanence: Permanence::Counted,
        }))
    };
    let (token, seen) = token(move |_| (Duration::ZERO, Fail(counted())));
    for second in 1..4_000 {
        until(&seen, Duration::from_secs(second)).await;
        assert!(token.get().await.is_err());
        token.reject(1);
    }
    let minutes: Vec<u64> = seen.gaps().iter().map(|gap| (gap.as_secs() + 5) / 60).collect();
    assert_eq!(minutes, [5, 10, 15, 15, 15]);
}

#[tokio::test(start_paused = true)]
async fn while_one_is_valid_the_pause_is_at_most_a_quarter_of_what_is_left_and_a_minute() {
    fastrand::seed(2);
    let (token, seen) = token(once_then(HOUR, failing));
    until(&seen, HOUR).await;
    drop(token);
    let times = seen.times();
    assert!(times.len() > 15, "{times:?}");
    for pair in times[1..].windows(2) {
        let left = HOUR.checked_sub(pair[0]).unwrap();
        let most = (left / 4).clamp(SECOND, Duration::from_mins(1));
        let pause = pair[1].checked_sub(pair[0]).unwrap();
        assert!((SECOND..=most + TICK).contains(&pause), "{pause:?} with {left:?} left");
    }
    assert!(seen.gaps()[1..].iter().any(|gap| *gap > Duration::from_secs(30)), "it does back off: {:?}", seen.gaps());
}

#[tokio::test(start_paused = true)]
async fn one_without_an_end_is_fetched_once_and_backs_off_like_any_that_is_valid() {
    fastrand::seed(3);
    let (token, seen) = token(|call| (Duration::ZERO, if call == 1 { GiveForever } else { Fail(failing()) }));
    until(&seen, 1_000 * HOUR).await;
    assert_eq!((token.get().await.unwrap().value, seen.calls()), (1, 1));
    token.reject(1);
    until(&seen, 1_001 * HOUR).await;
    assert_eq!(token.get().await.unwrap().value, 1);
    let (calls, most) = (seen.calls(), seen.gaps()[1..].iter().max().copied().unwrap());
    assert!(most > Duration::from_secs(50), "requests are served, so nobody is in a hurry: {most:?}");
    assert!(calls < 200, "{calls} calls in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_started_together_refreshes_at_random_points_in_65_to_80_percent_of_life() {
    fastrand::seed(4);
    let fleet: Vec<_> = (0..1_000).map(|_| token(|_| (Duration::ZERO, Give(Duration::from_secs(1_000))))).collect();
    sleep(Duration::from_secs(1_000)).await;
    let points: Vec<Duration> = fleet.iter().map(|(_, seen)| seen.times()[1]).collect();
    let bounds = Duration::from_secs(650)..=Duration::from_secs(800) + TICK;
    assert!(points.iter().all(|point| bounds.contains(point)), "{points:?}");
    for tenth in 0..10 {
        let from = Duration::from_secs(650 + 15 * tenth);
        let share = points.iter().filter(|point| (from..from + 15 * SECOND).contains(*point)).count();
        assert!((60..150).contains(&share), "{share} of 1,000 in the 15 s from {from:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_valid_one_is_served_without_delay_while_refreshes_fail() {
    let (token, seen) = token(once_then(HOUR, failing));
    for second in 1..3_595 {
        until(&seen, Duration::from_secs(second)).await;
        assert_eq!(token.get().await.unwrap().generation, 1);
        assert!(seen.elapsed() <= Duration::from_secs(second) + TICK, "it waited");
    }
    let status = token.status();
    assert!(status.usable && status.failure.is_some() && status.failed > 10, "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_ten_minutes_fails_no_request_whenever_it_begins() {
    for seed in 0..30 {
        fastrand::seed(seed);
        let begin = Duration::from_secs(120 * seed);
        let outage = begin..begin + Duration::from_mins(10);
        let start = Instant::now();
        let (token, seen) = token(move |_| {
            let down = outage.contains(&start.elapsed());
            (Duration::ZERO, if down { Fail(failing()) } else { Give(HOUR) })
        });
        let from = if begin.is_zero() { 606 } else { 1 };
        for second in from..5_000 {
            until(&seen, Duration::from_secs(second)).await;
            assert!(token.get().await.is_ok(), "outage from {begin:?}, failed at {:?}", seen.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_refused_at_once_during_a_hold_off() {
    let (token, seen) = token(once_then(Duration::from_mins(1), refused));
    until(&seen, Duration::from_secs(61)).await;
    let before = Instant::now();
    let missing = token.get().await.unwrap_err();
    assert!(matches!(missing.cause.as_deref(), Some(FetchError::Refused { .. })), "{missing:?}");
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert!(!token.status().usable);
}

#[tokio::test(start_paused = true)]
async fn expired_aws_keys_are_used_on_during_a_hold_off() {
    let (keys, seen) = start::<true>(&Tasks::default(), once_then(Duration::from_mins(1), refused));
    until(&seen, Duration::from_secs(61)).await;
    let before = Instant::now();
    assert_eq!(keys.get().await.unwrap().generation, 1);
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert!(keys.status().usable);
}

#[tokio::test(start_paused = true)]
async fn expired_aws_keys_give_way_to_fresh_ones_if_the_source_answers_in_time() {
    let (keys, seen) = start::<true>(&Tasks::default(), |_| (SECOND, Give(HOUR)));
    keys.get().await.unwrap();
    seen.set_wall(7_200);
    assert_eq!(keys.get().await.unwrap().generation, 2);
}

#[tokio::test(start_paused = true)]
async fn expired_aws_keys_are_used_on_after_five_seconds_if_the_source_hangs() {
    let plan = |call| (Duration::ZERO, if call == 1 { Give(HOUR) } else { Hang });
    let (keys, seen) = start::<true>(&Tasks::default(), plan);
    keys.get().await.unwrap();
    seen.set_wall(7_200);
    let before = Instant::now();
    assert_eq!(keys.get().await.unwrap().generation, 1);
    assert!((5 * SECOND..=5 * SECOND + TICK).contains(&before.elapsed()), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_outlives_aws_keys_is_asked_about_every_few_minutes_until_the_api_refuses_them() {
    for seed in 0..20 {
        fastrand::seed(seed);
        let (keys, seen) = start::<true>(&Tasks::default(), once_then(Duration::from_mins(10), failing));
        // Whatever was planned before the end comes first.
        until(&seen, Duration::from_mins(13)).await;
        let before = seen.calls();
        until(&seen, Duration::from_mins(63)).await;
        let calls = seen.calls() - before;
        assert!((4..=10).contains(&calls), "{calls} calls in 50 min");
        assert!(seen.gaps()[before..].iter().all(|gap| (5 * 60 * SECOND..=10 * 60 * SECOND + TICK).contains(gap)));
        let began = seen.elapsed();
        for _ in 0..600 {
            sleep(SECOND / 10).await;
            keys.reject(1);
        }
        let times: Vec<Duration> = seen.times().into_iter().filter(|time| *time > began).collect();
        assert!((5..=7).contains(&times.len()), "one in ten seconds: {times:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_changes_ends_a_hold_off_whatever_it_is_for() {
    let counted = || {
        FetchError::Login(Box::new(LoginError::Refused {
            endpoint: "pool".into(),
            username: "ada".into(),
            code: "NotAuthorizedException".into(),
            message: String::new(),
            help: String::new(),
            permanence: Permanence::Counted,
        }))
    };
    let plan = move |call| (Duration::ZERO, if call == 1 { Fail(counted()) } else { Give(HOUR) });
    let (token, seen) = token(plan);
    until(&seen, Duration::from_secs(31)).await;
    assert!(token.get().await.is_err());
    seen.changed.store(true, Ordering::Relaxed);
    until(&seen, Duration::from_secs(37)).await;
    assert_eq!(token.get().await.unwrap().generation, 2);
    assert_eq!(seen.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn keys_without_an_end_are_fetched_again_when_what_they_are_made_from_changes() {
    let (keys, seen) = token(|_| (Duration::ZERO, GiveForever));
    until(&seen, HOUR).await;
    assert_eq!(seen.calls(), 1);
    seen.changed.store(true, Ordering::Relaxed);
    until(&seen, HOUR + 6 * SECOND).await;
    assert_eq!((keys.get().await.unwrap().generation, seen.calls()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_lives_is_not_fetched_again_because_its_secret_changed() {
    // A secret is rotated in a whole fleet at once; each token ends at a time of its own.
    let (token, seen) = token(|_| (Duration::ZERO, Give(HOUR)));
    token.get().await.unwrap();
    seen.changed.store(true, Ordering::Relaxed);
    until(&seen, Duration::from_mins(30)).await;
    assert_eq!(seen.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_report_says_which_outage_would_go_unnoticed() {
    let (token, _) = token(|_| (Duration::ZERO, Give(HOUR)));
    token.get().await.unwrap();
    let report = token.status().report(token.clock.wall(), Some("client1"));
    assert_eq!(
        report,
        "credential \"test\": valid for 3600 s\n  scripted\n  principal: client1\n  rides out an outage of 12 min, whenever it begins"
    );
}

#[tokio::test(start_paused = true)]
async fn a_caller_near_the_end_waits_for_the_fresh_one() {
    let (token, seen) = token(|_| (SECOND / 2, Give(Duration::from_secs(100))));
    until(&seen, Duration::from_secs(10)).await;
    let before = Instant::now();
    // As after a laptop's sleep: 4 s are left.
    seen.set_wall(86);
    assert_eq!(token.get().await.unwrap().generation, 2);
    assert!((SECOND / 2..=SECOND / 2 + TICK).contains(&before.elapsed()), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_five_seconds_for_a_source_that_hangs() {
    let (token, seen) = token(|_| (Duration::ZERO, Hang));
    let missing = token.get().await.unwrap_err();
    assert!(missing.cause.is_none());
    assert!(missing.retry_after >= SECOND, "a caller that comes back at once would only wait again");
    assert!((5 * SECOND..=5 * SECOND + TICK).contains(&seen.elapsed()), "{:?}", seen.elapsed());
    until(&seen, FETCH_LIMIT + TICK).await;
    assert!(matches!(token.get().await.unwrap_err().cause.as_deref(), Some(FetchError::TimedOut { .. })));
    // The second try hangs as well: the cause of the first is told, and again not "come back in 0 s".
    until(&seen, FETCH_LIMIT + 3 * SECOND).await;
    let missing = token.get().await.unwrap_err();
    assert!(missing.cause.is_some() && missing.retry_after >= SECOND, "{missing:?}");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_dies_while_a_caller_waits_is_not_lent_and_one_that_lives_is_not_withheld() {
    // The source answers once and then hangs; callers come every 100 ms around the end.
    let life = Duration::from_secs(40);
    let (token, seen) = token(move |call| (Duration::ZERO, if call == 1 { Give(life) } else { Hang }));
    let mut callers = JoinSet::new();
    for tenth in 330..420 {
        let (token, seen) = (Arc::clone(&token), Arc::clone(&seen));
        callers.spawn(async move {
            let came = Duration::from_millis(tenth * 100);
            until(&seen, came).await;
            let lent = token.get().await.is_ok();
            (came, lent, seen.elapsed())
        });
    }
    for (came, lent, left_at) in callers.join_all().await {
        assert!(left_at <= came + 5 * SECOND + TICK, "came {came:?}, went {left_at:?}");
        if came < life {
            assert!(lent && left_at < life, "came {came:?}, went {left_at:?} with a token: {lent}");
        } else {
            assert!(!lent, "came {came:?}, a dead token was lent");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_forward_is_noticed_by_the_next_request() {
    let (token, seen) = token(|_| (Duration::ZERO, Give(HOUR)));
    token.get().await.unwrap();
    seen.set_wall(7_200);
    assert!(!token.status().usable, "dead by the wall clock");
    assert_eq!(token.get().await.unwrap().generation, 2);
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_forward_is_noticed_without_requests_within_thirty_seconds() {
    // 95 % of life is over, or all of it.
    for jump in [3_420, 7_200] {
        let (token, seen) = token(|_| (Duration::ZERO, Give(HOUR)));
        token.get().await.unwrap();
        seen.set_wall(jump);
        until(&seen, WALL_CHECK + TICK).await;
        assert_eq!(seen.calls(), 2, "set forward by {jump} s");
        assert_eq!(token.get().await.unwrap().generation, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_back_does_not_stretch_a_life() {
    let (token, seen) = token(once_then(HOUR, failing));
    token.get().await.unwrap();
    seen.set_wall(-36_000);
    until(&seen, HOUR.mul_f64(0.649)).await;
    assert_eq!(seen.calls(), 1);
    until(&seen, HOUR.mul_f64(0.80) + TICK).await;
    assert!(seen.calls() > 1);
    until(&seen, HOUR + TICK).await;
    assert!(token.get().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_was_wrong_for_a_moment_does_no_harm() {
    let (token, seen) = token(once_then(HOUR, refused));
    token.get().await.unwrap();
    seen.set_wall(7_200);
    assert!(token.get().await.is_err());
    seen.set_wall(0);
    assert_eq!(token.get().await.unwrap().generation, 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_refusals_by_the_upstream_make_one_fetch_and_not_before_ten_seconds() {
    let (token, seen) = token(|_| (Duration::ZERO, Give(HOUR)));
    let lease = token.get().await.unwrap();
    for millisecond in 0..1_000 {
        until(&seen, Duration::from_millis(1 + millisecond)).await;
        token.reject(lease.generation);
        assert_eq!(token.get().await.unwrap().generation, 1, "it is used until there is another");
    }
    until(&seen, Duration::from_secs(9)).await;
    assert_eq!(seen.calls(), 1);
    until(&seen, FORCED_REFRESH_FLOOR + TICK).await;
    assert_eq!(seen.calls(), 2);
    for _ in 0..1_000 {
        token.reject(lease.generation);
    }
    until(&seen, Duration::from_mins(1)).await;
    assert_eq!((token.get().await.unwrap().generation, seen.calls()), (2, 2), "refusals of the old one count no more");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_one_that_is_old_enough_is_acted_on_at_once() {
    let (token, seen) = token(|_| (Duration::ZERO, Give(HOUR)));
    until(&seen, Duration::from_mins(1)).await;
    token.reject(1);
    sleep(TICK).await;
    assert_eq!((token.get().await.unwrap().generation, seen.calls()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_refuses_every_token_costs_one_fetch_in_ten_seconds() {
    let (token, seen) = token(|_| (Duration::ZERO, Give(HOUR)));
    for tenth in 0..6_000 {
        until(&seen, Duration::from_millis(tenth * 100)).await;
        token.reject(token.get().await.unwrap().generation);
    }
    assert!(seen.gaps().iter().all(|gap| *gap >= FORCED_REFRESH_FLOOR), "{:?}", seen.gaps());
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_stays_in_use_while_no_other_can_be_had() {
    let (token, seen) = token(once_then(HOUR, failing));
    until(&seen, Duration::from_mins(1)).await;
    token.reject(1);
    until(&seen, Duration::from_secs(90)).await;
    assert_eq!(token.get().await.unwrap().generation, 1);
    assert!(seen.calls() > 1);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_an_outage_is_noticed_within_five_seconds() {
    for seed in 0..50 {
        fastrand::seed(seed);
        let start = Instant::now();
        let over = Duration::from_mins(10) + Duration::from_millis(137 * seed);
        let (token, seen) = token(move |call| {
            let up = call == 1 || start.elapsed() >= over;
            (Duration::ZERO, if up { Give(Duration::from_mins(1)) } else { Fail(failing()) })
        });
        until(&seen, over).await;
        assert!(token.get().await.is_err());
        until(&seen, over + 5 * SECOND + TICK).await;
        assert!(token.get().await.is_ok(), "seed {seed}: {:?}", seen.times());
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_comes_expired_is_a_failure() {
    let (token, seen) = token(|_| (Duration::ZERO, GiveExpired));
    let missing = token.get().await.unwrap_err();
    assert!(matches!(missing.cause.as_deref(), Some(FetchError::Malformed { .. })), "{missing:?}");
    let status = token.status();
    assert_eq!((status.fetched, status.failed, status.usable, status.tried), (0, 1, false, true));
    until(&seen, Duration::from_mins(1)).await;
    assert!(seen.calls() <= 60, "{} calls", seen.calls());
}

#[tokio::test(start_paused = true)]
async fn a_value_that_expires_on_its_way_here_is_a_failure() {
    let (token, _seen) = token(|_| (2 * SECOND, Give(SECOND)));
    assert!(matches!(token.get().await.unwrap_err().cause.as_deref(), Some(FetchError::Malformed { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_disturbs_nobody() {
    let (token, seen) = token(|_| (SECOND, Give(HOUR)));
    let mut callers = JoinSet::new();
    let mut impatient = Vec::new();
    for number in 0..100 {
        let token = Arc::clone(&token);
        let handle = callers.spawn(async move { token.get().await });
        if number % 2 == 0 {
            impatient.push(handle);
        }
    }
    until(&seen, SECOND / 2).await;
    for caller in impatient {
        caller.abort();
    }
    let (mut served, mut gone) = (0, 0);
    while let Some(outcome) = callers.join_next().await {
        match outcome {
            Ok(lease) => served += usize::from(lease.unwrap().value == 1),
            Err(_) => gone += 1,
        }
    }
    assert_eq!((served, gone, seen.calls()), (50, 50, 1));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_the_refreshing() {
    let tasks = Tasks::default();
    let (token, seen) = start::<false>(&tasks, |_| (Duration::ZERO, Give(HOUR)));
    token.get().await.unwrap();
    let other = Arc::clone(&token);
    drop(token);
    sleep(2 * HOUR).await;
    assert_eq!(tasks.running(), 1, "one handle is left");
    let calls = seen.calls();
    drop(other);
    sleep(TICK).await;
    assert_eq!(tasks.running(), 0);
    sleep(10 * HOUR).await;
    assert_eq!(seen.calls(), calls, "a credential that a reload took away costs nothing");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_during_a_fetch_ends_the_refreshing_after_it() {
    let tasks = Tasks::default();
    let (token, _seen) = start::<false>(&tasks, |_| (Duration::ZERO, Hang));
    sleep(SECOND).await;
    drop(token);
    sleep(FETCH_LIMIT).await;
    assert_eq!(tasks.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_credential_lends_what_it_has_and_fails_in_time_after_that() {
    let tasks = Tasks::default();
    let (token, seen) = start::<false>(&tasks, |_| (Duration::ZERO, Give(HOUR)));
    token.get().await.unwrap();
    tasks.stop().await;
    assert!(token.get().await.is_ok());
    until(&seen, 2 * HOUR).await;
    assert!(token.get().await.is_err());
    assert!(seen.elapsed() <= 2 * HOUR + 5 * SECOND + TICK);
}

/// Calls in a minute, and whether every caller was served at once (but for the first), for a source of such lives.
async fn a_minute_of(life: Duration) -> (usize, Duration) {
    let (token, seen) = token(move |_| (Duration::ZERO, Give(life)));
    let mut longest = Duration::ZERO;
    for tenth in 0..600 {
        until(&seen, Duration::from_millis(tenth * 100)).await;
        let before = Instant::now();
        token.get().await.unwrap();
        longest = longest.max(before.elapsed());
    }
    (seen.calls(), longest)
}

#[tokio::test(start_paused = true)]
async fn short_lives_do_not_hammer_the_source_nor_hold_up_requests() {
    for (life, most_calls) in [(20, 6), (10, 11), (6, 17), (5, 20), (3, 32), (2, 47)] {
        let (calls, waited) = a_minute_of(Duration::from_secs(life)).await;
        assert!(calls <= most_calls, "{calls} calls a minute for lives of {life} s");
        assert!(waited <= TICK, "a request waited {waited:?} although lives of {life} s are enough");
    }
    for life in [1, 10, 100, 1_000] {
        let (calls, waited) = a_minute_of(Duration::from_millis(life)).await;
        assert!(calls <= 61, "{calls} calls a minute for lives of {life} ms");
        assert!(waited <= SECOND + TICK, "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_requests_short_lives_do_not_hammer_the_source_either() {
    let (_token, seen) = token(|_| (Duration::ZERO, Give(3 * SECOND)));
    until(&seen, Duration::from_mins(1)).await;
    assert!(seen.calls() <= 32, "{} calls", seen.calls());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_keeps_giving_the_same_end_is_asked_once_a_second_at_most() {
    // A container endpoint that has not rotated yet: what it gives always ends at 60 s.
    let start = Instant::now();
    let (token, seen) = token(move |_| (Duration::ZERO, Give(Duration::from_mins(1).saturating_sub(start.elapsed()))));
    let mut waited = Duration::ZERO;
    for millisecond in (0..59_900).step_by(50) {
        until(&seen, Duration::from_millis(millisecond)).await;
        let before = Instant::now();
        token.get().await.unwrap();
        waited = waited.max(before.elapsed());
    }
    assert!(seen.gaps().iter().all(|gap| *gap >= SECOND), "{:?}", seen.gaps());
    assert!(waited <= SECOND + TICK, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_of_one_minute_tokens_take_no_more_than_seventeen_calls() {
    let (token, seen) = token(|_| (SECOND, Give(Duration::from_mins(1))));
    token.get().await.unwrap();
    for request in 0..120_000 {
        until(&seen, SECOND + Duration::from_millis(request * 5)).await;
        let before = Instant::now();
        let lease = token.get().await.unwrap();
        let age = Instant::now().duration_since(seen.start + seen.times()[lease.value - 1]);
        assert!(age < Duration::from_mins(1), "an expired token was lent");
        assert_eq!(before.elapsed(), Duration::ZERO, "a refresh held up a request");
    }
    assert!(seen.calls() <= 17, "{} calls", seen.calls());
}

#[tokio::test(start_paused = true)]
async fn absurd_lives_do_not_overflow() {
    let (token, seen) = token(|_| (Duration::ZERO, Give(Duration::MAX)));
    token.get().await.unwrap();
    token.reject(u64::MAX);
    until(&seen, 1_000 * HOUR).await;
    assert_eq!(seen.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_status_tells_how_it_fares() {
    let (token, seen) =
        token(|call| (SECOND, if call == 1 { Fail(failing()) } else { Give(Duration::from_secs(100)) }));
    let status = token.status();
    assert_eq!((status.usable, status.tried, status.expires.is_some()), (false, false, false));
    token.tried().await;
    assert_eq!(seen.elapsed().as_secs(), 1);
    let status = token.status();
    assert_eq!((status.usable, status.tried, status.failure.is_some(), status.failed), (false, true, true, 1));
    until(&seen, 5 * SECOND).await;
    let status = token.status();
    assert_eq!((status.usable, status.failure.is_none(), status.fetched, status.failed), (true, true, 1, 1));
    assert!(status.expires.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_set_and_set_back_leaves_nobody_waiting() {
    let (token, seen) = token(|_| (Duration::ZERO, Give(HOUR)));
    assert_eq!(token.get().await.unwrap().value, 1);
    // No try comes within a second of another, so that whoever asks now has to wait.
    seen.set_wall(7_200);
    let (lease, ()) = tokio::join!(token.get(), async {
        sleep(SECOND / 2).await;
        seen.set_wall(0);
    });
    assert_eq!((lease.unwrap().value, seen.calls()), (1, 1));
    assert!(seen.elapsed() <= SECOND + TICK, "{:?}", seen.elapsed());
}
