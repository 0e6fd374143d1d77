//! The WebSocket handshake is authorised and answered by the rules, and what follows passes unseen.

use countersign::app::Ended;
use standin::Authority;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::refusal::later;
use crate::support::{API, Answer, Client, Line, Plan, Setup, Wire, within};

// RFC 6455 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
const LARGE: usize = 1 << 20;

fn handshake(fields: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nx-request-id: ws-1\r\n{fields}\r\n"
    )
}

/// A `[[route]]` to `wire` that takes a WebSocket.
fn route(wire: &Wire, auth: &str) -> String {
    let address = wire.address();
    format!(
        "[[route]]\nname = \"ws\"\npath = \"/ws\"\nauth = \"{auth}\"\nwebsocket = true\nupstream = \"http://{address}\"\n"
    )
}

/// Answers a handshake; returns its head.
async fn accept(wire: &Wire, fields: &str) -> (Line, String) {
    let mut line = wire.accept().await;
    let head = line.head().await;
    line.write(format!("{SWITCHING}{fields}\r\n")).await;
    (line, head)
}

/// A tunnel, from both of its ends.
async fn opened(client: &mut Client, wire: &Wire) -> Line {
    let (answer, (line, _head)) = tokio::join!(client.raw(handshake("")), accept(wire, ""));
    assert_eq!(answer.status, 101);
    line
}

#[tokio::test]
async fn a_websocket_passes_both_ways_and_is_recorded_once() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&route(&wire, "none")).start().await;
    let mut client = world.countersign.connect().await;
    let fields = "Sec-WebSocket-Protocol: chat, mqtt\r\nSec-WebSocket-Extensions: permessage-deflate\r\n";
    let (answer, (mut line, head)) = tokio::join!(client.raw(handshake(fields)), async {
        let mut line = wire.accept().await;
        let head = line.head().await;
        // The first frame may come with the head.
        line.write(format!("{SWITCHING}Sec-WebSocket-Protocol: mqtt\r\nAlt-Svc: h3\r\nContent-Length: 0\r\n\r\nhello"))
            .await;
        (line, head)
    });
    // Taking fields out changes the order of names, which means nothing (RFC 9110 5.3).
    let mut lines: Vec<&str> = head.trim_end().split("\r\n").collect();
    assert_eq!(lines.remove(0), "GET /ws HTTP/1.1");
    lines.sort_unstable();
    let (key, host) = (format!("sec-websocket-key: {KEY}"), format!("host: {}", wire.address()));
    assert_eq!(
        lines,
        [
            "connection: Upgrade",
            &host,
            "sec-websocket-extensions: permessage-deflate",
            &key,
            "sec-websocket-protocol: chat, mqtt",
            "sec-websocket-version: 13",
            "upgrade: websocket",
            "via: 1.1 countersign",
            "x-request-id: ws-1",
        ]
    );
    assert_eq!(answer.status, 101);
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("sec-websocket-protocol", "mqtt"),
        ("x-request-id", "ws-1"),
    ] {
        assert_eq!(answer.values(name), [value], "{name}");
    }
    assert!(answer.header("alt-svc").is_none() && answer.header("content-length").is_none());
    assert_eq!(client.reader.bytes(5).await, b"hello");
    client.writer.send([0x00, 0xff, b'\r', b'\n']).await;
    assert_eq!(line.body(4).await, [0x00, 0xff, b'\r', b'\n']);
    line.write("bye").await;
    assert_eq!(client.reader.bytes(3).await, b"bye");
    let metrics = world.countersign.metrics().await;
    assert_eq!(metrics.count("countersign_requests_in_flight", &[]), 1);
    assert_eq!(metrics.count("countersign_requests_total", &[]), 0);
    line.half_close().await;
    assert!(client.reader.is_over().await);
    client.writer.send("last").await;
    assert_eq!(line.body(4).await, b"last", "the other direction is still open");
    drop(client);
    assert!(line.is_over().await);
    world.countersign.until(|metrics| metrics.ended("delivered") == 1).await;
    let said = world.countersign.access_line("ws-1").await;
    assert_eq!((&said["status"], &said["received"], &said["sent"]), (&101.into(), &8.into(), &8.into()));
    assert_eq!((&said["route"], &said["outcome"]), (&"ws".into(), &"delivered".into()));
    world.finish().await;
}

#[tokio::test]
async fn megabytes_pass_both_ways_at_once() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&route(&wire, "none")).start().await;
    let mut client = world.countersign.connect().await;
    let mut line = opened(&mut client, &wire).await;
    let bytes = |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        std::iter::repeat_with(move || random.u8(..)).take(LARGE).collect::<Vec<u8>>()
    };
    let (up, down) = (bytes(1), bytes(2));
    for _ in 0..4 {
        let Client { writer, reader } = &mut client;
        let ((), (), came_down) = tokio::join!(writer.send(&up), line.write(&down), reader.bytes(LARGE));
        assert!(came_down == down && line.body(LARGE).await == up);
    }
    drop((client, line));
    world.finish().await;
}

#[tokio::test]
async fn a_side_that_breaks_ends_the_other() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&route(&wire, "none")).start().await;
    let mut client = world.countersign.connect().await;
    let line = opened(&mut client, &wire).await;
    drop(line);
    assert!(client.reader.is_over().await);
    drop(client);
    let mut client = world.countersign.connect().await;
    let mut line = opened(&mut client, &wire).await;
    drop(client);
    assert!(line.is_over().await);
    drop(line);
    world.finish().await;
}

#[tokio::test]
async fn a_silent_websocket_outlives_the_timers_of_http() {
    let wire = Wire::listen().await;
    let plan = Plan::open().proxy("idle_timeout = \"1s\"\nheader_timeout = \"500ms\"");
    let world = plan.upstream("body_idle_timeout = \"500ms\"").add(&route(&wire, "none")).start().await;
    let mut client = world.countersign.connect().await;
    let mut line = opened(&mut client, &wire).await;
    for _ in 0..2 {
        let mut other = world.countersign.connect().await;
        assert!(other.reader.is_over().await, "the end of another silent connection tells the time");
    }
    line.write("hello").await;
    assert_eq!(client.reader.bytes(5).await, b"hello");
    client.writer.send("hello").await;
    assert_eq!(line.body(5).await, b"hello");
    drop((client, line));
    world.finish().await;
}

#[tokio::test]
async fn a_refused_handshake_is_an_answer_like_any_other() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&route(&wire, "none")).start().await;
    let mut client = world.countersign.connect().await;
    // What comes behind the handshake is a request, because no 101 does.
    client.writer.send(handshake("") + "GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut line = wire.accept().await;
    line.head().await;
    line.write("HTTP/1.1 403 Forbidden\r\nx-amzn-errortype: ForbiddenException\r\ncontent-length: 9\r\n\r\nForbidden")
        .await;
    let answer = client.reader.answer("GET").await;
    assert_eq!((answer.verdict(), answer.text().as_str()), ((403, "none"), "Forbidden"));
    assert_eq!(client.reader.answer("GET").await.status, 200);
    assert_eq!(world.only().target, "/prod/next");
    world.finish().await;
}

/// What comes of a handshake that is answered with these bytes.
async fn answered_with(head: &str) -> Answer {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&route(&wire, "none")).start().await;
    let mut client = world.countersign.connect().await;
    let (answer, over) = tokio::join!(client.raw(handshake("")), async {
        let mut line = wire.accept().await;
        line.head().await;
        line.write(head).await;
        line.is_over().await
    });
    assert!(over, "nothing more goes to an upstream like this");
    assert_eq!(client.get("/").await.status, 200);
    world.finish().await;
    answer
}

#[tokio::test]
async fn a_101_that_does_not_answer_the_handshake_opens_nothing() {
    for head in [
        SWITCHING.replace("s3p", "S3p"),
        SWITCHING.replace("Sec-WebSocket-Accept", "X-Accept"),
        SWITCHING.replace("Upgrade: websocket", "Upgrade: h2c"),
        SWITCHING.replace("Connection: Upgrade", "Connection: close"),
        "HTTP/1.1 101 Switching Protocols\r\n".to_owned(),
    ] {
        assert_eq!(answered_with(&format!("{head}\r\nhello")).await.verdict(), (502, "upstream-reset"), "{head}");
    }
}

#[tokio::test]
async fn an_endless_or_broken_answer_to_a_handshake_is_a_reset() {
    let endless = "HTTP/1.1 102 Processing\r\n\r\n".repeat(33);
    for head in [&endless, "HTTP/1.1 one\r\n\r\n", "HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n"] {
        assert_eq!(answered_with(head).await.verdict(), (502, "upstream-reset"), "{head}");
    }
}

#[tokio::test]
async fn a_handshake_that_breaks_a_rule_stays_here() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&route(&wire, "none")).start().await;
    let good = handshake("");
    for bad in [
        good.replace("Version: 13", "Version: 8"),
        good.replace(KEY, "dGhlIHNhbXBsZQ=="),
        good.replace("GET /ws", "POST /ws"),
        good.replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody"),
    ] {
        let answer = world.countersign.connect().await.raw(&bad).await;
        assert_eq!(answer.verdict(), (400, "bad-request"), "{bad}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("WebSocket"), "{}", answer.text());
    }
    let page = handshake("Origin: http://evil.test\r\n");
    assert_eq!(world.countersign.connect().await.raw(&page).await.verdict(), (403, "caller-refused"));
    assert!(wire.is_untouched().await);
    world.finish().await;
}

#[tokio::test]
async fn a_route_that_is_silent_about_websockets_sends_a_plain_get() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/ws")).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.send(handshake("") + "GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut line = wire.accept().await;
    let head = line.head().await.to_lowercase();
    assert!(!head.contains("upgrade") && !head.contains("connection"), "{head}");
    line.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain").await;
    assert_eq!(client.reader.answer("GET").await.text(), "plain");
    assert_eq!(client.reader.answer("GET").await.status, 200);
    assert_eq!(world.only().target, "/prod/next");
    world.finish().await;
}

#[tokio::test]
async fn a_handshake_is_authorised_like_any_request() {
    for (plan, auth, scheme) in [
        (Plan::bearer(), "tokens", "Bearer "),
        (Plan::sigv4().auth("region = \"ap-northeast-1\""), "keys", "AWS4-HMAC-SHA256 Credential=AKIDUSER/"),
    ] {
        let wire = Wire::listen().await;
        let world = plan.add(&route(&wire, auth)).start().await;
        let mut client = world.countersign.connect().await;
        let fields = "Authorization: Bearer forged\r\n";
        let (answer, (line, head)) = tokio::join!(client.raw(handshake(fields)), accept(&wire, ""));
        assert_eq!(answer.status, 101);
        let sent: Vec<&str> = head.lines().filter_map(|line| line.strip_prefix("authorization: ")).collect();
        assert!(sent.len() == 1 && sent[0].starts_with(scheme), "{sent:?}");
        assert!(auth == "tokens" || sent[0].contains("SignedHeaders=host;x-amz-date,"), "{sent:?}");
        drop((client, line));
        world.finish().await;
    }
}

#[tokio::test]
async fn a_refused_token_is_renewed_and_the_handshake_sent_once_more() {
    let wire = Wire::listen().await;
    let world = Plan::bearer().add(&route(&wire, "tokens")).start().await;
    later().await;
    let mut client = world.countersign.connect().await;
    let (answer, line) = tokio::join!(client.raw(handshake("")), async {
        let mut line = wire.accept().await;
        let first = line.head().await;
        line.write("HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer\r\ncontent-length: 0\r\n\r\n").await;
        let (line, second) = accept(&wire, "").await;
        assert_ne!(first, second);
        assert!(second.contains("upgrade: websocket\r\n"), "{second}");
        line
    });
    assert_eq!(answer.status, 101);
    assert_eq!(world.tokens.calls(), 2);
    drop((client, line));
    world.finish().await;
}

#[tokio::test]
async fn a_websocket_takes_its_place_among_the_requests_of_its_route() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&(route(&wire, "none") + "max_in_flight = 1\n")).start().await;
    let mut client = world.countersign.connect().await;
    let line = opened(&mut client, &wire).await;
    let answer = world.countersign.connect().await.raw(handshake("")).await;
    assert_eq!(answer.verdict(), (503, "overloaded"));
    drop((client, line));
    world.countersign.until(|metrics| metrics.count("countersign_requests_in_flight", &[]) == 0).await;
    let mut client = world.countersign.connect().await;
    let line = opened(&mut client, &wire).await;
    drop((client, line));
    world.finish().await;
}

#[tokio::test]
async fn a_stop_waits_for_websockets_and_cuts_them_at_the_deadline() {
    let wire = Wire::listen().await;
    let plan = Plan::open().proxy("drain_timeout = \"300ms\"");
    let mut world = plan.add(&route(&wire, "none")).start().await;
    let mut client = world.countersign.connect().await;
    let mut line = opened(&mut client, &wire).await;
    world.countersign.stop();
    within(async { while world.countersign.page("/readyz").await.status != 503 {} }).await;
    line.write("still here").await;
    assert_eq!(client.reader.bytes(10).await, b"still here");
    assert_eq!(world.countersign.ended().await, Ended { cut: 1 });
    assert!(client.reader.is_over().await && line.is_over().await);
    let said = world.countersign.access_line("ws-1").await;
    assert_eq!((&said["status"], &said["sent"]), (&101.into(), &10.into()));
    world.finish_stopped();
}

#[tokio::test]
async fn a_stop_says_goodbye_to_websockets_and_leaves_the_rest_to_both_sides() {
    const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];
    let wire = Wire::listen().await;
    let mut world = Plan::open().add(&route(&wire, "none")).start().await;
    let mut client = world.countersign.connect().await;
    let mut line = opened(&mut client, &wire).await;
    line.write([0x81, 5, b'h', b'e', b'l', b'l']).await;
    assert_eq!(client.reader.bytes(6).await, [0x81, 5, b'h', b'e', b'l', b'l']);
    let begun = tokio::time::Instant::now();
    world.countersign.stop();
    // Whoever has calls to make makes them first.
    assert_eq!(world.get("/late").await.status, 200);
    line.write(b"o\x81\x02hi").await;
    assert_eq!(client.reader.bytes(5).await, b"o\x81\x02hi");
    assert_eq!(client.reader.bytes(4).await, GOING_AWAY);
    let masked = [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe9 ^ 2];
    client.writer.send(masked).await;
    assert_eq!(line.body(8).await, masked);
    line.write(GOING_AWAY).await;
    drop(line);
    assert!(client.reader.is_over().await, "the Close that answers its own is not for the client");
    drop(client);
    assert_eq!(world.countersign.ended().await, Ended { cut: 0 });
    assert!(begun.elapsed() < std::time::Duration::from_secs(15), "{:?}", begun.elapsed());
    world.finish_stopped();
}

#[tokio::test]
async fn a_stop_after_the_last_websocket_loses_nothing() {
    let wire = Wire::listen().await;
    let mut world = Plan::open().add(&route(&wire, "none")).start().await;
    let mut client = world.countersign.connect().await;
    let line = opened(&mut client, &wire).await;
    world.countersign.stop();
    within(async { while world.countersign.page("/readyz").await.status != 503 {} }).await;
    let mut late = world.countersign.connect().await;
    let late_line = opened(&mut late, &wire).await;
    drop((line, late_line));
    assert!(client.reader.is_over().await && late.reader.is_over().await);
    drop((client, late));
    assert_eq!(world.countersign.ended().await, Ended { cut: 0 });
    world.finish_stopped();
}

#[tokio::test]
async fn a_websocket_goes_over_http_1_though_the_upstream_offers_http_2() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = TlsAcceptor::from(authority.server_config(&[API], &[b"h2", b"http/1.1"]));
    let lines = format!(
        "[[route]]\npath = \"/ws\"\nauth = \"none\"\nwebsocket = true\nupstream = \"https://{API}\"\n\
         connect_to = \"127.0.0.1:{port}\"\n"
    );
    let countersign = Setup::new(&authority).add(&lines).start().await;
    let mut client = countersign.connect().await;
    let (answer, mut line) = tokio::join!(client.raw(handshake("")), async {
        let (stream, _) = within(listener.accept()).await.unwrap();
        let stream = within(tls.accept(stream)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let mut line = Line::new(stream);
        assert!(line.head().await.contains(&format!("host: {API}\r\n")));
        line.write(format!("{SWITCHING}\r\n")).await;
        line
    });
    assert_eq!(answer.status, 101);
    client.writer.send("up").await;
    assert_eq!(line.body(2).await, b"up");
    line.write("down").await;
    assert_eq!(client.reader.bytes(4).await, b"down");
    // A peer that leaves without close_notify has said all that it had to say.
    drop(line);
    assert!(client.reader.is_over().await);
    drop(client);
    let metrics = countersign.until(|metrics| metrics.ended("delivered") == 1).await;
    assert_eq!(metrics.ended("upstream-truncated"), 0);
    countersign.finish().await;
}
