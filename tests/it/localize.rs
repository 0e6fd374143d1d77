//! Location and cookies: they lead back through the route they came through, and nowhere else.

use http::Response;
use standin::body::full;

use crate::support::{API, Answer, Plan, held, hold};

/// What the caller gets of these fields through a route at `/orders` with these lines.
async fn comes_back(lines: &str, fields: &[(&str, &str)]) -> Answer {
    let (responder, mut taken) = hold();
    let table = format!(
        "[[route]]\npath = \"/orders\"\nstrip_path = true\nauth = \"none\"\nupstream = \"https://{API}/prod\"\n\
         connect_to = \"127.0.0.1:PORT\"\n{lines}\n"
    );
    let world = Plan::open().respond("/prod/held", responder).add(&table).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/orders/held", &[], b"").await;
    let mut response = Response::builder().status(302);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    held(&mut taken).await.answer(response.body(full("moved")).unwrap());
    let answer = client.reader.answer("GET").await;
    assert_eq!((answer.status, answer.text().as_str()), (302, "moved"));
    assert_eq!(world.gateway.requests(), 1, "nobody follows it here");
    world.finish().await;
    answer
}

#[tokio::test]
async fn a_location_of_the_same_upstream_leads_back_through_the_route() {
    let absolute = format!("https://{API}/prod/42?a=b#c");
    for (reference, local) in [(absolute.as_str(), "/orders/42?a=b#c"), ("/prod/42", "/orders/42")] {
        let answer = comes_back("", &[("location", reference), ("content-location", reference)]).await;
        assert_eq!(answer.values("location"), [local]);
        assert_eq!(answer.values("content-location"), [local]);
        let kept = comes_back("rewrite_location = false", &[("location", reference)]).await;
        assert_eq!(kept.values("location"), [reference]);
    }
}

#[tokio::test]
async fn a_location_elsewhere_is_left_alone() {
    let host = format!("//{API}/prod/42");
    for reference in ["https://evil.test/prod/42", &host, "42?a=b", "/other/42", "/prod/../x", "https://[bad/prod"] {
        let answer = comes_back("", &[("location", reference)]).await;
        assert_eq!(answer.values("location"), [reference]);
    }
}

#[tokio::test]
async fn cookies_pass_as_they_are_or_are_made_good_for_here() {
    let cookies =
        [("set-cookie", "a=1; Domain=x.test; Path=/prod; Secure; SameSite=None"), ("set-cookie", "b=2; HttpOnly")];
    let passed = comes_back("", &cookies).await;
    assert_eq!(passed.values("set-cookie"), cookies.map(|(_, value)| value));
    let local = comes_back("cookies = \"local\"", &cookies).await;
    assert_eq!(local.values("set-cookie"), ["a=1; Path=/orders; SameSite=Lax", "b=2; HttpOnly"]);
}

#[tokio::test]
async fn one_callers_cookie_is_not_anothers() {
    let (responder, mut taken) = hold();
    let world = Plan::open().respond("/prod/login", responder).start().await;
    let mut client = world.countersign.connect().await;
    client.writer.request("GET", "/login", &[], b"").await;
    let response = Response::builder().header("set-cookie", "session=1").body(full("in")).unwrap();
    held(&mut taken).await.answer(response);
    assert_eq!(client.reader.answer("GET").await.values("set-cookie"), ["session=1"]);
    assert_eq!(client.get("/next").await.status, 200);
    assert_eq!(world.get("/other").await.status, 200);
    for request in &world.gateway.received()[1..] {
        assert!(request.header("cookie").is_none(), "{request:?}");
    }
    world.finish().await;
}
