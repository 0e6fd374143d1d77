//! AWS credentials of an identity of a Cognito identity pool: the enhanced flow (docs/aws.md E).
//!
//! The identity id is asked for once and kept; credentials come with the ID token of a login, which its own cache keeps
//! fresh, or without one for an unauthenticated identity. Neither call is signed. Imports `secret`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::aws_json::{AwsJson, Service, suffix_of};
use super::cognito_user::CognitoUserSource;
use super::error::FetchError;
use super::refreshing::{Lease, Refreshing};
use super::spec::{CognitoUser, IdentityPool, UserToken};
use crate::secret::Secret;

/// What is asked about a pool that refuses somebody without a login.
pub(super) const GUESTS: &str = "does the identity pool allow unauthenticated identities";

/// Fetches the credentials of one identity.
#[derive(Debug)]
pub struct PoolIdentity {
    pool: IdentityPool,
    service: Service,
    json: AwsJson,
    login: Option<Arc<Refreshing<CognitoUserSource>>>,
    /// Asked for once: `GetId` has a small quota (docs/aws.md C1), and the answer does not change.
    id: Mutex<Option<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GetId<'a> {
    identity_pool_id: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    logins: &'a Logins<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GetCredentials<'a> {
    identity_id: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    logins: &'a Logins<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_role_arn: Option<&'a str>,
}

/// Who vouches, and the ID token.
type Logins<'a> = BTreeMap<&'a str, &'a str>;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Identity {
    identity_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Given {
    credentials: Keys,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Keys {
    access_key_id: String,
    /// STS calls it `SecretAccessKey`.
    secret_key: Zeroizing<String>,
    session_token: Zeroizing<String>,
    /// Seconds, with a fraction.
    expiration: f64,
}

impl PoolIdentity {
    /// An identity of `pool`, for `login` if there is one.
    pub fn new(pool: IdentityPool, json: AwsJson, login: Option<Arc<Refreshing<CognitoUserSource>>>) -> Self {
        let service = Service::cognito_identity(&pool.region, pool.endpoint.as_deref());
        Self { pool, service, json, login, id: Mutex::default() }
    }

    /// Fresh credentials.
    ///
    /// # Errors
    /// [`FetchError`]; [`FetchError::NoBase`] when the login has no token.
    pub async fn credentials(&self) -> Result<Credentials, FetchError> {
        let Some(login) = &self.login else { return self.with(None).await };
        let token =
            || async { login.get().await.map_err(|source| FetchError::NoBase { base: login.status().name, source }) };
        // A token near its end is refreshed before it is lent.
        let Lease { value, generation } = token().await?;
        let outcome = self.with(Some(value.get(UserToken::Id))).await;
        if let Err(FetchError::Refused { code, .. }) = &outcome
            && code == "NotAuthorizedException"
            // It may be the token: revoked, or another clock takes it for expired.
            && login.renew(generation).await
        {
            return self.with(Some(token().await?.value.get(UserToken::Id))).await;
        }
        outcome
    }

    /// Which pool.
    pub(super) fn pool_id(&self) -> &str {
        &self.pool.id
    }

    async fn with(&self, id_token: Option<&Secret>) -> Result<Credentials, FetchError> {
        let provider = self.pool.login.as_ref().map(|login| provider(&login.user));
        let logins: Logins<'_> = provider.as_deref().zip(id_token.map(Secret::expose)).into_iter().collect();
        let known = self.id.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(id) = known {
            match self.get(&id, &logins).await {
                // The identity was deleted; the pool may give another.
                Err(FetchError::Refused { code, .. }) if code == "ResourceNotFoundException" => self.keep(None),
                outcome => return outcome,
            }
        }
        let input = GetId { identity_pool_id: &self.pool.id, logins: &logins };
        let identity: Identity =
            self.json.call(&self.service, "GetId", &input, None).await.map_err(|error| self.explain(error))?;
        self.keep(Some(identity.identity_id.clone()));
        let outcome = self.get(&identity.identity_id, &logins).await;
        if let Err(FetchError::Refused { code, .. }) = &outcome
            && code == "ResourceNotFoundException"
        {
            self.keep(None);
        }
        outcome
    }

    async fn get(&self, id: &str, logins: &Logins<'_>) -> Result<Credentials, FetchError> {
        let custom_role_arn = self.pool.role_arn.as_deref();
        let input = GetCredentials { identity_id: id, logins, custom_role_arn };
        let answer = self.json.call(&self.service, "GetCredentialsForIdentity", &input, None).await;
        let Given { credentials: keys } = answer.map_err(|error| self.explain(error))?;
        let end =
            Duration::try_from_secs_f64(keys.expiration).ok().and_then(|end| SystemTime::UNIX_EPOCH.checked_add(end));
        let end = end.ok_or_else(|| FetchError::Malformed {
            endpoint: self.service.endpoint().to_owned(),
            problem: "its Expiration is not a time".to_owned(),
        })?;
        let (secret, token) = (keys.secret_key.to_string(), keys.session_token.to_string());
        Ok(Credentials::new(keys.access_key_id, secret, Some(token), Some(end), "countersign"))
    }

    fn keep(&self, id: Option<String>) {
        *self.id.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }

    /// Says what to look at, and that an outage of the user pool passes though it comes as a client's error.
    fn explain(&self, error: FetchError) -> FetchError {
        let FetchError::Refused { endpoint, code, message } = error else { return error };
        let hint = match (code.as_str(), &self.pool.login) {
            ("ExternalServiceException" | "ConcurrentModificationException", _) => {
                return FetchError::Failing { endpoint, status: 400, retry_after: None };
            }
            ("NotAuthorizedException", Some(login)) => format!(
                "is app client {} of {} an identity provider of the identity pool, and does the user have the role?",
                login.user.client_id, login.user.user_pool_id
            ),
            ("NotAuthorizedException", None) => {
                format!("{GUESTS}? if not, name a `login`")
            }
            ("InvalidIdentityPoolConfigurationException", _) => {
                "does the pool have its roles, and do they trust cognito-identity.amazonaws.com for this pool?"
                    .to_owned()
            }
            ("ResourceNotFoundException", _) => format!("is {} the id of an identity pool?", self.pool.id),
            _ => return FetchError::Refused { endpoint, code, message },
        };
        let message = if message.is_empty() { hint } else { format!("{message}; {hint}") };
        FetchError::Refused { endpoint, code, message }
    }
}

/// What an identity pool calls a user pool: its issuer without the scheme.
fn provider(user: &CognitoUser) -> String {
    format!("cognito-idp.{}.{}/{}", user.region, suffix_of(&user.region), user.user_pool_id)
}

#[cfg(test)]
mod tests;
