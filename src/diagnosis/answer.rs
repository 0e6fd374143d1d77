//! What an API's refusal or failure means for the route that it came on (docs/aws.md A9).
//!
//! Looks only at what is API Gateway's own, or a resource server's by RFC 6750: a backend's 401 is its business with the
//! caller. Where the answer could be either's, that is among the causes. Imports nothing of ours.

mod forbidden;
mod unauthorized;

use std::time::SystemTime;

use serde_json::Value;

use super::claims::Claims;
use super::{Cause, Diagnosis};

/// An answer with a status from 400 on.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Its status.
    pub status: u16,
    /// `x-amzn-errortype`, as it came.
    pub error_type: Option<&'a str>,
    /// The `www-authenticate` that names Bearer.
    pub challenge: Option<&'a str>,
    /// Which kind of API marked it with a request id of its own.
    pub api: Api,
    /// Its body, where that was held.
    pub body: Option<&'a [u8]>,
    /// The length of its body, where that was told.
    pub length: Option<u64>,
}

/// The kinds of API of API Gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// REST: it sent `x-amz-apigw-id`.
    Rest,
    /// HTTP: it sent `apigw-requestid`.
    Http,
    /// It did not say.
    Unknown,
}

/// The request that got the answer.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path as it went out, stage included.
    pub path: &'a str,
    /// Whether the route's upstream has a path: a stage or base path.
    pub base: Base,
    /// The name it was sent to.
    pub host: &'a str,
    /// How it was authorised.
    pub auth: &'a Auth,
    /// Whether it carried `x-api-key`.
    pub api_key: Shown,
    /// Whether the connection showed a client certificate.
    pub client_certificate: Shown,
    /// Seconds that the upstream's clock is ahead of ours, by this answer's `Date`.
    pub skew: Option<i64>,
    /// When it was answered.
    pub now: SystemTime,
    /// The canonical request that was signed, if this is about that.
    pub canonical: Option<&'a str>,
}

/// Whether the route's upstream has a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// `https://host/prod`.
    Path,
    /// `https://host`.
    None,
}

/// Whether something was shown to the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It was.
    Yes,
    /// It was not.
    No,
}

/// How a request was authorised, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Not at all.
    None,
    /// By a token.
    Token {
        /// What it says of itself; `None` if it is no JWT.
        claims: Option<Claims>,
        /// The field that carried it.
        header: String,
        /// The word before it; may be empty.
        scheme: String,
    },
    /// By a signature.
    Signature {
        /// Region of the signing scope.
        region: String,
        /// Service of the signing scope.
        service: String,
        /// Whose keys: the credential source, with its role.
        source: String,
        /// The access key id.
        key_id: Option<String>,
        /// Whether a session token went with it.
        session_token: Shown,
    },
}

/// What `answer` means; `None` for a success, and for what is a backend's own business.
pub fn diagnose(answer: &Answer<'_>, sent: &Sent<'_>) -> Option<Diagnosis> {
    let said = Said::read(answer);
    if !said.is_gateways(answer) {
        return None;
    }
    let diagnosis = by_status(answer, &said, sent)?;
    // With its error type API Gateway signs its answers; without it others could have written the same.
    let is_signed = !said.kind.is_empty() || answer.challenge.is_some();
    Some(if is_signed { diagnosis } else { diagnosis.or(Cause::BackendAnswer) })
}

fn by_status(answer: &Answer<'_>, said: &Said, sent: &Sent<'_>) -> Option<Diagnosis> {
    match answer.status {
        400 => bad_request(said),
        401 => Some(unauthorized::unauthorized(answer, said, sent)),
        403 => Some(forbidden::forbidden(answer, said, sent)),
        404 => said.is("Not Found").then(|| Diagnosis::of(Cause::NoSuchRoute).because(&sent.line())),
        413 => Some(Diagnosis::of(Cause::PayloadTooLarge)),
        414 => Some(Diagnosis::of(Cause::UriTooLong).because(&format!("the path has {} bytes", sent.path.len()))),
        415 => Some(Diagnosis::of(Cause::MediaType)),
        429 if said.kind.contains("LimitExceeded") || said.message.contains("Limit Exceeded") => {
            Some(Diagnosis::of(Cause::QuotaExceeded))
        }
        429 => Some(Diagnosis::of(Cause::Throttled).or(Cause::QuotaExceeded)),
        431 => Some(Diagnosis::of(Cause::RequestHeadTooLarge)),
        500 | 502 => Some(broken(said)),
        // An HTTP API says the same where the integration took too long.
        503 => Some(Diagnosis::of(Cause::IntegrationUnavailable).or(Cause::IntegrationTimeout)),
        504 => Some(Diagnosis::of(Cause::IntegrationTimeout)),
        _ => None,
    }
}

/// API Gateway's own words.
struct Said {
    /// The error type without its namespace.
    kind: String,
    message: String,
    /// Whether the body is an object with a message and nothing else.
    bare: bool,
}

/// What API Gateway says where it gives no error type.
const BARE: [&str; 9] = [
    "Forbidden",
    "Unauthorized",
    "Not Found",
    "Too Many Requests",
    "Service Unavailable",
    "Internal Server Error",
    "Internal server error",
    "Request Entity Too Large",
    "Limit Exceeded",
];

/// `{"message":"Service Unavailable"}`, and the same with `Internal Server Error`.
const FAILED: [u64; 2] = [33, 35];

impl Said {
    fn read(answer: &Answer<'_>) -> Self {
        let kind = answer.error_type.unwrap_or_default();
        let kind = kind.rsplit('#').next().unwrap_or_default().split(':').next().unwrap_or_default().trim();
        let body: Option<Value> = answer.body.and_then(|body| serde_json::from_slice(body).ok());
        let body = body.as_ref().and_then(Value::as_object);
        let member = |name: &str| body.and_then(|body| body.get(name)).and_then(Value::as_str);
        let message = member("message").or_else(|| member("Message")).unwrap_or_default().to_owned();
        Self { kind: kind.to_owned(), message, bare: body.is_some_and(|body| body.len() == 1) }
    }

    fn is_gateways(&self, answer: &Answer<'_>) -> bool {
        let in_its_words = self.bare && (BARE.contains(&self.message.as_str()) || self.message.starts_with("User: "));
        // What stands in front of API Gateway (a load balancer, CloudFront) says these on its behalf.
        let is_of_size = matches!(answer.status, 413 | 414 | 431);
        // The bodies of failures are not held; an HTTP API's have its mark and the length of its words.
        let failed = answer.api == Api::Http && answer.length.is_some_and(|length| FAILED.contains(&length));
        !self.kind.is_empty() || answer.challenge.is_some() || in_its_words || is_of_size || failed
    }

    fn is(&self, words: &str) -> bool {
        self.message == words
    }

    fn has(&self, words: &str) -> bool {
        self.message.contains(words)
    }
}

impl Sent<'_> {
    fn line(&self) -> String {
        let path: String = self.path.chars().take(120).collect();
        format!("{} {path} at {}", self.method, self.host)
    }

    fn is_at_default_name(&self) -> bool {
        self.host.contains(".execute-api.")
    }
}

fn bad_request(said: &Said) -> Option<Diagnosis> {
    if said.has("Too Large") {
        return Some(Diagnosis::of(Cause::RequestHeadTooLarge));
    }
    (said.kind == "BadRequestException").then(|| Diagnosis::of(Cause::RequestInvalid).because(&said.message))
}

fn broken(said: &Said) -> Diagnosis {
    match said.kind.as_str() {
        "AuthorizerConfigurationException" => Diagnosis::of(Cause::AuthorizerMisconfigured),
        "AuthorizerFailureException" => Diagnosis::of(Cause::AuthorizerFailed),
        _ if said.bare && said.message.is_empty() => {
            Diagnosis::of(Cause::AuthorizerFailed).or(Cause::IntegrationFailed)
        }
        _ => Diagnosis::of(Cause::IntegrationFailed).or(Cause::AuthorizerFailed),
    }
}

#[cfg(test)]
mod tests;
