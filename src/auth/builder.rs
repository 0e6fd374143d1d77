//! From specs to schemes: which credentials there are, what they are fetched with, and which share one cache.
//!
//! Two credentials are one when their settings are equal as a whole. So a config that takes the place of another keeps
//! what both have, with all that has been fetched: see [`Builder::succeed`]. Imports `clock`, `tasks`.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::aws::{Files, Finder, Place, Provider, ProviderSource, StaticKeys};
use super::aws_json::AwsJson;
use super::cognito_user::{CognitoUserSource, Readers};
use super::container::Container;
use super::control::Control;
use super::identity_pool::PoolIdentity;
use super::oauth::ClientCredentialsSource;
use super::refreshing::{Refreshing, Source};
use super::role::{Role, Sts};
use super::secrets::{FieldSource, SecretReader};
use super::shared::{self, Nodes, Shared, Transport};
use super::signer::Signer;
use super::spec::{
    AwsCredentials, AwsEnvironment, AwsSource, ClientCredentials, CognitoUser, Flow, Kind, SecretField, SecretSource,
    Spec, TokenSource,
};
use super::{Credential, Grants, Scheme, Schemes, SharedClient, Token, TokenCache, sigv4};
use crate::clock::Clock;
use crate::tasks::Tasks;
use crate::tls::{ClientSettings, Fingerprint, SystemRoots, TlsError, fingerprint};

/// What credentials are fetched with.
#[derive(Clone, Debug)]
pub struct Means {
    /// The client they ask through.
    pub control: Control,
    /// What time it is.
    pub clock: Clock,
    /// What they live on.
    pub tasks: Tasks,
    /// What the environment says about AWS credentials.
    pub environment: AwsEnvironment,
}

/// Builds schemes and starts their credentials, each distinct one once.
#[derive(Debug)]
pub struct Builder {
    means: Means,
    json: AwsJson,
    known: Known,
    /// What the config before had.
    before: Known,
    built: Schemes,
}

/// Credentials by their settings.
#[derive(Clone, Debug, Default)]
pub struct Known {
    users: HashMap<CognitoUser, Arc<Refreshing<CognitoUserSource>>>,
    clients: HashMap<ClientCredentials, Arc<Refreshing<SharedClient>>>,
    sources: HashMap<(AwsSource, String), Arc<Refreshing<ProviderSource>>>,
    roles: HashMap<AwsCredentials, Arc<Refreshing<ProviderSource>>>,
    fields: HashMap<SecretSource, Arc<Refreshing<FieldSource>>>,
    cache: Option<KnownCache>,
}

/// A shared store, and what it was made from: settings, and the content of the files that they name.
#[derive(Clone, Debug)]
struct KnownCache {
    settings: shared::Settings,
    files: Fingerprint,
    cache: Arc<TokenCache>,
}

impl Builder {
    /// A builder whose credentials are fetched with `means`.
    pub fn new(means: Means) -> Self {
        let json = AwsJson::new(means.control.clone(), means.clock.clone());
        Self { means, json, known: Known::default(), before: Known::default(), built: Schemes::default() }
    }

    /// Keeps those of `before` that are wanted again, with what they hold. They must have been built with equal means.
    #[must_use]
    pub fn succeed(self, before: Known) -> Self {
        Self { before, ..self }
    }

    /// Has client-credentials tokens shared through the store of `settings`, if any. Blocks while it reads a certificate
    /// file. One that was known before is kept; tokens that were fetched before are kept in any case.
    ///
    /// # Errors
    /// [`TlsError`]: the certificate file cannot be used.
    pub fn sharing(mut self, settings: Option<&shared::Settings>, roots: &SystemRoots) -> Result<Self, TlsError> {
        let Some(settings) = settings else { return Ok(self) };
        let tls = match &settings.transport {
            Transport::Plain => None,
            Transport::Tls(tls) => Some(tls),
        };
        // Before the file is read, so that a change in between is taken for one the next time.
        let files = tls.map_or_else(|| fingerprint(std::iter::empty()), ClientSettings::fingerprint);
        let name: Arc<str> = "token_cache".into();
        let username = self.optional_reader(&name, settings.username.as_ref());
        let password = self.optional_reader(&name, settings.password.as_ref());
        let kept = self.before.cache.take().filter(|kept| kept.settings == *settings && kept.files == files);
        let cache = if let Some(kept) = kept {
            kept.cache
        } else {
            let tls = tls.map(|tls| roots.client_config(tls, &[])).transpose()?.map(Arc::new);
            let tasks = self.means.tasks.clone();
            let nodes = Nodes::new(settings, tls, [username, password], tasks.clone());
            TokenCache::new(nodes, settings.timeout, tasks)
        };
        self.built.cache = Some(Arc::clone(&cache));
        self.known.cache = Some(KnownCache { settings: settings.clone(), files, cache });
        Ok(self)
    }

    /// Builds all of `specs` and `fields`, in order.
    pub fn build(mut self, specs: &[Spec], fields: &[SecretField]) -> Schemes {
        for spec in specs {
            let grants = match &spec.kind {
                Kind::Bearer(bearer) => Grants::Bearer {
                    token: match &bearer.token {
                        TokenSource::Client(client) => Token::Client(self.client(&spec.name, client)),
                        TokenSource::User(user, which) => Token::User(self.user(&spec.name, user), *which),
                    },
                    header: bearer.header.clone(),
                    scheme: bearer.scheme.clone(),
                    last: ArcSwapOption::empty(),
                },
                Kind::SigV4(sigv4) => Grants::SigV4 {
                    keys: self.aws(&spec.name, &sigv4.credentials, &sigv4.region),
                    signer: Signer::new(sigv4::Scope {
                        region: sigv4.region.clone(),
                        service: sigv4.service.clone(),
                        payload: sigv4.payload,
                    }),
                },
            };
            self.built.schemes.push(Arc::new(Scheme { name: Arc::clone(&spec.name), grants }));
        }
        for field in fields {
            let value = self.field(field);
            self.built.fields.push(value);
        }
        self.built.known = self.known;
        self.built
    }

    fn field(&mut self, field: &SecretField) -> Arc<Refreshing<FieldSource>> {
        if let Some(shared) = self.known.fields.get(&field.secret) {
            return Arc::clone(shared);
        }
        let source = FieldSource::new(Arc::clone(&field.name), self.reader(&field.name, &field.secret));
        let kept = self.before.fields.remove(&field.secret);
        let value = self.start(Arc::clone(&field.name), kept, source);
        self.known.fields.insert(field.secret.clone(), Arc::clone(&value));
        value
    }

    /// What reads `secret` for the credential `name`.
    fn reader(&mut self, name: &Arc<str>, secret: &SecretSource) -> SecretReader {
        match secret {
            SecretSource::Fixed(secret) => SecretReader::fixed(secret.clone()),
            SecretSource::File(path) => SecretReader::file(path.clone()),
            SecretSource::Stored(stored) => {
                // The config has no way to name a store whose keys come from itself, so this ends.
                let name = format!("{name} (store)").into();
                let keys = self.aws(&name, &stored.credentials, &stored.region);
                SecretReader::stored(stored, self.json.clone(), keys)
            }
        }
    }

    fn optional_reader(&mut self, name: &Arc<str>, secret: Option<&SecretSource>) -> Option<SecretReader> {
        secret.map(|secret| self.reader(name, secret))
    }

    fn client(&mut self, name: &Arc<str>, client: &ClientCredentials) -> Arc<Refreshing<SharedClient>> {
        if let Some(shared) = self.known.clients.get(client) {
            return Arc::clone(shared);
        }
        let secret = self.reader(name, &client.client_secret);
        let own = ClientCredentialsSource::new(self.means.control.clone(), client.clone(), secret);
        let source = Shared::new(own, self.built.cache.clone(), self.means.clock.clone());
        let kept = self.before.clients.remove(client);
        if let Some(kept) = &kept {
            kept.source().share_through(self.built.cache.clone());
        }
        let token = self.start(Arc::clone(name), kept, source);
        self.known.clients.insert(client.clone(), Arc::clone(&token));
        token
    }

    /// One login for the access and the ID token, and for an identity pool.
    fn user(&mut self, name: &Arc<str>, user: &CognitoUser) -> Arc<Refreshing<CognitoUserSource>> {
        if let Some(shared) = self.known.users.get(user) {
            return Arc::clone(shared);
        }
        let keys = match &user.flow {
            Flow::Srp | Flow::Password => None,
            Flow::AdminPassword(source) => {
                // The config lets no identity pool stand here, so this ends.
                Some(self.source(&format!("{name} (keys)").into(), source, &user.region))
            }
        };
        let readers = Readers {
            client: self.optional_reader(name, user.client_secret.as_ref()),
            password: self.reader(name, &user.password),
            totp_seed: self.optional_reader(name, user.totp_seed.as_ref()),
        };
        let source = CognitoUserSource::new(user.clone(), readers, self.json.clone(), self.means.clock.clone(), keys);
        let kept = self.before.users.remove(user);
        let login = self.start(Arc::clone(name), kept, source);
        self.known.users.insert(user.clone(), Arc::clone(&login));
        login
    }

    /// The last link of a chain of roles; every link has a cache of its own, which other chains may share.
    fn aws(&mut self, name: &Arc<str>, wanted: &AwsCredentials, region: &str) -> Arc<Refreshing<ProviderSource>> {
        let AwsCredentials { source, roles } = wanted;
        let first_region = roles.first().map_or(region, |role| &role.region);
        let base: Arc<str> = if roles.is_empty() { Arc::clone(name) } else { format!("{name} (base)").into() };
        let mut keys = self.source(&base, source, first_region);
        for (index, role) in roles.iter().enumerate() {
            let so_far = roles.get(..=index).unwrap_or(roles).to_vec();
            let link = AwsCredentials { source: source.clone(), roles: so_far };
            if let Some(shared) = self.known.roles.get(&link) {
                keys = Arc::clone(shared);
                continue;
            }
            let last = index + 1 == roles.len();
            let name = if last { Arc::clone(name) } else { format!("{name} (role {})", index + 1).into() };
            let sts = self.sts(&role.region, role.endpoint.as_deref());
            let source = Provider::Role(Box::new(Role::new(role.clone(), keys, sts.clone())));
            let kept = self.before.roles.remove(&link);
            keys = self.start(name, kept, ProviderSource::new(source, sts));
            self.known.roles.insert(link, Arc::clone(&keys));
        }
        keys
    }

    fn sts(&self, region: &str, endpoint: Option<&str>) -> Sts {
        let endpoint = endpoint.or(self.means.environment.sts_endpoint.as_deref());
        Sts::new(region, endpoint, &self.means.control, self.means.clock.clone())
    }

    fn source(&mut self, name: &Arc<str>, wanted: &AwsSource, region: &str) -> Arc<Refreshing<ProviderSource>> {
        // The region decides whose STS a profile with a role calls, so it is part of what the credential is; an identity
        // is of its own pool's region, wherever it signs.
        let region = if let AwsSource::IdentityPool(pool) = wanted { &pool.region } else { region };
        let key = (wanted.clone(), region.to_owned());
        if let Some(shared) = self.known.sources.get(&key) {
            return Arc::clone(shared);
        }
        let provider = self.provider(name, wanted, region);
        let source = ProviderSource::new(provider, self.sts(region, None));
        let kept = self.before.sources.remove(&key);
        let keys = self.start(Arc::clone(name), kept, source);
        self.known.sources.insert(key, Arc::clone(&keys));
        keys
    }

    fn provider(&mut self, name: &Arc<str>, wanted: &AwsSource, region: &str) -> Provider {
        match wanted {
            AwsSource::Default => self.finder(Place::Chain, region),
            AwsSource::Environment => self.finder(Place::Environment, region),
            AwsSource::Container => self.finder(Place::Container, region),
            AwsSource::Instance => self.finder(Place::Instance, region),
            AwsSource::WebIdentity => self.finder(Place::WebIdentity, region),
            AwsSource::Profile(profile) => self.finder(Place::Profile(profile.clone()), region),
            AwsSource::Static { access_key_id, secret_access_key, session_token } => {
                Provider::Static(Box::new(StaticKeys {
                    access_key_id: self.reader(name, access_key_id),
                    secret_access_key: self.reader(name, secret_access_key),
                    session_token: self.optional_reader(name, session_token.as_ref()),
                }))
            }
            AwsSource::IdentityPool(pool) => {
                let login = pool.login.as_ref().map(|login| self.user(&login.name, &login.user));
                Provider::IdentityPool(Box::new(PoolIdentity::new((**pool).clone(), self.json.clone(), login)))
            }
        }
    }

    fn finder(&self, place: Place, region: &str) -> Provider {
        let Means { control, clock, environment, .. } = &self.means;
        let files = match place {
            Place::Chain | Place::Profile(_) | Place::WebIdentity => environment.files.clone(),
            Place::Environment | Place::Container | Place::Instance => Vec::new(),
        };
        Provider::Found(Box::new(Finder {
            place,
            region: region.to_owned(),
            control: control.clone(),
            clock: clock.clone(),
            container: Container::new(&environment.container, control.clone()),
            files: Files::new(files),
            profile: environment.profile.clone(),
        }))
    }

    /// The credential that was `kept`, or else a new one of `source`. Whatever the kept one reads is kept with it: its
    /// settings are part of its own.
    fn start<S: Source>(&mut self, name: Arc<str>, kept: Option<Arc<Refreshing<S>>>, source: S) -> Arc<Refreshing<S>> {
        // One auth used in two regions is two credentials; logs and metrics must tell them apart.
        let taken = |name: &str| self.built.credentials.iter().any(|credential| *credential.status().name == *name);
        let mut numbered = (2..).map(|number| Arc::from(format!("{name} ({number})")));
        let name = if taken(&name) { numbered.find(|name: &Arc<str>| !taken(name)).unwrap_or(name) } else { name };
        let credential = match kept {
            Some(kept) => {
                kept.rename(name);
                kept
            }
            None => Refreshing::start(name, source, self.means.clock.clone(), &self.means.tasks),
        };
        let status: Arc<dyn Credential> = Arc::<Refreshing<S>>::clone(&credential);
        self.built.credentials.push(status);
        credential
    }
}
