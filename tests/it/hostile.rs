//! Upstreams that answer against the rules: what reaches the client is one valid answer or one of ours, what broke a rule
//! costs its connection, and the next answer is the right one.

use std::sync::Arc;

use rustls::ServerConfig;
use standin::Authority;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::support::{API, Answer, Countersign, Plan, Setup, Wire, within};

/// What comes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It passes, with this body, and another request may follow on its connection.
    Passes(u16, &'static str),
    /// It passes, and its connection is not used again.
    Spent(u16, &'static str),
    /// It is a 502.
    Refused,
    /// Its head passes, its body is cut.
    Cut,
}

/// Whether the upstream leaves the connection open behind its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Waits,
    Closes,
}

/// Method, answer, and what comes of it.
type Case = (&'static str, Vec<u8>, Then, Fate);

use Fate::{Cut, Passes, Refused, Spent};
use Then::{Closes, Waits};

/// Every byte of a head must be one that a strict reader takes.
fn assert_strict(answer: &Answer, case: &str) {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    for (name, value) in &answer.headers {
        assert!(!name.is_empty() && name.bytes().all(is_token), "{case}: {name:?}");
        assert!(value.chars().all(|c| c == '\t' || !c.is_control()), "{case}: {value:?}");
    }
    assert!((100..600).contains(&answer.status), "{case}");
    for name in ["connection", "transfer-encoding", "content-length", "upgrade"] {
        assert!(answer.values(name).len() <= 1, "{case}: {name}");
    }
    assert!(answer.header("content-length").is_none() || answer.header("transfer-encoding").is_none(), "{case}");
}

/// Has the upstream answer with these bytes, and the request after it with good ones.
async fn suffers(countersign: &Countersign, wire: &Wire, case: &Case) {
    let (method, bytes, then, fate) = case;
    let case = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    let mut client = countersign.connect().await;
    let (answer, mut line) = tokio::join!(client.ask(method, "/wire", &[], b""), async {
        let mut line = wire.accept().await;
        line.head().await;
        line.try_write(bytes).await;
        if *then == Closes {
            line.half_close().await;
        }
        line
    });
    assert_strict(&answer, &case);
    let wanted = match *fate {
        Passes(status, body) | Spent(status, body) => {
            assert_eq!((answer.text().as_str(), answer.whole), (body, true), "{case}");
            (status, "none")
        }
        Refused => (502, "upstream-reset"),
        Cut => {
            assert!(!answer.whole, "{case}");
            (200, "none")
        }
    };
    assert_eq!(answer.verdict(), wanted, "{case}");
    if *fate == Cut {
        assert!(client.reader.is_over().await, "{case}");
        client = countersign.connect().await;
    }
    let again = client.get("/wire/next");
    let (next, ()) = tokio::join!(again, async {
        let mut next = match fate {
            Passes(..) => line,
            Spent(..) | Refused | Cut => {
                assert!(line.is_over().await, "{case}: more goes on this connection");
                wire.accept().await
            }
        };
        assert!(next.head().await.starts_with("GET /wire/next "), "{case}");
        next.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nright").await;
    });
    assert_eq!((next.status, next.text().as_str()), (200, "right"), "{case}");
}

async fn all(cases: &[Case]) {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    for case in cases {
        suffers(&world.countersign, &wire, case).await;
    }
    world.finish().await;
}

fn get(bytes: impl AsRef<[u8]>, then: Then, fate: Fate) -> Case {
    ("GET", bytes.as_ref().to_vec(), then, fate)
}

/// An answer with these lines and a body of five bytes.
fn lines(lines: impl AsRef<[u8]>) -> Vec<u8> {
    [b"HTTP/1.1 200 OK\r\n", lines.as_ref(), b"\r\n\r\nhello"].concat()
}

/// A chunked answer.
fn chunks(chunks: impl AsRef<[u8]>) -> Vec<u8> {
    [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", chunks.as_ref()].concat()
}

#[tokio::test]
async fn lengths() {
    let mut cases = vec![
        get(lines("content-length: 5\r\ncontent-length: 5"), Waits, Passes(200, "hello")),
        get(lines("content-length: 5, 005"), Waits, Passes(200, "hello")),
        get(lines("content-length: 9"), Closes, Cut),
        get(lines("content-length: 3"), Waits, Spent(200, "hel")),
        get(lines("content-length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\ncontent-length: 5"), Waits, Spent(200, "hello")),
        get(lines("connection: close"), Closes, Spent(200, "hello")),
        get("HTTP/1.0 200 OK\r\n\r\nhello", Closes, Spent(200, "hello")),
        get("HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\nhello", Waits, Passes(200, "hello")),
    ];
    for bad in
        ["-5", "+5", "0x5", "", "5 5", "5;a", "1e1", "5,", "5, 6", "18446744073709551616", "18446744073709551615"]
    {
        cases.push(get(lines(format!("content-length: {bad}")), Waits, Refused));
    }
    cases.push(get(lines("content-length: 5\r\ncontent-length: 6"), Waits, Refused));
    all(&cases).await;
}

#[tokio::test]
async fn codings() {
    let both = "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let reversed = "transfer-encoding: chunked\r\ncontent-length: 99\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let mut cases = vec![
        get(format!("HTTP/1.1 200 OK\r\n{both}"), Waits, Spent(200, "hello")),
        get(format!("HTTP/1.1 200 OK\r\n{reversed}"), Waits, Spent(200, "hello")),
        get("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Waits, Refused),
    ];
    for bad in ["gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", "identity", "xchunked", "\x0bchunked", ""]
    {
        let head = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {bad}\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        cases.push(get(head, Waits, Refused));
    }
    all(&cases).await;
}

#[tokio::test]
async fn chunks_and_their_ends() {
    let long = "x".repeat(20_000);
    all(&[
        get(chunks("5;a=b\r\nhello\r\n0\r\n\r\n"), Waits, Passes(200, "hello")),
        get(chunks("5\r\nhello\r\n000\r\n\r\n"), Waits, Passes(200, "hello")),
        get(chunks("5\r\nhello\r\n0\r\nx-sum: 1\r\ncontent-length: 9\r\n\r\n"), Waits, Passes(200, "hello")),
        get(chunks("5\r\nhello\r\n0\r\n\r\nmore"), Waits, Spent(200, "hello")),
        get(chunks("5\r\nhello\r\n"), Closes, Cut),
        get(chunks("5\r\nhel"), Closes, Cut),
        get(chunks("5\r\nhello\r\n0\r\n"), Closes, Cut),
        get(chunks("5\r\nhello\r\n0\r\nx : 1\r\n\r\n"), Waits, Cut),
        get(chunks("zz\r\nhello\r\n0\r\n\r\n"), Waits, Cut),
        get(chunks("-5\r\nhello\r\n0\r\n\r\n"), Waits, Cut),
        get(chunks("0x5\r\nhello\r\n0\r\n\r\n"), Waits, Cut),
        get(chunks("\r\nhello\r\n0\r\n\r\n"), Waits, Cut),
        get(chunks("fffffffffffffffff\r\nhello\r\n0\r\n\r\n"), Waits, Cut),
        get(chunks("5\r\nhelloo\r\n0\r\n\r\n"), Waits, Cut),
        get(chunks(format!("5;{long}\r\nhello\r\n0\r\n\r\n")), Waits, Cut),
        get(chunks(format!("5\r\nhello\r\n0\r\nx: {long}{long}{long}{long}\r\n\r\n")), Waits, Cut),
    ])
    .await;
}

#[tokio::test]
async fn heads() {
    let good = "content-length: 5";
    let mut cases = vec![
        get(lines(format!("{good}\r\nx-empty:\r\nx-odd:\ta\tb\t")), Waits, Passes(200, "hello")),
        get("HTTP/1.1 200\r\ncontent-length: 5\r\n\r\nhello", Waits, Passes(200, "hello")),
        // Lenient, and clean on our side.
        get("HTTP/1.1 200 OK\ncontent-length: 5\n\nhello", Waits, Passes(200, "hello")),
        get(lines(format!("{good}\r\n{}", "x: 1\r\n".repeat(98).trim_end())), Waits, Passes(200, "hello")),
        get(lines(format!("{good}\r\n{}", "x: 1\r\n".repeat(120).trim_end())), Waits, Refused),
        get(lines(format!("{good}\r\nx: {}", "a".repeat(1 << 20))), Waits, Refused),
        get("", Closes, Refused),
        get("HTTP/1.1 200 OK\r\ncontent-le", Closes, Refused),
        get("HTTP/1.1 200 OK\r\n", Closes, Refused),
    ];
    for bad in [
        "x: a\0b",
        "x: a\rb",
        "x: a\r\n folded",
        "x : a",
        ": a",
        "no colon",
        "x\x01: a",
        "x: a\x7fb",
        "x\u{e9}: a",
        "x y: a",
        "\tx: a",
        "x: \x1b[31m",
    ] {
        cases.push(get(lines(format!("{good}\r\n{bad}")), Waits, Refused));
    }
    all(&cases).await;
}

#[tokio::test]
async fn status_lines() {
    let mut cases = vec![get("hello\r\n", Closes, Refused), get("<html>hello</html>", Closes, Refused)];
    for bad in [
        "HTTP/1.1 099 Low",
        "HTTP/1.1 600 High",
        "HTTP/1.1 999 High",
        "HTTP/1.1 abc What",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 -200 OK",
        "HTTP/1.2 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/2 200",
        "ICY 200 OK",
        "http/1.1 200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 101 Switching Protocols",
    ] {
        cases.push(get(format!("{bad}\r\ncontent-length: 5\r\n\r\nhello"), Waits, Refused));
    }
    // What follows is no HTTP, even where nothing does.
    cases.push(get("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\n", Waits, Refused));
    cases.push(get("HTTP/1.1 599 Last\r\ncontent-length: 5\r\n\r\nhello", Waits, Passes(599, "hello")));
    all(&cases).await;
}

#[tokio::test]
async fn answers_that_have_no_body() {
    let head = |bytes: &str, fate| ("HEAD", bytes.as_bytes().to_vec(), Waits, fate);
    all(&[
        get("HTTP/1.1 204 No Content\r\n\r\n", Waits, Passes(204, "")),
        get("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", Waits, Passes(204, "")),
        get("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello", Waits, Spent(204, "")),
        // The announcement is enough: the bytes may still be under way.
        get("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", Waits, Spent(204, "")),
        get("HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Waits, Spent(204, "")),
        get("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", Waits, Passes(304, "")),
        get("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\nhello", Waits, Spent(304, "")),
        get("HTTP/1.1 304 Not Modified\r\ncontent-length: -5\r\n\r\n", Waits, Refused),
        head("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Passes(200, "")),
        head("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Passes(200, "")),
        head("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", Spent(200, "")),
        head("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", Refused),
    ])
    .await;
}

#[tokio::test]
async fn interim_answers() {
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    all(&[
        get(interim.repeat(32) + last, Waits, Passes(200, "hello")),
        get(interim.repeat(33) + last, Waits, Refused),
        get(interim.repeat(100_000), Waits, Refused),
        get("HTTP/1.1 100 Continue\r\ncontent-length: 5\r\n\r\nhello".to_owned() + last, Waits, Refused),
        get(interim, Closes, Refused),
    ])
    .await;
}

#[tokio::test]
async fn interim_answers_do_not_buy_time() {
    let wire = Wire::listen().await;
    let world = Plan::open().upstream("response_timeout = \"300ms\"").add(&wire.route("/wire")).start().await;
    let (answer, ()) = tokio::join!(world.get("/wire"), async {
        let mut line = wire.accept().await;
        line.head().await;
        line.write("HTTP/1.1 102 Processing\r\n\r\n".repeat(20)).await;
        assert!(line.is_over().await);
    });
    assert_eq!(answer.verdict(), (504, "upstream-timeout"));
    world.finish().await;
}

#[tokio::test]
async fn an_upload_is_no_way_around_the_limit_of_interim_answers() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.chunked("POST", "/wire").await;
    client.writer.chunk("part").await;
    let mut line = wire.accept().await;
    line.head().await;
    line.try_write("HTTP/1.1 102 Processing\r\n\r\n".repeat(33)).await;
    assert_eq!(client.reader.answer("POST").await.verdict(), (502, "upstream-reset"));
    world.finish().await;
}

#[tokio::test]
async fn a_bad_answer_on_a_used_connection_is_not_asked_for_again() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    let mut client = world.countersign.connect().await;
    let ((first, second), ()) = tokio::join!(async { (client.get("/wire").await, client.get("/wire").await) }, async {
        let mut line = wire.accept().await;
        line.head().await;
        line.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
        line.head().await;
        line.write("HTTP/1.1 what\r\n\r\n").await;
    });
    assert_eq!((first.status, second.verdict()), (200, (502, "upstream-reset")));
    assert!(wire.is_untouched().await);
    world.finish().await;
}

#[tokio::test]
async fn trailers_bring_no_framing_and_nothing_that_is_ours() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    let mut client = world.countersign.connect().await;
    let (answer, ()) = tokio::join!(client.ask("GET", "/wire", &[("te", "trailers")], b""), async {
        let mut line = wire.accept().await;
        line.head().await;
        let names =
            "x-sum, content-length, transfer-encoding, x-countersign-error, access-control-allow-origin, connection";
        line.write(format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: {names}\r\n\r\n5\r\nhello\r\n0\r\n"
        ))
        .await;
        line.write("x-sum: 1\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\nx-countersign-error: no-route\r\n")
            .await;
        line.write("access-control-allow-origin: *\r\nconnection: x-sum2\r\n\r\n").await;
    });
    assert_eq!((answer.text().as_str(), answer.whole), ("hello", true));
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "1".to_owned())]);
    world.finish().await;
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as HPACK literals, neither indexed nor compressed (RFC 7541 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// An HTTP/2 upstream of frames: its first answer has these fields and this body, every other is a 204.
async fn speak_http_2(listener: TcpListener, tls: Arc<ServerConfig>, bad: Vec<u8>, body: &'static [u8]) {
    let tls = TlsAcceptor::from(tls);
    let mut bad = Some(bad);
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = tls.accept(stream).await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap();
            stream.read_exact(&mut vec![0; length]).await.unwrap();
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            if head[3] != HEADERS {
                continue;
            }
            let answer = match bad.take() {
                Some(bad) if body.is_empty() => frame(HEADERS, END_HEADERS | END_STREAM, id, &bad),
                Some(bad) => [frame(HEADERS, END_HEADERS, id, &bad), frame(DATA, END_STREAM, id, body)].concat(),
                None => frame(HEADERS, END_HEADERS | END_STREAM, id, &block(&[(":status", "204")])),
            };
            if stream.write_all(&answer).await.is_err() {
                break;
            }
        }
    }
}

/// What the client gets of a first HTTP/2 answer like this; the second is right.
async fn over_http_2(fields: &[(&str, &str)], body: &'static [u8]) -> Answer {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut upstream = JoinSet::new();
    upstream.spawn(speak_http_2(listener, authority.server_config(&[API], &[b"h2"]), block(fields), body));
    let lines =
        format!("[[route]]\nauth = \"none\"\nupstream = \"https://{API}\"\nconnect_to = \"127.0.0.1:{port}\"\n");
    let countersign = Setup::new(&authority).add(&lines).start().await;
    let answer = within(countersign.get("/")).await;
    assert_strict(&answer, &format!("{fields:?}"));
    assert_eq!(countersign.get("/next").await.status, 204, "{fields:?}");
    countersign.finish().await;
    answer
}

#[tokio::test]
async fn heads_over_http_2() {
    let long = "x".repeat(127);
    let too_many = vec![("x", long.as_str()); 600];
    for fields in [
        &[("x", "no status")][..],
        &[(":status", "abc")],
        &[(":status", "999")],
        &[(":status", "200"), (":status", "200")],
        &[(":status", "200"), ("X-Upper", "1")],
        &[(":status", "200"), ("connection", "close")],
        &[(":status", "200"), ("transfer-encoding", "chunked")],
        &[("x", "1"), (":status", "200")],
        &[(":status", "200"), ("x", "a\r\nb: c")],
        &[(":status", "200"), ("x", "a\0b")],
        &[(":status", "200"), ("x y", "1")],
        &[(":status", "200"), ("content-length", "5"), ("content-length", "6")],
        &[(":status", "200"), ("content-length", "-5")],
        &[(":status", "200"), ("content-length", "5")],
        &[(":status", "101")],
        &[(":status", "103")],
        &too_many,
    ] {
        let answer = over_http_2(fields, b"").await;
        assert_eq!(answer.verdict(), (502, "upstream-reset"), "{:?}", &fields[..fields.len().min(3)]);
    }
    // Lenient, and clean on our side.
    assert_eq!(over_http_2(&[(":status", "200"), (":path", "/")], b"").await.verdict(), (200, "none"));
}

#[tokio::test]
async fn bodies_over_http_2_are_as_long_as_they_say() {
    let fields = [(":status", "200"), ("content-length", "5")];
    let whole = over_http_2(&fields, b"hello").await;
    assert_eq!((whole.text().as_str(), whole.whole), ("hello", true));
    for body in [&b"hel"[..], b"hello!"] {
        let answer = over_http_2(&fields, body).await;
        // Head and body arrive together here: whether the head has gone on by then is a matter of luck.
        assert!(answer.verdict() == (502, "upstream-reset") || !answer.whole, "{answer:?}");
    }
}
