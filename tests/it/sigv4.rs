//! Signatures: made over what is sent, for every method and every body, and verified by code that is not ours.

use countersign::message::body::Sha256Hex;
use standin::{AccessKey, Alpn, Authorizer};

use crate::support::{Plan, World, held, hold};

const LIMIT: usize = 256 * 1024;

async fn world(alpn: Alpn) -> World {
    Plan::sigv4().alpn(alpn).upstream("max_body = \"256KiB\"").start().await
}

async fn every_method_and_size(alpn: Alpn) {
    let world = world(alpn).await;
    let mut client = world.countersign.connect().await;
    let mut asked = 0;
    for method in ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"] {
        for size in [0, 11, 70_000, LIMIT] {
            let body = vec![b'x'; size];
            let fields = [("content-type", "application/json"), ("x-amz-meta", "signed too")];
            let answer = client.ask(method, "/orders/42?b=2&a=1", &fields, &body).await;
            assert_eq!(answer.status, 200, "{method} {size}: {}", answer.text());
            asked += 1;
            let received = world.gateway.received().pop().unwrap();
            assert_eq!(received.verdict.as_deref(), Ok("iam"), "{method} {size}");
            assert_eq!(received.body_sha256, Sha256Hex::of(&body).as_str(), "{method} {size}");
            assert_eq!(received.target, "/prod/orders/42?b=2&a=1");
            if alpn == Alpn::Http1 {
                let length = (size > 0 || matches!(method, "POST" | "PUT" | "PATCH")).then(|| size.to_string());
                assert_eq!(received.header("content-length"), length.as_deref(), "{method} {size}");
            }
        }
    }
    assert_eq!(world.gateway.requests(), asked);
    world.finish().await;
}

#[tokio::test]
async fn every_method_and_size_is_signed_over_http_1() {
    every_method_and_size(Alpn::Http1).await;
}

#[tokio::test]
async fn every_method_and_size_is_signed_over_http_2() {
    every_method_and_size(Alpn::Http2).await;
}

#[tokio::test]
async fn a_mebibyte_is_signed() {
    let world = Plan::sigv4().start().await;
    let body = vec![7; 1024 * 1024];
    assert_eq!(world.countersign.ask("PUT", "/big", &[], &body).await.status, 200);
    assert_eq!(world.only().body_sha256, Sha256Hex::of(&body).as_str());
    world.finish().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_sent() {
    let world = world(Alpn::Both).await;
    let mut client = world.countersign.connect().await;
    let head = format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", LIMIT + 1);
    let answer = client.raw(head).await;
    assert_eq!(answer.verdict(), (413, "body-too-large"));
    assert!(client.reader.is_over().await, "the body would be read as the next request");
    assert_eq!(world.gateway.requests(), 0);
    world.finish().await;
}

#[tokio::test]
async fn a_chunked_body_is_refused_once_it_is_over_the_limit() {
    let world = world(Alpn::Both).await;
    let mut client = world.countersign.connect().await;
    client.writer.chunked("POST", "/").await;
    client.writer.chunk(vec![b'x'; LIMIT]).await;
    client.writer.chunk("y").await;
    assert_eq!(client.reader.answer("POST").await.verdict(), (413, "body-too-large"));
    assert_eq!(world.gateway.requests(), 0);
    world.finish().await;
}

#[tokio::test]
async fn a_chunked_body_goes_out_whole_with_its_length() {
    let world = world(Alpn::Http1).await;
    let mut client = world.countersign.connect().await;
    for pieces in [vec![], vec!["one"], vec!["one, ", "two, ", "three"]] {
        client.writer.chunked("POST", "/").await;
        for piece in &pieces {
            client.writer.chunk(piece).await;
        }
        client.writer.end().await;
        let answer = client.reader.answer("POST").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let received = world.gateway.received().pop().unwrap();
        let whole = pieces.concat();
        assert_eq!(received.body_sha256, Sha256Hex::of(whole.as_bytes()).as_str());
        assert_eq!(received.header("content-length"), Some(whole.len().to_string().as_str()));
        assert!(received.header("transfer-encoding").is_none());
    }
    world.finish().await;
}

#[tokio::test]
async fn what_is_sent_is_what_was_signed_for_odd_targets() {
    for alpn in [Alpn::Http1, Alpn::Http2] {
        let world = world(alpn).await;
        let mut client = world.countersign.connect().await;
        for (target, sent) in [
            ("/a%20b/c", "/prod/a%20b/c"),
            ("/a+b;c=d,e@f:g", "/prod/a+b;c=d,e@f:g"),
            ("/%E3%81%82/~x", "/prod/%E3%81%82/~x"),
            ("/%e3%81%82", "/prod/%e3%81%82"),
            ("/a//b/", "/prod/a//b/"),
            ("/x?a=1&a=2&b&&c=%20+%7E", "/prod/x?a=1&a=2&b&c=%20%20~"),
            ("/x?z=1&a=b=c", "/prod/x?z=1&a=b%3Dc"),
            ("/x?", "/prod/x?"),
            ("/x?q=/../&%e3%81%82", "/prod/x?q=%2F..%2F&%E3%81%82"),
            ("/%25%2520", "/prod/%25%2520"),
            ("/'()*!$&", "/prod/'()*!$&"),
        ] {
            let answer = client.get(target).await;
            assert_eq!(answer.status, 200, "{target}: {}", answer.text());
            assert_eq!(world.gateway.received().pop().unwrap().target, sent);
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn odd_fields_of_a_client_do_not_break_the_signature() {
    let world = world(Alpn::Both).await;
    for fields in [
        &[("te", "trailers"), ("connection", "te, x-a"), ("x-a", "1")][..],
        &[("user-agent", "  spaced   out ")],
        &[("x-b", "1"), ("x-b", "2")],
        &[("content-type", "text/plain"), ("content-type", "text/html")],
        &[("content-type", "a\u{e9}")],
        &[("x-amz-meta-a", "1"), ("x-amz-meta-a", "2"), ("x-amz-meta-b", "")],
        &[("x-amzn-trace-id", "Root=1-5759e988-bd862e3fe1be46a994272793")],
        &[("cookie", "a=1"), ("cookie", "b=2")],
        &[
            ("x-amz-date", "20000101T000000Z"),
            ("x-amz-security-token", "forged"),
            ("authorization", "AWS4-HMAC-SHA256 x"),
        ],
        &[("x-amz-content-sha256", "0000"), ("x_amz_security_token", "forged")],
        &[("range", "bytes=0-1"), ("accept-encoding", "gzip"), ("content-encoding", "gzip")],
    ] {
        let answer = world.countersign.ask("POST", "/", fields, b"body").await;
        assert_eq!(answer.status, 200, "{fields:?}: {}", answer.text());
    }
    world.finish().await;
}

#[tokio::test]
async fn an_amz_field_that_signers_read_differently_is_refused() {
    let world = world(Alpn::Both).await;
    let answer = world.countersign.ask("GET", "/", &[("x-amz-meta", "two  spaces")], b"").await;
    assert_eq!(answer.verdict(), (400, "bad-request"));
    assert!(answer.text().contains("x-amz-meta"), "{}", answer.text());
    assert_eq!(world.gateway.requests(), 0);
    world.finish().await;
}

#[tokio::test]
async fn a_presigned_query_is_refused() {
    for plan in [Plan::sigv4(), Plan::bearer()] {
        let world = plan.start().await;
        assert_eq!(world.get("/?X-Amz-Signature=00").await.verdict(), (400, "bad-request"));
        assert_eq!(world.get("/?a&x%2damz-date=1").await.verdict(), (400, "bad-request"));
        assert_eq!(world.gateway.requests(), 0);
        world.finish().await;
    }
}

#[tokio::test]
async fn keys_of_a_session_carry_their_token() {
    let session = "session-token-0a1b+/==";
    let plan = Plan::sigv4().secret("SESSION_SECRET", "session-secret-4411").secret("SESSION_TOKEN", session).add(
        "[auth.session]\nkind = \"sigv4\"\ncredentials = { static = { access_key_id = { value = \"ASIASESSION\" }, \
         secret_access_key = { env = \"SESSION_SECRET\" }, session_token = { env = \"SESSION_TOKEN\" } } }\n\
         [[route]]\npath = \"/session\"\nauth = \"session\"\nconnect_to = \"127.0.0.1:PORT\"\n\
         upstream = \"https://abc123.execute-api.ap-northeast-1.amazonaws.com/prod\"\n",
    );
    let world = plan.start().await;
    world.keys.add(AccessKey {
        id: "ASIASESSION".to_owned(),
        secret: "session-secret-4411".to_owned(),
        session_token: Some(session.to_owned()),
        principal: "arn:aws:sts::123456789012:assumed-role/app/1".to_owned(),
        expires: None,
    });
    let answer = world.get("/session").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.only().values("x-amz-security-token"), [session.as_bytes()]);
    world.finish().await;
}

#[tokio::test]
async fn a_refusal_of_the_api_passes_unchanged() {
    let world = Plan::sigv4().start().await;
    let mut key = world.keys.get("AKIDUSER").unwrap();
    key.secret = "rotated-meanwhile".to_owned();
    world.keys.add(key);
    let answer = world.get("/orders").await;
    assert_eq!(answer.verdict(), (403, "none"));
    assert_eq!(answer.header("x-amzn-errortype"), Some("InvalidSignatureException"));
    assert!(answer.text().contains("The request signature we calculated does not match"), "{}", answer.text());
    world.finish().await;
}

#[tokio::test]
async fn an_unsigned_payload_streams() {
    // The stand-in's authorizer wants the body signed, so what is sent is looked at instead.
    let (responder, mut taken) = hold();
    let plan = Plan::sigv4().auth("payload = \"unsigned\"").route("path = \"/\"");
    let world = plan
        .gateway(|gateway| gateway.method("/prod/up", Authorizer::Open))
        .respond("/prod/up", responder)
        .start()
        .await;
    let mut client = world.countersign.connect().await;
    client.writer.chunked("PUT", "/up").await;
    client.writer.chunk("first").await;
    let mut held = held(&mut taken).await;
    assert_eq!(held.piece().await, "first");
    let received = world.only();
    assert_eq!(received.header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
    assert!(received.header("authorization").unwrap().contains("x-amz-content-sha256"));
    client.writer.end().await;
    held.answer_with(standin::body::full("done"));
    assert_eq!(client.reader.answer("PUT").await.text(), "done");
    world.finish().await;
}

#[tokio::test]
async fn the_region_is_read_from_the_name_or_given() {
    let plan = |auth: &str| Plan::sigv4().auth(auth);
    let world = plan("").start().await;
    assert_eq!(world.get("/").await.status, 200);
    assert!(world.only().header("authorization").unwrap().contains("/ap-northeast-1/execute-api/aws4_request"));
    world.finish().await;
    let world = plan("region = \"eu-west-1\"\nservice = \"vpc-lattice-svcs\"").start().await;
    assert_eq!(world.get("/").await.status, 403);
    assert!(world.only().header("authorization").unwrap().contains("/eu-west-1/vpc-lattice-svcs/aws4_request"));
    world.finish().await;
}
