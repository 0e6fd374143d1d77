//! Programs that take us for their HTTP proxy: URLs of upstreams, of others, and CONNECT.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use standin::{Authority, Authorizer, Connect, ConnectProxy, Gateway, Manners};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{API, Answer, Client, Countersign, Plan, Setup, Wire, World, within};

const PASS: &str = "forward = { unmatched = \"pass\" }";
/// `ada:pr0xy-s3cret`, in base64.
const BASIC: &str = "Basic YWRhOnByMHh5LXMzY3JldA==";

fn get(url: &str, fields: &str) -> String {
    format!("GET {url} HTTP/1.1\r\nHost: {API}\r\n{fields}\r\n")
}

async fn ask(countersign: &Countersign, request: impl AsRef<[u8]>) -> Answer {
    countersign.connect().await.raw(request).await
}

/// What the API is asked for when a program asks for this URL.
async fn sent(world: &World, url: &str) -> String {
    let before = world.gateway.requests();
    let answer = ask(&world.countersign, get(url, "")).await;
    assert_eq!(answer.verdict(), (200, "none"), "{url}: {}", answer.text());
    assert_eq!(world.gateway.requests(), before + 1, "{url}");
    world.gateway.received().pop().unwrap().target
}

#[tokio::test]
async fn the_url_of_an_upstream_goes_there_with_authentication() {
    for plan in [Plan::bearer(), Plan::sigv4()] {
        let world = plan.start().await;
        for (url, target) in [
            (format!("http://{API}/prod/orders?a=1"), "/prod/orders?a=1"),
            (format!("http://{}:80/prod/orders", API.to_uppercase()), "/prod/orders"),
            (format!("http://{API}:443/prod/"), "/prod/"),
            (format!("http://{API}/prod"), "/prod"),
        ] {
            assert_eq!(sent(&world, &url).await, target, "{url}");
        }
        let received = world.gateway.received().pop().unwrap();
        assert_eq!((received.host.as_deref(), received.header("authorization").is_some()), (Some(API), true));
        let metrics = world.countersign.metrics().await;
        assert_eq!(metrics.count("countersign_requests_total", &["route=\"api\"", "outcome=\"delivered\""]), 4);
        world.finish().await;
    }
}

#[tokio::test]
async fn what_a_url_names_is_what_is_sent_or_it_has_no_route() {
    let world = Plan::open().route("path = \"/orders\"\nstrip_path = true").start().await;
    assert_eq!(sent(&world, &format!("http://{API}/prod/42")).await, "/prod/42");
    for path in ["/orders/42", "/production/42", "/dev/42", "/", ""] {
        let answer = ask(&world.countersign, get(&format!("http://{API}{path}"), "")).await;
        assert_eq!(answer.verdict(), (404, "no-route"), "{path}");
        assert!(answer.text().contains(&format!("http://{API}/prod")), "{}", answer.text());
    }
    world.finish().await;
    let world = Plan::open().route("path = \"/orders\"").start().await;
    assert_eq!(sent(&world, &format!("http://{API}/prod/orders/42")).await, "/prod/orders/42");
    assert_eq!(ask(&world.countersign, get(&format!("http://{API}/prod/42"), "")).await.status, 404);
    for (path, verdict) in [
        ("/prod/orders/../../x", (400, "bad-request")),
        ("/prod/orders/%2e%2e/x", (400, "bad-request")),
        ("/prod/orders@evil.test/", (404, "no-route")),
    ] {
        assert_eq!(ask(&world.countersign, get(&format!("http://{API}{path}"), "")).await.verdict(), verdict, "{path}");
    }
    world.finish().await;
}

#[tokio::test]
async fn the_deepest_route_of_an_upstream_takes_its_url() {
    let more = format!(
        "[[route]]\nname = \"admin\"\npath = \"/a\"\nstrip_path = true\nauth = \"none\"\nmethods = [\"POST\"]\n\
         connect_to = \"127.0.0.1:PORT\"\nupstream = \"https://{API}/prod/admin\"\n\
         [[route]]\nhost = \"named.example\"\npath = \"/prod/named\"\nauth = \"none\"\nname = \"named\"\n\
         connect_to = \"127.0.0.1:PORT\"\nupstream = \"https://{API}\"\n"
    );
    let world = Plan::open().add(&more).start().await;
    let refused = ask(&world.countersign, get(&format!("http://{API}/prod/admin/x"), "")).await;
    assert_eq!((refused.verdict(), refused.header("allow")), ((405, "method-not-allowed"), Some("POST")));
    assert_eq!(sent(&world, &format!("http://{API}/prod/administrators")).await, "/prod/administrators");
    assert_eq!(sent(&world, "http://named.example/prod/named/x").await, "/prod/named/x", "by its host");
    assert_eq!(sent(&world, "http://localhost:1/x").await, "/prod/x", "ourselves, whatever the port");
    let other = ask(&world.countersign, get(&format!("http://{API}:8443/prod/x"), "")).await;
    assert_eq!(other.verdict(), (404, "no-route"));
    // Only a program that takes us for its proxy sends URLs; a page that has the name would send this.
    let page = format!("GET /prod/x HTTP/1.1\r\nHost: {API}\r\n\r\n");
    assert_eq!(ask(&world.countersign, page).await.verdict(), (403, "caller-refused"));
    world.finish().await;
}

#[tokio::test]
async fn a_location_leads_back_through_the_proxy() {
    let moved: standin::Responder = Arc::new(|_request, _principal| {
        Box::pin(async move {
            let mut response = http::Response::new(standin::body::full(""));
            *response.status_mut() = http::StatusCode::FOUND;
            let location = format!("https://{API}/prod/orders/43?a=b");
            response.headers_mut().insert("location", location.parse().unwrap());
            response
        })
    });
    let world = Plan::open().route("path = \"/o\"\nstrip_path = true").respond("/prod/orders/42", moved).start().await;
    let answer = ask(&world.countersign, get(&format!("http://{API}/prod/orders/42"), "")).await;
    assert_eq!(answer.header("location"), Some("/prod/orders/43?a=b"));
    assert_eq!(world.get("/o/orders/42").await.header("location"), Some("/o/orders/43?a=b"));
    world.finish().await;
}

#[tokio::test]
async fn a_host_without_a_route_is_told_which_have_one() {
    let world = Plan::bearer().start().await;
    for url in
        ["http://evil.test/x", "http://evil.test:8080/", "http://[2001:db8::1]/", "http://169.254.169.254/latest/"]
    {
        let answer = ask(&world.countersign, get(url, "x-request-id: lost\r\n")).await;
        assert_eq!(answer.verdict(), (404, "no-route"), "{url}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(&format!("http://{API}/prod")) && detail.contains("[[route]]"), "{detail}");
        assert!(!detail.contains("evil"), "{detail}");
    }
    assert_eq!(world.gateway.connections(), 0);
    world.finish().await;
}

#[tokio::test]
async fn pages_and_loops_are_refused_before_anything_is_told() {
    let plan = Plan::open()
        .proxy("forward = { unmatched = \"pass\", connect = \"tunnel\", connect_hosts = [\"*.test:443\"] }");
    let world = plan.start().await;
    for (fields, verdict) in [
        ("Origin: http://evil.test\r\n", (403, "caller-refused")),
        ("Origin: null\r\n", (403, "caller-refused")),
        ("Sec-Fetch-Site: cross-site\r\n", (403, "caller-refused")),
        ("Via: 1.1 countersign\r\n", (508, "loop")),
    ] {
        for start in
            [format!("GET http://{API}/prod/x"), "GET http://evil.test/".to_owned(), "CONNECT a.test:443".to_owned()]
        {
            let answer = ask(&world.countersign, format!("{start} HTTP/1.1\r\nHost: x\r\n{fields}\r\n")).await;
            assert_eq!(answer.verdict(), verdict, "{start} {fields}");
            assert!(!answer.text().contains(API), "{}", answer.text());
        }
    }
    assert_eq!(world.gateway.connections(), 0);
    world.finish().await;
}

#[tokio::test]
async fn the_caller_token_is_asked_for_as_by_a_proxy() {
    let plan = Plan::bearer().proxy(
        "caller_token = { env = \"CALLER\" }\n\
         forward = { unmatched = \"pass\", connect = \"tunnel\", connect_hosts = [\"*.test:443\"] }",
    );
    let world = plan.secret("CALLER", "caller-token-12345").start().await;
    let starts =
        [format!("GET http://{API}/prod/x"), "GET http://evil.test/".to_owned(), "CONNECT a.test:443".to_owned()];
    for start in &starts {
        // `x:caller-token-1234`, one character short.
        for fields in ["", "Proxy-Authorization: Basic eDpjYWxsZXItdG9rZW4tMTIzNA==\r\n"] {
            let answer = ask(&world.countersign, format!("{start} HTTP/1.1\r\nHost: x\r\n{fields}\r\n")).await;
            assert_eq!(answer.verdict(), (407, "caller-token"), "{start} {fields}");
            assert_eq!(answer.header("proxy-authenticate"), Some("Basic realm=\"countersign\""));
            assert!(!answer.text().contains(API), "{}", answer.text());
        }
    }
    assert_eq!(world.gateway.connections(), 0);
    // `x:caller-token-12345`.
    let right = "Proxy-Authorization: Basic eDpjYWxsZXItdG9rZW4tMTIzNDU=\r\n";
    assert_eq!(ask(&world.countersign, get(&format!("http://{API}/prod/x"), right)).await.status, 200);
    assert!(world.only().header("proxy-authorization").is_none());
    world.finish().await;
}

#[tokio::test]
async fn hosts_that_are_this_machine_are_never_passed_on_to() {
    let wire = Wire::listen().await;
    let plan = Plan::open().proxy(PASS);
    let world = plan.start().await;
    let port = wire.address().port();
    // What says `localhost`, `127.0.0.1` or `[::1]` means us, whatever its port: it goes by our own routes.
    for host in [
        "127.0.0.2",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "0.0.0.0",
        "localhost.",
        "a.localhost",
        "127.0.0.1.",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[::]",
        "[fe80::1]",
        "169.254.169.254",
        "[fd00:ec2::254]",
    ] {
        let answer = ask(&world.countersign, get(&format!("http://{host}:{port}/x"), "")).await;
        assert_eq!(answer.verdict(), (404, "no-route"), "{host}: {}", answer.text());
        assert!(answer.text().contains("no caller is led"), "{host}: {}", answer.text());
    }
    for url in ["http://a@evil.test/", "http://evil.test:0x50/", "http:///x", "https://evil.test/", "ftp://evil.test/"]
    {
        assert_eq!(ask(&world.countersign, get(url, "")).await.status, 400, "{url}");
    }
    assert!(wire.is_untouched().await);
    assert_eq!(world.gateway.connections(), 0);
    world.finish().await;
}

/// A sidecar without much of a route, behind a corporate proxy that `wire` plays.
async fn behind(wire: &Wire, lines: &str) -> Countersign {
    let authority = Authority::new();
    let route = format!("[[route]]\nauth = \"none\"\nupstream = \"https://{API}\"\n");
    let setup = Setup::new(&authority).proxy(lines).add(&route);
    let proxy = format!("http://ada:pr0xy-s3cret@{}", wire.address());
    let mut countersign = setup.variable("HTTPS_PROXY", &proxy).start().await;
    countersign.hide(["pr0xy-s3cret".to_owned()]);
    countersign
}

#[tokio::test]
async fn an_unmatched_request_passes_on_as_it_is_through_the_corporate_proxy() {
    let wire = Wire::listen().await;
    let countersign = behind(&wire, PASS).await;
    let mut client = countersign.connect().await;
    let request = "POST http://Other.example:8080/a%2Fb?c HTTP/1.1\r\nHost: other.example:8080\r\nauthorization: mine\r\n\
                   proxy-authorization: Basic eDp5\r\nproxy-connection: keep-alive\r\nconnection: x-hop\r\nx-hop: 1\r\n\
                   x-request-id: elsewhere\r\ncontent-length: 4\r\n\r\nbody";
    let (answer, head) = tokio::join!(client.raw(request), async {
        let mut line = wire.accept().await;
        let head = line.head().await;
        assert_eq!(line.body(4).await, b"body");
        line.write("HTTP/1.1 201 Created\r\ncontent-length: 2\r\nlocation: http://other.example:8080/9\r\n\r\nok")
            .await;
        assert!(line.is_over().await, "it is not kept");
        head
    });
    let mut lines: Vec<&str> = head.trim_end().split("\r\n").collect();
    assert_eq!(lines.remove(0), "POST http://other.example:8080/a%2Fb?c HTTP/1.1");
    lines.sort_unstable();
    let authorization = format!("proxy-authorization: {BASIC}");
    let expected = [
        "authorization: mine",
        "content-length: 4",
        "host: other.example:8080",
        &authorization,
        "via: 1.1 countersign",
    ];
    assert_eq!(lines[..5], expected);
    assert_eq!(lines[5..], ["x-request-id: elsewhere"]);
    assert_eq!((answer.status, answer.text().as_str()), (201, "ok"));
    assert_eq!(answer.header("location"), Some("http://other.example:8080/9"));
    let said = countersign.access_line("elsewhere").await;
    assert_eq!((&said["route"], &said["outcome"], &said["status"]), (&"none".into(), &"delivered".into(), &201.into()));
    countersign.finish().await;
}

#[tokio::test]
async fn a_corporate_proxy_that_wants_credentials_does_not_get_the_callers() {
    let wire = Wire::listen().await;
    let countersign = behind(&wire, PASS).await;
    let mut client = countersign.connect().await;
    let (answer, ()) = tokio::join!(client.raw(get("http://other.example/", "")), async {
        let mut line = wire.accept().await;
        assert!(line.head().await.starts_with("GET http://other.example/ HTTP/1.1\r\n"));
        line.write("HTTP/1.1 407 No\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n").await;
    });
    assert_eq!(answer.verdict(), (502, "upstream-unreachable"));
    assert!(answer.header("proxy-authenticate").is_none());
    // What the proxy would have to look up itself is judged as far as it can be.
    for url in ["http://169.254.169.254/", "http://localhost./", "http://2130706433/"] {
        assert_eq!(ask(&countersign, get(url, "")).await.verdict(), (404, "no-route"), "{url}");
    }
    assert!(wire.is_untouched().await);
    countersign.finish().await;
}

#[tokio::test]
async fn connect_is_refused_with_what_to_do_instead() {
    let world = Plan::bearer().start().await;
    for target in ["evil.test:443", "localhost:443", &format!("{API}:443"), "169.254.169.254:80"] {
        let answer = ask(&world.countersign, format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
        assert_eq!(answer.verdict(), (405, "method-not-allowed"), "{target}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("http://"), "{}", answer.text());
    }
    assert_eq!(world.gateway.connections(), 0);
    world.finish().await;
}

/// A gateway, a corporate proxy that leads everywhere to it, and a sidecar that tunnels to `hosts`.
async fn tunnels(hosts: &str) -> (Countersign, Gateway, ConnectProxy, Authority) {
    let authority = Authority::new();
    let gateway = Gateway::builder().tls(&authority, &[API]).method("/", Authorizer::Open).start().await;
    let proxy = ConnectProxy::start(gateway.address()).await;
    let setup = Setup::new(&authority)
        .proxy(&format!("forward = {{ connect = \"tunnel\", connect_hosts = [{hosts}] }}"))
        .add(&format!("[[route]]\nauth = \"none\"\nupstream = \"https://{API}\"\n"))
        .variable("HTTPS_PROXY", &format!("http://{}", proxy.address()));
    (setup.start().await, gateway, proxy, authority)
}

fn trusting(authority: &Authority) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[tokio::test]
async fn a_tunnel_carries_tls_unseen() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let (countersign, gateway, proxy, authority) = tunnels("\"*.amazonaws.com:443\"").await;
    let target = format!("{API}:443");
    let mut stream = TcpStream::connect(countersign.proxy).await.unwrap();
    // As Python's http.client asks.
    let connect = format!("CONNECT {target} HTTP/1.0\r\nx-request-id: blind\r\n\r\n");
    stream.write_all(connect.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.contains(" 200 connection established\r\n") && head.contains("\r\nx-request-id: blind\r\n"), "{head}");
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    let connector = TlsConnector::from(Arc::new(trusting(&authority)));
    let name = ServerName::try_from(API).unwrap();
    let mut tls = within(connector.connect(name, stream)).await.unwrap();
    let request = format!("GET /x HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\nX-Mine: 1\r\n\r\n");
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let metrics = countersign.metrics().await;
    assert_eq!(metrics.count("countersign_requests_in_flight", &[]), 1);
    within(tls.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(tls);
    let received = gateway.received().pop().unwrap();
    assert_eq!((received.target.as_str(), received.header("via"), received.header("x-mine")), ("/x", None, Some("1")));
    assert_eq!(proxy.asked(), [Connect { target: target.clone(), authorization: None }]);
    let said = countersign.access_line("blind").await;
    let told = (&said["method"], &said["path"], &said["status"], &said["route"]);
    assert_eq!(told, (&"CONNECT".into(), &target.into(), &200.into(), &"none".into()));
    assert!(said["received"].as_u64() > Some(100) && said["sent"].as_u64() > Some(100), "{said}");
    countersign.finish().await;
}

/// The head of a CONNECT and what is pushed behind it; `None` when there is no tunnel.
async fn opened(client: &mut Client, target: &str, behind: &str) -> Option<()> {
    client.writer.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n{behind}")).await;
    let status = client.reader.head("CONNECT").await.status;
    (status == 200).then_some(())
}

#[tokio::test]
async fn bytes_that_come_before_the_answer_wait_for_it() {
    let (countersign, _gateway, proxy, _authority) = tunnels("\"a.example:8443\"").await;
    let wire = Wire::listen().await;
    proxy.behave(Manners::Lead(wire.address()));
    let mut client = countersign.connect().await;
    let (tunnel, mut line) = tokio::join!(opened(&mut client, "A.example:8443", "GET / HTTP/9 early"), wire.accept());
    assert!(tunnel.is_some());
    assert_eq!(line.body(18).await, b"GET / HTTP/9 early");
    client.writer.send([0x16, 0x03, 0, 0xff]).await;
    assert_eq!(line.body(4).await, [0x16, 0x03, 0, 0xff]);
    line.write([0xfe, 0]).await;
    assert_eq!(client.reader.bytes(2).await, [0xfe, 0]);
    line.half_close().await;
    assert!(client.reader.is_over().await);
    client.writer.send("last").await;
    assert_eq!(line.body(4).await, b"last");
    drop(client);
    assert!(line.is_over().await);
    countersign.until(|metrics| metrics.ended("delivered") == 1).await;
    countersign.finish().await;
}

#[tokio::test]
async fn tunnels_lead_to_listed_hosts_alone() {
    let (countersign, gateway, proxy, _authority) = tunnels("\"*.amazonaws.com:443\", \"a.example:8443\"").await;
    for (target, verdict) in [
        ("evil.test:443", (404, "no-route")),
        ("a.example:443", (404, "no-route")),
        ("b.a.example:8443", (404, "no-route")),
        ("amazonaws.com:443", (404, "no-route")),
        ("x.amazonaws.com.evil.test:443", (404, "no-route")),
        ("localhost:443", (404, "no-route")),
        ("169.254.169.254:80", (404, "no-route")),
        ("x.amazonaws.com", (400, "bad-request")),
        ("x.amazonaws.com:0", (400, "bad-request")),
        ("x@y.amazonaws.com:443", (400, "bad-request")),
    ] {
        let mut client = countersign.connect().await;
        let request = format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
        );
        let answer = client.raw(request).await;
        assert_eq!(answer.verdict(), verdict, "{target}");
        assert!(client.reader.is_over().await, "{target}: nothing behind a CONNECT is a request");
    }
    let request = "CONNECT a.example:8443 HTTP/1.1\r\nHost: a\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(ask(&countersign, request).await.verdict(), (400, "bad-request"));
    assert_eq!((gateway.connections(), proxy.asked().len()), (0, 0));
    proxy.behave(Manners::Say(b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec()));
    let answer = ask(&countersign, "CONNECT a.example:8443 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(answer.verdict(), (502, "upstream-unreachable"));
    countersign.finish().await;
}

#[tokio::test]
async fn a_drain_waits_for_tunnels_and_cuts_them_at_last() {
    let (mut countersign, _gateway, proxy, _authority) = tunnels("\"a.example:443\"").await;
    let wire = Wire::listen().await;
    proxy.behave(Manners::Lead(wire.address()));
    let mut client = countersign.connect().await;
    let (tunnel, mut line) = tokio::join!(opened(&mut client, "a.example:443", ""), wire.accept());
    assert!(tunnel.is_some());
    countersign.stop();
    within(async { while countersign.page("/readyz").await.status == 200 {} }).await;
    line.write("still here").await;
    assert_eq!(client.reader.bytes(10).await, b"still here");
    countersign.hurry();
    assert_eq!(countersign.ended().await.cut, 1);
    assert!(client.reader.is_over().await && line.is_over().await);
    countersign.finish_stopped();
}

#[tokio::test]
async fn a_tunnel_that_leads_back_to_us_is_a_loop() {
    let wire = Wire::listen().await;
    let tunnel = "forward = { connect = \"tunnel\", connect_hosts = [\"a.example:443\"] }";
    let countersign = behind(&wire, tunnel).await;
    let mut client = countersign.connect().await;
    let connect = "CONNECT a.example:443 HTTP/1.1\r\nhost: a\r\n\r\n";
    let (answer, ()) = tokio::join!(client.raw(connect), async {
        // In a shell where everything goes through us, the environment's proxy is this very program.
        let mut line = wire.accept().await;
        let ours = line.head().await;
        let answer = ask(&countersign, &ours).await;
        assert_eq!(answer.verdict(), (508, "loop"), "{ours}");
        line.write("HTTP/1.1 508 Loop Detected\r\n\r\n").await;
    });
    assert_eq!(answer.verdict(), (502, "upstream-unreachable"));
    countersign.finish().await;
}
