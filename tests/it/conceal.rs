//! Refusals that quote our authorisation: the caller reads everything but the secret.

use crate::support::{Answer, Piece, Plan, Wire};

const SESSION: &str = "IQoJb3JpZ2lu+session/token==";
const API_KEY: &str = "api-key-secret-0042";

/// A route that signs with temporary keys, and sends an API key.
fn route(wire: &Wire) -> String {
    format!(
        "[auth.session]\nkind = \"sigv4\"\nregion = \"ap-northeast-1\"\ncredentials = {{ static = {{ \
         access_key_id = {{ value = \"ASIDUSER\" }}, secret_access_key = {{ env = \"SECRET_KEY\" }}, \
         session_token = {{ env = \"SESSION\" }} }} }}\n[[route]]\npath = \"/signed\"\nauth = \"session\"\n\
         upstream = \"http://{}\"\nrequest_headers.set = {{ x-api-key = {{ env = \"API_KEY\" }} }}\n",
        wire.address()
    )
}

fn answer(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n{body}", body.len())
}

/// What the caller gets of an upstream's answer on the signed route.
async fn comes_back(bytes: &str) -> Answer {
    let wire = Wire::listen().await;
    let plan = Plan::open().secret("SESSION", SESSION).secret("API_KEY", API_KEY).add(&route(&wire));
    let world = plan.start().await;
    let mut client = world.countersign.connect().await;
    let (answer, ()) = tokio::join!(client.get("/signed"), async {
        let mut line = wire.accept().await;
        let head = line.head().await;
        assert!(head.contains(SESSION) && head.contains(API_KEY), "they were sent");
        line.write(bytes).await;
    });
    assert!(answer.whole && client.reader.is_silent());
    world.finish().await;
    answer
}

#[tokio::test]
async fn a_signature_mismatch_does_not_give_the_session_token_away() {
    let fields =
        "content-type: application/json\r\nx-amzn-errortype: InvalidSignatureException\r\ncontent-md5: abc=\r\n";
    for spelling in [SESSION.to_owned(), SESSION.replace('/', "\\/"), SESSION.replace('=', "\\u003d")] {
        let quoted = |token: &str| {
            format!(
                "{{\"message\":\"The request signature we calculated does not match the signature you provided.\\n\\n\
                 The Canonical String for this request should have been\\n'GET\\n/signed\\n\\nhost:x\\n\
                 x-amz-date:20261121T083000Z\\nx-amz-security-token:{token}\\n\\nhost;x-amz-date'\"}}"
            )
        };
        let answer = comes_back(&answer("403 Forbidden", fields, &quoted(&spelling))).await;
        assert_eq!(answer.status, 403);
        assert_eq!(answer.text(), quoted("[redacted]"));
        assert_eq!(answer.header("x-amzn-errortype"), Some("InvalidSignatureException"));
        assert!(answer.header("content-md5").is_none(), "it was of other bytes");
        assert!(answer.json()["message"].is_string(), "still JSON");
    }
}

#[tokio::test]
async fn keys_and_fields_are_searched_too() {
    let fields = format!("content-type: text/xml\r\nx-detail: key {API_KEY} and {SESSION}\r\n");
    let answer = comes_back(&answer("400 Bad Request", &fields, &format!("<k>{API_KEY}</k>"))).await;
    assert_eq!(answer.header("x-detail"), Some("key [redacted] and [redacted]"));
    assert_eq!(answer.text(), "<k>[redacted]</k>");
}

#[tokio::test]
async fn a_bearer_token_that_is_quoted_does_not_come_back() {
    let wire = Wire::listen().await;
    let table = format!("[[route]]\npath = \"/bearer\"\nauth = \"tokens\"\nupstream = \"http://{}\"\n", wire.address());
    let world = Plan::bearer().add(&table).start().await;
    let (answer, ()) = tokio::join!(world.get("/bearer"), async {
        let mut line = wire.accept().await;
        let head = line.head().await;
        let sent = head.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap();
        let token = sent.strip_prefix("Bearer ").unwrap();
        let fields = format!("www-authenticate: Basic realm=\"{token}\"\r\n");
        line.write(answer("401 Unauthorized", &fields, &format!("not this: {sent}; {token}"))).await;
    });
    assert_eq!((answer.status, answer.text().as_str()), (401, "not this: [redacted]; [redacted]"));
    assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"[redacted]\""));
    world.finish().await;
}

#[tokio::test]
async fn whatever_is_no_small_plain_text_of_a_refusal_passes_byte_for_byte() {
    let text = "content-type: text/plain\r\n";
    let large = format!("{SESSION}{}", "x".repeat(64 * 1024));
    for (status, fields, body) in [
        ("200 OK", text, SESSION),
        ("302 Found", text, SESSION),
        ("500 Internal Server Error", text, SESSION),
        ("403 Forbidden", "content-type: text/plain\r\ncontent-encoding: gzip\r\n", SESSION),
        ("403 Forbidden", "content-type: application/octet-stream\r\n", SESSION),
        ("403 Forbidden", text, large.as_str()),
        ("403 Forbidden", "content-md5: abc=\r\ncontent-type: application/json\r\n", "{\"message\":\"Forbidden\"}"),
    ] {
        let answer = comes_back(&answer(status, fields, body)).await;
        assert_eq!(answer.text(), body, "{status}");
        assert_eq!(answer.header("content-md5").is_some(), fields.contains("md5"));
    }
}

#[tokio::test]
async fn a_refusal_of_unknown_length_still_streams() {
    let wire = Wire::listen().await;
    let plan = Plan::open().secret("SESSION", SESSION).secret("API_KEY", API_KEY).add(&route(&wire));
    let world = plan.start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/signed", &[], b"").await;
    let mut line = wire.accept().await;
    line.head().await;
    line.write("HTTP/1.1 429 Too Many\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await;
    assert_eq!(client.reader.head("GET").await.status, 429);
    line.write("3\r\none\r\n").await;
    assert_eq!(client.reader.piece().await, Piece::Data(b"one".to_vec()));
    line.write("0\r\n\r\n").await;
    assert_eq!(client.reader.piece().await, Piece::End(Vec::new()));
    world.finish().await;
}

#[tokio::test]
async fn a_refusal_that_breaks_off_is_ours() {
    let wire = Wire::listen().await;
    let plan = Plan::open().secret("SESSION", SESSION).secret("API_KEY", API_KEY);
    let world = plan.upstream("body_idle_timeout = \"200ms\"").add(&route(&wire)).start().await;
    for (closes, verdict) in [(true, (502, "upstream-reset")), (false, (504, "upstream-timeout"))] {
        let (answer, ()) = tokio::join!(world.get("/signed"), async {
            let mut line = wire.accept().await;
            line.head().await;
            line.write("HTTP/1.1 403 Forbidden\r\ncontent-length: 9\r\n\r\nForb").await;
            if closes {
                line.half_close().await;
            }
            assert!(line.is_over().await);
        });
        assert_eq!(answer.verdict(), verdict);
    }
    world.finish().await;
}
