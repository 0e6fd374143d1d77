//! AWS STS over plain HTTP: `AssumeRole` and `GetCallerIdentity` of the query protocol, signatures verified.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;

use crate::clock::Clock;
use crate::double::{Call, Double, Endpoint};
use crate::encoding::{parse_form, random_hex, request_id, sha256_hex};
use crate::keys::{AccessKey, AccessKeys, session_prefix};
use crate::ledger::Ledger;
use crate::script::{Answer, Turn};
use crate::sigv4::{self, Presented, Refusal, Rules};

/// Every service but API Gateway lets the clock be this far off (docs/aws.md A5).
const CLOCK_WINDOW: Duration = Duration::from_mins(15);
const SHORTEST_SESSION: i64 = 900;
const LONGEST_SESSION: i64 = 43_200;
/// A session that assumes a role may keep it for an hour at most (docs/aws.md F3).
const LONGEST_CHAINED_SESSION: i64 = 3_600;

/// The security token service of a region.
#[derive(Debug)]
pub struct Sts {
    double: Double,
    service: Arc<Service>,
}

/// A role of the pretend account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// `arn:aws:iam::ACCOUNT:role/NAME`.
    pub arn: String,
    /// What a caller must give as `ExternalId`; `None` asks for nothing.
    pub external_id: Option<String>,
    /// Who may assume it: access key ids, principal ARNs, or ARNs of roles whose sessions may.
    pub trusted: Vec<String>,
    /// How long its sessions live at most: shorter than AWS's 15 minutes if a test wants that.
    pub lifetime: Duration,
}

#[derive(Debug)]
struct Service {
    keys: AccessKeys,
    region: String,
    roles: Vec<Role>,
    clock: Clock,
    received: Ledger<BTreeMap<String, String>>,
}

/// An error answer of the query protocol.
struct Fault {
    status: u16,
    code: &'static str,
    message: String,
}

impl Sts {
    /// Starts the STS of a region, with the account's keys and roles.
    pub async fn start(keys: AccessKeys, region: &str, roles: Vec<Role>) -> Self {
        let region = region.to_owned();
        let service = Arc::new(Service { keys, region, roles, clock: Clock::system(), received: Ledger::new() });
        Self { double: Double::serve("STS", Arc::clone(&service)).await, service }
    }

    /// The URL for `endpoint` or `AWS_ENDPOINT_URL_STS`.
    pub fn url(&self) -> String {
        format!("http://{}", self.double.address())
    }

    /// How many calls have arrived, answered or not.
    pub fn calls(&self) -> usize {
        self.service.received.total()
    }

    /// Waits until so many calls have arrived.
    pub async fn until_calls(&self, calls: usize) {
        self.service.received.until(|received| received.total() >= calls).await;
    }

    /// The parameters of the calls, oldest first.
    pub fn received(&self) -> Vec<BTreeMap<String, String>> {
        self.service.received.snapshot()
    }

    /// The time it goes by, to be set by a test.
    pub fn clock(&self) -> &Clock {
        &self.service.clock
    }

    /// Queues an answer for one of the next calls.
    pub fn script(&self, answer: Answer) {
        self.double.script.push(answer);
    }
}

impl Endpoint for Service {
    fn record(&self, call: &Call) {
        self.received.push(parse_form(&call.body).into_iter().collect());
    }

    fn answer(&self, call: &Call, turn: Turn) -> Response<Bytes> {
        let parameters: BTreeMap<String, String> = parse_form(&call.body).into_iter().collect();
        let result = self.caller(call).and_then(|caller| match parameters.get("Action").map(String::as_str) {
            Some("AssumeRole") => self.assume_role(&caller, &parameters, turn),
            Some("GetCallerIdentity") => Ok(caller_identity(&caller)),
            _ => Err(Fault { status: 400, code: "InvalidAction", message: "Could not find operation".to_owned() }),
        });
        match result {
            Ok(answer) => xml(200, answer),
            Err(fault) => fault.into_response(),
        }
    }
}

impl Service {
    fn caller(&self, call: &Call) -> Result<AccessKey, Fault> {
        let presented = Presented {
            method: call.method.as_str(),
            target: &call.target,
            authority: None,
            headers: &call.headers,
            payload: &sha256_hex(&call.body),
        };
        let rules = Rules { region: &self.region, service: "sts", window: CLOCK_WINDOW };
        sigv4::verify(&presented, &rules, &self.keys, self.clock.now()).map_err(Fault::from)
    }

    fn assume_role(
        &self,
        caller: &AccessKey,
        parameters: &BTreeMap<String, String>,
        turn: Turn,
    ) -> Result<String, Fault> {
        let text = |name: &str| parameters.get(name).map_or("", String::as_str);
        let (arn, session) = (text("RoleArn"), text("RoleSessionName"));
        check_session_name(session)?;
        let asked = check_duration(parameters.get("DurationSeconds"))?;
        let denied = || Fault {
            status: 403,
            code: "AccessDenied",
            message: format!(
                "User: {} is not authorized to perform: sts:AssumeRole on resource: {arn}",
                caller.principal
            ),
        };
        let role = self.roles.iter().find(|role| role.arn == arn).ok_or_else(denied)?;
        let external_id = parameters.get("ExternalId");
        if !role.trusts(caller) || (role.external_id.is_some() && role.external_id.as_ref() != external_id) {
            return Err(denied());
        }
        if caller.principal.contains(":assumed-role/") && asked > LONGEST_CHAINED_SESSION {
            let words =
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.";
            return Err(invalid(words.to_owned()));
        }

        let normal = Duration::from_secs(asked.unsigned_abs()).min(role.lifetime);
        let (expires, shown) = turn.expiry(self.clock.now(), normal);
        let principal = role.session_arn(session);
        let key = self.keys.issue(principal.clone(), expires);
        let token = key.session_token.expect("issued keys have a session token");
        let (id, secret) = (key.id, key.secret);
        let role_id = format!("AROA{}", random_hex(8).to_uppercase());
        Ok(format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
             <AssumedRoleUser><AssumedRoleId>{role_id}:{session}</AssumedRoleId><Arn>{}</Arn></AssumedRoleUser>\
             <Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
             <SessionToken>{token}</SessionToken><Expiration>{shown}</Expiration></Credentials></AssumeRoleResult>\
             <ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata></AssumeRoleResponse>",
            escape(&principal),
            request_id(),
        ))
    }
}

impl Role {
    fn trusts(&self, caller: &AccessKey) -> bool {
        self.trusted.iter().any(|trusted| {
            *trusted == caller.id
                || *trusted == caller.principal
                || caller.principal.strip_prefix(&session_prefix(trusted)).is_some()
        })
    }

    fn session_arn(&self, session: &str) -> String {
        format!("{}{session}", session_prefix(&self.arn))
    }
}

fn check_session_name(name: &str) -> Result<(), Fault> {
    let fails = |constraint: &str| {
        invalid(format!(
            "1 validation error detected: Value '{name}' at 'roleSessionName' failed to satisfy constraint: {constraint}"
        ))
    };
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte)) {
        return Err(fails("Member must satisfy regular expression pattern: [\\w+=,.@-]*"));
    }
    match name.len() {
        0..2 => Err(fails("Member must have length greater than or equal to 2")),
        2..=64 => Ok(()),
        65.. => Err(fails("Member must have length less than or equal to 64")),
    }
}

/// The session's length in seconds; an hour where none is asked for.
fn check_duration(asked: Option<&String>) -> Result<i64, Fault> {
    let Some(asked) = asked else { return Ok(LONGEST_CHAINED_SESSION) };
    let Ok(seconds) = asked.parse::<i64>() else {
        let message = format!("'{asked}' is not a valid value for DurationSeconds");
        return Err(Fault { status: 400, code: "MalformedInput", message });
    };
    let constraint = match seconds {
        ..SHORTEST_SESSION => format!("greater than or equal to {SHORTEST_SESSION}"),
        SHORTEST_SESSION..=LONGEST_SESSION => return Ok(seconds),
        _ => format!("less than or equal to {LONGEST_SESSION}"),
    };
    Err(invalid(format!(
        "1 validation error detected: Value '{seconds}' at 'durationSeconds' failed to satisfy constraint: \
         Member must have value {constraint}"
    )))
}

fn invalid(message: String) -> Fault {
    Fault { status: 400, code: "ValidationError", message }
}

fn caller_identity(caller: &AccessKey) -> String {
    let account = caller.principal.split(':').nth(4).unwrap_or_default();
    format!(
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
         <Arn>{}</Arn><UserId>{}</UserId><Account>{account}</Account></GetCallerIdentityResult>\
         <ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata></GetCallerIdentityResponse>",
        escape(&caller.principal),
        caller.id,
        request_id(),
    )
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let invalid_token = "The security token included in the request is";
        let mismatch = "The request signature we calculated does not match the signature you provided. Check your AWS \
                        Secret Access Key and signing method. Consult the service documentation for details.";
        let (status, code, message) = match refusal {
            Refusal::Missing => {
                (403, "MissingAuthenticationToken", "Request is missing Authentication Token".to_owned())
            }
            Refusal::Incomplete(words) => (400, "IncompleteSignature", words),
            Refusal::Unacceptable(words) => (403, "SignatureDoesNotMatch", words),
            Refusal::UnknownKey => (403, "InvalidClientTokenId", format!("{invalid_token} invalid.")),
            Refusal::ExpiredKey => (403, "ExpiredToken", format!("{invalid_token} expired")),
            Refusal::Mismatch { .. } => (403, "SignatureDoesNotMatch", mismatch.to_owned()),
        };
        Self { status, code, message }
    }
}

impl Fault {
    fn into_response(self) -> Response<Bytes> {
        let body = format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
             <Code>{}</Code><Message>{}</Message></Error><RequestId>{}</RequestId></ErrorResponse>",
            self.code,
            escape(&self.message),
            request_id(),
        );
        xml(self.status, body)
    }
}

fn xml(status: u16, body: String) -> Response<Bytes> {
    let response = Response::builder().status(status).header("content-type", "text/xml");
    let response = response.header("x-amzn-requestid", request_id());
    response.body(Bytes::from(body)).expect("fixed fields are valid")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests;
