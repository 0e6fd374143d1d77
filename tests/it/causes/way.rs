//! The way there: names, connections, proxies, TLS, and answers that are none.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use standin::{Answer as Scripted, Authority, Authorizer, ConnectProxy, Gateway, Manners};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::names;
use crate::support::{API, Answer, Countersign, Plan, Setup, Wire};

/// A route to the API's name at `port`, trusting `authority`.
async fn toward(authority: &Authority, port: u16, lines: &str) -> Countersign {
    let route = format!(
        "[[route]]\nname = \"api\"\nauth = \"none\"\nupstream = \"https://{API}/prod\"\nconnect_to = \"127.0.0.1:{port}\"\n\
         {lines}\n"
    );
    Setup::new(authority).add(&route).start().await
}

async fn named(countersign: Countersign, code: &str, codes: &[&str]) {
    let answer = countersign.get("/orders").await;
    assert_eq!(answer.code(), Some(code), "{answer:?}");
    check(&countersign, &answer, codes).await;
    countersign.finish().await;
}

/// Nothing of where the API is may be told.
async fn check(countersign: &Countersign, answer: &Answer, codes: &[&str]) {
    let hint = names(countersign, answer, codes).await;
    for word in ["127.0.0.1", "abc123", "amazonaws", "rustls", "os error"] {
        assert!(!hint.contains(word), "{hint}");
    }
}

#[tokio::test]
async fn a_port_that_nobody_serves() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    named(toward(&Authority::new(), port, "").await, "upstream-unreachable", &["port-closed"]).await;
}

#[tokio::test]
async fn a_name_that_nobody_knows() {
    let route = "[[route]]\nauth = \"none\"\nupstream = \"https://no-such-name.invalid\"\n";
    let countersign = Setup::new(&Authority::new()).add(route).start().await;
    let answer = countersign.get("/orders").await;
    assert_eq!(answer.verdict(), (502, "upstream-unreachable"));
    let hint = answer.header("x-countersign-hint").unwrap();
    // Without a network there is no name server, and the other of the two comes first.
    assert!(hint.contains("name-unknown") && hint.contains("name-server-silent"), "{hint}");
    countersign.finish().await;
}

#[tokio::test]
async fn a_certificate_of_a_stranger_and_one_of_another_name() {
    let gateway = Gateway::builder().tls(&Authority::new(), &[API]).start().await;
    named(toward(&Authority::new(), gateway.port(), "").await, "upstream-tls", &["issuer-unknown"]).await;
    let authority = Authority::new();
    let gateway = Gateway::builder().tls(&authority, &["other.example"]).start().await;
    named(toward(&authority, gateway.port(), "").await, "upstream-tls", &["name-mismatch"]).await;
}

#[tokio::test]
async fn a_certificate_of_the_past_and_one_of_the_future() {
    for (years, code) in [(2001..2002, "certificate-expired"), (2090..2099, "certificate-not-yet-valid")] {
        let authority = Authority::new();
        let gateway = Gateway::builder().tls_config(authority.server_config_of(&[API], years)).start().await;
        named(toward(&authority, gateway.port(), "").await, "upstream-tls", &[code]).await;
    }
}

#[tokio::test]
async fn packets_that_nobody_answers() {
    // Once its queue is full, Linux drops what comes to a listener that accepts nothing.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    let limit = std::time::Duration::from_millis(200);
    while let Ok(stream) = tokio::time::timeout(limit, tokio::net::TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    let countersign = toward(&Authority::new(), address.port(), "connect_timeout = \"200ms\"").await;
    let answer = countersign.get("/orders").await;
    assert_eq!(answer.verdict(), (502, "upstream-unreachable"));
    let hint = answer.header("x-countersign-hint").unwrap();
    assert!(hint.starts_with("connect-timeout: "), "{hint}");
    drop((listener, waiting));
    countersign.finish().await;
}

/// Takes connections one by one, reads something, writes `answer`, and closes.
async fn saying(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        // A handshake that fails is tried once more.
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _read = stream.read(&mut buffer).await.unwrap();
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        }
    });
    serving.detach_all();
    port
}

#[tokio::test]
async fn a_port_that_speaks_no_tls_and_one_that_hangs_up_and_one_that_wants_an_older_version() {
    let plain = saying(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    named(toward(&Authority::new(), plain, "").await, "upstream-tls", &["tls-not-spoken"]).await;
    let silent = saying(b"").await;
    named(toward(&Authority::new(), silent, "").await, "upstream-tls", &["tls-broken-off", "tls-not-spoken"]).await;
    // A fatal alert: protocol_version.
    let old = saying(&[21, 3, 3, 0, 2, 2, 70]).await;
    named(toward(&Authority::new(), old, "").await, "upstream-tls", &["tls-versions"]).await;
}

#[tokio::test]
async fn a_handshake_that_hangs() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let countersign = toward(&Authority::new(), silent.local_addr().unwrap().port(), "tls_timeout = \"100ms\"").await;
    named(countersign, "upstream-tls", &["tls-timeout", "tls-not-spoken"]).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_for_servers() {
    let authority = Authority::new();
    let gateway = Gateway::builder().tls_config(authority.config_for_clients(&[API])).start().await;
    named(toward(&authority, gateway.port(), "").await, "upstream-tls", &["certificate-unfit"]).await;
}

/// An API that wants a client certificate of `trusted`.
async fn mutual(authority: &Authority, trusted: &Authority) -> Gateway {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let (cert, key) = authority.issue(&[API]);
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    Gateway::builder().tls_config(Arc::new(config)).method("/", Authorizer::Open).start().await
}

#[tokio::test]
async fn mutual_tls_without_a_certificate_and_with_that_of_a_stranger() {
    let authority = Authority::new();
    let gateway = mutual(&authority, &authority).await;
    let countersign = toward(&authority, gateway.port(), "http2 = \"never\"").await;
    let answer = countersign.get("/orders").await;
    check(&countersign, &answer, &["certificate-wanted"]).await;
    countersign.finish().await;
    let (cert, key) = Authority::new().issue(&["client"]);
    let route = format!(
        "[[route]]\nauth = \"none\"\nupstream = \"https://{API}/prod\"\nconnect_to = \"127.0.0.1:{}\"\nhttp2 = \"never\"\n\
         client_cert = \"c.pem\"\nclient_key = \"k.pem\"\n",
        gateway.port()
    );
    let setup = Setup::new(&authority).file("c.pem", &cert).file("k.pem", &key).add(&route);
    let countersign = setup.start().await;
    let answer = countersign.get("/orders").await;
    check(&countersign, &answer, &["client-certificate-refused", "tls-failed"]).await;
    countersign.finish().await;
}

#[tokio::test]
async fn an_api_that_never_answers() {
    let world = Plan::open().upstream("response_timeout = \"300ms\"").start().await;
    world.gateway.script(Scripted::Never);
    let answer = world.get("/orders").await;
    assert_eq!(answer.verdict(), (504, "upstream-timeout"));
    check(&world.countersign, &answer, &["answer-timeout"]).await;
    world.finish().await;
}

#[tokio::test]
async fn answers_that_break_off_or_are_no_http() {
    for (bytes, code) in [
        ("", "answer-broken-off"),
        ("HTTP/1.1 200 OK\r\nx", "answer-broken-off"),
        ("SSH-2.0-OpenSSH_9.6\r\n", "answer-not-http"),
        ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "answer-not-http"),
    ] {
        let wire = Wire::listen().await;
        let world = Plan::open().add(&wire.route("/wire")).start().await;
        let (answer, ()) = tokio::join!(world.get("/wire"), async {
            let mut line = wire.accept().await;
            line.head().await;
            line.write(bytes).await;
        });
        assert_eq!(answer.verdict(), (502, "upstream-reset"), "{bytes}");
        check(&world.countersign, &answer, &[code]).await;
        world.finish().await;
    }
}

#[tokio::test]
async fn proxies_that_do_not_lead_there() {
    for (manners, code) in [
        (Manners::Say(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n".to_vec()), "proxy-credentials"),
        (Manners::Say(b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec()), "proxy-refuses"),
        (Manners::Say(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), "proxy-not-http"),
        (Manners::Say(Vec::new()), "proxy-silent"),
        (Manners::Hang, "proxy-silent"),
    ] {
        let proxy = ConnectProxy::start("127.0.0.1:9".parse().unwrap()).await;
        proxy.behave(manners);
        let countersign = through(&proxy.address().to_string()).await;
        named(countersign, "upstream-unreachable", &[code]).await;
    }
    named(through("127.0.0.1:9").await, "upstream-unreachable", &["proxy-unreachable"]).await;
}

async fn through(proxy: &str) -> Countersign {
    let route = "[[route]]\nauth = \"none\"\nupstream = \"https://api.example\"\n";
    let lines = format!("proxy = \"http://{proxy}\"\nconnect_timeout = \"300ms\"");
    Setup::new(&Authority::new()).upstream(&lines).add(route).start().await
}

#[tokio::test]
async fn a_token_endpoint_behind_a_proxy_that_does_not_lead_there_or_of_a_stranger() {
    let auth = |url: &str| {
        format!(
            "[auth.orders]\nkind = \"client-credentials\"\ntoken_url = \"{url}\"\nclient_id = \"orders\"\n\
             client_secret = {{ env = \"SECRET\" }}\n[[route]]\nauth = \"orders\"\nupstream = \"https://{API}\"\n"
        )
    };
    for (manners, codes) in [
        (Manners::Say(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n".to_vec()), &["proxy-credentials"][..]),
        (Manners::Say(b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec()), &["proxy-refuses", "proxy-silent"]),
    ] {
        let proxy = ConnectProxy::start("127.0.0.1:9".parse().unwrap()).await;
        proxy.behave(manners);
        let setup = Setup::new(&Authority::new()).secret("SECRET", "client-secret-12");
        let setup = setup.upstream(&format!("proxy = \"http://{}\"", proxy.address()));
        let countersign = setup.add(&auth("https://issuer.example/oauth2/token")).start().await;
        named(countersign, "credential-unavailable", codes).await;
    }
    let gateway = Gateway::builder().tls(&Authority::new(), &["localhost"]).start().await;
    let setup = Setup::new(&Authority::new()).secret("SECRET", "client-secret-12");
    let url = format!("https://localhost:{}/oauth2/token", gateway.port());
    named(setup.add(&auth(&url)).start().await, "credential-unavailable", &["issuer-unknown"]).await;
}
