//! What a client is told when the API cannot be reached or does not answer: enough to act, nothing to learn from.

use standin::{Alpn, Answer as Scripted, Authority, Gateway};
use tokio::net::TcpListener;

use crate::support::{API, Answer, Countersign, Plan, Setup, Wire, within};

/// Words that would tell a caller where the API is and what we are made of.
const UNTOLD: [&str; 13] = [
    "127.0.0.1",
    "abc123",
    "amazonaws",
    "prod",
    "/secret-path",
    "hyper",
    "rustls",
    "tokio",
    "os error",
    "refused",
    "connecting",
    "invalid",
    "src/",
];

/// A bearer-free route to the API's name at `port`, trusting `authority`.
async fn toward(authority: &Authority, port: u16, lines: &str) -> Countersign {
    let route = format!(
        "[[route]]\nname = \"api\"\nauth = \"none\"\nupstream = \"https://{API}/prod\"\n\
         connect_to = \"127.0.0.1:{port}\"\n{lines}\n"
    );
    Setup::new(authority).add(&route).start().await
}

/// Checks one of our own answers whole.
async fn expect(countersign: &Countersign, verdict: (u16, &str), proxy_status: &str) {
    for method in ["GET", "POST", "HEAD"] {
        let answer = countersign.ask(method, "/secret-path?q=1", &[], b"").await;
        expect_answer(&answer, method, verdict, proxy_status);
        let line = countersign.access_line(answer.header("x-request-id").unwrap()).await;
        assert_eq!((&line["outcome"], &line["fault"]), (&verdict.1.into(), &"upstream".into()));
        assert!(line["error"].as_str().is_some_and(|error| !error.is_empty()), "the log says why: {line}");
    }
}

fn expect_answer(answer: &Answer, method: &str, verdict: (u16, &str), proxy_status: &str) {
    assert_eq!(answer.verdict(), verdict, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("proxy-status"), Some(format!("countersign; error={proxy_status}").as_str()));
    let head = format!("{:?}", answer.headers);
    for word in UNTOLD {
        assert!(!head.contains(word) && !answer.text().contains(word), "{word}: {head} {}", answer.text());
    }
    if method == "HEAD" {
        assert!(answer.body.is_empty());
        return;
    }
    let problem = answer.json();
    assert_eq!(problem["status"], verdict.0);
    assert_eq!(problem["code"], verdict.1);
    assert_eq!(problem["request_id"].as_str(), answer.header("x-request-id"));
    assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()));
}

#[tokio::test]
async fn a_refused_connection_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let countersign = toward(&Authority::new(), port, "").await;
    expect(&countersign, (502, "upstream-unreachable"), "destination_unavailable").await;
    countersign.finish().await;
}

#[tokio::test]
async fn a_certificate_of_a_stranger_stops_everything() {
    let gateway = Gateway::builder().tls(&Authority::new(), &[API]).start().await;
    let countersign = toward(&Authority::new(), gateway.port(), "").await;
    expect(&countersign, (502, "upstream-tls"), "tls_protocol_error").await;
    assert_eq!(gateway.requests(), 0);
    countersign.finish().await;
}

#[tokio::test]
async fn a_certificate_for_another_name_stops_everything() {
    let authority = Authority::new();
    let gateway = Gateway::builder().tls(&authority, &["other.execute-api.ap-northeast-1.amazonaws.com"]).start().await;
    let countersign = toward(&authority, gateway.port(), "").await;
    expect(&countersign, (502, "upstream-tls"), "tls_protocol_error").await;
    assert_eq!(gateway.requests(), 0);
    countersign.finish().await;
}

#[tokio::test]
async fn a_handshake_that_hangs_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let countersign = toward(&Authority::new(), silent.local_addr().unwrap().port(), "tls_timeout = \"100ms\"").await;
    expect(&countersign, (502, "upstream-tls"), "tls_protocol_error").await;
    countersign.finish().await;
}

#[tokio::test]
async fn an_api_that_never_answers_is_given_up_after_the_response_limit() {
    for alpn in [Alpn::Http1, Alpn::Http2] {
        let plan = Plan::open().alpn(alpn).upstream("response_timeout = \"300ms\"");
        let world = plan.start().await;
        for _ in 0..3 {
            world.gateway.script(Scripted::Never);
        }
        expect(&world.countersign, (504, "upstream-timeout"), "http_response_timeout").await;
        world.finish().await;
    }
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_a_reset() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 099 Too low\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx",
        "",
    ] {
        let wire = Wire::listen().await;
        let world = Plan::open().add(&wire.route("/wire")).start().await;
        let (answer, ()) = tokio::join!(world.get("/wire"), async {
            let mut line = wire.accept().await;
            line.head().await;
            line.write(garbage).await;
        });
        expect_answer(&answer, "GET", (502, "upstream-reset"), "http_response_incomplete");
        world.finish().await;
    }
}

#[tokio::test]
async fn an_endless_head_is_a_reset() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    let (answer, ()) = tokio::join!(world.get("/wire"), async {
        let mut line = wire.accept().await;
        line.head().await;
        line.write("HTTP/1.1 200 OK\r\n").await;
        while line.try_write(format!("x: {}\r\n", "y".repeat(1000))).await {}
    });
    assert_eq!(answer.verdict(), (502, "upstream-reset"));
    world.finish().await;
}

#[tokio::test]
async fn an_upload_that_stalls_is_the_clients_fault() {
    for plan in [Plan::open().alpn(Alpn::Http1), Plan::open().alpn(Alpn::Http2), Plan::sigv4()] {
        let world = plan.upstream("upload_idle_timeout = \"200ms\"").start().await;
        let mut client = world.countersign.connect().await;
        client.writer.send("PUT / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\npart").await;
        assert_eq!(client.reader.answer("PUT").await.verdict(), (408, "request-timeout"));
        world.finish().await;
    }
}

#[tokio::test]
async fn an_upload_with_broken_framing_is_the_clients_fault() {
    for plan in [Plan::open().alpn(Alpn::Http1), Plan::open().alpn(Alpn::Http2), Plan::sigv4()] {
        let world = plan.start().await;
        let mut client = world.countersign.connect().await;
        client.writer.chunked("PUT", "/").await;
        client.writer.send("nonsense\r\n").await;
        while client.reader.skip().await {}
        let metrics = world.countersign.until(|metrics| metrics.ended("bad-request") == 1).await;
        assert_eq!(metrics.count("countersign_requests_total", &[]), 1);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_slow_upload_is_not_taken_for_a_slow_api() {
    let world = Plan::open().upstream("response_timeout = \"100ms\"").start().await;
    let mut client = world.countersign.connect().await;
    client.writer.chunked("PUT", "/").await;
    for _ in 0..4 {
        client.writer.chunk("piece").await;
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    }
    client.writer.end().await;
    assert_eq!(within(client.reader.answer("PUT")).await.status, 200);
    world.finish().await;
}
