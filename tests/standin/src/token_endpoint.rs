//! Cognito's `POST /oauth2/token` for the client-credentials grant (docs/aws.md C1), over plain HTTP.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method, Response};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::double::{Call, Double, Endpoint, json};
use crate::encoding::{form_decode, parse_form, request_id};
use crate::ledger::Ledger;
use crate::script::{Answer, Turn};
use crate::token::{Mint, TokenVerifier};

/// The token endpoint of a user pool.
#[derive(Debug)]
pub struct TokenEndpoint {
    double: Double,
    pool: Arc<Pool>,
}

/// An app client of the user pool.
#[derive(Clone, PartialEq, Eq)]
pub struct AppClient {
    /// The client id.
    pub id: String,
    /// The client secret.
    pub secret: String,
    /// The custom scopes it may ask for, `resource-server/scope`.
    pub scopes: Vec<String>,
    /// How long its tokens live; counted in whole seconds.
    pub token_lifetime: Duration,
}

/// A call of the token endpoint as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// The `Authorization` field.
    pub authorization: Option<String>,
    /// The form's fields in order, decoded.
    pub form: Vec<(String, String)>,
    /// The `Content-Type` field.
    pub content_type: Option<String>,
}

#[derive(Debug)]
struct Pool {
    clients: Mutex<Vec<AppClient>>,
    mint: Arc<Mint>,
    clock: Clock,
    received: Ledger<TokenRequest>,
    issued: Ledger<String>,
}

/// The `error` of RFC 6749 5.2.
type ErrorCode = &'static str;

impl TokenEndpoint {
    /// Starts the endpoint of a pool with these clients.
    pub async fn start(clients: Vec<AppClient>) -> Self {
        let clock = Clock::system();
        let pool = Arc::new(Pool {
            clients: Mutex::new(clients),
            mint: Mint::new(clock.clone()),
            clock,
            received: Ledger::new(),
            issued: Ledger::new(),
        });
        Self { double: Double::serve("token endpoint", Arc::clone(&pool)).await, pool }
    }

    /// The URL for `token_url`.
    pub fn url(&self) -> String {
        format!("http://{}/oauth2/token", self.double.address())
    }

    /// How many calls have arrived, answered or not.
    pub fn calls(&self) -> usize {
        self.pool.received.total()
    }

    /// Waits until so many calls have arrived.
    pub async fn until_calls(&self, calls: usize) {
        self.pool.received.until(|received| received.total() >= calls).await;
    }

    /// The calls, oldest first.
    pub fn received(&self) -> Vec<TokenRequest> {
        self.pool.received.snapshot()
    }

    /// The access tokens given out, oldest first.
    pub fn issued(&self) -> Vec<String> {
        self.pool.issued.snapshot()
    }

    /// Verifies this pool's tokens.
    pub fn verifier(&self) -> TokenVerifier {
        TokenVerifier::new(Arc::clone(&self.pool.mint))
    }

    /// The time it goes by, to be set by a test.
    pub fn clock(&self) -> &Clock {
        &self.pool.clock
    }

    /// Takes a token back before its time.
    pub fn revoke(&self, token: &str) {
        self.pool.mint.revoke(token);
    }

    /// Gives a client another secret; the old one is refused from now on.
    pub fn rotate_secret(&self, client_id: &str, new_secret: &str) {
        let mut clients = self.pool.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients.iter_mut().find(|client| client.id == client_id).expect("the test names a client it made");
        new_secret.clone_into(&mut client.secret);
    }

    /// Queues an answer for one of the next calls.
    pub fn script(&self, answer: Answer) {
        self.double.script.push(answer);
    }
}

impl Endpoint for Pool {
    fn record(&self, call: &Call) {
        self.received.push(TokenRequest {
            authorization: call.header("authorization").map(ToOwned::to_owned),
            form: parse_form(&call.body),
            content_type: call.header("content-type").map(ToOwned::to_owned),
        });
    }

    fn answer(&self, call: &Call, turn: Turn) -> Response<Bytes> {
        let mut response = if call.target != "/oauth2/token" {
            json(404, &json!({"error": "not_found"}))
        } else if call.method != Method::POST {
            json(405, &json!({"error": "method_not_allowed"}))
        } else {
            match self.grant(call, turn) {
                Ok(token) => json(200, &token),
                Err(code) => json(400, &json!({"error": code})),
            }
        };
        let id = HeaderValue::try_from(request_id()).expect("hex is a valid field value");
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/json;charset=UTF-8"));
        headers.insert("cache-control", HeaderValue::from_static("no-cache, no-store, max-age=0, must-revalidate"));
        headers.insert("pragma", HeaderValue::from_static("no-cache"));
        headers.insert("x-amz-cognito-request-id", id);
        response
    }
}

impl Pool {
    /// Which complaint comes first, where several are due, is not established for Cognito.
    fn grant(&self, call: &Call, turn: Turn) -> Result<Value, ErrorCode> {
        let content_type = call.header("content-type").unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err("invalid_request");
        }
        let form = parse_form(&call.body);
        let grant_type = field(&form, "grant_type")?.ok_or("invalid_request")?;
        let client = self.authenticate(call, &form)?;
        if grant_type != "client_credentials" {
            return Err("unsupported_grant_type");
        }
        let scope = self.scope(&client, field(&form, "scope")?)?;

        let (expires_in, claimed_scope) = match turn {
            Turn::Issue { expires_in, scope } => (expires_in, scope),
            Turn::Normal | Turn::Respond(_) => (json!(client.token_lifetime.as_secs()), None),
        };
        let granted = claimed_scope.as_ref().unwrap_or(&scope);
        let token = self.mint.issue(&client.id, granted, client.token_lifetime);
        self.issued.push(token.clone());
        let mut answer = json!({"access_token": token, "token_type": "Bearer"});
        if !expires_in.is_null() {
            answer["expires_in"] = expires_in;
        }
        // Cognito puts the scope in the token alone.
        if let Some(scope) = claimed_scope {
            answer["scope"] = Value::String(scope);
        }
        Ok(answer)
    }

    fn authenticate(&self, call: &Call, form: &[(String, String)]) -> Result<AppClient, ErrorCode> {
        let in_form = (field(form, "client_id")?, field(form, "client_secret")?);
        let (id, secret) = match (call.header("authorization"), in_form) {
            // RFC 6749 2.3: not more than one method in a request.
            (Some(_), (_, Some(_))) => return Err("invalid_request"),
            (Some(basic), (repeated, None)) => {
                let (id, secret) = read_basic(basic).ok_or("invalid_client")?;
                if repeated.is_some_and(|repeated| repeated != id) {
                    return Err("invalid_client");
                }
                (id, secret)
            }
            (None, (Some(id), Some(secret))) => (id.to_owned(), secret.to_owned()),
            (None, (Some(_), None) | (None, _)) => return Err("invalid_client"),
        };
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients.iter().find(|client| client.id == id && client.secret == secret);
        client.cloned().ok_or("invalid_client")
    }

    /// The scopes granted: all of the client's if it asks for none, else those it asks for and may have; scopes nobody has
    /// heard of are silently dropped beside valid ones.
    fn scope(&self, client: &AppClient, asked: Option<&str>) -> Result<String, ErrorCode> {
        let Some(asked) = asked else { return Ok(client.scopes.join(" ")) };
        let asked: Vec<&str> = asked.split(' ').filter(|scope| !scope.is_empty()).collect();
        let has = |client: &AppClient, scope: &str| client.scopes.iter().any(|own| own == scope);
        let granted: Vec<&str> = asked.iter().copied().filter(|scope| has(client, scope)).collect();
        if !granted.is_empty() {
            return Ok(granted.join(" "));
        }
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let defined = asked.iter().any(|scope| clients.iter().any(|other| has(other, scope)));
        Err(if defined { "invalid_grant" } else { "invalid_scope" })
    }
}

/// A field that may occur once (RFC 6749 3.2).
fn field<'a>(form: &'a [(String, String)], name: &str) -> Result<Option<&'a str>, ErrorCode> {
    let mut values = form.iter().filter(|(candidate, _)| candidate == name).map(|(_, value)| value.as_str());
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err("invalid_request"),
    }
}

/// Id and secret, each form-encoded in there (RFC 6749 2.3.1).
fn read_basic(authorization: &str) -> Option<(String, String)> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    let pair = STANDARD.decode(encoded).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let at = pair.iter().position(|byte| *byte == b':')?;
    let decode = |text: &[u8]| String::from_utf8(form_decode(text)).ok();
    Some((decode(&pair[..at])?, decode(&pair[at + 1..])?))
}

impl std::fmt::Debug for AppClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("AppClient").field("id", &self.id).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
