//! Who may call where more is asked for than a loopback name: a token, an origin, a way without proxies.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::{Answer, Plan, World};

const TOKEN: &str = "caller-token-5b1f0e9a77";

fn guarded(plan: Plan) -> Plan {
    plan.secret("CALLER_TOKEN", TOKEN).proxy("caller_token = { env = \"CALLER_TOKEN\" }")
}

fn basic(userinfo: &str) -> String {
    format!("Basic {}", STANDARD.encode(userinfo))
}

async fn ask(world: &World, method: &str, lines: &str) -> Answer {
    let request = format!("{method} /x HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n\r\n");
    let mut client = world.countersign.connect().await;
    client.writer.send(request).await;
    client.reader.answer(method).await
}

#[tokio::test]
async fn without_the_token_nobody_gets_anything() {
    let world = guarded(Plan::bearer()).start().await;
    let right = format!("x-countersign-token: {TOKEN}");
    for lines in [
        "x: y".to_owned(),
        "x-countersign-token:".to_owned(),
        "x-countersign-token: wrong".to_owned(),
        format!("x-countersign-token: {}", TOKEN.trim_end_matches('7')),
        format!("{right}0"),
        format!("x-countersign-token: {}", TOKEN.to_uppercase()),
        format!("{right}\r\nx-countersign-token: wrong"),
        format!("x-countersign-token: wrong\r\n{right}"),
        format!("{right}\r\n{right}"),
        format!("x_countersign_token: {TOKEN}"),
        format!("authorization: Bearer {TOKEN}"),
        format!("authorization: {TOKEN}"),
        format!("authorization: {}", basic("me:wrong")),
        format!("authorization: {}", basic(TOKEN)),
        format!("x-countersign-token: wrong\r\nauthorization: {}", basic(&format!("{TOKEN}:"))),
        format!("cookie: x-countersign-token={TOKEN}"),
    ] {
        let answer = ask(&world, "GET", &lines).await;
        assert_eq!(answer.verdict(), (401, "caller-token"), "{lines}");
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"countersign\""));
    }
    let huge = format!("x-countersign-token: {}", "t".repeat(1024 * 1024));
    let mut client = world.countersign.connect().await;
    drop(client.writer.try_send(format!("GET / HTTP/1.1\r\nhost: localhost\r\n{huge}\r\n\r\n")).await);
    assert_eq!(client.reader.answer("GET").await.status, 431);
    assert_eq!((world.gateway.connections(), world.gateway.requests()), (0, 0));
    world.finish().await;
}

#[tokio::test]
async fn the_token_opens_and_stays_here() {
    // On the open route the caller's own authorization would pass.
    for plan in [Plan::bearer(), Plan::open()] {
        let world = guarded(plan).start().await;
        for lines in [
            format!("x-countersign-token: {TOKEN}"),
            format!("authorization: {}", basic(&format!("{TOKEN}:"))),
            format!("authorization: {}", basic(&format!("x:{TOKEN}"))),
            format!("proxy-authorization: {}", basic(&format!("{TOKEN}:"))),
            format!("connection: x-countersign-token\r\nx-countersign-token: {TOKEN}"),
        ] {
            assert_eq!(ask(&world, "GET", &lines).await.status, 200, "{lines}");
            let received = world.gateway.received().pop().unwrap();
            for (name, value) in &received.headers {
                let value = String::from_utf8_lossy(value);
                assert!(!value.contains(TOKEN) && !value.contains(&STANDARD.encode(TOKEN)), "{name}: {value}");
                assert!(!value.starts_with("Basic"), "{name}: {value}");
            }
            assert_eq!(received.header("x-countersign-token"), None);
        }
        assert_eq!(world.gateway.requests(), 5);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_callers_own_authorization_passes_beside_the_token() {
    let world = guarded(Plan::open()).start().await;
    let own = basic("me:mine");
    let answer = ask(&world, "GET", &format!("x-countersign-token: {TOKEN}\r\nauthorization: {own}")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.only().header("authorization"), Some(own.as_str()));
    world.finish().await;
}

#[tokio::test]
async fn the_field_of_the_token_is_ours_even_where_none_is_asked_for() {
    let world = Plan::open().start().await;
    assert_eq!(ask(&world, "GET", "x-countersign-token: t").await.status, 200);
    assert_eq!(world.only().header("x-countersign-token"), None);
    world.finish().await;
}

#[tokio::test]
async fn the_host_and_the_page_are_judged_before_the_token() {
    let world = guarded(Plan::bearer()).start().await;
    for lines in ["origin: http://evil.test", "sec-fetch-site: cross-site"] {
        let answer = ask(&world, "GET", &format!("{lines}\r\nx-countersign-token: {TOKEN}")).await;
        assert_eq!(answer.verdict(), (403, "caller-refused"), "{lines}");
    }
    assert_eq!(ask(&world, "TRACE", "x: y").await.verdict(), (401, "caller-token"), "and the method after it");
    world.finish().await;
}

#[tokio::test]
async fn a_changed_token_file_takes_effect_and_the_old_token_stays_for_a_while() {
    let plan = Plan::open().file("caller-token", TOKEN).proxy("caller_token = { file = \"caller-token\" }");
    let mut world = plan.start().await;
    let new = "caller-token-of-the-next-week";
    world.countersign.hide([TOKEN.to_owned(), new.to_owned()]);
    let status = async |token: &str| ask(&world, "GET", &format!("x-countersign-token: {token}")).await.status;
    assert_eq!((status(TOKEN).await, status(new).await), (200, 401));
    world.countersign.write("caller-token", new);
    crate::support::within(async { while status(new).await != 200 {} }).await;
    assert_eq!(status(TOKEN).await, 200);
    assert_eq!(status("neither").await, 401);
    std::fs::remove_file(world.countersign.folder().join("caller-token")).unwrap();
    assert_eq!(status(new).await, 200);
    world.finish().await;
}

const FORWARDING: [&str; 10] = [
    "x-forwarded-for: 203.0.113.7",
    "x-forwarded-host: evil.test",
    "x-forwarded-proto: https",
    "x-forwarded-uri: /admin",
    "forwarded: for=203.0.113.7",
    "via: 1.1 front",
    "x-real-ip: 203.0.113.7",
    "x-original-url: /admin",
    "x-rewrite-url: /admin",
    "x_forwarded_for: 203.0.113.7",
];

#[tokio::test]
async fn what_a_proxy_in_front_says_is_taken_out_passed_or_refused() {
    for (setting, verdict) in [("strip", (200, "none")), ("pass", (200, "none")), ("refuse", (403, "caller-refused"))] {
        let line: &'static str = format!("forwarded = \"{setting}\"").leak();
        let world = Plan::open().proxy(line).start().await;
        for line in FORWARDING {
            let answer = ask(&world, "GET", line).await;
            assert_eq!(answer.verdict(), verdict, "{setting} {line}");
            let Some(received) = world.gateway.received().pop() else { continue };
            let (name, value) = line.split_once(": ").unwrap();
            let mut values: Vec<String> =
                received.values(name).into_iter().map(|value| String::from_utf8(value.to_vec()).unwrap()).collect();
            if name == "via" {
                assert_eq!(values.pop().as_deref(), Some("1.1 countersign"));
            }
            assert_eq!(values.first().map(String::as_str), (setting == "pass").then_some(value), "{setting} {line}");
        }
        let looped = ask(&world, "GET", "via: 1.1 front, 1.1 countersign").await;
        assert_eq!(looped.verdict(), (508, "loop"), "{setting}");
        if setting == "refuse" {
            assert_eq!(world.gateway.connections(), 0);
            assert_eq!(ask(&world, "GET", "x: y").await.status, 200);
        }
        world.finish().await;
    }
}

const ORIGIN: &str = "http://localhost:3000";

fn with_pages(plan: Plan) -> Plan {
    plan.proxy("allowed_origins = [\"http://localhost:3000\"]")
}

fn cors(answer: &Answer) -> Vec<(&str, &str)> {
    let mut fields: Vec<(&str, &str)> = answer
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("access-control-") || name == "vary")
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    fields.sort_unstable();
    fields
}

#[tokio::test]
async fn pages_of_a_listed_origin_may_call_and_read() {
    let world = with_pages(Plan::bearer()).start().await;
    for lines in [
        format!("origin: {ORIGIN}"),
        format!("origin: {ORIGIN}\r\nsec-fetch-site: same-site"),
        format!("origin: {ORIGIN}\r\nsec-fetch-site: cross-site"),
    ] {
        let answer = ask(&world, "GET", &lines).await;
        assert_eq!(answer.status, 200);
        let readable =
            [("access-control-allow-origin", ORIGIN), ("access-control-expose-headers", "*"), ("vary", "origin")];
        assert_eq!(cors(&answer), readable, "{lines}");
    }
    assert_eq!(cors(&ask(&world, "GET", "x: y").await), [("vary", "origin")]);
    let refused = ask(&world, "PROPFIND", &format!("origin: {ORIGIN}")).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (405, Some(ORIGIN)), "errors as well");
    world.finish().await;
}

#[tokio::test]
async fn pages_of_other_origins_may_not() {
    let world = with_pages(Plan::bearer()).start().await;
    for lines in [
        "origin: http://localhost:3000.evil.test",
        "origin: http://localhost:30000",
        "origin: http://localhost:300",
        "origin: HTTP://LOCALHOST:3000",
        "origin: http://localhost:3000/",
        "origin: http://127.0.0.1:3000",
        "origin: https://localhost:3000",
        "origin: null",
        "origin:",
        "origin: http://localhost:3000\r\norigin: http://localhost:3000",
        "origin: http://localhost:3000\r\norigin: http://evil.test",
        "origin: http://localhost:3000, http://evil.test",
        "sec-fetch-site: same-site",
        "sec-fetch-site: cross-site",
    ] {
        for method in ["GET", "OPTIONS"] {
            let answer = ask(&world, method, &format!("{lines}\r\naccess-control-request-method: PUT")).await;
            assert_eq!(answer.verdict(), (403, "caller-refused"), "{lines}");
            assert_eq!(cors(&answer), [("vary", "origin")], "{lines}");
        }
    }
    assert_eq!(world.gateway.connections(), 0);
    world.finish().await;
}

#[tokio::test]
async fn a_preflight_is_answered_here() {
    let plan = with_pages(guarded(Plan::bearer())).route("path = \"/x\"\nmethods = [\"GET\", \"PUT\"]");
    let world = plan.start().await;
    for (asked, method) in [("PUT", "PUT"), ("a method that the route does not take", "DELETE")] {
        let lines = format!(
            "origin: {ORIGIN}\r\nsec-fetch-site: same-site\r\naccess-control-request-method: {method}\r\n\
             access-control-request-headers: content-type,x-countersign-token"
        );
        let answer = ask(&world, "OPTIONS", &lines).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{asked}");
        let told = [
            ("access-control-allow-headers", "content-type, x-countersign-token"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-origin", ORIGIN),
            ("access-control-expose-headers", "*"),
            ("access-control-max-age", "600"),
            ("vary", "origin"),
        ];
        assert_eq!(cors(&answer), told, "{asked}");
    }
    let elsewhere = format!(
        "OPTIONS /elsewhere HTTP/1.1\r\nhost: localhost\r\norigin: {ORIGIN}\r\naccess-control-request-method: GET\r\n\r\n"
    );
    assert_eq!(world.countersign.connect().await.raw(elsewhere).await.verdict(), (404, "no-route"));
    let real = ask(&world, "PUT", &format!("origin: {ORIGIN}")).await;
    assert_eq!(real.verdict(), (401, "caller-token"), "the request itself needs the token");
    assert_eq!(world.gateway.connections(), 0);
    let metrics = world.countersign.metrics().await;
    assert_eq!(metrics.count("countersign_requests_total", &["outcome=\"answered\""]), 2);
    world.finish().await;
}

#[tokio::test]
async fn an_upstreams_own_words_on_origins_do_not_pass() {
    let wire = crate::support::Wire::listen().await;
    let world = with_pages(Plan::open()).add(&wire.route("/wire")).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.send(format!("GET /wire HTTP/1.1\r\nhost: localhost\r\norigin: {ORIGIN}\r\n\r\n")).await;
    let mut line = wire.accept().await;
    line.head().await;
    line.write(
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\naccess-control-allow-origin: *\r\nvary: accept-encoding\r\n\
         access-control-allow-credentials: true\r\n\r\n",
    )
    .await;
    let answer = client.reader.answer("GET").await;
    assert_eq!(
        cors(&answer),
        [
            ("access-control-allow-origin", ORIGIN),
            ("access-control-expose-headers", "*"),
            ("vary", "accept-encoding"),
            ("vary", "origin")
        ]
    );
    world.finish().await;
}

#[tokio::test]
async fn a_question_about_the_server_is_answered_here() {
    let world = Plan::bearer().start().await;
    let ask = async |head: &str| world.countersign.connect().await.raw(format!("{head}\r\n\r\n")).await;
    let answer = ask("OPTIONS * HTTP/1.1\r\nhost: localhost").await;
    assert_eq!((answer.verdict(), answer.body.len()), ((204, "none"), 0));
    assert_eq!(ask("OPTIONS * HTTP/1.1\r\nhost: evil.test").await.verdict(), (403, "caller-refused"));
    assert_eq!(world.gateway.connections(), 0);
    assert_eq!(ask("OPTIONS /x HTTP/1.1\r\nhost: localhost").await.status, 200);
    assert_eq!(world.only().method, "OPTIONS");
    world.finish().await;
}
