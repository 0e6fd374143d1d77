//! Why a request failed: each failure provoked at a stand-in, and its cause read from the answer and the log.

mod answers;
mod cache;
mod credentials;
mod logins;
mod signatures;
mod way;

use standin::Answer as Scripted;

use crate::support::{Answer, Countersign, Plan};

/// An answer as a REST API gives it.
fn rest(status: u16, kind: &str, message: &str) -> Scripted {
    let fields = [("x-amzn-errortype", kind), ("x-amz-apigw-id", "dGhpcyBpcyBub25l=")];
    respond(status, &fields, &serde_json::json!({ "message": message }).to_string())
}

/// An answer as an HTTP API gives it.
fn http(status: u16, message: &str) -> Scripted {
    respond(status, &[("apigw-requestid", "JKJaXmPLvHcESHA=")], &serde_json::json!({ "message": message }).to_string())
}

/// The refusal of a token by an HTTP API.
fn challenge(status: u16, words: &str) -> Scripted {
    let value = format!("Bearer {words}");
    let fields = [("www-authenticate", value.as_str()), ("apigw-requestid", "JKJaXmPLvHcESHA=")];
    respond(status, &fields, "{\"message\":\"Unauthorized\"}")
}

fn respond(status: u16, fields: &[(&str, &str)], body: &str) -> Scripted {
    let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    headers.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Scripted::Respond { status, headers, body: body.as_bytes().to_vec() }
}

/// Checks that answer and log name these causes, the likeliest first; returns the hint.
async fn names(countersign: &Countersign, answer: &Answer, codes: &[&str]) -> String {
    let hint = answer.header("x-countersign-hint").unwrap_or_else(|| panic!("no hint: {answer:?}")).to_owned();
    let (first, others) = codes.split_first().unwrap();
    assert!(hint.starts_with(&format!("{first}: ")) && hint.contains(". Fix: "), "{hint}");
    assert!(hint.is_ascii() && hint.len() <= 640, "{hint}");
    if !others.is_empty() {
        assert!(hint.ends_with(&format!(". Or: {}", others.join(", "))), "{hint}");
    }
    if answer.code().is_some() {
        assert_eq!(answer.json()["hint"], hint.as_str());
    }
    let line = countersign.access_line(answer.header("x-request-id").unwrap()).await;
    assert_eq!(line["cause"], **first, "{line}");
    let log = countersign.log();
    let cause = format!("\"cause\":\"{first}\"");
    let said = log.lines().find(|line| line.contains("\"target\":\"diagnosis\"") && line.contains(&cause));
    let said: serde_json::Value =
        serde_json::from_str(said.unwrap_or_else(|| panic!("not in the log: {log}"))).unwrap();
    // `cargo nextest run causes --success-output final` makes the table of all of them.
    println!("TABLE | {first} | {hint} | {} ({}) |", said["message"], said["evidence"]);
    hint
}

/// Provokes each failure by an answer of the API, on a route of this kind.
macro_rules! provoked {
    ($($name:ident: $plan:expr, $answer:expr => $($code:literal),+;)*) => {$(
        #[tokio::test]
        async fn $name() {
            let world = $plan.start().await;
            world.gateway.script($answer);
            let answer = world.get("/orders").await;
            crate::causes::names(&world.countersign, &answer, &[$($code),+]).await;
            world.finish().await;
        }
    )*};
}
use provoked;

#[tokio::test]
async fn a_cause_is_said_once_and_then_counted() {
    let world = Plan::sigv4().start().await;
    for _ in 0..100 {
        world.gateway.script(rest(403, "MissingAuthenticationTokenException", "Missing Authentication Token"));
        assert_eq!(world.get("/orders").await.status, 403);
    }
    let log = world.countersign.log();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .filter(|line| line.contains("\"target\":\"diagnosis\""))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let said: Vec<_> = lines.iter().map(|line| (line["cause"].as_str().unwrap(), line["times"].as_u64())).collect();
    assert_eq!(said, [("no-such-path", None), ("no-such-path", Some(10)), ("no-such-path", Some(100))]);
    assert!(lines[0]["fix"].as_str().unwrap().contains("countersign explain"), "{}", lines[0]);
    world.finish().await;
}

#[tokio::test]
async fn what_goes_well_and_what_a_backend_says_carries_no_hint() {
    let world = Plan::bearer().start().await;
    for (status, body) in [
        (200, "{\"message\":\"Forbidden\"}"),
        (404, "{\"message\":\"order 7 is unknown\"}"),
        (403, "{\"error\":\"not yours\"}"),
        (500, "{\"error\":\"oops\"}"),
        (502, "<html>"),
    ] {
        world.gateway.script(respond(status, &[("apigw-requestid", "x")], body));
        let answer = world.get("/orders").await;
        assert_eq!((answer.status, answer.header("x-countersign-hint")), (status, None), "{body}");
        assert_eq!(answer.text(), body);
    }
    world.gateway.script(respond(200, &[("x-countersign-hint", "trust me")], ""));
    assert_eq!(world.get("/orders").await.header("x-countersign-hint"), None, "the API cannot speak for us");
    assert!(!world.countersign.log().contains("\"target\":\"diagnosis\""));
    world.finish().await;
}
