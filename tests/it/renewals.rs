//! Months of renewals in seconds: every kind of credential that has an end, through the front door.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use countersign::clock::Clock;
use standin::{
    AccessKeys, Authority, ContainerCredentials, Factor, Gateway, IdentityPool, PoolClient, PoolUser, Refresh, Role,
    Sts, TokenEndpoint, TokenForm, UserPool,
};

use crate::support::{API, Countersign, REGION, Setup, app_client, iam, pass, token, user};

const POOL: &str = "ap-northeast-1_AtRsMFTq0";
const IDENTITIES: &str = "ap-northeast-1:0d5f3c1e-7a0b-4f43-9d2e-2f6f0c5b7e11";
const ROLE: &str = "arn:aws:iam::123456789012:role/pool-users";
const HUB: &str = "arn:aws:iam::123456789012:role/hub";
const SPOKE: &str = "arn:aws:iam::210987654321:role/spoke";
const RENEWALS: u64 = 500;
const LIFE: Duration = Duration::from_hours(1);
/// Behind the latest point of renewal, 80 % of a life, and before the end.
const STEP: Duration = Duration::from_secs(2_900);
const KINDS: [&str; 4] = ["client", "pool", "task", "chain"];

/// A wall clock that moves with the paused one.
#[derive(Clone, Default)]
struct Wall(Arc<AtomicU64>);

impl Wall {
    fn read(&self) -> impl Fn() -> SystemTime + Clone + Send + Sync + 'static {
        let seconds = Arc::clone(&self.0);
        move || SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds.load(Ordering::Relaxed))
    }

    async fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_secs(), Ordering::Relaxed);
        pass(time).await;
    }
}

/// Everything that gives credentials, by one clock.
struct World {
    countersign: Countersign,
    wall: Wall,
    _doubles: (TokenEndpoint, UserPool, IdentityPool, ContainerCredentials, Sts, Gateway),
}

async fn world() -> World {
    let wall = Wall::default();
    let keys = AccessKeys::new();
    keys.add(user("AKIDBASE", "base-secret-key-c0ffee"));
    let tokens = TokenEndpoint::start(vec![app_client("orders", "client-secret-5f1d0c")]).await;
    let client = PoolClient {
        id: "client1".into(),
        secret: None,
        flows: vec!["ALLOW_USER_PASSWORD_AUTH"],
        token_lifetime: LIFE,
        refresh: Refresh::Plain,
    };
    let ada =
        PoolUser { alias: "ada".into(), name: "ada".into(), password: "correct-4711".into(), factor: Factor::None };
    let users = UserPool::start(POOL, client, vec![ada], keys.clone()).await;
    let provider = (format!("cognito-idp.{REGION}.amazonaws.com/{POOL}"), users.verifier());
    let identities = IdentityPool::start(IDENTITIES, Some(provider), &[ROLE], LIFE, keys.clone()).await;
    let agent = ContainerCredentials::start(keys.clone(), "arn:aws:iam::123456789012:role/task", LIFE).await;
    let role = |arn: &str, trusted: &str| Role {
        arn: arn.to_owned(),
        external_id: None,
        trusted: vec![trusted.to_owned()],
        lifetime: LIFE,
    };
    let sts = Sts::start(keys.clone(), REGION, vec![role(HUB, "AKIDBASE"), role(SPOKE, HUB)]).await;
    for clock in [tokens.clock(), users.clock(), identities.clock(), agent.clock(), sts.clock()] {
        clock.set(wall.read());
    }
    let authority = Authority::new();
    let gateway = Gateway::builder()
        .tls(&authority, &[API])
        .clock(wall.read())
        .method("/client", token(&tokens, "authorization", TokenForm::Bearer))
        .method("/pool", iam(&keys))
        .method("/task", iam(&keys))
        .method("/chain", iam(&keys))
        .start()
        .await;
    let route = |name: &str| {
        let port = gateway.port();
        format!(
            "[[route]]\npath = \"/{name}\"\nauth = \"{name}\"\nupstream = \"https://{API}\"\nconnect_to = \"127.0.0.1:{port}\"\n"
        )
    };
    let countersign = Setup::new(&authority)
        .clock(Clock::from_fn(wall.read()))
        .variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &agent.url())
        .secret("CLIENT", "client-secret-5f1d0c")
        .secret("PASSWORD", "correct-4711")
        .secret("BASE", "base-secret-key-c0ffee")
        .add(&format!(
            "[auth.client]\nkind = \"client-credentials\"\ntoken_url = \"{}\"\nclient_id = \"orders\"\nclient_secret = {{ env = \"CLIENT\" }}\n\
             [auth.person]\nkind = \"cognito-user\"\nuser_pool_id = \"{POOL}\"\nclient_id = \"client1\"\nflow = \"password\"\nusername = \"ada\"\n\
             password = {{ env = \"PASSWORD\" }}\nendpoint = \"{}\"\n\
             [auth.pool]\nkind = \"sigv4\"\ncredentials = {{ identity_pool = {{ id = \"{IDENTITIES}\", login = \"person\", endpoint = \"{}\" }} }}\n\
             [auth.task]\nkind = \"sigv4\"\ncredentials = \"container\"\n",
            tokens.url(),
            users.url(),
            identities.url(),
        ))
        .add(&format!(
            "[auth.chain]\nkind = \"sigv4\"\ncredentials = {{ static = {{ access_key_id = {{ value = \"AKIDBASE\" }}, secret_access_key = {{ env = \"BASE\" }} }} }}\n\
             assume_role = [{{ arn = \"{HUB}\", endpoint = \"{0}\" }}, {{ arn = \"{SPOKE}\", endpoint = \"{0}\" }}]\n",
            sts.url(),
        ))
        .add(&KINDS.map(route).concat())
        .start()
        .await;
    countersign.until_ready().await;
    World { countersign, wall, _doubles: (tokens, users, identities, agent, sts, gateway) }
}

#[tokio::test]
async fn five_hundred_renewals_of_every_kind_fail_no_request_and_send_nothing_expired() {
    let world = world().await;
    for renewal in 1..=RENEWALS {
        world.wall.pass(STEP).await;
        for kind in KINDS {
            // The API judges signature, token and expiry by the same clock.
            let answer = world.countersign.get(&format!("/{kind}")).await;
            assert_eq!(answer.status, 200, "{kind}, renewal {renewal}: {}", answer.text());
        }
        let all = KINDS.into_iter().chain(["person", "chain (role 1)"]);
        let wanted: Vec<String> = all.map(|kind| format!("credential=\"{kind}\"")).collect();
        world
            .countersign
            .until(|metrics| {
                let count =
                    |label: &String| metrics.count("countersign_credential_fetches_total", &[label, "outcome=\"ok\""]);
                wanted.iter().all(|label| count(label) > renewal)
            })
            .await;
    }
    let metrics = world.countersign.metrics().await;
    assert_eq!(metrics.count("countersign_credential_fetches_total", &["outcome=\"failed\""]), 0);
    world.countersign.finish().await;
}
