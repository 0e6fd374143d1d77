//! 401, and what a challenge says: tokens that are not taken (docs/aws.md C2, RFC 6750 3).

use std::time::Duration;

use super::{Answer, Auth, Said, Sent};
use crate::diagnosis::claims::Claims;
use crate::diagnosis::{Cause, Diagnosis, printable};

/// What a 401 means.
pub(super) fn unauthorized(answer: &Answer<'_>, said: &Said, sent: &Sent<'_>) -> Diagnosis {
    let claims = match sent.auth {
        Auth::None => return Diagnosis::of(Cause::AuthNone),
        Auth::Signature { .. } => return Diagnosis::of(Cause::SignatureToToken).or(Cause::BackendAnswer),
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

/// A challenge that names the scope it misses.
pub(super) fn scope(challenge: &str, claims: &Claims) -> Option<Diagnosis> {
    if parameter(challenge, "error") != Some("insufficient_scope") {
        return None;
    }
    let wanted = parameter(challenge, "scope").unwrap_or_default();
    let has = claims.scope.as_deref().unwrap_or_default();
    let diagnosis = Diagnosis::of(Cause::ScopeMissing);
    Some(diagnosis.because(&format!("the API wants \"{wanted}\", the token has \"{has}\"")))
}

/// The value of `name="value"` in a challenge.
pub(super) fn parameter<'a>(challenge: &'a str, name: &str) -> Option<&'a str> {
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
