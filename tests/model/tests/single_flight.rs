//! One fetch for all, no waiter forgotten, no refusal mistaken: under every schedule that was tried.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use model::auth::error::FetchError;
use model::auth::refreshing::{Fetched, Refreshing, Source, WhenExpired};
use model::clock::{Clock, Expiry, Moment};
use model::tasks::Tasks;
use model::{explore, time};
use shuttle::future::block_on;
use shuttle::thread;

const SCHEDULES: usize = 10_000;
const HOUR: Duration = Duration::from_hours(1);
/// More than the least time between two refreshes that refusals ask for.
const LATER: Duration = Duration::from_secs(11);

/// What the test sees of a source.
#[derive(Default)]
struct Seen {
    fetches: AtomicUsize,
    under_way: AtomicBool,
    /// Fetches from this one on fail; none, if 0.
    failing_from: AtomicUsize,
}

impl Seen {
    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

struct Numbered(Arc<Seen>);

impl Source for Numbered {
    /// The number of the fetch.
    type Value = usize;
    const WHEN_EXPIRED: WhenExpired = WhenExpired::Refuse;

    async fn fetch(&self, now: Moment) -> Result<Fetched<usize>, FetchError> {
        assert!(!self.0.under_way.swap(true, Ordering::SeqCst), "two at the same time");
        let number = self.0.fetches.fetch_add(1, Ordering::SeqCst) + 1;
        // As long as the scheduler likes.
        shuttle::future::yield_now().await;
        self.0.under_way.store(false, Ordering::SeqCst);
        let failing = self.0.failing_from.load(Ordering::SeqCst);
        if failing > 0 && number >= failing {
            return Err(FetchError::Failing { endpoint: "e".into(), status: 500, retry_after: None });
        }
        Ok(Fetched::new(number, Some(Expiry::after(now, HOUR))))
    }

    fn describe(&self) -> String {
        "numbered".to_owned()
    }
}

type Token = Arc<Refreshing<Numbered>>;

fn start(seen: Seen, tasks: &Tasks) -> (Token, Arc<Seen>) {
    let seen = Arc::new(seen);
    let noon = SystemTime::UNIX_EPOCH + 500_000 * HOUR;
    let begun = tokio::time::Instant::now();
    let clock = Clock::from_fn(move || noon + begun.elapsed());
    (Refreshing::start("model".into(), Numbered(Arc::clone(&seen)), clock, tasks), seen)
}

/// What nobody has a handle to any more has ended, without waiting for a timer.
fn ended(tasks: &Tasks) {
    while tasks.running() > 0 {
        thread::yield_now();
    }
}

fn callers<T: Send + 'static>(number: usize, call: impl Fn() -> T + Clone + Send + 'static) -> Vec<T> {
    let callers: Vec<_> = (0..number).map(|_| thread::spawn(call.clone())).collect();
    callers.into_iter().map(|caller| caller.join().unwrap()).collect()
}

#[test]
fn first_callers_share_one_fetch_and_all_are_woken() {
    explore(SCHEDULES, || {
        let tasks = Tasks::default();
        let (token, seen) = start(Seen::default(), &tasks);
        let asked = Arc::clone(&token);
        let leases = callers(3, move || block_on(asked.get()).unwrap());
        assert!(leases.iter().all(|lease| (lease.value, lease.generation) == (1, 1)), "{leases:?}");
        assert_eq!(seen.fetches(), 1);
        drop(token);
        ended(&tasks);
    });
}

#[test]
fn a_failure_is_told_to_all_who_wait_and_to_nobody_later_by_another_fetch() {
    explore(SCHEDULES, || {
        let tasks = Tasks::default();
        let (token, seen) = start(Seen { failing_from: 1.into(), ..Seen::default() }, &tasks);
        let asked = Arc::clone(&token);
        let causes = callers(3, move || block_on(asked.get()).unwrap_err().cause.expect("a try has ended"));
        assert!(causes.iter().all(|cause| Arc::ptr_eq(cause, &causes[0])));
        assert_eq!(seen.fetches(), 1);
        drop(token);
        ended(&tasks);
    });
}

#[test]
fn refusals_of_one_credential_have_it_fetched_once_and_never_its_successor() {
    explore(SCHEDULES, || {
        let tasks = Tasks::default();
        let (token, seen) = start(Seen::default(), &tasks);
        assert_eq!(block_on(token.get()).unwrap().generation, 1);
        time::pass(LATER);
        let asked = Arc::clone(&token);
        let renewed = callers(3, move || {
            let renewed = block_on(asked.renew(1));
            (renewed, block_on(asked.get()).unwrap().generation)
        });
        assert_eq!(renewed, [(true, 2); 3]);
        // A refusal of the first that came late would have the second fetched again as soon as it may be.
        time::pass(LATER);
        assert_eq!(block_on(token.get()).unwrap().generation, 2);
        block_on(settle());
        assert_eq!(seen.fetches(), 2);
        drop(token);
        ended(&tasks);
    });
}

#[test]
fn a_refusal_while_a_refresh_fails_is_answered_and_what_is_held_goes_on() {
    explore(SCHEDULES, || {
        let tasks = Tasks::default();
        let (token, seen) = start(Seen { failing_from: 2.into(), ..Seen::default() }, &tasks);
        assert_eq!(block_on(token.get()).unwrap().generation, 1);
        time::pass(LATER);
        let asked = Arc::clone(&token);
        let renewed = callers(3, move || (block_on(asked.renew(1)), block_on(asked.get()).unwrap().generation));
        assert_eq!(renewed, [(false, 1); 3]);
        assert_eq!(seen.fetches(), 2, "a hold-off is on");
        seen.failing_from.store(0, Ordering::SeqCst);
        time::pass(LATER);
        // It was not forgotten that it was refused.
        while seen.fetches() < 3 {
            thread::yield_now();
        }
        drop(token);
        ended(&tasks);
    });
}

/// A config takes the place of another: requests of both live on what they began with.
#[test]
fn a_credential_lives_as_long_as_a_config_or_a_request_has_it_and_no_longer() {
    explore(SCHEDULES, || {
        let [one, other] = [Tasks::default(), Tasks::default()];
        let (kept, seen_kept) = start(Seen::default(), &one);
        let (dropped, seen_dropped) = start(Seen::default(), &other);
        let live = Arc::new(shuttle::sync::Mutex::new(Arc::new(vec![Arc::clone(&kept), dropped])));
        let served = Arc::clone(&live);
        let request = move || {
            let snapshot = Arc::clone(&served.lock().unwrap());
            snapshot.iter().map(|token| block_on(token.get()).unwrap().value).sum::<usize>()
        };
        let requests: Vec<_> = (0..2).map(|_| thread::spawn(request.clone())).collect();
        *live.lock().unwrap() = Arc::new(vec![Arc::clone(&kept)]);
        for answered in requests {
            assert!(matches!(answered.join().unwrap(), 1 | 2));
        }
        ended(&other);
        assert_eq!((one.running(), request()), (1, 1));
        assert_eq!((seen_kept.fetches(), seen_dropped.fetches() <= 1), (1, true));
        drop((kept, request, live));
        ended(&one);
    });
}

/// Lets the others come first, for a while.
async fn settle() {
    for _ in 0..20 {
        shuttle::future::yield_now().await;
    }
}
