//! `countersign exec`: a command beside a proxy of its own.
//!
//! The command is a child, not what this process turns into: the proxy lives in here until the command has ended. Its
//! standard streams are the command's. Imports `app` and its neighbours.

use std::ffi::OsString;
use std::future::poll_fn;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::ExitStatusExt as _;
use std::pin::pin;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix;
use tokio_util::sync::CancellationToken;

use super::front::Front;
use super::origin::{Origin, Ports, Purpose};
use super::{BAD_CONFIG, FAILED, complain, open_log, runtime, surroundings};
use crate::app::{Sidecar, Surroundings};
use crate::auth::Credential;
use crate::auth::refreshing::Chain;
use crate::clock::Clock;
use crate::config::{Compiled, Environment};
use crate::server::Handed;
use crate::units::parse_duration;

/// As shells say it (POSIX 2.8.2).
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;
const BY_SIGNAL: i32 = 128;

/// Nobody calls any more once the command has ended, but what it sent last may still be in the kernel's hands.
const QUIET: Duration = Duration::from_millis(100);

/// What the command is meant to hear. Those that stop and continue are left to the terminal.
const SIGNALS: [Signal; 6] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];

#[derive(Args, Debug)]
pub(super) struct ExecArgs {
    /// Listen where the config says, instead of on a free port of 127.0.0.1: for a command that cannot be told.
    #[arg(long, conflicts_with = "flags")]
    configured_ports: bool,
    /// How long the credentials may take before the command is run without them.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    wait: Duration,
    /// Do not run the command without them: exit 1.
    #[arg(long)]
    strict: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
    // Its heading would stand over what came after it.
    #[command(flatten)]
    origin: Origin,
}

pub(super) fn exec(args: &ExecArgs, environment: &Environment) -> ExitCode {
    let ports = if args.configured_ports { Ports::Configured } else { Ports::Free };
    let mut compiled = match args.origin.load(environment, Purpose::Command(ports)) {
        Ok(compiled) => compiled,
        Err(error) => return complain(&Chain(&error), BAD_CONFIG),
    };
    if compiled.server.listen.is_empty() {
        return complain(&"the config has Unix sockets alone, which no variable can name for the command", BAD_CONFIG);
    }
    compiled.server.quiet = QUIET;
    let (lines, lost_lines, dial) = match open_log(&compiled) {
        Ok(opened) => opened,
        Err(problem) => return complain(&problem, FAILED),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("starting the runtime: {error}"), FAILED),
    };
    let surroundings = match surroundings(&compiled, lost_lines, dial, Handed::default()) {
        Ok(surroundings) => surroundings,
        Err(problem) => return complain(&problem, FAILED),
    };
    let ended = runtime.block_on(Box::pin(beside(compiled, surroundings, args, environment)));
    lines.flush();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => complain(&format!("cannot start: {error}"), FAILED),
    }
}

/// Runs the command while the proxy runs; returns the command's exit code.
async fn beside(
    compiled: Compiled,
    surroundings: Surroundings,
    args: &ExecArgs,
    environment: &Environment,
) -> Result<u8, String> {
    let mut signals = Signals::register().map_err(|error| format!("registering for signals: {error}"))?;
    let front = Front::of(&compiled);
    let sidecar =
        Box::pin(Sidecar::bind_in(compiled, surroundings)).await.map_err(|error| Chain(&error).to_string())?;
    let credentials = sidecar.credentials();
    let variables = sidecar.addresses().proxy.first().map(|listener| front.variables(*listener, environment));
    let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
    let mut running = pin!(Box::pin(sidecar.run(stop.clone().cancelled_owned(), hurry.clone().cancelled_owned())));
    let work = async {
        if let Some(warning) = front.warning() {
            let _goes_on = complain(&warning, 0);
        }
        let ready = tokio::select! {
            ready = ready(&credentials, args.wait) => ready,
            signal = signals.next() => return by_signal(signal.as_raw()),
        };
        if !ready && args.strict {
            return FAILED;
        }
        run(&args.command, variables.into_iter().flatten(), &mut signals).await
    };
    let code = tokio::select! {
        code = work => code,
        // It has not been told to stop.
        _ended = &mut running => return Err("the proxy has ended".to_owned()),
    };
    stop.cancel();
    loop {
        tokio::select! {
            _ended = &mut running => return Ok(code),
            _signal = signals.next() => hurry.cancel(),
        }
    }
}

/// Waits until every credential has been tried, but no longer than `limit`; says what is wrong with those that are not there.
async fn ready(credentials: &[Arc<dyn Credential>], limit: Duration) -> bool {
    let tried = async {
        for credential in credentials {
            credential.tried().await;
        }
    };
    // Late ones are told below.
    drop(tokio::time::timeout(limit, tried).await);
    let now = Clock::system().now().wall;
    let mut all = true;
    for status in credentials.iter().map(|credential| credential.status()).filter(|status| !status.usable) {
        let _goes_on = complain(&status.describe(now), 0);
        all = false;
    }
    all
}

async fn run(
    command: &[OsString],
    variables: impl Iterator<Item = (&'static str, String)>,
    signals: &mut Signals,
) -> u8 {
    let Some((program, arguments)) = command.split_first() else { return NOT_FOUND };
    let mut child = match Command::new(program).args(arguments).envs(variables).kill_on_drop(true).spawn() {
        Ok(child) => child,
        Err(error) => {
            let program = program.to_string_lossy();
            let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE };
            let _goes_on = complain(&format!("running {program}: {error}"), code);
            return code;
        }
    };
    loop {
        tokio::select! {
            ended = child.wait() => return ended.map_or(FAILED, exit_code),
            signal = signals.next() => pass_on(&child, signal),
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(FAILED),
        (None, Some(signal)) => by_signal(signal),
        (None, None) => FAILED,
    }
}

fn by_signal(signal: i32) -> u8 {
    u8::try_from(BY_SIGNAL + signal).unwrap_or(FAILED)
}

fn pass_on(child: &Child, signal: Signal) {
    // A terminal sends what is typed (Ctrl-C, Ctrl-\) to both, and twice means "at once" to many programs.
    let has_terminal = io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal();
    if matches!(signal, Signal::INT | Signal::QUIT) && has_terminal {
        return;
    }
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // One that has ended in this moment needs no signal.
    let _sent = pid.map(|pid| kill_process(pid, signal));
}

/// The [`SIGNALS`], which no longer end this process.
struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    fn register() -> io::Result<Self> {
        let register = |signal: Signal| Ok((signal, unix::signal(signal.as_raw().into())?));
        SIGNALS.into_iter().map(register).collect::<io::Result<_>>().map(Self)
    }

    async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            let mut came = self
                .0
                .iter_mut()
                .filter_map(|(signal, stream)| stream.poll_recv(context).is_ready().then_some(*signal));
            came.next().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}
