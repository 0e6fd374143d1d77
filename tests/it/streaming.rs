//! Bodies that pass as they come, in both directions and at the same time, and byte for byte.

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use standin::body::{channel, full};
use standin::{Alpn, BodyEnd};
use tokio::task::JoinSet;

use crate::support::{Client, Line, Piece, Plan, Wire, World, held, hold, pass, piece, within};

const LARGE: usize = 64 << 20;
const STEP: usize = 1 << 20;

/// Bytes that do not repeat where pieces meet.
fn block(number: usize) -> Vec<u8> {
    let seed = u64::try_from(number).unwrap().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..STEP as u64 / 8).flat_map(|at| (at.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ seed).to_le_bytes()).collect()
}

fn hex(hash: Context) -> String {
    hash.finish().as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

async fn events_arrive_one_by_one(alpn: Alpn) {
    let (responder, mut taken) = hold();
    let world = Plan::bearer().alpn(alpn).respond("/prod/events", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/events", &[("accept", "text/event-stream")], b"").await;
    let (mut api, body) = channel(1);
    held(&mut taken).await.answer_with(body);
    assert_eq!(client.reader.head("GET").await.status, 200, "the head does not wait for the first event");
    for number in 0..20 {
        // The next event is made only once the last one is here.
        let event = format!("data: {number}\n\n");
        within(api.send_data(Bytes::from(event.clone()))).await.unwrap();
        assert_eq!(client.reader.piece().await, Piece::Data(event.into_bytes()));
    }
    drop(api);
    assert_eq!(client.reader.piece().await, Piece::End(Vec::new()));
    world.finish().await;
}

#[tokio::test]
async fn events_arrive_one_by_one_over_http_1() {
    events_arrive_one_by_one(Alpn::Http1).await;
}

#[tokio::test]
async fn events_arrive_one_by_one_over_http_2() {
    events_arrive_one_by_one(Alpn::Http2).await;
}

#[tokio::test]
async fn an_answer_with_all_its_bytes_is_delivered_though_its_stream_has_not_ended() {
    let (responder, mut taken) = hold();
    let world = Plan::open().alpn(Alpn::Http2).respond("/prod/late", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/late", &[], b"").await;
    let (mut api, body) = channel(1);
    let answer = http::Response::builder().header("content-length", "5").body(body).unwrap();
    held(&mut taken).await.answer(answer);
    within(api.send_data(Bytes::from("hello"))).await.unwrap();
    let answer = client.reader.answer("GET").await;
    assert_eq!((answer.text().as_str(), answer.header("content-length")), ("hello", Some("5")));
    let metrics = world.countersign.metrics().await;
    assert_eq!(metrics.count("countersign_requests_total", &["outcome=\"delivered\""]), 1);
    drop(api);
    world.finish().await;
}

async fn pieces_of_an_upload_arrive_before_the_next_is_sent(alpn: Alpn) {
    let (responder, mut taken) = hold();
    let world = Plan::bearer().alpn(alpn).respond("/prod/up", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.chunked("POST", "/up").await;
    let mut held = held(&mut taken).await;
    for number in 0..20 {
        let piece = format!("piece {number}");
        client.writer.chunk(&piece).await;
        assert_eq!(held.piece().await, piece);
    }
    client.writer.end().await;
    assert_eq!(held.piece().await, "");
    held.answer_with(full("thanks"));
    assert_eq!(client.reader.answer("POST").await.text(), "thanks");
    assert_eq!(world.only().body_end, BodyEnd::Whole);
    world.finish().await;
}

#[tokio::test]
async fn pieces_of_an_upload_arrive_before_the_next_is_sent_over_http_1() {
    pieces_of_an_upload_arrive_before_the_next_is_sent(Alpn::Http1).await;
}

#[tokio::test]
async fn pieces_of_an_upload_arrive_before_the_next_is_sent_over_http_2() {
    pieces_of_an_upload_arrive_before_the_next_is_sent(Alpn::Http2).await;
}

async fn an_answer_begins_while_the_upload_goes_on(alpn: Alpn) {
    let (responder, mut taken) = hold();
    let world = Plan::bearer().alpn(alpn).respond("/prod/chat", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.chunked("POST", "/chat").await;
    let (mut api, body) = channel(1);
    let mut request = held(&mut taken).await.answer_with(body);
    assert_eq!(client.reader.head("POST").await.status, 200);
    for number in 0..20 {
        let (question, reply) = (format!("question {number}"), format!("reply {number}"));
        client.writer.chunk(&question).await;
        assert_eq!(piece(&mut request).await, question);
        within(api.send_data(Bytes::from(reply.clone()))).await.unwrap();
        assert_eq!(client.reader.piece().await, Piece::Data(reply.into_bytes()));
    }
    client.writer.end().await;
    assert_eq!(piece(&mut request).await, "");
    drop(api);
    assert_eq!(client.reader.piece().await, Piece::End(Vec::new()));
    assert_eq!(client.get("/").await.status, 200, "the connection is good for more");
    world.finish().await;
}

/// A connection whose upload has begun and is answered already, by `content`; it goes on.
async fn answered_half_way(world: &World, wire: &Wire, content: &str) -> (Client, Line) {
    let (mut client, mut line) = world.begin_upload(wire).await;
    line.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{content}", content.len())).await;
    assert_eq!(client.reader.answer("POST").await.text(), content);
    (client, line)
}

#[tokio::test]
async fn an_upload_goes_on_behind_its_answer_and_its_connection_serves_again() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    for content in ["", "whole"] {
        let (mut client, mut line) = answered_half_way(&world, &wire, content).await;
        client.writer.chunk("second").await;
        client.writer.end().await;
        assert_eq!(line.body(16).await, b"6\r\nsecond\r\n0\r\n\r\n");
        let (answer, ()) = tokio::join!(client.get("/wire"), async {
            line.head().await;
            line.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nagain").await;
        });
        assert_eq!(answer.text(), "again");
    }
    world.finish().await;
}

#[tokio::test]
async fn an_upload_that_goes_on_behind_its_answer_ends_with_its_upstream() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    for content in ["", "whole"] {
        let (mut client, line) = answered_half_way(&world, &wire, content).await;
        drop(line);
        assert!(client.reader.is_over().await);
    }
    world.finish().await;
}

#[tokio::test]
async fn an_answer_begins_while_the_upload_goes_on_over_http_1() {
    an_answer_begins_while_the_upload_goes_on(Alpn::Http1).await;
}

#[tokio::test]
async fn an_answer_begins_while_the_upload_goes_on_over_http_2() {
    an_answer_begins_while_the_upload_goes_on(Alpn::Http2).await;
}

async fn sixty_four_mebibytes_go_up_unchanged(alpn: Alpn) {
    let world = Plan::bearer().alpn(alpn).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.send(format!("PUT /up HTTP/1.1\r\nhost: localhost\r\ncontent-length: {LARGE}\r\n\r\n")).await;
    let mut hash = Context::new(&SHA256);
    for number in 0..LARGE / STEP {
        let block = block(number);
        hash.update(&block);
        client.writer.send(block).await;
    }
    let answer = client.reader.answer("PUT").await;
    assert_eq!(answer.json()["body_bytes"], LARGE);
    assert_eq!(answer.json()["body_sha256"], hex(hash));
    let metrics = world.countersign.metrics().await;
    assert_eq!(metrics.count("countersign_request_body_bytes_total", &["route=\"api\""]), LARGE as u64);
    world.finish().await;
}

#[tokio::test]
async fn sixty_four_mebibytes_go_up_unchanged_over_http_1() {
    sixty_four_mebibytes_go_up_unchanged(Alpn::Http1).await;
}

#[tokio::test]
async fn sixty_four_mebibytes_go_up_unchanged_over_http_2() {
    sixty_four_mebibytes_go_up_unchanged(Alpn::Http2).await;
}

async fn sixty_four_mebibytes_come_down_unchanged(alpn: Alpn) {
    let (responder, mut taken) = hold();
    let world = Plan::bearer().alpn(alpn).respond("/prod/down", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/down", &[], b"").await;
    let (mut api, body) = channel(1);
    held(&mut taken).await.answer_with(body);
    let mut sending = JoinSet::new();
    sending.spawn(async move {
        let mut hash = Context::new(&SHA256);
        for number in 0..LARGE / STEP {
            let block = block(number);
            hash.update(&block);
            api.send_data(Bytes::from(block)).await.unwrap();
        }
        hex(hash)
    });
    assert_eq!(client.reader.head("GET").await.status, 200);
    let mut hash = Context::new(&SHA256);
    let mut length = 0;
    while let Piece::Data(data) = client.reader.piece().await {
        hash.update(&data);
        length += data.len();
    }
    assert_eq!(length, LARGE);
    assert_eq!(hex(hash), sending.join_next().await.unwrap().unwrap());
    world.finish().await;
}

#[tokio::test]
async fn sixty_four_mebibytes_come_down_unchanged_over_http_1() {
    sixty_four_mebibytes_come_down_unchanged(Alpn::Http1).await;
}

#[tokio::test]
async fn sixty_four_mebibytes_come_down_unchanged_over_http_2() {
    sixty_four_mebibytes_come_down_unchanged(Alpn::Http2).await;
}

async fn an_early_answer_to_a_large_upload_arrives(alpn: Alpn) {
    let (responder, mut taken) = hold();
    let world = Plan::bearer().alpn(alpn).respond("/prod/up", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.send(format!("PUT /up HTTP/1.1\r\nhost: localhost\r\ncontent-length: {LARGE}\r\n\r\n")).await;
    client.writer.send(block(0)).await;
    drop(held(&mut taken).await.answer_with(full("enough")));
    let answer = client.reader.answer("PUT").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "enough"));
    drop(client);
    assert_eq!(world.get("/").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn an_early_answer_to_a_large_upload_arrives_over_http_1() {
    an_early_answer_to_a_large_upload_arrives(Alpn::Http1).await;
}

#[tokio::test]
async fn an_early_answer_to_a_large_upload_arrives_over_http_2() {
    an_early_answer_to_a_large_upload_arrives(Alpn::Http2).await;
}

#[tokio::test]
async fn an_answer_reaches_a_client_that_has_closed_its_side() {
    let (responder, mut taken) = hold();
    let world = Plan::bearer().respond("/prod/slow", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request("POST", "/slow", &[], b"all of it").await;
    client.writer.half_close().await;
    let mut held = held(&mut taken).await;
    assert_eq!(held.piece().await, "all of it");
    held.answer_with(full("late"));
    assert_eq!(client.reader.answer("POST").await.text(), "late");
    world.finish().await;
}

/// A stream that is silent for five minutes at a time lives, for as long as it will; one that is silent for longer than
/// an API may be is cut where the client can see it.
async fn a_quarter_of_an_hour_of_silences(alpn: Alpn) {
    let (responder, mut taken) = hold();
    let world = Plan::bearer().alpn(alpn).respond("/prod/events", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/events", &[("accept", "text/event-stream")], b"").await;
    let (mut api, body) = channel(1);
    held(&mut taken).await.answer_with(body);
    assert_eq!(client.reader.head("GET").await.status, 200);
    for number in 0..4 {
        let event = format!("data: {number}\n\n");
        within(api.send_data(Bytes::from(event.clone()))).await.unwrap();
        assert_eq!(client.reader.piece().await, Piece::Data(event.into_bytes()));
        // In steps, so that pings over HTTP/2 can be answered in between.
        for _ in 0..15 {
            pass(Duration::from_secs(20)).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    pass(Duration::from_secs(31)).await;
    assert_eq!(client.reader.piece().await, Piece::Cut);
    world.countersign.until(|metrics| metrics.ended("upstream-truncated") == 1).await;
    drop(api);
    world.finish().await;
}

#[tokio::test]
async fn silent_events_over_http_1() {
    a_quarter_of_an_hour_of_silences(Alpn::Http1).await;
}

#[tokio::test]
async fn silent_events_over_http_2() {
    a_quarter_of_an_hour_of_silences(Alpn::Http2).await;
}
