//! What a fleet asks its token endpoint for in a day, and what that costs, with a shared cache and without: the shipped code
//! in virtual time. `cargo test --lib fleet -- --nocapture` prints the table of docs/token-cache.md.

use tokio::time::sleep;

use super::tests::{HOUR, Shelf, client, noon};
use super::*;
use crate::auth::refreshing::Refreshing;
use crate::tasks::Tasks;

/// What Cognito allows to an account and region (assumed; calls per second).
const QUOTA: u32 = 150;
/// What Cognito asks for 1,000 token requests, in dollars.
const PRICE: f64 = 2.25;
/// Two refreshes of each: the second comes behind 96 minutes at the latest, the third behind 117 at the earliest.
const WATCHED: Duration = Duration::from_mins(100);

#[derive(Default)]
struct Books {
    /// Tokens given, with the time of each.
    given: Vec<Duration>,
    refused: u32,
    second: (u64, u32),
}

struct Teller {
    begun: Instant,
    client: ClientCredentials,
    books: Arc<Mutex<Books>>,
}

impl Source for Teller {
    type Value = Secret;
    const WHEN_EXPIRED: WhenExpired = WhenExpired::Refuse;

    async fn fetch(&self, now: Moment) -> Result<Fetched<Secret>, FetchError> {
        Issuer::ask(self, "s3cret".into(), now).await.1
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
        Ok("s3cret".into())
    }

    async fn ask(&self, secret: Secret, now: Moment) -> (Secret, Result<Fetched<Secret>, FetchError>) {
        sleep(Duration::from_millis(150)).await;
        let since = self.begun.elapsed();
        let mut books = self.books.lock().unwrap();
        if books.second.0 != since.as_secs() {
            books.second = (since.as_secs(), 0);
        }
        if books.second.1 == QUOTA {
            books.refused += 1;
            return (secret, Err(FetchError::Throttled { endpoint: "e".into(), retry_after: None }));
        }
        books.second.1 += 1;
        books.given.push(since);
        let token = Secret::new(format!("token-{}", books.given.len()));
        (secret, Ok(Fetched::new(token, Some(Expiry::after(now, HOUR)))))
    }
}

/// What became of a fleet that started in one moment.
struct Day {
    /// All had their first token by then.
    served: Duration,
    refused: u32,
    /// Token requests in a day, from the time between those of one member, or of the fleet.
    requests: f64,
}

async fn run(members: u32, shelf: Option<Shelf>) -> Day {
    fastrand::seed(u64::from(members));
    let begun = Instant::now();
    let clock = Clock::from_fn(move || noon() + begun.elapsed());
    let (tasks, books) = (Tasks::default(), Arc::<Mutex<Books>>::default());
    let member = |_| {
        let own = Teller { begun, client: client(), books: Arc::clone(&books) };
        let cache = shelf.clone().map(|shelf| TokenCache::new(shelf, Duration::from_millis(250), tasks.clone()));
        Refreshing::start("m".into(), Shared::<_, Shelf>::new(own, cache, clock.clone()), clock.clone(), &tasks)
    };
    let fleet: Vec<_> = (0..members).map(member).collect();
    for member in &fleet {
        while member.get().await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    }
    let served = begun.elapsed();
    sleep(WATCHED.saturating_sub(served)).await;
    drop(fleet);
    tasks.stop().await;
    let books = books.lock().unwrap();
    let sources = if shelf.is_some() { 1 } else { members };
    // Each source has fetched its first at the start, and two since: the time of the last is that of two pauses.
    let tokens = u32::try_from(books.given.len()).unwrap();
    let refreshes = f64::from(tokens) / f64::from(sources) - 1.0;
    let mean_of_last = {
        let mut given = books.given.clone();
        given.sort();
        let last: Vec<_> = given.iter().rev().take(sources as usize).collect();
        last.iter().map(|time| time.as_secs_f64()).sum::<f64>() / f64::from(sources)
    };
    let requests = f64::from(sources) * 86_400.0 * refreshes / mean_of_last;
    Day { served, refused: books.refused, requests }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_of_any_size_asks_for_one_token_at_a_time() {
    println!(
        "| sidecars | | all have a token after | refused calls until then | token requests a day | dollars a day | in 30 days |"
    );
    for members in [10, 100, 2_000, 10_000] {
        for shelf in [None, Some(Shelf::default())] {
            let shares = shelf.is_some();
            let Day { served, refused, requests } = run(members, shelf).await;
            let dollars = requests / 1000.0 * PRICE;
            println!(
                "| {members} | {} | {:.1} s | {refused} | {requests:.0} | ${dollars:.2} | ${:.2} |",
                if shares { "shared" } else { "each its own" },
                served.as_secs_f64(),
                dollars * 30.0,
            );
            if shares {
                assert!(requests < 40.0 && refused == 0 && served < Duration::from_secs(1), "{requests} {served:?}");
            } else {
                let each = requests / f64::from(members);
                assert!((31.0..36.0).contains(&each), "{each}");
            }
        }
    }
}
