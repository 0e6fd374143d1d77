//! What can go wrong between a request and its authorisation, and whether trying again helps.
//!
//! Imports `secret`.

use std::sync::Arc;
use std::time::Duration;

use super::refreshing::Unavailable;
use crate::secret::SecretError;

/// A credential that could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A secret that the request needs could not be read.
    #[error("reading a secret")]
    Secret(#[source] SecretError),
    /// A secret could not be had from its store.
    #[error("reading {entry}")]
    Stored {
        /// Which.
        entry: String,
        /// Why.
        #[source]
        source: Box<FetchError>,
    },
    /// A secret that is there and cannot be used as it is.
    #[error("{what} cannot be used: {problem}")]
    Unfit {
        /// Which.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No answer: name lookup, connection, TLS or a broken answer.
    #[error("asking {endpoint}")]
    Unreachable {
        /// Whom.
        endpoint: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// No answer in time.
    #[error("{endpoint} did not answer within {limit:?}")]
    TimedOut {
        /// Whom.
        endpoint: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The endpoint says that this client, role or key may not have the credential.
    #[error("{endpoint} refused: {code}{}", detail(message))]
    Refused {
        /// Who.
        endpoint: String,
        /// Its error code, such as `invalid_client` or `AccessDenied`.
        code: String,
        /// Its own words, if any.
        message: String,
    },
    /// Too many requests.
    #[error("{endpoint} is throttling")]
    Throttled {
        /// Who.
        endpoint: String,
        /// When to come back, if it said so.
        retry_after: Option<Duration>,
    },
    /// An error on the endpoint's side.
    #[error("{endpoint} answered with status {status}")]
    Failing {
        /// Who.
        endpoint: String,
        /// The status.
        status: u16,
        /// When to come back, if it said so.
        retry_after: Option<Duration>,
    },
    /// An answer that cannot be used.
    #[error("{endpoint} gave an answer that cannot be used: {problem}")]
    Malformed {
        /// Who.
        endpoint: String,
        /// What is wrong with it; never a part of it that may be secret.
        problem: String,
    },
    /// A call of ours that could not be signed.
    #[error("signing a call to {endpoint}")]
    Unsigned {
        /// Whom it was for.
        endpoint: String,
        /// Why.
        #[source]
        source: Box<AuthError>,
    },
    /// A user pool does not let the user in.
    #[error(transparent)]
    Login(Box<LoginError>),
    /// The credential that this one is got with is not there: a login's token, or the keys that sign the call.
    #[error("the credential \"{base}\", which this one is got with")]
    NoBase {
        /// Its name, as in metrics.
        base: Arc<str>,
        /// Why.
        #[source]
        source: Unavailable,
    },
    /// Another member of the fleet asked a moment ago, and was not given it.
    #[error("{asked_for}: another sidecar has just asked for it in vain; the fleet asks again together")]
    AnotherFailed {
        /// What was asked for.
        asked_for: String,
    },
    /// There are no AWS credentials where they were looked for.
    #[error("no AWS credentials were found in {from}")]
    NoSource {
        /// Where was looked.
        from: String,
        /// What each link of the chain said.
        #[source]
        source: aws_credential_types::provider::error::CredentialsError,
    },
    /// A profile takes its credentials from an SSO session, and there is none, or it has ended.
    #[error(
        "the SSO session of profile \"{profile}\" is not there or has ended: run `aws sso login --profile {profile}`"
    )]
    SsoSession {
        /// Which.
        profile: String,
    },
    /// An AWS credential source failed.
    #[error("getting AWS credentials from {from}")]
    Aws {
        /// Which source.
        from: String,
        /// Whether the configuration is at fault.
        permanence: Permanence,
        /// Why.
        #[source]
        source: aws_credential_types::provider::error::CredentialsError,
    },
}

/// A login that a user pool did not take.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The pool said no.
    #[error("{endpoint} refused the login of {username:?}: {code}{}; {help}", detail(message))]
    Refused {
        /// Who.
        endpoint: String,
        /// Whose login.
        username: String,
        /// Its error code, such as `NotAuthorizedException`.
        code: String,
        /// Its own words, if any.
        message: String,
        /// What to do.
        help: String,
        /// [`Permanence::Counted`] when the pool counts it against the user.
        permanence: Permanence,
    },
    /// The pool wants something that is not in the config, or that no program has.
    #[error("{endpoint} asks {username:?} for {challenge}; {help}")]
    Challenge {
        /// Who.
        endpoint: String,
        /// Whose login.
        username: String,
        /// The challenge's name, such as `NEW_PASSWORD_REQUIRED`.
        challenge: String,
        /// What to do.
        help: String,
    },
    /// A one-time code is good for one login, and this one has had its login.
    #[error("the one-time code of {username:?} has been used; the next one begins in {next:?}")]
    CodeUsed {
        /// Whose login.
        username: String,
        /// When there is another.
        next: Duration,
    },
}

impl LoginError {
    /// Whether another password or client secret may fare better.
    pub(super) fn is_about_secrets(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "NotAuthorizedException")
    }
}

/// An endpoint's own words, fit for one log line.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(300).collect()
}

fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

/// Whether trying again soon can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permanence {
    /// Somebody must change something: tried once a minute.
    Permanent,
    /// Somebody must change something, and each try counts against a lockout: minutes between tries (docs/aws.md D4).
    Counted,
    /// It may be over in a moment.
    Passing,
}

impl Unavailable {
    /// What a request of `auth` gets for it: an `[auth.*]` table, or a field that is a secret.
    pub fn of(self, auth: Arc<str>) -> AuthError {
        let Self { cause, retry_after } = self;
        AuthError::Unavailable { auth, retry_after, cause }
    }
}

impl FetchError {
    /// Whether trying again soon can help.
    pub fn permanence(&self) -> Permanence {
        match self {
            Self::Secret(_)
            | Self::Unfit { .. }
            | Self::Refused { .. }
            | Self::NoSource { .. }
            | Self::SsoSession { .. }
            | Self::Unsigned { .. } => Permanence::Permanent,
            Self::Aws { permanence, .. } => *permanence,
            Self::Stored { source, .. } => source.permanence(),
            Self::Login(error) => match &**error {
                LoginError::Refused { permanence, .. } => *permanence,
                LoginError::Challenge { .. } => Permanence::Permanent,
                LoginError::CodeUsed { .. } => Permanence::Passing,
            },
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Throttled { .. }
            | Self::Failing { .. }
            // Asking costs nothing: the other one has a hold-off of its own.
            | Self::NoBase { .. }
            | Self::AnotherFailed { .. }
            | Self::Malformed { .. } => Permanence::Passing,
        }
    }

    /// What the endpoint said about when to come back.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after, .. } | Self::Failing { retry_after, .. } => *retry_after,
            Self::NoBase { source, .. } => Some(source.retry_after),
            Self::Stored { source, .. } => source.retry_after(),
            Self::Login(error) => match &**error {
                LoginError::CodeUsed { next, .. } => Some(*next),
                LoginError::Refused { .. } | LoginError::Challenge { .. } => None,
            },
            Self::Secret(_)
            | Self::Unfit { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Refused { .. }
            | Self::Malformed { .. }
            | Self::AnotherFailed { .. }
            | Self::NoSource { .. }
            | Self::SsoSession { .. }
            | Self::Unsigned { .. }
            | Self::Aws { .. } => None,
        }
    }
}

/// A request that could not be authorised; nothing of it was sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthError {
    /// There is no credential that could be used.
    #[error("no credential for auth \"{auth}\"")]
    Unavailable {
        /// The `[auth.*]` table.
        auth: Arc<str>,
        /// When the next try may have succeeded.
        retry_after: Duration,
        /// Why the last try failed; `None` while the first is under way.
        #[source]
        cause: Option<Arc<FetchError>>,
    },
    /// A field that must be signed has bytes that no two signers read alike.
    #[error("the field \"{0}\" must be signed and is not plain ASCII text")]
    Unsignable(http::HeaderName),
    /// A credential that no field value can hold, such as a session token with a line break in it.
    #[error("the credential for the field \"{0}\" has characters that no field can have")]
    NotAFieldValue(http::HeaderName),
    /// The signer refused; its reason names no secret.
    #[error("signing the request")]
    Signing(#[source] Arc<aws_sigv4::http_request::SigningError>),
}
