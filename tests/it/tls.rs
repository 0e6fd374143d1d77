//! TLS towards callers: both protocols, a certificate that changes, and clients that mean harm.

use std::sync::Arc;

use bytes::Bytes;
use countersign::app::Ended;
use http::{HeaderMap, Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use standin::body::{channel, full};
use standin::{Alpn, Authority};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Plan, World, held, hold, within};

/// Boxed, for it is large.
type Stream = Box<TlsStream<TcpStream>>;

const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A plan whose listener shows a certificate of `authority`.
fn listening(plan: Plan, authority: &Authority) -> Plan {
    let (cert, key) = authority.issue(&["localhost"]);
    plan.file("cert.pem", &cert).file("key.pem", &key).proxy("tls = { cert = \"cert.pem\", key = \"key.pem\" }")
}

async fn dial(world: &World, authority: &Authority, alpn: &[&[u8]]) -> std::io::Result<Stream> {
    dial_with(world, authority, alpn, rustls::ALL_VERSIONS).await
}

async fn dial_with(
    world: &World,
    authority: &Authority,
    alpn: &[&[u8]],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<Stream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = within(TcpStream::connect(world.countersign.proxy)).await?;
    let name = ServerName::try_from("localhost").unwrap();
    within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await.map(Box::new)
}

/// A client of either protocol.
enum Client {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

#[derive(Clone)]
struct Spawn;

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Spawn {
    #[expect(clippy::disallowed_methods, reason = "a client's tasks end with the test")]
    fn execute(&self, future: F) {
        drop(tokio::spawn(future));
    }
}

impl Client {
    /// Speaks what was agreed on; the set holds the connection.
    async fn over(stream: Stream, tasks: &mut JoinSet<()>) -> Self {
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let (sender, connection) = http2::handshake(Spawn, TokioIo::new(stream)).await.unwrap();
            tasks.spawn(async { drop(connection.await) });
            Self::Two(sender)
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tasks.spawn(async { drop(connection.await) });
            Self::One(sender)
        }
    }

    fn request(&self, method: &str, path: &str) -> http::request::Builder {
        let request = Request::builder().method(method);
        match self {
            Self::One(_) => request.uri(path).header("host", "localhost"),
            Self::Two(_) => request.uri(format!("https://localhost{path}")).version(Version::HTTP_2),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> http::Response<Incoming> {
        match self {
            Self::One(sender) => within(sender.send_request(request)).await.unwrap(),
            Self::Two(sender) => within(sender.send_request(request)).await.unwrap(),
        }
    }

    async fn get(&mut self, path: &str) -> Told {
        let request = self.request("GET", path).body(Full::default()).unwrap();
        self.ask(request).await
    }

    async fn ask(&mut self, request: Request<Full<Bytes>>) -> Told {
        let (parts, body) = self.send(request).await.into_parts();
        let body = within(body.collect()).await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        Told { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers }
    }
}

struct Told {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

impl Told {
    fn verdict(&self) -> (u16, &str) {
        let code = self.headers.get("x-countersign-error").map_or("none", |code| code.to_str().unwrap());
        (self.status.as_u16(), code)
    }
}

#[tokio::test]
async fn both_protocols_are_spoken_over_both_versions() {
    let authority = Authority::new();
    let world = listening(Plan::bearer(), &authority).start().await;
    let mut tasks = JoinSet::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (alpn, agreed) in
            [(&PROTOCOLS[..], Some(&b"h2"[..])), (&PROTOCOLS[1..], Some(&b"http/1.1"[..])), (&[][..], None)]
        {
            let stream = dial_with(&world, &authority, alpn, &[version]).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
            let mut client = Client::over(stream, &mut tasks).await;
            let told = client.get("/orders?x=1").await;
            assert_eq!(told.status, 200);
            let body = Bytes::from(vec![b'x'; 300_000]);
            let request = client.request("POST", "/orders").body(Full::new(body)).unwrap();
            let told: serde_json::Value = serde_json::from_slice(&client.ask(request).await.body).unwrap();
            assert_eq!((told["target"].as_str(), told["body_bytes"].as_u64()), (Some("/prod/orders"), Some(300_000)));
        }
    }
    assert_eq!(world.gateway.requests(), 12);
    world.finish().await;
}

#[tokio::test]
async fn the_rules_hold_in_http_2() {
    const TOKEN: &str = "caller-token-71c0ffee55";
    let authority = Authority::new();
    let plan = listening(Plan::open(), &authority).secret("T", TOKEN).proxy("caller_token = { env = \"T\" }");
    let world = plan.start().await;
    let mut tasks = JoinSet::new();
    let mut client = Client::over(dial(&world, &authority, &PROTOCOLS).await.unwrap(), &mut tasks).await;
    let ask = async |client: &mut Client, uri: &str, fields: &[(&str, &str)]| {
        let mut request = Request::builder().uri(uri).version(Version::HTTP_2).header("x-countersign-token", TOKEN);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        client.ask(request.body(Full::default()).unwrap()).await
    };
    for (uri, fields, verdict) in [
        ("https://evil.test/", &[][..], (403, "caller-refused")),
        ("https://localhost/", &[("host", "evil.test")], (400, "bad-request")),
        ("https://localhost/", &[("origin", "https://evil.test")], (403, "caller-refused")),
        ("https://localhost/", &[("sec-fetch-site", "same-site")], (403, "caller-refused")),
        ("https://localhost/a/../b", &[], (400, "bad-request")),
        ("https://localhost/", &[("via", "2.0 countersign")], (508, "loop")),
        ("https://localhost/", &[("x-countersign-token", "more")], (401, "caller-token")),
    ] {
        let told = ask(&mut client, uri, fields).await;
        assert_eq!(told.verdict(), verdict, "{uri} {fields:?}");
    }
    assert_eq!(client.get("/").await.verdict(), (401, "caller-token"));
    let head = client.request("HEAD", "/").body(Full::default()).unwrap();
    let told = client.ask(head).await;
    assert_eq!((told.verdict(), told.body.len()), ((401, "caller-token"), 0));
    assert_ne!(told.headers["content-length"], "0", "as GET would have it (RFC 9110 9.3.2)");
    let huge = ask(&mut client, "https://localhost/", &[("x-huge", &"x".repeat(40_000))]).await;
    assert_eq!(huge.status, 431);
    assert_eq!(world.gateway.connections(), 0);
    let fields = [("host", "localhost"), ("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("x-team", "blue")];
    assert_eq!(ask(&mut client, "https://localhost/x", &fields).await.status, 200);
    let received = world.only();
    assert_eq!(received.values("cookie"), [b"a=1; b=2"]);
    assert_eq!((received.header("te"), received.header("x-team")), (None, Some("blue")));
    assert_eq!((received.header("x-countersign-token"), received.header("via")), (None, Some("2.0 countersign")));
    world.finish().await;
}

#[tokio::test]
async fn answers_keep_their_shape_in_http_2() {
    let authority = Authority::new();
    let (responder, mut taken) = hold();
    let plan = listening(Plan::open(), &authority).respond("/prod/held", responder);
    let world = plan.start().await;
    let mut tasks = JoinSet::new();
    let mut client = Client::over(dial(&world, &authority, &PROTOCOLS).await.unwrap(), &mut tasks).await;

    let request = client.request("GET", "/held").header("te", "trailers").body(Full::default()).unwrap();
    let (told, ()) = tokio::join!(client.ask(request), async {
        let (mut api, body) = channel(1);
        held(&mut taken).await.answer_with(body);
        api.send_data("body".into()).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        api.send_trailers(trailers).await.unwrap();
    });
    assert_eq!((&told.body[..], told.trailers["x-sum"].to_str().unwrap()), (&b"body"[..], "7"));

    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304)] {
        let request = client.request(method, "/held").body(Full::default()).unwrap();
        let (told, ()) = tokio::join!(client.ask(request), async {
            let mut response = http::Response::new(full(if method == "HEAD" { "body" } else { "" }));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            held(&mut taken).await.answer(response);
        });
        assert_eq!((told.status.as_u16(), told.body.len()), (status, 0));
        assert_eq!(
            told.headers.get("content-length").map(http::HeaderValue::as_bytes),
            (method == "HEAD").then_some(&b"4"[..])
        );
    }

    world.finish().await;
}

#[tokio::test]
async fn what_breaks_off_upstream_does_not_look_whole_in_http_2() {
    for alpn in [Alpn::Http1, Alpn::Http2] {
        let authority = Authority::new();
        let (responder, mut taken) = hold();
        let plan = listening(Plan::open(), &authority).alpn(alpn).respond("/prod/held", responder);
        let world = plan.start().await;
        let mut tasks = JoinSet::new();
        let mut client = Client::over(dial(&world, &authority, &PROTOCOLS).await.unwrap(), &mut tasks).await;
        let request = client.request("GET", "/held").body(Full::default()).unwrap();
        let (mut api, body) = channel(1);
        let (response, _) = tokio::join!(client.send(request), async { held(&mut taken).await.answer_with(body) });
        let mut body = response.into_body();
        api.send_data("half".into()).await.unwrap();
        assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "half");
        api.abort("broken on purpose".into());
        assert!(within(body.frame()).await.unwrap().is_err());
        let metrics = world.countersign.until(|metrics| metrics.ended("upstream-truncated") == 1).await;
        assert_eq!(metrics.ended("delivered"), 0);
        world.finish().await;
    }
}

#[tokio::test]
async fn what_a_client_breaks_off_in_http_2_does_not_look_whole_upstream() {
    let authority = Authority::new();
    let (responder, mut taken) = hold();
    let world = listening(Plan::open(), &authority).respond("/prod/held", responder).start().await;
    let mut stream = dial(&world, &authority, &PROTOCOLS).await.unwrap();
    let post = b"\x83\x87\x44\x05/held\x41\x09localhost";
    let opening =
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, b""), frame(HEADERS, 0x4, 1, post)];
    stream.write_all(&[opening.concat(), frame(DATA, 0, 1, b"half")].concat()).await.unwrap();
    let mut held = held(&mut taken).await;
    assert_eq!(held.piece().await, "half");
    stream.write_all(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())).await.unwrap();
    assert!(held.breaks_off().await);
    world.countersign.until(|metrics| metrics.ended("client-aborted") == 1).await;
    world.finish().await;
}

#[tokio::test]
async fn what_may_be_sent_ahead_in_one_stream_is_the_copy_buffer() {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let authority = Authority::new();
    for (lines, wanted) in [("", 64 * 1024_u32), ("copy_buffer = \"128KiB\"", 128 * 1024)] {
        let world = listening(Plan::open(), &authority).proxy(lines).start().await;
        let mut stream = dial(&world, &authority, &PROTOCOLS).await.unwrap();
        stream
            .write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, b"")].concat())
            .await
            .unwrap();
        let mut head = [0; 9];
        within(stream.read_exact(&mut head)).await.unwrap();
        assert_eq!(head[3], SETTINGS);
        let mut settings = vec![0; usize::from(head[2])];
        within(stream.read_exact(&mut settings)).await.unwrap();
        let window = settings.chunks(6).find(|setting| setting[..2] == INITIAL_WINDOW_SIZE.to_be_bytes()).unwrap();
        assert_eq!(window[2..], wanted.to_be_bytes());
        drop(stream);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_stalled_handshake_delays_nobody_and_ends() {
    let authority = Authority::new();
    let plan = listening(Plan::open(), &authority).proxy("max_connections = 2\nheader_timeout = \"500ms\"");
    let world = plan.start().await;
    let mut tasks = JoinSet::new();
    let mut silent = TcpStream::connect(world.countersign.proxy).await.unwrap();
    // The head of a record that never comes.
    silent.write_all(&[22, 3, 1, 1, 0]).await.unwrap();
    let mut client = Client::over(dial(&world, &authority, &PROTOCOLS).await.unwrap(), &mut tasks).await;
    assert_eq!(client.get("/").await.status, 200);
    assert!(dial(&world, &authority, &PROTOCOLS).await.is_err(), "who stalls counts as a connection");
    let mut rest = Vec::new();
    within(silent.read_to_end(&mut rest)).await.ok();
    assert!(rest.is_empty());
    within(async { while dial(&world, &authority, &PROTOCOLS).await.is_err() {} }).await;
    // Plain text is no handshake either.
    let mut plain = TcpStream::connect(world.countersign.proxy).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    within(plain.read_to_end(&mut rest)).await.ok();
    assert!(!rest.starts_with(b"HTTP/"));
    assert_eq!(client.get("/").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_changed_certificate_is_shown_and_a_bad_one_is_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let world = listening(Plan::open(), &old).start().await;
    let mut tasks = JoinSet::new();
    let mut kept = Client::over(dial(&world, &old, &PROTOCOLS).await.unwrap(), &mut tasks).await;
    let (cert, key) = new.issue(&["localhost"]);
    // One after the other: in between they do not belong together.
    world.countersign.write("cert.pem", &cert);
    let said = "cannot be used; the last one stays";
    within(async {
        while !world.countersign.log().contains(said) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(dial(&world, &old, &PROTOCOLS).await.is_ok());
    world.countersign.write("key.pem", &key);
    within(async { while dial(&world, &new, &PROTOCOLS).await.is_err() {} }).await;
    assert!(dial(&world, &old, &PROTOCOLS).await.is_err());
    assert_eq!(kept.get("/").await.status, 200, "connections live on");
    assert_eq!(world.countersign.log().matches("the certificate of [proxy] tls has changed").count(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_stop_ends_http_2_connections_without_losing_a_request() {
    let authority = Authority::new();
    let (responder, mut taken) = hold();
    let mut world = listening(Plan::open(), &authority).respond("/prod/held", responder).start().await;
    let mut tasks = JoinSet::new();
    let mut client = Client::over(dial(&world, &authority, &PROTOCOLS).await.unwrap(), &mut tasks).await;
    let mut idle = JoinSet::new();
    let other = Client::over(dial(&world, &authority, &PROTOCOLS).await.unwrap(), &mut idle).await;
    let request = client.request("GET", "/held").body(Full::default()).unwrap();
    let (told, ()) = tokio::join!(client.ask(request), async {
        let held = held(&mut taken).await;
        world.countersign.stop();
        within(async { while world.countersign.page("/readyz").await.status != 503 {} }).await;
        held.answer_with(full("whole"));
    });
    assert_eq!(&told.body[..], b"whole");
    assert_eq!(world.countersign.ended().await, Ended { cut: 0 });
    // Both were told to go (GOAWAY), and did, with their senders still here.
    within(tasks.join_next()).await.unwrap().unwrap();
    within(idle.join_next()).await.unwrap().unwrap();
    drop((client, other));
    world.finish_stopped();
}

#[tokio::test]
async fn a_stop_tells_http_2_connections_to_go_while_it_still_accepts_others() {
    let authority = Authority::new();
    let (responder, mut taken) = hold();
    let mut world = listening(Plan::open(), &authority).respond("/prod/held", responder).start().await;
    let (mut first, mut others) = (JoinSet::new(), JoinSet::new());
    let mut used = Client::over(dial(&world, &authority, &PROTOCOLS).await.unwrap(), &mut first).await;
    assert_eq!(used.get("/").await.status, 200);
    let mut busy = Client::over(dial(&world, &authority, &PROTOCOLS).await.unwrap(), &mut others).await;
    let request = busy.request("GET", "/held").body(Full::default()).unwrap();
    let (told, ()) = tokio::join!(busy.ask(request), async {
        let held = held(&mut taken).await;
        world.countersign.stop();
        // It has nothing to wait for, and goes while the other is still busy.
        within(first.join_next()).await.unwrap().unwrap();
        let mut late = Client::over(dial(&world, &authority, &PROTOCOLS).await.unwrap(), &mut others).await;
        assert_eq!(late.get("/late").await.status, 200, "a connection that comes now has its request answered");
        held.answer_with(full("whole"));
    });
    assert_eq!(&told.body[..], b"whole");
    assert_eq!(world.countersign.ended().await, Ended { cut: 0 });
    drop((used, busy));
    world.finish_stopped();
}

#[tokio::test]
async fn a_silent_http_2_connection_ends() {
    let authority = Authority::new();
    let world = listening(Plan::open(), &authority).proxy("idle_timeout = \"300ms\"").start().await;
    let mut tasks = JoinSet::new();
    let mut client = Client::over(dial(&world, &authority, &PROTOCOLS).await.unwrap(), &mut tasks).await;
    assert_eq!(client.get("/").await.status, 200);
    within(tasks.join_next()).await.unwrap().unwrap();
    world.finish().await;
}

#[tokio::test]
async fn an_answer_that_nobody_takes_ends_its_http_2_connection() {
    let authority = Authority::new();
    let (responder, mut taken) = hold();
    let plan = listening(Plan::open(), &authority).respond("/prod/held", responder);
    let world = plan.proxy("idle_timeout = \"300ms\"\nheader_timeout = \"200ms\"").start().await;
    let mut tasks = JoinSet::new();
    let mut client = Client::over(dial(&world, &authority, &PROTOCOLS).await.unwrap(), &mut tasks).await;
    let request = client.request("GET", "/held").body(Full::default()).unwrap();
    let (response, _) = tokio::join!(client.send(request), async {
        held(&mut taken).await.answer_with(full(vec![b'x'; 32 * 1024 * 1024]))
    });
    within(tasks.join_next()).await.unwrap().unwrap();
    drop(response);
    world.countersign.until(|metrics| metrics.ended("client-aborted") == 1).await;
    world.finish().await;
}

#[tokio::test]
async fn an_answer_that_nobody_takes_ends_though_its_connection_is_busy() {
    let authority = Authority::new();
    let (responder, mut taken) = hold();
    let plan = listening(Plan::open(), &authority).respond("/prod/held", responder);
    let world = plan.proxy("idle_timeout = \"300ms\"").start().await;
    let mut tasks = JoinSet::new();
    let mut client = Client::over(dial(&world, &authority, &PROTOCOLS).await.unwrap(), &mut tasks).await;
    let request = client.request("GET", "/held").body(Full::default()).unwrap();
    let (response, _) = tokio::join!(client.send(request), async {
        held(&mut taken).await.answer_with(full(vec![b'x'; 32 * 1024 * 1024]))
    });
    within(async {
        while world.countersign.metrics().await.ended("client-aborted") == 0 {
            assert_eq!(client.get("/").await.status, 200);
        }
    })
    .await;
    assert_eq!(client.get("/").await.status, 200, "the others go on");
    assert!(within(response.into_body().collect()).await.is_err(), "it does not look whole");
    drop(client);
    world.finish().await;
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// `GET https://localhost/` in HPACK: three indexed fields and one literal.
const GET: &[u8] = b"\x82\x87\x84\x41\x09localhost";

/// Sends the frames of `flood` on a connection of its own, reads until it ends or the flood is over, and returns whether
/// it was ended with a GOAWAY, or cut.
async fn flood(world: &World, authority: &Authority, flood: impl Iterator<Item = Vec<u8>>) -> bool {
    let stream = dial(world, authority, &PROTOCOLS).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let opening = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, b"")].concat();
    let last_ping = frame(PING, 0, 0, b"the end.");
    let sending = async {
        writer.write_all(&opening).await?;
        let mut batch = Vec::new();
        for frame in flood {
            batch.extend(frame);
            if batch.len() > 16 * 1024 {
                writer.write_all(&std::mem::take(&mut batch)).await?;
            }
        }
        batch.extend(last_ping);
        writer.write_all(&batch).await
    };
    let reading = async {
        let mut said = Vec::new();
        loop {
            let mut head = [0; 9];
            if reader.read_exact(&mut head).await.is_err() {
                return true;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            said.resize(length as usize, 0);
            if reader.read_exact(&mut said).await.is_err() || head[3] == GOAWAY {
                return true;
            }
            if head[3] == PING && said == b"the end." {
                return false;
            }
        }
    };
    let (_sent, ended) = within(async { tokio::join!(sending, reading) }).await;
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_are_bounded_and_hurt_nobody_else() {
    let authority = Authority::new();
    let world = listening(Plan::open(), &authority).start().await;
    let mut tasks = JoinSet::new();
    let mut other = Client::over(dial(&world, &authority, &PROTOCOLS).await.unwrap(), &mut tasks).await;

    let resets = (0..10_000_u32).flat_map(|number| {
        let stream = 2 * number + 1;
        [frame(HEADERS, 0x5, stream, GET), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())]
    });
    assert!(flood(&world, &authority, resets).await, "who resets thousands of requests is sent away");
    assert!(world.gateway.requests() < 1_000, "{}", world.gateway.requests());
    assert_eq!(other.get("/").await.status, 200);

    let endless = std::iter::once(frame(HEADERS, 0x1, 1, GET)).chain(
        (0..10_000).map(|_| frame(CONTINUATION, 0, 1, &[b"\x00\x01a\x7f\x81\x07", &[b'x'; 1_000][..]].concat())),
    );
    assert!(flood(&world, &authority, endless).await, "a head that never ends ends the connection");
    assert_eq!(other.get("/").await.status, 200);

    // These cost as much to send as to answer: no more of them are read than answers are taken.
    for answered in
        [frame(SETTINGS, 0, 0, b""), frame(PING, 0, 0, b"12345678"), frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])]
    {
        flood(&world, &authority, (0..50_000).map(|_| answered.clone())).await;
        assert_eq!(other.get("/").await.status, 200);
    }

    let (before, open) = (world.gateway.requests(), 5_000_u32);
    let many = (0..open).map(|number| frame(HEADERS, 0x4, 2 * number + 1, GET));
    assert!(flood(&world, &authority, many).await, "who goes on opening streams that are refused is sent away");
    assert!(world.gateway.requests() - before <= 256, "{}", world.gateway.requests());
    assert_eq!(other.get("/").await.status, 200);
    world.finish().await;
}
