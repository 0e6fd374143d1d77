//! CONNECT to a host with a route ends here: a certificate from the developer's own authority, and the same way for the
//! requests behind it.

use std::sync::Arc;

use bytes::Bytes;
use countersign::clock::Clock;
use countersign::tls::developer;
use http::{Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{API, Countersign, Plan, Wire, World, held, hold, within};

/// Boxed, for it is large.
type Stream = Box<TlsStream<TcpStream>>;

const TARGET: &str = "abc123.execute-api.ap-northeast-1.amazonaws.com:443";

fn authority(hosts: &[&str]) -> developer::New {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    developer::create(&hosts, Clock::system().now().wall).unwrap()
}

/// A plan that intercepts, and who vouches for it.
fn intercepting(plan: Plan) -> (Plan, String) {
    let made = authority(&[API]);
    let plan = plan.file("dev.pem", &made.certificate).file("dev-key.pem", &made.key);
    let plan = plan.proxy("forward = { connect = \"intercept\", ca_cert = \"dev.pem\", ca_key = \"dev-key.pem\" }");
    (plan, made.certificate)
}

/// Asks for a tunnel; the status, and the connection behind it.
async fn ask_for(countersign: &Countersign, target: &str, fields: &str) -> (u16, TcpStream) {
    let mut stream = within(TcpStream::connect(countersign.proxy)).await.unwrap();
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), stream)
}

/// Shakes hands over `stream` with somebody who must be `name` by the word of `trusted`.
async fn secure(stream: TcpStream, name: &str, trusted: &str, alpn: &[&[u8]]) -> std::io::Result<Stream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await.map(Box::new)
}

/// A connection inside, in HTTP/1.1.
async fn inside(world: &World, trusted: &str) -> Stream {
    let (status, stream) = ask_for(&world.countersign, TARGET, "").await;
    assert_eq!(status, 200);
    secure(stream, API, trusted, &[b"http/1.1"]).await.unwrap()
}

/// Status, and the rest, of an answer with a length.
async fn raw(stream: &mut Stream, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(stream).await
}

async fn answer(stream: &mut Stream) -> (u16, String) {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(within(stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(text).unwrap();
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ").map(|length| length.parse::<usize>().unwrap()));
    let mut body = vec![0; length.unwrap_or(0)];
    within(stream.read_exact(&mut body)).await.unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head + &String::from_utf8(body).unwrap())
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {API}\r\n{fields}\r\n")
}

#[tokio::test]
async fn requests_behind_a_connect_are_authenticated() {
    for plan in [Plan::bearer(), Plan::sigv4()] {
        let (plan, trusted) = intercepting(plan);
        let world = plan.start().await;
        let (status, stream) = ask_for(&world.countersign, TARGET, "x-request-id: the-connect\r\n").await;
        assert_eq!(status, 200);
        let mut stream = secure(stream, API, &trusted, &[]).await.unwrap();
        for (path, status) in [("/prod/orders?a=1", 200), ("/prod", 200), ("/dev/orders", 404), ("/prod/../dev", 400)] {
            assert_eq!(raw(&mut stream, &get(path, "authorization: mine\r\n")).await.0, status, "{path}");
        }
        let received = world.gateway.received();
        assert_eq!(received.len(), 2);
        assert_eq!((received[0].target.as_str(), received[0].host.as_deref()), ("/prod/orders?a=1", Some(API)));
        assert!(received[0].header("authorization").is_some_and(|value| value != "mine"));
        let said = world.countersign.access_line("the-connect").await;
        let told = (&said["method"], &said["path"], &said["status"], &said["outcome"], &said["route"]);
        assert_eq!(told, (&"CONNECT".into(), &TARGET.into(), &200.into(), &"delivered".into(), &"none".into()));
        let metrics = world.countersign.metrics().await;
        assert_eq!(metrics.count("countersign_requests_total", &["route=\"api\"", "outcome=\"delivered\""]), 2);
        assert_eq!(metrics.count("countersign_requests_in_flight", &[]), 0, "the tunnel itself is none");
        world.finish().await;
    }
}

#[derive(Clone)]
struct Spawn;

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Spawn {
    #[expect(clippy::disallowed_methods, reason = "a client's tasks end with the test")]
    fn execute(&self, future: F) {
        drop(tokio::spawn(future));
    }
}

#[tokio::test]
async fn http_2_is_offered_behind_a_connect() {
    let (plan, trusted) = intercepting(Plan::sigv4());
    let world = plan.start().await;
    let (_, stream) = ask_for(&world.countersign, TARGET, "").await;
    let stream = secure(stream, API, &trusted, &[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = http2::handshake(Spawn, TokioIo::new(stream)).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async { drop(connection.await) });
    for (host, body, status) in [(API, &b"body"[..], 200), (API, b"", 200), ("localhost", b"", 400)] {
        let request = Request::post(format!("https://{host}/prod/x")).version(Version::HTTP_2);
        let request = request.body(Full::new(Bytes::from_static(body))).unwrap();
        let response = within(sender.send_request(request)).await.unwrap();
        assert_eq!(response.status(), status, "{host}");
        within(response.into_body().collect()).await.unwrap();
    }
    let received = world.gateway.received();
    assert_eq!((received.len(), received[0].target.as_str()), (2, "/prod/x"));
    drop(sender);
    world.finish().await;
}

#[tokio::test]
async fn the_host_is_the_one_that_connect_has_named() {
    let (plan, trusted) = intercepting(Plan::open());
    let world = plan.start().await;
    for host in ["localhost", "evil.test", "abc123.execute-api.ap-northeast-1.amazonaws.com:80"] {
        let mut stream = inside(&world, &trusted).await;
        let (status, text) = raw(&mut stream, &format!("GET /prod/x HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert!(status == 400 && text.contains("CONNECT has named"), "{text}");
    }
    for start in ["GET http://evil.test/", "CONNECT evil.test:443", "CONNECT 127.0.0.1:80"] {
        let mut stream = inside(&world, &trusted).await;
        let (status, text) = raw(&mut stream, &format!("{start} HTTP/1.1\r\nHost: {API}\r\n\r\n")).await;
        assert_eq!(status, 400, "{text}");
    }
    let mut stream = inside(&world, &trusted).await;
    let (status, text) = raw(&mut stream, &format!("CONNECT {TARGET} HTTP/1.1\r\nHost: {API}\r\n\r\n")).await;
    assert_eq!(status, 405, "a tunnel in a tunnel: {text}");
    // A client that means another host in its handshake gets no certificate at all.
    let (_, stream) = ask_for(&world.countersign, TARGET, "x-request-id: another-name\r\n").await;
    assert!(secure(stream, "other.example", &trusted, &[]).await.is_err());
    let said = world.countersign.access_line("another-name").await;
    assert_eq!((&said["outcome"], &said["fault"]), (&"client-aborted".into(), &"client".into()));
    assert_eq!(world.gateway.connections(), 0);
    world.finish().await;
}

#[tokio::test]
async fn what_has_no_route_is_not_answered_for() {
    let (plan, _) = intercepting(Plan::open());
    let world = plan.start().await;
    for (target, status) in [
        ("evil.test:443", 404),
        ("sub.abc123.execute-api.ap-northeast-1.amazonaws.com:443", 404),
        ("abc123.execute-api.ap-northeast-1.amazonaws.com:8443", 404),
        ("localhost:443", 404),
        ("127.0.0.1:443", 404),
        ("169.254.169.254:443", 404),
    ] {
        let (found, _) = ask_for(&world.countersign, target, "").await;
        assert_eq!(found, status, "{target}");
    }
    let mut client = world.countersign.connect().await;
    let answer = client.raw("CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test\r\n\r\n").await;
    assert!(answer.text().contains(&format!("http://{API}/prod")), "{}", answer.text());
    assert_eq!(world.gateway.connections(), 0);
    world.finish().await;
}

#[tokio::test]
async fn plain_http_behind_a_connect_needs_no_leave() {
    let world = Plan::sigv4().start().await;
    // As Node's undici asks for http:// URLs.
    let (status, mut stream) = ask_for(&world.countersign, &format!("{API}:80"), "x-request-id: plain\r\n").await;
    assert_eq!(status, 200);
    let request = get("/prod/x", "") + &format!("GET /prod/y HTTP/1.1\r\nHost: {API}:80\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    within(stream.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 ").count(), 2, "{text}");
    let received = world.gateway.received();
    assert!(received.iter().all(|request| request.header("authorization").is_some()));
    assert_eq!(world.countersign.access_line("plain").await["outcome"], "delivered");
    let (_, mut stream) = ask_for(&world.countersign, &format!("{API}:80"), "").await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    within(stream.read_to_string(&mut text)).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    assert_eq!(ask_for(&world.countersign, "localhost:80", "").await.0, 405);
    world.finish().await;
}

#[tokio::test]
async fn a_route_with_a_host_is_answered_for_by_that_name() {
    let made = authority(&["orders.local"]);
    let plan = Plan::open().route("host = \"orders.local\"").file("dev.pem", &made.certificate);
    let plan = plan.file("dev-key.pem", &made.key);
    let plan = plan.proxy("forward = { connect = \"intercept\", ca_cert = \"dev.pem\", ca_key = \"dev-key.pem\" }");
    let world = plan.start().await;
    assert_eq!(ask_for(&world.countersign, TARGET, "").await.0, 404, "its upstream has no URL of its own");
    let (status, stream) = ask_for(&world.countersign, "Orders.local:443", "").await;
    assert_eq!(status, 200);
    let mut stream = secure(stream, "orders.local", &made.certificate, &[]).await.unwrap();
    assert_eq!(raw(&mut stream, "GET /42 HTTP/1.1\r\nHost: orders.local\r\n\r\n").await.0, 200);
    assert_eq!(world.only().target, "/prod/42");
    world.finish().await;
}

#[tokio::test]
async fn the_guard_stands_before_a_tunnel_and_in_it() {
    let (plan, trusted) = intercepting(Plan::bearer());
    let world = plan.proxy("caller_token = { env = \"CALLER\" }").secret("CALLER", "caller-token-12345").start().await;
    assert_eq!(ask_for(&world.countersign, TARGET, "").await.0, 407);
    for fields in ["Origin: http://evil.test\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        assert_eq!(ask_for(&world.countersign, TARGET, fields).await.0, 403, "{fields}");
    }
    // `x:caller-token-12345`. It is shown once, for all that comes behind it.
    let right = "Proxy-Authorization: Basic eDpjYWxsZXItdG9rZW4tMTIzNDU=\r\n";
    let (status, stream) = ask_for(&world.countersign, TARGET, right).await;
    assert_eq!(status, 200);
    let mut stream = secure(stream, API, &trusted, &[]).await.unwrap();
    assert_eq!(raw(&mut stream, &get("/prod/x", "")).await.0, 200);
    // What a browser says that has us for its proxy: its pages may not ask in its user's name.
    for (fields, status) in [
        ("Origin: https://evil.test\r\n", 403),
        ("Sec-Fetch-Site: cross-site\r\n", 403),
        ("Sec-Fetch-Site: same-origin\r\n", 403),
        ("Via: 1.1 countersign\r\n", 508),
        ("Sec-Fetch-Site: none\r\n", 200),
    ] {
        let (found, text) = raw(&mut stream, &get("/prod/x", fields)).await;
        assert_eq!(found, status, "{fields} {text}");
        if status != 200 {
            let (_, again) = ask_for(&world.countersign, TARGET, right).await;
            stream = secure(again, API, &trusted, &[]).await.unwrap();
        }
    }
    assert_eq!(world.gateway.requests(), 2);
    world.finish().await;
}

#[tokio::test]
async fn who_does_not_trust_the_authority_is_told_in_the_log() {
    let (plan, _) = intercepting(Plan::open());
    let world = plan.start().await;
    let stranger = authority(&[API]);
    let (_, stream) = ask_for(&world.countersign, TARGET, "x-request-id: distrust\r\n").await;
    assert!(secure(stream, API, &stranger.certificate, &[]).await.is_err());
    let said = world.countersign.access_line("distrust").await;
    assert_eq!(said["outcome"], "client-aborted");
    assert!(world.countersign.log().contains("countersign ca trust"));
    // And one that says nothing at all.
    let (_, stream) = ask_for(&world.countersign, TARGET, "x-request-id: silence\r\n").await;
    drop(stream);
    assert_eq!(world.countersign.access_line("silence").await["outcome"], "client-aborted");
    world.finish().await;
}

#[tokio::test]
async fn a_drain_waits_for_requests_in_a_tunnel_and_not_for_tunnels() {
    let (plan, trusted) = intercepting(Plan::open());
    let (responder, mut held_ones) = hold();
    let mut world = plan.respond("/prod/held", responder).start().await;
    let _idle = inside(&world, &trusted).await;
    let mut busy = inside(&world, &trusted).await;
    busy.write_all(get("/prod/held", "").as_bytes()).await.unwrap();
    let request = held(&mut held_ones).await;
    world.countersign.stop();
    within(async { while world.countersign.page("/readyz").await.status == 200 {} }).await;
    request.answer(http::Response::new(standin::body::full("late")));
    let (status, text) = answer(&mut busy).await;
    assert!(status == 200 && text.to_ascii_lowercase().contains("connection: close"), "{text}");
    assert_eq!(world.countersign.ended().await.cut, 0);
    world.finish_stopped();
}

#[tokio::test]
async fn a_websocket_opens_behind_a_connect() {
    let wire = Wire::listen().await;
    let address = wire.address();
    let (plan, trusted) = intercepting(Plan::open());
    let route = format!(
        "[[route]]\nname = \"ws\"\nhost = \"ws.{API}\"\nauth = \"none\"\nwebsocket = true\nupstream = \"http://{address}\"\n"
    );
    let world = plan.add(&route).start().await;
    let host = format!("ws.{API}");
    let (_, stream) = ask_for(&world.countersign, &format!("{host}:443"), "").await;
    let mut stream = secure(stream, &host, &trusted, &[b"http/1.1"]).await.unwrap();
    // RFC 6455 1.3.
    let handshake = format!(
        "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let ((status, _), mut line) = tokio::join!(raw(&mut stream, &handshake), async {
        let mut line = wire.accept().await;
        line.head().await;
        line.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )
        .await;
        line
    });
    assert_eq!(status, 101);
    stream.write_all(b"ping").await.unwrap();
    assert_eq!(line.body(4).await, b"ping");
    line.write("pong").await;
    let mut pong = [0; 4];
    within(stream.read_exact(&mut pong)).await.unwrap();
    assert_eq!(&pong, b"pong");
    drop((stream, line));
    world.finish().await;
}
