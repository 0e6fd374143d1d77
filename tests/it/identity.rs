//! Users of a user pool, and identities of an identity pool: logged in once, kept alive, and named when they cannot be.

use std::time::Duration;

use standin::{
    AccessKeys, Authority, Authorizer, Factor, Gateway, IdentityPool, PoolClient, PoolUser, Refresh, TokenForm,
    UserPool,
};
use tokio::task::JoinSet;

use crate::support::{API, Countersign, REGION, Setup, iam, seen};

const POOL: &str = "ap-northeast-1_AtRsMFTq0";
const IDENTITIES: &str = "ap-northeast-1:0d5f3c1e-7a0b-4f43-9d2e-2f6f0c5b7e11";
const ROLE: &str = "arn:aws:iam::123456789012:role/pool-users";
const PASSWORD: &str = "correct-horse-4711";
const CLIENT_SECRET: &str = "pool-client-secret-0815";
const INNER: &str = "7c1d2e3f-7a0b-4f43-9d2e-2f6f0c5b7e11";

struct World {
    countersign: Countersign,
    gateway: Gateway,
    users: UserPool,
    identities: IdentityPool,
    keys: AccessKeys,
}

/// Routes `/access`, `/id` and `/iam`, all of them of one user.
async fn world(refresh: Refresh, factor: Factor, password: &'static str) -> World {
    let keys = AccessKeys::new();
    let client = PoolClient {
        id: "client1".into(),
        secret: Some(CLIENT_SECRET.into()),
        flows: vec!["ALLOW_USER_SRP_AUTH"],
        token_lifetime: Duration::from_hours(1),
        refresh,
    };
    let user = PoolUser { alias: "ada@example.com".into(), name: INNER.into(), password: PASSWORD.into(), factor };
    let users = UserPool::start(POOL, client, vec![user], keys.clone()).await;
    let provider = (format!("cognito-idp.{REGION}.amazonaws.com/{POOL}"), users.verifier());
    let hour = Duration::from_hours(1);
    let identities = IdentityPool::start(IDENTITIES, Some(provider), &[ROLE], hour, keys.clone()).await;
    let authority = Authority::new();
    let token =
        |form| Authorizer::Token { verifier: users.verifier(), header: "authorization".to_owned(), form, scope: None };
    let gateway = Gateway::builder()
        .tls(&authority, &[API])
        .method("/prod/access", token(TokenForm::Bearer))
        .method("/prod/id", token(TokenForm::Raw))
        .method("/prod/iam", iam(&keys))
        .start()
        .await;
    let user = format!(
        "kind = \"cognito-user\"\nuser_pool_id = \"{POOL}\"\nclient_id = \"client1\"\nendpoint = \"{}\"\n\
         client_secret = {{ env = \"POOL_CLIENT_SECRET\" }}\nusername = \"ada@example.com\"\n\
         password = {{ env = \"PERSON_PASSWORD\" }}\n",
        users.url()
    );
    let route = |name: &str| {
        format!(
            "[[route]]\npath = \"/{name}\"\nauth = \"{name}\"\nupstream = \"https://{API}/prod\"\n\
             connect_to = \"127.0.0.1:{}\"\n",
            gateway.port()
        )
    };
    let countersign = Setup::new(&authority)
        .secret("PERSON_PASSWORD", password)
        .secret("POOL_CLIENT_SECRET", CLIENT_SECRET)
        .add(&format!("[auth.access]\n{user}"))
        .add(&format!("[auth.id]\n{user}token = \"id\"\nscheme = \"\"\n"))
        .add(&format!(
            "[auth.iam]\nkind = \"sigv4\"\ncredentials = {{ identity_pool = {{ id = \"{IDENTITIES}\", login = \"access\", \
             endpoint = \"{}\" }} }}\n",
            identities.url()
        ))
        .add(&["access", "id", "iam"].map(route).concat())
        .start()
        .await;
    World { countersign, gateway, users, identities, keys }
}

async fn usual() -> World {
    let world = world(Refresh::Plain, Factor::None, PASSWORD).await;
    world.countersign.until_ready().await;
    world
}

impl World {
    async fn finish(mut self) {
        self.countersign.hide(self.users.issued());
        self.countersign.hide(seen(&self.gateway, &self.keys));
        self.countersign.finish().await;
    }
}

/// A refused credential is not fetched again within 10 s of its own fetch; this goes past them.
async fn later() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_thousand_requests_of_three_kinds_cost_one_login_one_identity_and_one_set_of_keys() {
    let world = usual().await;
    let mut callers = JoinSet::new();
    for path in ["/access", "/id", "/iam"] {
        let mut client = world.countersign.connect().await;
        callers.spawn(async move {
            for number in 0..334 {
                assert_eq!(client.get(&format!("{path}/{number}")).await.status, 200, "{path}");
            }
        });
    }
    callers.join_all().await;
    assert_eq!(world.gateway.requests(), 1_002);
    assert_eq!(world.users.operations(), ["USER_SRP_AUTH", "RespondToAuthChallenge"]);
    let calls: Vec<String> = world.identities.received().into_iter().map(|(operation, _)| operation).collect();
    assert_eq!(calls, ["GetId", "GetCredentialsForIdentity"]);
    let answer = world.countersign.get("/iam/who").await;
    let principal = "arn:aws:sts::123456789012:assumed-role/pool-users/CognitoIdentityCredentials";
    assert_eq!(answer.json()["principal"], principal);
    world.finish().await;
}

#[tokio::test]
async fn each_route_gets_its_own_token_of_the_one_login() {
    let world = usual().await;
    for (path, kind) in [("/access", "access"), ("/id", "id")] {
        assert_eq!(world.countersign.get(path).await.status, 200);
        let sent = world.gateway.received().pop().unwrap().header("authorization").unwrap().to_owned();
        let claims = world.users.verifier().verify(sent.trim_start_matches("Bearer ")).unwrap();
        assert_eq!((claims.token_use.as_str(), claims.subject.as_str()), (kind, INNER));
    }
    world.finish().await;
}

#[tokio::test]
async fn a_refused_token_is_renewed_and_a_dead_login_is_made_anew_without_a_failed_request() {
    let world = usual().await;
    let mut expected = vec!["USER_SRP_AUTH", "RespondToAuthChallenge"];
    for dead in [false, true, false] {
        for token in world.users.issued() {
            world.users.revoke(&token);
        }
        expected.push("REFRESH_TOKEN_AUTH");
        if dead {
            world.users.sign_out();
            expected.extend(["USER_SRP_AUTH", "RespondToAuthChallenge"]);
        }
        later().await;
        assert_eq!(world.countersign.get("/access").await.status, 200);
        assert_eq!(world.users.operations(), expected);
    }
    assert_eq!(world.users.failures(), 0);
    world.finish().await;
}

#[tokio::test]
async fn a_hundred_refusals_at_once_use_a_rotating_refresh_token_once() {
    let world = world(Refresh::Rotating(Duration::ZERO), Factor::None, PASSWORD).await;
    world.countersign.until_ready().await;
    for round in 1..=3 {
        for token in world.users.issued() {
            world.users.revoke(&token);
        }
        later().await;
        let mut callers = JoinSet::new();
        for path in ["/access", "/id"].repeat(50) {
            let mut client = world.countersign.connect().await;
            callers.spawn(async move { client.get(path).await.status });
        }
        assert_eq!(callers.join_all().await, [200; 100]);
        let renewals = world.users.operations().iter().filter(|name| *name == "GetTokensFromRefreshToken").count();
        assert_eq!(renewals, round);
    }
    let logins = world.users.operations().iter().filter(|name| *name == "USER_SRP_AUTH").count();
    assert_eq!((logins, world.users.failures()), (1, 0));
    world.finish().await;
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_however_many_ask_and_readiness_says_so() {
    let world = world(Refresh::Plain, Factor::None, "wrong-horse").await;
    for path in ["/access", "/id", "/iam"].repeat(10) {
        let answer = world.countersign.get(path).await;
        assert_eq!(answer.verdict(), (503, "credential-unavailable"), "{path}");
        // A request id is random hex, and may well have "ada" in it.
        let mut said: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
        assert!(said.as_object_mut().unwrap().remove("request_id").is_some());
        for word in ["ada", POOL, "NotAuthorized", "client1"] {
            assert!(!said.to_string().contains(word), "{said}");
        }
    }
    later().await;
    assert_eq!(world.countersign.get("/access").await.status, 503);
    assert_eq!((world.users.failures(), world.identities.received().len(), world.gateway.requests()), (1, 0, 0));
    let text = world.countersign.page("/readyz").await.text();
    assert!(text.contains("\"access\"") && text.contains("NotAuthorizedException"), "{text}");
    world.finish().await;
}

#[tokio::test]
async fn a_challenge_that_needs_a_person_is_in_readiness_with_its_command() {
    let world = world(Refresh::Plain, Factor::Challenge("NEW_PASSWORD_REQUIRED"), PASSWORD).await;
    assert_eq!(world.countersign.get("/id").await.verdict(), (503, "credential-unavailable"));
    let text = world.countersign.page("/readyz").await.text();
    let command = format!("aws cognito-idp admin-set-user-password --user-pool-id {POOL} --username 'ada@example.com'");
    assert!(text.contains("NEW_PASSWORD_REQUIRED") && text.contains(&command), "{text}");
    assert_eq!(world.users.calls(), 2);
    world.finish().await;
}

#[tokio::test]
async fn keys_of_an_identity_that_the_api_no_longer_knows_are_fetched_again() {
    let world = usual().await;
    assert_eq!(world.countersign.get("/iam/1").await.status, 200);
    let received = world.gateway.received();
    let credential = received[0].header("authorization").unwrap().split_once("Credential=").unwrap().1;
    world.keys.remove(credential.split('/').next().unwrap());
    later().await;
    assert_eq!(world.countersign.get("/iam/2").await.status, 200);
    assert_eq!((world.identities.calls("GetId"), world.identities.calls("GetCredentialsForIdentity")), (1, 2));
    world.finish().await;
}
