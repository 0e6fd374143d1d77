//! A corporate proxy on the way out: asked for upstreams and tokens alike, never for this machine, and named when it fails.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Response;
use standin::body::full;
use standin::{Authority, Authorizer, Connect, ConnectProxy, Gateway, Manners, Responder};

use crate::support::{API, Countersign, Setup};

const ISSUER: &str = "issuer.example";
/// `ada:pr0xy-s3cret`, in base64.
const BASIC: &str = "Basic YWRhOnByMHh5LXMzY3JldA==";

struct World {
    countersign: Countersign,
    gateway: Gateway,
    proxy: ConnectProxy,
}

/// An issuer and an API, both behind the proxy and nowhere else; `lines` belong to `[upstream]`.
async fn world(lines: &str, variables: &[(&str, String)]) -> World {
    let authority = Authority::new();
    let tokens: Responder = Arc::new(|_request, _principal| {
        let body = r#"{"access_token":"t0ken-from-behind","token_type":"Bearer","expires_in":3600}"#;
        Box::pin(async move { Response::new(full(body)) })
    });
    let gateway = Gateway::builder()
        .tls(&authority, &[API, ISSUER])
        .method("/", Authorizer::Open)
        .respond("/oauth2/token", tokens)
        .start()
        .await;
    let proxy = ConnectProxy::start(gateway.address()).await;
    let config = format!(
        "[auth.tokens]\nkind = \"client-credentials\"\ntoken_url = \"https://{ISSUER}/oauth2/token\"\nclient_id = \"orders\"\n\
         client_secret = {{ env = \"SECRET\" }}\n[[route]]\nupstream = \"https://{API}/prod\"\nauth = \"tokens\"\n"
    );
    let mut setup = Setup::new(&authority).secret("SECRET", "client-secret-12").upstream(lines).add(&config);
    for (name, value) in variables {
        let value = value.replace("PROXY", &proxy.address().to_string());
        setup = setup.variable(name, &value);
    }
    let mut countersign = setup.start().await;
    countersign.hide(["pr0xy-s3cret", "t0ken-from-behind"].map(ToOwned::to_owned));
    World { countersign, gateway, proxy }
}

fn variable(name: &'static str, value: &str) -> Vec<(&'static str, String)> {
    vec![(name, value.to_owned())]
}

fn asked(target: &str, authorization: Option<&str>) -> Connect {
    Connect { target: target.to_owned(), authorization: authorization.map(ToOwned::to_owned) }
}

#[tokio::test]
async fn upstreams_and_tokens_go_through_the_proxy_of_the_environment() {
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        let world = world("", &variable(name, "http://ada:pr0xy-s3cret@PROXY")).await;
        let answer = world.countersign.get("/orders").await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let mut seen = world.proxy.asked();
        seen.sort_by(|one, other| one.target.cmp(&other.target));
        let expected = [asked(&format!("{API}:443"), Some(BASIC)), asked(&format!("{ISSUER}:443"), Some(BASIC))];
        assert_eq!(seen, expected, "{name}");
        // Nothing of the proxy's goes on.
        assert!(world.gateway.received().iter().all(|request| request.header("proxy-authorization").is_none()));
        assert!(world.countersign.log().contains("its upstream is reached through a proxy"));
        world.countersign.finish().await;
    }
}

#[tokio::test]
async fn a_proxy_that_is_configured_wins_over_the_environments() {
    let variables = vec![("HTTPS_PROXY", "http://127.0.0.1:9".to_owned()), ("CORP", "http://PROXY/".to_owned())];
    let world = world("proxy = { env = \"CORP\" }", &variables).await;
    assert_eq!(world.countersign.get("/orders").await.status, 200);
    assert_eq!(world.proxy.asked().len(), 2);
    world.countersign.finish().await;
}

#[tokio::test]
async fn exceptions_and_none_go_straight() {
    let mut except = variable("HTTPS_PROXY", "http://PROXY");
    except.push(("NO_PROXY", "amazonaws.com, .example".to_owned()));
    for (lines, variables) in [("", except), ("proxy = \"none\"", variable("HTTPS_PROXY", "http://PROXY"))] {
        // Neither name exists, so going straight fails: what counts is that the proxy is left alone.
        let world = world(lines, &variables).await;
        assert_eq!(world.countersign.get("/orders").await.verdict(), (503, "credential-unavailable"));
        assert_eq!(world.proxy.asked(), []);
        world.countersign.finish().await;
    }
}

#[tokio::test]
async fn loopback_is_never_proxied() {
    let authority = Authority::new();
    let gateway = Gateway::builder().tls(&authority, &[API]).method("/", Authorizer::Open).start().await;
    let proxy = ConnectProxy::start(gateway.address()).await;
    let route = |path: &str, to: SocketAddr| {
        format!("[[route]]\npath = \"{path}\"\nupstream = \"https://{API}\"\nconnect_to = \"{to}\"\nauth = \"none\"\n")
    };
    let setup = Setup::new(&authority).variable("HTTPS_PROXY", &format!("http://{}", proxy.address()));
    let countersign = setup.add(&route("/", gateway.address())).start().await;
    assert_eq!(countersign.get("/").await.status, 200);
    assert_eq!(proxy.asked(), []);
    countersign.finish().await;
}

#[tokio::test]
async fn a_proxy_that_fails_is_named_with_what_it_said() {
    let world = world("connect_timeout = \"300ms\"", &variable("HTTPS_PROXY", "http://ada:pr0xy-s3cret@PROXY")).await;
    assert_eq!(world.countersign.get("/orders").await.status, 200);
    let proxy = format!("through the proxy http://{}", world.proxy.address());
    let reset = world.gateway.address();
    for (number, (manners, words)) in [
        (Manners::Say(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n".to_vec()), "it wants credentials"),
        (Manners::Say(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 5\r\n\r\nno!!!".to_vec()), "it answered 403"),
        (Manners::Say(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), "does not speak HTTP"),
        (Manners::Say(b"HTTP/1.1 200 OK\r\n\r\nmore than was asked for".to_vec()), "does not speak HTTP"),
        (Manners::Say(Vec::new()), "closed the connection"),
        (Manners::Hang, "did not answer CONNECT within"),
    ]
    .into_iter()
    .enumerate()
    {
        world.proxy.behave(manners);
        let id = format!("proxy-{number}");
        // The first request's connection is still there; a new one is dialled once it is too old to be used.
        crate::support::pass(std::time::Duration::from_secs(400)).await;
        let answer = world.countersign.ask("GET", "/orders", &[("x-request-id", &id)], b"").await;
        assert_eq!(answer.verdict(), (502, "upstream-unreachable"), "{words}");
        assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
        let log = world.countersign.log();
        let line = log.lines().find(|line| line.contains(&id) && line.contains(&proxy));
        assert!(line.is_some_and(|line| line.contains(words)), "{words}: {line:?}\n{log}");
    }
    world.proxy.behave(Manners::Lead(reset));
    assert_eq!(world.countersign.get("/orders").await.status, 200, "it recovers by itself");
    world.countersign.finish().await;
}
