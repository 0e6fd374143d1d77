//! A body that breaks off on one side breaks off on the other; it never looks complete.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use standin::body::{channel, full};
use standin::{Alpn, BodyEnd};
use tokio::time::Instant;

use crate::support::{Client, Piece, Plan, Wire, held, hold, within};

/// The API sends the head and a part, then breaks off.
async fn an_answer_that_breaks_off(alpn: Alpn, length: Option<&str>) {
    let (responder, mut taken) = hold();
    let world = Plan::bearer().alpn(alpn).respond("/prod/down", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/down", &[], b"").await;
    let (mut api, body) = channel(1);
    let mut response = Response::new(body);
    if let Some(length) = length {
        response.headers_mut().insert("content-length", length.parse().unwrap());
    }
    held(&mut taken).await.answer(response);
    assert_eq!(client.reader.head("GET").await.status, 200);
    within(api.send_data(Bytes::from_static(b"part"))).await.unwrap();
    assert_eq!(client.reader.piece().await, Piece::Data(b"part".to_vec()));
    api.abort("broken on purpose".into());
    assert_eq!(client.reader.piece().await, Piece::Cut);
    let metrics = world.countersign.until(|metrics| metrics.ended("upstream-truncated") == 1).await;
    assert_eq!(metrics.ended("delivered"), 0);
    world.finish().await;
}

#[tokio::test]
async fn an_answer_with_a_length_that_breaks_off_is_cut() {
    an_answer_that_breaks_off(Alpn::Http1, Some("10")).await;
}

#[tokio::test]
async fn a_chunked_answer_that_breaks_off_is_cut() {
    an_answer_that_breaks_off(Alpn::Http1, None).await;
}

#[tokio::test]
async fn an_http_2_answer_that_breaks_off_is_cut() {
    an_answer_that_breaks_off(Alpn::Http2, None).await;
    an_answer_that_breaks_off(Alpn::Http2, Some("10")).await;
}

#[tokio::test]
async fn a_stalled_answer_is_cut_after_the_idle_limit() {
    let (responder, mut taken) = hold();
    let plan = Plan::bearer().upstream("body_idle_timeout = \"200ms\"");
    let world = plan.respond("/prod/down", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/down", &[], b"").await;
    let (_api, body) = channel(1);
    held(&mut taken).await.answer_with(body);
    assert_eq!(client.reader.head("GET").await.status, 200);
    assert_eq!(client.reader.piece().await, Piece::Cut);
    assert_eq!(world.countersign.metrics().await.ended("upstream-truncated"), 1);
    world.finish().await;
}

/// The client sends a part, then leaves.
async fn an_upload_that_breaks_off(alpn: Alpn, framing: &str, part: &str, nonsense: Option<&str>) {
    let (responder, mut taken) = hold();
    let world = Plan::bearer().alpn(alpn).respond("/prod/up", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.send(format!("PUT /up HTTP/1.1\r\nhost: localhost\r\n{framing}\r\n\r\n{part}")).await;
    let mut held = held(&mut taken).await;
    assert_eq!(held.piece().await, "part");
    match nonsense {
        Some(nonsense) => client.writer.send(nonsense).await,
        None => drop(client),
    }
    assert!(held.breaks_off().await, "the API takes it for the whole");
    assert_eq!(world.only().body_end, BodyEnd::Cut);
    drop(held);
    world.finish().await;
}

#[tokio::test]
async fn an_upload_with_a_length_that_breaks_off_is_cut() {
    for alpn in [Alpn::Http1, Alpn::Http2] {
        an_upload_that_breaks_off(alpn, "content-length: 10", "part", None).await;
    }
}

#[tokio::test]
async fn a_chunked_upload_that_breaks_off_is_cut() {
    for alpn in [Alpn::Http1, Alpn::Http2] {
        an_upload_that_breaks_off(alpn, "transfer-encoding: chunked", "4\r\npart\r\n", None).await;
    }
}

#[tokio::test]
async fn a_chunked_upload_with_broken_framing_is_cut() {
    for alpn in [Alpn::Http1, Alpn::Http2] {
        an_upload_that_breaks_off(alpn, "transfer-encoding: chunked", "4\r\npart\r\n", Some("no length\r\n")).await;
    }
}

#[tokio::test]
async fn nothing_of_a_truncated_upload_is_signed() {
    let world = Plan::sigv4().start().await;
    for bytes in ["content-length: 10\r\n\r\npart", "transfer-encoding: chunked\r\n\r\n4\r\npart\r\n"] {
        let mut client = world.countersign.connect().await;
        client.writer.send(format!("PUT /up HTTP/1.1\r\nhost: localhost\r\n{bytes}")).await;
        client.writer.half_close().await;
        while client.reader.skip().await {}
    }
    world.countersign.until(|metrics| metrics.count("countersign_requests_total", &[]) == 2).await;
    assert_eq!(world.gateway.requests(), 0);
    world.finish().await;
}

#[tokio::test]
async fn an_upload_that_is_reset_is_cut() {
    for alpn in [Alpn::Http1, Alpn::Http2] {
        let (responder, mut taken) = hold();
        let world = Plan::bearer().alpn(alpn).respond("/prod/up", responder).start().await;
        let mut client = world.countersign.connect().await;
        client.writer.send("PUT /up HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10737418240\r\n\r\npart").await;
        let mut held = held(&mut taken).await;
        assert_eq!(held.piece().await, "part");
        client.reset();
        assert!(held.breaks_off().await, "the API takes it for the whole");
        drop(held);
        world.countersign.until(|metrics| metrics.count("countersign_requests_in_flight", &[]) == 0).await;
        world.finish().await;
    }
}

#[tokio::test]
async fn a_client_that_resets_ends_the_answer() {
    for alpn in [Alpn::Http1, Alpn::Http2] {
        let (responder, mut taken) = hold();
        let world = Plan::bearer().alpn(alpn).respond("/prod/down", responder).start().await;
        let mut client = world.countersign.connect().await;
        client.writer.request("GET", "/down", &[], b"").await;
        let (mut api, body) = channel(1);
        held(&mut taken).await.answer_with(body);
        assert_eq!(client.reader.head("GET").await.status, 200);
        client.reset();
        within(async { while api.send_data(Bytes::from_static(b"more")).await.is_ok() {} }).await;
        world.countersign.until(|metrics| metrics.ended("client-aborted") == 1).await;
        world.finish().await;
    }
}

/// Nothing is written to a client that waits for a head, so no failed write tells that it is gone.
#[tokio::test]
async fn a_client_that_resets_while_it_waits_ends_the_wait() {
    for alpn in [Alpn::Http1, Alpn::Http2] {
        let (responder, mut taken) = hold();
        let world = Plan::bearer().alpn(alpn).respond("/prod/held", responder).start().await;
        for (body, behind) in
            [(&b""[..], &b""[..]), (b"a body", b""), (b"", b"GET /next HTTP/1.1\r\nhost: localhost\r\n")]
        {
            let mut client = world.countersign.connect().await;
            client.writer.request("POST", "/held", &[], body).await;
            client.writer.send(behind).await;
            let mut held = held(&mut taken).await;
            let left = Instant::now();
            client.reset();
            held.is_abandoned().await;
            assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
            world.countersign.until(|metrics| metrics.count("countersign_requests_in_flight", &[]) == 0).await;
        }
        world.countersign.until(|metrics| metrics.ended("client-aborted") == 3).await;
        assert_eq!(world.get("/").await.status, 200);
        world.finish().await;
    }
}

/// Closing a connection says no more than closing one side of it; but whose the other end is, the kernel knows.
#[tokio::test]
async fn a_client_that_is_gone_is_told_from_one_that_waits() {
    let (responder, mut taken) = hold();
    let world = Plan::bearer().respond("/prod/held", responder).start().await;
    let (mut waits, mut goes, mut goes_later) =
        (world.countersign.connect().await, world.countersign.connect().await, world.countersign.connect().await);
    let mut ask = async |client: &mut Client| {
        client.writer.request("GET", "/held", &[], b"").await;
        held(&mut taken).await
    };
    let (waited_for, mut first, mut second) = (ask(&mut waits).await, ask(&mut goes).await, ask(&mut goes_later).await);
    waits.writer.half_close().await;
    goes_later.writer.half_close().await;
    let left = Instant::now();
    drop(goes);
    first.is_abandoned().await;
    assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
    let left = Instant::now();
    drop(goes_later);
    second.is_abandoned().await;
    assert!(left.elapsed() < Duration::from_secs(3), "{:?}", left.elapsed());
    waited_for.answer_with(full("still there"));
    assert_eq!(waits.reader.answer("GET").await.text(), "still there");
    world.countersign.until(|metrics| metrics.ended("client-aborted") == 2).await;
    world.finish().await;
}

/// What comes early is kept for its turn.
#[tokio::test]
async fn requests_that_come_while_one_is_under_way_are_answered_in_their_turn() {
    let (responder, mut taken) = hold();
    let world = Plan::open().respond("/prod/held", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/held", &[], b"").await;
    let held = held(&mut taken).await;
    let padding = "y".repeat(3_000);
    for number in 0..5 {
        client.writer.request("GET", &format!("/{number}"), &[("x-padding", &padding)], b"").await;
    }
    world.countersign.until(|metrics| metrics.count("countersign_requests_in_flight", &[]) == 1).await;
    assert!(client.reader.is_silent());
    held.answer_with(full("first"));
    assert_eq!(client.reader.answer("GET").await.text(), "first");
    for number in 0..5 {
        assert_eq!(client.reader.answer("GET").await.json()["target"], format!("/prod/{number}"));
    }
    world.finish().await;
}

async fn a_client_that_leaves_ends_the_answer(alpn: Alpn) {
    let (responder, mut taken) = hold();
    let world = Plan::bearer().alpn(alpn).respond("/prod/down", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/down", &[], b"").await;
    let (mut api, body) = channel(1);
    held(&mut taken).await.answer_with(body);
    assert_eq!(client.reader.head("GET").await.status, 200);
    drop(client);
    within(async { while api.send_data(Bytes::from_static(&[0; 1024])).await.is_ok() {} }).await;
    world.countersign.until(|metrics| metrics.ended("client-aborted") == 1).await;
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_answer_over_http_1() {
    a_client_that_leaves_ends_the_answer(Alpn::Http1).await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_answer_over_http_2() {
    a_client_that_leaves_ends_the_answer(Alpn::Http2).await;
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_whole() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    let mut client = world.countersign.connect().await;
    let (answer, ()) = tokio::join!(client.get("/wire"), async {
        let mut line = wire.accept().await;
        line.head().await;
        line.write("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end").await;
    });
    assert_eq!((answer.text().as_str(), answer.whole), ("until the end", true));
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"), "its end can be told from a break");
    world.finish().await;
}
