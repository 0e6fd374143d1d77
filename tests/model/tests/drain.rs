//! A stop waits for every request and every connection, whatever comes first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use model::server::drain::Drain;
use model::{explore, time};
use shuttle::future::block_on;
use shuttle::thread;
use tokio::time::Instant;

const SCHEDULES: usize = 10_000;
const QUIET: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_mins(1);

/// Lets time pass until `is_over`.
fn pass_until(is_over: &AtomicBool) {
    while !is_over.load(Ordering::SeqCst) {
        time::pass(QUIET / 4);
    }
}

#[test]
fn nobody_is_turned_away_before_it_has_been_quiet() {
    explore(SCHEDULES, || {
        let drain = Drain::default();
        let last = Arc::new(shuttle::sync::Mutex::new(Instant::now()));
        let over = Arc::<AtomicBool>::default();
        let requests: Vec<_> = (0..2)
            .map(|_| {
                let (last, request) = (Arc::clone(&last), drain.enter());
                thread::spawn(move || {
                    thread::yield_now();
                    *last.lock().unwrap() = Instant::now();
                    drop(request);
                })
            })
            .collect();
        let closed = {
            let (drain, last) = (drain.clone(), Arc::clone(&last));
            thread::spawn(move || {
                block_on(drain.closed());
                let now = Instant::now();
                let last = *last.lock().unwrap();
                assert!(now >= last + QUIET, "closed {:?} after a request", now - last);
            })
        };
        let running = {
            let (drain, over) = (drain.clone(), Arc::clone(&over));
            thread::spawn(move || {
                let cut = block_on(drain.run(LIMIT, QUIET, std::future::pending()));
                over.store(true, Ordering::SeqCst);
                cut
            })
        };
        pass_until(&over);
        for request in requests {
            request.join().unwrap();
        }
        closed.join().unwrap();
        assert_eq!(running.join().unwrap(), 0);
    });
}

#[test]
fn a_stop_waits_for_the_connection_that_was_accepted_last() {
    explore(SCHEDULES, || {
        let drain = Drain::default();
        let (served, over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        // As `server::listener` accepts: one connection, in the very moment of the stop.
        let accepting = drain.count();
        let listener = {
            let (drain, served) = (drain.clone(), Arc::clone(&served));
            thread::spawn(move || {
                let connection = drain.count();
                let serving = thread::spawn(move || {
                    let request = drain.enter();
                    thread::yield_now();
                    served.fetch_add(1, Ordering::SeqCst);
                    drop(request);
                    drop(connection);
                });
                drop(accepting);
                serving.join().unwrap();
            })
        };
        let running = {
            let (drain, over) = (drain.clone(), Arc::clone(&over));
            thread::spawn(move || {
                let cut = block_on(drain.run(LIMIT, QUIET / 8, std::future::pending()));
                over.store(true, Ordering::SeqCst);
                cut
            })
        };
        pass_until(&over);
        assert_eq!(served.load(Ordering::SeqCst), 1, "it ended without it");
        assert_eq!(running.join().unwrap(), 0);
        listener.join().unwrap();
    });
}

#[test]
fn what_is_left_at_the_deadline_is_counted_once() {
    explore(SCHEDULES, || {
        let drain = Drain::default();
        let (stays, goes) = (drain.enter(), drain.enter());
        let over = Arc::<AtomicBool>::default();
        let ends = thread::spawn(move || drop(goes));
        let running = {
            let (drain, over) = (drain.clone(), Arc::clone(&over));
            thread::spawn(move || {
                let cut = block_on(drain.run(QUIET, QUIET, std::future::pending()));
                over.store(true, Ordering::SeqCst);
                cut
            })
        };
        pass_until(&over);
        ends.join().unwrap();
        let cut = running.join().unwrap();
        assert!(matches!(cut, 1 | 2), "{cut}");
        drop(stays);
    });
}
