//! The credential endpoint of an ECS task or an EKS pod, over plain HTTP.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use serde_json::json;

use crate::clock::Clock;
use crate::double::{Call, Double, Endpoint, json};
use crate::keys::{AccessKeys, session_prefix};
use crate::ledger::Ledger;
use crate::script::{Answer, Turn};

/// Gives fresh session credentials of one role to every call, and adds them to the account's keys.
#[derive(Debug)]
pub struct ContainerCredentials {
    double: Double,
    agent: Arc<Agent>,
}

/// A call of the endpoint as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerCall {
    /// Path and query.
    pub target: String,
    /// The `Authorization` field.
    pub authorization: Option<String>,
}

#[derive(Debug)]
struct Agent {
    keys: AccessKeys,
    role_arn: String,
    settings: Mutex<Settings>,
    clock: Clock,
    received: Ledger<ContainerCall>,
}

#[derive(Debug, Clone)]
struct Settings {
    lifetime: Duration,
    authorization: Option<String>,
}

impl ContainerCredentials {
    /// Starts an endpoint for the task role `role_arn`, whose credentials live for `lifetime`.
    pub async fn start(keys: AccessKeys, role_arn: &str, lifetime: Duration) -> Self {
        let agent = Arc::new(Agent {
            keys,
            role_arn: role_arn.to_owned(),
            settings: Mutex::new(Settings { lifetime, authorization: None }),
            clock: Clock::system(),
            received: Ledger::new(),
        });
        Self { double: Double::serve("container credential endpoint", Arc::clone(&agent)).await, agent }
    }

    /// The URL for `AWS_CONTAINER_CREDENTIALS_FULL_URI`.
    pub fn url(&self) -> String {
        format!("http://{}/v2/credentials/standin", self.double.address())
    }

    /// Asks for this `Authorization` from now on (`AWS_CONTAINER_AUTHORIZATION_TOKEN`).
    pub fn require_authorization(&self, value: &str) {
        self.agent.lock().authorization = Some(value.to_owned());
    }

    /// How long credentials live that are given out from now on.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.agent.lock().lifetime = lifetime;
    }

    /// How many calls have arrived, answered or not.
    pub fn calls(&self) -> usize {
        self.agent.received.total()
    }

    /// Waits until so many calls have arrived.
    pub async fn until_calls(&self, calls: usize) {
        self.agent.received.until(|received| received.total() >= calls).await;
    }

    /// The calls, oldest first.
    pub fn received(&self) -> Vec<ContainerCall> {
        self.agent.received.snapshot()
    }

    /// The time it goes by, to be set by a test.
    pub fn clock(&self) -> &Clock {
        &self.agent.clock
    }

    /// Queues an answer for one of the next calls.
    pub fn script(&self, answer: Answer) {
        self.double.script.push(answer);
    }
}

impl Agent {
    fn lock(&self) -> std::sync::MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoint for Agent {
    fn record(&self, call: &Call) {
        let authorization = call.header("authorization").map(ToOwned::to_owned);
        self.received.push(ContainerCall { target: call.target.clone(), authorization });
    }

    fn answer(&self, call: &Call, turn: Turn) -> Response<Bytes> {
        let settings = self.lock().clone();
        if call.method != Method::GET {
            return json(405, &json!({"code": "MethodNotAllowed", "message": "only GET"}));
        }
        if settings.authorization.as_deref().is_some_and(|expected| call.header("authorization") != Some(expected)) {
            return json(401, &json!({"code": "AccessDenied", "message": "the authorization token is not valid"}));
        }
        let (expires, shown) = turn.expiry(self.clock.now(), settings.lifetime);
        let key = self.keys.issue(format!("{}standin", session_prefix(&self.role_arn)), expires);
        let body = json!({
            "RoleArn": self.role_arn,
            "AccessKeyId": key.id,
            "SecretAccessKey": key.secret,
            "Token": key.session_token,
            "Expiration": shown,
        });
        json(200, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{get, json_body};

    const ROLE: &str = "arn:aws:iam::123456789012:role/ecs/task";

    #[tokio::test]
    async fn each_call_gets_credentials_the_account_knows() {
        let keys = AccessKeys::new();
        let endpoint = ContainerCredentials::start(keys.clone(), ROLE, Duration::from_secs(90)).await;
        endpoint.clock().set(|| std::time::UNIX_EPOCH);
        let first = json_body(get(&endpoint.url(), &[]).await);
        let second = json_body(get(&endpoint.url(), &[]).await);
        assert_eq!(first["Expiration"], "1970-01-01T00:01:30Z");
        assert_ne!(first["AccessKeyId"], second["AccessKeyId"]);
        let key = keys.get(first["AccessKeyId"].as_str().unwrap()).unwrap();
        assert_eq!(key.session_token.as_deref(), first["Token"].as_str());
        assert_eq!(key.principal, "arn:aws:sts::123456789012:assumed-role/task/standin");
        assert_eq!(endpoint.calls(), 2);
    }

    #[tokio::test]
    async fn the_authorization_asked_for_must_be_there() {
        let endpoint = ContainerCredentials::start(AccessKeys::new(), ROLE, Duration::from_secs(90)).await;
        endpoint.require_authorization("right");
        for (value, status) in [("right", 200), ("wrong", 401)] {
            assert_eq!(get(&endpoint.url(), &[("authorization", value)]).await.status(), status);
        }
        assert_eq!(get(&endpoint.url(), &[]).await.status(), 401);
    }

    #[tokio::test]
    async fn a_script_may_issue_credentials_that_are_over() {
        let keys = AccessKeys::new();
        let endpoint = ContainerCredentials::start(keys.clone(), ROLE, Duration::from_secs(90)).await;
        endpoint.clock().set(|| std::time::UNIX_EPOCH + Duration::from_secs(100));
        endpoint.script(Answer::Issue { expires_in: json!(-40), scope: None });
        endpoint.script(Answer::Issue { expires_in: json!("soon"), scope: None });
        assert_eq!(json_body(get(&endpoint.url(), &[]).await)["Expiration"], "1970-01-01T00:01:00Z");
        assert_eq!(json_body(get(&endpoint.url(), &[]).await)["Expiration"], "soon");
    }
}
