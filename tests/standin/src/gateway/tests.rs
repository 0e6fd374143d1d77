//! Behaviour of the gateway over its socket.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::json;

use super::*;
use crate::body::{channel, empty, full};
use crate::encoding::sha256_hex;
use crate::keys::AccessKey;
use crate::sigv4::{Presented, Rules, sign};
use crate::testing::{get, json_body, post, send, send_body, send_tls};
use crate::token::Mint;

const HOST: &str = "abc123.execute-api.eu-west-1.amazonaws.com";
const HOUR: Duration = Duration::from_hours(1);

fn session() -> AccessKey {
    AccessKey {
        id: "ASIAROLE".to_owned(),
        secret: "secret".to_owned(),
        session_token: Some("session token".to_owned()),
        principal: "arn:aws:sts::123456789012:assumed-role/invoke/app".to_owned(),
        expires: None,
    }
}

fn iam() -> Authorizer {
    let keys = AccessKeys::new();
    keys.add(session());
    Authorizer::Iam { keys, region: "eu-west-1".to_owned(), service: "execute-api".to_owned() }
}

fn token(mint: &Arc<Mint>, scope: Option<&str>) -> Authorizer {
    Authorizer::Token {
        verifier: TokenVerifier::new(Arc::clone(mint)),
        header: "Authorization".to_owned(),
        form: TokenForm::Bearer,
        scope: scope.map(ToOwned::to_owned),
    }
}

/// A signed POST to the API's own name.
fn signed(target: &str, body: &str) -> Request<Body> {
    let headers =
        vec![("host".to_owned(), HOST.as_bytes().to_vec()), ("x-amz-meta".to_owned(), b"kept  together".to_vec())];
    let payload = sha256_hex(body.as_bytes());
    let presented = Presented { method: "POST", target, authority: None, headers: &headers, payload: &payload };
    let rules = Rules { region: "eu-west-1", service: "execute-api", window: Duration::ZERO };
    let added = sign(&presented, &rules, &session(), SystemTime::now());
    let mut request = Request::builder().method("POST").uri(target);
    for (name, value) in headers.into_iter().chain(added) {
        request = request.header(name, value);
    }
    request.body(full(body.to_owned())).unwrap()
}

fn url(gateway: &Gateway, target: &str) -> String {
    format!("http://{}{target}", gateway.address())
}

fn error_type(response: &Response<Bytes>) -> (u16, &str) {
    let error_type = response.headers().get("x-amzn-errortype").map_or("", |value| value.to_str().unwrap());
    (response.status().as_u16(), error_type)
}

#[tokio::test]
async fn an_open_method_echoes_what_it_was_sent() {
    let gateway = Gateway::builder().method("/", Authorizer::Open).start().await;
    let target = "/prod//a%2Fb/../c?q=a+b&q=%ff";
    let response =
        post(&url(&gateway, target), &[("x-one", "1"), ("x-one", "2"), ("authorization", "Bearer abc")], "body").await;
    assert_eq!(response.status(), 200);
    assert!(response.headers().contains_key("x-amzn-requestid"));
    let echo = json_body(response);
    assert_eq!((&echo["method"], &echo["target"]), (&json!("POST"), &json!(target)));
    assert_eq!((&echo["body_bytes"], &echo["body_sha256"]), (&json!(4), &json!(sha256_hex(b"body"))));
    assert_eq!((&echo["headers"]["x-one"], &echo["principal"]), (&json!("1, 2"), &json!(null)));
    assert_eq!(echo["headers"]["authorization"], "Bearer (3 bytes)");

    let received = gateway.received().remove(0);
    assert_eq!((received.target.as_str(), received.body_len, received.body_end), (target, 4, BodyEnd::Whole));
    assert_eq!((received.body_sha256, received.verdict.clone()), (sha256_hex(b"body"), Ok("open".to_owned())));
    assert_eq!((gateway.connections(), gateway.requests()), (1, 1));
}

#[tokio::test]
async fn a_token_passes_where_its_form_and_scope_are_right() {
    let mint = Mint::new(Clock::system());
    let builder =
        Gateway::builder().method("/", token(&mint, None)).method("/write", token(&mint, Some("orders/write")));
    let gateway = builder.start().await;
    let good = mint.issue("orders", "orders/read", HOUR);
    let expired = mint.issue("orders", "orders/read", Duration::ZERO);
    for (target, value, status, message) in [
        ("/", format!("Bearer {good}"), 200, ""),
        ("/", good.clone(), 401, "Unauthorized"),
        ("/", "Bearer abc".to_owned(), 401, "Unauthorized"),
        ("/", format!("Bearer {expired}"), 401, "The incoming token has expired"),
        ("/write", format!("Bearer {good}"), 401, "Unauthorized"),
    ] {
        let response = get(&url(&gateway, target), &[("authorization", &value)]).await;
        let expected = (status, if status == 200 { "" } else { "UnauthorizedException" });
        assert_eq!(error_type(&response), expected, "{target} {value}");
        assert_eq!(json_body(response)["message"].as_str().unwrap_or_default(), message);
    }
    assert_eq!(gateway.received()[0].principal.as_deref(), Some("orders"));
    assert_eq!(gateway.received()[4].verdict, Err("the token grants 'orders/read', not 'orders/write'".to_owned()));
}

#[tokio::test]
async fn an_http_api_is_terse_and_challenges() {
    let mint = Mint::new(Clock::system());
    let gateway = Gateway::builder()
        .kind(ApiKind::Http)
        .method("/token", token(&mint, Some("orders/write")))
        .method("/iam", iam())
        .start()
        .await;
    let value = format!("Bearer {}", mint.issue("orders", "orders/read", HOUR));
    for (target, value, status, message, challenge) in [
        ("/token", "", 401, "Unauthorized", "Bearer"),
        ("/token", "Bearer abc", 401, "Unauthorized", "Bearer scope=\"\" error=\"invalid_token\""),
        ("/token", &value, 403, "Forbidden", "Bearer scope=\"orders/write\" error=\"insufficient_scope\""),
        ("/iam", &value, 403, "Forbidden", ""),
        ("/nowhere", &value, 404, "Not Found", ""),
    ] {
        let headers = [("authorization", value)];
        let headers = if value.is_empty() { &[][..] } else { &headers[..] };
        let response = get(&url(&gateway, target), headers).await;
        assert_eq!(error_type(&response), (status, ""));
        let header = response.headers().get("www-authenticate").map_or("", |value| value.to_str().unwrap());
        assert!(header.starts_with(challenge) && header.is_empty() == challenge.is_empty(), "{header}");
        assert!(response.headers().contains_key("apigw-requestid"));
        assert_eq!(json_body(response), json!({"message": message}));
    }
}

#[tokio::test]
async fn a_signed_request_passes_and_a_changed_one_is_told_the_canonical_string() {
    let gateway = Gateway::builder().method("/prod", iam()).start().await;
    let address = gateway.address().to_string();
    let target = "/prod//x/./%40y?b=2&a=1+1";
    let response = send_body(&address, signed(target, "body")).await.unwrap();
    assert_eq!(json_body(response)["principal"], session().principal);

    let mut changed = signed(target, "body");
    *changed.uri_mut() = "/prod/other".parse().unwrap();
    let response = send_body(&address, changed).await.unwrap();
    assert_eq!(error_type(&response), (403, "InvalidSignatureException"));
    let message = json_body(response)["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("The Canonical String for this request should have been\n'POST\n/prod/other\n"),
        "{message}"
    );

    let mut changed = signed(target, "body");
    *changed.body_mut() = full("ydob");
    assert_eq!(error_type(&send_body(&address, changed).await.unwrap()), (403, "InvalidSignatureException"));

    let mut changed = signed(target, "body");
    changed.headers_mut().remove("x-amz-security-token");
    assert_eq!(error_type(&send_body(&address, changed).await.unwrap()), (403, "UnrecognizedClientException"));

    gateway.clock().set(|| SystemTime::now() + Duration::from_mins(6));
    let response = send_body(&address, signed(target, "body")).await.unwrap();
    assert_eq!(error_type(&response), (403, "InvalidSignatureException"));
    assert!(json_body(response)["message"].as_str().unwrap().starts_with("Signature expired: "));
}

#[tokio::test]
async fn rest_says_what_it_says_to_unknown_paths_and_wrong_schemes() {
    let gateway = Gateway::builder().method("/prod", iam()).start().await;
    for (target, value, status, name) in [
        ("/other", None, 403, "MissingAuthenticationTokenException"),
        ("/prod", None, 403, "MissingAuthenticationTokenException"),
        ("/other", Some("Bearer abc"), 403, "IncompleteSignatureException"),
        ("/prod", Some("abc"), 403, "IncompleteSignatureException"),
    ] {
        let headers: Vec<_> = value.map(|value| ("authorization", value)).into_iter().collect();
        assert_eq!(error_type(&get(&url(&gateway, target), &headers).await), (status, name), "{target} {value:?}");
    }
}

#[tokio::test]
async fn an_api_key_must_be_the_one() {
    let gateway = Gateway::builder().method("/", Authorizer::ApiKey { value: "key".to_owned() }).start().await;
    assert_eq!(get(&url(&gateway, "/"), &[("x-api-key", "key")]).await.status(), 200);
    assert_eq!(error_type(&get(&url(&gateway, "/"), &[("x-api-key", "other")]).await), (403, "ForbiddenException"));
    assert_eq!(error_type(&get(&url(&gateway, "/"), &[]).await), (403, "ForbiddenException"));
}

#[tokio::test]
async fn ten_megabytes_are_signed_for_and_not_a_byte_more() {
    let gateway = Gateway::builder().method("/", iam()).start().await;
    let address = gateway.address().to_string();
    let most = "a".repeat(10 * 1024 * 1024);
    assert_eq!(send_body(&address, signed("/", &most)).await.unwrap().status(), 200);
    // Sent in pieces, the length is found out on the way; the rest of the body is not read.
    let (mut sender, body) = channel(1);
    let mut request = signed("/", "");
    *request.body_mut() = body;
    let (response, ()) = tokio::join!(send_body(&address, request), async {
        while sender.send_data(Bytes::from(vec![b'a'; 1024 * 1024])).await.is_ok() {}
    });
    // A client that still writes sees the 413 or the end of the connection, whichever is first.
    assert!(response.is_ok_and(|response| response.status() == 413) || gateway.received()[1].verdict.is_err());
    let reason = gateway.received()[1].verdict.clone();
    assert_eq!(reason, Err("more than 10 MB of body".to_owned()));
}

#[tokio::test]
async fn both_protocols_are_served_over_tls() {
    let authority = Authority::new();
    for (offered, alpn, version) in [
        (Alpn::Both, &[&b"h2"[..], b"http/1.1"][..], http::Version::HTTP_2),
        (Alpn::Http1, &[b"h2", b"http/1.1"], http::Version::HTTP_11),
        (Alpn::Http2, &[b"h2"], http::Version::HTTP_2),
        (Alpn::Both, &[], http::Version::HTTP_11),
    ] {
        let gateway = Gateway::builder()
            .tls(&authority, &["*.execute-api.eu-west-1.amazonaws.com", "127.0.0.1"])
            .alpn(offered)
            .method("/", iam())
            .start()
            .await;
        let mut request = signed("/a?b=c", "body");
        if version == http::Version::HTTP_2 {
            *request.uri_mut() = format!("https://{HOST}/a?b=c").parse().unwrap();
            request.headers_mut().remove("host");
        }
        let response = Box::pin(send_tls(gateway.port(), &authority, (HOST, alpn), request)).await.unwrap();
        assert_eq!(response.status(), 200, "{:?}", response.body());
        let received = gateway.received().remove(0);
        assert_eq!((received.version, received.target.as_str()), (version, "/a?b=c"));
        assert_eq!((received.host.as_deref(), received.server_name.as_deref()), (Some(HOST), Some(HOST)));
    }
}

#[tokio::test]
async fn a_responder_streams_both_ways_and_trailers_are_recorded() {
    let responder: Responder = Arc::new(|request: Request<Body>, principal| {
        Box::pin(async move {
            assert_eq!(principal, Principal::Anonymous);
            let (mut sender, answer) = channel(1);
            let mut body = request.into_body();
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            sender.send_data(first).await.unwrap();
            body.collect().await.unwrap();
            Response::new(answer)
        })
    });
    let gateway = Gateway::builder().method("/", Authorizer::Open).respond("/stream", responder).start().await;
    let (mut sender, body) = channel(1);
    let request = Request::builder().method("POST").uri("/stream").header("host", HOST).header("trailer", "x-sum");
    let address = gateway.address().to_string();
    let (response, ()) = tokio::join!(send_body(&address, request.body(body).unwrap()), async {
        sender.send_data(Bytes::from_static(b"first")).await.unwrap();
        gateway.until(|received| received.first().is_some_and(|received| received.body_len == 5)).await;
        sender.send_data(Bytes::from_static(b"second")).await.unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", "11".parse().unwrap());
        sender.send_trailers(trailers).await.unwrap();
        drop(sender);
    });
    assert_eq!(response.unwrap().into_body(), "first");
    let received = gateway.received().remove(0);
    assert_eq!((received.body_len, received.body_end), (11, BodyEnd::Whole));
    assert_eq!(received.trailers, [("x-sum".to_owned(), b"11".to_vec())]);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_recorded_as_cut() {
    let gateway = Gateway::builder().method("/", Authorizer::Open).start().await;
    let (mut sender, body) = channel(1);
    let request = Request::builder().method("POST").uri("/").header("host", HOST).body(body).unwrap();
    let address = gateway.address().to_string();
    let (response, ()) = tokio::join!(send_body(&address, request), async {
        sender.send_data(Bytes::from_static(b"some")).await.unwrap();
        gateway.until(|received| received.first().is_some_and(|received| received.body_len == 4)).await;
        sender.abort("on purpose".into());
    });
    assert!(response.is_err());
    gateway.until(|received| received[0].body_end != BodyEnd::Arriving).await;
    assert_eq!(gateway.received()[0].body_end, BodyEnd::Cut);
}

#[tokio::test]
async fn a_scripted_answer_comes_before_any_authorizer() {
    let gateway = Gateway::builder().method("/", iam()).start().await;
    gateway.script(Answer::Respond { status: 503, headers: Vec::new(), body: Vec::new() });
    gateway.script(Answer::Close);
    assert_eq!(get(&url(&gateway, "/"), &[]).await.status(), 503);
    assert!(send("GET", &url(&gateway, "/"), &[], "").await.is_err());
    let request = Request::builder().uri("/").header("host", HOST).body(empty()).unwrap();
    let response = send_body(&gateway.address().to_string(), request).await.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(gateway.requests(), 3);
}
