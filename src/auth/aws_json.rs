//! The few AWS calls that speak JSON 1.1: Cognito's, Secrets Manager's and SSM's, through the one client and our signer.
//!
//! The SDK crates for them would cost 4 MB and minutes of build. Nothing here retries for long: the
//! refreshing cache does, once for all who wait. Imports `clock`, `message`.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::aws::AwsKeys;
use super::control::{Answer, Control};
use super::error::{AuthError, FetchError, Permanence};
use super::request::Unsigned;
use super::sigv4::{self, Scope};
use super::spec::PayloadSigning;
use crate::clock::Clock;
use crate::message::body::Sha256Hex;

const JSON: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.1");
const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
/// Tries of one call; a third rarely helps within the seconds that a caller waits.
const TRIES: u32 = 2;
/// A second try comes at a random point in this.
const RETRY_RANGE: Duration = Duration::from_millis(300);

/// One service of one region.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// `https://host`, or `http://` on loopback; without a path.
    endpoint: String,
    /// In front of the operation in `x-amz-target`.
    prefix: &'static str,
    region: String,
    signing_name: &'static str,
}

impl Service {
    /// Cognito user pools.
    pub fn cognito_idp(region: &str, endpoint: Option<&str>) -> Self {
        Self::new("cognito-idp", "AWSCognitoIdentityProviderService", region, endpoint)
    }

    /// Cognito identity pools.
    pub fn cognito_identity(region: &str, endpoint: Option<&str>) -> Self {
        Self::new("cognito-identity", "AWSCognitoIdentityService", region, endpoint)
    }

    /// Secrets Manager.
    pub fn secretsmanager(region: &str, endpoint: Option<&str>) -> Self {
        Self::new("secretsmanager", "secretsmanager", region, endpoint)
    }

    /// Systems Manager's parameters.
    pub fn ssm(region: &str, endpoint: Option<&str>) -> Self {
        Self::new("ssm", "AmazonSSM", region, endpoint)
    }

    fn new(name: &'static str, prefix: &'static str, region: &str, endpoint: Option<&str>) -> Self {
        let endpoint = endpoint.map_or_else(
            || format!("https://{name}.{region}.{}", suffix_of(region)),
            |endpoint| endpoint.trim_end_matches('/').to_owned(),
        );
        Self { endpoint, prefix, region: region.to_owned(), signing_name: name }
    }

    /// For messages.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// The DNS suffix of a region's partition.
pub(super) fn suffix_of(region: &str) -> &'static str {
    match region.split('-').next().unwrap_or_default() {
        "cn" => "amazonaws.com.cn",
        "eusc" => "amazonaws.eu",
        "us" if region.starts_with("us-iso-") => "c2s.ic.gov",
        "us" if region.starts_with("us-isob-") => "sc2s.sgov.gov",
        "us" if region.starts_with("us-isof-") => "csp.hci.ic.gov",
        "eu" if region.starts_with("eu-isoe-") => "cloud.adc-e.uk",
        _ => "amazonaws.com",
    }
}

/// Calls operations.
#[derive(Clone, Debug)]
pub struct AwsJson {
    control: Control,
    clock: Clock,
}

/// Services do not agree on the letters of `message`, and some write it both ways: an alias would refuse those answers.
#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "__type", default)]
    kind: String,
    message: Option<String>,
    #[serde(rename = "Message")]
    capital_message: Option<String>,
}

impl AwsJson {
    /// Calls through `control`.
    pub fn new(control: Control, clock: Clock) -> Self {
        Self { control, clock }
    }

    /// Calls `operation` with `input`; signed where `keys` are given.
    ///
    /// # Errors
    /// [`FetchError`]: `Refused` carries the service's error code (`NotAuthorizedException`), without its namespace.
    pub async fn call<I: Serialize, O: DeserializeOwned>(
        &self,
        service: &Service,
        operation: &str,
        input: &I,
        keys: Option<&AwsKeys>,
    ) -> Result<O, FetchError> {
        let body = serde_json::to_vec(input).map_err(|error| malformed(service, &error))?;
        let mut tries = 1;
        loop {
            match self.once(service, operation, &body, keys).await {
                Err(error @ (FetchError::Unreachable { .. } | FetchError::Failing { .. })) if tries < TRIES => {
                    debug_assert_eq!(error.permanence(), Permanence::Passing);
                    tracing::debug!(endpoint = service.endpoint, operation, %error, "calling once more");
                    tries += 1;
                    tokio::time::sleep(RETRY_RANGE.mul_f64(fastrand::f64())).await;
                }
                outcome => {
                    let answer = outcome?;
                    return serde_json::from_slice(&answer.body).map_err(|error| malformed(service, &error));
                }
            }
        }
    }

    async fn once(
        &self,
        service: &Service,
        operation: &str,
        body: &[u8],
        keys: Option<&AwsKeys>,
    ) -> Result<Answer, FetchError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, JSON);
        if let Ok(target) = HeaderValue::try_from(format!("{}.{operation}", service.prefix)) {
            headers.insert(TARGET, target);
        }
        if let Some(keys) = keys {
            let fields = self.sign(service, &headers, body, keys).map_err(|source| FetchError::Unsigned {
                endpoint: service.endpoint.clone(),
                source: Box::new(source),
            })?;
            headers.extend(fields);
        }
        let answer = self.control.post(&format!("{}/", service.endpoint), headers, body.to_vec()).await?;
        if answer.status == StatusCode::OK { Ok(answer) } else { Err(refusal(service, &answer)) }
    }

    fn sign(
        &self,
        service: &Service,
        headers: &HeaderMap,
        body: &[u8],
        keys: &AwsKeys,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, AuthError> {
        let host = service.endpoint.split_once("://").map_or("", |(_, host)| host);
        let authority =
            Authority::try_from(host).unwrap_or_else(|_checked_with_the_config| Authority::from_static("invalid"));
        let payload = Sha256Hex::of(body);
        let unsigned = Unsigned {
            method: &Method::POST,
            authority: &authority,
            path_and_query: &PathAndQuery::from_static("/"),
            headers,
            payload: Some(&payload),
        };
        let scope = Scope {
            region: service.region.clone(),
            service: service.signing_name.to_owned(),
            payload: PayloadSigning::Signed,
        };
        sigv4::authorize(&unsigned, &keys.identity, &scope, self.clock.wall())
    }
}

fn malformed(service: &Service, error: &serde_json::Error) -> FetchError {
    // serde_json's own text can quote the answer, and with it a secret.
    let problem = format!("not the JSON that was expected (line {}, column {})", error.line(), error.column());
    FetchError::Malformed { endpoint: service.endpoint.clone(), problem }
}

fn refusal(service: &Service, answer: &Answer) -> FetchError {
    let endpoint = service.endpoint.clone();
    let (status, retry_after) = (answer.status, answer.retry_after);
    let said: Option<Refusal> = serde_json::from_slice(&answer.body).ok();
    let (code, message) = said.map_or_else(
        || (format!("status {}", status.as_u16()), String::new()),
        // `com.amazon.coral.service#ThrottlingException`, `ThrottlingException:http://…` (docs/aws.md D1).
        |said| {
            let code = said.kind.rsplit('#').next().unwrap_or_default();
            let message = said.message.or(said.capital_message).unwrap_or_default();
            (code.split(':').next().unwrap_or_default().to_owned(), message)
        },
    );
    let throttled = matches!(
        code.as_str(),
        "TooManyRequestsException"
            | "ThrottlingException"
            | "Throttling"
            | "RequestLimitExceeded"
            | "LimitExceededException"
    );
    if throttled || status == StatusCode::TOO_MANY_REQUESTS {
        FetchError::Throttled { endpoint, retry_after }
    } else if status.is_client_error() && code != "InternalErrorException" {
        FetchError::Refused { endpoint, code, message: super::error::printable(&message) }
    } else {
        FetchError::Failing { endpoint, status: status.as_u16(), retry_after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_right_in_every_partition() {
        for (region, host) in [
            ("ap-northeast-1", "https://cognito-idp.ap-northeast-1.amazonaws.com"),
            ("cn-north-1", "https://cognito-idp.cn-north-1.amazonaws.com.cn"),
            ("us-gov-west-1", "https://cognito-idp.us-gov-west-1.amazonaws.com"),
            ("us-iso-east-1", "https://cognito-idp.us-iso-east-1.c2s.ic.gov"),
            ("us-isob-east-1", "https://cognito-idp.us-isob-east-1.sc2s.sgov.gov"),
            ("eusc-de-east-1", "https://cognito-idp.eusc-de-east-1.amazonaws.eu"),
        ] {
            assert_eq!(Service::cognito_idp(region, None).endpoint(), host);
        }
        assert_eq!(Service::ssm("x-y-1", Some("http://127.0.0.1:1/")).endpoint(), "http://127.0.0.1:1");
    }

    fn judged(status: u16, body: &str) -> FetchError {
        let status = StatusCode::from_u16(status).unwrap();
        let service = Service::cognito_idp("eu-west-1", None);
        refusal(&service, &Answer { status, retry_after: None, body: body.as_bytes().to_vec() })
    }

    #[test]
    fn error_types_lose_their_namespace_and_throttling_is_told_apart() {
        let refused = judged(400, r#"{"__type":"com.amazon#NotAuthorizedException:http://x","message":"a\nb"}"#);
        assert!(
            matches!(refused, FetchError::Refused { code, message, .. } if code == "NotAuthorizedException" && message == "a?b")
        );
        for both in [r#"{"__type":"Gone","message":"a","Message":"a"}"#, r#"{"__type":"Gone","Message":"a"}"#] {
            let refused = judged(400, both);
            assert!(matches!(refused, FetchError::Refused { code, message, .. } if code == "Gone" && message == "a"));
        }
        assert!(matches!(judged(400, r#"{"__type":"TooManyRequestsException"}"#), FetchError::Throttled { .. }));
        assert!(matches!(judged(500, r#"{"__type":"InternalErrorException"}"#), FetchError::Failing { .. }));
        assert!(matches!(judged(502, "<html>"), FetchError::Failing { .. }));
        assert!(matches!(judged(403, "nonsense"), FetchError::Refused { code, .. } if code == "status 403"));
    }
}
