//! API Gateway: TLS or plain HTTP, authorizers that verify on their own, and an integration that echoes.
//!
//! Request bodies are streamed and hashed as they pass; only a method with an IAM authorizer collects its body, up to API
//! Gateway's 10 MB, because the signature covers it. It refuses in the words of docs/aws.md A9.

mod authorize;
mod echo;
mod received;
mod refusal;
mod serve;
mod tap;

pub use received::{BodyEnd, Received};

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use http::{Request, Response};
use rustls::ServerConfig;
use tokio::sync::watch;

use crate::authority::Authority;
use crate::body::Body;
use crate::clock::Clock;
use crate::double::Double;
use crate::keys::AccessKeys;
use crate::ledger::Ledger;
use crate::script::{Answer, Script};
use crate::token::{Claims, TokenVerifier};

/// A running API.
#[derive(Debug)]
pub struct Gateway {
    double: Double,
    api: Arc<Api>,
}

/// An API that is being described.
#[derive(Debug)]
#[must_use]
pub struct GatewayBuilder {
    tls: Option<Arc<ServerConfig>>,
    alpn: Alpn,
    methods: Vec<(String, Authorizer)>,
    responders: Vec<(String, Respond)>,
    kind: ApiKind,
    clock: Clock,
}

/// The protocols offered in the TLS handshake. Without TLS it speaks HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
    /// `h2`, `http/1.1`.
    Both,
}

/// The two kinds of API, which refuse differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiKind {
    /// REST API: talkative errors with `x-amzn-errortype`; an unknown path is 403 "Missing Authentication Token".
    Rest,
    /// HTTP API: terse errors; an unknown path is 404 "Not Found".
    Http,
}

/// Who may call a method.
#[derive(Debug, Clone)]
pub enum Authorizer {
    /// Anybody.
    Open,
    /// Who shows a token of this pool (docs/aws.md C2).
    Token {
        /// The pool's verifier.
        verifier: TokenVerifier,
        /// The field that carries the token.
        header: String,
        /// How the token stands in it.
        form: TokenForm,
        /// A scope the token must grant.
        scope: Option<String>,
    },
    /// Who signs with one of these keys (docs/aws.md A1 to A5). The signed request may have 10 MB of body.
    Iam {
        /// The account's keys.
        keys: AccessKeys,
        /// The region in the signature's scope.
        region: String,
        /// The service in the signature's scope: `execute-api`.
        service: String,
    },
    /// Who sends this in `x-api-key`.
    ApiKey {
        /// The key.
        value: String,
    },
}

/// How a token stands in its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenForm {
    /// The token alone.
    Raw,
    /// After `Bearer `.
    Bearer,
    /// Either.
    Either,
}

/// Who the authorizer found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Nobody was looked for.
    Anonymous,
    /// An app client, by its token.
    Client(Claims),
    /// An IAM principal, by its signature.
    Iam {
        /// Its ARN.
        arn: String,
        /// The key it signed with.
        access_key_id: String,
    },
    /// The holder of the API key.
    ApiKey,
}

/// What a responder returns.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Answers authorised requests in place of the echo. The body it is given is recorded as it is read; for a WebSocket,
/// `hyper::upgrade::on` works on the request.
pub type Responder = Arc<dyn Fn(Request<Body>, Principal) -> ResponseFuture + Send + Sync>;

#[derive(Clone)]
struct Respond(Responder);

/// What all connections share.
#[derive(Debug)]
struct Api {
    tls: Option<Arc<ServerConfig>>,
    methods: Vec<(String, Authorizer)>,
    responders: Vec<(String, Respond)>,
    kind: ApiKind,
    clock: Clock,
    script: Script,
    received: Ledger<Received>,
    connections: AtomicUsize,
    /// Changes when all connections are asked to end.
    leaving: watch::Sender<()>,
}

impl Gateway {
    /// A REST API over plain HTTP without methods, to be changed.
    pub fn builder() -> GatewayBuilder {
        GatewayBuilder {
            tls: None,
            alpn: Alpn::Both,
            methods: Vec::new(),
            responders: Vec::new(),
            kind: ApiKind::Rest,
            clock: Clock::system(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.double.address()
    }

    /// The port of [`address`](Self::address).
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// The latest 16,384 requests, oldest first; a request stands here as soon as its head has arrived.
    pub fn received(&self) -> Vec<Received> {
        self.api.received.snapshot()
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.api.connections.load(Ordering::Relaxed)
    }

    /// How many request heads have arrived so far.
    pub fn requests(&self) -> usize {
        self.api.received.total()
    }

    /// Waits until the requests received satisfy `condition`; it is asked again at every piece that arrives.
    pub async fn until(&self, condition: impl Fn(&[Received]) -> bool) {
        self.api.received.until(|received| condition(&received.snapshot())).await;
    }

    /// Ends all connections once their requests are answered: over HTTP/2 with a GOAWAY, over HTTP/1.1 without a word if
    /// they are idle. New ones are taken.
    pub fn go_away(&self) {
        self.api.leaving.send_replace(());
    }

    /// The time it goes by, to be set by a test.
    pub fn clock(&self) -> &Clock {
        &self.api.clock
    }

    /// Queues an answer for one of the next requests, given before any authorizer has looked at them.
    pub fn script(&self, answer: Answer) {
        self.api.script.push(answer);
    }
}

impl GatewayBuilder {
    /// Speaks TLS, with a certificate for these names.
    pub fn tls(mut self, authority: &Authority, names: &[&str]) -> Self {
        self.tls = Some(authority.server_config(names, &[]));
        self
    }

    /// Speaks TLS as configured, but for ALPN: for client certificates, odd versions or a broken chain.
    pub fn tls_config(mut self, config: Arc<ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// The protocols to offer; both where this is not called.
    pub fn alpn(mut self, alpn: Alpn) -> Self {
        self.alpn = alpn;
        self
    }

    /// Guards the paths under a prefix of whole segments; the longest prefix wins. Stages are part of the path.
    pub fn method(mut self, path_prefix: &str, authorizer: Authorizer) -> Self {
        self.methods.push((path_prefix.to_owned(), authorizer));
        self
    }

    /// Answers under a prefix of whole segments in place of the echo, once authorised; the longest prefix wins.
    pub fn respond(mut self, path_prefix: &str, responder: Responder) -> Self {
        self.responders.push((path_prefix.to_owned(), Respond(responder)));
        self
    }

    /// REST or HTTP API; REST where this is not called.
    pub fn kind(mut self, kind: ApiKind) -> Self {
        self.kind = kind;
        self
    }

    /// Judges expiry and signatures at the time that `source` tells, and puts that in `Date`.
    pub fn clock(self, source: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock.set(source);
        self
    }

    /// Starts it.
    pub async fn start(self) -> Gateway {
        let protocols: &[&[u8]] = match self.alpn {
            Alpn::Http1 => &[b"http/1.1"],
            Alpn::Http2 => &[b"h2"],
            Alpn::Both => &[b"h2", b"http/1.1"],
        };
        let tls = self.tls.map(|config| {
            let mut config = Arc::unwrap_or_clone(config);
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config)
        });
        let script = Script::default();
        let api = Arc::new(Api {
            tls,
            methods: self.methods,
            responders: self.responders,
            kind: self.kind,
            clock: self.clock,
            script: script.clone(),
            received: Ledger::new(),
            connections: AtomicUsize::new(0),
            leaving: watch::Sender::new(()),
        });
        let serving = Arc::clone(&api);
        let double = Double::start("gateway", script, move |stream, crew| {
            let number = serving.connections.fetch_add(1, Ordering::Relaxed) + 1;
            serve::connection(Arc::clone(&serving), stream, number, crew)
        })
        .await;
        Gateway { double, api }
    }
}

impl Principal {
    /// Client id or ARN.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Client(claims) => Some(&claims.client_id),
            Self::Iam { arn, .. } => Some(arn),
            Self::Anonymous | Self::ApiKey => None,
        }
    }
}

impl std::fmt::Debug for Respond {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Responder")
    }
}

#[cfg(test)]
mod tests;
