//! Limits: what is too much is refused at once, and what is too slow is closed.

use std::time::Duration;

use standin::body::full;
use standin::{Answer as Scripted, TokenEndpoint};
use tokio::time::Instant;

use crate::support::{Plan, REGION, Setup, Wire, app_client, held, hold};

async fn only_so_many_at_once(plan: Plan, scope: &str) {
    let (responder, mut taken) = hold();
    let world = plan.respond("/prod/held", responder).start().await;
    let (mut one, mut two) = (world.countersign.connect().await, world.countersign.connect().await);
    one.writer.request("GET", "/held", &[], b"").await;
    let first = held(&mut taken).await;
    two.writer.request("GET", "/held", &[], b"").await;
    let second = held(&mut taken).await;
    let refused = world.countersign.ask("GET", "/", &[("x-request-id", scope)], b"").await;
    assert_eq!(refused.verdict(), (503, "overloaded"));
    assert_eq!(refused.header("retry-after"), Some("2"));
    assert!(world.countersign.access_line(scope).await["error"].as_str().unwrap().contains("2 requests"));
    assert_eq!(world.countersign.page("/readyz").await.status, 200, "one slow API does not unready the pod");
    first.answer_with(full("one"));
    assert_eq!(one.reader.answer("GET").await.text(), "one");
    assert_eq!(world.get("/").await.status, 200, "there is room again");
    second.answer_with(full("two"));
    assert_eq!(two.reader.answer("GET").await.text(), "two");
    assert_eq!(world.gateway.requests(), 3);
    world.finish().await;
}

#[tokio::test]
async fn only_so_many_requests_are_in_flight() {
    only_so_many_at_once(Plan::open().proxy("max_in_flight = 2"), "of-all").await;
}

#[tokio::test]
async fn only_so_many_requests_of_a_route_are_in_flight() {
    only_so_many_at_once(Plan::open().route("max_in_flight = 2"), "of-route").await;
}

#[tokio::test]
async fn a_full_route_leaves_room_for_others() {
    let (responder, mut taken) = hold();
    let other = "[[route]]\npath = \"/other\"\nauth = \"none\"\nconnect_to = \"127.0.0.1:PORT\"\n\
                 upstream = \"https://abc123.execute-api.ap-northeast-1.amazonaws.com/prod\"\n";
    let plan = Plan::open().route("max_in_flight = 1").add(other).respond("/prod/held", responder);
    let world = plan.start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/held", &[], b"").await;
    let held = held(&mut taken).await;
    assert_eq!(world.get("/").await.verdict(), (503, "overloaded"));
    assert_eq!(world.get("/other").await.status, 200);
    held.answer_with(full("done"));
    assert_eq!(client.reader.answer("GET").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn an_upstream_that_hangs_leaves_half_of_all_places_to_others() {
    let (responder, mut taken) = hold();
    let other = "[[route]]\npath = \"/other\"\nauth = \"none\"\nconnect_to = \"localhost:PORT\"\n\
                 upstream = \"https://abc123.execute-api.ap-northeast-1.amazonaws.com/prod\"\n";
    let twin = other.replace("/other", "/twin").replace("localhost", "127.0.0.1");
    let plan = Plan::open().proxy("max_in_flight = 5").add(other).add(&twin).respond("/prod/held", responder);
    let world = plan.start().await;
    let (mut clients, mut all) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let mut client = world.countersign.connect().await;
        client.writer.request("GET", "/held", &[], b"").await;
        all.push(held(&mut taken).await);
        clients.push(client);
    }
    // Another route to the same upstream has no places of its own.
    for path in ["/", "/twin"] {
        assert_eq!(world.get(path).await.verdict(), (503, "overloaded"), "{path}");
    }
    for _ in 0..5 {
        assert_eq!(world.get("/other").await.status, 200);
    }
    for (mut client, held) in clients.into_iter().zip(all) {
        held.answer_with(full("late"));
        assert_eq!(client.reader.answer("GET").await.text(), "late");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let world = Plan::open().proxy("max_connections = 2").start().await;
    let (mut one, mut two) = (world.countersign.connect().await, world.countersign.connect().await);
    assert_eq!((one.get("/").await.status, two.get("/").await.status), (200, 200));
    let mut three = world.countersign.connect().await;
    let refused = three.reader.answer("GET").await;
    assert_eq!(refused.verdict(), (503, "overloaded"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(three.reader.is_over().await);
    assert_eq!(one.get("/").await.status, 200, "those that are in stay in");
    world.finish().await;
}

#[tokio::test]
async fn bodies_held_for_signing_take_turns() {
    const BODY: usize = 64 * 1024;
    let plan = Plan::sigv4().proxy("buffer_budget = \"64KiB\"").upstream("max_body = \"64KiB\"");
    let world = plan.start().await;
    let (mut one, mut two) = (world.countersign.connect().await, world.countersign.connect().await);
    let head = format!("PUT / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {BODY}\r\n\r\n");
    one.writer.send(format!("{head}a")).await;
    world.countersign.until(|metrics| metrics.count("countersign_requests_in_flight", &[]) == 1).await;
    two.writer.send([head.as_bytes(), &vec![b'b'; BODY]].concat()).await;
    world.countersign.until(|metrics| metrics.count("countersign_requests_in_flight", &[]) == 2).await;
    assert!(two.reader.is_silent());
    assert_eq!(world.gateway.requests(), 0);
    one.writer.send(vec![b'a'; BODY - 1]).await;
    assert_eq!(one.reader.answer("PUT").await.json()["body_bytes"], BODY);
    assert_eq!(two.reader.answer("PUT").await.json()["body_bytes"], BODY);
    world.finish().await;
}

#[tokio::test]
async fn a_body_that_the_api_did_not_wait_for_is_held_no_longer() {
    // More than the sockets take.
    const BODY: usize = 10 * 1024 * 1024;
    let wire = Wire::listen().await;
    let signed = wire.route("/wire").replace("none", "keys");
    let plan = Plan::sigv4().auth(&format!("region = \"{REGION}\"")).add(&signed);
    let world = plan.upstream("pool_idle_timeout = \"10m\"").start().await;
    let (mut client, body) = (world.countersign.connect().await, vec![b'a'; BODY]);
    let (answer, mut line) = tokio::join!(client.ask("PUT", "/wire", &[], &body), async {
        let mut line = wire.accept().await;
        line.head().await;
        line.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        line
    });
    assert_eq!(answer.text(), "ok");
    // The connection has gone, and the rest of the body with it.
    assert!(line.rest().await < BODY);
    world.finish().await;
}

#[tokio::test]
async fn an_answer_of_an_upstream_that_reads_no_further_arrives() {
    // More than the sockets take.
    const BODY: usize = 10 * 1024 * 1024;
    let wire = Wire::listen().await;
    let routes = wire.route("/streamed") + &wire.route("/held").replace("none", "keys");
    let world = Plan::sigv4().auth(&format!("region = \"{REGION}\"")).add(&routes).start().await;
    for path in ["/streamed", "/held"] {
        let mut client = world.countersign.connect().await;
        let head = format!("PUT {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {BODY}\r\n\r\n");
        let upload = [head.as_bytes(), &vec![b'a'; BODY]].concat();
        let (_cut, answer, ()) = tokio::join!(client.writer.try_send(upload), client.reader.answer("PUT"), async {
            let mut line = wire.accept().await;
            line.head().await;
            // Dropped with bytes unread: a reset follows at once, and writing fails while the answer waits.
            line.write("HTTP/1.1 413 Too Large\r\ncontent-length: 9\r\nconnection: close\r\n\r\ntoo large").await;
        });
        assert_eq!((answer.status, answer.text().as_str()), (413, "too large"), "{path}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_head_that_is_too_slow_ends_the_connection() {
    let world = Plan::open().proxy("header_timeout = \"200ms\"").start().await;
    let mut client = world.countersign.connect().await;
    assert_eq!(client.get("/").await.status, 200);
    let begun = Instant::now();
    client.writer.send("GET / HTTP/1.1\r\nhost: loc").await;
    assert!(client.reader.is_over().await);
    let taken = begun.elapsed();
    assert!(taken >= Duration::from_millis(200) && taken < Duration::from_secs(5), "{taken:?}");
    world.finish().await;
}

#[tokio::test]
async fn a_head_that_drips_has_no_more_time() {
    let world = Plan::open().proxy("header_timeout = \"200ms\"").start().await;
    let mut client = world.countersign.connect().await;
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let mut sent = 0;
    while client.writer.try_send("G").await.is_ok() {
        ticks.tick().await;
        sent += 1;
        assert!(sent < 200, "each byte gives it more time");
    }
    world.finish().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_idle_limit() {
    let world = Plan::open().proxy("idle_timeout = \"200ms\"").start().await;
    let (mut unused, mut used) = (world.countersign.connect().await, world.countersign.connect().await);
    assert_eq!(used.get("/").await.status, 200);
    assert_eq!(used.ask("POST", "/", &[], b"streamed").await.status, 200);
    let begun = Instant::now();
    assert!(unused.reader.is_over().await);
    assert!(used.reader.is_over().await);
    assert!(begun.elapsed() < Duration::from_secs(5));
    world.finish().await;
}

#[tokio::test]
async fn a_kept_connection_may_idle_longer_than_a_head_may_take() {
    let world = Plan::open().proxy("header_timeout = \"100ms\"").start().await;
    let mut client = world.countersign.connect().await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(client.get("/").await.status, 200);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_request_under_way_outlives_the_limits_on_silence() {
    let (responder, mut taken) = hold();
    let plan = Plan::open().proxy("header_timeout = \"100ms\"\nidle_timeout = \"100ms\"");
    let world = plan.respond("/prod/slow", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/slow", &[], b"").await;
    let held = held(&mut taken).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    held.answer_with(full("late"));
    assert_eq!(client.reader.answer("GET").await.text(), "late");
    world.finish().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let world = Plan::open().start().await;
    let long = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(33 * 1024));
    let many = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(101));
    for request in [long, many] {
        let mut client = world.countersign.connect().await;
        assert_eq!(client.raw(request).await.status, 431);
    }
    assert_eq!(world.gateway.requests(), 0);
    world.finish().await;
}

/// Has a token come in an answer of `kib` KiB; whether it was taken.
async fn takes_a_token_answer(limit: &'static str, kib: usize) -> bool {
    let tokens = TokenEndpoint::start(vec![app_client("orders", "client-secret-5f1d0c")]).await;
    let body = format!(
        "{{\"access_token\":\"large-one\",\"token_type\":\"Bearer\",\"expires_in\":3600,\"claims\":\"{}\"}}",
        "c".repeat(kib * 1024)
    );
    tokens.script(Scripted::Respond { status: 200, headers: Vec::new(), body: body.into_bytes() });
    let world = Plan::bearer().proxy(limit).start_with(tokens).await;
    world.countersign.until_ready().await;
    let readiness = world.countersign.page("/readyz").await.text();
    let refused = readiness.contains("bytes (max_token_answer)");
    assert_eq!(refused, readiness.contains("credential \"tokens\": none"), "{readiness}");
    if refused {
        assert_eq!(world.get("/").await.verdict(), (503, "credential-unavailable"));
    }
    world.finish().await;
    !refused
}

#[tokio::test]
async fn a_token_answer_may_be_as_large_as_the_config_says() {
    assert!(takes_a_token_answer("", 60).await);
    assert!(!takes_a_token_answer("", 64).await);
    assert!(takes_a_token_answer("max_token_answer = \"8KiB\"", 7).await);
    assert!(!takes_a_token_answer("max_token_answer = \"8KiB\"", 10).await);
    assert!(takes_a_token_answer("max_token_answer = \"128KiB\"", 100).await);
}

#[tokio::test]
async fn the_admin_port_has_connections_of_its_own() {
    let world = Plan::open().proxy("max_connections = 1").admin("max_connections = 16").start().await;
    let mut caller = world.countersign.connect().await;
    assert_eq!(caller.get("/").await.status, 200);
    let mut probes = Vec::new();
    for _ in 0..16 {
        let mut probe = world.countersign.connect_to(world.countersign.admin).await;
        assert_eq!(probe.get("/livez").await.status, 200);
        probes.push(probe);
    }
    let mut beyond = world.countersign.connect_to(world.countersign.admin).await;
    assert_eq!(beyond.reader.answer("GET").await.verdict(), (503, "overloaded"));
    drop(probes);
    world.finish().await;
}

#[tokio::test]
async fn no_more_is_read_ahead_of_a_client_than_the_copy_buffer_holds() {
    const BODY: usize = 512 * 1024;
    let wire = Wire::listen().await;
    let setup = Setup::new(&standin::Authority::new()).proxy("copy_buffer = \"8KiB\"\nmax_head = \"8KiB\"");
    let countersign = setup.add(&wire.route("/")).start().await;
    let mut client = countersign.connect().await;
    let upload = async {
        client.writer.chunked("PUT", "/").await;
        client.writer.send([format!("{BODY:x}\r\n").as_bytes(), &vec![b'p'; BODY], b"\r\n0\r\n\r\n"].concat()).await;
    };
    let take = async {
        let mut line = wire.accept().await;
        line.head().await;
        let mut pieces = Vec::new();
        loop {
            let mut size = String::new();
            while !size.ends_with("\r\n") {
                size.push(char::from(line.body(1).await[0]));
            }
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
            line.body(size + 2).await;
            if size == 0 {
                break;
            }
            pieces.push(size);
        }
        line.write("HTTP/1.1 204 No Content\r\n\r\n").await;
        pieces
    };
    let ((), pieces) = tokio::join!(upload, take);
    assert_eq!(client.reader.answer("PUT").await.status, 204);
    assert_eq!(pieces.iter().sum::<usize>(), BODY);
    assert!(pieces.iter().all(|piece| *piece <= 8 * 1024), "{:?} at once", pieces.iter().max());
    countersign.finish().await;
}
