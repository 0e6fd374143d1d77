//! The usual world: a user pool, an account's keys, one API over TLS, and a sidecar with one route to it.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign::clock::Clock;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use standin::body::Body;
use standin::{
    AccessKey, AccessKeys, Alpn, AppClient, Authority, Authorizer, Gateway, GatewayBuilder, Responder, TokenEndpoint,
    TokenForm,
};
use tokio::sync::{mpsc, oneshot};

use super::{API, Answer, Client, Countersign, Line, REGION, Setup, Wire, within};

const CLIENT_SECRET: &str = "client-secret-5f1d0c";
const SECRET_ACCESS_KEY: &str = "secret-access-key-77ab1e";

/// A world in the making.
pub(crate) struct Plan {
    auth: &'static str,
    auth_lines: String,
    route: String,
    tables: String,
    token_form: TokenForm,
    token_header: &'static str,
    gateway: GatewayBuilder,
    alpn: Alpn,
    edit: Vec<Box<dyn FnOnce(Setup) -> Setup>>,
}

/// A sidecar between a client and the stand-ins.
pub(crate) struct World {
    pub(crate) countersign: Countersign,
    pub(crate) gateway: Gateway,
    pub(crate) tokens: TokenEndpoint,
    pub(crate) keys: AccessKeys,
}

impl Plan {
    /// `auth = "none"` before an API that is open.
    pub(crate) fn open() -> Self {
        Self::with("none")
    }

    /// A token of the user pool.
    pub(crate) fn bearer() -> Self {
        Self::with("tokens")
    }

    /// A signature with a user's keys.
    pub(crate) fn sigv4() -> Self {
        Self::with("keys")
    }

    fn with(auth: &'static str) -> Self {
        Self {
            auth,
            auth_lines: String::new(),
            route: String::new(),
            tables: String::new(),
            token_form: TokenForm::Bearer,
            token_header: "authorization",
            gateway: Gateway::builder(),
            alpn: Alpn::Both,
            edit: Vec::new(),
        }
    }

    /// Protocols that the API offers.
    pub(crate) fn alpn(mut self, alpn: Alpn) -> Self {
        self.alpn = alpn;
        self
    }

    /// Lines of the `[auth]` table.
    pub(crate) fn auth(mut self, lines: &str) -> Self {
        self.auth_lines += lines;
        self.auth_lines.push('\n');
        self
    }

    /// Lines of the `[[route]]`.
    pub(crate) fn route(mut self, lines: &str) -> Self {
        self.route += lines;
        self.route.push('\n');
        self
    }

    /// More tables. `PORT` in them is the API's.
    pub(crate) fn add(mut self, tables: &str) -> Self {
        self.tables += tables;
        self
    }

    /// Lines of `[proxy]`.
    pub(crate) fn proxy(self, lines: &'static str) -> Self {
        self.edit(move |setup| setup.proxy(lines))
    }

    /// Lines of `[admin]`.
    pub(crate) fn admin(self, lines: &'static str) -> Self {
        self.edit(move |setup| setup.admin(lines))
    }

    /// Lines of `[upstream]`.
    pub(crate) fn upstream(self, lines: &'static str) -> Self {
        self.edit(move |setup| setup.upstream(lines))
    }

    pub(crate) fn secret(self, name: &'static str, value: &'static str) -> Self {
        self.edit(move |setup| setup.secret(name, value))
    }

    /// A variable that is no secret.
    pub(crate) fn variable(self, name: &'static str, value: &str) -> Self {
        let value = value.to_owned();
        self.edit(move |setup| setup.variable(name, &value))
    }

    /// One more main listener.
    pub(crate) fn listen(self, address: &'static str) -> Self {
        self.edit(move |setup| setup.listen(address))
    }

    /// A file beside the config.
    pub(crate) fn file(self, name: &'static str, content: &str) -> Self {
        let content = content.to_owned();
        self.edit(move |setup| setup.file(name, &content))
    }

    pub(crate) fn clock(self, clock: Clock) -> Self {
        self.edit(move |setup| setup.clock(clock))
    }

    /// The config may change while it runs.
    pub(crate) fn reloading(self) -> Self {
        self.edit(Setup::reloading)
    }

    fn edit(mut self, edit: impl FnOnce(Setup) -> Setup + 'static) -> Self {
        self.edit.push(Box::new(edit));
        self
    }

    /// How the API wants its token.
    pub(crate) fn token(mut self, header: &'static str, form: TokenForm) -> Self {
        (self.token_header, self.token_form) = (header, form);
        self
    }

    /// Changes the API.
    pub(crate) fn gateway(mut self, change: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Self {
        self.gateway = change(self.gateway);
        self
    }

    /// Answers under `path` (with the stage) in the test's own way.
    pub(crate) fn respond(self, path: &str, responder: Responder) -> Self {
        self.gateway(|gateway| gateway.respond(path, responder))
    }

    /// Starts everything, and waits until the first credentials are there.
    pub(crate) async fn start(self) -> World {
        let world = self.start_unready().await;
        world.countersign.until_ready().await;
        world
    }

    /// Starts everything.
    pub(crate) async fn start_unready(self) -> World {
        self.start_with(TokenEndpoint::start(vec![app_client("orders", CLIENT_SECRET)]).await).await
    }

    /// Starts everything around a token endpoint.
    pub(crate) async fn start_with(self, tokens: TokenEndpoint) -> World {
        let authority = Authority::new();
        let keys = AccessKeys::new();
        keys.add(user("AKIDUSER", SECRET_ACCESS_KEY));
        let authorizer = match self.auth {
            "tokens" => token(&tokens, self.token_header, self.token_form),
            "keys" => iam(&keys),
            _ => Authorizer::Open,
        };
        let gateway = self.gateway.tls(&authority, &[API]).alpn(self.alpn).method("/prod", authorizer).start().await;
        let (port, auth, lines, route) = (gateway.port(), self.auth, &self.auth_lines, &self.route);
        let table = match auth {
            "tokens" => format!(
                "[auth.tokens]\nkind = \"client-credentials\"\ntoken_url = \"{}\"\nclient_id = \"orders\"\n\
                 client_secret = {{ env = \"CLIENT_SECRET\" }}\n{lines}\n",
                tokens.url()
            ),
            "keys" => format!(
                "[auth.keys]\nkind = \"sigv4\"\ncredentials = {{ static = {{ access_key_id = {{ value = \"AKIDUSER\" }}, \
                 secret_access_key = {{ env = \"SECRET_KEY\" }} }} }}\n{lines}\n"
            ),
            _ => String::new(),
        };
        let tables = self.tables.replace("PORT", &port.to_string());
        let mut setup = Setup::new(&authority).secret("CLIENT_SECRET", CLIENT_SECRET);
        setup = setup.secret("SECRET_KEY", SECRET_ACCESS_KEY).add(&format!(
            "{table}[[route]]\nname = \"api\"\nupstream = \"https://{API}/prod\"\nconnect_to = \"127.0.0.1:{port}\"\n\
             auth = \"{auth}\"\n{route}\n{tables}"
        ));
        for edit in self.edit {
            setup = edit(setup);
        }
        let mut countersign = setup.start().await;
        countersign.hide([STANDARD.encode(format!("orders:{CLIENT_SECRET}"))]);
        World { countersign, gateway, tokens, keys }
    }
}

impl World {
    /// An upload to `/wire`, of which the head and a first chunk have come to `wire`.
    pub(crate) async fn begin_upload(&self, wire: &Wire) -> (Client, Line) {
        let mut client = self.countersign.connect().await;
        client.writer.chunked("POST", "/wire").await;
        client.writer.chunk("first").await;
        let mut line = wire.accept().await;
        line.head().await;
        assert_eq!(line.body(10).await, b"5\r\nfirst\r\n");
        (client, line)
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.countersign.get(target).await
    }

    /// The only request that the API has received.
    pub(crate) fn only(&self) -> standin::Received {
        let mut received = self.gateway.received();
        assert_eq!(received.len(), 1, "{received:#?}");
        received.pop().unwrap()
    }

    /// Stops all and searches for secrets; then the doubles judge themselves.
    pub(crate) async fn finish(mut self) {
        self.hide_credentials();
        self.countersign.finish().await;
    }

    /// The same after a stop of the test's own.
    pub(crate) fn finish_stopped(mut self) {
        self.hide_credentials();
        self.countersign.finish_stopped();
    }

    fn hide_credentials(&mut self) {
        self.countersign.hide(self.tokens.issued());
        self.countersign.hide(seen(&self.gateway, &self.keys));
    }
}

/// The session tokens that an API was shown, and the secrets behind its signatures.
pub(crate) fn seen(gateway: &Gateway, keys: &AccessKeys) -> Vec<String> {
    let mut secrets = Vec::new();
    for request in gateway.received() {
        secrets.extend(request.header("x-amz-security-token").map(ToOwned::to_owned));
        let credential = request.header("authorization").and_then(|text| text.split_once("Credential="));
        let id = credential.and_then(|(_, rest)| rest.split('/').next());
        secrets.extend(id.and_then(|id| keys.get(id)).map(|key| key.secret));
    }
    secrets
}

pub(crate) fn app_client(id: &str, secret: &str) -> AppClient {
    let scopes = ["orders/read", "orders/write"].map(ToOwned::to_owned).to_vec();
    AppClient { id: id.to_owned(), secret: secret.to_owned(), scopes, token_lifetime: Duration::from_hours(1) }
}

pub(crate) fn user(id: &str, secret: &str) -> AccessKey {
    let principal = format!("arn:aws:iam::123456789012:user/{id}");
    AccessKey { id: id.to_owned(), secret: secret.to_owned(), session_token: None, principal, expires: None }
}

pub(crate) fn token(tokens: &TokenEndpoint, header: &str, form: TokenForm) -> Authorizer {
    Authorizer::Token { verifier: tokens.verifier(), header: header.to_owned(), form, scope: None }
}

pub(crate) fn iam(keys: &AccessKeys) -> Authorizer {
    Authorizer::Iam { keys: keys.clone(), region: REGION.to_owned(), service: "execute-api".to_owned() }
}

/// A request that the test answers when it likes.
pub(crate) struct Held {
    pub(crate) request: Request<Body>,
    answer: oneshot::Sender<Response<Body>>,
}

impl Held {
    /// The next piece of the request's body; empty at its end.
    pub(crate) async fn piece(&mut self) -> Bytes {
        piece(&mut self.request).await
    }

    /// Whether the body breaks off after what has been read of it.
    pub(crate) async fn breaks_off(&mut self) -> bool {
        within(self.request.body_mut().frame()).await.is_some_and(|frame| frame.is_err())
    }

    /// Answers it.
    pub(crate) fn answer(self, response: Response<Body>) -> Request<Body> {
        self.answer.send(response).unwrap_or_else(|_| panic!("the request was gone"));
        self.request
    }

    /// Ready once nobody waits for an answer any more.
    pub(crate) async fn is_abandoned(&mut self) {
        within(self.answer.closed()).await;
    }

    /// Answers it with 200 and a body.
    pub(crate) fn answer_with(self, body: Body) -> Request<Body> {
        self.answer(Response::new(body))
    }
}

/// A responder that hands its requests to the test.
pub(crate) fn hold() -> (Responder, mpsc::UnboundedReceiver<Held>) {
    let (hand, taken) = mpsc::unbounded_channel();
    let responder: Responder = Arc::new(move |request, _principal| {
        let (answer, answered) = oneshot::channel();
        hand.send(Held { request, answer }).unwrap_or_else(|_| panic!("the test has ended"));
        // A test that wants no answer drops the request.
        Box::pin(async move {
            match answered.await {
                Ok(response) => response,
                Err(_) => std::future::pending().await,
            }
        })
    });
    (responder, taken)
}

/// The next piece of a request's body; empty at its end.
pub(crate) async fn piece(request: &mut Request<Body>) -> Bytes {
    let frame = within(request.body_mut().frame()).await;
    frame.map(|frame| frame.unwrap().into_data().unwrap()).unwrap_or_default()
}

/// The next request that a [`hold`] has taken.
pub(crate) async fn held(taken: &mut mpsc::UnboundedReceiver<Held>) -> Held {
    within(taken.recv()).await.unwrap()
}
