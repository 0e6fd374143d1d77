//! The control plane's one HTTP client: token endpoints and AWS calls of ours, and every call of
//! `aws-config` through an adapter.
//!
//! One client means one set of roots, one proxy policy and one set of limits. It follows no redirect (a token request
//! carries a secret), keeps no cookie and decompresses nothing. Imports `egress`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};

use super::error::FetchError;
use crate::egress::{Egress, ProxyUrl};

/// TCP and TLS together (docs/rules.md 3.6: connect 2 s, read 5 s).
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The whole call.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// A token answer is 2 KiB; whoever sends more than this is broken or hostile, unless the config says otherwise
/// (docs/rules.md 3.2).
const LARGEST_ANSWER: usize = 64 * 1024;
/// A longer Retry-After would not be believed anyway.
const LARGEST_RETRY_AFTER_SECONDS: u64 = 86_400;

/// The client.
#[derive(Clone, Debug)]
pub struct Control {
    client: reqwest::Client,
    egress: Arc<Egress>,
    largest_answer: usize,
}

/// An answer, read whole.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// What it said about when to come back.
    pub retry_after: Option<Duration>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Control {
    /// A client that trusts what `tls` trusts, and goes out as `egress` says.
    ///
    /// # Errors
    /// When reqwest cannot use the configuration; it can use any that rustls built.
    pub fn try_new(tls: rustls::ClientConfig, egress: Egress) -> Result<Self, reqwest::Error> {
        let egress = Arc::new(egress);
        let rules = Arc::clone(&egress);
        let proxies = reqwest::Proxy::custom(move |url| {
            let proxy = through(&rules, url.scheme(), url.host_str()?, url.port_or_known_default())?;
            let mut address = reqwest::Url::parse(&proxy.address()).ok()?;
            if let Some((user, password)) = proxy.credentials() {
                address.set_username(user).ok()?;
                address.set_password(Some(password)).ok()?;
            }
            Some(address)
        });
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            // Not reqwest's own reading of the environment, which knows neither loopback nor metadata addresses.
            .no_proxy()
            .proxy(proxies)
            .connect_timeout(CONNECT_LIMIT)
            .timeout(CALL_LIMIT)
            // Calls are minutes apart: a kept connection would mostly be a dead one.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, egress, largest_answer: LARGEST_ANSWER })
    }

    /// The same, taking answers of so many bytes at most.
    #[must_use]
    pub fn taking(self, largest_answer: usize) -> Self {
        Self { largest_answer, ..self }
    }

    /// Posts a form. `authorization` is the whole field value.
    ///
    /// # Errors
    /// As [`Control::post`].
    pub async fn post_form(
        &self,
        url: &str,
        authorization: Option<HeaderValue>,
        form: String,
    ) -> Result<Answer, FetchError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization);
        }
        self.post(url, headers, form.into()).await
    }

    /// Posts `body` and reads the answer whole.
    ///
    /// # Errors
    /// [`FetchError::Unreachable`], [`FetchError::TimedOut`], [`FetchError::Malformed`] (too large). A status is not an
    /// error here.
    pub async fn post(&self, url: &str, headers: HeaderMap, body: Vec<u8>) -> Result<Answer, FetchError> {
        self.ask(self.client.post(url).headers(headers).body(body), || self.named(url)).await
    }

    /// Gets `url`, which is called `name` in messages, and reads the answer whole.
    ///
    /// # Errors
    /// As [`Control::post`].
    pub async fn get(&self, url: &str, name: &str, headers: HeaderMap) -> Result<Answer, FetchError> {
        self.ask(self.client.get(url).headers(headers), || name.to_owned()).await
    }

    /// A URL as it stands in messages, with the proxy that leads there.
    fn named(&self, url: &str) -> String {
        let shown = without_query(url);
        let parsed: Option<http::Uri> = shown.parse().ok();
        let proxy = parsed.as_ref().and_then(|url| {
            let default = if url.scheme_str() == Some("https") { 443 } else { 80 };
            through(&self.egress, url.scheme_str()?, url.host()?, Some(url.port_u16().unwrap_or(default)))
        });
        match proxy {
            Some(proxy) => format!("{shown} through the proxy {proxy}"),
            None => shown,
        }
    }

    async fn ask(&self, request: reqwest::RequestBuilder, endpoint: impl Fn() -> String) -> Result<Answer, FetchError> {
        let failed = |source: reqwest::Error| {
            if source.is_timeout() {
                let limit = if source.is_connect() { CONNECT_LIMIT } else { CALL_LIMIT };
                FetchError::TimedOut { endpoint: endpoint(), limit }
            } else {
                FetchError::Unreachable { endpoint: endpoint(), source: source.without_url() }
            }
        };
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| retry_after(value.to_str().ok()?, response.headers()));
        let most = self.largest_answer;
        let body = read(response, most).await.map_err(|unread| match unread {
            Unread::TooLarge => {
                let problem = format!("it is larger than {most} bytes (max_token_answer)");
                FetchError::Malformed { endpoint: endpoint(), problem }
            }
            Unread::Broken(error) => failed(error),
        })?;
        Ok(Answer { status, retry_after, body })
    }
}

/// RFC 9110 10.2.3: seconds, or a date; that one is read against the answer's own `Date`, whatever this clock says.
fn retry_after(text: &str, headers: &HeaderMap) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds.min(LARGEST_RETRY_AFTER_SECONDS)));
    }
    let date = headers.get(header::DATE)?.to_str().ok()?;
    let (then, now) = (httpdate::parse_http_date(text.trim()).ok()?, httpdate::parse_http_date(date).ok()?);
    Some(then.duration_since(now).unwrap_or_default())
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The body is a token, mostly.
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// What goes over plain HTTP stays on this machine, or is a metadata endpoint.
fn through<'e>(egress: &'e Egress, scheme: &str, host: &str, port: Option<u16>) -> Option<&'e ProxyUrl> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    egress.to(host, port?).filter(|_| scheme == "https")
}

/// Why an answer could not be read whole.
enum Unread {
    TooLarge,
    Broken(reqwest::Error),
}

/// An answer's body, `most` bytes of it at most.
async fn read(mut response: reqwest::Response, most: usize) -> Result<Vec<u8>, Unread> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Unread::Broken)? {
        if body.len() + chunk.len() > most {
            return Err(Unread::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A URL as it may be shown: a token endpoint's query can carry a secret.
pub(crate) fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

/// `aws-config` calls metadata endpoints and STS through this, and so through the same client as everything else: the
/// SDK's own client sends metadata requests to a corporate proxy.
impl HttpClient for Control {
    fn http_connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector(self.clone()))
    }
}

#[derive(Debug)]
struct Connector(Control);

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let control = self.0.clone();
        HttpConnectorFuture::new(async move { call(&control, request).await })
    }
}

async fn call(control: &Control, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let Control { client, largest_answer, .. } = control;
    let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
    let (parts, body) = request.into_parts();
    let bytes = body
        .bytes()
        .ok_or_else(|| ConnectorError::user("a streaming body; credential calls have none".into()))?
        .to_vec();
    let mut response = client
        .request(parts.method, parts.uri.to_string())
        .headers(parts.headers)
        .body(bytes)
        .send()
        .await
        .map_err(connector_error)?;
    let mut answer = http::Response::builder().status(response.status());
    if let Some(headers) = answer.headers_mut() {
        *headers = std::mem::take(response.headers_mut());
    }
    let body = read(response, *largest_answer).await.map_err(|unread| match unread {
        Unread::TooLarge => {
            ConnectorError::other(format!("an answer of over {largest_answer} bytes (max_token_answer)").into(), None)
        }
        Unread::Broken(error) => connector_error(error),
    })?;
    let answer = answer.body(SdkBody::from(body)).map_err(|error| ConnectorError::user(error.into()))?;
    HttpResponse::try_from(answer).map_err(|error| ConnectorError::user(error.into()))
}

fn connector_error(error: reqwest::Error) -> ConnectorError {
    // A container's credential URL is itself a key to its credentials.
    let error = error.without_url();
    if error.is_timeout() { ConnectorError::timeout(error.into()) } else { ConnectorError::io(error.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_a_number_or_a_date() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after("30", &headers), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("99999999", &headers), Some(Duration::from_hours(24)));
        assert_eq!(retry_after("Sat, 21 Nov 2026 12:00:30 GMT", &headers), None, "against which clock?");
        headers.insert(header::DATE, HeaderValue::from_static("Sat, 21 Nov 2026 12:00:00 GMT"));
        assert_eq!(retry_after("Sat, 21 Nov 2026 12:00:30 GMT", &headers), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Sat, 21 Nov 2026 11:00:30 GMT", &headers), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", &headers), None);
    }
}
