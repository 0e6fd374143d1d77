//! Who may call what: the authorizers of API Gateway.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::request::Parts;
use http_body_util::BodyExt;
use hyper::body::Body as _;

use super::refusal::{Denial, Refusal};
use super::serve::{authority, longest, target};
use super::tap::Tap;
use super::{Api, Authorizer, Principal, TokenForm};
use crate::Error;
use crate::double::list;
use crate::keys::AccessKeys;
use crate::sigv4::{self, Presented, Rules};
use crate::token::{Claims, TokenVerifier};

/// API Gateway's limit of a payload (docs/aws.md A7).
pub(super) const PAYLOAD_LIMIT: u64 = 10 * 1024 * 1024;

/// How far a signing time may be off at API Gateway (docs/aws.md A5).
const CLOCK_WINDOW: Duration = Duration::from_mins(5);

/// A request that may pass.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) principal: Principal,
    /// The kind of authorizer that granted it.
    pub(super) by: &'static str,
    /// The body, where the authorizer had to collect it.
    pub(super) payload: Option<Bytes>,
}

/// Judges a request; the outer error is a body that broke off.
pub(super) async fn authorize(api: &Api, parts: &Parts, body: &mut Tap) -> Result<Result<Granted, Refusal>, Error> {
    let granted = |principal, by| Ok(Granted { principal, by, payload: None });
    let now = api.clock.now();
    let verdict = match longest(&api.methods, parts.uri.path()) {
        None => Err(unknown_path(&parts.headers)),
        Some(Authorizer::Open) => granted(Principal::Anonymous, "open"),
        Some(Authorizer::ApiKey { value }) => match sole(&parts.headers, "x-api-key") {
            Some(key) if key == value => granted(Principal::ApiKey, "api key"),
            Some(_) => Err(Denial::Forbidden.because("another API key")),
            None => Err(Denial::Forbidden.because("no API key")),
        },
        Some(Authorizer::Token { verifier, header, form, scope }) => {
            find_claims(&parts.headers, verifier, (header, *form), now)
                .and_then(|claims| require_scope(claims, scope.as_deref()))
                .and_then(|claims| granted(Principal::Client(claims), "token"))
        }
        Some(Authorizer::Iam { keys, region, service }) => match collect(body).await? {
            None => Err(Denial::TooLarge.because("more than 10 MB of body")),
            Some(payload) => {
                let rules = Rules { region, service, window: CLOCK_WINDOW };
                verify(parts, &body.sha256(), keys, &rules, now).map(|principal| Granted {
                    principal,
                    by: "iam",
                    payload: Some(payload),
                })
            }
        },
    };
    Ok(verdict)
}

/// A REST API that does not know the path takes the request for an unsigned or badly signed one (docs/aws.md A9).
fn unknown_path(headers: &HeaderMap) -> Refusal {
    let authorization = sole(headers, "authorization");
    let words = authorization.and_then(sigv4::complaint);
    Denial::NotFound(words).because("no method has this path")
}

fn find_claims(
    headers: &HeaderMap,
    verifier: &TokenVerifier,
    (header, form): (&str, TokenForm),
    now: SystemTime,
) -> Result<Claims, Refusal> {
    let value = sole(headers, header).ok_or_else(|| Denial::NoToken.because("no token, or more than one"))?;
    let after_scheme = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let token = match (form, after_scheme) {
        (TokenForm::Bearer | TokenForm::Either, Some((_, token))) => token,
        (TokenForm::Raw | TokenForm::Either, None) => value,
        (TokenForm::Raw, Some(_)) => return Err(Denial::BadToken.because("the token has a scheme before it")),
        (TokenForm::Bearer, None) => return Err(Denial::BadToken.because("the token has no scheme before it")),
    };
    verifier.verify_at(token, now).map_err(|reason| match reason.as_str() {
        "the token has expired" => Denial::ExpiredToken.because(&reason),
        _ => Denial::BadToken.because(&reason),
    })
}

fn require_scope(claims: Claims, scope: Option<&str>) -> Result<Claims, Refusal> {
    match scope {
        Some(scope) if !claims.grants(scope) => {
            let reason = format!("the token grants '{}', not '{scope}'", claims.scope);
            Err(Denial::MissingScope(scope.to_owned()).because(&reason))
        }
        Some(_) | None => Ok(claims),
    }
}

/// The whole body, or `None` if it is too long.
async fn collect(body: &mut Tap) -> Result<Option<Bytes>, Error> {
    if body.size_hint().lower() > PAYLOAD_LIMIT {
        return Ok(None);
    }
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            collected.extend_from_slice(&data);
        }
        if collected.len() as u64 > PAYLOAD_LIMIT {
            return Ok(None);
        }
    }
    Ok(Some(collected.freeze()))
}

fn verify(
    parts: &Parts,
    payload: &str,
    keys: &AccessKeys,
    rules: &Rules<'_>,
    now: SystemTime,
) -> Result<Principal, Refusal> {
    let (target, headers) = (target(&parts.uri), list(&parts.headers));
    let presented = Presented {
        method: parts.method.as_str(),
        target: &target,
        authority: authority(parts.version, &parts.uri),
        headers: &headers,
        payload,
    };
    match sigv4::verify(&presented, rules, keys, now) {
        Ok(key) => Ok(Principal::Iam { arn: key.principal, access_key_id: key.id }),
        Err(refusal) => {
            let reason = format!("{refusal:?}");
            Err(Denial::Signature(refusal).because(&reason))
        }
    }
}

/// The value of a field that is there once and is text.
fn sole<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}
