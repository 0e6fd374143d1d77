//! `run`: its log, its signals, its exit codes; and `healthcheck` beside it.

use std::net::TcpListener;

use standin::{Answer, AppClient, Authority, Authorizer, Gateway, TokenEndpoint};

use crate::process::{API, HEAD, Running, call, folder, get, request, route, trusting, within};

async fn gateway(authority: &Authority) -> Gateway {
    Gateway::builder().tls(authority, &[API]).method("/prod", Authorizer::Open).start().await
}

#[tokio::test]
async fn a_signal_ends_it_cleanly() {
    for signal in ["TERM", "INT"] {
        let authority = Authority::new();
        let gateway = gateway(&authority).await;
        let folder = trusting(&authority, &format!("{HEAD}{}", route(&gateway, "none")));
        let mut running = Running::start(folder.path(), &["run"], &[]);
        let proxy = running.address("proxy").await;
        assert_eq!(get(proxy, "/").await.0, 200);
        running.signal(signal);
        let (code, said) = running.ended().await;
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("stopped; every request was answered"), "{said}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_tells_that_requests_were_cut() {
    let authority = Authority::new();
    let gateway = gateway(&authority).await;
    gateway.script(Answer::Never);
    let folder = trusting(&authority, &format!("{HEAD}{}", route(&gateway, "none")));
    let mut running = Running::start(folder.path(), &["run"], &[]);
    let proxy = running.address("proxy").await;
    let mut client = tokio::net::TcpStream::connect(proxy).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut client, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    within(gateway.until(|received| received.len() == 1)).await;
    running.signal("TERM");
    running.line(&["stopping"]).await;
    running.signal("TERM");
    let (code, said) = running.ended().await;
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("\"cut\":1"), "{said}");
}

#[tokio::test]
async fn a_request_leaves_a_json_line() {
    let authority = Authority::new();
    let gateway = gateway(&authority).await;
    let folder = trusting(&authority, &format!("{HEAD}{}", route(&gateway, "none")));
    let mut running = Running::start(folder.path(), &["run"], &[]);
    let proxy = running.address("proxy").await;
    assert_eq!(get(proxy, "/orders?secret=x").await.0, 200);
    let line = running.line(&["\"access\""]).await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    for (name, value) in [
        ("level", "INFO"),
        ("message", "request"),
        ("target", "access"),
        ("request_id", "cli-1"),
        ("method", "GET"),
        ("path", "/orders"),
        ("route", "api"),
        ("outcome", "delivered"),
    ] {
        assert_eq!(line[name], value, "{line}");
    }
    assert_eq!((&line["status"], &line["received"]), (&200.into(), &0.into()));
    assert!(line["ms"].is_f64() && line["sent"].is_u64() && line["timestamp"].is_string(), "{line}");
}

#[tokio::test]
async fn a_request_leaves_a_text_line() {
    let authority = Authority::new();
    let gateway = gateway(&authority).await;
    let head = HEAD.replace("json", "text");
    let folder = trusting(&authority, &format!("{head}{}", route(&gateway, "none")));
    let mut running = Running::start(folder.path(), &["run"], &[]);
    let line = running.line(&["listening", "listener=\"proxy\""]).await;
    let address = line.split("address=").nth(1).unwrap().parse().unwrap();
    assert_eq!(get(address, "/orders").await.0, 200);
    let line = running.line(&["access: request"]).await;
    for word in
        ["INFO", "request_id=\"cli-1\"", "method=GET", "path=\"/orders\"", "status=200", "outcome=\"delivered\""]
    {
        assert!(line.contains(word), "{word}: {line}");
    }
    assert!(!line.contains('\u{1b}'), "no colours in a file");
}

#[tokio::test]
async fn the_level_and_the_access_log_are_settings() {
    for lines in ["level = \"error,countersign=info\"", "access = false"] {
        let authority = Authority::new();
        let gateway = gateway(&authority).await;
        let head = HEAD.replace("[log]", &format!("[log]\n{lines}"));
        let folder = trusting(&authority, &format!("{head}{}", route(&gateway, "none")));
        let mut running = Running::start(folder.path(), &["run"], &[]);
        let proxy = running.address("proxy").await;
        assert_eq!(get(proxy, "/").await.0, 200);
        running.signal("TERM");
        let (code, said) = running.ended().await;
        assert_eq!(code, 0);
        assert!(!said.contains("\"access\"") && said.contains("stopped"), "{said}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let authority = Authority::new();
    let gateway = gateway(&authority).await;
    // Held on one loopback address, the other is of no use: half of the callers would talk to a stranger.
    let other = TcpListener::bind("[::1]:0").or_else(|_no_ipv6_here| TcpListener::bind("127.0.0.1:0")).unwrap();
    let other_address = other.local_addr().unwrap().to_string();
    for (place, key, address) in [
        ("listen = [\"127.0.0.1:0\"]", format!("listen = [\"{address}\"]"), &address),
        ("listen = [\"127.0.0.1:0\"]", format!("listen = [\"127.0.0.1:0\", \"{other_address}\"]"), &other_address),
        ("listen = [\"127.0.0.1:0\"]", format!("listen = [\"{address}\", \"[::1]:0\"]"), &address),
        ("listen = \"127.0.0.1:0\"", format!("listen = \"{address}\""), &address),
    ] {
        let head = HEAD.replace(place, &key);
        let folder = trusting(&authority, &format!("{head}{}", route(&gateway, "none")));
        let output = call(folder.path(), &["run"], &[]);
        assert_eq!(output.code, 1, "{}", output.err);
        assert!(output.err.contains(address) && output.err.contains("in use"), "{}", output.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_asked_of_the_running_one() {
    let authority = Authority::new();
    let gateway = gateway(&authority).await;
    let tokens = TokenEndpoint::start(vec![AppClient {
        id: "orders".to_owned(),
        secret: "cli-client-secret-9e".to_owned(),
        scopes: vec!["orders/read".to_owned()],
        token_lifetime: std::time::Duration::from_hours(1),
    }])
    .await;
    let held = std::sync::Arc::new(tokio::sync::Notify::new());
    tokens.script(Answer::Hold(std::sync::Arc::clone(&held)));
    let auth = format!(
        "[auth.tokens]\nkind = \"client-credentials\"\ntoken_url = \"{}\"\nclient_id = \"orders\"\n\
         client_secret = {{ env = \"SECRET\" }}\n",
        tokens.url()
    );
    let folder_of_run = trusting(&authority, &format!("{HEAD}{auth}{}", route(&gateway, "tokens")));
    let variables = [("SECRET", "cli-client-secret-9e")];
    let mut running = Running::start(folder_of_run.path(), &["run"], &variables);
    let admin = running.address("admin").await;
    // The probe finds the admin port in the config; here the system chose it.
    let probe = std::fs::read_to_string(folder_of_run.path().join("countersign.toml")).unwrap();
    let probe = probe.replace("[admin]\nlisten = \"127.0.0.1:0\"", &format!("[admin]\nlisten = \"{admin}\""));
    let folder_of_probe = folder(&probe);
    authority.write_pem(folder_of_probe.path());
    let ask = |arguments: &[&str]| call(folder_of_probe.path(), arguments, &variables);

    assert_eq!(ask(&["healthcheck"]).code, 0);
    let waiting = ask(&["healthcheck", "--ready"]);
    assert_eq!(waiting.code, 1);
    assert!(waiting.err.contains("not ready") && waiting.err.contains("first try under way"), "{}", waiting.err);
    held.notify_one();
    running.line(&["credential obtained"]).await;
    let ready = ask(&["healthcheck", "--ready"]);
    assert_eq!((ready.code, ready.err.as_str()), (0, ""));
    assert!(ready.out.ends_with("ready\n"), "{}", ready.out);

    running.signal("TERM");
    let (code, said) = running.ended().await;
    assert_eq!(code, 0);
    for secret in variables.into_iter().map(|(_, secret)| secret.to_owned()).chain(tokens.issued()) {
        assert!(!said.contains(&secret) && !ready.out.contains(&secret), "{said}");
    }
    let gone = ask(&["healthcheck"]);
    assert_eq!(gone.code, 1);
    assert!(gone.err.contains(&admin.to_string()), "{}", gone.err);
}

#[tokio::test]
async fn warnings_of_the_config_are_logged() {
    let authority = Authority::new();
    let gateway = gateway(&authority).await;
    let lines = "[route.request_headers]\nset = { x-api-key = { value = \"literal-secret-4d\" } }\n";
    let folder = trusting(&authority, &format!("{HEAD}{}{lines}", route(&gateway, "none")));
    let mut running = Running::start(folder.path(), &["run"], &[]);
    let line = running.line(&["WARN", "\"config\""]).await;
    assert!(line.contains("countersign.toml") && !line.contains("literal-secret-4d"), "{line}");
}

#[tokio::test]
async fn the_level_of_the_log_can_be_changed_while_it_runs() {
    let authority = Authority::new();
    let gateway = gateway(&authority).await;
    let head = HEAD.replace("[log]", "[log]\nlevel = \"error,countersign=info\"");
    let folder = trusting(&authority, &format!("{head}{}", route(&gateway, "none")));
    let mut running = Running::start(folder.path(), &["run"], &[]);
    let (proxy, admin) = (running.address("proxy").await, running.address("admin").await);
    assert_eq!(get(proxy, "/before").await.0, 200);
    let (status, text) = request("PUT", admin, "/api/log-level?level=info").await.unwrap();
    assert!(status == 200 && text.ends_with("\r\n\r\ninfo\n"), "{text}");
    assert_eq!(get(proxy, "/after").await.0, 200);
    running.line(&["\"access\"", "/after"]).await;
    let (status, text) = request("PUT", admin, "/api/log-level?level=loud").await.unwrap();
    assert!(status == 400 && text.contains("\"loud\" is no level"), "{text}");
    assert_eq!(request("POST", admin, "/api/log-level?level=off").await.unwrap().0, 405);
    let (_, text) = request("DELETE", admin, "/api/log-level").await.unwrap();
    assert!(text.ends_with("countersign=info,error\n"), "{text}");
    assert_eq!(get(proxy, "/last").await.0, 200);
    running.signal("TERM");
    let (code, said) = running.ended().await;
    assert_eq!(code, 0);
    assert!(!said.contains("/before") && !said.contains("/last"), "{said}");
    assert_eq!(said.matches("the log's level was changed").count(), 2, "{said}");
}

#[tokio::test]
async fn a_log_that_nobody_reads_costs_lines_and_no_request() {
    let authority = Authority::new();
    let gateway = gateway(&authority).await;
    let config = HEAD.replace("[upstream]", "level = \"trace\"\n[upstream]");
    let folder = trusting(&authority, &format!("{config}{}", route(&gateway, "none")));
    let mut running = Running::start(folder.path(), &["run"], &[]);
    let (proxy, admin) = (running.address("proxy").await, running.address("admin").await);
    running.stop_reading();
    let lost = async || {
        let (_, page) = get(admin, "/metrics").await;
        let line = page.lines().find_map(|line| line.strip_prefix("countersign_log_lines_lost_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    // Each fills its line.
    let path = format!("/{}", "x".repeat(500));
    let mut requests = 0;
    while lost().await == 0 {
        for _ in 0..50 {
            assert_eq!(get(proxy, &path).await.0, 200);
        }
        requests += 50;
        assert!(requests < 5_000, "the pipe takes everything");
    }
    // Nobody has time to lose from here on, either.
    for _ in 0..50 {
        assert_eq!(get(proxy, "/").await.0, 200);
    }
    assert_eq!(get(admin, "/livez").await.0, 200);
    running.signal("TERM");
    assert_eq!(running.code().await, 0);
}
