//! Which route takes a request, and where that leads.

use standin::{Authority, Authorizer, Gateway};

use crate::support::{API, Plan, Setup};

/// A further route to the usual API.
fn route(path: &str, lines: &str) -> String {
    format!(
        "[[route]]\npath = \"{path}\"\nauth = \"none\"\nconnect_to = \"127.0.0.1:PORT\"\n\
         upstream = \"https://{API}/prod\"\n{lines}\n"
    )
}

#[tokio::test]
async fn the_longest_prefix_of_whole_segments_wins() {
    let to = |base: &str| format!("upstream = \"https://{API}/prod/{base}\"\n");
    let more =
        |path: &str, base: &str| route(path, "").replace(&format!("upstream = \"https://{API}/prod\"\n"), &to(base));
    let plan = Plan::open().route("path = \"/api\"").add(&more("/orders", "o")).add(&more("/orders/new", "n"));
    let world = plan.start().await;
    for (target, sent) in [
        ("/orders", "/prod/o/orders"),
        ("/orders?x", "/prod/o/orders?x"),
        ("/orders/newer", "/prod/o/orders/newer"),
        ("/orders/new", "/prod/n/orders/new"),
        ("/orders/new/1", "/prod/n/orders/new/1"),
        ("/api/", "/prod/api/"),
    ] {
        assert_eq!(world.get(target).await.json()["target"], sent, "{target}");
    }
    let before = world.gateway.requests();
    for target in
        ["/", "/order", "/ordersX", "/ORDERS", "/orders.evil.test/", "/orders@evil.test/", "/orders:1@evil.test/"]
    {
        assert_eq!(world.get(target).await.verdict(), (404, "no-route"), "{target}");
    }
    assert_eq!(world.gateway.requests(), before);
    world.finish().await;
}

#[tokio::test]
async fn a_route_that_strips_its_path_starts_from_the_base() {
    let world = Plan::open().route("path = \"/orders\"\nstrip_path = true").start().await;
    for (target, sent) in [
        ("/orders", "/prod"),
        ("/orders/", "/prod/"),
        ("/orders?q=1", "/prod?q=1"),
        ("/orders/42/items?q=1", "/prod/42/items?q=1"),
        ("/orders//x", "/prod//x"),
    ] {
        assert_eq!(world.get(target).await.json()["target"], sent, "{target}");
    }
    assert_eq!(world.get("/orders@evil.test/").await.verdict(), (404, "no-route"));
    world.finish().await;
}

#[tokio::test]
async fn a_host_of_its_own_comes_first() {
    let plan = Plan::open()
        .add(&route("/x", "host = \"orders.local\"\nmethods = [\"GET\"]\nname = \"own\"\nstrip_path = true"));
    let world = plan.start().await;
    for (host, sent) in [("orders.local", "/prod"), ("Orders.Local:8080", "/prod"), ("localhost", "/prod/x")] {
        let request = format!("GET /x HTTP/1.1\r\nhost: {host}\r\n\r\n");
        assert_eq!(world.countersign.connect().await.raw(request).await.json()["target"], sent, "{host}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_method_that_a_route_does_not_take_is_told_which_it_does() {
    let world = Plan::open().route("methods = [\"GET\", \"PUT\"]").start().await;
    assert_eq!(world.countersign.ask("PUT", "/", &[], b"x").await.status, 200);
    let answer = world.countersign.ask("POST", "/", &[], b"").await;
    assert_eq!(answer.verdict(), (405, "method-not-allowed"));
    assert_eq!(answer.header("allow"), Some("GET, PUT"));
    assert_eq!(world.gateway.requests(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_port_of_its_own_leads_to_its_own_routes_only() {
    let plan = Plan::open().route("path = \"/main\"");
    let world = plan.add(&route("/", "listen = \"127.0.0.1:0\"\nname = \"own\"")).start().await;
    let own = world.countersign.own[0];
    let ask = async |address, target| world.countersign.connect_to(address).await.get(target).await.status;
    assert_eq!(ask(own, "/anything").await, 200);
    assert_eq!(ask(own, "/main").await, 200);
    assert_eq!(ask(world.countersign.proxy, "/main").await, 200);
    assert_eq!(ask(world.countersign.proxy, "/anything").await, 404);
    let metrics = world.countersign.metrics().await;
    assert_eq!(metrics.count("countersign_requests_total", &["route=\"own\""]), 2);
    world.finish().await;
}

#[tokio::test]
async fn routes_to_one_upstream_share_its_connections() {
    let world = Plan::open().add(&route("/other", "")).start().await;
    for target in ["/", "/other", "/", "/other"] {
        assert_eq!(world.get(target).await.status, 200);
    }
    assert_eq!(world.gateway.connections(), 1);
    world.finish().await;
}

#[tokio::test]
async fn what_is_dialled_and_what_is_named_may_differ() {
    let authority = Authority::new();
    let endpoint = "vpce-0a1.execute-api.ap-northeast-1.vpce.amazonaws.com";
    let gateway = Gateway::builder().tls(&authority, &[endpoint]).method("/prod", Authorizer::Open).start().await;
    let route = format!(
        "[[route]]\nauth = \"none\"\nupstream = \"https://{API}/prod\"\nconnect_to = \"127.0.0.1:{}\"\n\
         server_name = \"{endpoint}\"\n",
        gateway.port()
    );
    let countersign = Setup::new(&authority).add(&route).start().await;
    assert_eq!(countersign.get("/").await.status, 200);
    let received = gateway.received().pop().unwrap();
    assert_eq!(received.server_name.as_deref(), Some(endpoint));
    assert_eq!(received.host.as_deref(), Some(API));
    countersign.finish().await;
}
