//! Traces: what the upstream is told of the caller's, and what a collector gets.

use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use crate::support::{Collector, Plan, World, attribute, pass, within};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const XRAY: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";

fn traced(collector: &Collector) -> Plan {
    Plan::sigv4().add(&format!("[traces]\nendpoint = \"{}\"\n", collector.url()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Stops all; what was still to be sent is there then.
async fn spans(world: World, collector: &Collector) -> Vec<Span> {
    world.finish().await;
    collector.spans()
}

/// Lets time pass until the collector was asked so often. What it is asked goes over a socket meanwhile, in small steps, so
/// that no limit of the client's runs out.
async fn until_posts(world: &World, collector: &Collector, number: usize) {
    within(async {
        while collector.posts().len() < number {
            pass(Duration::from_millis(250)).await;
            let _round_trip = world.countersign.metrics().await;
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_asks_for_traces_and_the_fields_pass_untouched() {
    let world = Plan::sigv4().start().await;
    let fields = [
        ("traceparent", "not-even-one"),
        ("tracestate", "a=1, b=2"),
        ("tracestate", "A broken one"),
        ("x-amzn-trace-id", XRAY),
    ];
    assert_eq!(world.countersign.ask("GET", "/a", &fields, b"").await.status, 200);
    assert_eq!(world.get("/b").await.status, 200);
    let received = world.gateway.received();
    assert_eq!(received[0].values("traceparent"), [b"not-even-one"]);
    assert_eq!(received[0].values("tracestate"), [&b"a=1, b=2"[..], b"A broken one"]);
    assert_eq!(received[0].values("x-amzn-trace-id"), [XRAY.as_bytes()]);
    for name in ["traceparent", "tracestate", "x-amzn-trace-id"] {
        assert_eq!(received[1].header(name), None);
    }
    let metrics = world.countersign.page("/metrics").await.text();
    assert!(!metrics.contains("trace_spans"), "{metrics}");
    world.finish().await;
}

#[tokio::test]
async fn a_request_goes_on_under_a_span_of_its_own_and_the_collector_gets_that() {
    let collector = Collector::start(&[]).await;
    let world = traced(&collector).start().await;
    let fields = [
        ("traceparent", PARENT),
        ("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        ("x-amzn-trace-id", XRAY),
        ("x-request-id", "traced-1"),
        ("connection", "traceparent"),
    ];
    let answer = world.countersign.ask("POST", "/orders/42?key=not-to-be-told", &fields, b"12345").await;
    assert_eq!(answer.status, 200);
    let sent = world.only();
    assert_eq!(sent.header("x-amzn-trace-id"), Some(XRAY));
    assert_eq!(sent.header("tracestate"), Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"));
    let onward = sent.header("traceparent").unwrap().to_owned();
    let spans = spans(world, &collector).await;
    let [span] = spans.as_slice() else { panic!("{spans:#?}") };
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), "00f067aa0ba902b7".to_owned()));
    assert_eq!(onward, format!("00-{TRACE}-{}-01", hex(&span.span_id)));
    assert_eq!((span.name.as_str(), span.kind()), ("POST api", SpanKind::Server));
    assert_eq!(span.trace_state, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
    let names: Vec<&str> = span.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["receive", "credential", "connect", "first_byte", "body"]);
    let times: Vec<u64> = span.events.iter().map(|event| event.time_unix_nano).collect();
    assert!(times.is_sorted() && times[0] == span.start_time_unix_nano && times[4] <= span.end_time_unix_nano);
    for (name, value) in [
        ("http.request.method", "POST"),
        ("url.path", "/orders/42"),
        ("url.scheme", "http"),
        ("network.protocol.version", "1.1"),
        ("http.response.status_code", "200"),
        ("http.request.body.size", "5"),
        ("server.address", "localhost"),
        ("countersign.route", "api"),
        ("countersign.outcome", "delivered"),
        ("countersign.request_id", "traced-1"),
        ("countersign.upstream", "abc123.execute-api.ap-northeast-1.amazonaws.com"),
    ] {
        assert_eq!(attribute(&span.attributes, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(attribute(&span.attributes, "error.type"), None);
    assert_eq!(span.status.as_ref().unwrap().code(), StatusCode::Unset);
    let post = &collector.posts()[0];
    assert!(post.head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{}", post.head);
    assert!(post.head.contains("content-type: application/x-protobuf\r\n"), "{}", post.head);
    let resource = &post.batch.resource_spans[0].resource.as_ref().unwrap().attributes;
    assert_eq!(attribute(resource, "service.name").as_deref(), Some("countersign"));
    assert_eq!(attribute(resource, "service.instance.id").map(|id| id.len()), Some(32));
    let batch = format!("{:?}", post.batch);
    assert!(!batch.contains("not-to-be-told") && !batch.contains("Credential="), "{batch}");
}

#[tokio::test]
async fn a_trace_begins_where_the_caller_has_none_that_counts() {
    let collector = Collector::start(&[]).await;
    let world = traced(&collector).start().await;
    let bad = PARENT.replace("00-4b", "ff-4b");
    for fields in [&[] as &[(&str, &str)], &[("traceparent", &bad), ("tracestate", "a=1")]] {
        assert_eq!(world.countersign.ask("GET", "/", fields, b"").await.status, 200);
    }
    let received = world.gateway.received();
    let onward: Vec<String> = received.iter().map(|sent| sent.header("traceparent").unwrap().to_owned()).collect();
    assert!(received.iter().all(|sent| sent.header("tracestate").is_none()));
    let spans = spans(world, &collector).await;
    assert_eq!(spans.len(), 2);
    for span in &spans {
        assert!(span.parent_span_id.is_empty(), "{span:?}");
        assert!(onward.contains(&format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id))), "{onward:?}");
    }
    assert_ne!(spans[0].trace_id, spans[1].trace_id);
    assert!(spans.iter().all(|span| hex(&span.trace_id) != TRACE));
}

#[tokio::test]
async fn a_trace_that_its_caller_does_not_record_passes_untouched() {
    let collector = Collector::start(&[]).await;
    let world = traced(&collector).start().await;
    let parent = PARENT.replace("-01", "-00");
    let fields = [("traceparent", parent.as_str()), ("tracestate", "a=1")];
    assert_eq!(world.countersign.ask("GET", "/", &fields, b"").await.status, 200);
    assert_eq!(world.only().header("traceparent"), Some(parent.as_str()));
    assert_eq!(world.only().header("tracestate"), Some("a=1"));
    assert!(spans(world, &collector).await.is_empty());
}

#[tokio::test]
async fn what_fails_says_so_and_what_the_caller_did_wrong_is_no_failure() {
    let collector = Collector::start(&[]).await;
    let nowhere = "[[route]]\nname = \"gone\"\npath = \"/gone\"\nupstream = \"http://127.0.0.1:1\"\nauth = \"none\"\n";
    let world = traced(&collector).add(nowhere).route("path = \"/api\"").start().await;
    assert_eq!(world.get("/gone/x").await.status, 502);
    assert_eq!(world.get("/nowhere").await.status, 404);
    let spans = spans(world, &collector).await;
    let told = |span: &Span| {
        let of = |name: &str| attribute(&span.attributes, name).unwrap_or_default();
        let status = span.status.as_ref().unwrap().code();
        (span.name.clone(), status, of("error.type"), of("http.response.status_code"), of("countersign.route"))
    };
    let text = ToOwned::to_owned;
    let expected = [
        (text("GET gone"), StatusCode::Error, text("upstream-unreachable"), text("502"), text("gone")),
        (text("GET"), StatusCode::Unset, text("no-route"), text("404"), text("none")),
    ];
    assert_eq!(spans.iter().map(told).collect::<Vec<_>>(), expected);
    assert!(spans[0].status.as_ref().unwrap().message.contains("refused"), "{:?}", spans[0].status);
}

#[tokio::test]
async fn a_route_that_writes_the_fields_itself_has_its_way() {
    let collector = Collector::start(&[]).await;
    let other = "[[route]]\nname = \"quiet\"\npath = \"/quiet\"\nupstream = \"https://API/prod\"\n";
    let lines = "path = \"/set\"\nrequest_headers.set = { traceparent = \"ours\" }";
    let removing = "connect_to = \"127.0.0.1:PORT\"\nauth = \"none\"\nrequest_headers.remove = [\"traceparent\"]\n";
    let other = other.replace("API", crate::support::API) + removing;
    let tables = format!("[traces]\nendpoint = \"{}\"\n{other}", collector.url());
    let world = Plan::open().route(lines).add(&tables).start().await;
    for path in ["/set", "/quiet"] {
        assert_eq!(world.countersign.ask("GET", path, &[("traceparent", PARENT)], b"").await.status, 200);
    }
    let received = world.gateway.received();
    let told: Vec<Option<&str>> = received.iter().map(|sent| sent.header("traceparent")).collect();
    assert_eq!(told, [Some("ours"), None]);
    world.finish().await;
}

#[tokio::test]
async fn a_collector_that_is_busy_gets_the_same_spans_later_and_the_log_says_so_once() {
    let collector = Collector::start(&[503, 429, 503]).await;
    let world = traced(&collector).start().await;
    assert_eq!(world.get("/").await.status, 200);
    until_posts(&world, &collector, 4).await;
    let metrics =
        world.countersign.until(|metrics| metrics.count("countersign_trace_spans_sent_total", &[]) == 1).await;
    assert_eq!(metrics.count("countersign_trace_spans_lost_total", &[]), 0);
    let log = world.countersign.log();
    let said = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!((said("the collector does not take spans"), said("the collector takes spans again")), (1, 1), "{log}");
    let posts = collector.posts();
    assert!(posts.iter().all(|post| post.batch == posts[0].batch));
    world.finish().await;
}

#[tokio::test]
async fn a_collector_that_refuses_or_is_gone_costs_spans_alone() {
    let collector = Collector::start(&[400]).await;
    let world = traced(&collector).start().await;
    assert_eq!(world.get("/").await.status, 200);
    until_posts(&world, &collector, 1).await;
    let refused = ["reason=\"refused\""];
    world.countersign.until(|metrics| metrics.count("countersign_trace_spans_lost_total", &refused) == 1).await;
    drop(collector);
    for _ in 0..3 {
        assert_eq!(world.get("/").await.status, 200);
    }
    let log = world.countersign.log();
    assert!(log.contains("the collector refused them with status 400"), "{log}");
    let begun = tokio::time::Instant::now();
    world.finish().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_variables_of_opentelemetry_count() {
    let collector = Collector::start(&[]).await;
    let world = Plan::open()
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}", collector.address))
        .secret("OTEL_EXPORTER_OTLP_HEADERS", "api-key=told%20to%20nobody,x-team=blue")
        .variable("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=other")
        .variable("OTEL_SERVICE_NAME", "orders-sidecar")
        .variable("OTEL_TRACES_SAMPLER", "always_on")
        .start()
        .await;
    // This sampler does not ask the caller.
    let parent = PARENT.replace("-01", "-00");
    assert_eq!(world.countersign.ask("GET", "/", &[("traceparent", &parent)], b"").await.status, 200);
    assert!(world.only().header("traceparent").unwrap().ends_with("-01"));
    world.finish().await;
    let post = &collector.posts()[0];
    assert!(post.head.contains("api-key: told to nobody\r\n") && post.head.contains("x-team: blue\r\n"));
    let resource = &post.batch.resource_spans[0].resource.as_ref().unwrap().attributes;
    assert_eq!(attribute(resource, "service.name").as_deref(), Some("orders-sidecar"));
    assert_eq!(attribute(resource, "deployment.environment.name").as_deref(), Some("test"));
}

#[tokio::test]
async fn the_gateways_own_ids_are_in_the_line_the_page_and_the_span() {
    let collector = Collector::start(&[]).await;
    let world = traced(&collector).start().await;
    let answer = world.countersign.ask("GET", "/", &[("x-request-id", "ids-1")], b"").await;
    let theirs = answer.header("x-amzn-requestid").unwrap().to_owned();
    let extended = answer.header("x-amz-apigw-id").unwrap().to_owned();
    let line = world.countersign.access_line("ids-1").await;
    assert_eq!((line["aws_request_id"].as_str(), line["aws_extended_id"].as_str()), (Some(&*theirs), Some(&*extended)));
    let report: serde_json::Value = serde_json::from_str(&world.countersign.page("/api/status").await.text()).unwrap();
    let request = &report["requests"][0];
    assert_eq!(request["aws_request_id"], theirs.as_str());
    assert_eq!(request["aws_extended_id"], extended.as_str());
    let page = world.countersign.page("/").await.text();
    assert!(page.contains(&theirs) && page.contains(&extended));
    let spans = spans(world, &collector).await;
    assert_eq!(attribute(&spans[0].attributes, "aws.request_id"), Some(theirs));
}
