//! From the file as written to settings that cannot be wrong.
//!
//! Every part notes its own problems and goes on; what could not be understood is left out, which is safe because any
//! error makes [`load`](super::load) throw the whole result away. Imports `raw` and the modules whose settings it fills.

mod auth;
mod caller;
mod environment;
mod field;
mod forward;
mod identity_pool;
mod listen;
mod name;
mod path;
mod role;
mod route;
mod secret;
mod sigv4;
mod size;
mod token_cache;
mod traces;
mod upstream;
mod url;
mod user;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::auth::Logins;
pub(super) use self::field::is_written_by_signing;
use super::diagnostic::Problems;
use super::raw::RawConfig;
use super::{Compiled, Environment, Hash};
use crate::auth::spec::SecretField;
use crate::tls::ClientSettings;
use crate::{proxy, server, telemetry};

/// What every part needs.
pub(super) struct Context<'a> {
    pub(super) environment: &'a Environment,
    /// What relative file names start from.
    pub(super) folder: &'a Path,
    pub(super) problems: &'a mut Problems,
    /// Whose logins the cognito-user tables are, once these are compiled.
    pub(super) logins: Option<Arc<Logins>>,
    /// The tables whose logins something else borrows.
    pub(super) borrowed: Vec<String>,
    /// Header values that are secrets and may change.
    pub(super) fields: Vec<SecretField>,
    /// Whether the developer's authority must be there.
    pub(super) authority: Authority,
}

/// What is asked of `ca_cert` and `ca_key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Authority {
    /// They are there, and in order.
    Needed,
    /// Nothing: they are about to be made.
    NotYet,
}

impl<'a> Context<'a> {
    pub(super) fn new(environment: &'a Environment, folder: &'a Path, problems: &'a mut Problems) -> Self {
        let (borrowed, fields) = (Vec::new(), Vec::new());
        Self { environment, folder, problems, logins: None, borrowed, fields, authority: Authority::Needed }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Compiles `raw`. The result means something only if no error was noted.
pub(super) fn compile(raw: RawConfig, context: &mut Context<'_>) -> Compiled {
    let RawConfig { proxy, admin, log, traces, upstream, auth, token_cache: raw_cache, routes } = raw;
    let heads = listen::heads(&proxy, context);
    // hyper reads no less at once than the least.
    let copy_buffer = size::within("copy_buffer", &proxy.copy_buffer, 8..=1024, context);
    let defaults = upstream::transport(&upstream, context);
    let (listens, admin) = listen::check(&proxy, admin, &routes, context);
    forward::refuse_self(&defaults.egress, &listens.tcp, upstream.proxy.span, context);
    let allowed_hosts = name::hosts("allowed_hosts", &proxy.allowed_hosts.value, context);
    let allowed_origins = caller::origins(&proxy.allowed_origins.value, context);
    let caller_token = proxy.caller_token.as_ref().and_then(|token| caller::token("caller_token", token, context));
    upstream::check_budget(&upstream, &routes, &proxy.buffer_budget, context);
    let mut auths = auth::compile(&auth, context);
    let token_cache = token_cache::compile(&raw_cache, context);
    let routes = route::compile(routes, &mut auths, context);
    let schemes = auths.finish(context);
    token_cache::warn_if_idle(&raw_cache, &schemes, context);
    let traces = traces::compile(&traces, context);
    let elsewhere = forward::policy(&proxy.forward.value, &upstream, &defaults.egress, &routes, context);
    Compiled {
        log: telemetry::log::Settings { format: log.format.value, level: log.level.value, access: log.access.value },
        traces,
        admin,
        control: ClientSettings { identity: None, ..defaults.tls },
        largest_answer: size::within("max_token_answer", &proxy.max_token_answer, 4..=1024, context),
        egress: defaults.egress,
        server: server::Settings {
            listen: listens.tcp,
            sockets: listens.sockets,
            #[cfg(unix)]
            socket_access: listens.socket_access,
            tls: listens.tls,
            reach: listens.reach,
            workers: listen::workers(&proxy, context),
            max_connections: proxy.max_connections.value,
            accept_pause: listen::accept_pause(&proxy, context),
            header_timeout: proxy.header_timeout.value,
            idle_timeout: proxy.idle_timeout.value,
            heads,
            copy_buffer: copy_buffer.max(heads.bytes),
            drain_timeout: proxy.drain_timeout.value,
            quiet: server::drain::QUIET,
        },
        proxy: proxy::Settings {
            allowed_hosts,
            allowed_origins,
            caller_token,
            forwarding: proxy.forwarded.value,
            elsewhere,
            max_in_flight: proxy.max_in_flight.value,
            buffer_budget: proxy.buffer_budget.value,
            buffer_wait: proxy.buffer_wait.value,
        },
        aws: environment::aws(context),
        token_cache,
        routes,
        schemes,
        fields: std::mem::take(&mut context.fields),
        hash: Hash::default(),
        warnings: Vec::new(),
    }
}
