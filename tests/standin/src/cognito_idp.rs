//! A Cognito user pool over plain HTTP: logins by SRP and by password, challenges, refresh and its rotation, and the lockout
//! (docs/aws.md D). Secret hashes, SRP proofs and the signatures of admin calls are verified.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use crate::clock::{Clock, srp_time};
use crate::double::{Call, Double, Endpoint, json};
use crate::encoding::{random_hex, request_id, sha256_hex};
use crate::keys::AccessKeys;
use crate::ledger::Ledger;
use crate::script::{Answer, Turn};
use crate::sigv4::{self, Presented, Rules};
use crate::srp::{Session, Verifier};
use crate::token::{Mint, TokenVerifier};

const CLOCK_WINDOW: Duration = Duration::from_mins(5);
/// Failed logins before a user is locked out for a second, then two, then four.
const FREE_FAILURES: u32 = 5;

/// A user pool with one app client.
#[derive(Debug)]
pub struct UserPool {
    double: Double,
    service: Arc<Service>,
}

/// The app client.
#[derive(Debug, Clone)]
pub struct PoolClient {
    /// The client id.
    pub id: String,
    /// Its secret, which every call must then know.
    pub secret: Option<String>,
    /// `ExplicitAuthFlows`, such as `ALLOW_USER_SRP_AUTH`.
    pub flows: Vec<&'static str>,
    /// How long tokens live.
    pub token_lifetime: Duration,
    /// How tokens are renewed.
    pub refresh: Refresh,
}

/// How an app client's tokens are renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// By `REFRESH_TOKEN_AUTH`, with the same token again and again.
    Plain,
    /// By `GetTokensFromRefreshToken`, with a token that is replaced each time and lives on for so long.
    Rotating(Duration),
}

/// A user.
#[derive(Debug, Clone)]
pub struct PoolUser {
    /// What the user types.
    pub alias: String,
    /// The name inside the pool: the same, or an UUID in pools of e-mail addresses.
    pub name: String,
    /// The password.
    pub password: String,
    /// What is asked for after the password.
    pub factor: Factor,
}

/// What is asked for after the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Factor {
    /// Nothing.
    None,
    /// A one-time code made with this key.
    Totp(Vec<u8>),
    /// A challenge of this name, that nobody can meet.
    Challenge(&'static str),
    /// An error of this kind in place of a login.
    Refuse(&'static str),
}

#[derive(Debug)]
struct Service {
    pool_id: String,
    client: PoolClient,
    keys: AccessKeys,
    mint: Arc<Mint>,
    clock: Clock,
    state: Mutex<State>,
    received: Ledger<(String, Value)>,
    issued: Ledger<String>,
}

#[derive(Debug, Default)]
struct State {
    users: Vec<User>,
    sessions: HashMap<String, Pending>,
    /// The user, and until when a replaced one is still taken.
    refresh: HashMap<String, (usize, Option<SystemTime>)>,
    /// Offer a choice before the password.
    select: bool,
}

#[derive(Debug)]
struct User {
    person: PoolUser,
    verifier: Verifier,
    failures: u32,
    locked_until: SystemTime,
    last_code: u64,
}

#[derive(Debug)]
struct Pending {
    user: usize,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Select,
    Password(Box<Session>),
    Code,
}

/// An error answer.
struct Fault(&'static str, String);

type Outcome = Result<Value, Fault>;

impl UserPool {
    /// Starts the pool `REGION_NAME` with these users; `keys` sign admin calls.
    pub async fn start(pool_id: &str, client: PoolClient, users: Vec<PoolUser>, keys: AccessKeys) -> Self {
        let clock = Clock::system();
        let users = users
            .into_iter()
            .map(|user| User {
                verifier: Verifier::new(pool_id, &user.name, &user.password),
                person: user,
                failures: 0,
                locked_until: UNIX_EPOCH,
                last_code: 0,
            })
            .collect();
        let service = Arc::new(Service {
            pool_id: pool_id.to_owned(),
            client,
            keys,
            mint: Mint::new(clock.clone()),
            clock,
            state: Mutex::new(State { users, ..State::default() }),
            received: Ledger::new(),
            issued: Ledger::new(),
        });
        Self { double: Double::serve("user pool", Arc::clone(&service)).await, service }
    }

    /// The URL for `endpoint`.
    pub fn url(&self) -> String {
        format!("http://{}", self.double.address())
    }

    /// The operations called and their inputs, oldest first.
    pub fn received(&self) -> Vec<(String, Value)> {
        self.service.received.snapshot()
    }

    /// How many calls have arrived, answered or not.
    pub fn calls(&self) -> usize {
        self.service.received.total()
    }

    /// The names of the operations called; of `InitiateAuth` the flow.
    pub fn operations(&self) -> Vec<String> {
        let name =
            |(operation, input): (String, Value)| input["AuthFlow"].as_str().map_or(operation, ToOwned::to_owned);
        self.received().into_iter().map(name).collect()
    }

    /// Waits until so many calls have arrived.
    pub async fn until_calls(&self, calls: usize) {
        self.service.received.until(|received| received.total() >= calls).await;
    }

    /// All tokens given out, oldest first: access, ID and refresh tokens.
    pub fn issued(&self) -> Vec<String> {
        self.service.issued.snapshot()
    }

    /// Verifies this pool's tokens.
    pub fn verifier(&self) -> TokenVerifier {
        TokenVerifier::new(Arc::clone(&self.service.mint))
    }

    /// Takes a token back before its time.
    pub fn revoke(&self, token: &str) {
        self.service.mint.revoke(token);
    }

    /// The time it goes by, to be set by a test.
    pub fn clock(&self) -> &Clock {
        &self.service.clock
    }

    /// Failed logins of all users.
    pub fn failures(&self) -> u32 {
        self.service.state().users.iter().map(|user| user.failures).sum()
    }

    /// Ends all logins: no refresh token is taken any more.
    pub fn sign_out(&self) {
        self.service.state().refresh.clear();
    }

    /// Asks how to log in before it asks for the password.
    pub fn select(&self) {
        self.service.state().select = true;
    }

    /// Gives a user another password.
    pub fn set_password(&self, alias: &str, password: &str) {
        let mut state = self.service.state();
        let user =
            state.users.iter_mut().find(|user| user.person.alias == alias).expect("the test names a user it made");
        password.clone_into(&mut user.person.password);
        user.verifier = Verifier::new(&self.service.pool_id, &user.person.name, password);
    }

    /// Queues an answer for one of the next calls.
    pub fn script(&self, answer: Answer) {
        self.double.script.push(answer);
    }
}

impl Endpoint for Service {
    fn record(&self, call: &Call) {
        let operation = call.header("x-amz-target").and_then(|target| target.rsplit('.').next()).unwrap_or_default();
        self.received.push((operation.to_owned(), serde_json::from_slice(&call.body).unwrap_or_default()));
    }

    fn answer(&self, call: &Call, turn: Turn) -> Response<Bytes> {
        let mut response = match self.outcome(call, &turn) {
            Ok(answer) => json(200, &answer),
            Err(Fault(kind, message)) => json(400, &json!({"__type": kind, "message": message})),
        };
        let content_type = http::HeaderValue::from_static("application/x-amz-json-1.1");
        response.headers_mut().insert("content-type", content_type);
        response
    }
}

impl Service {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outcome(&self, call: &Call, turn: &Turn) -> Outcome {
        let lifetime = match turn {
            Turn::Issue { expires_in, .. } => expires_in.as_u64().map(Duration::from_secs),
            Turn::Normal | Turn::Respond(_) => None,
        };
        let lifetime = lifetime.unwrap_or(self.client.token_lifetime);
        let target = call.header("x-amz-target").unwrap_or_default();
        let operation = target.strip_prefix("AWSCognitoIdentityProviderService.").unwrap_or_default();
        if call.target != "/" || call.header("content-type") != Some("application/x-amz-json-1.1") {
            return fault("UnknownOperationException", "not a call of the JSON protocol");
        }
        let input: Value =
            serde_json::from_slice(&call.body).map_err(|error| Fault("SerializationException", error.to_string()))?;
        if input["ClientId"] != self.client.id.as_str() {
            return fault("ResourceNotFoundException", "User pool client does not exist.");
        }
        if operation.starts_with("Admin") {
            self.verify_signature(call)?;
            if input["UserPoolId"] != self.pool_id.as_str() {
                return fault("ResourceNotFoundException", "User pool does not exist.");
            }
        } else if call.header("authorization").is_some() {
            return fault("InvalidParameterException", "a signature where none belongs");
        }
        match operation {
            "InitiateAuth" | "AdminInitiateAuth" => self.initiate(operation, &input, lifetime),
            "RespondToAuthChallenge" | "AdminRespondToAuthChallenge" => self.respond(&input, lifetime),
            "GetTokensFromRefreshToken" => self.rotate(&input, lifetime),
            _ => fault("UnknownOperationException", ""),
        }
    }

    fn verify_signature(&self, call: &Call) -> Result<(), Fault> {
        let presented = Presented {
            method: call.method.as_str(),
            target: &call.target,
            authority: None,
            headers: &call.headers,
            payload: &sha256_hex(&call.body),
        };
        let (region, _) = self.pool_id.split_once('_').expect("a pool id has a region");
        let rules = Rules { region, service: "cognito-idp", window: CLOCK_WINDOW };
        sigv4::verify(&presented, &rules, &self.keys, self.clock.now())
            .map(drop)
            .map_err(|refusal| Fault("InvalidSignatureException", format!("{refusal:?}")))
    }

    fn initiate(&self, operation: &str, input: &Value, lifetime: Duration) -> Outcome {
        let flow = input["AuthFlow"].as_str().unwrap_or_default();
        let parameters = &input["AuthParameters"];
        if flow == "REFRESH_TOKEN_AUTH" {
            return self.refresh(parameters, lifetime);
        }
        if (flow == "ADMIN_USER_PASSWORD_AUTH") != operation.starts_with("Admin") {
            return fault("InvalidParameterException", "Initiate Auth method not supported.");
        }
        if !self.client.flows.iter().any(|allowed| allowed.strip_prefix("ALLOW_") == Some(flow)) {
            return fault("InvalidParameterException", &format!("{flow} flow not enabled for this client"));
        }
        let typed = parameters["USERNAME"].as_str().unwrap_or_default();
        self.check_hash(parameters, typed)?;
        let mut state = self.state();
        let at = state.users.iter().position(|user| user.person.alias == typed);
        let Some(at) = at else { return fault("NotAuthorizedException", "Incorrect username or password.") };
        if let Factor::Refuse(kind) = state.users[at].person.factor {
            return fault(kind, "because");
        }
        if state.select {
            let session = state.begin(at, Stage::Select);
            return Ok(json!({
                "ChallengeName": "SELECT_CHALLENGE", "Session": session, "ChallengeParameters": {"USERNAME": state.users[at].person.name},
                "AvailableChallenges": ["EMAIL_OTP", "PASSWORD_SRP", "PASSWORD"],
            }));
        }
        if flow == "USER_SRP_AUTH" {
            return challenge_password(&mut state, at, parameters);
        }
        self.check_password(&mut state, at, parameters["PASSWORD"].as_str())?;
        Ok(self.passed(&mut state, at, lifetime))
    }

    fn respond(&self, input: &Value, lifetime: Duration) -> Outcome {
        let responses = &input["ChallengeResponses"];
        let mut state = self.state();
        let session = input["Session"].as_str().or_else(|| responses["PASSWORD_CLAIM_SECRET_BLOCK"].as_str());
        let pending = session.and_then(|session| state.sessions.remove(session));
        let Some(Pending { user: at, stage }) = pending else {
            return fault("NotAuthorizedException", "Invalid session for the user.");
        };
        let name = state.users[at].person.name.clone();
        if responses["USERNAME"] != name.as_str() {
            return fault("NotAuthorizedException", "the name inside the pool belongs here");
        }
        self.check_hash(responses, &name)?;
        match (input["ChallengeName"].as_str().unwrap_or_default(), stage) {
            ("SELECT_CHALLENGE", Stage::Select) => match responses["ANSWER"].as_str().unwrap_or_default() {
                "PASSWORD_SRP" => challenge_password(&mut state, at, responses),
                "PASSWORD" => {
                    self.check_password(&mut state, at, responses["PASSWORD"].as_str())?;
                    Ok(self.passed(&mut state, at, lifetime))
                }
                _ => fault("InvalidParameterException", "Selected challenge is not available"),
            },
            ("PASSWORD_VERIFIER", Stage::Password(session)) => {
                let text = |name: &str| responses[name].as_str().unwrap_or_default();
                let now = self.clock.now();
                let window = CLOCK_WINDOW.as_secs();
                let current = (0..2 * window)
                    .any(|second| srp_time(now - CLOCK_WINDOW + Duration::from_secs(second)) == text("TIMESTAMP"));
                let proven = current
                    && text("PASSWORD_CLAIM_SECRET_BLOCK") == session.block()
                    && session.verify(text("PASSWORD_CLAIM_SIGNATURE"), text("TIMESTAMP"));
                self.count(&mut state, at, proven)?;
                Ok(self.passed(&mut state, at, lifetime))
            }
            ("SOFTWARE_TOKEN_MFA", Stage::Code) => {
                let Factor::Totp(key) = state.users[at].person.factor.clone() else { unreachable!("it was asked for") };
                let step = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 30;
                if responses["SOFTWARE_TOKEN_MFA_CODE"] != code(&key, step).as_str() {
                    return fault("CodeMismatchException", "Invalid code received for user");
                }
                if std::mem::replace(&mut state.users[at].last_code, step) == step {
                    return fault("ExpiredCodeException", "Your software token has already been used once.");
                }
                Ok(self.tokens(&mut state, at, lifetime, true))
            }
            (name, stage) => fault("InvalidParameterException", &format!("{name} in {stage:?}")),
        }
    }

    fn check_password(&self, state: &mut State, at: usize, password: Option<&str>) -> Result<(), Fault> {
        let right = password == Some(state.users[at].person.password.as_str());
        self.count(state, at, right)
    }

    /// Refuses a failed login, and every login while the user is locked out.
    fn count(&self, state: &mut State, at: usize, right: bool) -> Result<(), Fault> {
        let (user, now) = (&mut state.users[at], self.clock.now());
        if user.locked_until > now {
            return Err(Fault("NotAuthorizedException", "Password attempts exceeded".to_owned()));
        }
        if right {
            user.failures = 0;
            return Ok(());
        }
        user.failures += 1;
        if let Some(beyond) = user.failures.checked_sub(FREE_FAILURES) {
            user.locked_until = now + Duration::from_secs(1 << beyond.min(10));
        }
        Err(Fault("NotAuthorizedException", "Incorrect username or password.".to_owned()))
    }

    /// The password was right.
    fn passed(&self, state: &mut State, at: usize, lifetime: Duration) -> Value {
        let name = state.users[at].person.name.clone();
        match state.users[at].person.factor.clone() {
            Factor::None | Factor::Refuse(_) => self.tokens(state, at, lifetime, true),
            Factor::Totp(_) => {
                let session = state.begin(at, Stage::Code);
                let asked = json!({"USER_ID_FOR_SRP": name, "FRIENDLY_DEVICE_NAME": "phone"});
                json!({"ChallengeName": "SOFTWARE_TOKEN_MFA", "Session": session, "ChallengeParameters": asked})
            }
            Factor::Challenge(challenge) => {
                let session = state.begin(at, Stage::Code);
                let asked = json!({"USER_ID_FOR_SRP": name, "requiredAttributes": "[]"});
                json!({"ChallengeName": challenge, "Session": session, "ChallengeParameters": asked})
            }
        }
    }

    fn tokens(&self, state: &mut State, at: usize, lifetime: Duration, refresh: bool) -> Value {
        let (access, id) = self.mint.issue_user(&state.users[at].person.name, &self.client.id, lifetime);
        let mut result = json!({
            "AccessToken": access, "IdToken": id, "TokenType": "Bearer", "ExpiresIn": lifetime.as_secs(),
        });
        self.issued.push(access);
        self.issued.push(id);
        if refresh {
            let token = format!("{}.{}.{}", random_hex(40), random_hex(300), random_hex(16));
            state.refresh.insert(token.clone(), (at, None));
            self.issued.push(token.clone());
            result["RefreshToken"] = Value::String(token);
        }
        json!({"AuthenticationResult": result, "ChallengeParameters": {}})
    }

    fn refresh(&self, parameters: &Value, lifetime: Duration) -> Outcome {
        if self.client.refresh != Refresh::Plain {
            return fault("InvalidParameterException", "Refresh token rotation is enabled for this client");
        }
        let mut state = self.state();
        let at = parameters["REFRESH_TOKEN"].as_str().and_then(|token| state.refresh.get(token)).map(|known| known.0);
        let Some(at) = at else { return fault("NotAuthorizedException", "Invalid Refresh Token") };
        // The name in the hash is the one inside the pool, which is not sent.
        self.check_hash(parameters, &state.users[at].person.name)?;
        Ok(self.tokens(&mut state, at, lifetime, false))
    }

    fn rotate(&self, input: &Value, lifetime: Duration) -> Outcome {
        if input["ClientSecret"].as_str() != self.client.secret.as_deref() {
            return fault("NotAuthorizedException", "Invalid client secret");
        }
        let mut state = self.state();
        let token = input["RefreshToken"].as_str().unwrap_or_default().to_owned();
        let now = self.clock.now();
        let Some((at, until)) = state.refresh.get(&token).copied() else {
            return fault("NotAuthorizedException", "Invalid Refresh Token");
        };
        if until.is_some_and(|until| until <= now) {
            return fault("RefreshTokenReuseException", "Refresh token has been invalidated by rotation");
        }
        let Refresh::Rotating(grace) = self.client.refresh else {
            return Ok(self.tokens(&mut state, at, lifetime, false));
        };
        state.refresh.insert(token, (at, until.or(Some(now + grace))));
        Ok(self.tokens(&mut state, at, lifetime, true))
    }

    fn check_hash(&self, parameters: &Value, username: &str) -> Result<(), Fault> {
        let sent = parameters["SECRET_HASH"].as_str();
        let expected = self.client.secret.as_ref().map(|secret| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            STANDARD.encode(hmac::sign(&key, [username, &self.client.id].concat().as_bytes()))
        });
        match (sent, expected) {
            (None, None) => Ok(()),
            (Some(sent), Some(expected)) if sent == expected => Ok(()),
            (None, Some(_)) => {
                let words =
                    format!("Client {} is configured with secret but SECRET_HASH was not received", self.client.id);
                Err(Fault("NotAuthorizedException", words))
            }
            (Some(_), _) => Err(Fault(
                "NotAuthorizedException",
                format!("SecretHash does not match for client: {}", self.client.id),
            )),
        }
    }
}

impl State {
    fn begin(&mut self, user: usize, stage: Stage) -> String {
        let session = format!("{}{}", request_id(), random_hex(200));
        self.sessions.insert(session.clone(), Pending { user, stage });
        session
    }
}

fn challenge_password(state: &mut State, at: usize, parameters: &Value) -> Outcome {
    let verifier = state.users[at].verifier.clone();
    let Some(session) = verifier.challenge(parameters["SRP_A"].as_str().unwrap_or_default()) else {
        return fault("InvalidParameterException", "Malformed SRP_A");
    };
    let name = state.users[at].person.name.clone();
    let asked = json!({
        "SALT": verifier.salt(), "SRP_B": session.public(), "SECRET_BLOCK": session.block(), "USERNAME": name,
        "USER_ID_FOR_SRP": name,
    });
    // The block is the session: in this step Cognito gives no other.
    let block = session.block().to_owned();
    state.sessions.insert(block, Pending { user: at, stage: Stage::Password(Box::new(session)) });
    Ok(json!({"ChallengeName": "PASSWORD_VERIFIER", "ChallengeParameters": asked}))
}

/// RFC 6238, from the other side.
fn code(key: &[u8], step: u64) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key), &step.to_be_bytes());
    let tag = tag.as_ref();
    let at = usize::from(tag[19] % 16);
    let number = u32::from_be_bytes([tag[at], tag[at + 1], tag[at + 2], tag[at + 3]]) & 0x7fff_ffff;
    let digits = number.to_string();
    format!("{digits:0>6}").chars().rev().take(6).collect::<Vec<_>>().into_iter().rev().collect()
}

fn fault(kind: &'static str, message: &str) -> Outcome {
    Err(Fault(kind, message.to_owned()))
}
