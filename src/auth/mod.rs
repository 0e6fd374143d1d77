//! Authorisation: what is added to a request so that its API takes it.
//!
//! A [`Scheme`] computes a [`Grant`] from a request and a credential; it never touches the request itself. Credentials
//! come from one refreshing cache and are shared by all schemes whose credential settings are equal. Imports `message`,
//! `clock`, `secret`, `tasks`.

pub mod aws;
pub mod aws_json;
pub mod canonical;
pub mod cognito_user;
pub mod control;
pub mod error;
pub mod identity_pool;
pub mod metrics;
pub mod oauth;
pub mod refreshing;
pub mod refusal;
pub mod request;
pub mod sigv4;
pub mod spec;
pub mod srp;
pub mod totp;

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue};

use self::aws::ProviderSource;
use self::aws_json::AwsJson;
use self::cognito_user::CognitoUserSource;
use self::control::Control;
use self::error::AuthError;
use self::oauth::ClientCredentialsSource;
use self::refreshing::{Lease, Refreshing, Source, Status, Unavailable};
use self::request::{Grant, Unsigned};
use self::spec::{
    AwsCredentials, AwsSource, ClientCredentials, CognitoUser, Coverage, Flow, Kind, Spec, TokenSource, UserToken,
};
use crate::clock::Clock;
use crate::secret::Secret;
use crate::tasks::Tasks;

/// One way to authorise requests, with its credential.
#[derive(Debug)]
pub struct Scheme {
    name: Arc<str>,
    means: Means,
}

#[derive(Debug)]
enum Means {
    Bearer { token: Token, header: HeaderName, scheme: String },
    SigV4 { keys: Arc<Refreshing<ProviderSource>>, scope: sigv4::Scope },
}

/// What a token is lent by.
#[derive(Debug)]
enum Token {
    Client(Arc<Refreshing<ClientCredentialsSource>>),
    User(Arc<Refreshing<CognitoUserSource>>, UserToken),
}

impl Token {
    async fn get(&self) -> Result<Lease<Secret>, Unavailable> {
        match self {
            Self::Client(client) => client.get().await,
            Self::User(login, which) => {
                let Lease { value, generation } = login.get().await?;
                Ok(Lease { value: value.get(*which).clone(), generation })
            }
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
    /// What must be settled before [`Scheme::authorize`].
    pub fn coverage(&self) -> Coverage {
        match &self.means {
            Means::Bearer { .. } => Coverage::Token,
            Means::SigV4 { scope, .. } => Coverage::Signature(scope.payload),
        }
    }

    /// What to add to `request`. `now` is asked once the credential is there, right before the signature.
    ///
    /// # Errors
    /// [`AuthError`]: no credential, or a request that cannot be signed.
    pub async fn authorize(&self, request: &Unsigned<'_>, now: impl Fn() -> SystemTime) -> Result<Grant, AuthError> {
        match &self.means {
            Means::Bearer { token, header, scheme } => {
                let lease = token.get().await.map_err(|missing| self.unavailable(missing))?;
                let value = bearer(header, scheme, &lease.value)?;
                Ok(Grant::new(vec![(header.clone(), value)], lease.generation))
            }
            Means::SigV4 { keys, scope } => {
                let lease = keys.get().await.map_err(|missing| self.unavailable(missing))?;
                let fields = sigv4::authorize(request, &lease.value.identity, scope, now())?;
                Ok(Grant::new(fields, lease.generation))
            }
        }
    }

    /// The upstream refused a grant of this generation: a newer credential is fetched behind the requests.
    pub fn reject(&self, generation: u64) {
        match &self.means {
            Means::Bearer { token, .. } => token.reject(generation),
            Means::SigV4 { keys, .. } => keys.reject(generation),
        }
    }

    /// The upstream refused a grant of this generation. True once there is a newer credential, within 5 s; false when
    /// the refused one is itself too new for another to help, or none can be had.
    pub async fn renew(&self, generation: u64) -> bool {
        match &self.means {
            Means::Bearer { token, .. } => token.renew(generation).await,
            Means::SigV4 { keys, .. } => keys.renew(generation).await,
        }
    }

    fn unavailable(&self, missing: Unavailable) -> AuthError {
        let Unavailable { cause, retry_after } = missing;
        AuthError::Unavailable { auth: Arc::clone(&self.name), retry_after, cause }
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
    /// Each credential once.
    pub credentials: Vec<Arc<dyn Credential>>,
}

/// A credential, whatever its kind.
pub trait Credential: fmt::Debug + Send + Sync {
    /// How it fares.
    fn status(&self) -> Status;

    /// Ready once the first try has ended, well or not.
    fn tried<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

impl<S: Source> Credential for Refreshing<S> {
    fn status(&self) -> Status {
        Refreshing::status(self)
    }

    fn tried<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(Refreshing::tried(self))
    }
}

/// Builds schemes and starts their credentials, each distinct one once.
#[derive(Debug)]
pub struct Builder<'a> {
    control: &'a Control,
    json: AwsJson,
    clock: &'a Clock,
    tasks: &'a Tasks,
    users: HashMap<CognitoUser, Arc<Refreshing<CognitoUserSource>>>,
    clients: HashMap<ClientCredentials, Arc<Refreshing<ClientCredentialsSource>>>,
    sources: HashMap<(AwsSource, String), Arc<Refreshing<ProviderSource>>>,
    roles: HashMap<AwsCredentials, Arc<Refreshing<ProviderSource>>>,
    built: Schemes,
}

impl<'a> Builder<'a> {
    /// A builder whose credentials ask through `control` and live on `tasks`.
    pub fn new(control: &'a Control, clock: &'a Clock, tasks: &'a Tasks) -> Self {
        let json = AwsJson::new(control.clone(), clock.clone());
        let (clients, users) = (HashMap::new(), HashMap::new());
        let (sources, roles) = (HashMap::new(), HashMap::new());
        Self { control, json, clock, tasks, users, clients, sources, roles, built: Schemes::default() }
    }

    /// Builds all of `specs`, in order.
    pub async fn build(mut self, specs: &[Spec]) -> Schemes {
        for spec in specs {
            let means = match &spec.kind {
                Kind::Bearer(bearer) => Means::Bearer {
                    token: match &bearer.token {
                        TokenSource::Client(client) => Token::Client(self.client(&spec.name, client)),
                        TokenSource::User(user, which) => Token::User(self.user(&spec.name, user).await, *which),
                    },
                    header: bearer.header.clone(),
                    scheme: bearer.scheme.clone(),
                },
                Kind::SigV4(sigv4) => Means::SigV4 {
                    keys: self.aws(&spec.name, &sigv4.credentials, &sigv4.region).await,
                    scope: sigv4::Scope {
                        region: sigv4.region.clone(),
                        service: sigv4.service.clone(),
                        payload: sigv4.payload,
                    },
                },
            };
            self.built.schemes.push(Arc::new(Scheme { name: Arc::clone(&spec.name), means }));
        }
        self.built
    }

    fn client(&mut self, name: &Arc<str>, client: &ClientCredentials) -> Arc<Refreshing<ClientCredentialsSource>> {
        if let Some(shared) = self.clients.get(client) {
            return Arc::clone(shared);
        }
        let source = ClientCredentialsSource::new(self.control.clone(), client.clone());
        let token = self.start(Arc::clone(name), source);
        self.clients.insert(client.clone(), Arc::clone(&token));
        token
    }

    /// One login for the access and the ID token, and for an identity pool.
    async fn user(&mut self, name: &Arc<str>, user: &CognitoUser) -> Arc<Refreshing<CognitoUserSource>> {
        if let Some(shared) = self.users.get(user) {
            return Arc::clone(shared);
        }
        let keys = match &user.flow {
            Flow::Srp | Flow::Password => None,
            Flow::AdminPassword(source) => {
                // The config lets no identity pool stand here, so this ends.
                Some(Box::pin(self.source(&format!("{name} (keys)").into(), source, &user.region)).await)
            }
        };
        let source = CognitoUserSource::new(user.clone(), self.json.clone(), self.clock.clone(), keys);
        let login = self.start(Arc::clone(name), source);
        self.users.insert(user.clone(), Arc::clone(&login));
        login
    }

    async fn aws(&mut self, name: &Arc<str>, wanted: &AwsCredentials, region: &str) -> Arc<Refreshing<ProviderSource>> {
        let Some(role) = &wanted.assume_role else { return self.source(name, &wanted.source, region).await };
        if let Some(shared) = self.roles.get(wanted) {
            return Arc::clone(shared);
        }
        let base = self.source(&format!("{name} (base)").into(), &wanted.source, &role.region).await;
        let source = ProviderSource::role(role, base, self.control).await;
        let keys = self.start(Arc::clone(name), source);
        self.roles.insert(wanted.clone(), Arc::clone(&keys));
        keys
    }

    async fn source(&mut self, name: &Arc<str>, wanted: &AwsSource, region: &str) -> Arc<Refreshing<ProviderSource>> {
        // The region decides whose STS a profile with a role calls, so it is part of what the credential is; an identity
        // is of its own pool's region, wherever it signs.
        let region = if let AwsSource::IdentityPool(pool) = wanted { &pool.region } else { region };
        let key = (wanted.clone(), region.to_owned());
        if let Some(shared) = self.sources.get(&key) {
            return Arc::clone(shared);
        }
        let login = if let AwsSource::IdentityPool(pool) = wanted
            && let Some(login) = &pool.login
        {
            Some(self.user(&login.name, &login.user).await)
        } else {
            None
        };
        let source = ProviderSource::base(wanted, region, &self.json, login).await;
        let keys = self.start(Arc::clone(name), source);
        self.sources.insert(key, Arc::clone(&keys));
        keys
    }

    fn start<S: Source>(&mut self, name: Arc<str>, source: S) -> Arc<Refreshing<S>> {
        // One auth used in two regions is two credentials; logs and metrics must tell them apart.
        let taken = self.built.credentials.iter().filter(|credential| credential.status().name == name).count();
        let name = if taken == 0 { name } else { format!("{name} ({})", taken + 1).into() };
        let credential = Refreshing::start(name, source, self.clock.clone(), self.tasks);
        let status: Arc<dyn Credential> = Arc::<Refreshing<S>>::clone(&credential);
        self.built.credentials.push(status);
        credential
    }
}
