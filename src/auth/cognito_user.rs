//! The login of a user of a Cognito user pool, kept alive.
//!
//! A source for the refreshing cache: it logs in once and from then on uses the refresh token, which never leaves it; when
//! that is dead it logs in again at once. A challenge that no program can meet, and a login that is refused, are errors
//! that say what to do; a wrong password is not tried again for minutes, because the pool locks the user out for everyone.
//! The calls are those of docs/aws.md D. Imports `secret`, `clock`.

mod explain;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use zeroize::Zeroizing;

use self::wire::{Answer, Initiate, Parameters, Respond, Rotate, Tokens, lifetime_claim, username_claim};
use super::aws::ProviderSource;
use super::aws_json::{AwsJson, Service};
use super::error::{FetchError, LoginError};
use super::oauth::{ASSUMED_LIFE, is_token, life, no_life, scope_claim};
use super::refreshing::{About, Fetched, Refreshing, Source, WhenExpired};
use super::secrets::SecretReader;
use super::spec::{CognitoUser, Flow, UserToken};
use super::srp;
use super::totp::{NoCode, Totp};
use crate::clock::{Clock, Expiry, Moment};
use crate::secret::Secret;

/// Challenges of one login. Choosing how to log in, the password and a second factor are three.
const MOST_CHALLENGES: usize = 4;
/// What a login gives.
#[derive(Clone, Debug)]
pub struct UserTokens {
    access: Secret,
    id: Secret,
}

impl UserTokens {
    /// One of them.
    pub fn get(&self, which: UserToken) -> &Secret {
        match which {
            UserToken::Access => &self.access,
            UserToken::Id => &self.id,
        }
    }
}

/// Logs one user in, and keeps the login.
#[derive(Debug)]
pub struct CognitoUserSource {
    user: CognitoUser,
    service: Service,
    json: AwsJson,
    clock: Clock,
    /// Who signs; for [`Flow::AdminPassword`] alone.
    keys: Option<Arc<Refreshing<ProviderSource>>>,
    readers: Readers,
    kept: Mutex<Option<Kept>>,
    totp: Totp,
}

/// What outlives the tokens.
#[derive(Clone, Debug)]
struct Kept {
    refresh: Secret,
    /// The user's name inside the pool, which a secret hash is made with from the login on (docs/aws.md D3).
    username: String,
    renewal: Renewal,
}

/// Which call renews the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    /// `REFRESH_TOKEN_AUTH`; the refresh token stays.
    Plain,
    /// `GetTokensFromRefreshToken`: the app client has rotation on, and each refresh token is good for one renewal.
    Rotating,
}

/// Where the secrets of a login are read.
#[derive(Debug)]
pub struct Readers {
    /// The app client's secret, if it has one.
    pub client: Option<SecretReader>,
    /// The user's password.
    pub password: SecretReader,
    /// The seed of the user's authenticator app, if there is one.
    pub totp_seed: Option<SecretReader>,
}

/// The secrets that one fetch needs, read afresh.
#[derive(PartialEq, Eq)]
struct Secrets {
    client: Option<Secret>,
    password: Secret,
    totp_seed: Option<Secret>,
}

/// One login that is under way.
struct Attempt<'a> {
    source: &'a CognitoUserSource,
    secrets: &'a Secrets,
    srp: Arc<srp::Login>,
    /// The name to go by: what the config says, until the pool gives the one it has inside.
    name: String,
}

impl CognitoUserSource {
    /// A source that asks through `json`; `keys` sign the calls of [`Flow::AdminPassword`].
    pub fn new(
        user: CognitoUser,
        readers: Readers,
        json: AwsJson,
        clock: Clock,
        keys: Option<Arc<Refreshing<ProviderSource>>>,
    ) -> Self {
        let service = Service::cognito_idp(&user.region, user.endpoint.as_deref());
        Self { user, service, json, clock, keys, readers, kept: Mutex::default(), totp: Totp::default() }
    }

    fn kept(&self) -> Option<Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, kept: Option<Kept>) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }

    /// New tokens for the refresh token that is kept; `None` when it is dead.
    async fn renew(
        &self,
        kept: &Kept,
        secrets: &Secrets,
        now: Moment,
    ) -> Result<Option<Fetched<UserTokens>>, FetchError> {
        if kept.renewal == Renewal::Plain {
            let answer: Result<Answer, FetchError> = self.refresh(kept, secrets).await;
            match answer {
                Ok(answer) => {
                    let tokens = answer.authentication_result.ok_or_else(|| self.malformed("it has no tokens"))?;
                    return self.accept(tokens, Some(kept), Renewal::Plain, now).map(Some);
                }
                Err(FetchError::Refused { code, message, .. }) if is_dead(&code, &message) => return Ok(None),
                // With rotation on this flow is not there, and the other call is.
                Err(FetchError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let client_secret = secrets.client.as_ref().map(Secret::expose);
        let input = Rotate { client_id: &self.user.client_id, client_secret, refresh_token: kept.refresh.expose() };
        let answer: Result<Answer, FetchError> =
            self.json.call(&self.service, "GetTokensFromRefreshToken", &input, None).await;
        match answer {
            Ok(answer) => {
                let tokens = answer.authentication_result.ok_or_else(|| self.malformed("it has no tokens"))?;
                self.accept(tokens, Some(kept), Renewal::Rotating, now).map(Some)
            }
            Err(FetchError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn refresh(&self, kept: &Kept, secrets: &Secrets) -> Result<Answer, FetchError> {
        let mut parameters = Parameters::from([("REFRESH_TOKEN", text(kept.refresh.expose()))]);
        self.add_hash(&mut parameters, &kept.username, secrets);
        let input = Initiate {
            auth_flow: "REFRESH_TOKEN_AUTH",
            client_id: &self.user.client_id,
            user_pool_id: None,
            auth_parameters: &parameters,
        };
        self.json.call(&self.service, "InitiateAuth", &input, None).await
    }

    async fn log_in(&self, secrets: &Secrets, now: Moment) -> Result<Fetched<UserTokens>, FetchError> {
        if secrets.totp_seed.is_some()
            && let Err(NoCode::Used(next)) = self.totp.free(now.wall)
        {
            // Asking for the password first would end at the code.
            return Err(self.code_used(next));
        }
        let srp =
            off_the_runtime(|| srp::Login::random().map_err(|_no_entropy| "no random number could be made".into()));
        let srp = Arc::new(srp.await.map_err(|problem| self.malformed(&problem))?);
        let mut attempt = Attempt { source: self, secrets, srp, name: self.user.username.clone() };
        let mut answer = attempt.begin().await?;
        for _ in 0..MOST_CHALLENGES {
            if let Some(tokens) = answer.authentication_result {
                return self.accept(tokens, None, Renewal::Plain, now);
            }
            answer = attempt.meet(answer).await?;
        }
        match answer.authentication_result {
            Some(tokens) => self.accept(tokens, None, Renewal::Plain, now),
            None => Err(self.malformed("it asks for one challenge after the other")),
        }
    }

    /// Takes what a login or renewal gave. Nothing is awaited between the answer and the keeping of its refresh token.
    fn accept(
        &self,
        tokens: Tokens,
        kept: Option<&Kept>,
        renewal: Renewal,
        now: Moment,
    ) -> Result<Fetched<UserTokens>, FetchError> {
        let Tokens { access_token, id_token, refresh_token, expires_in } = tokens;
        let refresh = refresh_token.as_ref().map(|token| Secret::from(token.as_str()));
        if let Some(refresh) = refresh.or_else(|| kept.map(|kept| kept.refresh.clone())) {
            let username = username_claim(&id_token, &access_token)
                .or_else(|| kept.map(|kept| kept.username.clone()))
                .unwrap_or_else(|| self.user.username.clone());
            self.keep(Some(Kept { refresh, username, renewal }));
        }
        for (name, token) in [("AccessToken", &access_token), ("IdToken", &id_token)] {
            if !is_token(token) {
                let problem = format!("its {name} is empty, too long, or has characters that no token has");
                return Err(self.malformed(&problem));
            }
        }
        let access_life = match &expires_in {
            None => ASSUMED_LIFE,
            Some(seconds) => life(seconds).ok_or_else(|| self.malformed(&format!("its ExpiresIn {}", no_life())))?,
        };
        // ExpiresIn is the access token's; the app client may give the ID token a shorter life.
        let life = lifetime_claim(&id_token).map_or(access_life, |id_life| id_life.min(access_life));
        let value = UserTokens { access: Secret::from(access_token.as_str()), id: Secret::from(id_token.as_str()) };
        let about = About { principal: Some(self.user.username.clone()), scopes: scope_claim(&access_token) };
        Ok(Fetched { value, expiry: Some(Expiry::after(now, life)), about, life: None })
    }

    /// `SECRET_HASH`, where the app client has a secret (docs/aws.md D3).
    fn add_hash(&self, parameters: &mut Parameters, username: &str, secrets: &Secrets) {
        if let Some(secret) = &secrets.client {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
            let tag = hmac::sign(&key, format!("{username}{}", self.user.client_id).as_bytes());
            parameters.insert("SECRET_HASH", Zeroizing::new(STANDARD.encode(tag)));
        }
    }

    fn malformed(&self, problem: &str) -> FetchError {
        FetchError::Malformed { endpoint: self.service.endpoint().to_owned(), problem: problem.to_owned() }
    }

    fn code_used(&self, next: Duration) -> FetchError {
        FetchError::Login(Box::new(LoginError::CodeUsed { username: self.user.username.clone(), next }))
    }

    fn admin_pool(&self) -> Option<&str> {
        matches!(self.user.flow, Flow::AdminPassword(_)).then_some(self.user.user_pool_id.as_str())
    }

    async fn call<I: Serialize + Sync>(&self, operations: (&str, &str), input: &I) -> Result<Answer, FetchError> {
        let Some(keys) = &self.keys else { return self.json.call(&self.service, operations.0, input, None).await };
        let lease = keys.get().await.map_err(|source| FetchError::NoBase { base: keys.status().name, source })?;
        self.json.call(&self.service, operations.1, input, Some(&lease.value)).await
    }
}

impl Source for CognitoUserSource {
    type Value = UserTokens;
    const WHEN_EXPIRED: WhenExpired = WhenExpired::Refuse;

    async fn fetch(&self, now: Moment) -> Result<Fetched<UserTokens>, FetchError> {
        let secrets = self.readers.read().await?;
        if let Some(kept) = self.kept() {
            if let Some(fetched) = self.renew(&kept, &secrets, now).await? {
                return Ok(fetched);
            }
            tracing::info!(username = self.user.username, "the refresh token is no longer taken; logging in again");
            self.keep(None);
        }
        let outcome = self.log_in(&secrets, now).await;
        if let Err(FetchError::Login(error)) = &outcome
            && error.is_about_secrets()
            // They may have been rotated between the reading and the asking.
            && let Ok(newer) = self.readers.read().await
            && newer != secrets
        {
            return self.log_in(&newer, now).await;
        }
        outcome
    }

    fn describe(&self) -> String {
        format!("login of a user of {}", self.user.user_pool_id)
    }

    fn pause(&self) -> Option<Duration> {
        self.readers.all().filter_map(SecretReader::pause).min()
    }

    async fn has_changed(&self) -> bool {
        for reader in self.readers.all() {
            if reader.has_changed().await {
                return true;
            }
        }
        false
    }
}

impl Readers {
    async fn read(&self) -> Result<Secrets, FetchError> {
        // All of them, even where one fails: a part that was never read would look like news for ever.
        let (client, password, totp_seed) =
            tokio::join!(read(self.client.as_ref()), self.password.read(), read(self.totp_seed.as_ref()));
        Ok(Secrets { client: client?, password: password?, totp_seed: totp_seed? })
    }

    fn all(&self) -> impl Iterator<Item = &SecretReader> {
        [&self.password].into_iter().chain(&self.client).chain(&self.totp_seed)
    }
}

async fn read(reader: Option<&SecretReader>) -> Result<Option<Secret>, FetchError> {
    match reader {
        None => Ok(None),
        Some(reader) => reader.read().await.map(Some),
    }
}

impl Attempt<'_> {
    async fn begin(&self) -> Result<Answer, FetchError> {
        let user = &self.source.user;
        let mut parameters = self.named();
        match user.flow {
            Flow::Srp => parameters.insert("SRP_A", Zeroizing::new(self.srp.public())),
            Flow::Password | Flow::AdminPassword(_) => {
                parameters.insert("PASSWORD", text(self.secrets.password.expose()))
            }
        };
        let input = Initiate {
            auth_flow: user.flow.wire(),
            client_id: &user.client_id,
            user_pool_id: self.source.admin_pool(),
            auth_parameters: &parameters,
        };
        let answer = self.source.call(("InitiateAuth", "AdminInitiateAuth"), &input).await;
        answer.map_err(|error| self.source.explain(error, self.secrets))
    }

    /// Answers the challenge of `answer`.
    async fn meet(&mut self, answer: Answer) -> Result<Answer, FetchError> {
        let Answer { challenge_name, session, challenge_parameters, available_challenges, .. } = answer;
        let challenge = challenge_name.ok_or_else(|| self.source.malformed("it has neither tokens nor a challenge"))?;
        let asked = challenge_parameters.unwrap_or_default();
        if let Some(name) = asked.get("USER_ID_FOR_SRP").or_else(|| asked.get("USERNAME")) {
            self.name.clone_from(name);
        }
        let mut responses = self.named();
        match challenge.as_str() {
            "PASSWORD_VERIFIER" => self.prove(asked, &mut responses).await?,
            "SOFTWARE_TOKEN_MFA" => {
                responses.insert("SOFTWARE_TOKEN_MFA_CODE", self.code(&challenge)?);
            }
            "SELECT_CHALLENGE" => {
                let (wanted, name, value) = match self.source.user.flow {
                    Flow::Srp => ("PASSWORD_SRP", "SRP_A", Zeroizing::new(self.srp.public())),
                    Flow::Password | Flow::AdminPassword(_) => {
                        ("PASSWORD", "PASSWORD", text(self.secrets.password.expose()))
                    }
                };
                let offered = available_challenges.unwrap_or_default();
                if !offered.iter().any(|name| name == wanted) {
                    return Err(self.source.unmet(&challenge));
                }
                responses.insert("ANSWER", text(wanted));
                responses.insert(name, value);
            }
            other => return Err(self.source.unmet(other)),
        }
        let input = Respond {
            challenge_name: &challenge,
            client_id: &self.source.user.client_id,
            user_pool_id: self.source.admin_pool(),
            session: session.as_ref().map(|session| session.as_str()),
            challenge_responses: &responses,
        };
        let answer = self.source.call(("RespondToAuthChallenge", "AdminRespondToAuthChallenge"), &input).await;
        answer.map_err(|error| self.source.explain(error, self.secrets))
    }

    /// `USERNAME`, and `SECRET_HASH` made with that very name.
    fn named(&self) -> Parameters {
        let mut parameters = Parameters::from([("USERNAME", text(&self.name))]);
        self.source.add_hash(&mut parameters, &self.name, self.secrets);
        parameters
    }

    async fn prove(&self, asked: BTreeMap<String, String>, responses: &mut Parameters) -> Result<(), FetchError> {
        let (login, password) = (Arc::clone(&self.srp), self.secrets.password.clone());
        let (pool_id, now) = (self.source.user.user_pool_id.clone(), self.source.clock.wall());
        let proof = off_the_runtime(move || {
            let parameter = |name: &str| asked.get(name).map_or("", String::as_str);
            let challenge = srp::Challenge {
                pool_id: &pool_id,
                user: parameter("USER_ID_FOR_SRP"),
                salt: parameter("SALT"),
                public: parameter("SRP_B"),
                block: parameter("SECRET_BLOCK"),
            };
            let proof = login.prove(&challenge, &password, now).map_err(|error| error.to_string())?;
            Ok((proof, text(challenge.block)))
        });
        let (proof, block) = proof.await.map_err(|problem| self.source.malformed(&problem))?;
        responses.insert("PASSWORD_CLAIM_SECRET_BLOCK", block);
        responses.insert("PASSWORD_CLAIM_SIGNATURE", Zeroizing::new(proof.signature));
        responses.insert("TIMESTAMP", Zeroizing::new(proof.timestamp));
        Ok(())
    }

    fn code(&self, challenge: &str) -> Result<Zeroizing<String>, FetchError> {
        let seed = self.secrets.totp_seed.as_ref().ok_or_else(|| self.source.unmet(challenge))?;
        match self.source.totp.code(seed, self.source.clock.wall()) {
            Ok(code) => Ok(Zeroizing::new(code)),
            Err(NoCode::Used(next)) => Err(self.source.code_used(next)),
            Err(NoCode::Seed) => Err(self.source.unmet(challenge)),
        }
    }
}

/// Runs arithmetic of milliseconds where it holds up no request.
async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_panicked| Err("its numbers could not be computed".into()))
}

/// Whether a refresh token will not come back to life (docs/aws.md D4). Everything else may mean that rotation is on.
fn is_dead(code: &str, message: &str) -> bool {
    code == "NotAuthorizedException" && !message.contains("otation")
}

fn text(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

#[cfg(test)]
mod tests;
