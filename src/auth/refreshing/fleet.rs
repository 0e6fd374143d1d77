//! A fleet that is restarted in the same second, against a token endpoint that takes so many calls a second: not a model,
//! but the shipped refreshing, in virtual time. `cargo test --lib fleet -- --nocapture` prints the table of
//! docs/operations.md.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::time::SystemTime;

use tokio::time::sleep;

use super::*;

/// What Cognito allows to an account and region (assumed; calls per second).
const QUOTA: u32 = 150;
const LIFE: Duration = Duration::from_hours(1);
/// Two refreshes of each, and some.
const WATCHED: Duration = Duration::from_mins(150);

/// The endpoint, and its books.
struct Endpoint {
    begun: Instant,
    outage: Range<Duration>,
    /// Tokens given and calls that failed, in each second.
    seconds: Mutex<BTreeMap<u64, (u32, u32)>>,
    /// The longest that a member was without a token after its first.
    worst: Mutex<Duration>,
    /// When the last one got its first.
    served: Mutex<Duration>,
}

struct Member {
    endpoint: Arc<Endpoint>,
    ends: Mutex<Option<Instant>>,
}

impl Source for Member {
    type Value = ();
    const WHEN_EXPIRED: WhenExpired = WhenExpired::Refuse;

    async fn fetch(&self, now: Moment) -> Result<Fetched<()>, FetchError> {
        let Endpoint { begun, outage, seconds, worst, served } = &*self.endpoint;
        let since = begun.elapsed();
        let mut seconds = seconds.lock().unwrap();
        let (given, failed) = seconds.entry(since.as_secs()).or_default();
        if outage.contains(&since) {
            *failed += 1;
            return Err(FetchError::Failing { endpoint: "e".into(), status: 503, retry_after: None });
        }
        if *given == QUOTA {
            *failed += 1;
            return Err(FetchError::Throttled { endpoint: "e".into(), retry_after: None });
        }
        *given += 1;
        let before = self.ends.lock().unwrap().replace(now.monotonic + LIFE);
        match before {
            None => *served.lock().unwrap() = since,
            Some(end) => {
                let mut worst = worst.lock().unwrap();
                *worst = (*worst).max(now.monotonic.saturating_duration_since(end));
            }
        }
        Ok(Fetched::new((), Some(Expiry::after(now, LIFE))))
    }

    fn describe(&self) -> String {
        "a member".to_owned()
    }
}

/// What the endpoint saw.
#[derive(Debug)]
struct Books {
    /// Until the last member had its first token.
    served: Duration,
    /// Calls that failed.
    failed: u64,
    /// Tokens given.
    given: u64,
    /// The most calls in a second of the second cycle and those after it.
    peak: u32,
    worst: Duration,
}

async fn run(members: u32, outage: Range<Duration>) -> Books {
    let begun = Instant::now();
    let noon = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    let clock = Clock::from_fn(move || noon + begun.elapsed());
    let [worst, served] = [const { Mutex::new(Duration::ZERO) }; 2];
    let endpoint = Arc::new(Endpoint { begun, outage, seconds: Mutex::default(), worst, served });
    let tasks = Tasks::default();
    let fleet: Vec<_> = (0..members)
        .map(|_| Member { endpoint: Arc::clone(&endpoint), ends: Mutex::new(None) })
        .map(|member| Refreshing::start("member".into(), member, clock.clone(), &tasks))
        .collect();
    sleep(WATCHED).await;
    drop(fleet);
    let seconds = endpoint.seconds.lock().unwrap();
    let sum = |part: fn(&(u32, u32)) -> u32| seconds.values().map(|second| u64::from(part(second))).sum();
    let later = seconds.range(LIFE.as_secs() / 2..).map(|(_, (given, failed))| given + failed);
    let (served, worst) = (*endpoint.served.lock().unwrap(), *endpoint.worst.lock().unwrap());
    Books {
        served,
        failed: sum(|second| second.1),
        given: sum(|second| second.0),
        peak: later.max().unwrap_or(0),
        worst,
    }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_starts_together_spreads_its_refreshes() {
    fastrand::seed(1);
    // What retries once a second and refreshes at expiry cost in the model: failed calls in the first burst.
    for (members, naive) in [(2_000, 12_350), (10_000, 328_350)] {
        let books = run(members, Duration::ZERO..Duration::ZERO).await;
        println!("{members} sidecars: {books:?}");
        assert!(books.failed * 10 < naive * 6, "{books:?}");
        assert!(books.given >= 2 * u64::from(members));
        assert!(books.served < Duration::from_secs(2 * u64::from(members / QUOTA)), "{books:?}");
        assert!(books.peak < QUOTA / 3, "{books:?}");
        assert_eq!(books.worst, Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn no_member_of_a_fleet_is_without_a_token_after_an_outage_of_ten_minutes() {
    for placement in 1..=12 {
        fastrand::seed(placement);
        let begin = Duration::from_mins(10 * placement);
        let books = run(2_000, begin..begin + Duration::from_mins(10)).await;
        println!("2,000 sidecars, outage from {begin:?}: {books:?}");
        assert_eq!(books.worst, Duration::ZERO, "{books:?}");
    }
}
