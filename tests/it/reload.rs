//! Another config takes the place of the one before: as a whole or not at all, and nobody who calls notices.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use standin::body::{channel, full};
use standin::{Authority, Authorizer};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{API, Metrics, Piece, Plan, World, held, hold, within};

const GENERATION: &str = "countersign_config_generation";

/// A `[[route]]` to the API, under a name and a path.
fn route(world: &World, name: &str, lines: &str) -> String {
    let port = world.gateway.port();
    format!(
        "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nauth = \"none\"\nconnect_to = \"127.0.0.1:{port}\"\n\
         upstream = \"https://{API}/open\"\n{lines}\n"
    )
}

fn open(plan: Plan) -> Plan {
    plan.gateway(|gateway| gateway.method("/open", Authorizer::Open)).reloading()
}

fn results(metrics: &Metrics) -> (u64, u64) {
    let count = |result| metrics.count("countersign_config_reloads_total", &[&format!("result=\"{result}\"")]);
    (count("applied"), count("refused"))
}

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_new_config_is_served_and_unchanged_credentials_and_connections_are_kept() {
    let world = open(Plan::bearer()).start().await;
    assert_eq!((world.get("/").await.status, world.get("/extra/1").await.status), (200, 200));
    let metrics = world.countersign.metrics().await;
    assert_eq!((metrics.count(GENERATION, &[]), results(&metrics)), (1, (0, 0)));
    let begun = metrics.real("countersign_config_last_success_timestamp_seconds");
    let more = world.countersign.text.clone() + &route(&world, "extra", "strip_path = true");
    let metrics = world.countersign.reload(&more).await;
    assert_eq!((metrics.count(GENERATION, &[]), results(&metrics)), (2, (1, 0)));
    assert!(metrics.real("countersign_config_last_success_timestamp_seconds") >= begun);
    assert_eq!(world.get("/extra/1").await.json()["target"], "/open/1");
    assert_eq!(world.get("/").await.json()["target"], "/prod/");
    world.countersign.reload(&world.countersign.text).await;
    assert_eq!(world.get("/extra/1").await.json()["target"], "/prod/extra/1");
    assert_eq!(world.tokens.calls(), 1, "one token for all three");
    assert_eq!(world.gateway.connections(), 1, "one connection for all three");
    let page = world.countersign.page("/readyz").await.text();
    assert!(page.starts_with("config: generation 3, hash "), "{page}");
    world.finish().await;
}

#[tokio::test]
async fn a_change_of_the_file_is_noticed_without_being_told() {
    let world = open(Plan::open()).start().await;
    let more = world.countersign.text.clone() + &route(&world, "extra", "strip_path = true");
    world.countersign.write(crate::support::CONFIG, &more);
    world.countersign.until(|metrics| metrics.count(GENERATION, &[]) == 2).await;
    assert_eq!(world.get("/extra/1").await.json()["target"], "/open/1");
    world.finish().await;
}

#[tokio::test]
async fn a_stream_outlives_its_route() {
    let (responder, mut taken) = hold();
    let world = open(Plan::open()).respond("/open/held", responder).start().await;
    let with = world.countersign.text.clone() + &route(&world, "gone", "strip_path = true");
    world.countersign.reload(&with).await;
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/gone/held", &[], b"").await;
    let (mut api, body) = channel(1);
    held(&mut taken).await.answer_with(body);
    within(api.send_data("first".into())).await.unwrap();
    assert_eq!(client.reader.head("GET").await.status, 200);
    assert_eq!(client.reader.piece().await, Piece::Data(b"first".to_vec()));
    let mut waiting = world.countersign.connect().await;
    waiting.writer.request("GET", "/gone/held", &[], b"").await;
    let waits = held(&mut taken).await;
    world.countersign.reload(&world.countersign.text).await;
    assert_eq!(world.get("/gone/1").await.json()["target"], "/prod/gone/1", "the route is gone");
    within(api.send_data("last".into())).await.unwrap();
    drop(api);
    assert_eq!(client.reader.piece().await, Piece::Data(b"last".to_vec()));
    assert_eq!(client.reader.piece().await, Piece::End(Vec::new()));
    waits.answer_with(full("whole"));
    assert_eq!(waiting.reader.answer("GET").await.text(), "whole");
    world.finish().await;
}

#[tokio::test]
async fn a_config_that_cannot_be_used_changes_nothing_and_everybody_can_see_why() {
    let world = open(Plan::bearer()).start().await;
    let good = world.countersign.text.clone();
    let double = route(&world, "api", "");
    let bad = [
        (String::new(), "there is no [[route]]"),
        ("[[rou".to_owned(), "error"),
        (good.replace("[proxy]\n", "[proxy]\nlisten_to = 1\n"), "listen_to"),
        (good.clone() + &double, "api"),
        (good.replace("https://abc123", "http://abc123"), "http"),
        (good.replace("ca_file = \"ca.pem\"", "ca_file = \"none.pem\""), "none.pem"),
        (good.replace("env = \"CLIENT_SECRET\"", "file = \"none\""), "none"),
        ("#".repeat(50 * 1024 * 1024), "larger"),
    ];
    for (number, (text, said)) in (1..).zip(&bad) {
        let metrics = world.countersign.reload(text).await;
        assert_eq!(results(&metrics), (0, number), "{text:.200}");
        assert_eq!(metrics.count("countersign_config_last_reload_successful", &[]), 0);
        assert_eq!(metrics.count(GENERATION, &[]), 1);
        let page = world.countersign.page("/readyz").await;
        let text = page.text();
        assert!(page.status == 200 && text.contains("was refused, generation 1 stays"), "{text}");
        assert!(text.to_lowercase().contains(said), "{said}: {text}");
        assert_eq!(world.get("/").await.status, 200);
        assert!(world.countersign.log().contains("the config was not taken up"));
        let outside = world.countersign.connect_to(world.countersign.health).await.get("/readyz").await.text();
        assert!(outside.contains("was refused") && !outside.contains("-->"), "{outside}");
    }
    let gone = world.countersign.folder().join(crate::support::CONFIG);
    std::fs::remove_file(&gone).unwrap();
    let refused = bad.len() as u64 + 1;
    let metrics = world.countersign.until(|metrics| results(metrics) == (0, refused)).await;
    assert_eq!(metrics.count(GENERATION, &[]), 1);
    assert_eq!(world.get("/").await.status, 200);
    let metrics = world.countersign.reload(&good).await;
    assert_eq!(results(&metrics), (1, refused));
    assert_eq!(metrics.count("countersign_config_last_reload_successful", &[]), 1);
    let page = world.countersign.page("/readyz").await.text();
    assert!(!page.contains("refused"), "{page}");
    assert_eq!((world.get("/").await.status, world.tokens.calls()), (200, 1));
    world.finish().await;
}

#[tokio::test]
async fn listeners_come_and_go_and_one_that_cannot_be_had_refuses_the_config() {
    let world = open(Plan::open()).start().await;
    let text = &world.countersign.text;
    let (main, own) = (free(), free());
    let listening = text.replace("listen = [\"127.0.0.1:0\"", &format!("listen = [\"127.0.0.1:0\", \"{main}\""));
    let listening = listening + &route(&world, "own", &format!("listen = \"{own}\""));
    let taken = TcpListener::bind(own).unwrap();
    assert_eq!(results(&world.countersign.reload(&listening).await), (0, 1));
    assert!(TcpStream::connect(main).await.is_err(), "as a whole or not at all");
    let page = world.countersign.page("/readyz").await.text();
    assert!(page.contains(&format!("listening on {own}")) && page.contains("in use"), "{page}");
    drop(taken);
    assert_eq!(results(&world.countersign.reload(&listening).await), (1, 1));
    let mut kept = world.countersign.connect_to(main).await;
    assert_eq!(kept.get("/").await.json()["target"], "/prod/");
    let told = world.countersign.connect_to(own).await.get("/own/1").await;
    assert_eq!(told.json()["target"], "/open/own/1");
    let mut stays = world.countersign.connect().await;
    assert_eq!(stays.get("/").await.status, 200);
    world.countersign.reload(text).await;
    assert!(kept.reader.is_over().await, "its listener is gone");
    assert!(TcpStream::connect(main).await.is_err() && TcpStream::connect(own).await.is_err());
    assert_eq!(stays.get("/").await.header("connection"), None, "this one's is not");
    world.finish().await;
}

#[tokio::test]
async fn new_timeouts_hold_for_new_requests_alone() {
    let (responder, mut taken) = hold();
    let world =
        open(Plan::open().upstream("response_timeout = \"30s\"")).respond("/prod/held", responder).start().await;
    let (mut one, mut two) = (world.countersign.connect().await, world.countersign.connect().await);
    one.writer.request("GET", "/held", &[], b"").await;
    let first = held(&mut taken).await;
    let shorter = world.countersign.text.replace("response_timeout = \"30s\"", "response_timeout = \"200ms\"");
    assert_eq!(results(&world.countersign.reload(&shorter).await), (1, 0));
    two.writer.request("GET", "/held", &[], b"").await;
    let _second = held(&mut taken).await;
    assert_eq!(two.reader.answer("GET").await.verdict(), (504, "upstream-timeout"));
    first.answer_with(full("by the old rules"));
    assert_eq!(one.reader.answer("GET").await.text(), "by the old rules");
    let shorter = shorter.replace("[admin]", "idle_timeout = \"300ms\"\n[admin]");
    assert_eq!(results(&world.countersign.reload(&shorter).await), (2, 0));
    let mut idle = world.countersign.connect().await;
    assert!(idle.reader.is_over().await, "a connection that came later is held to it");
    assert_eq!(one.get("/").await.status, 200, "one that was there is not");
    world.finish().await;
}

#[tokio::test]
async fn unix_sockets_come_and_go() {
    let world = open(Plan::open()).start().await;
    let path = world.countersign.folder().join("late.sock");
    let with =
        world.countersign.text.replace("listen = [\"127.0.0.1:0\"", "listen = [\"127.0.0.1:0\", \"unix:late.sock\"");
    assert_eq!(results(&world.countersign.reload(&with).await), (1, 0));
    let mut kept = tokio::net::UnixStream::connect(&path).await.unwrap();
    let mut ask = async |expected: &str| {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        kept.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        within(kept.read_exact(&mut head)).await.unwrap();
        assert_eq!(std::str::from_utf8(&head).unwrap(), expected);
        within(async { while kept.read(&mut vec![0; 4096]).await.unwrap() == 4096 {} }).await;
    };
    ask("HTTP/1.1 200").await;
    // The same again: it is the same socket, with all that waits in its queue.
    assert_eq!(results(&world.countersign.reload(&(with + "\n")).await), (2, 0));
    ask("HTTP/1.1 200").await;
    assert_eq!(results(&world.countersign.reload(&world.countersign.text).await), (3, 0));
    within(async { while tokio::net::UnixStream::connect(&path).await.is_ok() {} }).await;
    within(async {
        while path.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(world.get("/").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn listeners_begin_and_cease_to_speak_tls() {
    let callers = Authority::new();
    let (cert, key) = callers.issue(&["localhost"]);
    let world = open(Plan::open()).file("cert.pem", &cert).file("key.pem", &key).start().await;
    let mut before = world.countersign.connect().await;
    assert_eq!(before.get("/").await.status, 200);
    let tls = "tls = { cert = \"cert.pem\", key = \"key.pem\" }\n[admin]";
    let speaking = world.countersign.text.replace("[admin]", tls);
    assert_eq!(results(&world.countersign.reload(&speaking).await), (1, 0));
    // A TLS record comes back, an alert, and no HTTP.
    let mut plain = tokio::net::TcpStream::connect(world.countersign.proxy).await.unwrap();
    let mut said = Vec::new();
    {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        plain.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        within(plain.read_to_end(&mut said)).await.ok();
    }
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    assert_eq!(before.get("/").await.status, 200, "a connection from before goes on as it is");
    let missing = speaking.replace("cert.pem", "none.pem");
    assert_eq!(results(&world.countersign.reload(&missing).await), (1, 1));
    assert_eq!(results(&world.countersign.reload(&world.countersign.text).await), (2, 1));
    assert_eq!(world.get("/").await.status, 200, "in plain text again");
    world.finish().await;
}

#[tokio::test]
async fn what_is_read_only_at_a_start_is_named() {
    let world = open(Plan::open().proxy("max_connections = 100")).start().await;
    let changed = world.countersign.text.replace("max_connections = 100", "max_connections = 1");
    world.countersign.reload(&changed).await;
    let page = world.countersign.page("/readyz").await.text();
    assert!(page.contains("read only at a start: max_connections\n"), "{page}");
    let (mut one, mut two) = (world.countersign.connect().await, world.countersign.connect().await);
    assert_eq!((one.get("/").await.status, two.get("/").await.status), (200, 200));
    world.countersign.reload(&world.countersign.text).await;
    let page = world.countersign.page("/readyz").await.text();
    assert!(!page.contains("at a start"), "{page}");
    world.finish().await;
}

#[tokio::test]
async fn a_changed_credential_is_there_before_a_request_needs_it() {
    let world = open(Plan::bearer()).start().await;
    assert_eq!(world.get("/").await.status, 200);
    let narrower =
        world.countersign.text.replace("client_id = \"orders\"", "client_id = \"orders\"\nscopes = [\"orders/read\"]");
    world.countersign.reload(&narrower).await;
    assert_eq!(world.tokens.calls(), 2, "it was fetched before the config was served");
    assert_eq!(world.get("/").await.status, 200);
    assert_eq!(world.tokens.calls(), 2);
    let renamed = narrower.replace("[auth.tokens]", "[auth.other]").replace("auth = \"tokens\"", "auth = \"other\"");
    let metrics = world.countersign.reload(&renamed).await;
    assert_eq!(world.tokens.calls(), 2, "a name is no setting");
    assert_eq!(metrics.count("countersign_credential_usable", &["credential=\"other\""]), 1);
    assert_eq!(metrics.count("countersign_credential_usable", &[]), 1, "the first one is gone");
    assert_eq!(world.get("/").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_caller_token_that_the_config_changes_is_taken_for_a_while_on() {
    let plan = open(Plan::open()).file("one", "caller-token-one-1f\n").file("two", "caller-token-two-2e\n");
    let world = plan.proxy("caller_token = { file = \"one\" }").start().await;
    let ask = async |token| world.countersign.ask("GET", "/", &[("x-countersign-token", token)], b"").await.status;
    assert_eq!((ask("caller-token-one-1f").await, ask("caller-token-two-2e").await), (200, 401));
    world.countersign.reload(&world.countersign.text.replace("file = \"one\"", "file = \"two\"")).await;
    assert_eq!((ask("caller-token-one-1f").await, ask("caller-token-two-2e").await), (200, 200));
    assert_eq!(ask("caller-token-three").await, 401);
    world.finish().await;
}

#[tokio::test]
async fn certificates_that_upstreams_are_trusted_by_are_read_again() {
    let world = open(Plan::open()).start().await;
    assert_eq!(world.get("/").await.status, 200);
    let trusted = std::fs::read_to_string(world.countersign.folder().join("ca.pem")).unwrap();
    world.countersign.write("ca.pem", Authority::new().pem());
    world.countersign.reload(&world.countersign.text).await;
    assert_eq!(world.get("/").await.verdict(), (502, "upstream-tls"), "no connection of before is used");
    world.countersign.write("ca.pem", "half of a file");
    let metrics = world.countersign.reload(&world.countersign.text).await;
    assert_eq!(results(&metrics), (1, 1));
    // Nobody has to say that it is whole again: the file is followed like the config.
    world.countersign.write("ca.pem", &trusted);
    world.countersign.until(|metrics| results(metrics) == (2, 1)).await;
    assert_eq!(world.get("/").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn places_stay_taken() {
    let (responder, mut taken) = hold();
    let plan = open(Plan::open()).proxy("max_in_flight = 2").respond("/prod/held", responder);
    let world = plan.start().await;
    let (mut one, mut two) = (world.countersign.connect().await, world.countersign.connect().await);
    one.writer.request("GET", "/held", &[], b"").await;
    let first = held(&mut taken).await;
    world.countersign.reload(&(world.countersign.text.clone() + &route(&world, "extra", ""))).await;
    two.writer.request("GET", "/held", &[], b"").await;
    let second = held(&mut taken).await;
    assert_eq!(world.get("/").await.verdict(), (503, "overloaded"));
    first.answer_with(full("one"));
    second.answer_with(full("two"));
    assert_eq!(
        (one.reader.answer("GET").await.text(), two.reader.answer("GET").await.text()),
        ("one".into(), "two".into())
    );
    world.finish().await;
}

/// With requests one after another instead of at a rate: so there is always one of each client under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_reloads_under_load_lose_nothing() {
    five_hundred_reloads(8, None).await;
}

/// Wants a fast build and a machine of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; `make strain`"]
async fn strain_five_hundred_reloads_at_a_thousand_requests_a_second() {
    five_hundred_reloads(40, Some(1_000)).await;
}

async fn five_hundred_reloads(clients_at_once: usize, rate: Option<u32>) {
    const RELOADS: u64 = 500;
    let world = Box::pin(open(Plan::bearer()).start()).await;
    let one = world.countersign.text.clone() + &route(&world, "extra", "strip_path = true");
    // The same targets, by other routes in another order.
    let two = route(&world, "extra", "methods = [\"GET\", \"POST\"]\nstrip_path = true");
    let two = world.countersign.text.replace("[[route]]", &format!("{two}[[route]]\nmethods = [\"GET\"]"));
    let (over, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    world.countersign.reload(&one).await;
    let mut clients = JoinSet::new();
    let begun = tokio::time::Instant::now();
    for client in 0..clients_at_once {
        let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
        let mut connection = world.countersign.connect().await;
        clients.spawn(async move {
            let mut number = 0;
            let pause = rate.map(|rate| Duration::from_secs(1) * u32::try_from(clients_at_once).unwrap() / rate);
            let mut pace = pause.map(tokio::time::interval);
            while !over.load(Ordering::Relaxed) {
                if let Some(pace) = &mut pace {
                    pace.tick().await;
                }
                number += 1;
                let (path, target) = match number % 2 {
                    0 => (format!("/extra/{client}/{number}"), format!("/open/{client}/{number}")),
                    _ => (format!("/{client}/{number}"), format!("/prod/{client}/{number}")),
                };
                let answer = connection.get(&path).await;
                assert_eq!((answer.status, answer.whole), (200, true), "{path}: {}", answer.text());
                assert_eq!(answer.json()["target"], target, "another request's answer, or another route's");
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for number in 0..RELOADS {
        let before = asked.load(Ordering::Relaxed);
        world.countersign.reload(if number % 2 == 0 { &two } else { &one }).await;
        // No reload without a request since the one before.
        let some = if rate.is_some() { 10 } else { 1 };
        within(async {
            while asked.load(Ordering::Relaxed) < before + some && !clients.is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let taken = begun.elapsed();
    over.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let metrics = world.countersign.metrics().await;
    assert_eq!(results(&metrics), (RELOADS + 1, 0));
    let asked = asked.load(Ordering::Relaxed);
    assert_eq!((metrics.ended("delivered"), world.gateway.requests() as u64), (asked, asked));
    assert_eq!(world.tokens.calls(), 1, "nothing was fetched anew");
    assert!(rate.is_some() || world.gateway.connections() == 1, "nothing was dialled anew");
    println!("{RELOADS} reloads, {asked} requests in {taken:?}, none failed");
    Box::pin(world.finish()).await;
}
