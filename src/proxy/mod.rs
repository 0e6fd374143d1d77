//! The way of a request: guard, match, rewrite, authorise, forward, relay, record.
//!
//! One straight line, [`Proxy::pass`]; each step gives the next one a value that only it can make. Imports `auth`,
//! `diagnosis`, `route`, `message`, `server`, `telemetry`, `tls`, `tasks`, `clock`, `units`.

mod buffers;
pub mod conceal;
mod diagnose;
pub mod elsewhere;
pub mod explain;
pub mod forward;
pub mod guard;
mod intercept;
pub mod listing;
pub mod localize;
pub mod meter;
pub mod outcome;
pub mod pool;
pub mod record;
pub mod relay;
pub mod rewrite;
pub mod skew;
pub mod tunnel;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use self::buffers::Buffers;
use self::conceal::{Passage, Secrets};
use self::diagnose::Case;
use self::elsewhere::{Connect, Known, Policy};
use self::forward::Failure;
use self::guard::token::CallerToken;
use self::guard::{Admission, Forwarding, Guard, Named, Preflight};
use self::intercept::Entrance;
use self::outcome::ProxyError;
use self::pool::elsewhere::Elsewhere;
use self::pool::{Answered, Connections, Pool, Reuse, Switched, UpstreamError};
use self::record::{AccessLog, Exchange, Metrics};
use self::relay::{Permits, Relayed};
use self::rewrite::{Outbound, Purpose, Spare};
use self::skew::Offset;
use self::tunnel::{Connecting, Handshake};
use crate::auth::refusal::{self, Refusal};
use crate::auth::request::Grant;
use crate::auth::secrets::LiveField;
use crate::auth::spec::Coverage;
use crate::auth::{Scheme, Schemes};
use crate::clock::{Clock, Moment};
use crate::diagnosis::{Diagnosis, Ledger};
use crate::message::body::{Budget, Upload};
use crate::message::fields::{self, Trailers};
use crate::message::gateway_ids::GatewayIds;
use crate::message::hex;
use crate::message::target::Target;
use crate::message::websocket::HandshakeError;
use crate::route::upstream::HostPort;
use crate::route::{self, NoMatch, Origin, Route, Table};
use crate::secret::LocalSecret;
use crate::server::{Arrival, Refused};
use crate::telemetry::phases::Phase;
use crate::telemetry::traces::Tracer;
use crate::telemetry::traces::span::Asked;
use crate::tls::minting::Mint;
use crate::tls::{Http2, TlsError};
use crate::units::ByteSize;

/// Limits and names that hold for every route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Host names callers may use besides loopback names and the routes' own; lower case, no port.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may call, each as a browser writes it.
    pub allowed_origins: Vec<HeaderValue>,
    /// What callers must show, if anything.
    pub caller_token: Option<LocalSecret>,
    /// What is done with what a proxy before us said.
    pub forwarding: Forwarding,
    /// What is done with requests for hosts that no route leads to.
    pub elsewhere: Policy,
    /// Requests at the same time, over all routes.
    pub max_in_flight: usize,
    /// All bodies held for signing, together.
    pub buffer_budget: ByteSize,
    /// How long a body waits for its share of that.
    pub buffer_wait: Duration,
}

/// Answers requests by passing them on.
#[derive(Debug)]
pub struct Proxy {
    live: ArcSwap<Snapshot>,
    metrics: Arc<Metrics>,
    budget: Budget,
    clock: Clock,
    log: AccessLog,
    causes: Arc<Ledger>,
    /// Where somebody asks for traces.
    tracer: Option<Tracer>,
}

/// One config, ready to serve. A request keeps the snapshot it began with.
#[derive(Debug)]
pub struct Snapshot {
    table: Table,
    routes: Vec<LiveRoute>,
    /// The same for callers that write the upstreams' own URLs.
    by_url: (Table, Vec<LiveRoute>),
    guard: Guard,
    elsewhere: (Policy, Known, Elsewhere, Limit),
    /// Where CONNECT is intercepted.
    mint: Option<Mint>,
    in_flight: Limit,
}

/// A route and what serves it.
#[derive(Debug)]
struct LiveRoute {
    route: Route,
    scheme: Option<Arc<Scheme>>,
    fields: Vec<LiveField>,
    connections: Arc<Connections>,
    /// Where the route takes a WebSocket: that begins over HTTP/1.1.
    websockets: Option<Arc<Connections>>,
    in_flight: Limit,
}

/// What came of a request.
enum Passed<'live> {
    /// The upstream's answer.
    Response(Response<Passage>, Permits, Through<'live>),
    /// A way for the bytes behind a CONNECT.
    Tunnel(Connecting, TcpStream, Permits),
    /// Leave to answer in the place of the host that a CONNECT named, with this to show where TLS is spoken.
    Intercept(Connecting, HostPort, Option<Arc<ServerConfig>>),
    /// The upstream's consent to another protocol.
    WebSocket(Handshake, Response<Switched>, Permits),
    /// An answer of our own that is no error, and these are its fields.
    Here(HeaderMap),
}

/// What an answer comes back through.
enum Through<'live> {
    Route(&'live Route),
    /// Rare and large.
    Elsewhere(Box<Route>),
}

impl Deref for Through<'_> {
    type Target = Route;

    fn deref(&self) -> &Route {
        match self {
            Self::Route(route) => route,
            Self::Elsewhere(route) => route,
        }
    }
}

/// So many at the same time.
#[derive(Clone, Debug)]
struct Limit {
    places: Arc<Semaphore>,
    most: usize,
    scope: &'static str,
}

impl Limit {
    fn new(most: usize, scope: &'static str) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(most)), most, scope }
    }

    /// The limit `before`, if it is as high; else one whose places are all free.
    fn succeeding(before: Option<&Self>, most: usize, scope: &'static str) -> Self {
        let is_as_high = |before: &&Self| before.most == most.min(Semaphore::MAX_PERMITS);
        before.filter(is_as_high).cloned().unwrap_or_else(|| Self::new(most, scope))
    }

    /// A place, or a refusal at once: a queue here would only hide that too much is asked.
    fn enter(&self) -> Result<OwnedSemaphorePermit, ProxyError> {
        Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_full| ProxyError::Overloaded { limit: self.most, scope: self.scope })
    }
}

/// What a snapshot is made with, besides its config.
#[derive(Debug)]
pub struct Parts<'a> {
    /// What authorises.
    pub schemes: &'a Schemes,
    /// Where connections come from.
    pub pool: &'a Pool,
    /// What callers must show.
    pub token: Option<Arc<CallerToken>>,
    /// The snapshot whose place it takes: places among the requests in flight stay taken, where their number is the same.
    pub before: Option<&'a Snapshot>,
}

impl Snapshot {
    /// Puts a config's parts together. Blocks while it reads the certificate files of upstreams.
    ///
    /// # Errors
    /// [`TlsError`] when one of those cannot be used.
    pub fn try_new(settings: &Settings, routes: Vec<Route>, parts: Parts<'_>) -> Result<Self, TlsError> {
        let Parts { schemes, pool, token, before } = parts;
        let table = Table::new(&routes);
        let hosts = routes.iter().filter_map(|route| route.host.clone());
        let by_url = route::by_url(&routes);
        let named = routes.iter().chain(by_url.iter().map(|(_, route)| route));
        let known = Known::of(named);
        let guard = Guard::new(settings, hosts, by_url.iter().filter_map(|(_, route)| route.host.clone()), token);
        // One API that hangs must not take the places of all others (docs/rules.md 3.2), however many routes it has.
        let mut upstreams: HashMap<Origin, Limit> = HashMap::new();
        let is_only = routes.windows(2).all(|pair| match pair {
            [one, other] => one.upstream.origin == other.upstream.origin,
            _ => true,
        });
        let half = settings.max_in_flight.div_ceil(2);
        let share = if is_only { settings.max_in_flight } else { half };
        let mut live = |route: Route| {
            let connections = pool.origin(&route.upstream.origin)?;
            let websockets = if route.websocket { Some(pool.origin(&without_http2(&route))?) } else { None };
            let scheme = route.scheme.and_then(|index| schemes.schemes.get(index)).map(Arc::clone);
            let field = |(name, index): &(HeaderName, usize)| {
                schemes.fields.get(*index).map(|value| LiveField { name: name.clone(), value: Arc::clone(value) })
            };
            let fields = route.request_headers.secrets.iter().filter_map(field).collect();
            let taken = before.and_then(|before| before.places_of(&route));
            let in_flight = if let Some(most) = route.max_in_flight {
                Limit::succeeding(taken, most, "of this route")
            } else {
                let limit = || Limit::succeeding(taken, share, "of this upstream");
                upstreams.entry(Origin::clone(&route.upstream.origin)).or_insert_with(limit).clone()
            };
            Ok(LiveRoute { route, scheme, fields, connections, websockets, in_flight })
        };
        let routes = routes.into_iter().map(&mut live).collect::<Result<Vec<_>, TlsError>>()?;
        let (positions, by_url): (Vec<usize>, Vec<Route>) = by_url.into_iter().unzip();
        let urls = Table::new(&by_url);
        let mut live_by_url = by_url.into_iter().map(live).collect::<Result<Vec<_>, TlsError>>()?;
        for (by_url, position) in live_by_url.iter_mut().zip(positions) {
            // One limit, however the route is asked for.
            if let Some(route) = routes.get(position) {
                by_url.in_flight = route.in_flight.clone();
            }
        }
        let taken = before.map(|before| &before.in_flight);
        let in_flight = Limit::succeeding(taken, settings.max_in_flight, "of all routes");
        let mint = match &settings.elsewhere.connect {
            Connect::Intercept { authority, .. } => Some(Mint::try_new(authority)?),
            Connect::Refuse | Connect::Tunnel(_) => None,
        };
        let taken = before.map(|before| &before.elsewhere.3);
        let places = Limit::succeeding(taken, half, "of hosts without a route");
        let elsewhere = (settings.elsewhere.clone(), known, Elsewhere::beside(pool), places);
        Ok(Self { table, routes, by_url: (urls, live_by_url), guard, elsewhere, mint, in_flight })
    }
}

/// The route's origin, asked for HTTP/1.1 alone.
fn without_http2(route: &Route) -> Origin {
    let mut origin = Origin::clone(&route.upstream.origin);
    origin.tls.http2 = Http2::Never;
    origin
}

impl LiveRoute {
    /// Connections for a request of this kind.
    fn connections(&self, purpose: Purpose) -> &Arc<Connections> {
        match (purpose, &self.websockets) {
            (Purpose::WebSocket, Some(websockets)) => websockets,
            (Purpose::WebSocket | Purpose::Answer, _) => &self.connections,
        }
    }

    /// The handshake that a request began with, if it counts on this route.
    fn websocket(&self, asked: Option<Result<Handshake, HandshakeError>>) -> Result<Option<Handshake>, HandshakeError> {
        if self.websockets.is_some() { asked.transpose() } else { Ok(None) }
    }
}

impl Proxy {
    /// A proxy that serves `snapshot`.
    pub fn new(snapshot: Arc<Snapshot>, budget: Budget, clock: Clock, log: AccessLog, registry: &mut Registry) -> Self {
        let metrics = Arc::new(Metrics::register(registry));
        registry.register_collector(Box::new(Buffers(budget.clone())));
        Self { live: ArcSwap::from(snapshot), metrics, budget, clock, log, causes: Arc::default(), tracer: None }
    }

    /// The same, with a span for each request.
    #[must_use]
    pub fn tracing(self, tracer: Option<Tracer>) -> Self {
        Self { tracer, ..self }
    }

    /// What is served now.
    pub fn live(&self) -> Arc<Snapshot> {
        self.live.load_full()
    }

    /// Serves `snapshot` from the next request on; those under way end on the one that they began with.
    pub fn replace(&self, snapshot: Arc<Snapshot>) {
        self.live.store(snapshot);
    }

    /// What is counted, for whoever wants to look at it.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Why requests failed, for those who show it.
    pub fn causes(&self) -> &Arc<Ledger> {
        &self.causes
    }

    fn explain(&self, diagnosis: Option<Diagnosis>, exchange: &mut Exchange) {
        let (Some(diagnosis), Some(route)) = (diagnosis, exchange.route()) else { return };
        self.causes.note(route, &diagnosis, self.clock.wall());
        exchange.explained(diagnosis);
    }

    /// Answers one request that came to `listener` (`None`: a main one).
    pub fn serve(
        self: Arc<Self>,
        arrival: Arrival,
        listener: Option<SocketAddr>,
    ) -> impl Future<Output = Response<Relayed>> + Send {
        self.answer(arrival, Entrance { listener, inside: None })
    }

    /// The request is on the heap before the future begins: else the future would have room for it in every stage that it
    /// goes through, and all of it is moved for each request.
    fn answer(self: Arc<Self>, arrival: Arrival, entrance: Entrance) -> impl Future<Output = Response<Relayed>> + Send {
        let arrival = arrival.map(Box::new).map_err(Box::new);
        async move {
            match arrival {
                Ok(request) => self.respond(request, entrance).await,
                Err(refused) => self.refuse(*refused),
            }
        }
    }

    /// Answers what the gate has refused.
    fn refuse(&self, refused: Refused) -> Response<Relayed> {
        let Refused { error, method, path } = refused;
        let (metrics, path) = (Arc::clone(&self.metrics), path.unwrap_or_default());
        let exchange = Exchange::begin(metrics, self.log, method, &path, new_request_id());
        relay::refuse(&error.into(), exchange)
    }

    async fn respond(self: &Arc<Self>, request: Box<Request<Incoming>>, entrance: Entrance) -> Response<Relayed> {
        let metrics = Arc::clone(&self.metrics);
        let request_id = fields::acceptable_request_id(request.headers()).unwrap_or_else(new_request_id);
        let method = request.method().clone();
        let uri = request.uri();
        // CONNECT has no path, and what it names is all there is to know of it.
        let path = uri.authority().filter(|_| method == Method::CONNECT).map_or(uri.path(), |to| to.as_str());
        let mut exchange = Exchange::begin(metrics, self.log, Some(method), path, request_id);
        if let Some(tracer) = &self.tracer {
            let asked = Asked { method: request.method(), uri, version: request.version() };
            exchange.traced(tracer.begin(request.headers(), asked, || self.clock.now()));
        }
        let live = self.live.load_full();
        let trailers = Trailers::wanted_by(request.headers());
        let origin = live.guard.origins().listed(request.headers()).cloned();
        let has_body = !request.body().is_end_stream();
        let passed = self.pass(&live, request, &entrance, &mut exchange).await;
        let is_unread = has_body && !exchange.is_upload_over();
        let mut response = match passed {
            Ok(Passed::Response(response, permits, route)) => {
                relay::relay(response, exchange, permits, trailers, &route)
            }
            Ok(Passed::Tunnel(client, upstream, permits)) => client.open(upstream, exchange, permits),
            Ok(Passed::Intercept(client, host, tls)) => {
                self.intercept(client, (host, tls), entrance.listener, exchange)
            }
            Ok(Passed::WebSocket(handshake, response, permits)) => handshake.open(response, exchange, permits),
            Ok(Passed::Here(fields)) => relay::answer(fields, exchange),
            Err(error) => {
                self.explain(diagnose::own(&error), &mut exchange);
                relay::refuse(&error, exchange)
            }
        };
        // A body that is left unread ends the connection behind its answer; hyper does not say so, and a client's next request
        // would meet the end. An answer that is no error may well read on.
        if is_unread && response.status().as_u16() >= 400 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        live.guard.origins().dress(response.headers_mut(), origin.as_ref());
        response
    }

    async fn pass<'live>(
        &self,
        live: &'live Snapshot,
        mut request: Box<Request<Incoming>>,
        entrance: &Entrance,
        exchange: &mut Exchange,
    ) -> Result<Passed<'live>, ProxyError> {
        let Entrance { listener, inside } = entrance;
        let asked = Handshake::read(&mut request);
        let connecting = Connecting::read(&mut request);
        let admitted = match guard::admit(*request, &live.guard, inside.as_deref())? {
            Admission::Route(admitted) => admitted,
            Admission::Tunnel(to) => return Box::pin(self.connect(live, connecting, to)).await,
            Admission::Preflight(preflight) => return live.leave(&preflight, *listener).map(Passed::Here),
            Admission::Ping => return Ok(Passed::Here(HeaderMap::new())),
        };
        if let Named::Elsewhere(to) = admitted.named() {
            let to = to.clone();
            return Box::pin(self.pass_elsewhere(live, admitted, to, exchange)).await;
        }
        let to = live.find(admitted.named(), admitted.target(), admitted.method(), *listener)?;
        exchange.routed(&to.route.name);
        if let Some(span) = exchange.span() {
            span.leads(admitted.named().host(), &to.route.upstream.origin.authority);
        }
        let handshake = to.websocket(asked)?;
        let permits = live.enter(&to.in_flight)?;
        let coverage = to.scheme.as_ref().map_or(Coverage::Nothing, |scheme| scheme.coverage());
        let request_id = exchange.request_id().clone();
        let mut outbound = rewrite::toward(admitted, &to.route, coverage, &self.budget, request_id).await?;
        for LiveField { name, value } in &to.fields {
            let lease = value.get().await.map_err(|missing| ProxyError::Auth(missing.of(name.as_str().into())))?;
            outbound.set(name.clone(), lease.value);
        }
        if let Some(onward) = exchange.onward() {
            outbound.lead_on(onward, &to.route.request_headers);
        }
        exchange.uploading(outbound.upload());
        if handshake.is_some() {
            outbound.ask_for_websocket();
        }
        let Delivered { answered, secrets, case } = self.deliver(outbound, to, exchange).await?;
        match (answered, handshake) {
            (Answered::Response(response), _) => {
                let mut response = if conceal::is_refusal(response.status()) {
                    // Rare, and large.
                    let passage = Box::pin(conceal::refusal(response, &secrets, to.route.body_idle_timeout));
                    passage.await.map_err(ProxyError::Upstream)?
                } else {
                    response.map(Passage::Streaming)
                };
                if let Some(case) = case {
                    let (head, body) = response.into_parts();
                    self.explain(case.diagnose(&head, &body, &secrets, to), exchange);
                    response = Response::from_parts(head, body);
                }
                Ok(Passed::Response(response, permits, Through::Route(&to.route)))
            }
            (Answered::Switched(response), Some(handshake)) if handshake.is_answered_by(response.headers()) => {
                Ok(Passed::WebSocket(handshake, response, permits))
            }
            (Answered::Switched(_), _) => Err(ProxyError::Upstream(UpstreamError::Switched)),
        }
    }

    /// Authorises and sends, twice at most (docs/rules.md 3.3), the second time on a new connection.
    async fn deliver(
        &self,
        mut outbound: Box<Outbound>,
        to: &LiveRoute,
        exchange: &mut Exchange,
    ) -> Result<Delivered, ProxyError> {
        let LiveRoute { route, scheme, .. } = to;
        let connections = to.connections(outbound.purpose());
        let upload = Arc::clone(outbound.upload());
        let mut attempt = Attempt::First;
        let mut first_sent = None;
        loop {
            let offset = connections.skew().known();
            let now = || offset.correct(self.clock.wall());
            exchange.enters(Phase::Credential, Instant::now());
            let grant = match scheme {
                None => Grant::nothing(),
                Some(scheme) => {
                    let granted = scheme.authorize(&outbound.unsigned(), route.credential_timeout, now).await;
                    granted.map_err(ProxyError::Auth)?
                }
            };
            exchange.authorized(&grant);
            let generation = grant.generation();
            let (sealed, spare) = outbound.seal(grant);
            let sent = self.clock.now();
            exchange.enters(Phase::Connect, sent.monotonic);
            // What is made later than this cannot be what the first send failed on.
            let first_sent = *first_sent.get_or_insert(sent.monotonic);
            // A WebSocket's connection ends with it, so it begins with it too.
            let may_reuse = attempt == Attempt::First && sealed.purpose() == Purpose::Answer;
            let reuse = if may_reuse { Reuse::Allowed } else { Reuse::NewerThan(first_sent) };
            if attempt == Attempt::First {
                connections.earn_retry();
            }
            let again = match forward::send(connections, sealed, reuse, route.response_timeout, exchange).await {
                Ok(answered) => {
                    exchange.identified(GatewayIds::read(answered.headers()));
                    let failed = answered.status().is_client_error() || answered.status().is_server_error();
                    let case = failed.then(|| Box::new(Case::new(spare.without_body(), sent, self.clock.now())));
                    let secrets = if failed { spare.secrets() } else { Secrets::default() };
                    let granted = Granted { scheme: scheme.as_deref(), generation, connections, offset, sent };
                    let refusal = granted.refusal(answered.status(), answered.headers());
                    let again = match refusal {
                        None => None,
                        // Rare, and large.
                        Some(refusal) => {
                            let spare = (attempt == Attempt::First).then_some(spare);
                            Box::pin(self.after_refusal(granted, refusal, answered.headers(), spare)).await
                        }
                    };
                    let Some(again) = again else {
                        upload.settle();
                        return Ok(Delivered { answered, secrets, case });
                    };
                    again
                }
                Err(failure) => match (attempt, failure) {
                    // Rare, and large.
                    (Attempt::First, failure) => Box::pin(after_failure(failure, spare, to, connections)).await,
                    (Attempt::Second, failure) => Err(failure.into_error()),
                }
                .map_err(|error| broken_off(&upload, error))?,
            };
            tracing::debug!(route = %route.name, "sent again");
            (outbound, attempt) = (again, Attempt::Second);
        }
    }

    /// The request once more, if another authorisation may be taken. What cannot be sent again still has the credential
    /// renewed, for the requests to come. `headers` are the refusal's; `spare` is the request, where it was its first.
    async fn after_refusal(
        &self,
        granted: Granted<'_>,
        refusal: Refusal,
        headers: &HeaderMap,
        spare: Option<Spare>,
    ) -> Option<Box<Outbound>> {
        let Granted { scheme, generation, connections, offset, sent } = granted;
        let scheme = scheme?;
        let spare = spare.and_then(Spare::into_outbound);
        match refusal {
            Refusal::Credential => {
                let Some(spare) = spare else {
                    scheme.reject(generation);
                    return None;
                };
                scheme.renew(generation).await.then_some(spare)
            }
            Refusal::Clock => {
                let right = connections.skew().learn(offset, headers, sent, self.clock.now());
                right.then_some(spare)?
            }
        }
    }
}

/// The request once more, where docs/rules.md 3.3 has it sent again. A retry is paid for unless the request certainly was
/// not processed: then it is no more load than the first time.
async fn after_failure(
    failure: Failure,
    spare: Spare,
    to: &LiveRoute,
    connections: &Connections,
) -> Result<Box<Outbound>, UpstreamError> {
    match failure {
        Failure::Unsent(body, _) => Ok(spare.with(body)),
        Failure::Unreached(body, error) => {
            if connections.may_retry() {
                Ok(spare.with(body))
            } else {
                Err(error)
            }
        }
        Failure::Unprocessed(error) => spare.recover().await.ok_or(error),
        Failure::Closing(error) => {
            let may = spare.is_idempotent(to.route.idempotency_keys) && connections.may_retry();
            if may { spare.recover().await.ok_or(error) } else { Err(error) }
        }
        Failure::Final(error) => Err(error),
    }
}

/// An exchange without an answer: a client that broke off its upload broke off the exchange with it.
fn broken_off(upload: &Upload, error: UpstreamError) -> ProxyError {
    upload.take_failure().map_or(ProxyError::Upstream(error), ProxyError::Body)
}

/// An answer, and what is left of its request.
struct Delivered {
    answered: Answered,
    /// The secrets that the request carried, where the answer is an error.
    secrets: Secrets,
    /// The request, where the answer has to be explained.
    case: Option<Box<Case>>,
}

/// Which send of a request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    First,
    Second,
}

/// What a request was authorised with, for judging its answer.
struct Granted<'a> {
    scheme: Option<&'a Scheme>,
    generation: u64,
    connections: &'a Connections,
    offset: Offset,
    sent: Moment,
}

impl Granted<'_> {
    /// What an answer says against it, if it does.
    fn refusal(&self, status: StatusCode, headers: &HeaderMap) -> Option<Refusal> {
        self.scheme.and_then(|scheme| refusal::judge(scheme.coverage(), status, headers))
    }
}

impl Snapshot {
    /// The places that `route` has a part in: those of its name if it has a limit of its own, else of its upstream.
    fn places_of(&self, route: &Route) -> Option<&Limit> {
        let mut known = self.routes.iter().filter(|live| live.route.max_in_flight == route.max_in_flight);
        let is_same = |live: &&LiveRoute| match route.max_in_flight {
            Some(_) => live.route.name == route.name,
            None => live.route.upstream.origin == route.upstream.origin,
        };
        known.find(is_same).map(|live| &live.in_flight)
    }

    /// Places for one more request, of all routes and of its own.
    fn enter(&self, of_route: &Limit) -> Result<Permits, ProxyError> {
        Ok(Permits([self.in_flight.enter()?, of_route.enter()?]))
    }

    fn find(
        &self,
        named: &Named,
        target: &Target,
        method: &Method,
        listener: Option<SocketAddr>,
    ) -> Result<&LiveRoute, ProxyError> {
        let (table, routes) = match named {
            Named::Upstream(_) => (&self.by_url.0, &self.by_url.1),
            Named::Here(_) | Named::Elsewhere(_) | Named::Tunnel(_) => (&self.table, &self.routes),
        };
        let found = table.find(listener, named.host(), target.path(), method);
        let found = found.and_then(|index| routes.get(index).ok_or(NoMatch::NotFound));
        found.map_err(|refusal| match (refusal, named) {
            (NoMatch::NotFound, Named::Upstream(host)) => self.elsewhere.1.refuse(host),
            (refusal, _) => ProxyError::no_match(refusal, named.host(), target.path(), method),
        })
    }

    /// What a browser is told about the route of a page's request. A method that the route does not take is for the
    /// browser to refuse.
    fn leave(&self, preflight: &Preflight, listener: Option<SocketAddr>) -> Result<HeaderMap, ProxyError> {
        let (named, target, method) = preflight.wanted();
        match self.find(named, target, method, listener) {
            Ok(to) => Ok(preflight.leave(to.route.methods())),
            Err(ProxyError::MethodNotAllowed { allowed, .. }) => Ok(preflight.leave(&allowed)),
            Err(error) => Err(error),
        }
    }
}

/// 128 random bits, in hex: unlikely to repeat, no secret.
fn new_request_id() -> HeaderValue {
    let mut id = [b'0'; 32];
    hex::fill(&mut id, &fastrand::u128(..).to_be_bytes());
    HeaderValue::from_bytes(&id).unwrap_or_else(|_not_hex| HeaderValue::from_static("0"))
}
