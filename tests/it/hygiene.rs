//! Fields on the way out and on the way back: what may not pass, what is put in, and what is left alone.

use bytes::Bytes;
use http::{HeaderMap, Response};
use standin::body::{channel, empty, full};
use standin::{Alpn, Authorizer, Received};

use crate::support::{Plan, Wire, World, held, hold};

/// Names of the fields that arrived at the API, sorted.
fn names(received: &Received) -> Vec<&str> {
    let mut names: Vec<&str> = received.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

/// Sends these raw lines through an open route; returns what arrived.
async fn arrives(lines: &str) -> Received {
    let world = Plan::open().start().await;
    let mut client = world.countersign.connect().await;
    let answer = client.raw(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received = world.only();
    world.finish().await;
    received
}

/// Has the API answer with these fields and this body; returns the world and the client's answer.
async fn comes_back(
    method: &str,
    fields: &[(&str, &str)],
    response: Response<standin::body::Body>,
) -> crate::support::Answer {
    let (responder, mut taken) = hold();
    let world = Plan::open().respond("/prod", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request(method, "/", fields, b"").await;
    held(&mut taken).await.answer(response);
    let answer = client.reader.answer(method).await;
    assert!(client.reader.is_silent(), "bytes behind the answer");
    world.finish().await;
    answer
}

#[tokio::test]
async fn hop_by_hop_fields_end_here_also_those_of_a_second_connection_line() {
    let received = arrives(
        "Connection: x-a, keep-alive\r\nConnection: X-B\r\nx-a: 1\r\nx-b: 2\r\nx-c: 3\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nTE: gzip\r\nTrailer: x\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    )
    .await;
    assert_eq!(names(&received), ["via", "x-c", "x-request-id"]);
}

#[tokio::test]
async fn forwarding_fields_of_a_caller_are_not_believed() {
    let received = arrives(
        "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nForwarded: for=1.2.3.4\r\n\
         X-Real-IP: 1.2.3.4\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\nVia: 1.1 squid\r\n\
         x_forwarded_for: 1.2.3.4\r\nX-Countersign-Token: t\r\nHost_: evil\r\nContent_Length: 3\r\n",
    )
    .await;
    assert_eq!(names(&received), ["via", "x-request-id"]);
    assert_eq!(received.values("via"), [b"1.1 countersign"]);
}

#[tokio::test]
async fn a_connection_line_cannot_take_our_fields_away() {
    let line = "Connection: authorization, x-amz-date, x-api-key, host, content-length, via, x-request-id\r\n";
    for (plan, name) in [(Plan::bearer(), "authorization"), (Plan::sigv4(), "x-amz-date")] {
        let world = plan.route("request_headers.set = { x-api-key = \"k\" }").start().await;
        let mut client = world.countersign.connect().await;
        let answer =
            client.raw(format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n{line}\r\nbody")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let received = world.only();
        assert_eq!(received.body_len, 4);
        assert_eq!(received.values("x-api-key"), [b"k"]);
        for name in [name, "authorization", "via", "x-request-id"] {
            assert_eq!(received.values(name).len(), 1, "{name}");
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn a_caller_cannot_pose_as_somebody_on_a_route_that_authorises() {
    for plan in [Plan::bearer(), Plan::sigv4()] {
        let world = plan.start().await;
        let mut client = world.countersign.connect().await;
        let answer = client
            .raw(
                "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer forged\r\nauthorization: Basic eDp5\r\n\
                 authorization_: x\r\nX-Amz-Date: 20000101T000000Z\r\nX-Amz-Security-Token: forged\r\n\
                 x_amz_security_token: forged\r\nX-Amz-Content-Sha256: 00\r\n\r\n",
            )
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let received = world.only();
        assert_eq!(received.values("authorization").len(), 1);
        assert!(received.headers.iter().all(|(name, value)| !name.contains('_') && !value.ends_with(b"forged")));
        world.finish().await;
    }
}

#[tokio::test]
async fn a_caller_authorises_itself_where_the_route_does_not() {
    let received = arrives("Authorization: Bearer own\r\nx-amz-date: 20000101T000000Z\r\n").await;
    assert_eq!(received.header("authorization"), Some("Bearer own"));
    assert_eq!(received.header("x-amz-date"), Some("20000101T000000Z"));
}

#[tokio::test]
async fn a_request_that_has_been_here_is_a_loop() {
    let world = Plan::open().start().await;
    for via in ["1.1 countersign", "1.0 squid, 1.1 countersign"] {
        let answer = world.countersign.ask("GET", "/", &[("via", via)], b"").await;
        assert_eq!(answer.verdict(), (508, "loop"));
    }
    assert_eq!(world.gateway.requests(), 0);
    world.finish().await;
}

#[tokio::test]
async fn a_route_to_itself_ends_at_once() {
    let wire = Wire::listen().await;
    let plan = Plan::open().add(&wire.route("/wire"));
    let world = plan.start().await;
    let (answer, ()) = tokio::join!(world.get("/wire"), async {
        let mut line = wire.accept().await;
        let head = line.head().await;
        // What we sent comes back to us, as it would through another proxy.
        let host = head.replace(&format!("host: {}", wire.address()), "host: localhost");
        let again = world.countersign.connect().await.raw(host).await;
        assert_eq!(again.verdict(), (508, "loop"));
        line.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    });
    assert_eq!(answer.status, 204);
    world.finish().await;
}

#[tokio::test]
async fn a_good_request_id_is_kept_and_is_the_same_everywhere() {
    let world = Plan::open().start().await;
    let answer = world.countersign.ask("GET", "/", &[("x-request-id", "caller.Id_1-x")], b"").await;
    assert_eq!(answer.values("x-request-id"), ["caller.Id_1-x"]);
    assert_eq!(world.only().values("x-request-id"), [b"caller.Id_1-x"]);
    assert_eq!(world.countersign.access_line("caller.Id_1-x").await["status"], 200);
    world.finish().await;
}

#[tokio::test]
async fn a_bad_or_missing_request_id_is_replaced() {
    let long = "x".repeat(129);
    for id in [None, Some("two words"), Some("\u{e9}"), Some(long.as_str()), Some("a\"b")] {
        let world = Plan::open().start().await;
        let fields: Vec<(&str, &str)> = id.map(|id| ("x-request-id", id)).into_iter().collect();
        let answer = world.countersign.ask("GET", "/", &fields, b"").await;
        let made = answer.header("x-request-id").unwrap().to_owned();
        assert!(made.len() == 32 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
        assert_eq!(world.only().values("x-request-id"), [made.as_bytes()]);
        assert_eq!(world.countersign.access_line(&made).await["path"], "/");
        world.finish().await;
    }
}

#[tokio::test]
async fn fields_are_set_and_removed_as_the_route_says() {
    const KEY: &str = "api-key-secret-0042";
    let lines = "[route.request_headers]\nset = { x-api-key = { env = \"API_KEY\" }, x-team = \"blue\" }\nremove = [\"cookie\"]";
    let plan = Plan::open().secret("API_KEY", KEY).add(lines);
    let world =
        plan.gateway(|api| api.method("/prod/keyed", Authorizer::ApiKey { value: KEY.to_owned() })).start().await;
    let fields = [("x-api-key", "forged"), ("x-team", "red"), ("cookie", "a=b"), ("x-other", "kept")];
    let answer = world.countersign.ask("GET", "/keyed", &fields, b"").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received = world.only();
    assert_eq!(received.values("x-api-key"), [KEY.as_bytes()]);
    assert_eq!(received.values("x-team"), [b"blue"]);
    assert!(received.header("cookie").is_none());
    assert_eq!(received.header("x-other"), Some("kept"));
    world.finish().await;
}

#[tokio::test]
async fn odd_values_pass_byte_for_byte_and_in_order() {
    let world = Plan::open().alpn(Alpn::Http1).start().await;
    let mut client = world.countersign.connect().await;
    let mut bytes = b"GET / HTTP/1.1\r\nHost: localhost\r\nx-odd: a\xe9\tb\r\nx-empty:\r\n".to_vec();
    bytes.extend(format!("x-long: {}\r\n", "v".repeat(8000)).into_bytes());
    for number in 0..50 {
        bytes.extend(format!("x-many: {number}\r\n").into_bytes());
    }
    bytes.extend(b"\r\n");
    assert_eq!(client.raw(bytes).await.status, 200);
    let received = world.only();
    assert_eq!(received.values("x-odd"), [b"a\xe9\tb"]);
    assert_eq!(received.values("x-empty"), [b""]);
    assert_eq!(received.values("x-long")[0].len(), 8000);
    let many: Vec<Vec<u8>> = (0..50).map(|number: u32| number.to_string().into_bytes()).collect();
    assert_eq!(received.values("x-many"), many);
    world.finish().await;
}

#[tokio::test]
async fn request_trailers_end_here() {
    for alpn in [Alpn::Http1, Alpn::Http2] {
        let world = Plan::open().alpn(alpn).start().await;
        let mut client = world.countersign.connect().await;
        let trailers = "authorization: forged\r\ncontent-length: 3\r\nx-t: 1\r\n";
        let answer = client
            .raw(format!(
                "POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n4\r\nbody\r\n0\r\n{trailers}\r\n"
            ))
            .await;
        assert_eq!(answer.json()["body_bytes"], 4);
        assert!(world.only().trailers.is_empty());
        world.finish().await;
    }
}

#[tokio::test]
async fn an_upstream_cannot_speak_for_this_origin() {
    let response = Response::builder()
        .header("access-control-allow-origin", "*")
        .header("access-control-allow-credentials", "true")
        .header("alt-svc", "h3=\":443\"")
        .header("strict-transport-security", "max-age=1")
        .header("x-amzn-remapped-authorization", "echo")
        .header("keep-alive", "timeout=5")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("etag", "\"kept\"")
        .header("x-amzn-requestid", "kept");
    let answer = comes_back("GET", &[], response.body(full("body")).unwrap()).await;
    let mut names: Vec<&str> = answer.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let expected = ["content-length", "date", "etag", "x-amz-apigw-id", "x-amzn-requestid", "x-request-id"];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn repeated_fields_keep_their_order_and_encoded_bodies_their_bytes() {
    let gzip: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b, 4, 0, 0x43, 0xbe, 0xb7, 0xe8, 1, 0, 0, 0];
    let response = Response::builder()
        .header("set-cookie", "b=2; Secure")
        .header("set-cookie", "a=1; Domain=x")
        .header("set-cookie", "b=2; Secure")
        .header("content-encoding", "gzip");
    let answer = comes_back("GET", &[("accept-encoding", "gzip")], response.body(full(gzip)).unwrap()).await;
    assert_eq!(answer.values("set-cookie"), ["b=2; Secure", "a=1; Domain=x", "b=2; Secure"]);
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert_eq!(answer.body, gzip);
    assert_eq!(answer.header("content-length"), Some(gzip.len().to_string().as_str()));
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let response = |status: u16, length: Option<&str>| {
        let mut response = Response::builder().status(status).body(empty()).unwrap();
        if let Some(length) = length {
            response.headers_mut().insert("content-length", length.parse().unwrap());
        }
        response
    };
    let head = comes_back("HEAD", &[], response(200, Some("1234"))).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("1234")));
    let none = comes_back("DELETE", &[], response(204, None)).await;
    assert_eq!((none.status, none.header("content-length")), (204, None));
    let unchanged = comes_back("GET", &[("if-none-match", "\"a\"")], response(304, None)).await;
    assert_eq!((unchanged.status, unchanged.whole), (304, true));
}

#[tokio::test]
async fn upstream_statuses_pass_unchanged() {
    for status in [201, 301, 400, 401, 403, 404, 429, 500, 502, 503, 504, 599] {
        let response = Response::builder().status(status).header("location", "/x").header("retry-after", "7");
        let answer = comes_back("GET", &[], response.body(full("theirs")).unwrap()).await;
        assert_eq!(answer.verdict(), (status, "none"));
        assert_eq!((answer.text().as_str(), answer.header("retry-after")), ("theirs", Some("7")));
    }
}

async fn with_trailers(world: &World, taken: &mut Taken, fields: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/", fields, b"").await;
    let (mut api, body) = channel(2);
    held(taken).await.answer(Response::builder().header("trailer", "x-sum").body(body).unwrap());
    api.send_data(Bytes::from_static(b"data")).await.unwrap();
    api.send_trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), "abc".parse().unwrap())])).await.unwrap();
    drop(api);
    let answer = client.reader.answer("GET").await;
    assert_eq!((answer.text().as_str(), answer.whole), ("data", true));
    let announced = answer.header("trailer").is_some();
    assert_eq!(announced, !answer.trailers.is_empty(), "announced if and only if sent");
    answer.trailers
}

type Taken = tokio::sync::mpsc::UnboundedReceiver<crate::support::Held>;

#[tokio::test]
async fn trailers_reach_those_who_take_them() {
    let (responder, mut taken) = hold();
    let world = Plan::open().alpn(Alpn::Http2).respond("/prod", responder).start().await;
    let wanted = [("te", "trailers"), ("connection", "te")];
    let sum = [("x-sum".to_owned(), "abc".to_owned())];
    assert_eq!(with_trailers(&world, &mut taken, &wanted).await, sum);
    assert_eq!(with_trailers(&world, &mut taken, &[]).await, []);
    world.countersign.until(|metrics| metrics.ended("delivered") == 2).await;
    world.finish().await;
}

#[tokio::test]
async fn dropped_trailers_do_not_cost_the_connection() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    let mut client = world.countersign.connect().await;
    let mut line = None;
    for _ in 0..3 {
        let (answer, kept) = tokio::join!(client.get("/wire"), async {
            let mut line = match line.take() {
                Some(line) => line,
                None => wire.accept().await,
            };
            line.head().await;
            line.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n4\r\ndata\r\n0\r\nx-sum: 1\r\n\r\n").await;
            line
        });
        assert_eq!((answer.text().as_str(), answer.trailers.len()), ("data", 0));
        line = Some(kept);
    }
    world.finish().await;
}

#[tokio::test]
async fn interim_answers_are_swallowed() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    let (answer, ()) = tokio::join!(world.get("/wire"), async {
        let mut line = wire.accept().await;
        line.head().await;
        line.write("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n").await;
        line.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfinal").await;
    });
    assert_eq!((answer.status, answer.text().as_str()), (200, "final"));
    assert!(answer.header("link").is_none());
    world.finish().await;
}

#[tokio::test]
async fn a_switch_of_protocols_that_nobody_asked_for_is_a_reset() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    let fields = [("connection", "upgrade"), ("upgrade", "websocket")];
    let (answer, ()) = tokio::join!(world.countersign.ask("GET", "/wire", &fields, b""), async {
        let mut line = wire.accept().await;
        assert!(!line.head().await.contains("upgrade"));
        line.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    });
    assert_eq!(answer.verdict(), (502, "upstream-reset"));
    world.finish().await;
}

#[tokio::test]
async fn a_length_beside_chunks_is_not_believed() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    let (answer, ()) = tokio::join!(world.get("/wire"), async {
        let mut line = wire.accept().await;
        line.head().await;
        line.write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n4\r\ndata\r\n0\r\n\r\n")
            .await;
    });
    assert_eq!((answer.text().as_str(), answer.whole), ("data", true));
    world.finish().await;
}

#[tokio::test]
async fn the_request_on_the_wire_is_ours() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    let mut client = world.countersign.connect().await;
    let request = "POST /wire/a?b=c HTTP/1.1\r\nHOST: localhost\r\nx-request-id: id-1\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nbody";
    let (answer, ()) = tokio::join!(client.raw(request), async {
        let mut line = wire.accept().await;
        assert_eq!(
            line.head().await,
            format!(
                "POST /wire/a?b=c HTTP/1.1\r\ncontent-type: text/plain\r\nx-request-id: id-1\r\nvia: 1.1 countersign\r\n\
                 host: {}\r\ncontent-length: 4\r\n\r\n",
                wire.address()
            )
        );
        assert_eq!(line.body(4).await, b"body");
        line.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    });
    assert_eq!(answer.status, 200);
    world.finish().await;
}
