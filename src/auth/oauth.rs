//! Client-credentials tokens (RFC 6749 4.4), from Cognito or any other issuer.
//!
//! What is asked and how answers are judged follows docs/aws.md C1 and docs/rules.md 3.6. Tokens are not verified here: the
//! API does that. A look into one (its `scope`) is for the log only. Imports `secret`, `clock`.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::control::{Answer, Control, without_query};
use super::error::{FetchError, printable};
use super::refreshing::{About, Fetched, Source, WhenExpired};
use super::secrets::SecretReader;
use super::shared::Issuer;
use super::spec::{ClientAuth, ClientCredentials};
use crate::clock::{Expiry, Moment};
use crate::secret::Secret;

/// A token without `expires_in` is believed for this long.
pub(super) const ASSUMED_LIFE: Duration = Duration::from_mins(5);
/// A life beyond Cognito's longest is cut to it.
const LONGEST_LIFE: Duration = Duration::from_hours(24);
/// A shorter life than this is over before it is used.
const SHORTEST_LIFE: Duration = Duration::from_secs(10);
/// A token has to fit into API Gateway's 10,240 bytes of headers; this leaves room for other APIs.
const LONGEST_TOKEN: usize = 16_384;
/// `application/x-www-form-urlencoded` leaves these as they are (WHATWG URL 5.2).
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*');

/// Fetches tokens for one client.
#[derive(Debug)]
pub struct ClientCredentialsSource {
    control: Control,
    client: ClientCredentials,
    secret: SecretReader,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: Zeroizing<String>,
    token_type: String,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
    #[serde(default)]
    scope: Option<String>,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl ClientCredentialsSource {
    /// A source that asks through `control`; `secret` reads the client's.
    pub fn new(control: Control, client: ClientCredentials, secret: SecretReader) -> Self {
        Self { control, client, secret }
    }

    async fn ask_with(&self, secret: &Secret, now: Moment) -> Result<Fetched<Secret>, FetchError> {
        let (authorization, form) = self.request(secret);
        let answer = self.control.post_form(&self.client.token_url, authorization, form).await?;
        self.judge(&answer, secret, now)
    }

    fn request(&self, secret: &Secret) -> (Option<HeaderValue>, String) {
        let client = &self.client;
        let mut form = Form::default();
        form.add("grant_type", "client_credentials");
        let authorization = match client.client_auth {
            ClientAuth::Basic => basic(&client.client_id, secret),
            ClientAuth::Body => {
                form.add("client_id", &client.client_id);
                form.add("client_secret", secret.expose());
                None
            }
        };
        if !client.scopes.is_empty() {
            form.add("scope", &client.scopes.join(" "));
        }
        for (name, value) in &client.params {
            form.add(name, value);
        }
        (authorization, form.0)
    }

    fn judge(&self, answer: &Answer, secret: &Secret, now: Moment) -> Result<Fetched<Secret>, FetchError> {
        let endpoint = || without_query(&self.client.token_url);
        if answer.status != StatusCode::OK {
            return Err(self.refusal(answer, secret));
        }
        let malformed = |problem: String| FetchError::Malformed { endpoint: endpoint(), problem };
        let Token { value, life, scopes } = read_token(&answer.body).map_err(malformed)?;
        self.compare_scopes(scopes.as_deref());
        let about = About { principal: Some(self.client.client_id.clone()), scopes };
        Ok(Fetched { value, expiry: Some(Expiry::after(now, life)), about, life: None })
    }

    fn refusal(&self, answer: &Answer, secret: &Secret) -> FetchError {
        let endpoint = without_query(&self.client.token_url);
        let status = answer.status;
        // Cognito's word for it, as an OAuth error or in AWS's own form; without 429 in either.
        let throttled = status.is_client_error() && contains(&answer.body, b"TooManyRequests");
        if throttled || status == StatusCode::TOO_MANY_REQUESTS {
            return FetchError::Throttled { endpoint, retry_after: answer.retry_after };
        }
        // RFC 9110 15.5.9: a 408 may be repeated as it was.
        if status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT {
            let said: Option<ErrorAnswer> = serde_json::from_slice(&answer.body).ok();
            // RFC 6749 5.2 codes, or a wrong URL: nothing changes by asking again.
            let (code, message) = said.map_or_else(
                || (format!("status {}", status.as_u16()), String::new()),
                |said| {
                    let words = |text: &str| printable(&self.without_secret(text, secret));
                    (words(&said.error), words(&said.error_description))
                },
            );
            return FetchError::Refused { endpoint, code, message };
        }
        FetchError::Failing { endpoint, status: status.as_u16(), retry_after: answer.retry_after }
    }

    /// An endpoint may repeat what it was sent, in any form that it was sent in.
    fn without_secret(&self, text: &str, secret: &Secret) -> String {
        let pair = basic_pair(&self.client.client_id, secret);
        let encoded = Zeroizing::new(form_encode(secret.expose()));
        [pair.as_str(), encoded.as_str(), secret.expose()]
            .into_iter()
            .fold(text.to_owned(), |text, form| text.replace(form, "[secret]"))
    }

    /// Cognito drops a scope that it does not know without a word, and the API then answers 403.
    fn compare_scopes(&self, granted: Option<&str>) {
        let Some(granted) = granted else { return };
        let granted: BTreeSet<&str> = granted.split_ascii_whitespace().collect();
        let missing: Vec<&str> =
            self.client.scopes.iter().map(String::as_str).filter(|asked| !granted.contains(asked)).collect();
        if !missing.is_empty() {
            tracing::warn!(
                token_url = without_query(&self.client.token_url), client_id = %self.client.client_id, missing = %missing.join(" "),
                "the token lacks scopes that were asked for; is the resource server defined and the scope enabled for this client?"
            );
        }
    }
}

/// A token as its endpoint gave it.
#[derive(Debug)]
pub struct Token {
    /// The token: [`LONGEST_TOKEN`] visible characters at most.
    pub value: Secret,
    /// How long it lives: 10 s to 24 h.
    pub life: Duration,
    /// The scopes it was given; `None` if neither answer nor token says.
    pub scopes: Option<String>,
}

/// Reads the answer of a token endpoint (RFC 6749 5.1).
///
/// # Errors
/// What is wrong with it; nothing of the answer is quoted, since it may be the token.
pub fn read_token(answer: &[u8]) -> Result<Token, String> {
    // serde_json's own text can quote the answer.
    let token: TokenAnswer = serde_json::from_slice(answer).map_err(|error| {
        format!("no JSON with access_token and token_type (line {}, column {})", error.line(), error.column())
    })?;
    if !token.token_type.eq_ignore_ascii_case("bearer") {
        return Err("its token_type is not Bearer".to_owned());
    }
    if !is_token(&token.access_token) {
        return Err("its access_token is empty, too long, or has characters that no token has".to_owned());
    }
    let life = match &token.expires_in {
        None => ASSUMED_LIFE,
        Some(seconds) => life(seconds).ok_or_else(|| format!("its expires_in {}", no_life()))?,
    };
    // Cognito's answer does not name the scopes; its token does.
    let scopes = token.scope.or_else(|| scope_claim(&token.access_token));
    Ok(Token { value: Secret::new(token.access_token.to_string()), life, scopes })
}

impl Source for ClientCredentialsSource {
    type Value = Secret;
    const WHEN_EXPIRED: WhenExpired = WhenExpired::Refuse;

    async fn fetch(&self, now: Moment) -> Result<Fetched<Secret>, FetchError> {
        let secret = self.secret.read().await?;
        Issuer::ask(self, secret, now).await.1
    }

    fn describe(&self) -> String {
        format!("client-credentials token from {}", without_query(&self.client.token_url))
    }

    fn pause(&self) -> Option<Duration> {
        self.secret.pause()
    }

    async fn has_changed(&self) -> bool {
        self.secret.has_changed().await
    }
}

impl Issuer for ClientCredentialsSource {
    fn client(&self) -> &ClientCredentials {
        &self.client
    }

    async fn secret(&self) -> Result<Secret, FetchError> {
        self.secret.read().await
    }

    async fn ask(&self, secret: Secret, now: Moment) -> (Secret, Result<Fetched<Secret>, FetchError>) {
        let outcome = self.ask_with(&secret, now).await;
        if let Err(FetchError::Refused { code, .. }) = &outcome
            && matches!(code.as_str(), "invalid_client" | "unauthorized_client")
            // It may have been rotated between the reading and the asking.
            && let Some(newer) = self.secret.other_than(&secret).await
        {
            let outcome = self.ask_with(&newer, now).await;
            return (newer, outcome);
        }
        (secret, outcome)
    }
}

/// `application/x-www-form-urlencoded`.
#[derive(Default)]
struct Form(String);

impl Form {
    fn add(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(&form_encode(name));
        self.0.push('=');
        self.0.push_str(&form_encode(value));
    }
}

fn form_encode(text: &str) -> String {
    utf8_percent_encode(text, FORM).to_string().replace("%20", "+")
}

/// RFC 6749 2.3.1: both halves form-encoded, and no line break however long they are.
fn basic_pair(client_id: &str, secret: &Secret) -> Zeroizing<String> {
    let pair = Zeroizing::new(format!("{}:{}", form_encode(client_id), form_encode(secret.expose())));
    Zeroizing::new(STANDARD.encode(pair.as_bytes()))
}

fn basic(client_id: &str, secret: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Basic {}", basic_pair(client_id, secret).as_str())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A number of seconds, within bounds.
pub(super) fn life(seconds: &serde_json::Value) -> Option<Duration> {
    // As f64: 3600.0 and 1e18 are numbers of seconds too.
    let seconds = seconds.as_f64()?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(life) => (life >= SHORTEST_LIFE).then(|| life.min(LONGEST_LIFE)),
        // Negative, or beyond what a Duration holds; the sign tells which.
        Err(_) => (seconds > 0.0).then_some(LONGEST_LIFE),
    }
}

/// What is wrong with a life that [`life`] does not take.
pub(super) fn no_life() -> String {
    format!("is not a number of seconds from {SHORTEST_LIFE:?}")
}

/// RFC 6750 2.1 `b64token`, within bounds: nothing that could break a header or a log line.
pub(super) fn is_token(text: &str) -> bool {
    (1..=LONGEST_TOKEN).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'+' | b'/' | b'=' | b'-'))
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// The `scope` of a JWT, unverified.
pub(super) fn scope_claim(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        scope: String,
    }
    let payload = token.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice::<Claims>(&claims).ok().map(|claims| claims.scope)
}

#[cfg(test)]
mod tests;
