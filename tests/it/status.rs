//! The status page, its data and its events.

use serde_json::{Value, json};
use standin::TokenEndpoint;

use crate::support::{Client, Piece, Plan, World, app_client, within};

const PAGES: [&str; 7] = ["/", "/page.css", "/page.js", "/icon.svg", "/api/status", "/api/events", "/api/log-level"];

async fn status(world: &World) -> Value {
    let answer = world.countersign.page("/api/status").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    serde_json::from_str(&answer.text()).unwrap()
}

/// The members of `value` under these names.
fn members<const N: usize>(value: &Value, names: [&str; N]) -> Value {
    names.map(|name| value[name].clone()).into_iter().collect()
}

#[tokio::test]
async fn what_happened_is_told_with_names_and_no_values() {
    let world = Plan::sigv4()
        .secret("API_KEY", "the-api-key-is-not-shown")
        .route("path = \"/api\"\nrequest_headers.set = { x-api-key = { env = \"API_KEY\" }, x-team = \"blue-team\" }")
        .start()
        .await;
    world.countersign.until_ready().await;
    let fields = [("x-request-id", "told-1"), ("x-private", "a-value-of-the-callers")];
    let answer = world.countersign.ask("POST", "/api/orders?key=a-value-of-the-callers", &fields, b"body").await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.get("/elsewhere").await.status, 404);
    world.countersign.until(|metrics| metrics.count("countersign_requests_total", &[]) == 2).await;

    let report = status(&world).await;
    assert_eq!(members(&report, ["state", "version"]), json!(["ready", env!("CARGO_PKG_VERSION")]));
    assert!(report["now"].as_str() > report["started"].as_str());
    let (refused, delivered) = (&report["requests"][0], &report["requests"][1]);
    let told =
        members(delivered, ["id", "method", "path", "route", "status", "outcome", "verdict", "sends", "connection"]);
    let expected = json!(["told-1", "POST", "/api/orders", "api", 200, "delivered", "fine", 1, "new"]);
    assert_eq!(told, expected);
    assert_eq!(delivered["added"], json!(["authorization", "x-amz-date"]));
    assert_eq!(members(delivered, ["received", "cause", "hint"]), json!([4, null, null]));
    let phases = delivered["phases_ms"].as_object().unwrap();
    assert_eq!(phases.keys().collect::<Vec<_>>(), ["body", "connect", "credential", "first_byte", "receive"]);
    let sum: f64 = phases.values().map(|part| part.as_f64().unwrap()).sum();
    assert!((sum - delivered["ms"].as_f64().unwrap()).abs() < 0.01, "{delivered}");
    assert!(phases["connect"].as_f64() > Some(0.0) && phases["first_byte"].as_f64() > Some(0.0), "{delivered}");
    assert_eq!(members(refused, ["outcome", "route", "sends"]), json!(["no-route", null, 0]));
    assert!(refused["meaning"].as_str().unwrap().starts_with("Nothing was sent."), "{refused}");
    assert!(refused["cause"].as_str().unwrap().contains("/elsewhere"), "{refused}");

    let route = &report["routes"][0];
    assert_eq!(members(route, ["name", "path", "auth", "requests", "failed"]), json!(["api", "/api", "keys", 1, 0]));
    assert_eq!(route["sets"], json!(["x-api-key", "x-team"]));
    assert_eq!(route["series"]["requests"].as_array().unwrap().iter().filter_map(Value::as_u64).sum::<u64>(), 1);
    assert_eq!(members(&report["unrouted"], ["requests", "refused"]), json!([1, 1]));
    assert_eq!(members(&report["total"], ["requests", "in_flight"]), json!([2, 0]));
    let credential = &report["credentials"][0];
    assert_eq!(members(credential, ["name", "state", "fetches", "cause"]), json!(["keys", "valid", 1, null]));

    let page = world.countersign.page("/").await.text();
    for text in [&page, &report.to_string()] {
        assert!(!text.contains("a-value-of-the-callers") && !text.contains("blue-team"), "{text}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_credential_that_cannot_be_had_says_why() {
    let tokens = TokenEndpoint::start(vec![app_client("orders", "quite-another-secret")]).await;
    let world = Plan::bearer().start_with(tokens).await;
    assert_eq!(world.get("/").await.status, 503);
    let report = status(&world).await;
    let credential = &report["credentials"][0];
    assert_eq!(members(credential, ["state", "fetches"]), json!(["none", 0]), "{credential}");
    assert!(credential["cause"].as_str().unwrap().contains("invalid_client"), "{credential}");
    assert!(credential["next_try"].is_string());
    let request = &report["requests"][0];
    assert_eq!(members(request, ["outcome", "fault", "sends"]), json!(["credential-unavailable", "credentials", 0]));
    assert!(request["cause"].as_str().unwrap().contains("invalid_client"), "{request}");
    let page = world.countersign.page("/").await.text();
    assert!(page.contains("<b>Credential tokens</b> cannot be fetched"), "{page}");
    world.finish().await;
}

#[tokio::test]
async fn a_hundred_requests_are_kept() {
    let world = Plan::open().start().await;
    let mut client = world.countersign.connect().await;
    for number in 0..130 {
        assert_eq!(client.get(&format!("/{number}")).await.status, 200);
    }
    world.countersign.until(|metrics| metrics.count("countersign_requests_total", &[]) == 130).await;
    let report = status(&world).await;
    let paths: Vec<&str> =
        report["requests"].as_array().unwrap().iter().map(|one| one["path"].as_str().unwrap()).collect();
    assert_eq!((paths.len(), paths[0], paths[99]), (100, "/129", "/30"));
    assert_eq!(report["routes"][0]["requests"], 130);
    assert_eq!(report["requests"][0]["connection"], "kept");
    world.finish().await;
}

#[tokio::test]
async fn the_page_runs_nothing_foreign_and_is_not_kept() {
    let world = Plan::open().start().await;
    assert_eq!(world.get("/it's&co").await.status, 200);
    world.countersign.until(|metrics| metrics.count("countersign_requests_total", &[]) == 1).await;
    let page = world.countersign.page("/").await.text();
    assert!(page.contains("/it&#39;s&amp;co") && !page.contains("it's"), "{page}");
    assert_eq!(page.matches("<script").count(), 1);
    for path in PAGES.into_iter().take(5) {
        let answer = world.countersign.page(path).await;
        assert_eq!(answer.status, 200, "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        assert!(!answer.text().contains(" style=") && !answer.text().contains(" onclick="), "{path}");
    }
    world.finish().await;
}

#[tokio::test]
async fn pages_of_others_see_nothing_and_its_own_page_everything() {
    let world = Plan::open().start().await;
    let admin = world.countersign.admin;
    let own = format!("http://{admin}");
    let host = admin.to_string();
    let head = |fields: &[(&str, &str)]| {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let fields = fields.concat();
        format!("GET /api/status HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n")
    };
    let other = "http://127.0.0.1:3000";
    for (fields, status) in [
        (vec![], 200),
        (vec![("sec-fetch-site", "none")], 200),
        (vec![("sec-fetch-site", "same-origin")], 200),
        (vec![("sec-fetch-site", "same-origin"), ("origin", own.as_str())], 200),
        (vec![("sec-fetch-site", "same-site")], 403),
        (vec![("sec-fetch-site", "cross-site")], 403),
        (vec![("sec-fetch-site", "same-origin"), ("origin", other)], 403),
        (vec![("origin", other)], 403),
        (vec![("origin", "null")], 403),
    ] {
        let answer = world.countersign.connect_to(admin).await.raw(head(&fields)).await;
        assert_eq!(answer.status, status, "{fields:?}");
    }
    // Whose name was bound to this address is its own origin, and still a stranger.
    let rebound = "GET /api/status HTTP/1.1\r\nhost: evil.example:9901\r\norigin: http://evil.example:9901\r\n\
                   sec-fetch-site: same-origin\r\n\r\n";
    assert_eq!(world.countersign.connect_to(admin).await.raw(rebound).await.status, 403);
    for path in PAGES {
        let answer = world.countersign.connect_to(world.countersign.health).await.get(path).await;
        assert_eq!(answer.status, 404, "{path} is not for a kubelet");
    }
    world.finish().await;
}

/// The next event: its id and data.
async fn event(client: &mut Client) -> (String, Value) {
    let mut text = String::new();
    loop {
        let Piece::Data(data) = within(client.reader.piece()).await else { panic!("the events have ended: {text}") };
        text.push_str(std::str::from_utf8(&data).unwrap());
        if text.ends_with("\n\n") {
            let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
            return (line("id: "), serde_json::from_str(&line("data: ")).unwrap());
        }
    }
}

async fn watch(world: &World, target: &str, fields: &[(&str, &str)]) -> Client {
    let mut client = world.countersign.connect_to(world.countersign.admin).await;
    client.writer.request("GET", target, fields, b"").await;
    let head = client.reader.head("GET").await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    client
}

#[tokio::test]
async fn events_tell_each_request_once_and_go_on_where_they_were() {
    let world = Plan::open().start().await;
    let mut first = watch(&world, "/api/events", &[]).await;
    let (_, change) = event(&mut first).await;
    assert_eq!(members(&change, ["reset", "requests"]), json!([true, null]));
    let parts: Vec<&str> = change["parts"].as_array().unwrap().iter().map(|part| part[0].as_str().unwrap()).collect();
    assert_eq!(
        parts,
        ["state", "trouble", "tiles", "routes", "credentials", "causes"]
            .into_iter()
            .filter(|part| parts.contains(part))
            .collect::<Vec<_>>()
    );
    assert!(parts.contains(&"tiles") && parts.contains(&"routes"));

    assert_eq!(world.get("/one").await.status, 200);
    let (id, item) = loop {
        let (id, change) = event(&mut first).await;
        assert!(change["reset"].is_null());
        if let Some(items) = change["requests"].as_array() {
            assert_eq!(items.len(), 1);
            break (id, items[0].as_str().unwrap().to_owned());
        }
    };
    assert!(item.contains("data-number=\"1\"") && item.contains("/one"), "{item}");
    assert_eq!(world.get("/two").await.status, 200);
    world.countersign.until(|metrics| metrics.count("countersign_requests_total", &[]) == 2).await;
    // As the script begins, and as a browser goes on by itself.
    for (target, fields) in
        [(format!("/api/events?after={id}"), vec![]), ("/api/events".to_owned(), vec![("last-event-id", id.as_str())])]
    {
        let (_, change) = event(&mut watch(&world, &target, &fields).await).await;
        let items = change["requests"].as_array().unwrap();
        assert!(
            items.len() == 1 && items[0].as_str().unwrap().contains("/two") && change["reset"].is_null(),
            "{change}"
        );
    }
    // What a page has of a process before this one is no part of the list.
    let (_, change) = event(&mut watch(&world, "/api/events?after=12345-1", &[]).await).await;
    assert_eq!(change["reset"], true);
    assert_eq!(change["requests"].as_array().unwrap().len(), 2);
    drop(first);
    world.finish().await;
}

#[tokio::test]
async fn open_pages_leave_room_for_the_probes() {
    let world = Plan::open().start().await;
    let mut open = Vec::new();
    for _ in 0..8 {
        let mut client = watch(&world, "/api/events", &[]).await;
        let _first = event(&mut client).await;
        open.push(client);
    }
    assert_eq!(world.countersign.page("/api/events").await.status, 503);
    assert_eq!(world.countersign.page("/readyz").await.status, 200);
    drop(open.pop());
    within(async {
        loop {
            let mut client = world.countersign.connect_to(world.countersign.admin).await;
            client.writer.request("GET", "/api/events", &[], b"").await;
            if client.reader.head("GET").await.status == 200 {
                break;
            }
        }
    })
    .await;
    drop(open);
    world.finish().await;
}

#[tokio::test]
async fn causes_are_counted_and_told_with_what_to_do() {
    let nowhere = "[[route]]\nname = \"gone\"\npath = \"/gone\"\nupstream = \"http://127.0.0.1:1\"\nauth = \"none\"\n";
    let world = Plan::open().route("path = \"/api\"").add(nowhere).start().await;
    assert_eq!(status(&world).await["causes"], json!([]));
    for _ in 0..3 {
        assert_eq!(world.get("/gone/x").await.status, 502);
    }
    let report = status(&world).await;
    let cause = &report["causes"][0];
    assert_eq!(members(cause, ["route", "code", "times"]), json!(["gone", "port-closed", 3]));
    assert!(cause["first"].as_str() <= cause["last"].as_str());
    for words in ["is", "fix", "evidence"] {
        assert!(cause[words].as_str().is_some_and(|words| !words.is_empty()), "{cause}");
    }
    let page = world.countersign.page("/").await.text();
    let section = page.split("id=\"causes\"").nth(1).unwrap();
    for words in ["port-closed", "3 times", "gone", "Fix:"] {
        assert!(section.split("</section>").next().unwrap().contains(words), "{words}: {section}");
    }
    world.finish().await;
}

#[tokio::test]
async fn what_the_gate_refuses_shows_what_was_asked_for_without_its_secrets() {
    let world = Plan::open().start().await;
    let mut client = world.countersign.connect().await;
    let head = "GET https://me:do-not-show@api.example/x?do-not-show HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(client.raw(head).await.status, 400);
    world.countersign.until(|metrics| metrics.count("countersign_requests_total", &[]) == 1).await;
    let report = status(&world).await;
    assert_eq!(members(&report["requests"][0], ["method", "path"]), json!(["GET", "https://api.example/x"]));
    let page = world.countersign.page("/").await.text();
    assert!(page.contains("https://api.example/x") && !page.contains("do-not-show"));
    assert!(!world.countersign.log().contains("do-not-show"));
    world.finish().await;
}
