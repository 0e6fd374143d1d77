//! Secrets that change while countersign runs: in use without a restart, and without a failed request.

use std::time::Duration;

use standin::{AccessKeys, Authority, Authorizer, ContainerCredentials, Gateway, TokenEndpoint, TokenForm};

use crate::support::{API, Plan, REGION, Setup, app_client, iam, pass, seen, token, user};

const OLD: &str = "client-secret-of-october";
const NEW: &str = "client-secret-of-november";
/// Longer than files go unlooked at where their change matters at once.
const LOOK: Duration = Duration::from_secs(6);

fn route(gateway: &Gateway, lines: &str) -> String {
    format!("[[route]]\nupstream = \"https://{API}/prod\"\nconnect_to = \"127.0.0.1:{}\"\n{lines}\n", gateway.port())
}

fn client(tokens: &TokenEndpoint) -> String {
    format!(
        "[auth.tokens]\nkind = \"client-credentials\"\ntoken_url = \"{}\"\nclient_id = \"orders\"\n\
         client_secret = {{ file = \"secret\" }}\n",
        tokens.url()
    )
}

#[tokio::test]
async fn a_rotated_client_secret_fails_no_request() {
    let tokens = TokenEndpoint::start(vec![app_client("orders", OLD)]).await;
    let authority = Authority::new();
    let gateway = Gateway::builder().tls(&authority, &[API]);
    let gateway = gateway.method("/prod", token(&tokens, "authorization", TokenForm::Bearer)).start().await;
    let setup = Setup::new(&authority).secret_file("secret", OLD);
    let mut countersign = setup.add(&client(&tokens)).add(&route(&gateway, "auth = \"tokens\"")).start().await;
    assert_eq!(countersign.get("/").await.status, 200);
    tokens.rotate_secret("orders", NEW);
    // Its token lives; the issuer takes the new secret alone, and the file has it some time later.
    pass(Duration::from_mins(48)).await;
    assert_eq!(countersign.get("/").await.status, 200);
    tokens.until_calls(2).await;
    countersign
        .until(|metrics| metrics.count("countersign_credential_fetches_total", &["outcome=\"failed\""]) == 1)
        .await;
    assert_eq!(countersign.get("/").await.status, 200, "the old token is used on");
    countersign.rewrite("secret", NEW);
    pass(LOOK).await;
    tokens.until_calls(3).await;
    countersign.until(|metrics| metrics.count("countersign_credential_fetches_total", &["outcome=\"ok\""]) == 2).await;
    assert_eq!(countersign.get("/").await.status, 200);
    countersign.hide(tokens.issued());
    countersign.finish().await;
}

#[tokio::test]
async fn a_secret_that_was_wrong_at_the_start_is_used_soon_after_it_is_mended() {
    let tokens = TokenEndpoint::start(vec![app_client("orders", NEW)]).await;
    let authority = Authority::new();
    let gateway = Gateway::builder().tls(&authority, &[API]);
    let gateway = gateway.method("/prod", token(&tokens, "authorization", TokenForm::Bearer)).start().await;
    let setup = Setup::new(&authority).secret_file("secret", OLD);
    let mut countersign = setup.add(&client(&tokens)).add(&route(&gateway, "auth = \"tokens\"")).start().await;
    assert_eq!(countersign.get("/").await.verdict(), (503, "credential-unavailable"));
    assert_eq!(tokens.calls(), 1);
    pass(LOOK).await;
    assert_eq!((countersign.get("/").await.status, tokens.calls()), (503, 1), "the same secret is not tried again");
    countersign.rewrite("secret", NEW);
    pass(LOOK).await;
    tokens.until_calls(2).await;
    countersign.until(|metrics| metrics.count("countersign_credential_usable", &[]) == 1).await;
    assert_eq!(countersign.get("/").await.status, 200);
    countersign.hide(tokens.issued());
    countersign.finish().await;
}

#[tokio::test]
async fn static_keys_in_files_are_signed_with_as_they_are_now() {
    let keys = AccessKeys::new();
    keys.add(user("AKIDOLD", "old-secret-key-01"));
    keys.add(user("AKIDNEW", "new-secret-key-02"));
    let authority = Authority::new();
    let gateway = Gateway::builder().tls(&authority, &[API]).method("/prod", iam(&keys)).start().await;
    let auth = format!(
        "[auth.keys]\nkind = \"sigv4\"\nregion = \"{REGION}\"\ncredentials = {{ static = {{ \
         access_key_id = {{ file = \"id\" }}, secret_access_key = {{ file = \"key\" }} }} }}\n"
    );
    let setup = Setup::new(&authority).file("id", "AKIDOLD\n").secret_file("key", "old-secret-key-01\n");
    let mut countersign = setup.add(&auth).add(&route(&gateway, "auth = \"keys\"")).start().await;
    let who = || async { countersign.get("/").await.json()["principal"].as_str().unwrap().to_owned() };
    assert!(who().await.ends_with("user/AKIDOLD"));
    countersign.write("id", "AKIDNEW");
    countersign.rewrite("key", "new-secret-key-02");
    pass(LOOK).await;
    countersign.until(|metrics| metrics.count("countersign_credential_fetches_total", &["outcome=\"ok\""]) == 2).await;
    assert!(countersign.get("/").await.json()["principal"].as_str().unwrap().ends_with("user/AKIDNEW"));
    countersign.hide(seen(&gateway, &keys));
    countersign.finish().await;
}

#[tokio::test]
async fn a_header_that_is_a_secret_file_follows_it() {
    let authority = Authority::new();
    let value = "api-key-of-november";
    let gateway = Gateway::builder().tls(&authority, &[API]);
    let gateway = gateway.method("/prod", Authorizer::ApiKey { value: value.to_owned() }).start().await;
    let lines = "auth = \"none\"\nrequest_headers.set = { x-api-key = { file = \"key\" } }";
    let setup = Setup::new(&authority).secret_file("key", "api-key-of-october\n");
    let mut countersign = setup.add(&route(&gateway, lines)).start().await;
    let forged = [("x-api-key", value), ("x_api_key", value)];
    assert_eq!(countersign.ask("GET", "/", &forged, b"").await.status, 403, "the caller's own does not pass");
    countersign.rewrite("key", value);
    pass(LOOK).await;
    countersign.until(|metrics| metrics.count("countersign_credential_fetches_total", &["outcome=\"ok\""]) == 2).await;
    assert_eq!(countersign.get("/").await.status, 200);
    countersign.finish().await;
}

#[tokio::test]
async fn a_rewritten_credentials_file_is_read_again() {
    let keys = AccessKeys::new();
    keys.add(user("AKIDOLD", "old-secret-key-01"));
    keys.add(user("AKIDNEW", "new-secret-key-02"));
    let profile = |id: &str, key: &str| format!("[app]\naws_access_key_id = {id}\naws_secret_access_key = {key}\n");
    let authority = Authority::new();
    let gateway = Gateway::builder().tls(&authority, &[API]).method("/prod", iam(&keys)).start().await;
    // The SDK reads the process's own environment, which a test must not change: what is seen here is that the file is
    // noticed; that its keys are used is shown with a whole process in tests/interop.
    let setup = Setup::new(&authority).secret_file("credentials", &profile("AKIDOLD", "old-secret-key-01"));
    let file = setup.folder().join("credentials");
    let setup = setup.variable("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
    let auth = format!(
        "[auth.app]\nkind = \"sigv4\"\nregion = \"{REGION}\"\ncredentials = {{ profile = \"countersign-test-only\" }}\n"
    );
    let mut countersign = setup.add(&auth).add(&route(&gateway, "auth = \"app\"")).start().await;
    let failed = |metrics: &crate::support::Metrics| {
        metrics.count("countersign_credential_fetches_total", &["outcome=\"failed\""])
    };
    countersign.until(|metrics| failed(metrics) == 1).await;
    pass(LOOK).await;
    assert_eq!(failed(&countersign.metrics().await), 1, "nothing has changed");
    countersign.rewrite("credentials", &profile("AKIDNEW", "new-secret-key-02"));
    pass(LOOK).await;
    countersign.until(|metrics| failed(metrics) == 2).await;
    countersign.finish().await;
}

#[tokio::test]
async fn a_containers_token_file_may_end_in_a_newline_and_change() {
    let keys = AccessKeys::new();
    let role = "arn:aws:iam::123456789012:role/task";
    let agent = ContainerCredentials::start(keys.clone(), role, Duration::from_hours(6)).await;
    agent.require_authorization("agent-token-1");
    let authority = Authority::new();
    let gateway = Gateway::builder().tls(&authority, &[API]).method("/prod", iam(&keys)).start().await;
    let setup = Setup::new(&authority).secret_file("token", "agent-token-1\n");
    let file = setup.folder().join("token");
    let setup = setup
        .variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &agent.url())
        .variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.to_str().unwrap());
    let auth = format!("[auth.task]\nkind = \"sigv4\"\nregion = \"{REGION}\"\ncredentials = \"container\"\n");
    let mut countersign = setup.add(&auth).add(&route(&gateway, "auth = \"task\"")).start().await;
    assert_eq!(countersign.get("/").await.status, 200);
    agent.require_authorization("agent-token-2");
    countersign.rewrite("token", "agent-token-2\n");
    pass(Duration::from_hours(5)).await;
    countersign.until(|metrics| metrics.count("countersign_credential_fetches_total", &["outcome=\"ok\""]) == 2).await;
    let sent: Vec<Option<String>> = agent.received().into_iter().map(|call| call.authorization).collect();
    assert_eq!(sent, [Some("agent-token-1".to_owned()), Some("agent-token-2".to_owned())]);
    assert_eq!(countersign.get("/").await.status, 200);
    countersign.hide(seen(&gateway, &keys));
    countersign.finish().await;
}

#[tokio::test]
async fn a_container_without_an_endpoint_is_told_so() {
    let plan = Plan::open().add(
        "[auth.task]\nkind = \"sigv4\"\nregion = \"eu-west-1\"\ncredentials = \"container\"\n\
         [[route]]\npath = \"/task\"\nupstream = \"https://a.example\"\nauth = \"task\"\n",
    );
    let world = plan.start().await;
    assert_eq!(world.get("/task").await.verdict(), (503, "credential-unavailable"));
    let text = world.countersign.page("/readyz").await.text();
    assert!(text.contains("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI and _FULL_URI are not set"), "{text}");
    world.finish().await;
}
