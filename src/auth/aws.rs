//! AWS credentials: the SDKs' chain, a profile, given keys, an identity pool, and a role assumed with any of them.
//!
//! `aws-config` finds and fetches; nothing of it is called per request, since its providers do not cache (aws.md F2).
//! A role's base credentials have a cache of their own, so many roles share one. Imports `secret`, `clock`.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::SystemTimeSource;
use aws_smithy_runtime_api::client::identity::Identity;
use aws_types::SdkConfig;
use aws_types::region::Region;

use super::aws_json::AwsJson;
use super::cognito_user::CognitoUserSource;
use super::control::Control;
use super::error::{FetchError, Permanence};
use super::identity_pool::PoolIdentity;
use super::refreshing::{Fetched, Refreshing, Source, WhenExpired};
use super::spec::{AssumeRole, AwsSource};
use crate::clock::{Expiry, Moment};
use crate::secret::{SecretError, SecretSource};

/// All tries of one AWS call together; below the limit of one fetch.
const OPERATION_LIMIT: Duration = Duration::from_secs(14);
const CHAIN: &str = "the default chain (environment, profile, web identity, container, instance)";

/// Credentials in the forms that are needed per request.
#[derive(Clone, Debug)]
pub struct AwsKeys {
    /// As the signer takes them.
    pub identity: Identity,
    /// As the SDK takes them.
    pub credentials: Credentials,
}

/// A provider of `aws-config`, as a source for the refreshing cache.
#[derive(Debug)]
pub struct ProviderSource {
    /// What it is, for messages.
    name: String,
    provider: Provider,
}

#[derive(Debug)]
enum Provider {
    Sdk(SharedCredentialsProvider),
    Static { access_key_id: SecretSource, secret_access_key: SecretSource, session_token: Option<SecretSource> },
    IdentityPool(Box<PoolIdentity>),
}

impl ProviderSource {
    /// The credentials to begin with. `region` is where a chain that itself assumes roles calls STS; `login` is that of
    /// an identity pool.
    pub async fn base(
        source: &AwsSource,
        region: &str,
        json: &AwsJson,
        login: Option<Arc<Refreshing<CognitoUserSource>>>,
    ) -> Self {
        let config = || provider_config(region, json.control());
        match source {
            AwsSource::Default => {
                let chain = DefaultCredentialsChain::builder().configure(config());
                Self::sdk(CHAIN, Box::pin(chain.region(Region::new(region.to_owned())).build()).await)
            }
            AwsSource::Environment => Self::sdk("the environment", EnvironmentVariableCredentialsProvider::new()),
            AwsSource::Container => {
                let provider = EcsCredentialsProvider::builder().configure(&config()).build();
                Self::sdk("the container's credential endpoint", provider)
            }
            AwsSource::Instance => {
                let provider = ImdsCredentialsProvider::builder().configure(&config()).build();
                Self::sdk("the instance's metadata (IMDSv2)", provider)
            }
            AwsSource::WebIdentity => {
                let provider = WebIdentityTokenCredentialsProvider::builder().configure(&config()).build();
                Self::sdk("the web identity token file", provider)
            }
            AwsSource::Profile(profile) => {
                let provider =
                    ProfileFileCredentialsProvider::builder().configure(&config()).profile_name(profile).build();
                Self::sdk(&format!("profile \"{profile}\""), provider)
            }
            AwsSource::Static { access_key_id, secret_access_key, session_token } => Self {
                name: "static keys".to_owned(),
                provider: Provider::Static {
                    access_key_id: access_key_id.clone(),
                    secret_access_key: secret_access_key.clone(),
                    session_token: session_token.clone(),
                },
            },
            AwsSource::IdentityPool(pool) => Self {
                name: format!("identity pool {}", pool.id),
                provider: Provider::IdentityPool(Box::new(PoolIdentity::new((**pool).clone(), json.clone(), login))),
            },
        }
    }

    /// `role`, assumed with what `base` gives.
    pub async fn role(role: &AssumeRole, base: Arc<Refreshing<ProviderSource>>, control: &Control) -> Self {
        let mut config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(control.clone())
            .region(Region::new(role.region.clone()))
            .sleep_impl(TokioSleep::new())
            .time_source(SystemTimeSource::new())
            .retry_config(RetryConfig::standard())
            .timeout_config(TimeoutConfig::builder().operation_timeout(OPERATION_LIMIT).build());
        config.set_endpoint_url(role.endpoint.clone());
        let mut builder = AssumeRoleProvider::builder(&role.arn)
            .configure(&config.build())
            .session_name(&role.session_name)
            .session_length(role.duration);
        if let Some(id) = &role.external_id {
            builder = builder.external_id(id);
        }
        let provider = Box::pin(builder.build_from_provider(Base(base))).await;
        Self::sdk(&format!("role {}", role.arn), provider)
    }

    fn sdk(name: &str, provider: impl ProvideCredentials + 'static) -> Self {
        Self { name: name.to_owned(), provider: Provider::Sdk(SharedCredentialsProvider::new(provider)) }
    }

    async fn credentials(&self) -> Result<Credentials, FetchError> {
        match &self.provider {
            Provider::Sdk(provider) => {
                Box::pin(provider.provide_credentials()).await.map_err(|error| explain(&self.name, error))
            }
            Provider::Static { access_key_id, secret_access_key, session_token } => {
                let read = |source: &SecretSource| source.read().map(|secret| secret.expose().to_owned());
                let keys = || -> Result<Credentials, SecretError> {
                    let token = session_token.as_ref().map(read).transpose()?;
                    Ok(Credentials::new(read(access_key_id)?, read(secret_access_key)?, token, None, "countersign"))
                };
                keys().map_err(FetchError::Secret)
            }
            Provider::IdentityPool(identity) => identity.credentials().await,
        }
    }
}

impl Source for ProviderSource {
    type Value = AwsKeys;
    const WHEN_EXPIRED: WhenExpired = WhenExpired::UseOn;

    async fn fetch(&self, now: Moment) -> Result<Fetched<AwsKeys>, FetchError> {
        let credentials = self.credentials().await?;
        let expiry = credentials.expiry().map(|end| Expiry::at(end, now));
        let identity = Identity::from(credentials.clone());
        Ok(Fetched { value: AwsKeys { identity, credentials }, expiry })
    }
}

/// Lends cached credentials to the SDK's assume-role provider.
#[derive(Debug)]
struct Base(Arc<Refreshing<ProviderSource>>);

impl ProvideCredentials for Base {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.0.get().await.map(|lease| lease.value.credentials).map_err(CredentialsError::provider_error)
        })
    }
}

fn provider_config(region: &str, control: &Control) -> ProviderConfig {
    ProviderConfig::without_region()
        .with_region(Some(Region::new(region.to_owned())))
        .with_behavior_version(Some(BehaviorVersion::latest()))
        .with_http_client(control.clone())
        .with_sleep_impl(TokioSleep::new())
        .with_time_source(SystemTimeSource::new())
}

/// Says whose fault it is. STS refusals are told from its outages, because the first need a person.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open: the SDK may add kinds")]
fn explain(name: &str, error: CredentialsError) -> FetchError {
    if let Some(refusal) = sts_refusal(&error) {
        return refusal(name);
    }
    let permanence = match &error {
        CredentialsError::CredentialsNotLoaded(_) => {
            return FetchError::NoSource { from: name.to_owned(), source: error };
        }
        CredentialsError::InvalidConfiguration(_) => Permanence::Permanent,
        // Outages, and kinds of failure that the SDK may yet invent.
        _ => Permanence::Passing,
    };
    FetchError::Aws { from: name.to_owned(), permanence, source: error }
}

/// The error code of an `AssumeRole` that STS itself refused.
fn sts_refusal(error: &CredentialsError) -> Option<impl FnOnce(&str) -> FetchError + use<>> {
    let mut beneath = error.source();
    while let Some(cause) = beneath {
        if let Some(SdkError::ServiceError(refused)) = cause.downcast_ref::<SdkError<AssumeRoleError>>() {
            let refused = refused.err();
            let code = refused.code().unwrap_or("unknown error").to_owned();
            let message = refused.message().unwrap_or_default().to_owned();
            return Some(move |name: &str| {
                let endpoint = format!("STS, asked for {name},");
                if code.contains("Throttl") {
                    FetchError::Throttled { endpoint, retry_after: None }
                } else {
                    FetchError::Refused { endpoint, code, message }
                }
            });
        }
        beneath = cause.source();
    }
    None
}
