//! After a refusal: one renewal, one more send, no loop.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use standin::body;

use crate::support::{Plan, World};

/// A refused credential is not fetched again within 10 s of its own fetch; this goes past them.
pub(crate) async fn later() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
}

fn statuses(world: &World) -> Vec<bool> {
    world.gateway.received().iter().map(|request| request.verdict.is_ok()).collect()
}

#[tokio::test]
async fn a_revoked_token_costs_a_second_send_and_no_failed_request() {
    let world = Plan::bearer().start().await;
    for (method, body) in [("GET", &b""[..]), ("POST", &[7; 1024]), ("DELETE", b"")] {
        let calls = world.tokens.calls();
        let before = world.gateway.requests();
        world.tokens.revoke(world.tokens.issued().last().unwrap());
        later().await;
        let answer = world.countersign.ask(method, "/orders", &[], body).await;
        assert_eq!(answer.status, 200, "{method}");
        assert_eq!(world.tokens.calls(), calls + 1);
        assert_eq!(statuses(&world)[before..], [false, true], "refused, then taken");
        assert_eq!(world.gateway.received().last().unwrap().body_len, body.len() as u64);
    }
    world.finish().await;
}

#[tokio::test]
async fn an_upload_that_cannot_be_sent_again_gets_the_refusal_and_the_next_request_does_not() {
    let world = Plan::bearer().start().await;
    world.tokens.revoke(&world.tokens.issued()[0]);
    later().await;
    let answer = world.countersign.ask("POST", "/orders", &[], &vec![7; 70_000]).await;
    assert_eq!(answer.status, 401, "the body was too large to be kept");
    world.tokens.until_calls(2).await;
    assert_eq!(world.get("/orders").await.status, 200);
    assert_eq!(statuses(&world), [false, true]);
    world.finish().await;
}

#[tokio::test]
async fn an_api_that_refuses_every_token_gets_no_loop() {
    let world = Plan::bearer().auth("scopes = [\"orders/read\"]").start().await;
    for _ in 0..6 {
        world.tokens.revoke(world.tokens.issued().last().unwrap());
        assert_eq!(world.get("/orders").await.status, 401, "fetched just now: another would fare no better");
    }
    assert_eq!(world.tokens.calls(), 1);
    assert_eq!(world.gateway.requests(), 6);
    world.finish().await;
}

#[tokio::test]
async fn a_backends_own_401_is_its_business() {
    let refuse: standin::Responder = Arc::new(|_request, _principal| {
        Box::pin(async {
            let mut answer = Response::new(body::full("who are you?"));
            *answer.status_mut() = StatusCode::UNAUTHORIZED;
            answer
        })
    });
    let world = Plan::bearer().respond("/prod/orders", refuse).start().await;
    later().await;
    assert_eq!(world.get("/orders").await.status, 401);
    assert_eq!((world.tokens.calls(), world.gateway.requests()), (1, 1));
    world.finish().await;
}

#[tokio::test]
async fn a_clock_ten_minutes_off_is_noticed_once_and_then_right() {
    for (ahead, behind) in [(10, 0), (0, 10)] {
        let minutes = |count: u64| Duration::from_mins(count);
        let theirs = move || standin::Clock::system().now() + minutes(ahead) - minutes(behind);
        let world = Plan::sigv4().gateway(|gateway| gateway.clock(theirs)).start().await;
        assert_eq!(world.countersign.ask("POST", "/orders", &[], b"{}").await.status, 200);
        assert_eq!(world.get("/orders").await.status, 200);
        assert_eq!(statuses(&world), [false, true, true], "signed again with the upstream's time, then right at once");
        world.finish().await;
    }
}

#[tokio::test]
async fn a_wrong_key_is_no_clock_trouble() {
    let world = Plan::sigv4().start().await;
    world.keys.remove("AKIDUSER");
    later().await;
    assert_eq!(world.get("/orders").await.status, 403);
    world.finish().await;
}
