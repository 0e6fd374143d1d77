//! Routes: which request goes where, and what is done to it on the way.
//!
//! Plain data and one lookup; nothing here dials, signs or reads a body. Imports nothing but its own parts.

pub mod table;
pub mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

pub use table::{NoMatch, Table};
pub use upstream::{Origin, Upstream, is_loopback};

/// One `[[route]]`, resolved.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the config that is on or off")]
pub struct Route {
    /// Unique name, for logs and metrics.
    pub name: Arc<str>,
    /// A listener of its own; `None` is the main ones.
    pub listen: Option<SocketAddr>,
    /// The Host name it answers to, lower case, without a port; `None` is any allowed one.
    pub host: Option<String>,
    /// Prefix of whole segments: `/` or `/a/b`, never with a slash at the end.
    pub path: String,
    /// The methods it takes; `None` is [`Route::DEFAULT_METHODS`].
    pub methods: Option<Vec<Method>>,
    /// Where requests go.
    pub upstream: Upstream,
    /// Whether `path` is taken off before the upstream's base path is put in front.
    pub strip_path: bool,
    /// Index into the compiled schemes; `None` sends requests as they are.
    pub scheme: Option<usize>,
    /// Fields set and removed on the way out.
    pub request_headers: HeaderEdits,
    /// Whether `%2F` may stand in the path.
    pub allow_encoded_slash: bool,
    /// Whether a WebSocket may begin here.
    pub websocket: bool,
    /// Whether `Location` is led back here.
    pub rewrite_location: bool,
    /// What becomes of the upstream's cookies.
    pub cookies: Cookies,
    /// Requests of this route at the same time; `None` shares one half of the global limit with all such routes of the
    /// same origin.
    pub max_in_flight: Option<usize>,
    /// Largest body that is held for signing, in bytes.
    pub max_body: u64,
    /// Largest streamed body that is kept to be sent once more, in bytes.
    pub replay_buffer: usize,
    /// Until the response head, from the last piece of a streamed body on.
    pub response_timeout: Duration,
    /// Between two pieces of an answer's body.
    pub body_idle_timeout: Duration,
    /// Between two pieces of a request's body.
    pub upload_idle_timeout: Duration,
    /// How long a request waits for a credential that is being fetched.
    pub credential_timeout: Duration,
    /// What an Idempotency-Key is worth.
    pub idempotency_keys: IdempotencyKeys,
}

impl Route {
    /// What a route without `methods` takes (docs/rules.md 2.2).
    pub const DEFAULT_METHODS: [Method; 7] =
        [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

    /// The methods this route takes.
    pub fn methods(&self) -> &[Method] {
        self.methods.as_deref().unwrap_or(&Self::DEFAULT_METHODS)
    }

    /// This route for callers that write the upstream's own URL: its `host` is the upstream's, its `path` is what all
    /// requests of this route begin with there, and what is asked for is what is sent.
    fn by_url(&self) -> Self {
        let base = &self.upstream.base_path;
        let path = match self.path.as_str() {
            path if self.strip_path || path == "/" => base.clone(),
            path => format!("{base}{path}"),
        };
        let upstream = Upstream { origin: Arc::clone(&self.upstream.origin), base_path: String::new() };
        Self {
            host: Some(self.upstream.origin.url_host()),
            path: if path.is_empty() { "/".to_owned() } else { path },
            strip_path: false,
            upstream,
            ..self.clone()
        }
    }
}

/// `routes` for callers that write URLs of upstreams, each behind its position in the list. A route with a `host` is asked
/// for by that name alone; so is an upstream that has the name of one, and loopback without a port is ourselves.
pub fn by_url(routes: &[Route]) -> Vec<(usize, Route)> {
    let is_named = |host: &str| routes.iter().any(|route| route.host.as_deref() == Some(host));
    let nameless = routes.iter().enumerate().filter(|(_, route)| route.host.is_none());
    let by_url = nameless.map(|(index, route)| (index, route.by_url()));
    let is_ours = |host: &str| is_named(host) || is_loopback(host.trim_matches(['[', ']']));
    by_url.filter(|(_, route)| !route.host.as_deref().is_some_and(is_ours)).collect()
}

/// The hosts that URLs of these routes name: without ports and brackets, each once, in order.
pub fn hosts(routes: &[Route]) -> Vec<String> {
    let by_url = by_url(routes);
    let all = routes.iter().chain(by_url.iter().map(|(_, route)| route)).filter_map(|route| route.host.as_deref());
    let mut hosts: Vec<String> = all.map(|host| bare(host).to_owned()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

fn bare(host: &str) -> &str {
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    match bracketed.or_else(|| host.split_once(':').filter(|_| !is_address)) {
        Some((host, _port)) => host,
        None => host,
    }
}

/// What becomes of the cookies that an upstream sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cookies {
    /// They pass as they come.
    #[default]
    Pass,
    /// They are made good for a caller that knows this route, over plain HTTP, instead of the upstream.
    Local,
}

/// Whether a request that is not idempotent may be sent again because it carries an `Idempotency-Key`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdempotencyKeys {
    /// No: few APIs know the field.
    #[default]
    Ignored,
    /// Yes: this one does a request once, however often it comes.
    Trusted,
}

/// Changes to a request's fields. A value that came from a secret is marked sensitive and does not print.
#[derive(Clone, Debug, Default)]
pub struct HeaderEdits {
    /// Set to exactly this, whatever the client sent.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Set to a secret that may change: an index into the compiled fields.
    pub secrets: Vec<(HeaderName, usize)>,
    /// Removed.
    pub remove: Vec<HeaderName>,
}
