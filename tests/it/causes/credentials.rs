//! Credentials that cannot be fetched: token endpoints, STS, containers, stores.

use std::time::Duration;

use standin::{
    AccessKeys, Answer as Scripted, Authority, Authorizer, ContainerCredentials, Gateway, Role, Sts, TokenEndpoint,
};

use super::{names, respond};
use crate::support::{API, Countersign, Plan, REGION, Setup, app_client, user};

const SECRET: &str = "base-secret-key-c0ffee";

fn oauth(error: &str) -> Scripted {
    respond(400, &[], &serde_json::json!({ "error": error }).to_string())
}

macro_rules! refused {
    ($($name:ident: $answer:expr => $($code:literal),+;)*) => {$(
        #[tokio::test]
        async fn $name() {
            let tokens = TokenEndpoint::start(vec![app_client("orders", "client-secret-5f1d0c")]).await;
            tokens.script($answer);
            let world = Plan::bearer().start_with(tokens).await;
            world.countersign.until_ready().await;
            let answer = world.get("/orders").await;
            assert_eq!(answer.verdict(), (503, "credential-unavailable"));
            names(&world.countersign, &answer, &[$($code),+]).await;
            world.finish().await;
        }
    )*};
}

refused! {
    a_client_that_is_refused: oauth("invalid_client") => "client-refused";
    a_client_without_the_flow: oauth("unauthorized_client") => "client-not-allowed", "client-refused";
    a_scope_that_does_not_exist: oauth("invalid_scope") => "scope-unknown", "scope-not-allowed";
    a_scope_that_is_not_allowed: oauth("invalid_grant") => "scope-not-allowed", "client-not-allowed";
    a_grant_that_is_unknown: oauth("unsupported_grant_type") => "grant-unsupported";
    a_request_that_misses_something: oauth("invalid_request") => "token-request-invalid";
    a_url_that_is_no_token_endpoint: respond(404, &[], "<html>") => "token-url-wrong", "client-refused";
    an_answer_that_is_no_token: respond(200, &[], "<html>Welcome to the guest network</html>") => "token-unusable";
    a_token_endpoint_that_throttles: respond(429, &[], "{}") => "service-throttled";
    a_token_endpoint_with_an_outage: respond(500, &[], "") => "service-failing";
    a_token_endpoint_that_hangs_up: Scripted::Close => "connection-lost";
}

#[tokio::test]
async fn a_rotated_client_secret_and_scopes_of_others_are_told_by_the_endpoint_itself() {
    for (lines, secret, code) in
        [("", "another-secret", "client-refused"), ("scopes = [\"no/such\"]", "client-secret-5f1d0c", "scope-unknown")]
    {
        let tokens = TokenEndpoint::start(vec![app_client("orders", secret)]).await;
        let world = Plan::bearer().auth(lines).start_with(tokens).await;
        world.countersign.until_ready().await;
        names(&world.countersign, &world.get("/orders").await, &[code]).await;
        world.finish().await;
    }
}

#[tokio::test]
async fn a_first_token_that_takes_its_time() {
    let tokens = TokenEndpoint::start(vec![app_client("orders", "client-secret-5f1d0c")]).await;
    tokens.script(Scripted::Never);
    let world = Plan::bearer().start_with(tokens).await;
    let answer = world.get("/orders").await;
    let hint = answer.header("x-countersign-hint").unwrap();
    // Which of the two 5 s ends first is a matter of milliseconds.
    assert!(hint.starts_with("credential-slow: ") || hint.starts_with("answer-slow: "), "{hint}");
    world.finish().await;
}

/// One route `/orders` with `auth`; what it would call is not there.
async fn routed(auth: &str, edit: impl FnOnce(Setup) -> Setup) -> Countersign {
    let setup = Setup::new(&Authority::new()).secret("BASE", SECRET);
    let table = format!(
        "[auth.orders]\n{auth}\n[[route]]\nname = \"orders\"\nauth = \"orders\"\nupstream = \"https://{API}/prod\"\n\
         connect_to = \"127.0.0.1:9\"\n"
    );
    let countersign = edit(setup.add(&table)).start().await;
    countersign.until_ready().await;
    countersign
}

async fn named(countersign: Countersign, codes: &[&str]) {
    let answer = countersign.get("/orders").await;
    assert_eq!(answer.verdict(), (503, "credential-unavailable"));
    names(&countersign, &answer, codes).await;
    countersign.finish().await;
}

const KEYS: &str = "{ static = { access_key_id = { value = \"AKIDBASE\" }, secret_access_key = { env = \"BASE\" } } }";

async fn sts(lines: &str, script: Option<Scripted>, codes: &[&str]) {
    let keys = AccessKeys::new();
    keys.add(user("AKIDBASE", SECRET));
    let arn = "arn:aws:iam::210987654321:role/orders";
    let role = Role {
        arn: arn.to_owned(),
        external_id: Some("team-7".to_owned()),
        trusted: vec!["AKIDBASE".to_owned()],
        lifetime: Duration::from_hours(1),
    };
    let sts = Sts::start(keys.clone(), REGION, vec![role]).await;
    if let Some(answer) = script {
        sts.script(answer);
    } else if codes == ["sts-keys-unknown"] {
        keys.remove("AKIDBASE");
    }
    let auth = format!(
        "kind = \"sigv4\"\ncredentials = {KEYS}\n[auth.orders.assume_role]\narn = \"{arn}\"\nendpoint = \"{}\"\n{lines}",
        sts.url()
    );
    named(routed(&auth, |setup| setup).await, codes).await;
}

fn fault(status: u16, code: &str, message: &str) -> Scripted {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error><RequestId>r</RequestId></ErrorResponse>"
    );
    Scripted::Respond {
        status,
        headers: vec![("content-type".to_owned(), "text/xml".to_owned())],
        body: body.into_bytes(),
    }
}

#[tokio::test]
async fn roles_that_are_not_given() {
    sts("external_id = \"team-8\"", None, &["role-not-assumable"]).await;
    sts("external_id = \"team-7\"", None, &["sts-keys-unknown"]).await;
    let long = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.";
    for (status, code, message, codes) in [
        (400, "ValidationError", long, &["role-duration", "role-request-invalid"][..]),
        (400, "ValidationError", "1 validation error detected: Value at 'roleArn'", &["role-request-invalid"]),
        (400, "MalformedPolicyDocument", "Syntax errors in policy.", &["role-request-invalid"]),
        (400, "PackedPolicyTooLarge", "too large", &["role-request-invalid"]),
        (403, "RegionDisabledException", "STS is not activated in this region", &["sts-region-disabled"]),
        (403, "ExpiredToken", "The security token included in the request is expired", &["sts-keys-expired"]),
        (403, "SignatureDoesNotMatch", "The request signature we calculated", &["sts-signature"]),
        (403, "SomethingNew", "who knows", &["credential-refused"]),
    ] {
        sts("external_id = \"team-7\"", Some(fault(status, code, message)), codes).await;
    }
}

#[tokio::test]
async fn a_container_without_a_role_or_with_odd_variables() {
    let auth = "kind = \"sigv4\"\ncredentials = \"container\"";
    named(routed(auth, |setup| setup).await, &["container-variables-missing"]).await;
    let foreign = |setup: Setup| setup.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://203.0.113.7/keys");
    named(routed(auth, foreign).await, &["container-endpoint-foreign"]).await;
    let lifetime = Duration::from_hours(1);
    let container = ContainerCredentials::start(AccessKeys::new(), "arn:aws:iam::123456789012:role/t", lifetime).await;
    container.require_authorization("container-token-6f");
    let url = container.url();
    let asked = |setup: Setup| setup.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url);
    named(routed(auth, asked).await, &["container-refused"]).await;
}

/// A secret store that gives one answer.
async fn store(answer: Scripted, codes: &[&str]) {
    let store = Gateway::builder().method("/", Authorizer::Open).start().await;
    store.script(answer);
    let auth = format!(
        "kind = \"client-credentials\"\ntoken_url = \"http://127.0.0.1:9/token\"\nclient_id = \"orders\"\n\
         client_secret = {{ secretsmanager = \"prod/orders\", key = \"secret\", region = \"{REGION}\", credentials = {KEYS}, \
         endpoint = \"http://{}\" }}",
        store.address()
    );
    named(routed(&auth, |setup| setup).await, codes).await;
}

#[tokio::test]
async fn stores_that_do_not_give_the_secret() {
    let fault = |kind: &str| respond(400, &[], &serde_json::json!({"__type": kind, "Message": "no"}).to_string());
    store(fault("AccessDeniedException"), &["store-denied"]).await;
    store(fault("ResourceNotFoundException"), &["store-missing"]).await;
    store(fault("DecryptionFailure"), &["store-refused"]).await;
    store(respond(200, &[], "{\"SecretString\":\"{}\"}"), &["secret-unfit"]).await;
}

#[tokio::test]
async fn a_token_endpoint_that_nobody_serves() {
    let auth = "kind = \"client-credentials\"\ntoken_url = \"http://127.0.0.1:9/token\"\nclient_id = \"orders\"\n\
                client_secret = { env = \"BASE\" }";
    named(routed(auth, |setup| setup).await, &["port-closed"]).await;
}

#[tokio::test]
async fn a_token_file_that_is_not_there() {
    let odd = |setup: Setup| {
        let setup = setup.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/keys");
        setup.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/no/such/file")
    };
    named(routed("kind = \"sigv4\"\ncredentials = \"container\"", odd).await, &["secret-file"]).await;
}
