//! Why a request failed: its facts collected for `diagnosis`, once it is known that it did.
//!
//! A request that goes well costs one comparison of its status. What speaks for a cause is shown to callers where it is
//! about the API's own answer, and kept for the log where countersign answers by itself. Imports `auth`, `diagnosis`, `route`.

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::response::Parts;

use super::LiveRoute;
use super::conceal::{Passage, Secrets};
use super::outcome::ProxyError;
use super::pool::{ExchangeError, ProxyFault, UpstreamError};
use super::rewrite::Outbound;
use super::skew;
use crate::auth::canonical::{Added, canonical_request};
use crate::auth::error::AuthError;
use crate::auth::refreshing::Chain;
use crate::clock::Moment;
use crate::diagnosis::answer::{self, Answer, Api, Auth, Base, Sent, Shown};
use crate::diagnosis::{Cause, Diagnosis, canonical, transport};

const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
const REST_ID: HeaderName = HeaderName::from_static("x-amz-apigw-id");
const HTTP_ID: HeaderName = HeaderName::from_static("apigw-requestid");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Stands in for a session token, which is not compared.
const NO_TOKEN: &str = "[redacted]";

/// A request that was answered with an error.
#[derive(Debug)]
pub(super) struct Case {
    request: Outbound,
    sent: Moment,
    answered: Moment,
}

impl Case {
    /// `request` as it was sent, but for its body and what authorised it.
    pub(super) fn new(request: Outbound, sent: Moment, answered: Moment) -> Self {
        Self { request, sent, answered }
    }

    /// What the answer means; `None` where it is the API's own business.
    pub(super) fn diagnose(
        &self,
        head: &Parts,
        body: &Passage,
        secrets: &Secrets,
        to: &LiveRoute,
    ) -> Option<Diagnosis> {
        let text = |name: &HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        let api = match (head.headers.contains_key(&REST_ID), head.headers.contains_key(&HTTP_ID)) {
            (true, _) => Api::Rest,
            (false, true) => Api::Http,
            (false, false) => Api::Unknown,
        };
        let held = match body {
            Passage::Held(bytes) => Some(&bytes[..]),
            Passage::Streaming(_) => None,
        };
        let answer = Answer {
            status: head.status.as_u16(),
            error_type: text(&ERROR_TYPE),
            challenge: bearer_challenge(&head.headers),
            api,
            body: held,
            length: head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()),
        };
        let unsigned = self.request.unsigned();
        let ours = || {
            let scope = to.scheme.as_ref()?.scope()?;
            let body = String::from_utf8_lossy(held?);
            let words: serde_json::Value = serde_json::from_str(&body).ok()?;
            let message = words.get("message").or_else(|| words.get("Message"))?.as_str()?;
            let theirs = canonical::quoted(message)?;
            let has_token = theirs.lines().any(|line| line.starts_with("x-amz-security-token:"));
            let added = Added {
                date: canonical::date_of(theirs).unwrap_or_default(),
                security_token: has_token.then_some(NO_TOKEN),
            };
            canonical_request(&unsigned, scope, &added).ok()
        };
        let canonical = ours();
        let auth = match &to.scheme {
            None => Auth::None,
            // What a secret of the route's own is set to was there before the request was authorised.
            Some(scheme) => scheme.shown(secrets.values().filter(|value| !is_among(value, unsigned.headers))),
        };
        let origin = &to.route.upstream.origin;
        let sent = Sent {
            method: unsigned.method.as_str(),
            path: unsigned.path_and_query.path(),
            base: if to.route.upstream.base_path.is_empty() { Base::None } else { Base::Path },
            host: origin.authority.host(),
            auth: &auth,
            api_key: shown(unsigned.headers.contains_key(&API_KEY)),
            client_certificate: shown(origin.tls.identity.is_some()),
            skew: skew::measure(&head.headers, self.sent, self.answered).map(|milliseconds| milliseconds / 1_000),
            now: self.answered.wall,
            canonical: canonical.as_deref(),
        };
        answer::diagnose(&answer, &sent)
    }
}

fn shown(is: bool) -> Shown {
    if is { Shown::Yes } else { Shown::No }
}

fn is_among(value: &HeaderValue, headers: &HeaderMap) -> bool {
    headers.values().any(|other| other.is_sensitive() && other == value)
}

/// The challenge of RFC 6750; API Gateway's REST APIs send it under another name.
fn bearer_challenge(headers: &HeaderMap) -> Option<&str> {
    let remapped = HeaderName::from_static("x-amzn-remapped-www-authenticate");
    let values = headers.get_all(WWW_AUTHENTICATE).iter().chain(headers.get_all(remapped).iter());
    let mut texts = values.filter_map(|value| value.to_str().ok());
    texts.find(|text| text.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer")))
}

/// Why countersign answers by itself; `None` where its answer says all there is.
pub(super) fn own(error: &ProxyError) -> Option<Diagnosis> {
    let diagnosis = match error {
        ProxyError::Auth(AuthError::Unavailable { cause: None, .. }) => Diagnosis::of(Cause::CredentialSlow),
        ProxyError::Auth(AuthError::Unavailable { cause: Some(cause), .. }) => return Some(cause.diagnose()),
        ProxyError::Upstream(error) => upstream(error)?,
        ProxyError::Target(_)
        | ProxyError::Head(_)
        | ProxyError::BadHost(_)
        | ProxyError::HostNotAllowed(_)
        | ProxyError::WebPage(_)
        | ProxyError::Forwarded(_)
        | ProxyError::CallerToken
        | ProxyError::ProxyToken
        | ProxyError::Loop
        | ProxyError::NoRoute { .. }
        | ProxyError::Unmatched { .. }
        | ProxyError::Tunnel(_)
        | ProxyError::TunnelNotListed { .. }
        | ProxyError::Certificate(_)
        | ProxyError::MethodNotAllowed { .. }
        | ProxyError::MethodNeverProxied(_)
        | ProxyError::Handshake(_)
        | ProxyError::Expectation
        | ProxyError::Body(_)
        | ProxyError::Overloaded { .. }
        | ProxyError::Auth(AuthError::Unsignable(_) | AuthError::NotAFieldValue(_) | AuthError::Signing(_)) => {
            return None;
        }
    };
    Some(diagnosis.because(&Chain(error).to_string()))
}

fn upstream(error: &UpstreamError) -> Option<Diagnosis> {
    Some(match error {
        // The caller's own doing, and told.
        UpstreamError::OffLimits { .. } => return None,
        UpstreamError::Resolve { source, .. } => transport::lookup(source),
        // Also where the lookup found nothing.
        UpstreamError::Connect { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Diagnosis::of(Cause::NameUnknown)
        }
        UpstreamError::Connect { source, .. } => {
            transport::connection(source).unwrap_or_else(|| Diagnosis::of(Cause::NetworkUnreachable))
        }
        UpstreamError::ResolveTimeout { .. } => Diagnosis::of(Cause::NameServerSilent),
        UpstreamError::ConnectTimeout { .. } => Diagnosis::of(Cause::ConnectTimeout),
        UpstreamError::Proxy { source, .. } => Diagnosis::of(match source {
            ProxyFault::Connect(_) => Cause::ProxyUnreachable,
            ProxyFault::Silent(_) | ProxyFault::Closed(_) => Cause::ProxySilent,
            ProxyFault::Credentials(_) => Cause::ProxyCredentials,
            ProxyFault::Refused(_) => Cause::ProxyRefuses,
            ProxyFault::NotHttp => Cause::ProxyNotHttp,
        }),
        UpstreamError::Tls { source, .. } => transport::handshake(source),
        UpstreamError::TlsTimeout { .. } => Diagnosis::of(Cause::TlsTimeout).or(Cause::TlsNotSpoken),
        UpstreamError::BodyTimeout(_) | UpstreamError::ResponseTimeout(_) => Diagnosis::of(Cause::AnswerTimeout),
        UpstreamError::Switched | UpstreamError::Framing(_) | UpstreamError::Http(ExchangeError::Unasked) => {
            Diagnosis::of(Cause::AnswerNotHttp)
        }
        // With TLS 1.3 a client certificate is refused behind the handshake.
        UpstreamError::Http(error) => match transport::diagnose(error) {
            Some(diagnosis) if diagnosis.first().cause != Cause::ConnectionLost => diagnosis,
            _ => Diagnosis::of(Cause::AnswerBrokenOff),
        },
    })
}
