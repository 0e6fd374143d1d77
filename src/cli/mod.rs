//! The command line: the only place that reads arguments and the environment, and that prints.
//!
//! Exit codes: 0 done or drained clean, 1 failed run, 3 requests were cut at the drain deadline, 64 bad flags, 78 bad
//! config; those of its command for `exec`. Imports everything; nothing imports it but `main`.

mod ca;
mod document;
mod draft;
mod env;
mod exec;
mod front;
mod healthcheck;
mod init;
mod migrate;
mod origin;
mod source;
mod systemd;
mod wait;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use http::{HeaderName, HeaderValue, Method, Request, Uri};

use self::env::EnvArgs;
use self::exec::ExecArgs;
use self::init::InitArgs;
use self::migrate::MigrateArgs;
use self::origin::{ConfigFile, Origin, Purpose};
use self::wait::WaitArgs;
use crate::app::{Ended, Sidecar, Surroundings, try_cache, try_credentials};
use crate::auth::refreshing::Chain;
use crate::capacity::{self, Machine};
use crate::clock::Clock;
use crate::config::{self, Compiled, Environment};
use crate::diagnosis::Evidence;
use crate::proxy::explain::explain;
use crate::reload::Reloader;
use crate::server::{Handed, Workers};
use crate::telemetry::level::Dial;
use crate::telemetry::lines::{Lines, LostLines};

const FAILED: u8 = 1;
const CUT: u8 = 3;
const BAD_FLAGS: u8 = 64;
const BAD_CONFIG: u8 = 78;

/// Authenticates plain HTTP requests to Amazon API Gateway, from a sidecar on localhost.
#[derive(Parser, Debug)]
#[command(name = "countersign", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the proxy.
    Run(Origin),
    /// Read the config, print every problem with its place, and the routes it makes.
    Check(CheckArgs),
    /// Show which route takes a request and what goes out; sends nothing.
    Explain(ExplainArgs),
    /// Ask the running proxy how it is; exit 0 or 1. For images without a shell.
    Healthcheck(HealthcheckArgs),
    /// Wait until the running proxy is ready; exit 0 or 1.
    Wait(WaitArgs),
    /// Run a command beside a proxy of its own, and end with its exit code.
    Exec(Box<ExecArgs>),
    /// Print the lines that have a shell's programs call the proxy.
    Env(EnvArgs),
    /// Write a commented config, from flags or a few questions.
    Init(Box<InitArgs>),
    /// Print the config that does what flags of aws-sigv4-proxy did.
    Migrate(MigrateArgs),
    /// The developer's own authority, for `connect = "intercept"` in [proxy.forward].
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Print what completes this command in a shell.
    Completions(CompletionsArgs),
}

#[derive(Args, Debug)]
struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

#[derive(Args, Debug)]
struct CheckArgs {
    /// Also fetch each credential and say what came of it; never shows one.
    #[arg(long)]
    online: bool,
    #[command(flatten)]
    origin: Origin,
}

#[derive(Args, Debug)]
struct ExplainArgs {
    /// Method, such as GET.
    method: Method,
    /// URL as the app would call it, such as `http://localhost:8080/orders/42`.
    url: Uri,
    /// A field that the app would send.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header_field)]
    headers: Vec<(HeaderName, HeaderValue)>,
    #[command(flatten)]
    origin: Origin,
}

#[derive(Args, Debug)]
struct HealthcheckArgs {
    #[command(flatten)]
    probed: Probed,
    /// Ask for readiness instead of life.
    #[arg(long)]
    ready: bool,
}

/// The running proxy.
#[derive(Args, Debug)]
struct Probed {
    #[command(flatten)]
    file: ConfigFile,
    /// Its admin port, instead of that in the config.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    admin: Option<SocketAddr>,
}

impl Probed {
    /// Its admin port. A config that has become bad meanwhile is not the running one's fault: only the port is taken
    /// from it.
    fn address(&self, environment: &Environment) -> Result<SocketAddr, String> {
        if let Some(address) = self.admin {
            return Ok(address);
        }
        let source =
            source::find(self.file.config.as_deref(), environment).map_err(|error| Chain(&error).to_string())?;
        config::admin_listen(&source, environment)
            .ok_or_else(|| format!("{} does not tell the admin port", source.name))
    }
}

fn header_field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as \"name: value\"")?;
    let name = name.trim().parse().map_err(|_invalid| format!("\"{name}\" is not a field name"))?;
    let value = value.trim().parse().map_err(|_invalid| "the value has characters that a field cannot have")?;
    Ok((name, value))
}

/// Runs the command that the arguments ask for.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, and go to standard output.
            let code = if error.use_stderr() { BAD_FLAGS } else { 0 };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let environment = source::environment();
    match cli.command {
        Command::Run(origin) => {
            with_config(&origin, &environment, |compiled| run(compiled, origin.file(&environment), &environment))
        }
        Command::Check(args) => with_config(&args.origin, &environment, |compiled| check(&compiled, args.online)),
        Command::Explain(args) => with_config(&args.origin, &environment, |compiled| {
            explain_request(&compiled, args.method, args.url, args.headers)
        }),
        Command::Healthcheck(args) => health(&args, &environment),
        Command::Wait(args) => wait::wait(&args, &environment),
        Command::Exec(args) => exec::exec(&args, &environment),
        Command::Env(args) => env::env(&args, &environment),
        Command::Init(args) => init::init(&args, &environment),
        Command::Migrate(args) => migrate::migrate(&args, &environment),
        Command::Ca(command) => ca::main(&command, &environment),
        Command::Completions(args) => say(&completions(args.shell), ExitCode::SUCCESS),
    }
}

/// The command line as clap knows it, for what is written of it: man pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// What completes the command in a shell.
fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), env!("CARGO_PKG_NAME"), &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

fn with_config(origin: &Origin, environment: &Environment, then: impl FnOnce(Compiled) -> ExitCode) -> ExitCode {
    match origin.load(environment, Purpose::Service) {
        Ok(compiled) => then(compiled),
        Err(error) => complain(&Chain(&error), BAD_CONFIG),
    }
}

/// Asks the running proxy.
fn health(args: &HealthcheckArgs, environment: &Environment) -> ExitCode {
    let address = match args.probed.address(environment) {
        Ok(address) => address,
        Err(problem) => return complain(&problem, FAILED),
    };
    match healthcheck::ask(address, if args.ready { "/readyz" } else { "/livez" }) {
        Ok(answer) => say(&answer, ExitCode::SUCCESS),
        Err(error) => complain(&Chain(&error), FAILED),
    }
}

fn run(compiled: Compiled, file: Option<PathBuf>, environment: &Environment) -> ExitCode {
    let (lines, lost_lines, dial) = match open_log(&compiled) {
        Ok(opened) => opened,
        Err(problem) => return complain(&problem, FAILED),
    };
    let handed = systemd::handed();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("starting the runtime: {error}"), FAILED),
    };
    let ended = runtime.block_on(async {
        let (stop, hurry) = source::signals()?;
        let reloader = Reloader::new(file, &compiled, environment.clone(), source::hangups()?);
        let surroundings = surroundings(&compiled, lost_lines, dial, handed?)?;
        let sidecar = Box::pin(Sidecar::bind_in(compiled, surroundings));
        let sidecar = sidecar.await.map_err(|error| Chain(&error).to_string())?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");
        Ok::<Ended, String>(sidecar.reloading(reloader).telling(systemd::tell).run(stop, hurry).await)
    });
    let code = match ended {
        Ok(Ended { cut: 0 }) => ExitCode::SUCCESS,
        Ok(Ended { cut: _ }) => ExitCode::from(CUT),
        Err(error) => {
            tracing::error!(error, "cannot start");
            ExitCode::from(FAILED)
        }
    };
    lines.flush();
    code
}

/// Has log lines go to standard error from now on, and the config's warnings among them. What has not gone out when the
/// program ends is to be flushed.
fn open_log(compiled: &Compiled) -> Result<(Lines, LostLines, Dial), String> {
    let (lines, lost_lines) = Lines::start(io::stderr()).map_err(|error| format!("starting the log: {error}"))?;
    let (subscriber, dial) = compiled.log.adjustable(lines.clone(), source::look());
    tracing::subscriber::set_global_default(subscriber).map_err(|_set| "a log is set up already".to_owned())?;
    for warning in &compiled.warnings {
        tracing::warn!(warning = %warning, "config");
    }
    Ok((lines, lost_lines, dial))
}

/// This machine as the proxy finds it, and the threads that serve connections.
fn surroundings(
    compiled: &Compiled,
    lost_lines: LostLines,
    dial: Dial,
    handed: Handed,
) -> Result<Surroundings, String> {
    let number = compiled.server.workers.unwrap_or_else(capacity::workers);
    let workers = Workers::start(number).map_err(|error| format!("starting threads: {error}"))?;
    let (machine, dial) = (Machine::read(), Some(dial));
    Ok(Surroundings { machine, lost_lines, handed, dial, workers, ..Surroundings::new(Clock::system()) })
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn check(compiled: &Compiled, online: bool) -> ExitCode {
    let mut text = String::new();
    // Writing to a String cannot go wrong.
    for warning in &compiled.warnings {
        let _infallible = writeln!(text, "{warning}");
    }
    for route in &compiled.routes {
        let origin = &route.upstream.origin;
        let spec = route.scheme.and_then(|index| compiled.schemes.get(index));
        let auth = spec.map_or("none", |spec| &spec.name);
        let host = route.host.as_deref().unwrap_or("*");
        let listen = route.listen.map_or_else(|| "main".to_owned(), |address| address.to_string());
        let (name, path, base) = (&route.name, &route.path, &route.upstream.base_path);
        let (scheme, authority) = (&origin.scheme, &origin.authority);
        let via = origin.via.as_ref().map(|proxy| format!(", through the proxy {proxy}")).unwrap_or_default();
        let _infallible =
            writeln!(text, "route {name}: {listen} {host}{path} -> {scheme}://{authority}{base}, auth {auth}{via}");
    }
    if let Some((proxy, has_exceptions)) = compiled.egress.proxy() {
        let save = if has_exceptions { ", save to NO_PROXY" } else { "" };
        let _infallible = writeln!(text, "token and AWS calls go through the proxy {proxy}{save}");
    }
    if let Some(traces) = &compiled.traces {
        let _infallible = writeln!(text, "spans of requests go to {}", traces.endpoint);
    }
    if let Some(cache) = &compiled.token_cache {
        let _infallible = writeln!(text, "tokens are shared through {cache}");
    }
    let number = compiled.routes.len();
    let _infallible = writeln!(text, "ok: {number} {}", if number == 1 { "route" } else { "routes" });
    if !online {
        return say(&text, ExitCode::SUCCESS);
    }
    let clock = Clock::system();
    let statuses = match runtime().map(|runtime| runtime.block_on(Box::pin(try_credentials(compiled, &clock)))) {
        Ok(Ok(statuses)) => statuses,
        Ok(Err(error)) => return complain(&Chain(&error), FAILED),
        Err(error) => return complain(&format!("starting the runtime: {error}"), FAILED),
    };
    for (status, owner) in &statuses {
        let _infallible = writeln!(text, "{}", status.report(clock.wall(), owner.as_deref()));
    }
    let cache = match runtime().map(|runtime| runtime.block_on(Box::pin(try_cache(compiled, &clock)))) {
        Ok(Ok(cache)) => cache,
        Ok(Err(error)) => return complain(&Chain(&error), FAILED),
        Err(error) => return complain(&format!("starting the runtime: {error}"), FAILED),
    };
    let is_shared = match &cache {
        None => true,
        Some(Ok(())) => writeln!(text, "token cache: can be used").is_ok(),
        Some(Err(error)) => {
            let hint = error.diagnose().hint(Evidence::Withheld);
            let _infallible = writeln!(text, "token cache: {}\n  {hint}", Chain(error));
            false
        }
    };
    let all = is_shared && statuses.iter().all(|(status, _)| status.usable);
    say(&text, if all { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn explain_request(compiled: &Compiled, method: Method, url: Uri, headers: Vec<(HeaderName, HeaderValue)>) -> ExitCode {
    if url.authority().is_none() {
        return complain(&"the URL must be whole, such as http://localhost:8080/orders/42", BAD_FLAGS);
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = url;
    for (name, value) in headers {
        request.headers_mut().append(name, value);
    }
    let now = Clock::system().now().wall;
    match explain(&compiled.proxy, &compiled.routes, &compiled.schemes, request, now) {
        Ok(explanation) => {
            let mut text = explanation.to_string();
            if let (Some(cache), true) = (&compiled.token_cache, explanation.has_client_token()) {
                let _infallible = writeln!(text, "shares     its token through {cache}");
            }
            say(&text, ExitCode::SUCCESS)
        }
        Err(error) => {
            let code = error.code();
            complain(&format!("{} {}: {}", code.status().as_u16(), code.as_str(), Chain(&error)), FAILED)
        }
    }
}

fn say(text: &str, code: ExitCode) -> ExitCode {
    // A reader that has gone away has read enough.
    drop(io::stdout().write_all(text.as_bytes()));
    code
}

fn complain(what: &dyn std::fmt::Display, code: u8) -> ExitCode {
    drop(writeln!(io::stderr(), "{what}"));
    ExitCode::from(code)
}
