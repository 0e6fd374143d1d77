//! The program put together: bind, run, change, stop.
//!
//! Everything that can fail for good fails in [`Sidecar::bind`], before the first request; a token endpoint that is down
//! is no such thing. Imports everything below it; nothing but `cli`, tests and the demo imports it.

mod listeners;
mod live;
mod parts;
mod traces;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::sync::{Semaphore, watch};

use self::listeners::{Listeners, Opened};
pub use self::live::Phase;
use self::live::{Live, Teller};
use self::parts::{AtStart, Ground, Parts};
use self::traces::Export;
use crate::admin::standing::Standing;
use crate::admin::{Admin, Pages, Shown};
use crate::auth::metrics::CredentialMetrics;
use crate::auth::refreshing::Status;
use crate::auth::shared::store::StoreError;
use crate::auth::{self, Credential, Roster};
use crate::capacity::Machine;
use crate::clock::Clock;
use crate::config::Compiled;
use crate::message::body::Budget;
use crate::proxy::Proxy;
use crate::proxy::guard::token::CallerToken;
use crate::proxy::pool::{Names, Pool};
use crate::proxy::record::AccessLog;
use crate::reload::Reloader;
use crate::secret::SecretError;
use crate::server::connection::{COPY_BUFFER, Timers};
use crate::server::gate::head::Limits;
use crate::server::handed::Unwanted;
use crate::server::{Arrival, BindError, Drain, Handed, Listener, Terms, Workers};
use crate::tasks::Tasks;
use crate::telemetry::level::Dial;
use crate::telemetry::lines::LostLines;
use crate::tls::{SystemRoots, TlsError};

/// Of the admin port's connections. Each of its listeners has its own, apart from the clients': health is never shed
/// (docs/rules.md 3.2); and silent ones end soon, so that nobody can keep a probe out for long.
const ADMIN_TIMERS: Timers =
    Timers { head: Duration::from_secs(5), idle: Duration::from_secs(10), heads: Limits::DEFAULT, buffer: COPY_BUFFER };

/// Why the program could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken or not ours.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A socket was handed over that nobody wants.
    #[error(transparent)]
    Unwanted(#[from] Unwanted),
    /// A certificate file cannot be used.
    #[error("setting up TLS")]
    Tls(#[from] TlsError),
    /// A token of callers is gone since the config was checked.
    #[error("reading caller_token or quit_token")]
    CallerToken(#[from] SecretError),
    /// The control plane's client refuses its configuration.
    #[error("setting up the client for token endpoints")]
    Control(#[from] reqwest::Error),
}

/// The program, listening, not yet answering.
#[derive(Debug)]
pub struct Sidecar {
    live: Live,
    opened: Opened,
    admin: Arc<Admin>,
    admin_listener: Listener,
    health_listener: Option<Listener>,
    admin_connections: usize,
    drain: Drain,
    tasks: Tasks,
    reloader: Option<Reloader>,
    export: Option<Export>,
}

/// What a [`Sidecar`] finds around it.
#[derive(Debug)]
pub struct Surroundings {
    /// The time.
    pub clock: Clock,
    /// Where upstreams' names are looked up.
    pub names: Names,
    /// What there is of memory and descriptors: limits that do not fit are lowered.
    pub machine: Machine,
    /// Log lines that nobody took.
    pub lost_lines: LostLines,
    /// Sockets that take the place of what the config listens on.
    pub handed: Handed,
    /// What changes the level of the log, if that can be changed.
    pub dial: Option<Dial>,
    /// What serves clients' connections.
    pub workers: Workers,
}

impl Surroundings {
    /// The system's names, no limits, a log that loses nothing and stays as it is, no sockets, and no threads but this.
    pub fn new(clock: Clock) -> Self {
        let (names, machine, lost_lines) = (Names::system(), Machine::default(), LostLines::default());
        Self { clock, names, machine, lost_lines, handed: Handed::default(), dial: None, workers: Workers::default() }
    }
}

/// Tries every credential of a config once and says how each fared, and whose it is; listens on nothing.
///
/// # Errors
/// [`StartError`], but no credential's own.
pub async fn try_credentials(compiled: &Compiled, clock: &Clock) -> Result<Vec<(Status, Option<String>)>, StartError> {
    let tasks = Tasks::default();
    let schemes = builder(compiled, clock, &SystemRoots::load(), &tasks)?.build(&compiled.schemes, &compiled.fields);
    let mut statuses = Vec::new();
    for credential in &schemes.credentials {
        credential.tried().await;
        let owner = credential.owner().await;
        statuses.push((credential.status(), owner));
    }
    tasks.stop().await;
    Ok(statuses)
}

/// Calls the token cache of a config once, and says how it fared; `None` where it has none.
///
/// # Errors
/// [`StartError`], but not the cache's own.
pub async fn try_cache(compiled: &Compiled, clock: &Clock) -> Result<Option<Result<(), StoreError>>, StartError> {
    if compiled.token_cache.is_none() {
        return Ok(None);
    }
    let (tasks, roots) = (Tasks::default(), SystemRoots::load());
    let builder = builder(compiled, clock, &roots, &tasks)?;
    let schemes = builder.sharing(compiled.token_cache.as_ref(), &roots)?.build(&[], &[]);
    let cache = schemes.cache.as_ref();
    let outcome = if let Some(cache) = cache { Some(cache.probe().await) } else { None };
    tasks.stop().await;
    Ok(outcome)
}

/// What builds a config's credentials, to try them.
fn builder(
    compiled: &Compiled,
    clock: &Clock,
    roots: &SystemRoots,
    tasks: &Tasks,
) -> Result<auth::Builder, StartError> {
    let control = parts::control(roots, compiled)?;
    let (clock, tasks, environment) = (clock.clone(), tasks.clone(), compiled.aws.clone());
    Ok(auth::Builder::new(auth::Means { control, clock, tasks, environment }))
}

/// Where a [`Sidecar`] listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The main listeners.
    pub proxy: Vec<SocketAddr>,
    /// Their Unix sockets.
    pub sockets: Vec<PathBuf>,
    /// Routes' own ports: as configured, and as bound.
    pub own: Vec<(SocketAddr, SocketAddr)>,
    /// The admin port.
    pub admin: SocketAddr,
    /// The port with nothing but the probes.
    pub health: Option<SocketAddr>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Requests that were cut at the drain deadline.
    pub cut: usize,
}

impl Sidecar {
    /// Listens, and starts to fetch credentials.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn bind(compiled: Compiled, clock: Clock) -> Result<Self, StartError> {
        Self::bind_in(compiled, Surroundings::new(clock)).await
    }

    /// The same in other surroundings.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn bind_in(mut compiled: Compiled, surroundings: Surroundings) -> Result<Self, StartError> {
        let Surroundings { clock, names, machine, lost_lines, mut handed, dial, workers } = surroundings;
        let at_start = AtStart::of(&compiled);
        parts::fit(&machine, &mut compiled);
        let reach = compiled.server.reach;
        let opened = Opened::open(&compiled, None, &mut handed).await?;
        let admin_listener = listeners::open(compiled.admin.listen, reach, &mut handed).await?;
        let health_listener = match compiled.admin.health_listen {
            Some(address) => Some(listeners::open(address, reach, &mut handed).await?),
            None => None,
        };
        handed.finish()?;

        let (drain, tasks) = (Drain::default(), Tasks::default());
        let roots = SystemRoots::load();
        let pool = Pool::new(roots.clone(), tasks.clone(), names);
        let mut registry = Registry::with_prefix("countersign");
        registry.register("build", "The program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register_collector(Box::new(pool.census()));
        let ground = Ground { roots, pool, machine, clock: clock.clone(), tasks: tasks.clone() };
        let parts = Parts::try_new(&compiled, None, &ground)?;
        let roster = Roster::new(parts.credentials.clone(), parts.cache.clone());
        registry.register_collector(Box::new(CredentialMetrics::new(roster.clone())));
        let standing = Standing::new(compiled.hash.to_string(), clock.wall());
        registry.register_collector(Box::new(standing.clone()));
        lost_lines.register(&mut registry);
        let budget = Budget::new(compiled.proxy.buffer_budget.0, compiled.proxy.buffer_wait);
        let access = if compiled.log.access { AccessLog::All } else { AccessLog::Faults };
        let snapshot = Arc::clone(&parts.snapshot);
        let (tracer, export) = parts.trace(compiled.traces, &tasks, &mut registry);
        let proxy = Proxy::new(snapshot, budget, clock.clone(), access, &mut registry);
        let proxy = Arc::new(proxy.tracing(tracer));

        let max_connections = compiled.server.max_connections;
        let listeners = Listeners::new(Arc::clone(&proxy), max_connections, drain.clone(), tasks.clone(), workers);
        let quit_token = compiled.admin.quit_token.clone().map(CallerToken::try_new).transpose()?.map(Arc::new);
        if let Some(token) = &quit_token {
            tasks.spawn("quit-token", token.follow());
        }
        let shown = Shown {
            credentials: roster.clone(),
            standing: standing.clone(),
            proxy: Arc::clone(&proxy),
            drain: drain.clone(),
            clock,
            dial,
        };
        let admin = Arc::new(Admin::new(&compiled.admin, shown, registry, quit_token));
        let teller = Teller::default();
        let (settings, admin_connections) = (compiled.server, compiled.admin.max_connections);
        let live = Live { proxy, parts, roster, ground, listeners, settings, at_start, standing, teller };
        let reloader = None;
        Ok(Self {
            live,
            opened,
            admin,
            admin_listener,
            health_listener,
            admin_connections,
            drain,
            tasks,
            reloader,
            export,
        })
    }

    /// Takes up the configs that `reloader` finds while it runs.
    #[must_use]
    pub fn reloading(self, reloader: Reloader) -> Self {
        Self { reloader: Some(reloader), ..self }
    }

    /// Says to `tell` what it is about to do.
    #[must_use]
    pub fn telling(mut self, tell: impl Fn(Phase) + Send + Sync + 'static) -> Self {
        self.live.teller = Teller::new(tell);
        self
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.opened.addresses(self.admin_listener.address(), self.health_listener.as_ref().map(Listener::address))
    }

    /// The credentials that are being fetched.
    pub fn credentials(&self) -> Vec<Arc<dyn Credential>> {
        self.live.roster.all().to_vec()
    }

    /// Answers until `stop`, then drains; `hurry` ends the draining at once.
    pub async fn run(self, stop: impl Future<Output = ()>, hurry: impl Future<Output = ()>) -> Ended {
        let Self { mut live, opened, admin, admin_listener, health_listener, admin_connections, .. } = self;
        let Self { drain, tasks, reloader, export, .. } = self;
        live.begin(opened);
        // The admin port answers until the very end, so that a probe sees the drain.
        let admin_drain = Drain::default();
        let health = health_listener.map(|listener| ("health", Pages::Probes, listener));
        for (name, pages, listener) in [("admin", Pages::All, admin_listener)].into_iter().chain(health) {
            tracing::info!(listener = name, address = %listener.address(), "listening");
            let admin = Arc::clone(&admin);
            let service = move |arrival: Arrival| {
                let admin = Arc::clone(&admin);
                async move { admin.answer(arrival, pages) }
            };
            let (places, drain) = (Arc::new(Semaphore::new(admin_connections)), admin_drain.clone());
            let accept_pause = live.settings.accept_pause;
            let terms =
                Terms { timers: ADMIN_TIMERS, places, accept_pause, tls: None, drain, workers: Workers::default() };
            tasks.spawn("admin", listener.serve(watch::channel(terms).1, service));
        }
        let (first_tries, teller) = (Arc::clone(&admin), live.teller.clone());
        tasks.spawn("ready", async move {
            first_tries.first_tries().await;
            teller.tell(Phase::Ready);
        });

        tokio::select! {
            () = stop => {}
            () = admin.quit() => {}
            () = live.follow(reloader) => {}
        }
        live.teller.tell(Phase::Stopping);
        let (limit, quiet) = (live.settings.drain_timeout, live.settings.quiet);
        tracing::info!(?limit, "stopping: no longer ready, waiting for requests to end");
        let cut = drain.run(limit, quiet, hurry).await;
        if let Some(export) = export {
            export.flush().await;
        }
        tasks.stop().await;
        // Probes are answered in an instant: nothing is lost by not waiting.
        admin_drain.run(Duration::ZERO, Duration::ZERO, std::future::ready(())).await;
        if cut == 0 {
            tracing::info!("stopped; every request was answered");
        } else {
            tracing::error!(cut, "stopped; requests were cut at the drain deadline");
        }
        Ended { cut }
    }
}
