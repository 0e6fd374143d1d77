//! AWS credentials: the SDKs' chain, a profile, given keys, an identity pool, and roles assumed with any of them.
//!
//! `aws-config` finds and fetches; nothing of it is called per request, since its providers do not cache (docs/aws.md F2), and
//! each fetch has providers of its own, since they read their files once (docs/aws.md F1). A role's base credentials have a cache
//! of their own, so many roles share one. Imports `message`, `clock`.

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_runtime_api::client::identity::Identity;
use aws_types::region::Region;

use super::container::Container;
use super::control::Control;
use super::error::{FetchError, Permanence, printable};
use super::identity_pool::PoolIdentity;
use super::refreshing::{About, Chain, Fetched, Source, WhenExpired};
use super::role::{Role, Sts, WallTime};
use super::secrets::{FILE_PAUSE, SecretReader};
use crate::clock::{Clock, Expiry, Moment};
use crate::message::body::Sha256Hex;

/// A rotation takes microseconds; what changes on at each of this many looks is no rotation.
const MOST_READS: usize = 3;

/// Credentials in the forms that are needed per request.
#[derive(Clone, Debug)]
pub struct AwsKeys {
    /// As the signer takes them.
    pub identity: Identity,
    /// As the SDK takes them.
    pub credentials: Credentials,
}

/// One way to come by AWS credentials, as a source for the refreshing cache.
#[derive(Debug)]
pub struct ProviderSource {
    provider: Provider,
    /// Who tells whose the credentials are.
    sts: Sts,
}

/// The ways.
#[derive(Debug)]
pub(super) enum Provider {
    /// What the SDKs find.
    Found(Box<Finder>),
    /// Keys given in the config.
    Static(Box<StaticKeys>),
    /// An identity of an identity pool.
    IdentityPool(Box<PoolIdentity>),
    /// A role.
    Role(Box<Role>),
}

/// Keys given in the config.
#[derive(Debug)]
pub(super) struct StaticKeys {
    pub(super) access_key_id: SecretReader,
    pub(super) secret_access_key: SecretReader,
    pub(super) session_token: Option<SecretReader>,
}

/// Looks where the SDKs look.
#[derive(Debug)]
pub(super) struct Finder {
    pub(super) place: Place,
    /// Where a profile or web identity that assumes a role calls STS.
    pub(super) region: String,
    pub(super) control: Control,
    pub(super) clock: Clock,
    pub(super) container: Container,
    pub(super) files: Files,
    /// The profile that the chain uses, if it is not "default".
    pub(super) profile: Option<String>,
}

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Chain,
    Environment,
    Container,
    Instance,
    WebIdentity,
    Profile(String),
}

/// Files whose change is a reason to look again.
#[derive(Debug)]
pub(super) struct Files {
    paths: Vec<PathBuf>,
    /// What they held when credentials were last looked for; hashes, since the files hold keys.
    seen: Mutex<Vec<Option<Sha256Hex>>>,
}

impl ProviderSource {
    /// Credentials by `provider`; `sts` is asked whose they are.
    pub(super) fn new(provider: Provider, sts: Sts) -> Self {
        Self { provider, sts }
    }
}

impl StaticKeys {
    /// All parts as they are together: a rotation replaces several files, and halves of two keys sign nothing.
    async fn read(&self) -> Result<Credentials, FetchError> {
        for _ in 1..MOST_READS {
            let keys = self.read_once().await?;
            if self.files_still_hold().await {
                return Ok(keys);
            }
        }
        self.read_once().await
    }

    async fn read_once(&self) -> Result<Credentials, FetchError> {
        let token = async {
            match &self.session_token {
                None => Ok(None),
                Some(reader) => reader.read_now().await.map(Some),
            }
        };
        // All of them, even where one fails: a part that was never read would look like news for ever.
        let (id, secret, token) = tokio::join!(self.access_key_id.read_now(), self.secret_access_key.read_now(), token);
        let token = token?.map(|token| token.expose().to_owned());
        Ok(Credentials::new(id?.expose(), secret?.expose(), token, None, "countersign"))
    }

    /// Stores are left out: asking one is billed.
    async fn files_still_hold(&self) -> bool {
        for file in self.readers().filter(|reader| reader.pause() == Some(FILE_PAUSE)) {
            if !file.still_holds().await {
                return false;
            }
        }
        true
    }

    fn readers(&self) -> impl Iterator<Item = &SecretReader> {
        [&self.access_key_id, &self.secret_access_key].into_iter().chain(&self.session_token)
    }
}

impl Finder {
    async fn find(&self) -> Result<Credentials, FetchError> {
        self.files.note().await;
        let config = self.config();
        let found = match &self.place {
            Place::Chain => Box::pin(self.chain(&config).provide_credentials()).await,
            Place::Environment => EnvironmentVariableCredentialsProvider::new().provide_credentials().await,
            // Not through the SDK's errors: ours say more.
            Place::Container => return self.container.credentials().await?.ok_or_else(|| self.no_container()),
            Place::Instance => Box::pin(instance(&config).provide_credentials()).await,
            Place::WebIdentity => Box::pin(web_identity(&config).provide_credentials()).await,
            Place::Profile(name) => Box::pin(self.profile(&config, Some(name)).provide_credentials()).await,
        };
        found.map_err(|error| match self.sso_profile(&error) {
            Some(profile) => {
                tracing::debug!(error = %Chain(&error), profile, "the SSO session");
                FetchError::SsoSession { profile: printable(profile) }
            }
            None => explain(&self.place, error),
        })
    }

    /// The profile whose SSO session has to be begun again, if that is what is wrong.
    fn sso_profile(&self, error: &CredentialsError) -> Option<&str> {
        let profile = match &self.place {
            Place::Profile(name) => name,
            Place::Chain => self.profile.as_deref().unwrap_or("default"),
            Place::Environment | Place::Container | Place::Instance | Place::WebIdentity => return None,
        };
        wants_sso_login(error).then_some(profile)
    }

    fn no_container(&self) -> FetchError {
        let source = CredentialsError::not_loaded("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI and _FULL_URI are not set");
        FetchError::NoSource { from: self.place.to_string(), source }
    }

    /// The SDKs' order.
    fn chain(&self, config: &ProviderConfig) -> CredentialsProviderChain {
        CredentialsProviderChain::first_try("environment", EnvironmentVariableCredentialsProvider::new())
            .or_else("profile", self.profile(config, None))
            .or_else("web identity", web_identity(config))
            .or_else("container", self.container.clone())
            .or_else("instance", instance(config))
    }

    fn profile(&self, config: &ProviderConfig, name: Option<&String>) -> ProfileFileCredentialsProvider {
        let mut builder = ProfileFileCredentialsProvider::builder()
            .configure(config)
            .with_custom_provider("EcsContainer", self.container.clone());
        if let Some(name) = name {
            builder = builder.profile_name(name);
        }
        builder.build()
    }

    fn config(&self) -> ProviderConfig {
        ProviderConfig::without_region()
            .with_region(Some(Region::new(self.region.clone())))
            .with_behavior_version(Some(BehaviorVersion::latest()))
            .with_http_client(self.control.clone())
            .with_sleep_impl(TokioSleep::new())
            .with_time_source(WallTime(self.clock.clone()))
    }
}

fn instance(config: &ProviderConfig) -> ImdsCredentialsProvider {
    ImdsCredentialsProvider::builder().configure(config).build()
}

fn web_identity(config: &ProviderConfig) -> WebIdentityTokenCredentialsProvider {
    WebIdentityTokenCredentialsProvider::builder().configure(config).build()
}

impl Files {
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, seen: Mutex::default() }
    }

    async fn look(&self) -> Vec<Option<Sha256Hex>> {
        let paths = self.paths.clone();
        let hash = |path: PathBuf| std::fs::read(path).ok().map(|content| Sha256Hex::of(&content));
        // A home folder may be on a network file system, and requests must not wait for it.
        let looked = tokio::task::spawn_blocking(move || paths.into_iter().map(hash).collect());
        looked.await.unwrap_or_default()
    }

    async fn note(&self) {
        let seen = self.look().await;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    async fn have_changed(&self) -> bool {
        let now = self.look().await;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) != now
    }
}

impl Source for ProviderSource {
    type Value = AwsKeys;
    const WHEN_EXPIRED: WhenExpired = WhenExpired::UseOn;

    async fn fetch(&self, now: Moment) -> Result<Fetched<AwsKeys>, FetchError> {
        let (credentials, principal) = match &self.provider {
            Provider::Found(finder) => (finder.find().await?, None),
            Provider::Static(keys) => (keys.read().await?, None),
            Provider::IdentityPool(identity) => (identity.credentials().await?, None),
            Provider::Role(role) => role.assume().await?,
        };
        let expiry = credentials.expiry().map(|end| Expiry::at(end, now));
        let identity = Identity::from(credentials.clone());
        let about = About { principal, ..About::default() };
        Ok(Fetched { value: AwsKeys { identity, credentials }, expiry, about, life: None })
    }

    fn describe(&self) -> String {
        match &self.provider {
            Provider::Found(finder) => format!("AWS credentials from {}", finder.place),
            Provider::Static(_) => "AWS keys given in the config".to_owned(),
            Provider::IdentityPool(identity) => format!("AWS credentials of an identity of {}", identity.pool_id()),
            Provider::Role(role) => format!("AWS credentials of role {}", role.arn()),
        }
    }

    fn pause(&self) -> Option<Duration> {
        match &self.provider {
            Provider::Found(finder) => (!finder.files.paths.is_empty()).then_some(FILE_PAUSE),
            Provider::Static(keys) => keys.readers().filter_map(SecretReader::pause).min(),
            Provider::IdentityPool(_) | Provider::Role(_) => None,
        }
    }

    async fn has_changed(&self) -> bool {
        match &self.provider {
            Provider::Found(finder) => finder.files.have_changed().await,
            Provider::Static(keys) => {
                for reader in keys.readers() {
                    if reader.has_changed().await {
                        return true;
                    }
                }
                false
            }
            Provider::IdentityPool(_) | Provider::Role(_) => false,
        }
    }

    async fn owner(&self, keys: &AwsKeys) -> Option<String> {
        let owner = self.sts.caller(&keys.credentials).await;
        owner.inspect_err(|error| tracing::debug!(error = %Chain(error), "asking whose the credentials are")).ok()?
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Chain => f.write_str("the default chain (environment, profile, web identity, container, instance)"),
            Self::Environment => f.write_str("the environment"),
            Self::Container => f.write_str("the container's credential endpoint"),
            Self::Instance => f.write_str("the instance's metadata (IMDSv2)"),
            Self::WebIdentity => f.write_str("the web identity token file"),
            Self::Profile(name) => write!(f, "profile \"{name}\""),
        }
    }
}

/// Says whose fault it is.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open: the SDK may add kinds")]
fn explain(place: &Place, error: CredentialsError) -> FetchError {
    let from = place.to_string();
    let permanence = match &error {
        // The SDK counts an instance that does not answer among those that have no keys. Where it alone is asked, it is an
        // outage; at the end of the chain it mostly means that this is no instance.
        CredentialsError::CredentialsNotLoaded(_) if *place == Place::Instance && has_cause(&error) => {
            Permanence::Passing
        }
        CredentialsError::CredentialsNotLoaded(_) => return FetchError::NoSource { from, source: error },
        CredentialsError::InvalidConfiguration(_) => Permanence::Permanent,
        // Outages, and kinds of failure that the SDK may yet invent.
        _ => Permanence::Passing,
    };
    FetchError::Aws { from, permanence, source: error }
}

/// Whether a login in a browser would help: there is no token of an SSO session, or none that is still good. The SDK has
/// no types for it, so its words are looked for (aws-config 1.13 `sso/token.rs`, `sso/cache.rs`), and the one exception
/// that `GetRoleCredentials` has for a token that it does not take.
fn wants_sso_login(error: &CredentialsError) -> bool {
    let mut beneath: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = beneath {
        let text = error.to_string();
        if text.contains("SSO token") || text.contains("/sso/cache/") || text.starts_with("UnauthorizedException") {
            return true;
        }
        beneath = error.source();
    }
    false
}

/// Whether there is more beneath than a sentence of the SDK's.
fn has_cause(error: &CredentialsError) -> bool {
    error.source().and_then(std::error::Error::source).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_does_not_answer_is_an_outage_where_it_alone_is_asked() {
        #[derive(Debug, thiserror::Error)]
        #[error("could not communicate with IMDS")]
        struct Lost(#[source] std::io::Error);
        let lost = || CredentialsError::not_loaded(Lost(std::io::ErrorKind::ConnectionReset.into()));
        let none = || CredentialsError::not_loaded("received 404 from IMDS");
        for (place, error, permanence) in [
            (Place::Instance, lost(), Permanence::Passing),
            (Place::Instance, none(), Permanence::Permanent),
            (Place::Chain, lost(), Permanence::Permanent),
        ] {
            assert_eq!(explain(&place, error).permanence(), permanence, "{place}");
        }
    }

    /// A pipe in the place of the second file: whoever reads it waits, and meanwhile both are replaced.
    #[cfg(unix)]
    #[tokio::test]
    async fn the_parts_of_a_key_are_of_one_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let (id, key, next) = (folder.path().join("id"), folder.path().join("key"), folder.path().join("next"));
        std::fs::write(&id, "AKIAOLD").unwrap();
        std::fs::write(&next, "new").unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&key).status().unwrap().success());
        let (access_key_id, secret_access_key) = (SecretReader::file(id.clone()), SecretReader::file(key.clone()));
        let rotation = std::thread::spawn(move || {
            let mut pipe = std::fs::OpenOptions::new().write(true).open(&key).unwrap();
            std::fs::write(&id, "AKIANEW").unwrap();
            std::fs::rename(&next, &key).unwrap();
            std::io::Write::write_all(&mut pipe, b"new").unwrap();
        });
        let read = StaticKeys { access_key_id, secret_access_key, session_token: None }.read().await.unwrap();
        rotation.join().unwrap();
        assert_eq!((read.access_key_id(), read.secret_access_key()), ("AKIANEW", "new"));
    }
}
