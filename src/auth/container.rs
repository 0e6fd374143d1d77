//! The credential endpoint of an ECS task or an EKS pod.
//!
//! Our own and not `aws-config`'s, which takes no token file that ends in a newline (docs/aws.md F1), as every editor and
//! `kubectl create secret` writes it. Whose endpoint may be called is the SDKs' rule: HTTPS, loopback, or the three
//! addresses of ECS and EKS. Imports `secret`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use http::header::{self, HeaderMap, HeaderValue};
use http::{StatusCode, Uri};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::control::Control;
use super::error::{FetchError, printable};
use super::spec::ContainerEnvironment;
use crate::egress::is_loopback;
use crate::secret::{Secret, read_file};

/// Where ECS serves the relative URI.
const ECS: &str = "http://169.254.170.2";
/// Plain HTTP is taken to these and to loopback alone: ECS, and EKS Pod Identity over IPv4 and IPv6.
const PLAIN: [&str; 3] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];
/// Tries of one fetch, of 5 s at most (docs/rules.md 3.6).
const TRIES: u32 = 3;
/// The next try comes at a random point in this.
const RETRY_RANGE: Duration = Duration::from_millis(500);

/// Asks the endpoint.
#[derive(Clone, Debug)]
pub struct Container {
    endpoint: Option<Result<Endpoint, NoEndpoint>>,
    control: Control,
}

#[derive(Clone, Debug)]
struct Endpoint {
    url: Secret,
    authorization: Option<Authorization>,
}

#[derive(Clone, Debug)]
enum Authorization {
    Token(Secret),
    File(PathBuf),
}

/// Why what the environment says is not called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum NoEndpoint {
    #[error("AWS_CONTAINER_CREDENTIALS_FULL_URI is not a URL")]
    NotAUrl,
    #[error(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI is plain HTTP to {0}, and only loopback, 169.254.170.2, 169.254.170.23 and [fd00:ec2::23] are taken"
    )]
    Foreign(String),
    #[error("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI does not begin with \"/\"")]
    NotRelative,
}

/// What the endpoint gives.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Given {
    access_key_id: String,
    secret_access_key: Zeroizing<String>,
    #[serde(default)]
    token: Option<Zeroizing<String>>,
    #[serde(default)]
    expiration: Option<String>,
}

/// What it says where it gives nothing; ECS and EKS do not agree on the letters, and an alias takes no answer with both.
#[derive(Default, Deserialize)]
struct Refusal {
    code: Option<String>,
    #[serde(rename = "Code")]
    capital_code: Option<String>,
    message: Option<String>,
    #[serde(rename = "Message")]
    capital_message: Option<String>,
}

impl Container {
    /// Asks where `environment` says.
    pub fn new(environment: &ContainerEnvironment, control: Control) -> Self {
        Self { endpoint: endpoint(environment), control }
    }

    /// Fresh credentials; `None` where the environment names no endpoint.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn credentials(&self) -> Result<Option<Credentials>, FetchError> {
        let endpoint = match &self.endpoint {
            None => return Ok(None),
            Some(Err(error)) => return Err(misconfigured(error.clone())),
            Some(Ok(endpoint)) => endpoint,
        };
        let mut tries = 1;
        loop {
            match self.once(endpoint).await {
                Err(
                    error @ (FetchError::Unreachable { .. } | FetchError::TimedOut { .. } | FetchError::Failing { .. }),
                ) if tries < TRIES => {
                    tracing::debug!(%error, "asking for the container's credentials once more");
                    tries += 1;
                    tokio::time::sleep(RETRY_RANGE.mul_f64(fastrand::f64())).await;
                }
                outcome => return outcome.map(Some),
            }
        }
    }

    async fn once(&self, endpoint: &Endpoint) -> Result<Credentials, FetchError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &endpoint.authorization {
            let token = match authorization {
                Authorization::Token(token) => token.clone(),
                // Read for each call: EKS and ECS rotate it.
                Authorization::File(path) => read_file(path).map_err(FetchError::Secret)?,
            };
            let mut value = HeaderValue::try_from(token.expose()).map_err(|_not_quoted| FetchError::Unfit {
                what: format!("the authorization token for {NAME}"),
                problem: "it has characters that no header field can have".to_owned(),
            })?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let answer = self.control.get(endpoint.url.expose(), NAME, headers).await?;
        if answer.status == StatusCode::OK {
            return read(&answer.body);
        }
        let status = answer.status.as_u16();
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            return Err(FetchError::Throttled { endpoint: NAME.to_owned(), retry_after: answer.retry_after });
        }
        if answer.status.is_client_error() {
            let said: Refusal = serde_json::from_slice(&answer.body).unwrap_or_default();
            let code = said.code.or(said.capital_code).filter(|code| !code.is_empty());
            let code = code.map_or_else(|| format!("status {status}"), |code| printable(&code));
            let message = printable(&said.message.or(said.capital_message).unwrap_or_default());
            return Err(FetchError::Refused { endpoint: NAME.to_owned(), code, message });
        }
        Err(FetchError::Failing { endpoint: NAME.to_owned(), status, retry_after: answer.retry_after })
    }
}

/// What it is called in messages: the URL is itself a key to the credentials.
pub(super) const NAME: &str = "the container's credential endpoint";

fn malformed(problem: &str) -> FetchError {
    FetchError::Malformed { endpoint: NAME.to_owned(), problem: problem.to_owned() }
}

fn misconfigured(error: NoEndpoint) -> FetchError {
    let permanence = super::error::Permanence::Permanent;
    FetchError::Aws { from: NAME.to_owned(), permanence, source: CredentialsError::invalid_configuration(error) }
}

fn endpoint(environment: &ContainerEnvironment) -> Option<Result<Endpoint, NoEndpoint>> {
    let url = match (&environment.relative_uri, &environment.full_uri) {
        (Some(path), _) if path.expose().starts_with('/') => Ok(Secret::new(format!("{ECS}{}", path.expose()))),
        (Some(_), _) => Err(NoEndpoint::NotRelative),
        (None, Some(url)) => trusted(url.expose()).map(|()| url.clone()),
        (None, None) => return None,
    };
    let file = environment.token_file.clone().map(Authorization::File);
    let authorization = file.or_else(|| environment.token.clone().map(Authorization::Token));
    Some(url.map(|url| Endpoint { url, authorization }))
}

/// The SDKs' rule: nobody else may be sent the authorization token in the clear.
fn trusted(url: &str) -> Result<(), NoEndpoint> {
    let url: Uri = url.parse().map_err(|_not_quoted| NoEndpoint::NotAUrl)?;
    let host = url.host().ok_or(NoEndpoint::NotAUrl)?;
    match url.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if PLAIN.contains(&host) || is_loopback(host.trim_matches(['[', ']'])) => Ok(()),
        Some("http") => Err(NoEndpoint::Foreign(host.to_owned())),
        _ => Err(NoEndpoint::NotAUrl),
    }
}

fn read(body: &[u8]) -> Result<Credentials, FetchError> {
    // serde_json's own text can quote the answer, and with it the keys.
    let given: Given = serde_json::from_slice(body)
        .map_err(|_quotes_the_keys| malformed("no JSON with AccessKeyId and SecretAccessKey"))?;
    let end = match &given.expiration {
        None => None,
        Some(text) => Some(expiration(text).ok_or_else(|| malformed("its Expiration is not a time"))?),
    };
    let token = given.token.map(|token| token.to_string());
    Ok(Credentials::new(given.access_key_id, given.secret_access_key.to_string(), token, end, "container"))
}

fn expiration(text: &str) -> Option<SystemTime> {
    SystemTime::try_from(DateTime::from_str(text, Format::DateTime).ok()?).ok()
}

/// For the chain of sources, and for profiles with `credential_source = EcsContainer`.
impl ProvideCredentials for Container {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            match self.credentials().await {
                Ok(Some(credentials)) => Ok(credentials),
                Ok(None) => Err(CredentialsError::not_loaded("the environment names no container credential endpoint")),
                Err(error) => Err(CredentialsError::provider_error(error)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(relative: Option<&str>, full: Option<&str>) -> Option<Result<String, NoEndpoint>> {
        let (relative_uri, full_uri) = (relative.map(Secret::from), full.map(Secret::from));
        let environment = ContainerEnvironment { relative_uri, full_uri, ..ContainerEnvironment::default() };
        endpoint(&environment).map(|endpoint| endpoint.map(|endpoint| endpoint.url.expose().to_owned()))
    }

    #[test]
    fn the_relative_uri_is_ecss_and_wins() {
        assert_eq!(asked(Some("/v2/x"), Some("http://127.0.0.1/")), Some(Ok("http://169.254.170.2/v2/x".to_owned())));
        assert_eq!(asked(Some("evil.test/"), None), Some(Err(NoEndpoint::NotRelative)));
        assert_eq!(asked(None, None), None);
    }

    #[test]
    fn plain_http_goes_to_loopback_and_the_three_addresses_alone() {
        for url in [
            "http://127.0.0.1:9/x",
            "http://127.8.8.8/",
            "http://[::1]:9/",
            "http://localhost/",
            "http://169.254.170.2/v2",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::23]/v1/credentials",
            "https://anything.test/",
        ] {
            assert!(matches!(asked(None, Some(url)), Some(Ok(_))), "{url}");
        }
        for url in
            ["http://169.254.169.254/", "http://evil.test/", "http://[fd00:ec2::24]/", "http://localhost.evil.test/"]
        {
            assert!(matches!(asked(None, Some(url)), Some(Err(NoEndpoint::Foreign(_)))), "{url}");
        }
        for url in ["/v2/x", "ftp://127.0.0.1/", "", "http://"] {
            assert_eq!(asked(None, Some(url)), Some(Err(NoEndpoint::NotAUrl)), "{url}");
        }
    }

    #[test]
    fn answers_are_read_and_odd_ones_refused() {
        let keys =
            read(br#"{"AccessKeyId":"AKIA","SecretAccessKey":"s","Token":"t","Expiration":"2030-01-02T03:04:05Z"}"#);
        let keys = keys.unwrap();
        assert_eq!((keys.access_key_id(), keys.session_token()), ("AKIA", Some("t")));
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_553_445);
        assert_eq!(keys.expiry(), Some(end));
        assert!(read(br#"{"AccessKeyId":"AKIA","SecretAccessKey":"s"}"#).unwrap().expiry().is_none());
        for odd in [
            "",
            "<html>",
            "{}",
            r#"{"AccessKeyId":"a","SecretAccessKey":"s3cret","Expiration":"soon"}"#,
            "[1]",
            "\"s3cret\"",
            r#"{"AccessKeyId":"a","SecretAccessKey":["s3cret"]}"#,
            r#"{"AccessKeyId":"a","SecretAccessKey":"s3cret","Token":7}"#,
        ] {
            let error = read(odd.as_bytes()).unwrap_err();
            assert!(matches!(error, FetchError::Malformed { .. }) && !error.to_string().contains("s3cret"), "{odd}");
        }
    }
}
