//! Signatures that an API refuses: keys, clocks, scopes, and what was changed on the way.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use standin::{AccessKey, Answer as Scripted};

use super::{names, provoked, respond, rest};
use crate::refusal::later;
use crate::support::{API, Plan, World, user};

const INVALID: &str = "InvalidSignatureException";

provoked! {
    a_clock_that_is_behind: Plan::sigv4(), rest(403, INVALID,
        "Signature expired: 20261121T080000Z is now earlier than 20261121T081000Z (20261121T081500Z - 5 min.)")
        => "clock-behind";
    a_clock_that_is_ahead: Plan::sigv4(), rest(403, INVALID,
        "Signature not yet current: 20261121T090000Z is still later than 20261121T082000Z (20261121T081500Z + 5 min.)")
        => "clock-ahead";
    a_date_that_is_not_the_scopes: Plan::sigv4(),
        rest(403, INVALID, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP")
        => "scope-date", "clock-behind", "clock-ahead";
    a_mismatch_without_a_canonical_string: Plan::sigv4(),
        rest(403, INVALID, "The request signature we calculated does not match the signature you provided.")
        => "wrong-secret-key", "host-changed", "request-rewritten", "body-changed";
    an_authorization_that_was_mangled: Plan::sigv4(), rest(403, "IncompleteSignatureException",
        "Invalid key=value pair (missing equal-sign) in Authorization header") => "authorization-mangled", "no-such-path";
    a_signed_path_that_does_not_exist: Plan::sigv4(),
        rest(403, "MissingAuthenticationTokenException", "Missing Authentication Token") => "no-such-path";
}

#[tokio::test]
async fn another_region_and_another_service() {
    for (lines, codes, words) in [
        ("region = \"us-east-1\"", "wrong-region", "signed for execute-api in us-east-1"),
        ("service = \"lambda\"", "wrong-service", "signed for lambda in ap-northeast-1"),
    ] {
        let world = Plan::sigv4().auth(lines).start().await;
        let hint = names(&world.countersign, &world.get("/orders").await, &[codes]).await;
        assert!(hint.contains(words), "{hint}");
        world.finish().await;
    }
}

#[tokio::test]
async fn a_wrong_secret_key_is_told_from_the_quoted_canonical_string() {
    let world = Plan::sigv4().start().await;
    world.keys.add(user("AKIDUSER", "another-secret-access-key"));
    let answer = world.countersign.ask("POST", "/orders?b=2&a=1", &[("content-type", "text/plain")], b"body").await;
    let hint = names(&world.countersign, &answer, &["wrong-secret-key"]).await;
    assert!(hint.contains("the API's canonical request is the one that was signed; key ...USER"), "{hint}");
    world.finish().await;
}

#[tokio::test]
async fn a_key_that_aws_does_not_know_and_one_that_has_expired() {
    let world = Plan::sigv4().start().await;
    world.keys.remove("AKIDUSER");
    later().await;
    names(&world.countersign, &world.get("/orders").await, &["unknown-key", "session-token-missing"]).await;
    let hour = Duration::from_hours(1);
    let expired = AccessKey { expires: Some(standin::Clock::system().now() - hour), ..known(&world) };
    world.keys.add(expired);
    names(&world.countersign, &world.get("/orders").await, &["keys-expired"]).await;
    world.finish().await;
}

fn known(_world: &World) -> AccessKey {
    user("AKIDUSER", "secret-access-key-77ab1e")
}

/// A route that signs with temporary keys, with or without their session token.
fn temporary(lines: &str) -> Plan {
    let tables = format!(
        "[auth.temporary]\nkind = \"sigv4\"\ncredentials = {{ static = {{ access_key_id = {{ value = \"ASIATEMPORARY\" }}, \
         secret_access_key = {{ env = \"SECRET_KEY\" }}{lines} }} }}\n[[route]]\npath = \"/temporary\"\n\
         upstream = \"https://{API}/prod\"\nconnect_to = \"127.0.0.1:PORT\"\nauth = \"temporary\"\n"
    );
    Plan::sigv4().secret("SESSION", "a-session-token-of-others-41").add(&tables)
}

#[tokio::test]
async fn temporary_keys_without_their_session_token_or_with_another() {
    for (lines, codes) in [
        ("", ["session-token-missing", "unknown-key"]),
        (", session_token = { env = \"SESSION\" }", ["unknown-key", "session-token-foreign"]),
    ] {
        let world = temporary(lines).start().await;
        names(&world.countersign, &world.get("/temporary").await, &codes).await;
        world.finish().await;
    }
}

/// Signs with a wrong secret, and has the API quote a canonical string in which `from` became `to`.
async fn quoted(lines: &str, from: &str, to: &str) -> (World, crate::support::Answer) {
    let world = Plan::sigv4().auth(lines).start().await;
    world.keys.add(user("AKIDUSER", "another-secret-access-key"));
    let fields = [("content-type", "text/plain"), ("x-amz-meta", "one")];
    let first = world.countersign.ask("POST", "/orders?b=2&a=1", &fields, b"body").await;
    let message = first.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains(from), "{from}: {message}");
    world.gateway.script(rest(403, INVALID, &message.replacen(from, to, 1)));
    let second = world.countersign.ask("POST", "/orders?b=2&a=1", &fields, b"body").await;
    (world, second)
}

#[tokio::test]
async fn what_was_changed_after_signing_is_named_by_its_first_line() {
    for (from, to, code, words) in [
        (API, "api.example", "host-changed", "the API has \"api.example\""),
        ("'POST\n", "'PUT\n", "request-rewritten", "method: signed \"POST\""),
        ("/prod/orders\n", "/orders\n", "request-rewritten", "path: signed \"/prod/orders\", the API has \"/orders\""),
        ("a=1&b=2", "a=1&b=3", "request-rewritten", "query: the parameter \"b\" differs"),
        ("x-amz-meta:one", "x-amz-meta:two", "header-changed", "the field x-amz-meta has another value"),
        ("content-type:text/plain", "content-type:text/plain; charset=utf-8", "header-changed", "content-type: signed"),
        ("230d8358", "00000000", "body-changed", "payload hash: signed \"230d8358"),
    ] {
        let (world, answer) = quoted("", from, to).await;
        let hint = names(&world.countersign, &answer, &[code]).await;
        assert!(hint.contains(words), "{hint}");
        world.finish().await;
    }
}

#[tokio::test]
async fn an_unsigned_body_that_the_service_wants_signed() {
    let world = Plan::sigv4().auth("payload = \"unsigned\"").start().await;
    let answer = world.countersign.ask("POST", "/orders", &[], b"body").await;
    names(&world.countersign, &answer, &["payload-not-signed"]).await;
    world.finish().await;
}

#[tokio::test]
async fn a_clock_that_is_really_off_is_told_with_how_far() {
    // Too large to be sent again, and the stand-in would want it signed: so the API only says what it says.
    let theirs = move || standin::Clock::system().now() + Duration::from_mins(10);
    let refuse: standin::Responder = Arc::new(move |_request, _principal| {
        let mut answer = http::Response::new(standin::body::full("{\"message\":\"Signature expired: now\"}"));
        *answer.status_mut() = http::StatusCode::FORBIDDEN;
        answer.headers_mut().insert("x-amzn-errortype", INVALID.parse().unwrap());
        answer.headers_mut().insert("content-type", "application/json".parse().unwrap());
        answer.headers_mut().insert("date", httpdate::fmt_http_date(theirs()).parse().unwrap());
        Box::pin(async { answer })
    });
    let plan = Plan::sigv4().auth("payload = \"unsigned\"").respond("/prod/up", refuse);
    let world = plan.gateway(|gateway| gateway.method("/prod/up", standin::Authorizer::Open)).start().await;
    let answer = world.countersign.ask("POST", "/up", &[], &vec![7; 70_000]).await;
    let hint = names(&world.countersign, &answer, &["clock-behind"]).await;
    let ahead = hint.split("the API's clock is ").nth(1).and_then(|rest| rest.split(' ').next());
    let ahead: i64 = ahead.unwrap_or_else(|| panic!("{hint}")).parse().unwrap();
    assert!((590..=610).contains(&ahead), "{hint}");
    world.finish().await;
}

#[tokio::test]
async fn a_session_token_that_is_quoted_is_neither_compared_nor_shown() {
    let world = temporary(", session_token = { env = \"SESSION\" }").start().await;
    world.keys.add(AccessKey {
        session_token: Some("a-session-token-of-others-41".to_owned()),
        expires: None::<SystemTime>,
        ..user("ASIATEMPORARY", "another-secret-access-key")
    });
    let answer = world.get("/temporary").await;
    assert!(answer.text().contains("x-amz-security-token:[redacted]"), "{}", answer.text());
    let hint = names(&world.countersign, &answer, &["wrong-secret-key"]).await;
    assert!(!hint.contains("of-others"), "{hint}");
    world.finish().await;
}

#[tokio::test]
async fn odd_words_in_a_refusal_break_nothing() {
    let world = Plan::sigv4().start().await;
    for body in [
        "{\"message\":\"The Canonical String for this request should have been\\n'\"}".to_owned(),
        "{\"message\":\"The Canonical String for this request should have been\\n''\\n\\nThe String-to-Sign\"}"
            .to_owned(),
        format!("{{\"message\":\"{}\"}}", "\\u0000\\r\\nset-cookie: a=b \u{e4}".repeat(99)),
        "[".repeat(30_000),
        "not JSON".to_owned(),
    ] {
        world.gateway.script(refusal(&body));
        let answer = world.get("/orders").await;
        names(&world.countersign, &answer, &["wrong-secret-key"]).await;
        assert!(answer.header("set-cookie").is_none());
    }
    world.finish().await;
}

fn refusal(body: &str) -> Scripted {
    respond(403, &[("x-amzn-errortype", INVALID)], body)
}
