//! A role assumed with other credentials: STS `AssumeRole`, one link of a chain.
//!
//! Asked directly and not through `AssumeRoleProvider`, which does not say who the session is, and neither refetches a base
//! that STS calls expired. Imports `clock`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::Client;
use aws_sdk_sts::config::SharedAsyncSleep;
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::types::{PolicyDescriptorType, Tag};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::TimeSource;
use aws_types::SdkConfig;
use aws_types::region::Region;

use super::aws::ProviderSource;
use super::control::Control;
use super::error::{FetchError, Permanence, printable};
use super::refreshing::Refreshing;
use super::secrets::is_about_keys;
use super::spec::AssumeRole;
use crate::clock::Clock;

/// All tries of one STS call together; below the limit of one fetch.
const OPERATION_LIMIT: Duration = Duration::from_secs(14);
/// What STS allows a session that was made by another session (docs/aws.md F3).
const CHAINED_LIMIT: Duration = Duration::from_hours(1);

/// Assumes one role.
#[derive(Debug)]
pub struct Role {
    settings: AssumeRole,
    base: Arc<Refreshing<ProviderSource>>,
    sts: Sts,
}

/// Our clock, as the SDK asks it.
#[derive(Clone, Debug)]
pub(super) struct WallTime(pub(super) Clock);

impl TimeSource for WallTime {
    fn now(&self) -> SystemTime {
        self.0.now().wall
    }
}

/// STS of one region.
#[derive(Clone, Debug)]
pub struct Sts {
    config: SdkConfig,
}

impl Sts {
    /// STS of `region`, or at `endpoint`.
    pub fn new(region: &str, endpoint: Option<&str>, control: &Control, clock: Clock) -> Self {
        let mut config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(control.clone())
            .region(Region::new(region.to_owned()))
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .time_source(WallTime(clock))
            .retry_config(RetryConfig::standard())
            .timeout_config(TimeoutConfig::builder().operation_timeout(OPERATION_LIMIT).build());
        config.set_endpoint_url(endpoint.map(ToOwned::to_owned));
        Self { config: config.build() }
    }

    fn client(&self, keys: &Credentials) -> Client {
        let keys = SharedCredentialsProvider::new(keys.clone());
        Client::from_conf(aws_sdk_sts::config::Builder::from(&self.config).credentials_provider(keys).build())
    }

    /// The ARN of whoever owns `keys`: a call that needs no permission.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn caller(&self, keys: &Credentials) -> Result<Option<String>, FetchError> {
        let answer = Box::pin(self.client(keys).get_caller_identity().send()).await;
        let answer = answer.map_err(|error| explain("the caller's identity", error).0)?;
        Ok(answer.arn)
    }
}

/// What went wrong, and the error code where STS itself gave one.
type Refusal = (FetchError, Option<String>);

/// Credentials, and the ARN of the session that they are of.
pub(super) type Session = (Credentials, Option<String>);

impl Role {
    /// `settings`: the role that is assumed with what `base` gives; `sts` is that of the role's region.
    pub fn new(settings: AssumeRole, base: Arc<Refreshing<ProviderSource>>, sts: Sts) -> Self {
        Self { settings, base, sts }
    }

    /// A fresh session.
    ///
    /// # Errors
    /// [`FetchError`]; [`FetchError::NoBase`] when there is nothing to assume it with.
    pub(super) async fn assume(&self) -> Result<Session, FetchError> {
        let (outcome, generation) = self.once().await?;
        if let Err((_, Some(code))) = &outcome
            && is_about_keys(code)
            // STS takes the base for expired, whatever its expiry says.
            && self.base.renew(generation).await
        {
            return self.once().await?.0.map_err(|(error, _)| error);
        }
        outcome.map_err(|(error, _)| error)
    }

    /// One call, and the generation of the base that it was signed with.
    async fn once(&self) -> Result<(Result<Session, Refusal>, u64), FetchError> {
        let base = self.base.get().await;
        let base = base.map_err(|source| FetchError::NoBase { base: self.base.status().name, source })?;
        let role = &self.settings;
        let mut call = self
            .sts
            .client(&base.value.credentials)
            .assume_role()
            .role_arn(&role.arn)
            .role_session_name(&role.session_name)
            .duration_seconds(i32::try_from(role.duration.as_secs()).unwrap_or(i32::MAX))
            .set_external_id(role.external_id.clone())
            .set_policy(role.policy.clone());
        for arn in &role.policy_arns {
            call = call.policy_arns(PolicyDescriptorType::builder().arn(arn).build());
        }
        for (key, value) in &role.tags {
            // Both are set, which is all that can be missing.
            if let Ok(tag) = Tag::builder().key(key).value(value).build() {
                call = call.tags(tag);
            }
        }
        let answer = match Box::pin(call.send()).await {
            Ok(answer) => answer,
            Err(error) => {
                let (error, code) = explain(&format!("role {}", role.arn), error);
                return Ok((Err((self.help(error), code)), base.generation));
            }
        };
        let session = answer.assumed_role_user.map(|user| user.arn);
        let malformed = |problem: &str| FetchError::Malformed { endpoint: self.name(), problem: problem.to_owned() };
        let keys = answer.credentials.ok_or_else(|| malformed("it has no credentials"))?;
        let end =
            SystemTime::try_from(keys.expiration).map_err(|_out_of_range| malformed("its Expiration is no time"))?;
        let (id, secret, token) = (keys.access_key_id, keys.secret_access_key, keys.session_token);
        let keys = Credentials::new(id, secret, Some(token), Some(end), "countersign");
        Ok((Ok((keys, session)), base.generation))
    }

    /// Which role.
    pub(super) fn arn(&self) -> &str {
        &self.settings.arn
    }

    fn name(&self) -> String {
        format!("STS, asked for role {},", self.settings.arn)
    }

    /// Says what to look at.
    fn help(&self, error: FetchError) -> FetchError {
        let FetchError::Refused { endpoint, code, message } = error else { return error };
        let hint = match code.as_str() {
            "ValidationError" if self.settings.duration > CHAINED_LIMIT => {
                "a role that is assumed with another role's credentials lives 1h at most; lower `duration`"
            }
            "AccessDenied" if !self.settings.tags.is_empty() => {
                "does the role's trust policy name the caller and its `external_id`, and allow it sts:TagSession?"
            }
            "AccessDenied" => {
                "does the role's trust policy name the caller and its `external_id`, and may the caller do sts:AssumeRole?"
            }
            "RegionDisabledException" => "STS is not activated in this region; ask another by `region`",
            _ => return FetchError::Refused { endpoint, code, message },
        };
        let message = if message.is_empty() { hint.to_owned() } else { format!("{message}; {hint}") };
        FetchError::Refused { endpoint, code, message }
    }
}

/// Says whose fault it is: STS's refusals are told from its outages, because the first need a person. With the error code,
/// where STS itself gave one.
fn explain<E>(what: &str, error: SdkError<E>) -> Refusal
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let endpoint = format!("STS, asked for {what},");
    let status = error.raw_response().map(|response| response.status().as_u16());
    let SdkError::ServiceError(refused) = &error else {
        let source = CredentialsError::provider_error(error);
        return (FetchError::Aws { from: what.to_owned(), permanence: Permanence::Passing, source }, None);
    };
    let refused = refused.err();
    let code = refused.code().map_or_else(|| format!("status {}", status.unwrap_or_default()), ToOwned::to_owned);
    let message = printable(refused.message().unwrap_or_default());
    let error = if code.contains("Throttl") || status == Some(429) {
        FetchError::Throttled { endpoint, retry_after: None }
    } else if let Some(status @ 500..) = status {
        FetchError::Failing { endpoint, status, retry_after: None }
    } else {
        FetchError::Refused { endpoint, code: code.clone(), message }
    };
    (error, Some(code))
}
