//! `countersign wait`: returns once the running proxy is ready, for scripts that start both it and what calls it.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::{FAILED, Probed, complain, healthcheck};
use crate::auth::refreshing::Chain;
use crate::config::Environment;
use crate::units::parse_duration;

/// Nobody notices this much, and 10 requests a second cost nothing.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Args, Debug)]
pub(super) struct WaitArgs {
    #[command(flatten)]
    probed: Probed,
    /// How long to wait at most.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
}

pub(super) fn wait(args: &WaitArgs, environment: &Environment) -> ExitCode {
    let address = match args.probed.address(environment) {
        Ok(address) => address,
        Err(problem) => return complain(&problem, FAILED),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("starting the runtime: {error}"), FAILED),
    };
    runtime.block_on(async {
        let deadline = Instant::now() + args.timeout;
        loop {
            // Blocks, and there is nothing else to do.
            let error = match healthcheck::ask(address, "/readyz") {
                Ok(_page) => return ExitCode::SUCCESS,
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return complain(&format!("not ready after {:?}: {}", args.timeout, Chain(&error)), FAILED);
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + PAUSE)).await;
        }
    })
}
