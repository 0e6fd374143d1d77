use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::atomic::{AtomicU64, Ordering};

use standin::{AccessKey, AccessKeys, Answer as Scripted, Factor, PoolClient, PoolUser, Refresh, UserPool};

use super::*;
use crate::auth::aws::{Provider, StaticKeys};
use crate::auth::control::Control;
use crate::auth::error::Permanence;
use crate::auth::refreshing::Chain;
use crate::auth::role::Sts;
use crate::auth::spec::{AwsSource, SecretSource};
use crate::tasks::Tasks;

const POOL: &str = "eu-west-1_AbCdEfGhI";
const PASSWORD: &str = "correct-horse-4711";
const CLIENT_SECRET: &str = "client-secret-0815";
const INNER: &str = "0d5f3c1e-7a0b-4f43-9d2e-2f6f0c5b7e11";
const ALIAS: &str = "ada@example.com";
/// "12345678901234567890", in base32.
const SEED: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
const HOUR: Duration = Duration::from_hours(1);

fn control() -> Control {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Control::try_new(tls, crate::egress::Egress::direct()).unwrap()
}

/// An app client that allows everything; its users have other names inside.
fn client() -> PoolClient {
    PoolClient {
        id: "client1".into(),
        secret: Some(CLIENT_SECRET.into()),
        flows: vec!["ALLOW_USER_SRP_AUTH", "ALLOW_USER_PASSWORD_AUTH", "ALLOW_ADMIN_USER_PASSWORD_AUTH"],
        token_lifetime: HOUR,
        refresh: Refresh::Plain,
    }
}

async fn pool(client: PoolClient, factor: Factor) -> UserPool {
    let keys = AccessKeys::new();
    keys.add(AccessKey {
        id: "AKIDADMIN".into(),
        secret: "admin-secret".into(),
        session_token: None,
        principal: "arn:aws:iam::123456789012:user/admin".into(),
        expires: None,
    });
    let user = PoolUser { alias: ALIAS.into(), name: INNER.into(), password: PASSWORD.into(), factor };
    UserPool::start(POOL, client, vec![user], keys).await
}

fn user(pool: &UserPool, flow: Flow) -> CognitoUser {
    CognitoUser {
        region: "eu-west-1".into(),
        user_pool_id: POOL.into(),
        client_id: "client1".into(),
        client_secret: Some(SecretSource::Fixed(CLIENT_SECRET.into())),
        flow,
        username: ALIAS.into(),
        password: SecretSource::Fixed(PASSWORD.into()),
        totp_seed: None,
        endpoint: Some(pool.url()),
    }
}

fn source(user: CognitoUser) -> CognitoUserSource {
    source_at(user, Clock::system())
}

fn source_at(user: CognitoUser, clock: Clock) -> CognitoUserSource {
    let json = AwsJson::new(control(), clock.clone());
    let readers = readers(&user);
    CognitoUserSource::new(user, readers, json, clock, None)
}

/// What reads a secret that is known already.
fn reader(source: &SecretSource) -> SecretReader {
    match source {
        SecretSource::Fixed(secret) => SecretReader::fixed(secret.clone()),
        SecretSource::File(path) => SecretReader::file(path.clone()),
        SecretSource::Stored(_) => panic!("no store here"),
    }
}

fn readers(user: &CognitoUser) -> Readers {
    Readers {
        client: user.client_secret.as_ref().map(reader),
        password: reader(&user.password),
        totp_seed: user.totp_seed.as_ref().map(reader),
    }
}

async fn fetch(source: &CognitoUserSource) -> Result<Fetched<UserTokens>, FetchError> {
    source.fetch(source.clock.now()).await
}

async fn refused(source: &CognitoUserSource) -> (String, Permanence) {
    let error = fetch(source).await.map(|_| ()).unwrap_err();
    let said = Chain(&error).to_string();
    for secret in [PASSWORD, CLIENT_SECRET, SEED] {
        assert!(!said.contains(secret), "{said}");
    }
    (said, error.permanence())
}

fn error(kind: &str, message: &str) -> Scripted {
    let body = serde_json::json!({"__type": kind, "message": message}).to_string().into_bytes();
    Scripted::Respond { status: 400, headers: Vec::new(), body }
}

fn answer(body: &serde_json::Value) -> Scripted {
    Scripted::Respond { status: 200, headers: Vec::new(), body: body.to_string().into_bytes() }
}

#[tokio::test]
async fn every_flow_gives_both_tokens_of_the_user() {
    let admin = AwsSource::Static {
        access_key_id: SecretSource::Fixed("AKIDADMIN".into()),
        secret_access_key: SecretSource::Fixed("admin-secret".into()),
        session_token: None,
    };
    for (flow, expected) in [
        (Flow::Srp, &["USER_SRP_AUTH", "RespondToAuthChallenge"][..]),
        (Flow::Password, &["USER_PASSWORD_AUTH"]),
        (Flow::AdminPassword(admin), &["ADMIN_USER_PASSWORD_AUTH"]),
    ] {
        let pool = pool(client(), Factor::None).await;
        let clock = Clock::system();
        let json = AwsJson::new(control(), clock.clone());
        let keys = match &flow {
            Flow::AdminPassword(_) => {
                let keys = StaticKeys {
                    access_key_id: SecretReader::fixed("AKIDADMIN".into()),
                    secret_access_key: SecretReader::fixed("admin-secret".into()),
                    session_token: None,
                };
                let sts = Sts::new("eu-west-1", None, &control(), clock.clone());
                let source = ProviderSource::new(Provider::Static(Box::new(keys)), sts);
                Some(Refreshing::start("keys".into(), source, clock.clone(), &Tasks::default()))
            }
            Flow::Srp | Flow::Password => None,
        };
        let user = user(&pool, flow);
        let source = CognitoUserSource::new(user.clone(), readers(&user), json, clock, keys);
        let tokens = fetch(&source).await.unwrap();
        assert_eq!(pool.operations(), expected);
        for (which, name) in [(UserToken::Access, "access"), (UserToken::Id, "id")] {
            let claims = pool.verifier().verify(tokens.value.get(which).expose()).unwrap();
            assert_eq!((claims.subject.as_str(), claims.token_use.as_str()), (INNER, name));
        }
        let left = tokens.expiry.unwrap().left(source.clock.now());
        assert!(left <= HOUR && left > HOUR.mul_f64(0.99), "{left:?}");
        let said = format!("{source:?} {tokens:?}");
        for secret in pool.issued().iter().map(String::as_str).chain([PASSWORD, CLIENT_SECRET, "admin-secret"]) {
            assert!(!said.contains(secret), "{said}");
        }
    }
}

#[tokio::test]
async fn a_client_without_a_secret_sends_no_hash() {
    let pool = pool(PoolClient { secret: None, ..client() }, Factor::None).await;
    let source = source(CognitoUser { client_secret: None, ..user(&pool, Flow::Srp) });
    fetch(&source).await.unwrap();
    fetch(&source).await.unwrap();
    assert_eq!(pool.operations(), ["USER_SRP_AUTH", "RespondToAuthChallenge", "REFRESH_TOKEN_AUTH"]);
    assert!(!format!("{:?}", pool.received()).contains("SECRET_HASH"));
}

#[tokio::test]
async fn the_login_is_renewed_with_its_refresh_token_until_that_is_dead_and_then_made_anew() {
    let pool = pool(client(), Factor::None).await;
    let source = source(user(&pool, Flow::Srp));
    let first = fetch(&source).await.unwrap();
    for _ in 0..3 {
        let next = fetch(&source).await.unwrap();
        assert_ne!(first.value.get(UserToken::Id), next.value.get(UserToken::Id));
    }
    pool.sign_out();
    let after = fetch(&source).await.unwrap();
    pool.verifier().verify(after.value.get(UserToken::Access).expose()).unwrap();
    fetch(&source).await.unwrap();
    let renewal = "REFRESH_TOKEN_AUTH";
    let login = ["USER_SRP_AUTH", "RespondToAuthChallenge"];
    let expected = [&login[..], &[renewal; 3], &[renewal], &login, &[renewal]].concat();
    assert_eq!(pool.operations(), expected, "the dead one cost one call and no failure");
}

#[tokio::test]
async fn an_outage_of_the_pool_costs_no_login() {
    let pool = pool(client(), Factor::None).await;
    let source = source(user(&pool, Flow::Srp));
    fetch(&source).await.unwrap();
    pool.script(error("TooManyRequestsException", ""));
    assert!(matches!(fetch(&source).await, Err(FetchError::Throttled { .. })));
    for _ in 0..2 {
        pool.script(Scripted::Respond { status: 503, headers: Vec::new(), body: Vec::new() });
    }
    assert!(matches!(fetch(&source).await, Err(FetchError::Failing { .. })));
    fetch(&source).await.unwrap();
    let expected = [&["USER_SRP_AUTH", "RespondToAuthChallenge"][..], &["REFRESH_TOKEN_AUTH"; 4]].concat();
    assert_eq!(pool.operations(), expected);
}

#[tokio::test]
async fn with_rotation_each_renewal_uses_the_newest_refresh_token() {
    for (kind, words) in [
        ("InvalidParameterException", "REFRESH_TOKEN_AUTH is not enabled"),
        ("NotAuthorizedException", "Refresh token rotation is enabled for this client"),
        ("UnsupportedOperationException", ""),
    ] {
        let rotating = PoolClient { refresh: Refresh::Rotating(Duration::ZERO), ..client() };
        let pool = pool(rotating, Factor::None).await;
        let source = source(user(&pool, Flow::Srp));
        fetch(&source).await.unwrap();
        // What the real pool says is not known (docs/aws.md D4), so whatever it says must do.
        pool.script(error(kind, words));
        for _ in 0..5 {
            fetch(&source).await.unwrap();
        }
        let calls = pool.operations();
        assert_eq!(calls[..3], ["USER_SRP_AUTH", "RespondToAuthChallenge", "REFRESH_TOKEN_AUTH"], "asked once");
        assert_eq!(calls[3..], ["GetTokensFromRefreshToken"; 5]);
    }
}

#[tokio::test]
async fn an_answer_with_a_rotated_token_that_is_lost_never_loses_the_session() {
    for (grace, expected) in [
        (Duration::from_mins(1), &["GetTokensFromRefreshToken"][..]),
        (Duration::ZERO, &["GetTokensFromRefreshToken", "USER_SRP_AUTH", "RespondToAuthChallenge"]),
    ] {
        let rotating = PoolClient { refresh: Refresh::Rotating(grace), ..client() };
        let pool = pool(rotating, Factor::None).await;
        let source = source(user(&pool, Flow::Srp));
        fetch(&source).await.unwrap();
        fetch(&source).await.unwrap();
        // The pool rotates for somebody else's eyes: we are left with the old token.
        let kept = source.kept();
        fetch(&source).await.unwrap();
        source.keep(kept);
        let before = pool.calls();
        let tokens = fetch(&source).await.unwrap();
        assert_eq!(pool.operations()[before..], *expected);
        pool.verifier().verify(tokens.value.get(UserToken::Access).expose()).unwrap();
        assert_eq!(pool.failures(), 0);
    }
}

#[tokio::test]
async fn a_second_factor_is_answered_and_no_code_is_used_twice() {
    for flow in [Flow::Srp, Flow::Password] {
        let pool = pool(client(), Factor::Totp(b"12345678901234567890".to_vec())).await;
        let second = Arc::new(AtomicU64::new(1_800_000_005));
        let theirs = Arc::clone(&second);
        let clock = move || std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(theirs.load(Ordering::Relaxed));
        pool.clock().set(clock.clone());
        let user = CognitoUser { totp_seed: Some(SecretSource::Fixed(SEED.into())), ..user(&pool, flow) };
        let source = source_at(user, Clock::from_fn(clock));
        fetch(&source).await.unwrap();
        pool.sign_out();
        let calls = pool.calls();
        let error = fetch(&source).await.map(|_| ()).unwrap_err();
        assert_eq!((error.permanence(), error.retry_after()), (Permanence::Passing, Some(Duration::from_secs(25))));
        assert_eq!(pool.calls(), calls + 1, "a renewal, and no login that would end at the code");
        second.fetch_add(25, Ordering::Relaxed);
        fetch(&source).await.unwrap();
        assert_eq!(pool.failures(), 0);
    }
}

#[tokio::test]
async fn a_choice_of_ways_is_answered_with_the_password() {
    for (flow, answers) in [(Flow::Srp, 2), (Flow::Password, 1)] {
        let pool = pool(client(), Factor::None).await;
        pool.select();
        fetch(&source(user(&pool, flow))).await.unwrap();
        assert_eq!(pool.calls(), 1 + answers);
    }
    let pool = pool(client(), Factor::None).await;
    let offer =
        serde_json::json!({"ChallengeName": "SELECT_CHALLENGE", "AvailableChallenges": ["WEB_AUTHN", "EMAIL_OTP"]});
    pool.script(answer(&offer));
    let (said, permanence) = refused(&source(user(&pool, Flow::Srp))).await;
    assert!(said.contains("SELECT_CHALLENGE") && said.contains("admin-set-user-password"), "{said}");
    assert_eq!(permanence, Permanence::Permanent);
}

#[tokio::test]
async fn a_challenge_that_no_program_can_meet_is_named_with_what_to_do() {
    for (challenge, command) in [
        (
            "NEW_PASSWORD_REQUIRED",
            "aws cognito-idp admin-set-user-password --user-pool-id eu-west-1_AbCdEfGhI --username 'ada@example.com' \
             --password '…' --permanent",
        ),
        ("SOFTWARE_TOKEN_MFA", "`totp_seed`"),
        ("SMS_MFA", "admin-set-user-mfa-preference --user-pool-id eu-west-1_AbCdEfGhI"),
        ("EMAIL_OTP", "admin-set-user-mfa-preference"),
        ("MFA_SETUP", "`totp_seed`"),
        ("SELECT_MFA_TYPE", "`totp_seed`"),
        ("DEVICE_SRP_AUTH", "update-user-pool"),
        ("CUSTOM_CHALLENGE", "password alone"),
        ("WEB_AUTHN", "password alone"),
    ] {
        for flow in [Flow::Srp, Flow::Password] {
            let pool = pool(client(), Factor::Challenge(challenge)).await;
            let (said, permanence) = refused(&source(user(&pool, flow.clone()))).await;
            assert!(said.contains(challenge) && said.contains(command), "{said}");
            assert_eq!(permanence, Permanence::Permanent);
            assert_eq!(pool.calls(), if flow == Flow::Srp { 2 } else { 1 }, "the challenge is not answered");
        }
    }
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_and_counts() {
    for (flow, calls) in [(Flow::Srp, 2), (Flow::Password, 1)] {
        let pool = pool(client(), Factor::None).await;
        let wrong = CognitoUser { password: SecretSource::Fixed("wrong".into()), ..user(&pool, flow) };
        let (said, permanence) = refused(&source(wrong)).await;
        assert!(said.contains("NotAuthorizedException") && said.contains("\"ada@example.com\""), "{said}");
        assert!(said.contains("check `username`, `password` and this machine's clock"), "{said}");
        assert_eq!((permanence, pool.failures(), pool.calls()), (Permanence::Counted, 1, calls));
    }
}

#[tokio::test]
async fn every_refusal_says_what_to_do_and_how_soon_another_try_may_come() {
    use Permanence::{Counted, Passing, Permanent};
    for (kind, message, help, permanence) in [
        ("NotAuthorizedException", "Password attempts exceeded", "lockout", Counted),
        ("NotAuthorizedException", "User is disabled.", "admin-enable-user", Permanent),
        ("NotAuthorizedException", "SecretHash does not match", "client_secret", Permanent),
        ("CodeMismatchException", "", "totp_seed", Counted),
        ("ExpiredCodeException", "", "next one-time code", Passing),
        ("PasswordResetRequiredException", "", "admin-set-user-password", Permanent),
        ("UserNotConfirmedException", "", "admin-confirm-sign-up", Permanent),
        ("UserNotFoundException", "", "no such user", Permanent),
        ("InvalidParameterException", "x", "ALLOW_USER_SRP_AUTH", Permanent),
        ("ResourceNotFoundException", "", "client_id", Permanent),
        ("SomethingNewException", "hm", "client1", Permanent),
    ] {
        let pool = pool(client(), Factor::None).await;
        pool.script(error(kind, message));
        let (said, how) = refused(&source(user(&pool, Flow::Srp))).await;
        assert!(said.contains(kind) && said.contains(message) && said.contains(help), "{said}");
        assert_eq!((how, pool.calls()), (permanence, 1), "{kind}");
    }
}

#[tokio::test]
async fn a_pool_that_repeats_a_secret_is_not_quoted() {
    for words in [format!("bad password {PASSWORD}"), format!("{}{PASSWORD}", "x".repeat(193)), CLIENT_SECRET.into()] {
        let pool = pool(client(), Factor::None).await;
        pool.script(error("InvalidParameterException", &words));
        let (said, _) = refused(&source(user(&pool, Flow::Password))).await;
        assert!(said.contains("InvalidParameterException") && !said.contains("corre"), "{said}");
    }
}

#[tokio::test]
async fn answers_that_cannot_be_used_are_no_tokens() {
    let tokens = |access: &str, id: &str, expires_in: serde_json::Value| serde_json::json!({"AuthenticationResult": {"AccessToken": access, "IdToken": id, "ExpiresIn": expires_in}});
    let again = serde_json::json!({"ChallengeName": "SELECT_CHALLENGE", "AvailableChallenges": ["PASSWORD"]});
    for (count, body) in [
        (1, serde_json::json!({})),
        (1, serde_json::json!({"AuthenticationResult": {"AccessToken": "a"}})),
        (1, tokens("a\r\nb", "c", 3600.into())),
        (1, tokens("a", "", 3600.into())),
        (1, tokens("a", "b", (-1).into())),
        (1, tokens("a", "b", "soon".into())),
        (5, again),
    ] {
        let pool = pool(client(), Factor::None).await;
        for _ in 0..count {
            pool.script(answer(&body));
        }
        let outcome = fetch(&source(user(&pool, Flow::Password))).await;
        assert!(matches!(outcome, Err(FetchError::Malformed { .. })), "{body}: {outcome:?}");
    }
    for (parameter, value) in [("SRP_B", "0"), ("SALT", "x"), ("SECRET_BLOCK", "!")] {
        let pool = pool(client(), Factor::None).await;
        let mut asked = serde_json::json!({"SALT": "ab", "SRP_B": "7", "SECRET_BLOCK": "AAAA", "USER_ID_FOR_SRP": "u"});
        asked[parameter] = value.into();
        pool.script(answer(&serde_json::json!({"ChallengeName": "PASSWORD_VERIFIER", "ChallengeParameters": asked})));
        let outcome = fetch(&source(user(&pool, Flow::Srp))).await;
        assert!(matches!(outcome, Err(FetchError::Malformed { .. })), "{outcome:?}");
    }
}

#[tokio::test]
async fn the_shorter_life_of_the_two_tokens_counts() {
    let jwt = |life: u64| {
        let claims = serde_json::json!({"iat": 1_000, "exp": 1_000 + life, "cognito:username": INNER});
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    };
    for (id, expires_in, expected) in [(jwt(300), 3600, 300), (jwt(86_400), 3600, 3600), ("opaque".into(), 3600, 3600)]
    {
        let pool = pool(client(), Factor::None).await;
        pool.script(answer(&serde_json::json!({
            "AuthenticationResult": {"AccessToken": "a", "IdToken": id, "ExpiresIn": expires_in}
        })));
        let source = source(user(&pool, Flow::Password));
        let now = source.clock.now();
        let life = source.fetch(now).await.unwrap().expiry.unwrap().left(now);
        assert_eq!(life, Duration::from_secs(expected));
    }
}

/// Time that stands still while sockets are used, and jumps in between.
struct Time(Arc<AtomicU64>);

impl Time {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_800_000_000)))
    }

    fn wall(&self) -> impl Fn() -> std::time::SystemTime + Clone + Send + Sync + 'static {
        let seconds = Arc::clone(&self.0);
        move || std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::Relaxed))
    }

    async fn pass(&self, seconds: u64) {
        tokio::time::pause();
        self.0.fetch_add(seconds, Ordering::Relaxed);
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    }
}

#[tokio::test]
async fn five_hundred_renewals_fail_no_request_and_lend_no_expired_token() {
    for refresh in [Refresh::Plain, Refresh::Rotating(Duration::ZERO)] {
        let pool = pool(PoolClient { refresh, ..client() }, Factor::None).await;
        let time = Time::new();
        pool.clock().set(time.wall());
        let clock = Clock::from_fn(time.wall());
        let source = source_at(user(&pool, Flow::Srp), clock.clone());
        let login = Refreshing::start("person".into(), source, clock, &Tasks::default());
        let verifier = pool.verifier();
        login.get().await.unwrap();
        for renewal in 0..500_u64 {
            // Every seventh refresh token is dead, as after a global sign-out.
            if renewal % 7 == 6 {
                pool.sign_out();
            }
            let fetched = login.status().fetched;
            time.pass(2_900).await;
            let lease = login.get().await.unwrap();
            verifier.verify(lease.value.get(UserToken::Access).expose()).unwrap();
            verifier.verify(lease.value.get(UserToken::Id).expose()).unwrap();
            while login.status().fetched == fetched {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let status = login.status();
        assert_eq!((status.fetched, status.failed, pool.failures()), (501, 0, 0));
        let logins = pool.operations().iter().filter(|operation| *operation == "USER_SRP_AUTH").count();
        assert_eq!(logins, 1 + 500 / 7);
    }
}
