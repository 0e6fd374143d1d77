//! What API Gateway says in general: paths, tokens, policies, limits, failures.

use standin::{ApiKind, Authorizer, TokenForm};

use super::{challenge, http, names, provoked, respond, rest};
use crate::refusal::later;
use crate::support::{API, Plan, token};

const MISSING: &str = "MissingAuthenticationTokenException";

fn keyed() -> Plan {
    Plan::bearer().route("request_headers = { set = { x-api-key = \"an-api-key\" } }")
}

fn denied(rest: &str) -> standin::Answer {
    let message = format!(
        "User: arn:aws:iam::123456789012:user/AKIDUSER is not authorized to perform: execute-api:Invoke on resource: \
         arn:aws:execute-api:ap-northeast-1:{rest}"
    );
    super::rest(403, "AccessDeniedException", &message)
}

provoked! {
    an_unsigned_call_of_an_iam_method: Plan::open(), rest(403, MISSING, "Missing Authentication Token")
        => "no-such-path", "auth-none";
    an_open_route_before_a_cognito_authorizer: Plan::open(), rest(401, "UnauthorizedException", "Unauthorized")
        => "auth-none";
    no_route_of_an_http_api: Plan::bearer(), http(404, "Not Found") => "no-such-route", "backend-answer";
    an_api_key_that_is_missing: Plan::bearer(), rest(403, "ForbiddenException", "Forbidden")
        => "api-key-missing", "web-acl", "default-endpoint-disabled", "private-api";
    an_api_key_that_is_refused: keyed(), rest(403, "ForbiddenException", "Forbidden")
        => "api-key-refused", "web-acl", "default-endpoint-disabled", "private-api";
    an_http_api_that_says_forbidden_to_a_token: Plan::bearer(), http(403, "Forbidden")
        => "scope-missing", "web-acl", "default-endpoint-disabled", "backend-answer";
    an_http_api_that_says_forbidden_to_a_signature: Plan::sigv4(), http(403, "Forbidden")
        => "http-api-denied", "web-acl", "default-endpoint-disabled", "backend-answer";
    a_lambda_authorizer_that_says_no: Plan::bearer(),
        rest(403, "AccessDeniedException", "User is not authorized to access this resource with an explicit deny")
        => "authorizer-denied";
    a_lambda_authorizer_that_breaks: Plan::bearer(), rest(500, "AuthorizerFailureException", "Internal server error")
        => "authorizer-failed";
    a_lambda_authorizer_that_cannot_be_called: Plan::bearer(), rest(500, "AuthorizerConfigurationException", "x")
        => "authorizer-misconfigured";
    an_access_token_where_an_id_token_is_wanted: Plan::bearer(), rest(401, "UnauthorizedException", "Unauthorized")
        => "id-token-wanted", "scope-missing", "foreign-issuer", "token-form";
    a_token_that_the_api_takes_for_expired: Plan::bearer(),
        rest(401, "UnauthorizedException", "The incoming token has expired") => "token-expired";
    a_jwt_of_another_audience: Plan::bearer(),
        challenge(401, "scope=\"\" error=\"invalid_token\" error_description=\"the audience is invalid\"") => "audience";
    a_jwt_of_another_issuer: Plan::bearer(),
        challenge(401, "error=\"invalid_token\" error_description=\"invalid issuer\"") => "foreign-issuer";
    a_jwt_that_is_not_valid_yet: Plan::bearer(),
        challenge(401, "error=\"invalid_token\" error_description=\"the token is not yet valid\"") => "token-not-yet-valid";
    a_jwt_that_is_refused_without_a_reason: Plan::bearer(), challenge(401, "error=\"invalid_token\"")
        => "token-refused", "foreign-issuer", "audience", "token-form";
    a_signature_before_a_token_authorizer: Plan::sigv4(), rest(401, "UnauthorizedException", "Unauthorized")
        => "signature-to-token-method", "backend-answer";
    no_identity_policy: Plan::sigv4(),
        denied("123456789012:abc123/prod/GET/orders because no identity-based policy allows the execute-api:Invoke action")
        => "invoke-not-allowed", "resource-policy-denies";
    an_explicit_deny: Plan::sigv4(),
        denied("123456789012:abc123/prod/GET/orders with an explicit deny in an identity-based policy") => "explicit-deny";
    a_resource_policy: Plan::sigv4(),
        denied("123456789012:abc123/prod/GET/orders because no resource-based policy allows the execute-api:Invoke action")
        => "resource-policy-denies";
    an_api_of_another_account: Plan::sigv4(), denied("210987654321:abc123/prod/GET/orders")
        => "other-account", "invoke-not-allowed";
    a_resource_policy_that_meets_nobody: Plan::open(),
        rest(403, "AccessDeniedException", "not held") => "backend-answer", "authorizer-denied", "invoke-not-allowed";
    a_private_api_that_takes_the_caller_for_anonymous: Plan::bearer(),
        rest(403, "AccessDeniedException", "User: anonymous is not authorized to perform: execute-api:Invoke on resource: x")
        => "anonymous-denied", "private-api";
    a_request_that_the_validator_refuses: Plan::bearer(),
        rest(400, "BadRequestException", "Missing required request parameters: [id]") => "request-invalid";
    a_media_type_that_is_not_taken: Plan::bearer(), rest(415, "UnsupportedMediaTypeException", "Unsupported Media Type")
        => "media-type";
    a_rate_limit: Plan::bearer(), rest(429, "TooManyRequestsException", "Too Many Requests")
        => "throttled", "quota-exceeded";
    a_quota: Plan::bearer(), rest(429, "LimitExceededException", "Limit Exceeded") => "quota-exceeded";
    a_backend_that_breaks: Plan::bearer(), rest(502, "InternalServerErrorException", "Internal server error")
        => "integration-failed", "authorizer-failed";
    a_backend_that_is_not_there: Plan::bearer(), http(503, "Service Unavailable")
        => "integration-unavailable", "integration-timeout", "backend-answer";
    a_backend_that_takes_too_long: Plan::bearer(), rest(504, "InternalServerErrorException", "Endpoint request timed out")
        => "integration-timeout";
    a_payload_that_is_too_large: Plan::bearer(), rest(413, "RequestTooLargeException", "Request Too Long")
        => "payload-too-large";
    a_url_that_is_too_long: Plan::bearer(), respond(414, &[], "") => "uri-too-long", "backend-answer";
    a_head_that_is_too_large: Plan::bearer(), respond(431, &[], "") => "request-head-too-large", "backend-answer";
}

/// A route without a stage, and one to a path that no method has.
fn paths(auth: &str) -> String {
    format!(
        "[[route]]\npath = \"/bare\"\nupstream = \"https://{API}\"\nconnect_to = \"127.0.0.1:PORT\"\nauth = \"{auth}\"\n\
         [[route]]\npath = \"/nowhere\"\nupstream = \"https://{API}/test\"\nconnect_to = \"127.0.0.1:PORT\"\nauth = \"{auth}\"\n"
    )
}

#[tokio::test]
async fn paths_and_stages_that_a_rest_api_does_not_know() {
    let world = Plan::open().add(&paths("none")).start().await;
    let bare =
        names(&world.countersign, &world.get("/bare").await, &["stage-missing", "no-such-path", "auth-none"]).await;
    assert!(bare.contains(&format!("(GET /bare at {API})")), "{bare}");
    let hint = names(&world.countersign, &world.get("/nowhere?secret=1").await, &["no-such-path", "auth-none"]).await;
    assert!(hint.contains("(GET /test/nowhere at") && !hint.contains("secret"), "{hint}");
    world.finish().await;
}

#[tokio::test]
async fn a_token_at_a_rest_api_that_wants_a_signature_or_does_not_know_the_path() {
    let world = Plan::bearer().add(&paths("tokens")).start().await;
    names(&world.countersign, &world.get("/nowhere").await, &["token-to-iam-method", "no-such-path"]).await;
    world.finish().await;
}

#[tokio::test]
async fn a_token_that_is_foreign_to_an_http_api_and_one_without_its_scope() {
    let foreign = standin::TokenEndpoint::start(Vec::new()).await;
    let api = |kind: ApiKind, authorizer: Authorizer| {
        Plan::bearer().gateway(move |gateway| gateway.kind(kind).method("/prod/orders", authorizer))
    };
    let world = api(ApiKind::Http, token(&foreign, "authorization", TokenForm::Bearer)).start().await;
    let hint = names(&world.countersign, &world.get("/orders").await, &["token-signature", "foreign-issuer"]).await;
    assert!(hint.contains("the token has an invalid signature") && hint.contains("token_use access"), "{hint}");
    world.finish().await;
    let tokens =
        standin::TokenEndpoint::start(vec![crate::support::app_client("orders", "client-secret-5f1d0c")]).await;
    let verifier = tokens.verifier();
    let wants = Authorizer::Token {
        verifier,
        header: "authorization".to_owned(),
        form: TokenForm::Bearer,
        scope: Some("stock/write".to_owned()),
    };
    let world = api(ApiKind::Http, wants).start_with(tokens).await;
    let hint = names(&world.countersign, &world.get("/orders").await, &["scope-missing"]).await;
    assert!(hint.contains("the API wants \"stock/write\", the token has \"orders/read orders/write\""), "{hint}");
    world.finish().await;
}

#[tokio::test]
async fn a_token_that_is_no_jwt() {
    let tokens = standin::TokenEndpoint::start(Vec::new()).await;
    let answer = "{\"access_token\":\"an-opaque-token-77\",\"token_type\":\"Bearer\",\"expires_in\":3600}";
    tokens.script(respond(200, &[], answer));
    let mut world = Plan::bearer().start_with(tokens).await;
    world.countersign.hide(["an-opaque-token-77".to_owned()]);
    world.countersign.until_ready().await;
    world.gateway.script(rest(401, "UnauthorizedException", "Unauthorized"));
    names(&world.countersign, &world.get("/orders").await, &["token-opaque", "token-form"]).await;
    world.finish().await;
}

#[tokio::test]
async fn a_custom_domain_that_says_forbidden() {
    let routes = |lines: &str| {
        format!(
            "[[route]]\npath = \"/orders\"\nupstream = \"https://api.example\"\nserver_name = \"{API}\"\n\
             connect_to = \"127.0.0.1:PORT\"\nauth = \"none\"\n{lines}\n"
        )
    };
    let (cert, key) = standin::Authority::new().issue(&["client"]);
    for (lines, certificate) in [
        ("", "client-certificate-missing"),
        ("client_cert = \"c.pem\"\nclient_key = \"k.pem\"", "client-certificate-refused"),
    ] {
        let world = Plan::open().file("c.pem", &cert).file("k.pem", &key).add(&routes(lines)).start().await;
        world.gateway.script(rest(403, "ForbiddenException", "Forbidden"));
        let answer = world.get("/orders").await;
        names(&world.countersign, &answer, &["api-key-missing", "domain-mapping", certificate, "web-acl"]).await;
        world.finish().await;
    }
}

#[tokio::test]
async fn a_private_api_from_the_wrong_place() {
    let route = format!(
        "[[route]]\npath = \"/orders\"\nupstream = \"https://abc123-vpce-1.execute-api.ap-northeast-1.amazonaws.com/prod\"\n\
         server_name = \"{API}\"\nconnect_to = \"127.0.0.1:PORT\"\nauth = \"none\"\n"
    );
    let world = Plan::open().add(&route).start().await;
    world.gateway.script(rest(403, "ForbiddenException", "Forbidden"));
    names(&world.countersign, &world.get("/orders").await, &["private-api", "api-key-missing"]).await;
    world.finish().await;
}

#[tokio::test]
async fn a_users_id_token_where_an_access_token_is_wanted_is_told_by_the_login() {
    let world = super::logins::world("token = \"id\"\nscheme = \"\"", standin::Factor::None, "right-horse-12").await;
    world.gateway.script(rest(401, "UnauthorizedException", "Unauthorized"));
    let answer = world.countersign.get("/orders").await;
    names(&world.countersign, &answer, &["access-token-wanted", "foreign-issuer", "token-form"]).await;
    world.finish().await;
}

#[tokio::test]
async fn a_second_send_that_succeeds_leaves_nothing_to_explain() {
    let world = Plan::bearer().start().await;
    world.tokens.revoke(world.tokens.issued().last().unwrap());
    later().await;
    let answer = world.get("/orders").await;
    assert_eq!((answer.status, answer.header("x-countersign-hint")), (200, None));
    assert!(!world.countersign.log().contains("\"target\":\"diagnosis\""));
    world.finish().await;
}
