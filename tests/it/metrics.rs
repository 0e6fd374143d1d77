//! The metrics page, after a sequence that is known.

use standin::Alpn;
use standin::body::empty;

use crate::support::{API, Metrics, Plan, held, hold};

#[tokio::test]
async fn what_happened_is_what_is_counted() {
    let world = Plan::bearer().route("path = \"/api\"\nmethods = [\"GET\", \"POST\"]").start().await;
    for _ in 0..3 {
        assert_eq!(world.get("/api").await.status, 200);
    }
    let answer = world.countersign.ask("POST", "/api", &[], b"12345").await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.get("/elsewhere").await.status, 404);
    assert_eq!(world.countersign.ask("DELETE", "/api", &[], b"").await.status, 405);
    assert_eq!(world.countersign.ask("GET", "/api", &[("origin", "null")], b"").await.status, 403);
    world.tokens.revoke(&world.tokens.issued()[0]);
    assert_eq!(world.get("/api").await.status, 401);

    let page = world.countersign.page("/metrics").await;
    assert_eq!(page.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let metrics = world.countersign.metrics().await;
    let requests = |labels: &[&str]| metrics.count("countersign_requests_total", labels);
    assert_eq!(requests(&[]), 8);
    assert_eq!(requests(&["route=\"api\"", "outcome=\"delivered\"", "status=\"2xx\""]), 4);
    assert_eq!(requests(&["route=\"api\"", "outcome=\"delivered\"", "status=\"4xx\""]), 1);
    assert_eq!(requests(&["route=\"none\"", "outcome=\"no-route\"", "status=\"4xx\""]), 1);
    assert_eq!(requests(&["outcome=\"method-not-allowed\"", "status=\"4xx\""]), 1);
    assert_eq!(requests(&["route=\"none\"", "outcome=\"caller-refused\"", "status=\"4xx\""]), 1);
    assert_eq!(metrics.count("countersign_request_duration_seconds_count", &["route=\"api\""]), 5);
    assert_eq!(metrics.count("countersign_request_duration_seconds_bucket", &["route=\"api\"", "le=\"+Inf\""]), 5);
    assert_eq!(metrics.count("countersign_requests_in_flight", &[]), 0);
    assert_eq!(metrics.count("countersign_request_body_bytes_total", &["route=\"api\""]), 5);
    assert!(metrics.count("countersign_response_body_bytes_total", &["route=\"api\""]) > 1000);
    assert_eq!(metrics.count("countersign_credential_usable", &["credential=\"tokens\""]), 1);
    assert_eq!(metrics.count("countersign_credential_fetches_total", &["credential=\"tokens\"", "outcome=\"ok\""]), 1);
    assert!(metrics.real("countersign_credential_expiry_timestamp_seconds") > 1.7e9);
    assert_eq!(metrics.count("countersign_build_info", &[]), 1);
    world.finish().await;
}

#[tokio::test]
async fn every_request_leaves_one_access_line_without_its_query() {
    let world = Plan::bearer().start().await;
    let fields = [("x-request-id", "line-1"), ("cookie", "session=do-not-log-me")];
    let answer = world.countersign.ask("POST", "/orders/42?token=do-not-log-me", &fields, b"do-not-log-me").await;
    assert_eq!(answer.status, 200);
    let line = world.countersign.access_line("line-1").await;
    for (name, value) in
        [("method", "POST"), ("path", "/orders/42"), ("route", "api"), ("outcome", "delivered"), ("level", "INFO")]
    {
        assert_eq!(line[name], value, "{line}");
    }
    assert_eq!((&line["status"], &line["received"]), (&200.into(), &13.into()));
    assert!(line["ms"].as_f64().is_some_and(|milliseconds| milliseconds > 0.0), "{line}");
    assert_eq!(line["sent"], answer.body.len());
    let log = world.countersign.log();
    assert_eq!(log.lines().filter(|line| line.contains("line-1")).count(), 1);
    assert!(!log.contains("do-not-log-me"));
    world.finish().await;
}

#[tokio::test]
async fn a_strange_path_is_one_escaped_line() {
    let world = Plan::bearer().start().await;
    let path = format!("/%1b[31m%0a{}", "x".repeat(2000));
    let answer = world.countersign.ask("GET", &path, &[("x-request-id", "line-2")], b"").await;
    assert_eq!(answer.status, 400);
    let line = world.countersign.access_line("line-2").await;
    assert_eq!(line["path"].as_str().unwrap().len(), 512);
    world.finish().await;
}

#[tokio::test]
async fn connections_are_counted_from_their_making_to_their_end() {
    let (responder, mut taken) = hold();
    let world = Plan::open().alpn(Alpn::Http1).respond("/prod/held", responder).start().await;
    let upstream = format!("upstream=\"{API}\"");
    let count = |metrics: &Metrics, state: &str| {
        let state = format!("state=\"{state}\"");
        metrics.count("countersign_upstream_connections", &[&upstream, &state])
    };
    assert_eq!(world.get("/a").await.status, 200);
    let metrics = world.countersign.until(|metrics| count(metrics, "idle") == 1).await;
    assert_eq!(count(&metrics, "in_use"), 0);
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/held", &[], b"").await;
    let held = held(&mut taken).await;
    // The kept one is used again.
    let metrics = world.countersign.metrics().await;
    assert_eq!((count(&metrics, "idle"), count(&metrics, "in_use")), (0, 1));
    assert_eq!(world.get("/b").await.status, 200);
    let metrics = world.countersign.until(|metrics| count(metrics, "idle") == 1).await;
    assert_eq!(count(&metrics, "in_use"), 1);
    assert_eq!(metrics.count("countersign_upstream_connections_opened_total", &[&upstream]), 2);
    drop(held.answer_with(empty()));
    assert_eq!(client.reader.answer("GET").await.status, 200);
    let metrics = world.countersign.until(|metrics| count(metrics, "idle") == 2).await;
    assert_eq!(count(&metrics, "in_use"), 0);
    world.finish().await;
}
