//! A Cognito identity pool over plain HTTP: the enhanced flow (docs/aws.md E). Its keys are those that the gateway verifies.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::double::{Call, Double, Endpoint, json};
use crate::encoding::request_id;
use crate::keys::{AccessKeys, session_prefix};
use crate::ledger::Ledger;
use crate::script::{Answer, Turn};
use crate::token::TokenVerifier;

/// An identity pool.
#[derive(Debug)]
pub struct IdentityPool {
    double: Double,
    service: Arc<Service>,
}

#[derive(Debug)]
struct Service {
    id: String,
    /// `cognito-idp.REGION.amazonaws.com/POOL`, and who verifies its tokens; without, identities are unauthenticated.
    provider: Option<(String, TokenVerifier)>,
    /// The first is the default.
    roles: Vec<String>,
    lifetime: Duration,
    keys: AccessKeys,
    clock: Clock,
    identities: Mutex<BTreeSet<String>>,
    received: Ledger<(String, Value)>,
}

struct Fault(&'static str, &'static str);

impl IdentityPool {
    /// Starts the pool `REGION:UUID`, whose credentials act as one of `roles` for `lifetime`.
    pub async fn start(
        id: &str,
        provider: Option<(String, TokenVerifier)>,
        roles: &[&str],
        lifetime: Duration,
        keys: AccessKeys,
    ) -> Self {
        let service = Arc::new(Service {
            id: id.to_owned(),
            provider,
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            lifetime,
            keys,
            clock: Clock::system(),
            identities: Mutex::default(),
            received: Ledger::new(),
        });
        Self { double: Double::serve("identity pool", Arc::clone(&service)).await, service }
    }

    /// The URL for `endpoint`.
    pub fn url(&self) -> String {
        format!("http://{}", self.double.address())
    }

    /// The operations called and their inputs, oldest first.
    pub fn received(&self) -> Vec<(String, Value)> {
        self.service.received.snapshot()
    }

    /// How often an operation was called.
    pub fn calls(&self, operation: &str) -> usize {
        self.received().iter().filter(|(name, _)| name == operation).count()
    }

    /// The time it goes by, to be set by a test.
    pub fn clock(&self) -> &Clock {
        &self.service.clock
    }

    /// Deletes all identities.
    pub fn forget(&self) {
        self.service.identities().clear();
    }

    /// Queues an answer for one of the next calls.
    pub fn script(&self, answer: Answer) {
        self.double.script.push(answer);
    }
}

impl Endpoint for Service {
    fn record(&self, call: &Call) {
        let operation = call.header("x-amz-target").and_then(|target| target.rsplit('.').next()).unwrap_or_default();
        self.received.push((operation.to_owned(), serde_json::from_slice(&call.body).unwrap_or_default()));
    }

    fn answer(&self, call: &Call, turn: Turn) -> Response<Bytes> {
        match self.outcome(call, turn) {
            Ok(answer) => json(200, &answer),
            Err(Fault(kind, message)) => json(400, &json!({"__type": kind, "message": message})),
        }
    }
}

impl Service {
    fn identities(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.identities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outcome(&self, call: &Call, turn: Turn) -> Result<Value, Fault> {
        let target = call.header("x-amz-target").unwrap_or_default();
        let input: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        if call.header("authorization").is_some() {
            return Err(Fault("InvalidParameterException", "a signature where none belongs"));
        }
        self.check(&input["Logins"])?;
        match target.strip_prefix("AWSCognitoIdentityService.") {
            Some("GetId") => {
                if input["IdentityPoolId"] != self.id.as_str() {
                    return Err(Fault("ResourceNotFoundException", "IdentityPool not found."));
                }
                let (region, _) = self.id.split_once(':').expect("a pool id has a region");
                let identity = format!("{region}:{}", request_id());
                self.identities().insert(identity.clone());
                Ok(json!({"IdentityId": identity}))
            }
            Some("GetCredentialsForIdentity") => self.credentials(&input, turn),
            _ => Err(Fault("UnknownOperationException", "")),
        }
    }

    fn check(&self, logins: &Value) -> Result<(), Fault> {
        match (&self.provider, logins.as_object()) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(Fault("NotAuthorizedException", "Token is not from a supported provider.")),
            (Some(_), None) => {
                Err(Fault("NotAuthorizedException", "Unauthenticated access is not supported for this identity pool."))
            }
            (Some((provider, verifier)), Some(logins)) => {
                let token = logins.get(provider).filter(|_| logins.len() == 1).and_then(Value::as_str);
                let token = token.ok_or(Fault("NotAuthorizedException", "Token is not from a supported provider."))?;
                let claims = verifier.verify(token).map_err(|reason| match reason.as_str() {
                    "the token has expired" => Fault("NotAuthorizedException", "Invalid login token. Token expired"),
                    _ => Fault("NotAuthorizedException", "Invalid login token."),
                })?;
                if claims.token_use == "id" {
                    return Ok(());
                }
                Err(Fault("NotAuthorizedException", "Invalid login token. Missing a required claim: aud"))
            }
        }
    }

    fn credentials(&self, input: &Value, turn: Turn) -> Result<Value, Fault> {
        let identity = input["IdentityId"].as_str().unwrap_or_default();
        if !self.identities().contains(identity) {
            return Err(Fault("ResourceNotFoundException", "Identity not found."));
        }
        let role = match input["CustomRoleArn"].as_str() {
            None => self.roles.first(),
            Some(wanted) => self.roles.iter().find(|role| *role == wanted),
        };
        let role = role.ok_or(Fault("NotAuthorizedException", "Access to the requested role is forbidden"))?;
        let (expires, _) = turn.expiry(self.clock.now(), self.lifetime);
        let key = self.keys.issue(format!("{}CognitoIdentityCredentials", session_prefix(role)), expires);
        let seconds = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Ok(json!({
            "IdentityId": identity,
            "Credentials": {
                "AccessKeyId": key.id, "SecretKey": key.secret, "SessionToken": key.session_token, "Expiration": seconds,
            },
        }))
    }
}
