//! Authorisation: what is added to a request so that its API takes it.
//!
//! A [`Scheme`] computes a [`Grant`] from a request and a credential; it never touches the request itself. Credentials
//! come from one refreshing cache and are shared by all schemes whose credential settings are equal. Imports `egress`,
//! `diagnosis`, `message`, `clock`, `secret`, `tasks`.

pub mod aws;
pub mod aws_json;
pub mod builder;
pub mod canonical;
pub mod cognito_user;
pub mod container;
pub mod control;
pub mod diagnose;
pub mod error;
pub mod identity_pool;
pub mod metrics;
pub mod oauth;
pub mod refreshing;
pub mod refusal;
pub mod request;
pub mod role;
pub mod secrets;
pub mod shared;
pub mod signer;
pub mod sigv4;
pub mod spec;
pub mod srp;
pub mod status;
pub mod totp;

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

pub use self::builder::{Builder, Known, Means};

use self::aws::ProviderSource;
use self::cognito_user::CognitoUserSource;
use self::error::AuthError;
use self::oauth::ClientCredentialsSource;
use self::refreshing::{Lease, Refreshing, Source, Status, Unavailable};
use self::request::{Grant, Unsigned};
use self::secrets::FieldSource;
use self::shared::{CacheStatus, Shared};
use self::signer::Signer;
use self::spec::{Coverage, UserToken};
use crate::secret::Secret;

/// One way to authorise requests, with its credential.
#[derive(Debug)]
pub struct Scheme {
    name: Arc<str>,
    grants: Grants,
}

#[derive(Debug)]
enum Grants {
    Bearer { token: Token, header: HeaderName, scheme: String, last: ArcSwapOption<Written> },
    SigV4 { keys: Arc<Refreshing<ProviderSource>>, signer: Signer },
}

/// A token as the value of its field: a large text, written once for all requests that carry it.
#[derive(Debug)]
struct Written {
    generation: u64,
    value: HeaderValue,
}

/// A client whose tokens a fleet may share.
type SharedClient = Shared<ClientCredentialsSource>;

/// What a token is lent by.
#[derive(Debug)]
enum Token {
    Client(Arc<Refreshing<SharedClient>>),
    User(Arc<Refreshing<CognitoUserSource>>, UserToken),
}

impl Token {
    async fn get(&self, limit: Duration) -> Result<Lease<Secret>, Unavailable> {
        match self {
            Self::Client(client) => client.get_within(limit).await,
            Self::User(login, which) => {
                let Lease { value, generation } = login.get_within(limit).await?;
                Ok(Lease { value: value.get(*which).clone(), generation })
            }
        }
    }

    /// Which one would be lent now, if it can be had at once.
    fn generation(&self) -> Option<u64> {
        match self {
            Self::Client(client) => client.generation(),
            Self::User(login, _) => login.generation(),
        }
    }

    fn reject(&self, generation: u64) {
        match self {
            Self::Client(client) => client.reject(generation),
            Self::User(login, _) => login.reject(generation),
        }
    }

    async fn renew(&self, generation: u64) -> bool {
        match self {
            Self::Client(client) => client.renew(generation).await,
            Self::User(login, _) => login.renew(generation).await,
        }
    }
}

impl Scheme {
    /// Its name in the config.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What must be settled before [`Scheme::authorize`].
    pub fn coverage(&self) -> Coverage {
        match &self.grants {
            Grants::Bearer { .. } => Coverage::Token,
            Grants::SigV4 { signer, .. } => Coverage::Signature(signer.scope().payload),
        }
    }

    /// What to add to `request`; a credential that is being fetched is waited for, `limit` at most. `now` is asked once
    /// it is there, right before the signature.
    ///
    /// # Errors
    /// [`AuthError`]: no credential, or a request that cannot be signed.
    pub async fn authorize(
        &self,
        request: &Unsigned<'_>,
        limit: Duration,
        now: impl Fn() -> SystemTime,
    ) -> Result<Grant, AuthError> {
        match &self.grants {
            Grants::Bearer { token, header, scheme, last } => {
                let known = token.generation();
                if let Some(written) = last.load().as_ref().filter(|last| Some(last.generation) == known) {
                    return Ok(Grant::new(vec![(header.clone(), written.value.clone())], written.generation));
                }
                let Lease { value, generation } =
                    token.get(limit).await.map_err(|missing| self.unavailable(missing))?;
                let value = bearer(header, scheme, &value)?;
                last.store(Some(Arc::new(Written { generation, value: value.clone() })));
                Ok(Grant::new(vec![(header.clone(), value)], generation))
            }
            Grants::SigV4 { keys, signer } => {
                let lease = keys.get_within(limit).await.map_err(|missing| self.unavailable(missing))?;
                let begun = Instant::now();
                let fields = signer.authorize(request, &lease.value.identity, lease.generation, now())?;
                Ok(Grant::signed(fields, lease.generation, begun.elapsed()))
            }
        }
    }

    /// The upstream refused a grant of this generation: a newer credential is fetched behind the requests.
    pub fn reject(&self, generation: u64) {
        match &self.grants {
            Grants::Bearer { token, .. } => token.reject(generation),
            Grants::SigV4 { keys, .. } => keys.reject(generation),
        }
    }

    /// The upstream refused a grant of this generation. True once there is a newer credential, within 5 s; false when
    /// the refused one is itself too new for another to help, or none can be had.
    pub async fn renew(&self, generation: u64) -> bool {
        match &self.grants {
            Grants::Bearer { token, .. } => token.renew(generation).await,
            Grants::SigV4 { keys, .. } => keys.renew(generation).await,
        }
    }

    fn unavailable(&self, missing: Unavailable) -> AuthError {
        missing.of(Arc::clone(&self.name))
    }
}

fn bearer(header: &HeaderName, scheme: &str, token: &Secret) -> Result<HeaderValue, AuthError> {
    let token = token.expose();
    let text = if scheme.is_empty() { token.to_owned() } else { format!("{scheme} {token}") };
    let mut value =
        HeaderValue::try_from(text).map_err(|_not_visible_ascii| AuthError::NotAFieldValue(header.clone()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// All schemes of a config, and the credentials behind them.
#[derive(Debug, Default)]
pub struct Schemes {
    /// In the order of the specs.
    pub schemes: Vec<Arc<Scheme>>,
    /// In the order of the secret fields.
    pub fields: Vec<Arc<Refreshing<FieldSource>>>,
    /// Each credential once.
    pub credentials: Vec<Arc<dyn Credential>>,
    /// The store that tokens are shared through.
    pub cache: Option<Arc<TokenCache>>,
    /// The same by their settings, for a config that takes this one's place.
    pub known: Known,
}

/// Returns once the first try of each has ended, well or not.
pub async fn tried(credentials: &[Arc<dyn Credential>]) {
    for credential in credentials {
        credential.tried().await;
    }
}

/// The credentials of the config that is served now, and what a fleet shares them through.
#[derive(Clone, Debug, Default)]
pub struct Roster(Arc<Mutex<(All, Option<Arc<TokenCache>>)>>);

type All = Arc<[Arc<dyn Credential>]>;

/// The shared store of the config.
pub type TokenCache = shared::TokenCache<shared::Nodes>;

impl Roster {
    /// These credentials.
    pub fn new(credentials: Vec<Arc<dyn Credential>>, cache: Option<Arc<TokenCache>>) -> Self {
        Self(Arc::new(Mutex::new((credentials.into(), cache))))
    }

    /// Has these take the place of those before.
    pub fn replace(&self, credentials: Vec<Arc<dyn Credential>>, cache: Option<Arc<TokenCache>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (credentials.into(), cache);
    }

    /// All of them.
    pub fn all(&self) -> All {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// How the shared store fares, where there is one.
    pub fn cache(&self) -> Option<CacheStatus> {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
        cache.map(|cache| cache.status())
    }

    /// How each fares.
    pub fn statuses(&self) -> Vec<Status> {
        self.all().iter().map(|credential| credential.status()).collect()
    }
}

/// A credential, whatever its kind.
pub trait Credential: fmt::Debug + Send + Sync {
    /// How it fares.
    fn status(&self) -> Status;

    /// Ready once the first try has ended, well or not.
    fn tried<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

    /// Whose it is, asked of AWS where only AWS knows; `None` where it is known without, or not told.
    fn owner<'a>(&'a self) -> Pin<Box<dyn Future<Output = Option<String>> + Send + 'a>>;
}

impl<S: Source> Credential for Refreshing<S> {
    fn status(&self) -> Status {
        Refreshing::status(self)
    }

    fn tried<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(Refreshing::tried(self))
    }

    fn owner<'a>(&'a self) -> Pin<Box<dyn Future<Output = Option<String>> + Send + 'a>> {
        Box::pin(Refreshing::owner(self))
    }
}
