//! From a credential that cannot be fetched, and from a scheme, to what `diagnosis` knows of them.
//!
//! Who refused is read from the error itself: error codes are protocol, and each service's are its own. Imports `diagnosis`.

use http::HeaderValue;

use super::error::{FetchError, LoginError, Permanence};
use super::refreshing::Chain;
use super::{Grants, Scheme, Token, container, identity_pool};
use crate::diagnosis::answer::{Auth, Shown};
use crate::diagnosis::claims::Claims;
use crate::diagnosis::credential::{self, Service};
use crate::diagnosis::{Cause, Diagnosis, transport};

impl FetchError {
    /// Why there is no credential, the likeliest first; with its own words as evidence, which are for the log.
    pub fn diagnose(&self) -> Diagnosis {
        self.causes().because(&Chain(self).to_string())
    }

    fn causes(&self) -> Diagnosis {
        match self {
            Self::Secret(_) => Diagnosis::of(Cause::SecretFile),
            Self::Unfit { .. } => Diagnosis::of(Cause::SecretUnfit),
            Self::Stored { source, .. } => {
                if let Self::Refused { code, message, .. } = &**source {
                    credential::refused(Service::Store, code, message)
                } else {
                    source.causes()
                }
            }
            Self::Unreachable { source, .. } => {
                transport::diagnose(source).unwrap_or_else(|| Diagnosis::of(Cause::ConnectionLost))
            }
            Self::TimedOut { .. } => Diagnosis::of(Cause::AnswerSlow).or(Cause::ConnectTimeout),
            Self::Refused { endpoint, code, message } => {
                credential::refused(service(endpoint, code, message), code, message)
            }
            Self::Throttled { .. } => Diagnosis::of(Cause::ServiceThrottled),
            Self::Failing { .. } => Diagnosis::of(Cause::ServiceFailing),
            Self::AnotherFailed { .. } => Diagnosis::of(Cause::ServiceFailing).or(Cause::ClientRefused),
            Self::Malformed { .. } => Diagnosis::of(Cause::TokenUnusable),
            Self::Unsigned { .. } => Diagnosis::of(Cause::CredentialFailed),
            Self::Login(error) => match &**error {
                LoginError::Refused { code, message, .. } => credential::refused(Service::Login, code, message),
                LoginError::Challenge { challenge, .. } => credential::challenged(challenge),
                LoginError::CodeUsed { .. } => Diagnosis::of(Cause::CodeUsed),
            },
            Self::NoBase { source, .. } => {
                source.cause.as_ref().map_or_else(|| Diagnosis::of(Cause::CredentialSlow), |cause| cause.causes())
            }
            Self::NoSource { from, .. } => no_source(from),
            Self::SsoSession { .. } => Diagnosis::of(Cause::SsoSession),
            Self::Aws { from, permanence, source } => aws(from, *permanence, source),
        }
    }
}

fn service(endpoint: &str, code: &str, message: &str) -> Service {
    if endpoint.starts_with("STS,") {
        Service::Sts
    } else if endpoint == container::NAME {
        Service::Container
    } else if code.ends_with("Exception") {
        if message.contains(identity_pool::GUESTS) { Service::Guests } else { Service::IdentityPool }
    } else {
        Service::TokenEndpoint
    }
}

/// By the names that `aws::Place` has in messages.
fn no_source(from: &str) -> Diagnosis {
    Diagnosis::of(match from {
        from if from.starts_with("profile") => Cause::ProfileMissing,
        from if from.starts_with("the environment") => Cause::EnvironmentKeysMissing,
        from if from.starts_with("the container") => Cause::ContainerVariablesMissing,
        from if from.starts_with("the instance") => Cause::InstanceRoleMissing,
        from if from.starts_with("the web identity") => Cause::WebIdentity,
        _ => Cause::NoAwsCredentials,
    })
}

fn aws(from: &str, permanence: Permanence, source: &(dyn std::error::Error + 'static)) -> Diagnosis {
    let words = Chain(source).to_string();
    let of_the_way = transport::diagnose(source);
    if from == container::NAME {
        return Diagnosis::of(Cause::ContainerEndpointForeign);
    }
    if from.starts_with("the instance") {
        return Diagnosis::of(Cause::InstanceSilent).or_any(of_the_way.map(|diagnosis| diagnosis.first().cause));
    }
    if words.contains("InvalidIdentityToken") || from.starts_with("the web identity") {
        return Diagnosis::of(Cause::WebIdentity).or_any(of_the_way.map(|diagnosis| diagnosis.first().cause));
    }
    if let Some(of_the_way) = of_the_way {
        return of_the_way;
    }
    match (from.starts_with("profile"), permanence) {
        (true, Permanence::Permanent) => Diagnosis::of(Cause::ProfileMissing),
        _ => Diagnosis::of(Cause::CredentialFailed),
    }
}

impl Scheme {
    /// What a request was authorised with, read from the secrets that were added to it, without them.
    pub fn shown<'a>(&self, mut secrets: impl Iterator<Item = &'a HeaderValue>) -> Auth {
        match &self.grants {
            Grants::Bearer { header, scheme, .. } => {
                let value = secrets.next().and_then(|value| value.to_str().ok()).unwrap_or_default();
                let token = value.strip_prefix(scheme.as_str()).unwrap_or(value).trim_start();
                Auth::Token { claims: Claims::read(token), header: header.as_str().to_owned(), scheme: scheme.clone() }
            }
            Grants::SigV4 { keys, scope } => {
                let (mut key_id, mut session_token) = (None, Shown::No);
                for value in secrets.filter_map(|value| value.to_str().ok()) {
                    match value.split_once("Credential=").filter(|_| value.starts_with("AWS4-")) {
                        Some((_, credential)) => key_id = credential.split('/').next().map(ToOwned::to_owned),
                        None => session_token = Shown::Yes,
                    }
                }
                let (region, service) = (scope.region.clone(), scope.service.clone());
                Auth::Signature { region, service, source: keys.status().kind, key_id, session_token }
            }
        }
    }

    /// What its signatures are for; `None` if it makes none.
    pub fn scope(&self) -> Option<&super::sigv4::Scope> {
        match &self.grants {
            Grants::Bearer { token: Token::Client(_) | Token::User(..), .. } => None,
            Grants::SigV4 { scope, .. } => Some(scope),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_rule_knows_is_a_credential_that_failed() {
        let odd = std::fmt::Error;
        for (from, permanence) in [
            ("the default chain", Permanence::Passing),
            ("the default chain", Permanence::Permanent),
            ("profile \"x\"", Permanence::Passing),
        ] {
            assert_eq!(aws(from, permanence, &odd).first().cause.code(), "credential-failed", "{from}");
        }
        assert_eq!(aws("profile \"x\"", Permanence::Permanent, &odd).first().cause.code(), "profile-missing");
    }

    #[test]
    fn who_refused_is_read_from_the_error() {
        let code = |endpoint: &str, code: &str, message: &str| {
            let (endpoint, code, message) = (endpoint.to_owned(), code.to_owned(), message.to_owned());
            FetchError::Refused { endpoint, code, message }.diagnose().first().cause.code()
        };
        assert_eq!(code("STS, asked for role x,", "AccessDenied", ""), "role-not-assumable");
        assert_eq!(code(container::NAME, "AccessDenied", ""), "container-refused");
        assert_eq!(code("https://issuer.example/token", "invalid_client", ""), "client-refused");
        assert_eq!(code("https://cognito-identity", "NotAuthorizedException", ""), "identity-login-refused");
        assert_eq!(code("https://x", "NotAuthorizedException", identity_pool::GUESTS), "guests-refused");
        let stored = FetchError::Stored {
            entry: "secret \"x\"".to_owned(),
            source: Box::new(FetchError::Refused {
                endpoint: "https://secretsmanager".to_owned(),
                code: "AccessDeniedException".to_owned(),
                message: "User: arn:aws:iam::1:user/a".to_owned(),
            }),
        };
        let diagnosis = stored.diagnose();
        assert_eq!(diagnosis.first().cause.code(), "store-denied");
        assert!(
            diagnosis.first().evidence.as_ref().unwrap().starts_with("reading secret \"x\": https://secretsmanager")
        );
    }
}
