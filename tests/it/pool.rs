//! Connections to upstreams: kept, shared, and no request lost or done twice on one that dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use countersign::clock::Clock;
use standin::body::full;
use standin::{Alpn, Answer as Scripted};
use tokio::task::JoinSet;

use crate::support::{Plan, Wire, World, held, hold};

/// Many at the same time; returns how many connections they took.
async fn in_parallel(alpn: Alpn, requests: usize) -> (World, usize) {
    let (responder, mut taken) = hold();
    let world = Plan::bearer().alpn(alpn).respond("/prod/held", responder).start().await;
    let mut asking = JoinSet::new();
    for _ in 0..requests {
        let mut client = world.countersign.connect().await;
        asking.spawn(async move { client.get("/held").await.status });
    }
    let mut all = Vec::new();
    for _ in 0..requests {
        all.push(held(&mut taken).await);
    }
    for held in all {
        held.answer_with(full("at last"));
    }
    assert!(asking.join_all().await.iter().all(|status| *status == 200));
    let connections = world.gateway.connections();
    (world, connections)
}

#[tokio::test]
async fn requests_one_after_another_share_a_connection() {
    for alpn in [Alpn::Http1, Alpn::Http2] {
        let world = Plan::bearer().alpn(alpn).start().await;
        for number in 0..50 {
            let body = if number % 2 == 0 { &b""[..] } else { b"body" };
            assert_eq!(world.countersign.ask("POST", "/", &[], body).await.status, 200);
        }
        let used: Vec<usize> = world.gateway.received().iter().map(|request| request.connection).collect();
        assert_eq!(used, [1; 50], "{alpn:?}");
        world.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_one_after_another_share_a_connection() {
    let world = Plan::bearer().alpn(Alpn::Http1).start().await;
    let mut client = world.countersign.connect().await;
    for _ in 0..200 {
        assert_eq!(client.ask("POST", "/", &[], b"streamed").await.status, 200);
    }
    assert_eq!(world.gateway.connections(), 1);
    world.finish().await;
}

#[tokio::test]
async fn requests_at_the_same_time_each_have_a_connection_and_later_ones_use_those() {
    let (world, connections) = in_parallel(Alpn::Http1, 20).await;
    assert_eq!(connections, 20);
    for _ in 0..20 {
        assert_eq!(world.get("/").await.status, 200);
    }
    assert_eq!(world.gateway.connections(), 20);
    world.finish().await;
}

#[tokio::test]
async fn a_connection_stays_with_the_thread_that_made_it() {
    let (responder, mut taken) = hold();
    let plan = Plan::bearer().alpn(Alpn::Http1).proxy("workers = 2").respond("/prod/held", responder);
    let world = plan.start().await;
    let mut clients = [world.countersign.connect().await, world.countersign.connect().await];
    let mut all = Vec::new();
    for client in &mut clients {
        client.writer.send("GET /held HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        all.push(held(&mut taken).await);
    }
    for (client, held) in clients.iter_mut().zip(all) {
        held.answer_with(full("at last"));
        assert_eq!(client.reader.answer("GET").await.status, 200);
    }
    for _ in 0..5 {
        for client in &mut clients {
            // The other's was used later, and would be taken by whoever did not look.
            assert_eq!(client.get("/").await.status, 200);
        }
    }
    let used: Vec<usize> = world.gateway.received().iter().map(|request| request.connection).collect();
    assert_eq!(used, [1, 2].repeat(6));
    world.finish().await;
}

#[tokio::test]
async fn a_connection_of_another_thread_is_better_than_a_new_one() {
    for alpn in [Alpn::Http1, Alpn::Http2] {
        let world = Plan::bearer().alpn(alpn).proxy("workers = 3").start().await;
        // Held open, so that each has a thread of its own.
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(world.countersign.connect().await);
        }
        for client in &mut clients {
            // It moves at the second.
            for _ in 0..3 {
                assert_eq!(client.ask("POST", "/", &[], b"body").await.status, 200);
                assert_eq!(client.get("/").await.status, 200);
            }
        }
        assert_eq!(world.gateway.connections(), 1, "{alpn:?}");
        world.finish().await;
    }
}

#[tokio::test]
async fn a_hundred_requests_at_the_same_time_share_one_http_2_connection() {
    let (world, connections) = in_parallel(Alpn::Http2, 100).await;
    assert_eq!(connections, 1);
    world.finish().await;
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_not_used() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    let mut client = world.countersign.connect().await;
    for _ in 0..3 {
        let answer = tokio::join!(client.get("/wire"), async {
            let mut line = wire.accept().await;
            line.head().await;
            line.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            // Closed without a word, as API Gateway does after a while.
        });
        assert_eq!(answer.0.text(), "ok");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_connection_is_not_kept_beyond_its_idle_limit() {
    let plan = Plan::open().alpn(Alpn::Http1).upstream("pool_idle_timeout = \"100ms\"");
    let world = plan.start().await;
    assert_eq!(world.get("/").await.status, 200);
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(world.get("/").await.status, 200);
    assert_eq!(world.gateway.connections(), 2);
    world.finish().await;
}

#[tokio::test]
async fn a_get_on_a_connection_that_dies_is_signed_and_sent_once_more() {
    // Each look at the clock is a second later, so that two signatures cannot be equal.
    let looks = Arc::new(AtomicU64::new(0));
    let clock = Clock::from_fn(move || start() + Duration::from_secs(looks.fetch_add(1, Ordering::Relaxed)));
    let world = Plan::sigv4().alpn(Alpn::Http1).clock(clock).start().await;
    for (method, body) in [("GET", &b""[..]), ("PUT", b"body"), ("DELETE", b"")] {
        assert_eq!(world.countersign.ask(method, "/", &[], body).await.status, 200);
        let before = world.gateway.requests();
        world.gateway.script(Scripted::Close);
        let answer = world.countersign.ask(method, "/again", &[], body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let received = world.gateway.received();
        let [first, second] = &received[before..] else { panic!("{:#?}", &received[before..]) };
        assert_eq!(first.target, second.target);
        assert_eq!(second.verdict.as_deref(), Ok("iam"));
        assert_ne!(first.header("x-amz-date"), second.header("x-amz-date"));
        assert_ne!(first.header("authorization"), second.header("authorization"));
        assert_eq!(second.values("x-amz-date").len(), 1);
        assert_ne!(first.connection, second.connection);
    }
    world.finish().await;
}

/// The time when first asked.
#[expect(clippy::disallowed_methods, reason = "the stand-in judges by the machine's clock")]
fn start() -> SystemTime {
    static START: std::sync::OnceLock<SystemTime> = std::sync::OnceLock::new();
    *START.get_or_init(SystemTime::now)
}

#[tokio::test]
async fn a_request_is_sent_twice_at_most() {
    let world = Plan::bearer().alpn(Alpn::Http1).start().await;
    assert_eq!(world.get("/").await.status, 200);
    world.gateway.script(Scripted::Close);
    world.gateway.script(Scripted::Close);
    assert_eq!(world.get("/").await.verdict(), (502, "upstream-reset"));
    assert_eq!(world.gateway.requests(), 3);
    world.finish().await;
}

#[tokio::test]
async fn a_post_is_never_done_twice() {
    for plan in [Plan::bearer(), Plan::sigv4()] {
        let world = plan.alpn(Alpn::Http1).start().await;
        for method in ["POST", "PATCH"] {
            assert_eq!(world.get("/").await.status, 200);
            let before = world.gateway.requests();
            world.gateway.script(Scripted::Close);
            let answer = world.countersign.ask(method, "/pay", &[], b"1000").await;
            assert_eq!(answer.verdict(), (502, "upstream-reset"));
            assert_eq!(world.gateway.requests(), before + 1);
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn a_reset_http_2_stream_leaves_the_others_alone() {
    let (responder, mut taken) = hold();
    let world = Plan::bearer().alpn(Alpn::Http2).respond("/prod/held", responder).start().await;
    let mut other = world.countersign.connect().await;
    other.writer.request("GET", "/held", &[], b"").await;
    let held = held(&mut taken).await;
    world.gateway.script(Scripted::Close);
    assert_eq!(world.countersign.ask("POST", "/", &[], b"1").await.verdict(), (502, "upstream-reset"));
    held.answer_with(full("unhurt"));
    assert_eq!(other.reader.answer("GET").await.text(), "unhurt");
    assert_eq!(world.gateway.connections(), 1);
    world.finish().await;
}

#[tokio::test]
async fn what_comes_after_an_answer_is_not_taken_for_the_next() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    let forged = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
    let mut lines = Vec::new();
    for more in [forged, ""] {
        let (answer, line) = tokio::join!(world.get("/wire"), async {
            let mut line = wire.accept().await;
            line.head().await;
            line.write(format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nreal{more}")).await;
            line
        });
        assert_eq!(answer.text(), "real");
        lines.push(line);
    }
    world.finish().await;
}
