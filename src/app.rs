//! The program put together: bind, run, stop.
//!
//! Everything that can fail for good fails in [`Sidecar::bind`], before the first request; a token endpoint that is down
//! is no such thing. Imports everything below it; nothing but `cli`, tests and the demo imports it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::sync::Semaphore;

use crate::admin::{Admin, Pages};
use crate::auth;
use crate::auth::control::Control;
use crate::auth::metrics::CredentialMetrics;
use crate::auth::refreshing::Status;
use crate::capacity::{Limits, Machine};
use crate::clock::Clock;
use crate::config::Compiled;
use crate::egress::Egress;
use crate::message::body::Budget;
use crate::proxy::guard::token::CallerToken;
use crate::proxy::pool::{Names, Pool};
use crate::proxy::record::AccessLog;
use crate::proxy::{self, Proxy, Snapshot};
use crate::secret::SecretError;
use crate::server::connection::Timers;
#[cfg(unix)]
use crate::server::unix::UnixSocket;
use crate::server::{self, Arrival, BindError, Drain, Listener, Terms};
use crate::tasks::Tasks;
use crate::telemetry::lines::LostLines;
use crate::tls::serving::Certificate;
use crate::tls::{ClientSettings, Identity, SystemRoots, TlsError};
use crate::units::ByteSize;

/// The admin port's connections, apart from the clients': health is never shed (security.md 3.2).
/// Each of its listeners has its own, and silent ones end soon, so that nobody can keep a probe out for long.
const ADMIN_CONNECTIONS: usize = 32;
const ADMIN_TIMERS: Timers = Timers { head: Duration::from_secs(5), idle: Duration::from_secs(10) };

/// Why the program could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken or not ours.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A certificate file cannot be used.
    #[error("setting up TLS")]
    Tls(#[from] TlsError),
    /// The caller token is gone since the config was checked.
    #[error("reading the caller token")]
    CallerToken(#[from] SecretError),
    /// The control plane's client refuses its configuration.
    #[error("setting up the client for token endpoints")]
    Control(#[from] reqwest::Error),
}

/// The program, listening, not yet answering.
#[derive(Debug)]
pub struct Sidecar {
    settings: server::Settings,
    proxy: Arc<Proxy>,
    admin: Arc<Admin>,
    mains: Vec<Listener>,
    #[cfg(unix)]
    sockets: Vec<UnixSocket>,
    tls: Option<Arc<ServerConfig>>,
    /// With the address that the routes know each by.
    owns: Vec<(SocketAddr, Listener)>,
    admin_listener: Listener,
    health_listener: Option<Listener>,
    drain: Drain,
    tasks: Tasks,
}

/// What a [`Sidecar`] finds around it.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The time.
    pub clock: Clock,
    /// Where upstreams' names are looked up.
    pub names: Names,
    /// What there is of memory and descriptors: limits that do not fit are lowered.
    pub machine: Machine,
    /// Log lines that nobody took.
    pub lost_lines: LostLines,
}

impl Surroundings {
    /// The system's names, no limits, and a log that loses nothing.
    pub fn new(clock: Clock) -> Self {
        let (names, machine, lost_lines) = (Names::system(), Machine::default(), LostLines::default());
        Self { clock, names, machine, lost_lines }
    }
}

/// Tries every credential of a config once and says how each fared, and whose it is; listens on nothing.
///
/// # Errors
/// [`StartError`], but no credential's own.
pub async fn try_credentials(compiled: &Compiled, clock: &Clock) -> Result<Vec<(Status, Option<String>)>, StartError> {
    let (clock, tasks) = (clock.clone(), Tasks::default());
    let control = control(&SystemRoots::load(), &compiled.control, &compiled.egress)?;
    let means = auth::Means { control, clock, tasks: tasks.clone(), environment: compiled.aws.clone() };
    let schemes = auth::Builder::new(means).build(&compiled.schemes, &compiled.fields);
    let mut statuses = Vec::new();
    for credential in &schemes.credentials {
        credential.tried().await;
        let owner = credential.owner().await;
        statuses.push((credential.status(), owner));
    }
    tasks.stop().await;
    Ok(statuses)
}

fn control(roots: &SystemRoots, settings: &ClientSettings, egress: &Egress) -> Result<Control, StartError> {
    let alpn: &[&[u8]] = &[b"h2", b"http/1.1"];
    Ok(Control::try_new(roots.client_config(settings, alpn)?, egress.clone())?)
}

/// What the listeners speak TLS with; the certificate is followed.
fn secure(identity: Identity, tasks: &Tasks) -> Result<Arc<ServerConfig>, TlsError> {
    let certificate = Certificate::try_new(identity)?;
    let config = certificate.server_config()?;
    tasks.spawn("certificate", certificate.follow());
    Ok(config)
}

/// Lowers limits that memory or descriptors do not suffice for.
fn fit(machine: &Machine, settings: &mut server::Settings, proxy: &mut proxy::Settings) {
    let wanted = Limits {
        connections: settings.max_connections,
        in_flight: proxy.max_in_flight,
        buffers: proxy.buffer_budget.0,
    };
    let fitting = machine.fit(wanted);
    if fitting != wanted {
        tracing::warn!(
            memory = machine.memory, descriptors = machine.descriptors,
            max_connections = fitting.connections, max_in_flight = fitting.in_flight,
            buffer_budget = %ByteSize(fitting.buffers),
            "limits lowered to what memory and descriptors suffice for"
        );
    }
    settings.max_connections = fitting.connections;
    proxy.max_in_flight = fitting.in_flight;
    proxy.buffer_budget = ByteSize(fitting.buffers);
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
    pub async fn bind_in(compiled: Compiled, surroundings: Surroundings) -> Result<Self, StartError> {
        let Surroundings { clock, names, machine, lost_lines } = surroundings;
        let Compiled {
            log,
            admin,
            server: mut settings,
            mut proxy,
            control,
            egress,
            aws,
            routes,
            schemes,
            fields,
            warnings: _,
        } = compiled;
        fit(&machine, &mut settings, &mut proxy);
        let reach = settings.reach;
        let mains = Listener::bind_all(&settings.listen, reach).await?;
        #[cfg(unix)]
        let mut sockets = Vec::new();
        #[cfg(unix)]
        for path in &settings.sockets {
            sockets.push(UnixSocket::bind(path, &settings.socket_access).await?);
        }
        let mut owns = Vec::new();
        for address in routes.iter().filter_map(|route| route.listen).collect::<BTreeSet<_>>() {
            owns.push((address, Listener::bind(address, reach).await?));
        }
        let admin_listener = Listener::bind(admin.listen, reach).await?;
        let health_listener = match admin.health_listen {
            Some(address) => Some(Listener::bind(address, reach).await?),
            None => None,
        };

        let tasks = Tasks::default();
        let tls = settings.tls.clone().map(|identity| secure(identity, &tasks)).transpose()?;
        let roots = SystemRoots::load();
        let control = self::control(&roots, &control, &egress)?;
        for route in &routes {
            if let Some(proxy) = &route.upstream.origin.via {
                tracing::info!(route = %route.name, %proxy, "its upstream is reached through a proxy");
            }
        }
        let means = auth::Means { control, clock: clock.clone(), tasks: tasks.clone(), environment: aws };
        let schemes = auth::Builder::new(means).build(&schemes, &fields);
        let pool = Pool::new(roots, tasks.clone(), names);
        let token = proxy.caller_token.clone().map(CallerToken::try_new).transpose()?.map(Arc::new);
        if let Some(token) = &token {
            tasks.spawn("caller-token", Arc::clone(token).follow());
        }
        let snapshot = Snapshot::try_new(&proxy, routes, &schemes, &pool, token)?;

        let mut registry = Registry::with_prefix("countersign");
        registry.register("build", "The program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register_collector(Box::new(CredentialMetrics::new(schemes.credentials.clone())));
        lost_lines.register(&mut registry);
        let budget = Budget::new(proxy.buffer_budget.0, proxy.buffer_wait);
        let access = if log.access { AccessLog::All } else { AccessLog::Faults };
        let proxy = Arc::new(Proxy::new(snapshot, budget, clock.clone(), access, &mut registry));
        let drain = Drain::default();
        let admin = Arc::new(Admin::new(&admin, schemes.credentials, registry, drain.clone(), clock));
        Ok(Self {
            settings,
            proxy,
            admin,
            mains,
            #[cfg(unix)]
            sockets,
            tls,
            owns,
            admin_listener,
            health_listener,
            drain,
            tasks,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        Addresses {
            proxy: self.mains.iter().map(Listener::address).collect(),
            sockets: self.settings.sockets.clone(),
            own: self.owns.iter().map(|(configured, listener)| (*configured, listener.address())).collect(),
            admin: self.admin_listener.address(),
            health: self.health_listener.as_ref().map(Listener::address),
        }
    }

    /// Answers until `stop`, then drains; `hurry` ends the draining at once.
    pub async fn run(self, stop: impl Future<Output = ()>, hurry: impl Future<Output = ()>) -> Ended {
        let Self { settings, proxy, admin, mains, tls, owns, admin_listener, health_listener, drain, tasks, .. } = self;
        let timers = Timers { head: settings.header_timeout, idle: settings.idle_timeout };
        let places = Arc::new(Semaphore::new(settings.max_connections));
        let terms = Terms { timers, places, drain: drain.clone() };
        let service = |own: Option<SocketAddr>| {
            let proxy = Arc::clone(&proxy);
            move |arrival: Arrival| {
                let proxy = Arc::clone(&proxy);
                async move { proxy.serve(arrival, own).await }
            }
        };
        #[cfg(unix)]
        for socket in self.sockets {
            tracing::info!(listener = "socket", path = %socket.path().display(), "listening");
            tasks.spawn("listener", socket.serve(terms.clone(), service(None)));
        }
        let mains = mains.into_iter().map(|listener| ("proxy", None, listener));
        let owns = owns.into_iter().map(|(configured, listener)| ("route", Some(configured), listener));
        for (name, own, listener) in mains.chain(owns) {
            tracing::info!(listener = name, address = %listener.address(), "listening");
            tasks.spawn("listener", listener.serve(terms.clone(), tls.clone(), service(own)));
        }
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
            let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS));
            let terms = Terms { timers: ADMIN_TIMERS, places, drain: admin_drain.clone() };
            tasks.spawn("admin", listener.serve(terms, None, service));
        }

        stop.await;
        tracing::info!(limit = ?settings.drain_timeout, "stopping: no longer ready, waiting for requests to end");
        let cut = drain.run(settings.drain_timeout, hurry).await;
        tasks.stop().await;
        // Probes are answered in an instant: nothing is lost by not waiting.
        admin_drain.run(Duration::ZERO, std::future::ready(())).await;
        if cut == 0 {
            tracing::info!("stopped; every request was answered");
        } else {
            tracing::error!(cut, "stopped; requests were cut at the drain deadline");
        }
        Ended { cut }
    }
}
