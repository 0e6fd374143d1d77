//! What hyper would take and others would take otherwise is refused on its bytes; nothing of it reaches the API.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use standin::{Alpn, BodyEnd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::support::{Answer, Plan, Wire, World, held, hold, within};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// A stream that is refused: this answer, the end of the connection, and not a connection upstream.
async fn refused(world: &World, stream: impl AsRef<[u8]>, verdict: (u16, &str)) -> Answer {
    let mut client = world.countersign.connect().await;
    let answer = client.raw(stream.as_ref()).await;
    assert_eq!(answer.verdict(), verdict, "{}", stream.as_ref().escape_ascii());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert!(!answer.headers.iter().any(|(name, _)| name.starts_with("access-control-")));
    assert!(client.reader.is_over().await, "{}", stream.as_ref().escape_ascii());
    assert_eq!(world.gateway.connections(), 0);
    answer
}

fn with(lines: &[u8]) -> Vec<u8> {
    [b"POST / HTTP/1.1\r\nHost: localhost\r\n", lines, b"\r\n", SMUGGLED.as_bytes()].concat()
}

#[tokio::test]
async fn two_framings_are_refused() {
    let world = Plan::bearer().start().await;
    for lines in [
        &b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"[..],
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: x\r\n",
        b"Content-Length: 4\r\nContent-Length: 4\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
    ] {
        refused(&world, with(lines), (400, "bad-request")).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn a_length_that_is_no_plain_number_is_refused() {
    let world = Plan::bearer().start().await;
    for value in ["3, 3", "+3", "-1", "0x3", "", "3 3", "1e1", "3;a", "18446744073709551615", "18446744073709551616"] {
        refused(&world, with(format!("Content-Length: {value}\r\n").as_bytes()), (400, "bad-request")).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn a_length_with_zeros_in_front_goes_out_without_them() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    let mut client = world.countersign.connect().await;
    let request = "POST /wire HTTP/1.1\r\nhost: localhost\r\ncontent-length: 003\r\n\r\nabc";
    let (answer, ()) = tokio::join!(client.raw(request), async {
        let mut line = wire.accept().await;
        assert!(line.head().await.contains("content-length: 3\r\n"));
        assert_eq!(line.body(3).await, b"abc");
        line.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    });
    assert_eq!(answer.status, 204);
    world.finish().await;
}

#[tokio::test]
async fn a_coding_that_is_not_chunked_is_refused() {
    let world = Plan::bearer().start().await;
    for value in
        ["chunked;q=1", "chunked, chunked", "gzip, chunked", "\x0bchunked", "", "chunked\r\nTransfer-Encoding: chunked"]
    {
        refused(&world, with(format!("Transfer-Encoding: {value}\r\n").as_bytes()), (400, "bad-request")).await;
    }
    for value in ["xchunked", "identity", "identity\r\nContent-Length: 3", "x\r\nTransfer-Encoding: chunked"] {
        refused(&world, with(format!("Transfer-Encoding: {value}\r\n").as_bytes()), (501, "not-implemented")).await;
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    refused(&world, old, (400, "bad-request")).await;
    world.finish().await;
}

#[tokio::test]
async fn tricks_with_names_are_refused_or_are_plain_fields() {
    let world = Plan::bearer().start().await;
    for name in ["Content-Length", "Transfer-Encoding", "Host", "Authorization"] {
        for trick in [
            &b"NAME : V"[..],
            b"NAME\t: V",
            b"NAME\xa0: V",
            b"NAME\x85: V",
            b"NAME\xc2\xad: V",
            b" NAME: V",
            b"\tNAME: V",
        ] {
            refused(&world, with(&spelled(trick, name)), (400, "bad-request")).await;
        }
        for trick in [
            &b"x: y\r\n NAME: V"[..],
            b"NAME:\r\n V",
            b"x: y\rNAME: V",
            b"x: y\nNAME: V",
            b"NAME\0: V",
            b"NA\0ME: V",
            b"\\NAME: V",
            b"NAME\\: V",
            b"NA ME: V",
            b"\xffNAME: V",
            b"NAME",
            b": V",
        ] {
            refused(&world, with(&spelled(trick, name)), (400, "bad-request")).await;
        }
    }
    world.finish().await;
}

fn spelled(trick: &[u8], name: &str) -> Vec<u8> {
    let mut line = Vec::new();
    let mut rest = trick;
    while let Some((first, behind)) = rest.split_first() {
        if let Some(behind) = rest.strip_prefix(b"NAME") {
            line.extend_from_slice(name.as_bytes());
            rest = behind;
        } else {
            line.push(*first);
            rest = behind;
        }
    }
    line.extend_from_slice(b"\r\n");
    line
}

#[tokio::test]
async fn twins_of_the_framing_frame_nothing_and_end_here() {
    let world = Plan::open().start().await;
    let mut client = world.countersign.connect().await;
    let twins = "Transfer_Encoding: chunked\r\nContent_Length: 3\r\nContent-Length_: 3\r\nHost_: evil\r\n";
    client.writer.send(format!("POST /one HTTP/1.1\r\nhost: localhost\r\n{twins}\r\n")).await;
    assert_eq!(client.reader.answer("POST").await.json()["body_bytes"], 0);
    let names: Vec<String> = world.only().headers.iter().map(|(name, _)| name.clone()).collect();
    assert!(names.iter().all(|name| !name.contains('_')), "{names:?}");
    assert_eq!(client.get("/two").await.status, 200, "the connection is not out of step");
    world.finish().await;
}

#[tokio::test]
async fn lines_that_do_not_end_with_cr_and_lf_are_refused() {
    let world = Plan::bearer().start().await;
    for stream in [
        &b"GET / HTTP/1.1\nHost: localhost\n\n"[..],
        b"GET / HTTP/1.1\r\nHost: localhost\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\r\n\r\n",
        b"\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        refused(&world, stream, (400, "bad-request")).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn an_empty_line_behind_a_body_is_forgiven() {
    let world = Plan::bearer().start().await;
    let mut client = world.countersign.connect().await;
    let post = "POST /one HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\nbody\r\n";
    client.writer.send(format!("{post}GET /two HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
    assert_eq!(client.reader.answer("POST").await.json()["body_bytes"], 4);
    assert_eq!(client.reader.answer("GET").await.json()["target"], "/prod/two");
    world.finish().await;
}

#[tokio::test]
async fn what_is_no_http_1_is_refused_within_a_second() {
    let world = Plan::bearer().start().await;
    let mut random = vec![0; 1 << 20];
    aws_lc_rs::rand::fill(&mut random).unwrap();
    for stream in [
        &b"GET /\r\n"[..],
        b"GET / HTTP/1.2\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"EHLO localhost\r\n",
        b"\0\0\0\0",
        &random,
    ] {
        let begun = Instant::now();
        let mut client = world.countersign.connect().await;
        // The server may have seen enough before all of it is sent.
        drop(client.writer.try_send(stream).await);
        while client.reader.skip().await {}
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    assert_eq!(world.gateway.connections(), 0);
    world.countersign.until(|metrics| metrics.ended("bad-request") == 9).await;
    world.finish().await;
}

#[tokio::test]
async fn a_refusal_is_logged_with_what_was_asked_and_no_more() {
    let world = Plan::bearer().start().await;
    let stream = "PUT /a/b?key=value HTTP/1.1\r\nhost: localhost\r\nx-odd : field-value\r\n\r\n";
    let answer = refused(&world, stream, (400, "bad-request")).await;
    assert_eq!(answer.json()["detail"], "a field line does not begin with a name and a colon");
    let id = answer.header("x-request-id").unwrap();
    let line = world.countersign.access_line(id).await;
    assert_eq!((&line["method"], &line["path"], &line["status"]), (&"PUT".into(), &"/a/b".into(), &400.into()));
    assert_eq!((&line["outcome"], &line["fault"]), (&"bad-request".into(), &"client".into()));
    assert!(!line.to_string().contains("value"), "{line}");
    let answer = refused(&world, "GET /\u{1b}[31m HTTP/1.1\r\n\r\n", (400, "bad-request")).await;
    let line = world.countersign.access_line(answer.header("x-request-id").unwrap()).await;
    assert_eq!((&line["method"], &line["path"]), (&"GET".into(), &"/".into()));
    world.finish().await;
}

#[tokio::test]
async fn a_refused_head_request_is_answered_without_a_body() {
    let world = Plan::bearer().start().await;
    let mut client = world.countersign.connect().await;
    client.writer.send("HEAD / HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(client.reader.answer("HEAD").await.verdict(), (400, "bad-request"));
    assert!(client.reader.is_over().await);
    world.finish().await;
}

#[tokio::test]
async fn a_refusal_waits_for_the_answers_before_it() {
    let world = Plan::bearer().start().await;
    let mut client = world.countersign.connect().await;
    client.writer.send(format!("GET /one HTTP/1.1\r\nhost: localhost\r\n\r\nGET / HTTP/1.1\r\n\r\n{SMUGGLED}")).await;
    assert_eq!(client.reader.answer("GET").await.json()["target"], "/prod/one");
    assert_eq!(client.reader.answer("GET").await.verdict(), (400, "bad-request"));
    assert!(client.reader.is_over().await);
    assert_eq!(world.only().target, "/prod/one");
    world.finish().await;
}

#[tokio::test]
async fn the_admin_port_stands_behind_the_gate_too() {
    let world = Plan::open().start().await;
    for address in [world.countersign.admin, world.countersign.health] {
        for (stream, status) in [
            ("GET /livez HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n", 400),
            ("GET /livez HTTP/1.1\nhost: localhost\n\n", 400),
            ("POST /livez HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n", 501),
        ] {
            let mut client = world.countersign.connect_to(address).await;
            assert_eq!(client.raw(stream).await.status, status, "{stream}");
            assert!(client.reader.is_over().await);
        }
    }
    world.finish().await;
}

/// Chunks that no two readers must be allowed to differ about.
fn broken_chunks() -> Vec<Vec<u8>> {
    let mut broken: Vec<Vec<u8>> = [
        "0x3\r\nabc\r\n",
        "+3\r\nabc\r\n",
        " 3\r\nabc\r\n",
        "3 \r\nabc\r\n",
        "\r\nabc\r\n",
        "fffffffffffffffff\r\nabc\r\n",
        "3\nabc\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n",
        "3;a\rb\r\nabc\r\n",
        "3;a\0\r\nabc\r\n",
        "0\r\n\n",
        "0\r\nx: y\r\n folded\r\n\r\n",
        "0\r\nx : y\r\n\r\n",
        "0\r\nx: y\n\r\n",
        "0\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    broken.push(format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(20 * 1024)).into_bytes());
    broken.push(format!("0\r\n{}\r\n", "x: y\r\n".repeat(101)).into_bytes());
    broken
}

async fn a_chunk_that_breaks_a_rule_breaks_off_the_upload(alpn: Alpn) {
    let (responder, mut taken) = hold();
    let world = Plan::bearer().alpn(alpn).respond("/prod/up", responder).start().await;
    for chunk in broken_chunks() {
        let mut client = world.countersign.connect().await;
        client.writer.chunked("PUT", "/up").await;
        client.writer.chunk("part").await;
        let mut held = held(&mut taken).await;
        assert_eq!(held.piece().await, "part");
        client.writer.send([&chunk[..], SMUGGLED.as_bytes()].concat()).await;
        let mut end = held.request.into_body();
        within(async {
            use http_body_util::BodyExt as _;
            while let Some(frame) = end.frame().await {
                if frame.is_err() {
                    return;
                }
            }
            panic!("the API takes it for the whole: {}", chunk.escape_ascii());
        })
        .await;
        while client.reader.skip().await {}
    }
    assert!(
        world.gateway.received().iter().all(|request| request.body_end == BodyEnd::Cut && request.target == "/prod/up")
    );
    world.finish().await;
}

#[tokio::test]
async fn a_chunk_that_breaks_a_rule_breaks_off_the_upload_over_http_1() {
    a_chunk_that_breaks_a_rule_breaks_off_the_upload(Alpn::Http1).await;
}

#[tokio::test]
async fn a_chunk_that_breaks_a_rule_breaks_off_the_upload_over_http_2() {
    a_chunk_that_breaks_a_rule_breaks_off_the_upload(Alpn::Http2).await;
}

#[tokio::test]
async fn nothing_of_an_upload_with_a_broken_chunk_is_signed() {
    let world = Plan::sigv4().start().await;
    for chunk in broken_chunks() {
        let mut client = world.countersign.connect().await;
        client.writer.chunked("PUT", "/up").await;
        client.writer.chunk("part").await;
        client.writer.send([&chunk[..], SMUGGLED.as_bytes()].concat()).await;
        let answer = client.reader.answer("PUT").await;
        assert_eq!(answer.verdict(), (400, "bad-request"), "{}", chunk.escape_ascii());
        assert!(client.reader.is_over().await);
    }
    assert_eq!(world.gateway.requests(), 0);
    world.finish().await;
}

#[tokio::test]
async fn chunk_dust_arrives_whole() {
    const CHUNKS: usize = 100_000;
    let world = Plan::bearer().start().await;
    let mut client = world.countersign.connect().await;
    client.writer.chunked("PUT", "/up").await;
    client.writer.send("1\r\nx\r\n".repeat(CHUNKS)).await;
    client.writer.end().await;
    assert_eq!(client.reader.answer("PUT").await.json()["body_bytes"], CHUNKS);
    world.finish().await;
}

#[tokio::test]
async fn ten_thousand_pipelined_requests_are_answered_in_order() {
    let world = Plan::bearer().start().await;
    let mut client = world.countersign.connect().await;
    let mut stream = String::new();
    for number in 0..10_000 {
        write!(stream, "OPTIONS * HTTP/1.1\r\nhost: localhost\r\nx-request-id: {number}\r\n\r\n").unwrap();
    }
    let (writer, reader) = (&mut client.writer, &mut client.reader);
    let read = async {
        for number in 0..10_000 {
            let answer = reader.answer("OPTIONS").await;
            assert_eq!((answer.status, answer.header("x-request-id")), (204, Some(number.to_string().as_str())));
        }
    };
    tokio::join!(writer.send(stream), read);
    assert_eq!(world.gateway.requests(), 0, "a question about this server is answered here");
    world.finish().await;
}

#[tokio::test]
async fn an_asterisk_is_for_options_alone_and_only_for_callers() {
    let world = Plan::bearer().start().await;
    let ask = async |line: &str, more: &str| {
        let request = format!("{line} HTTP/1.1\r\nhost: localhost\r\n{more}\r\n");
        world.countersign.connect().await.raw(request).await
    };
    let answer = ask("OPTIONS *", "").await;
    assert_eq!((answer.verdict(), answer.body.len()), ((204, "none"), 0));
    let metrics = world.countersign.until(|metrics| metrics.ended("answered") == 1).await;
    assert_eq!(metrics.ended("delivered"), 0);
    assert_eq!(ask("OPTIONS *", "origin: https://evil.test\r\n").await.verdict(), (403, "caller-refused"));
    for line in ["GET *", "POST *", "GET a/b", "GET localhost:443", "GET https://localhost/", "GET http://", "GET "] {
        assert_eq!(ask(line, "").await.verdict(), (400, "bad-request"), "{line}");
    }
    assert_eq!(world.gateway.connections(), 0);
    world.finish().await;
}

#[tokio::test]
async fn nothing_behind_a_connect_is_a_request() {
    let world = Plan::bearer().start().await;
    for target in ["localhost:443", "/x", "evil.test:443"] {
        let mut client = world.countersign.connect().await;
        let connect = format!("CONNECT {target} HTTP/1.1\r\nhost: localhost\r\n\r\n{SMUGGLED}");
        let answer = client.raw(connect).await;
        assert!(matches!(answer.status, 403 | 405), "{target}: {}", answer.status);
        assert!(client.reader.is_over().await, "{target}");
    }
    let mut client = world.countersign.connect().await;
    assert!(matches!(client.raw("CONNECT :0 HTTP/1.1\r\nhost: localhost\r\n\r\n").await.status, 400 | 405));
    assert_eq!(world.gateway.connections(), 0);
    world.finish().await;
}

#[tokio::test]
async fn nobody_is_upgraded_and_what_follows_is_a_request_of_its_own() {
    for (protocol, more) in [("websocket", ""), ("h2c", "HTTP2-Settings: AAMAAABkAAQAAP__\r\n"), ("foo", "")] {
        let world = Plan::bearer().start().await;
        let mut client = world.countersign.connect().await;
        let first =
            format!("GET /one HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n{more}\r\n");
        client
            .writer
            .send(first + "GET /two HTTP/1.1\r\nhost: localhost\r\n\r\n" + "GET /three HTTP/1.1\r\n\r\n")
            .await;
        assert_eq!(client.reader.answer("GET").await.json()["target"], "/prod/one");
        assert_eq!(client.reader.answer("GET").await.json()["target"], "/prod/two");
        assert_eq!(client.reader.answer("GET").await.verdict(), (400, "bad-request"));
        let received = world.gateway.received();
        assert!(received.iter().all(|request| request.header("upgrade").is_none()), "{protocol}");
        world.finish().await;
    }
}

#[tokio::test]
async fn odd_methods_are_the_routes_business() {
    let world = Plan::bearer().start().await;
    let long = "M".repeat(200);
    for method in ["get", "G!E~T", "PROPFIND", &long] {
        let request = format!("{method} / HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let answer = world.countersign.connect().await.raw(request).await;
        assert_eq!(answer.verdict(), (405, "method-not-allowed"), "{method}");
    }
    assert_eq!(world.gateway.connections(), 0);
    for method in ["PATCH", "DELETE"] {
        let answer = world.countersign.ask(method, "/", &[], b"body").await;
        assert_eq!(answer.json()["body_bytes"], 4, "{method}");
    }
    world.finish().await;
}

#[tokio::test]
async fn bodies_are_neither_lost_nor_invented() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    let mut client = world.countersign.connect().await;
    let mut line = None;
    for (method, framing, body, sent) in [
        ("GET", "Content-Length: 4\r\n", "body", Some("content-length: 4")),
        ("HEAD", "Content-Length: 4\r\n", "body", Some("content-length: 4")),
        ("POST", "Content-Length: 0\r\n", "", Some("content-length: 0")),
        ("POST", "", "", Some("content-length: 0")),
        ("GET", "Content-Length: 0\r\n", "", None),
        ("GET", "", "", None),
        ("GET", "Transfer-Encoding: chunked\r\n", "4\r\nbody\r\n0\r\n\r\n", Some("transfer-encoding: chunked")),
        ("HEAD", "Transfer-Encoding: chunked\r\n", "4\r\nbody\r\n0\r\n\r\n", Some("transfer-encoding: chunked")),
        ("OPTIONS", "Transfer-Encoding: chunked\r\n", "4\r\nbody\r\n0\r\n\r\n", Some("transfer-encoding: chunked")),
    ] {
        client.writer.send(format!("{method} /wire HTTP/1.1\r\nhost: localhost\r\n{framing}\r\n{body}")).await;
        let mut taken = match line.take() {
            Some(line) => line,
            None => wire.accept().await,
        };
        let head = taken.head().await;
        let framed: Vec<&str> = head
            .lines()
            .filter(|own| own.starts_with("content-length") || own.starts_with("transfer-encoding"))
            .collect();
        assert_eq!(framed, sent.into_iter().collect::<Vec<_>>(), "{method} {framing}");
        assert_eq!(taken.body(body.len()).await, body.as_bytes());
        taken.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(client.reader.answer(method).await.status, 200);
        line = Some(taken);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_request_may_come_in_any_number_of_pieces() {
    let world = Plan::bearer().start().await;
    let mut client = world.countersign.connect().await;
    let request = "PUT /a?b=c HTTP/1.1\r\nhost: localhost\r\nx-one: 1\r\ntransfer-encoding: chunked\r\n\r\n\
        5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 1\r\n\r\n";
    for byte in request.as_bytes() {
        client.writer.send([*byte]).await;
    }
    let answer = client.reader.answer("PUT").await;
    assert_eq!((&answer.json()["body_bytes"], &answer.json()["target"]), (&11.into(), &"/prod/a?b=c".into()));
    for at in 1..request.len() {
        let (one, two) = request.split_at(at);
        client.writer.send(one).await;
        tokio::task::yield_now().await;
        client.writer.send(two).await;
        let again = client.reader.answer("PUT").await;
        assert_eq!((again.status, &again.json()["body_sha256"]), (200, &answer.json()["body_sha256"]), "cut at {at}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_second_request_may_begin_in_the_segment_of_the_first() {
    let world = Plan::bearer().start().await;
    let (first, second) = (
        "POST /one HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\nbody",
        "GET /two HTTP/1.1\r\nhost: localhost\r\nx: y\r\n\r\n",
    );
    for at in 1..second.len() {
        let mut client = world.countersign.connect().await;
        let (begin, rest) = second.split_at(at);
        client.writer.send([first, begin].concat()).await;
        assert_eq!(client.reader.answer("POST").await.json()["target"], "/prod/one");
        client.writer.send(rest).await;
        assert_eq!(client.reader.answer("GET").await.json()["target"], "/prod/two", "cut at {at}");
    }
    world.finish().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_the_answer_arrives() {
    let world = Plan::bearer().start().await;
    let target = |length: usize| format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "a".repeat(length));
    refused(&world, target(9 << 10), (414, "uri-too-long")).await;
    refused(&world, target(66 << 10), (414, "uri-too-long")).await;
    let field = |length: usize| with(format!("x: {}\r\n", "y".repeat(length)).as_bytes());
    refused(&world, field(33 << 10), (431, "head-too-large")).await;
    refused(&world, field(450_000), (431, "head-too-large")).await;
    refused(&world, with("x: y\r\n".repeat(101).as_bytes()), (431, "head-too-large")).await;
    world.finish().await;
}

#[tokio::test]
async fn what_follows_a_body_that_was_too_large_is_not_parsed() {
    let world = Plan::sigv4().upstream("max_body = \"1KiB\"").start().await;
    let mut client = world.countersign.connect().await;
    client.writer.chunked("PUT", "/up").await;
    let rest = SMUGGLED.repeat(4_000);
    // The server may have seen enough before all of it is sent.
    drop(client.writer.try_send(format!("{:x}\r\n{rest}\r\n0\r\n\r\n{SMUGGLED}", rest.len())).await);
    assert_eq!(client.reader.answer("PUT").await.verdict(), (413, "body-too-large"));
    while client.reader.skip().await {}
    assert_eq!(world.gateway.requests(), 0);
    world.finish().await;
}

#[tokio::test]
async fn an_upload_that_is_closed_halfway_breaks_off_within_a_second() {
    let (responder, mut taken) = hold();
    let world = Plan::bearer().respond("/prod/up", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.send("PUT /up HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10000000000\r\n\r\npart").await;
    let mut held = held(&mut taken).await;
    assert_eq!(held.piece().await, "part");
    client.writer.half_close().await;
    assert!(timeout(Duration::from_secs(1), held.breaks_off()).await.unwrap());
    drop(held);
    while client.reader.skip().await {}
    world.finish().await;
}

#[tokio::test]
async fn an_answer_to_a_request_that_offers_another_protocol_comes_whole() {
    // More than all buffers on the way hold, so that the end of it waits for the client.
    const LENGTH: usize = 24 << 20;
    let responder: standin::Responder = Arc::new(|_request, _principal| {
        Box::pin(async { http::Response::new(standin::body::full(vec![b'x'; LENGTH])) })
    });
    let world = Plan::open().respond("/prod/large", responder).start().await;
    let mut client = TcpStream::connect(world.countersign.proxy).await.unwrap();
    let head = "GET /large HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, HTTP2-Settings, close\r\nupgrade: h2c\r\n\
                http2-settings: AAMAAABkAAQAAP__\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    // Slower than the API, so that it is the client who is waited for.
    let mut piece = vec![0; 16 * 1024];
    loop {
        let read = within(client.read(&mut piece)).await.unwrap();
        if read == 0 {
            break;
        }
        received.extend_from_slice(&piece[..read]);
        tokio::task::yield_now().await;
    }
    let head = received.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(received.len() - head, LENGTH);
    assert!(world.only().header("upgrade").is_none() && world.only().header("~pgrade").is_none());
    world.finish().await;
}
