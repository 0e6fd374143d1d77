//! 403, API Gateway's word for a dozen things: paths, signatures, keys, policies (docs/aws.md A9).

use super::unauthorized::scope;
use super::{Answer, Api, Auth, Base, Said, Sent, Shown};
use crate::diagnosis::canonical::{self, Difference};
use crate::diagnosis::{Cause, Diagnosis};

/// What a 403 means.
pub(super) fn forbidden(answer: &Answer<'_>, said: &Said, sent: &Sent<'_>) -> Diagnosis {
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
        // A path that does not exist gets the same answer (docs/aws.md A9).
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
        return Diagnosis::of(Cause::BackendAnswer).or_any([Cause::AuthorizerDenied, Cause::InvokeNotAllowed]);
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
        // Nothing but the words says that it is the gateway's: a place is left for that.
        likely.truncate(3);
    }
    let mut likely = likely.into_iter();
    let first = likely.next().unwrap_or(Cause::WebAcl);
    let evidence = match sent.auth {
        Auth::Token { claims: Some(claims), .. } if first == Cause::ScopeMissing => claims.describe(sent.now),
        Auth::Signature { .. } if first == Cause::HttpApiDenied => sent.source(),
        Auth::None | Auth::Token { .. } | Auth::Signature { .. } => sent.line(),
    };
    Diagnosis::of(first).because(&evidence).or_any(likely)
}
