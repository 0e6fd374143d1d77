//! Who may call, and what may be asked for: everything else is refused before a credential or a connection is touched.

use crate::support::{Answer, Plan, World};

/// A request that is refused: this answer, and not a connection upstream.
async fn refused(world: &World, request: impl AsRef<[u8]>, verdict: (u16, &str)) -> Answer {
    let mut client = world.countersign.connect().await;
    let answer = client.raw(request.as_ref()).await;
    assert_eq!(answer.verdict(), verdict, "{}", String::from_utf8_lossy(request.as_ref()));
    assert_eq!(world.gateway.connections(), 0);
    assert!(!answer.headers.iter().any(|(name, _)| name.starts_with("access-control-")));
    answer
}

#[tokio::test]
async fn only_known_hosts_may_be_named() {
    let world = Plan::bearer().proxy("allowed_hosts = [\"dev.example\"]").start().await;
    for host in
        ["evil.test", "localhost.evil.test", "127.0.0.1.nip.io", "[::]", "0.0.0.0", "127.1", "localhost.", "x.local"]
    {
        refused(&world, format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"), (403, "caller-refused")).await;
    }
    for host in ["a@localhost", "localhost:80@evil", "", "local host", "localhost:x", "localhost:123456", "\u{e9}"] {
        refused(&world, format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"), (400, "bad-request")).await;
    }
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]:9", "dev.example", "Dev.Example:80"] {
        let answer = world.countersign.connect().await.raw(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "{host}");
    }
    world.finish().await;
}

#[tokio::test]
async fn exactly_one_host_is_wanted() {
    let world = Plan::bearer().start().await;
    for hosts in
        ["host: localhost\r\nhost: localhost", "host: localhost\r\nhost: evil", "host: evil\r\nhost: localhost", "x: y"]
    {
        refused(&world, format!("GET / HTTP/1.1\r\n{hosts}\r\n\r\n"), (400, "bad-request")).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn web_pages_are_refused() {
    let world = Plan::bearer().start().await;
    for line in [
        "origin: null",
        "origin: http://127.0.0.1:8080",
        "origin:",
        "sec-fetch-site: cross-site",
        "sec-fetch-site: same-site",
        "sec-fetch-site: same-origin",
        "sec-fetch-site: none\r\nsec-fetch-site: none",
        "sec-fetch-site: anything",
    ] {
        refused(&world, format!("GET / HTTP/1.1\r\nhost: localhost\r\n{line}\r\n\r\n"), (403, "caller-refused")).await;
    }
    let preflight = "OPTIONS / HTTP/1.1\r\nhost: localhost\r\norigin: https://evil.test\r\naccess-control-request-method: PUT\r\n\r\n";
    refused(&world, preflight, (403, "caller-refused")).await;
    let typed = "POST / HTTP/1.1\r\nhost: localhost\r\nsec-fetch-site: none\r\n\r\n";
    refused(&world, typed, (403, "caller-refused")).await;
    for (method, line) in [("GET", "sec-fetch-site: none"), ("GET", "sec-fetch-mode: cors"), ("OPTIONS", "accept: */*")]
    {
        let request = format!("{method} / HTTP/1.1\r\nhost: localhost\r\n{line}\r\n\r\n");
        assert_eq!(world.countersign.connect().await.raw(request).await.status, 200, "{line}");
    }
    world.finish().await;
}

#[tokio::test]
async fn methods_that_would_echo_or_tunnel_are_refused() {
    let world = Plan::bearer().start().await;
    for (request, verdict) in [
        ("TRACE / HTTP/1.1\r\nhost: localhost\r\n\r\n", (405, "method-not-allowed")),
        ("TRACK / HTTP/1.1\r\nhost: localhost\r\n\r\n", (405, "method-not-allowed")),
        ("CONNECT localhost:443 HTTP/1.1\r\nhost: localhost:443\r\n\r\n", (405, "method-not-allowed")),
        ("CONNECT evil.test:443 HTTP/1.1\r\nhost: evil.test:443\r\n\r\n", (405, "method-not-allowed")),
        ("get / HTTP/1.1\r\nhost: localhost\r\n\r\n", (405, "method-not-allowed")),
        ("PROPFIND / HTTP/1.1\r\nhost: localhost\r\n\r\n", (405, "method-not-allowed")),
        ("GET * HTTP/1.1\r\nhost: localhost\r\n\r\n", (400, "bad-request")),
        ("GET localhost:443 HTTP/1.1\r\nhost: localhost\r\n\r\n", (400, "bad-request")),
    ] {
        refused(&world, request, verdict).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn an_absolute_target_is_judged_by_its_own_host() {
    let world = Plan::bearer().start().await;
    let request = |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    refused(&world, request("http://evil.test/x", "localhost"), (404, "no-route")).await;
    refused(&world, request("http://a@localhost/x", "localhost"), (400, "bad-request")).await;
    let answer = world.countersign.connect().await.raw(request("http://localhost:8080/x?y", "evil.test")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.only().target, "/prod/x?y");
    world.finish().await;
}

#[tokio::test]
async fn http_1_0_is_spoken_without_chunks() {
    let (responder, mut taken) = crate::support::hold();
    let world = Plan::bearer().respond("/prod/stream", responder).start().await;
    let mut client = world.countersign.connect().await;
    let answer = client.raw("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("transfer-encoding")), (200, None));
    assert!(client.reader.is_over().await);
    let mut client = world.countersign.connect().await;
    client.writer.send("GET /stream HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
    let (mut api, body) = standin::body::channel(1);
    crate::support::held(&mut taken).await.answer_with(body);
    api.send_data("until the end".into()).await.unwrap();
    drop(api);
    let answer = client.reader.answer("GET").await;
    assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("until the end", None));
    world.finish().await;
}

#[tokio::test]
async fn paths_that_could_leave_their_route_are_refused() {
    let world = Plan::bearer().start().await;
    for target in [
        "/a/../b",
        "/a/%2e%2e/b",
        "/a/.%2E/b",
        "/a/%252e%252e/b",
        "/a/..%2fb",
        "/a/..;/b",
        "/./a",
        "/a/..",
        "/a/%2e",
        "//evil.test/a",
        "/a%00",
        "/a%0d%0aX:y",
        "/a%5cb",
        "/a%zz",
        "/a%",
        "/a%2Fb",
        "/a\\..\\b",
    ] {
        refused(&world, format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n"), (400, "bad-request")).await;
    }
    for target in ["/...", "/a..b/.c", "/a//b", "/a?x=/../&y=%0d"] {
        assert_eq!(world.get(target).await.status, 200, "{target}");
        assert_eq!(world.gateway.received().pop().unwrap().target, format!("/prod{target}"));
    }
    world.finish().await;
}

#[tokio::test]
async fn an_encoded_slash_passes_where_the_route_allows_it() {
    for plan in [Plan::bearer(), Plan::sigv4()] {
        let world = plan.route("allow_encoded_slash = true").start().await;
        let answer = world.get("/a%2Fb%2fc").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(world.only().target, "/prod/a%2Fb%2fc");
        assert_eq!(world.get("/a%2F..%2Fb").await.verdict(), (400, "bad-request"));
        world.finish().await;
    }
}

#[tokio::test]
async fn a_body_is_invited_only_after_all_checks() {
    for plan in [Plan::bearer(), Plan::sigv4()] {
        let world = plan.upstream("max_body = \"1KiB\"").start().await;
        let head = |target: &str, length: u32| {
            format!(
                "PUT {target} HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
            )
        };
        let mut client = world.countersign.connect().await;
        assert_eq!(client.raw(head("/a/../b", 4)).await.verdict(), (400, "bad-request"));
        assert!(client.reader.is_over().await, "nobody waits for the body");
        let mut client = world.countersign.connect().await;
        client.writer.send(head("/", 4)).await;
        assert_eq!(client.reader.head("PUT").await.status, 100);
        client.writer.send("body").await;
        assert_eq!(client.reader.answer("PUT").await.json()["body_bytes"], 4);
        assert!(world.only().header("expect").is_none());
        world.finish().await;
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_not_invited() {
    let world = Plan::sigv4().upstream("max_body = \"1KiB\"").start().await;
    let mut client = world.countersign.connect().await;
    let head = "PUT / HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1025\r\n\r\n";
    assert_eq!(client.raw(head).await.verdict(), (413, "body-too-large"));
    world.finish().await;
}

#[tokio::test]
async fn other_expectations_are_not_met() {
    let world = Plan::bearer().start().await;
    let request = "PUT / HTTP/1.1\r\nhost: localhost\r\nexpect: something-else\r\ncontent-length: 4\r\n\r\nbody";
    refused(&world, request, (417, "expectation-failed")).await;
    world.finish().await;
}

#[tokio::test]
async fn a_refused_body_is_not_read_as_the_next_request() {
    let world = Plan::bearer().start().await;
    let mut client = world.countersign.connect().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(4000);
    let head = format!("PUT /a/../b HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", smuggled.len() + 1);
    client.writer.send(head).await;
    assert_eq!(client.reader.answer("PUT").await.verdict(), (400, "bad-request"));
    drop(client.writer.try_send(smuggled).await);
    while client.reader.skip().await {}
    assert_eq!(world.gateway.requests(), 0);
    world.finish().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let world = Plan::bearer().start().await;
    let mut client = world.countersign.connect().await;
    let request = |number: u32| format!("GET /{number} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    client.writer.send((0..3).map(request).collect::<String>()).await;
    for number in 0..3 {
        assert_eq!(client.reader.answer("GET").await.json()["target"], format!("/prod/{number}"));
    }
    world.finish().await;
}

#[tokio::test]
async fn the_admin_port_is_guarded_like_the_proxy() {
    let world = Plan::open().start().await;
    let ask =
        async |address, request: &str| world.countersign.connect_to(address).await.raw(request.to_owned()).await.status;
    let admin = world.countersign.admin;
    for request in [
        "GET /metrics HTTP/1.1\r\nhost: evil.test\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nhost: localhost\r\norigin: http://localhost:3000\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nhost: localhost\r\nsec-fetch-site: cross-site\r\n\r\n",
    ] {
        assert_eq!(ask(admin, request).await, 403, "{request}");
    }
    assert_eq!(ask(admin, "POST /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await, 405);
    assert_eq!(ask(admin, "GET /config HTTP/1.1\r\nhost: localhost\r\n\r\n").await, 404);
    let health = world.countersign.health;
    assert_eq!(
        ask(health, "GET /livez HTTP/1.1\r\nhost: 10.0.0.7:9902\r\n\r\n").await,
        200,
        "a kubelet says the pod's address"
    );
    assert_eq!(ask(health, "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await, 404);
    world.finish().await;
}
