//! Two files of the program, compiled once more with types at each of whose operations another task may come first.
//!
//! They take what they share and wait for from `crate::sync`; here that is [`sync`], on shuttle's scheduler, which runs a
//! test under thousands of schedules and tells when one of them leaves a task waiting for ever. Time stands still until
//! the test lets it [`time::pass`], so that nothing is saved by a timeout.

// The files' own tests stand elsewhere and run in their own crate.
#![cfg(not(test))]

pub mod auth;
pub mod server;
pub mod sync;
pub mod time;

pub mod clock {
    //! The program's.
    pub use countersign::clock::*;
}

pub mod tasks {
    //! Tasks of the model.

    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Starts tasks on shuttle's scheduler.
    #[derive(Debug, Default)]
    pub struct Tasks(Arc<AtomicUsize>);

    impl Tasks {
        /// Starts `work`, which nobody waits for.
        pub fn spawn(&self, _name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
            self.0.fetch_add(1, Ordering::SeqCst);
            let running = Arc::clone(&self.0);
            drop(shuttle::future::spawn(async move {
                work.await;
                running.fetch_sub(1, Ordering::SeqCst);
            }));
        }

        /// How many are running.
        pub fn running(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }
}

/// Runs `scenario` under `schedules` random schedules and as many that try few preemptions in all places (PCT).
///
/// # Panics
/// When one of them fails, or leaves somebody waiting for ever; it prints the schedule.
pub fn explore(schedules: usize, scenario: impl Fn() + Send + Sync + Copy + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime, for its clock");
    let _clock = runtime.enter();
    let scenario = move || {
        time::reset();
        scenario();
    };
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 18;
    config.silence_warnings = true;
    let random = shuttle::scheduler::RandomScheduler::new(schedules);
    shuttle::Runner::new(random, config.clone()).run(scenario);
    let preempting = shuttle::scheduler::PctScheduler::new(3, schedules);
    shuttle::Runner::new(preempting, config).run(scenario);
}
