//! What an API's refusal or failure means for the route that it came on (aws.md A9).
//!
//! Looks only at what is API Gateway's own, or a resource server's by RFC 6750: a backend's 401 is its business with the
//! caller. Where the answer could be either's, that is among the causes. Imports nothing of ours.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::canonical::{self, Difference};
use super::claims::Claims;
use super::{Cause, Diagnosis, printable};

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
    match answer.status {
        400 => bad_request(&said),
        401 => Some(unauthorized(answer, &said, sent)),
        403 => Some(forbidden(answer, &said, sent)),
        404 => said.is("Not Found").then(|| Diagnosis::of(Cause::NoSuchRoute).because(&sent.line())),
        413 => Some(Diagnosis::of(Cause::PayloadTooLarge)),
        414 => Some(Diagnosis::of(Cause::UriTooLong).because(&format!("the path has {} bytes", sent.path.len()))),
        415 => Some(Diagnosis::of(Cause::MediaType)),
        429 if said.kind.contains("LimitExceeded") || said.message.contains("Limit Exceeded") => {
            Some(Diagnosis::of(Cause::QuotaExceeded))
        }
        429 => Some(Diagnosis::of(Cause::Throttled).or(Cause::QuotaExceeded)),
        431 => Some(Diagnosis::of(Cause::RequestHeadTooLarge)),
        500 | 502 => Some(broken(&said)),
        503 => Some(Diagnosis::of(Cause::IntegrationUnavailable)),
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
        // A gateway's answer that the body was not held of: it fails with no type but its mark.
        let failed = answer.api != Api::Unknown && matches!(answer.status, 503 | 504) && answer.body.is_none();
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

fn unauthorized(answer: &Answer<'_>, said: &Said, sent: &Sent<'_>) -> Diagnosis {
    let claims = match sent.auth {
        Auth::None => return Diagnosis::of(Cause::AuthNone),
        Auth::Signature { .. } => return Diagnosis::of(Cause::SignatureToToken).or(Cause::BackendRefused),
        Auth::Token { claims: None, .. } => return Diagnosis::of(Cause::TokenOpaque).or(Cause::TokenForm),
        Auth::Token { claims: Some(claims), .. } => claims,
    };
    let evidence = claims.describe(sent.now);
    let expired = claims.expires.is_some_and(|end| end <= sent.now);
    if expired || said.has("expired") {
        let mut diagnosis = Diagnosis::of(Cause::TokenExpired).because(&evidence);
        if !expired && let Some(skew) = sent.skew.filter(|skew| *skew > 60) {
            diagnosis = diagnosis.or_because(Cause::ClockBehind, &format!("by {skew} s"));
        }
        return diagnosis;
    }
    if let Some(challenge) = answer.challenge {
        return by_challenge(challenge, claims, sent).because_unless_told(challenge, &evidence);
    }
    if claims.begins.is_some_and(|begin| begin > sent.now + Duration::from_mins(1)) {
        return Diagnosis::of(Cause::TokenNotYetValid).because(&evidence);
    }
    let is_cognitos = claims.issuer.as_deref().is_some_and(|issuer| issuer.contains("cognito-idp"));
    let diagnosis = match claims.token_use.as_deref() {
        Some("access") => Diagnosis::of(Cause::IdTokenWanted).or(Cause::ScopeMissing).or(Cause::ForeignIssuer),
        Some("id") => Diagnosis::of(Cause::AccessTokenWanted).or(Cause::ForeignIssuer),
        _ if is_cognitos => Diagnosis::of(Cause::ForeignIssuer),
        _ => Diagnosis::of(Cause::ForeignIssuer).or(Cause::IdTokenWanted),
    };
    diagnosis.because(&evidence).or(Cause::TokenForm)
}

/// RFC 6750 3, in API Gateway's words and those of others.
fn by_challenge(challenge: &str, claims: &Claims, sent: &Sent<'_>) -> Diagnosis {
    if let Some(diagnosis) = scope(challenge, claims) {
        return diagnosis;
    }
    let said = parameter(challenge, "error_description").unwrap_or_default().to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["expired"]) {
        let diagnosis = Diagnosis::of(Cause::TokenExpired);
        match sent.skew.filter(|skew| *skew > 60) {
            Some(skew) => diagnosis.or_because(Cause::ClockBehind, &format!("by {skew} s")),
            None => diagnosis,
        }
    } else if has(&["audience", "aud "]) {
        Diagnosis::of(Cause::Audience)
    } else if has(&["issuer", "iss "]) {
        Diagnosis::of(Cause::ForeignIssuer)
    } else if has(&["not yet", "before", "nbf", "issued at"]) {
        Diagnosis::of(Cause::TokenNotYetValid)
    } else if has(&["signature", "signing", "key", "kid"]) {
        Diagnosis::of(Cause::TokenSignature).or(Cause::ForeignIssuer)
    } else {
        Diagnosis::of(Cause::TokenRefused).or_any([Cause::ForeignIssuer, Cause::Audience, Cause::TokenForm])
    }
}

impl Diagnosis {
    /// The issuer's own words go first, behind them what the token says.
    fn because_unless_told(self, challenge: &str, evidence: &str) -> Self {
        if self.first().evidence.is_some() {
            return self;
        }
        let said = parameter(challenge, "error_description").or_else(|| parameter(challenge, "error"));
        match said {
            Some(said) => self.because(&format!("\"{}\"; {evidence}", printable(said))),
            None => self.because(evidence),
        }
    }
}

fn scope(challenge: &str, claims: &Claims) -> Option<Diagnosis> {
    if parameter(challenge, "error") != Some("insufficient_scope") {
        return None;
    }
    let wanted = parameter(challenge, "scope").unwrap_or_default();
    let has = claims.scope.as_deref().unwrap_or_default();
    let diagnosis = Diagnosis::of(Cause::ScopeMissing);
    Some(diagnosis.because(&format!("the API wants \"{wanted}\", the token has \"{has}\"")))
}

/// The value of `name="value"` in a challenge.
fn parameter<'a>(challenge: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = challenge;
    while let Some((before, after)) = rest.split_once(name) {
        let starts = before.chars().next_back().is_none_or(|c| c == ' ' || c == ',');
        if starts && let Some(value) = after.strip_prefix("=\"") {
            return value.split_once('"').map(|(value, _)| value);
        }
        rest = after;
    }
    None
}

fn forbidden(answer: &Answer<'_>, said: &Said, sent: &Sent<'_>) -> Diagnosis {
    match said.kind.as_str() {
        "MissingAuthenticationTokenException" => no_path(sent),
        "IncompleteSignatureException" => incomplete(sent),
        "InvalidSignatureException" | "SignatureDoesNotMatch" | "RequestTimeTooSkewed" => signature(said, sent),
        "UnrecognizedClientException" | "InvalidClientTokenId" => unknown_key(sent),
        "ExpiredTokenException" | "ExpiredToken" => Diagnosis::of(Cause::KeysExpired).because(&sent.source()),
        "AccessDeniedException" | "AccessDenied" => denied(said, sent),
        _ if said.has("User: ") => denied(said, sent),
        _ if said.has("Missing Authentication Token") => no_path(sent),
        _ => plain(answer, said, sent),
    }
}

fn no_path(sent: &Sent<'_>) -> Diagnosis {
    let no_stage = sent.base == Base::None && sent.is_at_default_name();
    let first = if no_stage { Cause::StageMissing } else { Cause::NoSuchPath };
    let diagnosis = Diagnosis::of(first).because(&sent.line()).or(Cause::NoSuchPath);
    if *sent.auth == Auth::None { diagnosis.or(Cause::AuthNone) } else { diagnosis }
}

fn incomplete(sent: &Sent<'_>) -> Diagnosis {
    match sent.auth {
        Auth::Signature { .. } => Diagnosis::of(Cause::AuthorizationMangled).or(Cause::NoSuchPath),
        // A path that does not exist gets the same answer (aws.md A9).
        Auth::Token { .. } | Auth::None => Diagnosis::of(Cause::TokenToIam).because(&sent.line()).or(Cause::NoSuchPath),
    }
}

fn signature(said: &Said, sent: &Sent<'_>) -> Diagnosis {
    let scope = match sent.auth {
        Auth::Signature { region, service, .. } => format!("signed for {service} in {region}"),
        Auth::None | Auth::Token { .. } => String::new(),
    };
    let clock = |cause| {
        let skew = sent.skew.map(|skew| format!("; the API's clock is {skew} s ahead of this one"));
        Diagnosis::of(cause).because(&format!("\"{}\"{}", said.message, skew.unwrap_or_default()))
    };
    if said.has("expired") && said.has("Signature") {
        return clock(Cause::ClockBehind);
    }
    if said.has("not yet current") {
        return clock(Cause::ClockAhead);
    }
    if said.has("correct service") {
        return Diagnosis::of(Cause::WrongService).because(&scope);
    }
    if said.has("valid region") {
        return Diagnosis::of(Cause::WrongRegion).because(&scope);
    }
    if said.has("Credential scope does not match") || said.has("ate in Credential") {
        return Diagnosis::of(Cause::ScopeDate).or(Cause::ClockBehind).or(Cause::ClockAhead);
    }
    if said.has("Credential should be scoped") {
        return Diagnosis::of(Cause::WrongRegion).because(&scope).or(Cause::WrongService);
    }
    if said.kind == "RequestTimeTooSkewed" {
        let behind = sent.skew.is_none_or(|skew| skew > 0);
        return clock(if behind { Cause::ClockBehind } else { Cause::ClockAhead });
    }
    let theirs = canonical::quoted(&said.message);
    match (sent.canonical, theirs) {
        (Some(ours), Some(theirs)) => match canonical::compare(ours, theirs) {
            Difference::At { cause, line } => Diagnosis::of(cause).because(&line),
            Difference::None => Diagnosis::of(Cause::WrongSecretKey)
                .because(&format!("the API's canonical request is the one that was signed; {}", sent.source())),
        },
        _ => Diagnosis::of(Cause::WrongSecretKey).because(&sent.source()).or_any([
            Cause::HostChanged,
            Cause::RequestRewritten,
            Cause::BodyChanged,
        ]),
    }
}

fn unknown_key(sent: &Sent<'_>) -> Diagnosis {
    let Auth::Signature { key_id, session_token, .. } = sent.auth else {
        return Diagnosis::of(Cause::UnknownKey);
    };
    let temporary = key_id.as_deref().is_some_and(|id| id.starts_with("ASIA"));
    match (temporary, session_token) {
        (true, Shown::No) => Diagnosis::of(Cause::SessionTokenMissing).because(&sent.source()).or(Cause::UnknownKey),
        (_, Shown::Yes) => Diagnosis::of(Cause::UnknownKey).because(&sent.source()).or(Cause::SessionTokenForeign),
        (false, Shown::No) => Diagnosis::of(Cause::UnknownKey).because(&sent.source()).or(Cause::SessionTokenMissing),
    }
}

impl Sent<'_> {
    /// Whose keys; of their id the end alone.
    fn source(&self) -> String {
        let Auth::Signature { source, key_id, .. } = self.auth else { return String::new() };
        let id: String = key_id.as_deref().unwrap_or_default().chars().rev().take(4).collect();
        let id: String = id.chars().rev().collect();
        if id.is_empty() { source.clone() } else { format!("key ...{id}, {source}") }
    }
}

fn denied(said: &Said, sent: &Sent<'_>) -> Diagnosis {
    if said.has("User: anonymous") {
        let diagnosis = Diagnosis::of(Cause::AnonymousDenied).because(&said.message).or(Cause::PrivateApi);
        return if *sent.auth == Auth::None { diagnosis.or(Cause::AuthNone) } else { diagnosis };
    }
    if said.has("User is not authorized to access this resource") {
        return Diagnosis::of(Cause::AuthorizerDenied).because(&said.message);
    }
    if !said.has("execute-api:") {
        // Of a backend's own calls, say: its code met a policy, not the caller.
        return Diagnosis::of(Cause::BackendRefused).or_any([Cause::AuthorizerDenied, Cause::InvokeNotAllowed]);
    }
    let accounts = (account(&said.message, "User: "), account(&said.message, "on resource: "));
    let foreign = matches!(accounts, (Some(caller), Some(api)) if caller != api);
    let diagnosis = if said.has("explicit deny") {
        let other = if said.has("resource-based") { Some(Cause::ResourcePolicyDenies) } else { None };
        Diagnosis::of(Cause::ExplicitDeny).because(&said.message).or_any(other)
    } else if said.has("resource-based policy") {
        Diagnosis::of(Cause::ResourcePolicyDenies).because(&said.message)
    } else if foreign {
        return Diagnosis::of(Cause::OtherAccount).because(&said.message).or(Cause::InvokeNotAllowed);
    } else {
        Diagnosis::of(Cause::InvokeNotAllowed).because(&said.message).or(Cause::ResourcePolicyDenies)
    };
    if foreign { diagnosis.or(Cause::OtherAccount) } else { diagnosis }
}

/// The account in the ARN behind `lead`; where AWS masks it with stars, what is left.
fn account<'a>(message: &'a str, lead: &str) -> Option<&'a str> {
    let (_, arn) = message.split_once(lead)?;
    let account = arn.split(':').nth(4)?;
    // `********0123` says too little to tell two apart for sure.
    (account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit())).then_some(account)
}

/// "Forbidden", which means a dozen things.
fn plain(answer: &Answer<'_>, said: &Said, sent: &Sent<'_>) -> Diagnosis {
    if let (Some(challenge), Auth::Token { claims: Some(claims), .. }) = (answer.challenge, sent.auth)
        && let Some(diagnosis) = scope(challenge, claims)
    {
        return diagnosis;
    }
    let is_http = answer.api == Api::Http || said.kind.is_empty() && answer.api != Api::Rest;
    let mut likely = Vec::new();
    match (sent.auth, is_http) {
        (Auth::Signature { .. }, true) => likely.push(Cause::HttpApiDenied),
        (Auth::Token { .. }, true) => likely.push(Cause::ScopeMissing),
        _ => {}
    }
    if !is_http {
        likely.push(match sent.api_key {
            Shown::Yes => Cause::ApiKeyRefused,
            Shown::No => Cause::ApiKeyMissing,
        });
    }
    let private = sent.host.contains("vpce");
    match (sent.is_at_default_name(), private) {
        (_, true) => likely.insert(0, Cause::PrivateApi),
        (true, false) => likely.extend([Cause::WebAcl, Cause::DefaultEndpointDisabled, Cause::PrivateApi]),
        (false, false) => {
            likely.push(Cause::DomainMapping);
            likely.push(match sent.client_certificate {
                Shown::Yes => Cause::ClientCertificateRefused,
                Shown::No => Cause::ClientCertificateMissing,
            });
            likely.push(Cause::WebAcl);
        }
    }
    if said.kind.is_empty() {
        // Nothing but the words says that it is the gateway's.
        likely.truncate(3);
        likely.push(Cause::BackendRefused);
    }
    let mut likely = likely.into_iter();
    let first = likely.next().unwrap_or(Cause::WebAcl);
    let evidence = match sent.auth {
        Auth::Token { claims: Some(claims), .. } if first == Cause::ScopeMissing => claims.describe(sent.now),
        Auth::Signature { .. } if first == Cause::HttpApiDenied => sent.source(),
        _ => sent.line(),
    };
    Diagnosis::of(first).because(&evidence).or_any(likely)
}

#[cfg(test)]
mod tests;
