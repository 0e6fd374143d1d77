//! What is sent and answered, and what is read of tokens.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Initiate<'a> {
    pub(super) auth_flow: &'static str,
    pub(super) client_id: &'a str,
    /// In admin calls alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_pool_id: Option<&'a str>,
    pub(super) auth_parameters: &'a Parameters,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Respond<'a> {
    pub(super) challenge_name: &'a str,
    pub(super) client_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_pool_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<&'a str>,
    pub(super) challenge_responses: &'a Parameters,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Rotate<'a> {
    pub(super) client_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_secret: Option<&'a str>,
    pub(super) refresh_token: &'a str,
}

pub(super) type Parameters = BTreeMap<&'static str, Zeroizing<String>>;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Answer {
    #[serde(default)]
    pub(super) challenge_name: Option<String>,
    #[serde(default)]
    pub(super) session: Option<Zeroizing<String>>,
    #[serde(default)]
    pub(super) challenge_parameters: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) available_challenges: Option<Vec<String>>,
    #[serde(default)]
    pub(super) authentication_result: Option<Tokens>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tokens {
    pub(super) access_token: Zeroizing<String>,
    pub(super) id_token: Zeroizing<String>,
    #[serde(default)]
    pub(super) refresh_token: Option<Zeroizing<String>>,
    #[serde(default)]
    pub(super) expires_in: Option<serde_json::Value>,
}

/// The claims of a JWT, unverified: the API verifies them.
#[derive(Deserialize)]
struct Claims {
    /// In ID tokens.
    #[serde(rename = "cognito:username", default)]
    inner_name: Option<String>,
    /// In access tokens.
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    iat: Option<f64>,
    #[serde(default)]
    exp: Option<f64>,
}

impl Claims {
    fn of(token: &str) -> Option<Self> {
        let payload = token.split('.').nth(1)?;
        let claims = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).ok()?);
        serde_json::from_slice(&claims).ok()
    }
}

pub(super) fn username_claim(id: &str, access: &str) -> Option<String> {
    Claims::of(id).and_then(|claims| claims.inner_name).or_else(|| Claims::of(access)?.username)
}

/// By the pool's clock alone: what matters is how long, not when.
pub(super) fn lifetime_claim(token: &str) -> Option<Duration> {
    let Claims { iat: Some(issued), exp: Some(end), .. } = Claims::of(token)? else { return None };
    Duration::try_from_secs_f64(end - issued).ok().filter(|life| !life.is_zero())
}
