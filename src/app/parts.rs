//! What a config becomes: made without effect, so that one which cannot be used changes nothing.
//!
//! What a config has in common with the one before is taken over from it: credentials with what they hold, connections,
//! the caller token with its predecessor, the certificate that listeners show.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use rustls::ServerConfig;

use super::StartError;
use super::traces::Export;
use crate::auth::control::Control;
use crate::auth::spec::{AwsEnvironment, Coverage, PayloadSigning};
use crate::auth::{self, Credential};
use crate::capacity::{Limits, Machine};
use crate::clock::Clock;
use crate::config::Compiled;
use crate::egress::Egress;
use crate::proxy::guard::token::CallerToken;
use crate::proxy::pool::Pool;
use crate::proxy::{self, Snapshot};
use crate::secret::LocalSecret;
use crate::server::Reach;
#[cfg(unix)]
use crate::server::unix::Access;
use crate::tasks::Tasks;
use crate::telemetry::traces::{Counts, Tracer};
use crate::tls::serving::Certificate;
use crate::tls::{ClientSettings, Fingerprint, Identity, SystemRoots, TlsError};
use crate::units::ByteSize;
use crate::{admin, telemetry};

/// The admin's, at most.
const LISTENERS: usize = 2;

/// What every config is made with.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) roots: SystemRoots,
    pub(super) pool: Pool,
    pub(super) machine: Machine,
    pub(super) clock: Clock,
    pub(super) tasks: Tasks,
}

/// A config that can be served.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) credentials: Vec<Arc<dyn Credential>>,
    pub(super) cache: Option<Arc<auth::TokenCache>>,
    known: auth::Known,
    way: Way,
    token: Option<(LocalSecret, Arc<CallerToken>)>,
    shown: Option<Shown>,
}

/// The way to token endpoints and AWS. What was fetched on another is another's.
#[derive(Debug)]
struct Way {
    settings: ClientSettings,
    files: Fingerprint,
    egress: Egress,
    largest_answer: usize,
    aws: AwsEnvironment,
    control: Control,
}

/// The certificate that listeners show.
#[derive(Debug)]
struct Shown {
    identity: Identity,
    /// Held for its follower, which ends with it.
    _certificate: Arc<Certificate>,
    config: Arc<ServerConfig>,
}

/// Of a config, what is read at a start alone.
#[derive(Debug)]
pub(super) struct AtStart {
    log: telemetry::log::Settings,
    traces: Option<telemetry::traces::Settings>,
    admin: admin::Settings,
    workers: Option<NonZero<usize>>,
    max_connections: usize,
    buffer_budget: ByteSize,
    buffer_wait: Duration,
    reach: Reach,
    #[cfg(unix)]
    socket_access: Access,
}

/// The client that credentials are fetched with.
pub(super) fn control(roots: &SystemRoots, compiled: &Compiled) -> Result<Control, StartError> {
    let alpn: &[&[u8]] = &[b"h2", b"http/1.1"];
    let tls = roots.client_config(&compiled.control, alpn)?;
    Ok(Control::try_new(tls, compiled.egress.clone())?.taking(compiled.largest_answer))
}

/// Lowers limits that memory or descriptors do not suffice for.
pub(super) fn fit(machine: &Machine, compiled: &mut Compiled) {
    let of_routes = compiled.routes.iter().map(|route| {
        let answers = &route.upstream.origin.answers;
        u64::from(answers.head) + route.replay_buffer as u64
    });
    let wanted = Limits {
        connections: compiled.server.max_connections,
        in_flight: compiled.proxy.max_in_flight,
        buffers: compiled.proxy.buffer_budget.0,
        request: compiled.server.copy_buffer as u64 + of_routes.max().unwrap_or_default(),
        admin: LISTENERS * compiled.admin.max_connections,
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
    for route in &compiled.routes {
        let spec = route.scheme.and_then(|index| compiled.schemes.get(index));
        let holds = spec.is_some_and(|spec| spec.coverage() == Coverage::Signature(PayloadSigning::Signed));
        if holds && route.max_body > fitting.buffers {
            tracing::warn!(
                route = %route.name, max_body = %ByteSize(route.max_body), buffer_budget = %ByteSize(fitting.buffers),
                "larger bodies than buffer_budget cannot be signed here, whatever max_body says; give it more memory"
            );
        }
    }
    compiled.server.max_connections = fitting.connections;
    compiled.proxy.max_in_flight = fitting.in_flight;
    compiled.proxy.buffer_budget = ByteSize(fitting.buffers);
}

impl Parts {
    /// Makes a config's parts. Blocks for some small file reads.
    ///
    /// # Errors
    /// [`StartError`], but for its addresses.
    pub(super) fn try_new(compiled: &Compiled, before: Option<&Self>, ground: &Ground) -> Result<Self, StartError> {
        for route in &compiled.routes {
            if let Some(proxy) = &route.upstream.origin.via {
                tracing::info!(route = %route.name, %proxy, "its upstream is reached through a proxy");
            }
        }
        let way = Way::try_new(compiled, before.map(|before| &before.way), ground)?;
        let (clock, tasks) = (ground.clock.clone(), ground.tasks.clone());
        let means = auth::Means { control: way.control.clone(), clock, tasks, environment: way.aws.clone() };
        let mut builder = auth::Builder::new(means);
        if let Some(before) = before.filter(|before| before.way.is(&way)) {
            builder = builder.succeed(before.known.clone());
        }
        let builder = builder.sharing(compiled.token_cache.as_ref(), &ground.roots)?;
        let schemes = builder.build(&compiled.schemes, &compiled.fields);
        let before_token = before.and_then(|before| before.token.as_ref());
        let token = token(compiled.proxy.caller_token.as_ref(), before_token, &ground.tasks)?;
        let parts = proxy::Parts {
            schemes: &schemes,
            pool: &ground.pool,
            token: token.as_ref().map(|(_, token)| Arc::clone(token)),
            before: before.map(|before| &*before.snapshot),
        };
        let snapshot = Arc::new(Snapshot::try_new(&compiled.proxy, compiled.routes.clone(), parts)?);
        let shown = match (&compiled.server.tls, before.and_then(|before| before.shown.as_ref())) {
            (Some(identity), Some(shown)) if shown.identity == *identity => Some(shown.share()),
            (Some(identity), _) => Some(Shown::try_new(identity.clone(), &ground.tasks)?),
            (None, _) => None,
        };
        let auth::Schemes { credentials, known, cache, .. } = schemes;
        Ok(Self { snapshot, credentials, cache, known, way, token, shown })
    }

    /// What begins spans, and what sends them, where they are asked for. They go the way of token calls.
    pub(super) fn trace(
        &self,
        settings: Option<telemetry::traces::Settings>,
        tasks: &Tasks,
        registry: &mut Registry,
    ) -> (Option<Tracer>, Option<Export>) {
        let Some(settings) = settings else { return (None, None) };
        let counts = Counts::default();
        counts.register(registry);
        let (tracer, waiting) = Tracer::new(settings.sampling, counts.clone());
        let export = Export::start(settings, self.way.control.clone(), waiting, counts, tasks);
        (Some(tracer), Some(export))
    }

    /// What listeners speak TLS with.
    pub(super) fn tls(&self) -> Option<&Arc<ServerConfig>> {
        self.shown.as_ref().map(|shown| &shown.config)
    }
}

fn token(
    wanted: Option<&LocalSecret>,
    before: Option<&(LocalSecret, Arc<CallerToken>)>,
    tasks: &Tasks,
) -> Result<Option<(LocalSecret, Arc<CallerToken>)>, StartError> {
    let Some(source) = wanted else { return Ok(None) };
    if let Some((_, token)) = before.filter(|(known, _)| known == source) {
        return Ok(Some((source.clone(), Arc::clone(token))));
    }
    let token = Arc::new(CallerToken::try_new(source.clone())?);
    if let Some((_, before)) = before {
        token.succeed(before);
    }
    tasks.spawn("caller-token", token.follow());
    Ok(Some((source.clone(), token)))
}

impl Way {
    fn try_new(compiled: &Compiled, before: Option<&Self>, ground: &Ground) -> Result<Self, StartError> {
        let Compiled { control: settings, egress, largest_answer, aws, .. } = compiled;
        // Before the files are read, so that a change in between is taken for one the next time.
        let files = settings.fingerprint();
        let known = before.filter(|before| {
            before.settings == *settings
                && before.files == files
                && before.egress == *egress
                && before.largest_answer == *largest_answer
        });
        let control = match known {
            Some(known) => known.control.clone(),
            None => control(&ground.roots, compiled)?,
        };
        let (settings, egress, aws) = (settings.clone(), egress.clone(), aws.clone());
        Ok(Self { settings, files, egress, largest_answer: *largest_answer, aws, control })
    }

    fn is(&self, other: &Self) -> bool {
        let Self { settings, files, egress, largest_answer, aws, control: _ } = self;
        *settings == other.settings
            && *files == other.files
            && *egress == other.egress
            && *largest_answer == other.largest_answer
            && *aws == other.aws
    }
}

impl Shown {
    fn try_new(identity: Identity, tasks: &Tasks) -> Result<Self, TlsError> {
        let certificate = Certificate::try_new(identity.clone())?;
        let config = certificate.server_config()?;
        tasks.spawn("certificate", Certificate::follow(Arc::downgrade(&certificate)));
        Ok(Self { identity, _certificate: certificate, config })
    }

    fn share(&self) -> Self {
        let Self { identity, _certificate: certificate, config } = self;
        Self { identity: identity.clone(), _certificate: Arc::clone(certificate), config: Arc::clone(config) }
    }
}

impl AtStart {
    pub(super) fn of(compiled: &Compiled) -> Self {
        Self {
            log: compiled.log.clone(),
            traces: compiled.traces.clone(),
            admin: compiled.admin.clone(),
            workers: compiled.server.workers,
            max_connections: compiled.server.max_connections,
            buffer_budget: compiled.proxy.buffer_budget,
            buffer_wait: compiled.proxy.buffer_wait,
            reach: compiled.server.reach,
            #[cfg(unix)]
            socket_access: compiled.server.socket_access.clone(),
        }
    }

    /// The keys that `compiled` has changed and that wait for a start.
    pub(super) fn postponed(&self, compiled: &Compiled) -> Vec<&'static str> {
        let wanted = Self::of(compiled);
        let mut postponed = vec![
            ("[log]", self.log != wanted.log),
            ("[traces]", self.traces != wanted.traces),
            ("[admin]", self.admin != wanted.admin),
            ("workers", self.workers != wanted.workers),
            ("max_connections", self.max_connections != wanted.max_connections),
            ("buffer_budget", self.buffer_budget != wanted.buffer_budget),
            ("buffer_wait", self.buffer_wait != wanted.buffer_wait),
            ("expose, for addresses that were listened on before", self.reach != wanted.reach),
        ];
        #[cfg(unix)]
        postponed.push(("socket_mode and socket_users", self.socket_access != wanted.socket_access));
        postponed.retain(|(_, is_other)| *is_other);
        postponed.into_iter().map(|(key, _)| key).collect()
    }
}
