//! Tokens of a client: fetched once, shared rightly, and never missing without a clear answer.

use std::sync::Arc;

use standin::{Answer as Scripted, Authority, Gateway, TokenEndpoint, TokenForm};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::support::{API, Plan, Setup, app_client, token, within};

/// Two `[auth]` tables of one client, and a route for each; `lines` are what tells the second apart.
async fn two_auths(lines: &str) -> (usize, u64) {
    let tokens = TokenEndpoint::start(vec![app_client("orders", "shared-secret-91")]).await;
    let authority = Authority::new();
    let gateway = Gateway::builder().tls(&authority, &[API]);
    let gateway = gateway.method("/prod", token(&tokens, "authorization", TokenForm::Bearer)).start().await;
    let auth = |name: &str, lines: &str| {
        format!(
            "[auth.{name}]\nkind = \"client-credentials\"\ntoken_url = \"{}\"\nclient_id = \"orders\"\n\
             client_secret = {{ env = \"SHARED\" }}\n{lines}\n[[route]]\npath = \"/{name}\"\nauth = \"{name}\"\n\
             upstream = \"https://{API}/prod\"\nconnect_to = \"127.0.0.1:{}\"\n",
            tokens.url(),
            gateway.port()
        )
    };
    let setup = Setup::new(&authority).secret("SHARED", "shared-secret-91");
    let mut countersign = setup.add(&auth("one", "")).add(&auth("two", lines)).start().await;
    for path in ["/one", "/two", "/one"] {
        assert_eq!(countersign.get(path).await.status, 200);
    }
    let metrics = countersign.metrics().await;
    let credentials = metrics.count("countersign_credential_usable", &[]);
    countersign.hide(tokens.issued());
    countersign.finish().await;
    (tokens.calls(), credentials)
}

#[tokio::test]
async fn a_hundred_requests_cost_one_token_call() {
    let world = Plan::bearer().auth("scopes = [\"orders/read\"]").start().await;
    let mut client = world.countersign.connect().await;
    for _ in 0..100 {
        assert_eq!(client.get("/orders/42").await.status, 200);
    }
    assert_eq!(world.tokens.calls(), 1);
    let sent = world.gateway.received();
    assert_eq!(sent.len(), 100);
    let expected = format!("Bearer {}", world.tokens.issued()[0]);
    assert!(sent.iter().all(|request| request.values("authorization") == [expected.as_bytes()]));
    assert!(sent.iter().all(|request| request.target == "/prod/orders/42" && request.host.as_deref() == Some(API)));
    world.finish().await;
}

#[tokio::test]
async fn an_empty_scheme_sends_the_raw_token() {
    let plan = Plan::bearer().auth("scheme = \"\"").token("authorization", TokenForm::Raw);
    let world = plan.start().await;
    assert_eq!(world.get("/").await.status, 200);
    assert_eq!(world.only().header("authorization"), Some(world.tokens.issued()[0].as_str()));
    world.finish().await;
}

#[tokio::test]
async fn another_header_carries_the_token_and_the_callers_own_is_replaced() {
    let plan = Plan::bearer().auth("header = \"x-token\"").token("x-token", TokenForm::Bearer);
    let world = plan.start().await;
    let fields = [("x-token", "Bearer forged"), ("authorization", "Bearer forged")];
    assert_eq!(world.countersign.ask("GET", "/", &fields, b"").await.status, 200);
    let sent = world.only();
    assert_eq!(sent.values("x-token").len(), 1);
    assert!(sent.header("authorization").is_none(), "a caller's own authorisation does not pass an authorising route");
    world.finish().await;
}

#[tokio::test]
async fn the_client_shows_who_it_is_in_the_field_or_in_the_form() {
    for (lines, in_field) in [("client_auth = \"basic\"", true), ("client_auth = \"body\"", false)] {
        let world = Plan::bearer().auth(lines).auth("params = { audience = \"orders & more\" }").start().await;
        assert_eq!(world.get("/").await.status, 200);
        let call = &world.tokens.received()[0];
        let has = |name: &str| call.form.iter().any(|(own, _)| own == name);
        assert_eq!(call.authorization.is_some(), in_field);
        assert_eq!(has("client_secret"), !in_field);
        assert!(call.form.contains(&("audience".to_owned(), "orders & more".to_owned())));
        world.finish().await;
    }
}

#[tokio::test]
async fn equal_auths_share_one_credential() {
    assert_eq!(two_auths("").await, (1, 1));
}

#[tokio::test]
async fn a_header_of_its_own_does_not_make_another_credential() {
    assert_eq!(two_auths("scheme = \"bearer\"").await, (1, 1));
}

#[tokio::test]
async fn other_scopes_make_another_credential() {
    assert_eq!(two_auths("scopes = [\"orders/read\"]").await, (2, 2));
}

#[tokio::test]
async fn a_scope_that_the_token_lacks_is_warned_about() {
    let world = Plan::bearer().auth("scopes = [\"orders/read\", \"orders/never-defined\"]").start().await;
    assert_eq!(world.get("/").await.status, 200);
    let log = world.countersign.log();
    let warning = log.lines().find(|line| line.contains("orders/never-defined") && line.contains("WARN"));
    assert!(warning.is_some_and(|line| !line.contains("orders/read")), "only what is missing is named: {warning:?}");
    world.finish().await;
}

#[tokio::test]
async fn without_a_token_nothing_reaches_the_api_and_the_answer_says_so() {
    let tokens = TokenEndpoint::start(vec![app_client("orders", "client-secret-5f1d0c")]).await;
    tokens.script(Scripted::Respond { status: 503, headers: Vec::new(), body: b"down".to_vec() });
    let world = Plan::bearer().start_with(tokens).await;
    world.countersign.until_ready().await;
    let answer = world.countersign.ask("POST", "/", &[("x-request-id", "down-1")], b"{}").await;
    assert_eq!(answer.verdict(), (503, "credential-unavailable"));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("proxy-status"), Some("countersign; error=proxy_internal_error"));
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=6).contains(&seconds), "{seconds}");
    let problem = answer.json();
    assert_eq!((&problem["status"], &problem["request_id"]), (&503.into(), &"down-1".into()));
    assert_eq!(world.gateway.connections(), 0);
    let readiness = world.countersign.page("/readyz").await;
    assert_eq!(readiness.status, 200, "a token endpoint that is down does not take the pod out of service");
    assert!(readiness.text().contains("credential \"tokens\": none; last try: "), "{}", readiness.text());
    assert!(readiness.text().contains("answered with status 503"), "{}", readiness.text());
    assert_eq!(world.countersign.page("/startupz").await.status, 200);

    // It is up again: the credential comes by itself, and requests pass.
    within(world.tokens.until_calls(2)).await;
    world.countersign.until(|metrics| metrics.count("countersign_credential_usable", &[]) == 1).await;
    assert_eq!(world.get("/").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_token_endpoint_that_hangs_up_is_named_in_the_readiness_and_nowhere_in_the_answer() {
    let tokens = TokenEndpoint::start(vec![app_client("orders", "client-secret-5f1d0c")]).await;
    tokens.script(Scripted::Close);
    let world = Plan::bearer().start_with(tokens).await;
    world.countersign.until_ready().await;
    let text = world.countersign.page("/readyz").await.text();
    assert!(text.contains(&format!("asking {}", world.tokens.url())), "{text}");
    let answer = world.get("/").await;
    assert_eq!(answer.verdict(), (503, "credential-unavailable"));
    assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
    world.finish().await;
}

#[tokio::test]
async fn a_refused_client_is_told_apart_from_an_outage() {
    let tokens = TokenEndpoint::start(vec![app_client("orders", "quite-another-secret")]).await;
    let world = Plan::bearer().start_with(tokens).await;
    world.countersign.until_ready().await;
    let answer = world.get("/").await;
    assert_eq!(answer.verdict(), (503, "credential-unavailable"));
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((55..=61).contains(&seconds), "somebody has to act first: {seconds}");
    let text = world.countersign.page("/readyz").await.text();
    assert!(text.contains("refused: invalid_client"), "{text}");
    assert_eq!(world.tokens.calls(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_start_without_a_token_endpoint_is_a_start() {
    let tokens = TokenEndpoint::start(vec![app_client("orders", "client-secret-5f1d0c")]).await;
    let held = Arc::new(Notify::new());
    tokens.script(Scripted::Hold(Arc::clone(&held)));
    let world = Plan::bearer()
        .add("[[route]]\npath = \"/free\"\nauth = \"none\"\nupstream = \"https://abc123.execute-api.ap-northeast-1.amazonaws.com/open\"\nconnect_to = \"127.0.0.1:PORT\"")
        .gateway(|gateway| gateway.method("/open", standin::Authorizer::Open))
        .start_with(tokens)
        .await;
    let status = async |path| world.countersign.page(path).await.status;
    assert_eq!(status("/livez").await, 200);
    assert_eq!(status("/startupz").await, 503);
    assert_eq!(status("/readyz").await, 503);
    assert_eq!(world.get("/free").await.status, 200, "other routes do not wait");
    held.notify_one();
    assert_eq!(world.get("/").await.status, 200);
    assert_eq!(status("/startupz").await, 200);
    assert_eq!(status("/readyz").await, 200);
    world.finish().await;
}

#[tokio::test]
async fn two_hundred_first_requests_share_one_token_call() {
    let tokens = TokenEndpoint::start(vec![app_client("orders", "client-secret-5f1d0c")]).await;
    let held = Arc::new(Notify::new());
    tokens.script(Scripted::Hold(Arc::clone(&held)));
    let world = Plan::bearer().start_with(tokens).await;
    let mut asking = JoinSet::new();
    for _ in 0..200 {
        let mut client = world.countersign.connect().await;
        asking.spawn(async move { client.get("/").await.status });
    }
    world.countersign.until(|metrics| metrics.count("countersign_requests_in_flight", &[]) == 200).await;
    held.notify_one();
    let statuses = within(asking.join_all()).await;
    assert_eq!(statuses, [200; 200]);
    assert_eq!(world.tokens.calls(), 1);
    world.finish().await;
}
