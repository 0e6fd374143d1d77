//! The main job on one machine: `cargo run --release --example demo`.
//!
//! Starts stand-ins of a Cognito token endpoint, an STS and two API Gateways (TLS, with a CA made at start) that verify
//! tokens and signatures with code of their own, puts the real proxy in front, makes one call through each route and
//! shows the curl lines to try. `--once` ends after the calls.
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a program for people, with a task of its own")]

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use countersign::app::Sidecar;
use countersign::clock::Clock;
use countersign::config::{self, Environment, Source};
use standin::{
    AccessKey, AccessKeys, Alpn, AppClient, Authority, Authorizer, Gateway, Role, Sts, TokenEndpoint, TokenForm,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const REGION: &str = "ap-northeast-1";
const API: &str = "abc123.execute-api.ap-northeast-1.amazonaws.com";
const PARTNER_API: &str = "xyz789.execute-api.ap-northeast-1.amazonaws.com";
const ROLE: &str = "arn:aws:iam::210987654321:role/api_gateway_invoke_role";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let once = std::env::args().any(|argument| argument == "--once");
    let world = World::start().await;
    let folder = std::env::temp_dir().join(format!("countersign-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    world.authority.write_pem(&folder);

    let text = world.config(once);
    let source = Source { name: "demo".into(), text: text.clone(), folder: folder.clone() };
    let environment = Environment::new([
        ("ORDERS_CLIENT_SECRET".to_owned(), "demo-client-secret".to_owned()),
        ("DEMO_SECRET_ACCESS_KEY".to_owned(), "demo-secret-access-key".to_owned()),
    ]);
    let compiled = config::load(&source, &environment).map_err(|report| report.to_string())?;
    let sidecar = Sidecar::bind(compiled, Clock::system()).await?;
    std::fs::remove_dir_all(&folder)?;
    let addresses = sidecar.addresses();
    let proxy = *addresses.proxy.first().ok_or("no listener")?;

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(sidecar.run(
        async move {
            drop(stopped.await);
        },
        std::future::pending(),
    ));
    println!("The config, as countersign runs it:\n\n{}", indented(&text));
    println!("One call through each route:\n");
    for (path, what) in [
        ("/orders/42", "a Cognito token of a machine client, as Bearer"),
        ("/iam/stock?item=tea&item=rice", "a SigV4 signature with access keys"),
        ("/partner/stock", "a SigV4 signature with a role of another account"),
    ] {
        let (status, body) = get(proxy, path).await?;
        println!("  GET http://{proxy}{path}    {what}\n  -> {status}\n{}\n", indented(&indented(&pretty(&body))));
        if status != 200 {
            return Err(format!("{path} was answered with {status}").into());
        }
    }
    println!("Token calls: {}, STS calls: {}\n", world.tokens.calls(), world.sts.calls());
    if once {
        stop.send(()).map_err(|()| "the proxy has gone")?;
        let ended = running.await?;
        println!("Stopped; {} requests were cut.", ended.cut);
        return Ok(());
    }
    println!("It stays up. Try:\n");
    println!("  curl -i http://{proxy}/orders/42");
    println!("  curl -i http://{proxy}/iam/stock -d '{{\"item\": \"tea\"}}'");
    println!("  curl -i http://{proxy}/partner/stock?a=1");
    println!("  curl -i http://{proxy}/nowhere                        # no such route");
    println!("  curl -i -H 'Origin: https://evil.example' http://{proxy}/orders/42   # a web page");
    println!(
        "  http://{}/                                            # the status page, in a browser",
        addresses.admin
    );
    println!("  curl http://{}/readyz", addresses.admin);
    println!("  curl http://{}/metrics\n\nCtrl-C ends it.", addresses.admin);
    tokio::signal::ctrl_c().await?;
    stop.send(()).map_err(|()| "the proxy has gone")?;
    running.await?;
    Ok(())
}

/// What stands in for AWS.
struct World {
    authority: Authority,
    tokens: TokenEndpoint,
    sts: Sts,
    api: Gateway,
    partner: Gateway,
}

impl World {
    async fn start() -> Self {
        let authority = Authority::new();
        let tokens = TokenEndpoint::start(vec![AppClient {
            id: "demo-client".into(),
            secret: "demo-client-secret".into(),
            scopes: vec!["orders/read".into()],
            token_lifetime: Duration::from_hours(1),
        }])
        .await;
        let keys = AccessKeys::new();
        keys.add(AccessKey {
            id: "AKIDDEMO".into(),
            secret: "demo-secret-access-key".into(),
            session_token: None,
            principal: "arn:aws:iam::123456789012:user/demo".into(),
            expires: None,
        });
        let sts = Sts::start(
            keys.clone(),
            REGION,
            vec![Role {
                arn: ROLE.into(),
                external_id: Some("orders-team".into()),
                trusted: vec!["AKIDDEMO".into()],
                lifetime: Duration::from_hours(1),
            }],
        )
        .await;
        let iam = || Authorizer::Iam { keys: keys.clone(), region: REGION.into(), service: "execute-api".into() };
        let bearer = Authorizer::Token {
            verifier: tokens.verifier(),
            header: "authorization".into(),
            form: TokenForm::Bearer,
            scope: Some("orders/read".into()),
        };
        let api = Gateway::builder()
            .tls(&authority, &[API])
            .alpn(Alpn::Both)
            .method("/prod/orders", bearer)
            .method("/prod/iam", iam())
            .start()
            .await;
        let partner =
            Gateway::builder().tls(&authority, &[PARTNER_API]).alpn(Alpn::Both).method("/prod", iam()).start().await;
        Self { authority, tokens, sts, api, partner }
    }

    /// The usual ports, or free ones for `--once`.
    fn config(&self, any_port: bool) -> String {
        let (listen, admin) =
            if any_port { ("127.0.0.1:0", "127.0.0.1:0") } else { ("127.0.0.1:8080", "127.0.0.1:9901") };
        let (tokens, sts) = (self.tokens.url(), self.sts.url());
        let (api, partner) = (self.api.address(), self.partner.address());
        format!(
            r#"[proxy]
listen = ["{listen}"]

[admin]
listen = "{admin}"

[upstream]
ca_file = "ca.pem"                       # of the stand-ins

[auth.orders]
kind = "client-credentials"
token_url = "{tokens}"
client_id = "demo-client"
client_secret = {{ env = "ORDERS_CLIENT_SECRET" }}
scopes = ["orders/read"]

[auth.iam]
kind = "sigv4"

[auth.iam.credentials.static]
access_key_id = {{ value = "AKIDDEMO" }}
secret_access_key = {{ env = "DEMO_SECRET_ACCESS_KEY" }}

[auth.partner]
kind = "sigv4"
credentials = {{ static = {{ access_key_id = {{ value = "AKIDDEMO" }}, secret_access_key = {{ env = "DEMO_SECRET_ACCESS_KEY" }} }} }}
assume_role = {{ arn = "{ROLE}", external_id = "orders-team", endpoint = "{sts}" }}

[[route]]
name = "orders"
path = "/orders"
upstream = "https://{API}/prod"
connect_to = "{api}"                     # the stand-in; the name is signed and checked all the same
auth = "orders"

[[route]]
name = "iam"
path = "/iam"
upstream = "https://{API}/prod"
connect_to = "{api}"
auth = "iam"

[[route]]
name = "partner"
path = "/partner"
strip_path = true
upstream = "https://{PARTNER_API}/prod"
connect_to = "{partner}"
auth = "partner"
"#
        )
    }
}

async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), Box<dyn Error>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("an answer without a head")?;
    let status = head.split(' ').nth(1).ok_or("an answer without a status")?.parse()?;
    Ok((status, body.to_owned()))
}

fn pretty(body: &str) -> String {
    serde_json::from_str::<serde_json::Value>(body)
        .and_then(|value| serde_json::to_string_pretty(&value))
        .unwrap_or_else(|_not_json| body.to_owned())
}

fn indented(text: &str) -> String {
    text.lines().flat_map(|line| ["  ", line, "\n"]).collect()
}
