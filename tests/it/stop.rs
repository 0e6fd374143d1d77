//! Stopping: no request is lost, none waits for ever, and everybody can see it.

use std::time::Duration;

use countersign::app::Ended;
use standin::Alpn;
use standin::body::{channel, full};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::{Piece, Plan, held, hold, within};

#[tokio::test]
async fn a_stop_loses_nothing() {
    let (responder, mut taken) = hold();
    let mut world = Plan::bearer().respond("/prod/held", responder).start().await;
    let (mut idle, mut busy) = (world.countersign.connect().await, world.countersign.connect().await);
    assert_eq!(idle.get("/").await.status, 200);
    busy.writer.request("GET", "/held", &[], b"").await;
    let held = held(&mut taken).await;
    world.countersign.stop();
    within(async { while world.countersign.page("/readyz").await.status != 503 {} }).await;
    assert!(world.countersign.page("/readyz").await.text().starts_with("not ready: stopping\n"));
    assert_eq!(world.countersign.page("/livez").await.status, 200);
    // The app beside us is told to stop at the same time, and still has calls to make.
    let late = world.get("/late").await;
    assert_eq!((late.status, late.header("connection")), (200, Some("close")));
    let kept = idle.get("/kept").await;
    assert_eq!((kept.status, kept.header("connection")), (200, Some("close")));
    held.answer_with(full("whole"));
    let answer = busy.reader.answer("GET").await;
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("whole", Some("close")));
    assert!(busy.reader.is_over().await);
    assert_eq!(world.countersign.ended().await, Ended { cut: 0 });
    assert!(TcpStream::connect(world.countersign.proxy).await.is_err());
    world.finish_stopped();
}

/// With requests that last until the test answers them.
async fn two_hundred_requests_under_way_are_answered(alpn: Alpn) {
    let (responder, mut taken) = hold();
    let mut world = Plan::bearer().alpn(alpn).respond("/prod/held", responder).start().await;
    let (mut clients, mut requests) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let mut client = world.countersign.connect().await;
        client.writer.request("GET", &format!("/held/{number}"), &[], b"").await;
        clients.push(client);
        requests.push(held(&mut taken).await);
    }
    world.countersign.stop();
    within(async { while world.countersign.page("/readyz").await.status != 503 {} }).await;
    for number in 0..50 {
        assert_eq!(world.get(&format!("/late/{number}")).await.status, 200);
    }
    for (request, number) in requests.into_iter().zip(0..) {
        request.answer_with(full(format!("whole {number}")));
    }
    for (client, number) in clients.iter_mut().zip(0..) {
        let answer = client.reader.answer("GET").await;
        assert_eq!((answer.status, answer.text()), (200, format!("whole {number}")));
    }
    assert_eq!(world.countersign.ended().await, Ended { cut: 0 });
    world.finish_stopped();
}

#[tokio::test]
async fn two_hundred_requests_under_way_over_http_1_are_answered() {
    two_hundred_requests_under_way_are_answered(Alpn::Http1).await;
}

/// More than one connection takes.
#[tokio::test]
async fn two_hundred_requests_under_way_over_http_2_are_answered() {
    two_hundred_requests_under_way_are_answered(Alpn::Http2).await;
}

#[tokio::test]
async fn a_quiet_stop_closes_idle_connections_and_ends() {
    let mut world = Plan::bearer().start().await;
    let (mut unused, mut used) = (world.countersign.connect().await, world.countersign.connect().await);
    let mut admin = world.countersign.connect_to(world.countersign.admin).await;
    assert_eq!(admin.get("/livez").await.status, 200);
    assert_eq!(used.get("/").await.status, 200);
    let begun = Instant::now();
    world.countersign.stop();
    assert_eq!(world.countersign.ended().await, Ended { cut: 0 });
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(unused.reader.is_over().await && used.reader.is_over().await);
    assert!(admin.reader.is_over().await, "the admin port has ended too");
    world.finish_stopped();
}

#[tokio::test]
async fn what_is_left_at_the_deadline_is_cut_and_counted() {
    let (responder, mut taken) = hold();
    let plan = Plan::bearer().proxy("drain_timeout = \"300ms\"");
    let mut world = plan.respond("/prod/held", responder).start().await;
    let (mut waiting, mut streaming) = (world.countersign.connect().await, world.countersign.connect().await);
    waiting.writer.request("GET", "/held", &[], b"").await;
    let held_for_good = held(&mut taken).await;
    streaming.writer.request("GET", "/held", &[], b"").await;
    let (mut api, body) = channel(1);
    held(&mut taken).await.answer_with(body);
    within(api.send_data("part".into())).await.unwrap();
    assert_eq!(streaming.reader.head("GET").await.status, 200);
    assert_eq!(streaming.reader.piece().await, Piece::Data(b"part".to_vec()));
    let begun = Instant::now();
    world.countersign.stop();
    assert_eq!(world.countersign.ended().await, Ended { cut: 2 });
    let taken = begun.elapsed();
    assert!(taken >= Duration::from_millis(300) && taken < Duration::from_secs(5), "{taken:?}");
    assert_eq!(streaming.reader.piece().await, Piece::Cut, "a part is not the whole");
    assert!(waiting.reader.is_over().await);
    drop(held_for_good);
    world.finish_stopped();
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (responder, mut taken) = hold();
    let mut world = Plan::bearer().respond("/prod/held", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/held", &[], b"").await;
    let held_for_good = held(&mut taken).await;
    let begun = Instant::now();
    world.countersign.stop();
    world.countersign.hurry();
    assert_eq!(world.countersign.ended().await, Ended { cut: 1 });
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    drop(held_for_good);
    world.finish_stopped();
}

#[tokio::test]
async fn a_post_with_the_token_stops_it_and_nothing_else_does() {
    let plan = Plan::open().secret("QUIT_TOKEN", "quit-token-0a1b2c3d").admin("quit_token = { env = \"QUIT_TOKEN\" }");
    let mut world = plan.start().await;
    let (admin, health) = (world.countersign.admin, world.countersign.health);
    let right = ("x-countersign-token", "quit-token-0a1b2c3d");
    let ask = async |address, method, fields: &[(&str, &str)]| {
        world.countersign.connect_to(address).await.ask(method, "/quitquitquit", fields, b"").await.status
    };
    assert_eq!(ask(admin, "POST", &[]).await, 401);
    assert_eq!(ask(admin, "POST", &[("x-countersign-token", "quit-token")]).await, 401);
    assert_eq!(ask(admin, "GET", &[right]).await, 405);
    assert_eq!(ask(admin, "POST", &[right, ("origin", "http://localhost")]).await, 403);
    assert_eq!(ask(health, "POST", &[right]).await, 405);
    assert_eq!(world.countersign.page("/readyz").await.status, 200);
    assert_eq!(ask(admin, "POST", &[right]).await, 200);
    assert_eq!(world.countersign.ended().await, Ended { cut: 0 });
    world.finish_stopped();
}

#[tokio::test]
async fn without_a_token_there_is_no_page_that_stops_it() {
    let world = Plan::open().start().await;
    let admin = world.countersign.admin;
    for method in ["POST", "GET"] {
        let answer = world.countersign.connect_to(admin).await.ask(method, "/quitquitquit", &[], b"").await;
        assert_eq!(answer.status, 404);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_stop_while_a_credential_is_awaited_ends() {
    let tokens =
        standin::TokenEndpoint::start(vec![crate::support::app_client("orders", "client-secret-5f1d0c")]).await;
    tokens.script(standin::Answer::Never);
    let mut world = Plan::bearer().start_with(tokens).await;
    within(world.tokens.until_calls(1)).await;
    world.countersign.stop();
    assert_eq!(world.countersign.ended().await, Ended { cut: 0 });
    world.finish_stopped();
}
