use standin::{AccessKeys, Answer, Factor, PoolClient, PoolUser, Refresh, UserPool};

use super::*;
use crate::auth::cognito_user::Readers;
use crate::auth::control::Control;
use crate::auth::error::Permanence;
use crate::auth::secrets::SecretReader;
use crate::auth::spec::{Flow, Login, SecretSource};
use crate::clock::Clock;

use crate::tasks::Tasks;

const USER_POOL: &str = "eu-west-1_AbCdEfGhI";
const POOL: &str = "eu-west-1:0d5f3c1e-7a0b-4f43-9d2e-2f6f0c5b7e11";
const PROVIDER: &str = "cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbCdEfGhI";
const ROLES: [&str; 2] = ["arn:aws:iam::123456789012:role/plain", "arn:aws:iam::123456789012:role/chosen"];

struct World {
    users: UserPool,
    pool: standin::IdentityPool,
    keys: AccessKeys,
    clock: Clock,
    json: AwsJson,
}

fn user(endpoint: &str) -> CognitoUser {
    CognitoUser {
        region: "eu-west-1".into(),
        user_pool_id: USER_POOL.into(),
        client_id: "client1".into(),
        client_secret: None,
        flow: Flow::Srp,
        username: "ada".into(),
        password: SecretSource::Fixed("pw".into()),
        totp_seed: None,
        endpoint: Some(endpoint.to_owned()),
    }
}

async fn world(authenticated: bool) -> World {
    let client = PoolClient {
        id: "client1".into(),
        secret: None,
        flows: vec!["ALLOW_USER_SRP_AUTH"],
        token_lifetime: Duration::from_hours(1),
        refresh: Refresh::Plain,
    };
    let ada = PoolUser { alias: "ada".into(), name: "ada".into(), password: "pw".into(), factor: Factor::None };
    let keys = AccessKeys::new();
    let users = UserPool::start(USER_POOL, client, vec![ada], keys.clone()).await;
    let provider = authenticated.then(|| (PROVIDER.to_owned(), users.verifier()));
    let pool = standin::IdentityPool::start(POOL, provider, &ROLES, Duration::from_hours(1), keys.clone()).await;
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let clock = Clock::system();
    let json = AwsJson::new(Control::try_new(tls, crate::egress::Egress::direct()).unwrap(), clock.clone());
    World { users, pool, keys, clock, json }
}

fn readers() -> Readers {
    Readers { client: None, password: SecretReader::fixed("pw".into()), totp_seed: None }
}

impl World {
    fn identity(&self, login: bool, role_arn: Option<&str>) -> PoolIdentity {
        let user = user(&self.users.url());
        let pool = IdentityPool {
            id: POOL.into(),
            region: "eu-west-1".into(),
            login: login.then(|| Login { name: "person".into(), user: user.clone() }),
            role_arn: role_arn.map(ToOwned::to_owned),
            endpoint: Some(self.pool.url()),
        };
        let login = login.then(|| {
            let source = CognitoUserSource::new(user, readers(), self.json.clone(), self.clock.clone(), None);
            Refreshing::start("person".into(), source, self.clock.clone(), &Tasks::default())
        });
        PoolIdentity::new(pool, self.json.clone(), login)
    }
}

fn error(kind: &str) -> Answer {
    Answer::Respond { status: 400, headers: Vec::new(), body: format!("{{\"__type\":\"{kind}\"}}").into_bytes() }
}

#[tokio::test]
async fn a_login_becomes_keys_and_the_identity_is_asked_for_once() {
    let world = world(true).await;
    let identity = world.identity(true, None);
    for _ in 0..3 {
        let credentials = identity.credentials().await.unwrap();
        let known = world.keys.get(credentials.access_key_id()).unwrap();
        assert_eq!(known.secret, credentials.secret_access_key());
        assert_eq!(known.session_token.as_deref(), credentials.session_token());
        assert_eq!(
            known.expires.unwrap().duration_since(credentials.expiry().unwrap()).unwrap_or_default().as_secs(),
            0
        );
        assert_eq!(known.principal, "arn:aws:sts::123456789012:assumed-role/plain/CognitoIdentityCredentials");
    }
    assert_eq!((world.pool.calls("GetId"), world.pool.calls("GetCredentialsForIdentity")), (1, 3));
    assert_eq!(world.users.operations(), ["USER_SRP_AUTH", "RespondToAuthChallenge"]);
    for (operation, input) in world.pool.received() {
        assert_eq!(input["Logins"].as_object().unwrap().keys().collect::<Vec<_>>(), [PROVIDER], "{operation}");
    }
}

#[tokio::test]
async fn a_role_can_be_chosen_and_one_that_is_not_the_users_is_refused() {
    let world = world(true).await;
    let credentials = world.identity(true, Some(ROLES[1])).credentials().await.unwrap();
    assert!(world.keys.get(credentials.access_key_id()).unwrap().principal.contains("/chosen/"));
    let error = world.identity(true, Some("arn:aws:iam::1:role/other")).credentials().await.unwrap_err();
    assert_eq!(error.permanence(), Permanence::Permanent);
    assert!(error.to_string().contains("does the user have the role?"), "{error}");
}

#[tokio::test]
async fn without_a_login_the_identity_is_an_unauthenticated_one() {
    let world = world(false).await;
    world.identity(false, None).credentials().await.unwrap();
    assert!(world.pool.received().iter().all(|(_, input)| input.get("Logins").is_none()));
    let closed = self::world(true).await;
    let error = closed.identity(false, None).credentials().await.unwrap_err();
    assert!(error.to_string().contains("name a `login`"), "{error}");
}

#[tokio::test]
async fn an_identity_that_was_deleted_is_asked_for_again_at_once() {
    let world = world(true).await;
    let identity = world.identity(true, None);
    identity.credentials().await.unwrap();
    world.pool.forget();
    identity.credentials().await.unwrap();
    assert_eq!(world.pool.calls("GetId"), 2);
    world.pool.script(error("ResourceNotFoundException"));
    world.pool.script(error("ResourceNotFoundException"));
    let error = identity.credentials().await.unwrap_err();
    assert!(error.to_string().contains(POOL), "{error}");
    assert_eq!(world.pool.calls("GetId"), 3, "no loop");
}

#[tokio::test]
async fn refusals_need_a_person_and_outages_pass() {
    for (kind, permanence) in [
        ("NotAuthorizedException", Permanence::Permanent),
        ("InvalidIdentityPoolConfigurationException", Permanence::Permanent),
        ("InvalidParameterException", Permanence::Permanent),
        ("ResourceConflictException", Permanence::Permanent),
        ("TooManyRequestsException", Permanence::Passing),
        ("LimitExceededException", Permanence::Passing),
        ("ExternalServiceException", Permanence::Passing),
    ] {
        let world = world(true).await;
        world.pool.script(error(kind));
        let error = world.identity(true, None).credentials().await.unwrap_err();
        assert_eq!(error.permanence(), permanence, "{error}");
    }
}

#[tokio::test]
async fn a_login_that_fails_is_named_and_not_tried_by_the_pool() {
    let world = world(true).await;
    world.users.set_password("ada", "another");
    let error = world.identity(true, None).credentials().await.unwrap_err();
    let said = crate::auth::refreshing::Chain(&error).to_string();
    assert!(said.contains("\"person\"") && said.contains("NotAuthorizedException"), "{said}");
    assert_eq!((world.users.failures(), world.pool.received().len()), (1, 0));
    assert!(error.retry_after().unwrap() > Duration::from_mins(4));
}

#[tokio::test]
async fn an_end_that_is_no_time_is_no_credential() {
    for end in ["-1", "1e300", "\"2026-01-01T00:00:00Z\"", "null"] {
        let world = world(false).await;
        let id = Answer::Respond { status: 200, headers: Vec::new(), body: br#"{"IdentityId":"i"}"#.to_vec() };
        world.pool.script(id);
        let keys =
            format!(r#"{{"Credentials":{{"AccessKeyId":"A","SecretKey":"B","SessionToken":"C","Expiration":{end}}}}}"#);
        world.pool.script(Answer::Respond { status: 200, headers: Vec::new(), body: keys.into_bytes() });
        let error = world.identity(false, None).credentials().await.unwrap_err();
        assert!(matches!(error, FetchError::Malformed { .. }), "{error}");
    }
}

#[test]
fn the_provider_has_the_suffix_of_its_partition() {
    let china = CognitoUser { region: "cn-north-1".into(), user_pool_id: "cn-north-1_x".into(), ..user("") };
    assert_eq!(provider(&china), "cognito-idp.cn-north-1.amazonaws.com.cn/cn-north-1_x");
    assert_eq!(provider(&user("")), PROVIDER);
}
