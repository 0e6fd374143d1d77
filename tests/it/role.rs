//! Roles: assumed with what the config says, once, and cut off from the API when they cannot be.

use std::time::Duration;

use standin::{AccessKeys, Authority, Gateway, Role, Sts};

use crate::support::{API, Countersign, REGION, Setup, iam, seen, user};

const SECRET: &str = "base-secret-key-c0ffee";

struct World {
    countersign: Countersign,
    gateway: Gateway,
    sts: Sts,
    keys: AccessKeys,
}

fn arn(name: &str) -> String {
    format!("arn:aws:iam::210987654321:role/{name}")
}

/// Two roles, `orders` with an external id, and a route to each; `lines` belong to the table of `orders`.
async fn world(lines: &str) -> World {
    let keys = AccessKeys::new();
    keys.add(user("AKIDBASE", SECRET));
    let role = |name: &str, external_id: Option<&str>| Role {
        arn: arn(name),
        external_id: external_id.map(ToOwned::to_owned),
        trusted: vec!["AKIDBASE".to_owned()],
        lifetime: Duration::from_hours(1),
    };
    let sts = Sts::start(keys.clone(), REGION, vec![role("orders", Some("team-7")), role("stock", None)]).await;
    let authority = Authority::new();
    let gateway = Gateway::builder().tls(&authority, &[API]).method("/prod", iam(&keys)).start().await;
    let auth = |name: &str, lines: &str| {
        format!(
            "[auth.{name}]\nkind = \"sigv4\"\ncredentials = {{ static = {{ access_key_id = {{ value = \"AKIDBASE\" }}, \
             secret_access_key = {{ env = \"BASE\" }} }} }}\n[auth.{name}.assume_role]\narn = \"{}\"\n\
             endpoint = \"{}\"\n{lines}\n[[route]]\npath = \"/{name}\"\nauth = \"{name}\"\n\
             upstream = \"https://{API}/prod\"\nconnect_to = \"127.0.0.1:{}\"\n",
            arn(name),
            sts.url(),
            gateway.port()
        )
    };
    let setup = Setup::new(&authority).secret("BASE", SECRET);
    let countersign = setup.add(&auth("orders", lines)).add(&auth("stock", "")).start().await;
    countersign.until_ready().await;
    World { countersign, gateway, sts, keys }
}

impl World {
    async fn finish(mut self) {
        self.countersign.hide(seen(&self.gateway, &self.keys));
        self.countersign.finish().await;
    }
}

#[tokio::test]
async fn requests_are_signed_as_the_role() {
    let world = world("external_id = \"team-7\"").await;
    let answer = world.countersign.get("/orders/1").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["principal"], "arn:aws:sts::210987654321:assumed-role/orders/countersign-orders");
    world.finish().await;
}

#[tokio::test]
async fn external_id_session_name_and_duration_reach_sts() {
    let lines = "external_id = \"team-7\"\nsession_name = \"app@prod\"\nduration = \"15m\"";
    let world = world(lines).await;
    let call = world.sts.received().into_iter().find(|call| call["RoleArn"] == arn("orders")).unwrap();
    assert_eq!(call["ExternalId"], "team-7");
    assert_eq!(call["RoleSessionName"], "app@prod");
    assert_eq!(call["DurationSeconds"], "900");
    let answer = world.countersign.get("/orders").await;
    assert_eq!(answer.json()["principal"], "arn:aws:sts::210987654321:assumed-role/orders/app@prod");
    world.finish().await;
}

#[tokio::test]
async fn a_wrong_external_id_stops_its_own_route_only() {
    let world = world("external_id = \"team-8\"").await;
    let answer = world.countersign.get("/orders").await;
    assert_eq!(answer.verdict(), (503, "credential-unavailable"));
    assert!(answer.header("retry-after").is_some());
    for word in ["arn:", "210987654321", "team-8", "AKID", "AccessDenied"] {
        assert!(!answer.text().contains(word), "{}", answer.text());
    }
    let text = world.countersign.page("/readyz").await.text();
    assert!(
        text.contains("credential \"orders\": none; last try: STS, asked for role") && text.contains("AccessDenied"),
        "{text}"
    );
    assert_eq!(world.gateway.requests(), 0);
    assert_eq!(world.countersign.get("/stock").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_hundred_requests_cost_one_sts_call_and_two_roles_share_their_base() {
    let world = world("external_id = \"team-7\"").await;
    let (mut orders, mut stock) = (world.countersign.connect().await, world.countersign.connect().await);
    for _ in 0..50 {
        assert_eq!(orders.get("/orders").await.status, 200);
        assert_eq!(stock.get("/stock").await.status, 200);
    }
    assert_eq!(world.sts.calls(), 2, "one a role");
    let metrics = world.countersign.metrics().await;
    assert_eq!(metrics.count("countersign_credential_fetches_total", &["outcome=\"ok\""]), 3, "two roles, one base");
    world.finish().await;
}

#[tokio::test]
async fn keys_of_a_role_that_the_api_no_longer_knows_are_fetched_again() {
    let world = world("external_id = \"team-7\"").await;
    assert_eq!(world.countersign.get("/orders/1").await.status, 200);
    let known = world.gateway.received();
    let credential = known[0].header("authorization").unwrap().split_once("Credential=").unwrap().1;
    world.keys.remove(credential.split('/').next().unwrap());
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    let calls = world.sts.calls();
    assert_eq!(world.countersign.get("/orders/2").await.status, 200);
    assert_eq!(world.sts.calls(), calls + 1);
    assert_eq!(world.gateway.requests(), 3, "one, refused, sent again");
    world.finish().await;
}
